"""Convert V-JEPA 2 between the format of transformers (`model_type: vjepa2`) and ours.

Both have the same weights under other names; transformers stores queries, keys and values apart, we store them
together. Both directions are strict, as in `meta`.

The pooler of transformers has the heads and the epsilon of the encoder and reads the last layer. Meta trained the
published probes with 16 heads, an epsilon of 1e-5 and, for Diving48, four layers (facebookresearch/vjepa2,
configs/eval). `PUBLISHED_PROBES` gives these to the published classifiers; any other folder computes what it computes
in transformers.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model, VJEPA2VideoProcessor

from ..files import named_damage
from ..model.configuration_vjepa import VJEPAConfig
from ..model_card import UNKNOWN, front_matter, metadata, read_origin
from .folders import (
    CONFIG,
    State,
    clip_processor,
    fill_folder,
    find_folder,
    new_folder,
    read_config,
    read_model,
    read_weights,
)
from .report import Conversion, Source, model_card

# Names of weights in each part, transformers' and ours; then the tensors that we join along the first dimension.
_RENAMED: dict[str, tuple[tuple[str, str], ...]] = {
    "encoder": (("embeddings.patch_embeddings.proj.", "embeddings.projection."), ("layer.", "layers."),
                ("layernorm.", "norm.")),
    "predictor": (("embeddings.predictor_embeddings.", "embed."), ("embeddings.mask_tokens", "mask_tokens"),
                  ("layer.", "layers."), ("layernorm.", "norm.")),
    "pooler": (),
    "classifier": (),
}  # fmt: skip
_QKV: dict[str, tuple[str, ...]] = {"qkv": ("attention.query.", "attention.key.", "attention.value.")}
_JOINED: dict[str, dict[str, tuple[str, ...]]] = {
    "encoder": _QKV,
    "predictor": _QKV,
    "pooler": {
        "qkv": ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
        "kv": ("cross_attn.k_proj.", "cross_attn.v_proj."),
        "q": ("cross_attn.q_proj.",),
    },
    "classifier": {},
}
# Fields with the same meaning and values, transformers' and ours.
_FIELDS = {name: name for name in VJEPA2Config.__annotations__ if name in VJEPAConfig.__annotations__} | {
    "crop_size": "image_size",
    "frames_per_clip": "num_frames",
    "in_chans": "num_channels",
}
# Fields of transformers that are read otherwise, or that a model does not depend on.
_OTHER_FIELDS = ("num_pooler_layers", "attention_dropout")
_DEFAULTS_ONLY = {"use_SiLU": False, "wide_SiLU": True}  # in older configurations; only these values exist
_COMMON = ("torch_dtype", "_name_or_path", "use_sdpa", "uniform_power", "image_size")
_LABELS = ("id2label", "label2id", "problem_type")
PUBLISHED_PROBES: dict[str, dict[str, Any]] = {
    "facebook/vjepa2-vitl-fpc16-256-ssv2": {},
    "facebook/vjepa2-vitg-fpc64-384-ssv2": {},
    "facebook/vjepa2-vitl-fpc32-256-diving48": {"pooler_layers": [17, 19, 21, 23]},
    "facebook/vjepa2-vitg-fpc32-384-diving48": {"pooler_layers": [24, 29, 34, 39]},
}
META_POOLER = {"pooler_num_attention_heads": 16, "pooler_layer_norm_eps": 1e-5}


# --- transformers to ours ------------------------------------------------------------------------------------------


def convert_transformers(source: str | Path, output: str | Path, license: str | None = None) -> Conversion:
    """Convert V-JEPA 2 in transformers' format, a folder or a Hub name, to a folder of ours.

    The folder loads as `VJEPAModel`, as `VJEPAForPreTraining`, whose two encoders then start alike, and, if it has a
    pooler, as `VJEPAForVideoClassification`.

    Raises:
        ValueError: another kind of model, an unknown field, a missing or unknown tensor, or one of the wrong shape.
        FileExistsError: `output` is not empty.
    """
    with new_folder(Path(output)) as target:
        folder = find_folder(source)
        if folder is None:
            raise ValueError(f"{str(source)!r} is neither a folder nor a name on the Hub.")
        config, state = read_transformers(folder)
        notes = ["the encoder is the one that transformers has; published ones are probably Meta's online encoder"]
        if str(source) in PUBLISHED_PROBES:
            for name, value in (META_POOLER | PUBLISHED_PROBES[str(source)]).items():
                setattr(config, name, value)
            notes.append("pooler of 16 heads, epsilon 1e-5, layers " + str(config.pooler_layers or "the last"))
        origin = read_origin(source)
        license = license or origin.license.get("license_name") or origin.license.get("license", UNKNOWN)
        notes.append(f"license of the weights: {license}")
        report = Conversion(Path(output), count_parts(state), notes=notes)
        files = [Source(path, f"{source}/{path.name}") for path in sorted(folder.glob("*.safetensors"))]
        card = model_card(config, report, files, license, origin.base_model)
        fill_folder(target, state, config, clip_processor(config), card)
    return report


def read_transformers(folder: Path) -> tuple[VJEPAConfig, State]:
    """Read a folder in transformers' format as our configuration and state dict.

    Raises:
        ValueError: another kind of model, an unknown field, a missing or unknown tensor, or one of the wrong shape.
    """
    with named_damage(folder):  # a value of another type
        theirs = check_fields(read_config(folder), folder)
    state = read_weights(folder)
    config = config_from_transformers(theirs, has_pooler="classifier.weight" in state)  # checks the values
    check_weights(state, theirs, folder)
    config.dtype = state[next(iter(state))].dtype
    return config, from_transformers(state)


def check_fields(fields: dict, folder: Path) -> VJEPA2Config:
    """Return transformers' configuration with these fields.

    Raises:
        ValueError: another model, an unknown field, or a value that the model class does not have.
    """
    if fields.get("model_type") != VJEPA2Config.model_type:
        raise ValueError(
            f"{folder / CONFIG} has model_type={fields.get('model_type')!r}; only 'vjepa2' can be converted."
        )
    known = {*VJEPA2Config().to_dict(), *_LABELS, *_DEFAULTS_ONLY, *_COMMON}
    for name, value in fields.items():
        if name not in known:
            raise ValueError(
                f"{folder / CONFIG} has the unknown field {name}={value!r}, which may change the model; remove it if "
                "it does not."
            )
        if _DEFAULTS_ONLY.get(name, value) != value:
            raise ValueError(f"{folder / CONFIG} has {name}={value!r}, but V-JEPA 2 has only {_DEFAULTS_ONLY[name]}.")
    theirs = VJEPA2Config(**{name: value for name, value in fields.items() if name not in (*_DEFAULTS_ONLY, *_COMMON)})
    if not isinstance(theirs.patch_size, int):
        raise ValueError(f"{folder / CONFIG} has patch_size={theirs.patch_size}; only one number is supported.")
    if theirs.attention_dropout != theirs.attention_probs_dropout_prob:
        raise ValueError(
            f"{folder / CONFIG} has attention_dropout={theirs.attention_dropout} but attention_probs_dropout_prob="
            f"{theirs.attention_probs_dropout_prob}; ours is one number, so make them equal."
        )
    if fields.get("image_size", theirs.crop_size) != theirs.crop_size:
        raise ValueError(
            f"{folder / CONFIG} has image_size={fields['image_size']} but crop_size={theirs.crop_size}; make them "
            "equal."
        )
    return theirs


def check_weights(state: State, theirs: VJEPA2Config, folder: str | Path) -> None:
    """Compare name, shape and type of every tensor with transformers' model; the predictor may be missing as a whole.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or not floating point; the first eight are named.
    """
    model_class = VJEPA2ForVideoClassification if "classifier.weight" in state else VJEPA2Model
    with torch.device("meta"):
        expected = {name.removeprefix("vjepa2."): value for name, value in model_class(theirs).state_dict().items()}
    given = {name.removeprefix("vjepa2."): value for name, value in state.items()}
    if not any(name.startswith("predictor.") for name in given):
        expected = {name: value for name, value in expected.items() if not name.startswith("predictor.")}
    faults = [f"{name} is missing" for name in expected if name not in given]
    for name, value in given.items():
        if name not in expected:
            faults.append(f"{name} is unknown")
        elif value.shape != expected[name].shape:
            faults.append(f"{name} has the shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}")
        elif not value.is_floating_point():
            faults.append(f"{name} is {value.dtype}, expected floating point")
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(f"{folder} does not have the weights of its configuration: {'; '.join(faults[:8])}{more}.")


def config_from_transformers(theirs: VJEPA2Config, has_pooler: bool) -> VJEPAConfig:
    """Return our configuration of a model that computes the same."""
    fields = {ours: getattr(theirs, name) for name, ours in _FIELDS.items() if ours != "num_pooler_layers"}
    fields |= {name: getattr(theirs, name) for name in _LABELS}
    return VJEPAConfig(
        **fields,
        architectures=["VJEPAForVideoClassification" if has_pooler else "VJEPAForPreTraining"],
        position_embedding_type="rope",
        pred_mask_token_per_mask_type=False,
        initializer_depth_scaling=True,
        num_pooler_layers=theirs.num_pooler_layers + 1,
        pooler_layer_norm_eps=theirs.layer_norm_eps,
    )


def from_transformers(state: State) -> State:
    """Build our state dict from transformers'; the exact inverse of `to_transformers`."""
    ours: State = {}
    pieces: dict[str, dict[int, torch.Tensor]] = {}
    for full_name, value in state.items():
        part, _, name = full_name.removeprefix("vjepa2.").partition(".")
        prefix = f"vjepa.{part}." if part in ("encoder", "predictor") else f"{part}."
        for theirs, our in _RENAMED[part]:
            if name.startswith(theirs):
                name = our + name.removeprefix(theirs)
                break
        name = name.replace("layer_norm", "norm").replace("self_attn.out_proj.", "attention.proj.")
        for joined, parts in _JOINED[part].items():
            for index, piece in enumerate(parts):
                if piece in name:
                    pieces.setdefault(prefix + name.replace(piece, f"attention.{joined}."), {})[index] = value
                    name = ""
        if name == "mask_tokens":
            value = value.flatten(0, 2)  # (tokens, 1, 1, P) -> (tokens, P)
        if name:
            ours[prefix + name] = value
    return ours | {name: torch.cat([values[i] for i in sorted(values)]) for name, values in pieces.items()}


# --- ours to transformers ------------------------------------------------------------------------------------------


def export_to_transformers(folder: str | Path, output: str | Path) -> Conversion:
    """Write a V-JEPA 2 folder of ours in transformers' format, which loads without vjepa_hf.

    transformers has one encoder: the target encoder is written.

    Raises:
        ValueError: the folder has no V-JEPA 2 model, or one that transformers cannot compute.
        FileExistsError: `output` is not empty.
    """
    folder = Path(folder)
    with new_folder(Path(output)) as target:
        state, config = read_model(folder)
        if not any(name.startswith("vjepa.encoder.") for name in state):
            raise ValueError(f"{folder} has no target encoder (vjepa.encoder); give the folder of a V-JEPA 2 model.")
        if "VJEPAForActionDetection" in (config.architectures or []):
            raise ValueError(f"{folder} holds an action detector, which transformers does not have.")
        has_pooler = "classifier.weight" in state
        theirs = config_to_transformers(config, has_pooler)
        dropped, notes = {}, []
        if any(name.startswith("context_encoder.") for name in state):
            dropped["context_encoder"] = "transformers has one encoder, which is the target encoder"
        kept = {name: value for name, value in state.items() if not name.startswith("context_encoder.")}
        weights = to_transformers(kept)
        if not has_pooler:
            weights = {name.removeprefix("vjepa2."): value for name, value in weights.items()}
        check_weights(weights, theirs, folder)
        theirs.dtype = weights[next(iter(weights))].dtype
        if not any("predictor." in name for name in weights):
            notes.append("no predictor: transformers draws one at random, with a warning; classifiers do not use it")
        if has_pooler and config.pooler_layer_norm_eps != config.layer_norm_eps:
            notes.append(
                f"the pooler's epsilon {config.pooler_layer_norm_eps:g} becomes {config.layer_norm_eps:g}, the only "
                "one of transformers: logits change by about 5e-5 of their scale"
            )
        report = Conversion(Path(output), count_parts(kept), dropped, notes)
        origin = read_origin(folder)
        data = metadata(
            "VJEPAForVideoClassification" if has_pooler else "VJEPAModel", origin.license, origin.base_model
        )
        data.library_name = "transformers"
        lines = [front_matter(data), "# V-JEPA 2, exported by vjepa_hf", ""]
        lines += [f"- {line}" for line in [*report.notes, *report.dropped_lines()]]
        card = "\n".join([*lines, "", "## License", "", origin.describe(), ""])
        fill_folder(target, weights, theirs, VJEPA2VideoProcessor(crop_size=theirs.crop_size), card)
    return report


def config_to_transformers(config: VJEPAConfig, has_pooler: bool) -> VJEPA2Config:
    """Return transformers' configuration of a model that computes the same.

    Raises:
        ValueError: a field has a value that transformers' V-JEPA 2 does not have; the message names it.
    """
    heads = config.num_attention_heads
    required: dict[str, tuple[Any, ...]] = {
        "position_embedding_type": ("rope",),
        "level_layers": (None,),
        "pred_num_levels": (1,),
        "pred_target_size": (None, config.hidden_size),
        "pred_context_head": (False,),
        "image_tokenizer": (False,),
    }
    if has_pooler:
        last = [config.num_hidden_layers - 1]
        required |= {"pooler_num_attention_heads": (None, heads), "pooler_layers": (None, last)}
        required |= {"pooler_num_clips": (1,), "pooler_mlp_ratio": (4.0,)}
    for name, values in required.items():
        if getattr(config, name) not in values:
            value = getattr(config, name)
            raise ValueError(f"{name}={value!r}, but V-JEPA 2 in transformers supports only {values[0]!r}.")
    side, width = config.frame_size
    if side != width:
        raise ValueError(
            f"image_size={config.image_size} is not square, but V-JEPA 2 in transformers counts positions on a "
            "square; call model.resize_position_embeddings(image_size=...) with one number and save the model first."
        )
    fields = {name: getattr(config, ours) for name, ours in _FIELDS.items() if name != "num_pooler_layers"}
    fields |= {"crop_size": side, "attention_dropout": config.attention_probs_dropout_prob}
    fields |= {"pred_num_attention_heads": config.pred_num_attention_heads or heads}
    fields |= {name: getattr(config, name) for name in _LABELS}
    return VJEPA2Config(
        **fields,
        num_pooler_layers=config.num_pooler_layers - 1,
        architectures=["VJEPA2ForVideoClassification" if has_pooler else "VJEPA2Model"],
    )


def to_transformers(state: State) -> State:
    """Build transformers' state dict from ours, with the prefix `vjepa2.` of its classifier."""
    theirs: State = {}
    for full_name, value in state.items():
        part, _, name = full_name.removeprefix("vjepa.").partition(".")
        prefix = f"vjepa2.{part}." if part in ("encoder", "predictor") else f"{part}."
        for their, our in _RENAMED[part]:
            if name.startswith(our):
                name = their + name.removeprefix(our)
                break
        pieces: tuple[str, ...] = ()
        if part == "pooler":
            name = name.replace(".norm", ".layer_norm")
        for joined, parts in _JOINED[part].items():
            if f"attention.{joined}." in name:
                pieces, marker = parts, f"attention.{joined}."
        if part == "pooler" and not pieces:
            name = name.replace("attention.proj.", "self_attn.out_proj.")
        if name.endswith("mask_tokens"):
            value = value[:, None, None]  # (tokens, P) -> (tokens, 1, 1, P)
        if pieces:
            for piece, chunk in zip(pieces, value.chunk(len(pieces)), strict=True):
                theirs[prefix + name.replace(marker, piece)] = chunk.clone()
        else:
            theirs[prefix + name] = value
    return theirs


def count_parts(state: State) -> dict[str, int]:
    """Count the weights of each part of our state dict."""
    parts = {"encoder": "context_encoder.", "target_encoder": "vjepa.encoder.", "predictor": "vjepa.predictor."}
    counts = {part: _count(state, (prefix,)) for part, prefix in parts.items()}
    counts["classifier"] = _count(state, ("pooler.", "classifier."))
    return {part: count for part, count in counts.items() if count}


def _count(state: State, prefixes: Iterable[str]) -> int:
    return sum(value.numel() for name, value in state.items() if name.startswith(tuple(prefixes)))
