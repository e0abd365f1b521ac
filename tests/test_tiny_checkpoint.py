"""The checkpoint in the package loads offline, in the precision one asks for, and has learned something.

pytest tests/test_tiny_checkpoint.py
"""

import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel, AutoVideoProcessor

from vjepa_hf import VJEPAForPreTraining, VJEPAModel, VJEPAVideoProcessor, tiny_checkpoint
from vjepa_hf.data.masking import MaskSampler, MultiBlockMask
from vjepa_hf.training.diagnostics import health


def test_weights_are_small_and_stored_in_half_precision():
    weights = load_file(tiny_checkpoint() / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert 0.5e6 < sum(value.numel() for value in weights.values()) < 1.5e6
    assert all(value.isfinite().all() for value in weights.values())
    assert sum(path.stat().st_size for path in tiny_checkpoint().iterdir()) < 3e6


@pytest.mark.parametrize(
    "options, dtype",
    [({}, torch.float32), ({"dtype": "auto"}, torch.float32), ({"dtype": torch.float16}, torch.float16)],
    ids=["default", "auto", "float16"],
)
def test_it_loads_in_single_precision_unless_told_otherwise(options, dtype):
    model, messages = VJEPAModel.from_pretrained(tiny_checkpoint(), **options, output_loading_info=True)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not any(messages.values())


def test_it_predicts_what_comes_next_in_generated_videos(toy_videos):
    model = VJEPAForPreTraining.from_pretrained(tiny_checkpoint())
    processor = AutoVideoProcessor.from_pretrained(tiny_checkpoint())
    assert type(processor) is VJEPAVideoProcessor
    clips = processor([str(path) for path in sorted((toy_videos / "train").glob("*.mp4"))])["pixel_values_videos"]
    future = MultiBlockMask(num_blocks=0, context_steps=2)
    masks = MaskSampler([future], model.config.grid_size, seed=0)([(0, index) for index in range(len(clips))])

    def loss_ratio(model: VJEPAForPreTraining) -> float:
        with torch.no_grad():
            return health(model, model(clips, *masks), *masks)["loss_ratio"]

    torch.manual_seed(0)
    assert loss_ratio(model) < 0.9 < loss_ratio(VJEPAForPreTraining(model.config))


def test_the_code_of_its_card_runs_and_its_license_is_that_of_the_package(monkeypatch, capsys):
    card = ModelCard.load(tiny_checkpoint() / "README.md")
    monkeypatch.chdir(tiny_checkpoint())
    exec(re.search("```python\n(.*?)```", card.content, re.DOTALL)[1], {})
    config = VJEPAModel.from_pretrained(".").config
    num_tokens = torch.Size(config.grid_size).numel()
    assert f"torch.Size([1, {num_tokens}, {config.hidden_size}])" in capsys.readouterr().out
    assert card.data.license == "apache-2.0" and card.data.base_model is None
    parameters = AutoModel.from_pretrained(".").num_parameters()
    assert f"{parameters / 1e6:.2f} million weights" in card.text
    assert all(f"## {title}" in card.text for title in ("What it is for", "What it is not good for", "Probes"))
