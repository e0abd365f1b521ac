"""Training clips are functions of (seed, epoch, video); an unreadable video is named, counted and not replaced.

pytest tests/data/test_labelled.py
"""

import logging

import numpy as np
import pytest
import torch

from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.data.labelled import UNREADABLE, LabelledVideos, TrainingVideos, balanced_order
from vjepa_hf.data.transforms import RandomResizedCropFlip


@pytest.fixture(scope="module")
def processor():
    return VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2)


@pytest.fixture(scope="module")
def paths(toy_videos) -> list[str]:
    return [str(path) for path in sorted((toy_videos / "train").glob("*.mp4"))]


def training_videos(paths, processor, seed=0, **options) -> TrainingVideos:
    labels = np.arange(len(paths)) % 3
    return TrainingVideos(paths, labels, processor, RandomResizedCropFlip((32, 32)), seed, **options)


def test_training_clips_are_functions_of_seed_epoch_and_video(paths, processor):
    videos = training_videos(paths[:4], processor)
    first = videos[1]
    videos.set_epoch(1)
    assert not torch.equal(videos[1].pixels, first.pixels)
    again = training_videos(paths[:4], processor)
    assert torch.equal(again[1].pixels, first.pixels) and again[1].label == 1 and first.pixels.shape == (4, 3, 32, 32)
    assert not torch.equal(training_videos(paths[:4], processor, seed=1)[1].pixels, first.pixels)


def test_persistent_workers_see_a_new_epoch(paths, processor):
    videos = training_videos(paths[:2], processor)
    loader = torch.utils.data.DataLoader(videos, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=list)
    pixels = []
    for epoch in (0, 1, 0):
        videos.set_epoch(epoch)
        (batch,) = loader
        pixels.append(torch.stack([sample.pixels for sample in batch]))
    assert torch.equal(pixels[0], pixels[2]) and not torch.equal(pixels[0], pixels[1])


def test_balanced_epochs_have_equal_classes_and_no_clip_twice():
    labels = np.array([0] * 20 + [1] * 3 + [2])
    drawn = [balanced_order(labels, seed=0, epoch=epoch) for epoch in (0, 1)]
    for rows, _ in drawn:
        assert np.bincount(labels[rows]).tolist() == [8, 8, 8]
        assert len(set(rows[labels[rows] == 0])) == 8  # as many different videos as possible
    clips = [clip for rows, draws in drawn for clip in zip(rows.tolist(), draws.tolist(), strict=True)]
    assert len(set(clips)) == len(clips) == 48
    assert not np.array_equal(drawn[0][0], drawn[1][0])
    assert np.array_equal(balanced_order(labels, 0, 0)[0], drawn[0][0])
    assert not np.array_equal(balanced_order(labels, 1, 0)[0], drawn[0][0])


def test_balanced_training_videos_follow_that_order(paths, processor):
    videos = training_videos(paths[:4], processor, balanced=True)  # classes 0, 1, 2, 0
    videos.set_epoch(2)
    rows, draws = balanced_order(videos.labels, 0, 2)
    assert [videos[index].key for index in range(4)] == list(zip(draws.tolist(), rows.tolist(), strict=True))


def test_an_unreadable_video_is_named_once_counted_and_not_replaced(paths, processor, tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    labels = np.array([0, 1])
    crops = type(processor)(**processor.to_dict() | {"num_crops": 3})
    for videos in (
        LabelledVideos([paths[0], str(broken)], labels, processor, num_clips=2),
        LabelledVideos([paths[0], str(broken)], labels, crops),
        TrainingVideos([paths[0], str(broken)], labels, processor, RandomResizedCropFlip((32, 32)), seed=0),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            samples = [videos[0], videos[1], videos[1]]
        assert caplog.text.count("skipped an unreadable video") == 1 and "broken.mp4: InvalidData" in caplog.text
        assert [sample.label for sample in samples] == [0, UNREADABLE, UNREADABLE]
        assert samples[1].pixels.shape == samples[0].pixels.shape and not samples[1].pixels.any()
        assert videos.unreadable.tolist() == [False, True]
