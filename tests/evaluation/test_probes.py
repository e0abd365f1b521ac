"""Splits are balanced and seeded, heads of a sweep are what they would be alone, and scores are honest.

pytest tests/evaluation/test_probes.py
"""

import copy

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.randomness import generator
from vjepa_hf.evaluation.features import VideoFeatures
from vjepa_hf.evaluation.labels import draw_labels, encode_labels, few_labels, hold_out, label_share
from vjepa_hf.evaluation.probes import (
    HeadSettings,
    extract_features,
    few_label_accuracy,
    fit_probe,
    head_of,
    predict,
    probe_logits,
    score,
    summarize,
    train_heads,
    train_probe,
    write_confusion,
)


@pytest.fixture
def classifier(tiny_config) -> VJEPAForVideoClassification:
    torch.manual_seed(0)
    return VJEPAForVideoClassification(VJEPAConfig(**tiny_config.to_diff_dict(), num_labels=3)).eval()


@pytest.fixture
def processor(tiny_config) -> VJEPAVideoProcessor:
    return VJEPAVideoProcessor(crop_size=tiny_config.image_size, num_frames=tiny_config.num_frames, frame_step=2)


def test_few_labels_are_balanced_seeded_and_nested():
    labels = np.array([0, 1, 2] * 10)
    chosen = few_labels(labels, per_class=4, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [4, 4, 4]
    assert (chosen == few_labels(labels, per_class=4, seed=0)).all()
    assert (chosen != few_labels(labels, per_class=4, seed=1)).any()
    assert set(few_labels(labels, per_class=2, seed=0)) <= set(chosen)
    with pytest.raises(ValueError, match="class 0 has 10 samples, fewer than the 11 asked for"):
        few_labels(labels, per_class=11, seed=0)


def test_labels_become_indices_in_the_order_of_the_names():
    indices, names = encode_labels(["run", "jump", "run"])
    assert indices.tolist() == [1, 0, 1] and names == ["jump", "run"]
    assert encode_labels(["run"], names)[0].tolist() == [1]
    with pytest.raises(ValueError, match="label 'swim' is not one of jump, run"):
        encode_labels(["swim"], names)


def test_integers_that_are_no_names_are_class_indices():
    assert encode_labels([1, 0], ["jump", "run"])[0].tolist() == [1, 0]
    assert encode_labels([4, 7], ["7", "4"])[0].tolist() == [1, 0]
    for label in (2, -1, "1"):
        with pytest.raises(ValueError, match=f"label '{label}' is not one of jump, run"):
            encode_labels([label], ["jump", "run"])


def test_integer_labels_that_training_never_saw_are_an_error():
    for labels, names in (([0, 1, 2], ["1", "2", "3"]), ([4], ["10", "20", "30", "40", "50"])):
        with pytest.raises(ValueError, match=f"label '{labels[0]}' is not one of"):
            encode_labels(labels, names)


def test_shares_of_the_labels_are_balanced_seeded_and_nested():
    labels = np.array([0] * 40 + [1] * 20 + [2] * 3)
    chosen = label_share(labels, 0.1, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [4, 2, 1]
    assert set(label_share(labels, 0.05, seed=0)) <= set(chosen) <= set(label_share(labels, 0.5, seed=0))
    assert (label_share(labels, 0.1, seed=1) != chosen).any()
    assert len(label_share(labels, 1.0, seed=0)) == len(labels)
    with pytest.raises(ValueError, match=r"label share 5 must lie in \(0, 1\]"):
        label_share(labels, 5, seed=0)


def test_draws_are_those_of_every_share_and_split():
    labels = np.array([0, 1] * 20)
    draws = draw_labels(labels, [0.1, 0.5], splits=2, seed=7)
    assert [(draw.labels, draw.seed, len(draw.rows)) for draw in draws] == [
        ("10 %", 7, 4), ("10 %", 8, 4), ("50 %", 7, 20), ("50 %", 8, 20),
    ]  # fmt: skip
    assert (draws[1].rows == label_share(labels, 0.1, seed=8)).all()
    (few,) = draw_labels(labels, [1.0], splits=1, seed=0, per_class=3)
    assert few.labels == "3 a class" and (few.rows == few_labels(labels, 3, seed=0)).all()
    with pytest.raises(ValueError, match="splits=0"):
        draw_labels(labels, [1.0], splits=0)


def test_what_is_held_out_is_balanced_and_apart():
    labels = np.array([0] * 10 + [1] * 5 + [2])
    kept, held = hold_out(labels, 0.2, seed=0)
    assert np.bincount(labels[held]).tolist() == [2, 1]
    assert sorted([*kept, *held]) == list(range(16))
    assert (hold_out(labels, 0.2, seed=1)[1] != held).any()
    with pytest.raises(ValueError, match="some class needs two training videos"):
        hold_out(np.arange(4), 0.2, seed=0)


def test_logits_from_features_are_those_from_pixels(classifier, processor, toy_video_path, tmp_path):
    features = extract_features(
        Accelerator(cpu=True), classifier.vjepa, processor, [str(toy_video_path)], tmp_path / "features"
    )
    with torch.no_grad():
        expected = classifier(**processor(str(toy_video_path))).logits
    np.testing.assert_allclose(probe_logits(classifier, features.tokens), expected.numpy(), atol=2e-3)


def test_the_probe_learns_and_the_encoder_stays(classifier):
    before = copy.deepcopy(classifier.vjepa.state_dict())
    generator = np.random.default_rng(0)
    labels = np.arange(30) % 3
    tokens = generator.normal(size=(30, 32, 48)).astype(np.float16)
    tokens[np.arange(30), :, labels] += 2.0
    history = train_probe(classifier, tokens, labels, np.random.default_rng(0), epochs=20, batch_size=10)
    assert history[-1] < 0.1 < history[0]
    assert (probe_logits(classifier, tokens).argmax(axis=1) == labels).mean() == 1.0
    assert all(torch.equal(before[name], value) for name, value in classifier.vjepa.state_dict().items())


@pytest.fixture
def easy(tiny_config) -> tuple[VideoFeatures, np.ndarray]:
    """Features of two views whose class shows in one of their numbers, and the classes."""
    labels = np.arange(30) % 3
    tokens = np.random.default_rng(0).normal(size=(30, 2, 32, 48)).astype(np.float16)
    tokens[np.arange(30), :, :, labels] += 2.0
    return VideoFeatures(tokens), labels


def test_heads_of_a_sweep_are_what_each_would_be_alone(classifier, easy):
    settings = [HeadSettings(1e-3, 0.0), HeadSettings(1e-2, 0.1), HeadSettings(1e-4, 0.01)]

    def train(some: list[HeadSettings]):
        rows = np.arange(1, 30)
        return train_heads(classifier, some, *easy, rows, np.random.default_rng(0), epochs=3, batch_size=10)

    before = copy.deepcopy(classifier.state_dict())
    together = train(settings)
    for setting, head in zip(settings, together, strict=True):
        (alone,) = train([setting])
        assert alone.settings == head.settings and alone.losses == head.losses
        state = alone.head.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in head.head.state_dict().items())
    assert len({head.losses[-1] for head in together}) == 3
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())


@pytest.mark.parametrize("given", [False, True], ids=["held out", "given"])
def test_the_best_head_is_chosen_by_videos_that_are_not_trained_on(classifier, easy, given):
    features, labels = easy
    rows = np.arange(24)
    settings = [HeadSettings(1e-9), HeadSettings(3e-3), HeadSettings(1e-8)]
    validation = (VideoFeatures(features.tokens[24:]), labels[24:]) if given else None
    best, *others = fit_probe(classifier, settings, features, labels, rows, epochs=15, validation=validation)
    assert best.settings.learning_rate == 3e-3 and best.validation_accuracy == 1.0
    assert all(other.validation_accuracy <= 1.0 for other in others) and len(others) == 2
    if given:  # wrong labels turn the choice round: it is these videos that decide
        wrong = validation[0], (validation[1] + 1) % 3
        trained = fit_probe(classifier, settings, features, labels, rows, epochs=15, validation=wrong)
        assert trained[-1].settings.learning_rate == 3e-3 and trained[-1].validation_accuracy == 0.0


def test_nothing_to_learn_from_is_an_error(classifier, easy):
    features = VideoFeatures(easy[0].tokens, {4: "broken"})
    for rows in ([], [4]):
        with pytest.raises(ValueError, match=f"none of {len(rows)} training videos can be read"):
            fit_probe(classifier, [HeadSettings()], features, easy[1], np.array(rows, dtype=np.int64))


def test_a_single_head_is_trained_on_all_rows(classifier, easy):
    (head,) = fit_probe(classifier, [HeadSettings()], *easy, np.arange(30), seed=4, epochs=1)
    expected = train_heads(classifier, [HeadSettings()], *easy, np.arange(30), generator("probe", 4), epochs=1)
    assert head.losses == expected[0].losses and head.validation_accuracy is None


@pytest.mark.parametrize("num_clips", [1, 2])
def test_predictions_from_features_of_views_are_those_from_pixels(classifier, tiny_clip, num_clips):
    classifier.config.pooler_num_clips = num_clips
    views = torch.stack([tiny_clip, tiny_clip.flip(-1), 2 * tiny_clip, tiny_clip.flip(1)], dim=1)
    with torch.no_grad():
        tokens = classifier.vjepa(views.flatten(0, 1)).last_hidden_state.unflatten(0, (2, 4)).numpy()
        expected = classifier(views).logits.softmax(-1)
    rows, logits = predict(classifier, [head_of(classifier)], VideoFeatures(tokens), np.arange(2), batch_size=3)
    assert rows.tolist() == [0, 1]
    torch.testing.assert_close(torch.from_numpy(logits[0]).softmax(-1), expected)


def test_predictions_say_which_rows_they_are_of(classifier, easy):
    features = VideoFeatures(easy[0].tokens, {0: "broken", 2: "broken"})
    rows, logits = predict(classifier, [head_of(classifier)] * 2, features, np.arange(5))
    assert rows.tolist() == [1, 3, 4] and logits.shape == (2, 3, 3)
    with pytest.raises(ValueError, match="none of 1 videos can be read"):
        predict(classifier, [head_of(classifier)], features, np.array([2]))


def test_scores_are_those_counted_by_hand():
    logits = np.eye(7)[[0, 0, 1, 2, 2, 2, 3, 4]] + np.eye(7)[[1] * 8] / 2
    labels = np.array([0, 0, 0, 2, 2, 2, 6, 1])
    result = score(logits, labels, list("abcdefg"))
    assert result["top_1_accuracy"] == 5 / 8 and result["num_samples"] == 8
    assert result["top_5_accuracy"] == 7 / 8
    assert result["top_1_interval"] == pytest.approx([0.3057, 0.8632], abs=1e-4)
    assert result["mean_class_accuracy"] == pytest.approx((2 / 3 + 1 + 0 + 0) / 4)
    assert result["per_class"]["a"] == {"accuracy": pytest.approx(2 / 3), "num_samples": 3}
    assert list(result["per_class"]) == ["a", "b", "c", "g"]
    assert "top_5_accuracy" not in score(logits[:6, :5], labels[:6], list("abcde"))


def test_a_summary_has_mean_and_spread_of_each_amount_of_labels():
    records = [{"labels": "5 %", "top_1_accuracy": value} for value in (0.25, 0.75)]
    summary = summarize([*records, {"labels": "10 %", "top_1_accuracy": 0.5}])
    assert summary["5 %"] == {"splits": 2, "mean": 0.5, "std": pytest.approx(0.25 * 2**0.5)}
    assert summary["10 %"] == {"splits": 1, "mean": 0.5, "std": None}


def test_what_is_confused_is_written_as_a_table_and_as_a_picture(tmp_path):
    write_confusion(tmp_path, np.eye(3)[[0, 1, 1]], np.array([0, 0, 1]), ["run", "jump, high", "swim"])
    lines = (tmp_path / "confusion.csv").read_text().splitlines()
    assert lines[0] == 'true \\ predicted,run,"jump, high",swim'
    assert lines[1:] == ["run,1,1,0", '"jump, high",0,1,0', "swim,0,0,0"]
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_few_label_accuracy_is_that_of_its_draws_and_counts_the_unreadable_as_wrong(classifier, processor, toy_videos):
    paths = [str(path) for path in sorted(toy_videos.rglob("*.mp4"))[:4]]

    def accuracy(test_paths: list[str], test_labels: list[str]) -> float:
        train = datasets.Dataset.from_dict({"video": paths, "label": ["a", "a", "b", "b"]})
        test = datasets.Dataset.from_dict({"video": test_paths, "label": test_labels})
        splits = {"train": train, "test": test}
        heads = [copy.deepcopy(classifier) for _ in range(2)]
        return few_label_accuracy(Accelerator(cpu=True), classifier.vjepa, processor, splits, "label", 2, heads, 300)

    assert accuracy(paths, ["a", "a", "b", "b"]) == 1.0
    assert accuracy(paths, ["b", "b", "a", "a"]) == 0.0
    assert accuracy([*paths, "missing.mp4"], ["a", "a", "b", "b", "a"]) == 0.8
