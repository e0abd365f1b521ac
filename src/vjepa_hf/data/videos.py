"""One value of the column `video`: its frames, its properties, its failure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..model.video_inputs import open_video, video_name
from ..model.video_io import VideoDecodeError, VideoInfo


@dataclass(frozen=True)
class VideoFailure:
    """A video that could not be read, and the cause. The caller decides to replace, skip or report it."""

    video: str
    cause: str

    @classmethod
    def of(cls, video: Any, error: VideoDecodeError) -> "VideoFailure":
        """Make the failure of a value of the column `video`."""
        return cls(video_name(video), error.cause)

    def __str__(self) -> str:
        return f"{self.video}: {self.cause}"


def decode_video(video: Any, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Open a video and decode these frames, uint8 `(T, C, height, width)`; arguments and errors of `VideoFile.frames`.

    Args:
        video: value of the column `video`, see `open_video`.
        indices: frame numbers.
        size: (height, width) to scale to; None keeps the size of the video.
    """
    with open_video(video) as file:
        return file.frames(indices, size)


def probe_video(video: Any) -> VideoInfo:
    """Return the number of frames, frame rate and size of a value of the column `video`.

    Raises:
        VideoDecodeError: the video cannot be read.
    """
    with open_video(video) as file:
        return file.info
