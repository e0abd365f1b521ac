"""Features of a long video, one time step after the other, for whoever looks for moments in it.

A window of `num_frames` frames slides over the video. Of two windows that overlap, each gives the time steps that lie
nearer to its own middle. So every feature is an output of the encoder as it is, with context before and after it; a
mean over the windows would be shorter wherever they disagree, and the length of features would tell where they meet.
The file is read once and in order, and nothing is held but the windows at work.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..files import whole_file
from ..model.frame_sampling import frame_offsets, resolve_frame_step
from ..model.modeling_vjepa import VJEPAModel
from ..model.tubelets import grid_size
from ..model.video_io import Source, TimedFrame, VideoFile
from ..model.video_processing_vjepa import VJEPAVideoProcessor


@dataclass(frozen=True)
class Window:
    """One pass of the encoder, in time steps of the video, a step being a tubelet long.

    Attributes:
        start: its first step.
        first: first step that is kept of it.
        last: step after the last one kept.
    """

    start: int
    first: int
    last: int


@dataclass(frozen=True)
class FeaturePiece:
    """Some consecutive time steps.

    Attributes:
        timestamps: float64 `(n,)`: seconds at which the first frame of each step is shown.
        features: float32 `(n, h, w, D)`.
    """

    timestamps: np.ndarray
    features: torch.Tensor


def plan_windows(num_steps: int, window: int, stride: int) -> list[Window]:
    """Windows over `num_steps` time steps, which together keep each step once. All numbers are time steps.

    A window begins every `stride`, the last one ends with the video. Where two overlap, the border between what is
    kept of them is the middle of the overlap. A video shorter than a window has one, which reaches beyond its end.

    Raises:
        ValueError: `num_steps` below 1, or a stride outside [1, window].
    """
    if num_steps < 1 or not 1 <= stride <= window:
        raise ValueError(f"num_steps={num_steps} must be at least 1 and stride={stride} lie in [1, window={window}].")
    starts = list(range(0, max(1, num_steps - window + 1), stride))
    if starts[-1] + window < num_steps:
        starts.append(num_steps - window)
    borders = [(start + window + later) // 2 for start, later in zip(starts, starts[1:], strict=False)]
    return [Window(*places) for places in zip(starts, [0, *borders], [*borders, num_steps], strict=True)]


@torch.no_grad()  # not inference_mode: a head may learn on what comes out
def stream_features(
    model: VJEPAModel, processor: VJEPAVideoProcessor, video: Source, stride: int, batch_size: int = 4
) -> Iterator[FeaturePiece]:
    """Features of a whole video in order, from windows that begin every `stride` frames of a clip.

    The frames are those of the processor's `frame_step`, or `fps`. A video that ends within a tubelet or a window is
    filled up with its last frame; steps that consist of nothing else are left out.

    Args:
        model: encoder, on its device; set to evaluation mode.
        processor: that of the model.
        video: path, URL, bytes or binary file object.
        stride: frames of a clip from one window to the next: a multiple of the tubelet's frames, `num_frames` at most.
        batch_size: windows of one forward pass.

    Raises:
        ValueError: another stride, or `fps` of the processor and a video whose frame rate is not known.
        VideoDecodeError: the video cannot be read.
    """
    tubelet_size, size = model.config.tubelet_size, processor.crop_size
    grid = grid_size(processor.num_frames, size["height"], size["width"], tubelet_size, model.config.patch_size)
    if stride % tubelet_size or not 0 < stride <= processor.num_frames:
        raise ValueError(
            f"stride={stride} must be a multiple of tubelet_size={tubelet_size} and at most "
            f"num_frames={processor.num_frames}."
        )
    model.eval()
    with VideoFile(video) as opened:
        step = resolve_frame_step(processor.frame_step, processor.fps, opened.info.fps)
        numbers = frame_offsets(math.ceil((opened.info.num_frames - 0.5) / step), step)
        windows = deque(plan_windows(math.ceil(len(numbers) / tubelet_size), grid[0], stride // tubelet_size))
        clips: list[tuple[Window, torch.Tensor]] = []
        seen: deque[torch.Tensor] = deque(maxlen=grid[0])  # pixels of the last steps
        timestamps: list[float] = []
        for seconds, pixels in _steps(opened.iter_frames(numbers), processor, tubelet_size, grid[0]):
            seen.append(pixels)
            timestamps.append(seconds)
            if len(timestamps) == windows[0].start + grid[0]:
                clips.append((windows.popleft(), torch.cat(list(seen))))
            if clips and (len(clips) == batch_size or not windows):
                yield _encoded(model, clips, grid, timestamps)
                clips = []
            if not windows:
                return


def _steps(
    frames: Iterator[TimedFrame], processor: VJEPAVideoProcessor, tubelet_size: int, least: int
) -> Iterator[tuple[float, torch.Tensor]]:
    """When each time step begins, and its pixels (tubelet_size, C, H, W); the last frame fills up to `least` steps."""
    num_steps, tubelet = 0, []
    for frame in frames:
        tubelet.append(frame)
        if len(tubelet) == tubelet_size:
            yield tubelet[0].seconds, _pixels(tubelet, processor)
            num_steps, last, tubelet = num_steps + 1, tubelet[-1], []
    if tubelet:
        last = tubelet[-1]
        yield tubelet[0].seconds, _pixels(tubelet + [last] * (tubelet_size - len(tubelet)), processor)
        num_steps += 1
    for _ in range(num_steps, least):
        yield last.seconds, _pixels([last] * tubelet_size, processor)


def _pixels(tubelet: list[TimedFrame], processor: VJEPAVideoProcessor) -> torch.Tensor:
    video = torch.stack([frame.frame for frame in tubelet])
    return processor(video, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"][0]


def _encoded(
    model: VJEPAModel, clips: list[tuple[Window, torch.Tensor]], grid: tuple[int, int, int], timestamps: list[float]
) -> FeaturePiece:
    """What is kept of some windows that follow one another."""
    pixels = torch.stack([clip for _, clip in clips]).to(model.device, model.dtype)
    tokens = model(pixels).last_hidden_state.unflatten(1, grid).float().cpu()
    kept = [
        part[window.first - window.start : window.last - window.start]
        for part, (window, _) in zip(tokens, clips, strict=True)
    ]
    steps = slice(clips[0][0].first, clips[-1][0].last)
    return FeaturePiece(np.array(timestamps[steps]), torch.cat(kept))


def write_features(
    pieces: Iterable[FeaturePiece], path: str | Path, metadata: dict[str, str], keep_grid: bool = False
) -> tuple[int, ...]:
    """Write features while they come: `features` and `timestamps` `(n,)` in one safetensors file; returns their shape.

    The file has its name only once it is whole.

    Args:
        pieces: of `stream_features`.
        path: of the file.
        metadata: goes into the file.
        keep_grid: write `(n, h, w, D)`; else the mean over the h x w tokens of a time step, `(n, D)`.

    Raises:
        ValueError: there is no piece.
    """
    timestamps: list[np.ndarray] = []
    shape: tuple[int, ...] = ()
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        for piece in pieces:
            features = piece.features if keep_grid else piece.features.mean(dim=(1, 2))
            if not timestamps:
                # What stands in front of the numbers tells how many there are: room for the longest answer.
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
    """The beginning of a safetensors file: the length of what follows in 8 bytes, and JSON filled up with spaces."""
    border = 4 * math.prod(shape)
    tensors = {
        "__metadata__": metadata,
        "features": {"dtype": "F32", "shape": shape, "data_offsets": (0, border)},
        "timestamps": {"dtype": "F64", "shape": shape[:1], "data_offsets": (border, border + 8 * shape[0])},
    }
    text = json.dumps(tensors).encode()
    length = max(room - 8, -(-len(text) // 8) * 8)
    return length.to_bytes(8, "little") + text.ljust(length)
