"""Initial weights from a saved model, loaded strictly, and frozen layers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import VJEPA2Config

from ..conversion.folders import read_config, read_weights
from ..conversion.transformers_format import read_transformers
from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPAForPreTraining
from ..model.names import one_line
from ..model.tubelets import resize_positions

PARTS = ("context_encoder", "target_encoder", "predictor")
# Prefix of the names of weights, in all our models -> part.
_PREFIXES = {
    "context_encoder.": "context_encoder",
    "vjepa.encoder.": "target_encoder",
    "encoder.": "target_encoder",
    "vjepa.predictor.": "predictor",
    "predictor.": "predictor",
    "pooler.": "pooler",
    "classifier.": "classifier",
}
# Fields that change the output of a model but not the shapes of its weights.
_SILENT_FIELDS = {
    "encoder": ("num_attention_heads", "hidden_act", "layer_norm_eps", "position_embedding_type", "level_layers"),
    "predictor": (
        "pred_num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
        "position_embedding_type",
        "pred_mask_token_per_mask_type",
    ),
}
PROJECTION, POSITIONS = "embeddings.projection.weight", "position_embeddings"


@torch.no_grad()
def load_starting_weights(model: VJEPAForPreTraining, folder: str | Path, parts: Sequence[str] = ()) -> str:
    """Load parts of a saved model into a new one; return a report of the loaded and the skipped parts.

    At least one encoder must be in it, unless `parts` asks for the predictor only.

    If only one encoder is loaded, the other becomes a copy of it. The tubelet embedding is adapted to another number
    of channels (`inflate_channels`) and position tables to another grid; all other shapes must be equal.

    Args:
        model: model to load weights into.
        folder: folder that `save_pretrained` wrote, a run or a converted checkpoint, or V-JEPA 2 in transformers'
            format; or the name of one on the Hub.
        parts: parts to load, from `PARTS`; empty for all in the folder.

    Raises:
        ValueError: the folder is not a saved model, lacks a part, or does not fit; the message lists every missing,
            unexpected or misshapen tensor.
    """
    config, saved = _read(str(folder))
    for part in parts:
        if part not in PARTS or part not in saved:
            raise ValueError(f"init_parts: {part!r} is not in {str(folder)!r}; choose from {', '.join(saved)}")
    wanted = [part for part in PARTS if part in (parts or saved)]
    if not parts and not {"context_encoder", "target_encoder"} & saved.keys():
        raise ValueError(
            f"init_from {str(folder)!r} contains no encoder, only {', '.join(saved)}; give another model, or name "
            "what to load with init_parts"
        )
    modules: dict[str, torch.nn.Module] = {
        "context_encoder": model.context_encoder,
        "target_encoder": model.vjepa.encoder,
        "predictor": model.vjepa.get_submodule("predictor"),
    }
    notes: list[str] = []
    problems: list[str] = []
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for part in wanted:
        weights[part] = {name: _fit(name, tensor, config, model.config, notes) for name, tensor in saved[part].items()}
        problems += _silent_differences(part, config, model.config)
        problems += _differences(part, weights[part], modules[part].state_dict())
    if problems:
        raise ValueError(f"init_from {str(folder)!r} does not fit this model: {'; '.join(sorted(problems))}")
    for part in wanted:
        modules[part].load_state_dict(weights[part])
    lines = [f"  loaded {part}, {len(saved[part])} tensors" for part in wanted]
    lines += [f"  not loaded: {part}, {len(tensors)} tensors" for part, tensors in saved.items() if part not in wanted]
    encoders = [part for part in wanted if part != "predictor"]
    if len(encoders) == 1:
        (other,) = {"context_encoder", "target_encoder"} - {*encoders}
        modules[other].load_state_dict(weights[encoders[0]])
        lines.append(f"  {other} is a copy of {encoders[0]}")
    if not encoders:
        lines.append("  both encoders have random weights")
    if "predictor" not in wanted:
        lines.append("  predictor has random weights")
    return "\n".join([f"weights of {folder}:", *lines, *dict.fromkeys(notes)])


def _read(name: str) -> tuple[VJEPAConfig, dict[str, dict[str, torch.Tensor]]]:
    """Return the configuration of a folder or a Hub repository, and its tensors by part."""
    folder = _find_folder(name)
    try:
        if read_config(folder).get("model_type") == VJEPA2Config.model_type:
            config, tensors = read_transformers(folder)
        else:
            tensors, config = read_weights(folder), VJEPAConfig.from_pretrained(folder)
    except ValueError as error:
        raise ValueError(f"init_from {name!r}: {error}") from error
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None)
        if prefix is None:
            raise ValueError(
                f"init_from {name!r} contains {key!r}, which is not a weight of a V-JEPA model; give "
                "the folder of a pretrained one"
            )
        parts.setdefault(_PREFIXES[prefix], {})[key.removeprefix(prefix)] = tensor
    return config, parts


def _find_folder(name: str) -> Path:
    """Return the folder of a saved model; one on the Hub is downloaded, or taken from the cache.

    Raises:
        ValueError: there is no such folder or repository, or it has no configuration.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(
                snapshot_download(name, allow_patterns=["config.json", "*.safetensors", "*.bin", "*.index.json"])
            )
        except (HFValidationError, HfHubHTTPError, OSError) as error:
            raise ValueError(
                f"init_from {name!r} has no config.json: it is neither a folder nor a model on the Hub "
                f"({one_line(error)})"
            ) from error
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"init_from {name!r} has no config.json; give a model that save_pretrained wrote, such as the output_dir "
            "of a run or the output of `vjepa-hf convert`"
        )
    return folder


def _silent_differences(part: str, config: VJEPAConfig, new: VJEPAConfig) -> list[str]:
    problems = []
    for name in _SILENT_FIELDS["predictor" if part == "predictor" else "encoder"]:
        old_value, value = (getattr(c, name) for c in (config, new))
        if name == "pred_num_attention_heads":
            old_value, value = old_value or config.num_attention_heads, value or new.num_attention_heads
        if old_value != value:
            problems.append(f"{part} was trained with {name}={old_value}, but this model has {name}={value}")
    return problems


def _differences(part: str, weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    problems = [f"{part}.{name} is missing" for name in expected.keys() - weights.keys()]
    problems += [f"{part}.{name} is unexpected" for name in weights.keys() - expected.keys()]
    for name in weights.keys() & expected.keys():
        shape, needed = tuple(weights[name].shape), tuple(expected[name].shape)
        if shape != needed:
            problems.append(f"{part}.{name} has the shape {shape}, but this model needs {needed}")
    return problems


def _fit(name: str, tensor: torch.Tensor, config: VJEPAConfig, new: VJEPAConfig, notes: list[str]) -> torch.Tensor:
    """Adapt a tensor to the channels and the grid of the new model; append the changes to `notes`."""
    if name == PROJECTION and config.num_channels != new.num_channels:
        notes.append(f"  tubelet embedding adapted from {config.num_channels} to {new.num_channels} channels")
        return inflate_channels(tensor, new.num_channels)
    if name.endswith(POSITIONS) and config.grid_size != new.grid_size:
        notes.append(f"  positions resized from the grid {config.grid_size} to {new.grid_size}")
        return resize_positions(tensor, config.grid_size, new.grid_size)
    return tensor


def inflate_channels(weight: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Adapt a tubelet embedding `(D, C, t_p, p, p)` to another number of channels.

    Every channel gets the mean over the old ones, scaled such that grey clips keep their tokens.
    """
    return weight.mean(dim=1, keepdim=True).repeat(1, num_channels, 1, 1, 1) * (weight.shape[1] / num_channels)


def freeze_image_tokenizer(model: VJEPAForPreTraining) -> None:
    """Freeze what only images train, for a run without images: weight decay would shrink it."""
    if model.config.image_tokenizer:
        embeddings, predictor = model.context_encoder.embeddings, model.vjepa.get_submodule("predictor")
        embeddings.image_projection.requires_grad_(False)
        for module in (embeddings, predictor):
            module.get_submodule("modality_embeddings").get_parameter("image").requires_grad_(False)


def freeze_first_layers(model: VJEPAForPreTraining, num_layers: int) -> None:
    """Freeze the tubelet embedding and the first layers of the context encoder; 0 freezes nothing.

    Raises:
        ValueError: `num_layers` is negative, or leaves no layer to train.
    """
    encoder = model.context_encoder
    if not 0 <= num_layers < len(encoder.layers):
        raise ValueError(
            f"freeze_layers must be at least 0 and less than num_hidden_layers={len(encoder.layers)}, got {num_layers}"
        )
    if num_layers:
        for module in (encoder.embeddings, *encoder.layers[:num_layers]):
            module.requires_grad_(False)
