"""Checkpoints of a run: whole or absent when written, read only when they are still what was written.

A checkpoint is a folder `step_...` with what `accelerate` saves, the progress of the run, and a manifest of sizes and
hashes. Beside it may lie an `unfinished_...` one, which a run died over, and `set_aside_...` ones, which a user chose
not to go on from; neither is ever read, and the second kind is never deleted.
"""

import hashlib
import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, load, patch_environment
from safetensors import SafetensorError
from torch.distributed.checkpoint import filesystem, metadata

from ..files import flush, settle

MANIFEST_FILE = "manifest.json"
PROGRESS_FILE = "progress.json"
SHARDED_WEIGHTS = "pytorch_model_fsdp_0"


@dataclass(frozen=True)
class Progress:
    """How far a run is: optimizer steps taken, and clips drawn by all processes together."""

    step: int = 0
    clips: int = 0

    def after_step(self, clips: int) -> "Progress":
        """The progress after one more optimizer step."""
        return Progress(self.step + 1, self.clips + clips)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoints of a run, oldest first. Half-written ones bear another name until they are whole."""
    folders = (Path(output_dir) / "checkpoints").glob("step_*")
    return sorted((folder for folder in folders if folder.name.removeprefix("step_").isdigit()), key=_step_of)


def find_checkpoint(output_dir: str | Path, step: int | None = None) -> Path:
    """The newest checkpoint of a run, or that of a step.

    Raises:
        ValueError: there is none.
    """
    checkpoints = {_step_of(folder): folder for folder in list_checkpoints(output_dir)}
    if not checkpoints:
        raise ValueError(
            f"no checkpoint to resume from in output_dir {str(output_dir)!r}: start without --resume, with "
            "--overwrite_output_dir where one died before its first checkpoint"
        )
    if step is not None and step not in checkpoints:
        raise ValueError(f"no checkpoint of resume_step {step} in {str(output_dir)!r}; there are {list(checkpoints)}")
    return checkpoints[max(checkpoints) if step is None else step]


def save_checkpoint(accelerator: Accelerator, output_dir: str | Path, progress: Progress, keep: int) -> None:
    """Save everything a resumed run needs, then drop all but the newest `keep` checkpoints. All processes call it.

    The folder gets its name only once it is whole and on the disk, so whatever happens while saving leaves the
    previous one newest.

    Raises:
        OSError: the folder cannot be written; names the folder and the cause.
    """
    folder = Path(output_dir) / "checkpoints" / f"step_{progress.step:08d}"
    unfinished = folder.with_name(f"unfinished_{folder.name}")
    try:
        if accelerator.is_main_process:
            for leftover in folder.parent.glob("unfinished_*"):
                shutil.rmtree(leftover)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(unfinished))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _publish(unfinished, folder, progress)
            _drop_old(output_dir, keep)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # leaves the space to whoever mends this
        raise OSError(
            f"the checkpoint {str(folder)!r} could not be written: {error}. {_newest(output_dir)} Make room or mend "
            "the folder, then continue with --resume"
        ) from error
    accelerator.wait_for_everyone()


def _publish(unfinished: Path, folder: Path, progress: Progress) -> None:
    (unfinished / PROGRESS_FILE).write_text(json.dumps(asdict(progress)))
    manifest = {str(file.relative_to(unfinished)): _fingerprint(file) for file in _files(unfinished)}
    (unfinished / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
    settle(unfinished)
    if folder.exists():  # it was not written by this run since it was resumed, so it is not this run's to delete
        _set_aside(folder)
    unfinished.rename(folder)
    flush(folder.parent)


def _drop_old(output_dir: str | Path, keep: int) -> None:
    for old in list_checkpoints(output_dir)[:-keep]:
        # A name of its own first: a run that dies here leaves no half of a checkpoint that looks whole.
        shutil.rmtree(old.rename(old.with_name(f"unfinished_{old.name}")))


def _newest(output_dir: str | Path) -> str:
    checkpoints = list_checkpoints(output_dir)
    return f"{checkpoints[-1].name} stays the newest and is untouched." if checkpoints else "There is none before it."


def load_checkpoint(accelerator: Accelerator, output_dir: str | Path, step: int | None = None) -> Progress:
    """Load the newest checkpoint, or that of a step, into what `accelerator.prepare` returned. All processes call it.

    Newer ones than the chosen are set aside. No code that a file may hold is executed.

    Raises:
        ValueError: the checkpoint is not byte by byte what was saved, holds code, or does not fit the run; the message
            names the newest one that is whole, and how to continue from it.
    """
    folder = find_checkpoint(output_dir, step)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    problem = [_why_not(folder, sharded) if accelerator.is_main_process else None]
    (problem,) = broadcast_object_list(problem)
    if problem:
        raise ValueError(problem)
    try:
        states = folder / f"random_states_{accelerator.process_index}.pkl"
        if states.exists():
            load(states)  # `load_state` goes on without a word where it cannot read them
        # By itself it would execute what stands in the states of registered objects.
        with patch_environment(TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            accelerator.load_state(str(folder))
    except pickle.UnpicklingError as error:
        raise ValueError(f"checkpoint {str(folder)!r} holds more than numbers; none of it was executed") from error
    except RuntimeError as error:
        raise ValueError(f"checkpoint {str(folder)!r} does not fit the arguments of this run: {error}") from error
    accelerator.step = 0  # checkpoints lie between optimizer steps, whatever the accumulation was then and is now
    progress = Progress(**json.loads((folder / PROGRESS_FILE).read_text()))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        print(f"continuing after step {progress.step}, from {folder}")
        _tell_about_newer(folder, progress)
    accelerator.wait_for_everyone()
    return progress


def _tell_about_newer(folder: Path, progress: Progress) -> None:
    for half in sorted(folder.parent.glob("unfinished_step_*")):
        if int(half.name.rpartition("_")[2]) > progress.step:
            print(f"left out {half.name}: it was not written to its end")
    for newer in list_checkpoints(folder.parent.parent):
        if _step_of(newer) > progress.step:
            print(f"set aside, not deleted: {_set_aside(newer)}")


def damage(folder: str | Path) -> str | None:
    """What is wrong with a checkpoint, in words; None when it is byte by byte what was saved."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        records = {name: (record["bytes"], record["sha256"]) for name, record in manifest.items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}, so it was not written to its end"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {MANIFEST_FILE} cannot be read ({error})"
    found = {str(file.relative_to(folder)) for file in _files(folder)} - {MANIFEST_FILE}
    for name in sorted(found ^ set(records)):
        return f"{name} is missing" if name in records else f"{name} was not saved with it"
    for name, (size, sha256) in records.items():
        file = folder / name
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} of {size} bytes"
        if _fingerprint(file)["sha256"] != sha256:
            return f"{name} has other content than was saved"
    return None


def _why_not(folder: Path, sharded: bool) -> str | None:
    """Why a checkpoint is not loaded, and what to do; None when it may be."""
    wrong = damage(folder)
    if wrong is None and sharded != (folder / SHARDED_WEIGHTS).is_dir():
        written, here = ("without", "with") if sharded else ("with", "without")
        return f"checkpoint {str(folder)!r} was written {written} FSDP: continue from it as it was, not {here} FSDP"
    if wrong is None:
        return _code_in_metadata(folder)
    older = [other for other in list_checkpoints(folder.parent.parent) if _step_of(other) < _step_of(folder)]
    whole = next((other for other in reversed(older) if damage(other) is None), None)
    if whole is None:
        remedy = "No older one is whole, so there is nothing to continue from: start in another folder"
    else:
        remedy = (
            f"The newest one before it that is whole is {whole.name}: continue from it with --resume_step "
            f"{_step_of(whole)}, which sets this one aside"
        )
    return f"checkpoint {str(folder)!r} is damaged: {wrong}. {remedy}"


class _MetadataReader(pickle.Unpickler):
    """Reader of the `.metadata` of sharded weights, a pickle that `torch.distributed.checkpoint` reads unchecked.

    Only dtypes, layouts, sizes, paths, and torch's own dataclasses and enums of that file are created.
    """

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(sys.modules.get(module), name, None)  # imports nothing, follows no dots
        if isinstance(found, torch.dtype) or found is torch.serialization._get_layout:
            return found
        if isinstance(found, type):
            of_torch = module in (filesystem.__name__, metadata.__name__)
            if (
                issubclass(found, (torch.Size, PurePath))
                or of_torch
                and (is_dataclass(found) or issubclass(found, Enum))
            ):
                return found
        raise pickle.UnpicklingError(f"{module}.{name}")


def _code_in_metadata(folder: Path) -> str | None:
    for file in folder.rglob(".metadata"):
        with file.open("rb") as stream:
            try:
                _MetadataReader(stream).load()
            except pickle.UnpicklingError as error:
                return f"{str(file)!r} holds more than a description of weights ({error}); none of it was executed"
    return None


def _set_aside(folder: Path) -> Path:
    number = 0
    while (other := folder.with_name(f"set_aside_{number}_{folder.name}")).exists():
        number += 1
    return folder.rename(other)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _fingerprint(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}
