"""Similar moments are far enough away, and do not repeat the rhythm of clips.

pytest tests/look/test_moments.py
"""

import numpy as np
import torch

from vjepa_hf.look.moments import nearest_moments, without_rhythm


def test_the_same_event_later_is_the_nearest_moment():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 8, generator=generator)
    features[13] = features[4] + 0.01
    indices, similarities = nearest_moments(features, min_distance=3)
    assert indices[4, 0] == 13 and indices[13, 0] == 4 and similarities[4, 0] > 0.99
    for step, row in enumerate(indices):
        moments = [step, *row[row >= 0]]
        assert all(abs(a - b) >= 3 for number, a in enumerate(moments) for b in moments[:number])
    assert (np.isnan(similarities) == (indices < 0)).all() and (similarities[indices >= 0] > 0).all()


def test_a_short_video_has_no_other_moments():
    for length in (1, 3):
        indices, similarities = nearest_moments(torch.randn(length, 8), min_distance=3)
        assert (indices == -1).all() and np.isnan(similarities).all()


def test_the_rhythm_of_clips_is_removed_and_the_rest_stays():
    generator = torch.Generator().manual_seed(0)
    positions = np.tile(np.arange(4), 6)
    events = torch.randn(24, 2, 2, 8, generator=generator)
    rhythm = 10 * torch.randn(4, 8, generator=generator)
    features = events + rhythm[torch.from_numpy(positions)][:, None, None]
    assert nearest_moments(features.mean(dim=(1, 2)), 4)[0][:, 0].tolist() != [-1] * 24
    nearest = nearest_moments(features.mean(dim=(1, 2)), 4)[0][:, 0]
    assert (nearest % 4 == positions).all()  # each clip looks like the others
    torch.testing.assert_close(
        without_rhythm(features, positions), without_rhythm(events, positions), atol=1e-4, rtol=0
    )


def test_a_few_clips_keep_their_features():
    features = torch.randn(12, 2, 2, 8)
    assert without_rhythm(features, np.tile(np.arange(4), 3)) is features
