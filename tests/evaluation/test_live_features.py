"""Features computed in every pass equal those cached in a folder.

pytest tests/evaluation/test_live_features.py
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from vjepa_hf.evaluation.features import extract_features
from vjepa_hf.evaluation.live_features import LiveFeatures

ACCELERATOR = Accelerator(cpu=True)


def test_cached_views_equal_the_live_views_of_the_first_epochs(tiny_model, crops, videos, tmp_path):
    listed = [*videos[:2], "missing.mp4"]
    kept = extract_features(ACCELERATOR, tiny_model, crops, listed, tmp_path / "kept")
    live = LiveFeatures(ACCELERATOR, tiny_model, crops, listed)
    assert kept.num_views == live.num_views == 3
    order = [np.array([1, 2]), np.array([0]), np.array([2])]
    tokens_of_epochs = []
    for epoch in range(3):
        for (rows, tokens), (live_rows, live_tokens) in zip(
            kept.batches(order, epoch), live.batches(order, epoch), strict=True
        ):
            assert rows.tolist() == live_rows.tolist() and tokens.shape == live_tokens.shape == (1, 1, 32, 48)
            torch.testing.assert_close(tokens.float(), live_tokens, atol=2e-3, rtol=1e-3)
            tokens_of_epochs.append(tokens)
    assert not torch.equal(tokens_of_epochs[0], tokens_of_epochs[2])
    assert torch.equal(next(kept.batches(order, epoch=3))[1], tokens_of_epochs[0])  # cached views repeat
    assert live.failures.keys() == kept.failures.keys() == {2} and live.readable.tolist() == [0, 1]


def test_live_features_refuse_several_processes(tiny_model, processor):
    with pytest.raises(ValueError, match="need a single process, not 2"):
        LiveFeatures(SimpleNamespace(num_processes=2), tiny_model, processor, [])


def test_a_forward_pass_never_has_more_clips_than_batch_size(tiny_model, processor, videos, tmp_path):
    processor.num_clips = 7
    sizes = []
    tiny_model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path / "kept", batch_size=4)
    list(LiveFeatures(ACCELERATOR, tiny_model, processor, videos, batch_size=4).batches([np.arange(4)]))
    assert max(sizes) == 4 and sum(sizes) == 2 * 4 * 7
