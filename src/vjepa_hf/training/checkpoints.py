"""Checkpoints of a run: written atomically, and loaded only if every byte is what was saved.

A checkpoint is a folder `step_...` with the state that Accelerate saves, the progress of the run, and a manifest of
sizes and hashes. Next to it may be `unfinished_...` folders of runs that died while saving, and `set_aside_...`
folders of checkpoints that the user skipped. Neither is ever loaded, and the latter are never deleted.
"""

import hashlib
import io
import itertools
import json
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass, replace
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
OLDER = "resume from an older checkpoint with --resume_step"
# Files that file managers leave in folders; not those of `torch.distributed.checkpoint`, which begin with a dot too.
LEFT_BEHIND = re.compile(r"(?!\.metadata$)\..*|Thumbs\.db|desktop\.ini", re.IGNORECASE)


@dataclass(frozen=True)
class Progress:
    """Progress of a run: the numbers of optimizer steps, clips and images, over all processes; what its data is.

    `data` is a `DataIdentity` as a dict; None in checkpoints of 0.1.0.
    """

    step: int = 0
    clips: int = 0
    data: dict[str, Any] | None = None
    images: int = 0

    def after_step(self, clips: int, images: int = 0) -> "Progress":
        """Return the progress after one more optimizer step over `clips` clips and `images` images."""
        return replace(self, step=self.step + 1, clips=self.clips + clips, images=self.images + images)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first. Incomplete ones have other names."""
    return _folders_of_steps(Path(output_dir) / "checkpoints", "step_")


def _folders_of_steps(parent: Path, prefix: str) -> list[Path]:
    """Return the folders whose name is the prefix and a number, in the order of the numbers."""
    folders = parent.glob(f"{prefix}*")
    named = re.compile(re.escape(prefix) + "[0-9]+")
    return sorted((folder for folder in folders if named.fullmatch(folder.name) and folder.is_dir()), key=_step_of)


def find_checkpoint(output_dir: str | Path, step: int | None = None) -> Path:
    """Return the newest checkpoint of a run, or the one of a step.

    Raises:
        ValueError: there is no such checkpoint.
    """
    checkpoints = {_step_of(folder): folder for folder in list_checkpoints(output_dir)}
    if not checkpoints:
        raise ValueError(
            f"no checkpoint to resume from in output_dir {str(output_dir)!r}; start without --resume, and with "
            "--overwrite_output_dir if a run died there before its first checkpoint"
        )
    if step is not None and step not in checkpoints:
        raise ValueError(
            f"no checkpoint of resume_step {step} in {str(output_dir)!r}; choose one of {list(checkpoints)}"
        )
    return checkpoints[max(checkpoints) if step is None else step]


def save_checkpoint(accelerator: Accelerator, output_dir: str | Path, progress: Progress, keep: int) -> None:
    """Save everything a resumed run needs, then delete all but the newest `keep` checkpoints. All processes call it.

    The folder gets its name only when it is complete and on the disk. If saving fails, the previous checkpoint is the
    newest.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(output_dir) / "checkpoints" / f"step_{progress.step:08d}"
    unfinished = folder.with_name(f"unfinished_{folder.name}")
    try:
        if accelerator.is_main_process:
            for leftover in _folders_of_steps(folder.parent, "unfinished_step_"):
                shutil.rmtree(leftover)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(unfinished))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _publish(unfinished, folder, progress)
            _drop_old(output_dir, keep)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        newest = [f"The newest one is {path.name}." for path in list_checkpoints(output_dir)[-1:]]
        raise OSError(
            f"cannot write the checkpoint {str(folder)!r}: {error}. {newest[0] if newest else 'There is no other.'} "
            "Free disk space or fix permissions, then rerun with --resume"
        ) from error
    accelerator.wait_for_everyone()


def _publish(unfinished: Path, folder: Path, progress: Progress) -> None:
    (unfinished / PROGRESS_FILE).write_text(json.dumps(asdict(progress)))
    manifest = {str(file.relative_to(unfinished)): _fingerprint(file) for file in _files(unfinished)}
    (unfinished / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
    settle(unfinished)
    if folder.exists():  # written before this run was resumed, or by another run
        _set_aside(folder)
    unfinished.rename(folder)
    flush(folder.parent)


def _drop_old(output_dir: str | Path, keep: int) -> None:
    for old in list_checkpoints(output_dir)[:-keep]:
        # Rename it first: a run that dies here must not leave half a checkpoint under its name.
        shutil.rmtree(old.rename(old.with_name(f"unfinished_{old.name}")))


def load_checkpoint(accelerator: Accelerator, output_dir: str | Path, step: int | None = None) -> Progress:
    """Load the newest checkpoint, or the one of a step, into the prepared objects. All processes call it.

    Newer checkpoints are set aside. Code in a file is not executed.

    Raises:
        ValueError: the checkpoint is damaged (names the newest undamaged one), contains code, or does not fit the run.
    """
    folder = find_checkpoint(output_dir, step)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    (problem,) = broadcast_object_list([_problem(folder, sharded) if accelerator.is_main_process else None])
    if problem:
        raise ValueError(problem)
    try:
        states = folder / f"random_states_{accelerator.process_index}.pkl"
        if states.exists():
            load(states)  # `load_state` ignores files that it cannot read
        # Without it, Accelerate executes code in the states of registered objects.
        with patch_environment(TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            accelerator.load_state(str(folder))
    except pickle.UnpicklingError as error:
        raise ValueError(f"checkpoint {str(folder)!r} contains code, which was not executed; {OLDER}") from error
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:  # also from states of our objects
        raise ValueError(
            f"checkpoint {str(folder)!r} does not fit the arguments of this run: {error}. Resume with the "
            "arguments.yaml of the run that wrote it"
        ) from error
    accelerator.step = 0  # gradient accumulation starts with a new optimizer step
    progress = _read_progress(folder)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        print(f"resuming after step {progress.step}, from {folder}")
        _set_newer_aside(folder, progress)
    accelerator.wait_for_everyone()
    return progress


def _read_progress(folder: Path) -> Progress:
    """Read the progress of a checkpoint.

    Raises:
        ValueError: the file does not contain the progress of a run.
    """
    path = folder / PROGRESS_FILE
    try:
        progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not the progress of a run: {error}; {OLDER}") from error
    numbers = progress.step, progress.clips, progress.images
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        raise ValueError(
            f"{str(path)!r} has step={progress.step!r}, clips={progress.clips!r} and images={progress.images!r}; "
            "expected whole numbers"
        )
    if not isinstance(progress.data, dict | None):
        raise ValueError(f"{str(path)!r} has data={progress.data!r}; expected an object")
    return progress


def _set_newer_aside(folder: Path, progress: Progress) -> None:
    for unfinished in _folders_of_steps(folder.parent, "unfinished_step_"):
        if _step_of(unfinished) > progress.step:
            print(f"skipped {unfinished.name}, which is incomplete")
    for newer in list_checkpoints(folder.parent.parent):
        if _step_of(newer) > progress.step:
            print(f"renamed {newer.name} to {_set_aside(newer).name}")


def damage(folder: str | Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if every byte is what was saved."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        records = {name: (record["bytes"], record["sha256"]) for name, record in manifest.items()}
        records = {name: record for name, record in records.items() if not LEFT_BEHIND.fullmatch(Path(name).name)}
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}, so it is incomplete"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"its {MANIFEST_FILE} cannot be read ({error})"
    names = {str(file.relative_to(folder)) for file in _files(folder)} - {MANIFEST_FILE}
    for name in sorted(names ^ set(records)):
        return f"{name} is missing" if name in records else f"{name} was not saved with it"
    for name, (size, sha256) in records.items():
        file = folder / name
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} of {size} bytes"
        if _fingerprint(file)["sha256"] != sha256:
            return f"the content of {name} has changed"
    return None


def _problem(folder: Path, sharded: bool) -> str | None:
    """Return why a checkpoint cannot be loaded and what to do, or None."""
    if wrong := damage(folder):
        older = [other for other in list_checkpoints(folder.parent.parent) if _step_of(other) < _step_of(folder)]
        intact = next((other for other in reversed(older) if damage(other) is None), None)
        remedy = (
            "All older ones are damaged too; start a new run in another folder"
            if intact is None
            else f"The newest undamaged one before it is {intact.name}; resume from it with "
            f"--resume_step {_step_of(intact)}, which sets this one aside"
        )
        return f"checkpoint {str(folder)!r} is damaged: {wrong}. {remedy}"
    if sharded != (folder / SHARDED_WEIGHTS).is_dir():
        written, here = ("without", "with") if sharded else ("with", "without")
        return f"checkpoint {str(folder)!r} was written {written} FSDP, but this run is {here} it; launch it {written}"
    return _code_in_metadata(folder)


class _MetadataReader(pickle.Unpickler):
    """Reader of the `.metadata` of sharded weights, a pickle that `torch.distributed.checkpoint` loads unchecked.

    It creates dtypes, layouts, sizes, paths, and the dataclasses and enums that torch defines for this file.
    """

    def find_class(self, module: str, name: str) -> Any:
        value = getattr(sys.modules.get(module), name, None)  # imports nothing, follows no dots
        if isinstance(value, torch.dtype) or value is torch.serialization._get_layout:
            return value
        if isinstance(value, type):
            described = module in (filesystem.__name__, metadata.__name__)
            if (
                issubclass(value, torch.Size | PurePath)
                or described
                and (is_dataclass(value) or issubclass(value, Enum))
            ):
                return value
        raise pickle.UnpicklingError(f"{module}.{name}")


def _code_in_metadata(folder: Path) -> str | None:
    for file in folder.rglob(".metadata"):
        try:
            _MetadataReader(io.BytesIO(file.read_bytes())).load()
        except pickle.UnpicklingError as error:
            return f"{str(file)!r} contains code ({error}), which was not executed; {OLDER}"
    return None


def _set_aside(folder: Path) -> Path:
    names = (folder.with_name(f"set_aside_{number}_{folder.name}") for number in itertools.count())
    return folder.rename(next(path for path in names if not path.exists()))


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("_")[2])


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not LEFT_BEHIND.fullmatch(path.name))


def _fingerprint(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}
