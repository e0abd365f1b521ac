"""Rows of evenly spaced frames and maps of a video, as one figure."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ..model.names import printable


def plot_strips(rows: Mapping[str, np.ndarray], num_columns: int = 8) -> Figure:
    """Draw one row of pictures per entry; all maps share one range of colors, and nan is gray.

    Args:
        rows: name of a row -> uint8 frames `(n, H, W, 3)`, or maps `(n, h, w)`.
        num_columns: number of evenly spaced pictures of a row.
    """
    maps = [row[np.isfinite(row)] for row in rows.values() if row.ndim == 3]
    values = np.concatenate(maps) if maps else np.empty(0)
    limits = (values.min(), values.max()) if values.size else (0.0, 1.0)
    colors = colormaps["inferno"].with_extremes(bad="gray")
    figure = Figure(figsize=(1.4 * num_columns, 1.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), num_columns, squeeze=False)
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        columns = np.linspace(0, len(pictures) - 1, num_columns).round().astype(int)
        for axis, picture in zip(row, pictures[columns], strict=True):
            axis.imshow(picture, cmap=colors, vmin=limits[0], vmax=limits[1])
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(printable(name), parse_math=False)
    return figure
