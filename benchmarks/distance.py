"""JEDi on toy videos: what it sees, and what it costs.

    python benchmarks/distance.py toy --pretrained output/probe --untrained output/untrained
    python benchmarks/distance.py cost --model output/probe

A page is printed, and written where `--output` says; `--help` lists the options.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torchvision.transforms.v2.functional import gaussian_blur

from report import Output, make_app, opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.evaluation.comparison import compare_videos, load_set_encoder
from vjepa_hf.examples.make_toy_videos import APPEARANCES, make_toy_videos, render_video

FRAMES, SIZE = 16, 32
MOTION = "east"  # one direction, because reversed videos of all directions are again videos of all directions
app = make_app()


def toy_set(count: int, part: int, seed: int) -> list[np.ndarray]:
    """Render toy videos (T, H, W, C) uint8 that move in one direction, half of a real set."""
    return [
        render_video(
            np.random.default_rng([seed, part, number]), APPEARANCES[number % len(APPEARANCES)], MOTION, FRAMES, SIZE
        )[0]
        for number in range(count)
    ]


# --- what it sees --------------------------------------------------------------------------------------------------


def distortions() -> dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]]:
    """Return name -> function of a video, the next video of the set, and a generator."""

    def blur(video: np.ndarray, sigma: float) -> np.ndarray:
        frames = torch.from_numpy(video).permute(0, 3, 1, 2)
        return gaussian_blur(frames, [9, 9], [sigma, sigma]).permute(0, 2, 3, 1).numpy()

    return {
        "second real half": lambda video, other, rng: video,
        "reversed": lambda video, other, rng: video[::-1].copy(),
        "frames shuffled": lambda video, other, rng: rng.permutation(video),
        "frozen at its first frame": lambda video, other, rng: video[:1].repeat(len(video), axis=0),
        "blurred, sigma 1 pixel": lambda video, other, rng: blur(video, 1.0),
        "cut to another video half way": lambda video, other, rng: np.concatenate(
            [video[: len(video) // 2], other[len(video) // 2 :]]
        ),
    }


def tiny_classifier(folder: Path) -> Path:
    """Save an untrained classifier, for a trial without a trained one."""
    sizes = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 8}
    VJEPAForVideoClassification(VJEPAConfig(**sizes, num_frames=8, image_size=SIZE)).save_pretrained(folder)
    VJEPAVideoProcessor(num_frames=8, frame_step=1, crop_size=SIZE).save_pretrained(folder)
    return folder


@app.command()
def toy(
    pretrained: Annotated[Path | None, typer.Option(help="folder of a probe on a pretrained encoder")] = None,
    untrained: Annotated[Path | None, typer.Option(help="folder of a probe on an untrained encoder")] = None,
    num_videos: Annotated[int, typer.Option(min=4, help="videos per half")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="draws of the videos")] = 3,
    output: Output = None,
) -> None:
    """Compare a real half with the other half and with distorted copies of the other half.

    Toy videos of 16 frames of 32 x 32 pixels that all move east. The first half of a set is compared with the second
    half, and with copies of the second half that are distorted. Shown is jedi, mean over the draws of the videos and
    in brackets the lowest and the highest; `mean` is the mean of all tokens, `pooler` the output of an attentive probe
    that was trained on the direction of motion. `floor` is jedi between halves of the first half, so half as many
    videos. The untrained encoder is that of `examples/probe.py --random_init`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"pretrained": pretrained, "untrained": untrained}
        if not any(folders.values()):
            folders = {"tiny, untrained": tiny_classifier(Path(scratch) / "tiny")}
        encoders = {
            (name, features): load_set_encoder(folder, features, batch_size=50)
            for name, folder in folders.items()
            if folder is not None
            for features in ("mean", "pooler")
        }
        values: dict[str, list[list[float]]] = {name: [[] for _ in encoders] for name in ["floor", *distortions()]}
        for seed in range(seeds):
            first, second = (toy_set(num_videos, part, seed) for part in (0, 1))
            for row, distort in distortions().items():
                rng = np.random.default_rng(seed)
                copies = [distort(video, second[index - 1], rng) for index, video in enumerate(second)]
                for column, encoder in enumerate(encoders.values()):
                    result = compare_videos(encoder, first, copies)
                    values[row][column].append(result["jedi"])
                    if row == "second real half":
                        values["floor"][column].append(result["floor"])
    rows = [
        [row, *(f"{np.mean(cell):.3g} ({min(cell):.3g} to {max(cell):.3g})" for cell in cells)]
        for row, cells in values.items()
    ]
    header = ["", *(f"{name}, {features}" for name, features in encoders)]
    lines = opening(
        "What JEDi sees in toy videos", "distance.py toy", toy.__doc__ or "", f"{num_videos} videos per half"
    )
    publish([*lines, *table(header, rows)], output)


# --- what it costs -------------------------------------------------------------------------------------------------


@app.command()
def cost(
    model: Annotated[Path | None, typer.Option(help="folder of a classifier; default: a tiny one")] = None,
    numbers: Annotated[list[int] | None, typer.Option(help="videos of both sets together; repeat the option")] = None,
    num_workers: Annotated[int, typer.Option(min=0, help="worker processes that decode")] = 1,
    output: Output = None,
) -> None:
    """Measure seconds and memory of `vjepa-hf compare`.

    Toy videos of 16 frames of 32 x 32 pixels, half of them as the real and half as the generated set. Seconds are
    those of the whole command, with imports; memory is the largest resident size of its main process.
    """
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = model or tiny_classifier(Path(scratch) / "tiny")
        for number in numbers or [200, 2000]:
            videos = make_toy_videos(Path(scratch) / str(number), number // 2, number // 2, seed=1, size=SIZE)
            command = [sys.executable, "-m", "vjepa_hf.cli", "compare", str(videos / "train"), str(videos / "test")]
            command += ["--model", str(folder), "-o", f"{scratch}/result.json", "--num_workers", str(num_workers)]
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{' '.join(command)} failed")
            rows.append([number, f"{time.perf_counter() - began:.0f}", f"{memory(usage):.2f}"])
    lines = opening("What JEDi costs", "distance.py cost", cost.__doc__ or "", f"{num_workers} worker(s)")
    publish([*lines, *table(["videos", "seconds", "GiB"], rows)], output)


def memory(usage: resource.struct_rusage) -> float:
    """Return the largest resident size of a process in GiB."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


if __name__ == "__main__":
    app()
