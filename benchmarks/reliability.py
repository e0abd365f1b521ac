"""Long runs, kills and damaged files: does memory grow, is a killed run the same, does any other error come out?

    python benchmarks/reliability.py training --output benchmarks/results/reliability_training.md
    python benchmarks/reliability.py kills --output benchmarks/results/reliability_kills.md
    python benchmarks/reliability.py reading --videos FOLDER --output benchmarks/results/reliability_reading.md
    python benchmarks/reliability.py damaged --videos FOLDER --output benchmarks/results/reliability_damaged.md

A page is printed, and written where `--output` says; `--help` lists the options.
"""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import torch
import typer
from safetensors.torch import load_file

from report import HERE, Output, make_app, opening, publish, table
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.data import load_videos
from vjepa_hf.evaluation.detection import KeyFrame, KeyFrameClips
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile
from vjepa_hf.training.checkpoints import list_checkpoints
from vjepa_hf.training.log import read_log

EXAMPLES = HERE.parent / "examples"
app = make_app()


# --- training ------------------------------------------------------------------------------------------------------

DAMAGES = ("cut", "overwritten", "empty", "text")
# Of a sample: seconds since the start, MiB of all processes together and of the main process, as `mebibytes` counts
# them, and open descriptors of all.
COLUMNS = ("seconds", "MiB of all processes", "MiB of the main process", "open descriptors")


def spoil(video: bytes, damage: str, generator: random.Random) -> bytes:
    """Return a copy of a file that no decoder should be able to read to its end."""
    if damage == "cut":
        return video[: generator.randrange(1, len(video) // 2)]
    if damage == "overwritten":
        return generator.randbytes(len(video))
    return b"" if damage == "empty" else b"this was never a video\n"


def copy_with_damage(source: Path, folder: Path, num_videos: int) -> Counter:
    """Copy videos, every eighth of them damaged; return how many copies have each damage."""
    folder.mkdir()
    generator, counts = random.Random(0), Counter()
    for number, path in enumerate(sorted(source.glob("*.mp4"))[:num_videos]):
        video, damage = path.read_bytes(), DAMAGES[number // 8 % len(DAMAGES)]
        if number % 8 == 0:
            video, counts[damage] = spoil(video, damage, generator), counts[damage] + 1
        (folder / path.name).write_bytes(video)
    return counts


def start_training(videos: Path, run: Path, save_steps: int) -> subprocess.Popen:
    """Start examples/pretrain.py with its default configuration, in a process group of its own."""
    options = {"videos": videos, "output_dir": run, "num_workers": 2, "cpu_threads": 1, "max_failed_share": 0.5}
    options |= {"warmup_steps": 0, "max_steps": 1_000_000, "save_steps": save_steps}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen([sys.executable, EXAMPLES / "pretrain.py", *words], start_new_session=True)


def family(root: int) -> list[int]:
    """Return a process and all that it started, itself first."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended in the meantime
    members = [root]
    for process in members:
        members += [child for child, parent in parents.items() if parent == process]
    return members


def mebibytes(process: int) -> float:
    """Return the memory that a process allocated; what it shares with its children is divided among them.

    Mapped files, such as PyTorch's libraries, do not count: their share rises when another program that has them ends.
    """
    lines = Path("/proc", str(process), "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) / 2**10


def sample(root: int, seconds: float) -> tuple[float, ...]:
    """Return one sample, as `COLUMNS` describes it."""
    processes = family(root)
    memory = [mebibytes(process) for process in processes]
    return seconds, sum(memory), memory[0], sum(len(os.listdir(f"/proc/{process}/fd")) for process in processes)


def watch(process: subprocess.Popen, minutes: float, interval: float) -> np.ndarray:
    """Return samples (S, columns) of a run until its time is up, and stop it.

    Raises:
        RuntimeError: the run ended by itself.
    """
    began, samples = time.monotonic(), []
    try:
        while (seconds := time.monotonic() - began) < 60 * minutes:
            time.sleep(interval)
            if process.poll() is not None:
                raise RuntimeError(f"the run ended with status {process.returncode} after {seconds:.0f} s")
            try:
                samples.append(sample(process.pid, seconds))
            except (FileNotFoundError, ProcessLookupError):
                continue  # a process ended while it was looked at
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    return np.array(samples)


def growth_rows(samples: np.ndarray) -> list[list[str]]:
    """Compare the first and the last third of the samples after the first tenth, and fit a line through them."""
    settled = samples[samples[:, 0] > samples[-1, 0] / 10]
    thirds = np.array_split(settled, 3)
    rows = []
    for column, name in enumerate(COLUMNS[1:], start=1):
        slope = np.polyfit(settled[:, 0] / 3600, settled[:, column], 1)[0]
        first, last = thirds[0][:, column], thirds[-1][:, column]
        means = f"{first.mean():.1f}", f"{last.mean():.1f}"
        rows.append([name, *means, f"{first.max():.0f}", f"{last.max():.0f}", f"{slope:+.1f}"])
    return rows


def health_rows(log: list[dict[str, Any]]) -> list[list[str]]:
    """Return about 16 health lines, each with the mean loss of the 50 steps before it."""
    rows = []
    for line in (line for line in log if "target_std" in line):
        losses = [row["loss"] for row in log if "loss" in row and line["step"] - 50 < row["step"] <= line["step"]]
        ratios = [f"{line[name]:.3f}" for name in ("target_std", "loss_ratio", "copy_ratio")]
        rows.append([line["step"], f"{np.mean(losses):.3f}", *ratios, f"{line['target_rank']:.1f}"])
    return rows[:: max(1, len(rows) // 16)]


@app.command()
def training(
    videos: Annotated[Path, typer.Option(help="folder of good videos")] = Path("output/toy_videos/train"),
    num_videos: Annotated[int, typer.Option(help="copies, one in eight of them damaged")] = 400,
    minutes: Annotated[float, typer.Option(help="length of the run")] = 30,
    interval: Annotated[float, typer.Option(help="seconds from one sample to the next")] = 5,
    save_steps: Annotated[int, typer.Option(help="steps from one checkpoint to the next")] = 50,
    output: Output = None,
) -> None:
    """Pretrain with damaged videos and many checkpoints: do memory and descriptors stay flat?

    examples/pretrain.py runs with two workers on copies of the toy videos. One in eight is damaged: cut, overwritten,
    emptied, or replaced by text. Every few seconds the memory that its processes allocated (without mapped files) and
    their open descriptors are read from /proc. The learning rate is constant. Where other programs share the machine,
    the number of steps says nothing about speed; memory and descriptors do not depend on it.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        counts = copy_with_damage(videos, Path(folder) / "videos", num_videos)
        num_copies = len(os.listdir(Path(folder) / "videos"))
        samples = watch(start_training(Path(folder) / "videos", run, save_steps), minutes, interval)
        log = read_log(run / "log.jsonl")
    last = [line for line in log if "failed_videos" in line][-1]
    damages = ", ".join(f"{count} {damage}" for damage, count in counts.items())
    more = f"{len(samples)} samples in {minutes:g} min", f"a checkpoint every {save_steps} steps"
    header = ["step", "loss, mean of 50 steps", "target std", "loss ratio", "copy ratio", "target rank"]
    lines = [
        *opening(f"{minutes:g} minutes of pretraining", "reliability.py training", training.__doc__, *more),
        f"{num_copies} videos, of them damaged: {damages}. {last['step']} optimizer steps, last loss "
        f"{last['loss']:.3f}; {last['failed_videos']:.0f} clips could not be read.",
        "",
        "First and last third of the samples after the first tenth, and the slope of a line through them:",
        "",
        *table(["", "mean, first", "mean, last", "most, first", "most, last", "slope an hour"], growth_rows(samples)),
        "",
        "The loss and the health metrics that explain it:",
        "",
        *table(header, health_rows(log)),
    ]
    publish(lines, output)


# --- kills ---------------------------------------------------------------------------------------------------------

TINY = {"image_size": 32, "num_frames": 8, "patch_size": 8, "hidden_size": 192, "num_hidden_layers": 4}
TINY |= {"num_attention_heads": 3, "pred_hidden_size": 48, "pred_num_hidden_layers": 1}
# When a run is killed -> files that show it, in the folder of the run; None: at a random time.
MOMENTS = {"anywhere": None, "saving": "checkpoints/unfinished_*/*", "exporting": "unfinished_export/*"}
POLL_SECONDS = 0.0005


def start_tiny(videos: Path, run: Path, steps: int, resume: bool) -> subprocess.Popen:
    """Start a small pretraining run, in a process group of its own."""
    options: dict[str, Any] = {f"model.{name}": value for name, value in TINY.items()}
    options |= {"videos": videos, "output_dir": run, "max_steps": steps, "warmup_steps": 1, "save_steps": 2}
    options |= {"per_device_batch_size": 2, "logging_steps": 1, "health_steps": 5, "num_workers": 1, "cpu_threads": 1}
    options |= {"resume": "true"} if resume else {"overwrite_output_dir": "true"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, EXAMPLES / "pretrain.py", *words]
    with printed(run).open("w") as file:
        return subprocess.Popen(command, start_new_session=True, stdout=file, stderr=file)


def printed(run: Path) -> Path:
    """Return the file with what the last start of a run printed."""
    return run.with_name(f"{run.name}.txt")


def half_written(run: Path, moment: str) -> set[tuple[Path, int]]:
    """Return the files, and their times, that a run has only at one of `MOMENTS`."""
    found = set()
    for path in run.glob(MOMENTS[moment] or "nothing"):
        with suppress(FileNotFoundError):  # it is complete by now
            found.add((path, path.stat().st_mtime_ns))
    return found


def kill(process: subprocess.Popen, run: Path, moment: str, seconds: float) -> bool:
    """Kill a run at a moment; "anywhere" is some seconds after its log exists. Return whether it was alive."""
    before, deadline = half_written(run, moment), None
    while process.poll() is None:
        if half_written(run, moment) - before:
            break
        if moment == "anywhere" and deadline is None and (run / "log.jsonl").exists():
            deadline = time.monotonic() + seconds
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def finish_tiny(videos: Path, run: Path, steps: int, resume: bool) -> None:
    """Let a run end by itself.

    Raises:
        RuntimeError: it fails.
    """
    if status := start_tiny(videos, run, steps, resume).wait():
        raise RuntimeError(f"a run ended with status {status}: {printed(run).read_text()[-2000:]}")


def differences(first: Path, second: Path) -> dict[str, int]:
    """Count the differences of two runs: rows of the log, tensors of the newest checkpoint, bytes of the export."""
    last = [list_checkpoints(run)[-1] for run in (first, second)]
    logs = [
        [(row["step"], row.get("loss"), row.get("target_std")) for row in read_log(run / "log.jsonl")]
        for run in (first, second)
    ]
    states = [torch.load(folder / "optimizer.bin", weights_only=True)["state"] for folder in last]
    tensors = [
        load_file(folder / "model.safetensors")
        | {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}
        for folder, state in zip(last, states, strict=True)
    ]
    exported = [
        {file.name: file.read_bytes() for file in run.iterdir() if file.suffix in (".json", ".safetensors")}
        for run in (first, second)
    ]
    rows = sum(a != b for a, b in zip_longest(*logs))
    same = tensors[0].keys() == tensors[1].keys()
    unequal = sum(not torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0]) if same else -1
    files = exported[0].keys() | exported[1].keys()
    return {
        "rows of the log": rows,
        f"tensors of the newest of the checkpoints, of {len(tensors[0])}": unequal,
        f"files of the export, of {len(files)}": sum(exported[0].get(name) != exported[1].get(name) for name in files),
    }


@app.command()
def kills(
    videos: Annotated[Path, typer.Option(help="folder of videos")] = Path("output/toy_videos/train"),
    num_kills: Annotated[int, typer.Option(help="kills: a third anywhere, while saving, while exporting")] = 40,
    steps: Annotated[int, typer.Option(help="optimizer steps of the run")] = 200,
    seed: Annotated[int, typer.Option(help="seed of the moments")] = 0,
    output: Output = None,
) -> None:
    """Kill a run again and again and resume it: is it the uninterrupted one, exported folder included?

    A third of the kills hit a random moment, a third the writing of a checkpoint, a third the export. After the last
    one the run is resumed to its end. Its log, the newest checkpoint (weights and optimizer) and all exported files
    are compared with those of a run that was never killed. If the run ends before enough kills, it starts again.
    """
    generator, counts, attempts = random.Random(seed), Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        straight, run = Path(folder) / "straight", Path(folder) / "run"
        finish_tiny(videos, straight, steps, resume=False)
        inside: Counter[str] = Counter()
        while counts.total() < num_kills and attempts < 4 * num_kills:
            attempts += 1
            moment = list(MOMENTS)[attempts % len(MOMENTS)]
            resume = run.exists() and bool(list_checkpoints(run))
            before = {name: half_written(run, name) for name in MOMENTS}
            process = start_tiny(videos, run, steps, resume)
            if kill(process, run, moment, generator.uniform(0, 3)):
                counts[moment] += 1
                inside.update(name for name in MOMENTS if half_written(run, name) - before[name])
            else:
                finish_tiny(videos, run, steps, resume=True)
                if sum(differences(straight, run).values()):
                    raise RuntimeError(f"the run differs after {counts.total()} kills: {differences(straight, run)}")
                shutil.rmtree(run)
        finish_tiny(videos, run, steps, resume=bool(list_checkpoints(run)))
        found = differences(straight, run)
    lines = opening("Killed runs", "reliability.py kills", kills.__doc__, f"seed {seed}", f"{steps} steps")
    lines += [f"{counts.total()} kills, of which {inside.total()} left a half-written checkpoint or export.", ""]
    lines += [*table(["aimed at", "kills"], sorted(counts.items())), ""]
    lines += [*table(["left half-written", "kills"], sorted(inside.items())), ""]
    publish([*lines, *table(["differences from the uninterrupted run", "number"], found.items())], output)


# --- reading -------------------------------------------------------------------------------------------------------


@app.command()
def reading(
    videos: Annotated[Path, typer.Option(help="folder or list of videos")],
    opens: Annotated[int, typer.Option(help="videos to open, one after the other")] = 10_000,
    output: Output = None,
) -> None:
    """Open ten thousand videos in one process: does memory grow?

    One random frame of a random video at a time.
    """
    torch.set_num_threads(1)
    paths, generator, rows = list(load_videos(videos)["video"]), random.Random(0), []
    for count in range(1, opens + 1):
        with VideoFile(generator.choice(paths)) as video:
            video.frames([int(generator.random() * video.info.num_frames)])
        if count % max(1, opens // 10) == 0:
            descriptors = len(os.listdir("/proc/self/fd"))
            rows.append([count, f"{mebibytes(os.getpid()):.1f}", descriptors])
    title, version = "Opening videos again and again", f"PyAV {av.__version__}"
    lines = opening(title, "reliability.py reading", reading.__doc__, version)
    publish([*lines, *table([f"opens of {len(paths)} videos", "MiB allocated", "open files"], rows)], output)


# --- damaged -------------------------------------------------------------------------------------------------------

TIME_LIMIT = 60  # seconds for one damaged file
MEMORY_LIMIT = 6 << 30  # bytes that a damaged header may make a decoder ask for
KINDS = ("flip", "cut", "splice", "move")


def ways_to_read() -> dict[str, Callable[[bytes], object]]:
    """Return the readers that a damaged copy goes through."""
    processor = VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2, num_clips=2)
    arrays = [np.zeros(shape, np.float32) for shape in ((1, 4), (1, 1), (1,))]
    key_frame = KeyFrame("clip", 0.5, *arrays)

    def read(data: bytes) -> None:
        with VideoFile(data) as video:
            num_frames = video.info.num_frames
            video.frames([0, num_frames // 2, num_frames - 1])

    def detect(data: Any) -> None:
        KeyFrameClips([key_frame], {"clip": data}, processor, frame_rate=25).decode(key_frame)

    return {"VideoFile": read, "processor": processor, "detection": detect}


def damaged_copy(data: bytes, seed: int) -> tuple[str, bytes]:
    """Return the kind of damage and a damaged copy, both a function of the seed."""
    generator, copy, kind = random.Random(seed), bytearray(data), KINDS[seed % len(KINDS)]
    start, length = generator.randrange(len(data)), generator.randrange(1, 2000)
    if kind == "flip":
        for _ in range(generator.choice((1, 20, 400))):
            copy[generator.randrange(len(copy))] ^= 1 << generator.randrange(8)
    elif kind == "cut":
        del copy[start:]
    elif kind == "splice":
        del copy[start : start + length]
    else:
        elsewhere = generator.randrange(len(data))
        copy[start : start + length] = data[elsewhere : elsewhere + length]
    return kind, bytes(copy)


def read_damaged(connection: Connection) -> None:
    """Read every file that arrives and send what happened, until None arrives."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    av.logging.set_level(None)
    ways = ways_to_read()
    connection.send("ready")
    unexpected = TypeError, AttributeError, AssertionError, ValueError, RuntimeError, OSError, ArithmeticError
    unexpected += LookupError, MemoryError
    while (request := connection.recv()) is not None:
        way, data = request
        try:
            ways[way](data)
            connection.send("frames")
        except VideoDecodeError:
            connection.send("VideoDecodeError")
        except unexpected as error:
            connection.send(f"{type(error).__name__}: {error}")


class Reader:
    """A child process that reads damaged files, so that a crash or a hang of the decoder is seen."""

    def __init__(self) -> None:
        self.connection, end = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=read_damaged, args=(end,), daemon=True)
        self.process.start()
        end.close()
        self.connection.recv()

    def outcome(self, way: str, data: bytes) -> str:
        """Return `frames`, the name of an error, `crash` or `hang`; the last two end the process."""
        self.connection.send((way, data))
        try:
            return self.connection.recv() if self.connection.poll(TIME_LIMIT) else self.end("hang")
        except EOFError:
            return self.end("crash")

    def end(self, outcome: str) -> str:
        """Kill the process."""
        self.process.kill()
        return outcome


@app.command()
def damaged(
    videos: Annotated[Path, typer.Option(help="folder of files to damage")],
    copies: Annotated[int, typer.Option(help="damaged copies")] = 2_000,
    largest: Annotated[int, typer.Option(help="bytes of the largest file that is damaged")] = 1 << 20,
    seed: Annotated[int, typer.Option(help="seed of the damage")] = 0,
    output: Output = None,
) -> None:
    """Read damaged copies of video files: does anything come out but frames or the one documented error?

    Damage is seeded: bits flipped, the end cut off, a piece cut out or copied to another position. Each copy is read
    three times: three frames of it, two clips by the processor, and a clip around a key frame as detection does. A
    child process with a limit of time and memory reads, so that a crash and a hang are seen.
    """
    files = sorted(path for path in videos.rglob("*") if path.is_file() and 0 < path.stat().st_size < largest)
    outcomes, longest, reader, ways = Counter(), 0.0, Reader(), list(ways_to_read())
    for number in range(copies):
        path = files[number % len(files)]
        kind, data = damaged_copy(path.read_bytes(), seed * copies + number)
        for way in ways:
            began = time.monotonic()
            outcome = reader.outcome(way, data)
            longest = max(longest, time.monotonic() - began)
            outcomes[kind, way, outcome] += 1
            if outcome not in ("frames", "VideoDecodeError"):
                print(f"copy {number}, {path.name}, {kind}, {way}: {outcome}", flush=True)
            if outcome in ("hang", "crash"):
                reader = Reader()
    reader.end("done")
    lines = opening(
        "Damaged files", "reliability.py damaged", damaged.__doc__, f"PyAV {av.__version__}", f"seed {seed}"
    )
    lines += [f"{copies} damaged copies of {len(files)} files; the slowest took {longest:.1f} s.", ""]
    rows = [[*key, count] for key, count in sorted(outcomes.items())]
    publish([*lines, *table(["damage", "read by", "outcome", "copies"], rows)], output)


if __name__ == "__main__":
    app()
