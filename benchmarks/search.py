"""Search with vectors of videos: whether copies find their originals, and how much memory a table takes to write.

    python benchmarks/search.py copies --output benchmarks/results/search_copies.md
    python benchmarks/search.py memory --output benchmarks/results/search_memory.md

A page is printed, and written where `--output` says; `--help` lists the options.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import psutil
import torch
import transformers
import typer
from torch.nn.functional import interpolate

from programs import pretrained
from report import Output, Runs, Steps, ToyVideos, make_app, opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.data import decode_video, load_videos, probe_video
from vjepa_hf.evaluation import VectorEncoder, VectorTable, nearest_videos
from vjepa_hf.evaluation.vector_table import TableParts, TimedVectors

transformers.utils.logging.disable_progress_bar()
VIDEOS, RUNS = Path("output/toy_videos"), Path("output/learning")
app = make_app()
# Copies of videos of 16 frames and 48 x 48 pixels: quality (crf), border (px) and first frames that are cut off.
COPIES = {
    "re-encoded": (34, 0, 0),
    "cropped": (23, 1, 0),
    "trimmed": (23, 0, 4),
    "all three": (28, 1, 2),
    "all three, stronger": (28, 2, 4),
}


def copy_video(original: str, path: Path, crf: int, border: int, start: int) -> None:
    frames = decode_video(original, range(probe_video(original).num_frames))[start:]
    height, width = frames.shape[-2:]
    frames = frames[..., border : height - border, border : width - border].permute(0, 2, 3, 1).contiguous().numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


class Thumbnails:
    """The middle frame as 8 x 8 pixels, with the interface of an encoder."""

    def __call__(self, video: str) -> TimedVectors:
        frame = decode_video(video, [probe_video(video).num_frames // 2])
        pixels = interpolate(frame.float(), size=(8, 8), mode="area").reshape(1, -1).numpy()
        return TimedVectors(pixels, np.zeros((1, 2)))

    def write_table(self, videos: list[str], path: Path) -> VectorTable:
        parts = TableParts(path, videos, {}, 192)
        parts.is_finished()
        for part in range(len(parts.files)):
            parts.write(part, [self(videos[row]) for row in parts.rows(part)])
        parts.merge([])
        return VectorTable(path)


def untrained(folder: Path, output: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        VJEPAModel(VJEPAConfig.from_pretrained(folder)).save_pretrained(output)
    VJEPAVideoProcessor.from_pretrained(folder).save_pretrained(output)
    return output


@app.command()
def copies(
    videos: ToyVideos = VIDEOS,
    runs: Runs = RUNS,
    steps: Steps = None,
    num_videos: Annotated[int, typer.Option(help="test videos in the table")] = 512,
    num_clips: Annotated[int, typer.Option(help="clips per video")] = 8,
    output: Output = None,
) -> None:
    """Write a table of test videos of the toy set, and search it for copies of each of them.

    Recall@1 is the fraction of copies whose nearest video is the original. The encoders have one configuration. A
    thumbnail is the middle frame in 8 x 8 pixels, searched with the same code.
    """
    model = pretrained(runs, videos, 0, steps)
    originals = list(load_videos(videos / "test.csv")["video"])[:num_videos]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        encoders = {
            "pretrained": VectorEncoder(model, num_clips=num_clips),
            "untrained": VectorEncoder(untrained(model, folder / "untrained"), num_clips=num_clips),
            "thumbnails": Thumbnails(),
        }
        tables = {
            name: encoder.write_table(originals, folder / f"{name}.parquet") for name, encoder in encoders.items()
        }
        rows = []
        for kind, (crf, border, start) in COPIES.items():
            correct = dict.fromkeys(encoders, 0)
            for original in originals:
                copy_video(original, folder / "copy.mp4", crf, border, start)
                for name, encoder in encoders.items():
                    (match,) = nearest_videos(tables[name], encoder(str(folder / "copy.mp4")), 1)
                    correct[name] += match.video == original
            rows.append([kind, crf, border, start, *(f"{count / len(originals):.3f}" for count in correct.values())])
    lines = opening("Do copies find their originals?", "search.py copies", copies.__doc__)
    lines += [f"Recall@1 of {len(originals)} copies, {num_clips} clips per video.", ""]
    publish([*lines, *table(["copy", "crf", "border (px)", "first frames cut", *encoders], rows)], output)


@app.command()
def memory(
    videos: ToyVideos = VIDEOS,
    runs: Runs = RUNS,
    steps: Steps = None,
    num_videos: Annotated[int, typer.Option(help="training videos to embed")] = 2000,
    output: Output = None,
) -> None:
    """Embed videos with `vjepa-hf embed`, and watch its memory.

    The command has no worker processes. Its resident memory is read each time another part of the table is on disk.
    """
    model = pretrained(runs, videos, 0, steps)
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "list.csv"), Path(scratch, "table.parquet")
        names = list(load_videos(videos / "train.csv")["video"])[:num_videos]
        source.write_text("\n".join(["video", *names]) + "\n")
        words = ["embed", source, "-o", target, "--model", model, "--num_workers", "0"]
        process = subprocess.Popen([sys.executable, "-m", "vjepa_hf.cli", *map(str, words)], stdout=subprocess.DEVNULL)
        resident: dict[int, float] = {}
        parts = Path(f"{target}.parts")
        while process.poll() is None:
            done = len(list(parts.glob("*.parquet"))) if parts.exists() else 0
            try:
                resident[done] = psutil.Process(process.pid).memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        if process.wait():
            raise RuntimeError(f"embed exited with status {process.returncode}")
    measured = sorted((done, mebibytes) for done, mebibytes in resident.items() if done)
    chosen = [measured[i] for i in sorted({round(i) for i in np.linspace(0, len(measured) - 1, 9)})]
    lines = opening("Memory of a table", "search.py memory", memory.__doc__)
    lines += [f"{len(names)} videos of the toy set in parts of 64, one process.", ""]
    rows = [[min(64 * done, len(names)), f"{mebibytes:.0f}"] for done, mebibytes in chosen]
    publish([*lines, *table(["videos", "resident memory (MiB)"], rows)], output)


if __name__ == "__main__":
    app()
