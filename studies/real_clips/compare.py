"""Features or pixels: which target teaches a small encoder more about real clips, for the same encoder compute?

    python studies/real_clips/compare.py --videos PATH_TO_actions_folder --output studies/real_clips/results.md

Encoders of one size are pretrained on all clips but those of the test groups, labelled or not, and frozen; the same
attentive probe then reads their tokens. `ut_interaction` (6 interactions): each of 20 sequences is the test set once,
and each half of the set (sequences 1 to 10 and 11 to 20) is classified once by a probe that learned from the other
half alone. `surv_fight` (fight or not): 5 folds of whole scenes. Five runs of a method, one per split, serve all of
it: the encoder of run k never sees fold k of `surv_fight`, and those of the first two none of the half of
`ut_interaction` that is tested, which is stricter than it must be. Every method gets as many encoder FLOPs as V-JEPA
with multi-block masks spends in `--steps` steps, the same clips, crops, batch size and learning rate, and the same
probe, whose learning rate is chosen on clips that are training clips in every fold. Ridge regression on the tokens,
and on pixels, is a second reader.

The folder `--runs` keeps what is done, so a study that was stopped resumes. One process, on a GPU if there is one;
with more compute raise `--image_size`, `--num_frames`, `--hidden_size`, `--num_layers` and `--steps`. With several
`--seeds`, every method is pretrained once per seed in each split; test groups and seeds of the probes are the same.
With `--start FOLDER`, the row `vjepa_started` of `--methods` starts from another V-JEPA model of that width and
depth, such as one of studies/vizdoom, and the row `start` is that model itself; what it cost is not in their budget.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator

from clips import NUM_SPLITS, TASKS, Clips, TrainingClips, pretraining_rows, read_clips
from grouping import grouped_interval
from pretraining import HEALTH, METHODS, Options, pretrain, refuse_other_settings
from readers import PROBE, RIDGE, RIDGE_STRENGTHS, attentive_probe, evaluate, flat_features, read_tokens, ridge
from vjepa_hf.training.arguments import parse

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import report  # noqa: E402

# Accuracies without learned features, in the order of TASKS, as the note that comes with the clips has them.
NOTED = {
    "chance": (0.17, 0.17, 0.50),
    "noted with the set: length of the clip": (0.32, None, None),
    "noted with the set: middle frame": (0.41, None, None),
    "noted with the set: motion energy": (0.68, None, None),
    "noted with the set: thumbnails": (None, 0.54, 0.69),
}


def run_split(
    accelerator: Accelerator, clips: Clips, name: str, split: int, seed: int, options: Options
) -> dict[str, Any]:
    """Pretrain one method with one seed in one split, and evaluate it."""
    began, size = time.perf_counter(), options.image_size
    rows = pretraining_rows(clips, split, options.seed)
    seen = TrainingClips(clips.frames, rows, options.num_frames, size, seed)
    start = options.start and options.start.replace("{seed}", str(seed))
    model, pretraining = pretrain(accelerator, METHODS[name], seen, replace(options, seed=seed), start=start)
    model.save_pretrained(folder_of(name, split, seed, options))
    labelled = np.union1d(clips.rows("ut_interaction"), clips.rows("surv_fight"))
    tokens = read_tokens(accelerator, model, clips.frames[labelled], options)
    place = np.searchsorted(labelled, np.arange(len(clips.paths)))
    probe = partial(attentive_probe, tokens, place, options, accelerator.device)
    answers = {
        RIDGE: evaluate(clips, split, options.seed, partial(ridge, tokens, place), RIDGE_STRENGTHS, 1),
        PROBE: evaluate(clips, split, options.seed, probe, options.probe_learning_rates, options.probes),
    }
    minutes = (time.perf_counter() - began) / 60
    return {"pretraining": pretraining, "answers": answers, "minutes": minutes, "commit": report.COMMIT}


def folder_of(name: str, split: int, seed: int, options: Options) -> Path:
    """Return the folder of an encoder; its results are next to it, with the suffix .json."""
    return Path(options.runs) / f"{name}_{split}_{seed}"


def run_baselines(clips: Clips, split: int, options: Options) -> dict[str, dict[str, Any]]:
    """Evaluate features that nobody learned, by ridge regression alone."""
    place = np.arange(len(clips.paths))
    return {
        name: {
            "answers": {RIDGE: evaluate(clips, split, options.seed, partial(ridge, views, place), RIDGE_STRENGTHS, 1)}
        }
        for name, views in flat_features(clips).items()
    }


# method -> (split, seed) -> what `run_split` returned
Results = Mapping[str, Mapping[tuple[int, int], Mapping[str, Any]]]


@dataclass(frozen=True)
class Summary:
    """Tables of the results of the splits and seeds that every method has."""

    results: Results
    group_of: Mapping[str, str]

    def title(self, name: str) -> str:
        """Return the name of a method in the tables."""
        return METHODS[name].title if name in METHODS else name

    def right(self, name: str, reader: str, task: str) -> dict[str, float]:
        """Return path of each tested clip -> fraction of the classifiers that were right about it, mean over seeds."""
        fractions: dict[str, list[float]] = {}
        for found in self.results[name].values():
            for path, fraction in found["answers"].get(reader, {}).get(task, {"right": {}})["right"].items():
                fractions.setdefault(path, []).append(fraction)
        return {path: float(np.mean(values)) for path, values in fractions.items()}

    @property
    def tasks(self) -> list[str]:
        """Return the tasks that at least one split had."""
        had = {
            task for by_run in self.results.values() for found in by_run.values() for task in found["answers"][RIDGE]
        }
        return [task for task in TASKS if task in had]

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of pretraining."""
        return sorted({seed for by_run in self.results.values() for _, seed in by_run})

    def of_seed(self, seed: int) -> "Summary":
        """Return the tables of one seed."""
        runs = {
            name: {run: found for run, found in by_run.items() if run[1] == seed}
            for name, by_run in self.results.items()
        }
        return replace(self, results=runs)

    def row(self, title: str, cell_of: Callable[[str], str]) -> list[str]:
        """Return a row of a table with one column per task."""
        return [title, *map(cell_of, self.tasks)]

    def cell(self, reader: str, task: str, name: str, minus: str | None = None) -> str:
        """Return accuracy, or its difference to another method on the same clips, with an interval over groups."""
        right = self.right(name, reader, task)
        if not right:
            return ""
        other = self.right(minus, reader, task) if minus else dict.fromkeys(right, 0.0)
        values = [right[path] - other[path] for path in right]
        low, high = grouped_interval(values, [self.group_of[path] for path in right], seed=0)
        sign = "+" if minus else ""
        return f"{np.mean(values):{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"

    def accuracies(self, reader: str) -> list[str]:
        """Return the table of a classifier."""
        names = [name for name in self.results if self.right(name, reader, self.tasks[0])]
        rows = [self.row(self.title(name), lambda task, name=name: self.cell(reader, task, name)) for name in names]
        noted = [self.row(name, lambda task, found=found: format_noted(found, task)) for name, found in NOTED.items()]
        return report.table(["", *self.tasks], rows + (noted if reader == RIDGE else noted[:1]))

    def differences(self, reader: str) -> list[str]:
        """Return the table of the gains over the untrained encoder, over VideoMAE and over the model of a start."""
        names = [name for name in METHODS if name in self.results and name != "untrained"]
        pairs = [(name, other) for other in ("untrained", "videomae") for name in names if name != other]
        pairs += [("vjepa_started", "start")] if "vjepa_started" in names else []
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
        """Return the table of what runs cost and of their last health metrics."""
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
        """Return the table of the settings chosen in each run, with their validation accuracy."""

        def cell(name: str, task: str) -> str:
            found = [by_task["answers"][reader].get(task) for by_task in self.results[name].values()]
            found = [each for each in found if each]
            settings = ", ".join(f"{each['setting']:g}" for each in found)
            return f"{settings} ({np.mean([max(each['validation']) for each in found]):.2f})"

        names = [name for name in self.results if self.right(name, reader, self.tasks[0])]
        return report.table(["", *self.tasks], [self.row(self.title(name), partial(cell, name)) for name in names])


def format_noted(values: Sequence[float | None], task: str) -> str:
    """Return an accuracy of `NOTED`, or an empty string."""
    value = values[TASKS.index(task)]
    return f"{value:.2f}" if value else ""


def page(clips: Clips, results: Results, options: Options) -> list[str]:
    """Return the lines of the page, from the splits and seeds that every method has."""
    values = {name: " ".join(map(str, np.atleast_1d(value))) for name, value in settings_of_results(options).items()}
    settings = " ".join(f"--{name} {value}" for name, value in values.items())
    done = sorted(set.intersection(*(set(by_run) for by_run in results.values())))
    results = {name: {run: by_run[run] for run in done} for name, by_run in results.items()}
    summary = Summary(results, dict(zip(clips.paths.tolist(), clips.groups.tolist(), strict=True)))
    runs = [found for name, by_run in results.items() if name in METHODS for found in by_run.values()]
    commits = ", ".join(sorted({found["commit"] for found in runs}))
    tested = {task: summary.right(next(iter(results)), RIDGE, task) for task in summary.tasks}
    counts = (
        f"{task}: {len(paths)} clips in {len({summary.group_of[path] for path in paths})} groups"
        for task, paths in tested.items()
    )
    seed_tables: list[str] = []
    for seed in summary.seeds if len(summary.seeds) > 1 else []:
        seed_tables += [f"Accuracies of seed {seed}:", "", *summary.of_seed(seed).accuracies(PROBE), ""]
    versions = f"transformers {transformers.__version__}", f"runs of {commits}"
    return [
        *opening(*versions),
        f"Clips are spread over the whole video; tubelets hold 2 frames; predictor and decoder have half the width of "
        f"the encoder and 3 layers. `{settings} --seeds {' '.join(map(str, summary.seeds))}`, "
        f"{len({split for split, _ in done})} of {NUM_SPLITS} splits, "
        f"{sum(found['minutes'] for found in runs) / 60:.1f} hours.",
        "",
        "## Attentive probe",
        "",
        f"Accuracy, mean over seeds of pretraining ({len(summary.seeds)}) and probes of an encoder "
        f"({options.probes}), with the 95 % interval of a bootstrap that draws whole groups ({'; '.join(counts)}). "
        "The interval is over groups and does not say how another seed would do.",
        "",
        *summary.accuracies(PROBE),
        "",
        "Differences on the same clips, with the same bootstrap; an interval that holds 0 decides nothing.",
        "",
        *summary.differences(PROBE),
        "",
        *seed_tables,
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
        "Means over the runs. FLOPs are those of the encoders, forward and backward: for V-JEPA the pass of the "
        "target encoder and one of the context encoder for each mask type, for VideoMAE the pass over the visible "
        "tokens. Predictor and decoder are not counted; minutes are those of the whole training. Losses are means of "
        "the first and of the last tenth of the steps, health metrics those of the last batch (docs/recipe.md).",
        "",
        *summary.pretraining(),
        "",
        "## What was chosen",
        "",
        "Learning rate of the probe in each run, and the accuracy there, on clips that no test of the split holds.",
        "",
        *summary.choices(PROBE),
        "",
        "Strength of the ridge, likewise.",
        "",
        *summary.choices(RIDGE),
    ]


def opening(*versions: str) -> list[str]:
    """Return title, command, method and environment of the page."""
    method = " ".join(__doc__.split("\n\n")[2].split())
    command = f"`python studies/real_clips/{Path(__file__).name}`"
    return ["# Features or pixels, on real clips", "", f"{command}: {method}", "", report.environment(*versions), ""]


def settings_of_results(options: Options) -> dict[str, Any]:
    """Return the options that affect the result of a run."""
    free = ("videos", "output", "runs", "methods", "splits", "seeds", "num_workers")
    return {name: value for name, value in asdict(options).items() if name not in free}


def check_same_run(options: Options) -> None:
    """Refuse to mix results of different settings in one folder."""
    refuse_other_settings(Path(options.runs), settings_of_results(options))


def main() -> None:
    """Compute the missing results split by split, and write the page after each."""
    options = parse(Options)
    output = report.refuse_uncommitted_code(Path(options.output) if options.output else None)
    check_same_run(options)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=options.mixed_precision)
    clips = read_clips(Path(options.videos), options.image_size * 4 // 3, Path(options.runs))
    results: dict[str, dict[tuple[int, int], dict]] = {}
    for split in options.splits:
        baselines = run_baselines(clips, split, options)
        for seed in options.seeds:
            for name, found in baselines.items():
                results.setdefault(name, {})[split, seed] = found
            for name in options.methods:
                kept = folder_of(name, split, seed, options).with_suffix(".json")
                if not kept.exists():
                    kept.write_text(json.dumps(run_split(accelerator, clips, name, split, seed, options)))
                results.setdefault(name, {})[split, seed] = found = json.loads(kept.read_text())
                print(f"split {split}, seed {seed}, {METHODS[name].title}: {found['minutes']:.1f} minutes", flush=True)
        report.publish(page(clips, results, options), output)


if __name__ == "__main__":
    main()
