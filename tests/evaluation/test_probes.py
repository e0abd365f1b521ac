"""Heads learn from features, heads of a sweep equal heads trained alone, and metrics are correct.

pytest tests/evaluation/test_probes.py
"""

import copy

import numpy as np
import pytest
import torch

from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification
from vjepa_hf.data.randomness import generator
from vjepa_hf.data.videos import VideoFailure
from vjepa_hf.evaluation.features import VideoFeatures
from vjepa_hf.evaluation.probes import (
    HeadSettings,
    fit_probe,
    head_of,
    predict,
    score,
    summarize,
    train_heads,
    write_confusion,
)

BROKEN = VideoFailure("broken.mp4", "no video stream")


@pytest.fixture
def classifier(tiny_config) -> VJEPAForVideoClassification:
    torch.manual_seed(0)
    return VJEPAForVideoClassification(VJEPAConfig(**tiny_config.to_diff_dict(), num_labels=3)).eval()


@pytest.fixture
def easy(tiny_config) -> tuple[VideoFeatures, np.ndarray]:
    """Features of two views, in which one dimension shows the class, and the classes."""
    labels = np.arange(30) % 3
    tokens = np.random.default_rng(0).normal(size=(30, 2, 32, 48)).astype(np.float16)
    tokens[np.arange(30), :, :, labels] += 2.0
    return VideoFeatures(tokens), labels


def test_heads_of_a_sweep_equal_heads_trained_alone(classifier, easy):
    settings = [HeadSettings(1e-3, 0.0), HeadSettings(1e-2, 0.1), HeadSettings(1e-4, 0.01)]

    def train(settings: list[HeadSettings]):
        rows = np.arange(1, 30)
        return train_heads(classifier, settings, *easy, rows, np.random.default_rng(0), epochs=3, batch_size=10)

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
def test_the_best_head_is_selected_on_videos_that_are_not_trained_on(classifier, easy, given):
    features, labels = easy
    rows = np.arange(24)
    settings = [HeadSettings(1e-9), HeadSettings(3e-3), HeadSettings(1e-8)]
    validation = (VideoFeatures(features.tokens[24:]), labels[24:]) if given else None
    best, *others = fit_probe(classifier, settings, features, labels, rows, epochs=15, validation=validation)
    assert best.settings.learning_rate == 3e-3 and best.validation_accuracy == 1.0
    assert all(other.validation_accuracy <= 1.0 for other in others) and len(others) == 2
    if given:  # wrong validation labels reverse the ranking
        wrong = validation[0], (validation[1] + 1) % 3
        trained = fit_probe(classifier, settings, features, labels, rows, epochs=15, validation=wrong)
        assert trained[-1].settings.learning_rate == 3e-3 and trained[-1].validation_accuracy == 0.0


def test_a_head_chosen_on_held_out_videos_is_trained_again_on_all(classifier, easy):
    rows = np.arange(24)
    best, *_ = fit_probe(classifier, [HeadSettings(1e-9), HeadSettings(3e-3)], *easy, rows, seed=4, epochs=15)
    (alone,) = train_heads(classifier, [best.settings], *easy, rows, generator("probe", 4), epochs=15)
    assert best.losses == alone.losses and best.validation_accuracy == 1.0
    given = easy[0], easy[1]
    kept, *_ = fit_probe(classifier, [HeadSettings(3e-3)], *easy, rows, seed=4, epochs=15, validation=given)
    assert kept.losses == alone.losses  # nothing was held out, so it saw all rows already


@pytest.mark.parametrize(("min_steps", "epochs"), [(0, 2), (6, 2), (7, 3), (30, 10)])
def test_few_videos_get_more_epochs_until_there_are_enough_steps(classifier, easy, min_steps, epochs):
    sizes = {"epochs": 2, "batch_size": 10, "min_steps": min_steps}  # 30 videos are 3 steps
    (head,) = fit_probe(classifier, [HeadSettings()], *easy, np.arange(30), **sizes)
    assert len(head.losses) == epochs


def test_a_head_learns_and_the_classifier_does_not_change(classifier, easy):
    before = copy.deepcopy(classifier.state_dict())
    features, labels = easy
    (probe,) = fit_probe(classifier, [HeadSettings()], features, labels, np.arange(30), epochs=20, batch_size=10)
    assert probe.losses[-1] < 0.1 < probe.losses[0]
    _, logits = predict(classifier, [probe.head], features, np.arange(30))
    assert (logits[0].argmax(axis=1) == labels).all()
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())


def test_no_readable_training_video_is_an_error(classifier, easy):
    features = VideoFeatures(easy[0].tokens, {4: BROKEN})
    for rows in ([], [4]):
        with pytest.raises(ValueError, match=f"none of the {len(rows)} training videos can be read"):
            fit_probe(classifier, [HeadSettings()], features, easy[1], np.array(rows, dtype=np.int64))


def test_a_single_head_is_trained_on_all_rows(classifier, easy):
    (head,) = fit_probe(classifier, [HeadSettings()], *easy, np.arange(30), seed=4, epochs=1)
    expected = train_heads(classifier, [HeadSettings()], *easy, np.arange(30), generator("probe", 4), epochs=1)
    assert head.losses == expected[0].losses and head.validation_accuracy is None


@pytest.mark.parametrize("num_clips", [1, 2])
def test_predictions_from_features_equal_predictions_from_pixels(classifier, tiny_clip, num_clips):
    classifier.config.pooler_num_clips = num_clips
    views = torch.stack([tiny_clip, tiny_clip.flip(-1), 2 * tiny_clip, tiny_clip.flip(1)], dim=1)
    with torch.no_grad():
        tokens = classifier.vjepa(views.flatten(0, 1)).last_hidden_state.unflatten(0, (2, 4)).numpy()
        expected = classifier(views).logits.softmax(-1)
    rows, logits = predict(classifier, [head_of(classifier)], VideoFeatures(tokens), np.arange(2), batch_size=3)
    assert rows.tolist() == [0, 1]
    torch.testing.assert_close(torch.from_numpy(logits[0]).softmax(-1), expected)


def test_predictions_come_with_their_rows(classifier, easy):
    features = VideoFeatures(easy[0].tokens, {0: BROKEN, 2: BROKEN})
    rows, logits = predict(classifier, [head_of(classifier)] * 2, features, np.arange(5))
    assert rows.tolist() == [1, 3, 4] and logits.shape == (2, 3, 3)
    with pytest.raises(ValueError, match="none of the 1 videos can be read"):
        predict(classifier, [head_of(classifier)], features, np.array([2]))


def test_scores_equal_values_counted_by_hand():
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


def test_confusions_are_written_as_a_table_and_as_a_picture(tmp_path):
    write_confusion(tmp_path, np.eye(3)[[0, 1, 1]], np.array([0, 0, 1]), ["run", "jump, high", "swim"])
    lines = (tmp_path / "confusion.csv").read_text().splitlines()
    assert lines[0] == 'true \\ predicted,run,"jump, high",swim'
    assert lines[1:] == ["run,1,1,0", '"jump, high",0,1,0', "swim,0,0,0"]
    assert (tmp_path / "confusion.png").stat().st_size > 1000
