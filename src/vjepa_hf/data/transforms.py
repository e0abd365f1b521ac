"""Clip-consistent augmentation on uint8 frames, and normalization on the device.

Every random number of a clip is drawn once from the generator handed in and used for all of its frames: a crop that
jumped between frames would be motion that the world does not have. For the same reason what depends on the picture,
such as its mean or its histogram, is taken over the whole clip. Frames stay uint8 until they are on the device, so
workers ship a quarter of the bytes. Everything runs where the clip is, on the CPU or on a GPU.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Transform = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


@dataclass(frozen=True)
class CropBox:
    """A rectangle in pixels: rows `[top, top + height)`, columns `[left, left + width)`."""

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
    max_attempts: int = 10,
) -> CropBox:
    """Draw a box whose area is a share in `scale` of the frame and whose width / height lies in `aspect_ratio`.

    The area is uniform and the ratio log-uniform. If no box fits in `max_attempts` draws, the largest centered box
    with an allowed ratio is returned, so that the function always ends.

    Args:
        height: rows of the frame, in pixels.
        width: columns of the frame, in pixels.
        scale: lower and upper share of the frame's area, in (0, 1].
        aspect_ratio: lower and upper width / height, above 0.
        generator: source of randomness.
        max_attempts: draws before the centered box is taken.
    """
    log_ratio = [math.log(bound) for bound in aspect_ratio]
    for _ in range(max_attempts):
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
    """Cut one random box out of all frames, resize it, and mirror the clip with some probability.

    The defaults are those of the released V-JEPA pretraining runs, except for the flip, which they draw with one half.

    Args:
        size: (H, W) of the result, in pixels.
        scale: lower and upper share of the frame's area that the box covers; (1, 1) with an open `aspect_ratio`
            takes the whole frame.
        aspect_ratio: lower and upper width / height of the box.
        flip_probability: chance that the clip is mirrored left to right.
        antialias: low-pass filter before shrinking. Off, as in the released runs.

    Raises:
        ValueError: a range that is empty or leaves its bounds.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.3, 1.0)
    aspect_ratio: tuple[float, float] = (0.75, 1.35)
    flip_probability: float = 0.5
    antialias: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop scale must be two rising shares in (0, 1], got {tuple(self.scale)}")
        if not 0 < self.aspect_ratio[0] <= self.aspect_ratio[1]:
            raise ValueError(f"crop aspect_ratio must be two rising numbers above 0, got {tuple(self.aspect_ratio)}")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability must lie in [0, 1], got {self.flip_probability}")

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Augment one clip, uint8 `(T, C, height, width)` to uint8 `(T, C, H, W)`."""
        box = random_crop_box(video.shape[-2], video.shape[-1], self.scale, self.aspect_ratio, generator)
        flip = generator.random() < self.flip_probability
        video = functional.resized_crop(
            video, box.top, box.left, box.height, box.width, list(self.size), antialias=self.antialias
        )
        return functional.horizontal_flip(video) if flip else video


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue of a clip, each by a random amount.

    Args:
        brightness: largest relative change; 0.4 multiplies by a factor in [0.6, 1.4].
        contrast: likewise, around the mean gray of the clip.
        saturation: likewise.
        hue: largest shift around the color circle, at most half of it, 0.5.

    Raises:
        ValueError: a change that is negative or too large.
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
    """Apply a few operations drawn from `OPERATIONS` to a clip, each with some probability (arXiv:1909.13719).

    The defaults are the policy "rand-m7-n4-mstd0.5-inc1" of the released V-JEPA recipes.

    Args:
        magnitude: mean strength, on a scale of 0 to 10.
        num_operations: operations drawn, with replacement.
        magnitude_std: deviation of the strength.
        probability: chance that a drawn operation is applied.

    Raises:
        ValueError: a magnitude or a probability outside its scale.
    """

    magnitude: float = 7.0
    num_operations: int = 4
    magnitude_std: float = 0.5
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= 10 or not 0 <= self.probability <= 1:
            raise ValueError(
                f"RandAugment needs magnitude={self.magnitude} in [0, 10] and probability={self.probability} in [0, 1]"
            )

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Augment one clip, uint8 `(T, C, H, W)`."""
        for name in generator.choice(list(OPERATIONS), self.num_operations):
            strength = float(np.clip(generator.normal(self.magnitude, self.magnitude_std), 0, 10)) / 10
            sign = 1 if generator.random() < 0.5 else -1
            if generator.random() < self.probability:
                video = OPERATIONS[name](video, strength, sign)
        return video


def _over_clip(function: Callable[..., torch.Tensor], video: torch.Tensor, *arguments: float) -> torch.Tensor:
    """Let a function that looks at a whole picture look at all frames as one, laid below one another."""
    num_frames = len(video)
    picture = video.transpose(0, 1).flatten(1, 2)  # (C, T * H, W)
    return function(picture, *arguments).unflatten(1, (num_frames, -1)).transpose(0, 1)


def _moved(
    video: torch.Tensor, angle: float = 0.0, shear: tuple[float, float] = (0.0, 0.0), x: float = 0.0, y: float = 0.0
) -> torch.Tensor:
    """Rotate by degrees, shear by ratios, shift by shares of the frame; what comes into view is gray."""
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
    return torch.where(video.short() >= threshold, 255 - video, video)  # no byte holds a threshold of 256


def _solarize_add(video: torch.Tensor, addition: int) -> torch.Tensor:
    return torch.where(video < 128, video + addition, video)


# Of a clip, a strength in [0, 1] and a sign. All get stronger with the strength.
OPERATIONS: dict[str, Callable[[torch.Tensor, float, int], torch.Tensor]] = {
    "autocontrast": lambda video, strength, sign: _over_clip(functional.autocontrast, video),
    "equalize": lambda video, strength, sign: _over_clip(functional.equalize, video),
    "invert": lambda video, strength, sign: functional.invert(video),
    "posterize": lambda video, strength, sign: functional.posterize(video, 4 - int(4 * strength)),
    "solarize": lambda video, strength, sign: _solarize(video, 256 - int(256 * strength)),
    "solarize_add": lambda video, strength, sign: _solarize_add(video, int(110 * strength)),
    "saturation": lambda video, strength, sign: functional.adjust_saturation(video, 1 + sign * 0.9 * strength),
    "contrast": lambda video, strength, sign: _over_clip(functional.adjust_contrast, video, 1 + sign * 0.9 * strength),
    "brightness": lambda video, strength, sign: functional.adjust_brightness(video, 1 + sign * 0.9 * strength),
    "sharpness": lambda video, strength, sign: functional.adjust_sharpness(video, 1 + sign * 0.9 * strength),
    "rotate": lambda video, strength, sign: _moved(video, angle=sign * 30 * strength),
    "shear_x": lambda video, strength, sign: _moved(video, shear=(sign * 0.3 * strength, 0.0)),
    "shear_y": lambda video, strength, sign: _moved(video, shear=(0.0, sign * 0.3 * strength)),
    "translate_x": lambda video, strength, sign: _moved(video, x=sign * 0.45 * strength),
    "translate_y": lambda video, strength, sign: _moved(video, y=sign * 0.45 * strength),
}


@dataclass(frozen=True)
class RandomErasing:
    """Fill one random box of all frames with noise that does not move, with some probability (arXiv:1708.04896).

    Once normalized, the noise has zero mean and unit deviation, but for what a byte cannot hold.

    Args:
        probability: chance that a clip is hit.
        scale: lower and upper share of the frame's area that the box covers.
        aspect_ratio: lower and upper width / height of the box.

    Raises:
        ValueError: a probability outside [0, 1].
    """

    probability: float = 0.25
    scale: tuple[float, float] = (0.02, 1 / 3)
    aspect_ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"erase_probability must lie in [0, 1], got {self.probability}")

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Erase in one clip, uint8 `(T, 3, H, W)`."""
        if generator.random() >= self.probability:
            return video
        box = random_crop_box(video.shape[-2], video.shape[-1], self.scale, self.aspect_ratio, generator)
        noise = generator.normal(IMAGENET_MEAN, IMAGENET_STD, size=(box.height, box.width, 3))
        pixels = torch.from_numpy((noise * 255).round().clip(0, 255).astype(np.uint8)).permute(2, 0, 1)
        return functional.erase(video, box.top, box.left, box.height, box.width, pixels.to(video.device))


@dataclass(frozen=True)
class Chain:
    """Transforms of a clip one after the other, all fed by the generator of the clip."""

    transforms: tuple[Transform, ...]

    def __call__(self, video: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Augment one clip, uint8 `(T, C, height, width)`."""
        for transform in self.transforms:
            video = transform(video, generator)
        return video


def normalize(video: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turn uint8 frames into float ones of zero mean and unit deviation: `(video / 255 - mean) / std` per channel.

    Args:
        video: uint8 `(..., C, H, W)`, on the device where the result is wanted.
        mean: C numbers on the scale [0, 1].
        std: C numbers on the scale [0, 1].
    """
    scale = torch.tensor(std).mul(255).view(-1, 1, 1)
    offset = torch.tensor(mean).div(torch.tensor(std)).view(-1, 1, 1)
    scale, offset = (values.to(video.device, non_blocking=True) for values in (scale, offset))  # no wait for a GPU
    # Decoded frames lie channels last, where arithmetic per channel is slow: the copy to floats mends that on the way.
    return video.to(torch.float32, memory_format=torch.contiguous_format).div_(scale).sub_(offset)
