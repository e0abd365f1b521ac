"""Mixtures have the requested fractions; shards of streams neither lose nor repeat a video.

pytest tests/data/test_mixing.py
"""

from collections import Counter

import datasets
import pytest

from video_files import write_tar
from vjepa_hf.data.mixing import mix_videos, worker_shard
from vjepa_hf.data.sources import load_videos


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Tables are cached by `datasets`; a test leaves nothing behind."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# --- mixtures ------------------------------------------------------------------------------------------------------


def table(name: str, size: int, streaming: bool = False, num_shards: int = 1):
    videos = datasets.Dataset.from_dict({"video": [f"{name}{number}" for number in range(size)]})
    return videos.to_iterable_dataset(num_shards) if streaming else videos


@pytest.mark.parametrize("weights", [(0.9, 0.1), (3, 1), (1, 1)])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_mixture_has_the_requested_fractions_and_loses_no_video(weights, streaming):
    mixed = mix_videos([table("a", 400, streaming), table("b", 300, streaming)], weights, seed=0)
    drawn = [row["video"] for row in mixed]
    fraction = sum(video.startswith("a") for video in drawn) / len(drawn)
    expected = weights[0] / sum(weights)
    assert abs(fraction - expected) < 4 * (expected * (1 - expected) / len(drawn)) ** 0.5
    assert len(set(drawn)) == 700


def test_a_mixture_is_a_function_of_its_seed():
    drawn = [mix_videos([table("a", 50), table("b", 50)], (1, 1), seed)["video"][:] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_without_weights_every_video_comes_once():
    assert Counter(mix_videos([table("a", 5), table("b", 3)])["video"]).most_common(1)[0][1] == 1
    with pytest.raises(ValueError, match="weights are needed to mix streams.* video_weights"):
        mix_videos([table("a", 5, True), table("b", 3, True)])


def test_paths_and_bytes_mix(tmp_path):
    with_bytes = datasets.Dataset.from_dict({"video": [b"1", b"2"]})
    mixed = mix_videos([table("a", 2), with_bytes])
    assert mixed[0]["video"] == {"bytes": None, "path": "a0"}
    assert mixed[3]["video"] == {"bytes": b"2", "path": None}


@pytest.mark.parametrize("streaming", [False, True])
def test_paths_of_every_type_of_text_mix(tmp_path, monkeypatch, streaming):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.mp4").touch()
    (tmp_path / "list.csv").write_text("video\nb.mp4\n")
    monkeypatch.chdir(tmp_path)
    large = table("c", 1).cast_column("video", datasets.Value("large_string"))
    sources = [load_videos(source, streaming=streaming) for source in ("set", "list.csv", large)]
    drawn = mix_videos(sources, (1, 1, 1))
    assert {row["video"] for row in drawn} == {"set/a.mp4", "b.mp4", "c0"}
    assert mix_videos([table("a", 1), large])["video"][:] == ["a0", "c0"]


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -1)])
def test_invalid_weights_are_errors(weights):
    with pytest.raises(ValueError, match=r"weights=\[.* for each of 2 sources.* video_weights"):
        mix_videos([table("a", 5), table("b", 3)], weights)


# --- shards of streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_files, num_shards", [(1, 3), (4, 4), (5, 3), (3, 5)])
def test_shards_of_a_stream_neither_overlap_nor_lose_a_video(num_files, num_shards):
    for epoch in range(2):
        stream = [table("a", 37, True, num_files)]
        shards = [
            [row["video"] for row in worker_shard(stream, None, index, num_shards, 0, epoch)]
            for index in range(num_shards)
        ]
        assert sorted(sum(shards, [])) == sorted(f"a{number}" for number in range(37))
        assert all(shards)


def test_tar_files_are_shuffled_by_seed_and_epoch(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"shard-{number}.tar", {f"{number}{clip}.mp4": b"" for clip in "abcd"})

    def order(seed, epoch):
        stream = [load_videos(tmp_path / "shard-*.tar", streaming=True)]
        return [row["video"]["path"] for row in worker_shard(stream, None, 0, 1, seed, epoch)]

    orders = [order(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))]
    assert order(0, 1) == orders[1]
    assert len({tuple(names) for names in orders}) > 1
    assert all(sorted(names) == sorted(orders[0]) for names in orders)


def test_shards_of_a_mixture_have_the_fractions_too():
    sources = [table("a", 300, True, 3), table("b", 300, True, 1)]
    for index in range(2):
        drawn = [row["video"] for row in worker_shard(sources, (4, 1), index, 2, 0, 0)]
        assert abs(sum(video.startswith("a") for video in drawn) / len(drawn) - 0.8) < 0.06
