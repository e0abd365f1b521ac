"""Output folder of a run: lock, create, resume, export.

pytest tests/training/test_output.py
"""

import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_run import tiny_arguments
from vjepa_hf import VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.training import output
from vjepa_hf.training.output import check_export, claim_output_dir, export, prepare_output_dir
from vjepa_hf.training.setup import make_processor


def test_a_run_is_deleted_only_with_overwrite_output_dir_and_other_files_are_kept(accelerator, tmp_path, capsys):
    folder = tmp_path / "run"
    prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder)))
    assert (folder / "arguments.yaml").exists()
    with pytest.raises(ValueError, match="is not empty; add --resume"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder)))
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoints" / "step_00000001").mkdir(parents=True)
    for name in ("log.jsonl", "model.safetensors", "model-00001-of-00002.safetensors", "config.json"):
        (folder / name).touch()
    prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder), "--overwrite_output_dir"))
    assert sorted(path.name for path in folder.iterdir()) == ["arguments.yaml", "notes.txt", "run.lock"]
    assert "kept in" in capsys.readouterr().out


def test_a_run_in_which_another_script_wrote_its_model_is_not_deleted(accelerator, tmp_path):
    prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path)))
    (tmp_path / "result.json").touch()
    with pytest.raises(ValueError, match="another script wrote a model there"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path), "--overwrite_output_dir"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "arguments.yaml", "checkpoint-3", "result.json"])
def test_a_script_does_not_write_into_the_folder_of_another_model(accelerator, tmp_path, name):
    claim_output_dir(accelerator, tmp_path)
    claim_output_dir(accelerator, tmp_path)  # its own lock is no obstacle
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"already contains a model or a run \\({name}\\)"):
        claim_output_dir(accelerator, tmp_path)
    claim_output_dir(accelerator, tmp_path, resume=True)


# --- lock ---

HOLD = """
import os, sys, time
from vjepa_hf.training.output import lock_output_dir
lock_output_dir(sys.argv[1])
if os.fork() == 0:  # a worker, which outlives its parent for a while
    time.sleep(60)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder, with a worker."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_second_process_is_refused_until_the_first_is_dead(accelerator, tmp_path, holder, monkeypatch):
    monkeypatch.setattr(output, "LOCK_TIMEOUT", 0.1)
    (tmp_path / "run" / "arguments.yaml").touch()
    with pytest.raises(ValueError, match="another process is using output_dir .*run'; wait for its end"):
        words = ("--output_dir", str(tmp_path / "run"), "--overwrite_output_dir")
        prepare_output_dir(accelerator, tiny_arguments(*words))
    assert (tmp_path / "run" / "arguments.yaml").exists()
    holder.kill()
    holder.wait()
    output.lock_output_dir(tmp_path / "run")


def test_a_start_that_is_refused_makes_no_folder(accelerator, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path / "new"), "--resume"))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_a_run_is_never_deleted(accelerator, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="has no arguments.yaml, so it is not a run"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path), "--overwrite_output_dir"))
    assert (tmp_path / "thesis.tex").exists()


def test_resume_without_a_checkpoint_is_an_error_and_not_a_new_run(accelerator, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path), "--resume"))


def test_processes_that_are_not_connected_are_refused(accelerator, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE=2, but torch.distributed is not initialized"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(tmp_path / "run")))


def test_the_export_loads_as_the_target_encoder(model, accelerator, tmp_path):
    args = tiny_arguments()
    model.update_target_encoder(0.5)
    export(accelerator, model, make_processor(model.config, args.data), tmp_path)
    loaded = VJEPAModel.from_pretrained(tmp_path)
    target = model.vjepa.encoder.state_dict()
    assert all(torch.equal(value, target[name]) for name, value in loaded.encoder.state_dict().items())
    assert VJEPAVideoProcessor.from_pretrained(tmp_path).num_frames == 4
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("unfinished")]


def test_an_export_that_fails_leaves_the_old_one_whole(model, accelerator, tmp_path):
    processor = make_processor(model.config, tiny_arguments().data)
    export(accelerator, model, processor, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class FullDisk:
        def save_pretrained(self, folder):
            raise OSError(28, "No space left on device")

    model.update_target_encoder(0.5)
    with pytest.raises(OSError, match="cannot export the model .*No space left"):
        export(accelerator, model, FullDisk(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_success_is_said_only_of_the_weights_of_the_run(model, accelerator, tmp_path):
    export(accelerator, model, make_processor(model.config, tiny_arguments().data), tmp_path)
    check_export(accelerator, model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name] + 1}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(OSError, match=f"1 of {len(tensors)} weights differ, the first is {name}"):
        check_export(accelerator, model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        check_export(accelerator, model, tmp_path)
