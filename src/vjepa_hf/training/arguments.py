"""Arguments of the scripts: one YAML file, overridden by the command line.

`parse` reads any dataclass. The dataclasses of a pretraining run follow.
"""

import argparse
import dataclasses
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from jsonargparse import ArgumentParser

from ..data.masking import LONG_RANGE, SHORT_RANGE, make_mask
from ..files import whole_file
from ..model.configuration_vjepa import VJEPAConfig
from ..model.names import one_line
from ..model.video_io import VideoDecodeError

T = TypeVar("T")
# File in the folder of a pretraining run with its arguments.
ARGUMENTS_FILE = "arguments.yaml"
# Pretraining options of version 0.1.0 whose successors do not have a similar name.
OPTIONS_OF_0_1 = {
    "mask_num_blocks": "is now `num_blocks` of each entry of `masks`",
    "mask_block_scale": "is now `spatial_scale` of each entry of `masks`",
    "mask_context_steps": "is now `context_steps` of each entry of `masks`",
    "mask_aspect_ratio": "is now `aspect_ratio` of each entry of `masks`",
    "eval_videos": "is now `eval_train_videos`",
    "max_decode_attempts": "was removed; a run tries 10 videos before it stops",
    "adam_beta1": "was removed; it is 0.9",
    "adam_beta2": "was removed; it is 0.999",
    "adam_epsilon": "was removed; it is 1e-8",
}
# Limits of a run file; a file beyond them is not a list of options.
MAX_YAML_BYTES, MAX_YAML_DEPTH = 2**20, 20
LearningRateSchedule = Literal["cosine", "constant", "linear"]
# name -> field, type, dataclass with that field
_Options = dict[str, tuple[dataclasses.Field[Any], Any, type]]


# --- parser ----------------------------------------------------------------------------------------------------------


def option(text: str, default: Any = MISSING, keys: Mapping[str, Any] | None = None) -> Any:
    """Return a dataclass field with its help text.

    Args:
        text: help text.
        default: default value; a list or dict is copied for each instance. Without it the option is required.
        keys: allowed keys of a dict, with their defaults: `--model.hidden_size 384`.
    """
    metadata = {"help": text, "keys": keys or {}}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def parse(kind: type[T], command_line: Sequence[str] | None = None, default_config: str | Path | None = None) -> T:
    """Make a dataclass from `--config FILE.yaml` and the options of the command line, which override the file.

    A field is an option with the same name in the file and on the command line. A field that is a dataclass is a group
    of options, whose names get no prefix. On the command line a list is `--label_ratio 0.1 0.5`, a key of a dict is
    `--model.hidden_size 384`, and values in a dict or in a list of dicts are YAML. A `~` at the start of a value is
    the home folder.

    Args:
        kind: dataclass whose fields are made by `option`.
        command_line: words after the name of the program. None reads those of the process, and a mistake then prints
            one sentence and exits with status 2. The file of `--config` may be a name in `shipped_configs`.
        default_config: YAML file to use without `--config`.

    Raises:
        ValueError: an option is unknown (names the nearest one), missing, of the wrong type, or refused by `kind`.
    """
    if command_line is None:
        with mistakes_exit():
            return parse(kind, sys.argv[1:], default_config)
    options = _options(kind)
    try:
        config, words = _split_config(command_line)
        parser = _make_parser(kind, options)
        if file := config or default_config:
            _set_defaults(parser, options, file)
        for word in words:
            if word.startswith("--") and word != "--help":
                _check_name(word[2:].split("=")[0].rstrip("+"), options)
        return _build(kind, parser.parse_args(words).as_dict())
    except argparse.ArgumentError as error:
        raise ValueError(f"{_readable(error)}; `--help` lists all options") from error
    except RecursionError as error:
        raise ValueError("a value on the command line is nested too deeply") from error


def _split_config(command_line: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the file of `--config`, and the other words of a command line."""
    config, words = _take("--config", command_line)
    if config is None:
        return None, words
    config = os.path.expanduser(config)
    return config if Path(config).is_file() else str(shipped_configs().get(config, config)), words


def shipped_configs() -> dict[str, Path]:
    """Return name -> YAML file of the configurations that are installed with the scripts."""
    folder = Path(str(files("vjepa_hf.examples"))) / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _take(option: str, command_line: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of an option, None if it is not given, and the other words of a command line."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument(option, dest="value")
    try:
        given, words = finder.parse_known_args(command_line)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; `--help` lists all options") from error
    return given.value, words


@contextmanager
def mistakes_exit() -> Iterator[None]:
    """Print a user's mistake as one sentence on stderr and exit with status 2, without a traceback.

    A script wraps the lines that read files, columns and models in it.
    """
    try:
        yield
    except (ValueError, OSError, VideoDecodeError, StrictDataclassError) as error:
        print(f"{Path(sys.argv[0]).name}: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from error


def _readable(error: Exception) -> str:
    """Return the message of jsonargparse without its notation for types and keys."""
    text = re.sub(r"<class '(\w+)'>|Parser key \"(\w+)\"|typing\.(?=Literal)", r"\1\2", one_line(error))
    optional = (
        r"Does not validate .* Errors: - (Expected .*) - Expected a NoneType Given value type: \w+ Given value: "
    )
    return re.sub(optional, r"\1. Got value: ", text)


def _options(kind: type) -> _Options:
    """Return all options, those of groups after the others."""
    hints = get_type_hints(kind)
    options: _Options = {}
    groups: _Options = {}
    for part in (part for part in dataclasses.fields(kind) if part.init):
        if dataclasses.is_dataclass(hints[part.name]):
            groups |= _options(hints[part.name])
        else:
            options[part.name] = (part, hints[part.name], kind)
    return options | groups


def _is_scalar_list(hint: Any) -> bool:
    return get_origin(hint) is list and get_origin(get_args(hint)[0]) is not dict


def _make_parser(kind: type, options: _Options) -> ArgumentParser:
    usage = "%(prog)s [--config FILE.yaml] [--option VALUE ...]"
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, usage=usage, description=kind.__doc__)
    parser.add_argument("--config", help="YAML file, or name of a shipped one, with any of these options")
    groups: dict[type, Any] = {kind: parser}
    for name, (part, hint, owner) in options.items():
        if owner not in groups:
            groups[owner] = parser.add_argument_group(one_line(owner.__doc__).rstrip("."))
        settings: dict[str, Any] = {"type": hint, "help": _help(part)}
        if _is_scalar_list(hint):
            settings |= {"type": get_args(hint)[0], "nargs": "*"}
        elif hint is bool:
            settings |= {"nargs": "?", "const": True}
        default = part.default if part.default_factory is MISSING else part.default_factory()
        settings |= {"required": True} if default is MISSING else {"default": default}
        groups[owner].add_argument(f"--{name}", **settings)
    return parser


def _help(part: dataclasses.Field[Any]) -> str:
    keys = ", ".join(f"{part.name}.{key}={value}" for key, value in _keys(part).items())
    return (part.metadata.get("help", "") + (f": {keys}" if keys else "")).replace("%", "%%")


def _keys(part: dataclasses.Field[Any]) -> Mapping[str, Any]:
    return part.metadata.get("keys", {})


def _check_name(name: str, options: _Options) -> None:
    """Check the name of an option, or `option.key` for an option that is a dict."""
    known = [f"{option}.{key}" for option, (part, _, _) in options.items() for key in _keys(part)]
    known += options
    if name in known:
        return
    if name in OPTIONS_OF_0_1:
        raise ValueError(f"option {name!r} of version 0.1.0 {OPTIONS_OF_0_1[name]}")
    close = [other for other in known if other.endswith(f".{name}")] or get_close_matches(name, known, 1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown option {name!r}; {hint}`--help` lists all options")


def _set_defaults(parser: ArgumentParser, options: _Options, path: str | Path) -> None:
    """Make the values of a YAML file the defaults of the parser. One value may stand for a list of one."""
    try:
        values = _read_yaml(path)
        for name, value in values.items():
            _check_name(str(name), options)
            part, hint, _ = options[name]
            for key in value if isinstance(value, dict) and _keys(part) else ():
                _check_name(f"{name}.{key}", options)
            if value is None and type(None) not in get_args(hint):
                raise ValueError(f"{name} has no value; give one, or delete the line to use the default")
            if _is_scalar_list(hint) and not isinstance(value, list):
                values[name] = [value]
        parser.set_defaults(parser.parse_object(values, defaults=False).as_dict())
    except (ValueError, argparse.ArgumentError) as error:
        raise ValueError(f"{path}: {_readable(error)}") from error


def _read_yaml(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        names = ", ".join(shipped_configs())
        raise ValueError(f"no such file; give the YAML file of a run, or one of the shipped configurations: {names}")
    if Path(path).stat().st_size > MAX_YAML_BYTES:
        raise ValueError(f"larger than {MAX_YAML_BYTES:,} bytes, so it is not the YAML file of a run")
    try:
        text = Path(path).read_text(encoding="utf-8")
        _check_yaml(text)
        values, document = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"not a YAML file: {one_line(error)}") from error
    if document is None:
        return {}
    if not isinstance(document, yaml.MappingNode):
        raise ValueError(f"expected lines `key: value`, got a {type(values).__name__}")
    for name, count in Counter(key.value for key, _ in document.value).items():
        if count > 1:
            raise ValueError(f"{name} is given {count} times; keep one of them")
    return values


def _check_yaml(text: str) -> None:
    """Refuse aliases, which can multiply a short text to gigabytes, and deep nesting, before anything is built."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"the alias *{event.anchor} is not supported; write its value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"nested more than {MAX_YAML_DEPTH} deep, so it is not the YAML file of a run")


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    hints = get_type_hints(kind)
    arguments = {}
    for name in (part.name for part in dataclasses.fields(kind) if part.init):  # type: ignore[arg-type]
        is_group = dataclasses.is_dataclass(hints[name])
        arguments[name] = _build(hints[name], values) if is_group else _expand_home(values[name])
    return kind(**arguments)


def _expand_home(value: Any) -> Any:
    """Replace a leading `~` of a text, or of the texts in a list, by the home folder."""
    if isinstance(value, list):
        return [_expand_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


# --- pretraining -----------------------------------------------------------------------------------------------------

_RULES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda number: number >= 1,
    "more than 1": lambda number: number > 1,
    "above 0": lambda number: number > 0,
    "above 0 and finite": lambda number: 0 < number < math.inf,
    "0 or more and finite": lambda number: 0 <= number < math.inf,
    "in [0, 1]": lambda number: 0 <= number <= 1,
}


def _require(part: Any, rule: str, *names: str) -> None:
    """Check every number of fields by one of `_RULES`. None and empty lists are allowed."""
    for name in names:
        value = getattr(part, name)
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        if not all(map(_RULES[rule], numbers)):
            raise ValueError(f"{name} must be {rule}, got {value}")


@dataclass
class DataArguments:
    """Videos, and how clips are sampled from them."""

    videos: list[str] = option("sources: folders, lists, .tar or .parquet files, videos, or patterns of these", [])
    video_weights: list[float] = option("relative weight of each source (default: every video once per epoch)", [])
    images: list[str] = option("sources of images, for image_passes and a model with image_tokenizer", [])
    video_column: str | None = option("column with the videos (None: video, path, file_name, or the only one)", None)
    streaming: bool = option("read the sources during training instead of listing all videos first", False)
    shuffle_buffer: int = option("streaming: number of videos in the shuffle buffer of each worker", 100)
    clips_per_video: int = option("clips sampled from a video each time it is opened", 1)
    frame_step: int = option("distance between frames of the clip, in frames of the video", 4)
    fps: float | None = option("frames per second of the clip; replaces frame_step (None: use frame_step)", None)
    short_video: Literal["repeat_last", "wrap", "error"] = option("how to fill clips longer than their video", "wrap")
    crop_scale: list[float] = option("minimum and maximum area of a crop, as a fraction of the frame", [0.3, 1.0])
    crop_aspect_ratio: list[float] = option("minimum and maximum width / height of a crop", [0.75, 1.35])
    flip_probability: float = option("probability of a horizontal flip", 0.5)
    color_jitter: list[float] = option("strengths of brightness, contrast, saturation and hue (default: off)", [])
    rand_augment_magnitude: float | None = option("magnitude of RandAugment in [0, 10] (None: off)", None)
    erase_probability: float = option("probability of filling one box of the clip with noise", 0.0)
    augment_on_device: bool = option("augment on the device of the model instead of in the workers", False)
    num_workers: int = option("data loader workers per training process", 8)
    max_failed_share: float = option("largest fraction of unreadable videos before the run stops", 0.05)

    def __post_init__(self) -> None:
        _require(self, "at least 1", "shuffle_buffer", "clips_per_video", "frame_step")
        _require(self, "above 0 and finite", "fps", "video_weights")
        _require(self, "0 or more and finite", "num_workers")
        _require(self, "in [0, 1]", "max_failed_share", "flip_probability", "erase_probability")
        for name in ("crop_scale", "crop_aspect_ratio"):
            if len(getattr(self, name)) != 2:
                raise ValueError(f"{name} must be two numbers, lower and upper, got {getattr(self, name)}")
        if len(self.color_jitter) not in (0, 4):
            raise ValueError(f"color_jitter must be brightness, contrast, saturation and hue, got {self.color_jitter}")


PUBLISHED_MASKS = [
    {"type": "multi_block", "num_blocks": mask.num_blocks, "spatial_scale": list(mask.spatial_scale)}
    for mask in (SHORT_RANGE, LONG_RANGE)
]
PUBLISHED_IMAGE_MASKS = [{"type": "multi_block", "num_blocks": 10, "spatial_scale": [0.15, 0.15]}]  # V-JEPA 2.1


@dataclass
class MaskArguments:
    """Mask types; each clip is masked once by every type."""

    masks: list[dict[str, Any]] = option(
        "mask types, each with its settings: {type: multi_block, num_blocks, spatial_scale, temporal_scale, "
        "aspect_ratio, context_steps} or {type: random_tube, ratio}",
        PUBLISHED_MASKS,
    )
    image_masks: list[dict[str, Any]] = option("mask types of images, as masks", PUBLISHED_IMAGE_MASKS)
    mask_mode: Literal["subsample", "reference"] = option("drop tokens at random or the last ones", "subsample")
    mask_group_size: int | None = option("number of clips whose masks have one length (None: global batch size)", None)

    def __post_init__(self) -> None:
        _require(self, "at least 1", "mask_group_size")
        for name in ("masks", "image_masks"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one mask type, got []")
            for index, settings in enumerate(getattr(self, name)):
                try:
                    make_mask(settings)
                except ValueError as error:
                    raise ValueError(f"{name}[{index}]: {error}") from error


@dataclass
class OptimizationArguments:
    """Initial weights, AdamW, schedules, and the average of the target encoder."""

    init_from: str | None = option("folder or Hub name of a model with initial weights (None: random weights)", None)
    init_parts: list[str] = option("parts to load: context_encoder, target_encoder, predictor (default: all)", [])
    freeze_layers: int = option("number of context-encoder layers to freeze; freezes the tubelet embedding too", 0)
    max_steps: int = option("number of optimizer steps", 90_000)
    warmup_steps: int = option("steps of the linear learning rate warm-up", 12_000)
    schedule_scale: float = option("length of the schedules as a multiple of max_steps", 1.25)
    learning_rate_schedule: LearningRateSchedule = option(
        "learning rate after the warm-up: half a cosine or a line to final_learning_rate, or constant", "cosine"
    )
    start_learning_rate: float = option("initial learning rate", 2e-4)
    learning_rate: float = option("learning rate at the end of the warm-up", 6.25e-4)
    final_learning_rate: float = option("learning rate at the end of the schedule", 1e-6)
    predictor_learning_rate_scale: float = option("learning rate of the predictor divided by the encoder's", 1.0)
    weight_decay: float = option("weight decay at the first step", 0.04)
    final_weight_decay: float = option("weight decay at the end of the schedule", 0.4)
    ema_momentum: float = option("momentum of the target encoder at the first step", 0.998)
    final_ema_momentum: float = option("momentum of the target encoder at the end of the schedule", 1.0)
    per_device_batch_size: int = option("clips per device and forward pass", 24)
    gradient_accumulation_steps: int = option("forward passes per optimizer step", 1)
    image_passes: int = option("how many of these forward passes are of images", 0)
    per_device_image_batch_size: int | None = option("images per device and forward pass (None: as clips)", None)
    context_loss_weight: float = option("weight of the loss on context tokens, of models with pred_context_head", 0.5)
    context_loss_warmup: list[int] = option("first and last step of its rise from 0 (default: no warm-up)", [])
    context_loss_by_distance: bool = option("divide it by the square root of the distance to the nearest target", True)
    max_grad_norm: float = option("maximum gradient norm, for encoder and predictor separately", 10.0)
    clip_after_warmup: bool = option("clip gradients only after the warm-up, as in the released runs", True)

    def __post_init__(self) -> None:
        if self.init_parts and self.init_from is None:
            raise ValueError(f"init_parts {self.init_parts} needs init_from, the folder to load them from")
        _require(self, "at least 1", "max_steps", "per_device_batch_size", "gradient_accumulation_steps")
        _require(self, "above 0 and finite", "schedule_scale", "learning_rate", "predictor_learning_rate_scale")
        _require(self, "0 or more and finite", "start_learning_rate", "final_learning_rate")
        _require(self, "0 or more and finite", "weight_decay", "final_weight_decay")
        _require(self, "in [0, 1]", "ema_momentum", "final_ema_momentum")
        _require(self, "above 0", "max_grad_norm")
        _require(self, "0 or more and finite", "warmup_steps", "context_loss_weight", "context_loss_warmup")
        _require(self, "at least 1", "per_device_image_batch_size")
        if not 0 <= self.image_passes < self.gradient_accumulation_steps:
            raise ValueError(
                f"image_passes must be at least 0 and less than gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps}, so that a step also has videos, got {self.image_passes}"
            )
        warmup = self.context_loss_warmup
        if warmup and (len(warmup) != 2 or warmup[0] >= warmup[1]):
            raise ValueError(f"context_loss_warmup must be two increasing steps, got {self.context_loss_warmup}")

    @property
    def effective_warmup_steps(self) -> int:
        """Number of warm-up steps: `warmup_steps`, or a tenth of a run that is shorter than its warm-up."""
        return self.warmup_steps if self.warmup_steps <= self.max_steps else self.max_steps // 10


@dataclass
class EvaluationArguments:
    """Evaluation of the encoder on labelled videos during training; the encoder does not train on them."""

    eval_train_videos: str | None = option("labelled videos to fit classifiers on (None: no evaluation)", None)
    eval_test_videos: str | None = option("labelled videos to classify; required with eval_train_videos", None)
    eval_label: str = option("column with the labels; `label` for a folder per class", "label")
    eval_steps: int = option("optimizer steps between evaluations", 500)

    def __post_init__(self) -> None:
        if (self.eval_train_videos is None) != (self.eval_test_videos is None):
            raise ValueError(
                f"eval_train_videos {self.eval_train_videos!r} and eval_test_videos {self.eval_test_videos!r} "
                "belong together; give both or neither"
            )
        _require(self, "at least 1", "eval_steps")


@dataclass
class RunArguments:
    """Output, logging, precision and memory."""

    output_dir: str = option("folder for checkpoints, log, curves and exported model", "output/pretrain")
    seed: int = option("random seed", 0)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        "precision of the forward pass (None: that of the launcher, or no)", None
    )
    cpu_threads: int | None = option("CPU threads per process (None: keep the setting of the launcher)", None)
    compile: bool = option("compile the transformer layers with torch.compile", False)
    gradient_checkpointing: bool = option("recompute activations in the backward pass to save memory", False)
    logging_steps: int = option("optimizer steps between log lines", 10)
    health_steps: int = option("optimizer steps between health lines", 100)
    save_steps: int = option("optimizer steps between checkpoints", 1000)
    save_total_limit: int = option("number of checkpoints to keep", 2)
    resume: bool = option("resume from the newest checkpoint in output_dir", False)
    resume_step: int | None = option("resume from the checkpoint of this step and set newer ones aside", None)
    resume_from_hub: str | None = option("download a run, NAME or NAME@REVISION, to output_dir and resume it", None)
    overwrite_output_dir: bool = option("delete the run in output_dir and start from scratch", False)
    max_skipped_steps: int = option("consecutive skipped steps after which the run saves and stops", 20)
    max_grad_norm_ratio: float | None = option("skip steps above this multiple of the median gradient norm", None)
    report_to: list[str] = option("trackers of Accelerate: tensorboard, wandb, ... (default or none: no tracker)", [])
    run_name: str | None = option("name of the run in the trackers (None: the name of output_dir)", None)

    def __post_init__(self) -> None:
        _require(self, "at least 1", "logging_steps", "health_steps", "save_steps", "save_total_limit")
        _require(self, "at least 1", "max_skipped_steps", "cpu_threads")
        _require(self, "0 or more and finite", "seed")
        _require(self, "more than 1", "max_grad_norm_ratio")
        self.resume = self.resume or self.resume_step is not None or self.resume_from_hub is not None
        if self.resume and self.overwrite_output_dir:
            raise ValueError("resume and overwrite_output_dir exclude each other; set one of them")


@dataclass
class HubArguments:
    """Upload of the folder to the Hub, with its model card."""

    push_to_hub: bool = option("upload the folder to the Hub", False)
    hub_model_id: str | None = option("name on the Hub, such as me/my-model (None: the name of output_dir)", None)
    hub_private_repo: bool = option("create a private repository", False)
    hub_revision: str | None = option("branch to upload to; it is created (None: main)", None)
    hub_remote_code: bool = option("add the code of the model, so that it loads without vjepa_hf", False)

    def __post_init__(self) -> None:
        for name in ("hub_model_id", "hub_private_repo", "hub_revision"):
            if getattr(self, name) and not self.push_to_hub:
                raise ValueError(f"{name} has no effect without push_to_hub: add it, or omit {name}")


@dataclass
class PretrainingHubArguments(HubArguments):
    """Upload of the folder to the Hub, with its model card."""

    hub_strategy: Literal["end", "every_save", "checkpoint"] = option(
        "upload at the end, at every save too, or at every save with the newest checkpoint", "end"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hub_strategy != "end" and not self.push_to_hub:
            raise ValueError("hub_strategy has no effect without push_to_hub: add it, or omit hub_strategy")


def split_revision(source: str) -> tuple[str, str | None]:
    """Split `NAME@REVISION` of a repository; without `@` the revision is None."""
    name, _, revision = source.partition("@")
    return name, revision or None


def _hub_config(source: str) -> str:
    """Download the `ARGUMENTS_FILE` of a run on the Hub.

    Raises:
        ValueError: it cannot be downloaded.
    """
    name, revision = split_revision(source)
    try:
        return hf_hub_download(name, ARGUMENTS_FILE, revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ValueError(
            f"resume_from_hub: cannot download the {ARGUMENTS_FILE} of {source!r}: {one_line(error)}. A run uploads "
            "it with --hub_strategy checkpoint"
        ) from error


# Keys of `model`: the fields of VJEPAConfig, and an option of transformers.
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
    hub: PretrainingHubArguments
    model: dict[str, Any] = option("fields of VJEPAConfig with their defaults", {}, keys=MODEL_FIELDS)

    def __post_init__(self) -> None:
        images, passes = self.data.images, self.optimization.image_passes
        if bool(images) != bool(passes):
            raise ValueError(f"images {images} and image_passes {passes} belong together; give both or neither")
        if images and not self.model.get("image_tokenizer"):
            raise ValueError("images need a model with an image tokenizer: add --model.image_tokenizer true")

    def to_dict(self) -> dict[str, Any]:
        """Return every option with its value, without groups, as in the YAML file."""
        groups = self.data, self.masking, self.optimization, self.evaluation, self.run, self.hub
        values = {name: value for group in groups for name, value in dataclasses.asdict(group).items()}
        return {"model": self.model} | values

    def save(self, path: str | Path) -> None:
        """Write a YAML file that `--config` reads back.

        Resuming and overwriting are not saved, because they concern a single start of the run.
        """
        values = self.to_dict() | {"resume": False, "resume_step": None, "overwrite_output_dir": False}
        values["resume_from_hub"] = None
        with whole_file(path) as unfinished:
            unfinished.write_text(yaml.safe_dump(values, sort_keys=False))


def parse_arguments(
    command_line: Sequence[str] | None = None, default_config: str | Path | None = None
) -> PretrainingArguments:
    """Read the arguments of a pretraining run, see `parse`.

    A run that was moved or copied resumes where its `ARGUMENTS_FILE` lies, unless the command line has `output_dir`.
    With `resume_from_hub` and without `--config`, the arguments are those of the run on the Hub.

    Raises:
        ValueError: as `parse`; a warm-up on the command line that is longer than the run; or `overwrite_output_dir`
            with the file of a copied run, which names another folder.
    """
    if command_line is None:
        with mistakes_exit():
            return parse_arguments(sys.argv[1:], default_config)
    config, words = _split_config(command_line)
    if config is None and (source := _take("--resume_from_hub", words)[0]):
        default_config = _hub_config(source)
    args = parse(PretrainingArguments, command_line, default_config)
    named = {word.split("=")[0] for word in words}
    optimization = args.optimization
    if "--warmup_steps" in named and optimization.warmup_steps > optimization.max_steps:
        allowed = f"[0, max_steps={optimization.max_steps}]"
        raise ValueError(f"warmup_steps must lie in {allowed}, got {optimization.warmup_steps}")
    folder = Path(config or "").parent
    is_copied = (folder / "checkpoints").is_dir() and folder.resolve() != Path(args.run.output_dir).resolve()
    if config and Path(config).name == ARGUMENTS_FILE and is_copied and "--output_dir" not in named:
        if args.run.overwrite_output_dir:
            raise ValueError(
                f"{config} names the folder {args.run.output_dir!r}, not its own; give --output_dir, the folder whose "
                "run is to be deleted"
            )
        if args.run.resume:
            args.run.output_dir = str(folder)
    return args
