"""Parquet table of the vectors of videos, written in parts of which an interrupted run keeps the complete ones."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.videos import VideoFailure
from ..files import whole_file
from ..model.video_inputs import video_name
from .shards import video_version

PART_VIDEOS = 64
GROUP_PARTS = 128  # parts per row group of the table
KEY = b"vjepa_hf"  # of the metadata of a file


@dataclass(frozen=True)
class TimedVectors:
    """Vectors of a video.

    Attributes:
        vectors: float32 `(V, D)`, or `(1, D)` of the whole video.
        times: seconds of the first and the last frame of each vector, `(V, 2)` or `(1, 2)`.
    """

    vectors: np.ndarray
    times: np.ndarray


class VectorTable:
    """A table on disk, which is read in batches.

    Attributes:
        path: the file.
        metadata: model, pooling, clips, and fingerprints of what made the vectors.
        failures: the unreadable videos, which have no row.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a table of vectors, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata = _read_metadata(self.path)
        self.failures = _failures(self.metadata.pop("failures"))

    def __len__(self) -> int:
        return pq.read_metadata(self.path).num_rows

    def batches(self, size: int = 8192) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """Yield at most `size` rows at a time, and their vectors, float32 `(n, D)`.

        Raises:
            ValueError: the file is damaged.
        """
        with _named_damage(self.path), pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(size):
                yield batch, batch["vector"].flatten().to_numpy().reshape(len(batch), -1)

    def standardize(self, vectors: np.ndarray) -> np.ndarray:
        """Shift and scale each feature to mean 0 and variance 1 over the table, then scale vectors to length 1.

        Their products are similarities. Without it, the few features of large mean or variance decide: all cosines of
        a table may be above 0.9.

        Args:
            vectors: `(..., D)`, of the table or of a query.

        Raises:
            ValueError: the file is damaged.
        """
        mean, deviation = self._statistics
        scaled = ((vectors - mean) / deviation).astype(np.float32)
        return scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), np.finfo(np.float32).tiny)

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each feature `(D,)`; 0 and 1 for a table of one row."""
        if len(self) < 2:
            return np.zeros(()), np.ones(())
        total: Any = 0.0
        for _, vectors in self.batches():
            total += np.stack(
                [vectors.sum(axis=0, dtype=np.float64), np.square(vectors, dtype=np.float64).sum(axis=0)]
            )
        mean, square = total / len(self)
        # Rounding leaves a constant feature with a variance near 0, which must not be scaled up.
        variance = np.maximum(square - mean**2, 0)
        return mean, np.sqrt(np.where(variance > 1e-12 * square, variance, 1))


class TableParts:
    """Parts of the table of a list of videos, in the folder `OUTPUT.parts`.

    Args:
        output: the table.
        videos: values of the column `video` of a source.
        settings: everything else that affects the vectors.
        width: D.
    """

    def __init__(self, output: Path, videos: Sequence[Any], settings: Mapping[str, Any], width: int) -> None:
        self.output, self.videos, self.settings = output, videos, dict(settings)
        self.folder = output.with_name(f"{output.name}.parts")
        self.files = [self.folder / f"{part:06}.parquet" for part in range(-(-len(videos) // PART_VIDEOS))]
        vector = pa.list_(pa.field("element", pa.float32(), nullable=False), width)
        columns = {"video": pa.string(), "start": pa.float64(), "end": pa.float64(), "vector": vector}
        self.schema = pa.schema(columns)

    def is_finished(self) -> bool:
        """Return whether the table exists; if not, make the folder of the parts.

        Raises:
            OSError: the folder cannot be written.
            ValueError: the table exists and is of other videos or settings.
        """
        if not self.output.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            return False
        metadata = _read_metadata(self.output)
        for name, value in (self.settings | {"videos": self._fingerprint(range(len(self.videos)))}).items():
            if metadata.get(name) != value:
                raise ValueError(
                    f"{self.output} exists and was made with other {name}; choose another name, or delete the file"
                )
        return True

    def rows(self, part: int) -> range:
        """Return the rows of a part in the list of videos."""
        return range(part * PART_VIDEOS, min((part + 1) * PART_VIDEOS, len(self.videos)))

    def is_complete(self, part: int) -> bool:
        """Return whether a part is on disk, undamaged, and of these videos, as they are now, and settings."""
        try:
            metadata = _read_metadata(self.files[part])
            self._read(part)
        except (OSError, ValueError):
            return False
        return metadata == self._metadata(self.rows(part), _failures(metadata.get("failures", [])))

    def write(self, part: int, results: Sequence[TimedVectors | VideoFailure]) -> None:
        """Write the results of the videos of a part.

        Raises:
            ValueError: a vector is not finite.
        """
        tables = [self.schema.empty_table()]
        failures: list[VideoFailure] = []
        for row, result in zip(self.rows(part), results, strict=True):
            if isinstance(result, VideoFailure):
                failures.append(result)
            else:
                tables.append(self._as_table(video_name(self.videos[row]), result))
        with self._writer(self.files[part], self.rows(part), failures) as writer:
            writer.write_table(pa.concat_tables(tables))

    def failures(self) -> list[VideoFailure]:
        """Return the unreadable videos of all parts.

        Raises:
            ValueError: no video can be read.
        """
        failures = [failure for file in self.files for failure in _failures(_read_metadata(file)["failures"])]
        if len(failures) == len(self.videos):
            raise ValueError(f"none of {len(failures)} videos can be read; the first: {failures[0]}")
        return failures

    def merge(self, failures: Sequence[VideoFailure]) -> None:
        """Write the table, and remove the parts.

        Raises:
            ValueError: a part is damaged.
        """
        with self._writer(self.output, range(len(self.videos)), failures) as writer:
            for first in range(0, len(self.files), GROUP_PARTS):
                parts = range(first, min(first + GROUP_PARTS, len(self.files)))
                writer.write_table(pa.concat_tables(map(self._read, parts)).combine_chunks())
        shutil.rmtree(self.folder)

    def _as_table(self, name: str, result: TimedVectors) -> pa.Table:
        if not np.isfinite(result.vectors).all():
            raise ValueError(f"the vector of {name} is not finite: the encoder or its precision is at fault")
        vectors = pa.array(result.vectors.astype(np.float32).ravel())
        columns = [pa.array([name] * len(result.times)), *map(pa.array, result.times.T)]
        vector = pa.FixedSizeListArray.from_arrays(vectors, type=self.schema.field("vector").type)
        return pa.Table.from_arrays([*columns, vector], schema=self.schema)

    def _read(self, part: int) -> pa.Table:
        with _named_damage(self.files[part]):
            return pq.read_table(self.files[part], page_checksum_verification=True).replace_schema_metadata()

    @contextmanager
    def _writer(self, path: Path, rows: range, failures: Sequence[VideoFailure]) -> Iterator[pq.ParquetWriter]:
        metadata = {KEY: json.dumps(self._metadata(rows, failures)).encode()}
        with whole_file(path) as unfinished:
            schema = self.schema.with_metadata(metadata)
            # Vectors do not compress, and a dictionary of them would only take time.
            options = {"compression": {"video": "zstd"}, "use_dictionary": ["video"], "write_page_checksum": True}
            with pq.ParquetWriter(unfinished, schema, **options) as writer:
                yield writer

    def _metadata(self, rows: range, failures: Sequence[VideoFailure]) -> dict[str, Any]:
        pairs = [[failure.video, failure.cause] for failure in failures]
        return self.settings | {"videos": self._fingerprint(rows), "failures": pairs}

    def _fingerprint(self, rows: range) -> str:
        """Hash names, sizes and modification times of videos."""
        digest = hashlib.blake2b(digest_size=16)
        for row in rows:
            video = self.videos[row]
            digest.update(json.dumps([video_name(video), video_version(video)]).encode())
        return digest.hexdigest()


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a table or of a part.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a table of vectors, or is damaged.
    """
    with _named_damage(path):
        metadata = pq.read_schema(path).metadata or {}
    if KEY not in metadata:
        raise ValueError(f"{path} is not a table of vectors; write one with `vjepa-hf embed`")
    return json.loads(metadata[KEY])


def _failures(pairs: Sequence[Sequence[str]]) -> list[VideoFailure]:
    return [VideoFailure(video, cause) for video, cause in pairs]


@contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into a ValueError that names the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged, or not a parquet file ({error}); delete it and rerun") from error
