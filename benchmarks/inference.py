"""Features compared: clips with V-JEPA 2 of transformers, long videos with a clip at a time, surprise with features.

    python benchmarks/inference.py clips --output benchmarks/results/inference_clips.md
    python benchmarks/inference.py rotation --output benchmarks/results/inference_rotation.md
    python benchmarks/inference.py videos --video LONG.mp4 --output benchmarks/results/inference_videos.md
    python benchmarks/inference.py surprise --output benchmarks/results/inference_surprise.md

A page is printed, and written where `--output` says; `--help` lists the options.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import torch
import transformers
import typer
import yaml
from transformers import VJEPA2Config, VJEPA2Model

from programs import EXAMPLES
from report import Output, make_app, opening, publish, table
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.conversion.transformers_format import config_from_transformers, from_transformers
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler
from vjepa_hf.data.videos import decode_video, probe_video
from vjepa_hf.evaluation.dense_features import plan_windows, stream_features, write_features
from vjepa_hf.evaluation.surprise import surprise as measure_surprise
from vjepa_hf.model.frame_sampling import frame_offsets
from vjepa_hf.training.flops import encoder_flops, predictor_flops

# Width, layers and heads.
MODELS = {"ViT-S": (384, 12, 6), "ViT-B": (768, 12, 12), "ViT-L": (1024, 24, 16)}
PUBLISHED = MODELS | {"ViT-H": (1280, 32, 16)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STRIDE = 8  # frames from one window of a long video to the next, half a clip
app = make_app()


# --- clips ---------------------------------------------------------------------------------------------------------


def make_models(
    name: str, num_frames: int, image_size: int, dtype: torch.dtype, compiled: bool, device: str
) -> list[torch.nn.Module]:
    """Return V-JEPA 2 and our encoder, of one size and with random weights."""
    width, layers, heads = MODELS[name]
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"crop_size": image_size, "frames_per_clip": num_frames, "patch_size": 16, "tubelet_size": 2}
    theirs, ours = VJEPA2Model(VJEPA2Config(**sizes)), VJEPAModel(VJEPAConfig(**sizes), add_predictor=False)
    if compiled:
        for layer in (*theirs.encoder.layer, *ours.encoder.layers):
            layer.compile()
    return [model.eval().to(device, dtype) for model in (theirs, ours)]


def take_turns(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    clock: Callable[[], float],
    gradients: Callable = torch.inference_mode,
) -> list[list[float]]:
    """Return the seconds of each call in each round, after two warm-up rounds."""
    times = []
    with gradients():
        for _ in range(rounds + 2):
            times.append([])
            for call in calls:
                began = clock()
                call()
                times[-1].append(clock() - began)
    return times[2:]


def clock_of(device: str, threads: int) -> Callable[[], float]:
    """Return a clock; for one CPU thread it counts CPU time, which other programs do not affect."""
    if device == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def clock() -> float:
        torch.accelerator.synchronize()
        return time.perf_counter()

    return clock


@app.command()
def clips(
    models: Annotated[list[str], typer.Option(help=f"one of {', '.join(MODELS)}; repeat")] = ("ViT-S",),
    num_clips: Annotated[int, typer.Option(help="clips of a batch")] = 1,
    num_frames: Annotated[int, typer.Option(help="frames of a clip")] = 16,
    image_size: Annotated[int, typer.Option(help="height and width of a clip")] = 224,
    precisions: Annotated[list[str], typer.Option(help=f"of {', '.join(DTYPES)}; repeat")] = tuple(DTYPES),
    compiled: Annotated[bool, typer.Option(help="also compile the layers of both")] = True,
    rounds: Annotated[int, typer.Option(help="measured rounds")] = 7,
    threads: Annotated[int, typer.Option(help="CPU threads")] = os.cpu_count() or 1,
    output: Output = None,
) -> None:
    """Compare our encoder with V-JEPA 2 in transformers at equal width, layers and number of tokens.

    Random weights and clips of noise on the device, without gradients and without predictors. The two models take
    turns, so that a slower moment of the machine affects both. V-JEPA 2 rotates queries and keys by their positions in
    every layer, V-JEPA adds a table once, so the features differ and only the time is compared. "Compiled" is
    `torch.compile` of every layer, the same for both. The ratio is V-JEPA 2's time over ours in the same round: median
    and quartiles.
    """
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name in models:
        for precision in precisions:
            dtype = DTYPES[precision]
            for compile_layers in (False, True) if compiled else (False,):
                theirs, ours = make_models(name, num_frames, image_size, dtype, compile_layers, device)
                batch = torch.randn(num_clips, num_frames, 3, image_size, image_size).to(device, dtype)
                calls = [lambda: theirs(batch, skip_predictor=True), lambda: ours(batch)]  # noqa: B023
                times = take_turns(calls, rounds, clock_of(device, threads))
                medians = [statistics.median(column) for column in zip(*times, strict=True)]
                low, middle, high = statistics.quantiles([a / b for a, b in times], n=4, method="inclusive")
                row = [name, precision, "yes" if compile_layers else "no", *(f"{value:.3f}" for value in medians)]
                rows.append([*row, f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{num_clips / medians[1]:.2f}"])
    shape = f"{num_clips} clip(s) of {num_frames} x {image_size} x {image_size}"
    more = f"transformers {transformers.__version__}", shape, f"{rounds} rounds", f"load {os.getloadavg()[0]:.1f}"
    header = ["encoder", "precision", "compiled", "V-JEPA 2, s", "ours, s", "V-JEPA 2 / ours", "our clips / s"]
    lines = opening("Features of clips, compared with V-JEPA 2", "inference.py clips", clips.__doc__, *more)
    publish([*lines, *table(header, rows)], output)


# --- rotation ------------------------------------------------------------------------------------------------------


def make_rotary_models(name: str, num_frames: int, image_size: int) -> tuple[VJEPA2Model, VJEPAModel, VJEPAModel]:
    """Return V-JEPA 2, ours with the same weights, and ours of the same size with a position table."""
    width, layers, heads = MODELS[name]
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    theirs = VJEPA2Model(VJEPA2Config(**sizes, crop_size=image_size, frames_per_clip=num_frames))
    config = config_from_transformers(theirs.config, has_pooler=False)
    ours = VJEPAModel(config)
    weights = from_transformers(theirs.state_dict())
    ours.load_state_dict({name.removeprefix("vjepa."): value for name, value in weights.items()})
    return theirs, ours, VJEPAModel(VJEPAConfig(**config.to_dict() | {"position_embedding_type": "sincos"}))


def training_step(config: VJEPAConfig, batch: torch.Tensor) -> Callable[[], None]:
    """Return the forward and backward passes of a step over both published mask types."""
    model = VJEPAForPreTraining(config).to(batch.device)
    sampler = MaskSampler([SHORT_RANGE, LONG_RANGE], config.grid_size)
    lists = sampler([(0, index) for index in range(len(batch))])
    masks = [[mask.to(batch.device) for mask in kind] for kind in lists]

    def step() -> None:
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.dtype == torch.bfloat16):
            model(batch.float(), *masks).loss.backward()

    return step


@app.command()
def rotation(
    models: Annotated[list[str], typer.Option(help=f"one of {', '.join(MODELS)}; repeat")] = ("ViT-S",),
    num_clips: Annotated[int, typer.Option(help="clips of a batch")] = 1,
    num_frames: Annotated[int, typer.Option(help="frames of a clip")] = 16,
    image_size: Annotated[int, typer.Option(help="height and width of a clip")] = 256,
    rounds: Annotated[int, typer.Option(help="measured rounds")] = 7,
    threads: Annotated[int, typer.Option(help="CPU threads")] = os.cpu_count() or 1,
    output: Output = None,
) -> None:
    """Measure what rotary positions cost: V-JEPA 2 in transformers, ours on the same weights, ours with a table.

    Encoder: forward passes without gradients. Step: forward and backward passes of our pretraining model over both
    published mask types, with autocast for bf16. The models take turns, so that a slower moment of the machine affects
    all. Ratios are medians over the rounds, with quartiles.
    """
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name in models:
        encoders = [model.eval().to(device) for model in make_rotary_models(name, num_frames, image_size)]
        theirs, ours, table_model = encoders
        for precision, dtype in DTYPES.items():
            batch = torch.randn(num_clips, num_frames, 3, image_size, image_size).to(device, dtype)
            for model in encoders:
                model.to(dtype)
            calls = [lambda: theirs(batch, skip_predictor=True), lambda: ours(batch), lambda: table_model(batch)]  # noqa: B023
            times = take_turns(calls, rounds, clock_of(device, threads))
            steps = [training_step(model.config, batch) for model in (ours, table_model)]
            step_times = take_turns(steps, rounds, clock_of(device, threads), torch.enable_grad)
            ratios = ([row[0] / row[1] for row in times], [row[1] / row[2] for row in times])
            ratios += ([row[0] / row[1] for row in step_times],)
            medians = (f"{statistics.median(column):.3f}" for column in zip(*times, strict=True))
            rows.append([name, precision, *medians, *map(spread, ratios)])
    shape = f"{num_clips} clip(s) of {num_frames} x {image_size} x {image_size}"
    more = f"transformers {transformers.__version__}", shape, f"{rounds} rounds", f"load {os.getloadavg()[0]:.1f}"
    header = ["encoder", "precision", "V-JEPA 2, s", "ours, s", "table, s", "V-JEPA 2 / ours", "ours / table"]
    lines = opening("Cost of rotary positions", "inference.py rotation", rotation.__doc__, *more)
    publish([*lines, *table([*header, "step: ours / table"], rows)], output)


def spread(ratios: Sequence[float]) -> str:
    """Return median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


# --- long videos ---------------------------------------------------------------------------------------------------


def write_video(source: Path, seconds: float, path: Path) -> Path:
    """Copy the packets of a video, cut or repeated so that the copy lasts `seconds`."""
    with av.open(str(source)) as container, av.open(str(path), "w") as target:
        video = container.streams.video[0]
        length = max(packet.pts + packet.duration for packet in container.demux(video) if packet.size)
        copy, until = target.add_stream_from_template(video), int(seconds / video.time_base)
        for shift in range(0, until, length):
            container.seek(0, stream=video)
            for packet in container.demux(video):
                if packet.size and shift + packet.dts < until:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                    target.mux(packet)
    return path


def peak_mebibytes() -> float:
    """Return the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def streamed(model: VJEPAModel, processor: VJEPAVideoProcessor, video: str) -> None:
    """Write the features of a video as `vjepa-hf` does."""
    with tempfile.TemporaryDirectory() as folder:
        pieces = stream_features(model, processor, video, STRIDE)
        write_features(pieces, Path(folder) / "features.safetensors", {})


def clip_by_clip(model: VJEPAModel, processor: VJEPAVideoProcessor, video: str) -> None:
    """Decode and encode every window of a video by itself."""
    step, size = processor.frame_step, model.config.tubelet_size
    numbers = frame_offsets(-(-probe_video(video).num_frames // step), step)
    for window in plan_windows(len(numbers) // size, processor.num_frames // size, STRIDE // size):
        frames = numbers[window.start * size : window.start * size + processor.num_frames]
        with torch.inference_mode():
            model(processor(decode_video(video, frames))["pixel_values_videos"])


WAYS = {"streamed": streamed, "clip by clip": clip_by_clip}


@app.command(hidden=True)
def one_video(video: str, way: str) -> None:
    """Compute the features of a video in one way and print processor seconds and MiB; run by `videos`."""
    torch.set_num_threads(1)
    config = VJEPAConfig(hidden_size=192, num_hidden_layers=6, num_attention_heads=3, image_size=112)
    model, processor = VJEPAModel(config, add_predictor=False).eval(), VJEPAVideoProcessor(crop_size=112)
    with torch.inference_mode():
        model(torch.zeros(4, 16, 3, 112, 112))
    before, began = peak_mebibytes(), time.process_time()
    WAYS[way](model, processor, video)
    print(json.dumps({"seconds": time.process_time() - began, "memory": peak_mebibytes() - before}))


@app.command()
def videos(
    video: Annotated[Path, typer.Option(help="a long video")],
    seconds: Annotated[list[float], typer.Option(help="lengths to cut or repeat it to; repeat")] = (20, 139, 417),
    rounds: Annotated[int, typer.Option(help="runs of each way")] = 3,
    output: Output = None,
) -> None:
    """Compare the features of a long video in one pass with decoding and encoding every window by itself.

    The video is cut or repeated packet by packet, so that all lengths have the same frames in the same coding.
    "Streamed" is what `vjepa-hf` does for features at a stride; "clip by clip" decodes the frames of every window.
    Windows overlap by half in both. The encoder is a small one with random weights, so that reading the video is a
    fair part of the work. Every run has a process of its own, on one thread; numbers are medians. Memory is the peak
    beyond what the process held before the video was opened.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in seconds:
            path = write_video(video, length, Path(folder) / f"{length:g}.mp4")
            info, runs = probe_video(path), {way: [] for way in WAYS}
            for _ in range(rounds):
                for way, measured in runs.items():
                    command = [sys.executable, __file__, "one_video", str(path), way]
                    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    measured.append(json.loads(result.stdout.splitlines()[-1]))
            spent = {way: statistics.median(run["seconds"] for run in runs[way]) for way in WAYS}
            for way, measured in runs.items():
                memory = statistics.median(run["memory"] for run in measured)
                cost = f"{1000 * spent[way] / info.duration:.1f}", f"{spent[way] / spent['streamed']:.2f}"
                rows.append([f"{info.duration:.0f} s, {info.num_frames:,} frames", way, *cost, f"{memory:.0f}"])
    header = ["video", "", "ms of processor time a second of video", "this / streamed", "memory, MiB"]
    lines = opening("Features of long videos", "inference.py videos", videos.__doc__, f"PyAV {av.__version__}")
    publish([*lines, f"Runs of each way: {rounds}.", "", *table(header, rows)], output)


# --- surprise ------------------------------------------------------------------------------------------------------


def surprise_configs() -> dict[str, VJEPAConfig]:
    """Return the default run, and encoders of published sizes with the published predictor and clips."""
    toy = yaml.safe_load((EXAMPLES / "configs" / "tiny_cpu.yaml").read_text())["model"]
    sizes = {
        name: VJEPAConfig(hidden_size=d, num_hidden_layers=n, num_attention_heads=h)
        for name, (d, n, h) in PUBLISHED.items()
    }
    return {"toy": VJEPAConfig(**toy)} | sizes


@app.command()
def surprise(
    timed: Annotated[list[str], typer.Option(help="encoders to time; repeat")] = ("toy", "ViT-B"),
    num_windows: Annotated[int, typer.Option(help="windows of the video")] = 2,
    rounds: Annotated[int, typer.Option(help="measured rounds")] = 3,
    output: Output = None,
) -> None:
    """Compare the cost of surprise and of dense features over the same windows, one per time step.

    Dense features are one pass of the encoder per window. Surprise is that pass, a pass over the visible time steps,
    an eighth of the window and at least one, and the predictor over the whole window. "toy" is the default run; the
    predictor of the larger encoders has 12 layers of width 384, and their clips are 16 x 224 x 224, as published.
    FLOPs are those of the matmuls. Times are of random weights and a video of noise in memory, with all preprocessing,
    on one CPU thread, in processor time; the two take turns. The ratio of times is the median over the rounds, with
    quartiles.
    """
    torch.set_num_threads(1)
    rows = []
    for name, config in surprise_configs().items():
        t, h, w = config.grid_size
        visible = max(1, t // 8)
        extra = encoder_flops(config, visible * h * w)
        extra += predictor_flops(config, visible * h * w, (t - visible) * h * w)
        ratio = f"{1 + extra / encoder_flops(config):.2f}"
        times = time_surprise(config, num_windows, rounds) if name in timed else ["", "", ""]
        rows.append([name, f"{visible} of {t}", ratio, *times])
    header = ["encoder", "visible time steps", "FLOPs, ratio", "features, s a window", "surprise, s a window"]
    lines = opening("Cost of surprise", "inference.py surprise", surprise.__doc__, f"{rounds} rounds")
    publish([*lines, *table([*header, "time, ratio"], rows)], output)


def time_surprise(config: VJEPAConfig, num_windows: int, rounds: int) -> list[str]:
    """Return the seconds of a window for dense features and for surprise, and their ratio."""
    model, side = VJEPAModel(config).eval(), config.image_size
    processor = VJEPAVideoProcessor(size=side, crop_size=side, num_frames=config.num_frames, frame_step=1)
    shape = (config.num_frames + 2 * (num_windows - 1), side, side, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    calls = [
        lambda: list(stream_features(model, processor, video, stride=2)),
        lambda: measure_surprise(model, video, processor),
    ]
    times = list(zip(*take_turns(calls, rounds, time.process_time, torch.no_grad), strict=True))
    seconds = [f"{statistics.median(column) / num_windows:.3g}" for column in times]
    return [*seconds, spread([two / one for one, two in zip(*times, strict=True)])]


if __name__ == "__main__":
    app()
