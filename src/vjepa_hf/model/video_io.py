"""Read videos: what a file holds (`probe`) and exactly the frames asked for (`decode`). Only this file has a decoder.

A source is a path, a URL (http, https, file), the bytes of a file, or a binary file object. PyAV reads it; its wheels
bring FFmpeg. For frames on a GPU, torchcodec decodes there where it is installed and agrees about the file.

Frame i is frame i of a full decode from the beginning, whatever was asked before. The index of the file, or where it
has none a list of its packets, which are not decoded for that, says how many frames there are before each key frame.
So a clip costs a seek to the last key frame before it, and decoding from there to its last frame, in H.264 without the
frames that are not asked for and that no other frame refers to. Whenever what comes out of the decoder is not what the
index promised, decoding starts again from the beginning and counts.
"""

import io
import os
import sys
import urllib.request
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from http.client import HTTPException
from itertools import chain, dropwhile, islice, repeat
from typing import Any, BinaryIO, Literal, NamedTuple

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
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """The frames with these numbers, in the order asked, repeated where asked twice.

    Args:
        source: Path, URL, bytes or binary file object.
        indices: Frame numbers, any shape, or a function that chooses them from the `VideoInfo`: then the file is
            opened once for both.
        size: (height, width) in pixels to scale to while converting to RGB; None keeps the video's own.
        device: Where the frames are wanted. For a GPU they are decoded there (NVDEC) if torchcodec can do that for
            this file, else on the CPU.

    Returns:
        uint8 RGB of shape (T, C, H, W), T being the number of indices. Stored with the channels last.

    Raises:
        VideoDecodeError: The video cannot be opened or decoded, or has fewer frames than asked.
        ValueError: There is no frame number, a negative one, or a size below one pixel.
    """
    if size is not None and min(size) < 1:
        raise ValueError(f"size={tuple(size)} must be a height and a width of at least one pixel.")
    device = torch.device(device)
    with _open(source) as video:
        wanted = np.asarray(indices(_info(video)) if callable(indices) else indices, dtype=np.int64).reshape(-1)
        if wanted.size == 0 or wanted.min() < 0:
            raise ValueError(f"indices={wanted.tolist()} must hold at least one frame number, none of them negative.")
        unique, positions = np.unique(wanted, return_inverse=True)
        with _reported(video.name, f"frames {unique[0]} to {unique[-1]}"):
            frames = _frames_on_gpu(video, unique.tolist(), size, device) if device.type == "cuda" else None
            if frames is None:
                frames = video.frames(unique.tolist(), size).to(device)
    if len(unique) < len(wanted) or (np.diff(wanted) < 0).any():
        frames = frames[torch.from_numpy(positions).to(device)]
    return frames.permute(0, 3, 1, 2)


class TimedFrame(NamedTuple):
    """A frame and when it is shown.

    Attributes:
        number: Which frame of the video it is.
        seconds: Presentation time, as the file has it, right or wrong; `number / fps` where it has none.
        frame: uint8 RGB (C, H, W).
    """

    number: int
    seconds: float
    frame: torch.Tensor


def stream(
    source: Source, indices: Sequence[int] | np.ndarray | Callable[[VideoInfo], np.ndarray]
) -> Iterator[TimedFrame]:
    """The frames with these numbers one by one, while the file is read once, from the first of them on.

    For what is too long to be held: memory does not grow with the video. Frames equal those of `decode`; but where the
    index of a file proves wrong on the way, frames that were given out stay as they were numbered until then.

    Args:
        source: Path, URL, bytes or binary file object.
        indices: Frame numbers that never fall, or a function that chooses them from the `VideoInfo`.

    Raises:
        VideoDecodeError: The video cannot be opened or decoded, or has fewer frames than asked.
        ValueError: There is no frame number, a negative one, or one below that before it.
    """
    with _open(source) as video:
        info = _info(video)
        wanted = np.asarray(indices(info) if callable(indices) else indices, dtype=np.int64).reshape(-1)
        if wanted.size == 0 or wanted[0] < 0 or (np.diff(wanted) < 0).any():
            raise ValueError(f"indices={wanted.tolist()[:10]} must hold at least one frame number, and never fall.")
        unique, times = np.unique(wanted, return_counts=True)
        with _reported(video.name, f"frames {unique[0]} to {unique[-1]}"):
            for (number, frame), count in zip(video.in_order(unique.tolist()), times.tolist(), strict=True):
                seconds = number / info.fps if frame.time is None else frame.time
                shown = TimedFrame(number, seconds, torch.from_numpy(video.upright(frame)).permute(2, 0, 1))
                yield from [shown] * count


def _decoder_errors() -> tuple[type[Exception], ...]:
    """What a damaged file can make a decoder raise. Faults of this code (a wrong name or type) are not among them."""
    errors = (OSError, HTTPException, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError)
    return (*errors, sys.modules["av"].error.FFmpegError) if "av" in sys.modules else errors


@contextmanager
def _reported(name: str, asked: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into a `VideoDecodeError`."""
    try:
        yield
    except _decoder_errors() as error:
        raise VideoDecodeError(name, asked, f"{type(error).__name__}: {error}") from error


@contextmanager
def _open(source: Source) -> "Iterator[_PyAVVideo]":
    """Open `source`; always closed again."""
    name = _name(source)
    with _reported(name, "the file"):
        video = _PyAVVideo(_readable(source), name)
    try:
        yield video
    finally:
        video.close()


def _info(video: "_PyAVVideo") -> VideoInfo:
    with _reported(video.name, "how many frames it has"):
        return video.info()


def _name(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else f"<{type(source).__name__}>"


def _readable(source: Source) -> str | bytes | BinaryIO:
    """A local path, bytes or a file object that can seek; a URL is downloaded once."""
    if isinstance(source, os.PathLike):
        return os.fspath(source)
    if isinstance(source, str) and source.startswith(("http://", "https://", "file://")):
        with urllib.request.urlopen(source, timeout=URL_TIMEOUT_SECONDS) as response:
            return response.read()
    if isinstance(source, str) and "://" in source:
        raise ValueError("only addresses that begin with http://, https:// or file:// are read; download it first")
    if isinstance(source, str | bytes):
        return source
    # A pipe or a response can be read only once, and decoding goes back and forth.
    return source if source.seekable() else source.read()


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


def _frames_on_gpu(
    video: "_PyAVVideo", numbers: list[int], size: tuple[int, int] | None, device: torch.device
) -> torch.Tensor | None:
    """Frames with these ascending numbers, uint8 (T, H, W, C), decoded by torchcodec; None if it cannot or may not.

    It counts frames otherwise than a full decode does in files with edit lists or hidden frames, in AVI, MPEG program
    and transport streams, and not every version of it turns videos: it gets only what the index of an MP4 or MOV file
    vouches for, the right way up.
    """
    decoder_class, index = _torchcodec_decoder(), video.index
    if decoder_class is None or index is None or index.clock != "dts" or index.hidden or any(video.orientation):
        return None
    try:
        # NHWC, because that is how frames lie in memory; one thread, because the loader has its own workers.
        decoder = decoder_class(
            video.rewound(),
            stream_index=video.stream.index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device=str(device),
        )
        if len(decoder) != index.num_frames:
            return None
        frames = decoder.get_frames_at(numbers).data
    except _decoder_errors():
        # The CPU reads some files that torchcodec does not, and for the others its error is the one to report.
        return None
    if size is None:
        return frames
    scaled = torch.nn.functional.interpolate(frames.movedim(-1, 1).float(), size, mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


# ---- PyAV ----

# Both have frames that are not shown, which only the packets tell.
VP8, VP9 = ("vp8", "libvpx"), ("vp9", "libvpx-vp9")
MAX_EMPTY_MPEG4_FRAME = 19  # bytes
MAX_REORDERING = 32  # frames: more than any codec stores before one that is shown earlier


class _UnexpectedFrame(Exception):
    """The decoder gave another frame than the index promised."""


class _Orientation(NamedTuple):
    """How to turn a stored picture upright: swap rows with columns, then reverse the rows, the columns."""

    is_transposed: bool
    reverses_rows: bool
    reverses_columns: bool

    def turn(self, frames: np.ndarray) -> np.ndarray:
        """Frames (T, H, W, C), upright."""
        frames = frames.swapaxes(1, 2) if self.is_transposed else frames
        rows, columns = (slice(None, None, -1 if is_reversed else 1) for is_reversed in self[1:])
        return np.ascontiguousarray(frames[:, rows, columns])


class _Entry(NamedTuple):
    """A packet in an index made by reading packets. The entries of a container's own index have these fields, too."""

    timestamp: int
    is_keyframe: bool


@dataclass(frozen=True)
class _Index:
    """Where decoding may begin: the packets of a video in the order in which they are stored and decoded.

    Attributes:
        entries: What is known of each packet: its time, and whether it holds a key frame.
        clock: Which time that is: containers list decoding times, "dts"; packets that were read have "pts", too.
        hidden: Places, ascending, of packets whose frame is decoded but not shown.
        seek_offset: What to add to the time of a packet in order to seek to it, or to shortly before it.
        frame_interval: Mean time between two frames.
        may_spare: Whether a frame that is not wanted and that no other refers to need not be decoded.
    """

    entries: Sequence[Any]
    clock: Literal["dts", "pts"]
    hidden: list[int]
    seek_offset: int
    frame_interval: float
    may_spare: bool = False

    @property
    def num_frames(self) -> int:
        return len(self.entries) - len(self.hidden)

    def frames_before(self, place: int) -> int:
        """How many of the packets before this place have a frame that is shown."""
        return place - bisect_left(self.hidden, place)

    def key_before_frame(self, number: int) -> int:
        """Place of the last key frame with at most `number` shown frames before it."""
        place = number
        while (later := number + bisect_right(self.hidden, place)) > place:
            place = later
        return self.key_up_to(min(place, len(self.entries) - 1))

    def key_up_to(self, place: int) -> int:
        while not self.entries[place].is_keyframe:
            place -= 1
        return place

    def is_at(self, place: int, packet: Any) -> bool:
        """Whether this is the packet stored there."""
        entry = self.entries[place]
        if self.clock == "pts":
            return packet.pts == entry.timestamp
        return (packet.dts, packet.pos) == (entry.timestamp, entry.pos)


class _PyAVVideo:
    """A video opened by PyAV. Decoding has one thread: the loader has its own workers."""

    def __init__(self, source: str | bytes | BinaryIO, name: str):
        from av.video.reformatter import VideoReformatter

        self.source, self.name = source, name
        self.reformatter = VideoReformatter()
        self.container = None
        try:
            self._restart()
            self._read_first_frame()
            self.index = self._container_index() or self._packet_index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.container is not None:
            self.container.close()
            self.container = None

    def rewound(self) -> str | BinaryIO:
        """The source as FFmpeg wants it, at its beginning."""
        if isinstance(self.source, str):
            # Otherwise FFmpeg takes what stands before a colon in the name for a protocol.
            return f"file:{self.source}"
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        self.source.seek(0)
        return self.source

    def _restart(self) -> None:
        """(Re)open the file at its very beginning, which a seek does not always reach."""
        import av

        self.close()
        self.container = av.open(self.rewound(), metadata_errors="replace")
        # A cover picture is a video stream to FFmpeg; it does not make a song a video.
        pictures = av.stream.Disposition.attached_pic
        streams = [stream for stream in self.container.streams.video if not stream.disposition & pictures]
        if not streams:
            raise ValueError("no video stream")
        self.stream = streams[0]
        if self.stream.codec_context is None:  # PyAV 17 crashes if it decodes such a stream
            raise ValueError("FFmpeg does not know the codec of the video stream")
        self.stream.thread_count = 1

    def _packets(self) -> Iterator[Any]:
        """Packets from where the file stands to its end, and then the empty one that makes the decoder finish."""
        # PyAV loses a packet's memory when such a generator is left behind unfinished and not closed.
        with closing(self.container.demux(self.stream)) as packets:
            for packet in packets:
                if packet.has_sidedata("encryption_info"):
                    # Most decoders take encrypted pictures for damaged ones and return gray frames.
                    raise ValueError("the video is encrypted")
                # The rest of a packet where a file was cut off; in a transport stream something before it is missing.
                if not packet.is_corrupt or self.container.format.name == "mpegts":
                    yield packet

    def _read_first_frame(self) -> None:
        """The size and the orientation of the first frame stand for all."""
        packet = next(self._packets())
        # Finishing after one packet saves decoding those that the decoder wants to see before it gives out a frame.
        frames = packet.decode() or self.stream.codec_context.decode(None)
        self.stream.codec_context.flush_buffers()
        if not frames:
            self._restart()
            frames = next(filter(None, (packet.decode() for packet in self._packets())), None)
        if not frames:
            raise ValueError("no frame that can be decoded")
        self.height, self.width = frames[0].height, frames[0].width
        self.orientation = _orientation(frames[0])

    def _container_index(self) -> _Index | None:
        """The index of an MP4 or MOV file, where it is whole; only the first and last packets are read for that.

        Other containers have none, or one of the key frames only.
        """
        entries = self.stream.index_entries
        if "mp4" not in self.container.format.name or self.stream.codec_context.name in VP8 + VP9:
            return None
        hidden = [place for place, entry in enumerate(entries) if entry.is_discard]
        if len(hidden) == len(entries) or not entries[0].is_keyframe:
            return None
        first, *others = self._times_from(entries[0].timestamp, MAX_REORDERING) or [(None, None)]
        # What is shown before the first key frame may or may not come out of the decoder.
        if first[0] != entries[0].timestamp or any(pts is None or pts < first[1] for _, pts in others):
            return None
        delay = first[1] - first[0]
        # The index of a file that was cut off promises packets that are gone, that of a fragmented one may lack some.
        last = [dts for dts, _ in self._times_from(entries[-1].timestamp + delay, len(entries))]
        if not last or last != [entry.timestamp for entry in entries[-len(last) :]]:
            return None
        return _Index(
            entries=entries,
            clock="dts",
            hidden=hidden,
            seek_offset=delay,
            frame_interval=(entries[-1].timestamp - entries[0].timestamp) / max(1, len(entries) - 1),
            may_spare=self._may_spare([first[1], *(pts for _, pts in others)]),
        )

    def _may_spare(self, times: list[int]) -> bool:
        """Whether frames may be left out of decoding, given the first presentation times in stored order.

        In H.264 a frame that is no reference (nal_ref_idc 0, ITU-T H.264 section 7.4.1) changes no other; in HEVC that
        holds within one temporal layer only. Which frame is missing is known from the times, so these must show the
        reordering that the decoder announces.
        """
        context = self.stream.codec_context
        return context.name == "h264" and (not context.has_b_frames or times != sorted(times))

    def _times_from(self, time: int, num_packets: int) -> list[tuple[int | None, int | None]]:
        """Decoding and presentation times of the next packets from a time on; none if it cannot be reached."""
        try:
            self.container.seek(time, stream=self.stream, any_frame=True)
            packets = islice(self._packets(), num_packets + 1)
            return [(packet.dts, packet.pts) for packet in packets if packet.size]
        except sys.modules["av"].error.FFmpegError:
            return []

    def _packet_index(self) -> _Index | None:
        """An index made by reading all packets without decoding them; None where they do not tell enough."""
        self._restart()
        entries, hidden, reordering = [], [], 0
        for packet in self._packets():
            is_shown = _is_shown(packet, self.stream.codec_context.name)
            if packet.size == 0:
                continue
            if packet.pts is None or is_shown is None:
                return None
            if not is_shown:
                hidden.append(len(entries))
            if packet.dts is not None:
                reordering = max(reordering, packet.pts - packet.dts)
            entries.append(_Entry(packet.pts, packet.is_keyframe))
        is_hidden = set(hidden)
        times = {entry.timestamp for place, entry in enumerate(entries) if place not in is_hidden}
        if len(times) < len(entries) - len(hidden) or not times:
            return None
        # What is shown before the first key frame may or may not come out of the decoder.
        if not entries[0].is_keyframe or entries[0].timestamp > min(times):
            return None
        return _Index(
            entries=entries,
            clock="pts",
            hidden=hidden,
            seek_offset=-reordering,
            frame_interval=(max(times) - min(times)) / max(1, len(times) - 1),
        )

    def info(self) -> VideoInfo:
        height, width = (self.width, self.height) if self.orientation.is_transposed else (self.height, self.width)
        if self.index is None:
            num_frames, seconds = sum(1 for _ in self._from_start()), 0
        else:
            num_frames, seconds = self.index.num_frames, self.index.frame_interval * self.stream.time_base
        # The times of the frames know better than the header, where there are two of them.
        fps = 1 / seconds if seconds > 0 else self.stream.average_rate or 1
        return VideoInfo(num_frames, float(fps), height, width)

    def frames(self, numbers: list[int], size: tuple[int, int] | None) -> torch.Tensor:
        """Frames with these ascending numbers, uint8 (T, H, W, C)."""
        if self.index is not None:
            try:
                return self._collect(self._from_key(numbers), numbers, size)
            except _UnexpectedFrame:
                self.index = None
        return self._collect(self._from_start(), numbers, size)

    def in_order(self, numbers: list[int]) -> Iterator[tuple[int, Any]]:
        """Frames with these ascending numbers as they come out of the decoder, each with its number."""
        wanted, last = set(numbers), -1
        for way in (lambda: self._from_key(numbers), self._from_start)[self.index is None :]:
            try:
                for number, frame in way():
                    if number in wanted and number > last:
                        last = number
                        yield number, frame
                        if last == numbers[-1]:
                            return
            except _UnexpectedFrame:
                self.index = None
        raise ValueError(f"it has no frame {numbers[-1]}")

    def upright(self, frame: Any) -> np.ndarray:
        """A frame as RGB (H, W, C)."""
        rgb = self.reformatter.reformat(frame, self.width, self.height, "rgb24", threads=1)
        return self.orientation.turn(rgb.to_ndarray()[None])[0]

    def _from_start(self) -> Iterator[tuple[int, Any]]:
        """Numbers and frames of a full decode."""
        self._restart()
        return enumerate(frame for packet in self._packets() for frame in packet.decode())

    def _collect(
        self, numbered: Iterator[tuple[int, Any]], numbers: list[int], size: tuple[int, int] | None
    ) -> torch.Tensor:
        """Convert the wanted frames, in one pass each, and stop after the last of them."""
        height, width = size or (self.height, self.width)
        if size is not None and self.orientation.is_transposed:
            height, width = width, height
        frames = np.empty((len(numbers), height, width, 3), dtype=np.uint8)
        position, number = 0, -1
        for number, frame in numbered:
            if number == numbers[position]:
                rgb = self.reformatter.reformat(frame, width, height, "rgb24", threads=1)
                frames[position] = rgb.to_ndarray()
                position += 1
                if position == len(numbers):
                    return torch.from_numpy(self.orientation.turn(frames))
        raise ValueError(f"it has only {number + 1} frames")

    def _from_key(self, numbers: list[int]) -> Iterator[tuple[int, Any]]:
        """Numbers and frames from the last key frame on that is shown no later than the first frame wanted."""
        first, wanted = numbers[0], set(numbers)
        place = self.index.key_before_frame(min(first, self.index.num_frames - 1))
        numbered = self._after_key(place, wanted)
        first_number, first_frame = next(numbered)
        while first_number > first:
            # It is stored after this key frame, but shown before it and refers to frames of the group before.
            if place == 0:
                raise _UnexpectedFrame(f"no frame {first}")
            place = self.index.key_up_to(place - 1)
            numbered = self._after_key(place, wanted)
            first_number, first_frame = next(numbered)
        yield first_number, first_frame
        yield from numbered

    def _after_key(self, place: int, wanted: set[int]) -> Iterator[tuple[int, Any]]:
        """Numbers and frames from the key frame stored at `place` on; some that are not wanted may be missing.

        Packets say when their frames are to be shown, and exactly in that order the frames must come.
        """
        try:
            self.container.seek(self.index.entries[place].timestamp + self.index.seek_offset, stream=self.stream)
        except _decoder_errors():
            # Some containers cannot be told to go anywhere before the first packet.
            self._restart()
        context = self.stream.codec_context
        packets = dropwhile(lambda packet: not self.index.is_at(place, packet), self._packets())
        number, expected, spared, key_time, started = self.index.frames_before(place), [], set(), None, False
        for packet, number_of_packet in self._numbered(packets, number):
            if _is_shown(packet, context.name):
                heappush(expected, packet.pts)
            if key_time is None:
                key_time = packet.pts
            if self.index.may_spare:
                context.skip_frame = "DEFAULT" if number_of_packet in wanted else "NONREF"
                if number_of_packet not in wanted:
                    spared.add(packet.pts)
            try:
                frames = packet.decode()
            except _decoder_errors() as error:
                if started:
                    raise
                raise _UnexpectedFrame("the key frame cannot be decoded alone") from error
            for frame in frames:
                if not started:
                    # Frames shown before the key frame refer to others that were not read.
                    if frame.pts is not None and frame.pts < key_time:
                        continue
                    while expected and expected[0] < key_time:
                        heappop(expected)
                        number += 1
                    if place > 0 and frame.pts == key_time and not frame.key_frame:
                        raise _UnexpectedFrame(f"frame {number} is no key frame")
                    started = True
                while expected and expected[0] != frame.pts and expected[0] in spared:
                    heappop(expected)
                    number += 1
                if not expected or heappop(expected) != frame.pts:
                    raise _UnexpectedFrame(f"frame {number} at {frame.pts}")
                yield number, frame
                number += 1
        number += len(expected)
        if not spared.issuperset(expected) or number != self.index.num_frames:
            raise _UnexpectedFrame(f"the end after frame {number}")

    def _numbered(self, packets: Iterator[Any], number: int) -> Iterator[tuple[Any, int | None]]:
        """Packets with the numbers of their frames, the first frame shown having this one.

        A number is known when all packets are read whose frames are shown earlier.
        """
        times, waiting, latest = [], deque(), None
        for packet in chain(packets, repeat(None, MAX_REORDERING)):
            if packet is not None and packet.size:
                if packet.pts is None:
                    raise _UnexpectedFrame(f"no time for a frame after {number}")
                if latest is not None and packet.pts < latest:
                    raise _UnexpectedFrame(f"a frame at {packet.pts} after one at {latest}")
                if _is_shown(packet, self.stream.codec_context.name):
                    insort(times, packet.pts)
            waiting.append(packet)
            if len(waiting) > MAX_REORDERING and (packet := waiting.popleft()) is not None:
                if packet.size:
                    latest = packet.pts if latest is None else max(latest, packet.pts)
                yield packet, number + bisect_left(times, packet.pts) if packet.size else None


def _is_shown(packet: Any, codec: str) -> bool | None:
    """Whether a frame comes out of the decoder for this packet; None if only decoding can tell.

    VP8: bit 4 of the frame tag (RFC 6386, section 9.1). VP9: `show_existing_frame` or `show_frame` of the uncompressed
    header (VP9 bitstream specification, section 6.2); a superframe ends in a frame that is shown. MPEG-4 part 2: a
    packet of a few bytes may say that there is no new frame (`vop_coded`).
    """
    if packet.is_discard or not packet.size:
        return False
    if codec == "mpeg4":
        return True if packet.size > MAX_EMPTY_MPEG4_FRAME else None
    if codec not in VP8 + VP9:
        return True
    data = memoryview(packet)
    if codec in VP8:
        return bool(data[0] & 0x10)
    if data[-1] & 0xE0 == 0xC0:
        return True
    # Two bits marker, two bits profile, in profile 3 one reserved bit, then show_existing, type, show_frame.
    shift = 0 if data[0] & 0x30 == 0x30 else 1
    show_existing, show_frame = data[0] >> (2 + shift) & 1, data[0] >> shift & 1
    return bool(show_existing or show_frame)


def _orientation(frame: Any) -> _Orientation:
    """What the display matrix of a frame asks for, to the next right angle."""
    try:
        matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], dtype=np.int32)
    except KeyError:
        return _Orientation(False, False, False)
    except ValueError:
        # PyAV does not list side data when there is a kind among it that it does not know; the angle it can tell.
        quarters = round(frame.rotation / 90) % 4
        return _Orientation(quarters in (1, 3), quarters in (1, 2), quarters in (2, 3))
    # A pixel in row r and column c goes to row  b * c + d * r  and column  a * c + e * r.
    a, b, _, e, d = matrix[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(e):
        return _Orientation(False, d < 0, a < 0)
    return _Orientation(True, b < 0, e < 0)
