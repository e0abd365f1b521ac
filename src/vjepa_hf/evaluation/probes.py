"""Judge a frozen encoder: which labels, attentive probes (paper, section 4.3), and scores with their uncertainty."""

import copy
import csv
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator

from ..data.randomness import generator
from ..model.modeling_vjepa import VJEPAForVideoClassification, VJEPAModel, average_views
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from ..visualization import plot_confusion
from .features import LiveFeatures, VideoFeatures
from .features import extract_features as extract_features  # scripts find what judges an encoder in one place
from .labels import encode_labels, few_labels, hold_out
from .metrics import MeanClassAccuracy, TopKAccuracy, confusion_matrix, wilson_interval

Features = VideoFeatures | LiveFeatures


# --- labels --------------------------------------------------------------------------------------------------------


# --- probes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadSettings:
    """How one head of a sweep is trained.

    Attributes:
        learning_rate: at the first step; it falls to 0 along a cosine.
        weight_decay: of AdamW.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01


@dataclass
class TrainedHead:
    """A pooler and a linear classifier, and how they came about.

    Attributes:
        head: tokens `(B, N, D)` to logits `(B, L)`.
        settings: of its training.
        losses: mean of each epoch.
        validation_accuracy: top-1 on the videos that heads were chosen by; None where there was nothing to choose.
    """

    head: torch.nn.Module
    settings: HeadSettings
    losses: list[float]
    validation_accuracy: float | None = None


def head_of(classifier: VJEPAForVideoClassification) -> torch.nn.Module:
    """What a probe trains of a classifier, `(B, N, D)` tokens to `(B, L)` logits; the same tensors, not a copy."""
    return torch.nn.Sequential(classifier.pooler, classifier.classifier)


def train_heads(
    classifier: VJEPAForVideoClassification,
    settings: Sequence[HeadSettings],
    features: Features,
    labels: np.ndarray,
    rows: np.ndarray,
    generator: np.random.Generator,
    epochs: int = 50,
    batch_size: int = 32,
) -> list[TrainedHead]:
    """Train a head for each of some settings in one pass over the features; the encoder is not touched.

    All heads start as copies of the classifier's and step on the same batches, so each becomes what it would alone.

    Args:
        classifier: on the device to train on; it stays as it is.
        settings: of each head.
        features: tokens of videos; of several views one a time is shown, another one each epoch.
        labels: class index of each row of `features`.
        rows: rows to train on.
        generator: order of the rows.
        epochs: passes over the rows.
        batch_size: videos of one step.

    Raises:
        ValueError: none of the rows can be read.
    """
    heads = [copy.deepcopy(head_of(classifier)).train() for _ in settings]
    optimizers = [
        torch.optim.AdamW(head.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay)
        for head, setting in zip(heads, settings, strict=True)
    ]
    batches = max(1, math.ceil(len(rows) / batch_size))
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, T_max=epochs * batches) for each in optimizers]
    num_clips = classifier.config.pooler_num_clips
    history = []
    for epoch in range(epochs):
        losses = []
        order = np.array_split(rows[generator.permutation(len(rows))], batches)
        for batch, tokens in features.batches(order, epoch, num_clips):
            tokens = tokens.flatten(1, 2).to(classifier.device, classifier.dtype)  # (B, num_clips * N, D)
            target = torch.from_numpy(labels[batch]).to(classifier.device)
            losses.append([_step(*each, tokens, target) for each in zip(heads, optimizers, schedules, strict=True)])
        if not losses:
            raise ValueError(f"none of {len(rows)} training videos can be read, so there is nothing to learn from")
        history.append(torch.tensor(losses).mean(dim=0).tolist())
    return [
        TrainedHead(head.eval(), setting, [losses[place] for losses in history])
        for place, (head, setting) in enumerate(zip(heads, settings, strict=True))
    ]


def _step(
    head: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    tokens: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """One optimizer step; the loss before it."""
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
    validation_share: float = 0.2,
) -> list[TrainedHead]:
    """Train a head for each of some settings, and choose by videos that are neither trained nor tested on.

    Args:
        classifier: on the device to train on; it stays as it is.
        settings: of each head; a single one needs no choice and is trained on all rows.
        features: tokens of videos.
        labels: class index of each row of `features`.
        rows: rows whose labels may be used, for training and for the choice.
        seed: of the order, and of what is held out.
        epochs: passes over the rows.
        batch_size: videos of one step.
        validation: features and labels to choose by; None holds out a part of `rows`, the same share of every class.
        validation_share: that share.

    Returns:
        The heads, best first: by accuracy, then by loss.
    """
    training = generator("probe", seed), epochs, batch_size
    if len(settings) == 1 and validation is None:
        return train_heads(classifier, settings, features, labels, rows, *training)
    chosen_by = np.arange(len(validation[1])) if validation else rows
    if validation is None:
        kept, held = hold_out(labels[rows], validation_share, seed)
        rows, chosen_by, validation = rows[kept], rows[held], (features, labels)
    trained = train_heads(classifier, settings, features, labels, rows, *training)
    shown, logits = predict(classifier, [each.head for each in trained], validation[0], chosen_by)
    expected = validation[1][shown]
    losses = [torch.nn.functional.cross_entropy(torch.from_numpy(z), torch.from_numpy(expected)) for z in logits]
    for each, z in zip(trained, logits, strict=True):
        each.validation_accuracy = float((z.argmax(axis=1) == expected).mean())
    order = sorted(range(len(trained)), key=lambda place: (-trained[place].validation_accuracy, losses[place].item()))
    return [trained[place] for place in order]


@torch.inference_mode()
def predict(
    classifier: VJEPAForVideoClassification,
    heads: Sequence[torch.nn.Module],
    features: Features,
    rows: np.ndarray,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that can be read, and the logits `(heads, n, L)` of each head on them, in one pass over the features.

    With several views the probabilities that logits stand for are the means over the views.

    Args:
        classifier: says how views are joined, and on which device.
        heads: `head_of` a classifier each.
        features: tokens of videos, all of whose views are used.
        rows: rows to classify.
        batch_size: clips of one forward pass.
    """
    config = classifier.config
    shown, logits = [], []
    for batch, tokens in features.batches(_chunks(rows, max(1, batch_size // features.num_views)), None):
        tokens = tokens.unflatten(1, (-1, config.pooler_num_clips)).flatten(2, 3)  # (B, views, num_clips * N, D)
        views = tokens.flatten(0, 1).split(batch_size)
        views = [view.to(classifier.device, classifier.dtype) for view in views]
        found = [torch.cat([head(view) for view in views]).unflatten(0, tokens.shape[:2]) for head in heads]
        shown.append(batch)
        logits.append(torch.stack([average_views(each.float(), config.problem_type) for each in found]).cpu())
    if not shown:
        raise ValueError(f"none of {len(rows)} videos can be read, so there is nothing to classify")
    return np.concatenate(shown), torch.cat(logits, dim=1).numpy()


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def train_probe(
    classifier: VJEPAForVideoClassification,
    tokens: np.ndarray,
    labels: np.ndarray,
    generator: np.random.Generator,
    epochs: int = 50,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
) -> list[float]:
    """Train pooler and classifier in place on features; the encoder is not touched. AdamW, cosine to 0.

    Args:
        classifier: the model whose head is trained, on its device.
        tokens: features `(n, N, D)` or, with several views, `(n, V, N, D)`.
        labels: class indices `(n,)`.
        generator: order of the samples.
        epochs: passes over the features.
        batch_size: samples of one step.
        learning_rate: at the first step.
        weight_decay: of AdamW.

    Returns:
        the mean loss of each epoch.
    """
    settings, rows = [HeadSettings(learning_rate, weight_decay)], np.arange(len(labels))
    (trained,) = train_heads(classifier, settings, VideoFeatures(tokens), labels, rows, generator, epochs, batch_size)
    head_of(classifier).load_state_dict(trained.head.state_dict())
    return trained.losses


def probe_logits(classifier: VJEPAForVideoClassification, tokens: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Logits `(n, L)` of pooler and classifier on features `(n, N, D)` or, with several views, `(n, V, N, D)`."""
    head = head_of(classifier).eval()
    return predict(classifier, [head], VideoFeatures(tokens), np.arange(len(tokens)), batch_size)[1][0]


def few_label_accuracy(
    accelerator: Accelerator,
    model: VJEPAModel,
    processor: VJEPAVideoProcessor,
    splits: Mapping[str, datasets.Dataset],
    label: str,
    per_class: int,
    heads: Sequence[VJEPAForVideoClassification],
    epochs: int = 80,
) -> float:
    """Mean test accuracy of attentive probes on frozen features, over draws of the few labels.

    Head s is trained on the labels that `few_labels(..., seed=s)` draws. Unreadable training videos are left out; an
    unreadable test video counts as wrong.

    Args:
        accelerator: of the run, one process.
        model: encoder.
        processor: turns a video into one clip of the size the model is configured for.
        splits: `train` and `test`, with the columns `video` and `label`.
        label: column that the probe learns.
        per_class: training videos of a class.
        heads: untrained classifiers, one a draw, on any device; only their pooler and classifier are used.
        epochs: passes of a probe over its training videos.
    """
    labels, names = encode_labels(splits["train"][label])
    expected, _ = encode_labels(splits["test"][label], names)
    chosen = [few_labels(labels, per_class, seed) for seed in range(len(heads))]
    used = np.unique(np.concatenate(chosen))
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        train, test = (
            extract_features(accelerator, model, processor, videos["video"], Path(folder) / split)
            for split, videos in (("train", splits["train"].select(used)), ("test", splits["test"]))
        )
        for seed, rows in enumerate(chosen):
            classifier = heads[seed].to(accelerator.device)
            places = np.intersect1d(np.searchsorted(used, rows), train.readable)
            train_probe(
                classifier, train.tokens[places], labels[used][places], generator("probe", seed), epochs=epochs
            )
            right = probe_logits(classifier, test.tokens[test.readable]).argmax(axis=1) == expected[test.readable]
            scores.append(right.sum() / len(expected))
    return float(np.mean(scores))


# --- scores --------------------------------------------------------------------------------------------------------


def score(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Figures of one classifier as plain types, with 95 % Wilson intervals of the accuracies.

    Args:
        logits: `(n, L)`.
        labels: class indices `(n,)`.
        names: of the L classes.

    Returns:
        `top_1_accuracy` and `top_1_interval`, with more than five classes the same of `top_5`; `mean_class_accuracy`;
        `num_samples`; `per_class`, class name -> `accuracy` and `num_samples`, for classes that occur.
    """
    result: dict[str, Any] = {}
    for k in (1, 5) if len(names) > 5 else (1,):
        result |= TopKAccuracy(k=k).compute(predictions=logits, references=labels)
        accuracy = result[f"top_{k}_accuracy"]
        result[f"top_{k}_interval"] = list(wilson_interval(round(accuracy * len(labels)), len(labels)))
    result |= MeanClassAccuracy().compute(predictions=logits, references=labels)
    matrix = confusion_matrix(logits.argmax(axis=1), labels, len(names))
    result["per_class"] = {
        name: {"accuracy": float(row[place] / row.sum()), "num_samples": int(row.sum())}
        for place, (name, row) in enumerate(zip(names, matrix, strict=True))
        if row.sum()
    }
    return result


def summarize(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and spread of `top_1_accuracy` over the splits of each amount of labels, `labels` of a record.

    The spread is the standard deviation with n - 1 degrees of freedom; None for a single split.
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
    """Write `confusion.csv` and `confusion.png`: how many videos of each class (rows) were taken for which one."""
    matrix = confusion_matrix(logits.argmax(axis=1), labels, len(names))
    with (Path(folder) / "confusion.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["true \\ predicted", *names])
        rows.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    plot_confusion(matrix, names, Path(folder) / "confusion.png")
