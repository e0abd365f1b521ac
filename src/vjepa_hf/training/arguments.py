"""The arguments of a script: one YAML file, then the command line.

`parse` makes any dataclass from them. The dataclasses of a pretraining run follow; an option has the same name in the
YAML file and on the command line, whatever dataclass it stands in.
"""

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, get_loader

from ..data.masking import make_mask
from ..files import whole_file
from ..model.configuration_vjepa import VJEPAConfig
from ..model.video_io import VideoDecodeError

T = TypeVar("T")


# --- parser ----------------------------------------------------------------------------------------------------------


def option(text: str, default: Any = MISSING, keys: Mapping[str, Any] | None = None) -> Any:
    """Return a dataclass field with its help text, without a default for a required option.

    Args:
        text: what `--help` shows.
        default: copied for each instance when it is a list or a dict.
        keys: names that a dict may have, with their defaults: `--model.hidden_size 384`.
    """
    metadata = {"help": text, "keys": keys}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def parse(kind: type[T], command_line: Sequence[str] | None = None, default_config: str | Path | None = None) -> T:
    """Make a dataclass from `--config FILE.yaml` and the other options of the command line, which override the file.

    A field is an option; a field that is a dataclass groups the options of its own fields, whose names stay short. On
    the command line a list is written `--label_ratio 0.1 0.5`, a key of a dict `--model.hidden_size 384`, a list of
    dicts and everything in a dict as YAML. `option` gives a field its help text.

    Args:
        kind: dataclass whose fields are the options.
        command_line: words after the name of the program; None takes those of the process and turns a mistake into
            one sentence and exit status 2 instead of a traceback.
        default_config: YAML file used when there is no `--config`.

    Raises:
        ValueError: an unknown option, with the nearest name; a value that is missing or has the wrong type; or what
            the dataclass itself refuses.
    """
    return _parse(kind, command_line, default_config, upgrade=dict)


def _parse(
    kind: type[T],
    command_line: Sequence[str] | None,
    default_config: str | Path | None,
    upgrade: Callable[[dict[str, Any]], dict[str, Any]],
) -> T:
    try:
        words = sys.argv[1:] if command_line is None else list(command_line)
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--config", default=default_config)
        found, words = finder.parse_known_args(words)
        options = _options(kind)
        parser = _make_parser(kind, options)
        if found.config is not None:
            try:
                values = _checked(upgrade(_read_yaml(found.config)), options)
                parser.set_defaults(parser.parse_object(values, defaults=False).as_dict())
            except (ValueError, argparse.ArgumentError) as error:
                raise ValueError(f"{found.config}: {_readable(error)}") from error
        for word in words:
            if word.startswith("--") and word != "--help":
                _check_name(word[2:].split("=")[0].rstrip("+"), options)
        return _build(kind, parser.parse_args(words).as_dict())
    except argparse.ArgumentError as error:
        mistake = ValueError(f"{_readable(error)}; `--help` lists all options")
        mistake.__cause__ = error
    except ValueError as error:
        mistake = error
    if command_line is not None:
        raise mistake
    with mistakes_exit():
        raise mistake


@contextmanager
def mistakes_exit() -> Iterator[None]:
    """Print a user's mistake as one sentence on stderr and exit with status 2, instead of a traceback.

    A script puts this around the lines that read what the user named: files, columns, models.
    """
    try:
        yield
    except (ValueError, OSError, VideoDecodeError) as error:
        print(f"{Path(sys.argv[0]).name}: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from error


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _readable(error: Exception) -> str:
    """Return the message of jsonargparse without the names of Python's types."""
    return re.sub(r"<class '(\w+)'>|Parser key \"(\w+)\"|typing\.(?=Literal)", r"\1\2", _one_line(error))


def _options(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Any, type]]:
    """Return name -> (field, type, dataclass it stands in) of all options, those of groups after the others."""
    hints = get_type_hints(kind)
    groups: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for part in (part for part in dataclasses.fields(kind) if part.init):
        if dataclasses.is_dataclass(hints[part.name]):
            groups |= _options(hints[part.name])
        else:
            options[part.name] = (part, hints[part.name], kind)
    return options | groups


def _is_scalar_list(hint: Any) -> bool:
    return get_origin(hint) is list and get_origin(get_args(hint)[0]) is not dict


def _make_parser(kind: type, options: dict[str, tuple[dataclasses.Field[Any], Any, type]]) -> ArgumentParser:
    parser = ArgumentParser(
        exit_on_error=False,
        allow_abbrev=False,
        usage="%(prog)s [--config FILE.yaml] [--option VALUE ...]",
        description=kind.__doc__,
    )
    parser.add_argument("--config", help="YAML file with any of the options below")
    groups: dict[type, Any] = {kind: parser}
    for name, (part, hint, owner) in options.items():
        if owner not in groups:
            groups[owner] = parser.add_argument_group(_one_line(owner.__doc__).rstrip("."))
        settings: dict[str, Any] = {"type": hint, "help": _help(part)}
        if _is_scalar_list(hint):
            settings |= {"type": get_args(hint)[0], "nargs": "*"}
        elif hint is bool:
            settings |= {"nargs": "?", "const": True}
        if part.default_factory is not MISSING:
            settings["default"] = part.default_factory()
        elif part.default is not MISSING:
            settings["default"] = part.default
        else:
            settings["required"] = True
        groups[owner].add_argument(f"--{name}", **settings)
    return parser


def _help(part: dataclasses.Field[Any]) -> str:
    keys = part.metadata.get("keys") or {}
    listed = ", ".join(f"{part.name}.{key}={value}" for key, value in keys.items())
    return (part.metadata.get("help", "") + (f": {listed}" if listed else "")).replace("%", "%%")


def _check_name(name: str, options: dict[str, tuple[dataclasses.Field[Any], Any, type]]) -> None:
    head, dot, key = name.partition(".")
    if head in options:
        keys = options[head][0].metadata.get("keys")
        if not dot or get_origin(options[head][1]) is dict and (keys is None or key in keys):
            return
    known = list(options)
    for other, (part, _, _) in options.items():
        known += [f"{other}.{key}" for key in part.metadata.get("keys") or ()]
    tails = [other for other in known if other.rpartition(".")[2] == name]
    nearest = tails or get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f"unknown option {name!r}; {hint}`--help` lists all options")


def _checked(values: dict[str, Any], options: dict[str, tuple[dataclasses.Field[Any], Any, type]]) -> dict[str, Any]:
    """Refuse unknown names and empty values, and let one value stand for a list of one."""
    checked = {}
    for name, value in values.items():
        _check_name(str(name), options)
        part, hint, _ = options[name]
        if isinstance(value, dict) and part.metadata.get("keys"):
            for key in value:
                _check_name(f"{name}.{key}", options)
        if value is None and type(None) not in get_args(hint):
            raise ValueError(f"{name} has no value; give one, or leave out the line for the default")
        checked[name] = [value] if _is_scalar_list(hint) and not isinstance(value, list) else value
    return checked


def _read_yaml(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError("no such file; give the YAML file of a run")
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = yaml.compose(text, Loader=yaml.SafeLoader)
        values = get_loader("yaml")(text)  # reads 3e-4 as a number, which PyYAML does not
        if isinstance(values, str):  # and keys without any value as text, which PyYAML does not either
            values = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"not a YAML file: {_one_line(error)}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"expected lines `key: value`, found a {type(values).__name__}")
    written = [key.value for key, _ in document.value] if document and values else []
    for key in written:
        if written.count(key) > 1:
            raise ValueError(f"{key} is given {written.count(key)} times; keep one of them")
    return values


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    hints = get_type_hints(kind)
    return kind(
        **{
            part.name: _build(hints[part.name], values)
            if dataclasses.is_dataclass(hints[part.name])
            else values[part.name]
            for part in dataclasses.fields(kind)  # type: ignore[arg-type]
            if part.init
        }
    )


# --- pretraining -----------------------------------------------------------------------------------------------------


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


def _require_at_least_one(part: Any, *names: str) -> None:
    _require(part, "be at least 1", lambda number: number >= 1, *names)


def _require_fraction(part: Any, *names: str) -> None:
    _require(part, "lie in [0, 1]", lambda number: 0 <= number <= 1, *names)


def _require_pair(part: Any, *names: str) -> None:
    for name in names:
        if len(getattr(part, name)) != 2:
            raise ValueError(f"{name} must be two numbers, lower and upper, got {getattr(part, name)}")


@dataclass
class DataArguments:
    """Which videos are read and how a clip is cut out of one."""

    videos: list[str] = option("sources: folders, lists, .tar or .parquet files, patterns of these, or videos", [])
    video_weights: list[float] = option(
        "fraction of the clips from each source, of any sum (default: every video once)", []
    )
    video_column: str | None = option("column with the videos; None: video, path, file_name, or the only column", None)
    streaming: bool = option("read the sources while training instead of listing their videos first", False)
    shuffle_buffer: int = option("videos of a stream that each worker holds to shuffle them", 100)
    clips_per_video: int = option("clips cut from a video each time it is opened", 1)
    frame_step: int = option("frames from one frame of the clip to the next", 4)
    fps: float | None = option(
        "frames per second of the clip, whatever the video's frame rate; replaces frame_step", None
    )
    short_video: Literal["repeat_last", "wrap", "error"] = option(
        "how to fill a clip that is longer than its video", "wrap"
    )
    crop_scale: list[float] = option("lower and upper fraction of the frame's area that a crop covers", [0.3, 1.0])
    crop_aspect_ratio: list[float] = option("lower and upper width / height of a crop", [0.75, 1.35])
    flip_probability: float = option("probability of a horizontal flip", 0.5)
    color_jitter: list[float] = option(
        "largest change of brightness, contrast, saturation and hue (default: none)", []
    )
    rand_augment_magnitude: float | None = option("strength of RandAugment, 0 to 10; None: none", None)
    erase_probability: float = option("probability that one box of a clip is filled with noise", 0.0)
    augment_on_device: bool = option("augment on the device of the model, not in the workers", False)
    num_workers: int = option("worker processes that decode, per training process", 8)
    max_failed_share: float = option("fraction of unreadable videos above which the run stops", 0.05)

    def __post_init__(self) -> None:
        _require_at_least_one(self, "shuffle_buffer", "clips_per_video", "frame_step")
        _require_pair(self, "crop_scale", "crop_aspect_ratio")
        _require_positive(self, "fps", "video_weights")
        _require_not_negative(self, "num_workers")
        _require_fraction(self, "max_failed_share", "flip_probability", "erase_probability")
        if len(self.color_jitter) not in (0, 4):
            raise ValueError(f"color_jitter must be brightness, contrast, saturation and hue, got {self.color_jitter}")


PUBLISHED_MASKS = [
    {"type": "multi_block", "num_blocks": 8, "spatial_scale": [0.15, 0.15]},
    {"type": "multi_block", "num_blocks": 2, "spatial_scale": [0.7, 0.7]},
]


@dataclass
class MaskArguments:
    """Which tokens are hidden: a list of mask types, all of which are used for every clip."""

    masks: list[dict[str, Any]] = option(
        "mask types, each with its settings: {type: multi_block, num_blocks, spatial_scale, temporal_scale, "
        "aspect_ratio, context_steps} or {type: random_tube, ratio}",
        PUBLISHED_MASKS,
    )
    mask_mode: Literal["subsample", "reference"] = option("how lists of tokens are cut to one length", "subsample")
    mask_group_size: int | None = option("clips that share one token count; None: the global batch size", None)

    def __post_init__(self) -> None:
        _require_positive(self, "mask_group_size")
        if not self.masks:
            raise ValueError("masks must have at least one mask type, got []")
        for index, settings in enumerate(self.masks):
            try:
                make_mask(settings)
            except ValueError as error:
                raise ValueError(f"masks[{index}]: {error}") from error


@dataclass
class OptimizationArguments:
    """Initial weights, AdamW, its schedules over optimizer steps, and the target encoder's average."""

    init_from: str | None = option("folder of a saved model with the initial weights; None: random", None)
    init_parts: list[str] = option(
        "parts to load from init_from: context_encoder, target_encoder, predictor (default: all)", []
    )
    freeze_layers: int = option("number of context-encoder layers to freeze; the tubelet embedding is frozen too", 0)
    max_steps: int = option("optimizer steps of the run", 90_000)
    warmup_steps: int = option("steps over which the learning rate rises linearly", 12_000)
    schedule_scale: float = option("schedules are laid out over this multiple of max_steps and cut at max_steps", 1.25)
    start_learning_rate: float = option("initial learning rate", 2e-4)
    learning_rate: float = option("learning rate at the end of the warm-up", 6.25e-4)
    final_learning_rate: float = option("learning rate at the end of the stretched schedule", 1e-6)
    predictor_learning_rate_scale: float = option("learning rate of the predictor relative to the encoder's", 1.0)
    weight_decay: float = option("weight decay at the first step", 0.04)
    final_weight_decay: float = option("weight decay at the end of the stretched schedule", 0.4)
    ema_momentum: float = option("momentum of the target encoder at the first step", 0.998)
    final_ema_momentum: float = option("momentum of the target encoder at the end of the stretched schedule", 1.0)
    per_device_batch_size: int = option("clips per device and forward pass", 24)
    gradient_accumulation_steps: int = option("forward passes per optimizer step", 1)
    max_grad_norm: float = option(
        "maximum gradient norm, of context encoder and predictor separately; .inf never clips", 10.0
    )
    clip_after_warmup: bool = option("clip gradients only after the warm-up, as the released runs did", True)

    def __post_init__(self) -> None:
        if self.init_parts and self.init_from is None:
            raise ValueError(f"init_parts {self.init_parts} needs init_from, the folder to take them from")
        _require_at_least_one(self, "max_steps", "per_device_batch_size", "gradient_accumulation_steps")
        _require_positive(self, "schedule_scale", "learning_rate", "predictor_learning_rate_scale")
        _require_not_negative(self, "start_learning_rate", "final_learning_rate", "weight_decay", "final_weight_decay")
        _require_fraction(self, "ema_momentum", "final_ema_momentum")
        _require(self, "be above 0; .inf never clips", lambda number: number > 0, "max_grad_norm")
        if not 0 <= self.warmup_steps <= self.max_steps:
            raise ValueError(f"warmup_steps must lie in [0, max_steps={self.max_steps}], got {self.warmup_steps}")


@dataclass
class EvaluationArguments:
    """A small labelled set to evaluate the encoder on during training; the encoder does not learn from it."""

    eval_train_videos: str | None = option("labelled videos that classifiers are fitted on; None: no evaluation", None)
    eval_test_videos: str | None = option("labelled videos to classify; needed with eval_train_videos", None)
    eval_label: str = option("column with the labels; `label` for folders of classes", "label")
    eval_steps: int = option("optimizer steps between evaluations", 500)

    def __post_init__(self) -> None:
        if (self.eval_train_videos is None) != (self.eval_test_videos is None):
            raise ValueError(
                f"eval_train_videos {self.eval_train_videos!r} and eval_test_videos {self.eval_test_videos!r} "
                "belong together: give both or none"
            )
        _require_at_least_one(self, "eval_steps")


@dataclass
class RunArguments:
    """Output, precision and memory."""

    output_dir: str = option("folder for checkpoints, log, curves and the exported model", "output/pretrain")
    seed: int = option("seed; every random choice is a function of seed, epoch and sample", 0)
    mixed_precision: Literal["no", "fp16", "bf16"] = option("precision of the forward pass", "no")
    cpu_threads: int | None = option("CPU threads per process; None: as the launcher set them", None)
    compile: bool = option("compile the transformer layers with torch.compile", False)
    gradient_checkpointing: bool = option("recompute activations in the backward pass to save memory", False)
    logging_steps: int = option("optimizer steps between lines of the log", 10)
    health_steps: int = option("optimizer steps between health lines", 100)
    save_steps: int = option("optimizer steps between checkpoints", 1000)
    save_total_limit: int = option("number of newest checkpoints to keep", 2)
    resume: bool = option("resume from the newest checkpoint in output_dir", False)
    resume_step: int | None = option("resume from the checkpoint of this step; newer ones are set aside", None)
    overwrite_output_dir: bool = option("delete the run in output_dir and start from scratch", False)
    max_skipped_steps: int = option(
        "consecutive skipped steps (NaN, inf, exploding gradients) after which the run saves and stops", 20
    )
    max_grad_norm_ratio: float | None = option(
        "skip steps whose gradient norm exceeds this multiple of the running median (None: never skip)", None
    )
    report_to: list[str] = option("trackers of accelerate: tensorboard, wandb, ...", [])

    def __post_init__(self) -> None:
        _require_at_least_one(
            self, "logging_steps", "health_steps", "save_steps", "save_total_limit", "max_skipped_steps"
        )
        _require_positive(self, "cpu_threads")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.max_grad_norm_ratio is not None and self.max_grad_norm_ratio <= 1:
            raise ValueError(f"max_grad_norm_ratio must be more than 1, or None, got {self.max_grad_norm_ratio}")
        self.resume = self.resume or self.resume_step is not None
        if self.resume and self.overwrite_output_dir:
            raise ValueError("resume and overwrite_output_dir exclude each other: choose one")


# The fields of VJEPAConfig and their defaults; attn_implementation is an option of transformers.
MODEL_FIELDS = {name: getattr(VJEPAConfig, name) for name in VJEPAConfig.__annotations__} | {
    "pred_num_mask_tokens": "one for each mask type",
    "attn_implementation": "sdpa",
}


@dataclass
class PretrainingArguments:
    """Pretrain a V-JEPA model on unlabelled videos."""

    data: DataArguments
    masking: MaskArguments
    optimization: OptimizationArguments
    evaluation: EvaluationArguments
    run: RunArguments
    model: dict[str, Any] = option("fields of VJEPAConfig with their defaults", {}, keys=MODEL_FIELDS)

    def to_dict(self) -> dict[str, Any]:
        """Every option with its value, flat, as in the YAML file."""
        values = dataclasses.asdict(self)
        groups = [values[part] for part in ("data", "masking", "optimization", "evaluation", "run")]
        return {"model": self.model} | {name: value for group in groups for name, value in group.items()}

    def save(self, path: str | Path) -> None:
        """Write the arguments as a YAML file that `--config` reads back.

        Whether this start resumed or overwrote a run is not saved: the next start decides that again.
        """
        values = self.to_dict() | {"resume": False, "resume_step": None, "overwrite_output_dir": False}
        with whole_file(path) as unfinished:
            unfinished.write_text(yaml.safe_dump(values, sort_keys=False))


def parse_arguments(
    command_line: Sequence[str] | None = None, default_config: str | Path | None = None
) -> PretrainingArguments:
    """Read the arguments of a pretraining run, see `parse`; a file of version 0.1.0 is converted."""
    return _parse(PretrainingArguments, command_line, default_config, _from_version_0_1)


_MODEL_FIELDS_0_1 = (
    "num_frames", "patch_size", "tubelet_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio",
    "initializer_range", "drop_path_rate", "pred_hidden_size", "pred_num_hidden_layers", "attn_implementation",
)  # fmt: skip
_RENAMED_0_1 = {"eval_videos": "eval_train_videos"}
_REMOVED_0_1 = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_decode_attempts": 10}


def _from_version_0_1(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the flat options of version 0.1.0: model fields, and one list for each setting of the masks."""
    old = {"image_size", "mask_num_blocks", "mask_block_scale", *_MODEL_FIELDS_0_1} & set(values)
    if not old or {"model", "masks"} & set(values):
        return values
    values = {_RENAMED_0_1.get(name, name): value for name, value in values.items()}
    for name, default in _REMOVED_0_1.items():
        if values.pop(name, default) != default:
            raise ValueError(f"{name} of version 0.1.0 is gone and always {default} now; leave out the line")
    model = {name: values.pop(name) for name in _MODEL_FIELDS_0_1 if name in values}
    if "image_size" in values:
        sides = values.pop("image_size")
        model["image_size"] = sides[0] if isinstance(sides, list) and len(sides) == 1 else sides
    num_blocks, scales = values.pop("mask_num_blocks", [8, 2]), values.pop("mask_block_scale", [0.15, 0.7])
    shared = {"aspect_ratio": values.pop("mask_aspect_ratio", [0.75, 1.5])}
    shared["context_steps"] = values.pop("mask_context_steps", 0) or None
    masks = [
        {"type": "multi_block", "num_blocks": number, "spatial_scale": [scale or 0.15] * 2} | shared
        for number, scale in zip(num_blocks, scales, strict=True)
    ]
    if values.get("mask_mode") == "packed":
        raise ValueError("mask_mode packed of version 0.1.0 is gone; write subsample")
    return values | {"model": model, "masks": masks}
