"""Features are those of the encoder, whatever keeps them; kept ones are checked, and augmented ones can be made again.

pytest tests/evaluation/test_features.py
"""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.evaluation import features
from vjepa_hf.evaluation.features import (
    AugmentedClips,
    LiveFeatures,
    RegularClips,
    VideoFeatures,
    augmentation,
    encoder_fingerprint,
    extract_features,
)

ACCELERATOR = Accelerator(cpu=True)


@pytest.fixture
def processor(tiny_config) -> VJEPAVideoProcessor:
    return VJEPAVideoProcessor(crop_size=tiny_config.image_size, num_frames=tiny_config.num_frames, frame_step=2)


@pytest.fixture(scope="module")
def videos(toy_videos) -> list[str]:
    return [str(path) for path in sorted(toy_videos.rglob("*.mp4"))[:4]]


@pytest.fixture
def crops(processor) -> AugmentedClips:
    return AugmentedClips(processor, augmentation("crop", (32, 32)), seed=3, views=(0, 1, 2))


def test_features_are_those_of_the_encoder_and_a_broken_video_leaves_a_gap(tiny_model, processor, videos, tmp_path):
    listed = [*videos[:2], str(tmp_path / "missing.mp4"), *videos[2:]]
    found = extract_features(ACCELERATOR, tiny_model, processor, listed, tmp_path / "kept", batch_size=2)
    assert list(found.failures) == [2] and "missing.mp4" in found.failures[2]
    assert found.readable.tolist() == [0, 1, 3, 4]
    assert found.tokens.shape == (5, 32, 48) and (found.tokens[2] == 0).all()
    with torch.no_grad():
        expected = tiny_model(**processor(listed[3])).last_hidden_state[0]
    np.testing.assert_allclose(found.tokens[3].astype(np.float32), expected.numpy(), atol=2e-3)


def test_features_do_not_depend_on_how_a_source_holds_a_video(tiny_model, processor, toy_video_path, tmp_path):
    in_shard = {"bytes": toy_video_path.read_bytes(), "path": "clip.mp4"}
    listed = [str(toy_video_path), in_shard, {"bytes": b"not a video", "path": "broken.mp4"}]
    found = extract_features(ACCELERATOR, tiny_model, processor, listed, tmp_path / "kept")
    assert (found.tokens[0] == found.tokens[1]).all()
    assert list(found.failures) == [2] and found.failures[2].startswith("broken.mp4: cannot read")


def test_tokens_on_disk_are_indexed_like_an_array(tiny_model, processor, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 3)
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
    monkeypatch.setattr(features, "SHARD_ROWS", 3)
    parts = extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path / "parts")
    files = sorted((tmp_path / "parts").iterdir())
    assert [file.name for file in files] == ["00000-of-00002.safetensors", "00001-of-00002.safetensors"]
    with safe_open(files[1], framework="np") as shard:
        assert shard.keys() == ["3"] and json.loads(shard.metadata()["videos"]) == videos[3:]
    np.testing.assert_array_equal(whole.tokens, parts.tokens)


def test_kept_features_are_read_and_only_a_lost_shard_is_made_again(
    tiny_model, processor, videos, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "SHARD_ROWS", 2)
    copies = [shutil.copy(video, tmp_path) for video in videos]
    made = np.asarray(extract_features(ACCELERATOR, tiny_model, processor, copies, tmp_path / "kept").tokens)
    (tmp_path / "kept" / "00001-of-00002.safetensors").unlink()
    for copy in copies[:2]:  # what is kept needs its videos no longer
        (tmp_path / copy).unlink()
    again = extract_features(ACCELERATOR, tiny_model, processor, copies, tmp_path / "kept")
    assert again.failures == {}
    np.testing.assert_array_equal(again.tokens, made)


def test_features_of_something_else_are_an_error_that_says_of_what(tiny_model, processor, videos, tmp_path):
    def extract(model=tiny_model, clips=processor, listed=videos):
        return extract_features(ACCELERATOR, model, clips, listed, tmp_path / "kept")

    extract()
    other = VJEPAVideoProcessor(**processor.to_dict() | {"frame_step": 3})
    with pytest.raises(ValueError, match=r"made from other clips: .*frame_step.*2.* instead of .*3"):
        extract(clips=other)
    with pytest.raises(ValueError, match="made from other videos"):
        extract(listed=videos[::-1])
    with pytest.raises(ValueError, match="also holds 00000-of-00001.safetensors"):
        extract(listed=videos * 64)
    with torch.no_grad():
        tiny_model.encoder.layers[0].mlp.fc1.bias[0] += 1e-3
    with pytest.raises(ValueError, match="made from other encoder"):
        extract()
    (tmp_path / "kept" / "00000-of-00001.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="is damaged .* delete it"):
        extract()


def test_the_fingerprint_is_that_of_the_encoder_and_not_of_labels_or_pooler(tiny_model, tiny_classifier):
    before = encoder_fingerprint(tiny_model)
    tiny_model.config.num_labels = 7
    tiny_model.config.num_pooler_layers = 4
    assert encoder_fingerprint(tiny_model) == before
    tiny_model.config.num_attention_heads = 4
    assert encoder_fingerprint(tiny_model) != before


def test_clips_of_another_size_than_the_models_are_an_error(tiny_model, processor, videos, tmp_path):
    processor.num_frames = 2
    with pytest.raises(ValueError, match=r"\(16, 48\) where the model is configured for \(32, 48\)"):
        extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path / "kept")


def test_augmented_clips_are_a_function_of_seed_row_and_view(crops, videos):
    clips = crops(videos[0], row=5)
    assert clips.shape == (3, 4, 3, 32, 32)
    assert torch.equal(clips, crops(videos[0], row=5))
    assert not torch.equal(clips, crops(videos[0], row=6))
    assert not torch.equal(clips[0], clips[1])
    alone = AugmentedClips(crops.processor, crops.transform, seed=3, views=(2,))
    assert torch.equal(alone(videos[0], row=5)[0], clips[2])


def test_what_is_kept_of_the_first_epochs_is_what_they_would_see_without(tiny_model, crops, videos, tmp_path):
    listed = [*videos[:2], "missing.mp4"]
    kept = extract_features(ACCELERATOR, tiny_model, crops, listed, tmp_path / "kept")
    live = LiveFeatures(ACCELERATOR, tiny_model, crops, listed)
    assert kept.num_views == live.num_views == 3
    order = [np.array([1, 2]), np.array([0]), np.array([2])]
    seen = []
    for epoch in range(3):
        for (rows, tokens), (live_rows, live_tokens) in zip(
            kept.batches(order, epoch), live.batches(order, epoch), strict=True
        ):
            assert rows.tolist() == live_rows.tolist() and tokens.shape == live_tokens.shape == (1, 1, 32, 48)
            torch.testing.assert_close(tokens.float(), live_tokens, atol=2e-3, rtol=1e-3)
            seen.append(tokens)
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(next(kept.batches(order, epoch=3))[1], seen[0])  # kept views come round
    assert live.failures.keys() == kept.failures.keys() == {2} and live.readable.tolist() == [0, 1]


def test_clips_that_a_probe_sees_together_stay_together():
    tokens = np.arange(2 * 4 * 3 * 1, dtype=np.float16).reshape(2, 4, 3, 1)
    found = VideoFeatures(tokens)
    (_, first), (_, second) = (next(found.batches([np.array([1])], epoch, num_clips=2)) for epoch in (0, 3))
    assert (first.numpy() == tokens[1:, :2]).all() and (second.numpy() == tokens[1:, 2:]).all()
    assert next(found.batches([np.array([1])]))[1].shape == (1, 4, 3, 1)


def test_the_encoder_never_sees_more_clips_than_it_may(tiny_model, processor, videos, tmp_path):
    processor.num_clips = 7
    sizes = []
    tiny_model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path / "kept", batch_size=4)
    list(LiveFeatures(ACCELERATOR, tiny_model, processor, videos, batch_size=4).batches([np.arange(4)]))
    assert max(sizes) == 4 and sum(sizes) == 2 * 4 * 7


def test_live_features_refuse_to_do_the_same_work_on_every_process(tiny_model, processor):
    with pytest.raises(ValueError, match="2 processes need features that are kept"):
        LiveFeatures(SimpleNamespace(num_processes=2), tiny_model, processor, [])


def test_regular_clips_are_those_of_the_processor(processor, videos):
    processor.num_clips = 2
    clips = RegularClips(processor)
    assert torch.equal(clips(videos[0], row=9), processor(videos[0])["pixel_values_videos"][0])
    assert clips.num_views == 2


@pytest.mark.parametrize("name", ["crop", "flip", "auto"])
def test_augmentations_give_clips_of_the_size_of_the_model(name):
    video = torch.randint(256, (4, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert augmentation(name, (32, 48))(video, np.random.default_rng(0)).shape == (4, 3, 32, 48)


def test_another_augmentation_is_an_error_and_none_is_none():
    assert augmentation("none", (32, 32)) is None
    with pytest.raises(ValueError, match="'mixup' must be one of none, crop, flip, auto"):
        augmentation("mixup", (32, 32))
