"""Classification metrics as `evaluate.Metric`s that need no download.

    top1 = TopKAccuracy(k=1)
    top1.add_batch(predictions=logits, references=labels)
    top1.compute()  # {"top_1_accuracy": 0.5, "num_samples": 2}

Every result has the number of samples, so that missing videos are noticed.
"""

import math
from typing import Any

import datasets
import evaluate
import numpy as np


class _LogitMetric(evaluate.Metric):
    """Base class of metrics whose predictions are logits, L per sample, and whose references are class indices."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(config_name=type(self).__name__, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "", citation="", features=datasets.Features(features)
        )


class TopKAccuracy(_LogitMetric):
    """Fraction of samples whose class is among the `k` highest logits; it is 1 for fewer than `k` classes."""

    def __init__(self, k: int = 1, **kwargs: Any) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        super().__init__(**kwargs)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | int]:
        best = np.argsort(-np.asarray(predictions), axis=1, kind="stable")[:, : self.k]
        hits = (best == np.asarray(references)[:, None]).any(axis=1)
        return {f"top_{self.k}_accuracy": float(hits.mean()), "num_samples": len(hits)}


class MeanClassAccuracy(_LogitMetric):
    """Mean of the accuracies of the classes that occur: rare and frequent classes have the same weight."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | int]:
        references = np.asarray(references)
        hits = np.asarray(predictions).argmax(axis=1) == references
        per_class = [hits[references == label].mean() for label in np.unique(references)]
        return {"mean_class_accuracy": float(np.mean(per_class)), "num_samples": len(hits)}


def wilson_interval(hits: float, num_samples: int) -> tuple[float, float]:
    """Compute the 95 % confidence interval of an accuracy (Wilson, 1927), which also holds for few samples.

    Args:
        hits: number of correctly classified samples; a tie may count as one half.
        num_samples: number of samples, at least 1.

    Raises:
        ValueError: `hits` is not between 0 and `num_samples`, or there are no samples.
    """
    if num_samples < 1 or not 0 <= hits <= num_samples:
        raise ValueError(f"hits={hits} must lie between 0 and num_samples={num_samples}, which must be at least 1")
    z = 1.959964  # the 97.5 % quantile of the normal distribution
    accuracy, weight = hits / num_samples, z**2 / num_samples
    middle = (accuracy + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(accuracy * (1 - accuracy) / num_samples + weight / (4 * num_samples))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def confusion_matrix(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> np.ndarray:
    """Count samples by true class (rows) and predicted class (columns), int64 `(num_classes, num_classes)`.

    Args:
        predictions: predicted class indices `(n,)`.
        references: true class indices `(n,)`.
        num_classes: L.
    """
    pairs = np.asarray(references) * num_classes + np.asarray(predictions)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
