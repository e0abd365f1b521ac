"""Draw what a pretrained model predicts where a part of a clip is hidden.

    python examples/draw_predictions.py --model output/pretrain --output predictions.png

The clips are new ones of the toy set. A linear map, fitted by least squares to the features and pixels of other clips,
makes the features visible. It decodes one tubelet at a time, so what it shows in a hidden part comes from the
predicted features alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from vjepa_hf import VJEPAForPreTraining, VJEPAVideoProcessor
from vjepa_hf.examples.make_toy_videos import APPEARANCES, MOTIONS, render_video
from vjepa_hf.files import parents_of, whole_file
from vjepa_hf.model.tubelets import Grid, to_tubelets
from vjepa_hf.training.arguments import mistakes_exit, option, parse
from vjepa_hf.visualization import feature_pca

SEED = 2  # of the clips; the toy set has seed 0
FIRST_FITTED = 1000  # number of the first clip that the decoder is fitted to
CLIPS_AT_ONCE = 16
GRAY = "#848d97"  # readable on white and on black
ROWS = (
    "clip",
    "PCA of its\nfeatures",
    "what the\nmodel sees",
    "predicted\nfeatures,\ndecoded",
    "true\nfeatures,\ndecoded",
    "prediction\nerror",
)


@dataclass
class DrawingArguments:
    """Draw what a pretrained model predicts where a part of a clip is hidden."""

    model: str = option("folder or Hub name of a pretraining run", "output/pretrain")
    output: str = option("PNG file to write", "predictions.png")
    num_clips: int = option("clips to fit the decoder to", 128)
    first_clip: int = option("number of the clip with a hidden region", 22)
    second_clip: int = option("number of the clip with a hidden future", 29)


@dataclass(frozen=True)
class Decoder:
    """Linear map from features `(..., D)` to the pixels of a tubelet `(..., P)`, between 0 and 1."""

    weights: torch.Tensor  # (D + 1, P)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return _with_bias(features).double() @ self.weights


def _with_bias(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(features, (0, 1), value=1.0)


def toy_clips(processor: VJEPAVideoProcessor, numbers: Sequence[int]) -> torch.Tensor:
    """Render clips of the toy set, uint8 `(B, T, C, H, W)`; each is a function of its number."""
    step, size = processor.frame_step or 1, processor.crop_size["height"]
    clips = []
    for number in numbers:
        generator = np.random.default_rng([SEED, number])
        appearance, motion = generator.choice(APPEARANCES), generator.choice(MOTIONS)
        frames, _ = render_video(generator, appearance, motion, step * processor.num_frames, size)
        clips.append(torch.from_numpy(frames[::step]).permute(0, 3, 1, 2))
    return torch.stack(clips)


@torch.no_grad()
def encode(
    model: VJEPAForPreTraining, processor: VJEPAVideoProcessor, clips: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return normalized clips, targets `(B, N, D)`, and the pixels of their tubelets between 0 and 1 `(B, N, P)`."""
    inputs = processor(list(clips), do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    pixels = to_tubelets(inputs * std + mean, model.config.tubelet_size, model.config.patch_size)
    return inputs, model.encode_targets(*model.vjepa.tokenize(inputs)), pixels


def fit_decoder(model: VJEPAForPreTraining, processor: VJEPAVideoProcessor, numbers: range) -> Decoder:
    """Fit pixels to the features of the target encoder by least squares."""
    moments = products = torch.zeros(())
    for start in range(0, len(numbers), CLIPS_AT_ONCE):
        clips = toy_clips(processor, numbers[start : start + CLIPS_AT_ONCE])
        _, targets, pixels = encode(model, processor, clips)
        features = _with_bias(targets).flatten(0, 1).double()
        moments = moments + features.T @ features
        products = products + features.T @ pixels.flatten(0, 1).double()
    return Decoder(torch.linalg.lstsq(moments, products).solution)


def masks(grid: Grid) -> dict[str, np.ndarray]:
    """Return what is hidden in each half of the picture, boolean `(t, h, w)`."""
    t, h, w = grid
    region, future = np.zeros(grid, dtype=bool), np.zeros(grid, dtype=bool)
    top, left = (h - h // 2) // 2, (w - w // 2) // 2
    region[:, top : top + h // 2, left : left + w // 2] = True
    future[t // 2 :] = True
    return {"A region is hidden": region, "The future is hidden": future}


def first_frames(tubelets: torch.Tensor, grid: Grid, patch_size: int) -> np.ndarray:
    """Return the first frame of each time step, RGB `(t, H, W, 3)`, from the pixels of tubelets `(N, P)`."""
    first = tubelets.float().unflatten(0, grid).unflatten(-1, (3, -1, patch_size, patch_size))[:, :, :, :, 0]
    frames = first.permute(0, 1, 4, 2, 5, 3)  # (t, h, w, C, p, p) -> (t, h, p, w, p, C)
    return frames.reshape(grid[0], grid[1] * patch_size, grid[2] * patch_size, 3).clamp(0, 1).numpy()


def only(where: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Add a channel that makes the pictures `(t, H, W, 3)` transparent except where a mask `(t, h, w)` is True."""
    height, width = (side // cells for side, cells in zip(pictures.shape[1:3], where.shape[1:], strict=True))
    opaque = where.repeat(height, axis=1).repeat(width, axis=2)[..., None]
    return np.concatenate([pictures, opaque], axis=-1)


@torch.no_grad()
def rows_of(
    model: VJEPAForPreTraining, decoder: Decoder, hidden: np.ndarray, inputs: torch.Tensor, pixels: torch.Tensor
) -> list[np.ndarray]:
    """Return the pictures `(t, height, width, 3 or 4)` of `ROWS` for one clip `(T, C, H, W)`."""
    grid, patch_size = hidden.shape, model.config.patch_size
    flat = torch.from_numpy(hidden.reshape(-1))
    context, target = (np.flatnonzero(flat == value) for value in (False, True))
    mask_type = model.config.pred_num_mask_tokens - 1 if hidden[-1].all() else 0
    outputs = model(inputs[None], [torch.from_numpy(context)[None]], [torch.from_numpy(target)[None]], [mask_type])
    features, predictions = outputs.target_hidden_state[0], outputs.target_hidden_state[0].clone()
    predictions[flat] = outputs.predictions[0][0]
    errors = (predictions - features).abs().mean(dim=-1)
    constant = (outputs.targets[0][0] - outputs.targets[0][0].mean(dim=0)).abs().mean()
    clip, predicted, true = (
        first_frames(part, grid, patch_size) for part in (pixels, decoder(predictions), decoder(features))
    )
    colors = feature_pca(features.unflatten(0, grid)).colors / 255
    heat = colormaps["inferno"]((errors / constant).view(grid).numpy())[..., :3]
    return [clip, colors, only(~hidden, clip), only(hidden, predicted), only(hidden, true), only(hidden, heat)]


def draw(panels: dict[str, list[np.ndarray]]) -> Figure:
    """Draw the rows of each panel side by side, readable on light and on dark pages."""
    num_columns = len(next(iter(panels.values()))[0])
    figure = Figure(figsize=(1.5 + 1.2 * num_columns * len(panels), 1.6 + 1.2 * len(ROWS)), facecolor="none")
    outer = figure.add_gridspec(1, len(panels), left=0.12, right=0.995, bottom=0.105, top=0.925, wspace=0.05)
    for panel, (title, rows) in enumerate(panels.items()):
        axes = outer[panel].subgridspec(len(rows), num_columns, hspace=0.06, wspace=0.06).subplots()
        for number, (row, pictures) in enumerate(zip(axes, rows, strict=True)):
            for axis, picture in zip(row, pictures, strict=True):
                axis.imshow(picture, interpolation="nearest", extent=(0, 1, 0, 1))
                axis.set(xticks=[], yticks=[], facecolor="none")
                axis.spines[:].set(color=GRAY, linewidth=0.6)
            if panel == 0:
                row[0].set_ylabel(ROWS[number], color=GRAY, rotation=0, ha="right", va="center", fontsize=12)
        middle = (axes[0, 0].get_position().x0 + axes[0, -1].get_position().x1) / 2
        figure.text(middle, 0.95, title, color=GRAY, fontsize=15, ha="center", weight="bold")
    scale = figure.add_axes((0.68, 0.065, 0.25, 0.016))
    scale.imshow(np.linspace(0, 1, 256)[None], cmap="inferno", aspect="auto", extent=(0, 1, 0, 1))
    scale.set(yticks=[], xticks=[0, 0.5, 1])
    scale.set_xlabel("prediction error (1: a constant prediction)", color=GRAY, fontsize=11)
    scale.tick_params(colors=GRAY)
    scale.spines[:].set_visible(False)
    return figure


def main(command_line: Sequence[str] | None = None) -> None:
    args = parse(DrawingArguments, command_line)
    with mistakes_exit():
        model = VJEPAForPreTraining.from_pretrained(args.model).eval()
        processor = VJEPAVideoProcessor.from_pretrained(args.model)
    decoder = fit_decoder(model, processor, range(FIRST_FITTED, FIRST_FITTED + args.num_clips))
    clips = toy_clips(processor, [args.first_clip, args.second_clip])
    inputs, _, pixels = encode(model, processor, clips)
    panels = {
        name: rows_of(model, decoder, hidden, clip, tubelets)
        for (name, hidden), clip, tubelets in zip(masks(model.config.grid_size).items(), inputs, pixels, strict=True)
    }
    figure = draw(panels)
    with mistakes_exit(), parents_of(Path(args.output)), whole_file(args.output) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    print(f"{args.output}: the decoder was fitted to {args.num_clips} other clips")


if __name__ == "__main__":
    main()
