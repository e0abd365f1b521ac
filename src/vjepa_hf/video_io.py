"""Read videos: what a file holds (`probe`) and exactly the frames asked for (`decode`). Only this file has a decoder.

A source is a path, a URL (http, https, file), the bytes of a file, or a binary file object. torchcodec reads it when
it really opens it; on a machine without FFmpeg, and for every file it refuses, PyAV does, whose wheels bring FFmpeg.

Frame i is frame i of a full decode from the beginning, whatever was asked before. The PyAV reader first lists the
packets without decoding them, which gives every frame its number by its presentation time; then it seeks to the last
key frame before the first wanted frame and stops after the last one. Whenever what comes out of the decoder is not
what the list promised, it starts again from the beginning and counts.
"""

import io
import os
import sys
import urllib.request
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
import torch

Source = str | os.PathLike | bytes | BinaryIO
URL_TIMEOUT_SECONDS = 60


class VideoDecodeError(Exception):
    """A video that cannot be read as asked; the only error an unreadable file causes.

    Attributes:
        file: Path or URL, or what kind of object the video came in.
        asked: What was wanted of it, for example "frames 0 to 60".
        cause: Why that was not possible.
    """

    def __init__(self, file: str, asked: str, cause: str):
        super().__init__(file, asked, cause)  # all three in `args`, so that the error survives pickling by a worker
        self.file, self.asked, self.cause = file, asked, cause

    def __str__(self) -> str:
        return f"{self.file}: cannot read {self.asked}: {self.cause}"


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds. Height and width are those of the frames `decode` returns, rotation included.

    Attributes:
        num_frames: Frames a full decode gives, counted and not taken from the header.
        fps: Mean frames per second.
        height: Rows of a frame.
        width: Columns of a frame.
        duration: Seconds, `num_frames / fps`.
    """

    num_frames: int
    fps: float
    height: int
    width: int

    @property
    def duration(self) -> float:
        return self.num_frames / self.fps


def probe(source: Source) -> VideoInfo:
    """What `source` holds, without decoding more than its first frame where its packets can be trusted.

    Raises:
        VideoDecodeError: It is missing or holds no frame that can be decoded.
    """
    with _open(source) as video:
        return _info(video)


def decode(
    source: Source,
    indices: Sequence[int] | np.ndarray | Callable[[VideoInfo], np.ndarray],
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The frames with these numbers, in the order asked, repeated where asked twice.

    Args:
        source: Path, URL, bytes or binary file object.
        indices: Frame numbers, any shape, or a function that chooses them from the `VideoInfo`: then the file is
            opened once for both.
        size: (height, width) to scale to while converting; None keeps the video's own.

    Returns:
        uint8 RGB of shape (T, C, H, W), T being the number of indices. Stored with the channels last.

    Raises:
        VideoDecodeError: The video cannot be opened or decoded, or has fewer frames than asked.
        ValueError: A frame number is negative.
    """
    with _open(source) as video:
        wanted = np.asarray(indices(_info(video)) if callable(indices) else indices, dtype=np.int64).reshape(-1)
        if wanted.size == 0 or wanted.min() < 0:
            raise ValueError(f"indices={wanted.tolist()} must hold at least one frame number, none of them negative.")
        unique, positions = np.unique(wanted, return_inverse=True)
        with _reported(video.name, f"frames {unique[0]} to {unique[-1]}"):
            frames = video.frames(unique.tolist(), size)
    if len(unique) < len(wanted) or (np.diff(wanted) < 0).any():
        frames = frames[torch.from_numpy(positions)]
    return frames.permute(0, 3, 1, 2)


def _decoder_errors() -> tuple[type[Exception], ...]:
    """What a damaged file can make a decoder raise. Faults of this code (a wrong name or type) are not among them."""
    errors = (OSError, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError)
    return (*errors, sys.modules["av"].error.FFmpegError) if "av" in sys.modules else errors


@contextmanager
def _reported(name: str, asked: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into a `VideoDecodeError`."""
    try:
        yield
    except _decoder_errors() as error:
        raise VideoDecodeError(name, asked, f"{type(error).__name__}: {error}") from error


@contextmanager
def _open(source: Source) -> "Iterator[_TorchcodecVideo | _PyAVVideo]":
    """Open `source` with the first decoder that takes it; always closed again."""
    name = _name(source)
    with _reported(name, "the file"):
        readable = _readable(source)
        video = _open_torchcodec(readable, name) or _PyAVVideo(readable, name)
    try:
        yield video
    finally:
        video.close()


def _info(video: "_TorchcodecVideo | _PyAVVideo") -> VideoInfo:
    with _reported(video.name, "how many frames it has"):
        return video.info()


def _name(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else f"<{type(source).__name__}>"


def _readable(source: Source) -> str | bytes | BinaryIO:
    """A local path, bytes or a file object at its beginning; a URL is downloaded once."""
    if isinstance(source, os.PathLike):
        return os.fspath(source)
    if isinstance(source, str) and source.startswith(("http://", "https://", "file://")):
        with urllib.request.urlopen(source, timeout=URL_TIMEOUT_SECONDS) as response:
            return response.read()
    if not isinstance(source, str | bytes):
        source.seek(0)
    return source


# ---- torchcodec ----


@lru_cache(maxsize=1)
def _torchcodec_decoder() -> Any:
    """torchcodec's decoder class, or None where it is missing or finds no FFmpeg: asked once, by really loading it."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None
    # Recent ones import without FFmpeg; without this every file would first fail to open.
    return None if getattr(torchcodec, "ffmpeg_major_version", "unknown") is None else VideoDecoder


def _open_torchcodec(source: str | bytes | BinaryIO, name: str) -> "_TorchcodecVideo | None":
    decoder = _torchcodec_decoder()
    if decoder is None:
        return None
    try:
        # NHWC, because that is how frames lie in memory; one thread, because the loader has its own workers.
        return _TorchcodecVideo(decoder(source, dimension_order="NHWC", num_ffmpeg_threads=1), name)
    except _decoder_errors():
        # PyAV reads some files torchcodec does not, and for the others its error is the one that is reported.
        if not isinstance(source, str | bytes):
            source.seek(0)
        return None


class _TorchcodecVideo:
    """A video opened by torchcodec, which lists the packets and seeks by itself."""

    def __init__(self, decoder: Any, name: str):
        self.decoder, self.name = decoder, name
        if not len(decoder):
            raise ValueError("no frames")
        self.height, self.width = decoder[0].shape[:2]

    def info(self) -> VideoInfo:
        return VideoInfo(len(self.decoder), float(self.decoder.metadata.average_fps), self.height, self.width)

    def frames(self, numbers: list[int], size: tuple[int, int] | None) -> torch.Tensor:
        """Frames with these ascending numbers, uint8 (T, H, W, C)."""
        if numbers[-1] >= len(self.decoder):
            raise ValueError(f"it has only {len(self.decoder)} frames")
        frames = self.decoder.get_frames_at(numbers).data
        if size is None:
            return frames
        frames = torch.nn.functional.interpolate(frames.permute(0, 3, 1, 2), size, mode="bilinear")
        return frames.permute(0, 2, 3, 1)

    def close(self) -> None:
        self.decoder = None


# ---- PyAV ----


class _UnexpectedFrame(Exception):
    """The decoder gave another frame than the list of packets promised."""


class _PyAVVideo:
    """A video opened by PyAV. Decoding has one thread: the loader has its own workers."""

    def __init__(self, source: str | bytes | BinaryIO, name: str):
        self.source, self.name = source, name
        self.container = None
        try:
            self._restart()
            self._list_packets()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.container is not None:
            self.container.close()
            self.container = None

    def _restart(self) -> None:
        """(Re)open the file at its very beginning, which a seek does not always reach."""
        import av

        self.close()
        source = self.source
        if isinstance(source, bytes):
            source = io.BytesIO(source)
        elif not isinstance(source, str):
            source.seek(0)
        self.container = av.open(source, metadata_errors="replace")
        # A cover picture is a video stream to FFmpeg; it does not make a song a video.
        pictures = av.stream.Disposition.attached_pic
        streams = [stream for stream in self.container.streams.video if not stream.disposition & pictures]
        if not streams:
            raise ValueError("no video stream")
        self.stream = streams[0]
        self.stream.thread_count = 1

    def _list_packets(self) -> None:
        """Read all packets; decode only until the first frame, whose size and rotation stand for all."""
        shown, keys, first_frame = [], [], None
        for packet in self.container.demux(self.stream):
            if first_frame is None:
                first_frame = next(iter(packet.decode()), None)
            if packet.has_sidedata("encryption_info"):
                # Most decoders take encrypted pictures for damaged ones and return gray frames.
                raise ValueError("the video is encrypted")
            if packet.size and not packet.is_discard and _is_shown(packet, self.stream.codec_context.name):
                shown.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if first_frame is None:
            raise ValueError("no frame that can be decoded")
        self.height, self.width, self.rotation = first_frame.height, first_frame.width, first_frame.rotation
        # AVI has no presentation times, and frames before the first key frame may or may not come out of the decoder.
        self.trusted = (
            self.container.format.name != "avi"
            and None not in shown
            and len(set(shown)) == len(shown)
            and bool(keys)
            and keys[0][0] == min(shown)
        )
        if self.trusted:
            self.times = sorted(shown)
            self.keys = sorted((bisect_left(self.times, time), seek_time) for time, seek_time in keys)

    def info(self) -> VideoInfo:
        if not self.trusted:
            num_frames, seconds = sum(1 for _ in self._from_start()), 0
        else:
            num_frames, seconds = len(self.times), (self.times[-1] - self.times[0]) * self.stream.time_base
        # The times of the frames know better than the header, where there are two of them.
        fps = float((num_frames - 1) / seconds if seconds else self.stream.average_rate or 1)
        height, width = (self.width, self.height) if self.rotation % 180 else (self.height, self.width)
        return VideoInfo(num_frames, fps, height, width)

    def frames(self, numbers: list[int], size: tuple[int, int] | None) -> torch.Tensor:
        """Frames with these ascending numbers, uint8 (T, H, W, C)."""
        if self.trusted:
            key_number, seek_time = self.keys[bisect_right(self.keys, numbers[0], key=lambda key: key[0]) - 1]
            try:
                return self._collect(self._from_key(key_number, seek_time), numbers, size)
            except _UnexpectedFrame:
                self.trusted = False
        return self._collect(self._from_start(), numbers, size)

    def _from_key(self, key_number: int, seek_time: int) -> Iterator[tuple[int, Any]]:
        """Frames and their numbers from a key frame on, numbered by their presentation times."""
        self.container.seek(seek_time, stream=self.stream)
        number, at_key = key_number, False
        for packet in self.container.demux(self.stream):
            # Some formats only seek to about the right place; what lies before a key frame there cannot be decoded.
            at_key = at_key or packet.is_keyframe
            for frame in packet.decode() if at_key else ():
                # Frames shown before the key frame may refer to frames that were not read.
                if frame.pts is not None and frame.pts < self.times[key_number]:
                    continue
                if number == len(self.times) or frame.pts != self.times[number]:
                    raise _UnexpectedFrame(f"frame {number} at {frame.pts}")
                yield number, frame
                number += 1
        if number < len(self.times):
            raise _UnexpectedFrame(f"no frame {number}")

    def _from_start(self) -> Iterator[tuple[int, Any]]:
        """Frames and their numbers in a full decode."""
        self._restart()
        return enumerate(self.container.decode(self.stream))

    def _collect(
        self, numbered: Iterator[tuple[int, Any]], numbers: list[int], size: tuple[int, int] | None
    ) -> torch.Tensor:
        """Convert the wanted frames and stop after the last of them."""
        height, width = size or (self.height, self.width)
        if size is not None and self.rotation % 180:
            height, width = width, height
        frames = np.empty((len(numbers), height, width, 3), dtype=np.uint8)
        position, number = 0, -1
        for number, frame in numbered:
            if number == numbers[position]:
                frames[position] = frame.to_ndarray(format="rgb24", height=height, width=width, threads=1)
                position += 1
                if position == len(numbers):
                    break
        else:
            raise ValueError(f"it has only {number + 1} frames")
        # Rotation is counterclockwise, as for `rot90`.
        return torch.from_numpy(np.ascontiguousarray(np.rot90(frames, self.rotation // 90, axes=(1, 2))))


def _is_shown(packet: Any, codec: str) -> bool:
    """False for packets of VP8 and VP9 that hold a reference picture only; other codecs have none of their own.

    VP8: bit 4 of the frame tag (RFC 6386, section 9.1). VP9: `show_existing_frame` or `show_frame` of the uncompressed
    header (VP9 bitstream specification, section 6.2); a superframe ends in a frame that is shown.
    """
    if codec not in ("vp8", "libvpx", "vp9", "libvpx-vp9"):
        return True
    data = bytes(packet)
    if codec in ("vp8", "libvpx"):
        return bool(data[0] & 0x10)
    if data[-1] & 0xE0 == 0xC0:
        return True
    # Two bits marker, two bits profile, in profile 3 one reserved bit, then show_existing, type, show_frame.
    shift = 0 if data[0] & 0x30 == 0x30 else 1
    show_existing, show_frame = data[0] >> (2 + shift) & 1, data[0] >> shift & 1
    return bool(show_existing or show_frame)
