"""Features of clips: our encoder beside that of transformers' V-JEPA 2, of equal width, layers and number of tokens.

    python benchmarks/inference.py --output benchmarks/results/inference.md

Random weights, clips of noise on the device, no gradients; neither model runs a predictor. They take turns, so that a
slower moment of the machine hits both. V-JEPA 2 turns queries and keys by their positions in every layer where V-JEPA
adds a table once, so the features differ and only the work is compared. "Compiled" is torch.compile over every
transformer layer, the same for both. A ratio is V-JEPA 2's time over ours in the same round: median and quartiles.
With one CPU thread, seconds are those of the processor, which other work does not lengthen.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import VJEPA2Config, VJEPA2Model

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAModel
from vjepa_hf.training.flops import encoder_flops, matmul_rate

# Width, layers and heads.
MODELS = {"ViT-S": (384, 12, 6), "ViT-B": (768, 12, 12), "ViT-L": (1024, 24, 16)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_models(model: str, num_frames: int, image_size: int, dtype: torch.dtype, device: str, compiled: bool):
    """Theirs and ours, and the configuration of ours."""
    width, layers, heads = MODELS[model]
    shared = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    shared |= {"crop_size": image_size, "frames_per_clip": num_frames, "patch_size": 16, "tubelet_size": 2}
    config = VJEPAConfig(**shared)
    theirs, ours = VJEPA2Model(VJEPA2Config(**shared)), VJEPAModel(config, add_predictor=False)
    if compiled:
        for layer in (*theirs.encoder.layer, *ours.encoder.layers):
            layer.compile()
    models = (model.eval().to(device, dtype) for model in (theirs, ours))
    return *models, config


@torch.inference_mode()
def seconds(call, device: str, clock) -> float:
    """One call, waited for."""
    if device != "cpu":
        torch.accelerator.synchronize()
    began = clock()
    call()
    if device != "cpu":
        torch.accelerator.synchronize()
    return clock() - began


def measure(name: str, precision: str, compiled: bool, options: argparse.Namespace) -> list[str]:
    """A row of the table."""
    dtype, device = DTYPES[precision], options.device
    theirs, ours, config = make_models(name, options.num_frames, options.image_size, dtype, device, compiled)
    shape = (options.num_clips, options.num_frames, 3, options.image_size, options.image_size)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    calls = (lambda: theirs(clips, skip_predictor=True)), (lambda: ours(clips))
    clock = time.process_time if device == "cpu" and options.threads == 1 else time.perf_counter
    rounds = [[seconds(call, device, clock) for call in calls] for _ in range(options.rounds + 2)][2:]
    ceiling = matmul_rate(device, dtype, clock=clock)
    middle = [statistics.median(times) for times in zip(*rounds, strict=True)]
    low, ratio, high = statistics.quantiles([first / second for first, second in rounds], n=4, method="inclusive")
    share = encoder_flops(config) * options.num_clips / middle[1] / ceiling
    print(f"{name} {precision} compiled={compiled}: {middle}", file=sys.stderr, flush=True)
    row = [name, precision, "yes" if compiled else "no", *(f"{value:.3f}" for value in middle)]
    return [*row, f"{ratio:.2f} ({low:.2f} to {high:.2f})", f"{options.num_clips / middle[1]:.2f}", f"{share:.0%}"]


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["ViT-S"])
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--num_clips", type=int, default=1)
    parser.add_argument("--num_frames", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = opening(
        "Inference beside transformers' V-JEPA 2",
        __file__,
        __doc__,
        f"transformers {transformers.__version__}",
        f"{options.num_clips} clip(s) of {options.num_frames} x {options.image_size} x {options.image_size}",
        f"{options.rounds} rounds",
        f"load {os.getloadavg()[0]:.1f}",
    )
    rows = [
        measure(model, precision, compiled, options)
        for model in options.models
        for precision in options.precisions
        for compiled in (False, True)
    ]
    header = [
        "encoder", "arithmetic", "compiled", "V-JEPA 2, s", "ours, s", "V-JEPA 2 / ours", "our clips / s",
        "our share of the matmul rate",
    ]  # fmt: skip
    publish([*lines, *table(header, rows)], options.output)


if __name__ == "__main__":
    main()
