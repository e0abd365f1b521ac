"""Convert checkpoints of the published sizes and run a clip: time, peak memory and numbers of weights.

    python benchmarks/full_size_checkpoints.py --output benchmarks/results/full_size_checkpoints.md

The weights are random float32, the files have Meta's layout (with the encoder twice and a predictor, as released, and
no optimizer state). Every step runs in a process of its own, so that its peak memory is its own. Numbers of weights
are without position tables; encoder and target encoder have the same. Needs about 6 GiB of disk and memory for ViT-H.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

from report import opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAModel
from vjepa_hf.conversion.meta import convert, to_meta

transformers.utils.logging.disable_progress_bar()
CONFIGS = {
    "vitl16": VJEPAConfig(),
    "vith16": VJEPAConfig(hidden_size=1280, num_hidden_layers=32),
    "vith16-384": VJEPAConfig(hidden_size=1280, num_hidden_layers=32, image_size=384),
}


def write(name: str, folder: Path) -> str:
    """Random weights of a published size in a file of Meta's layout."""
    with torch.device("meta"):
        parts = to_meta(VJEPAForPreTraining(CONFIGS[name]).state_dict())
    tables = VJEPAModel(
        VJEPAConfig(**CONFIGS[name].to_diff_dict() | {"num_hidden_layers": 1, "pred_num_hidden_layers": 1})
    )
    tables = to_meta({f"vjepa.{key}": value for key, value in tables.state_dict().items()})
    noise = 0.02 * torch.randn(2**20)
    content = {}
    for part, state in parts.items():
        stored = tables["predictor" if part == "predictor" else "target_encoder"]
        content[part] = {
            f"module.backbone.{key}": stored[key] if key.endswith("pos_embed") else tiled(noise, value.shape)
            for key, value in state.items()
        }
    torch.save(content | {"opt": None, "epoch": 300}, folder / "checkpoint.pth.tar")
    return f"{(folder / 'checkpoint.pth.tar').stat().st_size / 2**30:.2f} GiB"


def tiled(noise: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The same random numbers again and again: drawing a billion of them would be most of the time."""
    return noise.repeat(-(-shape.numel() // len(noise)))[: shape.numel()].reshape(shape).clone()


def convert_file(name: str, folder: Path) -> str:
    """Through the converter; the report has the numbers of weights."""
    report = convert(folder / "checkpoint.pth.tar", folder / "model")
    return f"encoder {report.parts['encoder']:,}, predictor {report.parts['predictor']:,}"


@torch.no_grad()
def run_clip(name: str, folder: Path) -> str:
    """Features of one clip from the converted folder."""
    model = VJEPAModel.from_pretrained(folder / "model").eval()
    side = model.config.image_size
    features = model(torch.randn(1, model.config.num_frames, 3, side, side)).last_hidden_state
    assert features.isfinite().all()
    return f"features {tuple(features.shape)}"


STEPS = {"write": write, "convert": convert_file, "load, run a clip": run_clip}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--output", type=Path, help="Markdown file to write as well")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)  # how this script calls itself
    args = parser.parse_args()
    if args.step:
        name, step, folder = args.step
        started = time.perf_counter()
        result = STEPS[step](name, Path(folder))
        # Peak of this process, KiB on Linux; pages of a mapped file that the system may drop again count as well.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {name} | {step} | {time.perf_counter() - started:.1f} s | {peak:.1f} GiB | {result} |")
        return
    lines = opening("Checkpoints of the published sizes", __file__, __doc__)
    lines += table(["model", "step", "time", "peak memory", "result"], [])
    publish(lines, args.output)
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            for step in STEPS:
                command = [sys.executable, __file__, "--step", name, step, folder]
                lines.append(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
                publish(lines, args.output)  # after every step: the large ones take long


if __name__ == "__main__":
    main()
