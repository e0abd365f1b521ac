"""Parameter groups, schedules and gradient clipping."""

import math
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ..model.modeling_vjepa import VJEPAForPreTraining
from .arguments import OptimizationArguments


def _cosine(progress: float, start: float, final: float) -> float:
    """Half a cosine from `start` at progress 0 to `final` at progress 1 and beyond."""
    return final + (start - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def learning_rate(
    step: int, *, max_steps: int, warmup_steps: int, start: float, peak: float, final: float, schedule_scale: float
) -> float:
    """Linear from `start` to `peak` over `warmup_steps`, then half a cosine down to `final`."""
    position, length = step + 1, int(schedule_scale * max_steps)
    if position < warmup_steps:
        return start + (peak - start) * position / warmup_steps
    return _cosine((position - warmup_steps) / max(1, length - warmup_steps), peak, final)


def weight_decay(step: int, *, max_steps: int, start: float, final: float, schedule_scale: float) -> float:
    """Half a cosine from `start` to `final`."""
    return _cosine((step + 1) / max(1, int(schedule_scale * max_steps)), start, final)


def ema_momentum(step: int, *, max_steps: int, start: float, final: float, schedule_scale: float) -> float:
    """Linear from `start` to `final`: the fraction of the target encoder that the update of a step keeps."""
    return start + (final - start) * min(1.0, step / (schedule_scale * max_steps))


def parameter_groups(module: torch.nn.Module, learning_rate_scale: float = 1.0) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups for AdamW: biases and 1-D parameters are never decayed.

    Mask tokens have more than one dimension and are decayed, as in the released runs. `decay` and
    `learning_rate_scale` of a group are read by `set_hyperparameters`.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in named if name.endswith("bias") or parameter.ndim == 1]
    decayed = [parameter for name, parameter in named if not (name.endswith("bias") or parameter.ndim == 1)]
    return [
        {"params": decayed, "decay": True, "learning_rate_scale": learning_rate_scale},
        {"params": plain, "decay": False, "learning_rate_scale": learning_rate_scale, "weight_decay": 0.0},
    ]


def make_optimizer(model: VJEPAForPreTraining, optimization: OptimizationArguments) -> torch.optim.AdamW:
    """Return AdamW over `parameter_groups`, whose values `set_hyperparameters` sets at every step."""
    groups = parameter_groups(model.context_encoder)
    groups += parameter_groups(model.vjepa.get_submodule("predictor"), optimization.predictor_learning_rate_scale)
    return torch.optim.AdamW(
        groups,
        lr=optimization.start_learning_rate,
        fused=True,
    )


def hyperparameters(step: int, optimization: OptimizationArguments) -> dict[str, float]:
    """Return `learning_rate`, `weight_decay` and `ema_momentum` of a step, counted from 0."""
    layout: dict[str, Any] = {"max_steps": optimization.max_steps, "schedule_scale": optimization.schedule_scale}
    return {
        "learning_rate": learning_rate(
            step,
            warmup_steps=optimization.warmup_steps,
            start=optimization.start_learning_rate,
            peak=optimization.learning_rate,
            final=optimization.final_learning_rate,
            **layout,
        ),
        "weight_decay": weight_decay(
            step, start=optimization.weight_decay, final=optimization.final_weight_decay, **layout
        ),
        "ema_momentum": ema_momentum(
            step, start=optimization.ema_momentum, final=optimization.final_ema_momentum, **layout
        ),
    }


def set_hyperparameters(optimizer: torch.optim.Optimizer, values: dict[str, float]) -> None:
    """Write the values of a step into the groups made by `parameter_groups`."""
    for group in optimizer.param_groups:
        group["lr"] = values["learning_rate"] * group["learning_rate_scale"]
        group["weight_decay"] = values["weight_decay"] if group["decay"] else 0.0


def max_grad_norm(step: int, optimization: OptimizationArguments) -> float:
    """Return the norm to clip at in a step; inf while there is no clipping."""
    off = optimization.clip_after_warmup and step < optimization.warmup_steps
    return math.inf if off else optimization.max_grad_norm


def clip_gradients(model: VJEPAForPreTraining, max_norm: float) -> dict[str, torch.Tensor]:
    """Clip the unscaled gradients of context encoder and predictor separately; return their norms before clipping."""
    parts = {"context_encoder": model.context_encoder, "predictor": model.vjepa.get_submodule("predictor")}
    clip = torch.nn.utils.clip_grad_norm_
    norms = {f"{name}_grad_norm": clip(part.parameters(), max_norm) for name, part in parts.items()}
    return {name: norm.full_tensor() if isinstance(norm, DTensor) else norm for name, norm in norms.items()}
