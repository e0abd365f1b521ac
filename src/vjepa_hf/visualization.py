"""PNG files of the curves of a run, of masks over a clip, and of confusion matrices.

matplotlib's `Figure` needs no display and does not change the backend of `pyplot`.
"""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from .model.names import printable

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
    figure.savefig(path, dpi=100)


def _matching_names(rows: Sequence[dict[str, Any]], patterns: Sequence[str]) -> list[str]:
    """Return the metrics that match; the loss of a single mask type is skipped, because it equals `loss`."""
    matching: list[str] = []
    for pattern in patterns:
        names = dict.fromkeys(name for row in rows for name in row if fnmatch.fnmatchcase(name, pattern))
        matching += [] if pattern == "loss/mask_type_*" and len(names) == 1 else names
    return matching


def shade_masked(
    video: torch.Tensor, context_mask: torch.Tensor, tubelet_size: int, patch_size: int, dimming: float = 0.15
) -> torch.Tensor:
    """Darken the tubelets that are hidden from the context encoder.

    Args:
        video: uint8 `(T, C, H, W)`.
        context_mask: indices of the context tokens `(K,)`, in the order time, height, width.
        tubelet_size: frames per tubelet.
        patch_size: side of a tubelet in pixels.
        dimming: factor for the brightness of hidden tubelets.

    Returns:
        uint8 `(T, C, H, W)`.
    """
    T, _, H, W = video.shape
    t, h, w = T // tubelet_size, H // patch_size, W // patch_size
    brightness = torch.full((t * h * w,), dimming)
    brightness[context_mask.cpu()] = 1.0
    # (t, h, w) tokens -> (T, 1, H, W) pixels
    brightness = brightness.view(t, 1, h, w).repeat_interleave(tubelet_size, dim=0)
    brightness = brightness.repeat_interleave(patch_size, dim=2).repeat_interleave(patch_size, dim=3)
    return (video.float() * brightness).round().to(torch.uint8)


def plot_masks(
    video: torch.Tensor,
    context_masks: dict[str, torch.Tensor],
    path: str | Path,
    tubelet_size: int,
    patch_size: int,
    num_columns: int = 8,
) -> None:
    """Draw a clip, and the context of each mask below it, into one PNG.

    Args:
        video: uint8 `(T, C, H, W)`, RGB.
        context_masks: name of a mask -> indices of the context tokens `(K,)`.
        path: PNG to write.
        tubelet_size: frames per tubelet.
        patch_size: side of a tubelet in pixels.
        num_columns: number of evenly spaced frames to draw.
    """
    rows = {"clip": video} | {
        name: shade_masked(video, mask, tubelet_size, patch_size) for name, mask in context_masks.items()
    }
    columns = np.linspace(0, len(video) - 1, num_columns).round().astype(int)
    figure = Figure(figsize=(1.4 * num_columns, 1.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), num_columns, squeeze=False)
    for row, (name, frames) in zip(axes, rows.items(), strict=True):
        for axis, frame in zip(row, frames[columns], strict=True):
            axis.imshow(frame.permute(1, 2, 0).numpy())
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(printable(name), parse_math=False)
    figure.savefig(path, dpi=100)


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: str | Path, max_named: int = 40) -> None:
    """Draw a confusion matrix into one PNG. A row is a true class; the color is the fraction of its samples.

    Args:
        matrix: counts `(L, L)`, true classes by predicted classes.
        names: names of the L classes.
        path: PNG to write.
        max_named: number of classes above which names and counts are omitted.
    """
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    named = len(names) <= max_named
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
    figure.savefig(path, dpi=100)
