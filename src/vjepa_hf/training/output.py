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
    """Create the folder of a run and write its arguments there. All processes call it.

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
    output_dir = Path(args.run.output_dir)
    if accelerator.is_main_process:
        occupied = output_dir.exists() and any(output_dir.iterdir())
        if args.run.resume:
            find_checkpoint(output_dir, args.run.resume_step)
        elif occupied and not args.run.overwrite_output_dir:
            raise ValueError(
                f"output_dir {str(output_dir)!r} is not empty; add --resume to resume its run, "
                "--overwrite_output_dir to delete it, or choose another folder"
            )
        elif occupied:
            if not (output_dir / ARGUMENTS_FILE).exists():
                raise ValueError(
                    f"output_dir {str(output_dir)!r} has no {ARGUMENTS_FILE}, so it is not a run and is not deleted; "
                    "delete it yourself"
                )
            shutil.rmtree(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        args.save(output_dir / ARGUMENTS_FILE)
    accelerator.wait_for_everyone()


def starting_point(accelerator: Accelerator, run: RunArguments) -> Progress:
    """Load a checkpoint if the run resumes, see `load_checkpoint`. Return the progress that the run starts from."""
    return load_checkpoint(accelerator, run.output_dir, run.resume_step) if run.resume else Progress()


def export(accelerator: Accelerator, model: torch.nn.Module, processor: Any, output_dir: str | Path) -> None:
    """Write the model and its processor to `output_dir`, for `from_pretrained`. All processes call it.

    Files get their names only when they are complete.

    Raises:
        OSError: the folder cannot be written.
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
        raise OSError(
            f"cannot export the model to {str(output_dir)!r}: {error}. Free disk space or fix permissions"
        ) from error


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
