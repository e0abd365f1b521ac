"""Several sources as one, each with its weight, and the part of a stream that a worker reads."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np

from .randomness import generator
from .sources import PATH, Videos, _is_text, _map


def mix_videos(sources: Sequence[Videos], weights: Sequence[float] | None = None, seed: int = 0) -> Videos:
    """One table of the videos of several, each source having the share that its weight asks for.

    A source that is used up begins anew until all are, so every video is there at least once. The table grows with
    the largest ratio of size to share, at eight bytes a row.

    Args:
        sources: tables with the column `video`, all listed or all streamed.
        weights: one number above 0 for each source, of any sum; None takes every video once.
        seed: of the draws between sources.

    Returns:
        The table; of several sources only the column `video`.

    Raises:
        ValueError: weights that are not one positive number a source, or missing for streams, whose sizes are not
            known.
    """
    if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
        raise ValueError(f"video_weights {list(weights)} must be a number above 0 for each of {len(sources)} sources")
    if len(sources) == 1:
        return sources[0]
    sources = _alike(sources)
    if weights is None:
        if isinstance(sources[0], datasets.IterableDataset):
            raise ValueError("video_weights are needed to mix streams: nobody knows how many videos they hold")
        return datasets.concatenate_datasets(sources)
    shares = np.divide(weights, sum(weights)).tolist()
    return datasets.interleave_datasets(sources, shares, seed, stopping_strategy="all_exhausted")


def _alike(sources: Sequence[Videos]) -> list[Videos]:
    """The column `video` of each source, in one type: paths become files without bytes where others have bytes."""
    sources = [source.select_columns("video") for source in sources]
    if all(_is_text(source.features["video"]) for source in sources):
        return [_as_text(source) for source in sources]
    features = datasets.Features({"video": datasets.Video(decode=False)})
    return [_map(source, _as_files, features) for source in sources]


def _as_text(source: Videos) -> Videos:
    return source if source.features["video"] == PATH else source.cast_column("video", PATH)


def _as_files(rows: dict[str, list]) -> dict[str, list]:
    return {"video": [_as_file(video) for video in rows["video"]]}


def _as_file(video: Any) -> dict[str, Any]:
    if isinstance(video, str):
        return {"path": video, "bytes": None}
    return video if isinstance(video, dict) else {"path": None, "bytes": video}


def part_of_stream(
    sources: Sequence[datasets.IterableDataset],
    weights: Sequence[float] | None,
    index: int,
    num_parts: int,
    seed: int,
    epoch: int,
) -> datasets.IterableDataset:
    """Part `index` of the mixture of streams, in the order of an epoch. The parts overlap in nothing and lose nothing.

    A source with at least `num_parts` shards (files of .tar, .parquet) is cut between shards; of another one every
    part reads all and keeps its own rows. Shards are shuffled by (seed, epoch).
    """
    parts = [
        source.shard(num_parts, index, contiguous=False)
        if source.num_shards >= num_parts
        else source.filter(partial(_is_own, index=index, num_parts=num_parts), with_indices=True)
        for source in sources
    ]
    stream = mix_videos(parts, weights, _library_seed("mixture of streams", seed, index))
    stream.set_epoch(
        1 + _library_seed("order of shards", seed, epoch)
    )  # an epoch above 0 is the seed of the order of the shards
    return stream


def _is_own(row: dict[str, Any], number: int, index: int, num_parts: int) -> bool:
    return number % num_parts == index


def _library_seed(purpose: str, seed: int, number: int) -> int:
    """A seed for the random numbers that `datasets` draws itself."""
    return int(generator(purpose, seed, number).integers(2**32))
