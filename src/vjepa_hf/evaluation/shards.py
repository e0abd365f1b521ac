"""Features in a folder of safetensors shards, which record their origin and are validated when they are read.

A shard holds consecutive rows of the list of videos, one tensor per video. Its metadata have the fingerprint of the
encoder, the settings of the clips, the precision, the names of the videos, and the failures.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..data.videos import VideoFailure
from ..files import whole_file
from ..model.modeling_vjepa import VJEPAModel
from .views import Clips

SHARD_BYTES = 2**28  # maximum size: a shard is held in memory before it is written
SHARD_ROWS = 128  # maximum number of rows, so that every process gets some shards


class ShardedTokens:
    """Tokens in safetensors shards, with the interface of an array; rows are read when they are indexed.

    Attributes:
        shape: (n, N, D) with one view per video, else (n, V, N, D).
    """

    def __init__(self, files: Sequence[Path], rows_per_shard: int, shape: tuple[int, ...], missing: set[int]) -> None:
        self.files, self.rows_per_shard, self.shape, self.missing = list(files), rows_per_shard, shape, missing
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return float16 rows; a pair (rows, slice) also slices the second axis. Unreadable videos are zero."""
        rows, part = key if isinstance(key, tuple) else (key, slice(None))
        rows = np.arange(len(self))[rows]
        if rows.ndim == 0:
            return self._row(int(rows), part)
        tokens = [self._row(int(row), part) for row in rows]
        return np.stack(tokens) if tokens else np.empty((0, *self.shape[1:]), np.float16)[:, part]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float16)

    def _row(self, row: int, part: slice) -> np.ndarray:
        if row in self.missing:
            return np.zeros(self.shape[1:], np.float16)[part]
        shard = row // self.rows_per_shard
        if shard not in self._open:
            self._open[shard] = safe_open(self.files[shard], framework="np")
        return self._open[shard].get_slice(str(row))[part]


class ShardFolder:
    """Shard files of a list of videos, for one encoder and one setting of clips."""

    def __init__(self, folder: Path, names: list[str], model: VJEPAModel, clips: Clips, precision: str) -> None:
        self.folder, self.names = folder, names
        tokens = (int(np.prod(model.config.grid_size)), model.config.hidden_size)
        self.shape = (len(names), *tokens) if clips.num_views == 1 else (len(names), clips.num_views, *tokens)
        row_bytes = 2 * int(np.prod(self.shape[1:]))
        self.rows_per_shard = min(SHARD_ROWS, max(1, SHARD_BYTES // row_bytes))
        count = -(-len(names) // self.rows_per_shard)
        self.files = [folder / f"{index:05}-of-{count:05}.safetensors" for index in range(count)]
        self.origin = {
            "encoder": encoder_fingerprint(model),
            "clips": json.dumps(clips.settings, sort_keys=True, default=str),
            "precision": precision,
        }

    def rows(self, shard: int) -> range:
        """Return the rows of a shard."""
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, len(self.names)))

    def write(self, shard: int, rows: Mapping[int, torch.Tensor | VideoFailure]) -> None:
        """Write a complete shard, or none if the write is interrupted.

        Args:
            shard: index of the shard.
            rows: row -> float16 tokens `(V, N, D)`, or failure.

        Raises:
            ValueError: the tokens do not have the shape that the model is configured for.
        """
        failures = {row: value.cause for row, value in rows.items() if isinstance(value, VideoFailure)}
        tensors = {str(row): self._checked(value) for row, value in rows.items() if isinstance(value, torch.Tensor)}
        with whole_file(self.files[shard]) as unfinished:
            save_file(tensors, unfinished, self._metadata(shard) | {"failures": json.dumps(failures)})

    def check(self) -> dict[int, VideoFailure]:
        """Validate the shards on disk and return the failures that they record, by row.

        Raises:
            ValueError: the folder has other shards, or a shard is damaged or has another origin.
        """
        others = sorted({file.name for file in self.folder.glob("*.safetensors")} - {f.name for f in self.files})
        if others:
            raise ValueError(f"{self.folder} also has {others[0]}: give another folder, or delete this one")
        failures: dict[int, VideoFailure] = {}
        for shard, file in enumerate(self.files):
            if file.exists():
                failures |= self._check_shard(shard)
        return failures

    def _metadata(self, shard: int) -> dict[str, str]:
        return self.origin | {"videos": json.dumps([self.names[row] for row in self.rows(shard)])}

    def _checked(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens if len(self.shape) == 4 else tokens[0]
        if tokens.shape != self.shape[1:]:
            raise ValueError(
                f"clips give tokens of shape {tuple(tokens.shape)}, but the model is configured for {self.shape[1:]}; "
                "set num_frames and crop_size of the processor to those of the model."
            )
        return tokens.contiguous()

    def _check_shard(self, shard: int) -> dict[int, VideoFailure]:
        file = self.files[shard]
        try:
            with safe_open(file, framework="np") as tensors:
                metadata, keys = tensors.metadata() or {}, set(tensors.keys())
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): delete it") from error
        for name, value in self._metadata(shard).items():
            if metadata.get(name) != value:
                raise ValueError(
                    f"{file} was made with other {name}: {_difference(metadata.get(name, 'unknown'), value)}; "
                    "give another folder, or delete this one"
                )
        causes = {int(row): cause for row, cause in json.loads(metadata["failures"]).items()}
        if keys != {str(row) for row in self.rows(shard) if row not in causes}:
            raise ValueError(f"{file} does not have the rows of its videos: delete it")
        return {row: VideoFailure(self.names[row], cause) for row, cause in causes.items()}


def _difference(text: str, expected: str) -> str:
    """Quote two texts around the first character where they differ."""
    start = max(0, len(os.path.commonprefix([text, expected])) - 20)
    return f"{text[start : start + 60]!r} instead of {expected[start : start + 60]!r}"


def encoder_fingerprint(model: VJEPAModel) -> str:
    """Hash the weights of an encoder and the settings that affect its features."""
    digest = hashlib.blake2b(digest_size=16)
    fields = type(model.config).__annotations__
    settings = {name: getattr(model.config, name) for name in fields if "pool" not in name and "pred_" not in name}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in model.encoder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
