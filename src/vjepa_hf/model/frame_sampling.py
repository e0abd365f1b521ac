"""Frame numbers of clips, as pure functions of the length of a video.

Clips are int64 frame numbers `(V, T)`: V clips of T frames, each number in [0, total_frames). A clip that starts at
`start` covers the frames [start, start + span), with `span` from `clip_span`.
"""

from collections.abc import Sequence

import numpy as np

SHORT_VIDEO_POLICIES = ("repeat_last", "wrap", "error")


def resolve_frame_step(frame_step: float, fps: float | None, video_fps: float | None) -> float:
    """Return the distance between two frames of a clip, in frames of the video; it may be fractional.

    Args:
        frame_step: distance in frames of the video.
        fps: frames of the clip per second, so that clips have the same duration at any frame rate; None uses
            `frame_step`.
        video_fps: frame rate of the video; None or nan if it is not known. Only `fps` needs it.

    Raises:
        ValueError: `fps` is not a positive number, or it is given and the frame rate of the video is not known.
    """
    if fps is None:
        return frame_step
    if not 0 < fps < np.inf:
        raise ValueError(f"fps={fps} must be a positive number.")
    if video_fps is None or not 0 < video_fps < np.inf:
        raise ValueError(
            f"fps={fps} needs the frame rate of the video, which is not known (fps={video_fps}, as for a folder of "
            "frames or an array); use frame_step, or pass the frame rate of the video."
        )
    return 1 / fps * video_fps


def frame_offsets(num_frames: int, frame_step: float) -> np.ndarray:
    """Return the frame numbers of a clip relative to its first frame, `(T,)`: multiples of the step, rounded half up.

    Raises:
        ValueError: `num_frames` is below one or `frame_step` is not a positive number.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1.")
    if not 0 < frame_step < np.inf:
        raise ValueError(f"frame_step={frame_step} must be a positive number.")
    return np.floor(np.arange(num_frames) * frame_step + 0.5).astype(np.int64)


def clip_span(num_frames: int, frame_step: float) -> int:
    """Return the number of frames from the first to the last frame of a clip, inclusive: 61 for 16 at step 4."""
    return int(frame_offsets(num_frames, frame_step)[-1]) + 1


def regular_clips(
    total_frames: int, num_frames: int, frame_step: float, num_clips: int = 1, short_video: str = "repeat_last"
) -> np.ndarray:
    """Return clips `(V, T)` evenly spaced from the first to the last possible start; a single clip is in the middle.

    Args:
        total_frames: frames of the video.
        num_frames: frames per clip, T.
        frame_step: distance between two frames of a clip, in frames.
        num_clips: clips per video, V.
        short_video: policy if the video has fewer frames than a clip spans, see `place_clips`.

    Raises:
        ValueError: a count is below one, or the video is too short and `short_video` is "error".
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
    """Draw clips `(V, T)` with independent starts, uniform over [0, last possible start].

    Arguments and errors as in `regular_clips`; `generator` is the only source of randomness.
    """
    last_start = _last_start(total_frames, num_frames, frame_step, num_clips)
    starts = generator.integers(0, last_start + 1, size=num_clips)
    return place_clips(starts, total_frames, num_frames, frame_step, short_video)


def place_clips(
    starts: np.ndarray, total_frames: int, num_frames: int, frame_step: float, short_video: str = "repeat_last"
) -> np.ndarray:
    """Return the clips `(V, T)` that begin at `starts` `(V,)`; the policy replaces frames beyond the end.

    With 5 frames in the video, clips of 4 at step 2, start 0:
        "repeat_last"   0 2 4 4   the last frame of the video is repeated
        "wrap"          0 2 4 1   the video is played in a loop
        "error"         ValueError

    Raises:
        ValueError: a clip begins outside of the video, the policy is unknown, or it is "error" and a clip ends outside
            of the video.
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
        f"the video has {total_frames} frames but a clip of num_frames={num_frames} at frame_step={frame_step} spans "
        f"{clip_span(num_frames, frame_step)}; use fewer frames, a smaller step or short_video='repeat_last'."
    )


def centered_clip(center: int, total_frames: int, num_frames: int, frame_step: float) -> np.ndarray:
    """Return the clip `(1, T)` with `center` at index T // 2; the first or last frame of the video is repeated.

    Args:
        center: frame number in [0, total_frames).
        total_frames: frames of the video.
        num_frames: frames per clip, T.
        frame_step: distance between two frames of the clip, in frames.

    Raises:
        ValueError: `center` is outside of the video, or as in `frame_offsets`.
    """
    if not 0 <= center < total_frames:
        raise ValueError(f"center={center} must lie in the video, 0 to {total_frames - 1}.")
    offsets = frame_offsets(num_frames, frame_step)
    return np.clip(center + offsets - offsets[num_frames // 2], 0, total_frames - 1)[None]


def has_constant_rate(times: Sequence[float]) -> bool:
    """Return whether no frame is half a frame interval or more away from its time at a constant frame rate.

    Args:
        times: presentation times of all frames, ascending.
    """
    even = np.linspace(times[0], times[-1], len(times))
    return bool(np.abs(np.asarray(times) - even).max() * 2 * max(1, len(times) - 1) <= times[-1] - times[0])


def frames_at_constant_rate(numbers: np.ndarray, times: Sequence[float] | np.ndarray) -> np.ndarray:
    """Replace frame numbers of a constant frame rate by the frames that are nearest in time.

    Args:
        numbers: frame numbers of any shape, in [0, total_frames).
        times: presentation times of the frames of the video, ascending, at least two.
    """
    times = np.asarray(times, dtype=np.float64)
    wanted = np.linspace(times[0], times[-1], len(times))[numbers]
    later = np.searchsorted(times, wanted).clip(1, len(times) - 1)
    return np.where(wanted - times[later - 1] <= times[later] - wanted, later - 1, later)


def _last_start(total_frames: int, num_frames: int, frame_step: float, num_clips: int) -> int:
    """Return the last start of a clip that ends inside the video; 0 if the clip is longer."""
    if total_frames < 1:
        raise ValueError(f"total_frames={total_frames} must be at least 1.")
    if num_clips < 1:
        raise ValueError(f"num_clips={num_clips} must be at least 1.")
    return max(0, total_frames - clip_span(num_frames, frame_step))
