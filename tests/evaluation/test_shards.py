"""Features on disk are read like an array, and refused if they have another origin.

pytest tests/evaluation/test_shards.py
"""

import json
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.evaluation import shards
from vjepa_hf.evaluation.features import extract_features
from vjepa_hf.evaluation.shards import encoder_fingerprint

ACCELERATOR = Accelerator(cpu=True)


def test_tokens_on_disk_are_indexed_like_an_array(tiny_model, processor, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    processor.num_clips = 2
    tokens = extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path / "kept").tokens
    array = np.asarray(tokens)
    assert array.shape == tokens.shape == (4, 2, 32, 48) and len(tokens) == 4
    for key in (1, [3, 0], slice(1, 3), np.array([True, False, False, True]), ([2, 1], slice(1, 2)), []):
        np.testing.assert_array_equal(tokens[key], array[key])


def test_shards_hold_rows_in_the_order_of_the_list_with_their_names(
    tiny_model, processor, videos, tmp_path, monkeypatch
):
    whole = extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path / "whole")
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    parts = extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path / "parts")
    files = sorted((tmp_path / "parts").iterdir())
    assert [file.name for file in files] == ["00000-of-00002.safetensors", "00001-of-00002.safetensors"]
    with safe_open(files[1], framework="np") as shard:
        assert shard.keys() == ["3"] and json.loads(shard.metadata()["videos"]) == videos[3:]
    np.testing.assert_array_equal(whole.tokens, parts.tokens)


def test_cached_features_are_read_and_only_a_missing_shard_is_computed(
    tiny_model, processor, videos, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    copies = [shutil.copy(video, tmp_path) for video in videos]
    made = np.asarray(extract_features(ACCELERATOR, tiny_model, processor, copies, tmp_path / "kept").tokens)
    (tmp_path / "kept" / "00001-of-00002.safetensors").unlink()
    for copy in copies[:2]:  # a cached shard does not need its videos
        (tmp_path / copy).unlink()
    again = extract_features(ACCELERATOR, tiny_model, processor, copies, tmp_path / "kept")
    assert again.failures == {}
    np.testing.assert_array_equal(again.tokens, made)


def test_features_of_another_origin_are_an_error_that_names_the_difference(tiny_model, processor, videos, tmp_path):
    def extract(model=tiny_model, clips=processor, videos=videos):
        return extract_features(ACCELERATOR, model, clips, videos, tmp_path / "kept")

    extract()
    other = VJEPAVideoProcessor(**processor.to_dict() | {"frame_step": 3})
    with pytest.raises(ValueError, match=r"made with other clips: .*frame_step.*2.* instead of .*3"):
        extract(clips=other)
    with pytest.raises(ValueError, match="made with other videos"):
        extract(videos=videos[::-1])
    with pytest.raises(ValueError, match="also has 00000-of-00001.safetensors"):
        extract(videos=videos * 64)
    with torch.no_grad():
        tiny_model.encoder.layers[0].mlp.fc1.bias[0] += 1e-3
    with pytest.raises(ValueError, match="made with other encoder"):
        extract()
    (tmp_path / "kept" / "00000-of-00001.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="is damaged .* delete it"):
        extract()


def test_the_fingerprint_depends_on_the_encoder_and_not_on_labels_or_pooler(tiny_model, tiny_classifier):
    before = encoder_fingerprint(tiny_model)
    tiny_model.config.num_labels = 7
    tiny_model.config.num_pooler_layers = 4
    assert encoder_fingerprint(tiny_model) == before
    tiny_model.config.num_attention_heads = 4
    assert encoder_fingerprint(tiny_model) != before


def test_clips_of_a_size_other_than_that_of_the_model_are_an_error(tiny_model, processor, videos, tmp_path):
    processor.num_frames = 2
    with pytest.raises(ValueError, match=r"\(16, 48\), but the model is configured for \(32, 48\)"):
        extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path / "kept")
