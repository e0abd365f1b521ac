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
from collections.abc import Mapping, Sequence
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
        predictions: `(n, t, h * w, D)`, 0 where nothing is hidden.
        copies: `(n, t, h * w, D)`, the target at the nearest context token, 0 where nothing is hidden.
        hidden: `(n, t, h * w)`, true where the mask hides a token.
        distances: `(n, t, h * w)` to the nearest context token, 0 where nothing is hidden.
    """

    targets: torch.Tensor
    predictions: torch.Tensor
    copies: torch.Tensor
    hidden: torch.Tensor
    distances: torch.Tensor

    def loss_ratio(self, chosen: torch.Tensor | None = None) -> float:
        """Return the loss ratio of all hidden tokens, or of the chosen ones; nan if there are none."""
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
    """Return the mean absolute error, divided by the error of always predicting 0, the mean target."""
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


def fraction_of_changes(targets: torch.Tensor) -> float:
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
        contexts, (tokens,) = sampler([(0, row) for row in rows.tolist()])
        outputs = model(pixels, contexts, [tokens], mask_type_indices=[index])
        nearest = torch.stack([nearest_context(*pair, grid) for pair in zip(*contexts, tokens, strict=True)])
        clips = rows.unsqueeze(1)
        targets[rows] = outputs.target_hidden_state
        predictions[clips, tokens], copies[clips, tokens] = outputs.predictions[0], targets[clips, nearest]
        hidden[clips, tokens], distances[clips, tokens] = True, distance(nearest, tokens, grid)
    mean = targets.mean(dim=0)
    predictions, copies = ((features - mean) * hidden.unsqueeze(-1) for features in (predictions, copies))
    tensors = targets - mean, predictions, copies, hidden, distances
    return Predicted(*(tensor.unflatten(1, (grid[0], -1)) for tensor in tensors))


def distance(one: torch.Tensor, other: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the distances of tokens to other tokens of the grid (t, h, w); indices and distances have one shape."""
    positions = (torch.stack(torch.unravel_index(tokens, grid)).float() for tokens in (one, other))
    return (next(positions) - next(positions)).norm(dim=0)


@dataclass(frozen=True)
class Metrics:
    """What a model predicts under one mask type, as metrics.

    Attributes:
        hidden: fraction of the tokens.
        loss_ratio: of all hidden tokens.
        copy_ratio: loss ratio of a copy of the nearest context token.
        mean: R2 of the mean over time.
        changes: R2 of the changes.
        times: loss ratio of each time step.
        near: loss ratio of each of `DISTANCES`.
        fractions: of the hidden tokens, at each of `DISTANCES`.
    """

    hidden: float
    loss_ratio: float
    copy_ratio: float
    mean: float
    changes: float
    times: Sequence[float]
    near: Sequence[float]
    fractions: Sequence[float]


def measure(predicted: Predicted) -> Metrics:
    """Summarize what a model predicts."""
    hidden, distances = predicted.hidden, predicted.distances
    steps = torch.arange(hidden.shape[1])[:, None]
    intervals = [(distances > low) & (distances <= high) & hidden for low, high in DISTANCES.values()]
    return Metrics(
        hidden.float().mean().item(),
        predicted.loss_ratio(),
        predicted.copy_ratio(),
        *predicted.explained(),
        times=[predicted.loss_ratio(steps == step) for step in range(hidden.shape[1])],
        near=[predicted.loss_ratio(tokens) for tokens in intervals],
        fractions=[(tokens.sum() / hidden.sum()).item() for tokens in intervals],
    )


def mean_metrics(of_seeds: Sequence[Metrics]) -> Metrics:
    """Return the mean of every metric over seeds."""
    return Metrics(*(np.mean([getattr(one, field.name) for one in of_seeds], axis=0) for field in fields(Metrics)))


@dataclass(frozen=True)
class Encoder:
    """What is measured of one run of compare.py.

    Attributes:
        changes: fraction of the variance of the features that is change over time.
        motion: accuracy of the attentive probe on motion; nan if it was not trained.
        masks: metrics of each mask type of the method; none for an untrained encoder.
    """

    changes: float
    motion: float
    masks: Sequence[Metrics]


def measure_run(run: compare.Run, options: compare.Options, frames: np.ndarray) -> Encoder:
    """Load the encoder of a run and measure it on uint8 clips `(n, T, 3, H, W)`."""
    model, method = VJEPAForPreTraining.from_pretrained(run.folder(options)).eval(), compare.METHODS[run.method]
    # The features do not depend on the mask, so an untrained encoder takes any; its predictor is not measured.
    masks = mask_types(method, model.config.grid_size) or [compare.FUTURE]
    predicted = [predict(model, mask, index, frames, options.batch_size) for index, mask in enumerate(masks)]
    answers = run.folder(options) / f"{compare.PROBE.replace(' ', '_')}.json"
    motion = float(np.mean(json.loads(answers.read_text())["motion"]["right"])) if answers.exists() else np.nan
    metrics = [measure(of_mask) for of_mask in predicted] if method.masks else []
    return Encoder(fraction_of_changes(predicted[0].targets), motion, metrics)


def cells(values: Sequence[float], fractions: Sequence[float] | None = None) -> list[str]:
    """Return numbers as cells of a table, with fractions in brackets; empty where there is none."""
    texts = [f"{value:.2f}" for value in values]
    if fractions is not None:
        texts = [f"{text} ({fraction:.2f})" for text, fraction in zip(texts, fractions, strict=True)]
    return ["" if np.isnan(value) else text for value, text in zip(values, texts, strict=True)]


def section(title: str, text: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a section with one table."""
    return ["", f"## {title}", "", text, "", *report.table(header, rows)]


def page(encoders: Mapping[compare.Run, Encoder], options: compare.Options, num_clips: int) -> list[str]:
    """Return the lines of the page: means over the seeds of the comparison, then the runs of the clips seen."""
    features, titles, metrics = [], [], []
    for name, method in compare.METHODS.items():
        runs = [compare.Run(name, seed, options.steps, options.hidden_size) for seed in options.seeds]
        of_seeds = [encoders[run] for run in runs if run in encoders]
        if of_seeds:
            means = np.mean([(encoder.changes, encoder.motion) for encoder in of_seeds], axis=0)
            features.append([method.title, len(of_seeds), *cells(means)])
            metrics += [
                mean_metrics(of_mask) for of_mask in zip(*(encoder.masks for encoder in of_seeds), strict=True)
            ]
            several = len(method.masks) > 1
            titles += [f"{method.title}: {MASK_TITLES[mask]}" if several else method.title for mask in method.masks]
    method = " ".join(__doc__.split("\n\n")[2].split())
    lines = ["# What each mask type teaches to predict", "", f"`python studies/vizdoom/masks.py`: {method}", ""]
    lines += [report.environment(f"transformers {transformers.__version__}", f"{num_clips} test clips")]
    lines += section(
        "Changes in the features",
        "The fraction of the variance of the target encoder's features that is change over time, and what the "
        "attentive probe of [the comparison](results.md) reads from them. Means over seeds.",
        ["", "seeds", "changes", "accuracy on motion"],
        features,
    )
    rows = list(zip(titles, metrics, strict=True))
    lines += section(
        "What is predicted",
        "Means over seeds, also below.",
        ["", "tokens hidden", "loss ratio", "loss ratio of a copy", "R2 of the mean over time", "R2 of the changes"],
        [
            [title, *cells([mask.hidden, mask.loss_ratio, mask.copy_ratio, mask.mean, mask.changes])]
            for title, mask in rows
        ],
    )
    lines += section(
        "Loss ratio and time",
        "The context of the future mask is the first half of the clip.",
        ["", *(f"time step {step + 1}" for step in range(len(metrics[0].times)))],
        [[title, *cells(mask.times)] for title, mask in rows],
    )
    lines += section(
        "Loss ratio and distance to the context",
        "In brackets: the fraction of the hidden tokens.",
        ["", *DISTANCES],
        [[title, *cells(mask.near, mask.fractions)] for title, mask in rows],
    )
    return lines + section(
        "Clips seen",
        f"V-JEPA with three mask types, seed {options.seeds[0]}. The loss ratios are those of the future mask.",
        ["clips seen", "changes", "loss ratio", "loss ratio of a copy", "accuracy on motion"],
        [growth_row(run, encoders[run], options) for run in growth_runs(options) if run in encoders],
    )


def growth_runs(options: compare.Options) -> list[compare.Run]:
    """Return the runs of compare.py's table of clips seen, at the width of the comparison."""
    return compare.growth_runs(replace(options, growth_sizes=[options.hidden_size]))


def growth_row(run: compare.Run, encoder: Encoder, options: compare.Options) -> list[object]:
    """Return the row of a run in the table of clips seen."""
    seen = run.steps * options.batch_size if encoder.masks else 0
    ratios = [encoder.masks[-1].loss_ratio, encoder.masks[-1].copy_ratio] if encoder.masks else [np.nan, np.nan]
    return [seen, *cells([encoder.changes, *ratios, encoder.motion])]


def finished_runs(options: compare.Options) -> list[compare.Run]:
    """Return the V-JEPA and untrained runs that compare.py has finished, each once."""
    runs = [
        run for run in (*compare.runs_of(options), *growth_runs(options)) if run.hidden_size == options.hidden_size
    ]
    runs = [run for run in runs if not compare.METHODS[run.method].predicts_pixels]
    return [run for run in dict.fromkeys(runs) if (run.folder(options) / "pretraining.json").exists()]


def main() -> None:
    """Measure all finished encoders and write the page."""
    options = parse(compare.Options)
    output = report.refuse_uncommitted_code(Path(options.output) if options.output else None)
    compare.check_same_run(options)
    frames = compare.read_clips(Path(options.videos), "test", options.num_frames).frames
    encoders = {run: measure_run(run, options, frames) for run in finished_runs(options)}
    report.publish(page(encoders, options, len(frames)), output)


if __name__ == "__main__":
    main()
