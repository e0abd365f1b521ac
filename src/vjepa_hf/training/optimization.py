"""Parameter groups, schedules and gradient clipping."""

import math
from typing import Any, get_args

import torch
from torch.distributed.tensor import DTensor

from ..model.modeling_vjepa import VJEPAForPreTraining
from .arguments import LearningRateSchedule, OptimizationArguments


def _cosine(progress: float, start: float, final: float) -> float:
    """Follow half a cosine from `start` at progress 0 to `final` at progress 1 and later."""
    return final + (start - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def learning_rate(
    step: int,
    *,
    max_steps: int,
    warmup_steps: int,
    start: float,
    peak: float,
    final: float,
    schedule_scale: float,
    schedule: LearningRateSchedule = "cosine",
) -> float:
    """Return the learning rate: linear from `start` to `peak` in `warmup_steps`, then as `schedule` says.

    "cosine" (V-JEPA) follows half a cosine and "linear" (the cooldown of V-JEPA 2) a line to `final`; "constant"
    (V-JEPA 2 before its cooldown) stays at `peak`.

    Raises:
        ValueError: another schedule.
    """
    if schedule not in (schedules := get_args(LearningRateSchedule)):
        raise ValueError(f"schedule must be one of {', '.join(schedules)}, got {schedule!r}")
    position, length = step + 1, int(schedule_scale * max_steps)
    if position < warmup_steps:
        return start + (peak - start) * position / warmup_steps
    progress = min(1.0, (position - warmup_steps) / max(1, length - warmup_steps))
    if schedule == "constant":
        return peak
    return peak + (final - peak) * progress if schedule == "linear" else _cosine(progress, peak, final)


def weight_decay(step: int, *, max_steps: int, start: float, final: float, schedule_scale: float) -> float:
    """Return the weight decay: half a cosine from `start` to `final`."""
    return _cosine((step + 1) / max(1, int(schedule_scale * max_steps)), start, final)


def ema_momentum(step: int, *, max_steps: int, start: float, final: float, schedule_scale: float) -> float:
    """Return the fraction of the target encoder that an update keeps: linear from `start` to `final`."""
    return start + (final - start) * min(1.0, step / (schedule_scale * max_steps))


def parameter_groups(module: torch.nn.Module, learning_rate_scale: float = 1.0) -> list[dict[str, Any]]:
    """Return two groups of trainable parameters for AdamW: with weight decay, and biases and 1-D parameters without.

    Mask tokens have more than one dimension and are decayed, as in the released runs. `set_hyperparameters` reads
    `decay` and `learning_rate_scale`.
    """
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (plain if name.endswith("bias") or parameter.ndim == 1 else decayed).append(parameter)
    return [
        {"params": decayed, "decay": True, "learning_rate_scale": learning_rate_scale},
        {"params": plain, "decay": False, "learning_rate_scale": learning_rate_scale, "weight_decay": 0.0},
    ]


def make_optimizer(model: VJEPAForPreTraining, optimization: OptimizationArguments) -> torch.optim.AdamW:
    """Return AdamW over the `parameter_groups` of context encoder and predictor."""
    groups = parameter_groups(model.context_encoder)
    groups += parameter_groups(model.vjepa.get_submodule("predictor"), optimization.predictor_learning_rate_scale)
    return torch.optim.AdamW(groups, lr=optimization.start_learning_rate, fused=True)


def hyperparameters(step: int, optimization: OptimizationArguments) -> dict[str, float]:
    """Return `learning_rate`, `weight_decay` and `ema_momentum` of a step, counted from 0."""
    length: dict[str, Any] = {"max_steps": optimization.max_steps, "schedule_scale": optimization.schedule_scale}
    return {
        "learning_rate": learning_rate(
            step,
            warmup_steps=optimization.effective_warmup_steps,
            start=optimization.start_learning_rate,
            peak=optimization.learning_rate,
            final=optimization.final_learning_rate,
            schedule=optimization.learning_rate_schedule,
            **length,
        ),
        "weight_decay": weight_decay(
            step, start=optimization.weight_decay, final=optimization.final_weight_decay, **length
        ),
        "ema_momentum": ema_momentum(
            step, start=optimization.ema_momentum, final=optimization.final_ema_momentum, **length
        ),
    }


def context_loss_options(step: int, optimization: OptimizationArguments) -> dict[str, Any]:
    """Return the arguments of `VJEPAForPreTraining.forward` for the loss on context tokens in a step, from 0."""
    weight = optimization.context_loss_weight
    if optimization.context_loss_warmup:
        first, last = optimization.context_loss_warmup
        weight *= min(1.0, max(0.0, (step - first) / (last - first)))
    return {
        "context_loss_weight": weight,
        "context_loss_by_distance": optimization.context_loss_by_distance,
    }


def set_hyperparameters(optimizer: torch.optim.Optimizer, values: dict[str, float]) -> None:
    """Set learning rate and weight decay of the groups made by `parameter_groups`."""
    for group in optimizer.param_groups:
        group["lr"] = values["learning_rate"] * group["learning_rate_scale"]
        group["weight_decay"] = values["weight_decay"] if group["decay"] else 0.0


def max_grad_norm(step: int, optimization: OptimizationArguments) -> float:
    """Return the maximum gradient norm of a step; inf means no clipping."""
    never = optimization.clip_after_warmup and step < optimization.effective_warmup_steps
    return math.inf if never else optimization.max_grad_norm


def clip_gradients(model: VJEPAForPreTraining, max_norm: float) -> dict[str, torch.Tensor]:
    """Clip the unscaled gradients of context encoder and predictor separately; return their norms before clipping."""
    norms = {}
    for name, part in (
        ("context_encoder", model.context_encoder),
        ("predictor", model.vjepa.get_submodule("predictor")),
    ):
        norm = torch.nn.utils.clip_grad_norm_(part.parameters(), max_norm)
        norms[f"{name}_grad_norm"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return norms
