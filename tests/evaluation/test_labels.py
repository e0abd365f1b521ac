"""Class indices follow the names, and draws of labels are balanced by class, seeded and nested.

pytest tests/evaluation/test_labels.py
"""

import datasets
import numpy as np
import pytest
import torch

from vjepa_hf.data.sources import load_videos
from vjepa_hf.evaluation.labels import draw_labels, encode_labels, hold_out, read_labels

pandas = pytest.importorskip("pandas")  # which `datasets` brings


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
    for label in (2, True, "1"):
        with pytest.raises(ValueError, match=f"label '{label}' is not one of jump, run"):
            encode_labels([label], ["jump", "run"])


@pytest.mark.parametrize("count", [1, 8, 12, 400])
def test_integers_from_zero_are_the_indices(count):
    for labels in (
        list(range(count)),
        np.arange(count),
        torch.arange(count),
        [str(number) for number in range(count)],
    ):
        indices, names = encode_labels(labels)
        assert indices.tolist() == list(range(count)) and names == [str(number) for number in range(count)]
    assert encode_labels(list(range(count)), [f"class {number}" for number in range(count)])[0].tolist() == [
        *range(count)
    ]
    assert encode_labels(np.arange(count), [f"class {number}" for number in range(count)])[0].tolist() == [
        *range(count)
    ]


def test_other_integers_are_sorted_by_value_and_other_names_as_text():
    assert encode_labels([10, 9, 200])[1] == ["9", "10", "200"]
    assert encode_labels(["010", "9"])[1] == ["010", "9"]
    assert encode_labels(["10", "b", "9"])[1] == ["10", "9", "b"]
    assert encode_labels([True, False])[1] == ["False", "True"]


@pytest.mark.parametrize(
    "missing", [None, "", "  ", float("nan"), np.nan, np.float32("nan"), pandas.NA, -1, -100, -1.0]
)
@pytest.mark.parametrize("names", [None, ["walk", "run"]])
def test_a_missing_label_is_no_class(missing, names):
    for labels in (["walk", missing, "run"], [0, missing, 1], [missing]):
        row = next(row for row, label in enumerate(labels) if label is missing)
        with pytest.raises(ValueError, match=f"1 of {len(labels)} videos have no label .* in row {row}"):
            encode_labels(labels, names)
    assert encode_labels(["None", "nan", "NA"])[1] == ["NA", "None", "nan"]  # may be the names of classes


def test_integers_in_a_column_with_fractions_are_integers_and_fractions_no_classes():
    assert encode_labels([0.0, 2.0, 1.0])[1] == ["0", "1", "2"]
    with pytest.raises(ValueError, match="label 0.5 in row 1 is not a class"):
        encode_labels([1.0, 0.5])


@pytest.mark.parametrize("several", [["walk", "run"], (0, 1), np.array([0, 1]), {"name": "walk"}])
def test_several_labels_per_video_are_an_error_that_says_so(several):
    with pytest.raises(ValueError, match="label in row 1 is .* several labels per video are not supported"):
        encode_labels(["walk", several])


def test_an_unknown_label_is_shown_with_some_of_many_names():
    with pytest.raises(ValueError, match=r"label '\\x1b' is not one of 0, .*19, \.\.\.$"):
        encode_labels(["\x1b"], [str(number) for number in range(400)])


NAMES = ["walk", "jump", "never seen"]  # not in the order of the alphabet


@pytest.mark.parametrize("kind", ["dataset", "bytes", "parquet", "bytes in parquet", "disk", "stream"])
def test_names_of_a_class_label_keep_their_order(tmp_path, kind):
    videos = [b"1", b"2", b"3"] if "bytes" in kind else ["a.mp4", "b.mp4", "c.mp4"]
    table = datasets.Dataset.from_dict({"video": videos, "label": [1, 0, 1]})
    table = table.cast_column("label", datasets.ClassLabel(names=NAMES))
    if "parquet" in kind:
        table.to_parquet(tmp_path / "set.parquet")
    if kind == "disk":
        table.save_to_disk(tmp_path / "set")
    source = {"disk": tmp_path / "set", "stream": table}.get(
        kind, tmp_path / "set.parquet" if "parquet" in kind else table
    )
    loaded = load_videos(source, streaming=kind == "stream")
    assert loaded.features["label"].names == NAMES
    if kind != "stream":
        indices, names = read_labels(loaded, "label", "train_videos")
        assert indices.tolist() == [1, 0, 1] and names == NAMES


def test_tables_that_number_the_classes_differently_agree_by_name():
    def table(labels, names):
        videos = datasets.Dataset.from_dict({"video": ["a.mp4"] * len(labels), "label": labels})
        return videos.cast_column("label", datasets.ClassLabel(names=names))

    _, names = read_labels(table([0, 1], ["walk", "jump"]), "label", "train_videos")
    indices, _ = read_labels(table([0, 1], ["jump", "walk"]), "label", "test_videos", names)
    assert indices.tolist() == [1, 0]
    with pytest.raises(ValueError, match="test_videos, column label: label 'swim' is not one of walk, jump"):
        read_labels(table([0], ["swim"]), "label", "test_videos", names)
    with pytest.raises(ValueError, match="1 of 2 videos have no label"):
        read_labels(table([0, -1], ["walk", "jump"]), "label", "test_videos")


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
