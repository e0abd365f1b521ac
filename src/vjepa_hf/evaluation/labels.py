"""Class indices, and which labels a probe may see."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.randomness import generator


def encode_labels(labels: Sequence[Any], names: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """Turn labels into class indices `(n,)`, and name the classes in sorted order.

    Args:
        labels: one a sample; an integer is an index into `names`, as in Meta's lists, unless names are integers too.
        names: classes in their order, where they are known; None takes those that occur.

    Raises:
        ValueError: a label that is not among `names`.
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


def few_labels(labels: Sequence[int] | np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Draw `per_class` samples of every class; their sorted places in `labels`.

    A larger number contains a smaller one with the same seed, so that results over label counts compare.

    Raises:
        ValueError: a class with fewer samples.
    """
    return _draw(labels, lambda count: per_class, "labels", seed)


def label_share(labels: Sequence[int] | np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a share of the samples of every class, at least one; their sorted places in `labels`.

    A larger share contains a smaller one with the same seed.

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"label share {share} must lie in (0, 1]")
    return _draw(labels, lambda count: max(1, round(share * count)), "labels", seed)


@dataclass(frozen=True)
class LabelDraw:
    """Which labels a probe may see.

    Attributes:
        labels: how many, in words.
        seed: of the draw.
        rows: sorted rows of the training videos.
    """

    labels: str
    seed: int
    rows: np.ndarray


def draw_labels(
    labels: Sequence[int] | np.ndarray,
    shares: Sequence[float],
    splits: int,
    seed: int = 0,
    per_class: int | None = None,
) -> list[LabelDraw]:
    """Draw the labels of a low-shot table: of every share some splits, all classes alike (paper, section 5.3).

    Args:
        labels: class indices `(n,)`.
        shares: of the samples of each class.
        splits: draws of each share; split s is seeded by `seed + s`.
        seed: of the first split.
        per_class: samples of each class, in place of shares.

    Raises:
        ValueError: no splits, or as of `label_share` and `few_labels`.
    """
    if splits < 1:
        raise ValueError(f"splits={splits} must be at least 1")
    seeds = range(seed, seed + splits)
    if per_class is not None:
        return [LabelDraw(f"{per_class} a class", seed, few_labels(labels, per_class, seed)) for seed in seeds]
    return [
        LabelDraw(f"{100 * share:g} %", seed, label_share(labels, share, seed)) for share in shares for seed in seeds
    ]


def hold_out(labels: Sequence[int] | np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into those to train on and a share of every class to choose by; sorted places in `labels`.

    Of a class with several samples at least one is held out; a single one is trained on.

    Raises:
        ValueError: a share outside (0, 1), or no class with two samples.
    """
    if not 0 < share < 1:
        raise ValueError(f"validation share {share} must lie in (0, 1)")
    held = _draw(labels, lambda count: max(1, round(share * count)) if count > 1 else 0, "held out", seed)
    if not len(held):
        raise ValueError("to choose among heads some class needs two training videos; give validation videos instead")
    return np.setdiff1d(np.arange(len(labels)), held), held


def _draw(labels: Sequence[int] | np.ndarray, number: Callable[[int], int], purpose: str, seed: int) -> np.ndarray:
    """`number(count)` samples of every class of `count`, their sorted places."""
    labels = np.asarray(labels)
    chosen = [np.empty(0, dtype=np.int64)]
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        wanted = number(len(places))
        if len(places) < wanted:
            raise ValueError(f"class {label} has {len(places)} samples, fewer than the {wanted} asked for")
        chosen.append(generator(purpose, seed, label).permutation(places)[:wanted])
    return np.sort(np.concatenate(chosen))
