"""A run knows its data by number, names and content, not by times.

pytest tests/training/test_data_identity.py
"""

import os
import shutil

import datasets
import pytest

from vjepa_hf.data.sources import load_videos
from vjepa_hf.training.data_identity import DataIdentity


@pytest.fixture
def folder(toy_videos, tmp_path):
    shutil.copytree(toy_videos / "train", tmp_path / "videos")
    return tmp_path / "videos"


def identify(*sources, **options) -> DataIdentity:
    return DataIdentity.of([load_videos(source, **options) for source in sources], list(map(str, sources)))


def test_the_same_files_at_another_time_are_the_same_data(folder):
    first = identify(folder)
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    again = identify(folder)
    assert again == first and again.changes_since(first) is None and first.num_videos == 16


def test_fewer_videos_are_a_change(folder):
    first = identify(folder)
    for path in sorted(folder.iterdir())[5:]:
        path.unlink()
    assert identify(folder).changes_since(first) == "it was 16 videos and is 5 videos"


def test_another_order_is_a_change(folder, tmp_path):
    paths = [str(path) for path in sorted(folder.iterdir())]
    lists = []
    for number, order in enumerate((paths, paths[::-1])):
        lists.append(tmp_path / f"{number}.txt")
        lists[-1].write_text("\n".join(order))
    first, second = map(identify, lists)
    assert second.changes_since(first) == "its 16 videos have other names or another order"


def test_another_file_under_the_same_name_is_a_change(folder):
    first = identify(folder)
    one, other = sorted(folder.iterdir())[:2]
    shutil.copy(other, one)
    assert identify(folder).changes_since(first) == "files have another content under the same names"


def test_videos_as_bytes_are_known_by_their_content():
    def identify_bytes(*videos):
        return DataIdentity.of([datasets.Dataset.from_dict({"video": list(videos)})], ["table"])

    first = identify_bytes(b"one", b"two")
    assert identify_bytes(b"one", b"two") == first
    assert identify_bytes(b"one", b"other").changes_since(first) == "files have another content under the same names"


def test_streams_are_known_by_their_sources(folder):
    first = identify(folder, streaming=True)
    assert first.num_videos is None and identify(folder, streaming=True) == first
    assert (
        identify(folder, folder, streaming=True).changes_since(first)
        == "its sources have other names or another order"
    )
    assert identify(folder).changes_since(first) == "it was a stream and is 16 videos"


def test_files_that_cannot_be_read_do_not_stop_a_run(tmp_path):
    (tmp_path / "list.txt").write_text("gone.mp4\nhttps://example.org/a.mp4\n" + "x" * 300 + ".mp4\n")
    assert identify(tmp_path / "list.txt").num_videos == 3
