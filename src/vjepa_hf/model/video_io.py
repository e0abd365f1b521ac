"""Read videos: what a file holds and exactly the frames asked for. Only this file of the package decodes.

A source is a path, a URL (http, https, file), the bytes of a file, or a binary file object. PyAV reads it; its wheels
bring FFmpeg.

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
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
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
    """Properties of a video. Height and width are those of the frames that are returned, rotation included.

    Attributes:
        num_frames: Number of frames of a full decode, counted and not taken from the header.
        fps: Mean frames per second; nan if it is not known.
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


class TimedFrame(NamedTuple):
    """A frame and when it is shown.

    Attributes:
        number: Index of the frame in the video.
        seconds: Presentation time, as the file has it, right or wrong; `number / fps` where it has none.
        frame: uint8 RGB (C, H, W).
    """

    number: int
    seconds: float
    frame: torch.Tensor


def source_name(source: Source) -> str:
    """Return a printable name: the path or URL, or the size or kind of a source that has none."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else f"<{type(source).__name__}>"


def frame_numbers(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return `indices` as an int64 array of the same shape.

    Raises:
        ValueError: There is no index, or a negative one.
    """
    numbers = np.asarray(indices, dtype=np.int64)
    if numbers.size == 0 or numbers.min() < 0:
        raise ValueError(f"indices={numbers.tolist()} must hold at least one frame number, none of them negative.")
    return numbers


class VideoFile:
    """A video that is open for reading; decodes in one thread, because a data loader has its own workers.

        with VideoFile("video.mp4") as video:
            last = video.frames([video.info.num_frames - 1])

    Args:
        source: Path, URL (downloaded once), bytes or binary file object, which stays open.
        name: What errors call the video; None for the path or URL, or the size of the bytes.

    Raises:
        VideoDecodeError: The video is missing or holds no frame that can be decoded.
    """

    def __init__(self, source: Source, name: str | None = None):
        self.name = source_name(source) if name is None else name
        self._container: Any = None
        self._reader: object = None  # another one with every request, so that an iteration notices the next request
        try:
            with self._reported("the file"):
                from av.video.reformatter import VideoReformatter

                self._reformatter = VideoReformatter()
                self._source = _readable(source)
                self._restart()
                self._read_first_frame()
                self._index = self._container_index() or self._packet_index()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a file object that was given stays open."""
        self._reader = None
        if self._container is not None:
            self._container.close()
            self._container = None

    @cached_property
    def info(self) -> VideoInfo:
        """Number of frames, frame rate and size; decodes the whole video only where its packets cannot be trusted.

        Raises:
            VideoDecodeError: The video breaks while its frames are counted.
        """
        self._begin()
        with self._reported("how many frames it has"):
            if self._index is None:
                num_frames, seconds = sum(1 for _ in self._from_start()), 0.0
            else:
                num_frames = self._index.num_frames
                seconds = float(self._index.frame_interval * self._stream.time_base)
            # The times of the frames know better than the header, where there are two of them.
            fps = 1 / seconds if seconds > 0 else float(self._stream.average_rate or 1)
        height, width = self._height, self._width
        if self._orientation.is_transposed:
            height, width = width, height
        return VideoInfo(num_frames, fps, height, width)

    def frames(self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Decode the frames with these numbers, in the order asked, repeated where asked twice.

        Args:
            indices: Frame numbers, of any shape.
            size: (height, width) in pixels to scale to while converting to RGB; None keeps the video's own.

        Returns:
            uint8 RGB of the shape of `indices` followed by (C, H, W), stored with the channels last.

        Raises:
            VideoDecodeError: The video cannot be decoded, or has fewer frames than asked.
            ValueError: There is no frame number, a negative one, or a size below one pixel.
        """
        if size is not None and min(size) < 1:
            raise ValueError(f"size={tuple(size)} must be a height and a width of at least one pixel.")
        wanted = frame_numbers(indices)
        unique, positions = np.unique(wanted, return_inverse=True)
        self._begin()
        with self._reported(f"frames {unique[0]} to {unique[-1]}"):
            frames = self._distinct_frames(unique.tolist(), size)
        if not np.array_equal(unique, wanted.reshape(-1)):
            frames = frames[torch.from_numpy(positions.reshape(-1))]
        return frames.reshape(*wanted.shape, *frames.shape[1:]).movedim(-1, -3)

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[TimedFrame]:
        """Decode the frames with these numbers one by one, reading the file once, from the first of them on.

        Use it for what does not fit into memory, which does not grow with the video. Frames equal those of `frames`;
        but where the index of a file proves wrong on the way, frames that were yielded keep the number they had.

        Args:
            indices: Frame numbers `(T,)` in ascending order; equal ones are allowed.

        Raises:
            VideoDecodeError: The video cannot be decoded, has fewer frames than asked, or was asked for other frames
                in the middle of the iteration.
            ValueError: There is no frame number, a negative one, or one that is smaller than the one before it.
        """
        wanted = frame_numbers(indices)
        if wanted.ndim != 1 or (np.diff(wanted) < 0).any():
            raise ValueError(f"indices={wanted.tolist()[:10]} must be a list of frame numbers in ascending order.")
        unique, counts = np.unique(wanted, return_counts=True)
        fps, reader = self.info.fps, self._begin()
        with self._reported(f"frames {unique[0]} to {unique[-1]}"):
            for (number, frame), count in zip(self._in_order(unique.tolist()), counts.tolist(), strict=True):
                seconds = number / fps if frame.time is None else frame.time
                shown = TimedFrame(number, seconds, torch.from_numpy(self._upright(frame)).permute(2, 0, 1))
                for _ in range(count):
                    yield shown
                    if self._reader is not reader:
                        raise ValueError("it was closed, or asked for other frames, before the iteration ended")

    def _begin(self) -> object:
        """Note that the file is read from another place from now on."""
        if self._container is None:
            raise ValueError(f"{self.name} is closed; read it inside `with VideoFile(...) as video:`.")
        self._reader = object()
        return self._reader

    @contextmanager
    def _reported(self, asked: str) -> Iterator[None]:
        """Turn whatever a decoder raises on a bad file into a `VideoDecodeError`."""
        try:
            yield
        except _decoder_errors() as error:
            raise VideoDecodeError(self.name, asked, f"{type(error).__name__}: {error}") from error

    # ---- where to begin ----

    def _rewound(self) -> str | BinaryIO:
        """The source as FFmpeg wants it, at its beginning."""
        if isinstance(self._source, str):
            # Otherwise FFmpeg takes what stands before a colon in the name for a protocol.
            return f"file:{self._source}"
        if isinstance(self._source, bytes):
            return io.BytesIO(self._source)
        self._source.seek(0)
        return self._source

    def _restart(self) -> None:
        """(Re)open the file at its very beginning, which a seek does not always reach."""
        import av

        if self._container is not None:
            self._container.close()
        self._container = av.open(self._rewound(), metadata_errors="replace")
        # A cover picture is a video stream to FFmpeg; it does not make a song a video.
        pictures = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & pictures]
        if not streams:
            raise ValueError("no video stream")
        self._stream = streams[0]
        if self._stream.codec_context is None:  # PyAV 17 crashes if it decodes such a stream
            raise ValueError("FFmpeg does not know the codec of the video stream")
        self._stream.thread_count = 1

    def _packets(self) -> Iterator[Any]:
        """Packets from where the file stands to its end, and then the empty one that makes the decoder finish."""
        # PyAV loses a packet's memory when such a generator is left behind unfinished and not closed.
        with closing(self._container.demux(self._stream)) as packets:
            for packet in packets:
                if packet.has_sidedata("encryption_info"):
                    # Most decoders take encrypted pictures for damaged ones and return gray frames.
                    raise ValueError("the video is encrypted")
                # The rest of a packet where a file was cut off; in a transport stream something before it is missing.
                if not packet.is_corrupt or self._container.format.name == "mpegts":
                    yield packet

    def _read_first_frame(self) -> None:
        """The size and the orientation of the first frame stand for all."""
        packet = next(self._packets())
        # Finishing after one packet saves decoding those that the decoder wants to see before it gives out a frame.
        frames = packet.decode() or self._stream.codec_context.decode(None)
        self._stream.codec_context.flush_buffers()
        if not frames:
            self._restart()
            frames = next(filter(None, (packet.decode() for packet in self._packets())), None)
        if not frames:
            raise ValueError("no frame that can be decoded")
        self._height, self._width = frames[0].height, frames[0].width
        self._orientation = _orientation(frames[0])

    def _container_index(self) -> "_Index | None":
        """The index of an MP4 or MOV file, where it is whole; only the first and last packets are read for that.

        Other containers have none, or one of the key frames only.
        """
        entries = self._stream.index_entries
        if "mp4" not in self._container.format.name or self._stream.codec_context.name in VP8 + VP9:
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
        context = self._stream.codec_context
        return context.name == "h264" and (not context.has_b_frames or times != sorted(times))

    def _times_from(self, time: int, num_packets: int) -> list[tuple[Any, Any]]:
        """Decoding and presentation times of the next packets from a time on; none if it cannot be reached."""
        try:
            self._container.seek(time, stream=self._stream, any_frame=True)
            packets = islice(self._packets(), num_packets + 1)
            return [(packet.dts, packet.pts) for packet in packets if packet.size]
        except sys.modules["av"].error.FFmpegError:
            return []

    def _packet_index(self) -> "_Index | None":
        """An index made by reading all packets without decoding them; None where they do not tell enough."""
        self._restart()
        entries: list[_Entry] = []
        hidden: list[int] = []
        reordering = 0
        for packet in self._packets():
            is_shown = _is_shown(packet, self._stream.codec_context.name)
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

    def _distinct_frames(self, numbers: list[int], size: tuple[int, int] | None) -> torch.Tensor:
        """Frames with these ascending numbers, uint8 (T, H, W, C)."""
        if self._index is not None:
            try:
                return self._collect(self._from_key(self._index, numbers), numbers, size)
            except _UnexpectedFrame:
                self._index = None
        return self._collect(self._from_start(), numbers, size)

    def _in_order(self, numbers: list[int]) -> Iterator[tuple[int, Any]]:
        """Frames with these ascending numbers as they come out of the decoder, each with its number."""
        wanted, last = set(numbers), -1
        ways = [self._from_start()]  # generators: nothing is read before one is used
        if self._index is not None:
            ways.insert(0, self._from_key(self._index, numbers))
        for way in ways:
            try:
                for number, frame in way:
                    if number in wanted and number > last:
                        last = number
                        yield number, frame
                        if last == numbers[-1]:
                            return
            except _UnexpectedFrame:
                self._index = None
        raise ValueError(f"it has no frame {numbers[-1]}")

    def _upright(self, frame: Any) -> np.ndarray:
        """A frame as RGB (H, W, C)."""
        rgb = self._reformatter.reformat(frame, self._width, self._height, "rgb24", threads=1)
        return self._orientation.turn(rgb.to_ndarray()[None])[0]

    def _from_start(self) -> Iterator[tuple[int, Any]]:
        """Numbers and frames of a full decode."""
        self._restart()
        yield from enumerate(frame for packet in self._packets() for frame in packet.decode())

    def _collect(
        self, numbered: Iterator[tuple[int, Any]], numbers: list[int], size: tuple[int, int] | None
    ) -> torch.Tensor:
        """Convert the wanted frames, in one pass each, and stop after the last of them."""
        height, width = size or (self._height, self._width)
        if size is not None and self._orientation.is_transposed:
            height, width = width, height
        frames = np.empty((len(numbers), height, width, 3), dtype=np.uint8)
        position, number = 0, -1
        for number, frame in numbered:
            if number == numbers[position]:
                rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
                frames[position] = rgb.to_ndarray()
                position += 1
                if position == len(numbers):
                    return torch.from_numpy(self._orientation.turn(frames))
        raise ValueError(f"it has only {number + 1} frames")

    def _from_key(self, index: "_Index", numbers: list[int]) -> Iterator[tuple[int, Any]]:
        """Numbers and frames from the last key frame on that is shown no later than the first frame wanted."""
        first, wanted = numbers[0], set(numbers)
        place = index.key_before_frame(min(first, index.num_frames - 1))
        numbered = self._after_key(index, place, wanted)
        first_number, first_frame = next(numbered)
        while first_number > first:
            # It is stored after this key frame, but shown before it and refers to frames of the group before.
            if place == 0:
                raise _UnexpectedFrame(f"no frame {first}")
            place = index.key_up_to(place - 1)
            numbered = self._after_key(index, place, wanted)
            first_number, first_frame = next(numbered)
        yield first_number, first_frame
        yield from numbered

    def _after_key(self, index: "_Index", place: int, wanted: set[int]) -> Iterator[tuple[int, Any]]:
        """Numbers and frames from the key frame stored at `place` on; some that are not wanted may be missing.

        Packets say when their frames are to be shown, and exactly in that order the frames must come.
        """
        try:
            self._container.seek(index.entries[place].timestamp + index.seek_offset, stream=self._stream)
        except _decoder_errors():
            # Some containers cannot be told to go anywhere before the first packet.
            self._restart()
        context = self._stream.codec_context
        packets = dropwhile(lambda packet: not index.is_at(place, packet), self._packets())
        number, key_time, started = index.frames_before(place), None, False
        expected: list[int] = []
        spared: set[int] = set()
        for packet, number_of_packet in self._numbered(packets, number):
            if _is_shown(packet, context.name):
                heappush(expected, packet.pts)
            if key_time is None:
                key_time = packet.pts
            if index.may_spare:
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
        if not spared.issuperset(expected) or number != index.num_frames:
            raise _UnexpectedFrame(f"the end after frame {number}")

    def _numbered(self, packets: Iterator[Any], number: int) -> Iterator[tuple[Any, int | None]]:
        """Packets with the numbers of their frames, the first frame shown having this one.

        A number is known when all packets are read whose frames are shown earlier.
        """
        times: list[int] = []
        waiting: deque[Any] = deque()
        latest = None
        for packet in chain(packets, repeat(None, MAX_REORDERING)):
            if packet is not None and packet.size:
                if packet.pts is None:
                    raise _UnexpectedFrame(f"no time for a frame after {number}")
                if latest is not None and packet.pts < latest:
                    raise _UnexpectedFrame(f"a frame at {packet.pts} after one at {latest}")
                if _is_shown(packet, self._stream.codec_context.name):
                    insort(times, packet.pts)
            waiting.append(packet)
            if len(waiting) > MAX_REORDERING and (packet := waiting.popleft()) is not None:
                if packet.size:
                    latest = packet.pts if latest is None else max(latest, packet.pts)
                yield packet, number + bisect_left(times, packet.pts) if packet.size else None


# ---- the index ----

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


def _decoder_errors() -> tuple[type[Exception], ...]:
    """What a damaged file can make a decoder raise. Faults of this code (a wrong name or type) are not among them."""
    errors = (OSError, HTTPException, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError)
    return (*errors, sys.modules["av"].error.FFmpegError) if "av" in sys.modules else errors


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
