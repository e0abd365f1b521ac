"""Which frame numbers make a clip. Pure integer functions of the video's length; nothing here opens a file.

Every function returns int64 frame numbers of shape (V, T): V clips of T frames, each number in [0, total_frames).
A clip that starts at `start` covers the frames [start, start + span), with `span` from `clip_span`.
"""

import numpy as np

SHORT_VIDEO_POLICIES = ("repeat_last", "wrap", "error")


def resolve_frame_step(frame_step: float, fps: float | None, video_fps: float | None) -> float:
    """Return the distance between two frames of a clip, in frames of the video.

    With `fps` clips last equally long at any frame rate. The result may be fractional; `frame_offsets` rounds each
    offset by itself, so rounding errors do not add up.

    Args:
        frame_step: Distance in frames of the video.
        fps: Frames of the clip per second, in place of `frame_step`; None uses `frame_step`.
        video_fps: Frame rate of the video; None or nan if it is not known. Only `fps` needs it.

    Raises:
        ValueError: `fps` is not a positive number, or it is given and the frame rate of the video is not known.
    """
    if fps is None:
        return frame_step
    if not 0 < fps < np.inf:
        raise ValueError(f"fps={fps} must be a positive number.")
    if video_fps is None or not 0 < video_fps < np.inf:
        raise ValueError(
            f"fps={fps} needs the frame rate of the video, which is not known (fps={video_fps}, as of a folder of "
            "frames or an array); use frame_step, or pass the frame rate where there is an argument for it."
        )
    return 1 / fps * video_fps


def frame_offsets(num_frames: int, frame_step: float) -> np.ndarray:
    """Frame numbers of a clip relative to its first frame: 0, step, 2 * step, ... rounded half up. Shape (T,).

    Raises:
        ValueError: `num_frames` is below one or `frame_step` is not a positive number.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1.")
    if not 0 < frame_step < np.inf:
        raise ValueError(f"frame_step={frame_step} must be a positive number.")
    return np.floor(np.arange(num_frames) * frame_step + 0.5).astype(np.int64)


def clip_span(num_frames: int, frame_step: float) -> int:
    """Frames from the first to the last frame of a clip, both counted: 61 for 16 frames at step 4."""
    return int(frame_offsets(num_frames, frame_step)[-1]) + 1


def regular_clips(
    total_frames: int, num_frames: int, frame_step: float, num_clips: int = 1, short_video: str = "repeat_last"
) -> np.ndarray:
    """Clips evenly spaced from the first to the last possible start; a single clip sits in the middle.

    Args:
        total_frames: Frames in the video.
        num_frames: Frames per clip, T.
        frame_step: Distance between two frames of a clip, in frames.
        num_clips: Clips per video, V.
        short_video: What to do when the video has fewer frames than a clip spans, see `place_clips`.

    Raises:
        ValueError: A count is below one, or the video is too short and `short_video` is "error".
    """
    last_start = _last_start(total_frames, num_frames, frame_step, num_clips)
    if num_clips == 1:
        starts = np.array([last_start // 2])
    else:
        starts = np.arange(num_clips) * last_start // (num_clips - 1)
    return place_clips(starts, total_frames, num_frames, frame_step, short_video)


def random_clips(
    total_frames: int,
    num_frames: int,
    frame_step: float,
    generator: np.random.Generator,
    num_clips: int = 1,
    short_video: str = "repeat_last",
) -> np.ndarray:
    """Clips at independent starts, each uniform over [0, last possible start], in the order they were drawn.

    Arguments and errors as in `regular_clips`; `generator` is the only source of randomness.
    """
    last_start = _last_start(total_frames, num_frames, frame_step, num_clips)
    starts = generator.integers(0, last_start + 1, size=num_clips)
    return place_clips(starts, total_frames, num_frames, frame_step, short_video)


def place_clips(
    starts: np.ndarray, total_frames: int, num_frames: int, frame_step: float, short_video: str = "repeat_last"
) -> np.ndarray:
    """Frame numbers of the clips that begin at `starts` (V,), frames beyond the end replaced by the policy.

    With 5 frames in the video, clips of 4 at step 2, start 0:
        "repeat_last"   0 2 4 4   the last frame of the video again and again
        "wrap"          0 2 4 1   the video plays in a loop
        "error"         ValueError

    Raises:
        ValueError: A clip begins outside of the video, the policy is none of these, or it is "error" and a clip ends
            outside of the video.
    """
    if min(starts) < 0 or max(starts) >= total_frames:
        raise ValueError(f"starts={list(starts)} must lie in the video, 0 to {total_frames - 1}.")
    if short_video not in SHORT_VIDEO_POLICIES:
        raise ValueError(f"short_video={short_video!r} must be one of {SHORT_VIDEO_POLICIES}.")
    indices = np.asarray(starts, dtype=np.int64)[:, None] + frame_offsets(num_frames, frame_step)
    if indices.max() < total_frames:
        return indices
    if short_video == "repeat_last":
        return np.minimum(indices, total_frames - 1)
    if short_video == "wrap":
        return indices % total_frames
    raise ValueError(
        f"The video has {total_frames} frames but a clip of num_frames={num_frames} at frame_step={frame_step} spans "
        f"{clip_span(num_frames, frame_step)}; use fewer frames, a smaller step or short_video='repeat_last'."
    )


def centered_clip(center: int, total_frames: int, num_frames: int, frame_step: float) -> np.ndarray:
    """A clip (1, T) around a frame, which becomes number T // 2 of it; beyond the video its first or last frame stays.

    Args:
        center: The frame in the middle, in [0, total_frames).
        total_frames: Frames in the video.
        num_frames: Frames of the clip, T.
        frame_step: Distance between two frames of the clip, in frames.

    Raises:
        ValueError: The frame lies outside of the video, or as in `frame_offsets`.
    """
    if not 0 <= center < total_frames:
        raise ValueError(f"center={center} must lie in the video, 0 to {total_frames - 1}.")
    offsets = frame_offsets(num_frames, frame_step)
    return np.clip(center + offsets - offsets[num_frames // 2], 0, total_frames - 1)[None]


def _last_start(total_frames: int, num_frames: int, frame_step: float, num_clips: int) -> int:
    """The last start at which a clip still ends inside the video; 0 when it is longer than the video."""
    if total_frames < 1:
        raise ValueError(f"total_frames={total_frames} must be at least 1: a video without frames gives no clip.")
    if num_clips < 1:
        raise ValueError(f"num_clips={num_clips} must be at least 1.")
    return max(0, total_frames - clip_span(num_frames, frame_step))
