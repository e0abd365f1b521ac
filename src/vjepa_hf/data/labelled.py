"""Labelled clips, for fine-tuning and for evaluation."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..model.checks import IGNORED_LABEL
from ..model.video_io import VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .clips import ClipReader
from .order import ClipRequest
from .randomness import generator
from .transforms import Transform, normalize
from .videos import VideoFailure

logger = logging.getLogger(__name__)
UNREADABLE = IGNORED_LABEL  # instead of a class index


@dataclass(frozen=True)
class LabelledClip:
    """Sample of a batch.

    Attributes:
        pixels: normalized clip `(T, C, H, W)`, or V views of a video `(V, T, C, H, W)`; zeros if it is unreadable.
        label: class index, or `UNREADABLE`.
        key: (epoch, sample id) of a training clip, for the random numbers of its mixing; None in evaluation.
    """

    pixels: torch.Tensor
    label: int
    key: tuple[int, int] | None = None


class LabelledVideos(torch.utils.data.Dataset):
    """Labelled clips for evaluation.

    An unreadable video causes a warning and is excluded from loss and metrics; no other video replaces it.
    `unreadable`, one flag per video, is in shared memory, so that videos are counted over all workers.

    Args:
        videos: values of the column `video` of a source.
        labels: class index of each video.
        processor: processor of the model.
        num_clips: evenly spaced clips per video.
    """

    def __init__(
        self, videos: Sequence[Any], labels: np.ndarray, processor: VJEPAVideoProcessor, num_clips: int = 1
    ) -> None:
        self.videos, self.labels, self.processor, self.num_clips = videos, labels, processor, num_clips
        self.unreadable = torch.zeros(len(videos), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> LabelledClip:
        return self._sample(row)

    def _sample(self, row: int, key: tuple[int, int] | None = None) -> LabelledClip:
        try:
            return LabelledClip(self._pixels(row, key), int(self.labels[row]), key)
        except VideoDecodeError as error:
            if not self.unreadable[row]:
                logger.warning("skipped an unreadable video, %s", VideoFailure.of(self.videos[row], error))
            self.unreadable[row] = True
            return LabelledClip(torch.zeros(self._shape()), UNREADABLE, key)

    def _pixels(self, row: int, key: tuple[int, int] | None) -> torch.Tensor:
        """Read the normalized views of a video; `key` as in `LabelledClip`."""
        with self.processor.open_video(self.videos[row]) as video:
            return self.processor(video, num_clips=self.num_clips)["pixel_values_videos"][0]

    def _shape(self) -> tuple[int, ...]:
        num_views = self.num_clips * self.processor.num_crops
        views = (num_views,) if num_views > 1 else ()
        size = self.processor.crop_size
        return *views, self.processor.num_frames, len(self.processor.image_mean), size["height"], size["width"]


class TrainingVideos(LabelledVideos):
    """Random augmented labelled clips for training; every epoch has another clip of each video.

    Args:
        videos: values of the column `video` of a source.
        labels: class index of each video.
        processor: processor of the model; defines the frames of a clip and its normalization.
        transform: augmentation, to the size of the model's clips.
        seed: seed of the frames, the augmentation and the balanced order.
        balanced: draw every class equally often; videos of rare classes then occur several times per epoch.
    """

    def __init__(
        self,
        videos: Sequence[Any],
        labels: np.ndarray,
        processor: VJEPAVideoProcessor,
        transform: Transform,
        seed: int,
        balanced: bool = False,
    ) -> None:
        super().__init__(videos, labels, processor)
        self.reader = ClipReader(
            processor.num_frames, processor.frame_step, seed, transform, processor.short_video, processor.fps
        )
        self.balanced = balanced
        # Shared, so that persistent workers see the next epoch.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._ordered_epoch = -1  # of the balanced order
        self._rows = self._draws = np.empty(0, dtype=np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the clips."""
        self.epoch.fill_(epoch)

    def __getitem__(self, index: int) -> LabelledClip:
        row, draw = index, int(self.epoch)
        if self.balanced:
            if self._ordered_epoch != draw:
                self._rows, self._draws = balanced_order(self.labels, self.reader.seed, draw)
                self._ordered_epoch = draw
            row, draw = int(self._rows[index]), int(self._draws[index])
        return self._sample(row, key=(draw, row))

    def _pixels(self, row: int, key: tuple[int, int] | None) -> torch.Tensor:
        epoch, index = key or (0, row)
        (clip,) = self.reader.read(self.videos[row], [ClipRequest(index, epoch, group=())])
        return normalize(clip, self.processor.image_mean, self.processor.image_std)


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw as many samples as there are labels, with equal class frequencies up to one.

    Returns:
        the indices of the samples `(n,)`, and the draw `(n,)` of each: its number among all draws of that sample.
    """
    classes, counts = np.unique(labels, return_counts=True)
    per_class = math.ceil(len(labels) / len(classes))
    most_draws = math.ceil(per_class / counts.min())
    rows = np.empty((per_class, len(classes)), dtype=np.int64)
    for column, label in enumerate(classes):
        rng = generator("balanced order", seed, epoch, label)
        rows[:, column] = np.resize(rng.permutation(np.flatnonzero(labels == label)), per_class)
    draws = epoch * most_draws + np.arange(per_class)[:, None] // counts
    return rows.reshape(-1)[: len(labels)], draws.reshape(-1)[: len(labels)]
