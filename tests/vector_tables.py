"""Tables of vectors without an encoder."""

from pathlib import Path

import numpy as np

from vjepa_hf.evaluation.vector_table import TableParts, TimedVectors, VectorTable


def write_table(path: Path, vectors: np.ndarray, clips: int) -> VectorTable:
    """Write `clips` rows for each of the videos 0.mp4, 1.mp4, ...; clip i is at i to i + 0.5 seconds."""
    videos = [f"{number}.mp4" for number in range(len(vectors) // clips)]
    parts = TableParts(path, videos, {"rows": "clip"}, vectors.shape[1])
    parts.is_finished()
    times = np.arange(clips)[:, None] + np.array([0, 0.5])
    results = [TimedVectors(of_video, times) for of_video in vectors.reshape(len(videos), clips, -1)]
    for part in range(len(parts.files)):
        rows = parts.rows(part)
        parts.write(part, results[rows.start : rows.stop])
    parts.merge([])
    return VectorTable(path)
