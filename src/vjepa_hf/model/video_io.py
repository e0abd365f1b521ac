"""Frame-exact reading of videos with PyAV.

A source is a path, an address (http, https, file), the bytes of a file, or a binary file object; see `video_sources`.

Frame i is always frame i of a full decode from the beginning. The index of the file, or a list of its packets, gives
the number of frames before each key frame. A clip therefore costs a seek to the last key frame before it and decoding
from there to its last frame; in H.264, frames that were not requested and that no other frame refers to are skipped.
If a decoded frame is not the one that the index predicts, decoding starts again from the beginning and counts.
"""

import sys
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from http.client import HTTPException
from itertools import chain, dropwhile, islice, repeat
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from .frame_sampling import frames_at_constant_rate, has_constant_rate
from .names import printable
from .video_sources import MAX_PIXELS, Source, open_container, open_source, source_name, without_secrets


class VideoDecodeError(Exception):
    """Error of a video that cannot be read, the only one that an unreadable file causes.

    Attributes:
        file: path or URL, or the kind of object.
        part: what was requested, for example "frames 0 to 60".
        cause: why it cannot be read.
    """

    def __init__(self, file: str, part: str, cause: str):
        super().__init__(file, part, cause)  # all three in `args`, so that a worker can pickle the error
        self.file, self.part, self.cause = file, part, cause

    def __str__(self) -> str:
        return f"{self.file}: cannot read {self.part}: {self.cause}"


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Attributes:
        num_frames: number of frames of a full decode, which the header may misstate.
        fps: mean frame rate; nan if it is not known.
        height: height of the frames after rotation, in pixels.
        width: width of the frames after rotation, in pixels.
    """

    num_frames: int
    fps: float
    height: int
    width: int

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.num_frames / self.fps


class TimedFrame(NamedTuple):
    """Frame with its presentation time.

    Attributes:
        number: index of the frame in the video.
        seconds: presentation time that the file states; `number / fps` if it states none.
        frame: uint8 RGB `(C, H, W)`.
    """

    number: int
    seconds: float
    frame: torch.Tensor


def frame_numbers(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return `indices` as an int64 array of the same shape.

    Raises:
        ValueError: no index, or a negative one.
    """
    numbers = np.asarray(indices, dtype=np.int64)
    if numbers.size == 0 or numbers.min() < 0:
        raise ValueError(f"indices={numbers.tolist()} must contain at least one frame number, and none below 0.")
    return numbers


class VideoFile:
    """Video that is open for reading; decodes in one thread, because data loaders have their own workers.

        with VideoFile("video.mp4") as video:
            last = video.frames([video.info.num_frames - 1])

    Args:
        source: path, address (downloaded once), bytes or binary file object, which stays open.
        name: name of the video in errors; default: that of `source_name`.
        max_pixels: maximum number of pixels of a frame; videos with larger frames are not decoded.

    Raises:
        VideoDecodeError: the video is missing or has no frame that can be decoded.
    """

    def __init__(self, source: Source, name: str | None = None, max_pixels: int = MAX_PIXELS):
        self.name = source_name(source) if name is None else name
        self._max_pixels = max_pixels
        self._file: Any = None
        self._container: Any = None
        self._indexed: Any = None  # container that owns the memory of the entries of `_index`
        self._reader: object = None  # a new one per request, so that an iteration notices other requests
        try:
            try:
                self._file = open_source(source)
            except Exception as error:  # a file system, a server or a file object can raise any
                raise self._decode_error("the file", error) from error
            with self._decode_errors("the file"):
                from av.video.reformatter import VideoReformatter

                self._reformatter = VideoReformatter()
                self._restart()
                self._read_first_frame()
                self._index = self._container_index()
                if self._index is None:
                    self._index = self._packet_index()
                else:
                    self._indexed = self._container
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a file object given as `source` stays open."""
        self._reader = None
        for container in (self._container, self._indexed):
            if container is not None:
                container.close()
        self._container = self._indexed = None
        if self._file is not None:
            self._file.close()
            self._file = None

    @cached_property
    def info(self) -> VideoInfo:
        """Number of frames, frame rate and size; decodes the whole video only if its packets are not reliable.

        Raises:
            VideoDecodeError: decoding fails while the frames are counted.
        """
        self._start_request()
        with self._decode_errors("the number of frames"):
            if self._index is None:
                num_frames, seconds = sum(1 for _ in self._from_start()), 0.0
            else:
                num_frames = self._index.num_frames
                seconds = float(self._index.frame_interval * self._stream.time_base)
            # The times of two or more frames are more reliable than the header.
            fps = 1 / seconds if seconds > 0 else float(self._stream.average_rate or 1)
        height, width = self._height, self._width
        if self._orientation.is_transposed:
            height, width = width, height
        return VideoInfo(num_frames, fps, height, width)

    def at_constant_rate(self, numbers: np.ndarray) -> np.ndarray:
        """Replace frame numbers of a constant frame rate by the frames that the file shows at the same times.

        Clips whose frames were chosen by time (`fps`) need it if the frame rate of the file varies. Otherwise the
        numbers do not change.

        Args:
            numbers: frame numbers of any shape, below `info.num_frames`.

        Raises:
            VideoDecodeError: decoding fails while the times are read.
        """
        if self._varying_times is None:
            return numbers
        return frames_at_constant_rate(numbers, self._varying_times)

    @cached_property
    def _varying_times(self) -> np.ndarray | None:
        """Presentation times of all frames, ascending; None if they are not known or the frame rate is constant."""
        num_frames = self.info.num_frames
        if self._index is not None and has_constant_rate(self._index.shown_times):
            return None
        self._start_request()
        with self._decode_errors("the times of the frames"):
            if self._index is None:
                times = [frame.pts for _, frame in self._from_start()]
            else:
                self._restart()
                name = self._stream.codec_context.name
                times = [packet.pts for packet in self._packets() if _is_shown(packet, name)]
        if len(times) != num_frames or None in times or has_constant_rate(sorted(times)):
            return None
        return np.sort(times)

    def check(self) -> None:
        """Decode every frame, without converting it to RGB.

        Raises:
            VideoDecodeError: a frame cannot be decoded, or frames are missing.
        """
        numbers = list(range(self.info.num_frames))
        self._start_request()
        with self._decode_errors("all frames"):
            try:
                deque(self._decode(numbers), maxlen=0)
            except _UnexpectedFrame:
                self._index = None
                deque(self._decode(numbers), maxlen=0)

    def frames(self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Decode the frames with these numbers, in this order; numbers may repeat.

        Args:
            indices: frame numbers, of any shape.
            size: (height, width) in pixels to scale to during the conversion to RGB; None keeps the size.

        Returns:
            uint8 RGB of the shape of `indices` followed by `(C, H, W)`, stored channels last.

        Raises:
            VideoDecodeError: the video cannot be decoded, or has too few frames.
            ValueError: no frame number, a negative one, or a size below one pixel.
        """
        if size is not None and min(size) < 1:
            raise ValueError(f"size={tuple(size)} must be a height and a width of at least one pixel.")
        requested = frame_numbers(indices)
        unique, inverse = np.unique(requested, return_inverse=True)
        self._start_request()
        with self._decode_errors(f"frames {unique[0]} to {unique[-1]}"):
            frames = self._collect(unique.tolist(), size)
        if not np.array_equal(unique, requested.reshape(-1)):
            frames = frames[torch.from_numpy(inverse.reshape(-1))]
        return frames.reshape(*requested.shape, *frames.shape[1:]).movedim(-1, -3)

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[TimedFrame]:
        """Decode the frames with these numbers one by one, in one pass and in constant memory.

        They are equal to those of `frames`. But if the index of a file turns out to be wrong during the iteration, the
        frames before keep the numbers that they had.

        Args:
            indices: frame numbers `(T,)` in ascending order; numbers may repeat.

        Raises:
            VideoDecodeError: the video cannot be decoded, has too few frames, or was used for another request during
                the iteration.
            ValueError: no frame number, a negative one, or numbers that do not ascend.
        """
        requested = frame_numbers(indices)
        if requested.ndim != 1 or (np.diff(requested) < 0).any():
            raise ValueError(f"indices={requested.tolist()[:10]} must be a list of frame numbers in ascending order.")
        unique, counts = np.unique(requested, return_counts=True)
        repetitions = dict(zip(unique.tolist(), counts.tolist(), strict=True))
        fps, reader = self.info.fps, self._start_request()
        with self._decode_errors(f"frames {unique[0]} to {unique[-1]}"):
            while repetitions:
                try:
                    for number, frame in self._decode(list(repetitions)):
                        seconds = number / fps if frame.time is None else frame.time
                        rgb = self._orientation.turn(self._to_rgb(frame, self._height, self._width)[None])[0]
                        for _ in range(repetitions.pop(number)):
                            yield TimedFrame(number, seconds, torch.from_numpy(rgb).permute(2, 0, 1))
                            if self._reader is not reader:
                                raise ValueError("it was closed or used for another request during the iteration")
                except _UnexpectedFrame:
                    self._index = None

    def _start_request(self) -> object:
        """Start a request, which ends iterations that still run."""
        if self._container is None:
            raise ValueError(f"{self.name} is closed; read it inside `with VideoFile(...) as video:`.")
        self._reader = object()
        return self._reader

    @contextmanager
    def _decode_errors(self, part: str) -> Iterator[None]:
        """Turn any error of a decoder into a `VideoDecodeError`."""
        try:
            yield
        except _decoder_errors() as error:
            raise self._decode_error(part, error) from error

    def _decode_error(self, part: str, error: Exception) -> VideoDecodeError:
        cause = f"{type(error).__name__}: {error}"
        # What FFmpeg's decoders return for a frame that is too large, and for other mistakes.
        if cause.startswith(("ArgumentError", "OverflowError")):
            cause += f" (does a frame have more than max_pixels={self._max_pixels} pixels?)"
        return VideoDecodeError(self.name, part, printable(without_secrets(cause)))

    def _restart(self) -> None:
        """(Re)open the file at its beginning, which a seek does not always reach."""
        import av

        if self._container is not None and self._container is not self._indexed:
            self._container.close()
        self._container = open_container(self._file, self._max_pixels)
        # FFmpeg lists the cover image of a song as a video stream.
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams:
            raise ValueError("no video stream")
        self._stream = streams[0]
        if self._stream.codec_context is None:  # PyAV 17 crashes when it decodes such a stream
            raise ValueError("FFmpeg does not know the codec of the video stream")
        self._stream.thread_count = 1
        # FFmpeg refuses larger frames before it allocates them, also where the size changes.
        self._stream.codec_context.options = {"max_pixels": str(self._max_pixels)}
        height, width = self._stream.codec_context.height, self._stream.codec_context.width
        if height * width > self._max_pixels:
            raise ValueError(f"frames of {width} x {height} pixels exceed max_pixels={self._max_pixels}")

    def _packets(self) -> Iterator[Any]:
        """Yield the packets from the current position to the end, and then the empty one that flushes the decoder."""
        # PyAV leaks a packet if this generator is neither finished nor closed.
        with closing(self._container.demux(self._stream)) as packets:
            for packet in packets:
                if packet.has_sidedata("encryption_info"):
                    # Most decoders treat encrypted frames as damaged and return gray.
                    raise ValueError("the video is encrypted")
                # Corrupt: the rest of a packet in a truncated file. In a transport stream an earlier part is missing.
                if not packet.is_corrupt or self._container.format.name == "mpegts":
                    yield packet

    def _read_first_frame(self) -> None:
        """Read size and orientation from the first frame."""
        packet = next(self._packets())
        # Flushing after one packet saves decoding more of them, which a decoder needs before it returns a frame.
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
        """Return the index of an MP4 or MOV file; None if it is incomplete. Reads only the first and last packets.

        Other containers have no index, or one of only the key frames.
        """
        entries = self._stream.index_entries
        if "mp4" not in self._container.format.name or self._stream.codec_context.name in VP8 + VP9:
            return None
        hidden = [position for position, entry in enumerate(entries) if entry.is_discard]
        if len(hidden) == len(entries) or not entries[0].is_keyframe:
            return None
        first, *others = self._times_from(entries[0].timestamp, MAX_REORDERING) or [(None, None)]
        # Frames shown before the first key frame may or may not be decoded.
        if first[0] != entries[0].timestamp or any(pts is None or pts < first[1] for _, pts in others):
            return None
        delay = first[1] - first[0]
        # The index of a truncated file lists packets that are missing; that of a fragmented file may be incomplete.
        last = [dts for dts, _ in self._times_from(entries[-1].timestamp + delay, len(entries))]
        if not last or last != [entry.timestamp for entry in entries[-len(last) :]]:
            return None
        return _Index(
            entries=entries,
            clock="dts",
            hidden=hidden,
            seek_offset=delay,
            frame_interval=self._frame_interval(entries, first[1]),
            may_skip=self._may_skip([first[1], *(pts for _, pts in others)]),
        )

    def _frame_interval(self, entries: Sequence[Any], start: int) -> float:
        """Return the mean time between two frames of a file whose first frame is shown at `start`."""
        times = [entry.timestamp for entry in entries]
        span = times[-1] - times[0]
        if not has_constant_rate(times):
            # Decoding begins some frames before the first one is shown, which are longer or shorter than the mean.
            end = self._times_from(times[-MAX_REORDERING:][0], 2 * MAX_REORDERING)
            span = max((pts for _, pts in end if pts is not None), default=start + span) - start
        return span / max(1, len(times) - 1)

    def _may_skip(self, times: list[int]) -> bool:
        """Return whether frames may be skipped, given the first presentation times in stored order.

        In H.264 a frame that is not a reference (nal_ref_idc 0, ITU-T H.264 section 7.4.1) changes no other frame; in
        HEVC this holds only within a temporal layer. The times identify skipped frames, so they must have the
        reordering that the decoder reports.
        """
        context = self._stream.codec_context
        return context.name == "h264" and (not context.has_b_frames or times != sorted(times))

    def _times_from(self, time: int, num_packets: int) -> list[tuple[Any, Any]]:
        """Return (decoding, presentation) times of the packets from a time on; an empty list if seeking fails."""
        try:
            self._container.seek(time, stream=self._stream, any_frame=True)
            packets = islice(self._packets(), num_packets + 1)
            return [(packet.dts, packet.pts) for packet in packets if packet.size]
        except sys.modules["av"].error.FFmpegError:
            return []

    def _packet_index(self) -> "_Index | None":
        """Build an index from all packets, without decoding them; None if they do not have the information."""
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
        times = {entry.timestamp for position, entry in enumerate(entries) if position not in is_hidden}
        if len(times) < len(entries) - len(hidden) or not times:
            return None
        # Frames shown before the first key frame may or may not be decoded.
        if not entries[0].is_keyframe or entries[0].timestamp > min(times):
            return None
        return _Index(
            entries=entries,
            clock="pts",
            hidden=hidden,
            seek_offset=-reordering,
            frame_interval=(max(times) - min(times)) / max(1, len(times) - 1),
        )

    def _collect(self, numbers: list[int], size: tuple[int, int] | None) -> torch.Tensor:
        """Decode the frames with these ascending numbers, uint8 `(T, H, W, C)`."""
        height, width = size or (self._height, self._width)
        if size is not None and self._orientation.is_transposed:
            height, width = width, height
        frames = np.empty((len(numbers), height, width, 3), dtype=np.uint8)
        try:
            for position, (_, frame) in enumerate(self._decode(numbers)):
                frames[position] = self._to_rgb(frame, height, width)
        except _UnexpectedFrame:
            self._index = None
            return self._collect(numbers, size)
        return torch.from_numpy(self._orientation.turn(frames))

    def _to_rgb(self, frame: Any, height: int, width: int) -> np.ndarray:
        return self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()

    def _decode(self, numbers: list[int]) -> Iterator[tuple[int, Any]]:
        """Yield the frames with these ascending numbers, each with its number.

        Raises:
            _UnexpectedFrame: the index is wrong. Without an index the frames are counted, and this error cannot occur.
        """
        remaining, number = deque(numbers), -1
        for number, frame in self._from_start() if self._index is None else self._from_keys(self._index, numbers):
            if number == remaining[0]:
                yield remaining.popleft(), frame
                if not remaining:
                    return
        num_frames = number + 1 if self._index is None else self._index.num_frames
        raise ValueError(f"it has only {num_frames} frames")

    def _from_start(self) -> Iterator[tuple[int, Any]]:
        """Yield numbers and frames of a full decode."""
        self._restart()
        yield from enumerate(frame for packet in self._packets() for frame in packet.decode())

    def _from_keys(self, index: "_Index", numbers: list[int]) -> Iterator[tuple[int, Any]]:
        """Yield numbers and frames of a decode that starts again at key frames far behind the frame before."""
        for group in index.groups(numbers):
            with closing(self._from_key(index, group)) as numbered:
                for number, frame in numbered:
                    yield number, frame
                    if number >= group[-1]:
                        break

    def _from_key(self, index: "_Index", numbers: list[int]) -> Generator[tuple[int, Any], None, None]:
        """Yield numbers and frames from the last key frame that is shown no later than the first requested frame."""
        first, requested = numbers[0], set(numbers)
        position = index.key_of(first)
        while True:
            numbered = self._after_key(index, position, requested)
            first_number, first_frame = next(numbered)
            if first_number <= first:
                break
            # The frame is stored after this key frame but shown before it, and refers to the group before.
            if position == 0:
                raise _UnexpectedFrame(f"no frame {first}")
            position = index.key_up_to(position - 1)
        yield first_number, first_frame
        yield from numbered

    def _after_key(self, index: "_Index", position: int, requested: set[int]) -> Iterator[tuple[int, Any]]:
        """Yield numbers and frames from the key frame stored at `position`; frames not requested may be skipped.

        The frames must come exactly in the order of the presentation times of their packets.
        """
        try:
            self._container.seek(index.entries[position].timestamp + index.seek_offset, stream=self._stream)
        except _decoder_errors():
            # Some containers cannot seek before the first packet.
            self._restart()
        context = self._stream.codec_context
        packets = dropwhile(lambda packet: not index.is_at(position, packet), self._packets())
        number, key_time, started = index.frames_before(position), None, False
        expected: list[int] = []
        skipped: set[int] = set()
        for packet, number_of_packet in self._numbered(packets, number):
            if _is_shown(packet, context.name):
                heappush(expected, packet.pts)
            if key_time is None:
                key_time = packet.pts
            if index.may_skip:
                context.skip_frame = "DEFAULT" if number_of_packet in requested else "NONREF"
                if number_of_packet not in requested:
                    skipped.add(packet.pts)
            try:
                frames = packet.decode()
            except _decoder_errors() as error:
                if started:
                    raise
                raise _UnexpectedFrame("the key frame cannot be decoded alone") from error
            for frame in frames:
                if not started:
                    # Frames shown before the key frame refer to frames that were not decoded.
                    if frame.pts is not None and frame.pts < key_time:
                        continue
                    while expected and expected[0] < key_time:
                        heappop(expected)
                        number += 1
                    if position > 0 and frame.pts == key_time and not frame.key_frame:
                        raise _UnexpectedFrame(f"frame {number} is not a key frame")
                    started = True
                while expected and expected[0] != frame.pts and expected[0] in skipped:
                    heappop(expected)
                    number += 1
                if not expected or heappop(expected) != frame.pts:
                    raise _UnexpectedFrame(f"frame {number} at {frame.pts}")
                yield number, frame
                number += 1
        number += len(expected)
        if not skipped.issuperset(expected) or number != index.num_frames:
            raise _UnexpectedFrame(f"the end after frame {number}")

    def _numbered(self, packets: Iterator[Any], number: int) -> Iterator[tuple[Any, int | None]]:
        """Yield packets with the numbers of their frames; `number` is that of the first frame shown.

        A number is known once all packets whose frames are shown earlier have been read.
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


# --- index ---------------------------------------------------------------------------------------------------------

# Codecs with frames that are not shown.
VP8, VP9 = ("vp8", "libvpx"), ("vp9", "libvpx-vp9")
MAX_EMPTY_MPEG4_FRAME = 19  # bytes
MAX_REORDERING = 32  # frames: more than any codec stores before a frame that is shown earlier
MIN_SEEK_FRAMES = 16  # a seek costs about as much as decoding these


class _UnexpectedFrame(Exception):
    """Error of a decoded frame that is not the one that the index predicts."""


class _Orientation(NamedTuple):
    """Rotation and reflection of the frames: transpose, then reverse rows and columns."""

    is_transposed: bool
    reverses_rows: bool
    reverses_columns: bool

    def turn(self, frames: np.ndarray) -> np.ndarray:
        """Apply it to frames `(T, H, W, C)`."""
        frames = frames.swapaxes(1, 2) if self.is_transposed else frames
        rows, columns = (slice(None, None, -1 if is_reversed else 1) for is_reversed in self[1:])
        return np.ascontiguousarray(frames[:, rows, columns])


class _Entry(NamedTuple):
    """Packet in an index of packets; the entries of a container's own index have these fields, too."""

    timestamp: int
    is_keyframe: bool


@dataclass(frozen=True)
class _Index:
    """Index of the packets of a video, in the order in which they are stored and decoded.

    Attributes:
        entries: time of each packet, and whether it contains a key frame.
        clock: kind of time: "dts" (decoding) in containers, "pts" (presentation) in an index of packets.
        hidden: positions, ascending, of packets whose frame is decoded but not shown.
        seek_offset: time to add to that of a packet in order to seek to it, or to shortly before it.
        frame_interval: mean time between two frames.
        may_skip: whether decoding may skip frames that were not requested and that no other frame refers to.
    """

    entries: Sequence[Any]
    clock: Literal["dts", "pts"]
    hidden: list[int]
    seek_offset: int
    frame_interval: float
    may_skip: bool = False

    @property
    def num_frames(self) -> int:
        return len(self.entries) - len(self.hidden)

    @property
    def shown_times(self) -> list[int]:
        """Times of the packets whose frames are shown, ascending."""
        hidden = set(self.hidden)
        return sorted(entry.timestamp for position, entry in enumerate(self.entries) if position not in hidden)

    def frames_before(self, position: int) -> int:
        """Return the number of shown frames in the packets before this position."""
        return position - bisect_left(self.hidden, position)

    def groups(self, numbers: list[int]) -> list[list[int]]:
        """Split ascending frame numbers where a seek is cheaper than decoding up to the next key frame."""
        groups = [numbers[:1]]
        for before, number in zip(numbers, numbers[1:], strict=False):
            is_far = number - before > MIN_SEEK_FRAMES  # saves looking up key frames
            if is_far and self.frames_before(self.key_of(number)) - before > MIN_SEEK_FRAMES:
                groups.append([])
            groups[-1].append(number)
        return groups

    def key_of(self, number: int) -> int:
        """Return the position of the last key frame with at most `number` shown frames before it."""
        position = number = min(number, self.num_frames - 1)
        while (later := number + bisect_right(self.hidden, position)) > position:
            position = later
        return self.key_up_to(min(position, len(self.entries) - 1))

    def key_up_to(self, position: int) -> int:
        while not self.entries[position].is_keyframe:
            position -= 1
        return position

    def is_at(self, position: int, packet: Any) -> bool:
        """Return whether the packet is the one stored at this position."""
        entry = self.entries[position]
        if self.clock == "pts":
            return packet.pts == entry.timestamp
        return (packet.dts, packet.pos) == (entry.timestamp, entry.pos)


def _decoder_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a damaged file can cause; programming errors (NameError, TypeError) are not included."""
    errors = (OSError, HTTPException, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError)
    return (*errors, sys.modules["av"].error.FFmpegError) if "av" in sys.modules else errors


def _is_shown(packet: Any, codec: str) -> bool | None:
    """Return whether the decoder returns a frame for this packet; None if that is known only after decoding.

    VP8: bit 4 of the frame tag (RFC 6386, section 9.1). VP9: `show_existing_frame` or `show_frame` of the uncompressed
    header (VP9 bitstream specification, section 6.2); a superframe ends in a frame that is shown. MPEG-4 part 2: a
    packet of a few bytes may contain no new frame (`vop_coded`).
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
    # Marker (2 bits), profile (2), in profile 3 a reserved bit, then show_existing, type, show_frame.
    shift = 0 if data[0] & 0x30 == 0x30 else 1
    show_existing, show_frame = data[0] >> (2 + shift) & 1, data[0] >> shift & 1
    return bool(show_existing or show_frame)


def _orientation(frame: Any) -> _Orientation:
    """Return the orientation of the display matrix of a frame, rounded to a right angle."""
    try:
        matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], dtype=np.int32)
    except KeyError:
        return _Orientation(False, False, False)
    except ValueError:
        # PyAV does not list side data if it does not know one of the kinds, but it has the angle.
        quarters = round(frame.rotation / 90) % 4
        return _Orientation(quarters in (1, 3), quarters in (1, 2), quarters in (2, 3))
    # A pixel in row r and column c goes to row  b * c + d * r  and column  a * c + e * r.
    a, b, _, e, d = matrix[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(e):
        return _Orientation(False, d < 0, a < 0)
    return _Orientation(True, b < 0, e < 0)
