"""Output folder of a run: create it, resume from it, export to it."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError

from ..files import whole_file
from .arguments import PretrainingArguments, RunArguments
from .checkpoints import Progress, find_checkpoint, load_checkpoint
from .log import SKIPPED_STEPS_FILE
from .run_guard import RunGuard

ARGUMENTS_FILE = "arguments.yaml"


def prepare_output_dir(accelerator: Accelerator, args: PretrainingArguments) -> None:
    """Create the folder of a run and write its arguments there; keep existing files unless told otherwise.

    Raises:
        ValueError: the folder holds something and neither `resume` nor `overwrite_output_dir` is set; or there is
            nothing to resume from, or nothing that a run wrote and that could be overwritten; or several processes
            were launched that do not know each other, or should share out a model and cannot.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != accelerator.num_processes:
        raise ValueError(
            f"{launched} processes were launched but each knows of {accelerator.num_processes}, so all would write "
            "the same folder: this device has no way to join them; launch one process"
        )
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if sharded and launched > 1 and accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"FSDP was asked for, but on {accelerator.device.type} accelerate does not share out a model and would "
            "give every process all of it: launch without FSDP"
        )
    output_dir = Path(args.run.output_dir)
    if accelerator.is_main_process:
        occupied = output_dir.exists() and any(output_dir.iterdir())
        if args.run.resume:
            find_checkpoint(output_dir, args.run.resume_step)
        elif occupied and not args.run.overwrite_output_dir:
            raise ValueError(
                f"output_dir {str(output_dir)!r} is not empty: add --resume to continue that run, "
                "--overwrite_output_dir to delete it, or choose another folder"
            )
        elif occupied:
            if not (output_dir / ARGUMENTS_FILE).exists():
                raise ValueError(f"output_dir {str(output_dir)!r} holds no run, so it is not deleted; do it yourself")
            shutil.rmtree(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        args.save(output_dir / ARGUMENTS_FILE)
    accelerator.wait_for_everyone()


def starting_point(accelerator: Accelerator, run: RunArguments) -> Progress:
    """Return the progress that a run starts from: none, or that of the checkpoint that `resume` loads.

    Raises:
        ValueError: as `checkpoints.load_checkpoint`.
    """
    return load_checkpoint(accelerator, run.output_dir, run.resume_step) if run.resume else Progress()


def export(accelerator: Accelerator, model: torch.nn.Module, processor: Any, output_dir: str | Path) -> None:
    """Write the model and its processor to the top of the run's folder, for `from_pretrained`. All processes call it.

    Files appear under their names only once they are whole.

    Raises:
        OSError: the folder cannot be written; names the folder and the cause.
    """
    state = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return
    unfinished = Path(output_dir) / "unfinished_export"
    try:
        accelerator.unwrap_model(model).save_pretrained(unfinished, state_dict=state)
        processor.save_pretrained(unfinished)
        for file in unfinished.iterdir():
            with whole_file(Path(output_dir) / file.name) as whole:
                file.replace(whole)
        unfinished.rmdir()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OSError(f"the model could not be exported to {str(output_dir)!r}: {error}") from error


def finish(accelerator: Accelerator, args: PretrainingArguments, guard: RunGuard, progress: Progress) -> None:
    """Print how to use or resume the run.

    Raises:
        FloatingPointError: too many steps in a row were skipped.
    """
    folder = Path(args.run.output_dir)
    go_on = f"continue with --config {folder / ARGUMENTS_FILE} --resume true"
    if guard.stop is None:
        accelerator.print(f'wrote curves.png; load the encoder: VJEPAModel.from_pretrained("{folder}")')
    elif guard.gave_up:
        raise FloatingPointError(
            f"{guard.stop}. Step {progress.step} is saved, and the clips of these steps stand in "
            f"{folder / SKIPPED_STEPS_FILE}: look at them, lower learning_rate or use mixed_precision bf16; {go_on}"
        )
    else:
        accelerator.print(f"{guard.stop}: saved step {progress.step} and stopped; {go_on}")
