"""Model, processor and batches of a pretraining run, made from its arguments."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from ..data.clips import ClipReader, PretrainingCollator, VideoClipDataset, augment_clips
from ..data.input_log import InputLog
from ..data.masking import MaskSampler, make_mask
from ..data.mixing import mix_videos
from ..data.order import ClipBatchSampler
from ..data.randomness import generator
from ..data.sources import Videos
from ..data.stream import ClipStream
from ..data.transforms import (
    Chain,
    ColorJitter,
    RandAugment,
    RandomErasing,
    RandomResizedCropFlip,
    Transform,
    normalize,
)
from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPALayer
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .arguments import DataArguments, MaskArguments, OptimizationArguments, PretrainingArguments
from .checkpoints import Progress
from .run_guard import ignore_stop_signals

# Number of unreadable videos in a row, each replaced by another, after which the run stops.
MAX_DECODE_ATTEMPTS = 10


# --- model -----------------------------------------------------------------------------------------------------------


def model_config(args: PretrainingArguments) -> VJEPAConfig:
    """Return the configuration of the model; unless `model` sets it, there is one mask token for each mask type."""
    return VJEPAConfig(**{"pred_num_mask_tokens": len(args.masking.masks)} | args.model)


def compile_layers(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile the transformer layers in place, for any number of tokens; the names of weights do not change.

    Layers of one shape share their compiled code, so compile time does not grow with depth.

    Raises:
        ValueError: the model has stochastic depth, with which every layer would compile separately.
    """
    if model.config.drop_path_rate:
        raise ValueError(f"drop_path_rate={model.config.drop_path_rate} does not work with compile; set it to 0")
    for module in model.modules():
        if isinstance(module, VJEPALayer):
            module.compile(dynamic=True, backend=backend)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute the activations of each layer in the backward pass: less memory, more time."""
    # transformers 5.23 renamed the method, and version 6 removes the old name.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable()


def make_processor(config: VJEPAConfig, data: DataArguments) -> VJEPAVideoProcessor:
    """Return the processor that makes clips of the same size, number of frames and frame step as in training."""
    height, width = config.frame_size
    return VJEPAVideoProcessor(
        crop_size={"height": height, "width": width},
        num_frames=config.num_frames,
        frame_step=data.frame_step,
        fps=data.fps,
        tubelet_size=config.tubelet_size,
        patch_size=config.patch_size,
    )


def mask_sampler(
    masking: MaskArguments, grid_size: tuple[int, int, int], seed: int, masks: Sequence[Mapping[str, Any]] = ()
) -> MaskSampler:
    """Return the mask sampler of a run, for clips with the token grid (t, h, w); `masks` replace those for clips."""
    mask_types = [make_mask(settings) for settings in masks or masking.masks]
    return MaskSampler(mask_types, grid_size, seed, masking.mask_mode)


# --- input -----------------------------------------------------------------------------------------------------------


def make_transform(size: tuple[int, int], data: DataArguments) -> Chain:
    """Return the augmentation of a run, which makes clips of (H, W) pixels."""
    (low, high), (narrow, wide) = data.crop_scale, data.crop_aspect_ratio
    transforms: list[Transform] = [RandomResizedCropFlip(size, (low, high), (narrow, wide), data.flip_probability)]
    if data.color_jitter:
        transforms.append(ColorJitter(*data.color_jitter))
    if data.rand_augment_magnitude is not None:
        transforms.append(RandAugment(data.rand_augment_magnitude))
    return Chain((*transforms, RandomErasing(data.erase_probability)))


def global_batch_size(accelerator: Accelerator, optimization: OptimizationArguments) -> int:
    """Return the number of clips per optimizer step, over all processes."""
    passes = optimization.gradient_accumulation_steps - optimization.image_passes
    return optimization.per_device_batch_size * passes * accelerator.num_processes


def global_image_batch_size(accelerator: Accelerator, optimization: OptimizationArguments) -> int:
    """Return the number of images per optimizer step, over all processes."""
    per_device = optimization.per_device_image_batch_size or optimization.per_device_batch_size
    return per_device * optimization.image_passes * accelerator.num_processes


def make_loader(
    accelerator: Accelerator,
    args: PretrainingArguments,
    config: VJEPAConfig,
    sources: Sequence[Videos],
    progress: Progress,
    inputs: InputLog,
) -> torch.utils.data.DataLoader:
    """Return the loader of the batches of this process for all remaining steps, see `data.PretrainingCollator`."""
    data, optimization, run = args.data, args.optimization, args.run
    weights = data.video_weights or None
    videos = None if data.streaming else mix_videos(sources, weights, run.seed)
    transform = None if data.augment_on_device else make_transform(config.frame_size, data)
    reader = ClipReader(config.num_frames, data.frame_step, run.seed, transform, data.short_video, data.fps)
    collate = PretrainingCollator(mask_sampler(args.masking, config.grid_size, run.seed))
    sampler = ClipBatchSampler(
        num_samples=None if videos is None else len(videos),
        per_device_batch_size=optimization.per_device_batch_size,
        num_steps=optimization.max_steps - progress.step,
        seed=run.seed,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps - optimization.image_passes,
        first_clip=progress.clips,
        mask_group_size=args.masking.mask_group_size,
        clips_per_video=data.clips_per_video,
    )
    options = _loader_options(accelerator, data)
    if videos is None:
        stream = ClipStream(
            sources, weights, reader, sampler, collate, data.shuffle_buffer, MAX_DECODE_ATTEMPTS, inputs.shard_states
        )
        return torch.utils.data.DataLoader(stream, batch_size=None, **options)
    clips = VideoClipDataset(videos, reader, MAX_DECODE_ATTEMPTS)
    return torch.utils.data.DataLoader(clips, batch_sampler=sampler, collate_fn=collate, **options)


def _loader_options(accelerator: Accelerator, data: DataArguments) -> dict[str, Any]:
    pin_memory = accelerator.device.type == "cuda"
    return {"num_workers": data.num_workers, "pin_memory": pin_memory, "worker_init_fn": ignore_stop_signals}


def make_image_loader(
    accelerator: Accelerator,
    args: PretrainingArguments,
    config: VJEPAConfig,
    sources: Sequence[Videos],
    progress: Progress,
) -> tuple[torch.utils.data.DataLoader, int]:
    """Return the loader of the image batches of this process for all remaining steps, and its seed.

    An image is a clip of one frame. Masks have one length per forward pass, as in Meta's code.
    """
    data, optimization = args.data, args.optimization
    seed = int(generator("images", args.run.seed).integers(2**32))  # else an image and a clip would share their draws
    images = mix_videos(sources)
    transform = None if data.augment_on_device else make_transform(config.frame_size, data)
    batch_size = optimization.per_device_image_batch_size or optimization.per_device_batch_size
    sampler = ClipBatchSampler(
        num_samples=len(images),
        per_device_batch_size=batch_size,
        num_steps=optimization.max_steps - progress.step,
        seed=seed,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        gradient_accumulation_steps=optimization.image_passes,
        first_clip=progress.images,
        mask_group_size=batch_size,
    )
    masks = mask_sampler(args.masking, (1, *config.grid_size[1:]), seed, args.masking.image_masks)
    dataset = VideoClipDataset(images, ClipReader(1, 1, seed, transform), MAX_DECODE_ATTEMPTS)
    options = _loader_options(accelerator, data)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=sampler, collate_fn=PretrainingCollator(masks), **options
    )
    return loader, seed


def mix_modalities(
    videos: Iterable[dict[str, Any]], images: Iterable[dict[str, Any]], optimization: OptimizationArguments
) -> Iterator[dict[str, Any]]:
    """Yield the batches of every optimizer step: first `image_passes` batches of images, then the videos."""
    image_batches, video_batches = iter(images), iter(videos)
    for batch in video_batches:
        yield from itertools.islice(image_batches, optimization.image_passes)
        yield batch
        yield from itertools.islice(
            video_batches, optimization.gradient_accumulation_steps - optimization.image_passes - 1
        )


def ready_batches(
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    processor: VJEPAVideoProcessor,
    seed: int,
    augment: Transform | None = None,
) -> Iterator[dict[str, Any]]:
    """Move batches to the device and normalize their clips.

    Args:
        batches: batches of `make_loader`.
        device: device of the model.
        processor: processor with the mean and standard deviation of pixels.
        seed: seed of the run, for the augmentation.
        augment: augmentation to apply on the device, if workers do not augment.
    """
    for batch in batches:
        batch = send_to_device(batch, device, non_blocking=True)
        clips = batch["pixel_values_videos"]
        if augment is not None:
            clips = augment_clips(clips, batch["clip_keys"], augment, seed)
        yield batch | {"pixel_values_videos": normalize(clips, processor.image_mean, processor.image_std)}


# --- processes -------------------------------------------------------------------------------------------------------


@contextmanager
def gradient_sync(accelerator: Accelerator, model: torch.nn.Module, last_mask_type: bool) -> Iterator[None]:
    """Average gradients over processes in the last backward pass of an optimizer step only."""
    if accelerator.sync_gradients and not last_mask_type:
        with accelerator.no_sync(model):
            yield
    else:
        yield


@contextmanager
def callable_in_parts(model: torch.nn.Module) -> Iterator[None]:
    """Allow calls of submodules of a model that FSDP may shard: FSDP gathers weights for the whole model only."""
    if isinstance(model, FSDPModule):
        model.unshard()
    yield
    if isinstance(model, FSDPModule):
        model.reshard()
