"""Output folder of a run: create, resume, export.

pytest tests/training/test_output.py
"""

import pytest
import torch

from tiny_run import tiny_arguments
from vjepa_hf import VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.training.output import export, prepare_output_dir
from vjepa_hf.training.setup import make_processor


def test_a_folder_with_files_is_deleted_only_with_overwrite_output_dir(accelerator, tmp_path):
    folder = tmp_path / "run"
    prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder)))
    assert (folder / "arguments.yaml").exists()
    with pytest.raises(ValueError, match="is not empty; add --resume"):
        prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder)))
    (folder / "old.txt").write_text("old")
    prepare_output_dir(accelerator, tiny_arguments("--output_dir", str(folder), "--overwrite_output_dir"))
    assert not (folder / "old.txt").exists()


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
