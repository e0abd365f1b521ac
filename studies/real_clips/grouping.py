"""Clips of one scene or one person belong together: folds that never split a group, intervals that resample groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def grouped_folds(
    groups: Sequence[Any] | np.ndarray, labels: Sequence[Any] | np.ndarray, num_folds: int, seed: int
) -> list[np.ndarray]:
    """Divide whole groups into folds of similar size and class mix, and return the sorted rows of each fold.

    The groups come largest first, in an order that the seed decides among equals; each goes to the fold that has the
    fewest clips of its classes so far.

    Args:
        groups: the group of each row, `(n,)`.
        labels: the class of each row, `(n,)`.
        num_folds: folds; every row is in exactly one.
        seed: of the order among groups of one size.

    Raises:
        ValueError: fewer than two folds, fewer groups than folds, or not one label a row.
    """
    if len(groups) != len(labels):
        raise ValueError(f"labels has {len(labels)} rows but groups has {len(groups)}; give one of each for a clip")
    _, classes = np.unique(np.asarray(labels), return_inverse=True)
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if not 2 <= num_folds <= len(names):
        raise ValueError(f"num_folds={num_folds} must lie between 2 and the number of groups, {len(names)}")
    counts = np.zeros((len(names), classes.max() + 1), dtype=np.int64)  # clips of each class in each group
    np.add.at(counts, (members, classes), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled = np.zeros((num_folds, counts.shape[1]), dtype=np.int64)
    fold_of = np.empty(len(names), dtype=np.int64)
    for group in order:
        load = filled @ counts[group], filled.sum(axis=1)
        fold_of[group] = np.lexsort(load[::-1])[0]
        filled[fold_of[group]] += counts[group]
    return [np.flatnonzero(fold_of[members] == fold) for fold in range(num_folds)]


def grouped_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    seed: int,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over rows, where whole groups are drawn with replacement.

    Rows of one group resemble each other, so an interval that takes them for independent is too narrow. With values
    that are differences of two methods on the same rows, it is the interval of a paired comparison.

    Args:
        values: one a row, `(n,)`, such as 1 for a clip classified rightly.
        groups: the group of each row, `(n,)`.
        seed: of the resampling.
        confidence: share of the resampled means inside the interval.
        num_resamples: bootstrap samples.

    Raises:
        ValueError: rows of unequal number, or fewer than two groups.
    """
    if len(values) != len(groups):
        raise ValueError(f"values has {len(values)} rows but groups has {len(groups)}; give one of each for a clip")
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"groups holds {len(names)} group; an interval over groups needs at least two")
    sums, sizes = np.bincount(members, weights=np.asarray(values, dtype=np.float64)), np.bincount(members)
    drawn = np.random.default_rng(seed).integers(len(names), size=(num_resamples, len(names)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
