"""Several sources as one table with a weight each, and the shard of a stream that a worker reads."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np

from .randomness import generator
from .sources import PATH, is_text
from .tables import Videos, map_batches


def mix_videos(sources: Sequence[Videos], weights: Sequence[float] | None = None, seed: int = 0) -> Videos:
    """Mix several tables of videos to one in which each source has the fraction that its weight asks for.

    A source that is used up starts again until all are, so every video occurs at least once. The table grows with the
    largest ratio of size to weight, at eight bytes per row.

    Args:
        sources: tables with the column `video`, all listed or all streamed.
        weights: one positive number per source, with any sum; None takes every video once.
        seed: seed of the draws between sources.

    Returns:
        The table; for several sources it has only the column `video`.

    Raises:
        ValueError: `weights` are not one positive number per source, or missing for streams, whose sizes are unknown.
    """
    if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
        raise ValueError(
            f"weights={list(weights)} must be a number above 0 for each of {len(sources)} sources; in a run, they are "
            "video_weights"
        )
    if len(sources) == 1:
        return sources[0]
    sources = _same_type(sources)
    if weights is None:
        if isinstance(sources[0], datasets.IterableDataset):
            raise ValueError(
                "weights are needed to mix streams, because their sizes are unknown; in a run, they are video_weights"
            )
        return datasets.concatenate_datasets(sources)
    fractions = np.divide(weights, sum(weights)).tolist()
    return datasets.interleave_datasets(sources, fractions, seed, stopping_strategy="all_exhausted")


def _same_type(sources: Sequence[Videos]) -> list[Videos]:
    """Return the column `video` of each source in one type: text, or rows of bytes and path."""
    sources = [source.select_columns("video") for source in sources]
    if all(is_text(source.features["video"]) for source in sources):
        return [s if s.features["video"] == PATH else s.cast_column("video", PATH) for s in sources]
    features = datasets.Features({"video": datasets.Video(decode=False)})
    return [map_batches(source, _as_files, features) for source in sources]


def _as_files(rows: dict[str, list]) -> dict[str, list]:
    def as_file(video: Any) -> dict[str, Any]:
        if isinstance(video, str):
            return {"path": video, "bytes": None}
        return video if isinstance(video, dict) else {"path": None, "bytes": video}

    return {"video": [as_file(video) for video in rows["video"]]}


def worker_shard(
    sources: Sequence[datasets.IterableDataset],
    weights: Sequence[float] | None,
    index: int,
    num_shards: int,
    seed: int,
    epoch: int,
) -> datasets.IterableDataset:
    """Return one shard of the mixture of streams, in the order of an epoch.

    Each video is in exactly one of the `num_shards` shards. A source with at least `num_shards` files (.tar, .parquet)
    is split between files; of any other source, every shard reads all rows and keeps its own. The order of the files
    is shuffled by (seed, epoch).
    """
    shards = [
        source.shard(num_shards, index, contiguous=False)
        if source.num_shards >= num_shards
        else source.filter(partial(_is_own_row, index=index, num_shards=num_shards), with_indices=True)
        for source in sources
    ]
    mixture_seed, order_seed = (
        int(generator(purpose, seed, number).integers(2**32))
        for purpose, number in (("mixture of streams", index), ("order of shards", epoch))
    )
    stream = mix_videos(shards, weights, mixture_seed)
    stream.set_epoch(1 + order_seed)  # `datasets` shuffles the files by this number if it is above 0
    return stream


def _is_own_row(row: dict[str, Any], number: int, index: int, num_shards: int) -> bool:
    return number % num_shards == index
