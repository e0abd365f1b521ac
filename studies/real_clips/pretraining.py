"""The encoders of the study: how each gets its weights, for equal encoder compute."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from accelerate import Accelerator
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from clips import NUM_SPLITS
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.data import clips as data
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler, MaskType, MultiBlockMask, RandomTubeMask
from vjepa_hf.data.order import ClipBatchSampler
from vjepa_hf.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize
from vjepa_hf.model.tubelets import Grid
from vjepa_hf.training import diagnostics
from vjepa_hf.training.arguments import OptimizationArguments, option
from vjepa_hf.training.optimization import hyperparameters, make_optimizer, parameter_groups, set_hyperparameters

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import videomae  # noqa: E402

transformers.utils.logging.disable_progress_bar()
HEALTH = "target_std", "target_rank", "loss_ratio"


@dataclass(frozen=True)
class Method:
    """A row of the comparison: how an encoder gets its weights.

    Attributes:
        title: in the tables.
        masks: of pretraining; none leaves the encoder as it was initialized.
        mask_mode: how lists of tokens are cut to one length.
        predicts_pixels: VideoMAE in place of V-JEPA.
        starts: from the model in the folder `--start`, not from random weights.
        optimization: what differs from the settings that all methods share.
    """

    title: str
    masks: tuple[MaskType, ...] = ()
    mask_mode: str = "subsample"
    predicts_pixels: bool = False
    starts: bool = False
    optimization: Mapping[str, float] = field(default_factory=dict)


# The predictor learns faster than the encoder (docs/recipe.md).
JEPA = {"predictor_learning_rate_scale": 6.0}
MAE = {"weight_decay": videomae.WEIGHT_DECAY, "final_weight_decay": videomae.WEIGHT_DECAY}
BLOCKS = (SHORT_RANGE, LONG_RANGE)
FUTURE = MultiBlockMask(num_blocks=0, context_steps=2)  # the second half of 4 time steps; see `mask_types`
METHODS = {
    "untrained": Method("untrained"),
    "vjepa": Method("V-JEPA", BLOCKS, optimization=JEPA),
    "vjepa_reference": Method("V-JEPA, reference masks", BLOCKS, mask_mode="reference", optimization=JEPA),
    "vjepa_causal": Method("V-JEPA, second half hidden", (FUTURE,), optimization=JEPA),
    "videomae": Method("VideoMAE", (RandomTubeMask(0.75),), predicts_pixels=True, optimization=MAE),
    "start": Method("the model of --start, as it is", starts=True),
    "vjepa_started": Method(
        "V-JEPA, second half hidden, from the model of --start", (FUTURE,), starts=True, optimization=JEPA
    ),
}
BUDGET = METHODS["vjepa"]


@dataclass
class PretrainingOptions:
    """What decides the encoder that a method makes."""

    steps: int = option("optimizer steps of V-JEPA, whose encoder compute all methods get", 200)
    batch_size: int = option("clips per step", 16)
    learning_rate: float = option("peak learning rate of pretraining", 5e-4)
    ema_momentum: float = option("initial momentum of the target encoder", 0.99)
    image_size: int = option("height and width of a clip", 32)
    num_frames: int = option("frames per clip", 8)
    patch_size: int = option("height and width of a tubelet", 8)
    hidden_size: int = option("width of the encoder", 128)
    num_layers: int = option("layers of the encoder", 4)
    num_heads: int = option("attention heads of encoder, predictor, decoder and probe", 4)
    num_workers: int = option("processes that make training clips", 0)
    mixed_precision: Literal["no", "bf16"] = option("precision of the encoders", "no")
    seed: int = option("seed of the folds, and of all that has no `seeds`", 0)


@dataclass(kw_only=True)
class Options(PretrainingOptions):
    """Compare encoders that learned from features and from pixels, on real clips."""

    videos: str = option("folder with the clips; the list next to it has the same name and .csv")
    output: str | None = option("Markdown page to write", None)
    runs: str = option("folder that keeps encoders and results", "output/real_clips")
    methods: list[str] = option(
        f"rows of the tables, of {', '.join(METHODS)}", [name for name, method in METHODS.items() if not method.starts]
    )
    start: str | None = option(
        "folder of the V-JEPA model of the rows `start` and `vjepa_started`; `{seed}` in it stands for the seed", None
    )
    splits: list[int] = option("which of the five splits", list(range(NUM_SPLITS)))
    seeds: list[int] = option("seeds of pretraining: in each split, a run of each method per seed", [0])
    probes: int = option("probes per encoder, each with its own seed", 2)
    probe_steps: int = option("approximate optimizer steps of a probe, of 32 clips each", 160)
    probe_learning_rates: list[float] = option("learning rates of a probe, of which one is chosen", [1e-3, 3e-3])


def new_model(method: Method, options: PretrainingOptions, seed: int) -> PreTrainedModel:
    """Return a model with initial weights; all encoders have one size, and so have predictor and decoder."""
    torch.manual_seed(seed)
    config = VJEPAConfig(
        image_size=options.image_size,
        patch_size=options.patch_size,
        num_frames=options.num_frames,
        tubelet_size=2,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_layers,
        num_attention_heads=options.num_heads,
        pred_hidden_size=options.hidden_size // 2,
        pred_num_hidden_layers=3,
        pred_num_mask_tokens=max(1, len(method.masks)),
    )
    return videomae.new_videomae(config) if method.predicts_pixels else VJEPAForPreTraining(config)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch on the device, with normalized clips."""
    masks = {name: [mask.to(device) for mask in batch[name]] for name in ("context_masks", "target_masks")}
    pixels = normalize(batch["pixel_values_videos"].to(device), IMAGENET_MEAN, IMAGENET_STD)
    return masks | {"pixel_values_videos": pixels}


def mask_types(method: Method, grid: Grid) -> list[MaskType]:
    """Return the mask types of a method; the future is the second half of the clip, however many time steps it has."""
    return [replace(mask, context_steps=grid[0] // 2) if mask == FUTURE else mask for mask in method.masks]


def make_loader(method: Method, clips: Dataset, steps: int, options: PretrainingOptions) -> Any:
    """Return batches of random clips with the masks of a method."""
    grid = new_model(BUDGET, options, options.seed).config.grid_size
    sampler = MaskSampler(mask_types(method, grid), grid, options.seed, method.mask_mode)
    return torch.utils.data.DataLoader(
        clips,
        batch_sampler=ClipBatchSampler(len(clips), options.batch_size, steps, options.seed),
        collate_fn=data.PretrainingCollator(sampler),
        num_workers=options.num_workers,
    )


def encoder_flops(method: Method, clips: Dataset, options: PretrainingOptions) -> float:
    """Return the FLOPs of a step in the encoders, see `videomae.encoder_flops`; mean of 4 steps."""
    config = new_model(BUDGET, options, options.seed).config  # all methods have its sizes
    return videomae.encoder_flops(config, make_loader(method, clips, 4, options), method.predicts_pixels)


def settings_of(method: Method, steps: int, options: PretrainingOptions) -> OptimizationArguments:
    """Return the optimizer settings of a run: those of the method, and for the rest those that all share."""
    shared = {"learning_rate": options.learning_rate, "start_learning_rate": 0.0, "warmup_steps": steps // 10}
    shared |= {"ema_momentum": options.ema_momentum}
    return OptimizationArguments(max_steps=steps, **shared | dict(method.optimization))


def optimizer_of(model: PreTrainedModel, settings: OptimizationArguments) -> torch.optim.AdamW:
    """Return AdamW without weight decay of biases and norms, for both kinds of models."""
    if isinstance(model, VJEPAForPreTraining):
        return make_optimizer(model, settings)
    return torch.optim.AdamW(parameter_groups(model), betas=videomae.BETAS)


def pretrain(
    accelerator: Accelerator,
    method: Method,
    clips: Dataset,
    options: PretrainingOptions,
    budget: Method = BUDGET,
    start: str | None = None,
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Train a model with the encoder FLOPs of `budget`, and return it with what the training cost.

    Args:
        accelerator: device and precision.
        method: how the model learns.
        clips: dataset of `ClipSample`, by `ClipRequest`.
        options: sizes of the model and of the training.
        budget: method that trains for `options.steps` steps.
        start: folder of a model of the same width and depth for a method that starts from one.

    Raises:
        ValueError: the method starts from a model and there is no `start`.
    """
    device = accelerator.device
    if method.starts and start is None:
        raise ValueError(f"the method {method.title!r} needs --start, the folder of a V-JEPA model")
    if method.starts:
        size = {"image_size": options.image_size, "num_frames": options.num_frames}
        model = VJEPAForPreTraining.from_pretrained(start, **size).to(device)
    else:
        model = new_model(method, options, options.seed).to(device)
    if not method.masks:
        return model, {}
    allowed, flops = (encoder_flops(each, clips, options) for each in (budget, method))
    steps = round(options.steps * allowed / flops)
    settings = settings_of(method, steps, options)
    optimizer = optimizer_of(model, settings)
    # One tensor: a scalar that a loss function returned may keep a large buffer alive.
    began, losses = time.perf_counter(), torch.zeros(steps, device=device)
    for step, batch in enumerate(make_loader(method, clips, steps, options)):
        batch = to_device(batch, device)
        values = hyperparameters(step, settings)
        set_hyperparameters(optimizer, values)
        with accelerator.autocast():
            outputs = videomae.training_outputs(model, batch)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not method.predicts_pixels:
            model.update_target_encoder(values["ema_momentum"])
        losses[step] = outputs.loss.detach()
    health = {}
    if not method.predicts_pixels:
        metrics = diagnostics.health(model, outputs, batch["context_masks"], batch["target_masks"])
        health = {name: metrics[name] for name in HEALTH}
    tenth = max(1, steps // 10)
    return model, health | {
        "steps": steps,
        "clips": steps * options.batch_size,
        "encoder_tflop": steps * flops / 1e12,
        "minutes": (time.perf_counter() - began) / 60,
        "first_loss": losses[:tenth].mean().item(),
        "last_loss": losses[-tenth:].mean().item(),
    }


def refuse_other_settings(runs: Path, settings: Mapping[str, Any]) -> None:
    """Record the settings of the results in a folder.

    Raises:
        ValueError: the folder holds results of other settings.
    """
    kept = runs / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        raise ValueError(f"--runs {runs} has results of other settings ({kept}); choose another folder")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(settings))
