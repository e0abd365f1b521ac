"""Check videos before a run, and write smaller copies that training reads faster."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ..files import whole_file
from ..model.video_io import VideoDecodeError, VideoInfo
from .videos import VideoFailure, open_video

# Thresholds of warnings: minimum short side (px), maximum aspect ratio, range of the frame rate (fps).
SMALL_SIDE, ODD_RATIO, ODD_RATES = 64, 3, (5, 120)
FRAMES_AT_ONCE = 256
DEFAULT_FPS = 25  # of a folder of frames, which has none


def check_video(video: Any) -> VideoInfo | VideoFailure:
    """Open a video and decode its first, middle and last frame, where damage shows."""
    try:
        with open_video(video) as opened:
            opened.frames([0, opened.info.num_frames // 2, opened.info.num_frames - 1])
            return opened.info
    except VideoDecodeError as error:
        return VideoFailure.of(video, error)


def oddities(info: VideoInfo) -> list[str]:
    """List unusual properties of a readable video (warnings, not errors)."""
    short, long = sorted((info.height, info.width))
    tests = [
        (info.num_frames == 1, "one frame"),
        (short < SMALL_SIDE, f"small, {info.width} x {info.height} pixels"),
        (long > ODD_RATIO * short, f"very long in shape, {info.width} x {info.height} pixels"),
        (info.fps < ODD_RATES[0] or info.fps > ODD_RATES[1], f"{info.fps:.3g} fps"),
    ]
    return [words for odd, words in tests if odd]


def shrink_video(
    video: Any, path: str | Path, short_side: int = 256, keyframe_interval: int = 16, quality: int = 20
) -> None:
    """Write a copy in H.264 without sound. Its frame i is frame i of the original, at a constant frame rate.

    Args:
        video: value of the column `video` of a source.
        path: .mp4 file to write; it has its name only once it is whole.
        short_side: pixels of the shorter side of the copy; a video is never enlarged.
        keyframe_interval: largest distance of key frames, in frames. A clip costs half of it in frames that are
            decoded for nothing; files grow as it shrinks.
        quality: of libx264 (CRF), from 0, lossless, to 51.

    Raises:
        ValueError: a size or an interval below its least.
        VideoDecodeError: the original cannot be read to its end.
    """
    if short_side < 16 or keyframe_interval < 1:
        raise ValueError(f"{short_side=} must be at least 16 and {keyframe_interval=} at least 1")
    with (
        open_video(video) as opened,
        whole_file(path) as unfinished,
        av.open(str(unfinished), "w", format="mp4") as container,
    ):
        info = opened.info
        scale = min(1.0, short_side / min(info.height, info.width))
        # libx264 wants even sides.
        height, width = (max(2, 2 * round(side * scale / 2)) for side in (info.height, info.width))
        options = {"crf": str(quality), "preset": "fast", "tune": "fastdecode"}
        fps = Fraction(info.fps).limit_denominator(1001) if info.fps > 0 else DEFAULT_FPS
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = keyframe_interval
        for start in range(0, info.num_frames, FRAMES_AT_ONCE):
            numbers = range(start, min(start + FRAMES_AT_ONCE, info.num_frames))
            frames = opened.frames(numbers, size=(height, width))
            for frame in frames.permute(0, 2, 3, 1).contiguous().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
