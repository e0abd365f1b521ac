"""Every kind of folder is loaded, and what it lacks is explained.

pytest tests/look/test_parts.py
"""

import json

import pytest
import torch

from tiny_models import seeded
from vjepa_hf import VJEPAForActionDetection, VJEPAForPreTraining, VJEPAModel
from vjepa_hf.look.parts import NO_POOLER, NO_PREDICTOR, POOLER_OF_BOXES, is_untrained, load_parts


def test_a_pretraining_folder_has_a_predictor_but_no_pooler(pretrained):
    parts = load_parts(pretrained)
    assert parts.pretraining is not None and parts.encoder is parts.pretraining.vjepa
    assert parts.classifier is None and parts.missing == {"classifier": NO_POOLER}


def test_a_classifier_has_a_pooler_and_one_encoder_but_no_predictor(tiny_classifier, save):
    parts = load_parts(save(tiny_classifier))
    assert parts.pretraining is None and parts.missing == {"predictor": NO_PREDICTOR}
    assert parts.classifier is not None and parts.classifier.vjepa is parts.encoder
    assert torch.equal(parts.classifier.classifier.weight, tiny_classifier.classifier.weight)


def test_an_encoder_alone_lacks_both(tiny_config, save):
    folder = save(seeded(lambda config: VJEPAModel(config, add_predictor=False), tiny_config))
    assert load_parts(folder).missing == {"predictor": NO_PREDICTOR, "classifier": NO_POOLER}


def test_a_pooler_of_boxes_and_a_predictor_of_several_layers_are_not_used(tiny_config, save):
    tiny_config.num_labels = 3
    folder = save(seeded(VJEPAForActionDetection, tiny_config))
    assert load_parts(folder).missing == {"predictor": NO_PREDICTOR, "classifier": POOLER_OF_BOXES}
    tiny_config.level_layers, tiny_config.pred_num_levels = [0, 1], 2
    missing = load_parts(save(seeded(VJEPAModel, tiny_config), "levels")).missing
    assert missing["predictor"].startswith("The predictor of V-JEPA 2.1 predicts several layers")


def test_a_model_with_predictor_but_without_context_encoder_predicts_with_its_encoder(tiny_model, save, caplog):
    folder = save(tiny_model)
    caplog.clear()
    parts = load_parts(folder)
    assert parts.pretraining is not None and parts.pretraining.vjepa is parts.encoder
    assert not caplog.records  # no report of weights that are missing
    for module in (parts.pretraining.context_encoder, parts.encoder.encoder):
        for name, weight in module.state_dict().items():
            assert torch.equal(weight, tiny_model.encoder.state_dict()[name])


def test_wrong_folders_are_named(pretrained, tmp_path):
    with pytest.raises(ValueError, match="nowhere.* is not a folder"):
        load_parts(tmp_path / "nowhere")
    (pretrained / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        load_parts(pretrained)
    fields = json.loads((pretrained / "config.json").read_text()) | {"hidden_size": "wide"}
    (pretrained / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="cannot load model"):
        load_parts(pretrained)


def test_one_training_step_makes_an_encoder_trained(tiny_config, tiny_clip):
    tiny_config.hidden_act = "gelu"
    model = seeded(VJEPAForPreTraining, tiny_config)
    assert is_untrained(model.context_encoder) and is_untrained(model.vjepa.encoder)
    masks = [torch.tensor([[0], [1]])], [torch.tensor([[16], [17]])]
    model(tiny_clip, *masks).loss.backward()
    torch.optim.AdamW(model.context_encoder.parameters(), lr=1e-4).step()
    assert not is_untrained(model.context_encoder)
    model.update_target_encoder(0.9)
    assert not is_untrained(model.vjepa.encoder)
