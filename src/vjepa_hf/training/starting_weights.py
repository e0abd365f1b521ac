"""Load initial weights from a saved model, strictly, and freeze layers.

A folder is one that `save_pretrained` wrote: the result of a run, or a converted checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPAForPreTraining
from ..model.tubelets import resize_positions

PARTS = ("context_encoder", "target_encoder", "predictor")
# Prefixes of the names of each part, in the files of all our models.
_PREFIXES = {
    "context_encoder.": "context_encoder",
    "vjepa.encoder.": "target_encoder",
    "encoder.": "target_encoder",
    "vjepa.predictor.": "predictor",
    "predictor.": "predictor",
    "pooler.": "pooler",
    "classifier.": "classifier",
}
# Fields that change what a model computes but not the shapes of its weights.
_SILENT_FIELDS = {
    "encoder": ("num_attention_heads", "hidden_act", "layer_norm_eps"),
    "predictor": ("pred_num_attention_heads", "hidden_act", "layer_norm_eps"),
}
PROJECTION, POSITIONS = "embeddings.projection.weight", "position_embeddings"


@torch.no_grad()
def load_starting_weights(model: VJEPAForPreTraining, folder: str | Path, parts: Sequence[str] = ()) -> str:
    """Copy parts of a saved model into a new one; return a report of what was loaded and what was not.

    An encoder that is not among them becomes a copy of the one that is. The tubelet embedding is adapted to another
    number of channels (`inflate_channels`) and the tables of positions to another grid; nothing else may differ.

    Args:
        model: takes the weights.
        folder: written by `save_pretrained`.
        parts: of `PARTS`; empty for all that the folder holds.

    Raises:
        ValueError: the folder is none, lacks a part, or has tensors that are missing, unexpected or of another shape;
            all of them are named.
    """
    config, found = _read(Path(folder))
    wanted = [part for part in PARTS if part in (parts or found)]
    for part in parts:
        if part not in PARTS or part not in found:
            raise ValueError(f"init_parts: {part!r} is not in {str(folder)!r}, which holds {', '.join(found)}")
    targets: dict[str, torch.nn.Module] = {
        "context_encoder": model.context_encoder,
        "target_encoder": model.vjepa.encoder,
        "predictor": model.vjepa.get_submodule("predictor"),
    }
    problems: list[str] = []
    notes: list[str] = []
    ready: dict[str, dict[str, torch.Tensor]] = {}
    for part in wanted:
        _check_fields(part, config, model.config, problems)
        own = targets[part].state_dict()
        ready[part] = {name: _fit(name, tensor, config, model.config, notes) for name, tensor in found[part].items()}
        problems += [f"{part}.{name} is missing" for name in own.keys() - ready[part].keys()]
        problems += [f"{part}.{name} is unexpected" for name in ready[part].keys() - own.keys()]
        problems += [
            f"{part}.{name} has the shape {tuple(tensor.shape)} and not {tuple(own[name].shape)}"
            for name, tensor in ready[part].items()
            if name in own and tensor.shape != own[name].shape
        ]
    if problems:
        raise ValueError(f"init_from {str(folder)!r} does not fit this model: {'; '.join(sorted(problems))}")
    for part, tensors in ready.items():
        targets[part].load_state_dict(tensors)
    copies = _copy_to_the_other_encoder(targets, wanted)
    return "\n".join([f"weights of {folder}:", *_report(wanted, found), *copies, *dict.fromkeys(notes)])


def _read(folder: Path) -> tuple[VJEPAConfig, dict[str, dict[str, torch.Tensor]]]:
    """Return the configuration of a folder, and its tensors by part."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(
                f"init_from {str(folder)!r} has no {name}: give a folder that save_pretrained wrote, such as the "
                "output_dir of a run or the output of `vjepa-hf convert`"
            )
    try:
        tensors = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"init_from: {str(folder / 'model.safetensors')!r} cannot be read: {error}") from error
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            raise ValueError(f"init_from {str(folder)!r} holds {name!r}, which is of no part of a V-JEPA model")
        found.setdefault(_PREFIXES[prefix], {})[name.removeprefix(prefix)] = tensor
    return VJEPAConfig.from_pretrained(folder), found


def _check_fields(part: str, config: VJEPAConfig, own: VJEPAConfig, problems: list[str]) -> None:
    for field in _SILENT_FIELDS["predictor" if part == "predictor" else "encoder"]:
        values = [getattr(each, field) or each.num_attention_heads for each in (config, own)]
        if values[0] != values[1]:
            problems.append(f"{part} was trained with {field}={values[0]} and not {values[1]}")


def _fit(
    name: str,
    tensor: torch.Tensor,
    config: VJEPAConfig,
    new: VJEPAConfig,
    notes: list[str],
) -> torch.Tensor:
    """The tensor as the new model needs it; what was done is noted."""
    if name == PROJECTION and config.num_channels != new.num_channels:
        notes.append(f"  tubelet embedding adapted from {config.num_channels} to {new.num_channels} channels")
        return inflate_channels(tensor, new.num_channels)
    if name.endswith(POSITIONS) and config.grid_size != new.grid_size:
        notes.append(f"  positions resized from the grid {config.grid_size} to {new.grid_size}")
        return resize_positions(tensor, config.grid_size, new.grid_size)
    return tensor


def inflate_channels(weight: torch.Tensor, num_channels: int) -> torch.Tensor:
    """A tubelet embedding `(D, C, t_p, p, p)` for another number of channels.

    Every channel gets the mean of the old ones, scaled so that a clip whose channels are all equal keeps its tokens.
    """
    return weight.mean(dim=1, keepdim=True).repeat(1, num_channels, 1, 1, 1) * (weight.shape[1] / num_channels)


def _copy_to_the_other_encoder(targets: dict[str, torch.nn.Module], wanted: list[str]) -> list[str]:
    match [part for part in wanted if part != "predictor"]:
        case ["context_encoder"]:
            loaded, other = "context_encoder", "target_encoder"
        case ["target_encoder"]:
            loaded, other = "target_encoder", "context_encoder"
        case _:
            return []
    targets[other].load_state_dict(targets[loaded].state_dict())
    return [f"  {other} is a copy of {loaded}"]


def _report(wanted: list[str], found: dict[str, dict[str, torch.Tensor]]) -> list[str]:
    lines = [f"  loaded {part}, {len(found[part])} tensors" for part in wanted]
    lines += [f"  not loaded: {part}, {len(tensors)} tensors" for part, tensors in found.items() if part not in wanted]
    if "predictor" not in wanted:
        lines.append("  predictor starts from random weights")
    if wanted == ["predictor"]:
        lines.append("  both encoders start from random weights")
    return lines


def freeze_first_layers(model: VJEPAForPreTraining, num_layers: int) -> None:
    """Keep the tubelet embedding and the first layers of the context encoder as they are; 0 freezes nothing.

    Raises:
        ValueError: the encoder has fewer layers, or would have nothing left to train.
    """
    encoder = model.context_encoder
    if not 0 <= num_layers < len(encoder.layers):
        raise ValueError(
            f"freeze_layers must lie in [0, num_hidden_layers={len(encoder.layers)}), so that some are left to train, "
            f"got {num_layers}"
        )
    if num_layers:
        for module in (encoder.embeddings, *encoder.layers[:num_layers]):
            module.requires_grad_(False)
