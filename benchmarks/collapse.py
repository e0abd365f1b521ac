"""Two runs that collapse compared with a healthy one: what do the health metrics show, and what do they cost?

    python benchmarks/collapse.py runs --output benchmarks/results/collapse_runs.md --plot docs/images/health.png
    python benchmarks/collapse.py health_cost --output benchmarks/results/collapse_health_cost.md

A page is printed, and written where `--output` says; `--help` lists the options.
"""

import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
import transformers
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors.torch import load_file

from programs import EXAMPLES, backward, few_label_accuracy, make_toy_videos
from report import Output, ToyVideos, make_app, opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAVideoProcessor
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler, MultiBlockMask
from vjepa_hf.training import diagnostics
from vjepa_hf.training.arguments import OptimizationArguments, RunArguments
from vjepa_hf.training.checkpoints import list_checkpoints
from vjepa_hf.training.log import join_mask_types, read_log
from vjepa_hf.training.optimization import clip_gradients, make_optimizer

transformers.utils.logging.disable_progress_bar()
WARMUP_STEPS = 300  # of examples/configs/tiny_cpu.yaml
app = make_app()

Row = dict[str, Any]


# --- runs ----------------------------------------------------------------------------------------------------------


class NaivePreTraining(VJEPAForPreTraining):
    """The objective without stop-gradient and without moving average."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Run one mask type and encode its targets again, because a backward pass frees the graph of those before."""
        *inputs, _target_hidden_state = inputs
        return super().forward(*inputs, **options)

    def encode_targets(self, tubelets: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Return layer-normed features `(B, N, D)` of the context encoder, through which the gradient flows."""
        features = self.context_encoder(tubelets, grid).last_hidden_state
        return torch.nn.functional.layer_norm(features, features.shape[-1:])

    def update_target_encoder(self, momentum: float) -> None:
        """Copy the context encoder, whatever the momentum."""
        super().update_target_encoder(0.0)


@dataclass(frozen=True)
class Run:
    """Title and model of a run, and its options of `examples/pretrain.py`."""

    title: str
    model_class: type[VJEPAForPreTraining] = VJEPAForPreTraining
    options: dict[str, object] = field(default_factory=dict)


RUNS = {
    "V-JEPA": Run("V-JEPA: healthy"),
    "naive": Run("naive: collapses to one point", NaivePreTraining),
    "hasty": Run(
        "hasty: collapses to few directions",
        options={"learning_rate": 3e-3, "ema_momentum": 0.9, "final_ema_momentum": 0.9},
    ),
}


def pretrain(run: Run, videos: Path, folder: Path, **options: object) -> list[Row]:
    """Run `examples/pretrain.py` in this process, so that it takes the model of the run; return its log."""
    words = {"videos": videos / "train.csv", "output_dir": folder} | run.options | options
    arguments = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
    with mock.patch("vjepa_hf.VJEPAForPreTraining", run.model_class), mock.patch.object(sys, "argv", ["", *arguments]):
        runpy.run_path(str(EXAMPLES / "pretrain.py"), run_name="__main__")
    return read_log(folder / "log.jsonl")


def probe_checkpoint(checkpoint: Path, folder: Path, videos: Path, splits: int) -> Row:
    """Return the accuracy of attentive probes on the target encoder of a checkpoint, as a row of the log."""
    model = VJEPAForPreTraining(VJEPAConfig.from_pretrained(folder))
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        VJEPAVideoProcessor.from_pretrained(folder).save_pretrained(scratch)
        output = Path(scratch) / "probe"
        accuracy = few_label_accuracy(Path(scratch), videos, output, label="motion", splits=splits, epochs=80)
    return {"step": int(checkpoint.name.rpartition("_")[2]), "accuracy": accuracy}


def health_lines(log: list[Row]) -> list[Row]:
    """Return the health lines of a log."""
    return [row for row in log if "target_std" in row]


def raised(row: Row) -> list[str]:
    """Return the names of the alarms of a health line."""
    return [alarm.split(":")[0] for alarm in diagnostics.alarms(row, row["step"] > WARMUP_STEPS)]


def course(logs: dict[str, list[Row]]) -> list[str]:
    """Return a table of all runs at the steps where a probe was trained."""
    rows = []
    for name, log in logs.items():
        for step in sorted(row["step"] for row in log if "accuracy" in row):
            row = {key: value for other in log if other["step"] == step for key, value in other.items()}
            cells = [f"{row[key]:.3f}" for key in ("loss", "target_std", "context_std")]
            cells += [f"{row['target_rank']:.1f}", f"{row['loss_ratio']:.2f}", f"{row['copy_ratio']:.2f}"]
            rows.append([name, step, *cells, f"{row['accuracy']:.3f}", ", ".join(raised(row)) or "none"])
    header = ["run", "step", "loss", "target std", "context std", "target rank", "loss ratio", "copy ratio"]
    return table([*header, "accuracy", "alarms"], rows)


def thresholds(logs: dict[str, list[Row]]) -> list[str]:
    """Return a table of the alarms: threshold, worst value of each run, and the step that first raised it."""
    rows = []
    for alarm in diagnostics.ALARMS:
        low = np.isfinite(alarm.low)
        cells = [alarm.name, f"{alarm.metric} {'<' if low else '>'} {alarm.low if low else alarm.high:g}"]
        for lines in map(health_lines, logs.values()):
            counted = [row for row in lines if row["step"] > WARMUP_STEPS or not alarm.after_warmup]
            worst = (min if low else max)((row[alarm.metric] for row in counted), default=np.nan)
            steps = [row["step"] for row in lines if alarm.name in raised(row)]
            cells.append(f"{worst:.2f}, {f'from step {steps[0]}' if steps else 'never'}")
        rows.append(cells)
    return table(["alarm", "raised where", *logs], rows)


# --- the plot ------------------------------------------------------------------------------------------------------

LOW = {alarm.metric: alarm.low for alarm in diagnostics.ALARMS}
STD = {"target_std": "target", "context_std": "context", "prediction_std": "prediction"}
# Title -> curves with their labels, and a dotted line with its label.
PANELS = {
    "loss (L1)": ({"loss": "loss"}, None, ""),
    "std over tokens": (STD, LOW["target_std"], "alarm for target"),
    "effective rank of 128": (
        {name.replace("std", "rank"): label for name, label in STD.items()},
        LOW["target_rank_share"] * 128,
        "alarm for target",
    ),
    "loss / trivial answer": ({"loss_ratio": "mean target", "copy_ratio": "nearest context"}, 1.0, "no better"),
    "probe accuracy": ({"accuracy": "accuracy"}, 0.125, "chance"),
}
COLORS = ("#2f6db5", "#e08a1e", "#7a8793")


def draw(axis: Axes, panel: str, log: list[Row]) -> None:
    """Draw the curves of a panel, on red ground where an alarm is raised."""
    curves, line, label = PANELS[panel]
    for color, (key, name) in zip(COLORS, curves.items(), strict=False):
        points = sorted((row["step"], row[key]) for row in log if key in row)
        marker = "o" if key == "accuracy" else ""
        axis.plot(*zip(*points, strict=True), color=color, label=name, linewidth=1.8, marker=marker, markersize=5)
    if line is not None:
        axis.axhline(line, color="#333333", linestyle=":", linewidth=1.2, label=label)
    before = 0
    for row in health_lines(log):
        if raised(row):
            axis.axvspan(before, row["step"], color="#c8382e", alpha=0.09, linewidth=0)
        before = row["step"]
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def draw_runs(logs: dict[str, list[Row]], path: Path) -> None:
    """Draw the runs next to each other, one panel below the other."""
    figure = Figure(figsize=(12, 12), layout="constrained")
    axes = figure.subplots(len(PANELS), len(logs), sharex=True, sharey="row")
    for column, (name, log) in zip(axes.T, logs.items(), strict=True):
        first = next((f"{alarms[0]}, step {row['step']}" for row in health_lines(log) if (alarms := raised(row))), "")
        column[0].set_title(f"{RUNS[name].title}\nfirst alarm: {first or 'none'}", fontsize=12)
        for axis, panel in zip(column, PANELS, strict=True):
            draw(axis, panel, log)
        column[-1].set_xlabel("optimizer step")
    for (left, middle, *_), panel in zip(axes, PANELS, strict=True):
        left.set_ylabel(panel, fontsize=11)
        left.set_ylim(bottom=0)
        middle.legend(fontsize=9, frameon=False, loc="center right")  # a collapsed run leaves room
    figure.savefig(path, dpi=110)


@app.command()
def runs(
    videos: ToyVideos = Path("output/toy_videos"),
    steps: Annotated[int, typer.Option(help="optimizer steps")] = 800,
    health_steps: Annotated[int, typer.Option(help="steps from one health line to the next")] = 20,
    probes: Annotated[int, typer.Option(help="checkpoints that are probed")] = 4,
    splits: Annotated[int, typer.Option(help="draws of the labels of a probe")] = 3,
    plot: Annotated[Path | None, typer.Option(help="PNG to draw")] = None,
    output: Output = None,
) -> None:
    """Train two runs that collapse and a healthy one, and probe each on the way.

    "V-JEPA" is the run of examples/configs/tiny_cpu.yaml. "naive" takes its target from the context encoder itself,
    with gradient and without moving average: predicting features then has the trivial solution that all features are
    alike. "hasty" is V-JEPA with ten times the learning rate and an EMA momentum of 0.9, which a configuration can
    ask for. All start from the same weights and see the same clips and masks. The metrics are those of the health
    lines, the loss is the mean of ten steps. Accuracy is that of attentive probes on the frozen target encoder, with
    8 labels a class, the mean over draws of the labels; chance is 0.125.
    """
    make_toy_videos(videos)
    logs: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, run in RUNS.items():
            folder, every = Path(scratch) / name, steps // probes
            saving = {"save_steps": every, "save_total_limit": probes, "warmup_steps": min(WARMUP_STEPS, steps)}
            logs[name] = pretrain(run, videos, folder, max_steps=steps, health_steps=health_steps, **saving)
            logs[name] += [probe_checkpoint(path, folder, videos, splits) for path in list_checkpoints(folder)]
    if plot:
        draw_runs(logs, plot)
    lines = opening("Two ways to collapse, compared with a healthy run", "collapse.py runs", runs.__doc__)
    lines += [*course(logs), "", "The worst value of each run, and the step that first raised the alarm:", ""]
    publish([*lines, *thresholds(logs)], output)


# --- cost ----------------------------------------------------------------------------------------------------------

TOY = VJEPAConfig(
    image_size=48, num_frames=8, patch_size=8, hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
    pred_hidden_size=64, pred_num_hidden_layers=3, pred_num_mask_tokens=3,
)  # fmt: skip
VIT_S = VJEPAConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6)
# Name -> configuration, clips of a step, mask types.
MODELS = {
    "toy": (TOY, 16, [SHORT_RANGE, LONG_RANGE, MultiBlockMask(num_blocks=0, context_steps=2)]),
    "ViT-S/16": (VIT_S, 2, [SHORT_RANGE, LONG_RANGE]),
}


def step_and_health(name: str, device: str) -> tuple[Callable[[], object], Callable[[object], object]]:
    """Return a training step, and the health line of what a step returned."""
    config, num_clips, types = MODELS[name]
    torch.manual_seed(0)
    model = VJEPAForPreTraining(config).to(device)
    optimizer = make_optimizer(model, OptimizationArguments())
    masks = MaskSampler(types, config.grid_size, seed=0)([(0, clip) for clip in range(num_clips)])
    masks = [[mask.to(device) for mask in by_type] for by_type in masks]
    shape = (num_clips, config.num_frames, 3, config.image_size, config.image_size)
    pixels = torch.randn(shape, device=device)

    def step() -> object:
        outputs = backward(model, pixels, masks)
        clip_gradients(model, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(0.998)
        return outputs

    return step, lambda outputs: diagnostics.alarms(diagnostics.health(model, join_mask_types(outputs), *masks))


def timed(device: str, call: Callable[..., object], *arguments: object) -> tuple[float, object]:
    """Return the seconds of a call, of the processor on a CPU, and its result."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    began, result = clock(), call(*arguments)
    if device != "cpu":
        torch.accelerator.synchronize()
    return clock() - began, result


@app.command()
def health_cost(
    models: Annotated[list[str], typer.Option(help=f"one of {', '.join(MODELS)}; repeat")] = tuple(MODELS),
    turns: Annotated[int, typer.Option(help="measured steps, after one that warms up")] = 5,
    output: Output = None,
) -> None:
    """Compare the time of a health line with the time of a training step.

    A step contains forward and backward passes, clipping, optimizer and moving average; after each, the health line
    and its alarms are timed. Medians, on a CPU of the processor's time on one thread. The fraction is that of one
    health line in all the steps up to it, at the default `health_steps` and without time for data. Small batches are
    the worst case: the metrics are computed on a fixed number of tokens, whatever the batch.
    """
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    every, rows = RunArguments().health_steps, []
    for name in models:
        step, health = step_and_health(name, device)
        times = []
        for _ in range(turns + 1):
            seconds, outputs = timed(device, step)
            times.append((seconds, timed(device, health, outputs)[0]))
        plain, extra = map(statistics.median, zip(*times[1:], strict=True))
        shape = f"{MODELS[name][1]} clips of {MODELS[name][0].num_frames} x {MODELS[name][0].image_size}²"
        rows.append([name, shape, f"{plain:.3f}", f"{extra:.3f}", f"{extra / (every * plain + extra):.3%}"])
    header = ["model", "batch", "step, s", "health line, s", f"fraction, every {every} steps"]
    lines = opening("What the health lines cost", "collapse.py health_cost", health_cost.__doc__)
    publish([*lines, *table(header, rows)], output)


if __name__ == "__main__":
    app()
