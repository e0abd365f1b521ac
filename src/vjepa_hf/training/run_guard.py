"""Skip steps with NaN, inf or exploding gradients; stop cleanly on SIGTERM and SIGUSR1.

All processes decide alike, by one small message a step: no process skips a step, or stops, alone.
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
NORMS_REMEMBERED = 100


def leave_stop_signals_to_the_run(worker: int) -> None:
    """Let a worker of a loader ignore the stop signals, which launchers send to every process.

    The run needs its workers to finish the step.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """Kill the workers of a run that failed: they ignore SIGTERM, and Python would send it and wait for them."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class RunGuard:
    """Check of every optimizer step before it is taken, and of the signals by which schedulers stop a job.

    A step is skipped if its loss or a gradient norm is not finite, or if a norm exceeds `max_grad_norm_ratio` times
    the median of the steps before. After `max_skipped_steps` skipped steps in a row, or a signal within `signals()`,
    `stop` is the reason why the run has to end. A checkpoint holds what the guard remembers
    (`Accelerator.register_for_checkpointing`), so a resumed run decides and logs the same.

    Args:
        accelerator: accelerator of the run.
        max_skipped_steps: number of skipped steps in a row that ends the run.
        max_grad_norm_ratio: largest gradient norm, as a multiple of the running median; None: no limit.
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
        self.wrong: str | None = None
        self.figures: dict[str, float] = {}
        self._passes: list[tuple[list[str], list[tuple[int, int, int]], torch.Tensor]] = []
        self._step = self._passes
        self._received = 0

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Catch the stop signals within the block; the next `accepts` sets `stop`. Restore the handlers after it.

        Call it in the main thread: Python allows no other one to handle signals.
        """
        atexit.register(_end_workers)
        before = [(number, signal.signal(number, self._receive)) for number in STOP_SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler or signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    @property
    def gave_up(self) -> bool:
        """Whether too many steps in a row were skipped."""
        return self.skipped_in_a_row >= self.max_skipped_steps

    def watch(self, batch: dict[str, Any], loss: torch.Tensor) -> None:
        """Add a forward pass to the step: a batch of `data.PretrainingCollator`, and its loss."""
        self._passes.append((batch["video_names"], batch["clip_keys"], loss.detach().float()))

    def accepts(self, norms: dict[str, torch.Tensor]) -> bool:
        """Decide whether the step may change the weights, given its gradient norms; the same on all processes.

        This is the only place where the host waits for the device in every step.
        """
        self._step, self._passes = self._passes, []
        loss = torch.stack([loss for _, _, loss in self._step]).mean()
        received = torch.full_like(loss, self._received)
        message = torch.stack([received, loss, *norms.values()])
        rows = self.accelerator.gather(message).view(-1, len(message)).tolist()
        numbers, losses, *by_norm = zip(*rows, strict=True)
        mean = sum(losses) / len(losses)  # not finite where any of them is not
        self.figures = {"loss": mean} | {name: values[0] for name, values in zip(norms, by_norm, strict=True)}
        self.wrong = self._what_is_wrong()
        self._count()
        if max(numbers) and not self.gave_up:
            self.stop = f"received {signal.Signals(int(max(numbers))).name}"
        return self.wrong is None

    def _what_is_wrong(self) -> str | None:
        for name, value in self.figures.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
            past = self.past_norms.get(name, ())
            if self.max_grad_norm_ratio is not None and len(past) == NORMS_REMEMBERED:
                if value > self.max_grad_norm_ratio * median(past):
                    return (
                        f"{name} {value:.3g} is more than max_grad_norm_ratio={self.max_grad_norm_ratio} times "
                        f"{median(past):.3g}, the median of the {NORMS_REMEMBERED} steps before"
                    )
        return None

    def _count(self) -> None:
        self.losses.append(self.figures["loss"])
        if self.wrong is None:
            self.skipped_in_a_row = 0
            for name in self.figures.keys() - {"loss"}:
                self.past_norms.setdefault(name, deque(maxlen=NORMS_REMEMBERED)).append(self.figures[name])
            return
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        if self.gave_up:
            self.stop = f"{self.skipped_in_a_row} steps in a row were skipped, the last because {self.wrong}"

    def read(self) -> dict[str, float]:
        """Return the mean finite `loss` since the last call, the norms of the last step, and `skipped_steps`."""
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        self.losses = []
        loss = fmean(finite) if finite else math.nan
        return self.figures | {"loss": loss, "skipped_steps": self.skipped_steps}

    def skipped_step(self) -> dict[str, Any]:
        """Return why the last step was skipped, its metrics, and its clips. All processes call it.

        A clip has the name of its video, its key (epoch, sample id, attempt), and the loss of its forward pass.
        """
        clips = [
            {"video": name, "clip_key": key, "loss_of_pass": loss.item()}
            for names, keys, loss in self._step
            for name, key in zip(names, keys, strict=True)
        ]
        return {"wrong": self.wrong} | self.figures | {"clips": gather_object(clips)}

    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on, in plain types."""
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
        self.past_norms = {name: deque(norms, NORMS_REMEMBERED) for name, norms in state["past_norms"].items()}
