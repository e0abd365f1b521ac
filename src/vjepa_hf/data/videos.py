"""One value of the column `video`: its name, its frames, what it holds."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from zipfile import BadZipFile

import fsspec
import numpy as np
import torch

from ..model.video_io import VideoDecodeError, VideoInfo, decode, probe
from .sources import IMAGE_SUFFIXES


def video_name(video: Any) -> str:
    """What to call a value of the column `video` in a message: its path, or how many bytes it has."""
    if isinstance(video, dict):
        return str(video["path"] or f"<{len(video['bytes'] or b'')} bytes>")
    return f"<{len(video)} bytes>" if isinstance(video, bytes) else str(video)


def decode_video(
    video: Any,
    indices: Sequence[int] | Callable[[VideoInfo], np.ndarray],
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Frames of a value of the column `video`, uint8 `(T, C, height, width)`; like `video_io.decode` for any kind.

    A folder of images is a video, and an image is a video of one frame.

    Raises:
        VideoDecodeError: it cannot be read, or the images of a folder are not numbered evenly or differ in size.
    """
    with _named(video):
        file = _file(video)
        if not _is_folder(file):
            return decode(file, indices, size)
        images = _frame_files(file)
        wanted = np.reshape(indices(_folder_info(images)) if callable(indices) else indices, -1)
        if not len(wanted) or min(wanted) < 0:
            raise ValueError(f"indices={list(wanted)} must hold at least one frame number, none of them negative.")
        unique, places = np.unique(wanted, return_inverse=True)
        if unique[-1] >= len(images):
            raise VideoDecodeError(file, f"frames {unique[0]} to {unique[-1]}", f"it has only {len(images)} frames")
        frames = [decode(images[number], [0], size) for number in unique]
        if len({frame.shape for frame in frames}) > 1:
            raise VideoDecodeError(file, "the folder", "its images differ in size")
        return torch.cat(frames)[torch.from_numpy(places)]


def probe_video(video: Any) -> VideoInfo:
    """What a value of the column `video` holds; a folder of frames has no frame rate: `fps` is nan.

    Raises:
        VideoDecodeError: it cannot be read.
    """
    with _named(video):
        file = _file(video)
        return _folder_info(_frame_files(file)) if _is_folder(file) else probe(file)


def for_processor(video: Any) -> str | bytes | torch.Tensor:
    """A value of the column `video` as `VJEPAVideoProcessor` takes it: a folder of frames is read whole.

    Raises:
        VideoDecodeError: it is a folder of frames that cannot be read, or holds nothing.
    """
    file = _file(video)
    return decode_video(file, range(len(_frame_files(file)))) if _is_folder(file) else file


@contextmanager
def _named(video: Any) -> Iterator[None]:
    """Let an error about bytes say where they came from."""
    try:
        yield
    except VideoDecodeError as error:
        if not isinstance(video, dict):
            raise
        raise VideoDecodeError(video_name(video), error.asked, error.cause) from error


def _file(video: Any) -> str | bytes:
    """What `video_io` opens; an address that it does not know, such as s3:// or hf://, is read here."""
    if isinstance(video, dict):
        video = video["path"] if video["bytes"] is None else video["bytes"]
    video = os.fspath(video) if isinstance(video, os.PathLike) else video
    if not video:
        raise VideoDecodeError(str(video), "the file", "neither a path nor bytes")
    if isinstance(video, bytes) or "://" not in video or video.startswith(("http://", "https://", "file://")):
        return video
    try:
        with fsspec.open(video) as file:
            return file.read()
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, BadZipFile) as error:
        raise VideoDecodeError(video, "the file", f"{type(error).__name__}: {error}") from error


def _is_folder(file: str | bytes) -> bool:
    return isinstance(file, str) and os.path.isdir(file)


def _frame_files(folder: str) -> list[str]:
    """The images of a folder by number. A gap is an error: they are not those of one video, or some are missing."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise VideoDecodeError(folder, "the folder as a video", f"{type(error).__name__}: {error}") from error
    images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    numbered = sorted((int(number[1]), name) for name in images if (number := re.search(r"(\d+)\.\w+$", name)))
    steps = set(np.diff([number for number, _ in numbered]).tolist())
    if not images or len(numbered) < len(images) or len(steps) > 1 or 0 in steps:
        cause = (
            f"its {len(images)} images are not numbered evenly; name images one by one in a list to make each a clip"
        )
        raise VideoDecodeError(folder, "the folder as a video", cause)
    return [os.path.join(folder, name) for _, name in numbered]


def _folder_info(images: list[str]) -> VideoInfo:
    return replace(probe(images[0]), num_frames=len(images), fps=float("nan"))


@dataclass(frozen=True)
class VideoFailure:
    """A video that could not be read, and why."""

    video: str
    cause: str
