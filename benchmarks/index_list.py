"""How long a list of two million videos takes to index, and in how much memory.

    python benchmarks/index_list.py --output benchmarks/results/index_list.md

A generated list is read by `sources.load_videos` for the first time and again (from the memory-mapped cache), beside
the plain way, which keeps a Python object for every path. Each way runs in a process of its own; its memory is the
peak of that process over what it had after its imports. No file of the list exists and none is opened.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets

from report import opening, publish, table
from vjepa_hf.data.order import ClipBatchSampler
from vjepa_hf.data.sources import load_videos

LISTS = {"list.csv": "csv with a header", "list.txt": "lines `path label`", "list.jsonl": "jsonl"}


def write_list(path: Path, num_rows: int) -> None:
    """A list as long as asked, with the paths of a class tree."""
    rows = ((f"videos/class {number % 700:03}/{number:08}.mp4", number % 700) for number in range(num_rows))
    with path.open("w") as file:
        if path.suffix == ".csv":
            file.write("video,label\n")
        line = {".csv": "{},{}\n", ".txt": "{} {}\n", ".jsonl": '{{"video": "{}", "label": {}}}\n'}[path.suffix]
        file.writelines(line.format(*row) for row in rows)


def peak_mebibytes() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def index(path: Path, way: str) -> None:
    """Index in one way, touch a few rows as training does, and print the figures."""
    datasets.disable_progress_bars()
    before, began = peak_mebibytes(), time.perf_counter()
    if way == "plain":
        with path.open() as file:
            videos = [tuple(line.rstrip("\n").rsplit(" ", 1)) for line in file]
    else:
        videos = load_videos(path)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    requests = next(iter(ClipBatchSampler(len(videos), 24, 1, seed=0)))
    [videos[request.index] for request in requests]
    batch = time.perf_counter() - began
    figures = {"rows": len(videos), "seconds": seconds, "memory": peak_mebibytes() - before, "batch": batch}
    print(json.dumps(figures))


def run(path: Path, way: str, cache: Path) -> dict[str, float]:
    """The figures of one way, in a process of its own."""
    command = [sys.executable, __file__, "--index", str(path), "--way", way]
    environment = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(sys.path[1:])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Time, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="videos of the list")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.index:
        return index(options.index, options.way)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in LISTS.items():
            path = Path(folder) / name
            write_list(path, options.rows)
            size = path.stat().st_size / 2**20
            ways = {"first time": "load", "again": "load"} | (
                {"plain Python lists": "plain"} if name == "list.txt" else {}
            )
            for title, way in ways.items():
                figures = run(path, way, Path(folder) / "cache")
                if figures["rows"] != options.rows:
                    raise RuntimeError(f"{figures['rows']} rows of {options.rows}")
                spent = f"{figures['seconds']:.1f}", f"{figures['memory']:.0f}", f"{1000 * figures['batch']:.0f}"
                rows.append((f"{kind}, {size:.0f} MiB", title, *spent))
                print(*rows[-1], flush=True)
            path.unlink()
    lines = opening(f"A list of {options.rows:,} videos", __file__, __doc__, f"datasets {datasets.__version__}")
    lines += table(["list", "way", "seconds", "memory, MiB", "order and rows of the first batch, ms"], rows)
    publish(lines, options.output)


if __name__ == "__main__":
    main()
