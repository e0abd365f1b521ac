"""What a pretraining run can be told: one YAML file, then the command line, then a copy beside the checkpoints.

A key lives in exactly one of the dataclasses below and has the same name in the YAML file and on the command line.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..files import whole_file


def _help(text: str, default: Any) -> Any:
    """A dataclass field with its help text; lists are copied for each instance."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def _require(part: Any, rule: str, holds: Callable[[float], bool], *names: str) -> None:
    """Check every number of fields; None stands for no number."""
    for name in names:
        value = getattr(part, name)
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        if not all(map(holds, numbers)):
            raise ValueError(f"{name} must {rule}, got {value}")


def _require_positive(part: Any, *names: str) -> None:
    _require(part, "be above 0 and finite", lambda number: 0 < number < math.inf, *names)


def _require_not_negative(part: Any, *names: str) -> None:
    _require(part, "be 0 or more and finite", lambda number: 0 <= number < math.inf, *names)


def _require_share(part: Any, *names: str) -> None:
    _require(part, "lie in [0, 1]", lambda number: 0 <= number <= 1, *names)


def _require_pair(part: Any, *names: str) -> None:
    for name in names:
        if len(getattr(part, name)) != 2:
            raise ValueError(f"{name} must be two numbers, lower and upper, got {getattr(part, name)}")


@dataclass
class ModelArguments:
    """The fields of `VJEPAConfig` that a run chooses."""

    image_size: list[int] = _help("side of the square frame, or height and width, in pixels", [224])
    num_frames: int = _help("frames of a clip", 16)
    patch_size: int = _help("side of a tubelet, in pixels", 16)
    tubelet_size: int = _help("frames of a tubelet", 2)
    hidden_size: int = _help("width of the encoder", 1024)
    num_hidden_layers: int = _help("blocks of the encoder", 24)
    num_attention_heads: int = _help("heads of the encoder, and of the predictor", 16)
    mlp_ratio: float = _help("hidden width of an MLP over the width of its block", 4.0)
    initializer_range: float = _help("standard deviation of the start values of weights", 0.02)
    drop_path_rate: float = _help("stochastic depth at the last block of the context encoder", 0.0)
    pred_hidden_size: int = _help("width of the predictor", 384)
    pred_num_hidden_layers: int = _help("blocks of the predictor", 12)
    attn_implementation: str = _help("attention of transformers: sdpa, eager, flash_attention_2, ...", "sdpa")
    init_from: str | None = _help("folder of a saved model to start from; None: random weights", None)
    init_parts: list[str] = _help("of context_encoder, target_encoder, predictor; []: all that init_from holds", [])
    freeze_layers: int = _help("first blocks of the context encoder that are not trained, nor its embedding", 0)

    def __post_init__(self) -> None:
        if self.init_parts and self.init_from is None:
            raise ValueError(f"init_parts {self.init_parts} needs init_from, the folder to take them from")
        if len(self.image_size) not in (1, 2):
            raise ValueError(f"image_size must be one side or height and width, got {self.image_size}")

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image_size[0], self.image_size[-1]


@dataclass
class DataArguments:
    """Which videos are read and how a clip is cut out of one."""

    videos: list[str] = _help("sources: folders, lists, .tar or .parquet files, patterns of these, or videos", [])
    video_weights: list[float] = _help("share of each source among the clips, of any sum; []: every video once", [])
    video_column: str | None = _help("column with the videos; None: video, path, file_name, or the only one", None)
    streaming: bool = _help("read the sources while training instead of listing their videos first", False)
    shuffle_buffer: int = _help("videos of a stream that each worker holds to shuffle them", 100)
    clips_per_video: int = _help("clips that are cut out of a video when it is opened", 1)
    frame_step: int = _help("frames from one frame of the clip to the next", 4)
    fps: float | None = _help("frames of the clip in a second, at any rate of the video; replaces frame_step", None)
    short_video: Literal["repeat_last", "wrap", "error"] = _help("what fills a clip longer than its video", "wrap")
    crop_scale: list[float] = _help("lower and upper share of the frame's area that a crop covers", [0.3, 1.0])
    crop_aspect_ratio: list[float] = _help("lower and upper width / height of a crop", [0.75, 1.35])
    flip_probability: float = _help("chance that a clip is mirrored", 0.5)
    color_jitter: list[float] = _help("largest change of brightness, contrast, saturation, and hue; []: none", [])
    rand_augment_magnitude: float | None = _help("strength of RandAugment, 0 to 10; None: none", None)
    erase_probability: float = _help("chance that a box of a clip is filled with noise", 0.0)
    augment_on_device: bool = _help("augment where the model runs, not in the workers", False)
    num_workers: int = _help("processes that decode, for each training process", 8)
    max_decode_attempts: int = _help("videos tried in place of an unreadable one before the run stops", 10)
    max_failed_share: float = _help("share of unreadable videos above which the run stops", 0.05)

    def __post_init__(self) -> None:
        for name in ("shuffle_buffer", "clips_per_video", "max_decode_attempts", "frame_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        _require_pair(self, "crop_scale", "crop_aspect_ratio")
        _require_positive(self, "fps", "video_weights")
        _require_not_negative(self, "num_workers")
        _require_share(self, "max_failed_share", "flip_probability", "erase_probability")
        if len(self.color_jitter) not in (0, 4):
            raise ValueError(f"color_jitter must be brightness, contrast, saturation and hue, got {self.color_jitter}")


@dataclass
class MaskArguments:
    """The masks of 3D multi-block masking, causal or not; one entry a mask kind in both lists."""

    mask_num_blocks: list[int] = _help("blocks whose union is hidden, for each mask kind", [8, 2])
    mask_block_scale: list[float] = _help("share of the frame that one block covers, for each mask kind", [0.15, 0.7])
    mask_context_steps: int = _help("time steps after which all is hidden (causal masks); 0: all may be seen", 0)
    mask_aspect_ratio: list[float] = _help("lower and upper height / width of a block", [0.75, 1.5])
    mask_mode: Literal["subsample", "reference", "packed"] = _help(
        "how lists of tokens are cut to one length; packed: not at all", "subsample"
    )
    mask_group_size: int | None = _help("clips that share one token count; None: all of an optimizer step", None)

    def __post_init__(self) -> None:
        _require_pair(self, "mask_aspect_ratio")
        _require_positive(self, "mask_aspect_ratio", "mask_group_size")
        _require_share(self, "mask_block_scale")
        _require_not_negative(self, "mask_num_blocks", "mask_context_steps")
        if not self.mask_num_blocks:
            raise ValueError("mask_num_blocks must have an entry for each mask kind, at least one, got []")
        if len(self.mask_num_blocks) != len(self.mask_block_scale):
            raise ValueError(
                f"mask_num_blocks {self.mask_num_blocks} and mask_block_scale {self.mask_block_scale} must have one "
                "entry for each mask kind"
            )
        if self.mask_context_steps == 0 and 0 in self.mask_num_blocks:
            raise ValueError(
                f"mask_num_blocks {self.mask_num_blocks} hides nothing; only with mask_context_steps may it be 0"
            )


@dataclass
class OptimizationArguments:
    """AdamW, its schedules over optimizer steps, and the target encoder's average."""

    max_steps: int = _help("optimizer steps of the run", 90_000)
    warmup_steps: int = _help("steps over which the learning rate rises linearly", 12_000)
    schedule_scale: float = _help("the schedules are laid out over this times max_steps and cut at max_steps", 1.25)
    start_learning_rate: float = _help("learning rate at the first step", 2e-4)
    learning_rate: float = _help("learning rate at the end of the warm-up", 6.25e-4)
    final_learning_rate: float = _help("learning rate at the end of the stretched schedule", 1e-6)
    predictor_learning_rate_scale: float = _help("learning rate of the predictor over that of the encoder", 1.0)
    weight_decay: float = _help("weight decay at the first step", 0.04)
    final_weight_decay: float = _help("weight decay at the end of the stretched schedule", 0.4)
    ema_momentum: float = _help("momentum of the target encoder at the first step", 0.998)
    final_ema_momentum: float = _help("momentum of the target encoder at the end of the stretched schedule", 1.0)
    adam_beta1: float = _help("decay of AdamW's first moment", 0.9)
    adam_beta2: float = _help("decay of AdamW's second moment", 0.999)
    adam_epsilon: float = _help("AdamW's epsilon", 1e-8)
    per_device_batch_size: int = _help("clips of one forward pass on one device", 24)
    gradient_accumulation_steps: int = _help("forward passes of one optimizer step", 1)
    max_grad_norm: float = _help("largest gradient norm of context encoder and of predictor; inf never clips", 10.0)
    clip_after_warmup: bool = _help("clip only once the warm-up is over, as the released runs did", True)

    def __post_init__(self) -> None:
        for name in ("max_steps", "per_device_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        _require_positive(self, "schedule_scale", "learning_rate", "predictor_learning_rate_scale", "adam_epsilon")
        _require_not_negative(self, "start_learning_rate", "final_learning_rate", "weight_decay", "final_weight_decay")
        _require_share(self, "ema_momentum", "final_ema_momentum")
        _require(self, "lie in [0, 1)", lambda number: 0 <= number < 1, "adam_beta1", "adam_beta2")
        _require(self, "be above 0; inf never clips", lambda number: number > 0, "max_grad_norm")
        if not 0 <= self.warmup_steps <= self.max_steps:
            raise ValueError(f"warmup_steps must lie in [0, max_steps={self.max_steps}], got {self.warmup_steps}")


@dataclass
class EvaluationArguments:
    """A small labelled set on which the encoder is judged while it learns; nothing is learned from it."""

    eval_videos: str | None = _help("source with labels that classes are told apart by; None: no judging", None)
    eval_test_videos: str | None = _help("source with labels that are guessed; needed with eval_videos", None)
    eval_label: str = _help("column with the labels; of class folders it is `label`", "label")
    eval_steps: int = _help("optimizer steps from one judgement to the next", 500)

    def __post_init__(self) -> None:
        if (self.eval_videos is None) != (self.eval_test_videos is None):
            raise ValueError(
                f"eval_videos {self.eval_videos!r} and eval_test_videos {self.eval_test_videos!r} belong together: "
                "give both or none"
            )
        if self.eval_steps < 1:
            raise ValueError(f"eval_steps must be at least 1, got {self.eval_steps}")


@dataclass
class RunArguments:
    """Where results go, how often, and in which arithmetic."""

    output_dir: str = _help("folder of the checkpoints, the log, the curves and the exported model", "output/pretrain")
    seed: int = _help("every random choice is a function of it, the epoch and the sample", 0)
    mixed_precision: Literal["no", "fp16", "bf16"] = _help("arithmetic of the forward pass", "no")
    cpu_threads: int | None = _help("threads of each process on CPU; None: as the launcher set them", None)
    compile: bool = _help("compile the transformer layers with torch.compile when the run starts", False)
    gradient_checkpointing: bool = _help("recompute activations in the backward pass to save memory", False)
    logging_steps: int = _help("optimizer steps from one line of the log to the next", 10)
    health_steps: int = _help("optimizer steps from one health line to the next", 100)
    save_steps: int = _help("optimizer steps from one checkpoint to the next", 1000)
    save_total_limit: int = _help("newest checkpoints that are kept", 2)
    resume: bool = _help("continue from the newest checkpoint in output_dir", False)
    resume_step: int | None = _help("continue from the checkpoint of this step; newer ones are set aside", None)
    overwrite_output_dir: bool = _help("delete what output_dir holds and start anew", False)
    max_skipped_steps: int = _help("steps in a row left out for bad numbers after which the run saves and stops", 20)
    max_grad_norm_ratio: float | None = _help(
        "leave out a step of more times the median gradient norm; None: no", None
    )
    report_to: list[str] = _help("trackers of accelerate: tensorboard, wandb, ...", [])

    def __post_init__(self) -> None:
        for name in ("logging_steps", "health_steps", "save_steps", "save_total_limit", "max_skipped_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        _require_positive(self, "cpu_threads")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.max_grad_norm_ratio is not None and self.max_grad_norm_ratio <= 1:
            raise ValueError(f"max_grad_norm_ratio must be more than 1, or None, got {self.max_grad_norm_ratio}")
        self.resume = self.resume or self.resume_step is not None
        if self.resume and self.overwrite_output_dir:
            raise ValueError("resume and overwrite_output_dir exclude each other: choose one")


@dataclass
class PretrainingArguments:
    """All arguments of a pretraining run, by concern."""

    model: ModelArguments
    data: DataArguments
    masks: MaskArguments
    optimization: OptimizationArguments
    evaluation: EvaluationArguments
    run: RunArguments

    def to_dict(self) -> dict[str, Any]:
        """Every key with its resolved value, flat, as in the YAML file."""
        return {key: value for part in dataclasses.asdict(self).values() for key, value in part.items()}

    def save(self, path: str | Path) -> None:
        """Write the resolved arguments as a YAML file that `--config` reads back.

        How this start of the run was made (anew, over an old one, from a checkpoint) is for the next start to say.
        """
        values = self.to_dict() | {"resume": False, "resume_step": None, "overwrite_output_dir": False}
        with whole_file(path) as unfinished:
            unfinished.write_text(yaml.safe_dump(values, sort_keys=False))


PARTS = (ModelArguments, DataArguments, MaskArguments, OptimizationArguments, EvaluationArguments, RunArguments)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; `--help` lists all arguments")


def parse_arguments(
    command_line: Sequence[str] | None = None, default_config: str | Path | None = None
) -> PretrainingArguments:
    """Read `--config FILE.yaml` first, then let the other arguments of the command line override it.

    Args:
        command_line: arguments without the program's name; None takes those of the process.
        default_config: the YAML file used when there is no `--config`.

    Raises:
        ValueError: a key that does not exist, or a value that is of the wrong type or out of its range.
    """
    finder = _Parser((), add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=default_config, help="YAML file with any of the arguments below")
    config, overrides = finder.parse_known_args(command_line)
    parser = _Parser(PARTS, parents=[finder], allow_abbrev=False)
    if config.config is not None:
        # The file becomes arguments in front of the command line, so one parser checks both.
        values = _read_yaml(config.config)
        parser.set_defaults(**{key: value for key, value in values.items() if value in (None, [])})
        overrides = [word for item in values.items() for word in _as_words(*item)] + overrides
    *parts, _, unknown = parser.parse_args_into_dataclasses(
        overrides, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}")
    return PretrainingArguments(*parts)


def _read_yaml(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"config {str(path)!r} is no file: give the YAML file of a run")
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected lines `key: value`, found a {type(values).__name__}")
    written = [key.value for key, _ in document.value] if values else []
    for key in written:
        if written.count(key) > 1:
            raise ValueError(f"{path}: {key} is given {written.count(key)} times; keep one of them")
    types = {name: hint for part in PARTS for name, hint in get_type_hints(part).items()}
    for key, value in values.items():
        if key not in types:
            raise ValueError(f"{path}: unknown key {key!r}; known keys are {', '.join(sorted(types))}")
        if value is None and type(None) not in get_args(types[key]):
            raise ValueError(f"{path}: {key} has no value; give one, or leave out the line for the default")
        if isinstance(value, dict) or isinstance(value, list) and get_origin(types[key]) is not list:
            raise ValueError(f"{path}: {key} takes one value or a list of them as its default does, got {value}")
    return values


def _as_words(key: str, value: Any) -> list[str]:
    if value in (None, []):
        return []
    return [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
