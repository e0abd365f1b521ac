"""How many clips a second the loader gives, and how long a training step waits for it.

    python benchmarks/loader.py --videos FOLDER_OR_LIST --output benchmarks/results/loader.md

End to end: decode a random clip of 16 frames at step 4 of a real video, crop and resize to 224 x 224, flip, draw the
masks of both kinds, collate. With 1 and 2 workers, on the videos as they are and on copies as `vjepa-hf check-data
--shrink-to` makes them, and with four clips cut out of a video when it is open. The ways take turns, a few batches
each. Then ViT-S/16 takes optimizer steps on the CPU, on one thread, beside one worker.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from report import opening, publish, table
from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.data.checks import shrink_video
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.data.sources import Videos, load_videos
from vjepa_hf.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize
from vjepa_hf.training import setup as training
from vjepa_hf.training.arguments import PretrainingArguments, parse_arguments
from vjepa_hf.training.checkpoints import Progress
from vjepa_hf.training.log import Throughput
from vjepa_hf.training.optimization import make_optimizer

VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
BATCH = 8


def arguments(num_workers: int, batch_size: int = BATCH, clips_per_video: int = 1) -> PretrainingArguments:
    """The published settings of clips and masks."""
    args = parse_arguments(["--config", str(Path(__file__).parent.parent / "examples" / "configs" / "vitl16.yaml")])
    args.data = dataclasses.replace(args.data, num_workers=num_workers, clips_per_video=clips_per_video)
    args.masks = dataclasses.replace(args.masks, mask_group_size=None)
    args.model = dataclasses.replace(args.model, **VIT_S)
    args.optimization = dataclasses.replace(args.optimization, per_device_batch_size=batch_size)
    args.run = dataclasses.replace(args.run, mixed_precision="no")
    return args


def make_loader(accelerator: Accelerator, args: PretrainingArguments, videos: Videos) -> torch.utils.data.DataLoader:
    """The loader of a run that begins."""
    config = training.model_config(args.model, num_mask_kinds=2)
    return training.make_loader(accelerator, args, config, [videos], Progress(), InputLog(1.0))


def clips_per_second(loader: torch.utils.data.DataLoader, num_batches: int) -> float:
    """Throughput once the workers are up and their queue was emptied."""
    batches = iter(loader)
    for _ in range(2 * max(1, loader.num_workers) + 1):
        next(batches)
    began = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    return num_batches * BATCH / (time.perf_counter() - began)


def shrunk(videos: Videos, folder: Path) -> Videos:
    """Copies with key frames at most 16 frames apart, of the videos' own size."""
    for row, video in enumerate(videos["video"]):
        shrink_video(video, folder / f"{row:05}.mp4")
    return load_videos(folder)


def waiting_share(accelerator: Accelerator, videos: Videos, num_steps: int) -> tuple[float, float]:
    """Share of the time that steps of ViT-S wait for one worker, and seconds of a step."""
    torch.set_num_threads(1)
    args = arguments(num_workers=1, batch_size=2)
    config = training.model_config(args.model, num_mask_kinds=2)
    model = VJEPAForPreTraining(config)
    optimizer = make_optimizer(model, args.optimization)
    meter = Throughput()
    batches = meter.timed(make_loader(accelerator, args, videos))
    for step, batch in enumerate(batches):
        if step == 1:
            meter.read()  # the first step starts the worker and warms up
            began = time.perf_counter()
        pixels = normalize(batch["pixel_values_videos"], IMAGENET_MEAN, IMAGENET_STD)
        model(pixels, batch["context_masks"], batch["target_masks"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(0.998)
        if step == num_steps:
            break
    return meter.read()["data_wait"], (time.perf_counter() - began) / num_steps


def main() -> None:
    """Time, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", required=True, help="source of real videos")
    parser.add_argument("--num-videos", type=int, default=100, help="videos of it, evenly spread")
    parser.add_argument("--batches", type=int, default=12, help=f"timed batches of {BATCH} clips, in every turn")
    parser.add_argument("--turns", type=int, default=3, help="of which the median counts")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps of ViT-S")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    accelerator = Accelerator(cpu=True)
    videos = load_videos(options.videos)
    videos = videos.select(np.linspace(0, len(videos) - 1, min(options.num_videos, len(videos))).astype(int))
    with tempfile.TemporaryDirectory() as folder:
        copies = shrunk(videos, Path(folder))
        sources = {
            "as they are": (videos, 1),
            "copies, key frame every 16": (copies, 1),
            "4 clips a video": (videos, 4),
        }
        ways = {(name, workers): way for name, way in sources.items() for workers in (1, 2)}
        speeds: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
        for _ in range(options.turns):
            for (name, workers), (source, clips_per_video) in ways.items():
                loader = make_loader(accelerator, arguments(workers, BATCH, clips_per_video), source)
                speeds[name, workers].append(clips_per_second(loader, options.batches))
                print(f"{name}, {workers} workers: {speeds[name, workers][-1]:.1f} clips/s", flush=True)
        wait, step = waiting_share(accelerator, videos, options.steps)
    median = {way: float(np.median(values)) for way, values in speeds.items()}
    base = {workers: median["as they are", workers] for workers in (1, 2)}
    rows = []
    for (name, workers), value in median.items():
        lowest, highest = min(speeds[name, workers]), max(speeds[name, workers])
        rows.append((name, workers, f"{value:.1f}", f"{lowest:.1f} to {highest:.1f}", f"{value / base[workers]:.2f}"))
    load = f"{len(videos)} videos, load average over five minutes {os.getloadavg()[1]:.1f}"
    lines = opening("The loader, end to end", __file__, __doc__, load)
    lines += table(
        ["videos", "workers", f"clips/s, median of {options.turns}", "range", "over the first, as many workers"],
        rows,
    )
    lines += [
        "",
        f"ViT-S/16, 16 x 224 x 224, 2 clips a step, one thread, 1 worker: {step:.1f} s a step, of which "
        f"{wait:.1%} waits for data (mean of {options.steps} steps).",
    ]
    publish(lines, options.output)


if __name__ == "__main__":
    main()
