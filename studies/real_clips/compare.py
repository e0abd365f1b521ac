"""Features or pixels: which target teaches a small encoder more about real clips, for the same encoder compute?

    python benchmarks/video_tasks.py --videos PATH_TO_actions_folder --output benchmarks/results/video_tasks.md

Encoders of one size are pretrained on all clips but those of the test groups, labelled or not, and frozen; the same
attentive probe then reads their tokens. `ut_interaction` (6 interactions): each of 20 sequences is the test set once,
and each half of the set (sequences 1 to 10 and 11 to 20) is classified once by a probe that learned from the other
half alone. `surv_fight` (fight or not): 5 folds of whole scenes. Five runs of a method serve all of it: the encoder
of run k never sees fold k of `surv_fight`, and those of the first two none of the half of `ut_interaction` that is
tested, which is stricter than it must be. Every method gets as many encoder FLOPs as V-JEPA with multi-block masks
spends in `--steps` steps, the same clips, crops, batch size and learning rate, and the same probe, whose learning
rate is chosen on clips that are training clips in every fold. Ridge regression on the tokens, and on pixels, is a
second reader.

The folder `--runs` keeps what is done, so a run that was stopped goes on where it stood. One process, on a GPU if
there is one; with more compute raise `--image-size`, `--num-frames`, `--hidden-size`, `--num-layers` and `--steps`.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional
from transformers import PreTrainedModel, VideoMAEConfig, VideoMAEForPreTraining

import report
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification
from vjepa_hf.data import clips as data
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, CausalMask, MaskKind, MaskSampler, TubeMask
from vjepa_hf.data.order import ClipBatchSampler, ClipRequest
from vjepa_hf.data.transforms import IMAGENET_MEAN, IMAGENET_STD, RandomResizedCropFlip, normalize
from vjepa_hf.data.videos import decode_video
from vjepa_hf.evaluation.grouping import grouped_folds, grouped_interval
from vjepa_hf.evaluation.labels import encode_labels
from vjepa_hf.evaluation.probes import probe_logits, train_probe
from vjepa_hf.model.video_io import VideoInfo
from vjepa_hf.training import diagnostics
from vjepa_hf.training.arguments import OptimizationArguments
from vjepa_hf.training.optimization import hyperparameters, make_optimizer, parameter_groups, set_hyperparameters

NUM_SPLITS = 5
HALVES = [{f"seq{number:02}" for number in range(first, first + 10)} for first in (1, 11)]
SEQUENCES, OTHER_HALF, SCENES = "ut_interaction, a sequence out", "ut_interaction, other half", "surv_fight, 5 folds"
TASKS = SEQUENCES, OTHER_HALF, SCENES
# Accuracies without learned features, in the order of TASKS, as the note that comes with the clips has them.
NOTED = {
    "chance": (0.17, 0.17, 0.50),
    "noted with the set: length of the clip": (0.32, None, None),
    "noted with the set: middle frame": (0.41, None, None),
    "noted with the set: motion energy": (0.68, None, None),
    "noted with the set: thumbnails": (None, 0.54, 0.69),
}
CACHED_FRAMES = 32  # of every video; clips are made of them
transformers.utils.logging.disable_progress_bar()
PROBE, RIDGE = "attentive probe", "ridge regression"
PROBE_BATCH = 32
HEALTH = "target_std", "target_rank", "loss_ratio"
RIDGE_STRENGTHS = [0.1, 1.0, 10.0]


@dataclass(frozen=True)
class Method:
    """A row of the comparison: how an encoder gets its weights.

    Attributes:
        title: in the tables.
        masks: of pretraining; none leaves the encoder as it was initialized.
        mask_mode: how lists of tokens are cut to one length.
        predicts_pixels: VideoMAE in place of V-JEPA.
        optimization: what differs from the settings that all methods share.
    """

    title: str
    masks: tuple[MaskKind, ...] = ()
    mask_mode: str = "subsample"
    predicts_pixels: bool = False
    optimization: Mapping[str, float] = field(default_factory=dict)


# The predictor learns faster than the encoder (docs/recipe.md).
JEPA = {"predictor_learning_rate_scale": 6.0}
# VideoMAE's own weight decay and second moment.
MAE = {"weight_decay": 0.05, "final_weight_decay": 0.05, "adam_beta2": 0.95}
BLOCKS = (SHORT_RANGE, LONG_RANGE)
METHODS = {
    "untrained": Method("untrained"),
    "vjepa": Method("V-JEPA", BLOCKS, optimization=JEPA),
    "vjepa_reference": Method("V-JEPA, reference masks", BLOCKS, mask_mode="reference", optimization=JEPA),
    "vjepa_causal": Method("V-JEPA, second half hidden", (CausalMask(2),), optimization=JEPA),
    "videomae": Method("VideoMAE", (TubeMask(0.75),), predicts_pixels=True, optimization=MAE),
}
BUDGET = METHODS["vjepa"]


# --- clips ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clips:
    """The videos, decoded, and what the list says about them; one row a video.

    Attributes:
        frames: uint8 `(n, CACHED_FRAMES, 3, side, side)`, evenly spread over each video.
        paths: as in the list.
        sets: which set a video belongs to.
        labels: name of its class.
        groups: sequence, scene or subject, "" where the set has none.
    """

    frames: np.ndarray
    paths: np.ndarray
    sets: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def rows(self, name: str) -> np.ndarray:
        """Rows of a set."""
        return np.flatnonzero(self.sets == name)


def read_clips(folder: Path, side: int, runs: Path) -> Clips:
    """Decode the videos of the list beside a folder; the second time, read them from a file in `runs`."""
    with open(folder.with_suffix(".csv"), newline="") as lines:
        rows = list(csv.DictReader(lines))
    columns = [np.array([row[name] for row in rows]) for name in ("path", "set", "label", "group")]
    cache = runs / f"clips_{side}.npy"
    if not cache.exists():
        videos = [decode_video(folder.parent / row["path"], spread_frames, (side, side)) for row in rows]
        np.save(cache, torch.stack(videos).numpy())
    return Clips(np.load(cache, mmap_mode="r"), *columns)


def spread_frames(info: VideoInfo) -> np.ndarray:
    """Frame numbers from the first to the last however long the video is: its length must tell nothing."""
    return np.linspace(0, info.num_frames - 1, CACHED_FRAMES).round().astype(int)


class TrainingClips(torch.utils.data.Dataset):
    """Random windows of some of the videos, at least half as long, cropped and mirrored."""

    def __init__(self, frames: np.ndarray, rows: np.ndarray, num_frames: int, side: int, seed: int) -> None:
        self.frames, self.rows, self.num_frames, self.seed = frames, rows, num_frames, seed
        self.transform = RandomResizedCropFlip((side, side), scale=(0.5, 1.0))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, request: ClipRequest) -> data.ClipSample:
        generator = data.augmentation_generator(self.seed, (request.epoch, request.index, 0))
        length = generator.integers(CACHED_FRAMES // 2, CACHED_FRAMES + 1)
        start = generator.integers(CACHED_FRAMES - length + 1)
        window = start + np.linspace(0, length - 1, self.num_frames).round().astype(int)
        row = self.rows[request.index]
        clip = torch.from_numpy(self.frames[row, window])
        return data.ClipSample(self.transform(clip, generator), request, video=str(row))


# --- splits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What an encoder is asked in one split. All are rows of the clips.

    Attributes:
        rows: the labelled clips of the task.
        tests: test clips; for each of them a probe learns from the other `rows`.
        choosing: two halves, by whole groups, of clips that are in no test of this split.
    """

    rows: np.ndarray
    tests: list[np.ndarray]
    choosing: list[np.ndarray]


def tasks(clips: Clips, split: int, seed: int) -> dict[str, Task]:
    """The tasks of a split, by name."""
    fights, fold = clips.rows("surv_fight"), scene_folds(clips, seed)[split]
    found = {SCENES: Task(fights, [fold], deal(clips, np.setdiff1d(fights, fold), 2, seed))}
    if split < len(HALVES):
        acts = clips.rows("ut_interaction")
        tested = acts[np.isin(clips.groups[acts], list(HALVES[split]))]
        choosing = deal(clips, np.setdiff1d(acts, tested), 2, seed)
        sequences = [tested[clips.groups[tested] == name] for name in sorted(HALVES[split])]
        # A probe that learns from all rows but the tested ones learns from the other half.
        found |= {SEQUENCES: Task(acts, sequences, choosing), OTHER_HALF: Task(acts, [tested], choosing)}
    return found


def pretraining_rows(clips: Clips, split: int, seed: int) -> np.ndarray:
    """Rows that the encoder of a split may see: none of a group that is tested, in whatever set."""
    tested = np.concatenate([test for task in tasks(clips, split, seed).values() for test in task.tests])
    return np.flatnonzero(~np.isin(clips.groups, clips.groups[tested]))


def scene_folds(clips: Clips, seed: int) -> list[np.ndarray]:
    """Rows of `surv_fight` that are tested in each split."""
    return deal(clips, clips.rows("surv_fight"), NUM_SPLITS, seed)


def deal(clips: Clips, rows: np.ndarray, num_folds: int, seed: int) -> list[np.ndarray]:
    """Rows in folds of whole groups."""
    return [rows[fold] for fold in grouped_folds(clips.groups[rows], clips.labels[rows], num_folds, seed)]


# --- pretraining ---------------------------------------------------------------------------------------------------


def new_model(method: Method, options: argparse.Namespace, seed: int) -> PreTrainedModel:
    """A model before its first step; encoders are of one size, and so are predictor and decoder."""
    torch.manual_seed(seed)
    encoder = {
        "image_size": options.image_size,
        "patch_size": options.patch_size,
        "num_frames": options.num_frames,
        "tubelet_size": 2,
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.num_layers,
        "num_attention_heads": options.num_heads,
    }
    width, depth = options.hidden_size // 2, 3
    if not method.predicts_pixels:
        kinds = max(1, len(method.masks))
        config = VJEPAConfig(
            **encoder, pred_hidden_size=width, pred_num_hidden_layers=depth, pred_num_mask_tokens=kinds
        )
        return VJEPAForPreTraining(config)
    config = VideoMAEConfig(
        **encoder,
        intermediate_size=4 * options.hidden_size,
        decoder_hidden_size=width,
        decoder_num_hidden_layers=depth,
        decoder_num_attention_heads=options.num_heads,
        decoder_intermediate_size=4 * width,
        use_mean_pooling=False,  # its encoder then ends in a layer norm, as V-JEPA's does
    )
    return VideoMAEForPreTraining(config)


def training_outputs(model: PreTrainedModel, batch: dict[str, Any], device: torch.device) -> Any:
    """What a model gives in a training step, `loss` among it."""
    pixels = normalize(batch["pixel_values_videos"].to(device), IMAGENET_MEAN, IMAGENET_STD)
    contexts, targets = ([mask.to(device) for mask in batch[name]] for name in ("context_masks", "target_masks"))
    if isinstance(model, VJEPAForPreTraining):
        return model(pixels, contexts, targets)
    hidden = torch.zeros(len(pixels), contexts[0].shape[1] + targets[0].shape[1], dtype=torch.bool, device=device)
    return model(pixels, bool_masked_pos=hidden.scatter_(1, targets[0], True))


def make_loader(method: Method, clips: TrainingClips, steps: int, options: argparse.Namespace) -> Any:
    """Batches of random clips with the masks of a method."""
    grid = new_model(BUDGET, options, options.seed).config.grid_size
    return torch.utils.data.DataLoader(
        clips,
        batch_sampler=ClipBatchSampler(len(clips), options.batch_size, steps, options.seed),
        collate_fn=data.PretrainingCollator(MaskSampler(method.masks, grid, options.seed, method.mask_mode)),
        num_workers=options.num_workers,
    )


def encoder_flops(method: Method, clips: TrainingClips, options: argparse.Namespace, device: torch.device) -> float:
    """FLOPs that a step spends in encoders, forward and backward, the pass of the target included; mean of 4 steps."""
    model, steps = new_model(method, options, options.seed).to(device), 4
    # The math backend, because PyTorch < 2.15 does not count fused attention on the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for batch in make_loader(method, clips, steps, options):
            training_outputs(model, batch, device).loss.backward()
    encoders = ("videomae",) if method.predicts_pixels else ("context_encoder", "vjepa.encoder")
    counts = counter.get_flop_counts()
    return sum(sum(counts[f"{type(model).__name__}.{name}"].values()) for name in encoders) / steps


def settings_of(method: Method, steps: int, options: argparse.Namespace) -> OptimizationArguments:
    """Optimizer and schedules of a run; what a method does not say is the same for all."""
    shared = {"learning_rate": options.learning_rate, "start_learning_rate": 0.0, "warmup_steps": steps // 10}
    shared |= {"ema_momentum": options.ema_momentum}
    return OptimizationArguments(max_steps=steps, **shared | dict(method.optimization))


def optimizer_of(model: PreTrainedModel, settings: OptimizationArguments) -> torch.optim.AdamW:
    """AdamW, which leaves biases and norms undecayed in both kinds of models."""
    if isinstance(model, VJEPAForPreTraining):
        return make_optimizer(model, settings)
    betas = settings.adam_beta1, settings.adam_beta2
    return torch.optim.AdamW(parameter_groups(model), betas=betas, eps=settings.adam_epsilon)


def pretrain(
    accelerator: Accelerator, method: Method, clips: TrainingClips, options: argparse.Namespace
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Train a model with the encoder FLOPs that every method gets; the model, and what it took."""
    device = accelerator.device
    model = new_model(method, options, options.seed).to(device)
    if not method.masks:
        return model, {}
    budget, flops = (encoder_flops(each, clips, options, device) for each in (BUDGET, method))
    steps = round(options.steps * budget / flops)
    settings = settings_of(method, steps, options)
    optimizer = optimizer_of(model, settings)
    began, losses = time.perf_counter(), []
    for step, batch in enumerate(make_loader(method, clips, steps, options)):
        values = hyperparameters(step, settings)
        set_hyperparameters(optimizer, values)
        with accelerator.autocast():
            outputs = training_outputs(model, batch, device)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not method.predicts_pixels:
            model.update_target_encoder(values["ema_momentum"])
        losses.append(outputs.loss.detach())
    health = {}
    if not method.predicts_pixels:
        masks = ([mask.to(device) for mask in batch[name]] for name in ("context_masks", "target_masks"))
        figures = diagnostics.health(model, outputs, *masks)
        health = {name: figures[name] for name in HEALTH}
    losses, tenth = torch.stack(losses), max(1, steps // 10)
    return model, health | {
        "steps": steps,
        "clips": steps * options.batch_size,
        "encoder_tflop": steps * flops / 1e12,
        "minutes": (time.perf_counter() - began) / 60,
        "first_loss": losses[:tenth].mean().item(),
        "last_loss": losses[-tenth:].mean().item(),
    }


# --- judging -------------------------------------------------------------------------------------------------------

# (training rows, their labels, test rows, setting, seed) -> scores (test rows, classes)
Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray, float, int], np.ndarray]


@torch.inference_mode()
def read_tokens(
    accelerator: Accelerator, model: PreTrainedModel, frames: np.ndarray, options: argparse.Namespace
) -> np.ndarray:
    """Tokens of whole clips from a frozen encoder, as they are and mirrored: float16 `(2, n, N, D)`."""
    encoder = (model.videomae if isinstance(model, VideoMAEForPreTraining) else model.vjepa).eval()
    moments = np.linspace(0, CACHED_FRAMES - 1, options.num_frames).round().astype(int)
    size, tokens = (options.image_size, options.image_size), []
    for start in range(0, len(frames), options.batch_size):
        clips = torch.from_numpy(frames[start : start + options.batch_size, moments]).to(accelerator.device)
        clips = functional.resize(clips.flatten(0, 1), size, antialias=False).unflatten(0, (-1, len(moments)))
        pixels = normalize(torch.cat([clips, clips.flip(-1)]), IMAGENET_MEAN, IMAGENET_STD)
        with accelerator.autocast():
            features = encoder(pixels).last_hidden_state
        tokens.append(features.to("cpu", torch.float16).unflatten(0, (2, -1)))
    return torch.cat(tokens, dim=1).numpy()


def attentive_probe(
    tokens: np.ndarray,
    place: np.ndarray,
    options: argparse.Namespace,
    device: torch.device,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    learning_rate: float,
    seed: int,
) -> np.ndarray:
    """A `Classifier`: it learns from both views of a clip, and answers with the mean of both.

    Args:
        tokens: of `read_tokens`.
        place: row of the clips -> row of the tokens.
        options: sizes, and steps of the probe.
        device: where it learns.
        train: rows of the clips, as the rest.
        labels: class indices.
        test: rows.
        learning_rate: the setting.
        seed: of the start weights and the order.
    """
    torch.manual_seed(seed)
    # Only its pooler and its classifier are used, so its encoder is small.
    sizes = {"hidden_size": options.hidden_size, "num_attention_heads": options.num_heads}
    config = VJEPAConfig(**sizes, num_hidden_layers=1, image_size=16, num_frames=2, num_labels=int(labels.max()) + 1)
    head = VJEPAForVideoClassification(config).to(device)
    both, twice = np.concatenate(tokens[:, place[train]]), np.tile(labels, len(tokens))
    generator = np.random.default_rng(seed)
    epochs = max(1, round(options.probe_steps * PROBE_BATCH / len(twice)))
    train_probe(head, both, twice, generator, epochs, PROBE_BATCH, learning_rate)
    return np.mean([probe_logits(head, view[place[test]]) for view in tokens], axis=0)


def ridge(
    views: np.ndarray,
    place: np.ndarray,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    strength: float,
    seed: int,
) -> np.ndarray:
    """A `Classifier`: ridge regression on `views` `(2, n, ...)`, used as by the probe. It draws nothing."""
    known = np.concatenate(views[:, place[train]]).reshape(len(views) * len(train), -1).astype(np.float32)
    asked = views[:, place[test]].astype(np.float32).mean(axis=0).reshape(len(test), -1)
    mean, scale = known.mean(axis=0), known.shape[1] ** 0.5 * (known.std(axis=0) + 1e-6)
    known, asked = (known - mean) / scale, (asked - mean) / scale
    targets = np.eye(labels.max() + 1)[np.tile(labels, len(views))]
    weights = np.linalg.solve(known @ known.T + strength * np.eye(len(known)), targets - targets.mean(axis=0))
    return asked @ known.T @ weights + targets.mean(axis=0)


def flat_features(clips: Clips) -> dict[str, np.ndarray]:
    """Views `(2, n, side, side)` that nobody learned: the middle frame in gray, and the mean change between frames."""
    gray = np.stack([clip.mean(axis=1, dtype=np.float32) for clip in clips.frames])
    middle, motion = gray[:, CACHED_FRAMES // 2], np.abs(np.diff(gray, axis=1)).mean(axis=1)
    features = {"middle frame in gray": middle, "mean change between frames": motion}
    return {name: np.stack([values, values[..., ::-1]]) for name, values in features.items()}


def judge(
    clips: Clips, split: int, seed: int, classify: Classifier, settings: Sequence[float], num_heads: int
) -> dict[str, dict[str, Any]]:
    """Choose a setting on clips that no test of the split holds, then test.

    Returns:
        for each task `setting`, the accuracy of every setting where it was chosen, and for each path that was tested
        the share of the `num_heads` classifiers that were right.
    """
    found = {}
    for name, task in tasks(clips, split, seed).items():
        labels = np.zeros(len(clips.labels), dtype=np.int64)
        labels[task.rows], _ = encode_labels(clips.labels[task.rows])
        right = partial(share_right, classify, labels)
        validation = [
            float(np.mean([right(a, b, setting, 1).mean() for a, b in (task.choosing, task.choosing[::-1])]))
            for setting in settings
        ]
        setting, answers = settings[int(np.argmax(validation))], {}
        for test in task.tests:
            shares = right(np.setdiff1d(task.rows, test), test, setting, num_heads)
            answers |= dict(zip(clips.paths[test].tolist(), shares.tolist(), strict=True))
        found[name] = {"setting": setting, "validation": validation, "right": answers}
    return found


def share_right(
    classify: Classifier, labels: np.ndarray, train: np.ndarray, test: np.ndarray, setting: float, num_heads: int
) -> np.ndarray:
    """For each test row the share of classifiers that are right about it, each from a seed of its own."""
    scores = [classify(train, labels[train], test, setting, seed) for seed in range(num_heads)]
    return np.mean([score.argmax(axis=1) == labels[test] for score in scores], axis=0)


def run_split(
    accelerator: Accelerator, clips: Clips, name: str, split: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Pretrain and judge one method in one split."""
    began, size = time.perf_counter(), options.image_size
    rows = pretraining_rows(clips, split, options.seed)
    seen = TrainingClips(clips.frames, rows, options.num_frames, size, options.seed)
    model, pretraining = pretrain(accelerator, METHODS[name], seen, options)
    model.save_pretrained(options.runs / f"{name}_{split}")
    labelled = np.union1d(clips.rows("ut_interaction"), clips.rows("surv_fight"))
    tokens = read_tokens(accelerator, model, clips.frames[labelled], options)
    place = np.searchsorted(labelled, np.arange(len(clips.paths)))
    probe = partial(attentive_probe, tokens, place, options, accelerator.device)
    answers = {
        RIDGE: judge(clips, split, options.seed, partial(ridge, tokens, place), RIDGE_STRENGTHS, 1),
        PROBE: judge(clips, split, options.seed, probe, options.probe_learning_rates, options.probes),
    }
    minutes = (time.perf_counter() - began) / 60
    return {"pretraining": pretraining, "answers": answers, "minutes": minutes, "commit": report.COMMIT}


def run_baselines(clips: Clips, split: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Judge features that nobody learned, by ridge regression alone."""
    place = np.arange(len(clips.paths))
    return {
        name: {"answers": {RIDGE: judge(clips, split, options.seed, partial(ridge, views, place), RIDGE_STRENGTHS, 1)}}
        for name, views in flat_features(clips).items()
    }


# --- page ----------------------------------------------------------------------------------------------------------

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # method -> split -> what `run_split` returned


@dataclass(frozen=True)
class Summary:
    """What the splits that every method has come to."""

    results: Results
    group_of: Mapping[str, str]

    def title(self, name: str) -> str:
        """What a method is called in the tables."""
        return METHODS[name].title if name in METHODS else name

    def right(self, name: str, reader: str, task: str) -> dict[str, float]:
        """Path of each tested clip -> share of the classifiers that were right about it."""
        splits = [found["answers"].get(reader, {}).get(task, {"right": {}}) for found in self.results[name].values()]
        return {path: share for found in splits for path, share in found["right"].items()}

    @property
    def tasks(self) -> list[str]:
        """Tasks that some split had."""
        had = {
            task
            for by_split in self.results.values()
            for found in by_split.values()
            for task in found["answers"][RIDGE]
        }
        return [task for task in TASKS if task in had]

    def row(self, title: str, cell_of: Callable[[str], str]) -> list[str]:
        """A row of a table with a column a task."""
        return [title, *map(cell_of, self.tasks)]

    def cell(self, reader: str, task: str, name: str, minus: str | None = None) -> str:
        """Accuracy, or what it is above another method's on the same clips, with its interval over groups."""
        right = self.right(name, reader, task)
        if not right:
            return ""
        other = self.right(minus, reader, task) if minus else dict.fromkeys(right, 0.0)
        values = [right[path] - other[path] for path in right]
        low, high = grouped_interval(values, [self.group_of[path] for path in right], seed=0)
        sign = "+" if minus else ""
        return f"{np.mean(values):{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"

    def accuracies(self, reader: str) -> list[str]:
        """The table of a reader."""
        names = [name for name in self.results if self.right(name, reader, self.tasks[0])]
        rows = [self.row(self.title(name), lambda task, name=name: self.cell(reader, task, name)) for name in names]
        noted = [self.row(name, lambda task, found=found: format_noted(found, task)) for name, found in NOTED.items()]
        return report.table(["", *self.tasks], rows + (noted if reader == RIDGE else noted[:1]))

    def differences(self, reader: str) -> list[str]:
        """The table of what is gained over the untrained encoder and over pixels."""
        trained = [name for name in METHODS if name in self.results and METHODS[name].masks]
        pairs = [(name, other) for other in ("untrained", "videomae") for name in trained if name != other]
        rows = [
            self.row(
                f"{self.title(name)} over {self.title(other)}",
                lambda task, name=name, other=other: self.cell(reader, task, name, other),
            )
            for name, other in pairs
            if other in self.results
        ]
        return report.table(["", *self.tasks], rows)

    def pretraining(self) -> list[str]:
        """The table of what runs took and how healthy they ended."""
        rows = []
        for name in METHODS:
            runs = [found["pretraining"] for found in self.results.get(name, {}).values() if found["pretraining"]]
            if runs:
                mean = {key: np.mean([run[key] for run in runs]) for key in runs[0]}
                health = [f"{mean[key]:.2f}" if key in mean else "" for key in HEALTH]
                took = [
                    f"{mean['steps']:.0f}",
                    f"{mean['clips']:.0f}",
                    f"{mean['encoder_tflop']:.2f}",
                    f"{mean['minutes']:.1f}",
                ]
                rows.append([self.title(name), *took, f"{mean['first_loss']:.3f} to {mean['last_loss']:.3f}", *health])
        header = ["", "steps", "clips", "encoder TFLOP", "minutes", "loss", "target std", "target rank", "loss ratio"]
        return report.table(header, rows)

    def choices(self, reader: str) -> list[str]:
        """The table of the settings that were chosen in each split, and how accurate they were there."""

        def cell(name: str, task: str) -> str:
            found = [by_task["answers"][reader].get(task) for by_task in self.results[name].values()]
            found = [each for each in found if each]
            settings = ", ".join(f"{each['setting']:g}" for each in found)
            return f"{settings} ({np.mean([max(each['validation']) for each in found]):.2f})"

        names = [name for name in self.results if self.right(name, reader, self.tasks[0])]
        return report.table(["", *self.tasks], [self.row(self.title(name), partial(cell, name)) for name in names])


def format_noted(values: Sequence[float | None], task: str) -> str:
    """An accuracy of `NOTED`, or nothing."""
    value = values[TASKS.index(task)]
    return f"{value:.2f}" if value else ""


def page(clips: Clips, results: Results, options: argparse.Namespace) -> list[str]:
    """The lines of the page, from the splits that every method has."""
    values = {
        name.replace("_", "-"): " ".join(map(str, np.atleast_1d(value)))
        for name, value in settings_of_results(options).items()
    }
    settings = " ".join(f"--{name} {value}" for name, value in values.items())
    splits = sorted(set.intersection(*(set(by_split) for by_split in results.values())))
    results = {name: {split: by_split[split] for split in splits} for name, by_split in results.items()}
    summary = Summary(results, dict(zip(clips.paths.tolist(), clips.groups.tolist(), strict=True)))
    runs = [found for name, by_split in results.items() if name in METHODS for found in by_split.values()]
    commits = ", ".join(sorted({found["commit"] for found in runs}))
    tested = {task: summary.right(next(iter(results)), RIDGE, task) for task in summary.tasks}
    counts = (
        f"{task}: {len(paths)} clips in {len({summary.group_of[path] for path in paths})} groups"
        for task, paths in tested.items()
    )
    versions = f"transformers {transformers.__version__}", f"runs of {commits}"
    return [
        *report.opening("Features or pixels, on real clips", __file__, __doc__, *versions),
        f"Clips are spread over the whole video; tubelets hold 2 frames; predictor and decoder have half the width of "
        f"the encoder and 3 layers. `{settings}`, {len(splits)} of {NUM_SPLITS} splits, "
        f"{sum(found['minutes'] for found in runs) / 60:.1f} hours.",
        "",
        "## Attentive probe",
        "",
        f"Accuracy, mean of {options.probes} probes, with the 95 % interval of a bootstrap that draws whole groups "
        f"({'; '.join(counts)}). There is one pretraining run a split, so it does not say how another seed would do.",
        "",
        *summary.accuracies(PROBE),
        "",
        "Differences on the same clips, with the same bootstrap; an interval that holds 0 decides nothing.",
        "",
        *summary.differences(PROBE),
        "",
        "## Ridge regression",
        "",
        "On all tokens of a clip, and on pixels, standardized; what has no encoder costs no pretraining.",
        "",
        *summary.accuracies(RIDGE),
        "",
        *summary.differences(RIDGE),
        "",
        "## What pretraining took",
        "",
        "Means over the splits. FLOPs are those that torch counts in the modules of the encoders over 4 steps, "
        "forward and backward: for V-JEPA the pass of the target encoder and one of the context encoder for each mask "
        "kind, for VideoMAE that over the visible tokens. Predictor and decoder are not counted, minutes hold "
        "everything. Losses are those of the first and of the last tenth of the steps, the figures of health those of "
        "the last batch (docs/recipe.md).",
        "",
        *summary.pretraining(),
        "",
        "## What was chosen",
        "",
        "Learning rate of the probe in each split, and the accuracy there, on clips that no test of the split holds.",
        "",
        *summary.choices(PROBE),
        "",
        "Strength of the ridge, likewise.",
        "",
        *summary.choices(RIDGE),
    ]


def settings_of_results(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that decide what comes out of a method in a split."""
    free = ("videos", "output", "runs", "methods", "splits", "num_workers")
    return {name: value for name, value in vars(options).items() if name not in free}


def check_same_run(options: argparse.Namespace) -> None:
    """Refuse to mix results of different settings in one folder."""
    settings = settings_of_results(options)
    kept = options.runs / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        raise ValueError(
            f"--runs {options.runs} holds results of other settings, those of {kept}; choose another folder"
        )
    options.runs.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(settings))


def main() -> None:
    """Do what is missing, split by split, and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos", type=Path, required=True, help="folder with the clips; its list has its name and .csv")
    add("--output", type=Path, help="Markdown file to write")
    add("--runs", type=Path, default=Path("output/video_tasks"), help="where encoders and results are kept")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="rows of the tables")
    add("--splits", type=int, nargs="+", default=list(range(NUM_SPLITS)), help="which of the five")
    add("--steps", type=int, default=200, help="of V-JEPA with multi-block masks: the compute that all get")
    add("--batch-size", type=int, default=16, help="clips of a step")
    add("--learning-rate", type=float, default=5e-4, help="of pretraining, at its peak")
    add("--ema-momentum", type=float, default=0.99, help="of the target encoder at the first step")
    add("--image-size", type=int, default=32, help="side of a clip")
    add("--num-frames", type=int, default=8, help="of a clip")
    add("--patch-size", type=int, default=8, help="side of a tubelet")
    add("--hidden-size", type=int, default=128, help="width of the encoder")
    add("--num-layers", type=int, default=4, help="of the encoder")
    add("--num-heads", type=int, default=4, help="of encoder, predictor, decoder and probe")
    add("--probes", type=int, default=2, help="of an encoder, each from another seed")
    add("--probe-steps", type=int, default=160, help="optimizer steps of a probe, about; 32 clips each")
    add("--probe-learning-rates", type=float, nargs="+", default=[1e-3, 3e-3], help="one is chosen")
    add("--num-workers", type=int, default=0, help="processes that crop clips")
    add("--mixed-precision", choices=["no", "bf16"], default="no", help="arithmetic of encoders")
    add("--seed", type=int, default=0, help="of everything")
    options = parser.parse_args()
    check_same_run(options)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=options.mixed_precision)
    clips = read_clips(options.videos, options.image_size * 4 // 3, options.runs)
    results: dict[str, dict[int, dict]] = {}
    for split in options.splits:
        for name, found in run_baselines(clips, split, options).items():
            results.setdefault(name, {})[split] = found
        for name in options.methods:
            kept = options.runs / f"{name}_{split}.json"
            if not kept.exists():
                kept.write_text(json.dumps(run_split(accelerator, clips, name, split, options)))
            results.setdefault(name, {})[split] = found = json.loads(kept.read_text())
            print(f"split {split}, {METHODS[name].title}: {found['minutes']:.1f} minutes", flush=True)
        report.publish(page(clips, results, options), options.output)


if __name__ == "__main__":
    main()
