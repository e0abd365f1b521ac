"""The clips of the study and its splits: no encoder and no choice sees a group that is tested."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grouping import grouped_folds
from vjepa_hf.data import clips as data
from vjepa_hf.data.order import ClipRequest
from vjepa_hf.data.transforms import RandomResizedCropFlip
from vjepa_hf.data.videos import decode_video, probe_video

NUM_SPLITS = 5
HALVES = [{f"seq{number:02}" for number in range(first, first + 10)} for first in (1, 11)]
SEQUENCES, OTHER_HALF, SCENES = "ut_interaction, a sequence out", "ut_interaction, other half", "surv_fight, 5 folds"
TASKS = SEQUENCES, OTHER_HALF, SCENES
CACHED_FRAMES = 32  # of every video; clips are made of them


@dataclass(frozen=True)
class Clips:
    """Decoded videos and the columns of their list; one row per video.

    Attributes:
        frames: uint8 `(n, CACHED_FRAMES, 3, side, side)`, evenly spread over each video.
        paths: as in the list.
        sets: which set a video belongs to.
        labels: name of its class.
        groups: sequence, scene or subject, "" where the set has none.
    """

    frames: np.ndarray
    paths: np.ndarray
    sets: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def rows(self, name: str) -> np.ndarray:
        """Return the rows of a set."""
        return np.flatnonzero(self.sets == name)


def read_clips(folder: Path, side: int, runs: Path) -> Clips:
    """Decode the videos of the list next to a folder, or read them from `runs` if they were decoded before."""
    with open(folder.with_suffix(".csv"), newline="") as lines:
        rows = list(csv.DictReader(lines))
    columns = [np.array([row[name] for row in rows]) for name in ("path", "set", "label", "group")]
    cache = runs / f"clips_{side}.npy"
    if not cache.exists():
        videos = [read_frames(folder.parent / row["path"], side) for row in rows]
        np.save(cache, torch.stack(videos).numpy())
    return Clips(np.load(cache, mmap_mode="r"), *columns)


def read_frames(path: Path, side: int) -> torch.Tensor:
    """Read frames from the first to the last, however long the video is: its length must reveal nothing."""
    indices = np.linspace(0, probe_video(path).num_frames - 1, CACHED_FRAMES).round().astype(int)
    return decode_video(path, indices, (side, side))


class TrainingClips(torch.utils.data.Dataset):
    """Random windows of some of the videos, at least half as long, cropped and mirrored."""

    def __init__(self, frames: np.ndarray, rows: np.ndarray, num_frames: int, side: int, seed: int) -> None:
        self.frames, self.rows, self.num_frames, self.seed = frames, rows, num_frames, seed
        self.transform = RandomResizedCropFlip((side, side), scale=(0.5, 1.0))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: ClipRequest) -> data.ClipSample:
        generator = data.augmentation_generator(self.seed, (request.epoch, request.index, 0))
        length = generator.integers(CACHED_FRAMES // 2, CACHED_FRAMES + 1)
        start = generator.integers(CACHED_FRAMES - length + 1)
        window = start + np.linspace(0, length - 1, self.num_frames).round().astype(int)
        row = self.rows[request.index]
        clip = torch.from_numpy(self.frames[row, window])
        return data.ClipSample(self.transform(clip, generator), request, video=str(row))


@dataclass(frozen=True)
class Task:
    """What an encoder is evaluated on in one split, as rows of the clips.

    Attributes:
        rows: the labelled clips of the task.
        tests: test clips; for each of them a probe learns from the other `rows`.
        choosing: two halves, by whole groups, of clips that are in no test of this split.
    """

    rows: np.ndarray
    tests: list[np.ndarray]
    choosing: list[np.ndarray]


def tasks(clips: Clips, split: int, seed: int) -> dict[str, Task]:
    """Return the tasks of a split by name."""
    fights, fold = clips.rows("surv_fight"), scene_folds(clips, seed)[split]
    found = {SCENES: Task(fights, [fold], deal(clips, np.setdiff1d(fights, fold), 2, seed))}
    if split < len(HALVES):
        acts = clips.rows("ut_interaction")
        tested = acts[np.isin(clips.groups[acts], list(HALVES[split]))]
        choosing = deal(clips, np.setdiff1d(acts, tested), 2, seed)
        sequences = [tested[clips.groups[tested] == name] for name in sorted(HALVES[split])]
        # A probe that learns from all rows but the tested ones learns from the other half.
        found |= {SEQUENCES: Task(acts, sequences, choosing), OTHER_HALF: Task(acts, [tested], choosing)}
    return found


def pretraining_rows(clips: Clips, split: int, seed: int) -> np.ndarray:
    """Return the rows that the encoder of a split may see: none of a group that is tested, in any set."""
    tested = np.concatenate([test for task in tasks(clips, split, seed).values() for test in task.tests])
    return np.flatnonzero(~np.isin(clips.groups, clips.groups[tested]))


def scene_folds(clips: Clips, seed: int) -> list[np.ndarray]:
    """Return the rows of `surv_fight` that are tested in each split."""
    return deal(clips, clips.rows("surv_fight"), NUM_SPLITS, seed)


def deal(clips: Clips, rows: np.ndarray, num_folds: int, seed: int) -> list[np.ndarray]:
    """Divide rows into folds of whole groups."""
    return [rows[fold] for fold in grouped_folds(clips.groups[rows], clips.labels[rows], num_folds, seed)]
