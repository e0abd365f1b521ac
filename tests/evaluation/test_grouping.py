"""Folds never split a group and are even; intervals over groups are honest about groups.

pytest tests/evaluation/test_grouping.py
"""

import numpy as np
import pytest

from vjepa_hf.evaluation.grouping import grouped_folds, grouped_interval


def scenes(num_groups: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups of 1 to 10 clips, most of one class, in random order."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(
        np.repeat([f"scene{number}" for number in range(num_groups)], rng.integers(1, 11, num_groups))
    )
    labels = np.array([int(group[-1]) % 2 if rng.random() < 0.9 else rng.integers(2) for group in groups])
    return groups, labels


@pytest.mark.parametrize("seed", range(5))
def test_folds_never_split_a_group_and_hold_every_row_once(seed):
    groups, labels = scenes(40, seed)
    folds = grouped_folds(groups, labels, num_folds=5, seed=seed)
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(groups)))
    for fold in folds:
        assert not set(groups[fold]) & set(np.delete(groups, fold))


def test_folds_that_ignore_groups_would_split_them():
    groups, _ = scenes(40, seed=0)
    fold = np.arange(0, len(groups), 5)
    assert set(groups[fold]) & set(np.delete(groups, fold))


def test_folds_are_even_in_size_and_classes():
    groups, labels = scenes(60, seed=0)
    counts = np.array([np.bincount(labels[fold], minlength=2) for fold in grouped_folds(groups, labels, 5, seed=0)])
    assert (np.ptp(counts, axis=0) <= 10).all()  # at most the largest group
    assert (counts > 0).all()


def test_folds_are_a_function_of_the_seed():
    groups, labels = scenes(40, seed=0)
    once, again, other = (grouped_folds(groups, labels, 5, seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(once, other, strict=True))


def test_folds_that_cannot_be_are_an_error():
    with pytest.raises(ValueError, match="num_folds=3 must lie between 2 and the number of groups, 2"):
        grouped_folds(["a", "a", "b"], [0, 1, 0], num_folds=3, seed=0)
    with pytest.raises(ValueError, match="num_folds=1"):
        grouped_folds(["a", "b"], [0, 1], num_folds=1, seed=0)
    with pytest.raises(ValueError, match="labels has 1 rows but groups has 2"):
        grouped_folds(["a", "b"], [0], num_folds=2, seed=0)


def test_an_interval_over_single_rows_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(size=400)
    low, high = grouped_interval(values, np.arange(400), seed=0)
    error = values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_copies_of_a_clip_do_not_narrow_the_interval():
    values, groups = np.random.default_rng(0).integers(0, 2, 30), np.arange(30)
    alone = grouped_interval(values, groups, seed=0)
    assert grouped_interval(np.tile(values, 9), np.tile(groups, 9), seed=0) == pytest.approx(alone)
    low, high = grouped_interval(np.tile(values, 9), np.arange(270), seed=0)
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.random(40) < 0.7, 5)
        low, high = grouped_interval(values, np.repeat(np.arange(40), 5), seed=seed, num_resamples=500)
        covered.append(low <= 0.7 <= high)
    assert 0.87 <= np.mean(covered) <= 1.0


def test_an_interval_needs_two_groups_and_a_group_a_row():
    with pytest.raises(ValueError, match="groups holds 1 group"):
        grouped_interval([0.0, 1.0], ["a", "a"], seed=0)
    with pytest.raises(ValueError, match="values has 1 rows but groups has 2"):
        grouped_interval([0.0], ["a", "b"], seed=0)
