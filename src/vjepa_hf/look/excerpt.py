"""The part of a video that is looked at, and its frames for display."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..model.frame_sampling import resolve_frame_step
from ..model.video_io import TimedFrame, VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor

ASSUMED_FPS = 25.0  # of frames without times: a folder of images, or an array
DISPLAY_SIDE = 320  # maximum side of a displayed frame in pixels
DISPLAY_FPS = 15.0  # maximum number of displayed frames per second


class Excerpt:
    """A few seconds of an open video, with the interface of an open video.

    Frame numbers start at 0; times are the times in the whole video.

    Args:
        video: open video.
        start: first second.
        max_seconds: maximum number of seconds.

    Raises:
        VideoDecodeError: the video ends before `start`.
    """

    def __init__(self, video: Any, start: float, max_seconds: float):
        self.name, self._video = video.name, video
        self.has_times = math.isfinite(video.info.fps)
        fps = video.info.fps if self.has_times else ASSUMED_FPS
        self.num_frames_of_video = video.info.num_frames
        self._first = round(start * fps)
        num_frames = min(video.info.num_frames - self._first, max(1, math.floor(max_seconds * fps)))
        if num_frames < 1:
            raise VideoDecodeError(self.name, f"frames from second {start:g} on", f"it has {video.info.num_frames}")
        self.info = replace(video.info, num_frames=num_frames, fps=fps)

    def frames(self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Decode frames; arguments, result and errors as in `VideoFile.frames`."""
        return self._video.frames(np.asarray(indices) + self._first, size)

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[TimedFrame]:
        """Decode frames one by one; arguments, result and errors as in `VideoFile.iter_frames`."""
        for number, seconds, frame in self._video.iter_frames(np.asarray(indices) + self._first):
            seconds = seconds if math.isfinite(seconds) else number / ASSUMED_FPS
            yield TimedFrame(number - self._first, seconds, frame)

    def at_constant_rate(self, numbers: np.ndarray) -> np.ndarray:
        """Replace frame numbers of a constant frame rate by those shown at the same times."""
        return self._video.at_constant_rate(numbers + self._first) - self._first


class FramesForDisplay:
    """An excerpt that keeps what the model sees of the frames that are read, in a size for people.

    Args:
        excerpt: excerpt.
        processor: processor of the model, which resizes and crops.
    """

    def __init__(self, excerpt: Excerpt, processor: VJEPAVideoProcessor):
        self.name, self.info, self.frames = excerpt.name, excerpt.info, excerpt.frames
        self._excerpt, self._processor = excerpt, _larger(processor, min(self.info.height, self.info.width))
        rate = self.info.fps / resolve_frame_step(processor.frame_step, processor.fps, self.info.fps)
        self._every = max(1, math.ceil(rate / DISPLAY_FPS))
        self.pictures: list[np.ndarray] = []
        self.times: list[float] = []

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[TimedFrame]:
        """Decode frames one by one, and keep pictures of them."""
        for count, frame in enumerate(self._excerpt.iter_frames(indices)):
            if count % self._every == 0:
                pixels = self._processor(frame.frame[None], return_tensors="pt")["pixel_values_videos"][0, 0]
                self.pictures.append(pixels.clamp(0, 255).round().byte().permute(1, 2, 0).numpy())
                self.times.append(frame.seconds)
            yield frame

    def at_constant_rate(self, numbers: np.ndarray) -> np.ndarray:
        """Replace frame numbers of a constant frame rate by those shown at the same times."""
        return self._excerpt.at_constant_rate(numbers)


def _larger(processor: VJEPAVideoProcessor, short_side: int) -> VJEPAVideoProcessor:
    """Return a processor that crops the same part of a frame to `DISPLAY_SIDE`, unless the video is smaller."""
    display = copy.deepcopy(processor)
    display.do_sample_frames = display.do_rescale = display.do_normalize = False
    display.num_crops = display.num_clips = 1
    display.antialias, display.resample = True, 2  # bilinear
    sides = processor.crop_size["height"], processor.crop_size["width"]
    if processor.do_resize and processor.do_center_crop:
        scale = max(1.0, min(DISPLAY_SIDE, short_side) / max(sides))
        display.crop_size = {name: round(scale * side) for name, side in zip(("height", "width"), sides, strict=True)}
        if processor.size is not None:
            display.size = {name: round(scale * side) for name, side in dict(processor.size).items() if side}
    return display
