"""Train two runs that collapse beside a healthy one: what does the health line say, and what does a probe find?

    python benchmarks/collapse.py --output benchmarks/results/collapse.md --plot docs/images/health.png

"V-JEPA" is the run of examples/configs/tiny_cpu.yaml. "naive" takes its target from the context encoder itself, with
gradient, and averages nothing: predicting features then has the trivial solution of features that are all alike.
"hasty" is V-JEPA with ten times the learning rate and an EMA momentum of 0.9, which a configuration file can ask for.
All start from the same weights and see the same clips and masks. Figures are those of the health line, and the loss is
the mean of ten steps. Accuracy is that of an attentive probe on the frozen target encoder, the mean over draws of the
labels.
"""

import argparse
import copy
import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import transformers
from accelerate import Accelerator

from report import COMMIT, opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.transforms import normalize
from vjepa_hf.evaluation.probes import few_label_accuracy
from vjepa_hf.training import diagnostics
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import OptimizationArguments, PretrainingArguments, parse_arguments
from vjepa_hf.training.checkpoints import Progress
from vjepa_hf.training.optimization import (
    clip_gradients,
    hyperparameters,
    make_optimizer,
    max_grad_norm,
    set_hyperparameters,
)

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

transformers.utils.logging.disable_progress_bar()
HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
LOGGING_STEPS = 10
WARMUP_STEPS = 200  # of the configuration


class NaivePreTraining(VJEPAForPreTraining):
    """The objective without stop-gradient and without averaging."""

    def encode_targets(self, tubelets: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Layer-normed features `(B, N, D)` of the context encoder, through which the gradient flows."""
        features = self.context_encoder(tubelets, grid).last_hidden_state
        return torch.nn.functional.layer_norm(features, features.shape[-1:])

    def update_target_encoder(self, momentum: float) -> None:
        """The target encoder is the context encoder, whatever momentum is asked for."""
        super().update_target_encoder(0.0)


@dataclass(frozen=True)
class Recipe:
    """What a run is: its title, its model, and what differs from the configuration."""

    title: str
    model_class: type[VJEPAForPreTraining] = VJEPAForPreTraining
    changes: dict[str, float] = field(default_factory=dict)


HASTE = {"learning_rate": 3e-3, "ema_momentum": 0.9, "final_ema_momentum": 0.9}
RUNS = {
    "V-JEPA": Recipe("V-JEPA: healthy"),
    "naive": Recipe("naive: collapses to one point", NaivePreTraining),
    "hasty": Recipe("hasty: collapses to few directions", changes=HASTE),
}


@dataclass
class Run:
    """One model in training, and the rows of its log."""

    model: VJEPAForPreTraining
    optimization: OptimizationArguments
    optimizer: torch.optim.AdamW
    losses: list[float] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


def start(name: str, args: PretrainingArguments, config: VJEPAConfig) -> Run:
    """A run from the weights that the seed gives, the same for all."""
    optimization = replace(args.optimization, **RUNS[name].changes)
    torch.manual_seed(args.run.seed)
    model = RUNS[name].model_class(copy.deepcopy(config))
    return Run(model, optimization, make_optimizer(model, optimization))


def train_step(run: Run, batch: dict, pixels: torch.Tensor, step: int, health_steps: int) -> None:
    """One optimizer step as in examples/pretrain.py, with what that would log after it."""
    values = hyperparameters(step, run.optimization)
    set_hyperparameters(run.optimizer, values)
    masks = batch["context_masks"], batch["target_masks"]
    outputs = run.model(pixels, *masks)
    outputs.loss.backward()
    clip_gradients(run.model, max_grad_norm(step, run.optimization))
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.model.update_target_encoder(values["ema_momentum"])
    run.losses.append(outputs.loss.item())
    if (step + 1) % LOGGING_STEPS == 0:
        run.rows.append({"step": step + 1, "loss": float(np.mean(run.losses[-LOGGING_STEPS:]))})
    if (step + 1) % health_steps == 0:
        run.rows.append({"step": step + 1} | diagnostics.health(run.model, outputs, *masks))


def accuracy(run: Run, num_labels: int, draws: int, judged: tuple) -> float:
    """Of probes on the target encoder, each with other labels; training goes on after it as before."""
    config = VJEPAConfig(**run.model.config.to_diff_dict() | {"num_labels": num_labels})
    heads = []
    for seed in range(draws):
        torch.manual_seed(seed)
        heads.append(VJEPAForVideoClassification(config))
    score = few_label_accuracy(Accelerator(cpu=True), run.model.vjepa, *judged, heads)
    run.model.train()
    return score


def train(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The log of every run."""
    args = parse_arguments([], default_config=EXAMPLES / "configs" / "tiny_cpu.yaml")
    args.optimization = replace(args.optimization, max_steps=options.steps)
    torch.set_num_threads(args.run.cpu_threads)
    if not (options.videos / "train.csv").exists():
        subprocess.run([sys.executable, EXAMPLES / "make_toy_videos.py", options.videos], check=True)
    splits = {split: load_videos(options.videos / f"{split}.csv") for split in ("train", "test")}
    config = training.model_config(args.model, num_mask_kinds=len(args.masks.mask_num_blocks))
    processor = training.make_processor(config, args.data)
    runs = {name: start(name, args, config) for name in RUNS}

    labels = len(set(splits["train"][options.label]))
    judged = processor, splits, options.label, options.labels_per_class
    looks = set(np.linspace(0, options.steps, options.looks + 1).round().astype(int).tolist()[1:])
    everything = Accelerator(cpu=True), args, config, [splits["train"]], Progress(), InputLog(0.0)
    for step, batch in enumerate(training.make_loader(*everything)):
        pixels = normalize(batch["pixel_values_videos"], processor.image_mean, processor.image_std)
        for name, run in runs.items():
            train_step(run, batch, pixels, step, options.health_steps)
            if step + 1 in looks:
                run.rows.append({"step": step + 1, "accuracy": accuracy(run, labels, options.draws, judged)})
                print(name, run.rows[-1], flush=True)
    return {name: run.rows for name, run in runs.items()}


def health_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a log that are health lines."""
    return [row for row in rows if "target_std" in row]


def raised(row: dict[str, Any]) -> list[str]:
    """Names of the alarms of a health line."""
    return [alarm.split(":")[0] for alarm in diagnostics.alarms(row, row["step"] > WARMUP_STEPS)]


def course(logs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Table of all runs at the steps at which a probe looked at them."""
    header = ["run", "step", "loss", "target std", "context std", "target rank", "loss ratio", "copy ratio"]
    lines = []
    for name, rows in logs.items():
        for look in (row for row in rows if "accuracy" in row):
            row = {key: value for other in rows if other["step"] == look["step"] for key, value in other.items()}
            cells = [f"{row[key]:.3f}" for key in ("loss", "target_std", "context_std")] + [
                f"{row['target_rank']:.1f}"
            ]
            cells += [f"{row[key]:.2f}" for key in ("loss_ratio", "copy_ratio")] + [f"{row['accuracy']:.3f}"]
            lines.append([name, row["step"], *cells, ", ".join(raised(row)) or "none"])
    return table([*header, "accuracy", "alarms"], lines)


def thresholds(logs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Table of the worst figure of each run beside the threshold of each alarm, and when it was raised first."""
    lines = []
    for alarm in diagnostics.ALARMS:
        low = np.isfinite(alarm.low)
        cells = [alarm.name, f"{alarm.figure} {'<' if low else '>'} {alarm.low if low else alarm.high:g}"]
        for rows in map(health_rows, logs.values()):
            counted = [row for row in rows if row["step"] > WARMUP_STEPS or not alarm.after_warmup]
            worst = (min if low else max)(row[alarm.figure] for row in counted)
            steps = [row["step"] for row in rows if alarm.name in raised(row)]
            cells.append(f"{worst:.2f}, {f'from step {steps[0]}' if steps else 'never'}")
        lines.append(cells)
    return table(["alarm", "raised where", *logs], lines)


@dataclass(frozen=True)
class Panel:
    """A row of the picture: figures of the log with their labels, and a dotted line to hold them against."""

    title: str
    curves: dict[str, str]
    line: float | None = None
    line_label: str = ""


LOW = {alarm.figure: alarm.low for alarm in diagnostics.ALARMS}
PANELS = (
    Panel("loss (L1)", {"loss": "loss"}),
    Panel(
        "std over tokens",
        {"target_std": "target", "context_std": "context", "prediction_std": "prediction"},
        LOW["target_std"],
        "alarm for target",
    ),
    Panel(
        "effective rank of 128",
        {"target_rank": "target", "context_rank": "context", "prediction_rank": "prediction"},
        LOW["target_rank_share"] * 128,
        "alarm for target",
    ),
    Panel("loss / trivial answer", {"loss_ratio": "mean target", "copy_ratio": "nearest context"}, 1.0, "no better"),
    Panel("probe accuracy", {"accuracy": "accuracy"}, 0.125, "chance"),
)
COLORS = ("#2f6db5", "#e08a1e", "#7a8793")
ALARM_COLOR = "#c8382e"


def plot(logs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The runs side by side, one figure below the other; red where an alarm is raised."""
    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            len(PANELS), len(logs), figsize=(12, 12), sharex=True, sharey="row", layout="constrained"
        )
        for column, (name, rows) in zip(axes.T, logs.items(), strict=True):
            alarmed = {row["step"]: raised(row) for row in health_rows(rows)}
            column[0].set_title(f"{RUNS[name].title}\n", fontsize=13, fontweight="bold")
            first = next((f"{names[0]}, step {step}" for step, names in alarmed.items() if names), "")
            column[0].text(
                0.5, 1.04, f"first alarm: {first}" if first else "no alarm", transform=column[0].transAxes,
                ha="center", fontsize=10, color=ALARM_COLOR if first else "#3a7d44",
            )  # fmt: skip
            for axis, panel in zip(column, PANELS, strict=True):
                draw(axis, panel, rows)
                shade(axis, alarmed)
            column[-1].set_xlabel("optimizer step")
        for (left, middle, *_), panel in zip(axes, PANELS, strict=True):
            left.set_ylabel(panel.title, fontsize=11)
            left.set_ylim(bottom=0)
            if len(panel.curves) > 1 or panel.line is not None:
                middle.legend(fontsize=9, frameon=False, loc="center right")  # where a collapsed run leaves room
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def draw(axis: Any, panel: Panel, rows: list[dict[str, Any]]) -> None:
    """The curves of a panel."""
    for color, (key, label) in zip(COLORS, panel.curves.items(), strict=False):
        points = [(row["step"], row[key]) for row in rows if key in row]
        marker = "o" if key == "accuracy" else ""
        axis.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.8, marker=marker, markersize=5)
    if panel.line is not None:
        axis.axhline(panel.line, color="#333333", linestyle=":", linewidth=1.2, label=panel.line_label)
    axis.grid(alpha=0.25)


def shade(axis: Any, alarmed: dict[int, list[str]]) -> None:
    """Red ground from each health line with an alarm to the one before it."""
    steps = [0, *alarmed]
    for before, step in zip(steps, steps[1:], strict=False):
        if alarmed[step]:
            axis.axvspan(before, step, color=ALARM_COLOR, alpha=0.09, linewidth=0)


def main() -> None:
    """Train unless there is a log, then write the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("output/toy_videos"), help="toy set, made if missing")
    parser.add_argument("--log", type=Path, default=Path("output/collapse.json"), help="of the runs, made if missing")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps")
    parser.add_argument("--health-steps", type=int, default=20, help="steps from one health line to the next")
    parser.add_argument("--looks", type=int, default=4, help="times that features are judged on the way")
    parser.add_argument("--label", default="motion", help="column that the probe learns")
    parser.add_argument("--labels-per-class", type=int, default=8, help="training videos of a class")
    parser.add_argument("--draws", type=int, default=3, help="probes, each with other labels")
    options = parser.parse_args()
    if not options.log.exists():
        options.log.parent.mkdir(parents=True, exist_ok=True)
        options.log.write_text(json.dumps({"commit": COMMIT, "runs": train(options)}))
    log = json.loads(options.log.read_text())
    if options.plot:
        plot(log["runs"], options.plot)
    lines = opening("Two ways to collapse, beside a healthy run", __file__, __doc__, f"trained at {log['commit']}")
    lines += course(log["runs"])
    lines += [
        "",
        "The worst figure of each run, and when the alarm was raised first:",
    ]
    publish([*lines, "", *thresholds(log["runs"])], options.output)


if __name__ == "__main__":
    main()
