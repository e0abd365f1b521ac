"""Does pretraining on the toy set teach what a frozen encoder is asked for? Probes beside those of an untrained one.

    python benchmarks/toy_learning.py --output benchmarks/results/toy_learning.md

Each seed is a run of examples/pretrain.py with its default configuration, made if it is missing. Untrained means the
same encoder before its first step: the same configuration and the same seed. The label that the set is built for is
motion.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import Accelerator

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.data.sources import load_videos
from vjepa_hf.evaluation.probes import few_label_accuracy

transformers.utils.logging.disable_progress_bar()
HERE = Path(__file__).parent
LABELS = ("motion", "appearance")


def pretrain(folder: Path, seed: int) -> None:
    """The run of a seed, unless it is there."""
    if not (folder / "curves.png").exists():
        command = [
            "accelerate.commands.launch",
            HERE.parent / "examples" / "pretrain.py",
            "--output_dir",
            folder,
            "--seed",
            seed,
        ]
        subprocess.run([sys.executable, "-m", *map(str, command)], check=True)


def encoders(folder: Path, seed: int) -> list[VJEPAModel]:
    """The encoder of a run, and the one it started from."""
    torch.manual_seed(seed)
    return [VJEPAModel.from_pretrained(folder), VJEPAForPreTraining(VJEPAConfig.from_pretrained(folder)).vjepa]


def new_heads(config: VJEPAConfig, num_labels: int, draws: int) -> list[VJEPAForVideoClassification]:
    """Untrained probes, each from a seed of its own."""
    heads = []
    for seed in range(draws):
        torch.manual_seed(seed)
        heads.append(VJEPAForVideoClassification(VJEPAConfig(**config.to_diff_dict() | {"num_labels": num_labels})))
    return heads


def main() -> None:
    """Pretrain what is missing, probe, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the runs")
    parser.add_argument("--runs", type=Path, default=Path("output/toy_learning"), help="folder of the runs")
    parser.add_argument("--videos", type=Path, default=Path("output/toy_videos"), help="toy set")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--labels-per-class", type=int, default=8, help="training videos of a class")
    parser.add_argument("--draws", type=int, default=4, help="probes of an encoder, each with other labels")
    parser.add_argument("--epochs", type=int, default=80, help="passes of a probe over its few videos")
    options = parser.parse_args()

    for seed in options.seeds:
        pretrain(options.runs / f"seed{seed}", seed)
    splits = {split: load_videos(options.videos / f"{split}.csv") for split in ("train", "test")}
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    accuracies, rows = [], []
    for seed in options.seeds:
        folder = options.runs / f"seed{seed}"
        processor = VJEPAVideoProcessor.from_pretrained(folder)
        scores = []
        for label in LABELS:
            for model in encoders(folder, seed):
                heads = new_heads(model.config, len(set(splits["train"][label])), options.draws)
                judged = model, processor, splits, label, options.labels_per_class
                scores.append(few_label_accuracy(accelerator, *judged, heads, options.epochs))
        accuracies.append(scores)
        rows.append([seed, *(f"{score:.3f}" for score in scores)])
        print(*rows[-1], flush=True)
    means = np.mean(accuracies, axis=0)
    rows.append(["mean", *(f"{score:.3f}" for score in means)])
    gains = [100 * (means[2 * place] - means[2 * place + 1]) for place in range(len(LABELS))]
    gained = " and ".join(f"{gain:.1f} points on {label}" for gain, label in zip(gains, LABELS, strict=True))
    columns = [f"{label}, {kind}" for label in LABELS for kind in ("pretrained", "untrained")]
    lines = opening("What pretraining on the toy set teaches", __file__, __doc__)
    lines += [
        f"Test accuracy of an attentive probe, {options.labels_per_class} labels a class, {options.epochs} epochs, "
        f"mean of {options.draws} draws of the labels, {len(splits['test'])} test videos, chance 0.125. Pretraining "
        f"gains {gained}.",
        "",
    ]
    publish(lines + table(["seed", *columns], rows), options.output)


if __name__ == "__main__":
    main()
