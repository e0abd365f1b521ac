"""How long the masks of a batch take, beside those of Meta's code.

    python benchmarks/mask_sampling.py --reference PATH_TO_JEPA --output benchmarks/results/mask_sampling.md

24 clips on a grid of 8 x 14 x 14 tokens, the two mask kinds of the published runs, one thread. Ours are a function of
(seed, epoch, sample id) of each clip. Both are timed by turns, so that a slower moment of the machine hits both.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from report import opening, publish, table
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler

NUM_CLIPS, GRID = 24, (8, 14, 14)


def reference_masks(checkout: Path) -> Callable[[], Any]:
    """The masks of a batch as Meta's mask generators draw them, without its collation of frames."""
    sys.path.insert(0, str(checkout))
    from src.masks.multiblock3d import _MaskGenerator

    options = {"crop_size": (224, 224), "num_frames": 16, "spatial_patch_size": 16, "temporal_patch_size": 2}
    options |= {"aspect_ratio": (0.75, 1.5), "temporal_pred_mask_scale": (1.0, 1.0)}
    generators = [
        _MaskGenerator(spatial_pred_mask_scale=(scale, scale), npred=num_blocks, **options)
        for num_blocks, scale in ((8, 0.15), (2, 0.7))
    ]
    return lambda: [generator(NUM_CLIPS) for generator in generators]


def our_masks(mode: str, group_size: int = NUM_CLIPS) -> Callable[[], Any]:
    """The masks of a batch, other clips each time, whose lists are cut over a group of clips."""
    sampler = MaskSampler([SHORT_RANGE, LONG_RANGE], GRID, seed=0, mode=mode)
    batches = iter(range(1 << 30))

    def draw() -> Any:
        first = next(batches) * group_size
        group = [(0, first + place) for place in range(group_size)]
        return sampler(group[:NUM_CLIPS], group)

    return draw


def medians(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each way: median, and the quarter that is slower than the rest begins at."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 5):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if repeat >= 5:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: (float(np.median(taken)), float(np.quantile(taken, 0.75))) for name, taken in times.items()}


def main() -> None:
    """Time, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of facebookresearch/jepa")
    parser.add_argument("--repeats", type=int, default=200, help="batches of each way")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"reference": reference_masks(options.reference)} if options.reference else {}
    ways |= {"ours": our_masks("subsample"), "ours, cut as the reference": our_masks("reference")}
    ways |= {"ours, one length over 96 clips": our_masks("subsample", 96)}
    figures = medians(ways, options.repeats)
    base = figures.get("reference", figures["ours"])[0]
    against = "reference" if options.reference else "first"
    lines = opening("Masks of a batch", __file__, __doc__, f"numpy {np.__version__}, {options.repeats} batches each")
    lines += table(
        [f"masks of {NUM_CLIPS} clips, both kinds", "ms, median", "upper quartile", f"over the {against}"],
        [(name, f"{m:.2f}", f"{q:.2f}", f"{m / base:.2f}") for name, (m, q) in figures.items()],
    )
    publish(lines, options.output)


if __name__ == "__main__":
    main()
