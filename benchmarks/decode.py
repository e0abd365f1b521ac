"""Random clips of 16 frames at stride 4 and 224 x 224: our reader beside decord and that of transformers.

    python benchmarks/decode.py --videos path/to/short_clips --long path/to/long_video.mp4

Every reader gets the same files, frame numbers and crop boxes, in turn, on one thread. "decord" is decord with the
transform of Meta's loader, written anew: fractions from the start, cropped, resized, mirrored, normalized.
"transformers" is its PyAV reader with our transform, "transformers' processor" the same reader with the video
processor of its V-JEPA 2. Figures are milliseconds of CPU time a clip, medians. The long videos are made of the one
given: at 30 frames a second, key frames every 30 or 250 frames, 20 seconds, and 10 minutes by repeating it. decord is
not a dependency: without it its columns are missing.
"""

import argparse
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from transformers import VJEPA2VideoProcessor
from transformers.video_utils import read_video_pyav

from report import opening, publish, table
from vjepa_hf.data.clips import load_videos
from vjepa_hf.data.transforms import RandomResizedCropFlip, normalize, random_crop_box
from vjepa_hf.model.frame_sampling import random_clips
from vjepa_hf.model.video_io import decode, probe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, NUM_FRAMES, FRAME_STEP, FPS = 224, 16, 4, 30
PROCESSOR = VJEPA2VideoProcessor(crop_size={"height": SIZE, "width": SIZE}, do_sample_frames=False)
SECONDS, MINUTES = 20 * FPS, 600 * FPS


def ours(path: str, seed: int) -> tuple[float, float]:
    """Seconds of CPU for reading, and for all, of one clip."""
    generator = np.random.default_rng(seed)
    start = time.process_time()
    frames = decode(path, lambda info: choose(info.num_frames, seed))
    read = time.process_time()
    normalize(RandomResizedCropFlip((SIZE, SIZE))(frames, generator), MEAN, STD)
    return read - start, time.process_time() - start


def transformers(path: str, seed: int) -> tuple[float, float]:
    """The same with the reader of transformers, which decodes from the first frame on."""
    generator = np.random.default_rng(seed)
    start = time.process_time()
    frames, _ = read_video_pyav(path, lambda metadata, **_: choose(metadata.total_num_frames, seed))
    read = time.process_time()
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    normalize(RandomResizedCropFlip((SIZE, SIZE))(clip, generator), MEAN, STD)
    return read - start, time.process_time() - start


def transformers_processor(path: str, seed: int) -> tuple[float, float]:
    """The same reader with the processor of transformers' V-JEPA 2, which resizes, crops the center and normalizes."""
    start = time.process_time()
    frames, _ = read_video_pyav(path, lambda metadata, **_: choose(metadata.total_num_frames, seed))
    read = time.process_time()
    PROCESSOR(torch.from_numpy(frames).permute(0, 3, 1, 2), return_tensors="pt")
    return read - start, time.process_time() - start


def decord(path: str, seed: int) -> tuple[float, float]:
    """The same with decord, and with the steps of Meta's transform."""
    reader_class = importlib.import_module("decord").VideoReader
    generator = np.random.default_rng(seed)
    start = time.process_time()
    reader = reader_class(path, num_threads=1)
    frames = reader.get_batch(choose(len(reader), seed)).asnumpy()
    read = time.process_time()
    clip = torch.tensor(frames, dtype=torch.float).permute(3, 0, 1, 2)
    box = random_crop_box(*clip.shape[2:], (0.3, 1.0), (0.75, 1.35), generator)
    clip = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    clip = torch.nn.functional.interpolate(clip, (SIZE, SIZE), mode="bilinear", align_corners=False)
    clip = clip.flip(-1) if generator.random() < 0.5 else clip
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) * 255 for values in (MEAN, STD))
    clip.sub_(mean).div_(std)
    return read - start, time.process_time() - start


def choose(num_frames: int, seed: int) -> np.ndarray:
    """The frame numbers of one clip, ascending."""
    return random_clips(num_frames, NUM_FRAMES, FRAME_STEP, np.random.default_rng(seed), short_video="repeat_last")[0]


def encode(source: Path, path: Path, num_frames: int, group: int) -> None:
    """The first frames of a video, from its beginning again where it is too short, at another group size."""
    options = {"g": str(group), "keyint_min": str(group), "sc_threshold": "0", "preset": "veryfast"}
    info, number = probe(source), 0
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = info.height, info.width, "yuv420p"
        while number < num_frames:
            with av.open(str(source)) as container:
                for frame in container.decode(video=0):
                    frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, FPS), 0
                    output.mux(stream.encode(frame))
                    number += 1
                    if number == num_frames:
                        break
        output.mux(stream.encode())


def repeat(source: Path, path: Path, num_frames: int) -> None:
    """The packets of a video again and again."""
    with av.open(str(path), "w") as output:
        stream, number, shift = None, 0, 0
        while number < num_frames:
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                for packet in container.demux(video):
                    if packet.size and number < num_frames:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        output.mux(packet)
                        number += 1
                shift += round(video.frames / FPS / video.time_base)


def make_long_videos(source: Path, folder: Path) -> dict[str, Path]:
    """Name of a row -> its file."""
    files = {}
    for group in (30, 250):
        once, short, long = (folder / f"{name}_{group}.mp4" for name in ("once", "20s", "10min"))
        if not long.exists():
            encode(source, once, probe(source).num_frames, group)
            encode(source, short, SECONDS, group)
            repeat(once, long, MINUTES)
        files |= {f"20 s, key frames every {group}": short, f"10 min, key frames every {group}": long}
    return files


def measure(readers: dict[str, Callable], paths: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Reader -> median milliseconds for reading and for all of a clip. The readers take turns, also at being first,
    for then the file is in no cache."""
    times, order = defaultdict(list), deque(readers.items())
    for seed, path in enumerate(paths):
        for name, reader in order:
            times[name].append(reader(path, seed))
        order.rotate()
    return {
        name: tuple(1000 * statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in times.items()
    }


def main() -> None:
    """Print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder or list of short clips")
    parser.add_argument("--long", type=Path, required=True, help="a video of some minutes")
    parser.add_argument("--work", type=Path, help="where the long files are kept; a temporary folder by default")
    parser.add_argument("--clips", type=int, default=100, help="clips of each row")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)

    slow = {"transformers": transformers, "transformers' processor": transformers_processor}
    readers = {"ours": ours, **slow}
    if importlib.util.find_spec("decord"):
        readers["decord"] = decord
    videos = load_videos(options.videos)["video"]
    rows = {"short clips": measure(readers, [videos[i * len(videos) // options.clips] for i in range(options.clips)])}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in make_long_videos(options.long, folder).items():
            few = measure(slow, [str(path)] * max(3, options.clips // 25))
            fast = {name: reader for name, reader in readers.items() if name not in slow}
            rows[name] = measure(fast, [str(path)] * options.clips) | few

    names = list(readers)
    others = names[1:]
    clips = f"{options.clips} clips a row ({max(3, options.clips // 25)} for transformers and long videos)"
    lines = opening("Random clips from short and long videos", __file__, __doc__, f"PyAV {av.__version__}", clips)
    lines += table(
        ["videos", *(f"{name}: {what}" for name in names for what in ("read", "all"))]
        + [f"{name} / ours: {what}" for name in others for what in ("read", "all")],
        [
            [row]
            + [f"{value:.1f}" for name in names for value in figures[name]]
            + [
                f"{theirs / own:.2f}"
                for name in others
                for theirs, own in zip(figures[name], figures["ours"], strict=True)
            ]
            for row, figures in rows.items()
        ],
    )
    lines += ["", "How much more a clip costs in 10 minutes than in 20 seconds:", ""]
    growth = []
    for group in (30, 250):
        short, long = (rows[f"{name}, key frames every {group}"] for name in ("20 s", "10 min"))
        growth.append([group, *(f"{long[name][1] / short[name][1]:.2f}" for name in names)])
    publish(lines + table(["key frames every", *names], growth), options.output)


if __name__ == "__main__":
    main()
