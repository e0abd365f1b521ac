"""Input compared with its alternatives: decoding, the loader, masks, and lists of videos.

    python benchmarks/data.py decode --videos FOLDER --long VIDEO.mp4 --output benchmarks/results/data_decode.md
    python benchmarks/data.py loader --videos FOLDER --output benchmarks/results/data_loader.md
    python benchmarks/data.py masks --reference PATH_TO_JEPA --output benchmarks/results/data_masks.md
    python benchmarks/data.py lists --output benchmarks/results/data_lists.md

A page is printed, and written where `--output` says; `--help` lists the options.
"""

import importlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import datasets
import numpy as np
import torch
import typer
from transformers.video_utils import read_video_pyav

from report import Output, make_app, opening, publish, table
from vjepa_hf.data.checks import shrink_video
from vjepa_hf.data.clips import ClipReader, PretrainingCollator, VideoClipDataset
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler
from vjepa_hf.data.order import ClipBatchSampler
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RandomResizedCropFlip,
    normalize,
    random_crop_box,
)
from vjepa_hf.data.videos import probe_video
from vjepa_hf.model.frame_sampling import random_clips, regular_clips
from vjepa_hf.model.video_io import VideoFile

SIZE, NUM_FRAMES, FRAME_STEP, FPS = 224, 16, 4, 30
FAR_FRAMES = 3000  # of the video for requests far apart
GRID = (8, 14, 14)
app = make_app()


# --- decode --------------------------------------------------------------------------------------------------------


def frame_numbers(num_frames: int, seed: int) -> np.ndarray:
    """Return the ascending frame indices of one clip."""
    return random_clips(num_frames, NUM_FRAMES, FRAME_STEP, np.random.default_rng(seed), short_video="repeat_last")[0]


def read_ours(path: str, seed: int) -> torch.Tensor:
    """Read a clip `(T, C, H, W)` with the reader of the package."""
    with VideoFile(path) as video:
        return video.frames(frame_numbers(video.info.num_frames, seed))


def read_transformers(path: str, seed: int) -> torch.Tensor:
    """Read the same clip with the PyAV reader of transformers, which decodes from the first frame."""
    frames, _ = read_video_pyav(path, lambda metadata, **_: frame_numbers(metadata.total_num_frames, seed))
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def read_decord(path: str, seed: int) -> torch.Tensor:
    """Read the same clip with decord."""
    reader = importlib.import_module("decord").VideoReader(path, num_threads=1)
    frames = reader.get_batch(frame_numbers(len(reader), seed)).asnumpy()
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def our_transform(clip: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Crop, resize, flip and normalize a clip as the package does: in uint8 to the end."""
    return normalize(RandomResizedCropFlip((SIZE, SIZE))(clip, generator), IMAGENET_MEAN, IMAGENET_STD)


def float_transform(clip: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Do the same in floating point from the start, as Meta's loader does."""
    clip = clip.to(torch.float).permute(1, 0, 2, 3)
    box = random_crop_box(*clip.shape[2:], (0.3, 1.0), (0.75, 1.35), generator)
    clip = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    clip = torch.nn.functional.interpolate(clip, (SIZE, SIZE), mode="bilinear", align_corners=False)
    clip = clip.flip(-1) if generator.random() < 0.5 else clip
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
    return clip.sub_(mean).div_(std)


READERS = {
    "ours": (read_ours, our_transform),
    "transformers": (read_transformers, our_transform),
    "decord": (read_decord, float_transform),
}


def milliseconds(reader: str, path: str, seed: int) -> tuple[float, float]:
    """Return the processor time of reading a clip, and of reading and transforming it."""
    read, transform = READERS[reader]
    began = time.process_time()
    clip = read(path, seed)
    has_read = time.process_time()
    transform(clip, np.random.default_rng(seed))
    return 1000 * (has_read - began), 1000 * (time.process_time() - began)


def measure_readers(readers: Sequence[str], paths: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the medians of `milliseconds` of each reader. The readers rotate, as the first one finds a cold cache."""
    times, order = {reader: [] for reader in readers}, deque(readers)
    for seed, path in enumerate(paths):
        for reader in order:
            times[reader].append(milliseconds(reader, path, seed))
        order.rotate()
    return {reader: tuple(map(statistics.median, zip(*rows, strict=True))) for reader, rows in times.items()}


def encode(source: Path, path: Path, num_frames: int, group: int) -> None:
    """Encode the first frames of a video, repeated where it is too short, with a key frame every `group` frames."""
    options = {"g": str(group), "keyint_min": str(group), "sc_threshold": "0", "preset": "veryfast"}
    info, number = probe_video(str(source)), 0
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = info.height, info.width, "yuv420p"
        while number < num_frames:
            with av.open(str(source)) as container:
                for frame in container.decode(video=0):
                    if number < num_frames:
                        frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, FPS), 0
                        output.mux(stream.encode(frame))
                        number += 1
        output.mux(stream.encode())


def request_seconds(path: Path, requests: Sequence[Sequence[int] | np.ndarray]) -> float:
    """Return the processor time of reading each request from a newly opened video."""
    began = time.process_time()
    for indices in requests:
        with VideoFile(path) as video:
            video.frames(indices)
    return time.process_time() - began


def far_requests(path: Path, num_frames: int, turns: int) -> list[list[str]]:
    """Return rows of requests far apart in one call: milliseconds, those of their parts, and the median ratio."""
    far = [num_frames // 30, num_frames // 2, num_frames - num_frames // 30]
    clips = regular_clips(num_frames, NUM_FRAMES, FRAME_STEP, num_clips=8)
    ways = {"three frames / three calls": ([far], [[n] for n in far]), "8 clips / one clip": ([clips], [clips[4]])}
    rows = []
    for name, (together, parts) in ways.items():
        times = [(request_seconds(path, together), request_seconds(path, parts)) for _ in range(turns)]
        medians = [f"{1000 * statistics.median(column):.1f}" for column in zip(*times, strict=True)]
        rows.append([name, *medians, f"{statistics.median(one / other for one, other in times):.2f}"])
    return rows


@app.command()
def decode(
    videos: Annotated[Path, typer.Option(help="source of short videos")],
    long: Annotated[Path, typer.Option(help="a video of some minutes")],
    clips: Annotated[int, typer.Option(help="clips of each row; a 25th for transformers and long videos")] = 100,
    minutes: Annotated[float, typer.Option(help="length of the longest video")] = 10,
    output: Output = None,
) -> None:
    """Compare our reader with decord and transformers: random clips of 16 frames at step 4, 224 x 224.

    Every reader gets the same files, frame indices and crop boxes, in turn, on one thread. "transformers" is its
    PyAV reader with our transform. "decord" is decord with the steps of Meta's transform, which is in floating point
    from the start; without decord, which is not a dependency, its columns are missing. Numbers are milliseconds of
    processor time a clip, medians. The long videos are made of one: 30 frames per second, key frames every 30 or 250
    frames, 20 seconds or `--minutes` long.

    The second table has requests far apart in one call, in a video of 3,000 frames with key frames every 250.
    """
    torch.set_num_threads(1)
    readers = [name for name in READERS if name != "decord" or importlib.util.find_spec("decord")]
    shorts, few = load_videos(videos)["video"], max(3, clips // 25)
    rows = {"short videos": measure_readers(readers, [shorts[i * len(shorts) // clips] for i in range(clips)])}
    lengths = {"20 s": 20 * FPS, f"{minutes:g} min": round(60 * minutes * FPS)}
    with tempfile.TemporaryDirectory() as folder:
        for group in (30, 250):
            for name, num_frames in lengths.items():
                path = Path(folder) / f"{num_frames}_{group}.mp4"
                encode(long, path, num_frames, group)
                fast = measure_readers([name for name in readers if name != "transformers"], [str(path)] * clips)
                slow = measure_readers(["transformers"], [str(path)] * few)
                rows[f"{name}, key frames every {group}"] = fast | slow
        path = Path(folder) / "far.mp4"
        encode(long, path, FAR_FRAMES, 250)
        far = far_requests(path, FAR_FRAMES, turns=max(3, clips // 10))
    columns = [f"{reader}: {part}" for reader in readers for part in ("read", "all")]
    columns += [f"{reader} / ours: all" for reader in readers[1:]]
    cells = [
        [name, *(f"{value:.1f}" for reader in readers for value in times[reader])]
        + [f"{times[reader][1] / times['ours'][1]:.2f}" for reader in readers[1:]]
        for name, times in rows.items()
    ]
    counts = f"{clips} clips a row ({few} for transformers and long videos)"
    lines = opening("Random clips", "data.py decode", decode.__doc__, f"PyAV {av.__version__}", counts)
    lines += [*table(["videos", *columns], cells), ""]
    publish([*lines, *table(["one call / its parts", "together, ms", "parts, ms", "ratio"], far)], output)


# --- loader --------------------------------------------------------------------------------------------------------


def make_loader(videos: datasets.Dataset, workers: int, clips_per_video: int, batch_size: int) -> Any:
    """Return a loader of augmented clips with their masks, as a run with the published settings has it."""
    reader = ClipReader(NUM_FRAMES, FRAME_STEP, seed=0, transform=RandomResizedCropFlip((SIZE, SIZE)))
    sampler = ClipBatchSampler(len(videos), batch_size, 1000, seed=0, clips_per_video=clips_per_video)
    collate = PretrainingCollator(MaskSampler([SHORT_RANGE, LONG_RANGE], GRID, seed=0))
    clips = VideoClipDataset(videos, reader)
    return torch.utils.data.DataLoader(clips, batch_sampler=sampler, collate_fn=collate, num_workers=workers)


def clips_per_second(loader: torch.utils.data.DataLoader, num_batches: int, batch_size: int) -> float:
    """Return the throughput after the queue of the workers was emptied once."""
    batches = iter(loader)
    for _ in range(2 * loader.num_workers + 1):
        next(batches)
    began = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    return num_batches * batch_size / (time.perf_counter() - began)


@app.command()
def loader(
    videos: Annotated[Path, typer.Option(help="source of real videos")],
    num_videos: Annotated[int, typer.Option(help="videos of it, evenly spread")] = 100,
    batches: Annotated[int, typer.Option(help="timed batches in every turn")] = 12,
    batch_size: Annotated[int, typer.Option(help="clips of a batch")] = 8,
    turns: Annotated[int, typer.Option(help="the median counts")] = 3,
    workers: Annotated[list[int], typer.Option(help="worker processes; repeat")] = (1, 2),
    output: Output = None,
) -> None:
    """Compare videos as they are, shrunk copies, and several clips of a video, with few or many workers.

    From file to batch: decode a random clip of 16 frames at step 4, crop and resize to 224 x 224, flip, draw the
    masks of both types, collate. "Copies" are made as by `vjepa-hf check-data --shrink-to`, of the same size, with
    key frames at most 16 frames apart. The rows take turns, a few batches each.
    """
    torch.set_num_threads(1)
    source = load_videos(videos)
    source = source.select(np.linspace(0, len(source) - 1, min(num_videos, len(source))).astype(int))
    speeds: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for row, video in enumerate(source["video"]):
            shrink_video(video, Path(folder) / f"{row:05}.mp4")
        ways = {"as they are": (source, 1), "copies, key frame every 16": (load_videos(folder), 1)}
        ways["4 clips a video"] = (source, 4)
        for _ in range(turns):
            for name, (table_of_videos, clips) in ways.items():
                for number in workers:
                    batches_of = make_loader(table_of_videos, number, clips, batch_size)
                    speed = clips_per_second(batches_of, batches, batch_size)
                    speeds.setdefault((name, number), []).append(speed)
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    rows = [
        [name, number, f"{median:.1f}", f"{min(speeds[name, number]):.1f} to {max(speeds[name, number]):.1f}"]
        + [f"{median / medians['as they are', number]:.2f}"]
        for (name, number), median in medians.items()
    ]
    load = f"{len(source)} videos", f"load {os.getloadavg()[1]:.1f}"
    header = ["videos", "workers", f"clips/s, median of {turns}", "range", "this / as they are"]
    publish([*opening("The loader", "data.py loader", loader.__doc__, *load), *table(header, rows)], output)


# --- masks ---------------------------------------------------------------------------------------------------------


def reference_masks(checkout: Path, num_clips: int) -> Callable[[], object]:
    """Return a function that draws the masks of a batch with Meta's mask generators."""
    sys.path.insert(0, str(checkout))
    from src.masks.multiblock3d import _MaskGenerator

    options = {"crop_size": (SIZE, SIZE), "num_frames": NUM_FRAMES, "spatial_patch_size": 16, "temporal_patch_size": 2}
    options |= {"aspect_ratio": (0.75, 1.5), "temporal_pred_mask_scale": (1.0, 1.0)}
    scales = {8: 0.15, 2: 0.7}
    generators = [_MaskGenerator(npred=n, spatial_pred_mask_scale=(s, s), **options) for n, s in scales.items()]
    return lambda: [generator(num_clips) for generator in generators]


def our_masks(mode: str, num_clips: int, group_size: int) -> Callable[[], object]:
    """Return a function that draws the masks of the next batch, cut to one length over `group_size` clips."""
    sampler, batches = MaskSampler([SHORT_RANGE, LONG_RANGE], GRID, seed=0, mode=mode), iter(range(1 << 30))

    def draw() -> object:
        first = next(batches) * group_size
        group = [(0, first + clip) for clip in range(group_size)]
        return sampler(group[:num_clips], group)

    return draw


@app.command()
def masks(
    reference: Annotated[Path | None, typer.Option(help="checkout of facebookresearch/jepa")] = None,
    repeats: Annotated[int, typer.Option(help="batches of each")] = 200,
    num_clips: Annotated[int, typer.Option(help="clips of a batch")] = 24,
    output: Output = None,
) -> None:
    """Compare the time that the masks of a batch take with Meta's code.

    A grid of 8 x 14 x 14 tokens, both mask types of the published runs, one thread, in turn. Our masks are a function
    of (seed, epoch, sample id) of each clip.
    """
    torch.set_num_threads(1)
    ways = {"reference": reference_masks(reference, num_clips)} if reference else {}
    ways["ours"] = our_masks("subsample", num_clips, num_clips)
    ways["ours, cut as the reference"] = our_masks("reference", num_clips, num_clips)
    ways[f"ours, one length over {4 * num_clips} clips"] = our_masks("subsample", num_clips, 4 * num_clips)
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, draw in ways.items():
            began = time.perf_counter()
            draw()
            times[name].append(1000 * (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians))
    rows = [
        [name, f"{median:.2f}", f"{np.quantile(times[name], 0.75):.2f}", f"{median / medians[first]:.2f}"]
        for name, median in medians.items()
    ]
    more = f"numpy {np.__version__}", f"{repeats} batches each"
    header = [f"masks of {num_clips} clips", "ms, median", "upper quartile", f"this / {first}"]
    publish([*opening("Masks of a batch", "data.py masks", masks.__doc__, *more), *table(header, rows)], output)


# --- lists ---------------------------------------------------------------------------------------------------------

LISTS = {
    "list.csv": ("csv with a header", "{},{}\n"),
    "list.txt": ("lines `path label`", "{} {}\n"),
    "list.jsonl": ("jsonl", '{{"video": "{}", "label": {}}}\n'),
}


def write_list(path: Path, num_rows: int) -> None:
    """Write a list of videos in class folders; none of the videos exists."""
    with path.open("w") as file:
        file.write("video,label\n" if path.suffix == ".csv" else "")
        line = LISTS[path.name][1]
        file.writelines(line.format(f"videos/class {n % 700:03}/{n:08}.mp4", n % 700) for n in range(num_rows))


def read_plainly(path: Path) -> list[tuple[str, ...]]:
    """Read a text list into Python objects, the plain way."""
    with path.open() as file:
        return [tuple(line.rstrip("\n").rsplit(" ", 1)) for line in file]


@app.command(hidden=True)
def index(path: Path, plainly: bool = False) -> None:
    """Index a list, read the rows of a batch, and print seconds and MiB; run by `lists`."""
    datasets.disable_progress_bars()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    videos = read_plainly(path) if plainly else load_videos(path)
    seconds = time.perf_counter() - began
    requests = next(iter(ClipBatchSampler(len(videos), 24, 1, seed=0)))
    [videos[request.index] for request in requests]
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    batch = time.perf_counter() - began - seconds
    print(json.dumps({"rows": len(videos), "seconds": seconds, "batch": batch, "memory": kibibytes / 2**10}))


@app.command()
def lists(rows: Annotated[int, typer.Option(help="videos of a list")] = 2_000_000, output: Output = None) -> None:
    """Compare indexing a list of videos with keeping it as Python objects.

    A generated list is read by `load_videos` for the first time, and again from the memory-mapped cache. Each reading
    has a process of its own; its memory is the peak over what the process held after its imports.
    """
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"HF_HOME": str(Path(folder) / "cache"), "HF_HUB_OFFLINE": "1"}
        for name, (kind, _) in LISTS.items():
            path = Path(folder) / name
            write_list(path, rows)
            ways = {"first time": [], "again": []} | ({"plainly": ["--plainly"]} if name == "list.txt" else {})
            for way, words in ways.items():
                command = [sys.executable, __file__, "index", str(path), *words]
                result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                measured = json.loads(result.stdout.splitlines()[-1])
                if measured["rows"] != rows:
                    raise RuntimeError(f"{name} has {rows} rows, but {measured['rows']} were read")
                spent = f"{measured['seconds']:.1f}", f"{measured['memory']:.0f}", f"{1000 * measured['batch']:.0f}"
                cells.append([f"{kind}, {path.stat().st_size / 2**20:.0f} MiB", way, *spent])
            path.unlink()
    lines = opening(f"A list of {rows:,} videos", "data.py lists", lists.__doc__, f"datasets {datasets.__version__}")
    header = ["list", "", "seconds", "memory, MiB", "order and rows of the first batch, ms"]
    publish([*lines, *table(header, cells)], output)


if __name__ == "__main__":
    app()
