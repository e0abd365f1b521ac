"""Pictures: the curves of a run, masks over a clip, what a classifier confuses, and boxes with what happens there."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from .evaluation.detection_metrics import box_iou

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


def plot_detections(
    frames: Sequence[torch.Tensor],
    detections: Sequence[dict[str, Any]],
    truths: Sequence[dict[str, Any]],
    names: Sequence[str],
    path: str | Path,
    titles: Sequence[str] | None = None,
    threshold: float = 0.3,
    num_columns: int = 4,
) -> None:
    """Draw key frames with the boxes of a detector and what they are said to show into one PNG.

    What is drawn says the legend: an action is green where an annotated box beneath shows it, else red; annotated
    boxes are dashed, and hold in white the actions that were not found.

    Args:
        frames: of each key frame, uint8 `(C, height, width)`.
        detections: of each key frame, `detection.to_detections`.
        truths: of each key frame, `detection.to_truth`.
        names: of the classes.
        path: of the PNG.
        titles: above the key frames.
        threshold: scores below it are not drawn.
        num_columns: key frames beside one another.
    """
    num_columns = min(num_columns, len(frames))
    num_rows = -(-len(frames) // num_columns)
    size = (3.6 * num_columns, 3.9 * num_rows)
    figure, axes = pyplot.subplots(num_rows, num_columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, frame) in enumerate(zip(axes.flat, frames, strict=False)):
        height, width = frame.shape[1:]
        # Boxes are in units of the frame, and so is the picture.
        axis.imshow(frame.permute(1, 2, 0).numpy(), extent=(0, 1, 1, 0), aspect=height / width)
        axis.set(xlim=(0, 1), ylim=(1, 0))
        _draw_boxes(axis, detections[number], truths[number], names, threshold)
        axis.set_title(titles[number] if titles is not None else "", fontsize=9)
    legend = "green: right, red: wrong, dashed: annotated, white: not found"
    figure.suptitle(f"what is said of each box with a score from {threshold:g} on; {legend}", fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _draw_boxes(
    axis: Any, found: dict[str, Any], truth: dict[str, Any], names: Sequence[str], threshold: float
) -> None:
    """The boxes of a key frame with their actions."""
    boxes, labels, scores = (np.asarray(found[name], dtype=float) for name in ("boxes", "labels", "scores"))
    shown = scores >= threshold
    boxes, labels, scores = boxes.reshape(-1, 4)[shown], labels[shown].astype(int), scores[shown]
    true_boxes, true_labels = np.asarray(truth["boxes"], dtype=float).reshape(-1, 4), np.asarray(truth["labels"])
    right = (box_iou(boxes, true_boxes) >= 0.5) & (labels[:, None] == true_labels[None])
    for box in np.unique(true_boxes, axis=0):
        _draw_box(axis, box, "white", linestyle=(0, (3, 3)))
        missed = [names[label] for label in true_labels[(true_boxes == box).all(axis=1) & ~right.any(axis=0)]]
        _write(axis, box[0], box[3], [(name, "white") for name in missed])
    for box in np.unique(boxes, axis=0):
        places = np.flatnonzero((boxes == box).all(axis=1))
        places = places[np.argsort(-scores[places], kind="stable")]
        _draw_box(axis, box, "gold")
        colors = ["lightgreen" if right[place].any() else "tomato" for place in places]
        lines = [f"{names[labels[place]]} {scores[place]:.2f}" for place in places]
        _write(axis, box[0], box[1], list(zip(lines, colors, strict=True)))


def _draw_box(axis: Any, box: np.ndarray, color: str, linestyle: Any = "-") -> None:
    x1, y1, x2, y2 = box
    patch = pyplot.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.6)
    patch.set_linestyle(linestyle)
    axis.add_patch(patch)


def _write(axis: Any, x: float, y: float, lines: Sequence[tuple[str, str]]) -> None:
    """Lines of text, each in its color, that end at a point, but inside the picture."""
    line_height = 0.052
    top = max(y - line_height * len(lines), 0)
    for number, (text, color) in enumerate(lines):
        background = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 0.8}
        place = (x, top + line_height * (number + 0.5))
        axis.text(*place, text, color=color, fontsize=8, va="center", bbox=background, clip_on=True)


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
