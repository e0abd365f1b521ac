"""Tables of `datasets` from files: cached by content, with errors that name the file or the cache that is damaged."""

import csv
import errno
import glob
import hashlib
import json
import os
import tarfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import datasets
import pyarrow

from ..model.names import printable

Videos: TypeAlias = datasets.Dataset | datasets.IterableDataset
BATCH_ROWS = 10_000  # rows of a list that are mapped at once
SHARDS = ("parquet", "webdataset")  # builders of files that may be too large to read whole for their key
SHARD_BYTES = 2**24  # of the beginning and of the end of a shard that are part of its key
# Errors of `datasets` and its readers for files that are missing, empty or not of the kind that their suffix says.
READER_ERRORS = (
    datasets.exceptions.DatasetsError,
    pyarrow.ArrowException,
    tarfile.TarError,
    csv.Error,
    Warning,
    OSError,
    EOFError,
    ValueError,
    IndexError,
    RecursionError,  # deeply nested values
    StopIteration,
)
# What the readers say about a file without rows.
EMPTY = (
    "Please pass `features`",
    "corresponds to no data",
    "No columns to parse",
    "Must pass at least one table",
    "BatchSize must be greater than 0",
    "file size is 0 bytes",
    "empty file",
)


def read_table(builder: str, files: list[str], **options: Any) -> datasets.Dataset:
    """Read files into a memory-mapped table, or map the table in the cache that was made of files with this content.

    Args:
        builder: builder of `datasets`: csv, json, text, parquet or webdataset.
        files: paths or addresses.
        options: options of the builder.

    Raises:
        ValueError: a file cannot be read, or the cache is damaged or full.
    """
    with named_errors(name_of(files)), warnings.catch_warnings():
        warnings.filterwarnings("error", "Length of header or names")  # pandas drops cells
        key = _content_key(files, builder in SHARDS)
        try:
            prepared = datasets.load_dataset_builder(builder, data_files=escaped(files), name=key, **options)
        except json.JSONDecodeError as error:  # no file was read yet
            raise _cache_error(str(datasets.config.HF_DATASETS_CACHE), error) from error
        prepared.download_and_prepare()
        with _cache_errors(prepared.cache_dir):
            return prepared.as_dataset(split="train")


def map_batches(videos: Videos, function: Callable, features: datasets.Features, **options: Any) -> Videos:
    """Apply a function of batches of rows; the result of a `Dataset` is memory-mapped too.

    Raises:
        ValueError: the cache is damaged or full.
    """
    files = getattr(videos, "cache_files", [])
    folder = os.path.dirname(files[0]["filename"]) if files else str(datasets.config.HF_DATASETS_CACHE)
    with _cache_errors(folder):
        return videos.map(function, batched=True, batch_size=BATCH_ROWS, features=features, **options)


def undecoded(feature: Any) -> Any:
    """Return the type of a column without decoding its media; JSON is decoded."""
    is_media = getattr(feature, "decode", False) and not isinstance(feature, datasets.Json)
    return type(feature)(decode=False) if is_media else feature


def escaped(files: list[str]) -> list[str]:
    """Return names in which `datasets` sees no pattern."""
    return [file if "://" in file else glob.escape(file) for file in files]


def name_of(files: list[str]) -> str:
    """Return a printable name of files of one kind."""
    first = printable(files[0])
    return first if len(files) == 1 else f"{first}, or one of {len(files) - 1} like it,"


@contextmanager
def named_errors(source: str) -> Iterator[None]:
    """Turn any error of the readers of files into a ValueError that names the source."""
    try:
        yield
    except _CacheError:
        raise
    except READER_ERRORS as error:
        if _is_disk_full(error):
            raise _cache_error(str(datasets.config.HF_DATASETS_CACHE), error) from error
        cause = error.__cause__ or error
        reason = printable(str(cause).strip())
        if isinstance(cause, IndexError | StopIteration) or any(text in reason for text in EMPTY):
            reason = "it is empty"
        raise ValueError(f"{source} cannot be read: {reason}") from error


class _CacheError(ValueError):
    """Error of the cache of `datasets`, for which no source is to blame."""


@contextmanager
def _cache_errors(folder: str) -> Iterator[None]:
    """Turn errors of the cache into one that names its folder."""
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise _cache_error(folder, error) from error
    except ValueError as error:
        if _is_disk_full(error):
            raise _cache_error(folder, error) from error
        raise


def _cache_error(folder: str, error: BaseException) -> _CacheError:
    folder = printable(folder)
    if _is_disk_full(error):
        return _CacheError(
            f"the disk of the cache of `datasets`, {folder}, is full; free space or set HF_DATASETS_CACHE"
        )
    return _CacheError(f"the cache of `datasets` in {folder} is damaged; delete this folder and try again: {error}")


def _is_disk_full(error: BaseException | None) -> bool:
    """Return whether a full disk is among the causes of an error; a file that is closed then raises others."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _content_key(files: list[str], are_shards: bool) -> str | None:
    """Return a hash of the content of files, whose times and sizes may be those of an older version.

    Of large shards, it has the size, the times, the beginning and the end. Addresses have None, because `datasets`
    asks their server.
    """
    if any("://" in file for file in files):
        return None
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        status = os.stat(file)
        digest.update(f"{status.st_size} ".encode())
        with open(file, "rb") as opened:
            if are_shards and status.st_size > 2 * SHARD_BYTES:
                digest.update(f"{status.st_mtime_ns} {status.st_ctime_ns} ".encode())
                digest.update(opened.read(SHARD_BYTES))
                opened.seek(-SHARD_BYTES, os.SEEK_END)
            while part := opened.read(2**20):
                digest.update(part)
    return digest.hexdigest()
