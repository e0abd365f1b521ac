"""VJEPAVideoProcessor: from a path, URL, bytes, array or images to the tensors the models read.

Shapes: B videos, V clips per video, T frames, C channels, H x W pixels.
"""

import os
from collections.abc import Callable, Iterable, Sequence
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

from .frame_sampling import regular_clips, resolve_frame_step
from .tubelets import to_tubelets
from .video_io import VideoFile

OPENCV = "opencv"  # of `resample`


class VJEPAVideoProcessorKwargs(VideosKwargs, total=False):
    """What `VJEPAVideoProcessor` takes beyond the arguments of every video processor.

    Attributes:
        frame_step: Distance between two frames of a clip, in frames of the video. `fps` takes its place when given.
        num_clips: Clips per video, evenly spaced from its beginning to its end; a single clip is the middle of it.
        num_crops: Crops per clip, evenly spaced along its longer side; a single crop is the middle of it.
        short_video: What a video shorter than a clip gives: "repeat_last", "wrap" or "error".
        resample: As in transformers, or "opencv": bilinear in the integer arithmetic of OpenCV, which Meta's transform
            uses. It is slower than bilinear and differs from it by one gray level at most.
        antialias: Smooth before shrinking. Meta's transform does not.
        return_tubelets: Also return the tubelet tokens as `tubelets`.
        tubelet_size: Frames per tubelet.
        patch_size: Rows and columns of a tubelet.
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


class VJEPAVideoProcessor(BaseVideoProcessor):
    """Chooses frames, resizes, crops and normalizes; by default as Meta evaluates V-JEPA (paper, appendix D).

    Resized pixels differ from Meta's by one gray level at most, and not at all with `resample="opencv"`.

    A video is a path, a URL, bytes, a binary file, an array or tensor (T, H, W, C) or (T, C, H, W), a list of frames
    (PIL images or arrays), or one image; several videos are a list of these or an array with one more dimension. One
    frame becomes a still clip. Array videos of exactly `num_frames` frames are clips already and keep all of them.

    `crop_size` (an int or (height, width)) is the size of the output. `size` is what the frames are resized to before
    the crop: the short side (int) or both sides; without it 256/224 times the crop, or with several crops just the
    crop, so that they show all of the frame (Meta's three views). With `size` alone nothing is
    cropped away from a (height, width), and the square in the middle is cut out of a short side.

    Returns:
        `pixel_values_videos` (B, T, C, H, W), with several clips or crops (B, V, T, C, H, W): all clips of the first
        crop, then of the next. With `return_tubelets` also `tubelets` (B, N, C * tubelet_size * patch_size**2), with
        several clips or crops (B, V, N, ...).

    Raises:
        ValueError: An argument does not fit the video or another argument.
        VideoDecodeError: A file cannot be read.
    """

    # transformers calls the methods it declares by keyword, with the arguments in `valid_kwargs`.
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
    crop_size: Any = 224  # a dict with height and width once it is set
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    return_tubelets = False
    tubelet_size = 2
    patch_size = 16
    return_tensors = "pt"

    def __init__(self, **kwargs: Unpack[VJEPAVideoProcessorKwargs]) -> None:
        size = kwargs.get("size")
        if size is not None and kwargs.get("crop_size") is None:
            sides = size if isinstance(size, dict) else {}
            kwargs["crop_size"] = sides.get("shortest_edge", size)
        super().__init__(**kwargs)  # type: ignore[misc, arg-type]

    def sample_frames(  # type: ignore[override]
        self,
        metadata: VideoMetadata,
        num_frames: int,
        frame_step: float,
        num_clips: int,
        short_video: str,
        fps: float | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """The numbers of the frames that make a clip (T,), of several clips (V, T).

        With `fps` the frames lie `1 / fps` seconds apart whatever the frame rate of the video.
        """
        total_frames = metadata.total_num_frames
        if metadata.video_backend is None and total_frames in (1, num_frames):
            # Not from a file: an image, shown all the time, or frames somebody has chosen already.
            clips = np.tile(np.arange(num_frames) % total_frames, (num_clips, 1))
        else:
            step = resolve_frame_step(frame_step, fps, metadata.fps)
            clips = regular_clips(total_frames, num_frames, step, num_clips, short_video)
        return clips[0] if num_clips == 1 else clips

    def _decode_and_sample_videos(  # type: ignore[override]
        self,
        videos: Any,
        video_metadata: Any = None,
        do_sample_frames: bool | None = None,
        sample_indices_fn: Callable[..., np.ndarray] | None = None,
    ) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
        """The chosen frames of every video, (T, ...) or (V, T, ...), and where they come from."""
        videos = _list_videos(videos)
        given = video_metadata if isinstance(video_metadata, list) else [video_metadata] * len(videos)
        if len(given) != len(videos):
            raise ValueError(f"video_metadata has {len(given)} entries for {len(videos)} videos; pass one for each.")
        choose = sample_indices_fn or (lambda metadata: np.arange(metadata.total_num_frames))
        loaded = [
            _decoded(video, choose) if _is_source(video) else self._selected(video, metadata, choose)
            for video, metadata in zip(videos, given, strict=True)
        ]
        return [frames for frames, _ in loaded], [metadata for _, metadata in loaded]

    def _selected(
        self, video: Any, metadata: Any, choose: Callable[..., np.ndarray]
    ) -> tuple[torch.Tensor, VideoMetadata]:
        """The chosen frames of an array or of a list of images or arrays."""
        if not hasattr(video, "ndim"):
            mode = {1: "L", 3: "RGB"}.get(self._num_channels())
            video = [np.asarray(frame.convert(mode)) if hasattr(frame, "convert") else frame for frame in video]
            video = [frame[..., None] if frame.ndim == 2 else frame for frame in video]
            if len({tuple(frame.shape) for frame in video}) > 1:
                sizes = sorted({tuple(frame.shape) for frame in video})
                raise ValueError(f"the frames of a video differ in size: {sizes}; resize them to one, or pass paths.")
            video = np.stack(video)
        metadata = VideoMetadata(**{**(metadata or {}), "total_num_frames": len(video), "video_backend": None})
        metadata.frames_indices = choose(metadata=metadata)
        return _checked_pixels(video[metadata.frames_indices]), metadata

    def _num_channels(self) -> int:
        """Channels the videos have, which is how many means there are; one mean for all says nothing, so three."""
        return len(self.image_mean) if isinstance(self.image_mean, Iterable) else 3

    def _prepare_input_videos(  # type: ignore[override]
        self,
        videos: list[torch.Tensor],
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: str | torch.device | None = None,
    ) -> list[torch.Tensor]:
        """All videos with the channels before the rows, (..., C, H, W), on the device asked for."""
        num_channels, prepared = self._num_channels(), []
        for video in videos:
            first = video.shape[-3] == num_channels and input_data_format != ChannelDimension.LAST
            last = video.shape[-1] == num_channels and input_data_format != ChannelDimension.FIRST
            if not (first or last):
                raise ValueError(
                    f"A video of shape {tuple(video.shape)} has no axis of {num_channels} channels, the number of "
                    f"entries in image_mean; give image_mean and image_std one entry per channel."
                )
            prepared.append((video if first else video.movedim(-1, -3)).to(device))
        return prepared

    def _validate_preprocess_kwargs(self, size: SizeDict | None = None, **kwargs: Any) -> None:  # type: ignore[override]
        """Without `size` the crop decides what the frames are resized to."""
        if kwargs["num_crops"] < 1 or (kwargs["num_crops"] > 1 and not kwargs["do_center_crop"]):
            raise ValueError(f"num_crops={kwargs['num_crops']} must be at least 1, and 1 without do_center_crop.")
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
                video = _resize(
                    video, _resized_size(video.shape[-2:], size, crop_size, num_crops), resample, antialias
                )
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
            data["tubelets"] = [_tubelets(video, tubelet_size, patch_size) for video in pixel_values]
        return BatchFeature(data=data, tensor_type=return_tensors)


def _is_source(video: Any) -> bool:
    return isinstance(video, str | bytes | os.PathLike) or hasattr(video, "read")


def _is_frame(video: Any) -> bool:
    """A PIL image or an array with rows, columns and perhaps channels."""
    return hasattr(video, "convert") or getattr(video, "ndim", None) in (2, 3)


def _list_videos(videos: Any) -> list[Any]:
    """One entry per video: a source, an array (T, ...) or a list of frames."""
    if _is_source(videos):
        return [videos]
    if _is_frame(videos):
        return [[videos]]
    if hasattr(videos, "ndim") and videos.ndim in (4, 5):
        return [videos] if videos.ndim == 4 else list(videos)
    if not isinstance(videos, list | tuple) or not videos:
        raise ValueError(
            f"videos={type(videos).__name__} is not a path, URL, bytes, file, array (T, H, W, C), image or list "
            "of frames, nor a list of these that is not empty."
        )
    if all(_is_frame(frame) for frame in videos):
        return [videos]
    return [entry for video in videos for entry in _list_videos(video)]


def _checked_pixels(video: Any) -> torch.Tensor:
    """Frames of an array or tensor, which hold pixels and nothing else."""
    if isinstance(video, np.ndarray) and video.dtype.kind not in "uif":
        raise ValueError(f"a video of {video.dtype} holds no pixels; give uint8, or floating point numbers.")
    frames = torch.as_tensor(video)
    if frames.dtype == torch.bool or frames.is_complex():
        raise ValueError(f"a video of {frames.dtype} holds no pixels; give uint8, or floating point numbers.")
    if not frames.isfinite().all():
        raise ValueError("a video holds nan or inf; mend the array it comes from.")
    if not frames.is_floating_point() and (frames.min() < 0 or frames.max() > 255):
        raise ValueError(
            f"a video of {frames.dtype} holds numbers from {frames.min()} to {frames.max()}; pixels lie in [0, 255]."
        )
    return frames


def _decoded(source: Any, choose: Callable[..., np.ndarray]) -> tuple[torch.Tensor, VideoMetadata]:
    """The chosen frames of a file, opened once for choosing and reading."""
    with VideoFile(source) as video:
        info = video.info
        metadata = VideoMetadata(info.num_frames, info.fps, info.width, info.height, info.duration, "vjepa_hf")
        indices = choose(metadata=metadata)
        metadata.frames_indices = indices  # type: ignore[assignment]  # an array, of several clips (V, T)
        return video.frames(indices), metadata


def _resized_size(from_size: Sequence[int], size: SizeDict | None, crop_size: Any, num_crops: int) -> tuple[int, int]:
    """(height, width) to resize to: both sides of `size`, its short side, or what leaves the crop its margin."""
    height, width = from_size
    if size is not None and size.height and size.width:
        return size.height, size.width
    if size is not None and size.shortest_edge:
        box_height = box_width = size.shortest_edge
    elif size is None and num_crops > 1:
        box_height, box_width = crop_size.height, crop_size.width
    elif size is None:
        # Meta's evaluation shows a crop of 224 of a short side of 256, and keeps that ratio at other crops.
        box_height, box_width = crop_size.height * 256 // 224, crop_size.width * 256 // 224
    else:
        raise ValueError(f"size={dict(size)} must have the key shortest_edge, or height and width.")
    # The smallest size that covers the box without distortion; the longer side is cut to an integer, not rounded.
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
            raise ValueError(
                f"resample={OPENCV!r} does not smooth; leave antialias=False, or use resample=2 (bilinear)."
            )
        return _resize_as_opencv(video, size)
    mode = pil_torch_interpolation_mapping.get(resample, resample)  # type: ignore[arg-type]
    return tvF.resize(video, list(size), interpolation=mode, antialias=antialias)


def _resize_as_opencv(video: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear interpolation of uint8 (..., H, W) in OpenCV's fixed-point arithmetic, which the reference uses.

    Weights have 11 bits; a row keeps 7 of them, and the sum of two weighted rows is rounded from 2 bits to integers.
    Every result equals OpenCV's; in floating point about one pixel in eight is one gray level off.

    Raises:
        ValueError: The pixels are not uint8.
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

    # Frame by frame, because the integers of one frame fit into the cache and those of a clip do not.
    frames = [resize(frame) for frame in video.flatten(0, -4)]
    return torch.stack(frames).unflatten(0, video.shape[:-3])


def _two_taps(length: int, new_length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For each new position the two old ones it lies between, and their weights in 2048ths: two tensors (2, new)."""
    # In float64 on the CPU, because not every device has it.
    positions = ((torch.arange(new_length, dtype=torch.float64) + 0.5) * (length / new_length) - 0.5).float()
    before = positions.floor()
    share = positions - before
    neighbors = torch.stack([before, before + 1]).long().clamp(0, length - 1)
    return neighbors.to(device), torch.stack([1 - share, share]).mul(2048).round().int().to(device)


def _crop(video: torch.Tensor, crop_size: Any, num_crops: int) -> torch.Tensor:
    """Cut (..., T, C, H, W) to the crop in its middle; several crops become views (V, T, C, H, W)."""
    height, width = video.shape[-2:]
    if crop_size.height > height or crop_size.width > width:
        raise ValueError(
            f"crop_size={dict(crop_size)} is larger than the frames, which are {height} x {width} after resizing; use "
            "a smaller crop_size or a larger size."
        )
    spare_height, spare_width = height - crop_size.height, width - crop_size.width
    if num_crops == 1:
        # A middle between two pixels is rounded to the even one.
        return _cut(video, round(spare_height / 2), round(spare_width / 2), crop_size)
    crops = []
    for number in range(num_crops):
        # A whole number of pixels from one crop to the next, as Meta's three views.
        start = number * (max(spare_height, spare_width) // (num_crops - 1))
        top, left = (start, spare_width // 2) if spare_height > spare_width else (spare_height // 2, start)
        crops.append(_cut(video, top, left, crop_size))
    return torch.stack(crops).flatten(0, -5)


def _cut(video: torch.Tensor, top: int, left: int, size: Any) -> torch.Tensor:
    return video[..., top : top + size.height, left : left + size.width]


def _rescale(video: torch.Tensor, factor: float) -> torch.Tensor:
    if video.is_floating_point() and 0 < video.max() <= 1:
        raise ValueError("The pixel values lie in [0, 1] already; pass do_rescale=False, or values in [0, 255].")
    # Dividing by 255 is more exact than multiplying by 1 / 255, and what the reference does.
    return video.float() / (1 / factor)


def _tubelets(video: torch.Tensor, tubelet_size: int, patch_size: int) -> torch.Tensor:
    """Tubelets (N, ...) of one clip (T, C, H, W), (V, N, ...) of several."""
    tubelets = to_tubelets(video.reshape(-1, *video.shape[-4:]), tubelet_size, patch_size)
    return tubelets.reshape(*video.shape[:-4], *tubelets.shape[1:])


__all__ = ["VJEPAVideoProcessor"]
