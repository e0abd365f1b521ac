"""From a folder or a list of videos to batches of clips with their masks.

The order of the samples, the frames of a clip, its augmentation and its masks are functions of (seed, epoch, sample
id). Neither the number of processes, nor that of workers, nor where a run was resumed has a say in them.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from .frame_sampling import random_clips
from .masking import MaskSampler
from .video_io import VideoDecodeError, VideoInfo, decode, probe

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)
VIDEO_COLUMNS = ("video", "path", "file_name")
CLIP_STREAM = 1  # keeps the random numbers of clips apart from those of masks and of the order, seeded alike
LIST_FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}


# --- sources -------------------------------------------------------------------------------------------------------


def load_videos(source: str | Path, video_column: str | None = None) -> datasets.Dataset:
    """List the videos of a source, without opening any of them.

    A folder is searched recursively; when every video lies in a sub-folder, the name of its own folder becomes its
    label. A .csv, .tsv, .jsonl or .json file has named columns. Any other file, and a .csv without a header, is a
    list with one `path label` in each line, the label being an integer and the path free to contain spaces. Relative
    paths of a list start at the folder of the list; URLs are kept.

    Args:
        source: folder or list.
        video_column: column of the list that holds the paths; None takes the first that exists of `VIDEO_COLUMNS`.

    Returns:
        A dataset with the column `video` (str) and whatever other columns the source has, `label` by convention.

    Raises:
        ValueError: the source does not exist, holds no video, or has no such column.
    """
    source = Path(source)
    if not source.exists():
        raise ValueError(f"videos {str(source)!r} does not exist: give a folder of videos or a list of them")
    videos = _from_folder(source) if source.is_dir() else _from_list(source, video_column)
    if len(videos) == 0:
        raise ValueError(f"{source} lists no video; suffixes searched in a folder: {' '.join(sorted(VIDEO_SUFFIXES))}")
    return videos


def _from_folder(folder: Path) -> datasets.Dataset:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    columns = {"video": [str(path) for path in paths]}
    if paths and all(path.parent != folder for path in paths):
        columns["label"] = [path.parent.name for path in paths]
    return datasets.Dataset.from_dict(columns)


def _from_list(path: Path, video_column: str | None) -> datasets.Dataset:
    if path.suffix.lower() not in LIST_FORMATS or _is_path_label_list(path):
        videos, video_column = _from_path_label_list(path), "video"
    else:
        options = {"delimiter": "\t"} if path.suffix.lower() == ".tsv" else {}
        builder = LIST_FORMATS[path.suffix.lower()]
        videos = datasets.load_dataset(builder, data_files=str(path), split="train", **options)
    found = [name for name in ([video_column] if video_column else VIDEO_COLUMNS) if name in videos.column_names]
    if not found:
        wanted = video_column or " or ".join(VIDEO_COLUMNS)
        raise ValueError(f"{path} has no column {wanted}; its columns are {', '.join(videos.column_names)}")
    values = [str(value) for value in videos[found[0]]]
    resolved = [value if "://" in value else str(path.parent / value) for value in values]
    others = [name for name in videos.column_names if name not in (found[0], "video")]
    return (
        videos.add_column("resolved video", resolved)
        .select_columns(["resolved video", *others])
        .rename_column("resolved video", "video")
    )


def _is_path_label_list(path: Path) -> bool:
    """Whether a .csv file has no header but lines `path label`, as Meta's lists do."""
    if path.suffix.lower() != ".csv":
        return False
    with path.open(newline="") as file:
        words = " ".join(next(csv.reader(file), [])).rsplit(maxsplit=1)
    return len(words) == 2 and words[1].isdigit()


def _from_path_label_list(path: Path) -> datasets.Dataset:
    columns: dict[str, list] = {"video": [], "label": []}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        words = line.rsplit(maxsplit=1)
        if not words:
            continue
        if len(words) != 2 or not words[1].isdigit():
            raise ValueError(f"{path}, line {number}: expected `path label` with an integer label, got {line!r}")
        columns["video"].append(words[0])
        columns["label"].append(int(words[1]))
    return datasets.Dataset.from_dict(columns)


# --- order ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipRequest:
    """One clip to be made, and the clips that share its mask group.

    Attributes:
        index: sample id, the row of the dataset.
        epoch: how often the whole set was drawn before.
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
    any split of G into the three factors sees the same clips in the same step.

    Args:
        num_samples: videos in the set.
        per_device_batch_size: clips of one forward pass.
        num_steps: optimizer steps to provide.
        seed: of the order.
        num_processes: training processes.
        process_index: which of them this is.
        gradient_accumulation_steps: forward passes of one optimizer step.
        first_clip: clips that were drawn before, to go on from there; nothing is skipped through.
        mask_group_size: consecutive clips of a step that share one token count; None means all G.

    Raises:
        ValueError: a mask group that is no multiple of the forward pass, or does not divide the step.
    """

    def __init__(
        self,
        num_samples: int,
        per_device_batch_size: int,
        num_steps: int,
        seed: int,
        num_processes: int = 1,
        process_index: int = 0,
        gradient_accumulation_steps: int = 1,
        first_clip: int = 0,
        mask_group_size: int | None = None,
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
        epoch, place = divmod(position, self.num_samples)
        return epoch, int(epoch_order(self.num_samples, self.seed, epoch)[place])

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
    failures: tuple[VideoFailure, ...]


class VideoClipDataset(torch.utils.data.Dataset):
    """Random augmented clips for training, asked for by `ClipRequest`.

    An unreadable video is replaced by another one, drawn from (seed, epoch, sample id, attempt); what failed travels
    with the clip, for `FailureLog` to judge. This is for training only: evaluation never swaps a video.

    Args:
        videos: dataset with the column `video`.
        num_frames: T.
        frame_step: frames of the video from one frame of the clip to the next.
        transform: augmentation, `(clip, generator) -> clip` on uint8 `(T, C, H, W)`.
        seed: of clips and augmentation.
        short_video: policy of `frame_sampling` for videos shorter than a clip.
        max_attempts: videos tried for one clip before the last error is raised.
    """

    def __init__(
        self,
        videos: datasets.Dataset,
        num_frames: int,
        frame_step: int,
        transform: Callable[[torch.Tensor, np.random.Generator], torch.Tensor],
        seed: int,
        short_video: str = "wrap",
        max_attempts: int = 10,
    ) -> None:
        self.videos = videos
        self.num_frames = num_frames
        self.frame_step = frame_step
        self.transform = transform
        self.seed = seed
        self.short_video = short_video
        self.max_attempts = max_attempts

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, request: ClipRequest) -> ClipSample:
        failures: list[VideoFailure] = []
        while True:
            generator = np.random.default_rng([self.seed, request.epoch, request.index, len(failures), CLIP_STREAM])
            index = int(generator.integers(len(self))) if failures else request.index
            video = self.videos[index]["video"]
            try:
                return ClipSample(self._clip(video, generator), request, tuple(failures))
            except VideoDecodeError as error:
                failures.append(VideoFailure(video, str(error)))
                if len(failures) == self.max_attempts:
                    raise

    def _clip(self, video: str, generator: np.random.Generator) -> torch.Tensor:
        def choose(info: VideoInfo) -> np.ndarray:
            return random_clips(
                info.num_frames, self.num_frames, self.frame_step, generator, short_video=self.short_video
            )[0]

        return self.transform(decode(video, choose), generator)


@dataclass(frozen=True)
class PretrainingCollator:
    """Stack clips to a batch and draw their masks, in the worker.

    Returns a dict: `pixel_values_videos` uint8 `(B, T, C, H, W)`; `context_masks` and `target_masks`, lists with one
    LongTensor `(B, K)` and `(B, M)` a mask kind; `failures`, a list of `VideoFailure`.
    """

    mask_sampler: MaskSampler

    def __call__(self, samples: Sequence[ClipSample]) -> dict[str, Any]:
        requests = [(sample.request.epoch, sample.request.index) for sample in samples]
        context_masks, target_masks = self.mask_sampler(requests, group=samples[0].request.group)
        return {
            "pixel_values_videos": torch.stack([sample.clip for sample in samples]),
            "context_masks": context_masks,
            "target_masks": target_masks,
            "failures": [failure for sample in samples for failure in sample.failures],
        }


class FailureLog:
    """Count unreadable videos, and end the run when they are too many.

    Args:
        max_failed_share: largest bearable share of failures among all videos tried.
        min_videos: videos tried before the share is judged, lest the first failure end the run.
    """

    def __init__(self, max_failed_share: float, min_videos: int = 100) -> None:
        self.max_failed_share = max_failed_share
        self.min_videos = min_videos
        self.num_loaded = 0
        self.failures: Counter[VideoFailure] = Counter()

    def total(self) -> int:
        """Failures so far, of this process."""
        return self.failures.total()

    def update(self, failures: Sequence[VideoFailure], num_loaded: int) -> list[VideoFailure]:
        """Take in one batch and return the failures that were not seen before, each to be named once.

        Raises:
            ValueError: the share of failures is above `max_failed_share`.
        """
        new = [failure for failure in dict.fromkeys(failures) if failure not in self.failures]
        self.failures.update(failures)
        self.num_loaded += num_loaded
        failed = self.total()
        tried = failed + self.num_loaded
        if tried >= self.min_videos and failed > self.max_failed_share * tried:
            video, count = self.failures.most_common(1)[0]
            raise ValueError(
                f"{failed} of {tried} videos could not be read, more than max_failed_share={self.max_failed_share}; "
                f"most often ({count} times) {video.video}: {video.cause}. Check the files or raise the share."
            )
        return new


# --- checks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoCheck:
    """What one video turned out to be: its figures, or the cause why it cannot be read."""

    video: str
    info: VideoInfo | None = None
    cause: str | None = None


def check_video(video: str) -> VideoCheck:
    """Open a video and decode its first, middle and last frame, where damage shows."""
    try:
        info = probe(video)
        decode(video, [0, info.num_frames // 2, info.num_frames - 1])
    except VideoDecodeError as error:
        return VideoCheck(video, cause=error.cause)
    return VideoCheck(video, info=info)
