"""Labels of videos: class indices, and class-balanced draws of the labels that a probe may use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..data.randomness import generator
from ..model.names import printable

MAX_SHOWN = 20  # class names in a message
MISSING = ("None", "nan", "NaT", "<NA>")  # of Python, numpy and pandas, as text


def encode_labels(labels: Sequence[Any], names: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """Turn labels into class indices `(n,)`, and return the class names too.

    Args:
        labels: one label per sample. An integer is an index into `names`, as in Meta's lists, unless the names are
            integers too.
        names: class names in their order; None: the sorted labels, integers by their value. So the integers 0 to n - 1
            are the indices.

    Raises:
        ValueError: a sample has no label, or several; or a label is not in `names`.
    """
    values = [_class(label, row) for row, label in enumerate(labels)]
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(values)} videos have no label (None, an empty cell, nan or -1), first in row "
            f"{missing[0]}; remove these rows or fill in their labels."
        )
    names = list(names) if names is not None else _sorted_names({str(value) for value in values})
    indices = {name: index for index, name in enumerate(names)}
    are_numbers = any(name.lstrip("-").isdigit() for name in names)

    def encode(label: Any) -> int:
        if str(label) in indices:
            return indices[str(label)]
        if not are_numbers and isinstance(label, int) and not isinstance(label, bool) and label < len(names):
            return label
        first_names = ", ".join(map(printable, names[:MAX_SHOWN])) + (", ..." if len(names) > MAX_SHOWN else "")
        raise ValueError(f"label '{printable(str(label))}' is not one of {first_names}")

    return np.array([encode(value) for value in values], dtype=np.int64), names


def _class(label: Any, row: int) -> str | int | bool | None:
    """Return a label as text, an integer or a truth value; None if it is missing.

    Raises:
        ValueError: the sample has several labels, or the label is a fraction.
    """
    label = label.item() if hasattr(label, "item") and label.ndim == 0 else label  # of numpy or torch
    if isinstance(label, str):
        return label if label.strip() else None
    if str(label) in MISSING or (isinstance(label, int) and label < 0):
        return None
    if isinstance(label, float) and label.is_integer():  # of a column that has empty cells
        return int(label) if label >= 0 else None
    if isinstance(label, bool | int):
        return label
    if isinstance(label, float):
        raise ValueError(f"the label {label} in row {row} is not a class; give a name or an integer.")
    raise ValueError(
        f"the label in row {row} is {printable(repr(label))[:80]}; a video has one label, a name or an integer: "
        "several labels per video are not supported."
    )


def _sorted_names(names: set[str]) -> list[str]:
    """Return names in order: integers by value, as their indices would be, anything else as text."""
    are_integers = all(name.isdecimal() and str(int(name)) == name for name in names)
    return sorted(names, key=int if are_integers else None)


def read_labels(
    table: datasets.Dataset, column: str, source: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Encode the labels in a column of a table of videos, like `encode_labels`.

    Args:
        table: videos with their labels.
        column: name of the column with the labels. A `ClassLabel` gives its own names, in its order.
        source: option that named the table, for the error message.
        names: class names in their order; None: those of the column, or the sorted labels.

    Raises:
        ValueError: the table does not have the column, a label is missing, or it is not in `names`.
    """
    if column not in table.column_names:
        raise ValueError(f"{source} has no column {column!r} with labels, only {', '.join(table.column_names)}")
    feature, labels = table.features[column], table[column]
    if isinstance(feature, datasets.ClassLabel) and feature.names:
        names = names if names is not None else feature.names
        # As names, because another table may number the classes in another order.
        labels = [None if label is None or label < 0 else feature.int2str(label) for label in labels]
    try:
        return encode_labels(labels, names)
    except ValueError as error:
        raise ValueError(f"{source}, column {printable(column)}: {error}") from error


@dataclass(frozen=True)
class LabelDraw:
    """Training videos whose labels a probe may use.

    Attributes:
        labels: description of the amount, such as "10 %" or "8 per class".
        seed: seed of the draw.
        rows: sorted rows of the training videos.
    """

    labels: str
    seed: int
    rows: np.ndarray


def draw_labels(
    labels: Sequence[int] | np.ndarray,
    fractions: Sequence[float],
    splits: int,
    seed: int = 0,
    per_class: int | None = None,
) -> list[LabelDraw]:
    """Draw the labels of a low-shot table: several splits of every fraction, balanced by class (paper, section 5.3).

    Draws with the same seed are nested: a larger one contains a smaller one.

    Args:
        labels: class indices `(n,)`.
        fractions: fractions of the samples of each class, of which at least one is drawn.
        splits: draws of each fraction; split s has the seed `seed + s`.
        seed: seed of the first split.
        per_class: samples of each class, instead of fractions.

    Raises:
        ValueError: `splits` is below 1, a fraction is not in (0, 1], or a class has fewer than `per_class` samples.
    """
    if splits < 1:
        raise ValueError(f"splits={splits} must be at least 1")
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise ValueError(f"label fraction {fraction} must lie in (0, 1]")
    _, counts = np.unique(labels, return_counts=True)
    amounts = {f"{100 * fraction:g} %": _part(counts, fraction) for fraction in fractions}
    if per_class is not None:
        amounts = {f"{per_class} per class": np.full_like(counts, per_class)}
    return [
        LabelDraw(amount, split_seed, _draw(labels, numbers, "labels", split_seed))
        for amount, numbers in amounts.items()
        for split_seed in range(seed, seed + splits)
    ]


def hold_out(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into training samples and a held-out fraction of every class; return the sorted indices of both.

    At least one sample of a class is held out, unless the class has only one.

    Raises:
        ValueError: the fraction is not in (0, 1), or no class has two samples.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation fraction {fraction} must lie in (0, 1)")
    _, counts = np.unique(labels, return_counts=True)
    held = _draw(labels, np.where(counts > 1, _part(counts, fraction), 0), "held out", seed)
    if not len(held):
        raise ValueError("no class has two training videos, so none can be held out; give validation videos")
    return np.setdiff1d(np.arange(len(labels)), held), held


def _part(counts: np.ndarray, fraction: float) -> np.ndarray:
    return np.maximum(1, np.round(fraction * counts).astype(np.int64))


def _draw(labels: Sequence[int] | np.ndarray, numbers: np.ndarray, purpose: str, seed: int) -> np.ndarray:
    """Draw a number of samples of each class that occurs; return their sorted indices."""
    labels = np.asarray(labels)
    drawn = [np.empty(0, dtype=np.int64)]
    for label, number in zip(np.unique(labels), numbers, strict=True):
        indices = np.flatnonzero(labels == label)
        if len(indices) < number:
            raise ValueError(f"class {label} has {len(indices)} samples, fewer than {number} per class")
        drawn.append(generator(purpose, seed, label).permutation(indices)[:number])
    return np.sort(np.concatenate(drawn))
