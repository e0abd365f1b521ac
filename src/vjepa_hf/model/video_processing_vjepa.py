"""Processor from a path, URL, bytes, array or images to the inputs of the models.

Shapes: B videos, V clips per video, T frames, C channels, H x W pixels.
"""

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    pil_torch_interpolation_mapping,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .configuration_vjepa import LARGEST, check_spelling, drop_references_to_code
from .frame_sampling import regular_clips, resolve_frame_step
from .tubelets import to_tubelets
from .video_inputs import ArrayFormat, FrameArray, is_in_memory, list_videos, open_video

OPENCV = "opencv"  # value of `resample`
MAX_PIXELS = 2**32  # of all views of a video, which are in memory together


class VJEPAVideoProcessorKwargs(VideosKwargs, total=False):
    """Arguments of `VJEPAVideoProcessor` that other video processors do not have.

    Attributes:
        frame_step: distance between two frames of a clip, in frames of the video; `fps` replaces it.
        num_clips: clips per video, evenly spaced from its beginning to its end; a single clip is in the middle.
        num_crops: crops per clip, evenly spaced along its longer side; a single crop is in the middle.
        short_video: policy for videos shorter than a clip: "repeat_last", "wrap" or "error".
        resample: as in transformers, or "opencv": bilinear in the integer arithmetic of OpenCV, as in Meta's
            transform. It is slower than bilinear and differs from it by at most one gray level.
        antialias: low-pass filter before shrinking; Meta's transform has none.
        return_tubelets: also return the tubelet tokens as `tubelets`.
        tubelet_size: frames per tubelet.
        patch_size: height and width of a tubelet in pixels.
        value_range: values of black and white in arrays and tensors, such as (-1, 1) for a generated video; None:
            (0, 255), or with do_rescale=False (0, 1).
    """

    frame_step: int | float | None
    num_clips: int | None
    num_crops: int | None
    short_video: str | None
    resample: PILImageResampling | int | Literal["opencv"] | None  # type: ignore[misc]
    antialias: bool | None
    return_tubelets: bool | None
    tubelet_size: int | None
    patch_size: int | None
    value_range: tuple[int | float, int | float] | list[int | float] | None


class VJEPAVideoProcessor(BaseVideoProcessor):
    """Video processor that samples frames, resizes, crops and normalizes, by default as Meta's evaluation of V-JEPA.

    Resized pixels differ from Meta's (paper, appendix D) by at most one gray level; with `resample="opencv"` they are
    equal.

    A video is a path, a URL, bytes, a binary file, a row of `datasets` with `bytes` and `path`, a folder of numbered
    images, an open `VideoFile`, an array or tensor `(T, H, W, C)`, `(T, C, H, W)` or gray `(T, H, W)`, a list of
    frames (PIL images or arrays), or one image; several videos are a list or column of these, or an array with one
    more dimension (see `video_inputs.py`). RGBA frames lose their alpha. A single frame becomes a still clip. An array
    or list of exactly `num_frames` frames is a clip already, so all of its frames are used.

    `crop_size` (an int or (height, width)) is the size of the output. `size` is the size before the crop: the short
    side (int) or both sides. Without `size`, it is 256/224 times the crop; with several crops it is the crop itself,
    so that they cover the whole frame (Meta's three views). With only `size`, the crop is
    `size`, or a square of the short side.

    Returns:
        `pixel_values_videos` `(B, T, C, H, W)`, with several clips or crops `(B, V, T, C, H, W)`: all clips of the
        first crop, then of the next. With `return_tubelets` also `tubelets` `(B, N, C * tubelet_size *
        patch_size**2)`, with several clips or crops `(B, V, N, ...)`.

    Raises:
        ValueError: an argument does not fit the video or another argument.
        VideoDecodeError: a file cannot be read.
    """

    # transformers calls the declared methods by keyword, with the arguments in `valid_kwargs`.
    valid_kwargs = VJEPAVideoProcessorKwargs  # type: ignore[assignment]

    do_sample_frames = True
    num_frames = 16
    frame_step: float = 4
    fps: float | None = None
    num_clips = 1
    num_crops = 1
    short_video = "repeat_last"
    do_resize = True
    size = None
    default_to_square = False
    resample: PILImageResampling | int | str = PILImageResampling.BILINEAR
    antialias = False
    do_center_crop = True
    crop_size: Any = 224  # becomes a dict with height and width
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    return_tubelets = False
    tubelet_size = 2
    patch_size = 16
    value_range = None
    return_tensors = "pt"

    def __init__(self, **kwargs: Unpack[VJEPAVideoProcessorKwargs]) -> None:
        check_spelling(kwargs, self.valid_kwargs.__annotations__, "setting", type(self).__name__)
        size = kwargs.get("size")
        if size is not None and kwargs.get("crop_size") is None:
            sides = size if isinstance(size, dict) else {}
            kwargs["crop_size"] = sides.get("shortest_edge", size)
        super().__init__(**kwargs)  # type: ignore[misc, arg-type]
        self._check_lengths()

    @classmethod
    def from_dict(  # type: ignore[override]  # the base classes do not agree on the name
        cls, video_processor_dict: dict[str, Any], **kwargs: Any
    ) -> Any:
        """Make a processor of saved settings; `kwargs` replace some of them. A misspelt one is a `ValueError`."""
        check_spelling(kwargs, cls.valid_kwargs.__annotations__, "setting", cls.__name__)
        return super().from_dict(video_processor_dict, **kwargs)

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Write the settings to a file, without references to code that is not in the folder of the file."""
        processor = copy.copy(self)
        drop_references_to_code(processor, os.path.dirname(json_file_path))
        super(VJEPAVideoProcessor, processor).to_json_file(json_file_path)

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: int | float | None = None,
        frame_step: float | None = None,
        num_clips: int | None = None,
        short_video: str | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return the frame numbers of a clip `(T,)`, or of several clips `(V, T)`; None: the setting of the processor.

        With a `frame_step`, `fps=None` means no fps.
        """
        if frame_step is None:
            frame_step, fps = self.frame_step, self.fps if fps is None else fps
        num_frames, num_clips = num_frames or self.num_frames, num_clips or self.num_clips
        short_video = short_video or self.short_video
        total_frames = metadata.total_num_frames
        if metadata.video_backend is None and total_frames in (1, num_frames):
            # An image, which is repeated, or an array of frames that were sampled before.
            clips = np.tile(np.arange(num_frames) % total_frames, (num_clips, 1))
        else:
            step = resolve_frame_step(frame_step, fps, metadata.fps)
            clips = regular_clips(total_frames, num_frames, step, num_clips, short_video)
        return clips[0] if num_clips == 1 else clips

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Open the frames in memory, whose channels and values depend on the arguments; then as in transformers."""
        self._check_lengths(**kwargs)
        array_format = self._array_format(**kwargs)
        listed = list_videos(videos, array_format.num_channels)
        opened = [
            FrameArray(video, array_format) if is_in_memory(video, array_format.num_channels) else video
            for video in listed
        ]
        return super().preprocess(opened, **kwargs)

    def open_video(self, video: Any) -> AbstractContextManager[Any]:
        """Open a video of any kind as `video_inputs.open_video` does, with the channels and values of the settings."""
        return open_video(video, self._array_format())

    def _check_lengths(self, **kwargs: Any) -> None:
        """Check that the views of a video have possible sizes, before any frame is read.

        Raises:
            ValueError: a length is not positive, or too large.
        """
        num_pixels: float = 1
        for name in ("num_frames", "num_clips", "num_crops", "size", "crop_size"):
            value = getattr(self, name) if kwargs.get(name) is None else kwargs[name]
            largest = LARGEST["num_frames" if name.startswith("num") else "image_size"]
            for length in _lengths(value):
                if not 0 < length <= largest:
                    raise ValueError(f"{name}={length} must be from 1 to {largest}.")
                num_pixels *= length if name != "size" else 1
        if num_pixels > MAX_PIXELS:
            raise ValueError(
                f"num_frames, num_clips, num_crops and crop_size give {num_pixels} pixels per video; at most "
                f"{MAX_PIXELS} are allowed. Read fewer clips at a time."
            )

    def _array_format(self, **kwargs: Any) -> ArrayFormat:
        """Return how to read frames in memory with these arguments of a call."""
        settings = {name: kwargs.get(name, getattr(self, name)) for name in ("do_rescale", "do_normalize")}
        # The means of pixels in [0, 1] are in [0, 1]; others, of other sensors, allow any values.
        are_unit_means = 0 <= np.min(self.image_mean) <= np.max(self.image_mean) <= 1
        highest = 1.0 if settings["do_normalize"] and are_unit_means else None
        highest = 255.0 if settings["do_rescale"] else highest
        data_format, value_range = kwargs.get("input_data_format"), kwargs.get("value_range", self.value_range)
        return ArrayFormat(self._num_channels(), data_format, value_range, highest)

    def _decode_and_sample_videos(  # type: ignore[override]
        self,
        videos: list[Any],
        video_metadata: Any = None,
        do_sample_frames: bool | None = None,
        sample_indices_fn: Callable[..., np.ndarray] | None = None,
    ) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
        """Return the sampled frames `(T, C, H, W)` or `(V, T, C, H, W)` of every video, and their metadata."""
        entries = video_metadata if isinstance(video_metadata, list) else [video_metadata] * len(videos)
        if len(entries) != len(videos):
            raise ValueError(f"video_metadata has {len(entries)} entries for {len(videos)} videos; pass one for each.")
        sample = sample_indices_fn or (lambda metadata: np.arange(metadata.total_num_frames))
        by_time = getattr(sample, "keywords", {}).get("fps") is not None  # transformers binds the settings of the call
        samples = [_sample(video, entry, sample, by_time) for video, entry in zip(videos, entries, strict=True)]
        return [frames for frames, _ in samples], [metadata for _, metadata in samples]

    def _num_channels(self) -> int:
        """Return the number of channels: the number of means, or three if one mean applies to all."""
        return len(self.image_mean) if isinstance(self.image_mean, Iterable) else 3

    def _prepare_input_videos(  # type: ignore[override]
        self,
        videos: list[torch.Tensor],
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: str | torch.device | None = None,
    ) -> list[torch.Tensor]:
        """Return the videos `(..., C, H, W)` on the device."""
        num_channels = self._num_channels()
        for video in videos:
            if video.shape[-3] != num_channels:
                raise ValueError(
                    f"a video of shape {tuple(video.shape)} has no axis of {num_channels} channels, the number of "
                    "entries in image_mean; give image_mean and image_std one entry per channel."
                )
        return [video.to(device) for video in videos]

    def _validate_preprocess_kwargs(self, size: SizeDict | None = None, **kwargs: Any) -> None:  # type: ignore[override]
        """Check the arguments; without `size`, the base class checks `crop_size` in its place."""
        if kwargs["num_crops"] > 1 and not kwargs["do_center_crop"]:
            raise ValueError(f"num_crops={kwargs['num_crops']} must be 1 without do_center_crop.")
        super()._validate_preprocess_kwargs(size=size or kwargs["crop_size"], **kwargs)

    def _preprocess(  # type: ignore[override]
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict | None,
        resample: "PILImageResampling | tvF.InterpolationMode | int | str",
        antialias: bool,
        do_center_crop: bool,
        crop_size: SizeDict,
        num_crops: int,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        return_tubelets: bool,
        tubelet_size: int,
        patch_size: int,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        pixel_values = []
        for video in videos:
            if do_resize:
                new_size = _resized_size(video.shape[-2:], size, crop_size, num_crops)
                video = _resize(video, new_size, resample, antialias)
            if do_center_crop:
                video = _crop(video, crop_size, num_crops)
            if do_rescale:
                video = _rescale(video, rescale_factor)
            if do_normalize:
                mean = torch.tensor(image_mean, device=video.device).reshape(-1, 1, 1)
                std = torch.tensor(image_std, device=video.device).reshape(-1, 1, 1)
                video = (video - mean) / std
            pixel_values.append(video)
        data = {"pixel_values_videos": pixel_values}
        if return_tubelets:
            data["tubelets"] = []
            for video in pixel_values:  # (T, C, H, W), or of several clips (V, T, C, H, W)
                tubelets = to_tubelets(video.reshape(-1, *video.shape[-4:]), tubelet_size, patch_size)
                data["tubelets"].append(tubelets.reshape(*video.shape[:-4], *tubelets.shape[1:]))
        return BatchFeature(data=data, tensor_type=return_tensors)


def _lengths(value: Any) -> list[float]:
    """List the lengths in a number, a sequence, a dict or a SizeDict."""
    if value is None or isinstance(value, int | float):
        value = [value]
    lengths = value if isinstance(value, list | tuple) else dict(value).values()
    return [length for length in lengths if length is not None]


def _sample(
    video: Any, entry: Any, sample: Callable[..., np.ndarray], by_time: bool
) -> tuple[torch.Tensor, VideoMetadata]:
    """Sample the frames of a video; `entry` is the metadata that the caller gave for frames in memory."""
    with open_video(video) as opened:
        info = opened.info
        if isinstance(opened, FrameArray):
            metadata = VideoMetadata(**{**(entry or {}), "total_num_frames": info.num_frames, "video_backend": None})
        else:
            metadata = VideoMetadata(info.num_frames, info.fps, info.width, info.height, info.duration, "vjepa_hf")
        indices = sample(metadata=metadata)  # (T,) or (V, T)
        if by_time:
            indices = opened.at_constant_rate(indices)
        metadata.frames_indices = indices  # type: ignore[assignment]
        return opened.frames(indices), metadata


def _resized_size(from_size: Sequence[int], size: SizeDict | None, crop_size: Any, num_crops: int) -> tuple[int, int]:
    """Return (height, width) to resize to: `size`, or the size that leaves a margin around the crop."""
    height, width = from_size
    if size is not None and size.height and size.width:
        return size.height, size.width
    if size is not None and size.shortest_edge:
        box_height = box_width = size.shortest_edge
    elif size is None and num_crops > 1:
        box_height, box_width = crop_size.height, crop_size.width
    elif size is None:
        # Meta's evaluation crops 224 from a short side of 256, and keeps that ratio at other crops.
        box_height, box_width = crop_size.height * 256 // 224, crop_size.width * 256 // 224
    else:
        raise ValueError(f"size={dict(size)} must have the key shortest_edge, or height and width.")
    # The smallest size that covers the box without distortion; the longer side is rounded down.
    if box_height * width >= box_width * height:
        return box_height, width * box_height // height
    return height * box_width // width, box_width


def _resize(
    video: torch.Tensor,
    size: tuple[int, int],
    resample: "PILImageResampling | tvF.InterpolationMode | int | str",
    antialias: bool,
) -> torch.Tensor:
    if resample == OPENCV:
        if antialias:
            raise ValueError(f"resample={OPENCV!r} does not smooth; use antialias=False, or resample=2 (bilinear).")
        return _resize_as_opencv(video, size)
    mode = pil_torch_interpolation_mapping.get(resample, resample)  # type: ignore[arg-type]
    return tvF.resize(video, list(size), interpolation=mode, antialias=antialias)


def _resize_as_opencv(video: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize uint8 `(..., H, W)` with bilinear interpolation in OpenCV's fixed-point arithmetic, bit for bit.

    Weights have 11 bits; a row keeps 7 of them, and the sum of two weighted rows is rounded from 2 bits to integers.
    In floating point, about one pixel in eight differs by one gray level.

    Raises:
        ValueError: the pixels are not uint8.
    """
    if video.dtype != torch.uint8:
        raise ValueError(f"resample={OPENCV!r} takes uint8 pixels, not {video.dtype}; use resample=2 (bilinear).")
    rows, row_weights = _two_taps(video.shape[-2], size[0], video.device)
    columns, column_weights = _two_taps(video.shape[-1], size[1], video.device)
    needed, rows = rows.unique(return_inverse=True)

    def between(lines: torch.Tensor, dim: int, pairs: torch.Tensor, weights: torch.Tensor, shift: int) -> torch.Tensor:
        first, second = (lines.index_select(dim, pair).int() for pair in pairs)
        return (first.mul_(weights[0]) >> shift).add_(second.mul_(weights[1]) >> shift)

    def resize(frame: torch.Tensor) -> torch.Tensor:
        # (C, H, W) -> (C, rows needed, w) -> (C, h, w)
        lines = frame.index_select(-2, needed).contiguous()
        lines = between(lines, -1, columns, column_weights, 0) >> 4
        return ((between(lines, -2, rows, row_weights[..., None], 16) + 2) >> 2).to(torch.uint8)

    # Frame by frame, because one frame of integers fits into the cache and a clip does not.
    frames = [resize(frame) for frame in video.flatten(0, -4)]
    return torch.stack(frames).unflatten(0, video.shape[:-3])


def _two_taps(length: int, new_length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two old positions around each new one `(2, new)`, and their weights in 2048ths `(2, new)`."""
    # On the CPU, because not every device has float64.
    positions = ((torch.arange(new_length, dtype=torch.float64) + 0.5) * (length / new_length) - 0.5).float()
    before = positions.floor()
    weight = positions - before
    neighbors = torch.stack([before, before + 1]).long().clamp(0, length - 1)
    return neighbors.to(device), torch.stack([1 - weight, weight]).mul(2048).round().int().to(device)


def _crop(video: torch.Tensor, crop_size: Any, num_crops: int) -> torch.Tensor:
    """Crop the middle of `(..., T, C, H, W)`; several crops become views `(V, T, C, H, W)`."""
    height, width = video.shape[-2:]
    if crop_size.height > height or crop_size.width > width:
        raise ValueError(
            f"crop_size={dict(crop_size)} is larger than the frames, which are {height} x {width} after resizing; use "
            "a smaller crop_size or a larger size."
        )
    spare_height, spare_width = height - crop_size.height, width - crop_size.width
    if num_crops == 1:
        # `round` rounds half to even.
        return _cut(video, round(spare_height / 2), round(spare_width / 2), crop_size)
    crops = []
    for number in range(num_crops):
        # The distance between crops is an integer, as in Meta's three views.
        start = number * (max(spare_height, spare_width) // (num_crops - 1))
        top, left = (start, spare_width // 2) if spare_height > spare_width else (spare_height // 2, start)
        crops.append(_cut(video, top, left, crop_size))
    return torch.stack(crops).flatten(0, -5)


def _cut(video: torch.Tensor, top: int, left: int, size: Any) -> torch.Tensor:
    return video[..., top : top + size.height, left : left + size.width]


def _rescale(video: torch.Tensor, factor: float) -> torch.Tensor:
    # As in the reference; dividing by 255 is more exact than multiplying by 1 / 255.
    return video.float() / (1 / factor)


__all__ = ["VJEPAVideoProcessor"]
