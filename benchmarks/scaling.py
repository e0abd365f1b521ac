"""How a training step grows with clips, frames, resolution, model and processes, and what the published recipe needs.

    python benchmarks/scaling.py --output benchmarks/results/scaling.md
    python benchmarks/scaling.py --plan --output benchmarks/results/recipe_on_machines.md

Measured without --plan: steps of ours on noise with masks of the published kinds, each row in processes of its own
that share the cores: seconds a step, median, and the peak of memory beyond what the process held before it built the
model. Counted: the operations of a clip (vjepa_hf.flops). "Share" is these over time and over the rate of matrix
products measured after each step in the same process, medians. With --plan, what a step keeps: weights, gradients,
AdamW's moments, the target encoder and bf16 copies of the weights, counted; and by how much the memory of a bf16
forward pass, with all that it keeps for the backward pass, grows with a clip, measured where this was run. Then, for
machines that were not measured: the largest batch for which nine tenths of the memory hold both, the accumulation
that makes the clips of a published step, and days for all steps at an assumed share of the maker's dense bf16 rate.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler
from vjepa_hf.training.arguments import OptimizationArguments
from vjepa_hf.training.flops import clip_flops, matmul_rate
from vjepa_hf.training.log import memory_gib
from vjepa_hf.training.optimization import clip_gradients, make_optimizer

# Width, layers, heads.
MODELS = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "H": (1280, 32, 16)}
GROUP = 24  # clips over which lists of tokens are cut to one length, as published
GIB = 2**30


@dataclass(frozen=True)
class Setting:
    """One row: a model, its clips, and the processes that share a step."""

    model: str = "S"
    clips: int = 2
    frames: int = 16
    pixels: int = 224
    processes: int = 1
    bf16: bool = False

    @property
    def config(self) -> VJEPAConfig:
        width, layers, heads = MODELS[self.model]
        return VJEPAConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=self.pixels,
            num_frames=self.frames,
        )

    def masks(self, step: int, first: int, clips: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Context and target masks of some clips of a step, cut to one length over a group of the published size."""
        sampler = MaskSampler([SHORT_RANGE, LONG_RANGE], self.config.grid_size, seed=0)
        group = [(0, step * GROUP + clip) for clip in range(GROUP)]
        return sampler(group[first : first + clips], group)

    def clip_flops(self) -> float:
        """Operations of a clip, mean over some groups of masks."""
        counted = []
        for step in range(20):
            context, target = self.masks(step, 0, 1)
            tokens = [mask.shape[1] for mask in context], [mask.shape[1] for mask in target]
            counted.append(clip_flops(self.config, *tokens).total)
        return statistics.mean(counted)


# What varies, one thing at a time, from a ViT-S/16 with two clips of 16 x 224 x 224 in one process.
ROWS = [
    *(Setting(clips=clips) for clips in (1, 2, 4)),
    *(Setting(frames=frames) for frames in (32, 64)),
    *(Setting(pixels=pixels) for pixels in (288, 384)),
    *(Setting(model=model) for model in ("B", "L", "H")),
    Setting(clips=4, processes=2),
]


def measure(setting: Setting, num_steps: int) -> dict[str, float]:
    """Steps of this process: median seconds of one, peak GiB beyond the start, and the rate of matrix products.

    One more step warms up; without any other it ends with the forward pass.
    """
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(), mixed_precision="bf16" if setting.bf16 else "no"
    )
    before = memory_gib(accelerator.device)
    torch.manual_seed(0)
    model = VJEPAForPreTraining(setting.config)
    optimizer = make_optimizer(model, OptimizationArguments(max_steps=1000, warmup_steps=0))
    model, optimizer = accelerator.prepare(model, optimizer)
    share = setting.clips // setting.processes
    shape = (share, setting.frames, 3, setting.pixels, setting.pixels)
    clips = torch.randn(shape, device=accelerator.device)
    seconds, rates = [], []
    for step in range(num_steps + 1):
        masks = setting.masks(step, share * accelerator.process_index, share)
        masks = [[mask.to(accelerator.device) for mask in kind] for kind in masks]
        accelerator.wait_for_everyone()
        began = time.perf_counter()
        loss = model(clips, *masks).loss
        if num_steps:
            accelerator.backward(loss)
            clip_gradients(accelerator.unwrap_model(model), 10.0)
            optimizer.step()
            optimizer.zero_grad()
            accelerator.unwrap_model(model).update_target_encoder(0.998)
        loss.item()
        seconds.append(time.perf_counter() - began)
        rates.append(matmul_rate(accelerator.device, torch.bfloat16 if setting.bf16 else torch.float32))
    return {
        "seconds": statistics.median(seconds[1:] or seconds),  # the first one fills caches
        "memory": memory_gib(accelerator.device) - before,
        "rate": statistics.median(rates),
    }


def bytes_a_clip(setting: Setting) -> float:
    """By how much a bf16 forward pass, with what it keeps for the backward pass, grows with a clip."""
    one, three = (run(dataclasses.replace(setting, clips=clips, bf16=True), 0)["memory"] for clips in (1, 3))
    return (three - one) / 2 * GIB


def fixed_bytes(config: VJEPAConfig) -> int:
    """Weights, gradients and two moments of what is trained, the target encoder, and bf16 copies of all weights."""
    with torch.device("meta"):
        model = VJEPAForPreTraining(config)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    target = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    return (4 * 4 + 2) * trained + (4 + 2) * target


def run(setting: Setting, num_steps: int) -> dict[str, float]:
    """The figures of a row, from processes of its own; of several processes the slowest and the largest."""
    threads = max(1, (os.cpu_count() or 1) // setting.processes)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(setting.processes)]
    words = [__file__, "--setting", json.dumps(dataclasses.asdict(setting)), "--steps", str(num_steps)]
    command = [sys.executable, *(launcher if setting.processes > 1 else []), *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {name: max(figures[name] for figures in found) for name in found[0]}


# --- the plan ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """GPUs of a kind: how many, GiB of each, and the maker's dense bf16 rate of each in TFLOP/s."""

    name: str
    gpus: int
    memory: int
    rate: float


MACHINES = [
    Machine("1 x 24 GB (RTX 4090)", 1, 24, 165),
    Machine("1 x 80 GB (A100)", 1, 80, 312),
    Machine("1 x 141 GB (H200)", 1, 141, 989),
    Machine("8 x 80 GB (H100)", 8, 80, 989),
]
# Clips of a step and steps as published.
RECIPES = {
    "ViT-L/16": (Setting("L", 1), 3072, 90_000),
    "ViT-H/16": (Setting("H", 1), 3072, 90_000),
    "ViT-H/16, 384": (Setting("H", 1, pixels=384), 2400, 90_000),
}


def plan(
    machine: Machine, fixed: int, per_clip: float, flops: float, clips: int, steps: int, share: float
) -> tuple[str, str, str]:
    """(largest batch of a GPU, accumulation, days); a batch divides the clips of a step, so the last one is full."""
    room = 0.9 * machine.memory * 1e9 - fixed
    largest = math.floor(room / per_clip)
    if largest < 1:
        return "does not fit", "", ""
    each = clips // machine.gpus
    batch = max(size for size in range(1, min(largest, each) + 1) if each % size == 0)
    days = clips * steps * flops / (machine.gpus * machine.rate * 1e12 * share) / 86_400
    return str(batch), str(each // batch), f"{days:.0f}"


def measured_rows(settings: Sequence[Setting], num_steps: int) -> Iterator[list[str]]:
    """Rows of the first table as they come."""
    for setting in settings:
        figures = run(setting, num_steps)
        flops = setting.clip_flops()
        share = flops * setting.clips / setting.processes / figures["seconds"] / figures["rate"]
        yield [
            f"ViT-{setting.model}/16",
            f"{setting.clips} x {setting.frames} x {setting.pixels} x {setting.pixels}",
            str(setting.processes),
            f"{flops / 1e12:.2f}",
            f"{figures['seconds']:.1f}",
            f"{figures['seconds'] / setting.clips:.1f}",
            f"{share:.0%}",
            f"{figures['memory']:.1f}",
        ]


def main() -> None:
    """Measure or plan, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each row, after one to warm up")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="models that are measured")
    parser.add_argument("--bf16", action="store_true", help="measure with bf16 products")
    parser.add_argument("--plan", action="store_true", help="what the published recipe needs, instead")
    parser.add_argument("--share", type=float, default=0.35, help="of the maker's rate, for the plan")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.setting:
        setting = Setting(**json.loads(options.setting))
        print(json.dumps(measure(setting, options.steps)))
        return

    publish_plan(options) if options.plan else publish_measured(options)


def publish_measured(options: argparse.Namespace) -> None:
    """The page of what was measured, written after every row: the large ones take long."""
    arithmetic = "bf16 products" if options.bf16 else "float32"
    header = ["model", "clips x frames x pixels", "processes", "TFLOP a clip", "s a step", "s a clip", "share", "GiB"]
    lines = [*opening("How training grows", __file__, __doc__, arithmetic), *table(header, [])]
    settings = [dataclasses.replace(row, bf16=options.bf16) for row in ROWS if row.model in options.models]
    for row in measured_rows(settings, options.steps):
        lines += table(row, [])[:1]
        publish(lines, options.output)


def publish_plan(options: argparse.Namespace) -> None:
    """The page of what the published recipe needs."""
    kept, planned = [], []
    for name, (setting, clips, steps) in RECIPES.items():
        fixed, per_clip, flops = fixed_bytes(setting.config), bytes_a_clip(setting), setting.clip_flops()
        kept.append([name, f"{flops / 1e12:.2f}", f"{fixed / GIB:.1f}", f"{per_clip / GIB:.2f}"])
        for machine in MACHINES:
            figures = plan(machine, fixed, per_clip, flops, clips, steps, options.share)
            planned.append([name, machine.name, *figures])
    lines = [*opening("The published recipe on machines", __file__, __doc__), "## What a step keeps", ""]
    lines += table(["model", "TFLOP a clip, counted", "GiB fixed, counted", "GiB a clip, measured"], kept)
    lines += ["", f"## Planned at {options.share:.0%} of the maker's rate", ""]
    lines += table(["model", "machine", "clips of a GPU", "accumulation", "days"], planned)
    publish(lines, options.output)


if __name__ == "__main__":
    main()
