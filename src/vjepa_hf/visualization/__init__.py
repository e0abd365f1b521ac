"""Pictures: curves of a run, and what a model saw, where it looked and what it predicted.

matplotlib's `Figure` needs no display and does not change the backend of `pyplot`. Functions that return a figure are
wrappers of `strips`; the arrays that they draw come from the function next to them.

- `attention`: where the attentive pooler looks
- `confusion`: confusion matrices
- `curves`: curves of a run
- `masks`: the tubelets that the context encoder sees
- `pca`: principal components of the features of a video, as colors
- `prediction`: errors of predicted features, and of trivial predictions
- `strips`: rows of evenly spaced frames and maps
"""

from .attention import plot_attention, pooler_attention
from .confusion import plot_confusion
from .curves import plot_curves
from .masks import plot_masks, shade_masked
from .pca import FeaturePCA, feature_pca, plot_pca
from .prediction import PredictionErrors, plot_prediction, prediction_errors

__all__ = [
    "FeaturePCA",
    "PredictionErrors",
    "feature_pca",
    "plot_attention",
    "plot_confusion",
    "plot_curves",
    "plot_masks",
    "plot_pca",
    "plot_prediction",
    "pooler_attention",
    "prediction_errors",
    "shade_masked",
]
