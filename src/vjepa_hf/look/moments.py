"""Similar moments of a video."""

import numpy as np
import torch

MIN_CLIPS = 4  # that show what repeats with every clip
NUM_NEIGHBORS = 3


def without_rhythm(features: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
    """Subtract the mean feature of each position within a clip from the features `(n, h, w, D)`.

    Features depend on the position within the clip, so colors and similar moments would repeat with every clip. A few
    clips do not tell this from what happens in them, and keep their features.
    """
    counts = np.bincount(positions)
    if counts.min() < MIN_CLIPS:
        return features
    means = torch.stack([features[positions == position].mean(dim=(0, 1, 2)) for position in range(len(counts))])
    return features - means[torch.from_numpy(positions), None, None]


def nearest_moments(features: torch.Tensor, min_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the most similar time steps of each time step, and their cosine similarities, both `(n, NUM_NEIGHBORS)`.

    Neighbors have a positive similarity and are at least `min_distance` time steps away from the step and from each
    other; -1 and nan if there is none. The mean over the video is subtracted first, because features share a large
    common part.

    Args:
        features: `(n, D)`.
        min_distance: minimum distance in time steps.
    """
    centered = torch.nn.functional.normalize(features - features.mean(dim=0), dim=-1)
    similarity = (centered @ centered.T).numpy()
    steps = np.arange(len(features))
    indices = np.full((len(features), NUM_NEIGHBORS), -1)
    values = np.full(indices.shape, np.nan, dtype=np.float32)
    for step, row in enumerate(similarity):
        allowed = abs(steps - step) >= min_distance
        for number in range(NUM_NEIGHBORS):
            if not allowed.any():
                break
            best = int(np.where(allowed, row, -np.inf).argmax())
            if row[best] <= 0:
                break
            indices[step, number], values[step, number] = best, row[best]
            allowed &= abs(steps - best) >= min_distance
    return indices, values
