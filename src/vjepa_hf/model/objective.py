"""Targets of pretraining, and the loss on context tokens that V-JEPA 2.1 adds: pure functions.

A level is the output of one encoder layer. V-JEPA and V-JEPA 2 predict the last one, V-JEPA 2.1 four of them together.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .tubelets import Grid

# The published targets are normalized with PyTorch's default epsilon, unlike the encoder's own norms.
TARGET_LAYER_NORM_EPS = 1e-5


def join_levels(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join the features of levels, each `(B, N, D)`, to `(B, N, levels * D)`."""
    return levels[0] if len(levels) == 1 else torch.cat(list(levels), dim=-1)


def normed_targets(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Layer-norm the features of each level, without weights, in float32, and join them: `(B, N, levels * D)`."""
    features = (level.float() for level in levels)
    return join_levels([nn.functional.layer_norm(x, x.shape[-1:], eps=TARGET_LAYER_NORM_EPS) for x in features])


def distances_to_targets(context_mask: torch.Tensor, target_mask: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the Euclidean distance `(B, K)`, in tokens, of every context token to the nearest target.

    Squares of distances are minimized along one axis after the other, so the memory grows with the number of tokens
    and not with K * M. A token that is both context and target has the distance 1.
    """
    tokens = torch.full((len(context_mask), grid[0] * grid[1] * grid[2]), torch.inf, device=context_mask.device)
    squares = tokens.scatter(1, target_mask, 0.0).unflatten(1, grid)
    for axis, length in enumerate(grid, start=1):
        steps = torch.arange(length, dtype=squares.dtype, device=squares.device)
        offsets = (steps[:, None] - steps).square()  # (from, to)
        squares = (squares.movedim(axis, -1)[..., None] + offsets).amin(dim=-2).movedim(-1, axis)
    return squares.flatten(1).gather(1, context_mask).clamp_min(1).sqrt()


def context_loss(
    prediction: torch.Tensor, target: torch.Tensor, distances: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean absolute error on context tokens `(B, K, D)` (V-JEPA 2.1), a scalar.

    With `distances` `(B, K)` to the nearest target, the error of each token is divided by the square root of its
    distance.
    """
    errors = (prediction.float() - target).abs().mean(dim=-1)
    return (errors if distances is None else errors / distances.sqrt()).mean()
