"""Per-time-step features of long videos, by a sliding window.

A window of `num_frames` frames slides over the video. Where two windows overlap, each time step comes from the window
whose middle is nearer. So every feature is an output of the encoder with context before and after it. A mean over the
windows would have a smaller norm where they disagree, and so reveal the overlaps. The file is read once, in order, and
only the current windows are held in memory.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import whole_file
from ..model.configuration_vjepa import VJEPAConfig
from ..model.frame_sampling import frame_offsets, resolve_frame_step
from ..model.modeling_vjepa import VJEPAModel
from ..model.tubelets import Grid, grid_size
from ..model.video_inputs import ArrayFormat, FrameArray
from ..model.video_io import TimedFrame
from ..model.video_processing_vjepa import VJEPAVideoProcessor


@dataclass(frozen=True)
class Window:
    """One pass of the encoder, in time steps of the video; a time step is one tubelet long.

    Attributes:
        start: first time step.
        first: first time step whose features are kept.
        last: time step after the last one whose features are kept.
    """

    start: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """The time steps of the window whose features are kept."""
        return slice(self.first - self.start, self.last - self.start)


@dataclass(frozen=True)
class FeaturePiece:
    """Features of consecutive time steps.

    Attributes:
        timestamps: float64 `(n,)`: time of the first frame of each time step, in seconds.
        features: float32 `(n, h, w, D)`.
    """

    timestamps: np.ndarray
    features: torch.Tensor


def plan_windows(num_steps: int, window: int, stride: int) -> list[Window]:
    """Cover `num_steps` time steps with windows that together keep each time step once.

    A window starts every `stride` time steps; the last one ends with the video. Where two windows overlap, the first
    one keeps the first half of the overlap. A video shorter than a window has one window, which ends after the video.

    Args:
        num_steps: time steps of the video.
        window: time steps of a window.
        stride: time steps from one window to the next.

    Raises:
        ValueError: `num_steps` is below 1, or `stride` is not in [1, window].
    """
    if num_steps < 1 or not 1 <= stride <= window:
        raise ValueError(f"num_steps={num_steps} must be at least 1 and stride={stride} must be in [1, {window}].")
    starts = list(range(0, max(1, num_steps - window + 1), stride))
    if starts[-1] + window < num_steps:
        starts.append(num_steps - window)
    borders = [(start + window + later) // 2 for start, later in zip(starts, starts[1:], strict=False)]
    return [Window(*steps) for steps in zip(starts, [0, *borders], [*borders, num_steps], strict=True)]


@dataclass(frozen=True)
class WindowClip:
    """Frames of a window.

    Attributes:
        window: the window.
        seconds: time of the first frame of each time step `(t,)`; nan for frames in memory.
        pixels: `(T, C, H, W)`.
        is_whole: whether no time step is filled by repeating the last frame of the video.
    """

    window: Window
    seconds: tuple[float, ...]
    pixels: torch.Tensor
    is_whole: bool


@torch.no_grad()  # not inference_mode: a head may be trained on the features
def stream_features(
    model: VJEPAModel, processor: VJEPAVideoProcessor, video: Any, stride: int, batch_size: int = 4
) -> Iterator[FeaturePiece]:
    """Yield the features of a whole video in order.

    The processor's `frame_step` or `fps` selects the frames. If a video ends within a tubelet or a window, its last
    frame is repeated; time steps that consist only of repeated frames are not returned.

    Args:
        model: encoder, on its device; it is set to evaluation mode.
        processor: processor of the model.
        video: video of any kind that the processor takes. The timestamps of frames in memory are nan.
        stride: frames of a clip from one window to the next: a multiple of the tubelet size, `num_frames` at most.
        batch_size: windows per forward pass.

    Raises:
        ValueError: the stride is invalid, or the processor has `fps` and the frame rate of the video is not known.
        VideoDecodeError: the video cannot be read.
    """
    model.eval()
    grid = window_grid(model.config, processor)
    clips = stream_windows(processor, video, model.config.tubelet_size, grid[0], stride)
    while batch := list(islice(clips, batch_size)):
        yield _encode(model, batch, grid)


def window_grid(config: VJEPAConfig, processor: VJEPAVideoProcessor) -> Grid:
    """Return the token grid (t, h, w) of a window, a clip of the processor."""
    size = processor.crop_size
    return grid_size(processor.num_frames, size["height"], size["width"], config.tubelet_size, config.patch_size)


def stream_windows(
    processor: VJEPAVideoProcessor, video: Any, tubelet_size: int, num_steps: int, stride: int
) -> Iterator[WindowClip]:
    """Yield the windows of a video in order, each as soon as its last frame is read.

    Args:
        processor: processor of the model.
        video: video of any kind that the processor takes.
        tubelet_size: frames of a time step.
        num_steps: time steps of a window.
        stride: frames of a clip from one window to the next.

    Raises:
        ValueError: as in `stream_features`.
        VideoDecodeError: the video cannot be read.
    """
    if stride % tubelet_size or not 0 < stride <= processor.num_frames:
        raise ValueError(
            f"stride={stride} must be a multiple of tubelet_size={tubelet_size} and at most "
            f"num_frames={processor.num_frames}."
        )
    with processor.open_video(video) as opened:
        step = resolve_frame_step(processor.frame_step, processor.fps, opened.info.fps)
        numbers = frame_offsets(math.ceil((opened.info.num_frames - 0.5) / step), step)
        if processor.fps is not None:
            numbers = opened.at_constant_rate(numbers)
        windows = plan_windows(math.ceil(len(numbers) / tubelet_size), num_steps, stride // tubelet_size)
        steps = _time_steps(opened.iter_frames(numbers), processor, tubelet_size, num_steps)
        recent: deque[tuple[float, torch.Tensor]] = deque(maxlen=num_steps)
        num_read = 0
        for window in windows:
            last = window.start + num_steps
            recent.extend(islice(steps, last - num_read))
            num_read = last
            seconds, pixels = zip(*recent, strict=True)
            yield WindowClip(window, seconds, torch.cat(pixels), last * tubelet_size <= len(numbers))


def _time_steps(
    frames: Iterator[TimedFrame], processor: VJEPAVideoProcessor, tubelet_size: int, min_steps: int
) -> Iterator[tuple[float, torch.Tensor]]:
    """Yield the timestamp and the pixels (tubelet_size, C, H, W) of each time step; the last frame is repeated."""
    last: list[TimedFrame] = []
    for num_steps in count():
        tubelet = list(islice(frames, tubelet_size)) or (last if num_steps < min_steps else [])
        if not tubelet:
            return
        last = tubelet[-1:]
        video = torch.stack([frame.frame for frame in tubelet + last * (tubelet_size - len(tubelet))])
        opened = FrameArray(video, ArrayFormat(video.shape[1], "channels_first", highest=None))  # checked before
        inputs = processor(opened, do_sample_frames=False, return_tensors="pt")
        yield tubelet[0].seconds, inputs["pixel_values_videos"][0]


def _encode(model: VJEPAModel, clips: list[WindowClip], grid: Grid) -> FeaturePiece:
    """Encode consecutive windows and return the features that they keep."""
    pixels = torch.stack([clip.pixels for clip in clips]).to(model.device, model.dtype)
    tokens = model(pixels).last_hidden_state.unflatten(1, grid).float().cpu()
    kept = [clip.window.kept for clip in clips]
    seconds = [time for clip, steps in zip(clips, kept, strict=True) for time in clip.seconds[steps]]
    return FeaturePiece(
        np.array(seconds), torch.cat([features[steps] for features, steps in zip(tokens, kept, strict=True)])
    )


def write_features(
    pieces: Iterable[FeaturePiece], path: str | Path, metadata: dict[str, str], keep_grid: bool = False
) -> tuple[int, ...]:
    """Write `features` and `timestamps` `(n,)` into one safetensors file, piece by piece; return the features' shape.

    Args:
        pieces: pieces of `stream_features`.
        path: file to write; it appears once it is complete.
        metadata: metadata of the file.
        keep_grid: write `(n, h, w, D)` instead of the mean over the h x w tokens of a time step, `(n, D)`.

    Raises:
        ValueError: `pieces` is empty.
    """
    timestamps: list[np.ndarray] = []
    shape: tuple[int, ...] = ()
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        for piece in pieces:
            features = piece.features if keep_grid else piece.features.mean(dim=(1, 2))
            if not timestamps:
                # The header needs n, which is not known yet: reserve room for the longest one.
                room = len(_header(metadata, (2**62, *features.shape[1:])))
                file.write(bytes(room))
            file.write(features.contiguous().numpy().astype("<f4", copy=False).tobytes())
            timestamps.append(piece.timestamps)
            shape = (sum(map(len, timestamps)), *features.shape[1:])
        if not timestamps:
            raise ValueError("there are no features to write")
        file.write(np.concatenate(timestamps).astype("<f8").tobytes())
        file.seek(0)
        file.write(_header(metadata, shape, room))
    return shape


def _header(metadata: dict[str, str], shape: tuple[int, ...], room: int = 0) -> bytes:
    """Return the header of a safetensors file: its length in 8 bytes, and JSON padded with spaces to `room`."""
    border = 4 * math.prod(shape)
    tensors = {
        "__metadata__": metadata,
        "features": {"dtype": "F32", "shape": shape, "data_offsets": (0, border)},
        "timestamps": {"dtype": "F64", "shape": shape[:1], "data_offsets": (border, border + 8 * shape[0])},
    }
    text = json.dumps(tensors).encode()
    length = max(room - 8, -(-len(text) // 8) * 8)
    return length.to_bytes(8, "little") + text.ljust(length)
