"""What a video is: one place decides it for processor, pipeline, data, commands and examples.

A video is

- a path, an address, bytes, a binary file object, or a row of `datasets`, `{"bytes": ..., "path": ...}`;
- the path of a folder of numbered images;
- frames in memory: an array or tensor `(T, H, W, C)`, `(T, C, H, W)` or gray `(T, H, W)`, a list of frames (PIL images
  or arrays), or one image, which is a video of one frame;
- an open video: an object with `info`, `frames`, `iter_frames` and `at_constant_rate`, such as a `VideoFile`.

Several videos are a list, a column of `datasets` or another iterable, or an array with one more dimension.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tvF
from transformers.image_utils import ChannelDimension

from .names import printable
from .video_io import TimedFrame, VideoDecodeError, VideoFile, VideoInfo, frame_numbers
from .video_sources import scheme_of, source_name, without_secrets

IMAGE_SUFFIXES = frozenset(".bmp .jpeg .jpg .png .tif .tiff .webp".split())
DOWNLOADED = ("http", "https", "file")  # schemes that `VideoFile` reads; fsspec reads the others
FAILED = "\0cannot be read: "  # between name and cause in a `failed_video`; a path contains no NUL
RGB = 3  # channels


@dataclass(frozen=True)
class ArrayFormat:
    """How to read frames in memory.

    Attributes:
        num_channels: channels of the result. RGB is also made from gray frames, and from RGBA without the alpha.
        data_format: "channels_first" or "channels_last"; None: whichever axis has as many entries as channels.
        value_range: values of black and white, such as (-1, 1); None: [0, `highest`].
        highest: value of white in the result. Other floating point values are errors; None allows any.
    """

    num_channels: int = RGB
    data_format: str | None = None
    value_range: Sequence[float] | None = None
    highest: float | None = 255.0

    def __post_init__(self) -> None:
        limits = self.value_range
        if limits is not None and not (len(limits) == 2 and limits[0] < limits[1]):
            raise ValueError(f"value_range={limits} must be the values of black and of white, for example (-1, 1).")


RGB_BYTES = ArrayFormat()


class _Frames:
    """Base class of videos that are lists of frames, with the interface of `VideoFile`; their frame rate is nan."""

    name: str
    info: VideoInfo

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def frames(self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
        raise NotImplementedError

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[TimedFrame]:
        """Return the frames with these numbers one by one; their times are nan."""
        for number in frame_numbers(indices).tolist():
            yield TimedFrame(number, number / self.info.fps, self.frames([number])[0])

    def at_constant_rate(self, numbers: np.ndarray) -> np.ndarray:
        """Return the numbers as they are, because the frames have no times; see `VideoFile.at_constant_rate`."""
        return numbers

    def _check_numbers(self, numbers: np.ndarray) -> None:
        if numbers.max() >= self.info.num_frames:
            cause = f"it has only {self.info.num_frames} frames"
            raise VideoDecodeError(self.name, f"frames {numbers.min()} to {numbers.max()}", cause)


class FrameFolder(_Frames):
    """A folder of numbered images as a video.

    Args:
        folder: path of the folder. Names that begin with a dot are skipped.

    Raises:
        VideoDecodeError: the images are not numbered evenly.
    """

    def __init__(self, folder: str):
        self.name = printable(folder)
        self._images = _frame_files(folder)

    @cached_property
    def info(self) -> VideoInfo:  # type: ignore[override]
        """Number of images, and the size of the first one.

        Raises:
            VideoDecodeError: the first image cannot be read.
        """
        with VideoFile(self._images[0], video_name(self._images[0])) as image:
            return replace(image.info, num_frames=len(self._images), fps=float("nan"))

    def frames(self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Decode images; arguments, result and errors as in `VideoFile.frames`."""
        requested = frame_numbers(indices)
        self._check_numbers(requested)
        unique, inverse = np.unique(requested, return_inverse=True)
        frames = []
        for number in unique:
            with VideoFile(self._images[number], video_name(self._images[number])) as image:
                frames.append(image.frames([0], size)[0])
        if len({frame.shape for frame in frames}) > 1:
            raise VideoDecodeError(self.name, "the folder", "its images differ in size")
        return torch.stack(frames)[torch.from_numpy(inverse.reshape(requested.shape))]


class FrameArray(_Frames):
    """Frames in memory as a video. Only the requested frames are converted.

    Args:
        frames: array, tensor, list of frames, or one image.
        array_format: channels and values of the frames.

    Raises:
        ValueError: the frames differ in size, have other channels, or contain values that are not pixels.
    """

    def __init__(self, frames: Any, array_format: ArrayFormat = RGB_BYTES):
        self._format = array_format
        self._frames = _stack(frames, array_format.num_channels)
        shape = tuple(self._frames.shape)
        self.name = f"<array {shape}>"
        # Gray frames (T, H, W) get the axis -3.
        self._channel_axis = _channel_axis(shape, array_format) if len(shape) == 4 else None
        height, width = shape[1:3] if self._channel_axis == -1 else shape[-2:]
        self.info = VideoInfo(shape[0], float("nan"), height, width)

    def frames(self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Return the frames with these numbers, of any shape, followed by (C, H, W): uint8, or floating point numbers.

        Raises:
            VideoDecodeError: there are too few frames.
            ValueError: values that are not pixels.
        """
        requested = frame_numbers(indices)
        self._check_numbers(requested)
        pixels = self._scale(_to_tensor(self._frames[requested]))
        if self._channel_axis is None:
            pixels = pixels.unsqueeze(-3)
        elif self._channel_axis == -1:
            pixels = pixels.movedim(-1, -3)
        if self._format.num_channels == RGB and pixels.shape[-3] == 1:  # gray
            pixels = pixels.expand(*pixels.shape[:-3], RGB, -1, -1)
        pixels = pixels[..., : self._format.num_channels, :, :]  # without alpha
        return pixels if size is None else tvF.resize(pixels, list(size))

    def _scale(self, pixels: torch.Tensor) -> torch.Tensor:
        """Check the values, and map `value_range` to [0, `highest`]."""
        value_range, highest = self._format.value_range, self._format.highest
        if value_range is not None:
            black, white = value_range
            low, high = self._limits
            slack = (white - black) / 1000  # of rounding
            if low < black - slack or high > white + slack:
                raise ValueError(
                    f"a video contains values from {low:g} to {high:g}, beyond value_range=({black:g}, {white:g}); "
                    "give the right range, or clip the values to it."
                )
            return (pixels.float() - black) / (white - black) * (highest or 255)
        if not pixels.is_floating_point():
            if pixels.numel() and (pixels.min() < 0 or pixels.max() > 255):
                raise ValueError(
                    f"a video of {pixels.dtype} contains values from {pixels.min()} to {pixels.max()}; pixels are in "
                    "[0, 255]."
                )
            return pixels.to(torch.uint8)
        if highest is not None:
            self._check_floats(highest)
        return pixels

    def _check_floats(self, highest: float) -> None:
        """Check that floating point values lie in [0, `highest`], and do not look like those of another range."""
        (low, high), slack = self._limits, highest / 1000
        are_unit = highest > 1 and high <= 1
        if low < (-1e-3 if are_unit else -slack) or high > highest + slack:
            raise ValueError(
                f"a video contains values from {low:g} to {high:g}, but black is 0 and white is {highest:g} here; "
                "pass the values of black and white in your array, for example value_range=(-1, 1) for a generated "
                "video, or clip the values if only rounding or resizing put them out of range."
            )
        if are_unit and high > 0:
            raise ValueError(
                f"the pixel values, {low:g} to {high:g}, are already in [0, 1]; pass do_rescale=False, or say which "
                "values are black and white: value_range=(0, 1), or (-1, 1) for a generated video."
            )

    @cached_property
    def _limits(self) -> tuple[float, float]:
        """Lowest and highest value of all frames: a single bright clip does not show the range of a video."""
        low, high = float(self._frames.min()), float(self._frames.max())
        if not np.isfinite([low, high]).all():
            raise ValueError("a video contains nan or inf; fix the array that it comes from.")
        return low, high


OpenVideo: TypeAlias = VideoFile | FrameFolder | FrameArray


def open_video(video: Any, array_format: ArrayFormat = RGB_BYTES) -> AbstractContextManager[Any]:
    """Open a video of any kind in a `with` statement, with the interface of `VideoFile`.

    Addresses that `VideoFile` does not read, such as s3:// or hf://, are read by fsspec. An open video stays open.

    Args:
        video: see the top of this file. An image file is a video of one frame.
        array_format: how to read frames in memory.

    Raises:
        VideoDecodeError: the video cannot be read.
        ValueError: it is not a video, or a list of several.
    """
    if _is_open(video):
        return nullcontext(video)
    if is_in_memory(video, array_format.num_channels):
        return FrameArray(video, array_format)
    name, source = video_name(video), _source(video)
    if isinstance(source, str) and os.path.isdir(source):
        return FrameFolder(source)
    if isinstance(source, str) and scheme_of(source) not in ("", *DOWNLOADED):
        source = _read_address(source, name)
    return VideoFile(source, name)


def failed_video(name: str, cause: str) -> str:
    """Return a path that stands for a lost video: opening it raises a `VideoDecodeError` of this name and cause."""
    return f"{name}{FAILED}{cause}"


def list_videos(videos: Any, num_channels: int = RGB) -> list[Any]:
    """List the videos in one video, an iterable of videos, or an array `(B, T, ...)`, at any depth.

    Raises:
        ValueError: there is none, or an entry is not a video.
    """
    if is_one_video(videos, num_channels):
        return [videos]
    if getattr(videos, "ndim", None) == 5:
        return list(videos)
    if getattr(videos, "ndim", None) == 1 and all(map(_is_file, videos)):  # paths in numpy or pandas
        videos = videos.tolist()
    if hasattr(videos, "ndim") or not isinstance(videos, Iterable):
        raise ValueError(_not_a_video(videos))
    listed = [entry for video in videos for entry in list_videos(video, num_channels)]
    if not listed:
        raise ValueError(_not_a_video(videos))
    return listed


def is_one_video(video: Any, num_channels: int = RGB) -> bool:
    """Return whether this is one video, and not several; an object that is neither is not one."""
    return _is_open(video) or _is_file(video) or is_in_memory(video, num_channels)


def video_name(video: Any) -> str:
    """Return the name of a video for messages: its path, address or type, or its size if it is raw bytes."""
    if _is_open(video):
        return str(video.name)
    if isinstance(video, dict):
        video = video.get("path") or video.get("bytes") or b""
    if hasattr(video, "shape"):
        return f"<array {tuple(video.shape)}>"
    if isinstance(video, str):
        video = video.partition(FAILED)[0]
    return printable(source_name(video))


def is_in_memory(video: Any, num_channels: int = RGB) -> bool:
    """Return whether this is one video in memory: an array `(T, ...)`, a list of frames, or an image."""
    if hasattr(video, "ndim"):
        return video.ndim in (3, 4) or _is_frame(video, num_channels)
    is_list = isinstance(video, list | tuple) and len(video) > 0
    return _is_frame(video, num_channels) or (is_list and all(_is_frame(frame, num_channels) for frame in video))


def _is_frame(video: Any, num_channels: int) -> bool:
    """Return whether this is a PIL image, or an array of rows, columns and optionally channels."""
    if hasattr(video, "convert") or getattr(video, "ndim", None) == 2:
        return True
    if getattr(video, "ndim", None) != 3:
        return False
    last = (num_channels, 1, 4) if num_channels == RGB else (num_channels,)
    return video.shape[-1] in last or video.shape[0] in (num_channels, 1)  # else gray (T, H, W)


def _is_file(video: Any) -> bool:
    """Return whether this is something that contains a file, or the name of one."""
    is_named = isinstance(video, str | bytes | bytearray | memoryview | os.PathLike | dict)
    return is_named or hasattr(video, "read") or hasattr(getattr(video, "file", None), "read")


def _is_open(video: Any) -> bool:
    return hasattr(video, "frames") and hasattr(video, "info")


def _not_a_video(video: Any) -> str:
    """Return the message about an object that is not a video."""
    return (
        f"videos={type(video).__name__} is not a path, URL, bytes, file, array (T, H, W, C), image or list of frames, "
        "nor a non-empty list of these. Of a table of `datasets`, pass a column; cast videos to Video(decode=False)."
    )


# --- files -----------------------------------------------------------------------------------------------------------


def _source(video: Any) -> Any:
    """Return an input of `VideoFile`, or the path of a folder.

    Raises:
        VideoDecodeError: a row has neither a path nor bytes, or it is a `failed_video`.
        ValueError: it is not a video.
    """
    name = video_name(video)
    if isinstance(video, dict):
        if not {"bytes", "path"}.intersection(video):
            raise ValueError(f'a dict with the keys {list(video)} is not a video; give {{"bytes": ..., "path": ...}}.')
        video = video.get("path") if video.get("bytes") is None else video["bytes"]
    if video is None or (isinstance(video, str | bytes) and not video):
        raise VideoDecodeError(name, "the file", "it has 0 bytes" if video == b"" else "neither a path nor bytes")
    if not _is_file(video) or isinstance(video, dict):
        raise ValueError(_not_a_video(video))
    if isinstance(video, str) and FAILED in video:
        raise VideoDecodeError(name, "the file", video.partition(FAILED)[2])
    if isinstance(video, bytearray | memoryview):
        return bytes(video)
    return os.fspath(video) if isinstance(video, os.PathLike) else video


def _read_address(address: str, name: str) -> bytes:
    """Read an address with fsspec.

    Raises:
        VideoDecodeError: fsspec or a file system of it fails.
    """
    try:
        import fsspec

        with fsspec.open(address) as file:
            data: bytes = file.read()
            return data
    except Exception as error:  # noqa: BLE001  file systems of fsspec raise any type
        cause = without_secrets(f"{type(error).__name__}: {error}", address)
        raise VideoDecodeError(name, "the file", printable(cause)) from None  # the error may contain a password


def _frame_files(folder: str) -> list[str]:
    """Return the paths of the images of a folder by number.

    Raises:
        VideoDecodeError: the folder cannot be listed, or its numbers have a gap, so frames are missing.
    """
    name = printable(folder)
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise VideoDecodeError(name, "the folder as a video", f"{type(error).__name__}: {error}") from error
    images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    numbered = sorted((int(number[1]), name) for name in images if (number := re.search(r"(\d+)\.\w+$", name)))
    steps = set(np.diff([number for number, _ in numbered]).tolist())
    if not images or len(numbered) < len(images) or len(steps) > 1 or 0 in steps:
        cause = f"its {len(images)} images are not numbered evenly; to use each image as a clip, name them in a list"
        raise VideoDecodeError(name, "the folder as a video", cause)
    return [os.path.join(folder, name) for _, name in numbered]


# --- frames in memory ------------------------------------------------------------------------------------------------


def _stack(frames: Any, num_channels: int) -> Any:
    """Return frames as one array or tensor `(T, H, W)` or `(T, ...)` with channels."""
    if _is_frame(frames, num_channels) or not hasattr(frames, "ndim"):
        listed = [frames] if _is_frame(frames, num_channels) else list(frames)
        listed = [_from_image(frame, num_channels) if hasattr(frame, "convert") else frame for frame in listed]
        sizes = sorted({tuple(frame.shape) for frame in listed})
        if len(sizes) > 1:
            raise ValueError(f"the frames of a video differ in size: {sizes}; resize them to one, or pass paths.")
        are_tensors = all(isinstance(frame, torch.Tensor) for frame in listed)
        frames = torch.stack(listed) if are_tensors else np.stack(listed)
    frames = frames if isinstance(frames, torch.Tensor) else np.asarray(frames)
    is_array = isinstance(frames, np.ndarray)
    if frames.dtype.kind not in "uif" if is_array else frames.is_complex() or frames.dtype == torch.bool:
        raise ValueError(f"a video of {frames.dtype} contains no pixels; give uint8, or floating point numbers.")
    if 0 in frames.shape:
        raise ValueError(f"a video of shape {tuple(frames.shape)} has no frames or no pixels.")
    return frames


def _from_image(image: Any, num_channels: int) -> np.ndarray:
    """Return a PIL image as an array `(H, W)` or `(H, W, C)`."""
    mode = {1: "L", RGB: "RGB"}.get(num_channels)
    if mode and image.mode[0] in "IF":  # PIL would clip their values to [0, 255]
        raise ValueError(f"an image of mode {image.mode} has more than 8 bits per pixel; scale it to mode L or RGB.")
    return np.asarray(image.convert(mode))


def _channel_axis(shape: tuple[int, ...], array_format: ArrayFormat) -> int:
    """Return the axis of the channels of frames `(T, ., ., .)`.

    Raises:
        ValueError: no axis has as many entries as there are channels.
    """
    num_channels = array_format.num_channels
    for counts in ((num_channels,), (1, 4) if num_channels == RGB else ()):
        if shape[-3] in counts and array_format.data_format != ChannelDimension.LAST:
            return -3
        if shape[-1] in counts and array_format.data_format != ChannelDimension.FIRST:
            return -1
    raise ValueError(
        f"a video of shape {shape} has no axis of {num_channels} channels, the number of entries in image_mean; give "
        "image_mean and image_std one entry per channel"
        + (", or RGB, RGBA or gray frames." if num_channels == RGB else ".")
    )


def _to_tensor(frames: Any) -> torch.Tensor:
    """Return frames as a tensor of a type that torch computes with.

    Raises:
        ValueError: nan or inf.
    """
    if isinstance(frames, np.ndarray):
        if frames.dtype.kind == "u" and frames.itemsize > 1:
            frames = frames.astype(np.int64)
        frames = torch.as_tensor(frames.astype(frames.dtype.newbyteorder("="), copy=False))
    if not frames.isfinite().all():
        raise ValueError("a video contains nan or inf; fix the array that it comes from.")
    return frames
