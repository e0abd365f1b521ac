"""Features equal the output of the encoder, and an unreadable video leaves a gap.

pytest tests/evaluation/test_features.py
"""

import numpy as np
import torch
from accelerate import Accelerator

from vjepa_hf.evaluation.features import VideoFeatures, extract_features
from vjepa_hf.evaluation.live_features import LiveFeatures

ACCELERATOR = Accelerator(cpu=True)


def test_features_equal_the_output_of_the_encoder_and_a_broken_video_leaves_a_gap(
    tiny_model, processor, videos, tmp_path
):
    paths = [*videos[:2], str(tmp_path / "missing.mp4"), *videos[2:]]
    features = extract_features(ACCELERATOR, tiny_model, processor, paths, tmp_path / "kept", batch_size=2)
    assert list(features.failures) == [2] and "missing.mp4" in features.failures[2].video
    assert features.readable.tolist() == [0, 1, 3, 4]
    assert features.tokens.shape == (5, 32, 48) and (features.tokens[2] == 0).all()
    with torch.no_grad():
        expected = tiny_model(**processor(paths[3])).last_hidden_state[0]
    np.testing.assert_allclose(features.tokens[3].astype(np.float32), expected.numpy(), atol=2e-3)


def test_features_of_several_layers_are_their_tokens_one_after_the_other(tiny_model, processor, videos, tmp_path):
    features = extract_features(ACCELERATOR, tiny_model, processor, videos[:2], tmp_path / "kept", layers=[0, 1])
    live = LiveFeatures(ACCELERATOR, tiny_model, processor, videos[:2], layers=[0, 1])
    assert features.tokens.shape == (2, 64, 48)
    with torch.no_grad():
        levels = tiny_model(**processor(videos[1]), output_layers=[0, 1]).layer_hidden_states
    expected = torch.cat(levels, dim=1)[0].numpy()
    np.testing.assert_allclose(features.tokens[1].astype(np.float32), expected, atol=2e-3)
    ((_, tokens),) = live.batches([np.array([1])])
    np.testing.assert_allclose(tokens[0, 0].numpy(), expected, atol=1e-5)


def test_features_do_not_depend_on_how_a_source_holds_a_video(tiny_model, processor, toy_video_path, tmp_path):
    in_shard = {"bytes": toy_video_path.read_bytes(), "path": "clip.mp4"}
    paths = [str(toy_video_path), in_shard, {"bytes": b"not a video", "path": "broken.mp4"}]
    features = extract_features(ACCELERATOR, tiny_model, processor, paths, tmp_path / "kept")
    assert (features.tokens[0] == features.tokens[1]).all()
    assert list(features.failures) == [2] and features.failures[2].video == "broken.mp4"


def test_clips_of_a_view_stay_together():
    tokens = np.arange(2 * 4 * 3 * 1, dtype=np.float16).reshape(2, 4, 3, 1)
    features = VideoFeatures(tokens)
    (_, first), (_, second) = (next(features.batches([np.array([1])], epoch, num_clips=2)) for epoch in (0, 3))
    assert (first.numpy() == tokens[1:, :2]).all() and (second.numpy() == tokens[1:, 2:]).all()
    assert next(features.batches([np.array([1])]))[1].shape == (1, 4, 3, 1)
