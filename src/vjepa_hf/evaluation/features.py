"""Tokens of videos from a frozen encoder: kept on disk in shards that are checked when read, or made anew each pass.

V is the number of views of a video: clips, times crops of a clip, or augmentations of it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..data.clips import ClipReader
from ..data.order import ClipRequest
from ..data.transforms import Chain, RandAugment, RandomErasing, RandomResizedCropFlip, Transform, normalize
from ..data.videos import for_processor, video_name
from ..files import whole_file
from ..model.modeling_vjepa import VJEPAModel
from ..model.video_io import VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor

SHARD_BYTES = 2**28  # what a shard may hold in memory before it is written
SHARD_ROWS = 128  # at most, so that several processes have something to do


# --- which pixels of a video the encoder sees ----------------------------------------------------------------------


@dataclass(frozen=True)
class RegularClips:
    """The views that a processor takes of a video; the same each time."""

    processor: VJEPAVideoProcessor

    @property
    def num_views(self) -> int:
        """V."""
        return self.processor.num_clips * self.processor.num_crops

    @property
    def settings(self) -> dict[str, Any]:
        """All that the pixels depend on beside the video."""
        return {"processor": self.processor.to_dict()}

    def __call__(self, video: Any, row: int) -> torch.Tensor:
        """Normalized clips `(V, T, C, H, W)` of a value of the column `video`."""
        pixels = self.processor(for_processor(video), return_tensors="pt")["pixel_values_videos"][0]
        return pixels.reshape(-1, *pixels.shape[-4:])


@dataclass(frozen=True)
class AugmentedClips:
    """Clips from random times of a video, each augmented in its own way: a function of (seed, row, view).

    Attributes:
        processor: says how clips are taken and normalized.
        transform: augmentation of one clip, uint8, to the size of the model.
        seed: of clips and augmentation.
        views: numbers of the views; other numbers are other clips.
        num_clips: clips of a view, for a probe that attends to the tokens of several clips.
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
        """All that the pixels depend on beside the video and its row."""
        numbers = {"seed": self.seed, "views": list(self.views), "num_clips": self.num_clips}
        return {"processor": self.processor.to_dict(), "transform": repr(self.transform), **numbers}

    def __call__(self, video: Any, row: int) -> torch.Tensor:
        """Normalized clips `(V, T, C, H, W)` of a value of the column `video`; the file is opened once."""
        processor = self.processor
        frames = processor.num_frames, processor.frame_step
        reader = ClipReader(*frames, self.seed, self.transform, processor.short_video, processor.fps)
        numbers = [view * self.num_clips + clip for view in self.views for clip in range(self.num_clips)]
        clips = reader.read(video, [ClipRequest(row, number, ()) for number in numbers])
        return normalize(torch.stack(clips), processor.image_mean, processor.image_std)


Clips = RegularClips | AugmentedClips


def augmentation(name: str, size: tuple[int, int]) -> Transform | None:
    """An augmentation for training a probe, by name; None for "none".

    "crop" is a random resized crop, "flip" also mirrors, "auto" adds RandAugment and erasing to "crop". Meta's probes
    are trained with "auto", while the paper says that nothing but crops was used.

    Args:
        name: which one.
        size: (H, W) of a clip in pixels.

    Raises:
        ValueError: for another name.
    """
    boxes = {"scale": (0.08, 1.0), "aspect_ratio": (3 / 4, 4 / 3)}
    crop = RandomResizedCropFlip(size, **boxes, flip_probability=0.0)
    known = {
        "none": None,
        "crop": crop,
        "flip": replace(crop, flip_probability=0.5),
        "auto": Chain((crop, RandAugment(), RandomErasing())),
    }
    if name not in known:
        raise ValueError(f"augmentation {name!r} must be one of {', '.join(known)}")
    return known[name]


# --- tokens --------------------------------------------------------------------------------------------------------


class ShardedTokens:
    """Tokens in safetensors shards that are read when asked for, indexed like an array.

    Attributes:
        shape: (n, N, D) with one view of a video, else (n, V, N, D).
    """

    def __init__(self, files: Sequence[Path], rows_per_shard: int, shape: tuple[int, ...], missing: set[int]) -> None:
        self.files, self.rows_per_shard, self.shape, self.missing = list(files), rows_per_shard, shape, missing
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """float16 rows, or with a pair (rows, slice) a part of the second axis; zeros for unreadable videos."""
        rows, part = key if isinstance(key, tuple) else (key, slice(None))
        rows = np.arange(len(self))[rows]
        if rows.ndim == 0:
            return self._row(int(rows), part)
        found = [self._row(int(row), part) for row in rows]
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), np.float16)[:, part]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float16)

    def _row(self, row: int, part: slice) -> np.ndarray:
        if row in self.missing:
            return np.zeros(self.shape[1:], np.float16)[part]
        shard = row // self.rows_per_shard
        if shard not in self._open:
            self._open[shard] = safe_open(self.files[shard], framework="np")
        return self._open[shard].get_slice(str(row))[part]


@dataclass(frozen=True)
class VideoFeatures:
    """Tokens of videos that were run through a frozen encoder once.

    Attributes:
        tokens: float16 `(n, N, D)`, or with several views of a video `(n, V, N, D)`; an array, or one on disk. Rows of
            unreadable videos are zero.
        failures: row -> why that video could not be read. Nothing takes its place.
    """

    tokens: np.ndarray | ShardedTokens
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def readable(self) -> np.ndarray:
        """Rows that hold a video, in order."""
        return np.array([row for row in range(len(self.tokens)) if row not in self.failures], dtype=np.int64)

    @property
    def num_views(self) -> int:
        """V."""
        return self.tokens.shape[1] if len(self.tokens.shape) == 4 else 1

    def batches(
        self, row_batches: Iterable[np.ndarray], epoch: int | None = None, num_clips: int = 1
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Rows and their tokens `(B, V, N, D)`; what is unreadable is left out.

        Args:
            row_batches: rows of each batch.
            epoch: read only the view whose turn it is, `(B, num_clips, N, D)`; None reads all views.
            num_clips: clips that make one view.
        """
        views = _view_of_epoch(epoch, self.num_views, num_clips)
        for rows in row_batches:
            rows = np.array([row for row in rows if row not in self.failures], dtype=np.int64)
            if len(rows):
                tokens = self.tokens[rows] if len(self.tokens.shape) == 3 else self.tokens[rows, views]
                tokens = torch.from_numpy(np.ascontiguousarray(tokens))
                yield rows, tokens[:, None] if tokens.ndim == 3 else tokens


class LiveFeatures:
    """Tokens made anew from the videos whenever they are asked for; nothing is kept, and every epoch has new views.

    Takes the arguments of `extract_features`, without the folder.

    Attributes:
        failures: row -> why that video could not be read, for the rows that were asked for so far.

    Raises:
        ValueError: several processes, which would all do the same work.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: VJEPAModel,
        processor: VJEPAVideoProcessor | Clips,
        videos: Sequence[Any],
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        if accelerator.num_processes > 1:
            raise ValueError(f"{accelerator.num_processes} processes need features that are kept; start one process")
        self.encoder = _Encoder(accelerator, model, batch_size)
        self.clips, self.videos, self.num_workers = _clips(processor), videos, num_workers
        self.failures: dict[int, str] = {}

    @property
    def readable(self) -> np.ndarray:
        """Rows that are not known to be unreadable, in order."""
        return np.array([row for row in range(len(self.videos)) if row not in self.failures], dtype=np.int64)

    @property
    def num_views(self) -> int:
        """V."""
        return self.clips.num_views

    def batches(
        self, row_batches: Iterable[np.ndarray], epoch: int | None = None, num_clips: int = 1
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """As of `VideoFeatures`; augmented clips are others in each epoch."""
        clips, views = self.clips, slice(None)
        if epoch is not None and isinstance(clips, AugmentedClips):
            clips = replace(clips, views=(epoch,), num_clips=num_clips)
        else:
            views = _view_of_epoch(epoch, clips.num_views, num_clips)
        samples = _Samples(self.videos, clips)
        loader = torch.utils.data.DataLoader(
            samples, batch_sampler=[list(rows) for rows in row_batches], num_workers=self.num_workers, collate_fn=list
        )
        for batch in loader:
            self.failures |= {row: pixels for row, pixels in batch if isinstance(pixels, str)}
            readable = {row: pixels[views] for row, pixels in batch if not isinstance(pixels, str)}
            if readable:
                yield np.array(list(readable)), torch.stack(self.encoder(list(readable.values())))


def _view_of_epoch(epoch: int | None, num_views: int, num_clips: int) -> slice:
    """The clips of the view whose turn it is; without an epoch those of all views."""
    if epoch is None:
        return slice(None)
    first = epoch % (num_views // num_clips) * num_clips
    return slice(first, first + num_clips)


class _Samples(torch.utils.data.Dataset):
    """(row, clips or why there are none) of videos."""

    def __init__(self, videos: Sequence[Any], clips: Clips) -> None:
        self.videos, self.clips = videos, clips

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor | str]:
        video = self.videos[int(row)]
        try:
            return row, self.clips(video, int(row))
        except VideoDecodeError as error:
            return row, f"{video_name(video)}: cannot read {error.asked}: {error.cause}"


class _Encoder:
    """Runs clips through a frozen model, `batch_size` at a time however many views a video has."""

    def __init__(self, accelerator: Accelerator, model: VJEPAModel, batch_size: int) -> None:
        self.accelerator, self.model, self.batch_size = accelerator, model.to(accelerator.device).eval(), batch_size

    @torch.no_grad()
    def __call__(self, videos: Sequence[torch.Tensor], to: torch.device | str | None = None) -> list[torch.Tensor]:
        """Tokens `(V, N, D)` of each of some videos `(V, T, C, H, W)`, in float16 on another device if named."""
        tokens = []
        for pixels in torch.cat(list(videos)).split(self.batch_size):
            with self.accelerator.autocast():
                found = self.model(pixels.to(self.accelerator.device)).last_hidden_state
            tokens.append(found.to(to, torch.float16) if to else found.float())
        return list(torch.cat(tokens).split([len(clips) for clips in videos]))


def _clips(processor: VJEPAVideoProcessor | Clips) -> Clips:
    return processor if isinstance(processor, Clips) else RegularClips(processor)


# --- shards --------------------------------------------------------------------------------------------------------


def extract_features(
    accelerator: Accelerator,
    model: VJEPAModel,
    processor: VJEPAVideoProcessor | Clips,
    videos: Sequence[Any],
    path: str | Path,
    batch_size: int = 16,
    num_workers: int = 0,
) -> VideoFeatures:
    """Run videos through the encoder and keep all their tokens in a folder, or read what is there already.

    A shard holds the rows of a stretch of the list in order, one tensor a video, and what they were made from: the
    encoder, the settings of the clips, the names of the videos. All processes call it; each makes some of the shards,
    and what they hold does not depend on how many processes there are. What an interrupted call has finished is kept.
    The videos themselves are needed no longer, so one that has been replaced under its old name goes unnoticed.

    Args:
        accelerator: of the run; its mixed precision is the encoder's.
        model: encoder; set to evaluation mode.
        processor: turns a video into clips of the size the model is configured for.
        videos: values of the column `video` of a source.
        path: folder of the shards, on a disk that all processes see.
        batch_size: clips of one forward pass.
        num_workers: processes that decode, for each process.

    Raises:
        ValueError: the folder holds something else, or clips are not of the configured size.
    """
    clips = _clips(processor)
    encoder = _Encoder(accelerator, model, batch_size)
    shards = _Shards(Path(path), [video_name(video) for video in videos], model, clips, accelerator.mixed_precision)
    shards.folder.mkdir(parents=True, exist_ok=True)
    shards.check()
    own = range(accelerator.process_index, len(shards.files), accelerator.num_processes)
    missing = [shard for shard in own if not shards.files[shard].exists()]
    rows = [row for shard in missing for row in shards.rows(shard)]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(_Samples(videos, clips), rows),
        batch_size=max(1, batch_size // clips.num_views),
        num_workers=num_workers,
        collate_fn=list,
    )
    encoded = (item for batch in loader for item in _encode(encoder, batch))
    for shard in missing:
        shards.write(shard, dict(islice(encoded, len(shards.rows(shard)))))
    accelerator.wait_for_everyone()
    failures = shards.check()
    return VideoFeatures(ShardedTokens(shards.files, shards.rows_per_shard, shards.shape, set(failures)), failures)


def _encode(encoder: _Encoder, batch: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, torch.Tensor | str]]:
    """The same rows with tokens in place of clips."""
    readable = [pixels for _, pixels in batch if not isinstance(pixels, str)]
    tokens = iter(encoder(readable, to="cpu") if readable else [])
    for row, pixels in batch:
        yield row, pixels if isinstance(pixels, str) else next(tokens)


class _Shards:
    """The files of a folder, and what must be written in them to be these features."""

    def __init__(self, folder: Path, names: list[str], model: VJEPAModel, clips: Clips, precision: str) -> None:
        self.folder, self.names = folder, names
        tokens = (int(np.prod(model.config.grid_size)), model.config.hidden_size)
        self.shape = (len(names), *tokens) if clips.num_views == 1 else (len(names), clips.num_views, *tokens)
        row_bytes = 2 * int(np.prod(self.shape[1:]))
        self.rows_per_shard = min(SHARD_ROWS, max(1, SHARD_BYTES // row_bytes))
        count = -(-len(names) // self.rows_per_shard)
        self.files = [folder / f"{number:05}-of-{count:05}.safetensors" for number in range(count)]
        self.made_from = {
            "encoder": encoder_fingerprint(model),
            "clips": json.dumps(clips.settings, sort_keys=True, default=str),
            "precision": precision,
        }

    def rows(self, shard: int) -> range:
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, len(self.names)))

    def _videos(self, shard: int) -> str:
        return json.dumps([self.names[row] for row in self.rows(shard)])

    def write(self, shard: int, found: dict[int, torch.Tensor | str]) -> None:
        """Write a shard so that it is there whole or not at all."""
        failures = {row: cause for row, cause in found.items() if isinstance(cause, str)}
        tensors = {str(row): self._as_row(tokens) for row, tokens in found.items() if row not in failures}
        metadata = self.made_from | {"videos": self._videos(shard), "failures": json.dumps(failures)}
        with whole_file(self.files[shard]) as unfinished:
            save_file(tensors, unfinished, metadata)

    def _as_row(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens if len(self.shape) == 4 else tokens[0]
        if tokens.shape != self.shape[1:]:
            raise ValueError(
                f"clips give tokens of the shape {tuple(tokens.shape)} where the model is configured for "
                f"{self.shape[1:]}; give the processor the num_frames and the crop_size of the model."
            )
        return tokens.contiguous()

    def check(self) -> dict[int, str]:
        """The failures of all shards that are there, once each is what it should be."""
        strangers = sorted({file.name for file in self.folder.glob("*.safetensors")} - {f.name for f in self.files})
        if strangers:
            raise ValueError(f"{self.folder} also holds {strangers[0]}: name another folder, or delete this one")
        failures: dict[int, str] = {}
        for shard, file in enumerate(self.files):
            if file.exists():
                failures |= self._check(shard)
        return failures

    def _check(self, shard: int) -> dict[int, str]:
        """The failures of a shard that holds what it should."""
        file = self.files[shard]
        try:
            with safe_open(file, framework="np") as tensors:
                metadata, keys = tensors.metadata() or {}, set(tensors.keys())
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): delete it") from error
        for name, value in (self.made_from | {"videos": self._videos(shard)}).items():
            if metadata.get(name) != value:
                raise ValueError(
                    f"{file} was made from other {name}: {_difference(metadata.get(name, 'unknown'), value)}; "
                    "name another folder, or delete this one"
                )
        failures = {int(row): cause for row, cause in json.loads(metadata["failures"]).items()}
        if keys != {str(row) for row in self.rows(shard) if row not in failures}:
            raise ValueError(f"{file} does not hold the rows of its videos: delete it")
        return failures


def _difference(found: str, expected: str, length: int = 60) -> str:
    """The first place where two texts differ, in words."""
    place = len(os.path.commonprefix([found, expected]))
    start = max(0, place - length // 3)
    return f"{found[start : start + length]!r} instead of {expected[start : start + length]!r}"


def encoder_fingerprint(model: VJEPAModel) -> str:
    """A hash of the weights of an encoder and of the settings that features depend on."""
    digest = hashlib.blake2b(digest_size=16)
    fields = type(model.config).__annotations__
    settings = {name: getattr(model.config, name) for name in fields if "pool" not in name and "pred_" not in name}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in model.encoder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
