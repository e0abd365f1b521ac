"""Convert checkpoints of Meta's V-JEPA code (`.pth.tar`) to folders for `from_pretrained`, and back.

Both directions are strict. Every name in a file is either used or reported as dropped, with the reason. If a tensor is
missing, unknown or of the wrong shape, nothing is written.

Letters in shapes: N tokens, D encoder width, P predictor width, L labels.
"""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..files import parents_of, whole_file
from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification
from .folders import State, clip_processor, fill_folder, find_folder, new_folder, read_model
from .generation import Generation, drop_tables, find_generation
from .infer import infer_config
from .released import (
    ENCODERS,
    VJEPA2_FILES,
    download,
    encoder_url,
    probe_url,
    released_encoder,
    released_probe,
)
from .report import Conversion, Source, model_card, name_labels
from .transformers_format import convert_transformers

# Parts of Meta's files -> prefix of our names.
PARTS = {
    "encoder": "context_encoder.",
    "predictor": "vjepa.predictor.",
    "target_encoder": "vjepa.encoder.",
    "classifier": "",
}
REQUIRED = ("encoder", "predictor", "target_encoder")
# Meta's prefixes of names, and ours; other names are equal.
_RENAMED = {
    "encoder": (
        ("patch_embed.proj.", "embeddings.projection."),
        ("patch_embed_img.proj.", "embeddings.image_projection."),
        ("img_mod_embed", "embeddings.modality_embeddings.image"),
        ("video_mod_embed", "embeddings.modality_embeddings.video"),
        ("norms_block.", "level_norms."),
        ("pos_embed", "embeddings.position_embeddings"),
        ("blocks.", "layers."),
    ),
    "predictor": (
        ("predictor_pos_embed", "position_embeddings"),
        ("predictor_embed.", "embed."),
        ("predictor_blocks.", "layers."),
        ("predictor_norm.", "norm."),
        ("predictor_proj.", "proj."),
        ("predictor_proj_context.", "context_proj."),
        ("img_mod_embed", "modality_embeddings.image"),
        ("video_mod_embed", "modality_embeddings.video"),
    ),
    "classifier": (
        ("pooler.cross_attention_block.xattn.", "pooler.cross_attention_layer.attention."),
        ("pooler.cross_attention_block.", "pooler.cross_attention_layer."),
        ("pooler.blocks.", "pooler.self_attention_layers."),
        ("linear.", "classifier."),
    ),
}
_RENAMED["target_encoder"] = _RENAMED["encoder"]

RUN_STATE = ("opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr")
LAST_NORM = "norms_block.3."  # of the four levels of V-JEPA 2.1; it is our `norm`
UNUSED_PROJECTION = "pooler.cross_attention_block.xattn.proj."
# PyPI's `vjepa` 0.1.2 does apply it, and published JEDi values are of that package.
POOLER_PROJECTION = "pooler_projection.safetensors"
# Constants of Meta's code that its files do not contain.
FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "pooler_layer_norm_eps": 1e-5}


# --- Meta's file to our folder -------------------------------------------------------------------------------------


def convert(
    checkpoint: str | Path,
    output: str | Path,
    probe: str | Path | None = None,
    num_attention_heads: int | None = None,
    num_frames: int | None = None,
    image_size: int | Sequence[int] | None = None,
    uniform_power: bool | None = None,
    labels: str | Path | None = None,
    license: str | None = None,
    download_dir: str | Path | None = None,
    position_embedding_type: str | None = None,
    pred_num_attention_heads: int | None = None,
    pooler_num_attention_heads: int | None = None,
    pooler_layers: Sequence[int] | None = None,
) -> Conversion:
    """Convert a pretraining checkpoint of Meta's code, and on request a probe, or a folder of transformers' V-JEPA 2.

    The folder loads as `VJEPAForPreTraining`, as `VJEPAModel` (the target encoder) and, with a probe, as
    `VJEPAForVideoClassification`.

    Args:
        checkpoint: a `.pth.tar` or `.pt` file, the name of a released model ("vitl16", "vith16", "vith16-384",
            "vitl.pt" and the other files of `released`), or a folder or Hub name in transformers' format.
        output: folder to write; it must be new or empty.
        probe: a probe's file or, for a released model, "k400", "ssv2", "in1k", "places205", "inat21" or "diving48".
        num_attention_heads: heads of the encoder; needed if its width is not that of a published size.
        num_frames: frames per clip; like the next two, needed only if the position tables do not determine it.
        image_size: side of the frames in pixels, or (height, width).
        uniform_power: sin-cos split of the position tables, see `VJEPAConfig`.
        labels: class names of the probe: a text file with one name per line, or "ssv2", "diving48" or "in1k".
        license: license of the weights, for the model card; default: that of the source.
        download_dir: folder for released files, see `download`.
        position_embedding_type: "sincos" for V-JEPA or "rope" for V-JEPA 2, if the file does not show which it is.
        pred_num_attention_heads: heads of the predictor; default: 12 for V-JEPA 2, the encoder's for V-JEPA.
        pooler_num_attention_heads: heads of the probe; default: 16 for V-JEPA 2, the encoder's for V-JEPA.
        pooler_layers: encoder layers that the probe reads; default: the last, or those of a released probe.

    Raises:
        ValueError: a file is not such a checkpoint, or a tensor is missing, unknown or of the wrong shape.
        FileExistsError: `output` is not empty.
        DownloadError: a released file could not be downloaded.
    """
    output = Path(output)
    given: dict[str, Any] = {
        "pred_num_attention_heads": pred_num_attention_heads,
        "pooler_num_attention_heads": pooler_num_attention_heads,
        "pooler_layers": None if pooler_layers is None else list(pooler_layers),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if find_folder(checkpoint) is not None:
        needless: dict[str, Any] = {"probe": probe, "num_attention_heads": num_attention_heads}
        needless |= {"num_frames": num_frames, "image_size": image_size, "uniform_power": uniform_power}
        needless |= {"labels": labels, "position_embedding_type": position_embedding_type} | given
        if names := [name for name, value in needless.items() if value is not None]:
            raise ValueError(f"a folder in transformers' format contains all settings; omit {', '.join(names)}.")
        return convert_transformers(checkpoint, output, license)
    with new_folder(output) as folder:
        sources = _locate(checkpoint, probe, download_dir)

        parts, dropped = read_checkpoint(sources[0].path)
        if probe is not None:
            probe_parts, probe_dropped = read_checkpoint(sources[1].path, required=("classifier",))
            parts["classifier"] = probe_parts["classifier"]
            dropped |= {f"{name} of the probe": reason for name, reason in probe_dropped.items()}
        dataset = sources[1].released_as if probe is not None else None
        released = released_encoder(sources[0].path.name)
        generation = find_generation(parts, position_embedding_type, released)
        if generation.position_embedding_type != "sincos":
            dropped |= drop_tables(parts)
            image_size = image_size or (VJEPA2_FILES[released].image_size if released else None)
            released_head = released_probe(released, sources[1].path.name) if probe is not None else None
            if released_head is not None:
                dataset = released_head.dataset
                num_frames = num_frames or released_head.num_frames
                given = ({"pooler_layers": list(released_head.layers)} if released_head.layers else {}) | given
        config = infer_config(parts, num_attention_heads, num_frames, image_size, uniform_power, generation, given)
        check_parts(parts, config)
        notes = _notes(config, generation, has_probe="classifier" in parts)
        if "classifier" in parts:
            if generation.position_embedding_type == "sincos":
                dropped[f"{UNUSED_PROJECTION}*"] = (
                    "the cross-attention output projection of the probe, which Meta's code stores but never applies; "
                    f"{POOLER_PROJECTION} keeps it for JEDi"
                )
            notes.append(name_labels(config, labels, dataset))
        elif labels:
            raise ValueError(f"labels={str(labels)!r} name the classes of a probe; add one with probe=...")
        license = license or generation.license
        notes.append(f"license of the weights: {license}")

        report = Conversion(output, _count(parts), dropped, notes)
        if "classifier" in parts and generation.position_embedding_type == "sincos":
            head = parts["classifier"]
            projection = {name: head[UNUSED_PROJECTION + name].contiguous() for name in ("weight", "bias")}
            save_file(projection, folder / POOLER_PROJECTION)
        card = model_card(config, report, sources, license)
        fill_folder(folder, from_meta(parts), config, clip_processor(config), card)
    return report


def _notes(config: VJEPAConfig, generation: Generation, has_probe: bool) -> list[str]:
    """Describe what was inferred or assumed."""
    notes = [
        f"{generation.name}: clips of {config.num_frames} frames of {config.image_size} pixels, "
        f"{config.num_attention_heads} heads"
    ]
    if generation.position_embedding_type == "sincos":
        notes[0] += f", uniform_power={config.uniform_power}"
        return notes
    notes[0] += f", {config.pred_num_attention_heads} heads of the predictor; the file does not contain these numbers"
    if has_probe:
        layers = f"layers {config.pooler_layers}" if config.pooler_layers else "the last layer"
        notes.append(f"the probe has {config.pooler_num_attention_heads} heads and reads {layers}")
    if config.pred_target_size is not None:
        notes.append(
            f"distilled: the predictor predicts features of width {config.pred_target_size}, so that pretraining "
            "needs a new one; the features of the encoder do not depend on it"
        )
    return notes


def _locate(checkpoint: str | Path, probe: str | Path | None, folder: str | Path | None) -> list[Source]:
    """Return the one or two files to read, and download released ones."""
    names = (*ENCODERS, *VJEPA2_FILES)
    encoder = str(checkpoint) if str(checkpoint) in names and not Path(checkpoint).exists() else None
    if not encoder and not Path(checkpoint).is_file():
        raise ValueError(
            f"checkpoint={str(checkpoint)!r} is neither a file nor one of the released {', '.join(names)}, nor a "
            "folder or Hub name in transformers' format."
        )
    urls: list[tuple[str | Path, str | None]] = [(checkpoint, encoder_url(encoder) if encoder else None)]
    if probe is not None:
        released = not Path(probe).is_file()
        urls.append((probe, probe_url(str(Path(checkpoint).name), str(probe)) if released else None))
    return [
        Source(download(url, folder), url, str(name)) if url else Source(Path(name), Path(name).name)
        for name, url in urls
    ]


def read_checkpoint(path: str | Path, required: Iterable[str] = REQUIRED) -> tuple[dict[str, State], dict[str, str]]:
    """Read the parts of a file, without the prefixes of distributed runs; also return dropped names with the reason.

    A file with only a target encoder and a classifier is complete, too: `export_to_meta` writes it for a classifier.

    Raises:
        ValueError: the file is not a checkpoint, lacks a part, or contains an unknown one.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a complete PyTorch checkpoint (zip format); it may be truncated.")
    try:  # `weights_only` executes no code of the file; `mmap` reads weights only when they are written
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of any type: unpickling foreign bytes is what fails
        raise ValueError(f"{path} is not a checkpoint of weights only, or is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not the dict of a V-JEPA checkpoint.")

    content = _rename_parts(content, path)
    parts = {part: _strip(part, content[part]) for part in PARTS if part in content}
    missing = [part for part in required if part not in parts]
    is_classifier = set(required) == set(REQUIRED) and set(parts) == {"target_encoder", "classifier"}
    if missing and not is_classifier:
        names = ", ".join(map(str, content)) or "nothing"
        raise ValueError(f"{path} has no {' and no '.join(missing)}; it contains {names}.")
    dropped = {}
    for name, value in content.items():
        if name in RUN_STATE:
            dropped[name] = "training state, which a model does not need"
        elif name not in parts:
            if _holds_tensors(value):
                raise ValueError(f"{path}: {name!r} contains weights that V-JEPA does not have; remove it.")
            dropped[name] = "unknown to V-JEPA, contains no weights"
    return parts, dropped


def _rename_parts(content: dict, path: str | Path) -> dict:
    """Rename parts of V-JEPA 2 files as in V-JEPA files: `classifiers`, and `ema_encoder` in distilled ones."""
    content = dict(content)
    if "ema_encoder" in content and "target_encoder" not in content:
        content["target_encoder"] = content.pop("ema_encoder")
    if "classifiers" in content and "classifier" not in content:
        classifiers = content.pop("classifiers")
        if len(classifiers) != 1:
            raise ValueError(
                f"{path} contains {len(classifiers)} classifiers of a sweep; save the one to convert as a list of one."
            )
        content["classifier"] = classifiers[0]
    return content


def _holds_tensors(value: object) -> bool:
    todo, seen = [value], set()  # a list may contain itself
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor):
            return True
        if isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value
    return False


def _strip(part: str, state: object) -> State:
    """Return the tensors of a part without the prefixes `module.` and `backbone.`."""
    if not isinstance(state, dict) or not all(map(_is_weight, state.items())):
        raise ValueError(f"{part!r} is not a state dict of dense tensors.")
    stripped = {name.removeprefix("module.").removeprefix("backbone."): value for name, value in state.items()}
    if len(stripped) != len(state):
        raise ValueError(f"{part!r} contains tensors whose names differ only in their prefix.")
    return stripped


def _is_weight(item: tuple[object, object]) -> bool:
    """Return whether this is a name and a dense tensor, not empty, and of no more numbers than the file contains."""
    name, value = item
    if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return False
    return 0 < value.numel() * value.element_size() <= value.untyped_storage().nbytes()


# --- names ---------------------------------------------------------------------------------------------------------


def from_meta(parts: dict[str, State]) -> State:
    """Build our state dict from Meta's parts; position tables are copied as stored."""
    ours = {}
    for part, state in parts.items():
        mask_tokens = {}
        for name, value in state.items():
            if name.startswith(UNUSED_PROJECTION):
                continue
            if name.startswith("mask_tokens."):
                mask_tokens[int(name.removeprefix("mask_tokens."))] = value[0, 0]
            else:
                name = name.replace(LAST_NORM, "norm.")
                # (1, N, D) -> (N, D)
                ours[PARTS[part] + _rename(part, name)] = value[0] if name.endswith("pos_embed") else value
        if mask_tokens:
            # (P,) per mask type -> (mask types, P)
            ours[PARTS[part] + "mask_tokens"] = torch.stack([mask_tokens[index] for index in sorted(mask_tokens)])
    return ours


def to_meta(state: State, unused_projection: bool = True) -> dict[str, State]:
    """Build Meta's parts, without prefixes, from our state dict; the exact inverse of `from_meta`.

    The unused projection of a probe, which V-JEPA 2 no longer has, becomes an identity, so it does not matter whether
    it is applied.
    """
    parts = {}
    # Longest prefix first, because that of the classifier is empty.
    for part, prefix in sorted(PARTS.items(), key=lambda item: -len(item[1])):
        names = [name for name in state if name.startswith(prefix)]
        theirs: State = {}
        has_levels = any(name.startswith(f"{prefix}level_norms.") for name in names)
        for name, value in ((name, state[name]) for name in names):
            short = name.removeprefix(prefix)
            if has_levels and short.startswith("norm."):
                short = LAST_NORM + short.removeprefix("norm.")
            if short == "mask_tokens":
                theirs |= {f"mask_tokens.{index}": token[None, None] for index, token in enumerate(value)}
            else:
                batched = value[None] if short.endswith("position_embeddings") else value
                theirs[_rename(part, short, back=True)] = batched
        query = theirs.get("pooler.cross_attention_block.xattn.q.weight")
        if query is not None and unused_projection:
            theirs[f"{UNUSED_PROJECTION}weight"] = torch.eye(len(query), dtype=query.dtype, device=query.device)
            theirs[f"{UNUSED_PROJECTION}bias"] = torch.zeros(len(query), dtype=query.dtype, device=query.device)
        if theirs:
            parts[part] = theirs
        state = {name: value for name, value in state.items() if name not in names}
    return parts


def _rename(part: str, name: str, back: bool = False) -> str:
    for theirs, ours in _RENAMED[part]:
        old, new = (ours, theirs) if back else (theirs, ours)
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    if part == "classifier" and not name.startswith(("pooler.blocks.", "pooler.self_attention_layers.")):
        return name
    return name.replace(".attention.", ".attn.") if back else name.replace(".attn.", ".attention.")


def check_parts(parts: dict[str, State], config: VJEPAConfig) -> None:
    """Compare name, shape and dtype of every tensor with a model of this configuration.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or not floating point; the first eight are named.
    """
    with torch.device("meta"):
        ours = VJEPAForVideoClassification(config).state_dict() | VJEPAForPreTraining(config).state_dict()
    expected = to_meta(ours, unused_projection=config.position_embedding_type == "sincos")
    faults = []
    for part, state in parts.items():
        for name, value in state.items():
            if name not in expected[part]:
                faults.append(f"{part}.{name} is unknown")
            elif value.shape != expected[part][name].shape:
                shapes = tuple(value.shape), tuple(expected[part][name].shape)
                faults.append(f"{part}.{name} has the shape {shapes[0]}, expected {shapes[1]}")
            elif not value.is_floating_point():
                faults.append(f"{part}.{name} is {value.dtype}, expected floating point")
        faults += [f"{part}.{name} is missing" for name in expected[part] if name not in state]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(f"not the weights of a V-JEPA model: {'; '.join(faults[:8])}{more}.")


def _count(parts: dict[str, State]) -> dict[str, int]:
    return {
        part: sum(value.numel() for name, value in state.items() if not name.endswith("pos_embed"))
        for part, state in parts.items()
    }


# --- our folder to Meta's file -------------------------------------------------------------------------------------


def export_to_meta(folder: str | Path, output: str | Path) -> Conversion:
    """Write the weights of a folder as one file in the layout of Meta's V-JEPA code.

    A pretraining folder gives `encoder`, `predictor` and `target_encoder`, a classifier `target_encoder` and
    `classifier`, a complete folder all four. Names have the prefixes that Meta's loaders expect. The file also
    contains a fresh optimizer state; without one, Meta's training program would start from random weights.

    Raises:
        ValueError: the folder contains no V-JEPA weights, or weights that do not fit its configuration.
        FileExistsError: `output` exists.
    """
    folder, output = Path(folder), Path(output)
    if output.exists():
        raise FileExistsError(f"output {str(output)!r} exists; choose another name.")
    with parents_of(output), whole_file(output) as unfinished:  # before the work, so that it is not done in vain
        state, config = read_model(folder)
        is_first = config.position_embedding_type == "sincos"
        has_pooler = any(name.startswith("pooler.") for name in state)
        fixed = FIXED | ({"num_pooler_layers": 1, "pooler_layers": None} if is_first else {})
        for name, value in fixed.items():
            if getattr(config, name) != value and (has_pooler or "pooler" not in name):
                raise ValueError(f"{name}={getattr(config, name)}, but Meta's code supports only {value}.")
        for name in ("pred_num_attention_heads", "pooler_num_attention_heads") if is_first else ():
            if (getattr(config, name) or config.num_attention_heads) != config.num_attention_heads:
                raise ValueError(
                    f"{name}={getattr(config, name)}: Meta's predictors and poolers have the heads of their encoder, "
                    f"here {config.num_attention_heads}."
                )
        parts = to_meta(state, unused_projection=is_first)
        check_parts(parts, config)

        prefixes = {"classifier": "module."}
        content: dict[str, Any] = {
            part: {prefixes.get(part, "module.backbone.") + name: value for name, value in parts[part].items()}
            for part in PARTS
            if part in parts
        }
        if not is_first and "classifier" in content:
            content["classifiers"] = [content.pop("classifier")]  # as V-JEPA 2's evaluation reads it
        content |= {
            "opt": _fresh_optimizer_state(parts),
            "scaler": torch.amp.GradScaler("cpu").state_dict(),
            "epoch": 0,
            "loss": 0.0,
        }
        content |= {"batch_size": 1, "world_size": 1, "lr": 0.0}
        notes = ["opt, scaler and epoch are those of a run before its first step"]
        if "classifier" in parts and is_first:
            notes.append(f"{UNUSED_PROJECTION}* is an identity: Meta's code expects it but never applies it")
        notes += [f"no {part}: the folder has none" for part in REQUIRED if part not in parts]

        torch.save(content, unfinished)
    return Conversion(output, _count(parts), notes=notes)


def _fresh_optimizer_state(parts: dict[str, State]) -> dict:
    """Return the AdamW state of Meta's training program before its first step: four groups, no moments."""
    groups = []
    for decayed in (True, False):
        for part in ("encoder", "predictor"):
            values = [
                torch.nn.Parameter(torch.empty(0))
                for name, value in parts.get(part, {}).items()
                if decayed == ("bias" not in name and value.ndim > 1)
            ]
            groups.append({"params": values} | ({} if decayed else {"WD_exclude": True, "weight_decay": 0}))
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups).state_dict() if groups else {"state": {}, "param_groups": []}
