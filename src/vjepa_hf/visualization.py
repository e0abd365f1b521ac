"""Pictures: the curves of a run, masks over a clip, what a classifier confuses, and boxes with what happens there."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")  # files only: a training node has no screen
from matplotlib import pyplot  # noqa: E402

# Figures of a log and the title above them. A name that ends with "*" stands for all that begin like it.
CURVES = (
    (("loss", "loss/kind_*"), "loss (L1), and that of each mask kind"),
    (("loss/time_*",), "loss of each time step"),
    (("loss_ratio", "copy_ratio"), "loss / loss of a trivial answer"),
    (("context_encoder_grad_norm", "predictor_grad_norm"), "gradient norm"),
    (("target_std", "context_std", "prediction_std"), "feature std over tokens"),
    (("target_rank", "context_rank", "prediction_rank"), "effective rank"),
    (("target_dead", "context_dead", "prediction_dead"), "share of dead features"),
    (("encoder_distance",), "distance of the encoders"),
    (("learning_rate",), "learning rate"),
    (("weight_decay",), "weight decay"),
    (("ema_momentum",), "EMA momentum"),
    (("clips_per_second",), "clips per second"),
)


def plot_curves(rows: Sequence[dict[str, Any]], path: str | Path, title: str = "") -> None:
    """Draw every figure of a run's log over its steps into one PNG.

    Args:
        rows: of `training.read_log`; a row draws the figures that it has.
        path: of the PNG.
        title: above the curves.
    """
    figure, axes = pyplot.subplots(3, 4, figsize=(16, 9), sharex=True, layout="constrained")
    for axis, (patterns, label) in zip(axes.flat, CURVES, strict=True):
        names = _matching_names(rows, patterns)
        for number, name in enumerate(names):
            points = [(row["step"], row[name]) for row in rows if name in row]
            shade = {"color": pyplot.cm.viridis(number / len(names))} if "/" in name else {}
            axis.plot(*zip(*points, strict=True), label=name.rpartition("/")[2], linewidth=1.4, **shade)
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axis.legend(fontsize=8, frameon=False, ncols=1 + len(names) // 5)
    for axis in axes[-1]:
        axis.set_xlabel("optimizer step")
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _matching_names(rows: Sequence[dict[str, Any]], patterns: Sequence[str]) -> list[str]:
    """The figures that rows have of these, a lone mask kind left out: it is the loss itself."""
    found = []
    for pattern in patterns:
        names = dict.fromkeys(name for row in rows for name in row if fnmatch.fnmatchcase(name, pattern))
        found += [] if pattern == "loss/kind_*" and len(names) == 1 else names
    return found


def shade_masked(
    video: torch.Tensor, context_mask: torch.Tensor, tubelet_size: int, patch_size: int, dimming: float = 0.15
) -> torch.Tensor:
    """Darken the tubelets that the context encoder does not see.

    Args:
        video: uint8 `(T, C, H, W)`.
        context_mask: kept token indices `(K,)`, counted time step by time step, row by row.
        tubelet_size: frames of a tubelet.
        patch_size: side of a tubelet, in pixels.
        dimming: brightness of hidden tubelets.

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
    """Draw a clip, and below it the clip as each mask lets the context encoder see it, into one PNG.

    Args:
        video: uint8 `(T, C, H, W)`, RGB.
        context_masks: name of a row -> kept token indices `(K,)`.
        path: of the PNG.
        tubelet_size: frames of a tubelet.
        patch_size: side of a tubelet, in pixels.
        num_columns: frames shown, evenly spaced.
    """
    rows = {"clip": video} | {
        name: shade_masked(video, mask, tubelet_size, patch_size) for name, mask in context_masks.items()
    }
    columns = np.linspace(0, len(video) - 1, num_columns).round().astype(int)
    size = (1.4 * num_columns, 1.5 * len(rows))
    figure, axes = pyplot.subplots(len(rows), num_columns, figsize=size, layout="constrained", squeeze=False)
    for row, (name, frames) in zip(axes, rows.items(), strict=True):
        for axis, frame in zip(row, frames[columns], strict=True):
            axis.imshow(frame.permute(1, 2, 0).numpy())
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: str | Path, max_named: int = 40) -> None:
    """Draw a confusion matrix into one PNG: rows are true classes, each shaded by shares of its samples.

    Args:
        matrix: counts `(L, L)`, true classes by predicted ones.
        names: of the L classes.
        path: of the PNG.
        max_named: with more classes than that, neither names nor counts are written.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    named = len(names) <= max_named
    side = max(4.0, 0.45 * len(names)) if named else 9.0
    figure, axis = pyplot.subplots(figsize=(side + 1.5, side + 1), layout="constrained")
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    if named:
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, matrix[row, column], ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, label="share of the true class", fraction=0.046)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
