"""Skip steps with NaN, inf or exploding gradients; stop cleanly on SIGTERM and SIGUSR1.

All processes exchange one small message per step, so that they skip and stop together.
"""

import atexit
import math
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean, median
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

# Windows has no SIGUSR1.
STOP_SIGNALS = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
NUM_PAST_NORMS = 100


def ignore_stop_signals(worker: int) -> None:
    """Ignore the stop signals in a `DataLoader` worker: launchers signal workers too, but the run needs them."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """Kill the workers of a failed run. They ignore SIGTERM, which Python would send before it waits for them."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would blame them below the true error
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class RunGuard:
    """Guard that skips bad optimizer steps and stops the run on signals.

    A step is skipped if its loss or a gradient norm is not finite, or if a norm exceeds `max_grad_norm_ratio` times
    the median of the steps before. `stop` is the reason to end the run: `max_skipped_steps` skipped steps in a row, or
    a signal within `signals()`. Register the guard with `Accelerator.register_for_checkpointing`; then a resumed run
    makes the same decisions.

    Args:
        accelerator: accelerator of the run.
        max_skipped_steps: number of skipped steps in a row after which the run ends.
        max_grad_norm_ratio: largest gradient norm as a multiple of the running median (None: no limit).
    """

    def __init__(
        self, accelerator: Accelerator, max_skipped_steps: int, max_grad_norm_ratio: float | None = None
    ) -> None:
        self.accelerator = accelerator
        self.max_skipped_steps = max_skipped_steps
        self.max_grad_norm_ratio = max_grad_norm_ratio
        self.stop: str | None = None
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self.losses: list[float] = []
        self.past_norms: dict[str, deque[float]] = {}
        self.skip_reason: str | None = None
        self.metrics: dict[str, float] = {}
        self._passes: list[tuple[list[str], list[tuple[int, int, int]], torch.Tensor]] = []
        self._last_passes = self._passes
        self._received = 0

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Catch the stop signals within the block, so that the next `accepts` sets `stop`; then restore the handlers.

        Call it in the main thread, the only one in which Python handles signals.
        """
        atexit.register(_end_workers)
        handlers = [(number, signal.signal(number, self._receive)) for number in STOP_SIGNALS]
        try:
            yield
        finally:
            for number, handler in handlers:
                signal.signal(number, handler or signal.SIG_DFL)
        atexit.unregister(_end_workers)  # the run did not fail

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    @property
    def gave_up(self) -> bool:
        """Whether too many steps in a row were skipped."""
        return self.skipped_in_a_row >= self.max_skipped_steps

    def watch(self, batch: dict[str, Any], loss: torch.Tensor) -> None:
        """Add a forward pass to the step, with a batch of `data.PretrainingCollator` and its loss."""
        self._passes.append((batch["video_names"], batch["clip_keys"], loss.detach().float()))

    def accepts(self, norms: dict[str, torch.Tensor]) -> bool:
        """Return whether the optimizer may take the step, given its gradient norms; all processes return the same.

        Only here does the host wait for the device in every step.
        """
        self._last_passes, self._passes = self._passes, []
        loss = torch.stack([loss for _, _, loss in self._last_passes]).mean()
        received = torch.full_like(loss, self._received)
        message = torch.stack([received, loss, *norms.values()])
        rows = self.accelerator.gather(message).view(-1, len(message)).tolist()
        signals, losses, *norm_rows = zip(*rows, strict=True)
        mean = sum(losses) / len(losses)  # not finite if any loss is not
        self.metrics = {"loss": mean} | {name: values[0] for name, values in zip(norms, norm_rows, strict=True)}
        self.skip_reason = self._find_skip_reason()
        self._count()
        if max(signals) and not self.gave_up:
            self.stop = f"received {signal.Signals(int(max(signals))).name}"
        return self.skip_reason is None

    def _find_skip_reason(self) -> str | None:
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
            past = self.past_norms.get(name, ())
            if self.max_grad_norm_ratio is not None and len(past) == NUM_PAST_NORMS:
                if value > self.max_grad_norm_ratio * median(past):
                    return (
                        f"{name} {value:.3g} is more than max_grad_norm_ratio={self.max_grad_norm_ratio} times "
                        f"{median(past):.3g}, the median of the last {NUM_PAST_NORMS} steps"
                    )
        return None

    def _count(self) -> None:
        self.losses.append(self.metrics["loss"])
        if self.skip_reason is None:
            self.skipped_in_a_row = 0
            for name in self.metrics.keys() - {"loss"}:
                self.past_norms.setdefault(name, deque(maxlen=NUM_PAST_NORMS)).append(self.metrics[name])
            return
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        if self.gave_up:
            self.stop = f"skipped {self.skipped_in_a_row} steps in a row, the last because {self.skip_reason}"

    def read(self) -> dict[str, float]:
        """Return the mean finite `loss` since the last call, the norms of the last step, and `skipped_steps`."""
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        self.losses = []
        loss = fmean(finite) if finite else math.nan
        return self.metrics | {"loss": loss, "skipped_steps": self.skipped_steps}

    def skipped_step(self) -> dict[str, Any]:
        """Return the `reason` for skipping the last step, its metrics, and its `clips`. All processes call it.

        Each clip has the name of its video, its key (epoch, sample id, attempt), and the loss of its forward pass.
        """
        clips = [
            {"video": name, "clip_key": key, "loss_of_pass": loss.item()}
            for names, keys, loss in self._last_passes
            for name, key in zip(names, keys, strict=True)
        ]
        return {"reason": self.skip_reason} | self.metrics | {"clips": gather_object(clips)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later decisions depend on, in plain types."""
        return {
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "losses": self.losses,
            "past_norms": {name: list(norms) for name, norms in self.past_norms.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict`."""
        self.skipped_steps, self.skipped_in_a_row = state["skipped_steps"], state["skipped_in_a_row"]
        if self.gave_up:  # the user resumed on purpose
            self.skipped_in_a_row = 0
        self.losses = list(state["losses"])
        self.past_norms = {name: deque(norms, NUM_PAST_NORMS) for name, norms in state["past_norms"].items()}
