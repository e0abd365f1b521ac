"""Principal components of the features of a video, as colors.

The components are those of all tokens of the video together, so a color has the same meaning at every time and place.
"""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from .strips import plot_strips

# Percentiles of a component that become black and full color; a few extreme tokens would darken all others.
COLOR_RANGE = (1, 99)


@dataclass(frozen=True)
class FeaturePCA:
    """Projections of features onto their first principal components.

    Attributes:
        projections: float32 `(n, h, w, k)`.
        variance_ratios: float64 `(k,)`, the fraction of the variance along each component; 0 for constant features.
    """

    projections: np.ndarray
    variance_ratios: np.ndarray

    @property
    def colors(self) -> np.ndarray:
        """Projections as uint8 `(n, h, w, k)`: the colors red, green and blue if k is 3."""
        low, high = np.percentile(self.projections, COLOR_RANGE, axis=(0, 1, 2))
        scaled = (self.projections - low) / np.where(high > low, high - low, 1)
        return (255 * scaled.clip(0, 1)).round().astype(np.uint8)


def feature_pca(features: torch.Tensor, num_components: int = 3) -> FeaturePCA:
    """Project the features of all tokens of a video onto their first principal components.

    The sign of a component is chosen so that its projections are skewed to positive values: the tokens that differ
    most from the others, often the smaller part of the picture, are bright.

    Args:
        features: `(n, h, w, D)`: time steps, rows, columns, width.
        num_components: k, at most D.

    Raises:
        ValueError: `features` has another shape, or contains nan or inf.
    """
    if features.ndim != 4 or not 1 <= num_components <= features.shape[-1]:
        raise ValueError(
            f"features of shape {tuple(features.shape)} must be (n, h, w, D) with D of at least "
            f"num_components={num_components}."
        )
    if not features.isfinite().all():
        raise ValueError("the features contain nan or inf; the weights of the model, or the clip, do too.")
    tokens = features.flatten(0, 2).cpu().double()
    tokens = tokens - tokens.mean(dim=0)
    values, vectors = torch.linalg.eigh(tokens.T @ tokens)  # ascending
    kept = values.flip(0)[:num_components].clamp_min(0) / values.clamp_min(0).sum().clamp_min(1e-12)
    projections = tokens @ vectors.flip(1)[:, :num_components]
    projections = projections * torch.where(projections.pow(3).sum(dim=0) < 0, -1.0, 1.0)
    return FeaturePCA(projections.float().unflatten(0, features.shape[:3]).numpy(), kept.numpy())


def plot_pca(frames: np.ndarray, pca: FeaturePCA, num_columns: int = 8) -> Figure:
    """Draw frames, and the first three components below them.

    Args:
        frames: uint8 `(n, H, W, 3)`, the frame of each time step.
        pca: three or more components of the same time steps.
        num_columns: number of evenly spaced time steps to draw.
    """
    name = f"PCA ({pca.variance_ratios[:3].sum():.0%})"
    return plot_strips({"video": frames, name: pca.colors[..., :3]}, num_columns)
