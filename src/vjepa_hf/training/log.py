"""Log of a run: losses, throughput, memory, health and evaluation."""

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from matplotlib.image import imread
from tqdm import tqdm

from ..data.input_log import InputLog
from ..files import whole_file
from ..model.modeling_vjepa import VJEPAForPreTraining, VJEPAForPreTrainingOutput, VJEPAModel
from ..visualization.curves import plot_curves
from .arguments import PretrainingArguments
from .diagnostics import alarms, health
from .flops import matmul_rate, step_flops
from .optimization import hyperparameters
from .run_guard import RunGuard
from .setup import callable_in_parts, global_batch_size, global_image_batch_size

SKIPPED_STEPS_FILE = "skipped_steps.jsonl"


def run_summary(
    accelerator: Accelerator, args: PretrainingArguments, num_videos: int | None, model: torch.nn.Module
) -> str:
    """Describe the size and the schedules of a run in a few lines. `num_videos` is None for streams."""
    optimization = args.optimization
    num_parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    batch_size, num_images = (
        count(accelerator, optimization) for count in (global_batch_size, global_image_batch_size)
    )
    video_passes = optimization.gradient_accumulation_steps - optimization.image_passes
    num_clips = batch_size * optimization.max_steps
    lines = [
        f"{'streamed' if num_videos is None else f'{num_videos:,}'} videos, {num_parameters:,} trained parameters",
        f"{accelerator.num_processes} processes, device {accelerator.device.type}, mixed precision "
        f"{accelerator.mixed_precision}",
        f"global batch size {batch_size} = {optimization.per_device_batch_size} clips x {accelerator.num_processes} "
        f"processes x {video_passes} accumulation steps" + (f", and {num_images} images" if num_images else ""),
        f"{num_clips:,} clips in {optimization.max_steps:,} steps"
        + ("" if num_videos is None else f" = {num_clips / num_videos:.1f} epochs"),
    ]
    if optimization.effective_warmup_steps < optimization.warmup_steps:
        lines.append(
            f"warm-up shortened to {optimization.effective_warmup_steps} steps, a tenth of the run, because "
            f"warmup_steps={optimization.warmup_steps} is more than max_steps={optimization.max_steps}"
        )
    last = optimization.max_steps - 1
    for name, step in (("first", 0), ("warm-up end", min(optimization.effective_warmup_steps, last)), ("last", last)):
        values = hyperparameters(step, optimization)
        lines.append(
            f"{name + ' step':<16} {step:>8}: lr {values['learning_rate']:.3e}, weight decay "
            f"{values['weight_decay']:.4f}, EMA momentum {values['ema_momentum']:.6f}"
        )
    return "\n".join(lines)


# Health metrics to print; the log has all of them.
PRINTED_HEALTH = ("target_std", "context_std", "target_rank", "loss_ratio", "copy_ratio", "encoder_distance")


class RunLog:
    """Progress bar, trackers and log files of the main process.

    `log.jsonl` has metrics, `skipped_steps.jsonl` the skipped steps with their clips, one JSON object per line. A
    resumed run first deletes the lines of the steps that it repeats.
    """

    def __init__(
        self, accelerator: Accelerator, args: PretrainingArguments, first_step: int, summary: str = ""
    ) -> None:
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
        if accelerator.log_with:
            name = args.run.run_name or Path(args.run.output_dir).name
            config = {key: str(value) for key, value in args.to_dict().items()} | {"summary": summary}
            names = {"wandb": {"name": name}, "trackio": {"name": name}, "swanlab": {"experiment_name": name}}
            accelerator.init_trackers("vjepa", config=config, init_kwargs=names)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a step."""
        self.accelerator.log(metrics, step=step)
        self._append(self.path, {"step": step} | metrics)

    def _append(self, path: Path, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())  # as for checkpoints: both survive a power failure

    def write_progress(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a step and show the main ones in the progress bar."""
        self.write(step, metrics)
        self.bar.set_postfix_str(
            f"loss {metrics['loss']:.4f}, {metrics['clips_per_second']:.1f} clips/s, "
            f"data wait {metrics['data_wait']:.0%}, matmul utilization {metrics['matmul_utilization']:.0%}, "
            f"{metrics['memory_gib']:.1f} GiB"
        )

    def write_health(self, step: int, metrics: dict[str, float], alarms: Sequence[str]) -> None:
        """Record the health metrics of a step and the number of alarms; print the main ones and the alarms."""
        self.write(step, metrics | {"alarms": len(alarms)})
        self._print_metrics(step, "health", {name: metrics[name] for name in PRINTED_HEALTH if name in metrics})
        for alarm in alarms:
            self.print(f"WARNING {alarm}")

    def write_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Record and print the evaluation metrics of a step."""
        self.write(step, metrics)
        self._print_metrics(step, "evaluation", metrics)

    def _print_metrics(self, step: int, title: str, metrics: dict[str, float]) -> None:
        self.print(f"step {step} {title}: " + ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))

    def write_curves(self, title: str) -> None:
        """Draw `curves.png` from the log, and show it in the trackers that take images."""
        if not self.accelerator.is_main_process:
            return
        rows, path = read_log(self.path), self.path.with_name("curves.png")
        plot_curves(rows, path, title)
        step, image = max((row["step"] for row in rows), default=0), (imread(path)[..., :3] * 255).astype(np.uint8)
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"curves": image[None]}, step=step, **layout)

    def write_skipped(self, step: int, skipped: dict[str, Any]) -> None:
        """Record and print a skipped step, given the result of `RunGuard.skipped_step`."""
        self._append(self.skipped_path, {"step": step} | skipped)
        self.print(f"skipped step {step}: {skipped['reason']}; its clips are in {self.skipped_path.name}")

    def print(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.accelerator.is_main_process:
            self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        self.accelerator.end_training()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return all rows of a `log.jsonl` or `skipped_steps.jsonl`, except an incomplete last one of a killed run.

    Other lines that are not rows, such as the zero bytes that a power failure leaves or a metric that is not a number,
    are skipped with a warning.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    rows = [_row(line) for line in lines]
    if damaged := rows.count(None):
        warnings.warn(f"skipped {damaged} damaged lines of {path}", stacklevel=2)
    return [row for row in rows if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    """Return the row in a line; None if it is not an object with the number of a step, and numbers or a `reason`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    is_skipped_step = "reason" in row
    return row if is_skipped_step or all(isinstance(value, int | float) for value in row.values()) else None


def _cut_log(path: Path, last_step: int) -> None:
    """Keep the rows up to a step, and create the file if it does not exist."""
    rows = [row for row in read_log(path) if row["step"] <= last_step] if path.exists() else []
    with whole_file(path) as unfinished:
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Throughput:
    """Meter of clips per second, the fraction of time spent waiting for data, and matmul utilization.

    Args:
        measure_matmul_rate: function that returns the FLOP/s of large matmuls, see `run_matmul_rate`. It is called
            again when a run exceeds the rate, because something else was using the device then.
    """

    def __init__(self, measure_matmul_rate: Callable[[], float] = lambda: math.inf) -> None:
        self.measure_matmul_rate, self.matmul_rate = measure_matmul_rate, measure_matmul_rate()
        self._reset()

    def _reset(self) -> None:
        self.started, self.waited, self.clips, self.flops = time.perf_counter(), 0.0, 0, 0

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches and measure the time to get each."""
        started = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - started
            yield batch
            started = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Return `clips_per_second`, `data_wait` and `matmul_utilization` since the last call."""
        elapsed = time.perf_counter() - self.started
        rate = self.flops / elapsed
        if rate > self.matmul_rate:
            self.matmul_rate = max(rate, self.measure_matmul_rate())
        metrics = {"clips_per_second": self.clips / elapsed, "data_wait": self.waited / elapsed}
        self._reset()
        return metrics | {"matmul_utilization": rate / self.matmul_rate}


def run_matmul_rate(accelerator: Accelerator) -> float:
    """Measure the FLOP/s of large matmuls on the device and in the precision of the run."""
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    return matmul_rate(accelerator.device, dtypes.get(accelerator.mixed_precision, torch.float32))


def memory_gib(device: torch.device) -> float:
    """Return the peak memory in GiB of the GPU, or on a CPU of this process (nan on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


class Monitor:
    """Logger of progress, throughput, unreadable videos, health and evaluation, at the intervals of the arguments.

    All processes call its methods, because metrics are gathered.

    Args:
        accelerator: accelerator of the run.
        args: arguments of the run.
        model: model without the wrappers of Accelerate.
        inputs: log of unreadable videos.
        guard: guard of losses and gradient norms.
        first_step: number of optimizer steps before this start of the run.
        evaluate: function that returns metrics of the encoder on labelled videos.
        summary: description of the run for the trackers.
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
        summary: str = "",
    ) -> None:
        self.accelerator, self.args, self.model = accelerator, args, model
        self.inputs, self.guard, self.evaluate = inputs, guard, evaluate
        self.log = RunLog(accelerator, args, first_step, summary)
        self.throughput = Throughput(lambda: run_matmul_rate(accelerator))

    def batches(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches of this process; record waiting time, FLOPs and unreadable videos."""
        for batch in self.throughput.timed(batches):
            self.inputs.update(batch)
            self.throughput.clips += len(batch["clip_keys"]) * self.accelerator.num_processes
            masks, config = (batch["context_masks"], batch["target_masks"]), self.model.config
            image = config.image_tokenizer and batch["pixel_values_videos"].shape[1] == 1
            frozen = self.args.optimization.freeze_layers
            self.throughput.flops += step_flops(config, *masks, frozen, image)
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
            values: learning rate, weight decay and EMA momentum of the step.
            batch: last batch of the step.
            outputs: outputs of the model for this batch, one for each mask type.
        """
        run, is_last = self.args.run, step == self.args.optimization.max_steps
        self.log.bar.update()
        if self.guard.skip_reason:
            self.log.write_skipped(step, self.guard.skipped_step())
        logs = is_last or step % run.logging_steps == 0 or step % run.save_steps == 0
        if logs or self.guard.stop:
            for failure in self.inputs.gather():
                self.log.print(f"skipped an unreadable video, {failure.video}: {failure.cause}")
        if logs:
            metrics = self.guard.read() | self.throughput.read()
            metrics["memory_gib"] = memory_gib(self.accelerator.device)
            self.log.write_progress(step, metrics | values | self.inputs.metrics())
        if (is_last or step % run.health_steps == 0) and not self.guard.skip_reason:
            masks = batch["context_masks"], batch["target_masks"]
            metrics = health(self.model, join_mask_types(outputs), *masks, self.accelerator.gather)
            after_warmup = step > self.args.optimization.effective_warmup_steps
            self.log.write_health(step, metrics, alarms(metrics, after_warmup))
        if self.evaluate is not None and (is_last or step % self.args.evaluation.eval_steps == 0):
            with callable_in_parts(self.model):
                self.log.write_evaluation(step, self.evaluate(self.model.vjepa))

    def close(self) -> None:
        """Draw the curves, and close the progress bar and the trackers."""
        self.log.write_curves(self.args.run.output_dir)
        self.log.close()


def join_mask_types(outputs: Sequence[VJEPAForPreTrainingOutput]) -> VJEPAForPreTrainingOutput:
    """Join outputs for one mask type each into one output for all mask types, without the mean loss."""
    names = ["losses", "predictions", "targets", "context_hidden_states"]
    names += ["context_losses"] if outputs[0].context_losses else []
    joined: dict[str, Any] = {name: tuple(output[name][0] for output in outputs) for name in names}
    return VJEPAForPreTrainingOutput(target_hidden_state=outputs[0].target_hidden_state, **joined)
