"""The order of the clips of a run, a function of (seed, epoch) alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .randomness import generator


@dataclass(frozen=True)
class ClipRequest:
    """One clip to be made, and the clips that share its mask group.

    Attributes:
        index: sample id: the row of the dataset; of a stream the place in the sequence of clips.
        epoch: how many clips of the sample were drawn before; 0 for streams.
        group: (epoch, index) of every clip of the mask group, this one included.
    """

    index: int
    epoch: int
    group: tuple[tuple[int, int], ...]


@lru_cache(maxsize=2)
def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Sample ids in the order of one epoch, `(num_samples,)`; a function of its arguments and nothing else."""
    return generator("order", seed, epoch).permutation(num_samples)


class ClipBatchSampler(torch.utils.data.Sampler[list[ClipRequest]]):
    """The clip requests of one process, a list for each forward pass.

    The epochs, each a permutation of the whole set, make one endless sequence. An optimizer step takes the next G =
    `per_device_batch_size` * `num_processes` * `gradient_accumulation_steps` of it, so a step may reach into the next
    epoch and no sample is dropped. Forward pass a of process r takes the part (a * num_processes + r) of the G. Hence
    any split of G into the three factors sees the same clips in the same step. With `clips_per_video` R, R clips of a
    video follow one another, and a sample comes R times an epoch.

    Args:
        num_samples: videos in the set; None for a stream.
        per_device_batch_size: clips of one forward pass.
        num_steps: optimizer steps to provide.
        seed: of the order.
        num_processes: training processes.
        process_index: which of them this is.
        gradient_accumulation_steps: forward passes of one optimizer step.
        first_clip: clips that were drawn before, to go on from there; nothing is skipped through.
        mask_group_size: consecutive clips of a step that share one token count; None means all G.
        clips_per_video: consecutive clips of one video.

    Raises:
        ValueError: a mask group that is no multiple of the forward pass, or does not divide the step.
    """

    def __init__(
        self,
        num_samples: int | None,
        per_device_batch_size: int,
        num_steps: int,
        seed: int,
        num_processes: int = 1,
        process_index: int = 0,
        gradient_accumulation_steps: int = 1,
        first_clip: int = 0,
        mask_group_size: int | None = None,
        clips_per_video: int = 1,
    ) -> None:
        self.clips_per_step = per_device_batch_size * num_processes * gradient_accumulation_steps
        self.mask_group_size = self.clips_per_step if mask_group_size is None else mask_group_size
        if self.mask_group_size % per_device_batch_size or self.clips_per_step % self.mask_group_size:
            raise ValueError(
                f"mask_group_size {mask_group_size} must be a multiple of per_device_batch_size "
                f"{per_device_batch_size} and divide the {self.clips_per_step} clips of an optimizer step"
            )
        self.num_samples = num_samples
        self.per_device_batch_size = per_device_batch_size
        self.num_steps = num_steps
        self.seed = seed
        self.num_processes = num_processes
        self.process_index = process_index
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.first_clip = first_clip
        self.clips_per_video = clips_per_video

    def __len__(self) -> int:
        return self.num_steps * self.gradient_accumulation_steps

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        for step in range(self.num_steps):
            first = self.first_clip + step * self.clips_per_step
            clips = [self.clip_at(position) for position in range(first, first + self.clips_per_step)]
            for accumulation in range(self.gradient_accumulation_steps):
                yield self._requests(clips, accumulation * self.num_processes + self.process_index)

    def clip_at(self, position: int) -> tuple[int, int]:
        """The (epoch, sample id) at a place of the endless sequence, counted from 0."""
        if self.num_samples is None:
            return 0, position
        video, repetition = divmod(position, self.clips_per_video)
        epoch, place = divmod(video, self.num_samples)
        index = int(epoch_order(self.num_samples, self.seed, epoch)[place])
        return epoch * self.clips_per_video + repetition, index

    def _requests(self, clips: list[tuple[int, int]], part: int) -> list[ClipRequest]:
        first = part * self.per_device_batch_size
        group_start = first - first % self.mask_group_size
        group = tuple(clips[group_start : group_start + self.mask_group_size])
        return [ClipRequest(index, epoch, group) for epoch, index in clips[first : first + self.per_device_batch_size]]
