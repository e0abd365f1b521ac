"""The command behind the checkpoint in the package stores target encoder and predictor of a run from random weights.

pytest tests/studies/test_tiny_checkpoint.py
"""

import importlib
import sys

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from house import REPO
from tiny_models import seeded
from vjepa_hf import VJEPAForPreTraining, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.model_card import Origin, write_card


@pytest.fixture
def study(monkeypatch):
    """The command as a module, with an accuracy that takes no time."""
    for folder in ("studies", "benchmarks"):
        monkeypatch.syspath_prepend(str(REPO / folder))
    names = ("tiny_checkpoint", "programs", "report")
    for name in names:  # the tests have a `programs`, too
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("tiny_checkpoint")
    monkeypatch.setattr(
        module, "few_label_accuracy", lambda folder, videos, scratch, *words, **_: 0.9 - len(words) / 2
    )
    yield module
    for name in names:
        del sys.modules[name]


@pytest.fixture
def run(tmp_path, tiny_config):
    """The folder of a pretraining run."""
    folder = tmp_path / "run"
    model = seeded(VJEPAForPreTraining, tiny_config)
    torch.nn.init.constant_(model.vjepa.encoder.norm.weight, 2.0)  # unlike the context encoder
    model.save_pretrained(folder)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, patch_size=8).save_pretrained(folder)
    (folder / "arguments.yaml").write_text(yaml.safe_dump({"init_from": None}))
    write_card(
        folder, "VJEPAForPreTraining", "A run.", Origin(), {"Data": "9 videos.", "Hyperparameters": "| a | b |"}
    )
    return folder


def test_the_command_stores_target_encoder_predictor_processor_and_card(study, run, tmp_path):
    study.make(run, tmp_path / "videos", splits=2, epochs=1, output=tmp_path / "tiny")
    stored, expected = (VJEPAModel.from_pretrained(folder) for folder in (tmp_path / "tiny", run))
    assert stored.dtype == torch.float32 and stored.predictor is not None
    for (name, value), other in zip(stored.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-6, msg=name)
    assert VJEPAVideoProcessor.from_pretrained(tmp_path / "tiny").num_frames == 4
    card = ModelCard.load(tmp_path / "tiny" / "README.md")
    assert card.data.license == "apache-2.0"
    assert "| motion | 0.90 | 0.40 |" in card.text and "mean of 2 draws" in card.text
    assert "9 videos." in card.text and "| a | b |" in card.text and "32 x 32" in card.text


def test_a_run_from_other_weights_is_refused(study, run, tmp_path):
    (run / "arguments.yaml").write_text(yaml.safe_dump({"init_from": "models/vitl16"}))
    with pytest.raises(ValueError, match="started from models/vitl16 and inherits its license"):
        study.make(run, tmp_path, output=tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()
