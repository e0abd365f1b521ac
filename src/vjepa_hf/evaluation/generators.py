"""Several sets of generated videos against one real set: which is closer, and which videos pull a set away."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from ..data.randomness import generator
from .distance import VideoSetMoments


def rank_generators(
    real: VideoSetMoments, generated: Mapping[str, VideoSetMoments], seed: int = 0, permutations: int = 1000
) -> list[dict[str, Any]]:
    """Compare every two sets of generated videos by their unbiased distances from the same real set.

    The p-value is that of a permutation test: how often two random sets of the pooled videos of both generators differ
    at least as much. With more than `MAX_SAMPLE` videos, the videos of the samples are permuted.

    Returns:
        one record per pair: `first` and `second`, names, the closer one first; `difference` of their `jedi_unbiased`,
        second minus first, of the tested videos; `p_value`; `num_first` and `num_second`, numbers of tested videos.

    Raises:
        ValueError: there are fewer than two generators.
    """
    if len(generated) < 2:
        raise ValueError(f"{len(generated)} sets of generated videos cannot be ranked; give at least 2")
    records = []
    for index, (first, second) in enumerate(combinations(generated, 2)):
        samples = generated[first].sample, generated[second].sample
        rng = generator("generator permutation", seed, index)
        difference, p_value = _permutation_test(real, *samples, rng, permutations)
        if difference < 0:
            first, second, samples = second, first, samples[::-1]
        numbers = {"num_first": len(samples[0]), "num_second": len(samples[1])}
        records.append({"first": first, "second": second, "difference": abs(difference), "p_value": p_value} | numbers)
    return records


def _permutation_test(
    real: VideoSetMoments, first: np.ndarray, second: np.ndarray, rng: np.random.Generator, permutations: int
) -> tuple[float, float]:
    """Return jedi_unbiased of the second set minus that of the first, and the p-value."""
    features = np.concatenate([first, second])
    width, size = features.shape[1], len(first)
    kernel = (features @ features.T / width) ** 2
    np.fill_diagonal(kernel, 0)
    to_real = np.einsum("nd,de,ne->n", features, real.mean_second, features) / width**2  # mean kernel with real videos
    is_second = np.arange(len(features)) >= size
    draws = np.stack([is_second, *(rng.permutation(is_second) for _ in range(permutations))]).astype(np.float64)

    def distances(chosen: np.ndarray, count: int) -> np.ndarray:
        pairs = np.einsum("pn,pn->p", chosen @ kernel, chosen) / (count * (count - 1))
        return pairs - 2 * chosen @ to_real / count

    differences = 100 * (distances(draws, len(second)) - distances(1 - draws, size))
    # The real order counts as one of the permutations; rounding must not decide between equal ones.
    extreme = np.abs(differences) >= abs(differences[0]) * (1 - 1e-9)
    return float(differences[0]), float(extreme.mean())


def contributions(real: VideoSetMoments, generated: VideoSetMoments, features: np.ndarray) -> np.ndarray:
    """Compute how much each video of a generated set contributes to `jedi`, `(n,)`.

    The contributions of all videos of the set add up to `jedi`. A negative one pulls the set towards the real videos.

    Args:
        real: sums of the real set.
        generated: sums of the generated set.
        features: features `(n, D)` of videos of the generated set.
    """
    difference = generated.mean_second - real.mean_second
    scale = 100 / len(difference) ** 2
    own = np.einsum("nd,de,ne->n", features, difference, features)
    return scale * (own - float((real.mean_second * difference).sum())) / generated.count
