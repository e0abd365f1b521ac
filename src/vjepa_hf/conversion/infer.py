"""Infer the configuration of a checkpoint from the shapes and position tables of its tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification
from ..model.tubelets import sincos_positions
from .folders import State
from .generation import GENERATIONS, Generation, infer_fields


def infer_config(
    parts: dict[str, State],
    num_attention_heads: int | None = None,
    num_frames: int | None = None,
    image_size: int | Sequence[int] | None = None,
    uniform_power: bool | None = None,
    generation: Generation = GENERATIONS[0],
    given: Mapping[str, Any] | None = None,
) -> VJEPAConfig:
    """Infer the configuration of a checkpoint; the arguments are as in `convert`.

    Fields that are `given` replace inferred ones.

    Raises:
        ValueError: a field cannot be inferred; the message names the argument to pass.
    """
    width, num_channels, tubelet_size, patch_size, patch_width = _shape(
        parts, "target_encoder", "patch_embed.proj.weight", 5
    )
    if patch_size != patch_width:
        raise ValueError(f"patches of {patch_size} x {patch_width} pixels are not square; V-JEPA has square patches.")
    heads = num_attention_heads or generation.heads_of_width.get(width)
    if heads is None:
        raise ValueError(
            f"the number of attention heads cannot be inferred from hidden_size={width}, not a published size; "
            "pass num_attention_heads (--num_attention_heads)."
        )
    fields: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": _depth(parts["target_encoder"], "blocks."),
        "num_attention_heads": heads,
        "mlp_ratio": _ratio(width, _shape(parts, "target_encoder", "blocks.0.mlp.fc1.weight", 2)[0]),
        "qkv_bias": "blocks.0.attn.qkv.bias" in parts["target_encoder"],
        "patch_size": patch_size,
        "tubelet_size": tubelet_size,
        "num_channels": num_channels,
    }
    if "predictor" in parts:
        embed = "predictor_embed.2" if "predictor_embed.2.weight" in parts["predictor"] else "predictor_embed"
        pred_width = _shape(parts, "predictor", f"{embed}.weight", 2)[0]
        pred_hidden = _shape(parts, "predictor", "predictor_blocks.0.mlp.fc1.weight", 2)[0]
        fields |= {
            "pred_hidden_size": pred_width,
            "pred_num_hidden_layers": _depth(parts["predictor"], "predictor_blocks."),
            "pred_mlp_ratio": _ratio(pred_width, pred_hidden),
            "pred_num_mask_tokens": _depth(parts["predictor"], "mask_tokens."),
        }
    if "classifier" in parts:
        pooler_hidden, pooler_width = _shape(parts, "classifier", "pooler.cross_attention_block.mlp.fc1.weight", 2)
        if pooler_width != width:
            raise ValueError(
                f"the probe reads features of width {pooler_width}, but the encoder has width {width}; give the probe "
                "of this encoder."
            )
        blocks = [name for name in parts["classifier"] if name.startswith("pooler.blocks.")]
        fields |= {
            "pooler_mlp_ratio": _ratio(width, pooler_hidden),
            "num_pooler_layers": 1 + (_depth(parts["classifier"], "pooler.blocks.") if blocks else 0),
            "num_labels": _shape(parts, "classifier", "linear.weight", 2)[0],
        }
    fields |= infer_fields(generation, parts, width, fields["num_hidden_layers"]) | dict(given or {})
    pred_heads = fields.get("pred_num_attention_heads")
    if pred_heads and fields.get("pred_hidden_size", 0) % pred_heads:
        raise ValueError(
            f"the predictor of width {fields['pred_hidden_size']} cannot have pred_num_attention_heads={pred_heads}; "
            "pass pred_num_attention_heads (--pred_num_attention_heads)."
        )
    num_frames = num_frames or generation.num_frames
    image_size = image_size or generation.image_size
    t = None if num_frames is None else _whole("num_frames", num_frames, tubelet_size)
    sides = None if image_size is None else [_whole("image_size", n, patch_size) for n in _sides(image_size)]
    if t is None or sides is None or generation.position_embedding_type == "sincos":
        (t, h, w), fields["uniform_power"] = _infer_grid(parts, t, sides, uniform_power)
    else:
        h, w = sides
    fields["num_frames"] = t * tubelet_size
    fields["image_size"] = h * patch_size if h == w else (h * patch_size, w * patch_size)
    architecture = VJEPAForVideoClassification if "classifier" in parts else VJEPAForPreTraining
    return VJEPAConfig(
        **fields,
        architectures=[architecture.__name__],
        dtype=parts["target_encoder"]["patch_embed.proj.weight"].dtype,
    )


def _shape(parts: dict[str, State], part: str, name: str, ndim: int) -> torch.Size:
    """Return the shape of a tensor that the configuration is inferred from."""
    if name not in parts[part]:
        raise ValueError(f"{part!r} has no {name!r}; it is not a V-JEPA checkpoint, or an incomplete one.")
    shape = parts[part][name].shape
    if len(shape) != ndim:
        raise ValueError(f"{part}.{name} has the shape {tuple(shape)}, expected {ndim} dimensions.")
    return shape


def _depth(state: State, prefix: str) -> int:
    """Count the blocks with this prefix, at least one; `check_parts` reports gaps in the numbering."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    return max(1, len(numbers))


def _ratio(width: int, hidden: int) -> float:
    """Return a ratio with `int(width * ratio) == hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _sides(image_size: int | Sequence[int]) -> list[int]:
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) not in (1, 2):
        raise ValueError(f"image_size={image_size} must be one number or height and width.")
    return sides * 2 if len(sides) == 1 else sides


def _whole(name: str, length: int, unit: int) -> int:
    if length % unit:
        raise ValueError(f"{name}={length} is not a multiple of {unit}, the size of the checkpoint's tubelets.")
    return length // unit


def _infer_grid(
    parts: dict[str, State], t: int | None, sides: list[int] | None, uniform_power: bool | None
) -> tuple[tuple[int, int, int], bool]:
    """Return the token grid (t, h, w) and sin-cos split whose formula matches the stored position tables best."""
    stored = [parts["target_encoder"].get("pos_embed"), parts.get("predictor", {}).get("predictor_pos_embed")]
    tables = [table[0].float() for table in stored if table is not None and table.ndim == 3 and table.numel()]
    if not tables:
        raise ValueError(
            "'target_encoder' has no 'pos_embed' of shape (1, N, D); it is not a complete V-JEPA checkpoint."
        )
    num_tokens = len(tables[0])
    splits = [split for split in (True, False) if uniform_power in (None, split)]
    if any(table.shape[1] % 8 for table in tables):
        splits = [split for split in splits if split]  # the other split needs multiples of eight
    grids = [
        grid for grid in _grids(num_tokens) if t in (None, grid[0]) and (sides is None or list(grid[1:]) == sides)
    ]
    if not grids or not splits:
        raise ValueError(
            f"{num_tokens} tokens do not fit the given num_frames, image_size and uniform_power; correct or omit them."
        )
    scores = {}
    for grid in grids:
        for split in splits:
            scores[grid, split] = min(_similarity(table, grid, split) for table in tables if len(table) == num_tokens)
            if scores[grid, split] > 0.999:
                return grid, split
    # No exact match: the best candidate must be clearly better than the others.
    best, *others = sorted(scores, key=scores.__getitem__, reverse=True)
    if others and scores[best] - scores[others[0]] < 0.05:
        raise ValueError(
            "the position tables match no sin-cos formula, so the shape of a clip cannot be inferred from them; pass "
            "num_frames (--num_frames), image_size (--image_size) and uniform_power (--uniform_power or "
            "--no_uniform_power)."
        )
    return best


def _grids(num_tokens: int) -> list[tuple[int, int, int]]:
    """List all grids of `num_tokens` tokens, square ones first, then by size of the sides."""
    divisors = [number for number in range(1, num_tokens + 1) if num_tokens % number == 0]
    grids = [(num_tokens // (h * w), h, w) for h in divisors for w in divisors if num_tokens % (h * w) == 0]
    return sorted(grids, key=lambda grid: (grid[1] != grid[2], -grid[1], -grid[2]))


def _similarity(table: torch.Tensor, grid: tuple[int, int, int], uniform_power: bool) -> float:
    """Return the correlation over tokens of a position table (N, D) and the formula: 1 if they are equal."""
    formula = sincos_positions(grid, table.shape[1], uniform_power)
    ours, theirs = (values - values.mean(dim=0) for values in (formula, table))
    return torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0).item()
