"""Augmentation is the same for all frames of a clip and a function of its generator.

pytest tests/test_transforms.py
"""

import numpy as np
import pytest
import torch

from vjepa_hf.transforms import CropBox, RandomResizedCropFlip, normalize, random_crop_box


def still_clip(height: int = 40, width: int = 60, num_frames: int = 4) -> torch.Tensor:
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, height, width), dtype=np.uint8))
    return frame.repeat(num_frames, 1, 1, 1)


def test_a_still_clip_stays_still():
    augment = RandomResizedCropFlip((16, 24))
    for seed in range(20):
        clip = augment(still_clip(), np.random.default_rng(seed))
        assert clip.shape == (4, 3, 16, 24) and clip.dtype == torch.uint8
        assert (clip == clip[:1]).all()


def test_the_generator_decides_and_nothing_else():
    augment = RandomResizedCropFlip((16, 16))
    first, again, other = (augment(still_clip(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_boxes_have_the_asked_area_and_ratio_and_lie_inside():
    generator = np.random.default_rng(0)
    boxes = [random_crop_box(240, 320, (0.3, 1.0), (0.75, 1.35), generator) for _ in range(500)]
    for box in boxes:
        assert 0 <= box.top <= 240 - box.height and 0 <= box.left <= 320 - box.width
        assert 0.29 < box.height * box.width / (240 * 320) <= 1.0
        assert 0.74 < box.width / box.height < 1.36
    shares = [box.height * box.width / (240 * 320) for box in boxes]
    assert min(shares) < 0.35 and max(shares) > 0.8


def test_a_frame_no_box_fits_gives_the_largest_centered_one():
    box = random_crop_box(10, 100, (1.0, 1.0), (0.75, 1.35), np.random.default_rng(0))
    assert box == CropBox(top=0, left=43, height=10, width=14)


def test_the_whole_frame_at_its_own_size_is_unchanged():
    augment = RandomResizedCropFlip((40, 60), scale=(1.0, 1.0), aspect_ratio=(1.5, 1.5), flip_probability=0.0)
    assert torch.equal(augment(still_clip(), np.random.default_rng(0)), still_clip())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flip_probability_is_kept_at_both_ends(probability):
    augment = RandomResizedCropFlip((40, 60), (1.0, 1.0), (1.5, 1.5), flip_probability=probability)
    expected = still_clip().flip(-1) if probability else still_clip()
    for seed in range(10):
        assert torch.equal(augment(still_clip(), np.random.default_rng(seed)), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 0.4)}, "scale"),
        ({"scale": (0.5, 1.4)}, "scale"),
        ({"aspect_ratio": (2.0, 1.0)}, "aspect_ratio"),
        ({"flip_probability": 1.5}, "flip_probability must lie in"),
    ],
)
def test_ranges_that_mean_nothing_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCropFlip((16, 16), **options)


def test_normalize_is_the_formula_of_the_processor():
    video = still_clip()
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = (video.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    result = normalize(video, mean, std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)
