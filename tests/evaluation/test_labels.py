"""Class indices follow the names, and draws of labels are balanced by class, seeded and nested.

pytest tests/evaluation/test_labels.py
"""

import datasets
import numpy as np
import pytest

from vjepa_hf.evaluation.labels import draw_labels, encode_labels, hold_out, read_labels


def drawn(labels, fraction=1.0, seed=0, per_class=None) -> np.ndarray:
    """Return the rows of a single draw."""
    return draw_labels(labels, [fraction], splits=1, seed=seed, per_class=per_class)[0].rows


def test_few_labels_are_balanced_seeded_and_nested():
    labels = np.array([0, 1, 2] * 10)
    rows = drawn(labels, per_class=4)
    assert np.bincount(labels[rows]).tolist() == [4, 4, 4]
    assert (rows == drawn(labels, per_class=4)).all()
    assert (rows != drawn(labels, per_class=4, seed=1)).any()
    assert set(drawn(labels, per_class=2)) <= set(rows)
    with pytest.raises(ValueError, match="class 0 has 10 samples, fewer than 11 per class"):
        drawn(labels, per_class=11)


def test_labels_become_indices_in_the_order_of_the_names():
    indices, names = encode_labels(["run", "jump", "run"])
    assert indices.tolist() == [1, 0, 1] and names == ["jump", "run"]
    assert encode_labels(["run"], names)[0].tolist() == [1]
    with pytest.raises(ValueError, match="label 'swim' is not one of jump, run"):
        encode_labels(["swim"], names)


def test_integers_that_are_not_names_are_class_indices():
    assert encode_labels([1, 0], ["jump", "run"])[0].tolist() == [1, 0]
    assert encode_labels([4, 7], ["7", "4"])[0].tolist() == [1, 0]
    for label in (2, -1, "1"):
        with pytest.raises(ValueError, match=f"label '{label}' is not one of jump, run"):
            encode_labels([label], ["jump", "run"])


def test_integer_labels_that_training_never_saw_are_an_error():
    for labels, names in (([0, 1, 2], ["1", "2", "3"]), ([4], ["10", "20", "30", "40", "50"])):
        with pytest.raises(ValueError, match=f"label '{labels[0]}' is not one of"):
            encode_labels(labels, names)


def test_fractions_of_the_labels_are_balanced_seeded_and_nested():
    labels = np.array([0] * 40 + [1] * 20 + [2] * 3)
    rows = drawn(labels, 0.1)
    assert np.bincount(labels[rows]).tolist() == [4, 2, 1]
    assert set(drawn(labels, 0.05)) <= set(rows) <= set(drawn(labels, 0.5))
    assert (drawn(labels, 0.1, seed=1) != rows).any()
    assert len(drawn(labels, 1.0)) == len(labels)
    with pytest.raises(ValueError, match=r"label fraction 5 must lie in \(0, 1\]"):
        drawn(labels, 5)


def test_a_table_has_every_fraction_and_split():
    labels = np.array([0, 1] * 20)
    draws = draw_labels(labels, [0.1, 0.5], splits=2, seed=7)
    assert [(draw.labels, draw.seed, len(draw.rows)) for draw in draws] == [
        ("10 %", 7, 4), ("10 %", 8, 4), ("50 %", 7, 20), ("50 %", 8, 20),
    ]  # fmt: skip
    assert (draws[1].rows == drawn(labels, 0.1, seed=8)).all()
    (few,) = draw_labels(labels, [1.0], splits=1, per_class=3)
    assert few.labels == "3 per class" and len(few.rows) == 6
    with pytest.raises(ValueError, match="splits=0"):
        draw_labels(labels, [1.0], splits=0)


def test_held_out_samples_are_balanced_and_not_trained_on():
    labels = np.array([0] * 10 + [1] * 5 + [2])
    kept, held = hold_out(labels, 0.2, seed=0)
    assert np.bincount(labels[held]).tolist() == [2, 1]
    assert sorted([*kept, *held]) == list(range(16))
    assert (hold_out(labels, 0.2, seed=1)[1] != held).any()
    with pytest.raises(ValueError, match="no class has two training videos"):
        hold_out(np.arange(4), 0.2, seed=0)


def test_a_missing_column_is_an_error_that_names_the_columns():
    table = datasets.Dataset.from_dict({"video": ["a.mp4", "b.mp4"], "action": ["run", "jump"]})
    indices, names = read_labels(table, "action", "train_videos")
    assert indices.tolist() == [1, 0] and names == ["jump", "run"]
    with pytest.raises(ValueError, match="test_videos has no column 'label' with labels, only video, action"):
        read_labels(table, "label", "test_videos")
    with pytest.raises(ValueError, match="label 'jump' is not one of run"):
        read_labels(table, "action", "test_videos", ["run"])
