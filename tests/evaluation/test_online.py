"""Metrics of a run are correct, do not depend on the number of processes, and do not change the run.

pytest tests/evaluation/test_online.py
"""

import json
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from datasets import Dataset
from safetensors.torch import load_file

from tiny_models import seeded
from tiny_run import TINY
from vjepa_hf import VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.evaluation import online
from vjepa_hf.evaluation.online import OnlineEvaluation, linear_probe, make_online_evaluation, nearest_neighbors
from vjepa_hf.training.arguments import EvaluationArguments
from vjepa_hf.training.log import read_log


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- the two classifiers ---


def test_neighbors_vote_with_the_weight_of_their_cosine():
    train, test, labels = features(30, 0), features(9, 1), torch.arange(30) % 3
    expected = []
    for vector in test:
        cosines = torch.nn.functional.cosine_similarity(vector[None], train)
        votes = torch.zeros(3, dtype=torch.float64)
        for index in cosines.argsort(descending=True)[:5].tolist():
            votes[labels[index]] += np.exp(cosines[index].item() / 0.07)
        expected.append(votes.argmax().item())
    assert nearest_neighbors(train, labels, test, 3, neighbors=5).tolist() == expected
    assert nearest_neighbors(train, labels, train, 3, neighbors=1).tolist() == labels.tolist()
    assert nearest_neighbors(train[:2], labels[:2], train[:2], 3).tolist() == [0, 1]  # fewer videos than neighbors


def test_the_linear_probe_equals_textbook_ridge_regression():
    train, test, labels = features(30, 0) * 5 + 2, features(9, 1) * 5 + 2, torch.arange(30) % 3
    mean, deviation = train.mean(0), train.std(0, correction=0)
    design, classes = (train - mean) / deviation, torch.eye(3, dtype=torch.float64)[labels]
    normal = design.T @ design + 0.3 * 6 * torch.eye(6, dtype=torch.float64)
    weights = torch.linalg.solve(normal, design.T @ (classes - classes.mean(0)))
    expected = ((test - mean) / deviation @ weights + classes.mean(0)).argmax(1)
    assert linear_probe(train, labels, test, 3, ridge=0.3).tolist() == expected.tolist()


def test_both_classify_separate_clusters_even_with_a_constant_feature():
    centers = 10 * features(3, 2)
    labels = torch.arange(60) % 3
    train, test = centers[labels] + features(60, 0), centers[labels] + features(60, 1)
    train[:, 0] = test[:, 0] = 1.0
    for classify in (nearest_neighbors, linear_probe):
        assert classify(train, labels, test, 3).tolist() == labels.tolist()


# --- on videos ---


@pytest.fixture(scope="module")
def processor():
    return VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2)


@pytest.fixture(scope="module")
def tables(toy_videos) -> list[Dataset]:
    paths = [[str(path) for path in sorted((toy_videos / split).glob("*.mp4"))] for split in ("train", "test")]
    return [Dataset.from_dict({"video": names, "side": ["l", "r"] * (len(names) // 2)}) for names in paths]


def test_an_evaluation_changes_no_weights_modes_or_random_state(tiny_pretraining_model, processor, tables):
    evaluation = OnlineEvaluation(Accelerator(cpu=True), *tables, "side", processor)
    before = {name: tensor.clone() for name, tensor in tiny_pretraining_model.state_dict().items()}
    modes = [module.training for module in tiny_pretraining_model.modules()]
    state = torch.get_rng_state()
    metrics = evaluation.metrics(tiny_pretraining_model.vjepa)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_pretraining_model.state_dict().items())
    assert [module.training for module in tiny_pretraining_model.modules()] == modes
    assert all(parameter.grad is None for parameter in tiny_pretraining_model.parameters())
    assert evaluation.metrics(tiny_pretraining_model.vjepa) == metrics
    assert set(metrics) == {"knn_accuracy", "linear_accuracy", "eval_videos", "failed_eval_videos"}
    assert metrics["eval_videos"] == 8 and metrics["failed_eval_videos"] == 0


def test_an_evaluation_reads_the_layers_of_the_pooler(tiny_config, processor, tables, monkeypatch):
    tiny_config.pooler_layers = [0, 1]
    model = seeded(VJEPAModel, tiny_config)
    seen = []

    def classify(train, labels, test, num_labels):
        seen.append(train)
        return labels[: len(test)]

    monkeypatch.setattr(online, "nearest_neighbors", classify)
    OnlineEvaluation(Accelerator(cpu=True), *tables, "side", processor).metrics(model)
    clips = torch.cat([processor(video)["pixel_values_videos"] for video in tables[0]["video"]])
    with torch.no_grad():
        layers = model(clips, output_layers=[0, 1]).layer_hidden_states
    expected = torch.cat([layer.double().mean(dim=1) for layer in layers], dim=-1)
    torch.testing.assert_close(seen[0], expected, atol=1e-6, rtol=0)


def test_unreadable_videos_are_counted_and_not_replaced(tiny_pretraining_model, processor, tables, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken = [table.add_item({"video": str(tmp_path / "broken.mp4"), "side": "l"}) for table in tables]
    accelerator = Accelerator(cpu=True)
    whole = OnlineEvaluation(accelerator, *tables, "side", processor).metrics(tiny_pretraining_model.vjepa)
    metrics = OnlineEvaluation(accelerator, *broken, "side", processor).metrics(tiny_pretraining_model.vjepa)
    assert metrics == whole | {"failed_eval_videos": 2}
    nothing = broken[0].select([len(broken[0]) - 1])
    with pytest.raises(ValueError, match="no video of eval_train_videos"):
        OnlineEvaluation(accelerator, nothing, nothing, "side", processor).metrics(tiny_pretraining_model.vjepa)


def test_wrong_labels_are_clear_errors(processor, tables):
    accelerator = Accelerator(cpu=True)
    with pytest.raises(ValueError, match="eval_train_videos has no column 'label' with labels, only video, side"):
        OnlineEvaluation(accelerator, *tables, "label", processor)
    with pytest.raises(ValueError, match="label 'r' is not one of l"):
        OnlineEvaluation(accelerator, tables[0].filter(lambda row: row["side"] == "l"), tables[1], "side", processor)


def test_an_evaluation_needs_both_sources(processor, toy_videos):
    assert make_online_evaluation(Accelerator(cpu=True), EvaluationArguments(), processor, 0) is None
    arguments = EvaluationArguments(str(toy_videos / "train.csv"), str(toy_videos / "train.csv"), "motion")
    assert make_online_evaluation(Accelerator(cpu=True), arguments, processor, 0).num_labels > 1
    with pytest.raises(ValueError, match="belong together"):
        EvaluationArguments(eval_train_videos="videos")
    with pytest.raises(ValueError, match="eval_steps must be at least 1"):
        EvaluationArguments(eval_steps=0)


def _write_metrics(model, processor, tables, folder) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # inherited from the parent process
    accelerator = Accelerator(cpu=True)
    metrics = OnlineEvaluation(accelerator, *tables, "side", processor).metrics(model.vjepa)
    text = json.dumps([accelerator.num_processes, metrics])
    (folder / f"{accelerator.process_index}.json").write_text(text)


def test_two_processes_get_the_metrics_of_one(tiny_pretraining_model, processor, tables, tmp_path):
    one = OnlineEvaluation(Accelerator(cpu=True), *tables, "side", processor).metrics(tiny_pretraining_model.vjepa)
    debug_launcher(_write_metrics, (tiny_pretraining_model, processor, tables, tmp_path), num_processes=2)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [[2, one], [2, one]]


# --- in a run ---


@pytest.fixture
def pretrain(monkeypatch, toy_videos, tmp_path):
    """The example's `main` in this process, three steps with stochastic depth, which draws from torch's generator."""
    import pretrain

    options = {"videos": toy_videos / "train.csv", "num_workers": 0, "per_device_batch_size": 4, "frame_step": 2}
    options |= {"max_steps": 3, "warmup_steps": 1, "model.num_hidden_layers": 2, "model.drop_path_rate": 0.5}
    options["masks"] = "[{type: multi_block, num_blocks: 4, spatial_scale: [0.15, 0.15]}]"

    def run(name, **changes):
        run_options = options | {"output_dir": tmp_path / name} | changes
        words = [word for key, value in run_options.items() for word in (f"--{key}", str(value))]
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *TINY.split(), *words])
        with torch.random.fork_rng(devices=[]):
            pretrain.main()
        return load_file(tmp_path / name / "model.safetensors"), read_log(tmp_path / name / "log.jsonl")

    return run


@pytest.mark.invariant
def test_a_run_has_the_same_weights_with_and_without_evaluation(pretrain, toy_videos, monkeypatch):
    source = str(toy_videos / "train.csv")
    evaluated = {"eval_train_videos": source, "eval_test_videos": source, "eval_label": "motion", "eval_steps": 1}
    plain, _ = pretrain("plain")
    weights, log = pretrain("evaluated", **evaluated)
    assert [row["step"] for row in log if "knn_accuracy" in row and "linear_accuracy" in row] == [1, 2, 3]
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.items())
    monkeypatch.setattr(OnlineEvaluation, "metrics", lambda self, encoder: {"x": torch.rand(1).item()})
    disturbed, _ = pretrain("disturbed", **evaluated)  # this comparison can fail
    assert not all(torch.equal(disturbed[name], tensor) for name, tensor in plain.items())
