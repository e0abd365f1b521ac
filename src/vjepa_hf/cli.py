"""The `vjepa-hf` command line."""

import csv
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from datasets import ClassLabel, Dataset, Value
from safetensors.torch import save_file
from tqdm import tqdm

from .conversion.meta import LICENSE, export_to_meta
from .conversion.meta import convert as convert_checkpoint
from .data.checks import check_video, oddities, shrink_video
from .data.sources import load_videos
from .data.videos import VideoFailure, open_video, video_name
from .evaluation.dense_features import stream_features, write_features
from .model.frame_sampling import clip_span
from .model.modeling_vjepa import VJEPAModel
from .model.video_io import VideoDecodeError, VideoInfo
from .model.video_processing_vjepa import VJEPAVideoProcessor
from .training.arguments import mistakes_exit
from .training.flops import matmul_rate

PACKAGES = ("vjepa_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "av", "numpy")


# Options have underscores, like those of the scripts in examples/; `--num-clips` is read as `--num_clips`.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="V-JEPA for Hugging Face.",
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_")},
)


@app.command()
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


VideoArgument = Annotated[str, typer.Argument(help="path or URL of a video")]
FeatureFile = Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write")]
ModelOption = Annotated[str, typer.Option("--model", help="folder or Hub name of a model")]


@app.command()
def features(
    video: VideoArgument,
    output: FeatureFile,
    model: ModelOption = "output/pretrain",
    num_clips: Annotated[int, typer.Option("--num_clips", min=1, help="evenly spaced clips")] = 1,
) -> None:
    """Write the features of V clips of a video: `features` (V, t, h, w, D) and `timestamps` (V, t).

    A timestamp is the time of the first frame of a time step, in seconds.
    """
    with mistakes_exit():
        encoder, processor = _load(model)
        # (1, V, T, C, H, W), or (1, T, C, H, W) for a single clip -> (V, T, C, H, W)
        inputs = processor(video, num_clips=num_clips, num_crops=1, return_metadata=True, return_tensors="pt")
        pixels = inputs["pixel_values_videos"].flatten(0, -5)
        frames = inputs["video_metadata"][0].frames_indices.reshape(num_clips, -1)
        timestamps = _seconds(video, frames[:, :: encoder.config.tubelet_size])
        with torch.inference_mode():
            tokens = encoder(pixels.to(encoder.device)).last_hidden_state.unflatten(1, encoder.config.grid_size)
        tensors = {"features": tokens.float().cpu().contiguous(), "timestamps": timestamps}
        save_file(tensors, output, metadata={"video": video, "model": model})
    typer.echo(f"features {tuple(tokens.shape)} in {output}")


@app.command()
def dense_features(
    video: VideoArgument,
    output: FeatureFile,
    model: ModelOption = "output/pretrain",
    stride: Annotated[
        int | None, typer.Option("--stride", help="frames from one window to the next; default: num_frames")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="windows per forward pass")] = 4,
) -> None:
    """Write one feature per time step of a video of any length: `features` (n, D) and `timestamps` (n,) in seconds.

    A feature is the mean over the tokens of a time step. A stride of half a clip gives every time step context on both
    sides, and encodes every frame twice.
    """
    with mistakes_exit():
        encoder, processor = _load(model)
        pieces = stream_features(encoder, processor, video, stride or processor.num_frames, batch_size)
        shape = write_features(pieces, output, {"video": video, "model": model})
    typer.echo(f"features {tuple(shape)} in {output}")


def _load(model: str) -> tuple[VJEPAModel, VJEPAVideoProcessor]:
    """Return the encoder, on the accelerator if there is one, and the processor."""
    encoder = VJEPAModel.from_pretrained(model, add_predictor=False).eval()
    if torch.accelerator.is_available():
        encoder.to(torch.accelerator.current_accelerator())
    return encoder, VJEPAVideoProcessor.from_pretrained(model)


def _seconds(video: str, frames: np.ndarray) -> torch.Tensor:
    """Return the timestamps of frames in seconds, float64 in the shape of `frames`."""
    numbers, positions = np.unique(frames, return_inverse=True)
    with open_video(video) as file:
        seconds = torch.tensor([frame.seconds for frame in file.iter_frames(numbers)], dtype=torch.float64)
    return seconds[torch.from_numpy(positions.reshape(frames.shape))]


@app.command()
def check_data(
    source: Annotated[str, typer.Argument(help="folder, list, .tar or .parquet file, or a pattern of these")],
    video_column: Annotated[str | None, typer.Option("--video_column", help="column with the videos")] = None,
    num_frames: Annotated[int, typer.Option("--num_frames", min=1, help="frames per clip")] = 16,
    frame_step: Annotated[int, typer.Option("--frame_step", min=1, help="step between the frames of a clip")] = 4,
    num_workers: Annotated[int, typer.Option("--num_workers", min=0, help="worker processes that decode")] = 2,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="csv list of readable videos to write")] = None,
    shrink_to: Annotated[
        Path | None, typer.Option("--shrink_to", help="folder for smaller copies, which decode faster")
    ] = None,
    short_side: Annotated[int, typer.Option("--short_side", min=16, help="short side of a copy (px)")] = 256,
    keyframe_interval: Annotated[
        int, typer.Option("--keyframe_interval", min=1, help="maximum distance between key frames of a copy")
    ] = 16,
) -> None:
    """Report the videos of a source that are unreadable, shorter than a clip, or unusual.

    The list has the copies if --shrink_to is given. The exit status is 1 if a video is unreadable.
    """
    with mistakes_exit():
        videos = load_videos(source, video_column)
        if output is not None and shrink_to is None and len(videos) and not isinstance(videos[0]["video"], str):
            raise ValueError(f"the videos in {source} do not have paths to list: add --shrink_to, or omit --output")
    checked = _CheckedVideos(videos, shrink_to, short_side, keyframe_interval)
    checks = list(tqdm(torch.utils.data.DataLoader(checked, batch_size=None, num_workers=num_workers), unit="video"))
    span = clip_span(num_frames, frame_step)
    counts = Counter({"unreadable": 0, "short": 0, "odd": 0})
    for check in checks:
        for kind, description in _problems(check.result, span):
            counts[kind] += 1
            typer.echo(f"{kind:<12}{check.video}: {description}")
    typer.echo(f"{len(checks)} videos: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if output is not None:
        _write_list(output, videos, checks)
    if counts["unreadable"]:
        raise typer.Exit(1)


class _Check(NamedTuple):
    """Name of a video, its properties or failure, and the path of its copy."""

    video: str
    result: VideoInfo | VideoFailure
    copy: str | None = None


class _CheckedVideos(torch.utils.data.Dataset):
    """Dataset of the checks of videos; each video is also copied to `shrink_to` if it is given."""

    def __init__(self, videos: Dataset, shrink_to: Path | None, short_side: int, keyframe_interval: int) -> None:
        self.videos, self.shrink_to = videos, shrink_to
        self.short_side, self.keyframe_interval = short_side, keyframe_interval

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> _Check:
        video = self.videos[row]["video"]
        name, result = video_name(video), check_video(video)
        if self.shrink_to is None or isinstance(result, VideoFailure):
            return _Check(name, result)
        # The row distinguishes videos with the same name in different folders.
        copy = self.shrink_to / f"{row:08}_{Path(name).stem}.mp4"
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shrink_video(video, copy, self.short_side, self.keyframe_interval)
        except VideoDecodeError as error:
            return _Check(name, VideoFailure.of(video, error))
        return _Check(name, result, str(copy))


def _problems(result: VideoInfo | VideoFailure, span: int) -> list[tuple[str, str]]:
    """Return kind and description of each problem; `span` is the number of frames from first to last of a clip."""
    if isinstance(result, VideoFailure):
        return [("unreadable", result.cause)]
    short = [("short", f"{result.num_frames} frames, a clip spans {span}")] if result.num_frames < span else []
    return short + [("odd", description) for description in oddities(result)]


def _write_list(path: Path, videos: Dataset, checks: Sequence[_Check]) -> None:
    """Write the rows of the readable videos, with absolute paths of them or of their copies; skip binary columns."""
    columns = ["video"]
    for name, feature in videos.features.items():
        if name != "video" and isinstance(feature, Value | ClassLabel) and "binary" not in feature.dtype:
            columns.append(name)
    classes = {name: column for name, column in videos.features.items() if isinstance(column, ClassLabel)}
    rows = []
    for row, check in zip(videos, checks, strict=True):
        if isinstance(check.result, VideoInfo):
            for name, column in classes.items():  # -1 is a missing label
                row[name] = column.int2str(row[name]) if row[name] is not None and row[name] >= 0 else None
            video = check.copy or row["video"]
            rows.append(row | {"video": video if "://" in video else str(Path(video).resolve())})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    typer.echo(f"{len(rows)} readable videos in {path}")


@app.command()
def convert(
    checkpoint: Annotated[
        str, typer.Argument(help=".pth.tar file, vitl16, vith16 or vith16-384; with --to_meta a folder")
    ],
    output: Annotated[Path, typer.Argument(help="folder to write; with --to_meta a file")],
    probe: Annotated[
        str | None, typer.Option("--probe", help=".pth.tar file of a probe, or k400, ssv2, in1k, places205, inat21")
    ] = None,
    to_meta: Annotated[bool, typer.Option("--to_meta", help="convert a folder to the layout of Meta's code")] = False,
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
    labels: Annotated[
        str | None,
        typer.Option("--class_names", "--labels", help="class names: file with one name per line, or ssv2, in1k"),
    ] = None,
    license: Annotated[str, typer.Option("--license", help="license in the model card")] = LICENSE,
    download_dir: Annotated[Path | None, typer.Option("--download_dir", help="folder for downloaded files")] = None,
) -> None:
    """Convert a checkpoint of Meta's V-JEPA code to a folder for from_pretrained, or back with --to_meta.

    An incomplete checkpoint, or one of another model, is refused with exit status 2, and nothing is written.
    """
    options: dict[str, Any] = {
        "probe": probe,
        "num_attention_heads": num_attention_heads,
        "num_frames": num_frames,
        "image_size": image_size or None,
        "uniform_power": uniform_power,
        "labels": labels,
        "download_dir": download_dir,
    }
    given = [f"--{name}" for name, value in options.items() if value is not None]
    given = ["--class_names" if option == "--labels" else option for option in given]
    with mistakes_exit():
        if to_meta and given:
            raise ValueError(f"--to_meta takes all settings from the folder; omit {', '.join(given)}.")
        if to_meta:
            typer.echo(export_to_meta(checkpoint, output))
        else:
            typer.echo(convert_checkpoint(checkpoint, output, license=license, **options))


if __name__ == "__main__":
    app()
