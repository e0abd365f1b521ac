"""Confusion matrices as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..files import whole_file
from ..model.names import printable

MAX_NAMED = 40  # with more classes, names and counts are omitted


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: str | Path) -> None:
    """Draw a confusion matrix into one PNG. A row is a true class; the color is the fraction of its samples.

    Args:
        matrix: counts `(L, L)`, true classes by predicted classes.
        names: names of the L classes.
        path: PNG to write.
    """
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    named = len(names) <= MAX_NAMED
    labels = [printable(name) for name in names]  # and `$` is only a letter: names come from files
    side = max(4.0, 0.45 * len(names)) if named else 9.0
    figure = Figure(figsize=(side + 1.5, side + 1), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    if named:
        axis.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axis.set_yticks(range(len(names)), labels, parse_math=False)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            color = "white" if fractions[row, column] > 0.5 else "black"
            axis.text(column, row, matrix[row, column], ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, label="fraction of the true class", fraction=0.046)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")
