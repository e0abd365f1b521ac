"""Metrics equal values counted by hand and report the number of samples.

pytest tests/evaluation/test_metrics.py
"""

import numpy as np
import pytest

from vjepa_hf.evaluation.metrics import MeanClassAccuracy, TopKAccuracy, confusion_matrix, wilson_interval

LOGITS = np.array([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [3.0, 1.0, 2.0], [2.0, 3.0, 1.0]])
LABELS = [0, 2, 1, 1]


@pytest.mark.parametrize("k, accuracy", [(1, 0.5), (2, 0.75), (3, 1.0), (9, 1.0)])
def test_top_k_counts_the_class_among_the_k_highest(k, accuracy):
    result = TopKAccuracy(k=k).compute(predictions=LOGITS, references=LABELS)
    assert result == {f"top_{k}_accuracy": accuracy, "num_samples": 4}


def test_mean_class_accuracy_gives_all_classes_the_same_weight():
    result = MeanClassAccuracy().compute(predictions=LOGITS, references=LABELS)
    assert result == {"mean_class_accuracy": pytest.approx((1.0 + 0.5 + 0.0) / 3), "num_samples": 4}


def test_batches_add_up_to_the_whole():
    metric = TopKAccuracy(k=1)
    metric.add_batch(predictions=LOGITS[:3], references=LABELS[:3])
    metric.add_batch(predictions=LOGITS[3:], references=LABELS[3:])
    assert metric.compute() == TopKAccuracy(k=1).compute(predictions=LOGITS, references=LABELS)


def test_k_below_one_is_an_error():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        TopKAccuracy(k=0)


@pytest.mark.parametrize(
    "hits, num_samples, bounds",
    [(5, 10, (0.2366, 0.7634)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (80, 100, (0.7112, 0.8666))],
)
def test_wilson_intervals_are_the_published_ones(hits, num_samples, bounds):
    assert wilson_interval(hits, num_samples) == pytest.approx(bounds, abs=1e-4)


def test_impossible_counts_are_errors():
    for hits, num_samples in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"hits={hits} must lie between 0 and num_samples={num_samples}"):
            wilson_interval(hits, num_samples)


def test_confusions_are_counted_true_class_by_predicted_class():
    matrix = confusion_matrix(np.array([0, 2, 2, 1]), np.array([0, 0, 2, 2]), num_classes=3)
    assert matrix.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]
