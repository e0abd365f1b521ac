"""Augmentation of uint8 clips, the same for all frames, and normalization.

Random numbers are drawn once per clip from the given generator: a crop that jumps between frames would add motion. For
the same reason statistics such as a mean or a histogram are those of the whole clip. Frames stay uint8 until they are
on the device, so workers send a quarter of the bytes. All functions run on the device of the clip.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Operations per clip and deviation of their strength in "rand-m7-n4-mstd0.5-inc1", the policy of the released recipes.
NUM_OPERATIONS, MAGNITUDE_STD = 4, 0.5
# Fraction of the area and width / height of an erased box: the defaults of timm, which the released recipes keep.
ERASED_AREA, ERASED_ASPECT_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
Transform = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


class CropBox(NamedTuple):
    """Rectangle in pixels: rows `[top, top + height)`, columns `[left, left + width)`."""

    top: int
    left: int
    height: int
    width: int


def random_crop_box(
    height: int,
    width: int,
    scale: Sequence[float],
    aspect_ratio: Sequence[float],
    generator: np.random.Generator,
) -> CropBox:
    """Draw a box with a fraction in `scale` of the area of the frame and width / height in `aspect_ratio`.

    The area is uniform and the ratio log-uniform. If no box fits in ten draws, return the largest centered box with an
    allowed ratio.

    Args:
        height: height of the frame in pixels.
        width: width of the frame in pixels.
        scale: lower and upper fraction of the frame's area, in (0, 1].
        aspect_ratio: lower and upper width / height, above 0.
        generator: source of randomness.
    """
    log_ratio = [math.log(bound) for bound in aspect_ratio]
    for _ in range(10):
        area = height * width * generator.uniform(scale[0], scale[1])
        ratio = math.exp(generator.uniform(log_ratio[0], log_ratio[1]))
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return CropBox(top, left, box_height, box_width)
    ratio = min(max(width / height, aspect_ratio[0]), aspect_ratio[1])
    box_height, box_width = min(height, round(width / ratio)), min(width, round(height * ratio))
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


@dataclass(frozen=True)
class RandomResizedCropFlip:
    """Random crop, resized, and random horizontal flip. The defaults are those of the released pretraining runs.

    Args:
        size: (H, W) of the result in pixels.
        scale: lower and upper fraction of the frame's area that the crop covers.
        aspect_ratio: lower and upper width / height of the crop.
        flip_probability: probability of the flip.

    Raises:
        ValueError: an empty range, or a value out of range.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.3, 1.0)
    aspect_ratio: tuple[float, float] = (0.75, 1.35)
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop scale must be two increasing fractions in (0, 1], got {tuple(self.scale)}")
        if not 0 < self.aspect_ratio[0] <= self.aspect_ratio[1]:
            raise ValueError(
                f"crop aspect_ratio must be two increasing numbers above 0, got {tuple(self.aspect_ratio)}"
            )
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability must lie in [0, 1], got {self.flip_probability}")

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Augment one clip, uint8 `(T, C, height, width)` to uint8 `(T, C, H, W)`."""
        box = random_crop_box(video.shape[-2], video.shape[-1], self.scale, self.aspect_ratio, generator)
        flip = generator.random() < self.flip_probability
        video = functional.resized_crop(video, *box, list(self.size), antialias=False)
        return functional.horizontal_flip(video) if flip else video


@dataclass(frozen=True)
class ColorJitter:
    """Random change of brightness, contrast, saturation and hue of a clip.

    Args:
        brightness: largest relative change; 0.4 multiplies by a factor in [0.6, 1.4].
        contrast: largest relative change, around the mean gray of the clip.
        saturation: largest relative change.
        hue: largest shift as a fraction of the color circle, at most 0.5.

    Raises:
        ValueError: a negative change, or one that is too large.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"color jitter: {name} must lie in [0, {most}], got {getattr(self, name)}")

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Jitter one clip, uint8 `(T, C, H, W)`."""
        brightness, contrast, saturation, hue = generator.uniform(-1, 1, 4)
        video = functional.adjust_brightness(video, 1 + brightness * self.brightness)
        video = _over_clip(functional.adjust_contrast, video, 1 + contrast * self.contrast)
        video = functional.adjust_saturation(video, 1 + saturation * self.saturation)
        return functional.adjust_hue(video, hue * self.hue)


@dataclass(frozen=True)
class RandAugment:
    """`NUM_OPERATIONS` random operations of `OPERATIONS`, drawn with replacement (arXiv:1909.13719).

    The defaults are the policy "rand-m7-n4-mstd0.5-inc1" of the released V-JEPA recipes.

    Args:
        magnitude: mean strength, on a scale of 0 to 10; its standard deviation is `MAGNITUDE_STD`.
        probability: probability to apply an operation that was drawn.

    Raises:
        ValueError: a magnitude or a probability out of range.
    """

    magnitude: float = 7.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= 10 or not 0 <= self.probability <= 1:
            raise ValueError(
                f"RandAugment needs magnitude={self.magnitude} in [0, 10] and probability={self.probability} in [0, 1]"
            )

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Augment one clip, uint8 `(T, C, H, W)`."""
        for name in generator.choice(list(OPERATIONS), NUM_OPERATIONS):
            strength = float(np.clip(generator.normal(self.magnitude, MAGNITUDE_STD), 0, 10)) / 10
            sign = 1 if generator.random() < 0.5 else -1
            if generator.random() < self.probability:
                video = OPERATIONS[name](video, strength, sign)
        return video


def _over_clip(function: Callable[..., torch.Tensor], video: torch.Tensor, *arguments: float) -> torch.Tensor:
    """Apply a function with statistics over an image to all frames stacked to one image."""
    num_frames = len(video)
    image = video.transpose(0, 1).flatten(1, 2)  # (C, T * H, W)
    return function(image, *arguments).unflatten(1, (num_frames, -1)).transpose(0, 1)


def _affine(
    video: torch.Tensor, angle: float = 0.0, shear: tuple[float, float] = (0.0, 0.0), x: float = 0.0, y: float = 0.0
) -> torch.Tensor:
    """Rotate by degrees, shear by ratios, shift by fractions of the frame; fill with gray."""
    height, width = video.shape[-2:]
    return functional.affine(
        video,
        angle,
        translate=[round(x * width), round(y * height)],
        scale=1.0,
        shear=[math.degrees(math.atan(ratio)) for ratio in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=[255 * mean for mean in IMAGENET_MEAN],
    )


def _solarize(video: torch.Tensor, threshold: int) -> torch.Tensor:
    return torch.where(video.short() >= threshold, 255 - video, video)  # a threshold of 256 does not fit into a byte


# Functions of a clip, a strength in [0, 1] and a sign.
OPERATIONS: dict[str, Callable[[torch.Tensor, float, int], torch.Tensor]] = {
    "autocontrast": lambda video, strength, sign: _over_clip(functional.autocontrast, video),
    "equalize": lambda video, strength, sign: _over_clip(functional.equalize, video),
    "invert": lambda video, strength, sign: functional.invert(video),
    "posterize": lambda video, strength, sign: functional.posterize(video, 4 - int(4 * strength)),
    "solarize": lambda video, strength, sign: _solarize(video, 256 - int(256 * strength)),
    "solarize_add": lambda video, strength, sign: torch.where(video < 128, video + int(110 * strength), video),
    "saturation": lambda video, strength, sign: functional.adjust_saturation(video, 1 + sign * 0.9 * strength),
    "contrast": lambda video, strength, sign: _over_clip(functional.adjust_contrast, video, 1 + sign * 0.9 * strength),
    "brightness": lambda video, strength, sign: functional.adjust_brightness(video, 1 + sign * 0.9 * strength),
    "sharpness": lambda video, strength, sign: functional.adjust_sharpness(video, 1 + sign * 0.9 * strength),
    "rotate": lambda video, strength, sign: _affine(video, angle=sign * 30 * strength),
    "shear_x": lambda video, strength, sign: _affine(video, shear=(sign * 0.3 * strength, 0.0)),
    "shear_y": lambda video, strength, sign: _affine(video, shear=(0.0, sign * 0.3 * strength)),
    "translate_x": lambda video, strength, sign: _affine(video, x=sign * 0.45 * strength),
    "translate_y": lambda video, strength, sign: _affine(video, y=sign * 0.45 * strength),
}


@dataclass(frozen=True)
class RandomErasing:
    """Random box of all frames, filled with the same noise (arXiv:1708.04896).

    After normalization, the noise has zero mean and unit deviation, apart from clipping to a byte.

    Args:
        probability: probability to erase in a clip.

    Raises:
        ValueError: a probability outside [0, 1].
    """

    probability: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"RandomErasing needs probability={self.probability} in [0, 1]; in a run, it is erase_probability"
            )

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Erase in one clip, uint8 `(T, 3, H, W)`."""
        if generator.random() >= self.probability:
            return video
        box = random_crop_box(video.shape[-2], video.shape[-1], ERASED_AREA, ERASED_ASPECT_RATIO, generator)
        noise = generator.normal(IMAGENET_MEAN, IMAGENET_STD, size=(box.height, box.width, 3))
        pixels = torch.from_numpy((noise * 255).round().clip(0, 255).astype(np.uint8)).permute(2, 0, 1)
        return functional.erase(video, *box, pixels.to(video.device))


@dataclass(frozen=True)
class Chain:
    """Several transforms in sequence, with the generator of the clip."""

    transforms: tuple[Transform, ...]

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Augment one clip, uint8 `(T, C, height, width)`."""
        for transform in self.transforms:
            video = transform(video, generator)
        return video


def normalize(video: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalize uint8 frames `(..., C, H, W)` to float32 on their device: `(video / 255 - mean) / std` per channel."""
    scale = torch.tensor(std).mul(255).view(-1, 1, 1)
    offset = torch.tensor(mean).div(torch.tensor(std)).view(-1, 1, 1)
    scale, offset = (values.to(video.device, non_blocking=True) for values in (scale, offset))  # no wait for a GPU
    # Decoded frames are stored channels last, which is slow for operations per channel; the copy changes the layout.
    return video.to(torch.float32, memory_format=torch.contiguous_format).div_(scale).sub_(offset)
