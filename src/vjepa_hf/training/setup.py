"""The parts of a training run that a loop should not spell out: parameter groups, checkpoints, export, log, meters."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch._functorch import config as compiler_config
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from ..data.clips import ClipReader, PretrainingCollator, VideoClipDataset
from ..data.input_log import InputLog
from ..data.masking import MaskSampler, make_mask
from ..data.mixing import mix_videos
from ..data.order import ClipBatchSampler
from ..data.sources import Videos
from ..data.stream import ClipStream
from ..data.transforms import Chain, ColorJitter, RandAugment, RandomErasing, RandomResizedCropFlip
from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPALayer
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .arguments import DataArguments, MaskArguments, OptimizationArguments, PretrainingArguments
from .checkpoints import Progress
from .run_guard import leave_stop_signals_to_the_run

# --- model ---------------------------------------------------------------------------------------------------------

# What compiled layers keep for the backward pass, as a share of what the compiler would by default: norms and
# activations are computed again, which takes a fifth off; with less than 0.9 in bfloat16 matrix products are too.
KEPT_ACTIVATIONS = 0.95
# Videos tried in place of an unreadable one before the run stops.
MAX_DECODE_ATTEMPTS = 10


def model_config(args: PretrainingArguments) -> VJEPAConfig:
    """Return the configuration that a run asks for, with one mask token for each mask type unless `model` says so."""
    return VJEPAConfig(**{"pred_num_mask_tokens": len(args.masking.masks)} | args.model)


def compile_layers(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile the transformer layers in place, for any number of tokens; they compile when they are first used.

    All layers of a kind share their compiled code, so what is compiled does not grow with depth. Weights keep their
    names, and everything around the layers stays as it is.

    Raises:
        ValueError: with stochastic depth, whose probability would make every layer a kind of its own.
    """
    if model.config.drop_path_rate:
        raise ValueError(
            f"drop_path_rate={model.config.drop_path_rate} does not go with compile; set one of them to 0"
        )
    compiler_config.activation_memory_budget = KEPT_ACTIVATIONS
    for module in model.modules():
        if isinstance(module, VJEPALayer):
            module.compile(dynamic=True, backend=backend)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute the activations of each layer in the backward pass: less memory, more time.

    transformers 5.23 renamed the method of the model; version 6 removes the old name.
    """
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable()


def make_processor(config: VJEPAConfig, data: DataArguments) -> VJEPAVideoProcessor:
    """The processor that gives a model the clips it was trained on: same size, same number of frames, same step."""
    height, width = config.image_size
    return VJEPAVideoProcessor(
        crop_size={"height": height, "width": width},
        num_frames=config.num_frames,
        frame_step=data.frame_step,
        fps=data.fps,
        tubelet_size=config.tubelet_size,
        patch_size=config.patch_size,
    )


def mask_sampler(masking: MaskArguments, grid_size: tuple[int, int, int], seed: int) -> MaskSampler:
    """Return the sampler of the masks that a run asks for, on the token grid (t, h, w) of its clips."""
    return MaskSampler([make_mask(settings) for settings in masking.masks], grid_size, seed, masking.mask_mode)


# --- input ---------------------------------------------------------------------------------------------------------


def make_transform(size: tuple[int, int], data: DataArguments) -> Chain:
    """The augmentation that a run asks for, to clips of (H, W) pixels."""
    transforms = [RandomResizedCropFlip(size, data.crop_scale, data.crop_aspect_ratio, data.flip_probability)]
    if data.color_jitter:
        transforms.append(ColorJitter(*data.color_jitter))
    if data.rand_augment_magnitude is not None:
        transforms.append(RandAugment(data.rand_augment_magnitude))
    return Chain((*transforms, RandomErasing(data.erase_probability)))


def clips_per_step(accelerator: Accelerator, optimization: OptimizationArguments) -> int:
    """Clips of one optimizer step, over all processes."""
    per_process = optimization.per_device_batch_size * optimization.gradient_accumulation_steps
    return per_process * accelerator.num_processes


def make_loader(
    accelerator: Accelerator,
    args: PretrainingArguments,
    config: VJEPAConfig,
    sources: Sequence[Videos],
    progress: Progress,
    inputs: InputLog,
) -> torch.utils.data.DataLoader:
    """The batches of this process from where the run stands to its end, as `data.PretrainingCollator` makes them."""
    data, optimization, run = args.data, args.optimization, args.run
    weights = data.video_weights or None
    videos = None if data.streaming else mix_videos(sources, weights, run.seed)
    transform = None if data.augment_on_device else make_transform(config.image_size, data)
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
    options |= {"worker_init_fn": leave_stop_signals_to_the_run}
    if videos is None:
        stream = ClipStream(
            sources, weights, reader, sampler, collate, data.shuffle_buffer, MAX_DECODE_ATTEMPTS, inputs.lane_states
        )
        return torch.utils.data.DataLoader(stream, batch_size=None, **options)
    clips = VideoClipDataset(videos, reader, MAX_DECODE_ATTEMPTS)
    return torch.utils.data.DataLoader(clips, batch_sampler=sampler, collate_fn=collate, **options)


# --- optimizer -----------------------------------------------------------------------------------------------------


@contextmanager
def callable_in_parts(model: torch.nn.Module) -> Iterator[None]:
    """Let parts of a model be called by themselves, also where a run shards it: only the whole gathers its weights."""
    sharded = isinstance(model, FSDPModule)
    if sharded:
        model.unshard()
    yield
    if sharded:
        model.reshard()


# --- output folder -------------------------------------------------------------------------------------------------


def check_launcher() -> None:
    """Refuse what a launcher was asked for and a run cannot do, before it costs time.

    Raises:
        ValueError: DeepSpeed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise ValueError(
            "DeepSpeed is not supported: to share the memory of a model out over GPUs use FSDP2, which is in PyTorch, "
            "with examples/accelerate/fsdp.yaml"
        )


# --- start ---------------------------------------------------------------------------------------------------------


# --- log -----------------------------------------------------------------------------------------------------------
