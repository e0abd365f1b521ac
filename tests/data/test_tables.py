"""A table in the cache is the one of the file's content, and a damaged or full cache is not blamed on the file.

pytest tests/data/test_tables.py
"""

import errno
import os

import datasets
import pytest

from vjepa_hf.data import tables
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.tables import read_table


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(params=["list.csv", "list.txt", "list.jsonl"])
def source(tmp_path, request):
    text = {"list.csv": "video\na.mp4\n", "list.txt": "a.mp4\n", "list.jsonl": '{"video": "a.mp4"}\n'}
    (tmp_path / request.param).write_text(text[request.param])
    return tmp_path / request.param


@pytest.mark.parametrize("damaged", ["*.arrow", "cache-*.arrow", "dataset_info.json"])
@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_cache_is_named_and_the_list_is_not(cache, source, damaged, content):
    load_videos(source)
    files = list(cache.rglob(damaged))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:100] if content is None else content)
    with pytest.raises(
        ValueError, match="the cache of `datasets` in .*cache.* is damaged; delete this folder"
    ) as error:
        load_videos(source)
    assert source.name not in str(error.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_blamed_on_the_list(source, monkeypatch, number):
    def full(*args, **options):
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            raise ValueError("I/O operation on closed file")  # noqa: B904  as the writer of `datasets` does

    monkeypatch.setattr(datasets.arrow_writer.ArrowWriter, "finalize", full)
    with pytest.raises(ValueError, match="the disk of the cache of `datasets`, .*cache, is full; free space"):
        load_videos(source)


def test_a_file_of_the_same_size_and_time_is_read_again(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "list.txt").write_text(name)
        os.utime(tmp_path / "list.txt", (0, 0))
        assert read_table("text", [str(tmp_path / "list.txt")])["text"][:] == [name]


def test_large_shards_are_known_by_their_ends_and_times(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "SHARD_BYTES", 4)
    shard = tmp_path / "a.tar"
    keys = set()
    for content in (b"0123-middle-4567", b"0123-middle-4568", b"1123-middle-4567", b"0123-middle-45678"):
        shard.write_bytes(content)
        os.utime(shard, (0, 0))
        keys.add(tables._content_key([str(shard)], are_shards=True))
    assert len(keys) == 4
    assert tables._content_key([str(shard)], True) == tables._content_key([str(shard)], True)
    assert tables._content_key(["https://host/a.tar"], True) is None
