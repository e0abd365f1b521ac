"""The log of a run, its throughput and its memory."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from ..data.videos import VideoFailure
from ..files import whole_file
from .arguments import PretrainingArguments
from .flops import matmul_rate
from .optimization import hyperparameters
from .run_guard import RunGuard

SKIPPED_STEPS_FILE = "skipped_steps.jsonl"


def run_summary(
    accelerator: Accelerator, args: PretrainingArguments, num_videos: int | None, model: torch.nn.Module
) -> str:
    """What is about to happen, in a few lines, so that a wrong setting is seen before it costs a day.

    `num_videos` is None for streams, which do not know it.
    """
    optimization = args.optimization
    num_parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    batch = optimization.per_device_batch_size, accelerator.num_processes, optimization.gradient_accumulation_steps
    clips = math.prod(batch) * optimization.max_steps
    lines = [
        f"{'streamed' if num_videos is None else f'{num_videos:,}'} videos, {num_parameters:,} trained parameters",
        f"{accelerator.num_processes} processes, device {accelerator.device.type}, mixed precision "
        f"{accelerator.mixed_precision}",
        f"{math.prod(batch)} clips a step = {batch[0]} a device x {batch[1]} processes x {batch[2]} accumulated",
        f"{clips:,} clips in {optimization.max_steps:,} steps"
        + ("" if num_videos is None else f" = {clips / num_videos:.1f} epochs"),
    ]
    last = optimization.max_steps - 1
    for name, step in (("first", 0), ("warm-up end", min(optimization.warmup_steps, last)), ("last", last)):
        values = hyperparameters(step, optimization)
        lines.append(
            f"{name + ' step':<16} {step:>8}: lr {values['learning_rate']:.3e}, weight decay "
            f"{values['weight_decay']:.4f}, EMA momentum {values['ema_momentum']:.6f}"
        )
    return "\n".join(lines)


# Of a health line, what is printed; all of it goes to the log.
SHOWN_HEALTH = ("target_std", "context_std", "target_rank", "loss_ratio", "copy_ratio", "encoder_distance")


class RunLog:
    """What a run tells: a progress bar, trackers, and one JSON object a line in `log.jsonl`.

    Steps that were left out stand, with their clips, in `skipped_steps.jsonl`. All of it comes from the main process.
    A resumed run first drops the lines that it will write again.
    """

    def __init__(self, accelerator: Accelerator, args: PretrainingArguments, first_step: int) -> None:
        self.accelerator = accelerator
        self.path = Path(args.run.output_dir) / "log.jsonl"
        self.skipped_path = self.path.with_name(SKIPPED_STEPS_FILE)
        self.bar = tqdm(
            total=args.optimization.max_steps,
            initial=first_step,
            unit="step",
            disable=not accelerator.is_main_process,
        )
        if accelerator.is_main_process:
            _cut_log(self.path, first_step)
            if self.skipped_path.exists():
                _cut_log(self.skipped_path, first_step)
        if args.run.report_to:
            accelerator.init_trackers("vjepa", config={key: str(value) for key, value in args.to_dict().items()})

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Record figures of a step."""
        self.accelerator.log(figures, step=step)
        self._append(self.path, {"step": step} | figures)

    def _append(self, path: Path, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a checkpoint that outlives the machine finds its log

    def write_progress(self, step: int, figures: dict[str, float]) -> None:
        """Record figures of a step and show those that one watches beside the progress bar."""
        self.write(step, figures)
        self.bar.set_postfix_str(
            f"loss {figures['loss']:.4f}, {figures['clips_per_second']:.1f} clips/s, "
            f"data wait {figures['data_wait']:.0%}, matmul utilization {figures['matmul_utilization']:.0%}, "
            f"{figures['memory_gib']:.1f} GiB"
        )

    def write_health(self, step: int, figures: dict[str, float], alarms: Sequence[str]) -> None:
        """Record the health line of a step and print it, with its alarms."""
        self.write(step, figures)
        shown = [name for name in SHOWN_HEALTH if name in figures] or figures
        self.say(f"step {step} health: " + ", ".join(f"{name} {figures[name]:.3g}" for name in shown))
        for alarm in alarms:
            self.say(f"WARNING {alarm}")

    def write_skipped(self, step: int, found: dict[str, Any]) -> None:
        """Say that a step was left out, and write down what `RunGuard.skipped_step` knows about it."""
        self._append(self.skipped_path, {"step": step} | found)
        self.say(f"left out step {step}: {found['wrong']}; its clips stand in {self.skipped_path.name}")

    def name_failures(self, failures: Sequence[VideoFailure]) -> None:
        """Name unreadable videos, as `InputLog.gather` returns them: once each."""
        for failure in failures:
            self.say(f"left out an unreadable video, {failure.video}: {failure.cause}")

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.accelerator.is_main_process:
            self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        self.accelerator.end_training()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """All rows of a `log.jsonl`, but for a last one that a dying run did not finish."""
    lines = Path(path).read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _cut_log(path: Path, last_step: int) -> None:
    """Keep the rows up to a step."""
    rows = [row for row in read_log(path) if row["step"] <= last_step] if path.exists() else []
    with whole_file(path) as unfinished:
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Throughput:
    """Clips per second, fraction of the time spent waiting for data, and matmul utilization since the last reading.

    Args:
        measure_matmul_rate: returns the FLOP/s of large matmuls on the device of this process, see `run_matmul_rate`.
            It is called at the start, and again if a run exceeds the rate: something else used the device then.
    """

    def __init__(self, measure_matmul_rate: Callable[[], float] = lambda: math.inf) -> None:
        self.measure_matmul_rate, self.matmul_rate = measure_matmul_rate, measure_matmul_rate()
        self._reset()

    def _reset(self) -> None:
        self.started, self.waited, self.clips, self.flops = time.perf_counter(), 0.0, 0, 0

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Pass batches through and measure the wait for each."""
        batches = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def read(self) -> dict[str, float]:
        """Return `clips_per_second`, `data_wait` and `matmul_utilization` since the last call."""
        elapsed = time.perf_counter() - self.started
        figures = {"clips_per_second": self.clips / elapsed, "data_wait": self.waited / elapsed}
        rate = self.flops / elapsed
        if rate > self.matmul_rate:
            self.matmul_rate = max(rate, self.measure_matmul_rate())
        figures["matmul_utilization"] = rate / self.matmul_rate
        self._reset()
        return figures


def run_matmul_rate(accelerator: Accelerator) -> float:
    """Measure the FLOP/s of large matmuls on the device of this process, in the precision of the run."""
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    return matmul_rate(accelerator.device, dtypes.get(accelerator.mixed_precision, torch.float32))


def progress_figures(accelerator: Accelerator, guard: RunGuard, throughput: Throughput) -> dict[str, float]:
    """`loss` over steps and processes, gradient norms, steps left out, throughput and memory, as plain numbers."""
    return guard.read() | throughput.read() | {"memory_gib": memory_gib(accelerator.device)}


def memory_gib(device: torch.device) -> float:
    """Return the peak memory so far in GiB: of the GPU, or of this process on a CPU (nan on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
