"""A shard that is damaged or gone is one unreadable video of a stream, which names it; the other shards are read.

pytest tests/data/test_shards.py
"""

import gzip

import datasets
import numpy as np
import pytest

from video_files import write_tar, write_video
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.data.mixing import mix_videos
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.videos import VideoFailure, probe_video
from vjepa_hf.model.video_io import VideoDecodeError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Tables are cached by `datasets`; a test leaves nothing behind."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["tar", "parquet", "paths"])
def shards(tmp_path, request):
    """Three shards of two videos: .tar, .parquet with bytes, .parquet with paths."""
    video = write_video(tmp_path / "a.mp4", num_frames=4).read_bytes()
    for number in range(3):
        names = [f"{number}{letter}.mp4" for letter in "ab"]
        if request.param == "tar":
            write_tar(tmp_path / f"{number}.tar", dict.fromkeys(names, video))
        else:
            for name in names:
                (tmp_path / name).write_bytes(video)
            values = names if request.param == "paths" else [video, video]
            datasets.Dataset.from_dict({"video": values, "label": [0, 1]}).to_parquet(tmp_path / f"{number}.parquet")
    return sorted([*tmp_path.glob("[012].tar"), *tmp_path.glob("[012].parquet")])


def truncate(shard):
    content = shard.read_bytes().rstrip(b"\0")  # of the end of a .tar file
    shard.write_bytes(content[: len(content) * 2 // 3])


DAMAGES = {
    "gone": lambda shard: shard.unlink(),
    "empty": lambda shard: shard.write_bytes(b""),
    "truncated": truncate,
    "other content": lambda shard: shard.write_bytes(b"no shard" * 1000),
}


def readable(rows) -> tuple[int, list[VideoFailure]]:
    """Return the number of readable videos, and the failures of the others."""
    number, failed = 0, []
    for row in rows:
        try:
            probe_video(row["video"])
            number += 1
        except VideoDecodeError as error:
            failed.append(VideoFailure.of(row["video"], error))
    return number, failed


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_an_unreadable_video_that_names_it_and_the_cause(shards, damage, caplog):
    stream = load_videos(str(shards[0].parent / f"[012]{shards[0].suffix}"), streaming=True)
    assert readable(stream) == (6, [])
    DAMAGES[damage](shards[1])
    number, failed = readable(stream)
    assert [failure.video for failure in failed] == [str(shards[1])] and 4 <= number < 6
    assert f"{shards[1]}, which cannot be read: {failed[0].cause}" in caplog.text
    assert readable(mix_videos([stream, stream], [0.5, 0.5]))[1]


def test_a_header_damaged_in_the_middle_of_a_tar_loses_no_video_in_silence(tmp_path):
    write_tar(tmp_path / "0.tar", {f"{name}.mp4": name.encode() * 600 for name in "abc"})
    stream = load_videos(tmp_path / "0.tar", streaming=True)
    assert len(list(stream)) == 3
    content = np.frombuffer((tmp_path / "0.tar").read_bytes(), np.uint8).copy()
    content[1536:1600] ^= 0xFF  # the header of the second member
    (tmp_path / "0.tar").write_bytes(content.tobytes())
    with pytest.raises(VideoDecodeError, match="0.tar: cannot read .* damaged after its last readable member"):
        probe_video(list(stream)[-1]["video"])
    with pytest.raises(ValueError, match="0.tar cannot be read: it is damaged after its last readable member"):
        load_videos(tmp_path / "0.tar")


def test_a_compressed_tar_is_read_to_its_end(tmp_path):
    write_tar(tmp_path / "plain.tar", {f"{name}.mp4": name.encode() * 600 for name in "abc"})
    (tmp_path / "0.tar").write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    for streaming in (False, True):
        videos = [row["video"]["bytes"] for row in load_videos(tmp_path / "0.tar", streaming=streaming)]
        assert videos == [name.encode() * 600 for name in "abc"]


def test_the_first_shard_is_checked_when_the_stream_is_made(shards):
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{shards[0].name} cannot be read"):
        load_videos(str(shards[0].parent / f"[012]{shards[0].suffix}"), streaming=True)


def test_labels_and_other_columns_stay(tmp_path):
    table = datasets.Dataset.from_dict({"video": [b"1"], "label": [1], "note": ["x"]})
    table.cast_column("label", datasets.ClassLabel(names=["walk", "jump"])).to_parquet(tmp_path / "a.parquet")
    stream = load_videos(tmp_path / "a.parquet", streaming=True)
    assert next(iter(stream)) == {"video": {"bytes": b"1", "path": None}, "label": 1, "note": "x"}
    assert stream.features["label"].names == ["walk", "jump"]


def test_failed_shards_count_like_failed_videos(tmp_path):
    inputs = InputLog(max_failed_share=0.1)
    failure = VideoFailure(str(tmp_path / "0.tar"), "ReadError")
    inputs.update({"failures": [failure] * 20, "clip_keys": [None] * 90})
    with pytest.raises(ValueError, match="20 of 110 videos could not be read.*most often .*0.tar"):
        inputs.gather()
