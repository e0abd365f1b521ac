"""What each mask type teaches to predict: the mean of features over time, or how they change?

    python studies/vizdoom/masks.py --videos output/vizdoom --output studies/vizdoom/masks.md

The options are those of compare.py, whose encoders are read from `--runs`; missing ones are left out. Each model
predicts the features of the test clips under the masks it was trained with. From targets and predictions the mean
target of the token position over all clips is subtracted: it is known without any context. What remains at a patch is
divided into its mean over the hidden time steps and the changes from that mean; a patch counts if it is hidden at two
or more time steps. R2 is the fraction of the variance that the predictions explain: 1 is perfect, and 0 no better than
the mean target. The loss ratio is the mean absolute error divided by that of the mean target. A copy is the target at
the nearest context token. Distances are those to that token, in tokens, time included.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import transformers

import compare
import report  # in a folder that `compare` adds to the path, as the next one
from pretraining import mask_types
from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.data.masking import MaskSampler, MaskType, nearest_context
from vjepa_hf.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize
from vjepa_hf.model.tubelets import Grid
from vjepa_hf.training.arguments import parse

MASK_TITLES = {compare.SHORT_RANGE: "short-range", compare.LONG_RANGE: "long-range", compare.FUTURE: "future"}
DISTANCES = {"1": (0.0, 1.0), "up to 2": (1.0, 2.0), "more than 2": (2.0, np.inf)}


@dataclass(frozen=True)
class Predicted:
    """What a model predicts of some clips under one mask type; the mean target of each position is subtracted.

    Attributes:
        targets: `(n, t, h * w, D)`.
        predictions: the same, 0 where nothing is hidden.
        copies: the same, of the target at the nearest context token.
        hidden: `(n, t, h * w)`, true for targets of the mask.
        distances: `(n, t, h * w)` to the nearest context token, 0 where nothing is hidden.
    """

    targets: torch.Tensor
    predictions: torch.Tensor
    copies: torch.Tensor
    hidden: torch.Tensor
    distances: torch.Tensor

    def loss_ratio(self, chosen: torch.Tensor | None = None) -> float:
        """Return the loss ratio of hidden tokens, or of those of them that are chosen; nan without any."""
        tokens = self.hidden if chosen is None else self.hidden & chosen
        return error_ratio(self.predictions[tokens], self.targets[tokens])

    def copy_ratio(self) -> float:
        """Return the loss ratio of the copies."""
        return error_ratio(self.copies[self.hidden], self.targets[self.hidden])

    def explained(self) -> list[float]:
        """Return R2 of the mean over time and of the changes, in patches hidden at two or more time steps."""
        parts = (mean_and_changes(tokens, self.hidden) for tokens in (self.targets, self.predictions))
        return [
            1 - ((target - prediction).square().sum() / target.square().sum()).item()
            for target, prediction in zip(*parts, strict=True)
        ]


def error_ratio(guesses: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the mean absolute error divided by that of the mean target, which is 0."""
    return ((guesses - targets).abs().mean() / targets.abs().mean()).item()


def mean_and_changes(tokens: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide features into their mean over the hidden time steps of a patch and the changes from it.

    Args:
        tokens: `(n, t, h * w, D)`.
        hidden: `(n, t, h * w)`; both parts are 0 at a patch that is hidden at one time step or none.

    Returns:
        two tensors like `tokens`, 0 where nothing is hidden; their squares sum to those of the hidden tokens.
    """
    counts = hidden.sum(dim=1, keepdim=True)
    weights = (hidden & (counts >= 2)).unsqueeze(-1)
    mean = (tokens * weights).sum(dim=1, keepdim=True) / counts.clamp_min(1).unsqueeze(-1) * weights
    return mean, tokens * weights - mean


def share_of_changes(targets: torch.Tensor) -> float:
    """Return the fraction of the variance of features `(n, t, h * w, D)` that is change over time."""
    _, changes = mean_and_changes(targets, torch.ones(targets.shape[:3], dtype=torch.bool))
    return (changes.square().sum() / targets.square().sum()).item()


@torch.inference_mode()
def predict(model: VJEPAForPreTraining, mask: MaskType, index: int, frames: np.ndarray, batch_size: int) -> Predicted:
    """Predict the features of uint8 clips `(n, T, 3, H, W)` under the masks of one type, number `index` of the run."""
    grid: Grid = model.config.grid_size
    sampler, size = MaskSampler([mask], grid), (len(frames), int(np.prod(grid)))
    targets = torch.zeros(*size, model.config.hidden_size)
    predictions, copies = torch.zeros_like(targets), torch.zeros_like(targets)
    hidden, distances = torch.zeros(size, dtype=torch.bool), torch.zeros(size)
    for rows in torch.arange(len(frames)).split(batch_size):
        pixels = normalize(torch.from_numpy(frames[rows.numpy()]), IMAGENET_MEAN, IMAGENET_STD)
        contexts, (asked,) = sampler([(0, row) for row in rows.tolist()])
        outputs = model(pixels, contexts, [asked], mask_type_indices=[index])
        nearest = torch.stack([nearest_context(*pair, grid) for pair in zip(*contexts, asked, strict=True)])
        clips = rows.unsqueeze(1)
        targets[rows] = outputs.target_hidden_state
        predictions[clips, asked], copies[clips, asked] = outputs.predictions[0], targets[clips, nearest]
        hidden[clips, asked], distances[clips, asked] = True, distance(nearest, asked, grid)
    mean = targets.mean(dim=0)
    predictions, copies = ((tokens - mean) * hidden.unsqueeze(-1) for tokens in (predictions, copies))
    tensors = targets - mean, predictions, copies, hidden, distances
    return Predicted(*(tensor.unflatten(1, (grid[0], -1)) for tensor in tensors))


def distance(one: torch.Tensor, other: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the distances of tokens to other tokens of the grid (t, h, w); indices and distances have one shape."""
    positions = (torch.stack(torch.unravel_index(tokens, grid)).float() for tokens in (one, other))
    return (next(positions) - next(positions)).norm(dim=0)


@dataclass(frozen=True)
class Row:
    """A row of the tables: one mask type of a method.

    Attributes:
        title: method, and the mask type if there are several.
        hidden: fraction of the tokens.
        loss_ratio: of all hidden tokens.
        copy_ratio: loss ratio of a copy of the nearest context token.
        mean: R2 of the mean over time.
        changes: R2 of the changes.
        times: loss ratio of each time step.
        near: loss ratio of each of `DISTANCES`.
        shares: fraction of the hidden tokens at each of them.
    """

    title: str
    hidden: float
    loss_ratio: float
    copy_ratio: float
    mean: float
    changes: float
    times: Sequence[float]
    near: Sequence[float]
    shares: Sequence[float]


def measure(title: str, predicted: Predicted) -> Row:
    """Summarize what a model predicts."""
    hidden, distances = predicted.hidden, predicted.distances
    steps = torch.arange(hidden.shape[1])[:, None]
    intervals = [(distances > low) & (distances <= high) & hidden for low, high in DISTANCES.values()]
    return Row(
        title,
        hidden.float().mean().item(),
        predicted.loss_ratio(),
        predicted.copy_ratio(),
        *predicted.explained(),
        times=[predicted.loss_ratio(steps == step) for step in range(hidden.shape[1])],
        near=[predicted.loss_ratio(tokens) for tokens in intervals],
        shares=[(tokens.sum() / hidden.sum()).item() for tokens in intervals],
    )


def mean_row(rows: Sequence[Row]) -> Row:
    """Return the mean over seeds."""
    numbers = [field.name for field in fields(Row) if field.name != "title"]
    return Row(rows[0].title, *(np.mean([getattr(row, name) for row in rows], axis=0) for name in numbers))


def motion_accuracy(run: compare.Run, options: compare.Options) -> float:
    """Return the accuracy of the attentive probe of compare.py on motion; nan if it was not trained."""
    kept = run.folder(options) / f"{compare.PROBE.replace(' ', '_')}.json"
    return float(np.mean(json.loads(kept.read_text())["motion"]["right"])) if kept.exists() else np.nan


def measure_method(name: str, options: compare.Options, frames: np.ndarray) -> tuple[list[str], list[Row]]:
    """Return a row about the features of a method, and one about what it predicts under each of its mask types."""
    method, shares, found = compare.METHODS[name], [], []
    runs = [compare.Run(name, seed, options.steps, options.hidden_size) for seed in options.seeds]
    runs = [run for run in runs if (run.folder(options) / "pretraining.json").exists()]
    several = len(method.masks) > 1
    titles = [f"{method.title}: {MASK_TITLES[mask]}" for mask in method.masks] if several else [method.title]
    for run in runs:
        model = VJEPAForPreTraining.from_pretrained(run.folder(options)).eval()
        # Any mask will do for an untrained encoder: no table has what its predictor says.
        masks = mask_types(method, model.config.grid_size) or [compare.FUTURE]
        predicted = [predict(model, mask, index, frames, options.batch_size) for index, mask in enumerate(masks)]
        shares.append(share_of_changes(predicted[0].targets))
        found.append([measure(*pair) for pair in zip(titles, predicted, strict=True)])
    rows = [mean_row(of_seeds) for of_seeds in zip(*found, strict=True)] if method.masks else []
    accuracy = np.mean([motion_accuracy(run, options) for run in runs]) if runs else np.nan
    return [method.title, len(runs), *cells([np.mean(shares) if runs else np.nan, accuracy])], rows


def growth(options: compare.Options, frames: np.ndarray) -> list[list[object]]:
    """Return a row for each run of compare.py's table of clips seen, at the width of the comparison."""
    rows: list[list[object]] = []
    for run in compare.growth_runs(replace(options, growth_sizes=[options.hidden_size])):
        if (run.folder(options) / "pretraining.json").exists():
            model = VJEPAForPreTraining.from_pretrained(run.folder(options)).eval()
            future = model.config.pred_num_mask_tokens - 1  # the last mask type of the three
            (mask,) = mask_types(compare.METHODS["vjepa_future"], model.config.grid_size)
            predicted = predict(model, mask, future, frames, options.batch_size)
            seen = 0 if run.method == "untrained" else run.steps * options.batch_size
            ratios = [predicted.loss_ratio(), predicted.copy_ratio()] if seen else [np.nan, np.nan]
            rows.append([seen, *cells([share_of_changes(predicted.targets), *ratios, motion_accuracy(run, options)])])
    return rows


def cells(values: Sequence[float], shares: Sequence[float] | None = None) -> list[str]:
    """Return numbers as cells of a table, with fractions in brackets; empty where there is none."""
    texts = [f"{value:.2f}" for value in values]
    if shares is not None:
        texts = [f"{text} ({share:.2f})" for text, share in zip(texts, shares, strict=True)]
    return ["" if np.isnan(value) else text for value, text in zip(values, texts, strict=True)]


def section(title: str, text: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a section with one table."""
    return ["", f"## {title}", "", text, "", *report.table(header, rows)]


def page(options: compare.Options, frames: np.ndarray) -> list[str]:
    """Measure the V-JEPA encoders of compare.py that are there, and return the lines of the page."""
    names = [name for name in options.methods if not compare.METHODS[name].predicts_pixels]
    measured = [measure_method(name, options, frames) for name in names]
    features, rows = [row for row, _ in measured if row[1]], [row for _, found in measured for row in found]
    method = " ".join(__doc__.split("\n\n")[2].split())
    environment = report.environment(f"transformers {transformers.__version__}", f"{len(frames)} test clips")
    lines = ["# What each mask type teaches to predict", "", f"`python studies/vizdoom/masks.py`: {method}", ""]
    lines += [environment]
    lines += section(
        "Changes in the features",
        "The fraction of the variance of the target encoder's features that is change over time, and what the "
        "attentive probe of [the comparison](results.md) reads from them. Means over seeds.",
        ["", "seeds", "changes", "accuracy on motion"],
        features,
    )
    lines += section(
        "What is predicted",
        "Means over seeds, also below.",
        ["", "tokens hidden", "loss ratio", "loss ratio of a copy", "R2 of the mean over time", "R2 of the changes"],
        [[row.title, *cells([row.hidden, row.loss_ratio, row.copy_ratio, row.mean, row.changes])] for row in rows],
    )
    lines += section(
        "Loss ratio and time",
        "The context of the future mask is the first half of the clip.",
        ["", *(f"time step {step + 1}" for step in range(len(rows[0].times)))],
        [[row.title, *cells(row.times)] for row in rows],
    )
    lines += section(
        "Loss ratio and distance to the context",
        "In brackets: the fraction of the hidden tokens.",
        ["", *DISTANCES],
        [[row.title, *cells(row.near, row.shares)] for row in rows],
    )
    return lines + section(
        "Clips seen",
        f"V-JEPA with three mask types, seed {options.seeds[0]}; the ratios are those of its future masks.",
        ["clips seen", "changes", "loss ratio", "loss ratio of a copy", "accuracy on motion"],
        growth(options, frames),
    )


def main() -> None:
    """Measure all encoders and write the page."""
    options = parse(compare.Options)
    output = report.refuse_uncommitted_code(Path(options.output) if options.output else None)
    compare.check_same_run(options)
    frames = compare.read_clips(Path(options.videos), "test", options.num_frames).frames
    report.publish(page(options, frames), output)


if __name__ == "__main__":
    main()
