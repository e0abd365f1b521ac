"""What does the health line cost? A training step beside the health line that looks at what it gave.

    python benchmarks/health_cost.py --output benchmarks/results/health_cost.md

A step is forward, backward, clipping, optimizer and average; after each, `diagnostics.health` and its alarms are timed
by themselves. Medians over the turns, on a CPU of the processor's time, so that other programs do not count. The share
is that of one health line in all the steps up to it, at the default `health_steps` and without time for data. Small
batches are the worst case: the figures look at a fixed number of tokens, whatever the batch.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from report import opening, publish, table
from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.training import diagnostics
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import PretrainingArguments, RunArguments, parse_arguments
from vjepa_hf.training.optimization import clip_gradients, make_optimizer

EXAMPLES = Path(__file__).parent.parent / "examples"
CONFIGS = EXAMPLES / "configs"
VIT_S = "--hidden_size 384 --num_hidden_layers 12 --num_attention_heads 6 --per_device_batch_size 2".split()
MODELS = {
    "toy, 8 frames of 32 x 32": ([], CONFIGS / "tiny_cpu.yaml"),
    "ViT-S/16, 16 frames of 224 x 224": (VIT_S, CONFIGS / "vitl16.yaml"),
}


def parts(args: PretrainingArguments, device: torch.device) -> tuple[Callable[[], object], Callable[[object], object]]:
    """A training step, and the health line of what a step gave."""
    torch.manual_seed(0)
    config = training.model_config(args.model, num_mask_kinds=len(args.masks.mask_num_blocks))
    model = VJEPAForPreTraining(config).to(device)
    optimizer = make_optimizer(model, args.optimization)
    keys = [(0, sample) for sample in range(args.optimization.per_device_batch_size)]
    masks = training.mask_sampler(args.masks, config.grid_size, seed=0)(keys)
    masks = [[mask.to(device) for mask in kinds] for kinds in masks]
    pixels = torch.randn(len(keys), config.num_frames, 3, *args.model.frame_size, device=device)

    def step() -> object:
        outputs = model(pixels, *masks)
        outputs.loss.backward()
        clip_gradients(model, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(0.998)
        return outputs

    return step, lambda outputs: diagnostics.alarms(diagnostics.health(model, outputs, *masks))


def timed(device: torch.device, call: Callable[..., object], *arguments: object) -> tuple[float, object]:
    """How long a call takes, with all that it started on a GPU, and what it gave."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    result = call(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began, result


def main() -> None:
    """Measure every model, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="steps that are measured, after one that is not")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    every = RunArguments().health_steps

    rows = []
    for name, (words, config) in MODELS.items():
        args = parse_arguments(words, default_config=config)
        step, look = parts(args, device)
        turns = []
        for _ in range(options.turns + 1):
            seconds, outputs = timed(device, step)
            turns.append((seconds, timed(device, look, outputs)[0]))
        plain, health = (statistics.median(times) for times in zip(*turns[1:], strict=True))
        size = args.optimization.per_device_batch_size
        rows.append((name, size, f"{plain:.3f}", f"{health:.3f}", f"{health / (every * plain + health):.3%}"))
    header = ("model", "batch", "step, s", "health line, s", f"share, every {every} steps")
    publish(opening("What the health line costs", __file__, __doc__) + table(header, rows), options.output)


if __name__ == "__main__":
    main()
