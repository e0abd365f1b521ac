"""The `vjepa-hf` command line."""

import importlib
import importlib.metadata
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from tqdm import tqdm

from .conversion.meta import convert as convert_checkpoint
from .conversion.meta import export_to_meta
from .conversion.transformers_format import export_to_transformers
from .data.checks import Check, CheckedVideos, problems, write_list
from .data.sources import load_videos
from .evaluation.comparison import generated_names, load_set_encoder, summary, write_comparison
from .evaluation.dense_features import stream_features, write_features
from .evaluation.embedding import VectorEncoder
from .evaluation.export import (
    SUFFIXES,
    about,
    check_format,
    linear_layers,
    load_exportable,
    measure_drift,
    open_exported,
    readable_inputs,
    run_lines,
    weights_file,
    write_exported,
)
from .evaluation.loading import load_encoder
from .evaluation.search import load_table_encoder, nearest_videos
from .evaluation.surprise import check_suffix, write_surprise
from .evaluation.surprise import surprise as measure_surprise
from .evaluation.vector_table import VectorTable
from .files import parents_of, whole_file
from .look.clip import look_at
from .look.page import write_page
from .look.regions import read_box
from .model.frame_sampling import clip_span
from .model.names import printable
from .model.video_inputs import open_video
from .training.arguments import mistakes_exit, shipped_configs
from .training.flops import matmul_rate

PACKAGES = ("vjepa_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "av", "numpy")


class _Commands(typer.core.TyperGroup):
    """Commands that replace ~ by the home folder in every word; shells do not do it in `--model=~/mine`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [re.sub("^(--[^=]+=)?(~.*)", _without_tilde, word) for word in args])


def _without_tilde(word: re.Match[str]) -> str:
    return (word[1] or "") + os.path.expanduser(word[2])


# Options have underscores, like those of the scripts in examples/; `--num-clips` is read as `--num_clips`.
app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_")},
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(importlib.metadata.version("vjepa_hf"))
        raise typer.Exit


@app.callback(epilog="Example: vjepa-hf pretrain --max_steps 50")
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """V-JEPA for Hugging Face: train video encoders without labels, evaluate them, and use them."""


# --- scripts of vjepa_hf.examples ------------------------------------------------------------------------------------

# Command -> module, help, and options of the example.
SCRIPTS = {
    "pretrain": (
        "pretrain",
        "Pretrain on unlabelled videos; without options, a tiny model on generated videos, in minutes.",
        "--config vitl16 --videos FOLDER --output_dir output/mine",
    ),
    "probe": (
        "probe",
        "Train an attentive probe on the frozen features of a model, and test it.",
        "--model output/mine --train_videos train.csv --test_videos test.csv --label action",
    ),
    "finetune": (
        "finetune",
        "Fine-tune an encoder, or adapters in it, on labelled videos.",
        "--model output/mine --train_videos train.csv --label action --output_dir output/finetune",
    ),
    "classify": (
        "classify_video",
        "Print the most likely classes of videos.",
        "--model output/probe --videos my_video.mp4",
    ),
    "detect-actions": (
        "detect_actions",
        "Train and test action detection, on AVA or a data set in its file format.",
        "--model output/mine --image_size 72",
    ),
    "demo": (
        "space.app",
        "Serve a page where people upload a video and see what a model saw in it.",
        "--model output/mine",
    ),
}


def _add_script(command: str, module: str, text: str, example: str) -> None:
    """Add a command that runs the `main` of a script in this process; the script parses the options."""
    unparsed = {"ignore_unknown_options": True, "allow_extra_args": True}
    panel = "Train and evaluate"

    @app.command(command, help=text, add_help_option=False, context_settings=unparsed, rich_help_panel=panel)
    def run(context: typer.Context) -> None:
        words = [re.sub(r"^--[\w-]+", _with_underscores, word) for word in context.args]
        if {"-h", "--help"} & set(words):
            typer.echo(f"{text}\nExample: vjepa-hf {command} {example}\n")
        sys.argv = [f"vjepa-hf {command}", *words]
        importlib.import_module(f"vjepa_hf.examples.{module}").main()


def _with_underscores(option: re.Match[str]) -> str:
    return "--" + option[0].removeprefix("--").replace("-", "_")


for _command, _script in SCRIPTS.items():
    _add_script(_command, *_script)


@app.command(epilog="Example: vjepa-hf configs vitl16 > mine.yaml")
def configs(
    name: Annotated[str | None, typer.Argument(help="configuration to print (default: list all)")] = None,
) -> None:
    """List the shipped configurations of `vjepa-hf pretrain --config NAME`, or print one."""
    files = shipped_configs()
    with mistakes_exit():
        if name is not None and name not in files:
            raise ValueError(f"configuration {name!r} is not one of {', '.join(files)}")
    if name is not None:
        typer.echo(files[name].read_text(), nl=False)
        return
    for stem, file in files.items():
        first_line = file.read_text().splitlines()[0]
        typer.echo(f"{stem:<19}{first_line.removeprefix('# ').split('. ')[0].rstrip('.')}")


# --- commands of the package -----------------------------------------------------------------------------------------


@app.command(epilog="Example: vjepa-hf env")
def env() -> None:
    """Print versions, devices and matmul throughput, for a bug report."""
    installed = {distribution.name.lower().replace("-", "_") for distribution in importlib.metadata.distributions()}
    rows = {"python": platform.python_version(), "platform": platform.platform()}
    rows |= {name: importlib.metadata.version(name) if name in installed else "not installed" for name in PACKAGES}
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows |= {"cuda": torch.version.cuda or "none", "gpus": ", ".join(devices) or "none"}
    rows["cpu threads"] = str(torch.get_num_threads())
    device = "cuda" if devices else "cpu"
    for dtype in (torch.float32, torch.bfloat16):
        rows[f"{device} {str(dtype).removeprefix('torch.')}"] = f"{matmul_rate(device, dtype) / 1e9:.0f} GFLOP/s"
    for name, value in rows.items():
        typer.echo(f"{name:<15}{value}")


# Arguments and options of several commands.
VideoArgument = Annotated[str, typer.Argument(help="path or URL of a video")]
FeatureFile = Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write")]
ModelOption = Annotated[str, typer.Option("--model", help="folder or Hub name of a model")]
BatchSize = Annotated[int, typer.Option("--batch_size", min=1, help="clips per forward pass")]
NumWorkers = Annotated[int, typer.Option("--num_workers", min=0, help="worker processes that decode")]
VideoColumn = Annotated[str | None, typer.Option("--video_column", help="column with the videos")]


@app.command(epilog="Example: vjepa-hf features my_video.mp4 --model output/mine --output features.safetensors")
def features(
    video: VideoArgument,
    output: FeatureFile,
    model: ModelOption = "output/pretrain",
    num_clips: Annotated[int, typer.Option("--num_clips", min=1, help="evenly spaced clips")] = 1,
) -> None:
    """Write the features of V clips of a video: `features` (V, t, h, w, D) and `timestamps` (V, t).

    A timestamp is the time of the first frame of a time step, in seconds.
    """
    with mistakes_exit(), _new_file(output, video) as unfinished:
        encoder, processor = load_encoder(model)
        # (1, V, T, C, H, W), or (1, T, C, H, W) for a single clip -> (V, T, C, H, W)
        inputs = processor(video, num_clips=num_clips, num_crops=1, return_metadata=True, return_tensors="pt")
        pixels = inputs["pixel_values_videos"].flatten(0, -5)
        frames = inputs["video_metadata"][0].frames_indices.reshape(num_clips, -1)
        timestamps = _seconds(video, frames[:, :: encoder.config.tubelet_size])
        with torch.inference_mode():
            tokens = encoder(pixels.to(encoder.device)).last_hidden_state.unflatten(1, encoder.config.grid_size)
        tensors = {"features": tokens.float().cpu().contiguous(), "timestamps": timestamps}
        save_file(tensors, unfinished, metadata={"video": video, "model": model})
    typer.echo(f"features {tuple(tokens.shape)} in {output}")


@app.command(epilog="Example: vjepa-hf dense-features long.mp4 --model output/mine --output long.safetensors")
def dense_features(
    video: VideoArgument,
    output: FeatureFile,
    model: ModelOption = "output/pretrain",
    stride: Annotated[
        int | None, typer.Option("--stride", help="frames from one window to the next; default: num_frames")
    ] = None,
    batch_size: BatchSize = 4,
) -> None:
    """Write one feature per time step of a video of any length: `features` (n, D) and `timestamps` (n,) in seconds.

    A feature is the mean over the tokens of a time step. A stride of half a clip gives every time step context on both
    sides, and encodes every frame twice.
    """
    with mistakes_exit(), _new_file(output, video) as unfinished:
        encoder, processor = load_encoder(model)
        stride = processor.num_frames if stride is None else stride
        pieces = stream_features(encoder, processor, video, stride, batch_size)
        shape = write_features(pieces, unfinished, {"video": video, "model": model})
    typer.echo(f"features {tuple(shape)} in {output}")


@app.command(epilog="Example: vjepa-hf look my_video.mp4 --model output/mine --output look.html")
def look(
    video: VideoArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML page to write")],
    model: ModelOption = "output/pretrain",
    mask: Annotated[
        str | None, typer.Option("--mask", help="box to hide: x0,y0,x1,y1 in fractions of the picture")
    ] = None,
    start: Annotated[float, typer.Option("--start", help="second to start at")] = 0.0,
    max_seconds: Annotated[float, typer.Option("--max_seconds", help="maximum number of seconds to look at")] = 20.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of the masks")] = 0,
) -> None:
    """Write one HTML page: what a model sees, where it looks, what it predicts where it cannot see, its surprise."""
    with mistakes_exit(), _new_file(output, video) as unfinished:
        box = None if mask is None else read_box(mask)
        write_page(look_at(video, model, box=box, start=start, max_seconds=max_seconds, seed=seed), unfinished)
    typer.echo(f"{output}: open it in a browser")


@app.command(epilog="Example: vjepa-hf surprise my_video.mp4 --model output/mine --output scores.parquet")
def surprise(
    video: VideoArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="parquet or csv table to write")],
    model: ModelOption = "output/pretrain",
    context_steps: Annotated[
        int | None, typer.Option("--context_steps", help="visible time steps of a window; default: an eighth")
    ] = None,
    mask_token_index: Annotated[
        int, typer.Option("--mask_token_index", help="mask type of the pretraining run that hides the future")
    ] = 0,
    stride: Annotated[
        int | None, typer.Option("--stride", help="frames from one window to the next; default: a time step")
    ] = None,
    batch_size: BatchSize = 4,
) -> None:
    """Write how unexpected each time step of a video is: `time` (s), `score` and, in parquet, `map` of its tubelets.

    Time steps before the end of the first window have no score (nan).
    """
    with mistakes_exit(), _new_file(output, video) as unfinished:
        check_suffix(output.suffix)
        encoder, processor = load_encoder(model, add_predictor=True)
        result = measure_surprise(encoder, video, processor, context_steps, mask_token_index, stride, batch_size)
        write_surprise(result, unfinished, output.suffix)
    typer.echo(f"scores of {np.isfinite(result.scores).sum()} of {len(result.scores)} time steps in {output}")


@contextmanager
def _new_file(output: Path, source: str) -> Iterator[Path]:
    """Yield an unfinished file that becomes `output` after the block; what cannot be written is refused before it.

    Raises:
        OSError: the folder cannot be made or written.
        ValueError: `output` is the input, a folder, or a file of a saved model.
    """
    if output.exists() and os.path.exists(source) and output.samefile(source):
        raise ValueError(f"output {str(output)!r} is the input, which it would replace; choose another name")
    in_model = (output.parent / "config.json").exists() and (output.match("model*") or output.suffix == ".json")
    if output.exists() and in_model:
        raise ValueError(f"output {str(output)!r} is a file of a saved model; choose another name")
    with parents_of(output), whole_file(output) as unfinished:
        yield unfinished


@app.command(epilog="Example: vjepa-hf compare REAL GENERATED --model output/mine --output result.json")
def compare(
    real: Annotated[str, typer.Argument(help="real videos: folder, list, .tar or .parquet file")],
    generated: Annotated[list[str], typer.Argument(help="generated videos, as the real ones; one or several sets")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write")],
    model: ModelOption = "output/probe",
    features: Annotated[
        str, typer.Option("--features", help="pooler, trained_pooler (without projection) or mean (of tokens)")
    ] = "pooler",
    frame_step: Annotated[
        int | None, typer.Option("--frame_step", min=1, help="step between frames; default: spread over the video")
    ] = None,
    real_stats: Annotated[
        Path | None, typer.Option("--real_stats", help="file that keeps the real set for the next comparisons")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="HTML page to write: table, intervals, the worst videos")
    ] = None,
    features_dir: Annotated[
        Path | None, typer.Option("--features_dir", help="folder that keeps the features; default: deleted afterwards")
    ] = None,
    video_column: VideoColumn = None,
    batch_size: BatchSize = 16,
    num_workers: NumWorkers = 1,
) -> None:
    """Write JEDi, the distance between a set of real and a set of generated videos, or several of these.

    On several GPUs: accelerate launch -m vjepa_hf.cli compare ...
    """
    with mistakes_exit():
        encoder = load_set_encoder(model, features, frame_step, batch_size=batch_size, num_workers=num_workers)
        is_main = encoder.accelerator.is_main_process
        if is_main:
            typer.echo(f"{features} features of one clip per video: {encoder.clips}")
        names = ["generated"] if len(generated) == 1 else generated_names(generated)
        options = {"real_stats": real_stats, "video_column": video_column}
        sets = dict(zip(names, generated, strict=True))
        result = write_comparison(encoder, real, sets, output, features_dir, page, **options)
    if is_main:
        for line in summary(result):
            typer.echo(line)
        typer.echo(f"the result is in {output}")


@app.command(epilog="Example: vjepa-hf embed VIDEOS --model output/mine --num_clips 4 --output table.parquet")
def embed(
    source: Annotated[str, typer.Argument(help="videos: folder, list, .tar or .parquet file")],
    output: Annotated[Path, typer.Option("--output", "-o", help="parquet table to write")],
    model: ModelOption = "output/pretrain",
    pool: Annotated[str, typer.Option("--pool", help="mean (of the tokens), or trained_pooler (of a probe)")] = "mean",
    rows: Annotated[str, typer.Option("--rows", help="one vector per video, or per clip")] = "video",
    num_clips: Annotated[int, typer.Option("--num_clips", min=1, help="evenly spaced clips per video")] = 1,
    video_column: VideoColumn = None,
    batch_size: BatchSize = 16,
    num_workers: NumWorkers = 1,
) -> None:
    """Write a table of the vectors of videos: `video`, `start` and `end` in seconds, and `vector`.

    The same command resumes an interrupted one. On several GPUs: accelerate launch -m vjepa_hf.cli embed ...
    """
    with mistakes_exit():
        encoder = VectorEncoder(model, pool, rows, num_clips, batch_size, num_workers)
        table = encoder.write_table(load_videos(source, video_column)["video"], output)
    if encoder.accelerator.is_main_process:
        for failure in table.failures:
            typer.echo(f"unreadable  {printable(str(failure))}")
        typer.echo(
            f"{len(table)} vectors ({pool}, one per {rows}) in {output}; {len(table.failures)} unreadable videos"
        )


@app.command(epilog="Example: vjepa-hf search my_video.mp4 table.parquet --num_matches 10")
def search(
    query: VideoArgument,
    table: Annotated[Path, typer.Argument(help="table that `vjepa-hf embed` wrote")],
    model: Annotated[str | None, typer.Option("--model", help="the model of the table, if it has moved")] = None,
    num_matches: Annotated[int, typer.Option("--num_matches", min=1, help="videos to list")] = 5,
) -> None:
    """List the videos of a table that are most similar to a video: similarity, seconds in the video, its name.

    With one vector per clip, a video is as similar as its most similar clip, whose times are listed.
    """
    with mistakes_exit():
        vectors = VectorTable(table)
        matches = nearest_videos(vectors, load_table_encoder(vectors, model)(query), num_matches)
    for match in matches:
        start, end = match.times
        typer.echo(f"{match.similarity:6.3f}  {start:8.2f} - {end:8.2f} s  {printable(match.video)}")


def _seconds(video: str, frames: np.ndarray) -> torch.Tensor:
    """Return the timestamps of frames in seconds, float64 in the shape of `frames`."""
    numbers, positions = np.unique(frames, return_inverse=True)
    with open_video(video) as file:
        seconds = torch.tensor([frame.seconds for frame in file.iter_frames(numbers)], dtype=torch.float64)
    return seconds[torch.from_numpy(positions.reshape(frames.shape))]


@app.command(epilog="Example: vjepa-hf check-data FOLDER --num_workers 8 --output readable.csv")
def check_data(
    source: Annotated[str, typer.Argument(help="folder, list, .tar or .parquet file, or a pattern of these")],
    video_column: VideoColumn = None,
    num_frames: Annotated[int, typer.Option("--num_frames", min=1, help="frames per clip")] = 16,
    frame_step: Annotated[int, typer.Option("--frame_step", min=1, help="step between the frames of a clip")] = 4,
    num_workers: NumWorkers = 2,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="csv list of readable videos to write")] = None,
    shrink_to: Annotated[
        Path | None, typer.Option("--shrink_to", help="folder for smaller copies, which decode faster")
    ] = None,
    short_side: Annotated[int, typer.Option("--short_side", min=16, help="short side of a copy (px)")] = 256,
    keyframe_interval: Annotated[
        int, typer.Option("--keyframe_interval", min=1, help="maximum distance between key frames of a copy")
    ] = 16,
) -> None:
    """Decode every frame of a source; report the videos that are unreadable, shorter than a clip, or unusual.

    The list has the copies if --shrink_to is given. The exit status is 1 if a video is unreadable or was not copied.
    """
    with mistakes_exit(), ExitStack() as stack:
        unfinished = stack.enter_context(_new_file(output, source)) if output is not None else None
        if shrink_to is not None:
            stack.enter_context(parents_of(shrink_to / "copy.mp4"))
            TemporaryFile(dir=shrink_to).close()  # fails if the folder cannot be written
        videos = load_videos(source, video_column)
        if output is not None and shrink_to is None and len(videos) and not isinstance(videos[0]["video"], str):
            raise ValueError(f"the videos in {source} do not have paths to list: add --shrink_to, or omit --output")
        checked = CheckedVideos(videos, source, shrink_to, short_side, keyframe_interval)
        loader = torch.utils.data.DataLoader(checked, batch_size=None, num_workers=num_workers)
        checks = list(tqdm(loader, unit="video"))
        counts = _report(checks, clip_span(num_frames, frame_step))
        if unfinished is not None:
            typer.echo(f"{write_list(unfinished, videos, checks)} readable videos in {output}")
    if counts["unreadable"] or counts["not copied"]:
        raise typer.Exit(1)


def _report(checks: Sequence[Check], span: int) -> Counter[str]:
    """Print the problems of all videos and their numbers, which are returned."""
    counts = Counter({"unreadable": 0, "short": 0, "odd": 0})
    for check in checks:
        for kind, description in problems(check, span):
            counts[kind] += 1
            typer.echo(f"{kind:<12}{printable(f'{check.video}: {description}')}")
    typer.echo(f"{len(checks)} videos: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return counts


@app.command(epilog="Example: vjepa-hf convert vitl16 models/vitl16 --probe k400")
def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="file of Meta's code, or the name of a released one (vitl16, vith16, vith16-384, vitl.pt, ...); "
            "folder or Hub name in transformers' format; with --to_meta or --to_transformers a folder of vjepa_hf"
        ),
    ],
    output: Annotated[Path, typer.Argument(help="folder to write; with --to_meta a file")],
    probe: Annotated[
        str | None,
        typer.Option("--probe", help="file of a probe, or k400, ssv2, in1k, places205, inat21, diving48"),
    ] = None,
    to_meta: Annotated[bool, typer.Option("--to_meta", help="convert a folder to the layout of Meta's code")] = False,
    to_transformers: Annotated[
        bool, typer.Option("--to_transformers", help="convert a V-JEPA 2 folder to the format of transformers")
    ] = False,
    num_attention_heads: Annotated[
        int | None, typer.Option("--num_attention_heads", help="attention heads, if the width is not a published one")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option("--num_frames", help="frames per clip, if the position tables do not show them")
    ] = None,
    image_size: Annotated[
        list[int] | None, typer.Option("--image_size", help="image side (px); give it twice for height and width")
    ] = None,
    uniform_power: Annotated[
        bool | None,
        typer.Option(
            "--uniform_power/--no_uniform_power", help="sin-cos split, if the position tables do not show it"
        ),
    ] = None,
    position_embedding_type: Annotated[
        str | None,
        typer.Option(
            "--position_embedding_type", help="sincos (V-JEPA) or rope (V-JEPA 2), if the file does not show"
        ),
    ] = None,
    pred_num_attention_heads: Annotated[
        int | None, typer.Option("--pred_num_attention_heads", help="heads of a V-JEPA 2 predictor (default: 12)")
    ] = None,
    pooler_num_attention_heads: Annotated[
        int | None, typer.Option("--pooler_num_attention_heads", help="heads of a V-JEPA 2 probe (default: 16)")
    ] = None,
    pooler_layers: Annotated[
        list[int] | None, typer.Option("--pooler_layers", help="encoder layer that the probe reads; repeat")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--class_names", "--labels", help="class names: file with one name per line, or ssv2, diving48, in1k"
        ),
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="license in the model card (default: that of the source)")
    ] = None,
    download_dir: Annotated[Path | None, typer.Option("--download_dir", help="folder for downloaded files")] = None,
) -> None:
    """Convert V-JEPA, V-JEPA 2 and 2.1 of Meta's code or of transformers to a folder for from_pretrained, or back.

    An incomplete checkpoint, or one of another model, is refused with exit status 2, and nothing is written.
    """
    options: dict[str, Any] = {
        "probe": probe,
        "num_attention_heads": num_attention_heads,
        "num_frames": num_frames,
        "image_size": image_size or None,
        "uniform_power": uniform_power,
        "position_embedding_type": position_embedding_type,
        "pred_num_attention_heads": pred_num_attention_heads,
        "pooler_num_attention_heads": pooler_num_attention_heads,
        "pooler_layers": pooler_layers or None,
        "labels": labels,
        "download_dir": download_dir,
    }
    given = [f"--{name}" for name, value in options.items() if value is not None]
    given = ["--class_names" if option == "--labels" else option for option in given]
    with mistakes_exit():
        if to_meta and to_transformers:
            raise ValueError("--to_meta and --to_transformers exclude each other; convert twice.")
        if (to_meta or to_transformers) and given:
            way = "--to_meta" if to_meta else "--to_transformers"
            raise ValueError(f"{way} takes all settings from the folder; omit {', '.join(given)}.")
        if to_meta:
            typer.echo(export_to_meta(checkpoint, output))
        elif to_transformers:
            typer.echo(export_to_transformers(checkpoint, output))
        else:
            typer.echo(convert_checkpoint(checkpoint, output, license=license, **options))


@app.command(epilog="Example: vjepa-hf export output/probe --to onnx --int8")
def export(
    folder: Annotated[str, typer.Argument(help="folder or Hub name of an encoder or classifier")],
    to: Annotated[str, typer.Option("--to", help="onnx or torch-export")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="quantize every linear layer")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file to write; default: onnx/model.onnx in FOLDER")
    ] = None,
    videos: Annotated[
        str, typer.Option("--videos", help="source of the videos to compare the outputs on")
    ] = "output/toy_videos/test.csv",
    num_videos: Annotated[
        int | None, typer.Option("--num_videos", min=1, help="evenly spaced videos of the source; default: all")
    ] = None,
) -> None:
    """Write a model to one file that runs without this package, and compare it with the eager model on videos.

    Prints a table of differences and latency, and a program that runs the file: without PyTorch for onnx, without
    transformers for torch-export. A file that drifts beyond its bound is not written.
    """
    with mistakes_exit():
        check_format(to, int8)
        if output is None and not Path(folder).is_dir():
            raise ValueError(f"{folder} is not a folder to write to; give --output FILE")
        if output is None:
            output = Path(folder, to, f"model{'_int8' if int8 else ''}{SUFFIXES[to]}")
        with _new_file(output, videos) as unfinished, weights_file(output):
            table = load_videos(videos)
            rows = np.linspace(0, len(table) - 1, min(num_videos or len(table), len(table))).round().astype(int)
            model, processor = load_exportable(folder)
            sources = table.select(rows)["video"]
            inputs = next(readable_inputs(model, processor, sources), None)
            if inputs is None:
                raise ValueError(f"{videos} has no readable video; give others with --videos")
            num_int8 = write_exported(model, processor, inputs, unfinished, output.name, to, int8)
            clips = tqdm(readable_inputs(model, processor, sources), total=len(sources), unit="video")
            drift = measure_drift(model, open_exported(unfinished, to), clips)
            labels = about(model, processor)["labels"]
            typer.echo(drift.table("features" if labels is None else "logits", torch.get_num_threads()))
            drift.check(int8)
            if int8:
                typer.echo(f"{'layers in int8':<30}{num_int8} of {linear_layers(model)} linear layers")
    typer.echo(f"\nwrote {output}. To run it:\n\n{run_lines(output, to, inputs, labels)}")


if __name__ == "__main__":
    app()
