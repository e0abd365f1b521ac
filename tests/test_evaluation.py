"""Frozen features are those of the model, splits are balanced and seeded, and the probe learns without the encoder.

pytest tests/test_evaluation.py
"""

import copy

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.evaluation import (
    encode_labels,
    extract_features,
    few_label_accuracy,
    few_labels,
    probe_logits,
    train_probe,
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


def test_features_are_those_of_the_encoder_and_a_broken_video_leaves_a_gap(
    classifier, processor, toy_videos, tmp_path
):
    videos = [str(path) for path in sorted(toy_videos.rglob("*.mp4"))[:4]]
    videos.insert(2, str(tmp_path / "missing.mp4"))
    features = extract_features(
        Accelerator(cpu=True), classifier.vjepa, processor, videos, tmp_path / "features.npy", batch_size=2
    )
    assert list(features.failures) == [2] and "missing.mp4" in features.failures[2]
    assert features.readable.tolist() == [0, 1, 3, 4]
    assert (features.tokens[2] == 0).all()
    with torch.no_grad():
        expected = classifier.vjepa(**processor(videos[3])).last_hidden_state[0]
    np.testing.assert_allclose(features.tokens[3].astype(np.float32), expected.numpy(), atol=2e-3)


def test_features_do_not_depend_on_how_a_source_holds_a_video(classifier, processor, toy_video_path, tmp_path):
    in_shard = {"bytes": toy_video_path.read_bytes(), "path": "clip.mp4"}
    videos = [str(toy_video_path), in_shard, {"bytes": b"not a video", "path": "broken.mp4"}]
    features = extract_features(Accelerator(cpu=True), classifier.vjepa, processor, videos, tmp_path / "features.npy")
    assert (features.tokens[0] == features.tokens[1]).all()
    assert list(features.failures) == [2] and features.failures[2].startswith("broken.mp4: cannot read")


def test_logits_from_features_are_those_from_pixels(classifier, processor, toy_video_path, tmp_path):
    features = extract_features(
        Accelerator(cpu=True), classifier.vjepa, processor, [str(toy_video_path)], tmp_path / "features.npy"
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
