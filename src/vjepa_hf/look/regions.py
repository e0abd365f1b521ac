"""What is hidden from the model, and how well it predicts it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler, MultiBlockMask
from ..model.configuration_vjepa import VJEPAConfig
from ..model.tubelets import Grid
from ..visualization.prediction import PredictionErrors

Box = Sequence[float]  # x0, y0, x1, y1 in fractions of the picture

# Mask types in the order of the mask tokens of a pretraining run, and the box of the user.
DESCRIPTIONS = {
    "short range": "Eight small blocks are hidden at all times (short-range masks of the paper).",
    "long range": "Two large blocks are hidden at all times (long-range masks of the paper).",
    "future": "The second half of each clip is hidden.",
    "your box": "The box that you chose is hidden at all times.",
}


def mask_token_index(name: str, config: VJEPAConfig) -> int:
    """Return the mask token of a mask type; a box, and a type that the model has no token for, take the first ones."""
    if not config.pred_mask_token_per_mask_type or name == "your box":
        return 0
    return list(DESCRIPTIONS).index(name) % config.pred_num_mask_tokens


@dataclass(frozen=True)
class HiddenRegion:
    """One mask, the same in every clip of the video, and the errors of the predictions of what it hides.

    Attributes:
        name: a key of `DESCRIPTIONS`.
        hidden: boolean `(n, h, w)`.
        errors: errors `(n, h, w)`, nan where the tubelet is visible.
    """

    name: str
    hidden: np.ndarray
    errors: PredictionErrors

    @property
    def means(self) -> dict[str, float]:
        """Mean error of the predictor ("model") and of the trivial predictions ("mean", "copy")."""
        return {name: float(values[self.hidden].mean()) for name, values in vars(self.errors).items()}


def region_masks(grid: Grid, box: Box | None, seed: int) -> dict[str, np.ndarray]:
    """Return the boolean masks `(t, h, w)` of a clip by name. Every clip of the video gets the same masks."""
    types = {"short range": SHORT_RANGE, "long range": LONG_RANGE}
    if grid[0] > 1:
        types["future"] = MultiBlockMask(num_blocks=0, context_steps=grid[0] // 2)
    masks = {}
    _, targets = MaskSampler(list(types.values()), grid, seed)([(0, 0)])
    for name, target in zip(types, targets, strict=True):
        masks[name] = np.zeros(grid, dtype=bool)
        masks[name].reshape(-1)[target[0].numpy()] = True
    return masks if box is None else masks | {"your box": box_mask(box, grid)}


def read_box(text: str) -> Box:
    """Read a box from `x0,y0,x1,y1`.

    Raises:
        ValueError: the text is not four numbers.
    """
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"mask {text!r} must be x0,y0,x1,y1 in fractions of the picture, such as 0,0,.5,1") from None
    return x0, y0, x1, y1


def box_mask(box: Box, grid: Grid) -> np.ndarray:
    """Return the boolean mask `(t, h, w)` of the tubelets whose center lies in a box.

    Raises:
        ValueError: the box is not x0 < x1 and y0 < y1 in [0, 1], or it contains all centers, or none.
    """
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f"box={list(box)} must be x0, y0, x1, y1 with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1.")
    t, h, w = grid
    x, y = (np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h
    inside = ((box[1] <= y) & (y <= box[3]))[:, None] & ((box[0] <= x) & (x <= box[2]))
    if inside.all() or not inside.any():
        raise ValueError(f"box={list(box)} hides {inside.sum()} of {h} x {w} tubelets; some must be hidden, not all.")
    return np.tile(inside, (t, 1, 1))
