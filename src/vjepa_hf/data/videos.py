"""One value of the column `video`: its name, its frames, its properties."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from zipfile import BadZipFile

import fsspec
import numpy as np
import torch

from ..model.video_io import VideoDecodeError, VideoFile, VideoInfo, frame_numbers, source_name
from .sources import IMAGE_SUFFIXES


@dataclass(frozen=True)
class VideoFailure:
    """A video that could not be read, and the cause. The caller decides to replace, skip or report it."""

    video: str
    cause: str

    @classmethod
    def of(cls, video: Any, error: VideoDecodeError) -> "VideoFailure":
        """Make the failure of a value of the column `video`."""
        return cls(video_name(video), error.cause)

    def __str__(self) -> str:
        return f"{self.video}: {self.cause}"


class FrameFolder:
    """A folder of numbered images as a video, with the interface of `VideoFile`; its frame rate is unknown (nan).

    Args:
        folder: path of the folder. Names that begin with a dot are skipped.

    Raises:
        VideoDecodeError: the images are not numbered evenly.
    """

    def __init__(self, folder: str):
        self.name = folder
        self._images = _frame_files(folder)

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @cached_property
    def info(self) -> VideoInfo:
        """Number of images, and the size of the first one.

        Raises:
            VideoDecodeError: the first image cannot be read.
        """
        with VideoFile(self._images[0]) as image:
            return replace(image.info, num_frames=len(self._images), fps=float("nan"))

    def frames(self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Decode images; arguments, result and errors as in `VideoFile.frames`."""
        requested = frame_numbers(indices)
        unique, inverse = np.unique(requested, return_inverse=True)
        if unique[-1] >= len(self._images):
            cause = f"it has only {len(self._images)} frames"
            raise VideoDecodeError(self.name, f"frames {unique[0]} to {unique[-1]}", cause)
        frames = []
        for number in unique:
            with VideoFile(self._images[number]) as image:
                frames.append(image.frames([0], size)[0])
        if len({frame.shape for frame in frames}) > 1:
            raise VideoDecodeError(self.name, "the folder", "its images differ in size")
        return torch.stack(frames)[torch.from_numpy(inverse.reshape(requested.shape))]


def open_video(video: Any) -> VideoFile | FrameFolder:
    """Open a value of the column `video` in a `with` statement, for its `info` and `frames(indices, size)`.

    Args:
        video: path, URL, folder of images, bytes, or a row of `datasets` with `bytes` and `path`. An image is a video
            of one frame. URLs that FFmpeg does not read, such as s3:// or hf://, are read by fsspec.

    Raises:
        VideoDecodeError: the video cannot be opened.
    """
    source = _source(video)
    return FrameFolder(source) if _is_folder(source) else VideoFile(source, video_name(video))


def decode_video(video: Any, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Open a video and decode these frames, uint8 `(T, C, height, width)`; arguments and errors of `VideoFile.frames`.

    Args:
        video: value of the column `video`, see `open_video`.
        indices: frame numbers.
        size: (height, width) to scale to; None keeps the size of the video.
    """
    with open_video(video) as file:
        return file.frames(indices, size)


def probe_video(video: Any) -> VideoInfo:
    """Return the number of frames, frame rate and size of a value of the column `video`.

    Raises:
        VideoDecodeError: the video cannot be read.
    """
    with open_video(video) as file:
        return file.info


def for_processor(video: Any) -> str | bytes | FrameFolder:
    """Return a value of the column `video` as an input of `VJEPAVideoProcessor`.

    Raises:
        VideoDecodeError: a folder of images that are not numbered evenly, or a row without bytes and path.
    """
    source = _source(video)
    return FrameFolder(source) if _is_folder(source) else source


def video_name(video: Any) -> str:
    """Return a printable name of a value of the column `video`: its path, or its size if it is raw bytes."""
    if isinstance(video, dict):
        return str(video["path"] or source_name(video["bytes"] or b""))
    return source_name(video)


def _source(video: Any) -> Any:
    """Return an input of `VideoFile`, or the path of a folder; read URLs that `VideoFile` does not support."""
    name = video_name(video)
    if isinstance(video, dict):
        video = video["path"] if video["bytes"] is None else video["bytes"]
    if not video:
        raise VideoDecodeError(name, "the file", "neither a path nor bytes")
    video = os.fspath(video) if isinstance(video, os.PathLike) else video
    if not isinstance(video, str) or "://" not in video or video.startswith(("http://", "https://", "file://")):
        return video
    try:
        with fsspec.open(video) as file:
            return file.read()
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, BadZipFile) as error:
        raise VideoDecodeError(name, "the file", f"{type(error).__name__}: {error}") from error


def _is_folder(source: Any) -> bool:
    return isinstance(source, str) and os.path.isdir(source)


def _frame_files(folder: str) -> list[str]:
    """Return the paths of the images of a folder by number.

    Raises:
        VideoDecodeError: the folder cannot be listed, or its numbers have a gap, so frames are missing.
    """
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise VideoDecodeError(folder, "the folder as a video", f"{type(error).__name__}: {error}") from error
    images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    numbered = sorted((int(number[1]), name) for name in images if (number := re.search(r"(\d+)\.\w+$", name)))
    steps = set(np.diff([number for number, _ in numbered]).tolist())
    if not images or len(numbered) < len(images) or len(steps) > 1 or 0 in steps:
        cause = f"its {len(images)} images are not numbered evenly; to use each image as a clip, name them in a list"
        raise VideoDecodeError(folder, "the folder as a video", cause)
    return [os.path.join(folder, name) for _, name in numbered]
