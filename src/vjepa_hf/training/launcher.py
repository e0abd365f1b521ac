"""What a launcher asks for through the environment: followed, or refused before the run starts."""

import os
from collections.abc import Collection, Iterable, Sequence

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, LoggerType

from .arguments import OptimizationArguments, RunArguments

PREFIX = "ACCELERATE_"
OFF = {"", "0", "false", "no", "none", "default"}
# Variables without the prefix that Accelerate follows by itself; `match_launcher` and `check_launcher` treat the rest.
FOLLOWED = {
    "USE_CPU",
    "CPU_AFFINITY",
    "TORCH_DEVICE",
    "DEBUG_MODE",
    "DEBUG_RDV_FILE",
    "LOG_LEVEL",
    "ENABLE_RICH",
    "NUM_PROCESSES",
    "BYPASS_DEVICE_MAP",
    "INIT_INCLUDE_BUFFERS",
    "USE_SAGEMAKER",
    "USE_FSDP",
    "MIXED_PRECISION",
    "GRADIENT_ACCUMULATION_STEPS",
}
_SHARD = "To shard a model over GPUs, pretrain with examples/accelerate/fsdp.yaml (FSDP2)"
ADVICE = {
    "USE_DEEPSPEED": f"DeepSpeed is not supported. {_SHARD}",
    "USE_MEGATRON_LM": f"Megatron-LM is not supported. {_SHARD}",
    "USE_PARALLELISM_CONFIG": f"Tensor, context and sequence parallelism are not supported. {_SHARD}",
    "DYNAMO_BACKEND": "Launch without it; pretrain.py compiles with --compile, finetune.py with --torch_compile",
}


def check_launcher(shards: bool = False) -> None:
    """Check that the launcher asks only for what the scripts follow.

    Args:
        shards: whether the script can shard its model with FSDP2.

    Raises:
        ValueError: a variable of Accelerate asks for something else.
    """
    variables = {name.removeprefix(PREFIX): value for name, value in os.environ.items() if name.startswith(PREFIX)}
    variables = {name: value for name, value in variables.items() if value.lower() not in OFF}
    if "DYNAMO_BACKEND" not in variables:
        variables = {name: value for name, value in variables.items() if not name.startswith("DYNAMO_")}
    unsupported = sorted(variables.keys() - FOLLOWED, key=lambda name: (name not in ADVICE, name))
    if unsupported:
        name = unsupported[0]
        advice = ADVICE.get(name, "This is not supported. Launch without it, or unset the variable")
        raise ValueError(f"the launcher sets {PREFIX}{name}={variables[name]}. {advice}")
    if "USE_FSDP" in variables and not shards:
        raise ValueError(f"the launcher asks for FSDP, which this script does not support. {_SHARD}")
    if "USE_FSDP" in variables and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("the launcher asks for FSDP version 1. Launch with --fsdp_version 2")


def match_launcher(mixed_precision: str | None = None, gradient_accumulation_steps: int = 1) -> str:
    """Return the precision of a run: the given one, else that of the launcher, else `no`.

    Args:
        mixed_precision: `no`, `fp16` or `bf16`; None if the user gave none.
        gradient_accumulation_steps: forward passes per optimizer step.

    Raises:
        ValueError: the launcher asks for another precision or accumulation, or the precision does not work here.
    """
    launched = os.environ.get(f"{PREFIX}MIXED_PRECISION", "").lower() or "no"
    if launched != "no" and mixed_precision not in (None, launched):
        raise ValueError(
            f"the launcher asks for mixed_precision {launched}, but the run for {mixed_precision}; give one of them"
        )
    precision = mixed_precision or launched
    if precision not in ("no", "fp16", "bf16"):
        raise ValueError(f"mixed_precision {precision} is not supported; choose no, fp16 or bf16")
    on_cpu = not torch.accelerator.is_available() or os.environ.get(f"{PREFIX}USE_CPU", "").lower() in ("true", "1")
    if precision == "fp16" and on_cpu:
        raise ValueError("mixed_precision fp16 needs a GPU, and this run is on a CPU; choose no or bf16")
    steps = os.environ.get(f"{PREFIX}GRADIENT_ACCUMULATION_STEPS", "")
    if steps and steps != str(gradient_accumulation_steps):
        raise ValueError(
            f"{PREFIX}GRADIENT_ACCUMULATION_STEPS={steps}, but the run accumulates {gradient_accumulation_steps}; "
            "unset the variable, and use the option gradient_accumulation_steps where the script has it"
        )
    return precision


def make_accelerator() -> Accelerator:
    """Return the accelerator of a script without options for precision and accumulation, which follows its launcher.

    Raises:
        ValueError: the launcher asks for something that the script does not follow.
    """
    check_launcher()
    return Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=match_launcher())


def make_pretraining_accelerator(run: RunArguments, optimization: OptimizationArguments) -> Accelerator:
    """Return the accelerator of a pretraining run, and set `run.mixed_precision` to the precision in force.

    Raises:
        ValueError: the launcher asks for something that the run does not follow, or a tracker is not available.
    """
    check_launcher(shards=True)
    gradient_accumulation_steps = optimization.gradient_accumulation_steps
    run.mixed_precision = match_launcher(run.mixed_precision, gradient_accumulation_steps)  # type: ignore[assignment]
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes on CPUs are not connected
        gradient_accumulation_steps=gradient_accumulation_steps,
        mixed_precision=run.mixed_precision,
        # The last forward pass of a step is of videos, in which the image tokenizer has no part.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=optimization.image_passes > 0)],
        log_with=find_trackers(run.report_to) or None,
        project_dir=run.output_dir,
    )


def find_trackers(names: Sequence[str]) -> list[str]:
    """Return the trackers to use; `none` is no tracker.

    Raises:
        ValueError: a name is unknown, `none` is not alone, or the package of a tracker is not installed.
    """
    if list(names) == ["none"]:
        return []
    installed = [str(tracker) for tracker in get_available_trackers()]
    if installed:
        installed.append("all")
    check_trackers(names, [str(tracker) for tracker in LoggerType], installed)
    return list(names)


def check_trackers(names: Iterable[str], known: Iterable[str], installed: Collection[str]) -> None:
    """Check the names of trackers.

    Raises:
        ValueError: a name is unknown, or the package of a tracker is not installed.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"report_to: {name!r} is not a tracker; choose one of none, {', '.join(known)}")
        if name not in installed:
            raise ValueError(
                f"report_to: the package of {name!r} is not installed; installed: {', '.join(installed) or 'none'}"
            )
