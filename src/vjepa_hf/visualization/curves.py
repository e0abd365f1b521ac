"""Curves of a run as a PNG file."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from ..files import whole_file
from ..model.names import printable

# Patterns of the metrics in each plot, and its title.
CURVES = (
    (("loss", "loss/mask_type_*"), "loss (L1), and the loss of each mask type"),
    (("loss/time_*",), "loss of each time step"),
    (("loss_ratio", "copy_ratio"), "loss / loss of a trivial prediction"),
    (("context_encoder_grad_norm", "predictor_grad_norm"), "gradient norm"),
    (("target_std", "context_std", "prediction_std"), "feature std over tokens"),
    (("target_rank", "context_rank", "prediction_rank"), "effective rank"),
    (("target_dead", "context_dead", "prediction_dead"), "fraction of dead features"),
    (("encoder_distance",), "distance between the encoders"),
    (("learning_rate",), "learning rate"),
    (("weight_decay",), "weight decay"),
    (("ema_momentum",), "EMA momentum"),
    (("clips_per_second",), "clips per second"),
)


def plot_curves(rows: Sequence[dict[str, Any]], path: str | Path, title: str = "") -> None:
    """Draw the metrics of a run's log over its steps into one PNG.

    Args:
        rows: rows of `training.read_log`, each with any of the metrics.
        path: PNG to write.
        title: title of the figure.
    """
    figure = Figure(figsize=(16, 9), layout="constrained")
    axes = figure.subplots(3, 4, sharex=True)
    for axis, (patterns, label) in zip(axes.flat, CURVES, strict=True):
        names = _matching_names(rows, patterns)
        for number, name in enumerate(names):
            points = [(row["step"], row[name]) for row in rows if name in row]
            color = {"color": colormaps["viridis"](number / len(names))} if "/" in name else {}
            axis.plot(*zip(*points, strict=True), label=name.rpartition("/")[2], linewidth=1.4, **color)
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axis.legend(fontsize=8, frameon=False, ncols=1 + len(names) // 5)
    for axis in axes[-1]:
        axis.set_xlabel("optimizer step")
    figure.suptitle(printable(title), parse_math=False)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")


def _matching_names(rows: Sequence[dict[str, Any]], patterns: Sequence[str]) -> list[str]:
    """Return the metrics that match; the loss of a single mask type is skipped, because it equals `loss`."""
    matching: list[str] = []
    for pattern in patterns:
        names = dict.fromkeys(name for row in rows for name in row if fnmatch.fnmatchcase(name, pattern))
        matching += [] if pattern == "loss/mask_type_*" and len(names) == 1 else names
    return matching
