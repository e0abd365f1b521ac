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

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, data, diagnostics, training
from vjepa_hf.arguments import OptimizationArguments, PretrainingArguments, parse_arguments
from vjepa_hf.evaluation import few_label_accuracy
from vjepa_hf.transforms import normalize

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

transformers.utils.logging.disable_progress_bar()
HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
LOGGING_STEPS = 10


class NaivePreTraining(VJEPAForPreTraining):
    """The objective without stop-gradient and without averaging."""

    def encode_targets(self, tubelets: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Layer-normed features `(B, N, D)` of the context encoder, through which the gradient flows."""
        features = self.context_encoder(tubelets, grid).last_hidden_state
        return torch.nn.functional.layer_norm(features, features.shape[-1:])

    def update_target_encoder(self, momentum: float) -> None:
        """The target encoder is the context encoder, whatever momentum is asked for."""
        super().update_target_encoder(0.0)


# Name -> model class, and what differs from the configuration.
RUNS = {
    "V-JEPA": (VJEPAForPreTraining, {}),
    "naive": (NaivePreTraining, {}),
    "hasty": (VJEPAForPreTraining, {"learning_rate": 3e-3, "ema_momentum": 0.9, "final_ema_momentum": 0.9}),
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
    model_class, changes = RUNS[name]
    optimization = replace(args.optimization, **changes)
    torch.manual_seed(args.run.seed)
    model = model_class(copy.deepcopy(config))
    return Run(model, optimization, training.make_optimizer(model, optimization))


def train_step(run: Run, batch: dict, pixels: torch.Tensor, step: int, health_steps: int) -> None:
    """One optimizer step as in examples/pretrain.py, with what that would log after it."""
    values = training.hyperparameters(step, run.optimization)
    training.set_hyperparameters(run.optimizer, values)
    masks = batch["context_masks"], batch["target_masks"]
    outputs = run.model(pixels, *masks)
    outputs.loss.backward()
    training.clip_gradients(run.model, training.max_grad_norm(step, run.optimization))
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
    splits = {split: data.load_videos(options.videos / f"{split}.csv") for split in ("train", "test")}
    config = training.model_config(args.model, num_mask_kinds=len(args.masks.mask_num_blocks))
    processor = training.make_processor(config, args.data)
    runs = {name: start(name, args, config) for name in RUNS}

    labels = len(set(splits["train"][options.label]))
    judged = processor, splits, options.label, options.labels_per_class
    looks = set(np.linspace(0, options.steps, options.looks + 1).round().astype(int).tolist()[1:])
    everything = Accelerator(cpu=True), args, config, [splits["train"]], training.Progress(), data.InputLog(0.0)
    for step, batch in enumerate(training.make_loader(*everything)):
        pixels = normalize(batch["pixel_values_videos"], processor.image_mean, processor.image_std)
        for name, run in runs.items():
            train_step(run, batch, pixels, step, options.health_steps)
            if step + 1 in looks:
                run.rows.append({"step": step + 1, "accuracy": accuracy(run, labels, options.draws, judged)})
                print(name, run.rows[-1], flush=True)
    return {name: run.rows for name, run in runs.items()}


def alarms_of(row: dict[str, Any], warmup_steps: int) -> list[str]:
    """Names of the alarms that a health row raises."""
    return [alarm.split(":")[0] for alarm in diagnostics.alarms(row, row["step"] > warmup_steps)]


def main() -> None:
    """Train unless there is a log, then write the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("output/toy_videos"), help="toy set, made if missing")
    parser.add_argument("--log", type=Path, default=Path("output/collapse.json"), help="drawn if it is there")
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
        options.log.write_text(json.dumps(train(options)))
    print(options.log)


if __name__ == "__main__":
    main()
