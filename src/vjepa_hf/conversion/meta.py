"""Convert checkpoints of Meta's V-JEPA code (`.pth.tar`) to folders for `from_pretrained`, and back.

Both directions are strict. Every name in a file is either used or reported as dropped, with the reason. If a tensor is
missing, unknown or of the wrong shape, nothing is written.

Letters in shapes: N tokens, D encoder width, P predictor width, L labels.
"""

import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

from ..files import named_damage, parents_of, whole_file, whole_folder
from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .infer import State, infer_config
from .released import ENCODERS, LICENSE, download, encoder_url, probe_url
from .report import Conversion, Source, model_card, name_labels

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
        ("pos_embed", "embeddings.position_embeddings"),
        ("blocks.", "layers."),
    ),
    "predictor": (
        ("predictor_pos_embed", "position_embeddings"),
        ("predictor_embed.", "embed."),
        ("predictor_blocks.", "layers."),
        ("predictor_norm.", "norm."),
        ("predictor_proj.", "proj."),
    ),
    "classifier": (
        ("pooler.cross_attention_block.xattn.", "pooler.cross_attention_layer.attention."),
        ("pooler.cross_attention_block.", "pooler.cross_attention_layer."),
        ("linear.", "classifier."),
    ),
}
_RENAMED["target_encoder"] = _RENAMED["encoder"]

RUN_STATE = ("opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr")
UNUSED_PROJECTION = "pooler.cross_attention_block.xattn.proj."
# PyPI's `vjepa` 0.1.2 does apply it, and published JEDi values are of that package.
POOLER_PROJECTION = "pooler_projection.safetensors"
# Constants of Meta's code that its files do not contain.
FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "pooler_layer_norm_eps": 1e-5, "num_pooler_layers": 1}


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
    license: str = LICENSE,
    download_dir: str | Path | None = None,
) -> Conversion:
    """Convert a pretraining checkpoint of Meta's V-JEPA code, and on request a probe, to one folder.

    The folder loads as `VJEPAForPreTraining`, as `VJEPAModel` (the target encoder) and, with a probe, as
    `VJEPAForVideoClassification`.

    Args:
        checkpoint: a `.pth.tar` file, or the name of a released model: "vitl16", "vith16", "vith16-384".
        output: folder to write; it must be new or empty.
        probe: a probe's `.pth.tar` file or, for a released model, "k400", "ssv2", "in1k", "places205" or "inat21".
        num_attention_heads: heads of the encoder; needed if its width is not that of a published size.
        num_frames: frames per clip; like the next two, needed only if the position tables do not determine it.
        image_size: side of the frames in pixels, or (height, width).
        uniform_power: sin-cos split of the position tables, see `VJEPAConfig`.
        labels: class names of the probe: a text file with one name per line, or "ssv2" or "in1k".
        license: license of the weights, for the model card.
        download_dir: folder for released files, see `download`.

    Raises:
        ValueError: a file is not such a checkpoint, or a tensor is missing, unknown or of the wrong shape.
        FileExistsError: `output` is not empty.
        DownloadError: a released file could not be downloaded.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"output {str(output)!r} is not an empty folder; choose another one.")
    leftover = output.with_name(f"{output.name}.unfinished")
    if leftover.exists():
        raise FileExistsError(f"{str(leftover)!r} exists: a conversion is running or was killed; delete it if killed.")
    with parents_of(output), whole_folder(output) as folder:  # before the work, so that it is not done in vain
        sources = _locate(checkpoint, probe, download_dir)
        parts, dropped = read_checkpoint(sources[0].path)
        if probe is not None:
            probe_parts, probe_dropped = read_checkpoint(sources[1].path, required=("classifier",))
            parts["classifier"] = probe_parts["classifier"]
            dropped |= {f"{name} of the probe": reason for name, reason in probe_dropped.items()}
        config = infer_config(parts, num_attention_heads, num_frames, image_size, uniform_power)
        check_parts(parts, config)
        notes = [
            f"clips of {config.num_frames} frames of {config.image_size} pixels, {config.num_attention_heads} heads, "
            f"uniform_power={config.uniform_power}"
        ]
        if "classifier" in parts:
            dropped[f"{UNUSED_PROJECTION}*"] = (
                "the cross-attention output projection of the probe, which Meta's code stores but never applies; "
                f"{POOLER_PROJECTION} keeps it for JEDi"
            )
            notes.append(name_labels(config, labels, sources[-1].released_as))
        elif labels:
            raise ValueError(f"labels={str(labels)!r} name the classes of a probe; add one with probe=...")
        notes.append(f"license of the weights: {license}")

        report = Conversion(output, _count(parts), dropped, notes)
        save_torch_state_dict(_unshared(from_meta(parts)), folder)
        if "classifier" in parts:
            head = parts["classifier"]
            projection = {name: head[UNUSED_PROJECTION + name].contiguous() for name in ("weight", "bias")}
            save_file(projection, folder / POOLER_PROJECTION)
        config.save_pretrained(folder)
        side = config.image_size
        VJEPAVideoProcessor(
            num_frames=config.num_frames,
            crop_size=side if isinstance(side, int) else {"height": side[0], "width": side[1]},
            tubelet_size=config.tubelet_size,
            patch_size=config.patch_size,
        ).save_pretrained(folder)
        (folder / "README.md").write_text(model_card(config, report, sources, license), encoding="utf-8")
    return report


def _locate(checkpoint: str | Path, probe: str | Path | None, folder: str | Path | None) -> list[Source]:
    """Return the one or two files to read, and download released ones."""
    encoder = str(checkpoint) if str(checkpoint) in ENCODERS and not Path(checkpoint).exists() else None
    if not encoder and not Path(checkpoint).is_file():
        raise ValueError(f"checkpoint={str(checkpoint)!r} is neither a file nor one of the released {ENCODERS}.")
    urls: list[tuple[str | Path, str | None]] = [(checkpoint, encoder_url(encoder) if encoder else None)]
    if probe is not None:
        released = not Path(probe).is_file()
        urls.append((probe, probe_url(str(checkpoint), str(probe)) if released else None))
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
                # (1, N, D) -> (N, D)
                ours[PARTS[part] + _rename(part, name)] = value[0] if name.endswith("pos_embed") else value
        if mask_tokens:
            # (P,) per mask type -> (mask types, P)
            ours[PARTS[part] + "mask_tokens"] = torch.stack([mask_tokens[index] for index in sorted(mask_tokens)])
    return ours


def _unshared(state: State) -> State:
    """Copy tensors that share memory, because a file would contain only one of them."""
    memory, separate = set(), {}
    for name, value in state.items():
        pointer = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if pointer in memory else value
        memory.add(pointer)
    return separate


def to_meta(state: State) -> dict[str, State]:
    """Build Meta's parts, without prefixes, from our state dict; the exact inverse of `from_meta`.

    The unused projection of a probe becomes an identity, so it does not matter whether it is applied.
    """
    parts = {}
    # Longest prefix first, because that of the classifier is empty.
    for part, prefix in sorted(PARTS.items(), key=lambda item: -len(item[1])):
        names = [name for name in state if name.startswith(prefix)]
        theirs: State = {}
        for name, value in ((name, state[name]) for name in names):
            short = name.removeprefix(prefix)
            if short == "mask_tokens":
                theirs |= {f"mask_tokens.{index}": token[None, None] for index, token in enumerate(value)}
            else:
                batched = value[None] if short.endswith("position_embeddings") else value
                theirs[_rename(part, short, back=True)] = batched
        query = theirs.get("pooler.cross_attention_block.xattn.q.weight")
        if query is not None:
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
    if part == "classifier":
        return name
    return name.replace(".attention.", ".attn.") if back else name.replace(".attn.", ".attention.")


def check_parts(parts: dict[str, State], config: VJEPAConfig) -> None:
    """Compare name, shape and dtype of every tensor with a model of this configuration.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or not floating point; the first eight are named.
    """
    with torch.device("meta"):
        ours = VJEPAForVideoClassification(config).state_dict() | VJEPAForPreTraining(config).state_dict()
    expected = to_meta(ours)
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
        state, config = _read_folder(folder)
        for name, value in FIXED.items():
            if getattr(config, name) != value:
                raise ValueError(f"{name}={getattr(config, name)}, but Meta's code supports only {value}.")
        if (config.pred_num_attention_heads or config.num_attention_heads) != config.num_attention_heads:
            raise ValueError(
                f"pred_num_attention_heads={config.pred_num_attention_heads}: Meta's predictors have as many heads as "
                f"their encoder, here {config.num_attention_heads}."
            )
        parts = to_meta(state)
        check_parts(parts, config)

        prefixes = {"classifier": "module."}
        content: dict[str, Any] = {
            part: {prefixes.get(part, "module.backbone.") + name: value for name, value in parts[part].items()}
            for part in PARTS
            if part in parts
        }
        content |= {
            "opt": _fresh_optimizer_state(parts),
            "scaler": torch.amp.GradScaler("cpu").state_dict(),
            "epoch": 0,
            "loss": 0.0,
        }
        content |= {"batch_size": 1, "world_size": 1, "lr": 0.0}
        notes = ["opt, scaler and epoch are those of a run before its first step"]
        if "classifier" in parts:
            notes.append(f"{UNUSED_PROJECTION}* is an identity: Meta's code expects it but never applies it")
        notes += [f"no {part}: the folder has none" for part in REQUIRED if part not in parts]

        torch.save(content, unfinished)
    return Conversion(output, _count(parts), notes=notes)


def _read_folder(folder: Path) -> tuple[State, VJEPAConfig]:
    """Return all tensors of a folder, named as in `VJEPAForPreTraining` and `VJEPAForVideoClassification`."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} was not written by save_pretrained: no config.json or no model.safetensors.")
    index = folder / "model.safetensors.index.json"
    state: State = {}
    with named_damage(folder):
        config = VJEPAConfig.from_pretrained(folder)
        if index.is_file():
            files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        for file in files:
            state |= load_file(file)
    if any(name.startswith("encoder.") for name in state):  # saved as a bare VJEPAModel
        state = {f"vjepa.{name}": value for name, value in state.items()}
    return state, config


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
