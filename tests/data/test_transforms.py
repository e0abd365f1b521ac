"""Augmentation is the same for all frames of a clip and a function of its generator.

pytest tests/data/test_transforms.py
"""

import numpy as np
import pytest
import torch

from vjepa_hf.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPERATIONS,
    Chain,
    ColorJitter,
    CropBox,
    RandAugment,
    RandomErasing,
    RandomResizedCropFlip,
    normalize,
    random_crop_box,
)


def still_clip(height: int = 40, width: int = 60, num_frames: int = 4) -> torch.Tensor:
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, height, width), dtype=np.uint8))
    return frame.repeat(num_frames, 1, 1, 1)


def test_a_still_clip_stays_still():
    augment = RandomResizedCropFlip((16, 24))
    for seed in range(20):
        clip = augment(still_clip(), np.random.default_rng(seed))
        assert clip.shape == (4, 3, 16, 24) and clip.dtype == torch.uint8
        assert (clip == clip[:1]).all()


def test_augmentation_is_a_function_of_the_generator():
    augment = RandomResizedCropFlip((16, 16))
    first, again, other = (augment(still_clip(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_boxes_have_the_requested_area_and_ratio_and_lie_inside():
    generator = np.random.default_rng(0)
    boxes = [random_crop_box(240, 320, (0.3, 1.0), (0.75, 1.35), generator) for _ in range(500)]
    for box in boxes:
        assert 0 <= box.top <= 240 - box.height and 0 <= box.left <= 320 - box.width
        assert 0.29 < box.height * box.width / (240 * 320) <= 1.0
        assert 0.74 < box.width / box.height < 1.36
    fractions = [box.height * box.width / (240 * 320) for box in boxes]
    assert min(fractions) < 0.35 and max(fractions) > 0.8


def test_if_no_box_fits_the_result_is_the_largest_centered_one():
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
def test_invalid_ranges_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCropFlip((16, 16), **options)


def test_normalize_is_the_formula_of_the_processor():
    video = still_clip()
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = (video.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    result = normalize(video, mean, std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)


# --- strong augmentations ------------------------------------------------------------------------------------------

STRONG = [ColorJitter(0.8, 0.8, 0.8, 0.5), RandAugment(probability=1.0), RandomErasing(probability=1.0)]


@pytest.mark.parametrize("transform", STRONG, ids=lambda transform: type(transform).__name__)
def test_every_augmentation_keeps_a_still_clip_still_and_follows_its_generator(transform):
    results = [transform(still_clip(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    for clip in results:
        assert clip.shape == still_clip().shape and clip.dtype == torch.uint8
        assert (clip == clip[:1]).all()
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], still_clip())


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_equal_pixels_of_two_frames_equal_results(name):
    first, second = still_clip()[:1], still_clip()[:1].clone()
    second[..., 30:] = 255 - second[..., 30:]  # changes the mean and the histogram
    for strength in (0.0, 0.7, 1.0):
        clip = OPERATIONS[name](torch.cat([first, second]), strength, 1)
        assert clip.dtype == torch.uint8 and clip.shape == (2, *first.shape[1:])
        away_from_the_seam = slice(0, 8) if name.startswith(("rotate", "shear", "translate")) else slice(0, 29)
        assert torch.equal(clip[0, :, :20, away_from_the_seam], clip[1, :, :20, away_from_the_seam])


def test_the_statistics_of_a_frame_alone_would_flicker():
    first, second = still_clip()[:1], still_clip()[:1].clone()
    second[..., 30:] = 255
    alone = [OPERATIONS["equalize"](frame, 1.0, 1) for frame in (first, second)]
    assert not torch.equal(alone[0][..., :29], alone[1][..., :29])


def test_randaugment_of_probability_0_changes_nothing():
    assert torch.equal(RandAugment(probability=0.0)(still_clip(), np.random.default_rng(0)), still_clip())


def test_operations_get_stronger_with_the_magnitude():
    for name in ("brightness", "contrast", "saturation", "solarize", "solarize_add"):
        weak, strong = (
            (OPERATIONS[name](still_clip(), strength, 1).float() - still_clip()).abs().mean()
            for strength in (0.1, 0.9)
        )
        assert weak < strong


def test_erasing_fills_a_box_of_the_requested_size_with_noise_of_unit_deviation():
    black = torch.zeros(4, 3, 200, 200, dtype=torch.uint8)
    fractions, noise = [], []
    for seed in range(100):
        clip = RandomErasing(probability=0.5)(black, np.random.default_rng(seed))
        erased = (clip > 0).any(dim=(0, 1))
        fractions.append(erased.float().mean().item())
        if erased.any():
            rows, columns = erased.any(1).nonzero(), erased.any(0).nonzero()
            box = clip[:1, :, rows.min() : rows.max(), columns.min() : columns.max()]
            noise.append(normalize(box, IMAGENET_MEAN, IMAGENET_STD).std().item())
    assert 30 < sum(fraction > 0 for fraction in fractions) < 70
    assert max(fractions) < 0.35 and min(fraction for fraction in fractions if fraction) > 0.015
    assert 0.9 < np.mean(noise) < 1.05


def test_all_transforms_of_a_chain_use_one_generator():
    chain = Chain((RandomResizedCropFlip((16, 16)), RandomErasing(1.0)))
    generator = np.random.default_rng(3)
    expected = RandomErasing(1.0)(RandomResizedCropFlip((16, 16))(still_clip(), generator), generator)
    assert torch.equal(chain(still_clip(), np.random.default_rng(3)), expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ColorJitter(hue=0.6), r"hue must lie in \[0, 0.5\], got 0.6"),
        (lambda: ColorJitter(contrast=-0.1), "contrast must lie in"),
        (lambda: RandAugment(magnitude=11), "magnitude=11"),
        (lambda: RandAugment(probability=2), "probability=2"),
        (lambda: RandomErasing(1.5), r"probability=1.5 in \[0, 1\].* erase_probability"),
    ],
)
def test_invalid_strengths_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_solarize_at_full_strength_inverts_and_without_strength_does_nothing():
    video = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    assert torch.equal(OPERATIONS["solarize"](video, 1.0, 1), 255 - video)
    assert torch.equal(OPERATIONS["solarize"](video, 0.0, 1), video)
    assert (OPERATIONS["solarize"](video, 0.5, 1) < 128).all()
