"""Initial weights are loaded completely, or not at all with an error that lists every problem.

pytest tests/training/test_starting_weights.py
"""

import copy
import os
from functools import partial

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VJEPA2Config, VJEPA2Model

from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from vjepa_hf.conversion.transformers_format import config_from_transformers
from vjepa_hf.training import starting_weights
from vjepa_hf.training.optimization import parameter_groups
from vjepa_hf.training.setup import checkpoint_activations
from vjepa_hf.training.starting_weights import (
    freeze_first_layers,
    freeze_image_tokenizer,
    inflate_channels,
    load_starting_weights,
)


@pytest.fixture
def pretrained(tiny_pretraining_model):
    """A model whose encoders differ, as after training."""
    with torch.no_grad():
        for parameter in tiny_pretraining_model.context_encoder.parameters():
            parameter.add_(0.01)
    return tiny_pretraining_model


@pytest.fixture
def folder(pretrained, tmp_path):
    pretrained.save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def fresh(config: VJEPAConfig, **changes) -> VJEPAForPreTraining:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return VJEPAForPreTraining(VJEPAConfig(**{**config.to_dict(), **changes}))


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_all_parts_are_loaded_and_named(pretrained, folder):
    model = fresh(pretrained.config)
    report = load_starting_weights(model, folder)
    assert equal(model, pretrained) and not equal(model.context_encoder, model.vjepa.encoder)
    for part in ("context_encoder", "target_encoder", "predictor"):
        assert f"loaded {part}, " in report
    assert "not loaded" not in report and "random" not in report


@pytest.mark.parametrize("part", ["context_encoder", "target_encoder"])
def test_one_encoder_becomes_both(pretrained, folder, part):
    model = fresh(pretrained.config)
    before = copy.deepcopy(model.vjepa.predictor)
    report = load_starting_weights(model, folder, [part])
    loaded = pretrained.context_encoder if part == "context_encoder" else pretrained.vjepa.encoder
    assert equal(model.context_encoder, loaded) and equal(model.vjepa.encoder, loaded)
    assert equal(model.vjepa.predictor, before)
    assert f"is a copy of {part}" in report and "predictor has random weights" in report
    assert "not loaded: predictor, " in report


def test_loading_only_the_predictor_leaves_the_encoders_random(pretrained, folder):
    model = fresh(pretrained.config)
    before = copy.deepcopy(model.context_encoder)
    report = load_starting_weights(model, folder, ["predictor"])
    assert equal(model.vjepa.predictor, pretrained.vjepa.predictor) and equal(model.context_encoder, before)
    assert "both encoders have random weights" in report


def test_folders_of_every_model_class_are_read(pretrained, tmp_path):
    VJEPAModel(pretrained.config).save_pretrained(tmp_path / "features")
    VJEPAForVideoClassification(pretrained.config).save_pretrained(tmp_path / "classifier")
    model = fresh(pretrained.config)
    assert "context_encoder is a copy of target_encoder" in load_starting_weights(model, tmp_path / "features")
    assert equal(model.vjepa, VJEPAModel.from_pretrained(tmp_path / "features"))
    report = load_starting_weights(model, tmp_path / "classifier", ["target_encoder"])
    assert "not loaded: pooler, " in report and "not loaded: classifier, 2 tensors" in report


def test_missing_parts_and_files_are_errors(pretrained, folder, tmp_path):
    model = fresh(pretrained.config)
    with pytest.raises(ValueError, match="init_parts: 'encoder' is not in .*choose from .*context_encoder"):
        load_starting_weights(model, folder, ["encoder"])
    with pytest.raises(ValueError, match="init_from .* has no config.json"):
        load_starting_weights(model, tmp_path / "nowhere")
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="cannot read .*model.safetensors"):
        load_starting_weights(model, folder)


# --- where weights come from ---


def test_weights_in_several_files_and_bin_files_are_read(pretrained, tmp_path):
    pretrained.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    pretrained.config.save_pretrained(tmp_path / "bin")
    torch.save(pretrained.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    for name in ("shards", "bin"):
        model = fresh(pretrained.config)
        load_starting_weights(model, tmp_path / name)
        assert equal(model, pretrained)


def test_a_hub_name_is_read_through_the_cache(pretrained, folder, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    repository = cache / "models--somebody--vjepa-tiny"
    (repository / "snapshots").mkdir(parents=True)
    folder.rename(repository / "snapshots" / "0123456789")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789")
    snapshot = partial(huggingface_hub.snapshot_download, cache_dir=cache)
    monkeypatch.setattr(starting_weights, "snapshot_download", snapshot)
    model = fresh(pretrained.config)
    load_starting_weights(model, "somebody/vjepa-tiny")
    assert equal(model, pretrained)
    with pytest.raises(ValueError, match="init_from 'somebody/other' .*neither a folder nor a model on the Hub"):
        load_starting_weights(model, "somebody/other")


def test_lost_foreign_and_damaged_shards_are_errors(pretrained, tmp_path):
    pretrained.save_pretrained(tmp_path, max_shard_size="50KB")
    index = tmp_path / "model.safetensors.index.json"
    text = index.read_text()
    for harm in ("{}", "[]", "{", '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {}}'):
        index.write_text(harm)
        with pytest.raises(ValueError, match="cannot read|contains no weights"):
            load_starting_weights(fresh(pretrained.config), tmp_path)
    index.write_text(text)
    next(iter(tmp_path.glob("*.safetensors"))).unlink()
    with pytest.raises(ValueError, match="init_from .*cannot read .*safetensors'"):
        load_starting_weights(fresh(pretrained.config), tmp_path)


def test_a_bin_file_with_code_is_not_executed(pretrained, tmp_path):
    pretrained.config.save_pretrained(tmp_path)
    torch.save({"encoder.x": Bomb(tmp_path / "executed")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot read .*pytorch_model.bin"):
        load_starting_weights(fresh(pretrained.config), tmp_path)
    assert not (tmp_path / "executed").exists()


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kept", ["", "pooler.", "classifier.", "predictor."])
def test_a_model_without_an_encoder_is_an_error(pretrained, tmp_path, kept):
    model = VJEPAModel(pretrained.config) if kept == "predictor." else VJEPAForVideoClassification(pretrained.config)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if kept and name.startswith(kept)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="contains no (encoder|weights)"):
        load_starting_weights(fresh(pretrained.config), tmp_path)


def changed(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_every_problem_is_listed_and_nothing_is_loaded(pretrained, folder):
    def harm(tensors):
        tensors["vjepa.predictor.strange"] = torch.zeros(1)
        del tensors["context_encoder.norm.bias"]
        tensors["vjepa.encoder.norm.weight"] = torch.zeros(7)

    changed(folder, harm)
    model = fresh(pretrained.config)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError) as error:
        load_starting_weights(model, folder)
    for words in (
        "predictor.strange is unexpected",
        "context_encoder.norm.bias is missing",
        "target_encoder.norm.weight has the shape (7,), but this model needs (48,)",
    ):
        assert words in str(error.value)
    assert equal(model, before)
    changed(folder, lambda tensors: tensors.update(strange=torch.zeros(1)))
    with pytest.raises(ValueError, match="contains 'strange', which is not a weight"):
        load_starting_weights(model, folder)


def test_settings_that_do_not_change_shapes_must_agree_too(pretrained, folder):
    with pytest.raises(
        ValueError, match="encoder was trained with num_attention_heads=2, .*has num_attention_heads=4"
    ):
        load_starting_weights(fresh(pretrained.config, num_attention_heads=4), folder)
    with pytest.raises(ValueError, match="predictor was trained with pred_num_attention_heads=2, "):
        load_starting_weights(fresh(pretrained.config, pred_num_attention_heads=4), folder)
    with pytest.raises(ValueError, match="predictor was trained with pred_mask_token_per_mask_type=True, "):
        load_starting_weights(fresh(pretrained.config, pred_mask_token_per_mask_type=False), folder)
    with pytest.raises(ValueError, match=r"mask_tokens has the shape \(2, 24\), but this model needs \(1, 24\)"):
        load_starting_weights(fresh(pretrained.config, pred_num_mask_tokens=1), folder)


@pytest.mark.parametrize("num_channels", [1, 2, 4])
def test_grey_clips_keep_their_features_with_other_numbers_of_channels(pretrained, folder, tiny_clip, num_channels):
    model = fresh(pretrained.config, num_channels=num_channels).eval()
    assert f"adapted from 3 to {num_channels} channels" in load_starting_weights(model, folder)
    grey = tiny_clip[:, :, :1]
    with torch.no_grad():
        features = model.vjepa(grey.repeat(1, 1, num_channels, 1, 1)).last_hidden_state
        expected = pretrained.eval().vjepa(grey.repeat(1, 1, 3, 1, 1)).last_hidden_state
    assert torch.allclose(features, expected, atol=1e-5)
    assert inflate_channels(torch.ones(5, 3, 2, 8, 8), 3).eq(1).all()


def test_another_grid_gives_the_features_of_the_saved_model_at_that_size(pretrained, folder):
    model = fresh(pretrained.config, image_size=48, num_frames=8).eval()
    report = load_starting_weights(model, folder)
    assert "positions resized from the grid (2, 4, 4) to (4, 6, 6)" in report
    clip = torch.randn(1, 8, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = [network.vjepa(clip).last_hidden_state for network in (model, pretrained.eval())]
    assert torch.allclose(*features, atol=1e-5)


def test_frozen_layers_do_not_change_and_the_others_do(pretrained, tiny_clip):
    freeze_first_layers(pretrained, 1)
    before = copy.deepcopy(pretrained)
    optimizer = torch.optim.AdamW(parameter_groups(pretrained), lr=0.1)
    masks = [torch.arange(8).expand(2, -1)] * 2, [torch.arange(8, 32).expand(2, -1)] * 2
    pretrained.train()
    checkpoint_activations(pretrained)
    pretrained(tiny_clip, *masks).loss.backward()
    optimizer.step()
    encoder, old = pretrained.context_encoder, before.context_encoder
    assert equal(encoder.embeddings, old.embeddings) and equal(encoder.layers[0], old.layers[0])
    assert not equal(encoder.layers[1], old.layers[1]) and not equal(encoder.norm, old.norm)
    assert len(parameter_groups(encoder)[0]["params"]) == len(parameter_groups(encoder.layers[1])[0]["params"])


def test_without_images_their_tokenizer_stays_as_it_is(pretrained):
    fields = pretrained.config.to_diff_dict() | {"position_embedding_type": "rope_interpolated"}
    model = VJEPAForPreTraining(VJEPAConfig(**fields | {"image_tokenizer": True}))
    freeze_image_tokenizer(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad and "vjepa.encoder" not in name}
    embeddings = "context_encoder.embeddings"
    assert frozen == {
        f"{embeddings}.image_projection.weight",
        f"{embeddings}.image_projection.bias",
        f"{embeddings}.modality_embeddings.image",
        "vjepa.predictor.modality_embeddings.image",
    }
    freeze_image_tokenizer(pretrained)  # which has none
    assert all(p.requires_grad for p in pretrained.context_encoder.parameters())


def test_zero_freezes_nothing_and_freezing_all_layers_is_an_error(pretrained):
    freeze_first_layers(pretrained, 0)
    assert all(parameter.requires_grad for parameter in pretrained.context_encoder.parameters())
    for number in (-1, 2):
        with pytest.raises(ValueError, match="freeze_layers must be at least 0 and less than num_hidden_layers=2"):
            freeze_first_layers(pretrained, number)


def test_v_jepa_2_of_transformers_is_read_as_it_is(tmp_path):
    theirs = VJEPA2Config(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=2, crop_size=32, frames_per_clip=4, patch_size=8,
        pred_hidden_size=16, pred_num_attention_heads=1, pred_num_hidden_layers=1,
    )  # fmt: skip
    VJEPA2Model(theirs).save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    config = config_from_transformers(theirs, has_pooler=False)
    model = VJEPAForPreTraining(config)
    report = load_starting_weights(model, tmp_path / "theirs")
    assert "loaded target_encoder" in report and "context_encoder is a copy of target_encoder" in report
    weight = VJEPA2Model.from_pretrained(tmp_path / "theirs").encoder.layer[1].attention.key.weight
    assert torch.equal(model.context_encoder.layers[1].attention.qkv.weight[32:64], weight)
    config.position_embedding_type = "rope_interpolated"
    with pytest.raises(ValueError, match="trained with position_embedding_type=rope, but"):
        load_starting_weights(VJEPAForPreTraining(config), tmp_path / "theirs")
