"""Read and write folders of `save_pretrained`: configuration, weights in one or more files, processor, model card."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import BaseVideoProcessor, PreTrainedConfig

from ..files import named_damage, parents_of, whole_folder
from ..model.configuration_vjepa import VJEPAConfig
from ..model.names import one_line
from ..model.video_processing_vjepa import VJEPAVideoProcessor

State = dict[str, torch.Tensor]
CONFIG = "config.json"
# Files of weights, or their indices, in the order in which `from_pretrained` looks for them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_READER_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)
_READER_ERRORS += (EOFError, RecursionError, SafetensorError, pickle.UnpicklingError)


def find_folder(source: str | Path) -> Path | None:
    """Return a folder with `config.json`: a local one, or the downloaded one of a Hub name; None for other names.

    Raises:
        ValueError: a Hub repository that cannot be downloaded.
    """
    path = Path(source)
    if path.is_dir():
        return path
    words = str(source).split("/")
    if len(words) != 2 or not all(words) or words[0].startswith((".", "~")) or path.exists() or path.suffix:
        return None
    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "README.md"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{str(source)!r} is not a folder here, and cannot be downloaded from the Hub ({reason}); correct the "
            "name, or download the repository and give its folder."
        ) from error


def read_config(folder: Path) -> dict:
    """Return the fields of a folder's `config.json`.

    Raises:
        ValueError: no such file, or one that is not JSON.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG}; give a folder that save_pretrained wrote.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy it here again.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} contains a {type(fields).__name__}, not the fields of a configuration.")
    return fields


def read_weights(folder: Path) -> State:
    """Return all tensors of a folder, from one file or from those that an index names. Code in `.bin` is not executed.

    Raises:
        ValueError: there are no weights, or a file is missing, damaged, or lacks a tensor that the index names.
    """
    first = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
    if first is None:
        raise ValueError(
            f"{folder} has no weights: none of {', '.join(WEIGHT_FILES)}; copy the whole folder here again."
        )
    path, files = first, [first.name]
    file_of_tensor: dict[str, str] = {}
    state: State = {}
    try:
        if first.suffix == ".json":
            file_of_tensor = dict(json.loads(first.read_text(encoding="utf-8"))["weight_map"])
            files = sorted(map(str, {*file_of_tensor.values()}))
        for path in (folder / file for file in files):
            if path.parent != folder:
                raise ValueError("it lies outside the folder")
            state |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except _READER_ERRORS as error:
        raise ValueError(
            f"cannot read {str(path)!r}, which may be damaged ({one_line(error)}); copy it here again."
        ) from error
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{first} contains no weights")
    if lost := file_of_tensor.keys() - state.keys():
        raise ValueError(f"{folder} lacks {sorted(lost)[:8]}, which {first.name} names.")
    return state


def read_model(folder: Path) -> tuple[State, VJEPAConfig]:
    """Return all tensors of a folder of ours, named as in `VJEPAForPreTraining`, and its configuration."""
    read_config(folder)
    with named_damage(folder):
        config = VJEPAConfig.from_pretrained(folder)
    state = read_weights(folder)
    if any(name.startswith("encoder.") for name in state):  # saved as a bare VJEPAModel
        state = {f"vjepa.{name}": value for name, value in state.items()}
    return state, config


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder that becomes `output` after the block; it is made before the work, so that none is in vain.

    Raises:
        FileExistsError: `output` is not a new or empty folder, or another conversion writes it.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"output {str(output)!r} is not an empty folder; choose another one.")
    leftover = output.with_name(f"{output.name}.unfinished")
    if leftover.exists():
        raise FileExistsError(f"{str(leftover)!r} exists: a conversion is running or was killed; delete it if killed.")
    with parents_of(output), whole_folder(output) as folder:
        yield folder


def clip_processor(config: VJEPAConfig) -> VJEPAVideoProcessor:
    """Return a processor that makes clips of the configured size."""
    height, width = config.frame_size
    return VJEPAVideoProcessor(
        num_frames=config.num_frames,
        crop_size={"height": height, "width": width},
        tubelet_size=config.tubelet_size,
        patch_size=config.patch_size,
    )


def fill_folder(
    folder: Path, state: State, config: PreTrainedConfig, processor: BaseVideoProcessor, card: str
) -> None:
    """Write all files of a model."""
    save_torch_state_dict(_unshared(state), folder)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _unshared(state: State) -> State:
    """Copy tensors that share memory, because a file would contain only one of them."""
    memory, separate = set(), {}
    for name, value in state.items():
        pointer = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if pointer in memory else value
        memory.add(pointer)
    return separate
