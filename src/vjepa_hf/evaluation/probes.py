"""Attentive probes on a frozen encoder (paper, section 4.3): training, model selection, predictions and metrics."""

import copy
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.randomness import generator
from ..files import whole_file
from ..model.modeling_vjepa import VJEPAForVideoClassification, average_views
from ..visualization.confusion import plot_confusion
from .features import VideoFeatures
from .labels import hold_out
from .live_features import LiveFeatures
from .metrics import MeanClassAccuracy, TopKAccuracy, confusion_matrix, wilson_interval

Features = VideoFeatures | LiveFeatures


# --- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadSettings:
    """Hyperparameters of one head of a sweep.

    Attributes:
        learning_rate: initial learning rate; it falls to 0 along a cosine.
        weight_decay: weight decay of AdamW.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01


@dataclass
class TrainedHead:
    """A trained pooler and linear classifier.

    Attributes:
        head: module from tokens `(B, N, D)` to logits `(B, L)`.
        settings: hyperparameters that it was trained with.
        losses: mean training loss of each epoch.
        validation_accuracy: top-1 accuracy on the validation videos; None for a single head without them.
    """

    head: torch.nn.Module
    settings: HeadSettings
    losses: list[float]
    validation_accuracy: float | None = None


def head_of(classifier: VJEPAForVideoClassification) -> torch.nn.Module:
    """Return pooler and classifier as one module from tokens `(B, N, D)` to logits `(B, L)`; it shares the weights."""
    return torch.nn.Sequential(classifier.pooler, classifier.classifier)


def train_heads(
    classifier: VJEPAForVideoClassification,
    settings: Sequence[HeadSettings],
    features: Features,
    labels: np.ndarray,
    rows: np.ndarray,
    order: np.random.Generator,
    epochs: int = 50,
    batch_size: int = 32,
    min_steps: int = 0,
) -> list[TrainedHead]:
    """Train one head per setting, all in one pass over the same batches of features.

    Every head starts as a copy of the classifier's head. The result is the same as when it is trained alone.

    Args:
        classifier: classifier on the device to train on; it is not changed.
        settings: hyperparameters of each head.
        features: tokens of videos; if they have several views, each epoch uses one.
        labels: class index of each row of `features`.
        rows: rows to train on.
        order: generator that shuffles the rows.
        epochs: passes over the rows.
        batch_size: videos per step.
        min_steps: lower bound of the optimizer steps; there are more epochs if `epochs` have fewer.

    Raises:
        ValueError: none of the rows can be read.
    """
    heads = [copy.deepcopy(head_of(classifier)).train() for _ in settings]
    optimizers = [
        torch.optim.AdamW(head.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay)
        for head, setting in zip(heads, settings, strict=True)
    ]
    num_batches = max(1, math.ceil(len(rows) / batch_size))
    epochs = max(epochs, math.ceil(min_steps / num_batches))
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * num_batches) for optimizer in optimizers
    ]
    epoch_losses = []
    for epoch in range(epochs):
        losses: list[list[torch.Tensor]] = []
        row_batches = np.array_split(rows[order.permutation(len(rows))], num_batches)
        for batch, tokens in features.batches(row_batches, epoch, classifier.config.pooler_num_clips):
            tokens = tokens.flatten(1, 2).to(classifier.device, classifier.dtype)  # (B, num_clips * N, D)
            target = torch.from_numpy(labels[batch]).to(classifier.device)
            losses.append([])
            for head, optimizer, schedule in zip(heads, optimizers, schedules, strict=True):
                loss = torch.nn.functional.cross_entropy(head(tokens), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses[-1].append(loss.detach())
        if not losses:
            raise ValueError(f"none of the {len(rows)} training videos can be read")
        epoch_losses.append(torch.tensor(losses).mean(dim=0).tolist())
    return [
        TrainedHead(head.eval(), setting, [losses[index] for losses in epoch_losses])
        for index, (head, setting) in enumerate(zip(heads, settings, strict=True))
    ]


def fit_probe(
    classifier: VJEPAForVideoClassification,
    settings: Sequence[HeadSettings],
    features: Features,
    labels: np.ndarray,
    rows: np.ndarray,
    seed: int = 0,
    epochs: int = 50,
    batch_size: int = 32,
    validation: tuple[Features, np.ndarray] | None = None,
    validation_fraction: float = 0.2,
    min_steps: int = 0,
) -> list[TrainedHead]:
    """Train one head per setting and rank the heads on validation videos, which are not trained or tested on.

    If the validation videos are a part of `rows`, the best setting is then trained again on all rows.

    Args:
        classifier: classifier on the device to train on; it is not changed.
        settings: hyperparameters of each head. A single head without `validation` is trained on all rows.
        features: tokens of videos.
        labels: class index of each row of `features`.
        rows: rows whose labels may be used, for training and for validation.
        seed: seed of the order of the rows and of the held-out videos.
        epochs: passes over the rows.
        batch_size: videos per step.
        validation: features and labels of the validation videos; None holds out a fraction of `rows` of every class.
        validation_fraction: fraction of `rows` that is held out.
        min_steps: lower bound of the optimizer steps; there are more epochs if `epochs` have fewer.

    Returns:
        Heads sorted by validation accuracy, then by validation loss, best first.

    Raises:
        ValueError: none of the videos can be read, or none can be held out.
    """

    def train(settings: Sequence[HeadSettings], rows: np.ndarray) -> list[TrainedHead]:
        order = generator("probe", seed)
        return train_heads(classifier, settings, features, labels, rows, order, epochs, batch_size, min_steps)

    held_out = len(settings) > 1 and validation is None
    kept_rows = rows
    if held_out:
        kept, held = hold_out(labels[rows], validation_fraction, seed)
        validation, validation_rows, kept_rows = (features, labels), rows[held], rows[kept]
    elif validation is not None:
        validation_rows = np.arange(len(validation[1]))
    trained = train(settings, kept_rows)
    if validation is None:
        return trained
    heads = [probe.head for probe in trained]
    readable_rows, logits = predict(classifier, heads, validation[0], validation_rows)
    expected = torch.from_numpy(validation[1][readable_rows])
    ranks = []
    for probe, head_logits in zip(trained, torch.from_numpy(logits), strict=True):
        probe.validation_accuracy = (head_logits.argmax(dim=1) == expected).double().mean().item()
        ranks.append((-probe.validation_accuracy, torch.nn.functional.cross_entropy(head_logits, expected).item()))
    best, *others = (trained[index] for index in sorted(range(len(trained)), key=ranks.__getitem__))
    if held_out:
        (again,) = train([best.settings], rows)
        best = replace(again, validation_accuracy=best.validation_accuracy)
    return [best, *others]


# --- predictions ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
def predict(
    classifier: VJEPAForVideoClassification,
    heads: Sequence[torch.nn.Module],
    features: Features,
    rows: np.ndarray,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Classify videos with several heads in one pass over the features.

    Args:
        classifier: its configuration defines how views are averaged; the heads are on its device.
        heads: modules from tokens to logits, such as `head_of(classifier)`.
        features: tokens of videos; all views are used.
        rows: rows to classify.
        batch_size: clips per forward pass.

    Returns:
        Readable rows `(n,)`, and the logits `(heads, n, L)` of each head on them. With several views the softmax of
        the logits is the mean probability over the views.

    Raises:
        ValueError: none of the rows can be read.
    """
    config = classifier.config
    readable_rows, logits = [], []
    size = max(1, batch_size // features.num_views)
    for batch, tokens in features.batches(rows[start : start + size] for start in range(0, len(rows), size)):
        tokens = tokens.unflatten(1, (-1, config.pooler_num_clips)).flatten(2, 3)  # (B, views, num_clips * N, D)
        views = [part.to(classifier.device, classifier.dtype) for part in tokens.flatten(0, 1).split(batch_size)]
        batch_logits = []
        for head in heads:
            view_logits = torch.cat([head(part) for part in views]).unflatten(0, tokens.shape[:2])
            batch_logits.append(average_views(view_logits.float(), config.problem_type))
        readable_rows.append(batch)
        logits.append(torch.stack(batch_logits).cpu())
    if not readable_rows:
        raise ValueError(f"none of the {len(rows)} videos can be read")
    return np.concatenate(readable_rows), torch.cat(logits, dim=1).numpy()


# --- scores --------------------------------------------------------------------------------------------------------


def score(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Compute the metrics of one classifier as plain types, with 95 % Wilson intervals of the accuracies.

    Args:
        logits: logits `(n, L)`.
        labels: class indices `(n,)`.
        names: names of the L classes.

    Returns:
        `top_1_accuracy` and `top_1_interval`; `top_5_accuracy` and `top_5_interval` for more than five classes;
        `mean_class_accuracy`; `num_samples`; `per_class`: class name -> `accuracy` and `num_samples`, for classes that
        occur.
    """
    result: dict[str, Any] = {}
    for k in (1, 5) if len(names) > 5 else (1,):
        result |= TopKAccuracy(k=k).compute(predictions=logits, references=labels)
        accuracy = result[f"top_{k}_accuracy"]
        result[f"top_{k}_interval"] = list(wilson_interval(round(accuracy * len(labels)), len(labels)))
    result |= MeanClassAccuracy().compute(predictions=logits, references=labels)
    matrix = confusion_matrix(logits.argmax(axis=1), labels, len(names))
    result["per_class"] = {
        name: {"accuracy": float(row[index] / row.sum()), "num_samples": int(row.sum())}
        for index, (name, row) in enumerate(zip(names, matrix, strict=True))
        if row.sum()
    }
    return result


def summarize(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Summarize `top_1_accuracy` over the splits of each amount of labels (the key `labels` of a record).

    Returns:
        Amount of labels -> `splits`, `mean` and `std` (with n - 1 degrees of freedom; None for a single split).
    """
    accuracies: dict[str, list[float]] = {}
    for record in records:
        accuracies.setdefault(record["labels"], []).append(record["top_1_accuracy"])
    return {
        name: {
            "splits": len(values),
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        for name, values in accuracies.items()
    }


def write_confusion(folder: str | Path, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Write `confusion.csv` and `confusion.png`: counts of true classes (rows) by predicted classes (columns)."""
    matrix = confusion_matrix(logits.argmax(axis=1), labels, len(names))
    with whole_file(Path(folder) / "confusion.csv") as unfinished, unfinished.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["true \\ predicted", *names])
        rows.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    plot_confusion(matrix, names, Path(folder) / "confusion.png")
