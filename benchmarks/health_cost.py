"""What does the health line cost? A training step beside the same step with a health line after it.

    python benchmarks/health_cost.py --output benchmarks/results/health_cost.md

Both take turns in one run: forward, backward, clipping, optimizer and average, and then the same with
`diagnostics.health` on what the step gave. Medians over the turns. The share is the difference over the time of all
the steps from one health line to the next, at the default `health_steps` and without time for data. Small batches are
the worst case: the figures look at a fixed number of tokens, whatever the batch.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from report import opening, publish, table
from vjepa_hf import VJEPAForPreTraining, diagnostics, training
from vjepa_hf.arguments import PretrainingArguments, RunArguments, parse_arguments

EXAMPLES = Path(__file__).parent.parent / "examples"
CONFIGS = EXAMPLES / "configs"
VIT_S = "--hidden_size 384 --num_hidden_layers 12 --num_attention_heads 6 --per_device_batch_size 2".split()
MODELS = {
    "toy, 8 frames of 32 x 32": ([], CONFIGS / "tiny_cpu.yaml"),
    "ViT-S/16, 16 frames of 224 x 224": (VIT_S, CONFIGS / "vitl16.yaml"),
}


def steps(args: PretrainingArguments, device: torch.device) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step without, and with, a health line."""
    torch.manual_seed(0)
    config = training.model_config(args.model, num_mask_kinds=len(args.masks.mask_num_blocks))
    model = VJEPAForPreTraining(config).to(device)
    optimizer = training.make_optimizer(model, args.optimization)
    keys = [(0, sample) for sample in range(args.optimization.per_device_batch_size)]
    masks = training.mask_sampler(args.masks, config.grid_size, seed=0)(keys)
    masks = [[mask.to(device) for mask in kinds] for kinds in masks]
    pixels = torch.randn(len(keys), config.num_frames, 3, *args.model.frame_size, device=device)

    def plain():
        outputs = model(pixels, *masks)
        outputs.loss.backward()
        training.clip_gradients(model, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(0.998)
        return outputs

    def watched() -> None:
        figures = diagnostics.health(model, plain(), *masks)
        diagnostics.alarms(figures)

    return plain, watched


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, with all that it started on a GPU."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def main() -> None:
    """Measure every model, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7, help="times that each kind of step is measured")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    every = RunArguments().health_steps

    rows = []
    for name, (words, config) in MODELS.items():
        args = parse_arguments(words, default_config=config)
        calls = steps(args, device)
        for call in calls:
            seconds(call, device)  # allocations
        turns = [[seconds(call, device) for call in calls] for _ in range(options.turns)]
        plain, watched = (statistics.median(times) for times in zip(*turns, strict=True))
        share = (watched - plain) / (every * plain + watched - plain)
        size = args.optimization.per_device_batch_size
        rows.append((name, size, f"{plain:.3f}", f"{watched:.3f}", f"{watched - plain:.3f}", f"{share:.3%}"))
    header = ("model", "batch", "step, s", "step with health, s", "health, s", f"share, every {every} steps")
    publish(opening("What the health line costs", __file__, __doc__) + table(header, rows), options.output)


if __name__ == "__main__":
    main()
