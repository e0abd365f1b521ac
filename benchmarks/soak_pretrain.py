"""Pretrain for an hour with bad files among the good and a checkpoint a minute: do memory and descriptors stay flat?

    python benchmarks/soak_pretrain.py --output benchmarks/results/soak_pretrain.md

examples/pretrain.py runs by itself, on the CPU with two workers, on copies of the toy videos of which one in eight is
damaged: cut off, overwritten, emptied, or replaced by text. Every few seconds the main process and its workers are
asked for the memory they hold (PSS: pages that several hold are shared out among them) and for their open descriptors.
Where other programs share the machine, the number of steps says nothing about speed; memory and descriptors do not
depend on that.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from report import opening, publish, table
from vjepa_hf.training.checkpoints import list_checkpoints
from vjepa_hf.training.log import read_log

EXAMPLES = Path(__file__).parent.parent / "examples"
DAMAGES = ("cut", "overwritten", "empty", "text")
CALIBRATION_STEPS = 60
# Of a sample: seconds since the start, processes, MiB resident in the main process and in its workers, MiB of all
# together, open descriptors of all together, and the step of the newest checkpoint.
COLUMNS = ("seconds", "processes", "main", "workers", "pss", "descriptors", "checkpoint")


def damaged(video: bytes, damage: str, generator: random.Random) -> bytes:
    """A copy of a file that no decoder should be able to read to its end."""
    if damage == "cut":
        return video[: generator.randrange(1, len(video) // 2)]
    if damage == "overwritten":
        return generator.randbytes(len(video))
    return b"" if damage == "empty" else b"this was never a video\n"


def make_videos(source: Path, folder: Path, num_videos: int) -> dict[str, int]:
    """Copy videos, every eighth of them damaged; how many of each damage there are."""
    folder.mkdir(parents=True)
    generator, counts = random.Random(0), dict.fromkeys(DAMAGES, 0)
    for number, path in enumerate(sorted(source.glob("*.mp4"))[:num_videos]):
        video = path.read_bytes()
        if number % 8 == 0:
            damage = DAMAGES[number // 8 % len(DAMAGES)]
            video, counts[damage] = damaged(video, damage, generator), counts[damage] + 1
        (folder / path.name).write_bytes(video)
    return counts


def start(videos: Path, folder: Path, max_steps: int, save_steps: int) -> subprocess.Popen:
    """examples/pretrain.py with its default configuration, in a process group of its own."""
    options = {
        "videos": videos,
        "output_dir": folder / "run",
        "num_workers": 2,
        "cpu_threads": 1,
        "max_failed_share": 0.5,
        "warmup_steps": 0,
        "max_steps": max_steps,
        "save_steps": save_steps,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    output = (folder / "output.txt").open("w")
    command = [sys.executable, EXAMPLES / "pretrain.py", *words, "--overwrite_output_dir"]
    return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def calibrate(videos: Path, folder: Path) -> int:
    """Optimizer steps in a minute, from a short run."""
    if start(videos, folder, CALIBRATION_STEPS, CALIBRATION_STEPS).wait():
        raise RuntimeError(f"the short run failed:\n{(folder / 'output.txt').read_text()[-2000:]}")
    rates = [row["clips_per_second"] for row in read_log(folder / "run" / "log.jsonl") if "clips_per_second" in row]
    shutil.rmtree(folder / "run")
    return max(1, round(60 * np.median(rates) / 32))


def family(root: int) -> list[int]:
    """A process and all that it started, itself first."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended in the meantime
            parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def mebibytes(process: int) -> tuple[float, float]:
    """Resident and proportional set size of a process."""
    pages = int(Path("/proc", str(process), "statm").read_text().split()[1])
    lines = Path("/proc", str(process), "smaps_rollup").read_text().splitlines()
    shares = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return pages * resource.getpagesize() / 2**20, shares / 2**10


def look(root: int, run: Path, seconds: float) -> tuple[float, ...]:
    """One sample, as `COLUMNS`."""
    processes = family(root)
    held = [mebibytes(process) for process in processes]
    descriptors = sum(len(os.listdir(f"/proc/{process}/fd")) for process in processes)
    resident = [size for size, _ in held]
    checkpoints = [int(folder.name.rpartition("_")[2]) for folder in list_checkpoints(run)]
    return (
        seconds,
        len(processes),
        resident[0],
        sum(resident[1:]),
        sum(share for _, share in held),
        descriptors,
        max(checkpoints, default=0),
    )


def watch(process: subprocess.Popen, run: Path, minutes: float, interval: float) -> np.ndarray:
    """Samples (S, columns) of a run until its time is up; then it is ended.

    Raises:
        RuntimeError: the run ended by itself.
    """
    began, samples = time.monotonic(), []
    try:
        while (seconds := time.monotonic() - began) < 60 * minutes:
            time.sleep(interval)
            if process.poll() is not None:
                raise RuntimeError(f"the run ended with {process.returncode} after {seconds:.0f} s")
            try:
                samples.append(look(process.pid, run, seconds))
            except (FileNotFoundError, ProcessLookupError):
                continue  # a process ended while it was looked at: this sample is not whole
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    return np.array(samples)


def flatness(samples: np.ndarray) -> list[list[str]]:
    """Rows that compare the first and the last third of the samples, after the first tenth, with the trend between."""
    settled = samples[samples[:, 0] > samples[-1, 0] / 10]
    hours = settled[:, 0] / 3600
    thirds = np.array_split(settled, 3)
    rows = []
    for name, label in (
        ("main", "MiB resident, main process"),
        ("workers", "MiB resident, workers"),
        ("pss", "MiB of all together (PSS)"),
        ("descriptors", "open descriptors"),
        ("processes", "processes"),
    ):
        place = COLUMNS.index(name)
        first, last = thirds[0][:, place], thirds[-1][:, place]
        slope = np.polyfit(hours, settled[:, place], 1)[0]
        rows.append(
            [label, f"{first.mean():.1f}", f"{last.mean():.1f}", f"{first.max():.0f}", f"{last.max():.0f}"]
            + [f"{slope:+.1f}"]
        )
    return rows


def course(samples: np.ndarray, slices: int = 12) -> list[list[str]]:
    """Rows of means over equal stretches of time."""
    rows = []
    for part in np.array_split(samples, slices):
        means = dict(zip(COLUMNS, part.mean(axis=0), strict=True))
        rows.append(
            [f"{part[-1, 0] / 60:.0f}", f"{means['main']:.1f}", f"{means['workers']:.1f}", f"{means['pss']:.1f}"]
            + [f"{part[:, COLUMNS.index('descriptors')].max():.0f}", f"{part[-1, COLUMNS.index('checkpoint')]:.0f}"]
        )
    return rows


def failures(run: Path) -> list[str]:
    """What the log says about bad files, and about health."""
    rows = read_log(run / "log.jsonl")
    last = [row for row in rows if "failed_videos" in row][-1]
    causes = {name.partition("/")[2]: count for name, count in last.items() if name.startswith("failed_videos/")}
    health = [row for row in rows if "target_std" in row]
    lines = [f"{last['step']} optimizer steps, last loss {last['loss']:.3f}. Clips that could not be read: "]
    lines[0] += f"{last['failed_videos']:.0f}, by cause: "
    lines[0] += ", ".join(f"{cause} {count:.0f}" for cause, count in sorted(causes.items())) + "."
    if health:
        lines[0] += f" Last health line: target std {health[-1]['target_std']:.3f}."
    return lines


def health(run: Path) -> list[str]:
    """Table of the loss beside the health line, which explains it."""
    rows = read_log(run / "log.jsonl")
    lines = []
    for row in (row for row in rows if "target_std" in row):
        losses = [
            other["loss"] for other in rows if "loss" in other and row["step"] - 50 < other["step"] <= row["step"]
        ]
        cells = [f"{row[name]:.3f}" for name in ("target_std", "loss_ratio", "copy_ratio")]
        lines.append([row["step"], f"{np.mean(losses):.3f}", *cells, f"{row['target_rank']:.1f}"])
    header = ["step", "loss, mean of 50 steps", "target std", "loss ratio", "copy ratio", "target rank"]
    return table(header, lines[:: max(1, len(lines) // 16)])


def main() -> None:
    """Make the videos, run, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("output/toy_videos/train"), help="folder of good videos")
    parser.add_argument("--folder", type=Path, default=Path("output/soak_pretrain"), help="new folder to work in")
    parser.add_argument("--num-videos", type=int, default=400, help="copies, one in eight of them damaged")
    parser.add_argument("--minutes", type=float, default=60, help="length of the run")
    parser.add_argument("--interval", type=float, default=5, help="seconds from one sample to the next")
    parser.add_argument("--save-steps", type=int, help="steps between checkpoints; by default a minute of a short run")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()

    videos = options.folder / "videos"
    counts = make_videos(options.videos, videos, options.num_videos)
    save_steps = options.save_steps or calibrate(videos, options.folder)
    process = start(videos, options.folder, max_steps=1_000_000, save_steps=save_steps)
    samples = watch(process, options.folder / "run", options.minutes, options.interval)

    lines = opening("An hour of pretraining", __file__, __doc__, f"{len(samples)} samples in {options.minutes:g} min")
    damages = ", ".join(f"{count} {damage}" for damage, count in counts.items())
    lines += [
        f"{options.num_videos} videos, of them damaged: {damages}. A checkpoint every {save_steps} steps.",
        *failures(options.folder / "run"),
        "",
        "First and last third after the first tenth, and the slope of a line through them:",
        "",
        *table(["", "mean, first", "mean, last", "most, first", "most, last", "slope an hour"], flatness(samples)),
        "",
        *table(["until minute", "main", "workers", "PSS", "most descriptors", "newest checkpoint"], course(samples)),
        "",
        "The loss beside the figures that explain it:",
        "",
        *health(options.folder / "run"),
    ]
    publish(lines, options.output)


if __name__ == "__main__":
    main()
