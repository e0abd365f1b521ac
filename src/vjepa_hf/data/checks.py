"""Check videos before a run, and write smaller copies that training reads faster."""

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import av
import torch
from datasets import ClassLabel, Dataset, Value

from ..files import whole_file
from ..model.names import printable
from ..model.video_inputs import open_video, video_name
from ..model.video_io import VideoDecodeError, VideoFile, VideoInfo
from .videos import VideoFailure

# Thresholds of warnings: minimum short side (px), maximum aspect ratio, range of the frame rate (fps).
SMALL_SIDE, ODD_RATIO, ODD_RATES = 64, 3, (5, 120)
FRAMES_AT_ONCE = 256  # that a copy keeps in memory
NAME_BYTES = 255  # of a file name, on the file systems in use
CRF = 20  # of a copy: the quality of libx264, from 0 (lossless) to 51
DEFAULT_FPS = 25  # of a copy of a folder of frames, whose frame rate is unknown


def check_video(video: Any) -> VideoInfo | VideoFailure:
    """Decode every frame of a video; return its properties, or why it failed. It takes as long as a full decode."""
    try:
        with open_video(video) as file:
            if isinstance(file, VideoFile):
                file.check()
            else:
                for number in range(file.info.num_frames):
                    file.frames([0, number])  # the first one, because all must have its size
            return file.info
    except VideoDecodeError as error:
        return VideoFailure.of(video, error)


def oddities(info: VideoInfo) -> list[str]:
    """List unusual properties of a readable video (warnings, not errors)."""
    short, long = sorted((info.height, info.width))
    checks = [
        (info.num_frames == 1, "one frame"),
        (short < SMALL_SIDE, f"small, {info.width} x {info.height} pixels"),
        (long > ODD_RATIO * short, f"elongated, {info.width} x {info.height} pixels"),
        (info.fps < ODD_RATES[0] or info.fps > ODD_RATES[1], f"{info.fps:.3g} fps"),
    ]
    return [warning for is_odd, warning in checks if is_odd]


def shrink_video(video: Any, path: str | Path, short_side: int = 256, keyframe_interval: int = 16) -> None:
    """Write a copy in H.264 without sound. Its frame i is frame i of the original, at a constant frame rate.

    Args:
        video: value of the column `video` of a source.
        path: .mp4 file to write; it gets its name only when it is complete.
        short_side: shorter side of the copy in pixels; smaller videos keep their size.
        keyframe_interval: maximum distance between key frames, in frames. A clip decodes half of it in frames that it
            does not need; a smaller interval gives larger files.

    Raises:
        ValueError: `short_side` or `keyframe_interval` is too small.
        VideoDecodeError: the original cannot be read to its end.
        OSError: the copy cannot be written or encoded.
    """
    if short_side < 16 or keyframe_interval < 1:
        raise ValueError(f"{short_side=} must be at least 16 and {keyframe_interval=} at least 1")
    with (
        _encoder_errors(),
        open_video(video) as file,
        whole_file(path) as unfinished,
        av.open(str(unfinished), "w", format="mp4") as container,
    ):
        info = file.info
        scale = min(1.0, short_side / min(info.height, info.width))
        # libx264 needs even sides.
        height, width = (max(2, 2 * round(side * scale / 2)) for side in (info.height, info.width))
        options = {"crf": str(CRF), "preset": "fast", "tune": "fastdecode"}
        fps = Fraction(info.fps).limit_denominator(1001) if info.fps > 0 else DEFAULT_FPS
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = keyframe_interval
        for start in range(0, info.num_frames, FRAMES_AT_ONCE):
            numbers = range(start, min(start + FRAMES_AT_ONCE, info.num_frames))
            frames = file.frames(numbers, size=(height, width))
            for frame in frames.permute(0, 2, 3, 1).contiguous().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def _encoder_errors() -> Iterator[None]:
    """Turn all errors of FFmpeg into an OSError; some of them are only an Exception."""
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(str(error)) from error


# --- all videos of a source ------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """Name of a video, its properties or failure, and the path of its copy, or why there is none."""

    video: str
    result: VideoInfo | VideoFailure
    copy: str | VideoFailure | None = None


class CheckedVideos(torch.utils.data.Dataset):
    """Dataset of the checks of videos; each video is also copied to `shrink_to` if it is given."""

    def __init__(
        self, videos: Dataset, source: str, shrink_to: Path | None, short_side: int, keyframe_interval: int
    ) -> None:
        self.videos, self.source, self.shrink_to = videos, source, shrink_to
        self.short_side, self.keyframe_interval = short_side, keyframe_interval

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Check:
        video = self.videos[row]["video"]
        name, result = video_name(video), check_video(video)
        if self.shrink_to is None or isinstance(result, VideoFailure):
            return Check(name, result)
        copy = self.shrink_to / copy_name(self.source, row, name)
        try:
            shrink_video(video, copy, self.short_side, self.keyframe_interval)
        except VideoDecodeError as error:
            return Check(name, VideoFailure.of(video, error))
        except OSError as error:
            return Check(name, result, VideoFailure(name, f"{type(error).__name__}: {error}"))
        return Check(name, result, str(copy))


def copy_name(source: str, row: int, name: str) -> str:
    """Return the file name of the copy of a video.

    Source and row distinguish videos of the same name, also those that another call copies to the same folder.
    """
    path = urlsplit(name).path if "://" in name else name  # a query may contain a signature
    stem = re.sub(r'[\\:*?"<>|]', "_", printable(Path(path).stem)).encode(errors="replace")
    origin = hashlib.blake2b(f"{Path(source).absolute()} {name}".encode(errors="replace"), digest_size=4).hexdigest()
    room = NAME_BYTES - len(f"{row:08}_{origin}_.mp4.unfinished")
    return f"{row:08}_{origin}_{stem[:room].decode(errors='ignore')}.mp4"


def problems(check: Check, span: int) -> list[tuple[str, str]]:
    """Return kind and description of each problem; `span` is the number of frames from first to last of a clip."""
    if isinstance(check.result, VideoFailure):
        return [("unreadable", check.result.cause)]
    frames = check.result.num_frames
    warnings = [("short", f"{frames} frames, a clip spans {span}")] if frames < span else []
    warnings += [("odd", description) for description in oddities(check.result)]
    return warnings + ([("not copied", check.copy.cause)] if isinstance(check.copy, VideoFailure) else [])


def write_list(path: Path, videos: Dataset, checks: Sequence[Check]) -> int:
    """Write the rows of the readable videos, with absolute paths of them or of their copies, and count them.

    Binary columns, and videos that could not be copied, are skipped.
    """
    columns = ["video"]
    for name, feature in videos.features.items():
        if name != "video" and isinstance(feature, Value | ClassLabel) and "binary" not in feature.dtype:
            columns.append(name)
    classes = {name: column for name, column in videos.features.items() if isinstance(column, ClassLabel)}
    rows = []
    for row, check in zip(videos, checks, strict=True):
        if isinstance(check.result, VideoInfo) and not isinstance(check.copy, VideoFailure):
            for name, column in classes.items():  # -1 is a missing label
                row[name] = column.int2str(row[name]) if row[name] is not None and row[name] >= 0 else None
            video = check.copy or row["video"]
            rows.append(row | {"video": video if "://" in video else str(Path(video).resolve())})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)
