"""Rotary position embeddings of V-JEPA 2 and 2.1: queries and keys turn by angles that grow with time, row, column.

A head has three equal parts, for time, row and column, and a rest that does not turn. Within a part, features 2i and
2i + 1 are a pair. V-JEPA 2 was trained with frequencies in another order than the pairs ("rope"), which its weights
need; V-JEPA 2.1 gives both features of a pair one frequency, and spreads rows and columns of any grid over the side
that it was pretrained on ("rope_interpolated"). Facts from facebookresearch/vjepa2, whose code computes the angles in
the precision of the queries; here they are float32, computed once per forward pass.
"""

from typing import Any

import torch

from .tubelets import Grid

# Three tables (N, head size) or (B, K, head size): feature i becomes cosine * x[i] + next * x[i + 1] + previous *
# x[i - 1], where `next` is minus the sine of an even feature and `previous` the sine of an odd one, and 0 elsewhere.
Rotation = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
BASE = 10000.0
REFERENCE_PIXELS = 256  # V-JEPA 2.1 sees every frame as one with this side


def check_grid(grid: Grid, position_embedding_type: str) -> None:
    """Check that rows and columns can be spread over the pretrained side.

    Raises:
        ValueError: a side of one token with "rope_interpolated", which divides by the side minus one.
    """
    if position_embedding_type == "rope_interpolated" and min(grid[1:]) < 2:
        raise ValueError(
            f"the token grid {grid} has a side of 1, but position_embedding_type='rope_interpolated' needs at least 2 "
            "rows and 2 columns; use frames of at least two patches a side."
        )


def rotation_of(
    grid: Grid,
    mask: torch.Tensor | None,
    head_size: int,
    position_embedding_type: str,
    patch_size: int,
    device: torch.device,
) -> Rotation:
    """Return the rotation of tokens `(N, head_size)`, or of the tokens that a mask `(B, K)` names, in float32."""
    check_grid(grid, position_embedding_type)
    t, h, w = grid
    ids = torch.arange(t * h * w, device=device) if mask is None else mask
    coordinates = torch.stack([ids // (h * w), ids // w % h, ids % w], dim=-1).float()
    if position_embedding_type == "rope_interpolated":
        last = REFERENCE_PIXELS // patch_size - 1
        coordinates = coordinates * coordinates.new_tensor([1, last, last])
        coordinates = coordinates / coordinates.new_tensor([1, h - 1, w - 1])
    pairs = head_size // 6  # of each of the three parts
    frequencies = 1 / BASE ** (torch.arange(pairs, device=device) / pairs)
    angles = coordinates[..., None] * frequencies  # (..., 3, pairs)
    if position_embedding_type == "rope":
        angles = torch.cat([angles, angles], dim=-1)
    else:
        angles = angles.repeat_interleave(2, dim=-1)
    angles = torch.nn.functional.pad(angles.flatten(-2), (0, head_size - 6 * pairs))
    is_odd = (torch.arange(head_size, device=device) % 2).float()
    sines = angles.sin()
    return angles.cos(), -sines * (1 - is_odd), sines * is_odd


def rotate(heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turn queries and keys `(B, N, 2, heads, head size)`."""
    tables = [table[..., None, None, :].to(heads.dtype) for table in rotation]
    if torch.compiler.is_compiling():  # a compiler fuses this, and needs no backward pass of ours
        cosines, following, previous = tables
        return heads * cosines + heads.roll(-1, -1) * following + heads.roll(1, -1) * previous
    return _Rotate.apply(heads, *tables)


class _Rotate(torch.autograd.Function):
    """Rotation in three passes over memory, and its gradient likewise; written as tensors, it takes twice as long."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        heads: torch.Tensor, cosines: torch.Tensor, following: torch.Tensor, previous: torch.Tensor
    ) -> torch.Tensor:
        turned = heads * cosines
        turned[..., :-1].addcmul_(heads[..., 1:], following[..., :-1])
        turned[..., 1:].addcmul_(heads[..., :-1], previous[..., 1:])
        return turned

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        cosines, following, previous = ctx.saved_tensors
        return _Rotate.apply(gradient, cosines, previous.roll(-1, -1), following.roll(1, -1)), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: None) -> torch.Tensor:
        return _Rotate.apply(tangent, *ctx.saved_tensors)
