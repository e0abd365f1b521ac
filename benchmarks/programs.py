"""The example programs as benchmarks run them, and the inner loop of pretraining. Imported by the scripts, not run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from report import HERE
from vjepa_hf import VJEPAForPreTraining

EXAMPLES = HERE.parent / "examples"


def run_example(name: str, *words: object, **options: object) -> None:
    """Run a program of `examples/` with options `--name value`; its output is shown only if it fails.

    Raises:
        RuntimeError: the program failed.
    """
    pairs = [word for option, value in options.items() for word in (f"--{option}", value)]
    command = [sys.executable, EXAMPLES / f"{name}.py", *words, *pairs]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")


def make_toy_videos(folder: Path) -> None:
    """Make the toy set in a folder unless it is there."""
    if not (folder / "train.csv").exists():
        run_example("make_toy_videos", output_dir=folder)


def pretrain(folder: Path, videos: Path, seed: int, **options: object) -> None:
    """Pretrain on the toy set with the default configuration, unless the run is complete."""
    if not (folder / "curves.png").exists():
        run_example("pretrain", videos=videos / "train.csv", output_dir=folder, seed=seed, **options)


def pretrained(runs: Path, videos: Path, seed: int, steps: int | None) -> Path:
    """Return the folder of the pretraining run of a seed, which is made if it is missing; `steps` cuts it short."""
    make_toy_videos(videos)
    folder = runs / f"seed{seed}"
    shorter = {} if steps is None else {"max_steps": steps, "warmup_steps": min(200, steps)}
    pretrain(folder, videos, seed, **shorter)
    return folder


def probe(model: Path, videos: Path, output: Path, *words: object, **options: object) -> dict[str, Any]:
    """Train and test attentive probes on the toy set; return the result that `examples/probe.py` writes."""
    sources = {"model": model, "train_videos": videos / "train.csv", "test_videos": videos / "test.csv"}
    run_example("probe", *words, output_dir=output, **sources, **options)
    return json.loads((output / "result.json").read_text())


def few_label_accuracy(model: Path, videos: Path, output: Path, *words: object, **options: object) -> float:
    """Return the mean test accuracy of attentive probes over draws of 8 labels a class, `splits` of them."""
    (summary,) = probe(model, videos, output, *words, labels_per_class=8, **options)["summary"].values()
    return summary["mean"]


def backward(
    model: VJEPAForPreTraining, pixels: torch.Tensor, masks: tuple[list, list], bf16: bool = False
) -> list[Any]:
    """Run forward and backward passes as `examples/pretrain.py` does, one mask type after the other.

    Args:
        model: whose gradients add up.
        pixels: clips `(B, T, C, H, W)` on the device.
        masks: context and target masks on the device, a list of mask types each.
        bf16: whether the forward passes are in bfloat16.

    Returns:
        The outputs of the model for each mask type.
    """
    outputs, target_hidden_state = [], None
    for index, (context_mask, target_mask) in enumerate(zip(*masks, strict=True)):
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            output = model(pixels, [context_mask], [target_mask], [index], target_hidden_state)
        (output.loss / len(masks[0])).backward()
        target_hidden_state = output.target_hidden_state
        outputs.append(output)
    return outputs
