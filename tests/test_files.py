"""Files and folders get their names only once they are complete, and the mode that the umask asks for.

pytest tests/test_files.py
"""

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vjepa_hf.files import flush, settle, whole_file, whole_files, whole_folder


@pytest.fixture
def umask():
    """Set a umask for the rest of the test: by itself a process does not know its own."""
    before = os.umask(0o027)
    yield lambda mask: os.umask(mask)
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_gets_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("old")
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_file_whose_block_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("old")
    with pytest.raises(KeyError), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_process_died_over_is_not_appended_to(tmp_path):
    (tmp_path / "log.jsonl.unfinished").write_text("half of another one")
    with whole_file(tmp_path / "log.jsonl") as unfinished:
        with unfinished.open("a") as file:
            file.write("new")
    assert (tmp_path / "log.jsonl").read_text() == "new"


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_are_as_readable_as_the_umask_says_though_safetensors_writes_private_ones(
    tmp_path, umask, mask, expected
):
    umask(mask)
    weights = {"weight": torch.zeros(2)}
    with whole_file(tmp_path / "model.safetensors") as unfinished:
        save_file(weights, unfinished)
        assert mask == 0o077 or mode(unfinished) == 0o600  # a case where there is something to do
    with whole_folder(tmp_path / "model") as folder:
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    with whole_files(tmp_path / "run") as folder:
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    for files in ([tmp_path / "model.safetensors"], (tmp_path / "model").iterdir(), (tmp_path / "run").iterdir()):
        assert {mode(path) for path in files} == {expected}


def test_a_folder_gets_its_name_when_the_block_ends_and_may_replace_an_empty_one_only(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (tmp_path / "model.unfinished").mkdir()
    (tmp_path / "model.unfinished" / "half of another one").touch()
    with whole_folder(path) as unfinished:
        (unfinished / "config.json").touch()
        assert os.listdir(path) == []
    assert os.listdir(path) == ["config.json"] and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError), whole_folder(path) as unfinished:
        (unfinished / "other.json").touch()
    assert os.listdir(path) == ["config.json"] and list(tmp_path.iterdir()) == [path]


def test_a_folder_whose_block_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "model") as unfinished:
        (unfinished / "config.json").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_several_files_get_their_names_when_the_block_ends_and_the_others_stay(tmp_path):
    (tmp_path / "config.json").write_text("old")
    (tmp_path / "log.jsonl").write_text("mine")
    (tmp_path / "unfinished_export").mkdir()
    (tmp_path / "unfinished_export" / "half of another one").touch()
    with whole_files(tmp_path) as unfinished:
        for name in ("config.json", "model.safetensors"):
            (unfinished / name).write_text("new")
        assert (tmp_path / "config.json").read_text() == "old" and not (tmp_path / "model.safetensors").exists()
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"config.json": "new", "model.safetensors": "new", "log.jsonl": "mine"}


def test_several_files_whose_block_fails_change_nothing(tmp_path):
    (tmp_path / "config.json").write_text("old")
    with pytest.raises(KeyError), whole_files(tmp_path) as unfinished:
        (unfinished / "config.json").write_text("new")
        raise KeyError
    assert (tmp_path / "config.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_files_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("flushed"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("named"), replace(self, to))[1])
    with whole_file(tmp_path / "a") as unfinished:
        unfinished.write_text("a")
    assert order == ["flushed", "named", "flushed"]
    order.clear()
    with whole_files(tmp_path) as unfinished:
        (unfinished / "a").write_text("a")
        (unfinished / "b").write_text("b")
    assert order == ["flushed", "flushed", "flushed", "named", "named", "flushed"]  # a, b and their folder first


def test_a_system_that_cannot_open_folders_flushes_the_files(tmp_path, monkeypatch):
    opened = []
    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)  # as on Windows
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *options: (opened.append(Path(path)), real(path, *options))[1])
    (tmp_path / "a").touch()
    flush(tmp_path)
    settle(tmp_path)
    assert [path for path in opened if path.is_dir()] == []
    assert tmp_path / "a" in opened
