"""Search of the videos of a table that are nearest to a query."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .embedding import VectorEncoder
from .vector_table import TimedVectors, VectorTable


class Match(NamedTuple):
    """A video of a table, and its times that are most similar to the query.

    Attributes:
        video: name of the video.
        similarity: cosine of standardized vectors, in [-1, 1].
        times: seconds of the first and last frame in the video.
        query_times: seconds of the first and last frame in the query.
    """

    video: str
    similarity: float
    times: tuple[float, float]
    query_times: tuple[float, float]


def load_table_encoder(table: VectorTable, model: str | Path | None = None, **options: Any) -> VectorEncoder:
    """Load the encoder that made a table, with its pooling and clips.

    Args:
        table: the table.
        model: folder or Hub name of the model, if it is not where it was.
        options: `batch_size` and `num_workers` of `VectorEncoder`.

    Raises:
        OSError: the model does not exist.
        ValueError: the model, or its processor, has changed.
    """
    settings = {name: table.metadata[name] for name in ("pool", "rows", "num_clips")}
    encoder = VectorEncoder(model or table.metadata["model"], **settings, **options)
    for name, value in encoder.settings.items():
        if table.metadata[name] != value:
            raise ValueError(
                f"{table.path} was made with another {name} than that of {encoder.options['model']}: give the model "
                "that made it, or embed the videos again"
            )
    return encoder


def nearest_videos(table: VectorTable, query: TimedVectors, num_matches: int = 5) -> list[Match]:
    """Return the videos of a table that are most similar to a query, each with its most similar row.

    The search is exact: it compares the query with all rows, which are read from disk in batches.

    Args:
        table: the table.
        query: vectors of a video by the encoder of the table.
        num_matches: number of videos.

    Raises:
        ValueError: the table is damaged.
    """
    queries = table.standardize(query.vectors)
    matches: dict[str, Match] = {}
    for batch, vectors in table.batches():
        similarities = queries @ table.standardize(vectors).T  # (queries, rows)
        best, clip = similarities.max(axis=0), similarities.argmax(axis=0)
        candidates: dict[str, Match] = {}
        for row in np.argsort(-best, kind="stable"):
            video, start, end = (batch[name][row].as_py() for name in ("video", "start", "end"))
            times: tuple[float, float] = tuple(query.times[clip[row]].tolist())
            candidates.setdefault(video, Match(video, float(best[row]), (start, end), times))
            if len(candidates) == num_matches:
                break
        for video, match in candidates.items():
            if video not in matches or match.similarity > matches[video].similarity:
                matches[video] = match
        ranked = sorted(matches.values(), key=lambda match: -match.similarity)[:num_matches]
        matches = {match.video: match for match in ranked}
    return list(matches.values())
