"""Labels of videos: class indices, and which labels a probe may use."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..data.randomness import generator


def encode_labels(labels: Sequence[Any], names: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """Turn labels into class indices `(n,)`, and return the class names in sorted order.

    Args:
        labels: one label per sample; an integer is an index into `names`, as in Meta's lists, unless the names are
            integers too.
        names: class names in their order; None takes the names that occur, sorted.

    Raises:
        ValueError: a label is not in `names`.
    """
    names = list(names) if names is not None else sorted(set(map(str, labels)))
    order = {name: index for index, name in enumerate(names)}
    are_numbers = any(name.lstrip("-").isdigit() for name in names)

    def index(label: Any) -> int:
        if str(label) in order:
            return order[str(label)]
        if not are_numbers and isinstance(label, int) and 0 <= label < len(names):
            return label
        raise ValueError(f"label {str(label)!r} is not one of {', '.join(names)}")

    return np.array([index(label) for label in labels], dtype=np.int64), names


def read_labels(
    table: datasets.Dataset, column: str, source: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Encode the labels in a column of a table of videos, like `encode_labels`.

    Args:
        table: videos with their labels.
        column: name of the column with the labels.
        source: option that named the table, for the message of an error.
        names: class names in their order; None takes the names that occur, sorted.

    Raises:
        ValueError: the table has no such column, or a label is not in `names`.
    """
    if column not in table.column_names:
        raise ValueError(f"{source} has no column {column!r} with labels, only {', '.join(table.column_names)}")
    return encode_labels(table[column], names)


def few_labels(labels: Sequence[int] | np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Draw `per_class` samples of every class and return their sorted indices into `labels`.

    With the same seed a larger draw contains a smaller one, so that results over numbers of labels can be compared.

    Raises:
        ValueError: a class has fewer samples.
    """
    return _draw(labels, lambda count: per_class, "labels", seed)


def label_fraction(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draw a fraction of the samples of every class, at least one, and return their sorted indices into `labels`.

    With the same seed a larger fraction contains a smaller one.

    Raises:
        ValueError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"label fraction {fraction} must lie in (0, 1]")
    return _draw(labels, lambda count: max(1, round(fraction * count)), "labels", seed)


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

    Args:
        labels: class indices `(n,)`.
        fractions: fractions of the samples of each class.
        splits: draws of each fraction; split s has the seed `seed + s`.
        seed: seed of the first split.
        per_class: samples of each class, instead of fractions.

    Raises:
        ValueError: `splits` is below 1, or as in `label_fraction` and `few_labels`.
    """
    if splits < 1:
        raise ValueError(f"splits={splits} must be at least 1")
    seeds = range(seed, seed + splits)
    if per_class is not None:
        return [LabelDraw(f"{per_class} per class", seed, few_labels(labels, per_class, seed)) for seed in seeds]
    return [
        LabelDraw(f"{100 * fraction:g} %", seed, label_fraction(labels, fraction, seed))
        for fraction in fractions
        for seed in seeds
    ]


def hold_out(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into training samples and a held-out fraction of every class; return the sorted indices of both.

    A class with several samples has at least one that is held out; a single sample is used for training.

    Raises:
        ValueError: the fraction is not in (0, 1), or no class has two samples.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation fraction {fraction} must lie in (0, 1)")
    held = _draw(labels, lambda count: max(1, round(fraction * count)) if count > 1 else 0, "held out", seed)
    if not len(held):
        raise ValueError("no class has two training videos, so none can be held out; give validation videos")
    return np.setdiff1d(np.arange(len(labels)), held), held


def _draw(labels: Sequence[int] | np.ndarray, number: Callable[[int], int], purpose: str, seed: int) -> np.ndarray:
    """Draw `number(count)` samples of every class with `count` samples; return their sorted indices."""
    labels = np.asarray(labels)
    chosen = [np.empty(0, dtype=np.int64)]
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label)
        wanted = number(len(indices))
        if len(indices) < wanted:
            raise ValueError(f"class {label} has {len(indices)} samples, but {wanted} per class were asked for")
        chosen.append(generator(purpose, seed, label).permutation(indices)[:wanted])
    return np.sort(np.concatenate(chosen))
