"""The generation of a checkpoint of Meta's code (V-JEPA, 2 or 2.1), and the constants that its file does not contain.

Facts from facebookresearch/vjepa2: src/hub/backbones.py, app/vjepa_2_1 and configs/.
"""

from dataclasses import dataclass, field
from typing import Any

from .folders import State
from .released import LICENSE, VJEPA2_FILES

# Published widths (Ti, S, B, L, H, g, G) -> heads, which the shapes do not determine.
HEADS_OF_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
# V-JEPA 2.1: number of layers -> layers with a norm of their own; distilled files predict the last of them.
LEVEL_LAYERS = {12: [2, 5, 8, 11], 24: [5, 11, 17, 23], 40: [9, 19, 29, 39], 48: [11, 23, 37, 47]}
_VJEPA2 = {
    "pred_num_attention_heads": 12,
    "pred_mask_token_per_mask_type": False,
    "initializer_depth_scaling": True,
    "pooler_num_attention_heads": 16,
}


@dataclass(frozen=True)
class Generation:
    """One generation of Meta's models.

    Attributes:
        name: name in messages.
        position_embedding_type: as in `VJEPAConfig`.
        license: license of the repository that released the weights.
        heads_of_width: published widths -> attention heads.
        fields: fields of `VJEPAConfig` that no tensor shows.
        num_frames: frames of the clips of released files; None where a position table shows them.
        image_size: side of these clips.
    """

    name: str
    position_embedding_type: str
    license: str
    heads_of_width: dict[int, int]
    fields: dict[str, Any] = field(default_factory=dict)
    num_frames: int | None = None
    image_size: int | None = None


GENERATIONS = (
    Generation("V-JEPA", "sincos", LICENSE, HEADS_OF_WIDTH),
    Generation("V-JEPA 2", "rope", "MIT", HEADS_OF_WIDTH | {1408: 22, 1664: 26}, _VJEPA2, 64, 256),
    Generation("V-JEPA 2.1", "rope_interpolated", "MIT", HEADS_OF_WIDTH | {1408: 22, 1664: 26}, _VJEPA2, 64, 384),
)


def find_generation(
    parts: dict[str, State], position_embedding_type: str | None = None, released: str | None = None
) -> Generation:
    """Return the generation of a checkpoint, and remove the position tables that V-JEPA 2 does not read.

    Args:
        parts: tensors of a file by part.
        position_embedding_type: field of `VJEPAConfig`; None infers it.
        released: name of the released V-JEPA 2 file.

    Raises:
        ValueError: the file is of another generation than asked for, or its generation cannot be inferred.
    """
    known = VJEPA2_FILES[released].position_embedding_type if released else None
    encoder, predictor = parts["target_encoder"], parts.get("predictor", {})
    has_levels = any(name.startswith("norms_block.") for name in encoder)
    num_mask_tokens = sum(name.startswith("mask_tokens.") for name in predictor)
    if has_levels:
        stored_type = "rope_interpolated"
    elif not any(name.endswith("pos_embed") for state in parts.values() for name in state):
        stored_type = position_embedding_type or "rope"
    elif position_embedding_type or known:
        stored_type = position_embedding_type or known or ""
    elif num_mask_tokens > 2:
        raise ValueError(
            f"the file has position tables and {num_mask_tokens} mask tokens. Released V-JEPA 2 files have 10 and do "
            "not use their tables, V-JEPA files have 2; pass position_embedding_type (--position_embedding_type) "
            "'rope' or 'sincos'."
        )
    else:
        stored_type = "sincos"
    wanted = position_embedding_type or known or stored_type
    if wanted != stored_type or (wanted == "rope_interpolated") != has_levels:
        names = {generation.position_embedding_type: generation.name for generation in GENERATIONS}
        kind = "V-JEPA 2.1 (it has norms_block)" if has_levels else "not V-JEPA 2.1 (it has no norms_block)"
        raise ValueError(
            f"the file is {kind}, but {names.get(wanted, wanted)} (position_embedding_type={wanted!r}) is asked for; "
            "omit position_embedding_type, or give the other file."
        )
    for generation in GENERATIONS:
        if generation.position_embedding_type == stored_type:
            return generation
    choices = ", ".join(repr(generation.position_embedding_type) for generation in GENERATIONS)
    raise ValueError(f"position_embedding_type={stored_type!r} must be one of {choices}.")


def drop_tables(parts: dict[str, State]) -> dict[str, str]:
    """Remove the position tables of V-JEPA 2 files from `parts`; return their names with the reason."""
    dropped = {}
    for part, state in parts.items():
        for name in ("pos_embed", "predictor_pos_embed"):
            if state.pop(name, None) is not None:
                dropped[f"{part}.{name}"] = "a table that V-JEPA 2 does not read: queries and keys turn instead"
    return dropped


def infer_fields(generation: Generation, parts: dict[str, State], width: int, depth: int) -> dict[str, Any]:
    """Infer the fields of `VJEPAConfig` that V-JEPA 2 and 2.1 add to those of V-JEPA.

    Raises:
        ValueError: a V-JEPA 2.1 file with another number of layers than the published ones.
    """
    fields = {"position_embedding_type": generation.position_embedding_type} | generation.fields
    if "classifier" not in parts and width % fields.get("pooler_num_attention_heads", 1):
        del fields["pooler_num_attention_heads"]  # of probes to come
    if generation.position_embedding_type != "rope_interpolated":
        return fields
    if depth not in LEVEL_LAYERS:
        raise ValueError(
            f"V-JEPA 2.1 files have {', '.join(map(str, LEVEL_LAYERS))} layers, but this one has {depth}."
        )
    fields |= {
        "level_layers": LEVEL_LAYERS[depth],
        "image_tokenizer": "patch_embed_img.proj.weight" in parts["target_encoder"],
    }
    predictor = parts.get("predictor", {})
    if "predictor_embed.0.weight" in predictor:
        fields["pred_num_levels"] = predictor["predictor_embed.0.weight"].shape[1] // width
    if "predictor_proj.weight" in predictor:
        target = predictor["predictor_proj.weight"].shape[0] // fields.get("pred_num_levels", 1)
        fields["pred_target_size"] = None if target == width else target
    fields["pred_context_head"] = "predictor_proj_context.weight" in predictor
    return fields
