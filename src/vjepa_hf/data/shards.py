"""Streams of shards, in which a damaged or missing shard is a video that cannot be read."""

import logging
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import datasets

from ..model.names import printable
from ..model.video_inputs import failed_video, video_name
from ..model.video_sources import without_secrets
from .tables import escaped, named_errors, undecoded

logger = logging.getLogger(__name__)


def shard_features(builder: str, file: str) -> datasets.Features:
    """Return the types of the columns of a shard; videos and images in it are not decoded.

    Raises:
        ValueError: the shard cannot be read.
    """
    with named_errors(printable(file)):
        features = _open(builder, file).features
        if features is None:
            raise ValueError("its columns have no types")
    return datasets.Features({name: undecoded(column) for name, column in features.items()})


def stream_shards(
    builder: str, files: list[str], features: datasets.Features, video_column: str
) -> datasets.IterableDataset:
    """Stream the rows of shards. A shard that ends with an error has one more row, the `failed_video` with the cause.

    So the shard is named and counted like a damaged video. Bytes of videos become `{"bytes": ..., "path": ...}`.

    Args:
        builder: parquet or webdataset.
        files: paths or addresses of the shards.
        features: types of the columns, those of `shard_features`.
        video_column: column of the videos.
    """
    if getattr(features[video_column], "dtype", None) in ("binary", "large_binary"):
        features = datasets.Features(features | {video_column: datasets.Video(decode=False)})
    arguments = {"files": files, "builder": builder, "features": features, "video_column": video_column}
    return datasets.IterableDataset.from_generator(_rows, features=features, gen_kwargs=arguments)


def _rows(files: list[str], builder: str, features: datasets.Features, video_column: str) -> Iterator[dict[str, Any]]:
    for file in files:
        try:
            # `iter` does not split a stream over the workers of a loader.
            for batch in _open(builder, file, features=features).iter(batch_size=1):
                yield {name: values[0] for name, values in batch.items()}
            if builder == "webdataset":
                check_end(file)
        except Exception as error:  # noqa: BLE001  readers and file systems raise any type
            cause = error.__cause__ or error
            reason = printable(without_secrets(f"{type(cause).__name__}: {cause}", file))
            video = failed_video(file if "://" in file else os.path.abspath(file), reason)
            logger.warning("skipped the rest of the shard %s, which cannot be read: %s", video_name(video), reason)
            is_text = getattr(features[video_column], "dtype", None) in ("string", "large_string")
            yield dict.fromkeys(features) | {video_column: video if is_text else {"path": video, "bytes": None}}


def _open(builder: str, file: str, **options: Any) -> datasets.IterableDataset:
    return datasets.load_dataset(builder, data_files=escaped([file]), split="train", streaming=True, **options)


def check_end(file: str) -> None:
    """Check that the members of a local .tar file reach to its end; `tarfile` takes a damaged one for the end.

    Raises:
        ReadError: they do not.
    """
    if "://" in file:
        return
    with tarfile.open(file) as archive:
        for _ in archive:
            pass
        content: Any = archive.fileobj  # decompressed
        content.seek(max(0, archive.offset - 1))
        last, following = content.read(1), content.read(tarfile.BLOCKSIZE)
        if not last:
            raise tarfile.ReadError("unexpected end of data")
        if following.strip(b"\0"):
            raise tarfile.ReadError("it is damaged after its last readable member")
