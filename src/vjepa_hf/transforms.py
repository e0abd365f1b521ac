"""Clip-consistent augmentation on uint8 frames, and normalization on the device.

Every random number of a clip is drawn once from the generator handed in and used for all of its frames: a crop that
jumped between frames would be motion that the world does not have. Frames stay uint8 until they are on the device,
because workers then ship a quarter of the bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional


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
    log_ratio = np.log(aspect_ratio)
    for _ in range(max_attempts):
        area = height * width * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(*log_ratio))
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
        box = random_crop_box(*video.shape[-2:], self.scale, self.aspect_ratio, generator)
        flip = generator.random() < self.flip_probability
        video = functional.resized_crop(
            video, box.top, box.left, box.height, box.width, list(self.size), antialias=self.antialias
        )
        return functional.horizontal_flip(video) if flip else video


def normalize(video: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turn uint8 frames into float ones of zero mean and unit deviation: `(video / 255 - mean) / std` per channel.

    Args:
        video: uint8 `(..., C, H, W)`, on the device where the result is wanted.
        mean: C numbers on the scale [0, 1].
        std: C numbers on the scale [0, 1].
    """
    scale = torch.tensor(std, device=video.device).mul(255).view(-1, 1, 1)
    offset = torch.tensor(mean, device=video.device).div(torch.tensor(std, device=video.device)).view(-1, 1, 1)
    return video / scale - offset
