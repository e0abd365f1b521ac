"""Attentive probes on a frozen encoder (paper, section 4.3): training, choice of a head, predictions and scores."""

import copy
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.randomness import generator
from ..model.modeling_vjepa import VJEPAForVideoClassification, average_views
from ..visualization import plot_confusion
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
        validation_accuracy: top-1 accuracy on the validation videos; None if a single head needed no choice.
    """

    head: torch.nn.Module
    settings: HeadSettings
    losses: list[float]
    validation_accuracy: float | None = None


def head_of(classifier: VJEPAForVideoClassification) -> torch.nn.Module:
    """Pooler and classifier as one module from tokens `(B, N, D)` to logits `(B, L)`; shares its weights."""
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
) -> list[TrainedHead]:
    """Train one head per setting, all of them side by side on the same batches of features.

    Every head starts as a copy of the classifier's head and becomes what it would be if it were trained alone.

    Args:
        classifier: classifier on the device to train on; it is not changed.
        settings: hyperparameters of each head.
        features: tokens of videos; of several views each epoch shows one.
        labels: class index of each row of `features`.
        rows: rows to train on.
        order: generator of the order of the rows.
        epochs: passes over the rows.
        batch_size: videos per step.

    Raises:
        ValueError: none of the rows can be read.
    """
    heads = [copy.deepcopy(head_of(classifier)).train() for _ in settings]
    optimizers = [
        torch.optim.AdamW(head.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay)
        for head, setting in zip(heads, settings, strict=True)
    ]
    batches = max(1, math.ceil(len(rows) / batch_size))
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * batches) for optimizer in optimizers
    ]
    num_clips = classifier.config.pooler_num_clips
    history = []
    for epoch in range(epochs):
        losses = []
        row_batches = np.array_split(rows[order.permutation(len(rows))], batches)
        for batch, tokens in features.batches(row_batches, epoch, num_clips):
            tokens = tokens.flatten(1, 2).to(classifier.device, classifier.dtype)  # (B, num_clips * N, D)
            target = torch.from_numpy(labels[batch]).to(classifier.device)
            losses.append(
                [
                    _step(head, optimizer, schedule, tokens, target)
                    for head, optimizer, schedule in zip(heads, optimizers, schedules, strict=True)
                ]
            )
        if not losses:
            raise ValueError(f"none of the {len(rows)} training videos can be read")
        history.append(torch.tensor(losses).mean(dim=0).tolist())
    return [
        TrainedHead(head.eval(), setting, [losses[index] for losses in history])
        for index, (head, setting) in enumerate(zip(heads, settings, strict=True))
    ]


def _step(
    head: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    tokens: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """Take one optimizer step and return the loss before it."""
    loss = torch.nn.functional.cross_entropy(head(tokens), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return loss.detach()


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
) -> list[TrainedHead]:
    """Train one head per setting and rank the heads on validation videos, which are neither trained nor tested on.

    Args:
        classifier: classifier on the device to train on; it is not changed.
        settings: hyperparameters of each head; without `validation` a single head is trained on all rows, unranked.
        features: tokens of videos.
        labels: class index of each row of `features`.
        rows: rows whose labels may be used, for training and for validation.
        seed: seed of the order of the rows and of the held-out part.
        epochs: passes over the rows.
        batch_size: videos per step.
        validation: features and labels of the validation videos; None holds out a fraction of `rows` of every class.
        validation_fraction: fraction of `rows` that is held out.

    Returns:
        The heads, best first: by validation accuracy, then by validation loss.

    Raises:
        ValueError: none of the videos can be read, or none can be held out.
    """
    if len(settings) > 1 and validation is None:
        kept, held = hold_out(labels[rows], validation_fraction, seed)
        validation, validation_rows, rows = (features, labels), rows[held], rows[kept]
    elif validation is not None:
        validation_rows = np.arange(len(validation[1]))
    order = generator("probe", seed)
    trained = train_heads(classifier, settings, features, labels, rows, order, epochs, batch_size)
    if validation is None:
        return trained
    heads = [probe.head for probe in trained]
    readable_rows, logits = predict(classifier, heads, validation[0], validation_rows)
    expected = torch.from_numpy(validation[1][readable_rows])
    ranks = []
    for probe, head_logits in zip(trained, torch.from_numpy(logits), strict=True):
        probe.validation_accuracy = (head_logits.argmax(dim=1) == expected).double().mean().item()
        ranks.append((-probe.validation_accuracy, torch.nn.functional.cross_entropy(head_logits, expected).item()))
    return [trained[index] for index in sorted(range(len(trained)), key=ranks.__getitem__)]


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
        heads: heads as of `head_of`.
        features: tokens of videos; all views are used.
        rows: rows to classify.
        batch_size: clips per forward pass.

    Returns:
        The readable rows `(n,)`, and the logits `(heads, n, L)` of each head on them. With several views the softmax
        of the logits is the mean probability over the views.

    Raises:
        ValueError: none of the rows can be read.
    """
    config = classifier.config
    readable_rows, logits = [], []
    for batch, tokens in features.batches(_chunks(rows, max(1, batch_size // features.num_views)), None):
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


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


# --- scores --------------------------------------------------------------------------------------------------------


def score(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Compute the metrics of one classifier as plain types, with 95 % Wilson intervals of the accuracies.

    Args:
        logits: logits `(n, L)`.
        labels: class indices `(n,)`.
        names: names of the L classes.

    Returns:
        `top_1_accuracy` and `top_1_interval`, with more than five classes also `top_5_accuracy` and `top_5_interval`;
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
    """Summarize `top_1_accuracy` over the splits of each amount of labels, the key `labels` of a record.

    Returns:
        Amount of labels -> `splits`, `mean` and `std`, the standard deviation with n - 1 degrees of freedom; None for
        a single split.
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
    with (Path(folder) / "confusion.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["true \\ predicted", *names])
        rows.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    plot_confusion(matrix, names, Path(folder) / "confusion.png")
