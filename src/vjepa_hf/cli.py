"""The command `vjepa-hf`: what one wants to know or make without writing a script."""

import csv
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from datasets import ClassLabel, Dataset, Value
from safetensors.torch import save_file
from tqdm import tqdm

from .conversion.meta import LICENSE, export_to_meta
from .conversion.meta import convert as convert_checkpoint
from .data.checks import check_video, oddities, shrink_video
from .data.sources import load_videos
from .data.videos import VideoFailure, video_name
from .evaluation.dense_features import stream_features, write_features
from .model.frame_sampling import clip_span
from .model.modeling_vjepa import VJEPAModel
from .model.video_io import VideoDecodeError, VideoInfo
from .model.video_processing_vjepa import VJEPAVideoProcessor
from .training.flops import matmul_rate

PACKAGES = ("vjepa_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "av", "numpy")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="V-JEPA for Hugging Face.")


@app.command()
def env() -> None:
    """Print versions, devices and their speed, for a bug report."""
    installed = {distribution.name.lower().replace("-", "_") for distribution in importlib.metadata.distributions()}
    rows = {"python": platform.python_version(), "platform": platform.platform()}
    rows |= {name: importlib.metadata.version(name) if name in installed else "not installed" for name in PACKAGES}
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows |= {"cuda": torch.version.cuda or "none", "gpus": ", ".join(devices) or "none"}
    rows |= {"cpu threads": str(torch.get_num_threads())}
    device = "cuda" if devices else "cpu"
    for dtype in (torch.float32, torch.bfloat16):
        rows[f"{device} {str(dtype).removeprefix('torch.')}"] = f"{matmul_rate(device, dtype) / 1e9:.0f} GFLOP/s"
    for name, value in rows.items():
        typer.echo(f"{name:<15}{value}")


@app.command()
def features(
    video: Annotated[str, typer.Argument(help="path or URL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write")],
    model: Annotated[str, typer.Option(help="folder or Hub name of a model")] = "output/pretrain",
    num_clips: Annotated[int, typer.Option(help="clips, evenly spaced over the video")] = 1,
    stride: Annotated[int | None, typer.Option(help="the whole video, a clip every so many frames of a clip")] = None,
    keep_grid: Annotated[bool, typer.Option(help="with --stride: no mean over the places of a time step")] = False,
    batch_size: Annotated[int, typer.Option(help="with --stride: clips of one forward pass")] = 4,
) -> None:
    """Write the features of a video: `features` (V, t, h, w, D), V clips of t x h x w tokens.

    With --stride a video of any length is read to its end: `features` (n, D), or with --keep-grid (n, h, w, D), one
    for each of n time steps, and `timestamps` (n,), the second at which each begins.
    """
    encoder = VJEPAModel.from_pretrained(model).eval()
    processor = VJEPAVideoProcessor.from_pretrained(model)
    metadata = {"video": video, "model": model}
    try:
        if stride is not None:
            if torch.accelerator.is_available():
                encoder.to(torch.accelerator.current_accelerator())
            pieces = stream_features(encoder, processor, video, stride, batch_size)
            shape = write_features(pieces, output, metadata, keep_grid)
        else:
            shape = _write_clips(encoder, processor, video, num_clips, output, metadata)
    except (ValueError, VideoDecodeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"features {tuple(shape)} in {output}")


def _write_clips(
    encoder: VJEPAModel,
    processor: VJEPAVideoProcessor,
    video: str,
    num_clips: int,
    output: Path,
    metadata: dict[str, str],
) -> tuple[int, ...]:
    # (1, V, T, C, H, W), or (1, T, C, H, W) for a single clip -> (V, T, C, H, W)
    pixels = processor(video, num_clips=num_clips, return_tensors="pt")["pixel_values_videos"].flatten(0, -5)
    with torch.inference_mode():
        tokens = encoder(pixels).last_hidden_state.unflatten(1, encoder.config.grid_size)
    save_file({"features": tokens.contiguous()}, output, metadata=metadata)
    return tokens.shape


@app.command()
def check_data(
    source: Annotated[str, typer.Argument(help="folder, list, .tar, .parquet, or a pattern of these")],
    video_column: Annotated[str | None, typer.Option(help="column that holds the videos")] = None,
    num_frames: Annotated[int, typer.Option(help="frames of a clip")] = 16,
    frame_step: Annotated[int, typer.Option(help="frames from one frame of a clip to the next")] = 4,
    num_workers: Annotated[int, typer.Option(help="processes that decode; 0: none beside this one")] = 2,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="csv of the readable videos to write")] = None,
    shrink_to: Annotated[Path | None, typer.Option(help="folder for smaller copies, which load faster")] = None,
    short_side: Annotated[int, typer.Option(min=16, help="pixels of the shorter side of a copy")] = 256,
    keyframe_interval: Annotated[
        int, typer.Option(min=1, help="most frames from key frame to key frame of a copy")
    ] = 16,
) -> None:
    """Open every video of a source and report those that cannot be read, are shorter than a clip, or are odd.

    With --shrink-to the list names the copies. Ends with status 1 when a video cannot be read.
    """
    try:
        videos = load_videos(source, video_column)
        if output is not None and shrink_to is None and len(videos) and not isinstance(videos[0]["video"], str):
            raise ValueError(f"videos inside {source} have no path to list: add --shrink-to, or omit --output")
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    checked = _CheckedVideos(videos, shrink_to, short_side, keyframe_interval)
    loader = torch.utils.data.DataLoader(checked, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
    checks = list(tqdm(loader, unit="video"))
    span = clip_span(num_frames, frame_step)
    counts = Counter({"unreadable": 0, "short": 0, "odd": 0})
    for check in checks:
        for kind, words in _findings(check.result, span):
            counts[kind] += 1
            typer.echo(f"{kind:<12}{check.video}: {words}")
    typer.echo(f"{len(checks)} videos: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if output is not None:
        _write_list(output, videos, checks)
    if counts["unreadable"]:
        raise typer.Exit(1)


class _Check(NamedTuple):
    """Name of a video, what was found in it, and the path of its smaller copy."""

    video: str
    result: VideoInfo | VideoFailure
    copy: str | None = None


class _CheckedVideos(torch.utils.data.Dataset):
    """The check of every video of a source, and its smaller copy."""

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
        # The number distinguishes videos of one name in several folders.
        copy = self.shrink_to / f"{row:08}_{Path(name).stem}.mp4"
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shrink_video(video, copy, self.short_side, self.keyframe_interval)
        except VideoDecodeError as error:
            return _Check(name, VideoFailure.of(video, error))
        return _Check(name, result, str(copy))


def _as_it_is(check: Any) -> Any:
    return check


def _findings(result: VideoInfo | VideoFailure, span: int) -> list[tuple[str, str]]:
    if isinstance(result, VideoFailure):
        return [("unreadable", result.cause)]
    short = [("short", f"{result.num_frames} frames, a clip spans {span}")]
    return short * (result.num_frames < span) + [("odd", words) for words in oddities(result)]


def _write_list(path: Path, videos: Dataset, checks: Sequence[_Check]) -> None:
    """The rows of the readable videos, or of their copies; without the other media of a row, which are no text."""
    num_rows = 0
    columns = ["video", *(name for name, feature in videos.features.items() if _fits_a_cell(feature))]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(columns)), extrasaction="ignore")
        writer.writeheader()
        for row, check in zip(videos, checks, strict=True):
            if isinstance(check.result, VideoInfo):
                writer.writerow(row | {"video": _absolute(check.copy or row["video"])})
                num_rows += 1
    typer.echo(f"{num_rows} readable videos in {path}")


def _fits_a_cell(feature: Any) -> bool:
    return isinstance(feature, Value | ClassLabel) and "binary" not in feature.dtype


def _absolute(video: str) -> str:
    """A path that means the same from any folder; a URL as it is."""
    return video if "://" in video else str(Path(video).resolve())


@app.command()
def convert(
    checkpoint: Annotated[str, typer.Argument(help=".pth.tar file, or vitl16, vith16, vith16-384; else a folder")],
    output: Annotated[Path, typer.Argument(help="folder to write; with --to-meta the file")],
    probe: Annotated[str | None, typer.Option(help=".pth.tar file, or k400, ssv2, in1k, places205, inat21")] = None,
    to_meta: Annotated[bool, typer.Option("--to-meta", help="from a folder to the layout of Meta's code")] = False,
    num_attention_heads: Annotated[int | None, typer.Option(help="heads, where the width is no published one")] = None,
    num_frames: Annotated[int | None, typer.Option(help="frames of a clip, where position tables do not tell")] = None,
    image_size: Annotated[list[int] | None, typer.Option(help="pixels of a side; twice: height, then width")] = None,
    uniform_power: Annotated[bool | None, typer.Option(help="sin-cos split, where the tables do not tell")] = None,
    labels: Annotated[str | None, typer.Option(help="class names: a file with one a line, or ssv2, in1k")] = None,
    license: Annotated[str, typer.Option(help="license of the weights, for the model card")] = LICENSE,
    download_dir: Annotated[Path | None, typer.Option(help="where released files are kept")] = None,
) -> None:
    """Convert a checkpoint of Meta's V-JEPA code to a folder that from_pretrained loads, or with --to-meta back.

    Ends with status 1, leaving nothing behind, when the checkpoint is not what it should be.
    """
    options = {
        "probe": probe,
        "num_attention_heads": num_attention_heads,
        "num_frames": num_frames,
        "image_size": image_size or None,
        "uniform_power": uniform_power,
        "labels": labels,
        "download_dir": download_dir,
    }
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    try:
        if to_meta and given:
            raise ValueError(f"--to-meta reads a folder that says all there is to know; omit {', '.join(given)}.")
        if to_meta:
            report = export_to_meta(checkpoint, output)
        else:
            report = convert_checkpoint(checkpoint, output, license=license, **options)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(report)


if __name__ == "__main__":
    app()
