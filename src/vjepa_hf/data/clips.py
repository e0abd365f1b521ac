"""From videos to batches of clips with their masks.

The order of the samples, the frames of a clip, its augmentation and its masks are functions of (seed, epoch, sample
id). Neither the number of processes, nor that of workers, nor where a run was resumed has a say in them. Of a stream
the order of the videos depends on both numbers, and the place in the sequence of clips is the sample id.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import groupby, islice
from typing import Any
from zipfile import BadZipFile

import datasets
import fsspec
import numpy as np
import torch
from accelerate.utils import gather_object

from ..model.frame_sampling import clip_span, random_clips, step_from_seconds
from ..model.video_io import VideoDecodeError, VideoInfo, decode, probe
from .masking import MaskSampler
from .sources import IMAGE_SUFFIXES, part_of_stream
from .sources import load_videos as load_videos  # the first step of every script stands beside the others
from .sources import mix_videos as mix_videos

CLIP_STREAM = 1  # keeps the random numbers of clips apart from those of masks and of the order, seeded alike
AUGMENTATION_STREAM = 2
BLOCK_STREAM = 3
# A video beyond these is odd: pixels of its short side, long over short side, frames a second.
SMALL_SIDE, ODD_RATIO, ODD_RATES = 64, 3, (5, 120)
# (epoch, sample id, unreadable videos that this one takes the place of)
ClipKey = tuple[int, int, int]
Transform = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


# --- videos --------------------------------------------------------------------------------------------------------


def video_name(video: Any) -> str:
    """What to call a value of the column `video` in a message: its path, or how many bytes it has."""
    if isinstance(video, dict):
        return str(video["path"] or f"<{len(video['bytes'] or b'')} bytes>")
    return f"<{len(video)} bytes>" if isinstance(video, bytes) else str(video)


def decode_video(
    video: Any,
    indices: Sequence[int] | Callable[[VideoInfo], np.ndarray],
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Frames of a value of the column `video`, uint8 `(T, C, height, width)`; like `video_io.decode` for any kind.

    A folder of images is a video, and an image is a video of one frame.

    Raises:
        VideoDecodeError: it cannot be read, or the images of a folder are not numbered evenly or differ in size.
    """
    with _named(video):
        file = _file(video)
        if not _is_folder(file):
            return decode(file, indices, size)
        images = _frame_files(file)
        wanted = np.reshape(indices(_folder_info(images)) if callable(indices) else indices, -1)
        if not len(wanted) or min(wanted) < 0:
            raise ValueError(f"indices={list(wanted)} must hold at least one frame number, none of them negative.")
        unique, places = np.unique(wanted, return_inverse=True)
        if unique[-1] >= len(images):
            raise VideoDecodeError(file, f"frames {unique[0]} to {unique[-1]}", f"it has only {len(images)} frames")
        frames = [decode(images[number], [0], size) for number in unique]
        if len({frame.shape for frame in frames}) > 1:
            raise VideoDecodeError(file, "the folder", "its images differ in size")
        return torch.cat(frames)[torch.from_numpy(places)]


def probe_video(video: Any) -> VideoInfo:
    """What a value of the column `video` holds; a folder of frames has no frame rate: `fps` is nan.

    Raises:
        VideoDecodeError: it cannot be read.
    """
    with _named(video):
        file = _file(video)
        return _folder_info(_frame_files(file)) if _is_folder(file) else probe(file)


def for_processor(video: Any) -> str | bytes | torch.Tensor:
    """A value of the column `video` as `VJEPAVideoProcessor` takes it: a folder of frames is read whole.

    Raises:
        VideoDecodeError: it is a folder of frames that cannot be read, or holds nothing.
    """
    file = _file(video)
    return decode_video(file, range(len(_frame_files(file)))) if _is_folder(file) else file


@contextmanager
def _named(video: Any) -> Iterator[None]:
    """Let an error about bytes say where they came from."""
    try:
        yield
    except VideoDecodeError as error:
        if not isinstance(video, dict):
            raise
        raise VideoDecodeError(video_name(video), error.asked, error.cause) from error


def _file(video: Any) -> str | bytes:
    """What `video_io` opens; an address that it does not know, such as s3:// or hf://, is read here."""
    if isinstance(video, dict):
        video = video["path"] if video["bytes"] is None else video["bytes"]
    video = os.fspath(video) if isinstance(video, os.PathLike) else video
    if not video:
        raise VideoDecodeError(str(video), "the file", "neither a path nor bytes")
    if isinstance(video, bytes) or "://" not in video or video.startswith(("http://", "https://", "file://")):
        return video
    try:
        with fsspec.open(video) as file:
            return file.read()
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, BadZipFile) as error:
        raise VideoDecodeError(video, "the file", f"{type(error).__name__}: {error}") from error


def _is_folder(file: str | bytes) -> bool:
    return isinstance(file, str) and os.path.isdir(file)


def _frame_files(folder: str) -> list[str]:
    """The images of a folder by number. A gap is an error: they are not those of one video, or some are missing."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise VideoDecodeError(folder, "the folder as a video", f"{type(error).__name__}: {error}") from error
    images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    numbered = sorted((int(number[1]), name) for name in images if (number := re.search(r"(\d+)\.\w+$", name)))
    steps = set(np.diff([number for number, _ in numbered]).tolist())
    if not images or len(numbered) < len(images) or len(steps) > 1 or 0 in steps:
        cause = (
            f"its {len(images)} images are not numbered evenly; name images one by one in a list to make each a clip"
        )
        raise VideoDecodeError(folder, "the folder as a video", cause)
    return [os.path.join(folder, name) for _, name in numbered]


def _folder_info(images: list[str]) -> VideoInfo:
    return replace(probe(images[0]), num_frames=len(images), fps=float("nan"))


# --- order ---------------------------------------------------------------------------------------------------------


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
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


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


# --- clips ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoFailure:
    """A video that could not be read, and why."""

    video: str
    cause: str


@dataclass(frozen=True)
class ClipSample:
    """One clip, uint8 `(T, C, H, W)`, with what is known about it."""

    clip: torch.Tensor
    request: ClipRequest
    video: str
    failures: tuple[VideoFailure, ...] = ()
    attempt: int = 0

    @property
    def key(self) -> ClipKey:
        """What the random numbers of the clip are a function of, beside the seed."""
        return self.request.epoch, self.request.index, self.attempt


@dataclass(frozen=True)
class ClipReader:
    """Cuts random augmented clips out of a video.

    Attributes:
        num_frames: T.
        frame_step: frames of the video from one frame of the clip to the next.
        seed: of clips and augmentation.
        transform: augmentation, on uint8 `(T, C, H, W)`; None leaves it to `augment_clips`.
        short_video: policy of `frame_sampling` for videos shorter than a clip; with "error" they are unreadable.
        fps: frames of the clip in a second, whatever the frame rate of the video; takes the place of `frame_step`.
    """

    num_frames: int
    frame_step: float
    seed: int
    transform: Transform | None = None
    short_video: str = "wrap"
    fps: float | None = None

    def read(self, video: Any, requests: Sequence[ClipRequest], attempt: int = 0) -> list[torch.Tensor]:
        """The clips of one video that are asked for, uint8 `(T, C, H, W)` each; the file is opened once.

        Raises:
            VideoDecodeError: the video cannot be read.
        """
        keys = [(request.epoch, request.index, attempt) for request in requests]

        def choose(info: VideoInfo) -> np.ndarray:
            step = self._step(video, info)
            starts = [np.random.default_rng([self.seed, *key, CLIP_STREAM]) for key in keys]
            policy = {"short_video": self.short_video}
            return np.concatenate([random_clips(info.num_frames, self.num_frames, step, g, **policy) for g in starts])

        clips = decode_video(video, choose).unflatten(0, (len(keys), self.num_frames))
        if self.transform is None:
            return list(clips)
        return list(augment_clips(clips, keys, self.transform, self.seed))

    def _step(self, video: Any, info: VideoInfo) -> float:
        if self.fps is not None and not info.fps > 0:
            raise VideoDecodeError(video_name(video), f"{self.fps} frames a second", "its frame rate is not known")
        step = self.frame_step if self.fps is None else step_from_seconds(1 / self.fps, info.fps)
        span = clip_span(self.num_frames, step)
        if self.short_video == "error" and info.num_frames < span:
            cause = f"it has only {info.num_frames} frames and short_video is 'error'"
            raise VideoDecodeError(video_name(video), f"a clip of {span} frames", cause)
        return step


def augmentation_generator(seed: int, key: ClipKey) -> np.random.Generator:
    """The generator of the augmentation of a clip, the same in a worker and on the device."""
    return np.random.default_rng([seed, *key, AUGMENTATION_STREAM])


def augment_clips(
    clips: Sequence[torch.Tensor], keys: Sequence[ClipKey], transform: Transform, seed: int
) -> torch.Tensor:
    """Augment the clips of a batch where they are, with the numbers that a worker would draw: uint8 `(B, T, C, H, W)`.

    Args:
        clips: uint8 `(T, C, height, width)` each, of any size.
        keys: `clip_keys` of the batch.
        transform: augmentation.
        seed: that of the run.
    """
    return torch.stack(
        [transform(clip, augmentation_generator(seed, key)) for clip, key in zip(clips, keys, strict=True)]
    )


class VideoClipDataset(torch.utils.data.Dataset):
    """Random augmented clips for training, asked for by `ClipRequest`.

    An unreadable video is replaced by another one, drawn from (seed, epoch, sample id, attempt); what failed travels
    with the clip, for `InputLog` to judge. This is for training only: evaluation never swaps a video.

    Args:
        videos: table with the column `video`.
        reader: cuts clips out of a video.
        max_attempts: videos tried for one clip before the run ends.
    """

    def __init__(self, videos: datasets.Dataset, reader: ClipReader, max_attempts: int = 10) -> None:
        self.videos = videos
        self.reader = reader
        self.max_attempts = max_attempts

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, request: ClipRequest) -> ClipSample:
        return self._samples([request])[0]

    def __getitems__(self, requests: Sequence[ClipRequest]) -> list[ClipSample]:
        """The samples of a batch; clips of one video that follow one another cost one decode."""
        groups = (list(group) for _, group in groupby(requests, key=lambda request: request.index))
        return [sample for group in groups for sample in self._samples(group)]

    def _samples(self, requests: list[ClipRequest]) -> list[ClipSample]:
        video = self.videos[requests[0].index]["video"]
        try:
            clips = self.reader.read(video, requests)
        except VideoDecodeError as error:
            if len(requests) > 1:  # a clip is what it would be alone
                return [self[request] for request in requests]
            return [self._replacement(requests[0], VideoFailure(video_name(video), error.cause))]
        return [ClipSample(clip, request, video_name(video)) for clip, request in zip(clips, requests, strict=True)]

    def _replacement(self, request: ClipRequest, failure: VideoFailure) -> ClipSample:
        failures = [failure]
        while len(failures) < self.max_attempts:
            key = (request.epoch, request.index, len(failures))
            index = int(np.random.default_rng([self.reader.seed, *key]).integers(len(self)))
            video = self.videos[index]["video"]
            try:
                (clip,) = self.reader.read(video, [request], len(failures))
                return ClipSample(clip, request, video_name(video), tuple(failures), len(failures))
            except VideoDecodeError as error:
                failures.append(VideoFailure(video_name(video), error.cause))
        raise ValueError(_nothing_loads(failures))


def _nothing_loads(failures: Sequence[VideoFailure]) -> str:
    shown = "; ".join(f"{failure.video}: {failure.cause}" for failure in failures[:3])
    return f"{len(failures)} videos in a row could not be read, so these are not the right files: {shown}"


# --- streams -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LaneState:
    """Where one worker stands in its part of a stream.

    Attributes:
        num_lanes: workers of all processes.
        epoch: how often the part was read to its end.
        block: blocks of the epoch that were used up.
        used: videos of the present block that were used up.
        position: `state_dict` of the stream before the block; None at the beginning of an epoch.
    """

    num_lanes: int
    epoch: int = 0
    block: int = 0
    used: int = 0
    position: dict[str, Any] | None = None


class ClipStream(torch.utils.data.IterableDataset):
    """Batches of random augmented clips from streams, for a `DataLoader` with `batch_size=None`.

    Every worker of every process reads its own part, a lane (`sources.part_of_stream`), over and over, in blocks of
    `shuffle_buffer` videos that it shuffles. An unreadable video is left out. A batch carries the state of its worker
    as `lane_states`, so whoever saves those of the batches that were used can go on exactly there, with equally many
    processes and workers. With other numbers the stream begins its next epoch.

    Args:
        sources: streams with the column `video`.
        weights: share of each source, see `sources.mix_videos`.
        reader: cuts clips out of a video.
        sampler: the requests of this process, made with `num_samples=None`.
        collate: makes a batch of samples.
        shuffle_buffer: videos that a worker holds, as bytes if the stream has bytes.
        max_attempts: videos in a row that may fail before the run ends.
        states: lane -> its state, to go on from.
    """

    def __init__(
        self,
        sources: Sequence[datasets.IterableDataset],
        weights: Sequence[float] | None,
        reader: ClipReader,
        sampler: ClipBatchSampler,
        collate: Callable[[Sequence[ClipSample]], dict[str, Any]],
        shuffle_buffer: int = 100,
        max_attempts: int = 10,
        states: dict[int, LaneState] | None = None,
    ) -> None:
        self.sources = sources
        self.weights = weights
        self.reader = reader
        self.sampler = sampler
        self.collate = collate
        self.shuffle_buffer = shuffle_buffer
        self.max_attempts = max_attempts
        self.states = states or {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        sampler = self.sampler
        # A loader that goes on begins with its first worker, wherever the one before it stood.
        passes = sampler.first_clip // sampler.clips_per_step * sampler.gradient_accumulation_steps
        lane = sampler.process_index * num_workers + (worker + passes) % num_workers
        videos = self._videos(lane, self._first_state(lane, sampler.num_processes * num_workers))
        for requests in islice(sampler, worker, None, num_workers):
            samples = []
            for start in range(0, len(requests), sampler.clips_per_video):
                state, clips = self._clips(videos, requests[start : start + sampler.clips_per_video])
                samples += clips
            yield self.collate(samples) | {"lane_states": {lane: state}}

    def _first_state(self, lane: int, num_lanes: int) -> LaneState:
        if all(state.num_lanes == num_lanes for state in self.states.values()):
            unused = LaneState(num_lanes, epoch=min((state.epoch for state in self.states.values()), default=0))
            return self.states.get(lane, unused)
        return LaneState(num_lanes, epoch=1 + max(state.epoch for state in self.states.values()))

    def _clips(
        self, videos: Iterator[tuple[Any, LaneState]], requests: list[ClipRequest]
    ) -> tuple[LaneState, list[ClipSample]]:
        """Clips of the next readable video."""
        failures: list[VideoFailure] = []
        for video, state in videos:
            try:
                clips = self.reader.read(video, requests)
            except VideoDecodeError as error:
                failures.append(VideoFailure(video_name(video), error.cause))
                if len(failures) == self.max_attempts:
                    raise ValueError(_nothing_loads(failures)) from error
                continue
            found = [tuple(failures)] + [()] * (len(requests) - 1)
            names = [video_name(video)] * len(requests)
            return state, [ClipSample(*sample) for sample in zip(clips, requests, names, found, strict=True)]
        raise AssertionError("a lane never ends")

    def _videos(self, lane: int, state: LaneState) -> Iterator[tuple[Any, LaneState]]:
        """The videos of a lane without end, each with the state after it."""
        while True:
            stream = part_of_stream(self.sources, self.weights, lane, state.num_lanes, self.reader.seed, state.epoch)
            if state.position is not None:
                stream.load_state_dict(state.position)
            # `iter` leaves the sharing out among workers to us: by lanes, it also works for few shards.
            rows = stream.iter(batch_size=1)
            while block := [row["video"][0] for row in islice(rows, self.shuffle_buffer)]:
                seed = [self.reader.seed, state.epoch, lane, state.block, BLOCK_STREAM]
                for place in np.random.default_rng(seed).permutation(len(block))[state.used :]:
                    state = replace(state, used=state.used + 1)
                    yield block[place], state
                state = LaneState(state.num_lanes, state.epoch, state.block + 1, 0, stream.state_dict())
            if state.block == 0:
                raise ValueError(
                    f"the stream has no video for part {lane + 1} of {state.num_lanes}: use fewer workers or processes"
                )
            state = LaneState(state.num_lanes, state.epoch + 1)


# --- batches -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PretrainingCollator:
    """Stack clips to a batch and draw their masks, in the worker.

    Returns a dict: `pixel_values_videos` uint8 `(B, T, C, H, W)`, or a list of B clips that still differ in size;
    `clip_keys` and `video_names` of the samples; `context_masks` and `target_masks`, lists with one LongTensor
    `(B, K)` and `(B, M)` a mask kind; `failures`, a list of `VideoFailure`.
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


# --- log -----------------------------------------------------------------------------------------------------------


class InputLog:
    """What the input of a run has been through: unreadable videos, and where streams stand.

    It is the same on all processes after `gather`, and `Accelerator.register_for_checkpointing` saves it.

    Args:
        max_failed_share: largest bearable share of failures among all videos tried.
        min_videos: videos tried before the share is judged, lest the first failure end the run.
    """

    def __init__(self, max_failed_share: float, min_videos: int = 100) -> None:
        self.max_failed_share = max_failed_share
        self.min_videos = min_videos
        self.num_loaded = 0
        self.videos: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.lane_states: dict[int, LaneState] = {}
        self._restart()

    def _restart(self) -> None:
        self.new_failures: list[VideoFailure] = []
        self.new_clips = 0
        self.new_states: dict[int, LaneState] = {}

    def update(self, batch: dict[str, Any]) -> None:
        """Take in a batch of this process that training uses."""
        self.new_failures += batch["failures"]
        self.new_clips += len(batch["clip_keys"])
        self.new_states |= batch.get("lane_states", {})

    def gather(self) -> list[VideoFailure]:
        """Bring together what all processes took in; all call it. Returns each video that fails for the first time.

        Raises:
            ValueError: the share of failures is above `max_failed_share`; on all processes alike.
        """
        parts = gather_object([(self.new_failures, self.new_clips, self.new_states)])
        self._restart()
        failures = [failure for part in parts for failure in part[0]]
        first = {failure.video: failure for failure in reversed(failures) if failure.video not in self.videos}
        self.videos.update(failure.video for failure in failures)
        self.causes.update(failure_kind(failure.cause) for failure in failures)
        self.num_loaded += sum(part[1] for part in parts)
        for part in parts:
            self.lane_states |= part[2]
        # States of another number of lanes are from before a resume: with new ones their place no longer counts.
        if current := {state.num_lanes for part in parts for state in part[2].values()}:
            self.lane_states = {lane: state for lane, state in self.lane_states.items() if state.num_lanes in current}
        self._judge()
        return list(reversed(first.values()))

    def _judge(self) -> None:
        failed = self.causes.total()
        tried = failed + self.num_loaded
        if tried >= self.min_videos and failed > self.max_failed_share * tried:
            video, times = self.videos.most_common(1)[0]
            causes = ", ".join(f"{count} x {cause}" for cause, count in self.causes.most_common(3))
            raise ValueError(
                f"{failed} of {tried} videos could not be read, more than max_failed_share={self.max_failed_share}: "
                f"{causes}; above all {video} ({times} x). Find them with vjepa-hf check-data, or raise the share."
            )

    def figures(self) -> dict[str, int]:
        """Failures so far, in all and by cause, for the log."""
        by_cause = {f"failed_videos/{cause}": count for cause, count in sorted(self.causes.items())}
        return {"failed_videos": self.causes.total()} | by_cause

    def state_dict(self) -> dict[str, Any]:
        """What was gathered, in plain types."""
        return {
            "num_loaded": self.num_loaded,
            "videos": dict(self.videos),
            "causes": dict(self.causes),
            "lane_states": {lane: asdict(state) for lane, state in self.lane_states.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.num_loaded = state["num_loaded"]
        self.videos, self.causes = Counter(state["videos"]), Counter(state["causes"])
        self.lane_states = {lane: LaneState(**fields) for lane, fields in state["lane_states"].items()}
        self._restart()


def failure_kind(cause: str) -> str:
    """The cause of a failure without what is peculiar to one file: quoted names and numbers."""
    cause = re.sub(r"\[Errno -?\d+\] |:? *'[^']*'", "", cause)
    return re.sub(r"\d+", "N", cause).strip()


# --- checks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoCheck:
    """What one video turned out to be: its figures, or the cause why it cannot be read; and where a copy of it is."""

    video: str
    info: VideoInfo | None = None
    cause: str | None = None
    copy: str | None = None


def check_video(video: Any) -> VideoCheck:
    """Open a video and decode its first, middle and last frame, where damage shows."""
    name = video_name(video)
    try:
        info = probe_video(video)
        decode_video(video, [0, info.num_frames // 2, info.num_frames - 1])
    except VideoDecodeError as error:
        return VideoCheck(name, cause=error.cause)
    return VideoCheck(name, info=info)


def oddities(info: VideoInfo) -> list[str]:
    """What is unusual about a readable video, in words: worth a look, not an error."""
    short, long = sorted((info.height, info.width))
    found = [
        (info.num_frames == 1, "one frame"),
        (short < SMALL_SIDE, f"small, {info.width} x {info.height} pixels"),
        (long > ODD_RATIO * short, f"very long in shape, {info.width} x {info.height} pixels"),
        (info.fps < ODD_RATES[0] or info.fps > ODD_RATES[1], f"{info.fps:.3g} frames a second"),
    ]
    return [words for odd, words in found if odd]
