"""Learning rate, weight decay and EMA momentum: pure functions of the step, nothing to replay on resume.

`step` is the number of optimizer steps already taken, so the first step of a run is 0. Every schedule is laid out over
`schedule_scale * max_steps` and cut at `max_steps` (paper, appendix; the published runs stretch by 1.25), which means
that a run ends before the final values are reached. As in the published runs, learning rate and weight decay advance
before the optimizer step and momentum after it: the first step uses the second value of the first two and the first
value of the third. Past the end of the layout every schedule stays at its final value.
"""

import math


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
    """Linear from `start` to `final`: the share of the target encoder that survives the update of this step."""
    return start + (final - start) * min(1.0, step / (schedule_scale * max_steps))
