"""Checkpoints are complete or absent, are loaded only undamaged, and run no code.

pytest tests/training/test_checkpoints.py
"""

import json
import os
import pickle
import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from vjepa_hf import files
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.training import checkpoints
from vjepa_hf.training.checkpoints import Progress, damage, list_checkpoints, load_checkpoint, save_checkpoint


class Run:
    """Run without data: a model, an optimizer with moments, and an accelerator that has prepared both."""

    def __init__(self) -> None:
        self.accelerator = Accelerator(cpu=True)
        model = torch.nn.Linear(4, 4)
        self.model, self.optimizer = self.accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
        self.step()

    def step(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def save(self, folder: Path, *steps: int, keep: int = 3) -> None:
        for step in steps:
            self.step()
            save_checkpoint(self.accelerator, folder, Progress(step, 8 * step), keep)

    def state(self) -> list[torch.Tensor]:
        values = [*self.model.parameters(), *self.optimizer.state_dict()["state"][0].values()]
        return [value.detach().clone() for value in values]


@pytest.fixture
def run() -> Run:
    return Run()


def names(folder: Path) -> list[str]:
    return [checkpoint.name for checkpoint in list_checkpoints(folder)]


def test_a_checkpoint_restores_weights_optimizer_and_progress(run, tmp_path):
    run.save(tmp_path, 3)
    saved = run.state()
    run.step()
    assert not all(map(torch.equal, saved, run.state()))
    assert load_checkpoint(run.accelerator, tmp_path) == Progress(step=3, clips=24)
    assert all(map(torch.equal, saved, run.state()))


def test_only_the_newest_checkpoints_are_kept_and_incomplete_ones_do_not_count(run, tmp_path, capsys):
    run.save(tmp_path, 9, 10, 100, keep=2)
    for name in ("unfinished_step_00000200", "step_00000300_mine"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert names(tmp_path) == ["step_00000010", "step_00000100"]
    assert load_checkpoint(run.accelerator, tmp_path).step == 100
    printed = capsys.readouterr().out
    assert "resuming after step 100, from " in printed
    assert "skipped unfinished_step_00000200, which is incomplete" in printed
    run.save(tmp_path, 101, keep=2)
    left = ["step_00000100", "step_00000101", "step_00000300_mine"]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == left


def test_a_step_without_a_checkpoint_is_an_error_that_lists_the_others(run, tmp_path):
    run.save(tmp_path, 1, 2)
    with pytest.raises(ValueError, match=r"no checkpoint of resume_step 3 .* choose one of \[1, 2\]"):
        load_checkpoint(run.accelerator, tmp_path, step=3)
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        load_checkpoint(run.accelerator, tmp_path / "nowhere")


# --- damage ---


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "optimizer.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "optimizer.bin").write_bytes(content)


DAMAGES = {
    "cut": (cut, r"model.safetensors has \d+ of \d+ bytes"),
    "bit": (flip_a_bit, "the content of optimizer.bin has changed"),
    "lost": (lambda folder: (folder / "progress.json").unlink(), "progress.json is missing"),
    "more": (lambda folder: (folder / "custom_checkpoint_9.pkl").touch(), "custom_checkpoint_9.pkl was not saved"),
    "half": (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json, so it is incomplete"),
    "text": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    "list": (lambda folder: (folder / "manifest.json").write_text('{"a": []}'), "manifest.json cannot be read"),
    "empty": (lambda folder: [file.unlink() for file in folder.iterdir()], "has no manifest.json"),
}


@pytest.mark.parametrize(("harm", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_an_error_that_names_the_newest_intact_one(run, tmp_path, harm, words):
    run.save(tmp_path, 1, 2, 3)
    older, old, newest = list_checkpoints(tmp_path)
    assert damage(newest) is None
    harm(newest)
    with pytest.raises(ValueError, match=rf"{newest}.* is damaged: .*{words}.*step_00000002.*--resume_step 2"):
        load_checkpoint(run.accelerator, tmp_path)
    assert names(tmp_path) == [older.name, old.name, newest.name]
    harm(old)
    with pytest.raises(ValueError, match="--resume_step 1"):
        load_checkpoint(run.accelerator, tmp_path)
    harm(older)
    with pytest.raises(ValueError, match="All older ones are damaged too"):
        load_checkpoint(run.accelerator, tmp_path)


def test_going_back_sets_newer_checkpoints_aside_and_never_deletes_them(run, tmp_path, capsys):
    run.save(tmp_path, 1, 2, 3)
    cut(list_checkpoints(tmp_path)[-1])
    assert load_checkpoint(run.accelerator, tmp_path, step=1) == Progress(1, 8)
    aside = ["set_aside_0_step_00000002", "set_aside_0_step_00000003"]
    assert names(tmp_path) == ["step_00000001"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in aside)
    run.save(tmp_path, 2, 3, 4, keep=1)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [*aside, "step_00000004"]
    run.save(tmp_path, 5)
    load_checkpoint(run.accelerator, tmp_path, step=4)
    shutil.copytree(tmp_path / "checkpoints" / "step_00000004", tmp_path / "checkpoints" / "step_00000003")
    assert load_checkpoint(run.accelerator, tmp_path, step=3).step == 4  # the progress file decides, not the name


def test_a_checkpoint_that_the_run_did_not_write_is_set_aside_and_not_overwritten(run, tmp_path):
    strange = tmp_path / "checkpoints" / "step_00000001"
    strange.mkdir(parents=True)
    (strange / "precious").touch()
    run.save(tmp_path, 1)
    assert (tmp_path / "checkpoints" / "set_aside_0_step_00000001" / "precious").exists()
    assert load_checkpoint(run.accelerator, tmp_path).step == 1


def test_a_checkpoint_of_another_model_is_an_error(run, tmp_path):
    run.save(tmp_path, 1)
    other = Run()
    other.accelerator._models[0] = torch.nn.Linear(3, 4)
    with pytest.raises(ValueError, match="(?s)does not fit the arguments of this run.*size mismatch"):
        load_checkpoint(other.accelerator, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "3",
        '{"step": 1}x',
        '{"step": "1", "clips": 8}',
        '{"step": 1, "clips": 8, "more": 1}',
        "[" * 100_000,
    ]
    + [
        '{"step": -1, "clips": 8}',
        '{"step": 1.5, "clips": 8}',
        '{"step": true, "clips": 8}',
        '{"step": NaN, "clips": 8}',
    ]
    + ['{"step": 1, "clips": 8, "data": 3}', '{"step": 1e400, "clips": 8}', '{"step": ' + "9" * 30 + ', "clips": 8}'],
)
def test_a_forged_progress_file_is_an_error_that_names_it(run, tmp_path, text):
    run.save(tmp_path, 1)
    (folder,) = list_checkpoints(tmp_path)
    (folder / "progress.json").write_text(text)
    sign(folder)
    with pytest.raises(ValueError, match="step_00000001/progress.json'"):
        load_checkpoint(run.accelerator, tmp_path)


def test_a_forged_state_of_an_object_is_an_error_that_names_the_checkpoint(tmp_path):
    run = Run()
    run.accelerator.register_for_checkpointing(InputLog(0.1))
    run.save(tmp_path, 1)
    (folder,) = list_checkpoints(tmp_path)
    torch.save({"videos": 3}, folder / "custom_checkpoint_0.pkl")
    sign(folder)
    with pytest.raises(ValueError, match="step_00000001' does not fit"):
        load_checkpoint(run.accelerator, tmp_path)


def test_what_file_managers_leave_behind_is_ignored(run, tmp_path):
    run.save(tmp_path, 1)
    (folder,) = list_checkpoints(tmp_path)
    for name in (".DS_Store", "._model.safetensors", "Thumbs.db", "desktop.ini", ".directory"):
        (folder / name).touch()
        (folder.parent / name).touch()
    assert damage(folder) is None
    assert load_checkpoint(run.accelerator, tmp_path).step == 1


def test_folders_that_the_run_did_not_make_are_neither_read_nor_deleted(run, tmp_path):
    others = ["unfinished_step_abc", "unfinished_thesis", "step_abc", "step_\u00b2", "unfinished_step_", "step_"]
    for name in others:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_00000009").touch()  # a file
    run.save(tmp_path, 1)
    assert load_checkpoint(run.accelerator, tmp_path).step == 1
    assert set(os.listdir(tmp_path / "checkpoints")) == {*others, "step_00000009", "step_00000001"}


# --- code in files ---


class Bomb:
    """Object whose pickle makes a folder when it is loaded unsafely."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def sign(folder: Path) -> None:
    """Write a new manifest, as an attacker would."""
    (folder / "manifest.json").unlink()
    files = {str(file.relative_to(folder)): checkpoints._fingerprint(file) for file in checkpoints._files(folder)}
    (folder / "manifest.json").write_text(json.dumps(files))


PICKLES = ["optimizer.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl", "pytorch_model.bin", "weights/.metadata"]


@pytest.mark.parametrize("name", PICKLES)
def test_code_in_a_checkpoint_is_an_error_and_not_executed(tmp_path, name):
    run = Run()
    run.accelerator.register_for_checkpointing(Counter())
    run.save(tmp_path, 1)
    (folder,) = list_checkpoints(tmp_path)
    if name == "pytorch_model.bin":  # read if model.safetensors is missing
        (folder / "model.safetensors").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    bomb = Bomb(tmp_path / "executed")
    if name == "weights/.metadata":
        (folder / name).write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, folder / name)
    sign(folder)
    with pytest.raises(ValueError, match="contains code.*not executed"):
        load_checkpoint(run.accelerator, tmp_path)
    assert not (tmp_path / "executed").exists()
    with (folder / name).open("rb") as file:  # the bomb is live
        pickle.load(file) if name == "weights/.metadata" else torch.load(file, weights_only=False)
    assert (tmp_path / "executed").exists()


def test_metadata_of_sharded_weights_from_torch_is_accepted(tmp_path):
    values = {"model": torch.nn.Linear(2, 2).state_dict(), "mean": torch.zeros(2, dtype=torch.bfloat16), "step": 3}
    torch.distributed.checkpoint.save(values, checkpoint_id=tmp_path / "weights", no_dist=True)
    assert (tmp_path / "weights" / ".metadata").exists()
    assert checkpoints._code_in_metadata(tmp_path) is None


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "torch.distributed.checkpoint.metadata os.system",  # protocol 4 follows dots through imported modules
        "torch.distributed.checkpoint.filesystem FileSystemWriter",
        "torch.distributed.checkpoint.filesystem pickle",
        "torch load",
        "pathlib os",
        "antigravity open",  # modules that are not imported yet are not imported
    ],
)
def test_metadata_of_sharded_weights_with_other_names_is_rejected(tmp_path, name):
    module, name = name.split()
    names = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))  # SHORT_BINUNICODE
    (tmp_path / ".metadata").write_bytes(b"\x80\x04" + names + b"\x93.")  # protocol 4, STACK_GLOBAL, STOP
    assert f"contains code ({module}.{name})" in checkpoints._code_in_metadata(tmp_path)
    assert "antigravity" not in sys.modules


class Counter:
    """Another object that is saved with a run."""

    def state_dict(self):
        return {"count": 1}

    def load_state_dict(self, state):
        assert state == {"count": 1}


# --- a disk that fails ---


@contextmanager
def no_file_above(size: int):
    """Limit the size of files, like a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [100, 1000, 2000])  # fails in the weights, the optimizer, the random states
def test_a_full_disk_names_the_folder_and_leaves_the_previous_checkpoint_newest(run, tmp_path, size):
    run.save(tmp_path, 1)
    with no_file_above(size):
        with pytest.raises(
            OSError, match=r"cannot write the checkpoint .*step_00000002': .*The newest one is step_00000001"
        ):
            run.save(tmp_path, 2)
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000001"]
    assert load_checkpoint(run.accelerator, tmp_path).step == 1


@pytest.mark.parametrize("call", ["rename", "write_text"])
def test_a_disk_that_fails_at_the_end_leaves_the_previous_checkpoint_newest(run, tmp_path, monkeypatch, call):
    run.save(tmp_path, 1)

    def fail(self, *args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, fail)
        with pytest.raises(OSError, match="cannot write .*No space left.*The newest one is step_00000001"):
            run.save(tmp_path, 2)
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000001"]
    run.save(tmp_path, 2)
    assert load_checkpoint(run.accelerator, tmp_path).step == 2


def test_a_folder_without_write_permission_is_named(run, tmp_path, monkeypatch):
    run.save(tmp_path, 1)
    make = os.mkdir

    def refuse(path, *args, **kwargs):
        if "unfinished" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return make(path, *args, **kwargs)

    with monkeypatch.context() as patch:  # tests may run as root, who ignores permission bits
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(OSError, match="cannot write the checkpoint .*step_00000002': .*Permission denied"):
            run.save(tmp_path, 2)
    assert load_checkpoint(run.accelerator, tmp_path).step == 1


def test_files_and_folders_reach_the_disk_before_a_checkpoint_gets_its_name(run, tmp_path, monkeypatch):
    order = []
    flush, rename = files.flush, Path.rename
    for module in (files, checkpoints):
        monkeypatch.setattr(module, "flush", lambda path: (order.append(path.name), flush(path)))
    monkeypatch.setattr(Path, "rename", lambda self, to: (order.append("named"), rename(self, to))[1])
    run.save(tmp_path, 1)
    before, after = order[: order.index("named")], order[order.index("named") + 1 :]
    assert {"model.safetensors", "optimizer.bin", "manifest.json", "unfinished_step_00000001"} <= set(before)
    assert after == ["checkpoints"]
