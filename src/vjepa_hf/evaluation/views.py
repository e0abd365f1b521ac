"""Clips of a video for a frozen encoder: the views of the processor, or random augmented clips.

V is the number of views of a video: clips times crops, or augmentations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..data.clips import ClipReader
from ..data.order import ClipRequest
from ..data.transforms import Chain, RandAugment, RandomErasing, RandomResizedCropFlip, Transform, normalize
from ..data.videos import VideoFailure
from ..model.video_io import VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor


@dataclass(frozen=True)
class RegularClips:
    """Views of a video by a processor, the same in every epoch."""

    processor: VJEPAVideoProcessor

    @property
    def num_views(self) -> int:
        """V."""
        return self.processor.num_clips * self.processor.num_crops

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that affect the pixels."""
        return {"processor": self.processor.to_dict()}

    def __call__(self, video: Any, row: int) -> torch.Tensor:
        """Return the normalized clips `(V, T, C, H, W)` of a value of the column `video`."""
        with self.processor.open_video(video) as opened:
            pixels = self.processor(opened, return_tensors="pt")["pixel_values_videos"][0]
        return pixels.reshape(-1, *pixels.shape[-4:])


@dataclass(frozen=True)
class AugmentedClips:
    """Augmented clips from random times of a video, functions of (seed, row, view).

    Attributes:
        processor: defines the frames of a clip and its normalization.
        transform: augmentation of one uint8 clip, to the size of the model.
        seed: seed of the clips and their augmentation.
        views: indices of the views; different indices give different clips.
        num_clips: clips per view, for a probe that attends to the tokens of several clips.
    """

    processor: VJEPAVideoProcessor
    transform: Transform
    seed: int = 0
    views: tuple[int, ...] = (0,)
    num_clips: int = 1

    @property
    def num_views(self) -> int:
        """V."""
        return len(self.views) * self.num_clips

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that affect the pixels."""
        draws = {"seed": self.seed, "views": list(self.views), "num_clips": self.num_clips}
        return {"processor": self.processor.to_dict(), "transform": repr(self.transform), **draws}

    def __call__(self, video: Any, row: int) -> torch.Tensor:
        """Return the normalized clips `(V, T, C, H, W)` of a value of the column `video`."""
        processor = self.processor
        reader = ClipReader(
            num_frames=processor.num_frames,
            frame_step=processor.frame_step,
            seed=self.seed,
            transform=self.transform,
            short_video=processor.short_video,
            fps=processor.fps,
        )
        indices = [view * self.num_clips + clip for view in self.views for clip in range(self.num_clips)]
        clips = reader.read(video, [ClipRequest(row, index, ()) for index in indices])
        return normalize(torch.stack(clips), processor.image_mean, processor.image_std)


Clips = RegularClips | AugmentedClips


def augmentation(name: str, size: tuple[int, int]) -> Transform | None:
    """Return the augmentation of a probe's training clips by name; None for "none".

    "crop" is a random resized crop, "flip" adds horizontal flips, "auto" adds RandAugment and erasing to "crop".
    Meta's code uses "auto", while the paper describes only crops.

    Args:
        name: none, crop, flip or auto.
        size: (H, W) of a clip in pixels.

    Raises:
        ValueError: the name is unknown.
    """
    crop = RandomResizedCropFlip(size, scale=(0.08, 1.0), aspect_ratio=(3 / 4, 4 / 3), flip_probability=0.0)
    augmentations = {
        "none": None,
        "crop": crop,
        "flip": replace(crop, flip_probability=0.5),
        "auto": Chain((crop, RandAugment(), RandomErasing())),
    }
    if name not in augmentations:
        raise ValueError(f"augmentation {name!r} must be one of {', '.join(augmentations)}")
    return augmentations[name]


class ViewDataset(torch.utils.data.Dataset):
    """Dataset of pairs (row, clips `(V, T, C, H, W)`), or (row, `VideoFailure`) for an unreadable video."""

    def __init__(self, videos: Sequence[Any], clips: Clips) -> None:
        self.videos, self.clips = videos, clips

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor | VideoFailure]:
        video = self.videos[int(row)]
        try:
            return row, self.clips(video, int(row))
        except VideoDecodeError as error:
            return row, VideoFailure.of(video, error)
