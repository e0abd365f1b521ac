"""A saved encoder loads with its processor, and a damaged one is an error that names it.

pytest tests/evaluation/test_loading.py
"""

import pytest
import torch

from vjepa_hf.evaluation.loading import load_encoder


def test_an_encoder_loads_in_evaluation_mode_with_its_processor(tiny_model, processor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    encoder, loaded = load_encoder(str(tmp_path))
    assert not encoder.training and not hasattr(encoder, "predictor") or encoder.predictor is None
    assert loaded.to_dict() == processor.to_dict()
    expected = tiny_model.encoder.state_dict()
    assert all(torch.equal(expected[name], value.cpu()) for name, value in encoder.encoder.state_dict().items())


@pytest.mark.parametrize("content", ["[1]", "[" * 100_000, '{"model_type": "vjepa", "hidden_size": "wide"}'])
def test_a_damaged_configuration_is_an_error_that_names_the_model(tiny_model, processor, tmp_path, content):
    tiny_model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"cannot load model '{tmp_path}'"):
        load_encoder(str(tmp_path))
