"""Tokens of videos from a frozen encoder, computed once and cached on disk. V is the number of views of a video."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.videos import VideoFailure
from ..model.modeling_vjepa import VJEPAModel
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .shards import ShardedTokens, ShardFolder
from .views import Clips, RegularClips, ViewDataset

Row = tuple[int, torch.Tensor | VideoFailure]  # row of a video, and its clips or tokens


@dataclass(frozen=True)
class VideoFeatures:
    """Tokens of videos from a frozen encoder.

    Attributes:
        tokens: float16 `(n, N, D)`, or with several views per video `(n, V, N, D)`; an array in memory or on disk.
            Rows of unreadable videos are zero.
        failures: row -> failure, for unreadable videos, which are not replaced.
    """

    tokens: np.ndarray | ShardedTokens
    failures: dict[int, VideoFailure] = field(default_factory=dict)

    @property
    def readable(self) -> np.ndarray:
        """Sorted rows of the readable videos."""
        return np.array([row for row in range(len(self.tokens)) if row not in self.failures], dtype=np.int64)

    @property
    def num_views(self) -> int:
        """V."""
        return self.tokens.shape[1] if len(self.tokens.shape) == 4 else 1

    def batches(
        self, row_batches: Iterable[np.ndarray], epoch: int | None = None, num_clips: int = 1
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield rows and their tokens `(B, V, N, D)`; skip unreadable videos.

        Args:
            row_batches: rows of each batch.
            epoch: read only the view of this epoch, `(B, num_clips, N, D)`; None reads all views.
            num_clips: clips per view.
        """
        views = view_of_epoch(epoch, self.num_views, num_clips)
        for rows in row_batches:
            rows = np.array([row for row in rows if row not in self.failures], dtype=np.int64)
            if len(rows):
                selected = self.tokens[rows] if len(self.tokens.shape) == 3 else self.tokens[rows, views]
                tokens = torch.from_numpy(np.ascontiguousarray(selected))
                yield rows, tokens[:, None] if tokens.ndim == 3 else tokens


def view_of_epoch(epoch: int | None, num_views: int, num_clips: int) -> slice:
    """Return the clips of the view that an epoch uses; None returns the clips of all views."""
    if epoch is None:
        return slice(None)
    first = epoch % (num_views // num_clips) * num_clips
    return slice(first, first + num_clips)


class FrozenEncoder:
    """Model in evaluation mode that encodes clips without gradient, at most `batch_size` clips per forward pass.

    With `layers`, the tokens are those of these layers one after the other, as a classifier with `pooler_layers` reads
    them: N is their number times the tokens of a clip. A `pooler` makes one vector `(B, D)` of the tokens `(B, N, D)`
    of each clip, which takes their place as one token.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: VJEPAModel,
        batch_size: int,
        pooler: torch.nn.Module | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.accelerator, self.batch_size, self.layers = accelerator, batch_size, layers
        self.model = model.to(accelerator.device).eval()
        self.pooler = pooler.to(accelerator.device).eval() if pooler else None

    @torch.no_grad()
    def __call__(self, batch: Sequence[Row], to: torch.device | str | None = None) -> list[Row]:
        """Replace the clips `(V, T, C, H, W)` of each row by tokens `(V, N, D)`, or pooled ones `(V, 1, D)`.

        On the device `to`, if it is given, tokens are float16; otherwise they, and pooled ones always, are float32.
        """
        videos = [clips for _, clips in batch if isinstance(clips, torch.Tensor)]
        tokens = []
        for pixels in torch.cat(videos).split(self.batch_size) if videos else ():
            with self.accelerator.autocast():
                outputs = self.model(pixels.to(self.accelerator.device), output_layers=self.layers)
                hidden_states = torch.cat(outputs.probe_layers, dim=1)
                if self.pooler is not None:
                    hidden_states = self.pooler(hidden_states)[:, None]
            dtype = torch.float16 if to and self.pooler is None else torch.float32
            tokens.append(hidden_states.to(to, dtype))
        encoded = iter(torch.cat(tokens).split([len(clips) for clips in videos]) if videos else ())
        return [(row, clips if isinstance(clips, VideoFailure) else next(encoded)) for row, clips in batch]


def extract_features(
    accelerator: Accelerator,
    model: VJEPAModel,
    processor: VJEPAVideoProcessor | Clips,
    videos: Sequence[Any],
    path: str | Path,
    batch_size: int = 16,
    num_workers: int = 0,
    pooler: torch.nn.Module | None = None,
    layers: Sequence[int] | None = None,
) -> VideoFeatures:
    """Encode videos and cache all tokens in a folder, or read the tokens that are in the folder.

    Call it on all processes: each writes some of the shards, whose content does not depend on the number of processes.
    Complete shards of an interrupted call are reused, if their numbers have their checksum and their videos still have
    the size and modification time (raw bytes: the hash) that they had. A video that is gone keeps its features.

    Args:
        accelerator: its mixed precision is the precision of the encoder.
        model: encoder; it is set to evaluation mode.
        processor: turns a video into clips of the size that the model is configured for.
        videos: values of the column `video` of a source.
        path: folder of the shards, on a file system that all processes share.
        batch_size: clips per forward pass.
        num_workers: worker processes that decode, per process.
        pooler: cache one vector per clip in place of its tokens: this module's `(B, D)` of tokens `(B, N, D)`, in
            float32, as one token.
        layers: encoder layers, counted from 0, whose tokens to cache one after the other; default: the last.

    Raises:
        ValueError: the folder has other features, or damaged ones, or a video was written again under its name, or
            clips do not have the configured size.
    """
    clips = processor if isinstance(processor, Clips) else RegularClips(processor)
    encoder = FrozenEncoder(accelerator, model, batch_size, pooler, layers)
    shards = ShardFolder(Path(path), videos, model, clips, accelerator.mixed_precision, pooler, layers)
    shards.folder.mkdir(parents=True, exist_ok=True)
    shards.check()
    own = range(accelerator.process_index, len(shards.files), accelerator.num_processes)
    missing = [shard for shard in own if not shards.files[shard].exists()]
    _check_numbers(shards, [shard for shard in own if shard not in missing])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(ViewDataset(videos, clips), [row for shard in missing for row in shards.rows(shard)]),
        batch_size=max(1, batch_size // clips.num_views),
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # the loader draws a seed, by default from the global generator
    )
    encoded = (row for batch in loader for row in encoder(batch, to="cpu"))
    for shard in missing:
        shards.write(shard, dict(islice(encoded, len(shards.rows(shard)))))
    accelerator.wait_for_everyone()
    failures = shards.check()
    return VideoFeatures(ShardedTokens(shards.files, shards.rows_per_shard, shards.shape, set(failures)), failures)


def _check_numbers(shards: ShardFolder, own: Sequence[int]) -> None:
    """Check the numbers of the own shards; raise the first error of any process on all, so that none waits."""
    errors: list[str] = []
    for shard in own:
        try:
            shards.check_numbers(shard)
        except ValueError as error:
            errors.append(str(error))
    if errors := gather_object(errors):
        raise ValueError(errors[0])
