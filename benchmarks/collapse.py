"""Train the naive objective beside the real one: does it collapse, and does the health line say so?

    python benchmarks/collapse.py --output benchmarks/results/collapse.md

Naive means that the target comes from the context encoder itself, with gradient, and nothing is averaged: predicting
features then has the trivial solution of features that are all alike. Both runs start from the same weights and see
the same clips, masks and learning rates, those of examples/configs/tiny_cpu.yaml.
"""

import argparse
import copy
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from transformers.utils import ModelOutput

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, data, diagnostics, training
from vjepa_hf.arguments import PretrainingArguments, parse_arguments
from vjepa_hf.evaluation import few_label_accuracy
from vjepa_hf.transforms import normalize

transformers.utils.logging.disable_progress_bar()
HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"


class NaivePreTraining(VJEPAForPreTraining):
    """The objective without stop-gradient and without averaging."""

    def encode_targets(self, tubelets: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Layer-normed features `(B, N, D)` of the context encoder, through which the gradient flows."""
        features = self.context_encoder(tubelets, grid).last_hidden_state
        return torch.nn.functional.layer_norm(features, features.shape[-1:])

    def update_target_encoder(self, momentum: float) -> None:
        """The target encoder is the context encoder, whatever momentum is asked for."""
        super().update_target_encoder(0.0)


@dataclass
class Run:
    """One objective: its model, its optimizer, and a row of figures for each time it was looked at."""

    name: str
    model: VJEPAForPreTraining
    optimizer: torch.optim.AdamW
    losses: list[float] = field(default_factory=list)
    rows: list[tuple] = field(default_factory=list)


def start(name: str, model_class: type[VJEPAForPreTraining], args: PretrainingArguments, config: VJEPAConfig) -> Run:
    """A run from the weights that the seed gives, the same for every objective."""
    torch.manual_seed(args.run.seed)
    model = model_class(copy.deepcopy(config))
    return Run(name, model, training.make_optimizer(model, args.optimization))


def train_step(run: Run, batch: dict, pixels: torch.Tensor, step: int, args: PretrainingArguments) -> ModelOutput:
    """One optimizer step as in examples/pretrain.py; what the model gave before it."""
    values = training.hyperparameters(step, args.optimization)
    training.set_hyperparameters(run.optimizer, values)
    outputs = run.model(pixels, batch["context_masks"], batch["target_masks"])
    outputs.loss.backward()
    training.clip_gradients(run.model, training.max_grad_norm(step, args.optimization))
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.model.update_target_encoder(values["ema_momentum"])
    run.losses.append(outputs.loss.item())
    return outputs


def main() -> None:
    """Train both, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("output/toy_videos"), help="toy set, made if missing")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--steps", type=int, help="optimizer steps; those of the configuration by default")
    parser.add_argument("--looks", type=int, default=6, help="times that features are judged on the way")
    parser.add_argument("--label", default="motion", help="column that the probe learns")
    parser.add_argument("--labels-per-class", type=int, default=8, help="training videos of a class")
    parser.add_argument("--draws", type=int, default=3, help="probes, each with other labels")
    options = parser.parse_args()

    args = parse_arguments([], default_config=EXAMPLES / "configs" / "tiny_cpu.yaml")
    if options.steps:
        warmup = min(args.optimization.warmup_steps, options.steps)
        args.optimization = replace(args.optimization, max_steps=options.steps, warmup_steps=warmup)
    torch.set_num_threads(args.run.cpu_threads or torch.get_num_threads())
    if not (options.videos / "train.csv").exists():
        subprocess.run([sys.executable, EXAMPLES / "make_toy_videos.py", options.videos], check=True)
    splits = {split: data.load_videos(options.videos / f"{split}.csv") for split in ("train", "test")}
    config = training.model_config(args.model, num_mask_kinds=len(args.masks.mask_num_blocks))
    processor = training.make_processor(config, args.data)
    runs = [start("V-JEPA", VJEPAForPreTraining, args, config), start("naive", NaivePreTraining, args, config)]

    num_labels = len(set(splits["train"][options.label]))
    probe_config = VJEPAConfig(**config.to_diff_dict() | {"num_labels": num_labels})

    began = time.time()
    accelerator = Accelerator(cpu=True)
    looks = set(np.linspace(0, args.optimization.max_steps, options.looks + 1).round().astype(int).tolist())
    everything = accelerator, args, config, [splits["train"]], training.Progress(), data.InputLog(0.0)
    for step, batch in enumerate(training.make_loader(*everything)):
        pixels = normalize(batch["pixel_values_videos"], processor.image_mean, processor.image_std)
        for run in runs:
            outputs = train_step(run, batch, pixels, step, args)
            if step + 1 in looks or step == 0:
                figures = diagnostics.health(outputs.predictions, outputs.targets)
                warnings = [warning.split(":")[0] for warning in diagnostics.alarms(figures)]
                heads = []
                for seed in range(options.draws):
                    torch.manual_seed(seed)
                    heads.append(VJEPAForVideoClassification(probe_config))
                judged = run.model.vjepa, processor, splits, options.label, options.labels_per_class
                score = few_label_accuracy(accelerator, *judged, heads)
                row = f"{np.mean(run.losses):.3f}", f"{figures['target_std']:.3f}", f"{figures['target_rank']:.1f}"
                row += f"{figures['loss_ratio']:.2f}", f"{score:.3f}", ", ".join(warnings) or "none"
                run.rows.append((run.name, step + 1, *row))
                run.losses.clear()
                run.model.train()
                print(*run.rows[-1], flush=True)

    took = f"{time.time() - began:.0f} s"
    lines = opening("The naive objective collapses, V-JEPA does not", __file__, __doc__, took)
    lines += [
        f"Accuracy: {options.label}, attentive probe, {options.labels_per_class} labels per class, mean of "
        f"{options.draws} draws of the labels, {len(splits['test'])} test videos. Figures are those of the health "
        "line: targets over tokens. The loss is the mean since the row before.",
        "",
    ]
    header = ["objective", "step", "loss", "target std", "target rank", "loss ratio", "accuracy", "warning"]
    publish(lines + table(header, (row for run in runs for row in run.rows)), options.output)


if __name__ == "__main__":
    main()
