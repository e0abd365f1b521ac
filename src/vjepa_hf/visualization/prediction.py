"""Errors of predicted features where they were hidden, and of trivial predictions.

The error of a tubelet is that of training: the mean absolute difference between the prediction and the layer-normed
output of the target encoder, which saw the whole clip.
"""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from ..data.masking import nearest_context
from ..model.modeling_vjepa import VJEPAForPreTraining
from .strips import plot_strips


@dataclass(frozen=True)
class PredictionErrors:
    """Errors `(t, h, w)`, float32, nan for the visible tubelets.

    Attributes:
        model: error of the predictor.
        mean: error of the mean target of the clip, which is the same for all tubelets.
        copy: error of the feature of the nearest visible tubelet. If all of the future is hidden, it is the feature of
            the same place at the last visible time step.
    """

    model: np.ndarray
    mean: np.ndarray
    copy: np.ndarray


@torch.no_grad()
def prediction_errors(
    model: VJEPAForPreTraining,
    pixel_values_videos: torch.Tensor,
    hidden: np.ndarray,
    mask_type_index: int = 0,
    target_hidden_state: torch.Tensor | None = None,
) -> PredictionErrors:
    """Hide tubelets of a clip from the context encoder, and compare their predicted features with the targets.

    Args:
        model: model with predictor.
        pixel_values_videos: one normalized clip `(1, T, C, H, W)`.
        hidden: boolean `(t, h, w)`, True for the tubelets to hide.
        mask_type_index: mask type, which selects the mask token.
        target_hidden_state: `(1, N, D)`, as `model.encode_targets` returns it, if it is known already.

    Raises:
        ValueError: all tubelets are hidden, or none.
    """
    flat = torch.from_numpy(hidden.reshape(-1))
    if flat.all() or not flat.any():
        raise ValueError("the mask hides all tubelets, or none; both visible and hidden tubelets must remain.")
    context, target = ((flat == value).nonzero()[:, 0].to(model.device) for value in (False, True))
    outputs = model(
        pixel_values_videos,
        context_masks=[context[None]],
        target_masks=[target[None]],
        mask_type_indices=[mask_type_index],
        target_hidden_state=target_hidden_state,
    )
    targets, features = outputs.targets[0][0], outputs.target_hidden_state[0]
    guesses = {
        "model": outputs.predictions[0][0].float(),
        "mean": targets.mean(dim=0),
        "copy": features[nearest_context(context, target, hidden.shape)],
    }
    return PredictionErrors(**{name: _on_grid(guess - targets, hidden) for name, guess in guesses.items()})


def _on_grid(differences: torch.Tensor, hidden: np.ndarray) -> np.ndarray:
    errors = np.full(hidden.shape, np.nan, dtype=np.float32)
    errors[hidden] = differences.abs().mean(dim=-1).cpu().numpy()
    return errors


def plot_prediction(frames: np.ndarray, errors: PredictionErrors, num_columns: int = 8) -> Figure:
    """Draw frames, and below them the errors of the prediction and of trivial predictions, in one range of colors.

    Args:
        frames: uint8 `(t, H, W, 3)`, the frame of each time step.
        errors: errors of the same time steps.
        num_columns: number of evenly spaced time steps to draw.
    """
    rows = {"video": frames, "prediction": errors.model, "mean target": errors.mean, "nearest visible": errors.copy}
    return plot_strips(rows, num_columns)
