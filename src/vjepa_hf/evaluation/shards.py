"""Features in a folder of safetensors shards, which record their origin and are validated when they are read.

A shard holds consecutive rows of the list of videos, one tensor per video. Its metadata have the fingerprint of the
encoder, its layers, the settings of the clips, the precision, the names and versions of the videos, the failures, and
a checksum of the numbers.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..data.videos import VideoFailure
from ..files import whole_file
from ..model.modeling_vjepa import VJEPAModel
from ..model.video_inputs import video_name
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
    """Shard files of a list of videos, for layers of one encoder, one setting of clips and one pooler, or none."""

    def __init__(
        self,
        folder: Path,
        videos: Iterable[Any],
        model: VJEPAModel,
        clips: Clips,
        precision: str,
        pooler: torch.nn.Module | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.folder = folder
        known = [(video_name(video), video_version(video)) for video in videos]
        self.names, self.versions = [name for name, _ in known], [version for _, version in known]
        names = self.names
        layers = layers or [model.config.num_hidden_layers - 1]
        num_tokens = int(np.prod(model.config.grid_size)) * len(layers)
        tokens = (1 if pooler else num_tokens, model.config.hidden_size)
        self.shape = (len(names), *tokens) if clips.num_views == 1 else (len(names), clips.num_views, *tokens)
        self.layout = ("F32" if pooler else "F16", self.shape[1:])
        row_bytes = (4 if pooler else 2) * int(np.prod(self.shape[1:]))
        self.rows_per_shard = min(SHARD_ROWS, max(1, SHARD_BYTES // row_bytes))
        count = -(-len(names) // self.rows_per_shard)
        self.files = [folder / f"{index:05}-of-{count:05}.safetensors" for index in range(count)]
        self.origin = {
            "encoder": encoder_fingerprint(model),
            "layers": json.dumps(list(layers)),
            "clips": json.dumps(clips.settings, sort_keys=True, default=str),
            "precision": precision,
        }
        if pooler is not None:
            self.origin["pooler"] = weights_fingerprint(pooler)

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
        metadata = self._metadata(shard) | {
            "versions": json.dumps([self.versions[row] for row in self.rows(shard)]),
            "failures": json.dumps(failures),
            "checksum": _checksum(tensors, lambda name: tensors[name].numpy()),
        }
        with whole_file(self.files[shard]) as unfinished:
            save_file(tensors, unfinished, metadata)

    def check(self) -> dict[int, VideoFailure]:
        """Validate what the shards on disk record about themselves, and return their failures, by row.

        Raises:
            ValueError: the folder has other shards, or a shard is damaged, has another origin, or is of a video that
                was written again.
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

    def check_numbers(self, shard: int) -> None:
        """Compare the numbers of a shard on disk, which `check` accepted, with their checksum; this reads all of them.

        Raises:
            ValueError: the numbers are not those that were written.
        """
        file = self.files[shard]
        with safe_open(file, framework="np") as tensors:
            if _checksum(tensors.keys(), tensors.get_tensor) != tensors.metadata()["checksum"]:
                raise ValueError(f"{file} is damaged (its numbers do not have its checksum): delete it")

    def _check_shard(self, shard: int) -> dict[int, VideoFailure]:
        file = self.files[shard]
        try:
            with safe_open(file, framework="np") as tensors:
                metadata = tensors.metadata() or {}
                layouts = {name: (view.get_dtype(), tuple(view.get_shape())) for name, view in _views(tensors)}
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): delete it") from error
        for name, value in self._metadata(shard).items():
            if metadata.get(name) != value:
                raise ValueError(
                    f"{file} was made with other {name}: {_difference(metadata.get(name, 'unknown'), value)}; "
                    "give another folder, or delete this one"
                )
        causes, versions = _read_records(file, metadata, self.rows(shard))
        for row, version in zip(self.rows(shard), versions, strict=True):
            # A video that is not there any more, and a URL, have no version now.
            if self.versions[row] not in (version, None):
                raise ValueError(
                    f"{self.names[row]} was written again after its features in {file} (now {self.versions[row]}, "
                    f"then {version}); give another folder, or delete that shard"
                )
        if layouts != {str(row): self.layout for row in self.rows(shard) if row not in causes}:
            raise ValueError(f"{file} is damaged (it does not have the rows of its videos): delete it")
        return {row: VideoFailure(self.names[row], cause) for row, cause in causes.items()}


def video_version(video: Any) -> str | None:
    """Return what changes when a video is written again under its name; None for a remote URL or a missing file.

    For a file it is size and modification time, for a folder those of its files, for a video in memory its hash.
    """
    if isinstance(video, dict):
        video = video["path"] if video.get("bytes") is None else video["bytes"]
    if not isinstance(video, str | os.PathLike):
        return None if video is None else f"hash {_hash(video)}"
    path = os.fspath(video)
    if path.startswith("file://"):
        path = url2pathname(urlsplit(path).path)
    try:
        if os.path.isdir(path):
            files = [f"{file.name}: {_size_and_time(file)}" for file in sorted(Path(path).iterdir())]
            return f"files with hash {_hash(files)}"
        return _size_and_time(Path(path))
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None


def _size_and_time(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size} bytes, modified at {status.st_mtime_ns} ns"


def _hash(video: Any) -> str:
    """Hash text, bytes, a binary file object, an array, or a list of these."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(video, list | tuple):
        digest.update("".join(map(_hash, video)).encode())
    elif isinstance(video, str):
        digest.update(video.encode(errors="surrogateescape"))
    elif hasattr(video, "read") and hasattr(video, "seek"):
        video.seek(0)
        digest.update(video.read())
        video.seek(0)
    else:
        array = np.asarray(video if not isinstance(video, bytes) else memoryview(video))
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _views(tensors: Any) -> list[tuple[str, Any]]:
    return [(name, tensors.get_slice(name)) for name in tensors.keys()]  # noqa: SIM118  not a dict


def _checksum(names: Iterable[str], read: Callable[[str], np.ndarray]) -> str:
    """Hash arrays by name."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(names):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(read(name)).view(np.uint8).data)
    return digest.hexdigest()


def _read_records(file: Path, metadata: Mapping[str, str], rows: range) -> tuple[dict[int, str], list[str | None]]:
    """Return the causes of the failures by row, and the versions of the videos."""
    try:
        causes = {int(row): cause for row, cause in json.loads(metadata["failures"]).items()}
        versions = json.loads(metadata["versions"])
        if not all(row in rows and isinstance(cause, str) for row, cause in causes.items()):
            raise ValueError("failures of other rows")
        if not isinstance(versions, list) or len(versions) != len(rows) or "checksum" not in metadata:
            raise ValueError("versions or checksum are missing")
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged, or of an older version of vjepa_hf ({type(error).__name__}: {error}): delete it"
        ) from error
    return causes, versions


def _difference(text: str, expected: str) -> str:
    """Quote two texts around the first character where they differ."""
    start = max(0, len(os.path.commonprefix([text, expected])) - 20)
    return f"{text[start : start + 60]!r} instead of {expected[start : start + 60]!r}"


def encoder_fingerprint(model: VJEPAModel) -> str:
    """Hash the weights of an encoder and the settings that affect its features."""
    fields = type(model.config).__annotations__
    settings = {name: getattr(model.config, name) for name in fields if "pool" not in name and "pred_" not in name}
    return weights_fingerprint(model.encoder, json.dumps(settings, sort_keys=True, default=str))


def weights_fingerprint(module: torch.nn.Module, settings: str = "") -> str:
    """Hash the weights of a module and a text; a module without weights is identified by the name of its class."""
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    state = module.state_dict()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest() if state else type(module).__name__
