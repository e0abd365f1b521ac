"""The two kernels of a step alone, products and attention, at the sizes of a ViT-S/16: what a step could reach.

    python benchmarks/kernel_rates.py --output benchmarks/results/kernel_rates.md

Products are those of `--num_clips` clips of 1504 tokens of width 384 (a long-range mask of a 16 x 224 x 224 clip), by
PyTorch's own choice of library and by oneDNN; attention is torch.nn.functional.scaled_dot_product_attention over the
same tokens. All take turns; the median over rounds counts. Rates are of the operations that the mathematics needs, so
a backward pass of attention, which computes its scores again, can reach four fifths of what its products run at.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from report import opening, publish, table
from vjepa_hf.model.linear import onednn_linear
from vjepa_hf.training.flops import attention_flops

TOKENS, WIDTH = 1504, 384
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def products(num_clips: int, device: str, dtype: torch.dtype) -> dict[str, tuple[float, Callable]]:
    """Operations and call of the products of a layer's MLP: forward, gradient of the input, gradient of the weight."""
    generator = torch.Generator(device).manual_seed(0)
    rows = num_clips * TOKENS
    shapes = (rows, WIDTH), (4 * WIDTH, WIDTH), (rows, 4 * WIDTH)
    tokens, weight, gradient = (torch.randn(s, generator=generator, device=device).to(dtype) for s in shapes)
    flops = 2 * rows * WIDTH * 4 * WIDTH
    calls = {
        "product": (flops, lambda: linear(tokens, weight)),
        "product, gradient of tokens": (flops, lambda: gradient @ weight),
        "product, gradient of weights": (flops, lambda: gradient.T @ tokens),
    }
    if device == "cpu" and dtype == torch.float32:
        calls["product by oneDNN"] = flops, lambda: onednn_linear(tokens, weight, None)
        calls["product by oneDNN, gradient of tokens"] = flops, lambda: onednn_linear(gradient, weight.T, None)
        calls["product by oneDNN, gradient of weights"] = flops, lambda: onednn_linear(gradient.T, tokens.T, None)
    return calls


def attention(num_clips: int, device: str, dtype: torch.dtype, size: int, padded: int) -> dict:
    """Operations and call of attention with heads of a size, filled with zeros to another."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (num_clips, TOKENS, 3 * WIDTH)
    qkv = torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_()

    def forward() -> torch.Tensor:
        parts = (part.transpose(1, 2) for part in qkv.unflatten(-1, (3, -1, size)).unbind(2))
        if padded != size:
            parts = (pad(part, (0, padded - size)) for part in parts)
        return scaled_dot_product_attention(*parts, scale=size**-0.5)[..., :size]

    output = forward()
    gradient = torch.ones_like(output)
    flops = num_clips * attention_flops(TOKENS, TOKENS, WIDTH)
    name = f"attention, heads of {size}" + (f" filled to {padded}" if padded != size else "")
    return {
        name: (flops, torch.no_grad()(forward)),
        f"{name}, backward": (2 * flops, lambda: torch.autograd.grad(output, qkv, gradient, retain_graph=True)),
    }


def rates(calls: dict[str, tuple[float, Callable]], rounds: int, device: str, clock: Callable) -> dict[str, float]:
    """Operations a second of every call, median over rounds in which all take turns."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, (_, call) in calls.items():
            if device != "cpu":
                torch.accelerator.synchronize()
            began = clock()
            call()
            if device != "cpu":
                torch.accelerator.synchronize()
            seconds[name].append(clock() - began)
    return {name: flops / statistics.median(seconds[name][1:]) for name, (flops, _) in calls.items()}


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_clips", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.device == "cpu" and options.threads == 1 else time.perf_counter
    rows = []
    for name, dtype in DTYPES.items():
        setting = options.num_clips, options.device, dtype
        calls = products(*setting)
        for size, padded in ((64, 64), (32, 32), (32, 64)):
            calls |= attention(*setting, size, padded)
        found = rates(calls, options.rounds, options.device, clock)
        best = max(found.values())
        rows += [[kernel, name, f"{rate / 1e9:.0f}", f"{rate / best:.0%}"] for kernel, rate in found.items()]
    lines = opening("Kernels of a step", __file__, __doc__, f"{options.num_clips} clips, {options.rounds} rounds")
    publish([*lines, *table(["kernel", "arithmetic", "GFLOP/s", "share of the fastest"], rows)], options.output)


if __name__ == "__main__":
    main()
