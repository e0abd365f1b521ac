"""Output folder of a run: lock it, create it, resume from it, export to it."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast_object_list
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..conversion.folders import read_weights
from ..data.sources import Videos
from ..files import whole_files
from ..model_card import CARD
from .arguments import ARGUMENTS_FILE, PretrainingArguments, RunArguments
from .checkpoints import Progress, find_checkpoint, load_checkpoint
from .data_identity import DataIdentity
from .hub import download_run
from .log import SKIPPED_STEPS_FILE
from .run_guard import RunGuard

LOCK_FILE = "run.lock"
LOCK_TIMEOUT = 10.0  # seconds; the workers of a killed run notice its death after 5
# What a pretraining run writes to its folder; `vjepa` is from trackers.
RUN_FILES = (
    ARGUMENTS_FILE,
    "log.jsonl",
    SKIPPED_STEPS_FILE,
    "curves.png",
    "checkpoints",
    CARD,
    "config.json",
    "model*.safetensors*",
    "*preprocessor_config.json",
    "processor_config.json",
    "unfinished_export",
    "*.unfinished",
    "vjepa",
)
# What a folder of another model or run has.
OTHER_RUN = ("config.json", "*.safetensors", "*.bin", ARGUMENTS_FILE, "checkpoints", "checkpoint-*", "result.json")
_locks: dict[Path, FileLock] = {}  # held until the process ends


# --- folder ----------------------------------------------------------------------------------------------------------


def lock_output_dir(output_dir: str | Path) -> None:
    """Create the folder of a run and lock it until this process ends, however it ends.

    Raises:
        ValueError: another process has the lock.
        OSError: the folder cannot be written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / LOCK_FILE
    if path in _locks:
        return
    path.touch()
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout as error:
        raise ValueError(
            f"another process is using output_dir {str(folder)!r}; wait for its end, stop it, or choose another folder"
        ) from error
    _locks[path] = lock


def claim_output_dir(accelerator: Accelerator | PartialState, output_dir: str | Path, resume: bool = False) -> None:
    """Lock the output folder of a fine-tuning, probing or detection script. All processes call it.

    Args:
        accelerator: accelerator of the script, or its state.
        output_dir: folder to write a model to.
        resume: whether the folder is that of the run itself.

    Raises:
        ValueError: another process is using the folder, or it contains a model or a run; it is never overwritten.
    """

    def claim() -> None:
        if not resume and (other := [path.name for pattern in OTHER_RUN for path in Path(output_dir).glob(pattern)]):
            raise ValueError(
                f"output_dir {str(output_dir)!r} already contains a model or a run ({other[0]}), which is not "
                "overwritten; choose another folder, or delete it yourself"
            )
        lock_output_dir(output_dir)

    _on_main_process(accelerator, claim)


def check_run_dir(accelerator: Accelerator, run: RunArguments) -> None:
    """Check that a pretraining run may write to its folder, before it reads its data. All processes call it.

    A run to resume from the Hub is downloaded first.

    Raises:
        ValueError: the folder is not empty and neither `resume` nor `overwrite_output_dir` is set; there is no
            checkpoint to resume from; the folder to overwrite is not one of a run; or the launched processes are not
            connected, or cannot shard the model.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != accelerator.num_processes:
        raise ValueError(
            f"WORLD_SIZE={launched}, but torch.distributed is not initialized on this device, so all processes would "
            "write to output_dir. Launch a single process"
        )
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if sharded and launched > 1 and accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"Accelerate does not shard models on the device {accelerator.device.type}, so every process would hold "
            "the whole model. Launch without FSDP"
        )
    if run.resume_from_hub:
        _on_main_process(accelerator, partial(download_run, run.resume_from_hub, Path(run.output_dir)))
        run.resume_from_hub = None  # from now on a run like any other
    _on_main_process(accelerator, partial(_check_run_dir, run))


def _on_main_process(accelerator: Accelerator | PartialState, action: Callable[[], None]) -> None:
    """Call a function on the main process; if it raises a ValueError or an OSError, all processes raise."""
    problem = None
    if accelerator.is_main_process:
        try:
            action()
        except (ValueError, OSError) as error:
            problem = str(error)
    (problem,) = broadcast_object_list([problem])
    if problem:
        raise ValueError(problem)


def _check_run_dir(run: RunArguments) -> None:
    output_dir = Path(run.output_dir)
    if run.resume:
        find_checkpoint(output_dir, run.resume_step)
        return
    if not output_dir.exists() or all(path.name == LOCK_FILE for path in output_dir.iterdir()):
        return
    if not run.overwrite_output_dir:
        raise ValueError(
            f"output_dir {str(output_dir)!r} is not empty; add --resume to resume its run, "
            "--overwrite_output_dir to delete it, or choose another folder"
        )
    if not (output_dir / ARGUMENTS_FILE).exists():
        raise ValueError(
            f"output_dir {str(output_dir)!r} has no {ARGUMENTS_FILE}, so it is not a run and is not deleted; "
            "delete it yourself"
        )
    if (output_dir / "result.json").exists():
        raise ValueError(
            f"output_dir {str(output_dir)!r} has a result.json, so another script wrote a model there, which is not "
            "deleted; delete it yourself"
        )


def prepare_output_dir(accelerator: Accelerator, args: PretrainingArguments) -> None:
    """Lock the folder of a run until its main process ends, and write the arguments there. All processes call it.

    With `overwrite_output_dir`, first delete the files of the old run, and only those.

    Raises:
        ValueError: another process is using the folder, or as `check_run_dir`.
    """
    check_run_dir(accelerator, args.run)  # first, so that no folder is made for a run that is refused
    _on_main_process(accelerator, partial(_prepare, args))


def _prepare(args: PretrainingArguments) -> None:
    output_dir = Path(args.run.output_dir)
    lock_output_dir(output_dir)
    _check_run_dir(args.run)  # again, because another run may have ended meanwhile
    if args.run.overwrite_output_dir:
        for path in sorted({path for pattern in RUN_FILES for path in output_dir.glob(pattern)}):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if kept := sorted(path.name for path in output_dir.iterdir() if path.name != LOCK_FILE):
            print(f"kept in {output_dir}, because a run does not write it: {', '.join(kept)}")
    args.save(output_dir / ARGUMENTS_FILE)


def starting_point(
    accelerator: Accelerator, args: PretrainingArguments, videos: Sequence[Videos], images: Sequence[Videos] = ()
) -> Progress:
    """Return the progress that a run starts from, given its sources. All processes call it.

    If the run resumes, load the checkpoint (see `load_checkpoint`), and print what changed in the data since.
    """
    run = args.run
    progress = load_checkpoint(accelerator, run.output_dir, run.resume_step) if run.resume else Progress()
    if not accelerator.is_main_process:
        return progress  # the main process writes the identity of the data
    identity = DataIdentity.of([*videos, *images], [*(args.data.videos or ["toy videos"]), *args.data.images])
    if progress.data is not None:
        try:
            change = identity.changes_since(DataIdentity(**progress.data))
        except TypeError as error:
            raise ValueError(
                f"the checkpoint of step {progress.step} describes its data in a way that this version does not know; "
                "resume with the version that wrote it, or from an older checkpoint with --resume_step"
            ) from error
        if change:
            print(
                f"WARNING the data is not that of the checkpoint: {change}. The run continues with the new data, so "
                "it differs from an uninterrupted one"
            )
    return replace(progress, data=asdict(identity))


# --- export ----------------------------------------------------------------------------------------------------------


def export(accelerator: Accelerator, model: torch.nn.Module, processor: Any, output_dir: str | Path) -> None:
    """Write the model and its processor to `output_dir`, for `from_pretrained`. All processes call it.

    Files get their names only when they are complete.

    Raises:
        OSError: the folder cannot be written.
    """
    state = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return
    try:
        with whole_files(output_dir) as unfinished:
            accelerator.unwrap_model(model).save_pretrained(unfinished, state_dict=state)
            processor.save_pretrained(unfinished)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot export the model to {str(output_dir)!r}: {error}. Free disk space or fix permissions"
        ) from error


def check_export(accelerator: Accelerator, model: torch.nn.Module, output_dir: str | Path) -> None:
    """Check that the exported weights are those of the model. All processes call it.

    Raises:
        OSError: a weight is missing or different.
    """
    state = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return
    saved = read_weights(Path(output_dir))
    wrong = [name for name, value in state.items() if name not in saved or not saved[name].equal(value.cpu())]
    if wrong:
        raise OSError(
            f"the model in {str(output_dir)!r} is not the one of this run: {len(wrong)} of {len(state)} weights "
            f"differ, the first is {wrong[0]}. Did another program write there? Export again with --resume"
        )


def finish(accelerator: Accelerator, args: PretrainingArguments, guard: RunGuard, progress: Progress) -> None:
    """Print how to use or resume the run.

    Raises:
        FloatingPointError: too many steps in a row were skipped.
    """
    folder = Path(args.run.output_dir)
    how_to_resume = f"resume with --config {folder / ARGUMENTS_FILE} --resume"
    if guard.stop is None:
        accelerator.print(f'wrote curves.png; load the encoder: VJEPAModel.from_pretrained("{folder}")')
    elif guard.gave_up:
        raise FloatingPointError(
            f"{guard.stop}. Step {progress.step} is saved. Inspect the clips listed in {folder / SKIPPED_STEPS_FILE}, "
            f"lower learning_rate or use mixed_precision bf16; then {how_to_resume}"
        )
    else:
        accelerator.print(f"{guard.stop}: saved step {progress.step} and stopped; {how_to_resume}")
