"""Check videos before a run, and write smaller copies that training reads faster."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ..files import whole_file
from ..model.video_io import VideoDecodeError, VideoInfo
from .videos import decode_video, probe_video, video_name

# A video beyond these is odd: pixels of its short side, long over short side, frames a second.
SMALL_SIDE, ODD_RATIO, ODD_RATES = 64, 3, (5, 120)


@dataclass(frozen=True)
class VideoCheck:
    """What one video turned out to be: its figures, or the cause why it cannot be read; and where a copy of it is."""

    video: str
    info: VideoInfo | None = None
    cause: str | None = None
    copy: str | None = None


def check_video(video: Any) -> VideoCheck:
    """Open a video and decode its first, middle and last frame, where damage shows."""
    name = video_name(video)
    try:
        info = probe_video(video)
        decode_video(video, [0, info.num_frames // 2, info.num_frames - 1])
    except VideoDecodeError as error:
        return VideoCheck(name, cause=error.cause)
    return VideoCheck(name, info=info)


def oddities(info: VideoInfo) -> list[str]:
    """What is unusual about a readable video, in words: worth a look, not an error."""
    short, long = sorted((info.height, info.width))
    found = [
        (info.num_frames == 1, "one frame"),
        (short < SMALL_SIDE, f"small, {info.width} x {info.height} pixels"),
        (long > ODD_RATIO * short, f"very long in shape, {info.width} x {info.height} pixels"),
        (info.fps < ODD_RATES[0] or info.fps > ODD_RATES[1], f"{info.fps:.3g} frames a second"),
    ]
    return [words for odd, words in found if odd]


FRAMES_AT_ONCE = 256
DEFAULT_FPS = 25  # of a folder of frames, which has none


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
    info = probe_video(video)
    scale = min(1.0, short_side / min(info.height, info.width))
    # libx264 wants even sides.
    height, width = (max(2, 2 * round(side * scale / 2)) for side in (info.height, info.width))
    fps = Fraction(info.fps).limit_denominator(1001) if info.fps > 0 else DEFAULT_FPS
    with whole_file(path) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        options = {"crf": str(quality), "preset": "fast", "tune": "fastdecode"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = keyframe_interval
        for start in range(0, info.num_frames, FRAMES_AT_ONCE):
            numbers = range(start, min(start + FRAMES_AT_ONCE, info.num_frames))
            frames = decode_video(video, numbers, size=(height, width)).permute(0, 2, 3, 1).contiguous().numpy()
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
