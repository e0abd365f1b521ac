"""Random augmented clips of videos, and batches of them.

The order of the samples, the frames of a clip, its augmentation and its masks are functions of (seed, epoch, sample
id). They do not depend on the number of processes or workers, or on resuming. In a stream the order of the videos
depends on the number of processes and workers, and the position in the sequence of clips is the sample id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import datasets
import numpy as np
import torch

from ..model.frame_sampling import clip_span, random_clips, resolve_frame_step
from ..model.video_inputs import open_video, video_name
from ..model.video_io import VideoDecodeError
from .masking import MaskSampler
from .order import ClipRequest
from .randomness import generator
from .transforms import Transform
from .videos import VideoFailure

# (epoch, sample id, number of unreadable videos that were tried first)
ClipKey = tuple[int, int, int]


@dataclass(frozen=True)
class ClipSample:
    """One clip, uint8 `(T, C, H, W)`, and where it comes from."""

    clip: torch.Tensor
    request: ClipRequest
    video: str
    failures: tuple[VideoFailure, ...] = ()
    attempt: int = 0

    @property
    def key(self) -> ClipKey:
        """Key of the random numbers of the clip, next to the seed."""
        return self.request.epoch, self.request.index, self.attempt


@dataclass(frozen=True)
class ClipReader:
    """Reader of random augmented clips of a video.

    Attributes:
        num_frames: T.
        frame_step: distance between two frames of the clip, in frames of the video.
        seed: seed of clips and augmentation.
        transform: augmentation of uint8 `(T, C, H, W)`; None leaves it to `augment_clips`.
        short_video: policy of `frame_sampling` for videos shorter than a clip; with "error" they are unreadable.
        fps: frames of the clip per second, at any frame rate of the video, constant or not; replaces `frame_step`.
    """

    num_frames: int
    frame_step: float
    seed: int
    transform: Transform | None = None
    short_video: str = "wrap"
    fps: float | None = None

    def read(self, video: Any, requests: Sequence[ClipRequest], attempt: int = 0) -> list[torch.Tensor]:
        """Read the requested clips of one video, uint8 `(T, C, H, W)` each. The file is opened once.

        Raises:
            VideoDecodeError: the video cannot be read.
            ValueError: `fps` is set and the frame rate of the video is not known.
        """
        keys = [(request.epoch, request.index, attempt) for request in requests]
        with open_video(video) as file:
            num_frames = file.info.num_frames
            step = resolve_frame_step(self.frame_step, self.fps, file.info.fps)
            span = clip_span(self.num_frames, step)
            if self.short_video == "error" and num_frames < span:
                cause = f"it has only {num_frames} frames and short_video is 'error'"
                raise VideoDecodeError(file.name, f"a clip of {span} frames", cause)
            draws = [generator("frames", self.seed, *key) for key in keys]
            policy = self.short_video
            indices = [random_clips(num_frames, self.num_frames, step, rng, short_video=policy) for rng in draws]
            numbers = np.concatenate(indices)
            if self.fps is not None:
                numbers = file.at_constant_rate(numbers)
            clips = list(file.frames(numbers))
        return clips if self.transform is None else list(augment_clips(clips, keys, self.transform, self.seed))


def augmentation_generator(seed: int, key: ClipKey) -> np.random.Generator:
    """Return the generator for the augmentation of a clip."""
    return generator("augmentation", seed, *key)


def augment_clips(
    clips: Sequence[torch.Tensor], keys: Sequence[ClipKey], transform: Transform, seed: int
) -> torch.Tensor:
    """Augment clips on their device, with the same random numbers as in a worker: uint8 `(B, T, C, H, W)`.

    Args:
        clips: B clips, uint8 `(T, C, height, width)`, of any size.
        keys: `clip_keys` of the batch.
        transform: augmentation.
        seed: seed of the run.
    """
    return torch.stack(
        [transform(clip, augmentation_generator(seed, key)) for clip, key in zip(clips, keys, strict=True)]
    )


@dataclass(eq=False)
class VideoClipDataset(torch.utils.data.Dataset):
    """Random augmented clips for training, requested by `ClipRequest`.

    An unreadable video is replaced by another one, drawn from (seed, epoch, sample id, attempt). Its `VideoFailure`
    stays with the clip, for `InputLog`. Only training replaces videos; evaluation never does.

    Attributes:
        videos: table with the column `video`.
        reader: reader of the clips of a video.
        max_attempts: number of videos to try for one clip before the run stops.
    """

    videos: datasets.Dataset
    reader: ClipReader
    max_attempts: int = 10

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, request: ClipRequest) -> ClipSample:
        return self._samples([request])[0]

    def __getitems__(self, requests: Sequence[ClipRequest]) -> list[ClipSample]:
        """Return the samples of a batch; consecutive clips of the same video are decoded together."""
        groups = (list(group) for _, group in groupby(requests, key=lambda request: request.index))
        return [sample for group in groups for sample in self._samples(group)]

    def _samples(self, requests: list[ClipRequest]) -> list[ClipSample]:
        video = self.videos[requests[0].index]["video"]
        try:
            clips = self.reader.read(video, requests)
        except VideoDecodeError as error:
            if len(requests) > 1:  # each clip gets the same replacement as if it were requested alone
                return [self[request] for request in requests]
            return [self._replacement(requests[0], VideoFailure.of(video, error))]
        return [ClipSample(clip, request, video_name(video)) for clip, request in zip(clips, requests, strict=True)]

    def _replacement(self, request: ClipRequest, failure: VideoFailure) -> ClipSample:
        failures = [failure]
        while len(failures) < self.max_attempts:
            key = (request.epoch, request.index, len(failures))
            index = int(generator("replacement", self.reader.seed, *key).integers(len(self)))
            video = self.videos[index]["video"]
            try:
                (clip,) = self.reader.read(video, [request], len(failures))
                return ClipSample(clip, request, video_name(video), tuple(failures), len(failures))
            except VideoDecodeError as error:
                failures.append(VideoFailure.of(video, error))
        raise unreadable_videos(failures)


def unreadable_videos(failures: Sequence[VideoFailure]) -> ValueError:
    """Return the error that stops a run after too many unreadable videos in a row."""
    first = "; ".join(map(str, failures[:3]))
    return ValueError(f"{len(failures)} videos in a row could not be read; check their paths and formats: {first}")


@dataclass(frozen=True)
class PretrainingCollator:
    """Collator that stacks clips to a batch and draws their masks, in the worker.

    It returns a dict: `pixel_values_videos` uint8 `(B, T, C, H, W)`, or a list of B clips if their sizes differ;
    `clip_keys` and `video_names` of the samples; `context_masks` and `target_masks`, lists with one LongTensor
    `(B, K)` and `(B, M)` per mask type; `failures`, a list of `VideoFailure`.
    """

    mask_sampler: MaskSampler

    def __call__(self, samples: Sequence[ClipSample]) -> dict[str, Any]:
        requests = [(sample.request.epoch, sample.request.index) for sample in samples]
        context_masks, target_masks = self.mask_sampler(requests, group=samples[0].request.group)
        clips = [sample.clip for sample in samples]
        return {
            "pixel_values_videos": torch.stack(clips) if len({clip.shape for clip in clips}) == 1 else clips,
            "clip_keys": [sample.key for sample in samples],
            "video_names": [sample.video for sample in samples],
            "context_masks": context_masks,
            "target_masks": target_masks,
            "failures": [failure for sample in samples for failure in sample.failures],
        }
