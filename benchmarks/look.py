"""What `vjepa-hf look` shows: whether the principal components of features separate shapes from the ground.

    python benchmarks/look.py shapes --model output/pretrain --output benchmarks/results/look_shapes.md

A page is printed, and written where `--output` says; `--help` lists the options.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
import typer

from report import Output, make_app, opening, publish, table
from vjepa_hf import VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.examples.make_toy_videos import (
    RADIUS,
    SPEED,
    centers_on_torus,
    offsets_on_torus,
    paint_shape,
    render_clutter,
    signed_distance,
    to_bytes,
)
from vjepa_hf.visualization import feature_pca

transformers.utils.logging.disable_progress_bar()
app = make_app()
SHAPES = (("disk", "striped"), ("square", "checked"))
COVERED = 0.5  # fraction of a tubelet that a shape covers, from which on the tubelet belongs to the shape


@app.callback()
def main() -> None:
    """Measure what the page of `vjepa-hf look` shows."""


def two_shapes(seed: int, number: int, num_frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a clip (T, H, W, C) uint8 of two different shapes on moving clutter, and where each is, (2, T, H, W)."""
    generator = np.random.default_rng([seed, number])
    frames, masks = render_clutter(generator, num_frames, size), []
    for shape, texture in SHAPES:
        heading, speed, radius = generator.uniform(0, 2 * np.pi), generator.uniform(*SPEED), generator.uniform(*RADIUS)
        centers = centers_on_torus(generator, heading, speed, num_frames)
        paint_shape(generator, frames, shape, texture, centers, radius)
        x, y = offsets_on_torus(centers, size)
        masks.append(signed_distance(shape, x[:, None, :] / radius, y[:, :, None] / radius) < 0)
    masks[0] &= ~masks[1]  # the second shape covers the first
    return to_bytes(frames), np.stack(masks)


def means_of_tubelets(values: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Average values (..., T, H, W) over the tubelets of a grid (t, h, w)."""
    blocks = [side for length, parts in zip(values.shape[-3:], grid, strict=True) for side in (parts, length // parts)]
    return values.reshape(*values.shape[:-3], *blocks).mean(axis=(-5, -3, -1))


def above_otsu(values: np.ndarray) -> np.ndarray:
    """Return which values are above the threshold of Otsu, which maximizes the variance between both sides."""
    ordered = np.sort(values.reshape(-1))
    below = np.arange(1, len(ordered))
    sums = ordered.cumsum()
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(ordered) - below)
    best = (below * (len(ordered) - below) * gap**2).argmax()
    return values > (ordered[best] + ordered[best + 1]) / 2


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection over union of two boolean arrays."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def separation(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Return the area under the ROC curve with which values tell the first tubelets from the second, at least 0.5."""
    if not first.any() or not second.any():
        return 0.5
    greater = values[first][:, None] - values[second][None]
    area = float((greater > 0).mean() + 0.5 * (greater == 0).mean())
    return max(area, 1 - area)


@app.command()
def shapes(
    model: Annotated[Path, typer.Option(help="folder of a pretraining run on the toy set")] = Path("output/pretrain"),
    num_clips: Annotated[int, typer.Option(min=1, help="clips with two shapes")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="seed of the clips and of the untrained weights")] = 7,
    output: Output = None,
) -> None:
    """Compare principal components of features with the known places of two shapes.

    A clip shows a striped disk and a checked square that move over moving clutter. The components are those of one
    clip, as `vjepa-hf look` draws them. "IoU" is the intersection over union of the tubelets above the threshold of
    Otsu along the first component, and of those that a shape covers to one half or more; "0.5 or more" is the fraction
    of clips that reach it. "AUC" is how well one of the components (the best of three) tells the tubelets of the disk
    from those of the square, 0.5 by chance. Shapes are brighter than the ground, so the brightness of the pixels
    already separates them: the row shows how easy the task is.
    """
    processor = VJEPAVideoProcessor.from_pretrained(model)
    trained = VJEPAModel.from_pretrained(model, add_predictor=False).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = VJEPAModel(trained.config, add_predictor=False).eval()
    grid, rows = trained.config.grid_size, {}
    for number in range(num_clips):
        frames, places = two_shapes(seed, number, processor.num_frames, processor.crop_size["height"])
        disk, square = means_of_tubelets(places, grid) >= COVERED
        pixels = processor(frames, return_tensors="pt", do_sample_frames=False)["pixel_values_videos"]
        maps = {"brightness of the pixels": means_of_tubelets(frames.mean(axis=-1), grid)[..., None]}
        for name, encoder in (("features, untrained", untrained), ("features, pretrained", trained)):
            with torch.no_grad():
                features = encoder(pixels).last_hidden_state[0].unflatten(0, grid)
            maps[name] = feature_pca(features).projections
        for name, projections in maps.items():
            iou = overlap(above_otsu(projections[..., 0]), disk | square)
            areas = [separation(projections[..., index], disk, square) for index in range(projections.shape[-1])]
            rows.setdefault(name, []).append((iou, iou >= 0.5, max(areas)))
    sizes = trained.config
    about = f"encoder {sizes.num_hidden_layers} x {sizes.hidden_size}, grid {' x '.join(map(str, grid))}"
    lines = opening("Principal components and shapes", "look.py shapes", shapes.__doc__ or "", about)
    means = [[name, *(f"{value:.2f}" for value in np.mean(values, axis=0))] for name, values in rows.items()]
    publish(lines + table([f"{num_clips} clips", "IoU", "0.5 or more", "AUC"], means), output)


if __name__ == "__main__":
    app()
