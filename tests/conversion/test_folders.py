"""Folders of save_pretrained are read whole or not at all."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vjepa_hf.conversion.folders import find_folder, read_config, read_weights


def shards(folder, promised=("a", "b")):
    save_file({"a": torch.ones(2)}, folder / "model-1.safetensors")
    save_file({"b": torch.zeros(2)}, folder / "model-2.safetensors")
    places = {name: f"model-{index + 1}.safetensors" for index, name in enumerate(promised[:2])}
    places |= {name: "model-2.safetensors" for name in promised[2:]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_all_files_that_an_index_names_are_read(tmp_path):
    shards(tmp_path)
    save_file({"c": torch.zeros(2)}, tmp_path / "model-3.safetensors")  # of an older save
    assert read_weights(tmp_path).keys() == {"a", "b"}


def test_what_an_index_promises_must_be_there(tmp_path):
    shards(tmp_path, ("a", "b", "c"))
    with pytest.raises(ValueError, match="'c'"):
        read_weights(tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match="model-1"):
        read_weights(tmp_path)


@pytest.mark.parametrize(("text", "named"), [(None, "no config.json"), ("{", "not JSON"), ("[]", "list")])
def test_configurations_that_cannot_be_read(tmp_path, text, named):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=named):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["vitl16", "model.pth.tar", "runs/model.pt", "a/b/c", "/absent/folder", "./absent"])
def test_only_names_of_the_hub_are_looked_up_there(name, monkeypatch):
    monkeypatch.setattr("vjepa_hf.conversion.folders.snapshot_download", lambda *_, **__: 1 / 0)
    assert find_folder(name) is None
    with pytest.raises(ZeroDivisionError):
        find_folder("facebook/vjepa2-vitl-fpc64-256")
