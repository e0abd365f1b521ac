"""The study of real clips is fair: no encoder and no choice sees a test group, and methods get equal compute.

pytest tests/studies/test_real_clips.py
"""

import importlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from house import REPO

MODULES = ("grouping", "clips", "pretraining", "readers", "compare", "few_clips")


@pytest.fixture(scope="module")
def study():
    """The modules of the study, which import each other by their plain names."""
    before = list(sys.path)
    sys.path.insert(0, str(REPO / "studies" / "real_clips"))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path[:] = before
    for name in (*MODULES, "report", "videomae"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def clips(study):
    """Noise with the groups of the real set: a pool without labels shares sequences with the labelled set."""
    rows = [("ut_interaction", f"act{act}", f"seq{number:02}") for number in range(1, 21) for act in range(6)]
    rows += [("ut_interaction_negatives", "negative", f"seq{number:02}") for number in range(1, 11)]
    rows += [("surv_fight", ("fight", "noFight")[scene % 2], f"scene{scene}") for scene in range(40) for _ in range(3)]
    rows += [("asl_words_intel", "again", "")] * 5
    sets, labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    frames = np.random.default_rng(0).integers(0, 256, (len(rows), 32, 3, 21, 21), dtype=np.uint8)
    return study.clips.Clips(frames, np.array([f"{row}.mp4" for row in range(len(rows))]), sets, labels, groups)


@pytest.fixture
def options(study, tmp_path):
    sizes = {"image_size": 16, "hidden_size": 24, "num_layers": 2, "num_heads": 2, "batch_size": 4}
    training = {"steps": 4, "probe_steps": 1, "probes": 1, "probe_learning_rates": [1e-3]}
    return study.pretraining.Options(videos="actions", runs=str(tmp_path / "runs"), **sizes, **training)


def test_no_encoder_and_no_choice_sees_a_group_that_is_tested(study, clips):
    for split in range(study.clips.NUM_SPLITS):
        seen = study.clips.pretraining_rows(clips, split, seed=0)
        for task in study.clips.tasks(clips, split, seed=0).values():
            one, other = task.choosing
            assert not set(clips.groups[one]) & set(clips.groups[other])
            for test in task.tests:
                for rows in (seen, np.union1d(one, other), np.setdiff1d(task.rows, test)):
                    assert not set(clips.groups[test]) & set(clips.groups[rows])
        assert "asl_words_intel" in clips.sets[seen]


def test_folds_that_ignore_groups_would_split_them(clips):
    fold = np.arange(0, len(clips.groups), 5)
    assert set(clips.groups[fold]) & set(np.delete(clips.groups, fold))


def test_over_the_splits_each_task_tests_every_clip_once(study, clips):
    sets = {study.clips.SCENES: "surv_fight"} | dict.fromkeys(study.clips.TASKS[:2], "ut_interaction")
    splits = [study.clips.tasks(clips, split, seed=0) for split in range(study.clips.NUM_SPLITS)]
    for task, name in sets.items():
        tested = np.concatenate([test for split in splits if task in split for test in split[task].tests])
        assert sorted(tested) == clips.rows(name).tolist()


def test_folds_that_cannot_be_are_an_error(study):
    with pytest.raises(ValueError, match="num_folds=3 must lie between 2 and the number of groups, 2"):
        study.grouping.grouped_folds(["a", "a", "b"], [0, 1, 0], num_folds=3, seed=0)


def test_copies_of_a_clip_do_not_narrow_the_interval(study):
    values, groups = np.random.default_rng(0).integers(0, 2, 30), np.arange(30)
    alone = study.grouping.grouped_interval(values, groups, seed=0)
    copies = np.tile(values, 9), np.tile(groups, 9)
    assert study.grouping.grouped_interval(*copies, seed=0) == pytest.approx(alone)
    low, high = study.grouping.grouped_interval(copies[0], np.arange(270), seed=0)
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_every_method_gets_the_same_encoder_compute_and_the_page_reports_it(study, clips, options):
    accelerator, split = Accelerator(cpu=True), 2
    results = {name: {(split, 0): row} for name, row in study.compare.run_baselines(clips, split, options).items()}
    for name in ("untrained", "vjepa", "videomae"):
        results[name] = {(split, 0): study.compare.run_split(accelerator, clips, name, split, 0, options)}
    vjepa, videomae = (results[name][split, 0]["pretraining"] for name in ("vjepa", "videomae"))
    assert results["untrained"][split, 0]["pretraining"] == {}
    assert vjepa["steps"] == options.steps < videomae["steps"]
    step = videomae["encoder_tflop"] / videomae["steps"]
    assert videomae["encoder_tflop"] == pytest.approx(vjepa["encoder_tflop"], abs=step)
    results["untrained"][3, 0] = results["untrained"][split, 0]  # a split that not every method has is skipped
    page = "\n".join(study.compare.page(clips, results, options))
    assert "1 of 5 splits" in page and f"{study.clips.SCENES}: 24 clips in 8 groups" in page
    assert "VideoMAE over untrained" in page and study.clips.SEQUENCES not in page.split("## Attentive probe")[1]


def test_every_seed_has_its_own_encoder_and_the_page_has_their_mean(study, clips, options, tmp_path):
    compare, accelerator, split = study.compare, Accelerator(cpu=True), 2
    options.start = str(tmp_path / "start_{seed}")
    for seed in (0, 1):
        start = study.pretraining.new_model(study.pretraining.METHODS["start"], options, seed + 5)
        start.save_pretrained(options.start.replace("{seed}", str(seed)))
    results = {
        name: {(split, seed): compare.run_split(accelerator, clips, name, split, seed, options) for seed in (0, 1)}
        for name in ("untrained", "start")
    }
    for name in results:
        one, two = (load_file(compare.folder_of(name, split, seed, options) / "model.safetensors") for seed in (0, 1))
        assert any(not torch.equal(value, two[weight]) for weight, value in one.items()), name
    summary, task = compare.Summary(results, dict(zip(clips.paths, clips.groups, strict=True))), study.clips.SCENES
    means = summary.right("start", compare.RIDGE, task)
    assert len(means) == 24
    for path, mean in means.items():
        right = [results["start"][split, seed]["answers"][compare.RIDGE][task]["right"][path] for seed in (0, 1)]
        assert mean == np.mean(right)
    page = "\n".join(compare.page(clips, results, options))
    assert "1 of 5 splits" in page and "--seeds 0 1" in page
    assert all(f"Accuracies of seed {seed}:" in page for seed in summary.seeds)


def test_a_method_that_starts_from_a_model_has_its_weights_at_another_size(study, clips, options, tmp_path):
    accelerator, method = Accelerator(cpu=True), study.pretraining.METHODS["vjepa_started"]
    assert not {"vjepa_started", "start"} & set(options.methods)
    rows = np.arange(8)
    seen = study.clips.TrainingClips(clips.frames, rows, options.num_frames, options.image_size, seed=0)
    with pytest.raises(ValueError, match="needs --start, the folder of a V-JEPA model"):
        study.pretraining.pretrain(accelerator, method, seen, options)
    options.steps, options.learning_rate = 1, 1e-9  # so that only its start counts
    smaller = replace(options, num_frames=4)
    before = study.pretraining.new_model(method, smaller, seed=5)
    before.save_pretrained(tmp_path)
    after, _ = study.pretraining.pretrain(accelerator, method, seen, options, start=str(tmp_path))
    assert after.config.num_frames == options.num_frames
    expected = before.state_dict()
    same = [
        torch.allclose(value, expected[name], atol=1e-5)
        for name, value in after.state_dict().items()
        if value.shape == expected[name].shape
    ]
    assert all(same) and len(same) > 20
    itself, cost = study.pretraining.pretrain(
        accelerator, study.pretraining.METHODS["start"], seen, options, start=str(tmp_path)
    )
    same = [
        torch.equal(itself.state_dict()[name], value) for name, value in expected.items() if "position" not in name
    ]
    assert all(same) and len(same) > 20 and cost == {}


def test_the_future_is_the_second_half_however_long_the_clip(study, clips, options):
    pretraining = study.pretraining
    for num_frames in (4, 8, 16):
        longer = replace(options, num_frames=num_frames)
        seen = study.clips.TrainingClips(clips.frames, np.arange(8), num_frames, options.image_size, seed=0)
        batch = next(iter(pretraining.make_loader(pretraining.METHODS["vjepa_causal"], seen, 1, longer)))
        num_tokens = num_frames // 2 * (options.image_size // options.patch_size) ** 2
        assert batch["context_masks"][0][0].tolist() == list(range(num_tokens // 2))
        assert batch["target_masks"][0][0].tolist() == list(range(num_tokens // 2, num_tokens))
    blocks = pretraining.METHODS["vjepa"]
    assert tuple(pretraining.mask_types(blocks, (8, 2, 2))) == blocks.masks


def test_results_of_other_settings_are_not_mixed(study, options):
    study.compare.check_same_run(options)
    options.methods = ["videomae"]
    study.compare.check_same_run(options)
    options.steps = 7
    with pytest.raises(ValueError, match="has results of other settings"):
        study.compare.check_same_run(options)


def test_classifiers_of_few_clips_read_the_means_that_they_name(study):
    tokens = np.random.default_rng(0).normal(size=(2, 12, 8, 24)).astype(np.float16)  # a grid of 2 x 2 x 2
    views = study.few_clips.means(tokens, (2, 2, 2))
    exact = tokens.astype(np.float32)
    assert np.allclose(views["mean of the clip"], exact.mean(axis=2))
    assert np.allclose(views["mean of each time step"][:, :, 1], exact[:, :, 4:].mean(axis=2))
    assert np.allclose(views["mean of each place"][:, :, 0, 1], exact[:, :, [1, 5]].mean(axis=2))
    options = study.few_clips.FewClipsOptions(videos="actions", hidden_size=24, num_heads=2, steps_of_probes=[1])
    found = study.few_clips.classifiers(tokens, (2, 2, 2), options)
    assert len(found) == 4 + 3 and "attentive probe, 1 steps, learning rate 0.01" in found
    rows, labels = np.arange(12), np.arange(12) % 3
    for classify, setting in found.values():
        assert classify(rows[:9], labels[:9], rows[9:], setting, 0).shape == (3, 3)
