"""What a run reports: log, throughput, memory, health and evaluation."""

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

from ..data.input_log import InputLog
from ..data.videos import VideoFailure
from ..files import whole_file
from ..model.modeling_vjepa import VJEPAForPreTraining, VJEPAForPreTrainingOutput, VJEPAModel
from .arguments import PretrainingArguments
from .diagnostics import alarms, health
from .flops import matmul_rate, step_flops
from .optimization import hyperparameters
from .run_guard import RunGuard
from .setup import callable_in_parts

SKIPPED_STEPS_FILE = "skipped_steps.jsonl"


def run_summary(
    accelerator: Accelerator, args: PretrainingArguments, num_videos: int | None, model: torch.nn.Module
) -> str:
    """Describe a run in a few lines, so that a wrong setting is seen before it costs a day.

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
        f"{math.prod(batch)} clips per step = {batch[0]} per device x {batch[1]} processes x {batch[2]} accumulated",
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


# Health metrics that are printed; the log has all of them.
SHOWN_HEALTH = ("target_std", "context_std", "target_rank", "loss_ratio", "copy_ratio", "encoder_distance")


class RunLog:
    """Progress bar, trackers, and log files with one JSON object per line, all written by the main process.

    Metrics go to `log.jsonl`, skipped steps and their clips to `skipped_steps.jsonl`. A resumed run first drops the
    lines that it will write again.
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

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a step."""
        self.accelerator.log(metrics, step=step)
        self._append(self.path, {"step": step} | metrics)

    def _append(self, path: Path, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a checkpoint that outlives the machine finds its log

    def write_progress(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a step, and show the most important ones in the progress bar."""
        self.write(step, metrics)
        self.bar.set_postfix_str(
            f"loss {metrics['loss']:.4f}, {metrics['clips_per_second']:.1f} clips/s, "
            f"data wait {metrics['data_wait']:.0%}, matmul utilization {metrics['matmul_utilization']:.0%}, "
            f"{metrics['memory_gib']:.1f} GiB"
        )

    def write_health(self, step: int, metrics: dict[str, float], alarms: Sequence[str]) -> None:
        """Record the health line of a step and print it, with its alarms."""
        self.write(step, metrics)
        shown = [name for name in SHOWN_HEALTH if name in metrics] or metrics
        self.say(f"step {step} health: " + ", ".join(f"{name} {metrics[name]:.3g}" for name in shown))
        for alarm in alarms:
            self.say(f"WARNING {alarm}")

    def write_skipped(self, step: int, skipped: dict[str, Any]) -> None:
        """Report a skipped step, and record the result of `RunGuard.skipped_step`."""
        self._append(self.skipped_path, {"step": step} | skipped)
        self.say(f"skipped step {step}: {skipped['wrong']}; its clips are in {self.skipped_path.name}")

    def name_failures(self, failures: Sequence[VideoFailure]) -> None:
        """Print the unreadable videos that `InputLog.gather` returns, each once."""
        for failure in failures:
            self.say(f"skipped an unreadable video, {failure.video}: {failure.cause}")

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.accelerator.is_main_process:
            self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        self.accelerator.end_training()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return all rows of a `log.jsonl`, without a last one that a killed run did not finish."""
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
        metrics = {"clips_per_second": self.clips / elapsed, "data_wait": self.waited / elapsed}
        rate = self.flops / elapsed
        if rate > self.matmul_rate:
            self.matmul_rate = max(rate, self.measure_matmul_rate())
        metrics["matmul_utilization"] = rate / self.matmul_rate
        self._reset()
        return metrics


def run_matmul_rate(accelerator: Accelerator) -> float:
    """Measure the FLOP/s of large matmuls on the device of this process, in the precision of the run."""
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    return matmul_rate(accelerator.device, dtypes.get(accelerator.mixed_precision, torch.float32))


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


class Monitor:
    """Log of a run: its progress, throughput, inputs, health and evaluation, each when the arguments say so.

    All processes call its methods, since metrics are gathered over them.

    Args:
        accelerator: accelerator of the run.
        args: arguments of the run.
        model: model without the wrappers of Accelerate.
        inputs: log of the unreadable videos.
        guard: guard that watches losses and gradient norms.
        first_step: number of optimizer steps before this start of the run.
        evaluate: returns metrics of the encoder on labelled videos.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        args: PretrainingArguments,
        model: VJEPAForPreTraining,
        inputs: InputLog,
        guard: RunGuard,
        first_step: int,
        evaluate: Callable[[VJEPAModel], dict[str, float]] | None = None,
    ) -> None:
        self.accelerator, self.args, self.model = accelerator, args, model
        self.inputs, self.guard, self.evaluate = inputs, guard, evaluate
        self.log = RunLog(accelerator, args, first_step)
        self.throughput = Throughput(lambda: run_matmul_rate(accelerator))

    def batches(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass the batches of this process through; record the wait, the FLOPs and the unreadable videos."""
        for batch in self.throughput.timed(batches):
            self.inputs.update(batch)
            self.throughput.clips += len(batch["clip_keys"]) * self.accelerator.num_processes
            masks = batch["context_masks"], batch["target_masks"]
            self.throughput.flops += step_flops(self.model.config, *masks, self.args.optimization.freeze_layers)
            yield batch

    def step(
        self,
        step: int,
        values: dict[str, float],
        batch: dict[str, Any],
        outputs: Sequence[VJEPAForPreTrainingOutput],
    ) -> None:
        """Record an optimizer step.

        Args:
            step: number of the step, from 1.
            values: learning rate, weight decay and momentum of the step.
            batch: last batch of the step.
            outputs: outputs of the model for it, one for each mask type.
        """
        run, last = self.args.run, step == self.args.optimization.max_steps
        self.log.bar.update()
        if self.guard.wrong:
            self.log.write_skipped(step, self.guard.skipped_step())
        logs = last or step % run.logging_steps == 0 or step % run.save_steps == 0
        if logs or self.guard.stop:
            self.log.name_failures(self.inputs.gather())
        if logs:
            metrics = self.guard.read() | self.throughput.read()
            metrics["memory_gib"] = memory_gib(self.accelerator.device)
            self.log.write_progress(step, metrics | values | self.inputs.metrics())
        if (last or step % run.health_steps == 0) and not self.guard.wrong:
            masks = batch["context_masks"], batch["target_masks"]
            metrics = health(self.model, join_mask_types(outputs), *masks, self.accelerator.gather)
            after_warmup = step > self.args.optimization.warmup_steps
            self.log.write_health(step, metrics, alarms(metrics, after_warmup))
        if self.evaluate is not None and (last or step % self.args.evaluation.eval_steps == 0):
            with callable_in_parts(self.model):
                self.log.write_health(step, self.evaluate(self.model.vjepa), alarms=[])

    def close(self) -> None:
        """Close the progress bar and the trackers."""
        self.log.close()


def join_mask_types(outputs: Sequence[VJEPAForPreTrainingOutput]) -> VJEPAForPreTrainingOutput:
    """Return outputs of one mask type each as those of all mask types, without the mean loss."""
    names = ("losses", "predictions", "targets", "context_hidden_states")
    joined: dict[str, Any] = {name: tuple(output[name][0] for output in outputs) for name in names}
    return VJEPAForPreTrainingOutput(target_hidden_state=outputs[0].target_hidden_state, **joined)
