"""pytest tests/model/test_checks.py; tests/repository/test_bad_input.py gives the models many other wrong inputs."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from vjepa_hf import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel

CONTEXT, TARGET = torch.arange(20).expand(2, -1).split([8, 12], dim=1)


@torch.no_grad()
def run(model, *args, **kwargs):
    return model(*args, **kwargs)


# Unknown arguments of forward


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (
            "tiny_model",
            {"context_masks": [CONTEXT]},
            "VJEPAModel got an unknown argument context_masks; .*context_mask?",
        ),
        (
            "tiny_model",
            {"bool_masked_pos": torch.ones(2, 32)},
            "bool_masked_pos; the arguments are pixel_values_videos",
        ),
        ("tiny_classifier", {"label": torch.tensor([0, 1])}, "label; did you mean labels?"),
        ("tiny_pretraining_model", {"context_mask": CONTEXT}, "context_mask; did you mean context_masks?"),
    ],
)
def test_an_unknown_argument_is_an_error_that_names_the_nearest(request, tiny_clip, model, given, message):
    model = request.getfixturevalue(model)
    needed = ([CONTEXT], [TARGET]) if model.main_input_name and hasattr(model, "context_encoder") else ()
    with pytest.raises(TypeError, match=message):
        model(tiny_clip, *needed, **given)


def test_what_wrappers_and_trainers_pass_to_every_model_is_accepted(tiny_model, tiny_clip):
    expected = run(tiny_model, tiny_clip)[0]
    found = run(tiny_model, tiny_clip, input_ids=None, num_items_in_batch=2, return_dict=False)
    assert isinstance(found, tuple) and torch.equal(found[0], expected)


# Weights that do not fit


def test_weights_for_another_clip_size_without_a_configuration_are_an_error(tiny_model, tiny_config):
    weights = tiny_model.state_dict()
    tiny_config.image_size = 64
    with pytest.raises(ValueError, match="resize_position_embeddings"):
        VJEPAModel.from_pretrained(None, config=tiny_config, state_dict=weights)


def test_other_shapes_are_an_error_unless_asked_for(tiny_classifier, tmp_path):
    tiny_classifier.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="classifier.bias of shape .*ignore_mismatched_sizes=True"):
        VJEPAForVideoClassification.from_pretrained(tmp_path, num_labels=7)
    with pytest.raises(RuntimeError):  # as transformers raises
        VJEPAForVideoClassification.from_pretrained(tmp_path, num_labels=7)
    model = VJEPAForVideoClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape[0] == 7


def test_a_checkpoint_without_an_encoder_is_an_error(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if not name.startswith("encoder.")}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    for model_class in (VJEPAModel, VJEPAForPreTraining, VJEPAForVideoClassification):
        with pytest.raises(ValueError, match="no weights of an encoder"):
            model_class.from_pretrained(tmp_path)
