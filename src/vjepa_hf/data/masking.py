"""Masks: which tokens of a clip are context and which are targets.

A mask type is a callable: given a token grid and a `numpy.random.Generator`, it returns a boolean array of N tokens,
`True` for the targets to predict. `MaskSampler` draws one mask per clip and mask type and cuts them to index lists of
equal length. The masks of a clip are a function of (seed, epoch, sample id, mask type) alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch

from ..model.tubelets import Grid
from .randomness import generator

SampleKey = tuple[int, int]  # (epoch, sample id) of a clip

MAX_ATTEMPTS = 100  # draws of a mask, until it has both context and targets


@dataclass(frozen=True)
class MultiBlockMask:
    """Mask whose targets are the union of `num_blocks` blocks of one size (paper, section 3.2, "3D multi-block").

    The size is drawn once per clip: an area of `spatial_scale` times the frame, an aspect ratio (height / width)
    uniform in `aspect_ratio`, a length of `temporal_scale` times the time steps. Positions are uniform. With
    `context_steps`, all tokens after that many time steps are targets too (the paper's causal masks), and `num_blocks`
    may be 0.
    """

    num_blocks: int
    spatial_scale: tuple[float, float] = (0.15, 0.15)
    temporal_scale: tuple[float, float] = (1.0, 1.0)
    aspect_ratio: tuple[float, float] = (0.75, 1.5)
    context_steps: int | None = None

    def __post_init__(self) -> None:
        if self.context_steps is not None and self.context_steps < 1:
            raise ValueError(f"context_steps={self.context_steps} must be at least 1, or None to mask only blocks.")
        fewest = 1 if self.context_steps is None else 0
        if self.num_blocks < fewest:
            raise ValueError(f"num_blocks={self.num_blocks} must be at least 1, or 0 with context_steps.")
        for name, high in (("spatial_scale", 1.0), ("temporal_scale", 1.0), ("aspect_ratio", np.inf)):
            pair = getattr(self, name)
            if not isinstance(pair, tuple) or len(pair) != 2 or not 0.0 < pair[0] <= pair[1] <= high:
                raise ValueError(f"{name}={pair} must be an increasing pair of numbers in (0, {high}].")

    def block_size(self, grid: Grid, generator: np.random.Generator) -> Grid:
        """Draw the size (t, h, w) of all blocks of a clip, in tokens."""
        t, h, w = grid
        length = max(1, int(t * generator.uniform(*self.temporal_scale)))
        area = int(h * w * generator.uniform(*self.spatial_scale))
        ratio = generator.uniform(*self.aspect_ratio)
        height = min(h, max(1, round((area * ratio) ** 0.5)))
        width = min(w, max(1, round((area / ratio) ** 0.5)))
        return length, height, width

    def __call__(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        target = np.zeros(grid, dtype=bool)
        if self.context_steps is not None:
            target[self.context_steps :] = True
        if self.num_blocks:
            size = self.block_size(grid, generator)
            for corner in generator.integers(0, np.subtract(grid, size) + 1, size=(self.num_blocks, 3)).tolist():
                (t0, h0, w0), (t1, h1, w1) = corner, np.add(corner, size).tolist()
                target[t0:t1, h0:h1, w0:w1] = True
        return target.reshape(-1)


@dataclass(frozen=True)
class RandomTubeMask:
    """Mask whose targets are a random fraction `ratio` of the patch positions, the same at every time step."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise ValueError(f"ratio={self.ratio} must lie between 0 and 1.")

    def __call__(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        t, h, w = grid
        masked = generator.permutation(h * w) < round(self.ratio * h * w)
        return np.tile(masked, t)


MaskType = MultiBlockMask | RandomTubeMask
MASK_TYPES: dict[str, type[MaskType]] = {"multi_block": MultiBlockMask, "random_tube": RandomTubeMask}


def make_mask(settings: Mapping[str, Any]) -> MaskType:
    """Make a mask type from its settings in a YAML file: `{"type": "random_tube", "ratio": 0.9}`.

    Raises:
        ValueError: an unknown type or setting, a missing setting, or a value of the wrong type or range.
    """
    settings = dict(settings)
    name = settings.pop("type", None)
    if name not in MASK_TYPES:
        raise ValueError(f"type={name!r} must be one of {', '.join(MASK_TYPES)}.")
    known = [setting.name for setting in fields(MASK_TYPES[name])]
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r}; its settings are {', '.join(known)}.")
        numbers = value if isinstance(value, list | tuple) else [value]
        allowed = (int, type(None)) if setting in ("num_blocks", "context_steps") else (int, float)
        if any(isinstance(number, bool) or not isinstance(number, allowed) for number in numbers):
            raise ValueError(f"{setting}={value!r} must be a number, or two numbers if its default is a pair.")
        settings[setting] = tuple(value) if isinstance(value, list) else value
    try:
        return MASK_TYPES[name](**settings)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


SHORT_RANGE = MultiBlockMask(num_blocks=8, spatial_scale=(0.15, 0.15))
LONG_RANGE = MultiBlockMask(num_blocks=2, spatial_scale=(0.7, 0.7))


def nearest_context(context: torch.Tensor, targets: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the context token that is nearest to each target token on the grid (t, h, w), `(M,)`.

    Args:
        context: indices `(K,)` of the context tokens.
        targets: indices `(M,)` of the target tokens.
        grid: token grid.
    """
    axes = [torch.arange(length, dtype=torch.float32, device=context.device) for length in grid]
    positions = torch.cartesian_prod(*axes)  # (N, 3)
    # (M, 3), (K, 3) -> (M, K); without matmul, because rounding would break ties between neighbours
    exact = "donot_use_mm_for_euclid_dist"
    return context[torch.cdist(positions[targets], positions[context], compute_mode=exact).argmin(dim=-1)]


class MaskSampler:
    """Sampler of context and target index lists for batches of clips.

    Every list is cut to the shortest of its *group*: with `mode="subsample"` the tokens to drop are drawn at random;
    with `mode="reference"` the last ones in raster order are dropped, as in Meta's code, which removes late frames
    first. A group may be larger than a batch: if the clips of one optimizer step form a group, the masks do not
    depend on how the step is split over processes and accumulation.
    """

    def __init__(
        self,
        masks: Sequence[MaskType],
        grid_size: Grid,
        seed: int = 0,
        mode: Literal["subsample", "reference"] = "subsample",
    ):
        if not masks:
            raise ValueError("masks is empty; give at least one mask type.")
        if mode not in ("subsample", "reference"):
            raise ValueError(f"mode={mode!r} must be 'subsample' or 'reference'.")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative.")
        for mask in masks:
            if isinstance(mask, MultiBlockMask) and (mask.context_steps or 0) >= grid_size[0]:
                raise ValueError(
                    f"context_steps={mask.context_steps} must be less than the {grid_size[0]} time steps of a clip "
                    "(num_frames / tubelet_size), so that targets remain."
                )
        self.masks = tuple(masks)
        self.grid_size = grid_size
        self.seed = seed
        self.mode = mode

    def __call__(
        self, samples: Sequence[SampleKey], group: Sequence[SampleKey] | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Draw the index lists of a batch.

        Args:
            samples: (epoch, sample id) of the clips of the batch.
            group: (epoch, sample id) of all clips whose lists have the same length; None: only the batch.

        Returns:
            `context_masks` and `target_masks`: per mask type a sorted LongTensor `(B, K)` and `(B, M)`.

        Raises:
            ValueError: the grid is too small for a mask with both context and targets.
        """
        members = list(dict.fromkeys([*samples, *(group or ())]))
        context_masks, target_masks = [], []
        for index in range(len(self.masks)):
            drawn = {key: self._draw(key, index) for key in members}
            counts = [int(target.sum()) for target, _ in drawn.values()]
            num_targets, num_context = min(counts), len(drawn[members[0]][0]) - max(counts)
            batch = [drawn[key] for key in samples]
            # Context before targets: the order in which the generator of a clip is used.
            contexts = [self._cut(~target, num_context, rng) for target, rng in batch]
            targets = [self._cut(target, num_targets, rng) for target, rng in batch]
            context_masks.append(torch.from_numpy(np.stack(contexts)))
            target_masks.append(torch.from_numpy(np.stack(targets)))
        return context_masks, target_masks

    def _draw(self, key: SampleKey, index: int) -> tuple[np.ndarray, np.random.Generator]:
        """Draw the mask of one clip; return it with the clip's generator, which `_cut` continues to use."""
        rng = generator("mask", self.seed, *key, index)
        for _ in range(MAX_ATTEMPTS):
            target = self.masks[index](self.grid_size, rng)
            if target.any() and not target.all():
                return target, rng
        raise ValueError(
            f"the grid (t, h, w) = {self.grid_size} is too small for {self.masks[index]}: {MAX_ATTEMPTS} draws left "
            "no context or no target; use larger frames, smaller patches or smaller masks."
        )

    def _cut(self, tokens: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
        indices = np.flatnonzero(tokens)
        if self.mode == "reference":
            return indices[:length]
        return np.sort(generator.permutation(indices)[:length])
