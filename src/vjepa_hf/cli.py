"""The command `vjepa-hf`: what one wants to know or make without writing a script."""

import csv
import importlib.metadata
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file
from tqdm import tqdm

from .conversion import LICENSE, export_to_meta
from .conversion import convert as convert_checkpoint
from .data import check_video, load_videos
from .frame_sampling import clip_span
from .modeling_vjepa import VJEPAModel
from .video_processing_vjepa import VJEPAVideoProcessor

PACKAGES = ("vjepa_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "av", "torchcodec", "numpy")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="V-JEPA for Hugging Face.")


@app.command()
def env() -> None:
    """Print versions, devices and the decoders that really work, for a bug report."""
    installed = {distribution.name.lower().replace("-", "_") for distribution in importlib.metadata.distributions()}
    rows = {"python": platform.python_version(), "platform": platform.platform()}
    rows |= {name: importlib.metadata.version(name) if name in installed else "not installed" for name in PACKAGES}
    rows["torchcodec"] += f" ({_torchcodec_state()})"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows |= {"cuda": torch.version.cuda or "none", "gpus": ", ".join(devices) or "none"}
    rows |= {"cpu threads": str(torch.get_num_threads())}
    for name, value in rows.items():
        typer.echo(f"{name:<14}{value}")


def _torchcodec_state() -> str:
    """Whether torchcodec can decode: being installed is not enough, it must find FFmpeg's libraries."""
    try:
        version = importlib.import_module("torchcodec").ffmpeg_major_version
    except (ImportError, OSError, RuntimeError) as error:
        return f"not used: {str(error).strip().splitlines()[0]}"
    return f"used, with FFmpeg {version}" if version else "not used: it finds no FFmpeg on this machine"


@app.command()
def features(
    video: Annotated[str, typer.Argument(help="path or URL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write")],
    model: Annotated[str, typer.Option(help="folder or Hub name of a model")] = "output/pretrain",
    num_clips: Annotated[int, typer.Option(help="clips, evenly spaced over the video")] = 1,
) -> None:
    """Write the features of a video: `features` (V, t, h, w, D), V clips of t x h x w tokens."""
    encoder = VJEPAModel.from_pretrained(model).eval()
    processor = VJEPAVideoProcessor.from_pretrained(model)
    # (1, V, T, C, H, W), or (1, T, C, H, W) for a single clip -> (V, T, C, H, W)
    pixels = processor(video, num_clips=num_clips, return_tensors="pt")["pixel_values_videos"].flatten(0, -5)
    with torch.inference_mode():
        tokens = encoder(pixels).last_hidden_state.unflatten(1, encoder.config.grid_size)
    save_file({"features": tokens.contiguous()}, output, metadata={"video": video, "model": model})
    typer.echo(f"features {tuple(tokens.shape)} in {output}")


@app.command()
def check_data(
    source: Annotated[str, typer.Argument(help="folder of videos, or a list of them")],
    video_column: Annotated[str | None, typer.Option(help="column of the list that holds the paths")] = None,
    num_frames: Annotated[int, typer.Option(help="frames of a clip")] = 16,
    frame_step: Annotated[int, typer.Option(help="frames from one frame of a clip to the next")] = 4,
    num_workers: Annotated[int, typer.Option(help="processes that decode")] = 2,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="csv of the readable videos to write")] = None,
) -> None:
    """Open every video of a source and report those that cannot be read or are shorter than a clip.

    Ends with status 1 when a video cannot be read.
    """
    videos = load_videos(source, video_column)
    with ProcessPoolExecutor(num_workers) as pool:
        checks = list(tqdm(pool.map(check_video, videos["video"]), total=len(videos), unit="video"))
    span = clip_span(num_frames, frame_step)
    broken = [check for check in checks if check.info is None]
    short = [check for check in checks if check.info is not None and check.info.num_frames < span]
    for check in broken:
        typer.echo(f"unreadable  {check.video}: {check.cause}")
    for check in short:
        typer.echo(f"short       {check.video}: {check.info.num_frames} frames, a clip spans {span}")
    typer.echo(f"{len(checks)} videos: {len(broken)} unreadable, {len(short)} shorter than a clip")
    if output is not None:
        kept = [row for row, check in zip(videos, checks, strict=True) if check.info is not None]
        with output.open("w", newline="") as file:
            writer = csv.DictWriter(file, videos.column_names)
            writer.writeheader()
            writer.writerows(row | {"video": _absolute(row["video"])} for row in kept)
        typer.echo(f"{len(kept)} readable videos in {output}")
    if broken:
        raise typer.Exit(1)


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
