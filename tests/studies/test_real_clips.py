"""The comparison on real clips is fair: no encoder and no choice sees a test group (benchmarks/video_tasks.py)."""

import argparse
import importlib.util
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from house import REPO


@pytest.fixture(scope="module")
def script():
    """The benchmark as a module, beside the one it imports."""
    sys.path.insert(0, str(REPO / "benchmarks"))
    spec = importlib.util.spec_from_file_location("video_tasks", REPO / "benchmarks" / "video_tasks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(REPO / "benchmarks"))
        del sys.modules[spec.name]


@pytest.fixture(scope="module")
def clips(script):
    """Noise with the groups of the real set: a pool without labels shares sequences with the labelled set."""
    rows = [("ut_interaction", f"act{act}", f"seq{number:02}") for number in range(1, 21) for act in range(6)]
    rows += [("ut_interaction_negatives", "negative", f"seq{number:02}") for number in range(1, 11)]
    rows += [("surv_fight", ("fight", "noFight")[scene % 2], f"scene{scene}") for scene in range(40) for _ in range(3)]
    rows += [("asl_words_intel", "again", "")] * 5
    sets, labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    frames = np.random.default_rng(0).integers(0, 256, (len(rows), 32, 3, 21, 21), dtype=np.uint8)
    return script.Clips(frames, np.array([f"{row}.mp4" for row in range(len(rows))]), sets, labels, groups)


@pytest.fixture
def options():
    return argparse.Namespace(
        image_size=16, patch_size=8, num_frames=8, hidden_size=24, num_layers=2, num_heads=2, batch_size=4, seed=0,
        num_workers=0, learning_rate=1e-3, ema_momentum=0.99, steps=6, probe_steps=60,
    )  # fmt: skip


def test_no_encoder_sees_a_group_that_it_is_tested_on_in_any_set(script, clips):
    for split in range(script.NUM_SPLITS):
        seen = script.pretraining_rows(clips, split, seed=0)
        for task in script.tasks(clips, split, seed=0).values():
            for test in task.tests:
                assert not set(clips.groups[test]) & set(clips.groups[seen])
        assert "asl_words_intel" in clips.sets[seen]
    assert "ut_interaction_negatives" not in clips.sets[script.pretraining_rows(clips, 0, seed=0)]


def test_settings_are_chosen_on_clips_of_other_groups_than_those_tested(script, clips):
    for split in range(script.NUM_SPLITS):
        for task in script.tasks(clips, split, seed=0).values():
            one, other = task.choosing
            assert not set(clips.groups[one]) & set(clips.groups[other])
            for test in task.tests:
                assert not set(clips.groups[test]) & set(clips.groups[np.union1d(one, other)])
                assert not set(clips.groups[test]) & set(clips.groups[np.setdiff1d(task.rows, test)])


def test_over_the_splits_each_task_tests_every_clip_once(script, clips):
    for name, members in (("surv_fight", script.SCENES), *(("ut_interaction", task) for task in script.TASKS[:2])):
        splits = [script.tasks(clips, split, seed=0) for split in range(script.NUM_SPLITS)]
        tested = np.concatenate([test for split in splits if members in split for test in split[members].tests])
        assert sorted(tested) == clips.rows(name).tolist()
    sequences = script.tasks(clips, 0, seed=0)[script.SEQUENCES].tests
    assert [len(set(clips.groups[test])) for test in sequences] == [1] * 10
    (half,) = script.tasks(clips, 1, seed=0)[script.OTHER_HALF].tests
    assert set(clips.groups[half]) == script.HALVES[1]


def test_every_method_gets_the_same_encoder_compute(script, clips, options):
    seen = script.TrainingClips(clips.frames, script.pretraining_rows(clips, 0, 0), 8, 16, 0)
    took = {}
    for name, method in script.METHODS.items():
        model, took[name] = script.pretrain(Accelerator(cpu=True), method, seen, options)
        tokens = script.read_tokens(Accelerator(cpu=True), model, clips.frames[:3], options)
        assert tokens.shape == (2, 3, 16, 24) and np.isfinite(tokens).all()
    assert took.pop("untrained") == {}
    assert took["vjepa"]["steps"] == options.steps < took["videomae"]["steps"]
    for each in took.values():
        step = each["encoder_tflop"] / each["steps"]
        assert each["encoder_tflop"] == pytest.approx(took["vjepa"]["encoder_tflop"], abs=step)


def test_flops_are_those_of_the_encoders_alone(script, clips, options):
    seen = script.TrainingClips(clips.frames, np.arange(20), 8, 16, 0)
    found = script.encoder_flops(script.METHODS["vjepa_causal"], seen, options, torch.device("cpu"))

    def layers(tokens: int) -> int:  # matrix products of the encoder, two operations a product
        products = 12 * options.hidden_size**2 + 2 * tokens * options.hidden_size
        return 2 * tokens * options.num_layers * products

    embed = 2 * options.hidden_size * 3 * 2 * 8 * 8
    target, context = layers(16) + 16 * embed, 3 * layers(8) + 2 * 8 * embed  # pixels need no gradient
    assert found == options.batch_size * (target + context)


def test_readers_learn_what_tokens_hold(script, clips, options):
    labels = np.tile([0, 1], 30)
    tokens = np.random.default_rng(0).normal(size=(2, 60, 4, options.hidden_size)).astype(np.float32)
    tokens[:, :, :, 0] += 6 * labels[:, None]
    train, test, place = np.arange(40), np.arange(40, 60), np.arange(60)
    scores = script.ridge(tokens, place, train, labels[train], test, 1.0, 0)
    assert (scores.argmax(axis=1) == labels[test]).all()
    scores = script.attentive_probe(
        tokens, place, options, torch.device("cpu"), train, labels[train], test, 3e-3, seed=0
    )
    assert (scores.argmax(axis=1) == labels[test]).mean() > 0.9


def test_results_of_other_settings_are_not_mixed(script, options, tmp_path):
    options.runs, options.methods = tmp_path / "runs", ["vjepa"]
    script.check_same_run(options)
    options.methods = ["videomae"]
    script.check_same_run(options)
    options.steps = 7
    with pytest.raises(ValueError, match="holds results of other settings"):
        script.check_same_run(options)


def test_the_page_holds_what_was_found_and_says_how_much_of_it_there_is(script, clips, options, tmp_path):
    vars(options).update(steps=2, probe_steps=1, probes=1, probe_learning_rates=[1e-3], runs=tmp_path)
    results = {name: {2: found} for name, found in script.run_baselines(clips, 2, options).items()}
    for name in ("untrained", "videomae"):
        results[name] = {2: script.run_split(Accelerator(cpu=True), clips, name, 2, options)}
    results["untrained"][3] = results["untrained"][2]  # a split that not every method has is left out
    page = "\n".join(script.page(clips, results, options))
    assert "1 of 5 splits" in page and f"{script.SCENES}: 24 clips in 8 groups" in page
    right = results["videomae"][2]["answers"][script.RIDGE][script.SCENES]["right"]
    assert len(right) == 24 and f"| VideoMAE | {np.mean(list(right.values())):.3f} (" in page
    assert "VideoMAE over untrained" in page and script.SEQUENCES not in page.split("## Attentive probe")[1]
    assert (tmp_path / "videomae_2" / "config.json").exists()
