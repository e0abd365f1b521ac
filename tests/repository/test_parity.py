"""Differences from Meta's code that no test of a single module shows; docs/parity.md has the reasons."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from vjepa_hf import VJEPAForVideoClassification, VJEPAModel
from vjepa_hf.training.arguments import parse_arguments
from vjepa_hf.training.output import prepare_output_dir


def test_dropout_is_off_in_evaluation(tiny_config, tiny_clip):
    tiny_config.attention_probs_dropout_prob = 0.5
    tiny_config.drop_path_rate = 0.5
    model = VJEPAModel(tiny_config).eval()
    with torch.no_grad():
        first, second = (model(tiny_clip).last_hidden_state for _ in range(2))
        trained = model.train()(tiny_clip).last_hidden_state
    assert torch.equal(first, second)
    assert not torch.allclose(first, trained)


def test_probe_holds_no_output_projection(tiny_config):
    attention = VJEPAForVideoClassification(tiny_config).pooler.cross_attention_layer.attention
    assert sorted(name for name, _ in attention.named_children()) == ["kv", "q"]


def prepare(folder: Path, *options: str) -> None:
    config = folder.with_name("config.yaml")
    config.write_text("")
    arguments = parse_arguments(["--config", str(config), "--output_dir", str(folder), *options])
    prepare_output_dir(Accelerator(cpu=True), arguments)


def test_run_never_starts_over_an_old_one_by_itself(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="no checkpoint to resume"):
        prepare(folder, "--resume")
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights of weeks")
    with pytest.raises(ValueError, match="not empty"):
        prepare(folder)
    with pytest.raises(ValueError, match="no checkpoint to resume"):
        prepare(folder, "--resume")
    assert (folder / "model.safetensors").read_bytes() == b"weights of weeks"
