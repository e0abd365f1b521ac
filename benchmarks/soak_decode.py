"""Open ten thousand videos, and two thousand damaged ones: does memory grow, does anything but the one error come out?

    python benchmarks/soak_decode.py --videos path/to/videos --robustness path/to/odd_files --output soak_decode.md

One random frame of a random video at a time, all in one process; three frames of each damaged copy. Damage is seeded:
bits flipped, the end cut off, a piece cut out or written elsewhere. Damaged files are read by a child process, so that
a crash is seen, with a time limit each, so that a hang is seen.
"""

import argparse
import multiprocessing
import os
import random
import resource
import time
from collections import Counter
from pathlib import Path

import av
import torch

from report import opening, publish, table
from vjepa_hf.data.clips import load_videos
from vjepa_hf.model.video_io import VideoDecodeError, decode

TIME_LIMIT = 60  # seconds for one damaged file
MEMORY_LIMIT = 6 << 30  # bytes a damaged header may make a decoder ask for
KINDS = ("flip", "cut", "splice", "move")


def resident() -> float:
    """Mebibytes of memory this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def open_many(paths: list[str], opens: int, looks: int) -> list[tuple[int, float, int]]:
    """(opens so far, mebibytes held, open files) at some points of reading one clip after the other."""
    rows, generator = [], random.Random(0)
    for count in range(1, opens + 1):
        start = generator.random()
        decode(generator.choice(paths), lambda info, start=start: [int(start * info.num_frames)])
        if count % (opens // looks) == 0:
            rows.append((count, resident(), len(os.listdir("/proc/self/fd"))))
    return rows


def damaged(data: bytes, seed: int) -> tuple[str, bytes]:
    """The kind of damage, and a damaged copy; a function of the seed."""
    generator, copy = random.Random(seed), bytearray(data)
    kind = KINDS[seed % len(KINDS)]
    place, length = generator.randrange(len(data)), generator.randrange(1, 2000)
    if kind == "flip":
        for _ in range(generator.choice((1, 20, 400))):
            copy[generator.randrange(len(copy))] ^= 1 << generator.randrange(8)
    elif kind == "cut":
        del copy[place:]
    elif kind == "splice":
        del copy[place : place + length]
    else:
        elsewhere = generator.randrange(len(data))
        copy[place : place + length] = data[elsewhere : elsewhere + length]
    return kind, bytes(copy)


def read_damaged(connection: multiprocessing.connection.Connection) -> None:
    """Answer every damaged file with what came of it, until None is sent."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    av.logging.set_level(None)
    connection.send("ready")
    while (data := connection.recv()) is not None:
        try:
            decode(data, lambda info: [0, info.num_frames // 2, info.num_frames - 1])
            connection.send("frames")
        except VideoDecodeError:
            connection.send("VideoDecodeError")
        except (
            TypeError,
            AttributeError,
            AssertionError,
            ValueError,
            RuntimeError,
            OSError,
            ArithmeticError,
        ) as error:
            connection.send(f"{type(error).__name__}: {error}")


def fuzz(paths: list[Path], copies: int) -> tuple[Counter, float]:
    """How often which (kind of damage, outcome) was seen, and the longest time that a file took."""
    outcomes, longest, child = Counter(), 0.0, None
    for seed in range(copies):
        if child is None:
            connection, end = multiprocessing.Pipe()
            child = multiprocessing.get_context("spawn").Process(target=read_damaged, args=(end,), daemon=True)
            child.start()
            end.close()
            connection.recv()
        path = paths[seed % len(paths)]
        kind, data = damaged(path.read_bytes(), seed)
        connection.send(data)
        began = time.time()
        try:
            outcome = connection.recv() if connection.poll(TIME_LIMIT) else "hang"
        except EOFError:
            outcome = "crash"
        longest = max(longest, time.time() - began)
        outcomes[kind, outcome] += 1
        if outcome not in ("frames", "VideoDecodeError"):
            print(f"seed {seed}, {path}, {kind}: {outcome}", flush=True)
        if outcome in ("hang", "crash"):
            child.kill()
            child = None
    if child is not None:
        connection.send(None)
        child.join()
    return outcomes, longest


def main() -> None:
    """Print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder or list of videos to open again and again")
    parser.add_argument("--robustness", type=Path, required=True, help="folder of odd files to damage")
    parser.add_argument("--opens", type=int, default=10_000, help="0 to leave this out")
    parser.add_argument("--copies", type=int, default=2_000, help="damaged files, 0 to leave them out")
    parser.add_argument("--largest", type=int, default=1 << 20, help="bytes of the largest file that is damaged")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)

    lines = opening("Opening videos ten thousand times, and damaged ones", __file__, __doc__, f"PyAV {av.__version__}")
    if options.opens:
        good = list(load_videos(options.videos)["video"])
        opened = open_many(good, options.opens, looks=10)
        rows = [(count, f"{held:.1f}", files) for count, held, files in opened]
        lines += table([f"opens of {len(good)} videos", "MiB held", "open files"], rows)
    if options.copies:
        files = sorted(path for path in options.robustness.rglob("*") if path.is_file())
        files = [path for path in files if 0 < path.stat().st_size < options.largest]
        outcomes, longest = fuzz(files, options.copies)
        copies = f"{options.copies} damaged copies of {len(files)} odd files; at most {longest:.1f} s for one."
        rows = [(*what, count) for what, count in sorted(outcomes.items())]
        lines += ["", copies, "", *table(["damage", "outcome", "files"], rows)]
    publish(lines, options.output)


if __name__ == "__main__":
    main()
