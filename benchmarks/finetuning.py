"""What fine-tuning reaches on the toy set: four ways to train, from a pretrained and from an untrained encoder.

    python benchmarks/finetuning.py --model output/pretrain --videos output/toy_videos --output FILE.md

Every row is one run of examples/finetune.py with its own options, equal number of epochs and labels for all, on the
label `motion`, which no single frame tells. The accuracy is that of all test videos. The untrained encoder has the
same configuration and random weights.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import peft
import torch
import transformers

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAModel, VJEPAVideoProcessor

EXAMPLE = Path(__file__).parent.parent / "examples" / "finetune.py"
WAYS = {
    "frozen encoder": ["--method", "frozen", "--learning_rate", "1e-3"],
    "LoRA, rank 8": ["--method", "lora", "--learning_rate", "1e-3"],
    "layer decay 0.75": ["--layer_decay", "0.75"],
    "all at one rate": [],
}


def labelled(videos: Path, labels_per_class: int, path: Path) -> Path:
    """A list of the first training videos of every motion."""
    with (videos / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [row for motion in sorted({row["motion"] for row in rows}) for row in of(rows, motion)[:labels_per_class]]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "motion"))
        writer.writerows((videos.resolve() / row["video"], row["motion"]) for row in chosen)
    return path


def of(rows: list[dict[str, str]], motion: str) -> list[dict[str, str]]:
    """The rows with this motion, in their order."""
    return [row for row in rows if row["motion"] == motion]


def untrained(model: str, folder: Path) -> Path:
    """A folder with the configuration of a model and random weights."""
    torch.manual_seed(0)
    VJEPAModel(VJEPAConfig.from_pretrained(model)).save_pretrained(folder)
    VJEPAVideoProcessor.from_pretrained(model).save_pretrained(folder)
    return folder


def main() -> None:
    """Run all, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/pretrain", help="folder of a pretrained toy model")
    parser.add_argument("--videos", type=Path, default=Path("output/toy_videos"), help="folder of the toy set")
    parser.add_argument("--labels-per-class", type=int, default=16, help="training videos of each motion")
    parser.add_argument("--epochs", type=int, default=20, help="of every run")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train = labelled(options.videos, options.labels_per_class, folder / "train.csv")
        encoders = {"pretrained": options.model, "untrained": untrained(options.model, folder / "untrained")}
        for way, words in WAYS.items():
            accuracies = []
            for encoder, model in encoders.items():
                output = folder / f"{encoder} {way}"
                command = [sys.executable, EXAMPLE, "--model", model, "--train_videos", train, "--label", "motion"]
                command += ["--test_videos", options.videos / "test.csv", "--output_dir", output, "--seed", "0"]
                command += ["--num_train_epochs", str(options.epochs), "--save_strategy", "no", *words]
                subprocess.run(list(map(str, command)), check=True, capture_output=True)
                result = json.loads((output / "result.json").read_text())
                accuracies.append(f"{result['test_top_1_accuracy']:.3f}")
            rows.append((way, " ".join(words) or "(as it is)", *accuracies))
            print(*rows[-1], flush=True)
    versions = f"transformers {transformers.__version__}", f"peft {peft.__version__}"
    lines = opening("Fine-tuning on the toy set", __file__, __doc__, *versions)
    lines += [f"{options.labels_per_class} labelled videos a class, {options.epochs} epochs; chance is 0.125.", ""]
    publish(lines + table(["way", "options", "pretrained", "untrained"], rows), options.output)


if __name__ == "__main__":
    main()
