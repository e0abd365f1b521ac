"""JEDi, the JEPA embedding distance between a set of real and a set of generated videos (Luo et al., 2410.05203).

A set has one feature x of width D per video. With the kernel k(x, y) = (x.y / D)^2,

    JEDi = 100 * (mean k(X, X) + mean k(Y, Y) - 2 mean k(X, Y)) = 100 / D^2 * ||M_x - M_y||^2,

where M_x = (1/n) sum x x^T and the means include the diagonals. So sums over the videos are enough: they stream, are
saved and loaded, and add up over processes.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..data.randomness import generator
from ..files import whole_file

MAX_SAMPLE = 2048  # features per set that the bootstrap resamples
BLOCK_ROWS = 512  # rows of a kernel matrix in memory
BLIND_SPOT = (
    "JEDi compares second moments of features: it cannot distinguish x from -x, and it sees neither the order of the "
    "videos nor whether a generated video is a copy of a real one"
)


class VideoSetMoments:
    """Sums over the features of a set of videos. Its size does not depend on the number of videos.

    Attributes:
        count: number of videos, n.
        second: float64 `(D, D)`, sum of x x^T; None before the first video.
        fourth: sum of |x|^4.
        sample: float64 `(min(n, MAX_SAMPLE), D)`, the features whose hashes are the smallest, for the bootstrap. They
            depend neither on the order of the videos nor on how they were divided among processes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.second: np.ndarray | None = None
        self.fourth = 0.0
        self.sample = np.empty((0, 0))
        self._hashes = np.empty(0, np.uint64)

    @property
    def mean_second(self) -> np.ndarray:
        """M = (1/n) sum x x^T, `(D, D)`.

        Raises:
            ValueError: there are no videos.
        """
        if self.second is None:
            raise ValueError("the set has no videos")
        return self.second / self.count

    @property
    def spread(self) -> float:
        """Unbiased variance of x x^T over the videos, which needs at least two of them."""
        return max(0.0, (self.fourth - self.count * float((self.mean_second**2).sum())) / (self.count - 1))

    def add(self, features: np.ndarray) -> None:
        """Add the float64 features `(n, D)` of videos."""
        hashes = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in np.ascontiguousarray(features)]
        self._add(
            len(features),
            features.T @ features,
            float((np.square(features).sum(axis=1) ** 2).sum()),
            features,
            np.frombuffer(b"".join(hashes), np.uint64),
        )

    def merge(self, other: "VideoSetMoments") -> None:
        """Add the videos of another set."""
        if other.second is not None:
            self._add(other.count, other.second, other.fourth, other.sample, other._hashes)

    def _add(self, count: int, second: np.ndarray, fourth: float, sample: np.ndarray, hashes: np.ndarray) -> None:
        if self.second is None:
            self.second, self.sample = np.zeros_like(second), np.empty((0, len(second)))
        self.count, self.second, self.fourth = self.count + count, self.second + second, self.fourth + fourth
        hashes = np.concatenate([self._hashes, hashes])
        smallest = np.argsort(hashes, kind="stable")[:MAX_SAMPLE]
        self.sample, self._hashes = np.concatenate([self.sample, sample])[smallest], hashes[smallest]

    def has_same_features(self, other: "VideoSetMoments") -> bool:
        """Return whether two sets have the same features, in any order."""
        return self.count == other.count and np.array_equal(self._hashes, other._hashes)

    def save(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Write a safetensors file of the sums and of texts that say where they are from."""
        tensors = {"second": self.mean_second * self.count, "sample": self.sample, "hashes": self._hashes}
        tensors["fourth"] = np.array([self.fourth])
        with whole_file(path) as unfinished:
            save_file(tensors, unfinished, {**metadata, "count": str(self.count)})

    @classmethod
    def load(cls, path: str | Path) -> tuple["VideoSetMoments", dict[str, str]]:
        """Read a file of `save`; return the sums and the texts.

        Raises:
            ValueError: the file is damaged, or is not a file of `save`.
        """
        moments = cls()
        try:
            with safe_open(path, framework="np") as file:
                metadata = dict(file.metadata() or {})
                moments.count = int(metadata.pop("count"))
                moments.second, moments.sample = file.get_tensor("second"), file.get_tensor("sample")
                moments.fourth, moments._hashes = float(file.get_tensor("fourth")[0]), file.get_tensor("hashes")
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is not a complete file of statistics ({error}); delete it") from error
        return moments, metadata


class VideoSetDistance:
    """JEDi between real and generated videos, from their features.

        distance = VideoSetDistance()
        distance.update(real=features, generated=other_features)  # any number of times, in any order
        distance.compute()["jedi"]

    Args:
        settings: names and values that say how the features were made. Objects of unequal settings do not merge.
        seed: seed of the bootstrap.
        replicates: number of bootstrap resamples.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None, seed: int = 0, replicates: int = 1000) -> None:
        self.settings, self.seed, self.replicates = dict(settings or {}), seed, replicates
        self.real, self.generated = VideoSetMoments(), VideoSetMoments()

    def update(self, real: Any = None, generated: Any = None) -> None:
        """Add features `(n, D)`, arrays or tensors, of real videos, of generated ones, or of both.

        Raises:
            ValueError: the features are not finite, are not two-dimensional, or differ in width from earlier ones.
                Nothing is added then.
        """
        sums = [self.real.second, self.generated.second]
        width = next((len(second) for second in sums if second is not None), None)
        checked = []
        for name, features, moments in (("real", real, self.real), ("generated", generated, self.generated)):
            if features is not None:
                array = check_features(features, name, width)
                width = array.shape[1]
                checked.append((moments, array))
        for moments, array in checked:
            moments.add(array)

    def merge(self, other: "VideoSetDistance") -> None:
        """Add the videos of another object, such as that of another process.

        Raises:
            ValueError: the objects differ in their settings or in the width of their features.
        """
        check_settings(self.settings, other.settings, "the other object")
        widths = {m.second.shape[0] for d in (self, other) for m in (d.real, d.generated) if m.second is not None}
        if len(widths) > 1:
            raise ValueError(f"features have several widths, {sorted(widths)}; use one encoder for both sets")
        self.real.merge(other.real)
        self.generated.merge(other.generated)

    def compute(self) -> dict[str, Any]:
        """Compute the distance and how much of it could be chance.

        Returns:
            `jedi`: as published; `jedi_unbiased`: without the bias of small sets, so it may be negative;
            `jedi_interval` and `jedi_unbiased_interval`: 95 % bootstrap intervals over the videos;
            `floor`: `jedi` between two halves of the real set, averaged over all ways to halve it;
            `similarity`: exp(-0.4 * jedi); `num_real`, `num_generated`: numbers of videos; `warnings`: sentences.

        Raises:
            ValueError: a set has fewer than two videos, or its features are all equal.
        """
        for name, moments in (("real", self.real), ("generated", self.generated)):
            check_set(moments, name)
        real, generated = self.real, self.generated
        scale = 100 / len(real.mean_second) ** 2
        jedi = scale * float(((real.mean_second - generated.mean_second) ** 2).sum())
        # The diagonals of the kernel matrices add the variance of M_x and M_y: the same for equal distributions.
        bias = scale * (real.spread / real.count + generated.spread / generated.count)
        halves = (real.count // 2) * (real.count - real.count // 2)
        floor = scale * real.spread * real.count / halves
        deviations = bootstrap_deviations(real, generated, self.seed, self.replicates)
        low, high = (float(value) for value in np.quantile(deviations, (0.025, 0.975)))
        return {
            "jedi": jedi,
            "jedi_unbiased": jedi - bias,
            "jedi_interval": [max(0.0, jedi + low), jedi + high],
            "jedi_unbiased_interval": [jedi - bias + low, jedi - bias + high],
            "floor": floor,
            "similarity": math.exp(-0.4 * jedi),
            "num_real": real.count,
            "num_generated": generated.count,
            "warnings": _warnings(jedi, floor, real.count, generated.count),
        }


class JEDi(evaluate.Metric):
    """JEDi as an `evaluate.Metric`: predictions are features of generated videos, references those of real ones.

    Both are arrays `(n, D)`. The sets may differ in size, so nothing is paired, and each may be added alone:
    `add_batch(references=real)`. The results are those of `VideoSetDistance.compute`.
    """

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        self._distance = VideoSetDistance(seed=seed)
        super().__init__(config_name=type(self).__name__, keep_in_memory=True, seed=seed, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        feature = datasets.List(datasets.Value("float64"))
        features = datasets.Features({"predictions": feature, "references": feature})
        return evaluate.MetricInfo(description=type(self).__doc__ or "", citation="", features=features)

    # The base class stores pairs in a table, which sets of different sizes do not form.
    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add the features `(n, D)` of several videos of one set or of both."""
        self._distance.update(real=references, generated=predictions)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add the feature `(D,)` of one video of one set or of both."""
        rows = {"predictions": prediction, "references": reference}
        self.add_batch(**{name: np.asarray(row)[None] for name, row in rows.items() if row is not None})

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Compute the distance of all videos that were added, and forget them."""
        self.add_batch(predictions=predictions, references=references)
        distance, self._distance = self._distance, VideoSetDistance(seed=self.seed)
        return distance.compute()


# --- checks --------------------------------------------------------------------------------------------------------


def check_features(features: Any, name: str, width: int | None) -> np.ndarray:
    """Return features as a finite float64 array `(n, D)`.

    Raises:
        ValueError: they are not finite, not `(n, D)`, or D is not `width`.
    """
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().double().numpy()
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} features have shape {array.shape}, but must be (n, D), one vector per video")
    if width is not None and array.shape[1] != width:
        raise ValueError(f"{name} features have width {array.shape[1]}, but earlier ones {width}; use one encoder")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} features of video {np.flatnonzero(~finite)[0]} are not finite; exclude the video")
    return array


def check_set(moments: VideoSetMoments, name: str) -> None:
    """Check that a set has at least two videos with features that differ.

    Raises:
        ValueError: it has not.
    """
    if moments.count < 2:
        raise ValueError(f"{moments.count} {name} videos are too few: a set needs at least 2")
    # Rounding leaves about 1e-16 of the sums.
    if moments.spread <= 1e-12 * moments.fourth / moments.count:
        raise ValueError(
            f"the features of all {moments.count} {name} videos are equal, up to their sign: either the videos are "
            "copies of one, or the encoder gives constant features"
        )


def check_settings(expected: Mapping[str, Any], given: Mapping[str, Any], name: str) -> None:
    """Check that features were made in the same way.

    Raises:
        ValueError: a setting differs.
    """
    for key in sorted(expected.keys() | given.keys()):
        here, there = expected.get(key), given.get(key)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            check_settings(here, there, name)
        elif here != there:
            raise ValueError(
                f"{name} has features of other settings: {key} is {_short(there)} instead of {_short(here)}; compare "
                "sets with equal settings"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _warnings(jedi: float, floor: float, num_real: int, num_generated: int) -> list[str]:
    warnings = []
    if jedi < 2 * floor:
        warnings.append(
            f"jedi {jedi:.3g} is below twice the floor {floor:.3g}: {num_real} real and {num_generated} generated "
            "videos do not show a difference; use more videos"
        )
    return warnings


# --- bootstrap -----------------------------------------------------------------------------------------------------


def bootstrap_deviations(
    real: VideoSetMoments, generated: VideoSetMoments, seed: int, replicates: int = 1000
) -> np.ndarray:
    """Resample the videos of both sets with replacement; return JEDi of each resample minus the mean of all.

    The mean is subtracted because a resample repeats videos, which adds the bias of small sets once more. If a set has
    more than `MAX_SAMPLE` videos, its sample is resampled, with deviations that are smaller by sqrt(MAX_SAMPLE / n).

    Returns:
        float64 `(replicates,)`.
    """
    features = np.concatenate([real.sample, generated.sample])
    weights = [
        _resampled_weights(moments, generator("jedi bootstrap", seed, index), replicates)
        for index, moments in enumerate((real, generated))
    ]
    signed = np.concatenate([weights[0], -weights[1]], axis=1)  # (replicates, videos)
    values = np.zeros(replicates)
    for start in range(0, len(features), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        kernel = (features[block] @ features.T / features.shape[1]) ** 2
        values += np.einsum("rv,rv->r", signed[:, block] @ kernel, signed)
    return 100 * (values - values.mean())


def _resampled_weights(moments: VideoSetMoments, rng: np.random.Generator, replicates: int) -> np.ndarray:
    size = len(moments.sample)
    counts = rng.multinomial(size, np.full(size, 1 / size), size=replicates)
    return 1 / size + math.sqrt(size / moments.count) * (counts - 1) / size
