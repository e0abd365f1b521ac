"""Every purpose and key has random numbers of its own, the same on every machine.

pytest tests/data/test_randomness.py
"""

import datasets
import numpy as np
import pytest

from vjepa_hf.data.clips import ClipReader, VideoClipDataset
from vjepa_hf.data.labelled import balanced_order
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler
from vjepa_hf.data.order import ClipRequest, epoch_order
from vjepa_hf.data.randomness import generator


def start(generator: np.random.Generator) -> int:
    return generator.bit_generator.state["state"]["state"]


def test_the_numbers_of_a_purpose_and_key_do_not_change():
    assert generator("order", 0, 1).integers(1000, size=4).tolist() == [431, 883, 85, 706]
    assert start(generator("order", np.int64(0), np.uint8(1))) == start(generator("order", 0, 1))


def test_no_two_keys_of_any_length_share_a_stream():
    keys = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (2**32,), (2**32 + 1,), (10,), (0, 2**32)]
    generators = [generator(purpose, seed, *key) for purpose in ("a", "a, 0") for seed in (0, 1) for key in keys]
    assert len(set(map(start, generators))) == len(generators)


def test_a_key_that_would_be_cut_to_an_integer_is_an_error():
    with pytest.raises(TypeError):
        generator("order", 0, 1.5)


def test_order_masks_clips_augmentation_replacements_and_balance_share_no_stream(monkeypatch, toy_video_path):
    starts = []
    default_rng = np.random.default_rng

    def recorded(seed):
        starts.append(start(default_rng(seed)))
        return default_rng(seed)

    monkeypatch.setattr(np.random, "default_rng", recorded)
    for epoch in (0, 1):
        epoch_order.__wrapped__(10, 0, epoch)
    MaskSampler([SHORT_RANGE, LONG_RANGE], (4, 8, 8), seed=0)([(0, 0), (0, 1), (1, 0), (1, 1)])
    videos = datasets.Dataset.from_dict({"video": ["missing.mp4", str(toy_video_path)]})
    reader = ClipReader(4, 1, 0, lambda clip, _: clip)
    clips = VideoClipDataset(videos, reader, max_attempts=100)
    assert clips[ClipRequest(0, 0, ())].failures and not clips[ClipRequest(1, 0, ())].failures
    balanced_order(np.array([0, 0, 1]), seed=0, epoch=0)
    assert len(starts) > 15 and len(set(starts)) == len(starts)
