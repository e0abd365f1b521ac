"""Why an attentive probe on a hundred clips reads less than ridge regression on the same tokens.

    python studies/real_clips/few_clips.py --videos PATH_TO_actions_folder --output studies/real_clips/few_clips.md

The tokens are those of an untrained encoder on `ut_interaction`, 120 clips of 6 interactions. Each of five folds of
whole sequences is tested once by classifiers that learned from the others. Ridge regression reads all tokens, each
with weights of its own, or only their mean: of the clip, of each time step, of each place. The attentive probe reads
them after few and many optimizer steps, at several learning rates. No setting is chosen: the table has them all.
"""

import csv
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from clips import NUM_SPLITS, read_frames
from grouping import grouped_folds, grouped_interval
from pretraining import METHODS, Options, new_model
from readers import Classifier, attentive_probe, read_tokens, ridge, share_right
from vjepa_hf.evaluation.labels import encode_labels
from vjepa_hf.training.arguments import option, parse

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import report  # noqa: E402


@dataclass(kw_only=True)
class FewClipsOptions(Options):
    """Read the tokens of an untrained encoder in several ways."""

    steps_of_probes: list[int] = option("optimizer steps of a probe", [160, 300, 600])
    probe_learning_rates: list[float] = option("learning rates of a probe", [1e-3, 3e-3, 1e-2])
    ridge_strength: float = option("of ridge regression", 1.0)


def means(tokens: np.ndarray, grid: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return views `(2, n, ...)` of tokens `(2, n, N, D)` for ridge regression."""
    by_place = tokens.astype(np.float32).reshape(*tokens.shape[:2], *grid, -1)
    return {
        "all tokens": tokens,
        "mean of each place": by_place.mean(axis=2),
        "mean of each time step": by_place.mean(axis=(3, 4)),
        "mean of the clip": by_place.mean(axis=(2, 3, 4)),
    }


def classifiers(
    tokens: np.ndarray, grid: tuple[int, int, int], options: FewClipsOptions
) -> dict[str, tuple[Classifier, float]]:
    """Return name -> classifier and its setting."""
    rows, device = np.arange(tokens.shape[1]), torch.device("cpu")
    found: dict[str, tuple[Classifier, float]] = {}
    for name, view in means(tokens, grid).items():
        found[f"ridge regression, {name}"] = partial(ridge, view, rows), options.ridge_strength
    for steps in options.steps_of_probes:
        probe = partial(attentive_probe, tokens, rows, replace(options, probe_steps=steps), device)
        for rate in options.probe_learning_rates:
            found[f"attentive probe, {steps} steps, learning rate {rate:g}"] = probe, rate
    return found


def main() -> None:
    """Read the tokens in all ways and write the page."""
    options = parse(FewClipsOptions)
    output = report.refuse_uncommitted_code(Path(options.output) if options.output else None)
    folder = Path(options.videos)
    with open(folder.with_suffix(".csv"), newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["set"] == "ut_interaction"]
    side = options.image_size * 4 // 3
    frames = torch.stack([read_frames(folder.parent / row["path"], side) for row in rows]).numpy()
    model = new_model(METHODS["untrained"], options, options.seed)
    tokens = read_tokens(Accelerator(cpu=True), model, frames, options)
    labels, _ = encode_labels([row["label"] for row in rows])
    groups = np.array([row["group"] for row in rows])
    folds = grouped_folds(groups, labels, NUM_SPLITS, options.seed)
    table = []
    for name, (classify, setting) in classifiers(tokens, model.config.grid_size, options).items():
        right = np.zeros(len(rows))
        for fold in folds:
            train = np.setdiff1d(np.arange(len(rows)), fold)
            right[fold] = share_right(classify, labels, train, fold, setting, 1 if "ridge" in name else options.probes)
        low, high = grouped_interval(right, groups, seed=0)
        table.append([name, f"{right.mean():.3f} ({low:.3f} to {high:.3f})"])
        print(*table[-1], flush=True)
    method = " ".join(__doc__.split("\n\n")[2].split())
    lines = ["# An attentive probe on a hundred clips", "", f"`python studies/real_clips/few_clips.py`: {method}", ""]
    lines += [report.environment(), "", "Accuracy with the 95 % interval of a bootstrap over sequences.", ""]
    report.publish([*lines, *report.table(["reader", "accuracy"], table)], output)


if __name__ == "__main__":
    main()
