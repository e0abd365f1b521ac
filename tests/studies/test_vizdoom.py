"""In the game, all methods get equal compute, and no level is in two splits; tables contain the finished runs.

pytest tests/studies/test_vizdoom.py
"""

import csv
import importlib
import struct
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from house import REPO

MODULES = ("levels", "compare", "masks")
IMPORTED = ("grouping", "clips", "pretraining", "readers", "report", "videomae")


@pytest.fixture(scope="module")
def study():
    """The modules of the study, which import each other by their plain names."""
    before = list(sys.path)
    sys.path.insert(0, str(REPO / "studies" / "vizdoom"))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path[:] = before
    for name in (*MODULES, *IMPORTED):
        del sys.modules[name]


@pytest.fixture
def wad(tmp_path):
    """An archive with two levels; each has a player, a monster and a lamp."""
    things = b"".join(
        struct.pack("<5h", *thing) for thing in ((8, -16, 90, 1, 7), (32, 0, 0, 3004, 7), (5, 5, 0, 2028, 7))
    )
    lumps = [("E1M1", b""), ("THINGS", things), ("LINEDEFS", b"12"), ("E1M2", b""), ("THINGS", things)]
    body, entries = b"", b""
    for name, content in lumps:
        entries += struct.pack("<ii8s", 12 + len(body), len(content), name.encode())
        body += content
    path = tmp_path / "game.wad"
    path.write_bytes(struct.pack("<4sii", b"IWAD", len(lumps), 12 + len(body)) + body + entries)
    return path


def labelled_clips(study, num_levels, first, seed):
    """Noise of seven actions in three spots of some levels; the second half of a clip shows the action."""
    generator = np.random.default_rng(seed)
    rows = [(action, spot, level) for level in range(num_levels) for spot in range(3) for action in range(7)]
    frames = generator.integers(0, 60, (len(rows), 8, 3, 16, 16), dtype=np.uint8)
    for frame, (action, *_) in zip(frames, rows, strict=True):
        frame[4:, :, 2 * action : 2 * action + 2] += 150
    columns = {
        "motion": np.array([str(action) for action, *_ in rows]),
        "place": np.array([("room", "open")[spot % 2] for _, spot, _ in rows]),
        "level": np.array([str(first + level) for *_, level in rows]),
        "spot": np.array([spot for _, spot, _ in rows]),
    }
    return study.compare.Clips(frames, columns)


@pytest.fixture(scope="module")
def clips(study):
    counts = {"train": (2, 0), "validation": (2, 2), "test": (3, 4)}
    return {split: labelled_clips(study, count, first, first) for split, (count, first) in counts.items()}


@pytest.fixture
def options(study, tmp_path):
    sizes = {"image_size": 16, "hidden_size": 24, "num_layers": 2, "num_heads": 2, "batch_size": 4}
    training = {"steps": 4, "probe_steps": 1, "probes": 1, "probe_learning_rates": [1e-3]}
    table = {"methods": ["untrained", "vjepa", "videomae"], "seeds": [0], "growth_steps": [2], "growth_sizes": [24]}
    return study.compare.Options(runs=str(tmp_path / "runs"), **sizes, **training, **table)


def test_levels_are_read_with_the_points_where_something_can_stand(study, wad):
    levels = study.levels.read_levels(wad)
    assert [level.name for level in levels] == ["E1M1", "E1M2"]
    assert [level.stands.tolist() for level in levels] == [[[8, -16], [32, 0]]] * 2


def test_no_level_is_in_two_splits(study):
    levels = [f"level {number}" for number in range(68)]
    splits = study.levels.divide(levels, seed=0)
    assert sorted(sum(splits.values(), [])) == sorted(levels)
    assert {name: len(chosen) for name, chosen in splits.items()} == {"train": 36, "validation": 10, "test": 22}
    assert study.levels.divide(levels, seed=1) != splits


def test_no_single_frame_of_ridge_shows_what_all_frames_show(study, clips):
    views = study.compare.pixel_features(np.concatenate([clips[split].frames for split in study.compare.SPLITS]))
    place = np.arange(views["all frames in gray"].shape[1])
    found = {}
    for name, view in views.items():
        classify = study.compare.partial(study.compare.ridge, view, place)
        found[name] = study.compare.evaluate(clips, classify, [1.0], 1)["motion"]
    assert np.mean(found["changes between frames"]["right"]) > 0.9
    assert len(found["middle frame in gray"]["right"]) == len(clips["test"].frames)


def test_settings_are_chosen_on_validation_levels_alone(study, clips):
    asked = []

    def classify(train, labels, rows, setting, seed):
        asked.append((setting, set(rows.tolist())))
        right = np.eye(7)[all_labels[rows]]
        return right if (setting == 2.0) == (min(rows) < first_test) else -right

    all_labels = np.concatenate([clips[split].columns["motion"].astype(int) for split in study.compare.SPLITS])
    first_test = len(clips["train"].frames) + len(clips["validation"].frames)
    answer = study.compare.evaluate(clips, classify, [1.0, 2.0, 3.0], 1)["motion"]
    assert answer["setting"] == 2.0 and answer["validation"] == [0.0, 1.0, 0.0]
    assert np.mean(answer["right"]) == 0.0  # a choice that saw the test levels would have been 1.0
    assert [setting for setting, rows in asked[:4] if min(rows) >= first_test] == [2.0]


def test_methods_get_equal_encoder_compute_and_runs_are_kept(study, clips, options):
    accelerator, compare = Accelerator(cpu=True), study.compare
    answers = {}
    for run in compare.runs_of(options):
        compare.make_encoder(accelerator, run, clips["train"], options)
        answers[run] = compare.read_encoder(accelerator, run, clips, options)
    costs = {
        run.method: compare.json.loads((run.folder(options) / "pretraining.json").read_text())
        for run in answers
        if run.steps == options.steps
    }
    step = costs["videomae"]["encoder_tflop"] / costs["videomae"]["steps"]
    assert costs["vjepa"]["steps"] == options.steps < costs["videomae"]["steps"]
    assert costs["videomae"]["encoder_tflop"] == pytest.approx(costs["vjepa"]["encoder_tflop"], abs=step)
    kept = {path: path.stat().st_mtime_ns for path in (REPO / options.runs).rglob("*.json")}
    for run in answers:
        compare.make_encoder(accelerator, run, clips["train"], options)
        assert compare.read_encoder(accelerator, run, clips, options) == answers[run]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    baseline = {name: {"right": [0.0] * len(clips["test"].frames)} for name in compare.LABELS}
    summary = compare.Summary(answers, {"nothing": baseline}, clips["test"], options)
    page = "\n".join(compare.page(summary))
    assert "63 test clips in 3 levels" in page and "missing" not in page
    assert "V-JEPA, three mask types over VideoMAE" in page and "VideoMAE over untrained" in page
    assert "| 24 | 8 |" in page  # two steps of four clips
    header, _, untrained, *_ = summary.each_seed(compare.RIDGE)
    means = [summary.right(run, compare.RIDGE, "motion").mean() for run in summary.runs("untrained")]
    assert "motion, seed 0" in header and untrained.startswith(
        "| untrained | " + " | ".join(f"{mean:.3f}" for mean in means)
    )
    part = replace(summary, answers=dict(list(answers.items())[:2]))
    assert f"{len(answers) - 2} of {len(answers)} runs are missing" in "\n".join(compare.page(part))


def test_a_run_of_other_settings_is_not_read(study, options):
    compare = study.compare
    compare.check_same_run(options)
    compare.check_same_run(replace(options, seeds=[0, 1], methods=["vjepa"]))
    with pytest.raises(ValueError, match="has results of other settings"):
        compare.check_same_run(replace(options, labelled_spots=2))


def some_features(seed, shape=(5, 4, 3, 2)):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_features_are_divided_into_their_mean_over_time_and_the_changes_from_it(study):
    tokens, hidden = some_features(0), some_features(1)[..., 0] > 0
    hidden[0, :, 0] = torch.tensor([True, False, False, False])
    hidden[1, :, 1] = torch.tensor([True, False, True, False])
    mean, changes = study.masks.mean_and_changes(tokens, hidden)
    twice = (hidden & (hidden.sum(1, keepdim=True) > 1))[..., None]
    assert torch.allclose(mean + changes, tokens * twice) and not mean[0, :, 0].any() and not mean[1, 1, 1].any()
    assert torch.allclose(mean[1, 0, 1], (tokens[1, 0, 1] + tokens[1, 2, 1]) / 2)
    assert torch.allclose((mean.square() + changes.square()).sum(), (tokens * twice).square().sum())


@pytest.mark.parametrize(("which", "r2"), [("nothing", (0, 0)), ("mean", (1, 0)), ("all", (1, 1))])
def test_r2_says_which_part_is_predicted(study, which, r2):
    targets, hidden = some_features(0), torch.ones(5, 4, 3, dtype=torch.bool)
    mean, changes = study.masks.mean_and_changes(targets, hidden)
    predictions = {"nothing": 0 * mean, "mean": mean, "all": mean + changes}[which]
    predicted = study.masks.Predicted(targets, predictions, 0 * mean, hidden, hidden.float())
    assert predicted.explained() == pytest.approx(r2, abs=1e-9)
    assert (predicted.loss_ratio() == 1) == (which == "nothing")
    assert (predicted.loss_ratio() < 1e-9) == (which == "all")
    assert predicted.copy_ratio() == 1


def test_features_that_never_change_have_no_changes(study):
    still = some_features(0, (5, 1, 3, 2)).expand(-1, 4, -1, -1)
    assert study.masks.fraction_of_changes(still) == pytest.approx(0, abs=1e-9)
    assert 0.5 < study.masks.fraction_of_changes(some_features(0)) < 1


def test_distances_of_the_future_count_time_steps(study, clips, options):
    masks = study.masks
    model = importlib.import_module("pretraining").new_model(study.compare.METHODS["vjepa"], options, 0).eval()
    predicted = masks.predict(model, study.compare.FUTURE, 2, clips["test"].frames, 4)
    distances = torch.tensor([0.0, 0.0, 1.0, 2.0])[:, None].expand(4, 4)
    assert torch.equal(predicted.distances, distances.expand(63, 4, 4))
    assert torch.equal(predicted.hidden, predicted.distances > 0)
    assert predicted.targets.mean(dim=0).abs().max() < 1e-5
    # Both copies of a patch are its target at the last visible time step; the mean of each position is subtracted.
    copies = predicted.copies[:, 2:] - predicted.copies[:, 2:].mean(dim=0)
    assert torch.allclose(copies, predicted.targets[:, 1:2].expand_as(copies), atol=1e-5)
    assert [np.isnan(ratio) for ratio in masks.measure(predicted).times] == [True, True, False, False]
    assert masks.measure(predicted).fractions == pytest.approx([0.5, 0.5, 0])


def test_the_page_of_masks_has_the_encoders_that_are_there(study, clips, options):
    accelerator, compare = Accelerator(cpu=True), study.compare
    for name, steps in (("untrained", 4), ("vjepa", 4), ("vjepa", 2), ("videomae", 4)):
        compare.make_encoder(accelerator, compare.Run(name, 0, steps, 24), clips["train"], options)
    everything = replace(options, methods=list(compare.METHODS), seeds=[0, 1])
    runs = study.masks.finished_runs(everything)
    encoders = {run: study.masks.measure_run(run, everything, clips["test"].frames) for run in runs}
    page = "\n".join(study.masks.page(encoders, everything, 63))
    assert "| V-JEPA, three mask types | 1 |" in page and "| V-JEPA, three mask types: short-range | 0." in page
    assert "VideoMAE" not in page and "V-JEPA, short-range masks" not in page and "nan" not in page
    seen = [
        line.split("|")[1].strip() for line in page.split("## Clips seen")[1].splitlines() if line.startswith("| ")
    ]
    assert seen == ["clips seen", "---", "0", "8", "16"]


def test_clips_are_decoded_once(study, tmp_path):
    sys.path.insert(0, str(REPO / "examples"))
    write_video = importlib.import_module("make_toy_videos").write_video
    sys.path.pop(0)
    (tmp_path / "test").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    write_video(tmp_path / "test" / "a.mp4", frames)
    with (tmp_path / "test.csv").open("w", newline="") as lines:
        rows = [("video", "motion", "place", "level", "spot"), ("test/a.mp4", "stand", "open", "game E1M1", 3)]
        csv.writer(lines).writerows(rows)
    first = study.compare.read_clips(tmp_path, "test", 8)
    (tmp_path / "test" / "a.mp4").unlink()
    again = study.compare.read_clips(tmp_path, "test", 8)
    assert first.frames.shape == (1, 8, 3, 16, 16) and np.array_equal(first.frames, again.frames)
    assert again.columns["spot"].tolist() == [3]
    clip = study.compare.TrainingClips(again.frames)[study.compare.ClipRequest(0, 0, ((0, 0),))]
    assert torch.equal(clip.clip, torch.from_numpy(again.frames[0]))
