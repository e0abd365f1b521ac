"""Files of Meta's V-JEPA 2 and 2.1 are recognized, converted strictly, and go both ways without a change."""

import pytest
import torch
from safetensors.torch import load_file

from meta_files import pretraining_content
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from vjepa_hf.conversion import convert, export_to_meta
from vjepa_hf.conversion.meta import to_meta
from vjepa_hf.conversion.released import VJEPA2_FILES, VJEPA2_PROBES, probe_url
from vjepa_hf.training.starting_weights import load_starting_weights

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "num_frames": 4}
SIZES |= {"pred_hidden_size": 24, "pred_num_hidden_layers": 2, "pred_num_attention_heads": 4}
SIZES |= {"pred_mask_token_per_mask_type": False, "pred_num_mask_tokens": 10, "initializer_depth_scaling": True}
VJEPA2 = SIZES | {"position_embedding_type": "rope", "pooler_num_attention_heads": 16}
LEVELS = {"num_hidden_layers": 12, "level_layers": [2, 5, 8, 11], "pred_num_mask_tokens": 8}
VJEPA21 = VJEPA2 | LEVELS | {"position_embedding_type": "rope_interpolated", "image_tokenizer": True}
FILES = {
    "V-JEPA 2": VJEPA2,
    "V-JEPA 2.1": VJEPA21 | {"pred_num_levels": 4, "pred_context_head": True},
    "V-JEPA 2.1, distilled": VJEPA21 | {"pred_target_size": 100, "pred_context_head": True},
}
OPTIONS = {"num_attention_heads": 2, "num_frames": 4, "image_size": 32, "pred_num_attention_heads": 4}


def file_content(fields: dict) -> dict:
    content = pretraining_content(VJEPAConfig(**fields))
    if "pred_target_size" in fields:
        content["ema_encoder"] = content.pop("target_encoder")
    return content


def probe_file(path, fields: dict, **more) -> dict:
    """Write a probe as V-JEPA 2's evaluation does: a list of classifiers, of four blocks."""
    config = VJEPAConfig(**fields | {"num_pooler_layers": 4, "num_labels": 5} | more)
    torch.manual_seed(1)
    state = VJEPAForVideoClassification(config).state_dict()
    probe = to_meta({name: torch.randn_like(value) for name, value in state.items() if "vjepa" not in name}, False)
    content = {"classifiers": [{f"module.{name}": value for name, value in probe["classifier"].items()}], "epoch": 3}
    torch.save(content, path)
    return content


@pytest.mark.parametrize("kind", FILES)
def test_there_and_back_gives_the_same_tensors(tmp_path, kind):
    content = file_content(FILES[kind])
    torch.save(content, tmp_path / "checkpoint.pt")
    report = convert(tmp_path / "checkpoint.pt", tmp_path / "model", **OPTIONS)
    assert f"{kind.split(',')[0]}: clips" in str(report) and ("distilled" in str(report)) == ("distilled" in kind)
    config = VJEPAConfig.from_pretrained(tmp_path / "model")
    assert {name: getattr(config, name) for name in FILES[kind]} == FILES[kind]
    for model_class in (VJEPAModel, VJEPAForPreTraining):
        model, loading = model_class.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not any(loading.values()), loading
    export_to_meta(tmp_path / "model", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    for part in ("encoder", "predictor", "target_encoder"):
        original = content.get(part) or content["ema_encoder"]
        assert original.keys() == back[part].keys()
        assert all(torch.equal(original[name], back[part][name]) for name in original)


def test_names_of_2_1_are_metas():
    content = file_content(FILES["V-JEPA 2.1"])
    encoder = {name.removeprefix("module.backbone.") for name in content["encoder"]}
    predictor = {name.removeprefix("module.backbone.") for name in content["predictor"]}
    assert {f"norms_block.{level}.weight" for level in range(4)} < encoder and "norm.weight" not in encoder
    assert {"patch_embed_img.proj.weight", "img_mod_embed", "video_mod_embed"} < encoder
    assert {"predictor_embed.0.weight", "predictor_embed.2.weight", "predictor_proj_context.bias"} < predictor
    assert {"img_mod_embed", "video_mod_embed", "mask_tokens.7"} < predictor


def test_levels_images_and_predictions_of_2_1(tmp_path):
    """A level is the output of its layer after its own norm; an image has its own embedding."""
    model = VJEPAModel(VJEPAConfig(**FILES["V-JEPA 2.1"])).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    clip, image = torch.randn(1, 4, 3, 32, 32), torch.randn(1, 1, 3, 32, 32)
    outputs = model(clip, output_layers=[2, 11], output_hidden_states=True)
    encoder = model.encoder
    assert torch.equal(outputs.layer_hidden_states[0], encoder.level_norms[0](outputs.hidden_states[3]))
    assert torch.equal(outputs.layer_hidden_states[1], outputs.last_hidden_state)
    tokens = torch.nn.functional.conv3d(
        image.transpose(1, 2), encoder.embeddings.image_projection.weight, encoder.embeddings.image_projection.bias,
        stride=(1, 16, 16),
    )  # fmt: skip
    tokens = tokens.flatten(2).transpose(1, 2) + encoder.embeddings.modality_embeddings.image
    hidden_states = model(image, output_hidden_states=True).hidden_states
    assert torch.allclose(hidden_states[0], tokens, atol=1e-5) and tokens.shape[1] == 4
    kept, targets = torch.arange(0, 8, 2)[None], torch.arange(1, 8, 2)[None]
    predicted = model(clip, context_mask=kept, target_mask=targets)
    assert predicted.predictor_hidden_state.shape == predicted.predictor_context_state.shape == (1, 4, 4 * 48)


def test_pretraining_with_the_predictor_of_a_distilled_file_is_refused_and_with_a_new_one_works():
    fields = FILES["V-JEPA 2.1, distilled"]
    kept, targets = [torch.arange(0, 8, 2)[None]], [torch.arange(1, 8, 2)[None]]
    with pytest.raises(ValueError, match="pred_target_size=100.*init_parts target_encoder"):
        VJEPAForPreTraining(VJEPAConfig(**fields))(torch.zeros(1, 4, 3, 32, 32), kept, targets)
    model = VJEPAForPreTraining(VJEPAConfig(**fields | {"pred_num_levels": 4, "pred_target_size": None}))
    encoder = VJEPAModel(VJEPAConfig(**fields)).encoder
    model.context_encoder.load_state_dict(encoder.state_dict())
    assert model(torch.zeros(1, 4, 3, 32, 32), kept, targets).loss.isfinite()


def test_a_converted_file_of_v_jepa_2_1_is_a_start_with_and_without_its_predictor(tmp_path):
    for kind, parts in (("V-JEPA 2.1", ()), ("V-JEPA 2.1, distilled", ("target_encoder",))):
        torch.save(file_content(FILES[kind]), tmp_path / "file.pt")
        folder = tmp_path / kind
        convert(tmp_path / "file.pt", folder, **OPTIONS)
        model = VJEPAForPreTraining(VJEPAConfig(**FILES["V-JEPA 2.1"]))
        load_starting_weights(model, folder, parts)
        loaded = VJEPAForPreTraining.from_pretrained(folder)
        states = [(m.vjepa.encoder.state_dict(), m.vjepa.predictor.state_dict()) for m in (model, loaded)]
        encoders, predictors = zip(*states, strict=True)
        assert all(torch.equal(value, encoders[1][name]) for name, value in encoders[0].items())
        if not parts:
            assert all(torch.equal(value, predictors[1][name]) for name, value in predictors[0].items())
        kept, targets = [torch.arange(0, 8, 2)[None]], [torch.arange(1, 8, 2)[None]]
        assert model(torch.randn(1, 4, 3, 32, 32), kept, targets).loss.isfinite()
    with pytest.raises(ValueError, match="predictor.proj.weight has the shape"):
        load_starting_weights(model, folder)
    other = VJEPAForPreTraining(VJEPAConfig(**FILES["V-JEPA 2.1"] | {"level_layers": [1, 5, 8, 11]}))
    with pytest.raises(ValueError, match="level_layers=.2, 5, 8, 11., but this model has level_layers=.1, 5, 8, 11."):
        load_starting_weights(other, tmp_path / "V-JEPA 2.1")


def test_position_tables_that_v_jepa_2_does_not_read_are_dropped_by_name(tmp_path):
    content = file_content(VJEPA2)
    for part, name in (
        ("encoder", "pos_embed"),
        ("target_encoder", "pos_embed"),
        ("predictor", "predictor_pos_embed"),
    ):
        width = content[part][f"module.backbone.{'predictor_' if part == 'predictor' else ''}norm.bias"].shape[0]
        content[part][f"module.backbone.{name}"] = torch.zeros(1, 8, width)
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="position_embedding_type"):
        convert(tmp_path / "checkpoint.pt", tmp_path / "model", **OPTIONS)
    report = convert(tmp_path / "checkpoint.pt", tmp_path / "model", **OPTIONS, position_embedding_type="rope")
    assert {"encoder.pos_embed", "target_encoder.pos_embed", "predictor.predictor_pos_embed"} < report.dropped.keys()
    assert "position_embeddings" not in "".join(load_file(tmp_path / "model" / "model.safetensors"))
    # The name of a released file says what it is.
    (tmp_path / "checkpoint.pt").rename(tmp_path / "vitl.pt")
    convert(tmp_path / "vitl.pt", tmp_path / "named", **OPTIONS)
    assert VJEPAConfig.from_pretrained(tmp_path / "named").position_embedding_type == "rope"


def test_a_probe_reads_the_layers_and_has_the_heads_it_was_trained_with(tmp_path):
    torch.save(file_content(VJEPA2), tmp_path / "checkpoint.pt")
    content = probe_file(tmp_path / "probe.pt", VJEPA2)
    convert(tmp_path / "checkpoint.pt", tmp_path / "model", tmp_path / "probe.pt", **OPTIONS, pooler_layers=[0, 2])
    model = VJEPAForVideoClassification.from_pretrained(tmp_path / "model").eval()
    assert model.config.pooler_num_attention_heads == 16 and model.config.pooler_layer_norm_eps == 1e-5
    assert model.config.num_pooler_layers == 4 and model.config.pooler_layers == [0, 2]
    attention = model.pooler.cross_attention_layer.attention, model.pooler.self_attention_layers[0].attention
    assert [module.num_attention_heads for module in attention] == [16, 16]
    clip = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        features = model.vjepa(clip, output_layers=[0, 2]).layer_hidden_states
        expected = model.classifier(model.pooler(torch.cat(features, dim=1)))
        assert torch.allclose(model(clip).logits, expected)
    assert {"module.pooler.blocks.2.attn.qkv.weight", "module.pooler.cross_attention_block.xattn.kv.bias"} < content[
        "classifiers"
    ][0].keys()
    export_to_meta(tmp_path / "model", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["classifiers"]
    assert back[0].keys() == content["classifiers"][0].keys()
    assert all(torch.equal(value, back[0][name]) for name, value in content["classifiers"][0].items())


def test_mistakes_are_named_and_nothing_is_written(tmp_path):
    torch.save(file_content(VJEPA2), tmp_path / "two.pt")
    torch.save(file_content(FILES["V-JEPA 2.1"]), tmp_path / "vitl.pt")
    probe_file(tmp_path / "wide.pt", VJEPA2 | {"hidden_size": 64})
    torch.save({"classifiers": [{}, {}]}, tmp_path / "sweep.pt")
    content = file_content(VJEPA2)
    for name in [name for name in content["predictor"] if "mask_tokens" in name]:
        del content["predictor"][name]
    torch.save(content, tmp_path / "no_tokens.pt")
    for arguments, named in (
        ({"checkpoint": "vitl.pt"}, "V-JEPA 2.1"),
        ({"checkpoint": "two.pt", "position_embedding_type": "rope_interpolated"}, "not V-JEPA 2.1"),
        ({"checkpoint": "two.pt", "position_embedding_type": "sincos"}, "pos_embed"),
        ({"checkpoint": "two.pt", "position_embedding_type": "rotary"}, "rotary"),
        ({"checkpoint": "two.pt", "probe": tmp_path / "wide.pt"}, "width 64"),
        ({"checkpoint": "two.pt", "probe": tmp_path / "sweep.pt"}, "2 classifiers"),
        ({"checkpoint": "no_tokens.pt"}, "mask_tokens"),
        ({"checkpoint": "two.pt", "pred_num_attention_heads": 5}, "pred_num_attention_heads=5"),
        ({"checkpoint": "two.pt", "num_attention_heads": None}, "num_attention_heads"),
    ):
        arguments["checkpoint"] = tmp_path / arguments["checkpoint"]
        with pytest.raises(ValueError, match=named):
            convert(output=tmp_path / "model", **OPTIONS | arguments)
        assert not list(tmp_path.glob("model*")), named


def test_released_files_and_probes_have_addresses():
    assert len(VJEPA2_FILES) == 8
    for (model, name), probe in VJEPA2_PROBES.items():
        assert probe_url(model, name).startswith("https://") and probe.dataset == name
    with pytest.raises(ValueError, match="diving48"):
        probe_url("vith.pt", "ssv2")
