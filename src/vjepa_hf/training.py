"""The parts of a training run that a loop should not spell out: parameter groups, checkpoints, export, log, meters."""

import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from torch._functorch import config as compiler_config
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers import PreTrainedModel

from .arguments import (
    DataArguments,
    MaskArguments,
    ModelArguments,
    OptimizationArguments,
    PretrainingArguments,
    RunArguments,
)
from .checkpoints import Progress, find_checkpoint, load_checkpoint
from .configuration_vjepa import VJEPAConfig
from .data import (
    ClipBatchSampler,
    ClipReader,
    ClipStream,
    InputLog,
    PretrainingCollator,
    VideoClipDataset,
    VideoFailure,
)
from .flops import matmul_rate
from .masking import CausalMask, MaskKind, MaskSampler, MultiBlockMask
from .modeling_vjepa import VJEPAForPreTraining, VJEPALayer
from .run_guard import RunGuard, leave_stop_signals_to_the_run
from .schedules import ema_momentum, learning_rate, weight_decay
from .sources import Videos, mix_videos
from .transforms import Chain, ColorJitter, RandAugment, RandomErasing, RandomResizedCropFlip
from .video_processing_vjepa import VJEPAVideoProcessor

ARGUMENTS_FILE = "arguments.yaml"
SKIPPED_STEPS_FILE = "skipped_steps.jsonl"

# --- model ---------------------------------------------------------------------------------------------------------

# What compiled layers keep for the backward pass, as a share of what the compiler would by default: norms and
# activations are computed again, which takes a fifth off; with less than 0.9 in bfloat16 matrix products are too.
KEPT_ACTIVATIONS = 0.95


def model_config(model: ModelArguments, num_mask_kinds: int) -> VJEPAConfig:
    """The configuration that a run asks for, with one mask token a mask kind."""
    return VJEPAConfig(
        image_size=model.frame_size,
        num_frames=model.num_frames,
        patch_size=model.patch_size,
        tubelet_size=model.tubelet_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        mlp_ratio=model.mlp_ratio,
        initializer_range=model.initializer_range,
        drop_path_rate=model.drop_path_rate,
        pred_hidden_size=model.pred_hidden_size,
        pred_num_hidden_layers=model.pred_num_hidden_layers,
        pred_num_mask_tokens=num_mask_kinds,
        attn_implementation=model.attn_implementation,
    )


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


def mask_sampler(masks: MaskArguments, grid_size: tuple[int, int, int], seed: int) -> MaskSampler:
    """The masks that a run asks for, on the token grid (t, h, w) of its clips.

    Raises:
        ValueError: a grid that is too small for them.
    """
    if not 0 <= masks.mask_context_steps < grid_size[0]:
        raise ValueError(
            f"mask_context_steps {masks.mask_context_steps} must be less than the {grid_size[0]} time steps of a "
            "clip, num_frames / tubelet_size, so that some are left to predict; 0 hides none"
        )
    aspect_ratio = tuple(masks.mask_aspect_ratio)

    def kind(num_blocks: int, scale: float) -> MaskKind:
        blocks = MultiBlockMask(num_blocks, (scale, scale), aspect_ratio=aspect_ratio) if num_blocks else None
        return CausalMask(masks.mask_context_steps, blocks) if masks.mask_context_steps else blocks

    kinds = [kind(*values) for values in zip(masks.mask_num_blocks, masks.mask_block_scale, strict=True)]
    return MaskSampler(kinds, grid_size, seed, masks.mask_mode)


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
    collate = PretrainingCollator(mask_sampler(args.masks, config.grid_size, run.seed))
    sampler = ClipBatchSampler(
        num_samples=None if videos is None else len(videos),
        per_device_batch_size=optimization.per_device_batch_size,
        num_steps=optimization.max_steps - progress.step,
        seed=run.seed,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        first_clip=progress.clips,
        mask_group_size=args.masks.mask_group_size,
        clips_per_video=data.clips_per_video,
    )
    options = {"num_workers": data.num_workers, "pin_memory": accelerator.device.type == "cuda"}
    options |= {"worker_init_fn": leave_stop_signals_to_the_run}
    attempts = data.max_decode_attempts
    if videos is None:
        stream = ClipStream(
            sources, weights, reader, sampler, collate, data.shuffle_buffer, attempts, inputs.lane_states
        )
        return torch.utils.data.DataLoader(stream, batch_size=None, **options)
    clips = VideoClipDataset(videos, reader, attempts)
    return torch.utils.data.DataLoader(clips, batch_sampler=sampler, collate_fn=collate, **options)


# --- optimizer -----------------------------------------------------------------------------------------------------


def parameter_groups(module: torch.nn.Module, learning_rate_scale: float = 1.0) -> list[dict[str, Any]]:
    """Trainable parameters in two groups for AdamW: biases and 1-D parameters are never decayed.

    Mask tokens have more than one dimension and are decayed, as in the released runs. `decay` and
    `learning_rate_scale` tell `set_hyperparameters` what a group gets.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in named if name.endswith("bias") or parameter.ndim == 1]
    decayed = [parameter for name, parameter in named if not (name.endswith("bias") or parameter.ndim == 1)]
    return [
        {"params": decayed, "decay": True, "learning_rate_scale": learning_rate_scale},
        {"params": plain, "decay": False, "learning_rate_scale": learning_rate_scale, "weight_decay": 0.0},
    ]


def make_optimizer(model: VJEPAForPreTraining, optimization: OptimizationArguments) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; learning rate and weight decay are set for every step, from the first."""
    groups = parameter_groups(model.context_encoder)
    groups += parameter_groups(model.vjepa.predictor, optimization.predictor_learning_rate_scale)
    return torch.optim.AdamW(
        groups,
        lr=optimization.start_learning_rate,
        betas=(optimization.adam_beta1, optimization.adam_beta2),
        eps=optimization.adam_epsilon,
        fused=True,
    )


def hyperparameters(step: int, optimization: OptimizationArguments) -> dict[str, float]:
    """`learning_rate`, `weight_decay` and `ema_momentum` of a step, counted from 0."""
    layout = {"max_steps": optimization.max_steps, "schedule_scale": optimization.schedule_scale}
    return {
        "learning_rate": learning_rate(
            step,
            warmup_steps=optimization.warmup_steps,
            start=optimization.start_learning_rate,
            peak=optimization.learning_rate,
            final=optimization.final_learning_rate,
            **layout,
        ),
        "weight_decay": weight_decay(
            step, start=optimization.weight_decay, final=optimization.final_weight_decay, **layout
        ),
        "ema_momentum": ema_momentum(
            step, start=optimization.ema_momentum, final=optimization.final_ema_momentum, **layout
        ),
    }


def set_hyperparameters(optimizer: torch.optim.Optimizer, values: dict[str, float]) -> None:
    """Write the values of this step into the groups made by `parameter_groups`."""
    for group in optimizer.param_groups:
        group["lr"] = values["learning_rate"] * group["learning_rate_scale"]
        group["weight_decay"] = values["weight_decay"] if group["decay"] else 0.0


def max_grad_norm(step: int, optimization: OptimizationArguments) -> float:
    """The norm to clip at in a step; inf while there is no clipping."""
    off = optimization.clip_after_warmup and step < optimization.warmup_steps
    return math.inf if off else optimization.max_grad_norm


def clip_gradients(model: VJEPAForPreTraining, max_norm: float) -> dict[str, torch.Tensor]:
    """Clip the unscaled gradients of context encoder and predictor, each by itself, and return their norms before."""
    parts = {"context_encoder": model.context_encoder, "predictor": model.vjepa.predictor}
    clip = torch.nn.utils.clip_grad_norm_
    norms = {f"{name}_grad_norm": clip(part.parameters(), max_norm) for name, part in parts.items()}
    return {name: norm.full_tensor() if isinstance(norm, DTensor) else norm for name, norm in norms.items()}


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


def prepare_output_dir(accelerator: Accelerator, args: PretrainingArguments) -> None:
    """Make the folder of a run and write its arguments there; never touch what is there unless told so.

    Raises:
        ValueError: the folder holds something and neither `resume` nor `overwrite_output_dir` is set; or there is
            nothing to resume from, or nothing that a run wrote and that could be overwritten; or several processes
            were launched that do not know each other, or should share out a model and cannot.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != accelerator.num_processes:
        raise ValueError(
            f"{launched} processes were launched but each knows of {accelerator.num_processes}, so all would write "
            "the same folder: this device has no way to join them; launch one process"
        )
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if sharded and launched > 1 and accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"FSDP was asked for, but on {accelerator.device.type} accelerate does not share out a model and would "
            "give every process all of it: launch without FSDP"
        )
    output_dir = Path(args.run.output_dir)
    if accelerator.is_main_process:
        occupied = output_dir.exists() and any(output_dir.iterdir())
        if args.run.resume:
            find_checkpoint(output_dir, args.run.resume_step)
        elif occupied and not args.run.overwrite_output_dir:
            raise ValueError(
                f"output_dir {str(output_dir)!r} is not empty: add --resume to continue that run, "
                "--overwrite_output_dir to delete it, or choose another folder"
            )
        elif occupied:
            if not (output_dir / ARGUMENTS_FILE).exists():
                raise ValueError(f"output_dir {str(output_dir)!r} holds no run, so it is not deleted; do it yourself")
            shutil.rmtree(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        args.save(output_dir / ARGUMENTS_FILE)
    accelerator.wait_for_everyone()


def starting_point(accelerator: Accelerator, run: RunArguments) -> Progress:
    """Where a run begins: at its first step, or at the checkpoint that `resume` asks for, which is loaded.

    Raises:
        ValueError: as `checkpoints.load_checkpoint`.
    """
    return load_checkpoint(accelerator, run.output_dir, run.resume_step) if run.resume else Progress()


def export(accelerator: Accelerator, model: torch.nn.Module, processor: Any, output_dir: str | Path) -> None:
    """Write the model and its processor to the top of the run's folder, for `from_pretrained`. All processes call it.

    Files appear under their names only once they are whole.

    Raises:
        OSError: the folder cannot be written; names the folder and the cause.
    """
    state = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return
    unfinished = Path(output_dir) / "unfinished_export"
    try:
        accelerator.unwrap_model(model).save_pretrained(unfinished, state_dict=state)
        processor.save_pretrained(unfinished)
        for file in unfinished.iterdir():
            file.replace(Path(output_dir) / file.name)
        unfinished.rmdir()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OSError(f"the model could not be exported to {str(output_dir)!r}: {error}") from error


# --- start ---------------------------------------------------------------------------------------------------------


def run_summary(
    accelerator: Accelerator, args: PretrainingArguments, num_videos: int | None, model: torch.nn.Module
) -> str:
    """What is about to happen, in a few lines, so that a wrong setting is seen before it costs a day.

    `num_videos` is None for streams, which do not know it.
    """
    optimization = args.optimization
    num_parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    batch = optimization.per_device_batch_size, accelerator.num_processes, optimization.gradient_accumulation_steps
    clips = math.prod(batch) * optimization.max_steps
    lines = [
        f"{'streamed' if num_videos is None else f'{num_videos:,}'} videos, {num_parameters:,} trained parameters",
        f"{accelerator.num_processes} processes, device {accelerator.device.type}, mixed precision "
        f"{accelerator.mixed_precision}",
        f"{math.prod(batch)} clips a step = {batch[0]} a device x {batch[1]} processes x {batch[2]} accumulated",
        f"{clips:,} clips in {optimization.max_steps:,} steps"
        + ("" if num_videos is None else f" = {clips / num_videos:.1f} epochs"),
    ]
    last = optimization.max_steps - 1
    for name, step in (("first", 0), ("warm-up end", min(optimization.warmup_steps, last)), ("last", last)):
        values = hyperparameters(step, optimization)
        lines.append(
            f"{name + ' step':<16} {step:>8}: lr {values['learning_rate']:.3e}, weight decay "
            f"{values['weight_decay']:.4f}, EMA momentum {values['ema_momentum']:.6f}"
        )
    return "\n".join(lines)


# --- log -----------------------------------------------------------------------------------------------------------


# Of a health line, what is printed; all of it goes to the log.
SHOWN_HEALTH = ("target_std", "context_std", "target_rank", "loss_ratio", "copy_ratio", "encoder_distance")


class RunLog:
    """What a run tells: a progress bar, trackers, and one JSON object a line in `log.jsonl`.

    Steps that were left out stand, with their clips, in `skipped_steps.jsonl`. All of it comes from the main process.
    A resumed run first drops the lines that it will write again.
    """

    def __init__(self, accelerator: Accelerator, args: PretrainingArguments, first_step: int) -> None:
        self.accelerator = accelerator
        self.path = Path(args.run.output_dir) / "log.jsonl"
        self.skipped_path = self.path.with_name(SKIPPED_STEPS_FILE)
        self.bar = tqdm(
            total=args.optimization.max_steps,
            initial=first_step,
            unit="step",
            disable=not accelerator.is_main_process,
        )
        if accelerator.is_main_process:
            _cut_log(self.path, first_step)
            if self.skipped_path.exists():
                _cut_log(self.skipped_path, first_step)
        if args.run.report_to:
            accelerator.init_trackers("vjepa", config={key: str(value) for key, value in args.to_dict().items()})

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Record figures of a step."""
        self.accelerator.log(figures, step=step)
        self._append(self.path, {"step": step} | figures)

    def _append(self, path: Path, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a checkpoint that outlives the machine finds its log

    def write_progress(self, step: int, figures: dict[str, float]) -> None:
        """Record figures of a step and show those that one watches beside the progress bar."""
        self.write(step, figures)
        self.bar.set_postfix_str(
            f"loss {figures['loss']:.4f}, {figures['clips_per_second']:.1f} clips/s, "
            f"data wait {figures['data_wait']:.0%}, MFU {figures['mfu']:.0%}, {figures['memory_gib']:.1f} GiB"
        )

    def write_health(self, step: int, figures: dict[str, float], alarms: Sequence[str]) -> None:
        """Record the health line of a step and print it, with its alarms."""
        self.write(step, figures)
        shown = [name for name in SHOWN_HEALTH if name in figures] or figures
        self.say(f"step {step} health: " + ", ".join(f"{name} {figures[name]:.3g}" for name in shown))
        for alarm in alarms:
            self.say(f"WARNING {alarm}")

    def write_skipped(self, step: int, found: dict[str, Any]) -> None:
        """Say that a step was left out, and write down what `RunGuard.skipped_step` knows about it."""
        self._append(self.skipped_path, {"step": step} | found)
        self.say(f"left out step {step}: {found['wrong']}; its clips stand in {self.skipped_path.name}")

    def name_failures(self, failures: Sequence[VideoFailure]) -> None:
        """Name unreadable videos, as `InputLog.gather` returns them: once each."""
        for failure in failures:
            self.say(f"left out an unreadable video, {failure.video}: {failure.cause}")

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.accelerator.is_main_process:
            self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        self.accelerator.end_training()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """All rows of a `log.jsonl`, but for a last one that a dying run did not finish."""
    lines = Path(path).read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _cut_log(path: Path, last_step: int) -> None:
    """Leave the rows up to a step. The file is replaced at once: a run that dies here has the old or the new one."""
    rows = [row for row in read_log(path) if row["step"] <= last_step] if path.exists() else []
    unfinished = path.with_name(f"unfinished_{path.name}")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unfinished.replace(path)


class Throughput:
    """Clips a second, the share of time spent waiting for data, and model FLOPs utilization, since the last reading.

    Args:
        measure_ceiling: gives the operations a second that the device of this process can do, see `matmul_ceiling`.
            It is asked at the start, and again when more was done than that: something else used the device then.
    """

    def __init__(self, measure_ceiling: Callable[[], float] = lambda: math.inf) -> None:
        self.measure_ceiling, self.ceiling = measure_ceiling, measure_ceiling()
        self._reset()

    def _reset(self) -> None:
        self.started, self.waited, self.clips, self.flops = time.perf_counter(), 0.0, 0, 0

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Pass batches through and measure the wait for each."""
        batches = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def read(self) -> dict[str, float]:
        """`clips_per_second`, `data_wait` and `mfu` since the last call."""
        elapsed = time.perf_counter() - self.started
        figures = {"clips_per_second": self.clips / elapsed, "data_wait": self.waited / elapsed}
        rate = self.flops / elapsed
        if rate > self.ceiling:
            self.ceiling = max(rate, self.measure_ceiling())
        figures["mfu"] = rate / self.ceiling
        self._reset()
        return figures


def matmul_ceiling(accelerator: Accelerator) -> float:
    """Operations a second of matrix products on the device of this process, in the arithmetic of the run."""
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    return matmul_rate(accelerator.device, dtypes.get(accelerator.mixed_precision, torch.float32))


def progress_figures(accelerator: Accelerator, guard: RunGuard, throughput: Throughput) -> dict[str, float]:
    """`loss` over steps and processes, gradient norms, steps left out, throughput and memory, as plain numbers."""
    return guard.read() | throughput.read() | {"memory_gib": memory_gib(accelerator.device)}


def finish(accelerator: Accelerator, args: PretrainingArguments, guard: RunGuard, progress: Progress) -> None:
    """The last words of a run.

    Raises:
        FloatingPointError: it was stopped by numbers that went wrong.
    """
    folder = Path(args.run.output_dir)
    go_on = f"continue with --config {folder / ARGUMENTS_FILE} --resume true"
    if guard.stop is None:
        accelerator.print(f'wrote curves.png; load the encoder: VJEPAModel.from_pretrained("{folder}")')
    elif guard.gave_up:
        raise FloatingPointError(
            f"{guard.stop}. Step {progress.step} is saved, and the clips of these steps stand in "
            f"{folder / SKIPPED_STEPS_FILE}: look at them, lower learning_rate or use mixed_precision bf16; {go_on}"
        )
    else:
        accelerator.print(f"{guard.stop}: saved step {progress.step} and stopped; {go_on}")


def memory_gib(device: torch.device) -> float:
    """Peak memory so far in GiB: of the accelerator, or of this process when there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
