"""Features on disk are read like an array, and refused if they have another origin.

pytest tests/evaluation/test_shards.py
"""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.evaluation import shards
from vjepa_hf.evaluation.features import extract_features
from vjepa_hf.evaluation.shards import encoder_fingerprint, video_version

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
    def extract(model=tiny_model, clips=processor, videos=videos, layers=()):
        return extract_features(ACCELERATOR, model, clips, videos, tmp_path / "kept", layers=layers)

    extract()
    with pytest.raises(ValueError, match=r"made with other layers: '\[1\]' instead of '\[0\]'"):
        extract(layers=[0])
    extract(layers=[1])  # the last one, which is the default
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


# --- videos that change ---


def test_a_video_written_again_under_its_name_is_noticed(tiny_model, processor, videos, tmp_path):
    path = str(shutil.copy(videos[0], tmp_path / "a.mp4"))

    def tokens(folder, video):
        return np.asarray(extract_features(ACCELERATOR, tiny_model, processor, [video], tmp_path / folder).tokens)

    first = tokens("kept", path)
    assert (tokens("kept", path) == first).all()
    times = os.stat(path)
    Path(path).write_bytes(Path(videos[1]).read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the size tells
    with pytest.raises(ValueError, match=r"a\.mp4 was written again .*give another folder, or delete"):
        tokens("kept", path)
    shutil.copy(videos[0], path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))  # the time tells
    with pytest.raises(ValueError, match="was written again"):
        tokens("kept", path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (tokens("kept", path) == first).all()

    in_shard = {"bytes": Path(videos[0]).read_bytes(), "path": "a.mp4"}
    tokens("bytes", in_shard)
    with pytest.raises(ValueError, match="a.mp4 was written again"):
        tokens("bytes", in_shard | {"bytes": Path(videos[1]).read_bytes()})


def test_a_video_that_was_missing_is_not_a_failure_for_ever(tiny_model, processor, videos, tmp_path):
    paths = [videos[0], str(tmp_path / "late.mp4")]
    assert extract_features(ACCELERATOR, tiny_model, processor, paths, tmp_path / "kept").failures
    shutil.copy(videos[1], tmp_path / "late.mp4")
    with pytest.raises(ValueError, match=r"late.mp4 was written again .*then None"):
        extract_features(ACCELERATOR, tiny_model, processor, paths, tmp_path / "kept")


def test_every_kind_of_video_has_a_version_that_its_content_changes(videos, tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(b"1")
    (tmp_path / "a b.mp4").write_bytes(b"12")
    before = video_version(tmp_path / "frames"), video_version(tmp_path / "a b.mp4")
    assert video_version((tmp_path / "a b.mp4").as_uri()) == video_version(str(tmp_path / "a b.mp4")) == before[1]
    (tmp_path / "frames" / "1.png").write_bytes(b"12")
    (tmp_path / "a b.mp4").write_bytes(b"123")
    assert not {video_version(tmp_path / "frames"), video_version(tmp_path / "a b.mp4")} & {*before}
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    in_memory = [b"12", b"13", io.BytesIO(b"14"), frames, frames + 1, list(frames + 2), torch.from_numpy(frames + 3)]
    assert len({video_version(video) for video in in_memory}) == len(in_memory)
    for unknown in (
        "https://example.org/a.mp4",
        tmp_path / "nowhere.mp4",
        "zero\0byte",
        {"bytes": None, "path": None},
    ):
        assert video_version(unknown) is None


# --- damage ---


def flip_a_bit(file: Path, tensors: dict, metadata: dict) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def rewrite(change):
    """Return a damage that writes a well-formed shard again after `change(tensors, metadata)`."""

    def damage(file: Path, tensors: dict, metadata: dict) -> None:
        change(tensors, metadata)
        save_file(tensors, file, metadata)

    return damage


DAMAGES = {
    "bit flipped": flip_a_bit,
    "rows exchanged": rewrite(lambda tensors, _: tensors.update({"0": tensors["1"], "1": tensors["0"]})),
    "other shape": rewrite(lambda tensors, _: tensors.update({"0": tensors["0"][:-1].contiguous()})),
    "other dtype": rewrite(lambda tensors, _: tensors.update({"0": tensors["0"].bfloat16()})),
    "row missing": rewrite(lambda tensors, _: tensors.pop("0")),
    "failures missing": rewrite(lambda _, metadata: metadata.pop("failures")),
    "failures a list": rewrite(lambda _, metadata: metadata.update(failures="[1]")),
    "failures cut": rewrite(lambda _, metadata: metadata.update(failures='{"1": ')),
    "failures of no row": rewrite(lambda _, metadata: metadata.update(failures='{"x": "gone"}')),
    "failures of another row": rewrite(lambda _, metadata: metadata.update(failures='{"77": "gone"}')),
    "failures without cause": rewrite(lambda _, metadata: metadata.update(failures='{"1": null}')),
    "failures nested": rewrite(lambda _, metadata: metadata.update(failures="[" * 100_000)),
    "versions missing": rewrite(lambda _, metadata: metadata.pop("versions")),
    "versions too few": rewrite(lambda _, metadata: metadata.update(versions="[]")),
    "checksum missing": rewrite(lambda _, metadata: metadata.pop("checksum")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_an_error_that_names_it(tiny_model, processor, videos, tmp_path, damage):
    extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path)
    (file,) = tmp_path.iterdir()
    with safe_open(file, framework="np") as shard:
        metadata = shard.metadata()
    DAMAGES[damage](file, load_file(file), metadata)
    with pytest.raises(ValueError, match=r"00000-of-00001.safetensors is damaged.*delete it"):
        extract_features(ACCELERATOR, tiny_model, processor, videos, tmp_path)
