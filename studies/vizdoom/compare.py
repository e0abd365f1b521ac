"""What pretraining teaches a small encoder about ego-motion, in a world that is free to make.

    python studies/vizdoom/make_clips.py --output_dir output/vizdoom
    python studies/vizdoom/compare.py --videos output/vizdoom --output studies/vizdoom/results.md

Encoders of one size are pretrained on the videos of the training levels, without labels, and frozen. Ridge regression
and an attentive probe learn the labels from the tokens of `--labelled_spots` spots in each training level. Their
settings are chosen on the validation levels, and the test levels are used once. Every method gets as many encoder
FLOPs as V-JEPA with three mask types spends in `--steps` steps, the same videos, batch size and learning rate. Then
V-JEPA is pretrained for fewer steps and at another width: accuracy against the number of clips seen.

The folder `--runs` keeps each run, so a study that was stopped resumes, and the page has the runs that are done.
"""

import csv
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from transformers import VideoMAEForPreTraining

from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.data import clips as data
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, RandomTubeMask
from vjepa_hf.data.order import ClipRequest
from vjepa_hf.data.videos import decode_video
from vjepa_hf.evaluation.labels import encode_labels
from vjepa_hf.training.arguments import option, parse

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "real_clips"), str(HERE.parents[1] / "benchmarks")]
import report  # noqa: E402
from grouping import grouped_interval  # noqa: E402
from pretraining import (  # noqa: E402
    FUTURE,
    HEALTH,
    JEPA,
    MAE,
    Method,
    PretrainingOptions,
    pretrain,
    refuse_other_settings,
)
from readers import PROBE, RIDGE, RIDGE_STRENGTHS, attentive_probe, encode, ridge, share_right  # noqa: E402

SPLITS = "train", "validation", "test"
LABELS = "motion", "place"
METHODS = {
    "untrained": Method("untrained"),
    "vjepa": Method("V-JEPA, three mask types", (SHORT_RANGE, LONG_RANGE, FUTURE), optimization=JEPA),
    "videomae": Method("VideoMAE", (RandomTubeMask(0.75),), predicts_pixels=True, optimization=MAE),
    "vjepa_short": Method("V-JEPA, short-range masks", (SHORT_RANGE,), optimization=JEPA),
    "vjepa_long": Method("V-JEPA, long-range masks", (LONG_RANGE,), optimization=JEPA),
    "vjepa_future": Method("V-JEPA, future masks", (FUTURE,), optimization=JEPA),
}
BUDGET = METHODS["vjepa"]


@dataclass(kw_only=True)
class Options(PretrainingOptions):
    """Compare encoders in the levels of a game."""

    steps: int = option("optimizer steps of V-JEPA with three mask types, whose compute all methods get", 1200)
    batch_size: int = option("clips per step", 32)
    ema_momentum: float = option("initial momentum of the target encoder", 0.998)
    image_size: int = option("height and width of a clip", 48)
    videos: str = option("folder of make_clips.py", "output/vizdoom")
    output: str | None = option("Markdown page to write", None)
    runs: str = option("folder that keeps encoders and results", "output/vizdoom_runs")
    methods: list[str] = option(f"rows of the table, of {', '.join(METHODS)}", list(METHODS))
    seeds: list[int] = option("pretraining runs of each method", [0, 1, 2])
    labelled_spots: int = option("spots in each training level whose labels are known", 1)
    probes: int = option("probes per encoder, each with its own seed", 2)
    probe_steps: int = option("approximate optimizer steps of a probe, of 32 clips each", 300)
    probe_learning_rates: list[float] = option("learning rates of a probe, of which one is chosen", [3e-4, 1e-3, 3e-3])
    growth_steps: list[int] = option("steps of V-JEPA in the table of clips seen, beside those of --steps", [300, 600])
    growth_sizes: list[int] = option("widths of the encoder in that table", [64, 128])
    readers: list[str] = option(f"classifiers, of {RIDGE}, which is fast, and {PROBE}", [RIDGE, PROBE])
    only_pretrain: bool = option("make the missing encoders and stop", False)


@dataclass(frozen=True)
class Clips:
    """Decoded videos and the columns of their list; one row per video.

    Attributes:
        frames: uint8 `(n, T, 3, side, side)`.
        columns: motion, place, level and spot of each row.
    """

    frames: np.ndarray
    columns: Mapping[str, np.ndarray]

    def rows(self, chosen: np.ndarray) -> "Clips":
        """Return some of the rows."""
        return Clips(self.frames[chosen], {name: column[chosen] for name, column in self.columns.items()})


class TrainingClips(torch.utils.data.Dataset):
    """Whole videos as they are: a mirrored one would turn the other way."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, request: ClipRequest) -> data.ClipSample:
        return data.ClipSample(torch.from_numpy(self.frames[request.index]), request, video=str(request.index))


def read_clips(folder: Path, split: str, num_frames: int) -> Clips:
    """Decode the videos of a split, or read them from the folder if they were decoded before."""
    with (folder / f"{split}.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    cache = folder / f"{split}.npy"
    if not cache.exists():
        np.save(cache, torch.stack([decode_video(folder / row["video"], range(num_frames)) for row in rows]).numpy())
    columns = {name: np.array([row[name] for row in rows]) for name in ("motion", "place", "level")}
    return Clips(np.load(cache), columns | {"spot": np.array([int(row["spot"]) for row in rows])})


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One encoder of the study."""

    method: str
    seed: int
    steps: int
    hidden_size: int

    def folder(self, options: Options) -> Path:
        """Return where it is kept."""
        return Path(options.runs) / f"{self.method}_{self.hidden_size}_{self.steps}_{self.seed}"

    def options(self, options: Options) -> Options:
        """Return the options with the seed, steps and width of this run."""
        return replace(options, seed=self.seed, steps=self.steps, hidden_size=self.hidden_size)


def check_same_run(options: Options) -> None:
    """Refuse to mix results of different settings in one folder; what a run's name says may differ."""
    free = ("videos", "output", "runs", "num_workers", "readers", "only_pretrain", "seed")  # no effect on a result
    named = ("methods", "seeds", "steps", "hidden_size", "growth_steps", "growth_sizes")
    settings = {name: value for name, value in asdict(options).items() if name not in (*free, *named)}
    refuse_other_settings(Path(options.runs), settings)


def runs_of(options: Options) -> list[Run]:
    """Return all runs of the study: a seed of all methods, the growth of V-JEPA, the other seeds."""
    first, *others = options.seeds
    compared = [Run(name, first, options.steps, options.hidden_size) for name in options.methods]
    compared += growth_runs(options)
    compared += [Run(name, seed, options.steps, options.hidden_size) for seed in others for name in options.methods]
    return list(dict.fromkeys(compared))


def growth_runs(options: Options) -> list[Run]:
    """Return the runs of V-JEPA for fewer steps and at other widths, and the untrained encoders of these widths."""
    steps = sorted({*options.growth_steps, options.steps})
    pairs = [(name, count) for name, count in (("untrained", options.steps), *(("vjepa", count) for count in steps))]
    return [Run(name, options.seeds[0], count, width) for width in options.growth_sizes for name, count in pairs]


def make_encoder(accelerator: Accelerator, run: Run, clips: Clips, options: Options) -> None:
    """Pretrain the encoder of a run and save it with what that cost; `pretraining.json` is written last."""
    folder = run.folder(options)
    if (folder / "pretraining.json").exists():
        return
    model, cost = pretrain(accelerator, METHODS[run.method], TrainingClips(clips.frames), run.options(options), BUDGET)
    model.save_pretrained(folder)
    (folder / "pretraining.json").write_text(json.dumps(cost | {"commit": report.COMMIT}))
    print(f"{folder.name}: {cost}", flush=True)


def read_encoder(accelerator: Accelerator, run: Run, clips: Mapping[str, Clips], options: Options) -> dict[str, Any]:
    """Read the labels from the tokens of a frozen encoder, or return what was read before."""
    kept = {reader: run.folder(options) / f"{reader.replace(' ', '_')}.json" for reader in options.readers}
    missing = [reader for reader, file in kept.items() if not file.exists()]
    if missing:
        tokens = read_tokens(accelerator, run, clips, options)
        place = np.arange(tokens.shape[1])
        probe = partial(attentive_probe, tokens, place, run.options(options), accelerator.device)
        choices = {
            RIDGE: (partial(ridge, tokens, place), RIDGE_STRENGTHS, 1),
            PROBE: (probe, options.probe_learning_rates, options.probes),
        }
        for reader in missing:
            kept[reader].write_text(json.dumps(evaluate(clips, *choices[reader])))
    return {reader: json.loads(file.read_text()) for reader, file in kept.items()}


def read_tokens(accelerator: Accelerator, run: Run, clips: Mapping[str, Clips], options: Options) -> np.ndarray:
    """Return the tokens of the clips of all splits from the encoder of a run: float16 `(1, n, N, D)`."""
    kind = VideoMAEForPreTraining if METHODS[run.method].predicts_pixels else VJEPAForPreTraining
    model = kind.from_pretrained(run.folder(options)).to(accelerator.device)
    frames = torch.from_numpy(np.concatenate([clips[split].frames for split in SPLITS]))
    return torch.cat([encode(accelerator, model, part) for part in frames.split(64)]).numpy()[None]


def evaluate(
    clips: Mapping[str, Clips], classify: Callable[..., np.ndarray], settings: list[float], num_heads: int
) -> dict[str, Any]:
    """Choose a setting on the validation levels and test it on the test levels.

    Args:
        clips: the labelled clips of the splits.
        classify: a `Classifier`; its rows count through the splits.
        settings: of which one is chosen.
        num_heads: classifiers per label.

    Returns:
        label -> `setting`, `validation`: accuracy of each setting, `right`: for each test clip the fraction of the
        classifiers that are right about it.
    """
    sizes = [len(clips[split].frames) for split in SPLITS]
    train, validation, test = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    answers = {}
    for name in LABELS:
        labels, _ = encode_labels(np.concatenate([clips[split].columns[name] for split in SPLITS]))
        right = partial(share_right, classify, labels, train)
        accuracies = [float(right(validation, setting, 1).mean()) for setting in settings]
        setting = settings[int(np.argmax(accuracies))]
        shares = right(test, setting, num_heads).tolist()
        answers[name] = {"setting": setting, "validation": accuracies, "right": shares}
    return answers


def pixel_features(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return features that nobody learned, `(1, n, ...)`, from frames `(n, T, 3, side, side)`."""
    gray = frames.mean(axis=2, dtype=np.float32)
    change = np.diff(gray, axis=1)
    features = {
        "middle frame in gray": gray[:, gray.shape[1] // 2],
        "all frames in gray": gray,
        "mean change between frames": np.abs(change).mean(axis=1),
        "changes between frames": change,
    }
    return {name: values[None] for name, values in features.items()}


LICENCES = (
    "The videos show levels of Freedoom (BSD-3-Clause: who passes them on keeps its copyright notice), drawn by the "
    "package `vizdoom`, which is MIT where it is original; its engine ZDoom combines code under several licences. "
    "Neither is part of `vjepa_hf` or needed by it, and no video is in this repository."
)


# --- page ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Tables of the runs that are done.

    Attributes:
        answers: run -> what `read_encoder` returned.
        baselines: name -> what `evaluate` returned.
        test: the test clips.
        options: of the study.
    """

    answers: Mapping[Run, Mapping[str, Any]]
    baselines: Mapping[str, Mapping[str, Any]]
    test: Clips
    options: Options

    def runs(self, method: str) -> list[Run]:
        """Return the runs of a method that are done, of the size and the steps of the comparison."""
        size = self.options.steps, self.options.hidden_size
        return [run for run in self.answers if run.method == method and (run.steps, run.hidden_size) == size]

    def right(self, run: Run, reader: str, label: str) -> np.ndarray:
        """Return the fraction of the classifiers that were right about each test clip."""
        return np.array(self.answers[run][reader][label]["right"])

    def cell(self, values: np.ndarray, sign: str = "") -> str:
        """Return the mean of values of the test clips, with its interval over levels."""
        low, high = grouped_interval(values, self.test.columns["level"], seed=0)
        return f"{values.mean():{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"

    def accuracies(self, reader: str) -> list[str]:
        """Return the table of a classifier: one row per method, means over its seeds."""
        rows = []
        if reader == RIDGE:
            for name, found in self.baselines.items():
                rows.append([name, "", *(self.cell(np.array(found[label]["right"])) for label in LABELS)])
        for name, method in METHODS.items():
            runs = self.runs(name)
            if runs:
                means = [np.mean([self.right(run, reader, label) for run in runs], axis=0) for label in LABELS]
                rows.append([method.title, len(runs), *map(self.cell, means)])
        counts = [np.unique(self.test.columns[label], return_counts=True)[1] for label in LABELS]
        rows.append(["always the most frequent class", "", *(f"{max(count) / sum(count):.3f}" for count in counts)])
        return report.table(["", "seeds", *LABELS], rows)

    def differences(self, reader: str) -> list[str]:
        """Return the table of the gains over the untrained encoder and over VideoMAE, on the seeds that both have."""
        rows = []
        for other in ("untrained", "videomae"):
            for name, method in METHODS.items():
                pairs = [(one, two) for one in self.runs(name) for two in self.runs(other) if one.seed == two.seed]
                if name in ("untrained", other) or not pairs:
                    continue
                gains = [
                    np.mean([self.right(one, reader, label) - self.right(two, reader, label) for one, two in pairs], 0)
                    for label in LABELS
                ]
                cells = (self.cell(gain, "+") for gain in gains)
                rows.append([f"{method.title} over {METHODS[other].title}", len(pairs), *cells])
        return report.table(["", "seeds", *LABELS], rows)

    def each_seed(self, reader: str) -> list[str]:
        """Return the table of a classifier with the accuracies of each seed."""
        columns = [(label, seed) for label in LABELS for seed in self.options.seeds]
        rows = []
        for name, method in METHODS.items():
            runs = {run.seed: run for run in self.runs(name)}
            cells = [
                f"{self.right(runs[seed], reader, label).mean():.3f}" if seed in runs else ""
                for label, seed in columns
            ]
            if runs:
                rows.append([method.title, *cells])
        return report.table(["", *(f"{label}, seed {seed}" for label, seed in columns)], rows)

    def growth(self) -> list[str]:
        """Return the table of accuracy against clips seen."""
        rows = []
        for run in growth_runs(self.options):
            if run in self.answers:
                seen = 0 if run.method == "untrained" else run.steps * self.options.batch_size
                cells = [
                    f"{self.right(run, reader, label).mean():.3f}"
                    for label in LABELS
                    for reader in self.options.readers
                ]
                rows.append([run.hidden_size, seen, *cells])
        header = [f"{label}, {reader}" for label in LABELS for reader in self.options.readers]
        return report.table(["width", "clips seen", *header], rows)

    def pretraining(self) -> list[str]:
        """Return the table of what runs cost and of their last health metrics, means over seeds."""
        rows = []
        for name, method in METHODS.items():
            costs = [
                json.loads((run.folder(self.options) / "pretraining.json").read_text()) for run in self.runs(name)
            ]
            if costs and method.masks:
                mean = {key: np.mean([cost[key] for cost in costs]) for key in costs[0] if key != "commit"}
                health = [f"{mean[key]:.2f}" if key in mean else "" for key in HEALTH]
                took = [f"{mean['steps']:.0f}", f"{mean['clips']:.0f}", f"{mean['encoder_tflop']:.2f}"]
                losses = f"{mean['first_loss']:.3f} to {mean['last_loss']:.3f}"
                commits = ", ".join(sorted({cost["commit"] for cost in costs}))
                rows.append([method.title, *took, f"{mean['minutes']:.1f}", losses, *health, commits])
        header = ["steps", "clips", "encoder TFLOP", "minutes", "loss"]
        return report.table(["", *header, "target std", "target rank", "loss ratio", "commit"], rows)

    def choices(self) -> list[str]:
        """Return the table of the settings chosen on the validation levels, with the accuracy there."""
        rows = []
        for run, answers in self.answers.items():
            cells = [
                f"{found['setting']:g} ({max(found['validation']):.2f})"
                for label in LABELS
                for found in (by_label[label] for by_label in answers.values())
            ]
            rows.append([METHODS[run.method].title, run.hidden_size, run.steps, run.seed, *cells])
        header = [f"{label}, {reader}" for label in LABELS for reader in self.options.readers]
        return report.table(["", "width", "steps", "seed", *header], rows)


def page(summary: Summary) -> list[str]:
    """Return the lines of the page."""
    options, test = summary.options, summary.test
    method = " ".join(__doc__.split("\n\n")[2].split())
    free = ("videos", "output", "runs", "methods", "num_workers", "readers", "only_pretrain", "seed")
    values = {key: value for key, value in asdict(options).items() if key not in free}
    command = " ".join(f"--{key} {' '.join(map(str, np.atleast_1d(value)))}" for key, value in values.items())
    missing = len(runs_of(options)) - len(summary.answers)
    lines = ["# Ego-motion in the levels of a game", "", f"`python studies/vizdoom/compare.py`: {method}", ""]
    lines += [report.environment(f"transformers {transformers.__version__}"), "", f"`{command}`", "", LICENCES, ""]
    lines += [
        f"Accuracy with the 95 % interval of a bootstrap over levels ({len(test.frames)} test clips in "
        f"{len(np.unique(test.columns['level']))} levels), mean over seeds. It says nothing about other seeds."
        + (f" {missing} of {len(runs_of(options))} runs are missing; the command makes them." if missing else ""),
        "",
    ]
    for reader in options.readers:
        lines += [f"## {reader.capitalize()}", "", *summary.accuracies(reader), ""]
        lines += ["Differences on the same clips and seeds:", "", *summary.differences(reader), ""]
        lines += ["Accuracies of each seed:", "", *summary.each_seed(reader), ""]
    lines += [
        "## Clips seen",
        "",
        f"V-JEPA with three mask types, seed {options.seeds[0]}.",
        "",
        *summary.growth(),
        "",
    ]
    lines += ["## What pretraining took", "", *summary.pretraining(), ""]
    return lines + ["## What was chosen", "", "On the validation levels.", "", *summary.choices()]


def main() -> None:
    """Make the missing encoders, read them, and write the page."""
    options = parse(Options)
    output = report.refuse_uncommitted_code(Path(options.output) if options.output else None)
    check_same_run(options)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=options.mixed_precision)
    train = read_clips(Path(options.videos), "train", options.num_frames)
    if options.only_pretrain:
        for run in runs_of(options):
            make_encoder(accelerator, run, train, options)
        return
    labelled = {split: read_clips(Path(options.videos), split, options.num_frames) for split in SPLITS[1:]}
    labelled["train"] = train.rows(train.columns["spot"] < options.labelled_spots)
    views = pixel_features(np.concatenate([labelled[split].frames for split in SPLITS]))
    baselines = {
        name: evaluate(labelled, partial(ridge, view, np.arange(view.shape[1])), RIDGE_STRENGTHS, 1)
        for name, view in views.items()
    }
    answers = {}
    for run in runs_of(options):
        make_encoder(accelerator, run, train, options)
        answers[run] = read_encoder(accelerator, run, labelled, options)
        report.publish(page(Summary(answers, baselines, labelled["test"], options)), output)


if __name__ == "__main__":
    main()
