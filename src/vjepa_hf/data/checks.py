"""Check videos before a run, and write smaller copies that training reads faster."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ..files import whole_file
from ..model.video_io import VideoDecodeError, VideoFile, VideoInfo
from .videos import VideoFailure, open_video

# Thresholds of warnings: minimum short side (px), maximum aspect ratio, range of the frame rate (fps).
SMALL_SIDE, ODD_RATIO, ODD_RATES = 64, 3, (5, 120)
FRAMES_AT_ONCE = 256  # that a copy keeps in memory
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


def shrink_video(
    video: Any, path: str | Path, short_side: int = 256, keyframe_interval: int = 16, quality: int = 20
) -> None:
    """Write a copy in H.264 without sound. Its frame i is frame i of the original, at a constant frame rate.

    Args:
        video: value of the column `video` of a source.
        path: .mp4 file to write; it gets its name only when it is complete.
        short_side: shorter side of the copy in pixels; smaller videos keep their size.
        keyframe_interval: maximum distance between key frames, in frames. A clip decodes half of it in frames that it
            does not need; a smaller interval gives larger files.
        quality: CRF of libx264, from 0 (lossless) to 51.

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
        options = {"crf": str(quality), "preset": "fast", "tune": "fastdecode"}
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
