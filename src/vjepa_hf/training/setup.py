"""Model, processor and batches of a pretraining run, made from its arguments."""

from collections.abc import Iterable, Iterator, Sequence
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


def frame_size(config: VJEPAConfig) -> tuple[int, int]:
    """Return height and width of a frame in pixels."""
    sides = config.image_size
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


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
    height, width = frame_size(config)
    return VJEPAVideoProcessor(
        crop_size={"height": height, "width": width},
        num_frames=config.num_frames,
        frame_step=data.frame_step,
        fps=data.fps,
        tubelet_size=config.tubelet_size,
        patch_size=config.patch_size,
    )


def mask_sampler(masking: MaskArguments, grid_size: tuple[int, int, int], seed: int) -> MaskSampler:
    """Return the mask sampler of a run, for clips with the token grid (t, h, w)."""
    return MaskSampler([make_mask(settings) for settings in masking.masks], grid_size, seed, masking.mask_mode)


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
    passes = optimization.gradient_accumulation_steps * accelerator.num_processes
    return optimization.per_device_batch_size * passes


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
    transform = None if data.augment_on_device else make_transform(frame_size(config), data)
    reader = ClipReader(config.num_frames, data.frame_step, run.seed, transform, data.short_video, data.fps)
    collate = PretrainingCollator(mask_sampler(args.masking, config.grid_size, run.seed))
    sampler = ClipBatchSampler(
        num_samples=None if videos is None else len(videos),
        per_device_batch_size=optimization.per_device_batch_size,
        num_steps=optimization.max_steps - progress.step,
        seed=run.seed,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        first_clip=progress.clips,
        mask_group_size=args.masking.mask_group_size,
        clips_per_video=data.clips_per_video,
    )
    options = {"num_workers": data.num_workers, "pin_memory": accelerator.device.type == "cuda"}
    options |= {"worker_init_fn": ignore_stop_signals}
    if videos is None:
        stream = ClipStream(
            sources, weights, reader, sampler, collate, data.shuffle_buffer, MAX_DECODE_ATTEMPTS, inputs.shard_states
        )
        return torch.utils.data.DataLoader(stream, batch_size=None, **options)
    clips = VideoClipDataset(videos, reader, MAX_DECODE_ATTEMPTS)
    return torch.utils.data.DataLoader(clips, batch_sampler=sampler, collate_fn=collate, **options)


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
