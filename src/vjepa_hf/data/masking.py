"""Which tokens are context and which are targets: per-clip generator in, index lists out.

A mask kind is a small frozen object; called with a token grid and a `numpy.random.Generator` it returns a boolean
array of N tokens, `True` for the targets to predict. `MaskSampler` draws one mask per clip and kind and cuts them to
index lists of equal length. The masks of a clip are a function of (seed, epoch, sample id, kind) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .randomness import generator

Grid = tuple[int, int, int]
# A clip of a run: (epoch, sample id).
SampleKey = tuple[int, int]
# Tokens of the clips of a batch: (B, K), or B lists of any lengths.
IndexLists = torch.Tensor | list[torch.Tensor]

# A draw that leaves no context or no target is repeated; one that fails this often will not succeed.
MAX_ATTEMPTS = 100


@dataclass(frozen=True)
class MultiBlockMask:
    """Targets are the union of `num_blocks` blocks of one size (paper, section 3.2, "3D multi-block").

    The size is drawn once per clip: an area of `spatial_scale` times the frame, an aspect ratio (height / width)
    uniform in `aspect_ratio`, a length of `temporal_scale` times the time steps. Positions are uniform.
    """

    num_blocks: int
    spatial_scale: tuple[float, float]
    temporal_scale: tuple[float, float] = (1.0, 1.0)
    aspect_ratio: tuple[float, float] = (0.75, 1.5)

    def __post_init__(self):
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks={self.num_blocks} must be at least 1.")
        for name, high in (("spatial_scale", 1.0), ("temporal_scale", 1.0), ("aspect_ratio", np.inf)):
            smallest, largest = getattr(self, name)
            if not 0.0 < smallest <= largest <= high:
                raise ValueError(f"{name}={getattr(self, name)} must be an increasing pair in (0, {high}].")

    def block_size(self, grid: Grid, generator: np.random.Generator) -> Grid:
        """Draw the size (t, h, w) in tokens that all blocks of a clip share."""
        t, h, w = grid
        length = max(1, int(t * generator.uniform(*self.temporal_scale)))
        area = int(h * w * generator.uniform(*self.spatial_scale))
        ratio = generator.uniform(*self.aspect_ratio)
        height = min(h, max(1, round((area * ratio) ** 0.5)))
        width = min(w, max(1, round((area / ratio) ** 0.5)))
        return length, height, width

    def __call__(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        size = self.block_size(grid, generator)
        target = np.zeros(grid, dtype=bool)
        for corner in generator.integers(0, np.subtract(grid, size) + 1, size=(self.num_blocks, 3)).tolist():
            (t0, h0, w0), (t1, h1, w1) = corner, np.add(corner, size).tolist()
            target[t0:t1, h0:h1, w0:w1] = True
        return target.reshape(-1)


@dataclass(frozen=True)
class TubeMask:
    """Targets are a random share `ratio` of the patch positions, the same at every time step."""

    ratio: float

    def __post_init__(self):
        if not 0.0 < self.ratio < 1.0:
            raise ValueError(f"ratio={self.ratio} must lie between 0 and 1.")

    def __call__(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        t, h, w = grid
        masked = generator.permutation(h * w) < round(self.ratio * h * w)
        return np.tile(masked, t)


@dataclass(frozen=True)
class CausalMask:
    """Targets are all tokens from time step `num_context_steps` on; with `blocks`, those blocks are targets too."""

    num_context_steps: int
    blocks: MultiBlockMask | None = None

    def __post_init__(self):
        if self.num_context_steps < 1:
            raise ValueError(f"num_context_steps={self.num_context_steps} must be at least 1.")

    def __call__(self, grid: Grid, generator: np.random.Generator) -> np.ndarray:
        t, h, w = grid
        target = np.repeat(np.arange(t) >= self.num_context_steps, h * w)
        return target if self.blocks is None else target | self.blocks(grid, generator)


MaskKind = MultiBlockMask | TubeMask | CausalMask

SHORT_RANGE = MultiBlockMask(num_blocks=8, spatial_scale=(0.15, 0.15))
LONG_RANGE = MultiBlockMask(num_blocks=2, spatial_scale=(0.7, 0.7))


class MaskSampler:
    """Draw context and target index lists for batches of clips.

    With `mode="packed"` every clip keeps all its tokens, and lists differ in length. Otherwise every list is cut to
    the shortest of its *group*: with `mode="subsample"` the tokens to leave out are drawn at random; with
    `mode="reference"` the last ones in raster order are left out, as Meta's code does, which removes late frames
    first. A group may be larger than a batch: when the clips of one optimizer step form a group, the masks do not
    depend on how the step is split over processes and accumulation.
    """

    def __init__(
        self,
        masks: Sequence[MaskKind],
        grid_size: Grid,
        seed: int = 0,
        mode: Literal["subsample", "reference", "packed"] = "subsample",
    ):
        if not masks:
            raise ValueError("masks is empty; give at least one mask kind.")
        if mode not in ("subsample", "reference", "packed"):
            raise ValueError(f"mode={mode!r} must be 'subsample', 'reference' or 'packed'.")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative.")
        self.masks = tuple(masks)
        self.grid_size = grid_size
        self.seed = seed
        self.mode = mode

    def __call__(
        self, samples: Sequence[SampleKey], group: Sequence[SampleKey] | None = None
    ) -> tuple[list[IndexLists], list[IndexLists]]:
        """Index lists of a batch.

        Args:
            samples: (epoch, sample id) of the clips of the batch.
            group: (epoch, sample id) of all clips that share the length of the lists; the batch itself if `None`.

        Returns:
            `context_masks` and `target_masks`: per mask kind a sorted LongTensor `(B, K)` and `(B, M)`; packed, B
            sorted LongTensors `(K,)` and `(M,)` of any lengths.

        Raises:
            ValueError: when the grid is too small for a mask kind to leave both context and targets.
        """
        if self.mode == "packed":
            drawn = [[self._draw(key, kind)[0] for key in samples] for kind in range(len(self.masks))]
            context_masks = [[self._indices(~target) for target in targets] for targets in drawn]
            return context_masks, [[self._indices(target) for target in targets] for targets in drawn]
        members = list(dict.fromkeys([*samples, *(group or ())]))
        context_masks, target_masks = [], []
        for kind in range(len(self.masks)):
            drawn = {key: self._draw(key, kind) for key in members}
            counts = [int(target.sum()) for target, _ in drawn.values()]
            num_targets, num_context = min(counts), len(drawn[members[0]][0]) - max(counts)
            batch = [drawn[key] for key in samples]
            # The context is cut first, then the targets, so that a clip's generator always advances alike.
            context_masks.append(self._stack([self._cut(~target, num_context, rng) for target, rng in batch]))
            target_masks.append(self._stack([self._cut(target, num_targets, rng) for target, rng in batch]))
        return context_masks, target_masks

    def _draw(self, key: SampleKey, kind: int) -> tuple[np.ndarray, np.random.Generator]:
        """The mask of one clip, and its generator for the cut."""
        rng = generator("mask", self.seed, *key, kind)
        for _ in range(MAX_ATTEMPTS):
            target = self.masks[kind](self.grid_size, rng)
            if target.any() and not target.all():
                return target, rng
        raise ValueError(
            f"the grid (t, h, w) = {self.grid_size} is too small for {self.masks[kind]}: {MAX_ATTEMPTS} draws left no "
            "context or no target; use larger frames, smaller patches or smaller masks."
        )

    def _cut(self, tokens: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
        indices = np.flatnonzero(tokens)
        if self.mode == "reference":
            return indices[:length]
        return np.sort(generator.permutation(indices)[:length])

    @staticmethod
    def _indices(tokens: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.flatnonzero(tokens))

    @staticmethod
    def _stack(indices: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(indices))
