"""The order of the clips of a run, a function of (seed, epoch) alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .randomness import generator


@dataclass(frozen=True)
class ClipRequest:
    """Request for one clip, with the clips that share its mask group.

    Attributes:
        index: sample id: the row of the dataset, or in a stream the position in the sequence of clips.
        epoch: number of clips that were drawn of the sample before; 0 for streams.
        group: (epoch, index) of every clip of the mask group, this one included.
    """

    index: int
    epoch: int
    group: tuple[tuple[int, int], ...]


@lru_cache(maxsize=2)
def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the sample ids in the order of one epoch, `(num_samples,)`."""
    return generator("order", seed, epoch).permutation(num_samples)


@dataclass(eq=False)
class ClipBatchSampler(torch.utils.data.Sampler[list[ClipRequest]]):
    """Sampler of the clip requests of one process, one list per forward pass.

    The epochs, each a permutation of all samples, form one endless sequence. An optimizer step takes the next G =
    `per_device_batch_size` * `num_processes` * `gradient_accumulation_steps` clips of it, so a step may reach into the
    next epoch and no sample is dropped. Forward pass a of process r takes part (a * num_processes + r) of the G. Hence
    any split of G into the three factors sees the same clips in the same step. With `clips_per_video` R, R consecutive
    clips are of the same video, and each sample comes R times per epoch.

    Attributes:
        num_samples: number of videos; None for a stream.
        per_device_batch_size: clips per forward pass.
        num_steps: number of optimizer steps.
        seed: seed of the order.
        num_processes: number of training processes.
        process_index: index of this process.
        gradient_accumulation_steps: forward passes per optimizer step.
        first_clip: number of clips that were drawn before; the sampler resumes after them.
        mask_group_size: number of consecutive clips of a step that share one token count; None means all G.
        clips_per_video: number of consecutive clips of the same video.

    Raises:
        ValueError: a mask group that is not a multiple of the forward pass, or does not divide the step.
    """

    num_samples: int | None
    per_device_batch_size: int
    num_steps: int
    seed: int
    num_processes: int = 1
    process_index: int = 0
    gradient_accumulation_steps: int = 1
    first_clip: int = 0
    mask_group_size: int | None = None
    clips_per_video: int = 1

    def __post_init__(self) -> None:
        self.clips_per_step = self.per_device_batch_size * self.num_processes * self.gradient_accumulation_steps
        self._group_size = self.clips_per_step if self.mask_group_size is None else self.mask_group_size
        if self._group_size % self.per_device_batch_size or self.clips_per_step % self._group_size:
            raise ValueError(
                f"mask_group_size {self.mask_group_size} must be a multiple of per_device_batch_size "
                f"{self.per_device_batch_size} and divide the {self.clips_per_step} clips of an optimizer step"
            )

    def __len__(self) -> int:
        return self.num_steps * self.gradient_accumulation_steps

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        for step in range(self.num_steps):
            first = self.first_clip + step * self.clips_per_step
            clips = [self._clip_at(position) for position in range(first, first + self.clips_per_step)]
            for accumulation in range(self.gradient_accumulation_steps):
                yield self._requests(clips, accumulation * self.num_processes + self.process_index)

    def _clip_at(self, position: int) -> tuple[int, int]:
        """Return (epoch, sample id) at a position of the endless sequence."""
        if self.num_samples is None:
            return 0, position
        video, repetition = divmod(position, self.clips_per_video)
        epoch, index = divmod(video, self.num_samples)
        sample = int(epoch_order(self.num_samples, self.seed, epoch)[index])
        return epoch * self.clips_per_video + repetition, sample

    def _requests(self, clips: list[tuple[int, int]], part: int) -> list[ClipRequest]:
        first = part * self.per_device_batch_size
        group_start = first - first % self._group_size
        group = tuple(clips[group_start : group_start + self._group_size])
        return [ClipRequest(index, epoch, group) for epoch, index in clips[first : first + self.per_device_batch_size]]
