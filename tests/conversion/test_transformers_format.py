"""V-JEPA 2 of transformers and ours compute the same from the same weights, and go both ways without a change."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from huggingface_hub import ModelCardData, metadata_load
from safetensors.torch import load_file, save_file
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from vjepa_hf.conversion import convert, export_to_meta
from vjepa_hf.conversion.transformers_format import (
    META_POOLER,
    PUBLISHED_PROBES,
    config_from_transformers,
    convert_transformers,
    export_to_transformers,
)

# Width and heads of encoder and predictor; heads of 64, 80 and 32 features as in the published sizes, and others.
SIZES = {64: (128, 2, 64, 2), 80: (160, 2, 96, 3), 32: (64, 2, 64, 1), 22: (44, 2, 36, 3)}
TOLERANCE = 2e-5


def their_config(width=64, heads=2, pred_width=64, pred_heads=2, **fields) -> VJEPA2Config:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": 3}
    sizes |= {"pred_hidden_size": pred_width, "pred_num_attention_heads": pred_heads, "pred_num_hidden_layers": 2}
    sizes |= {"crop_size": 64, "frames_per_clip": 8, "num_pooler_layers": 2, "num_labels": 5}
    return VJEPA2Config(**sizes | fields)


def their_folder(folder, model_class=VJEPA2ForVideoClassification, config=None, **options):
    """Save a model of transformers whose weights are all random, biases and mask tokens too."""
    model = model_class(config or their_config()).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05, generator=generator)
    model.save_pretrained(folder, **options)
    return model


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def same_weights(first, second) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (first, second))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def left_behind(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "theirs")


# --- both directions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@torch.no_grad()
def test_features_predictions_and_logits_are_those_of_transformers(tmp_path, sizes):
    theirs = their_folder(tmp_path / "theirs", config=their_config(*sizes))
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours, loading = VJEPAModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    classifier = VJEPAForVideoClassification.from_pretrained(tmp_path / "ours").eval()
    assert not any(loading.values()), loading
    clips = torch.randn(2, 8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    everything = torch.arange(64).expand(2, -1)
    targets = torch.stack([torch.randperm(64)[:20] for _ in range(2)])
    # transformers always predicts with mask token 1, which Meta never trained.
    expected = theirs.vjepa2(clips, context_mask=[everything], target_mask=[targets])
    found = ours.eval()(clips, context_mask=everything, target_mask=targets, mask_token_index=1)
    assert difference(ours(clips).last_hidden_state, expected.last_hidden_state) < TOLERANCE
    assert difference(found.predictor_hidden_state, expected.predictor_output.last_hidden_state) < TOLERANCE
    assert difference(classifier(clips).logits, theirs(clips).logits) < TOLERANCE


@torch.no_grad()
def test_the_masked_encoder_is_their_layers_on_the_kept_tokens(tmp_path):
    """transformers itself encodes whole clips and takes the kept tokens, which lets context see the targets."""
    theirs = their_folder(tmp_path / "theirs", VJEPA2Model)
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = VJEPAModel.from_pretrained(tmp_path / "ours").eval()
    clips, kept = torch.randn(2, 8, 3, 64, 64), torch.stack([torch.randperm(64)[:20] for _ in range(2)])
    tokens = theirs.encoder.embeddings(clips).gather(1, kept[..., None].expand(-1, -1, 64))
    for layer in theirs.encoder.layer:
        tokens = layer(tokens, kept)[0]
    masked = ours(clips, context_mask=kept).last_hidden_state
    assert difference(masked, theirs.encoder.layernorm(tokens)) < TOLERANCE
    leaking = theirs(clips, context_mask=[kept], target_mask=[kept]).masked_hidden_state
    assert difference(masked, leaking) > 10 * TOLERANCE


@pytest.mark.parametrize("model_class", [VJEPA2Model, VJEPA2ForVideoClassification])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back_gives_the_same_tensors(tmp_path, model_class, dtype):
    model = their_folder(tmp_path / "theirs", model_class)
    model.to(dtype).save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    export_to_transformers(tmp_path / "ours", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again")
    assert same_weights(tmp_path / "theirs", tmp_path / "back")
    assert same_weights(tmp_path / "ours", tmp_path / "again")
    loaded, info = model_class.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values()) and loaded.dtype == dtype
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "back"))
    assert first == second


@pytest.mark.parametrize(
    "fields", [{"license": "mit"}, {"license": "other", "license_name": "our-terms"}, {"license": "unknown"}]
)
def test_the_license_and_the_parents_stay_there_and_back(tmp_path, fields):
    their_folder(tmp_path / "theirs")
    if fields["license"] != "unknown":  # else no card
        data = ModelCardData(**fields, base_model="meta/weights")
        (tmp_path / "theirs" / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n")
    convert(tmp_path / "theirs", tmp_path / "ours")
    export_to_transformers(tmp_path / "ours", tmp_path / "back")
    for name in ("ours", "back"):
        card = metadata_load(tmp_path / name / "README.md")
        assert {field: card[field] for field in fields} == fields
        assert card.get("base_model") == (None if fields["license"] == "unknown" else ["meta/weights"])
    assert card["library_name"] == "transformers"


def test_sharded_folders_are_read_whole(tmp_path):
    their_folder(tmp_path / "theirs")
    their_folder(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    for name in ("theirs", "shards"):
        convert(tmp_path / name, tmp_path / f"ours_{name}")
    assert same_weights(tmp_path / "ours_theirs", tmp_path / "ours_shards")


def test_an_encoder_goes_on_to_metas_format(tmp_path):
    their_folder(tmp_path / "theirs", VJEPA2Model)
    convert(tmp_path / "theirs", tmp_path / "ours")
    export_to_meta(tmp_path / "ours", tmp_path / "meta.pt")
    content = torch.load(tmp_path / "meta.pt", weights_only=True)
    torch.save(content | {"encoder": content["target_encoder"]}, tmp_path / "both.pt")
    sizes = {"num_attention_heads": 2, "pred_num_attention_heads": 2, "num_frames": 8, "image_size": 64}
    convert(tmp_path / "both.pt", tmp_path / "again", **sizes)
    first, second = (VJEPAModel.from_pretrained(tmp_path / name).state_dict() for name in ("ours", "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_converted_folder_continues_in_pretraining_with_token_0_only(tmp_path):
    their_folder(tmp_path / "theirs", VJEPA2Model)
    convert(tmp_path / "theirs", tmp_path / "ours")
    model = VJEPAForPreTraining.from_pretrained(tmp_path / "ours")
    for name, value in model.context_encoder.state_dict().items():
        assert torch.equal(value, model.vjepa.encoder.state_dict()[name])
    kept, targets = torch.arange(0, 64, 2)[None], torch.arange(1, 64, 2)[None]
    model(torch.randn(1, 8, 3, 64, 64), [kept] * 2, [targets] * 2).loss.backward()
    assert model.vjepa.predictor.mask_tokens.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [0]


def test_our_own_run_goes_to_transformers_with_the_target_encoder(tmp_path):
    model = VJEPAForPreTraining(config_from_transformers(their_config(), has_pooler=False)).eval()
    model.context_encoder.norm.bias.data += 1
    model.save_pretrained(tmp_path / "run")
    report = export_to_transformers(tmp_path / "run", tmp_path / "theirs")
    assert "context_encoder" in str(report) and "target" in str(report)
    program = f"""
        import sys
        sys.modules["vjepa_hf"] = None
        import torch
        from transformers import AutoModel, AutoVideoProcessor
        model = AutoModel.from_pretrained({str(tmp_path / "theirs")!r}).eval()
        assert type(model).__name__ == "VJEPA2Model", type(model)
        processor = AutoVideoProcessor.from_pretrained({str(tmp_path / "theirs")!r})
        clip = processor(torch.zeros(8, 3, 80, 90, dtype=torch.uint8), return_tensors="pt")["pixel_values_videos"]
        assert clip.shape == (1, 8, 3, 64, 64), clip.shape
        with torch.no_grad():
            torch.save((clip, model(clip, skip_predictor=True).last_hidden_state), {str(tmp_path / "features.pt")!r})
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    clip, features = torch.load(tmp_path / "features.pt")
    with torch.no_grad():
        assert difference(model.vjepa(clip).last_hidden_state, features) < TOLERANCE


def test_published_probes_get_the_heads_and_layers_they_were_trained_with(tmp_path, monkeypatch):
    """transformers gives them the encoder's heads (22 for g), an epsilon of 1e-6 and the last layer only."""
    their_folder(tmp_path / "theirs", config=their_config(width=128, heads=4))
    name = "facebook/vjepa2-vitl-fpc32-256-diving48"
    monkeypatch.setitem(PUBLISHED_PROBES, name, {"pooler_layers": [0, 2]})
    monkeypatch.setattr("vjepa_hf.conversion.folders.snapshot_download", lambda *_, **__: tmp_path / "theirs")
    convert(name, tmp_path / "ours")
    config = VJEPAConfig.from_pretrained(tmp_path / "ours")
    assert config.pooler_layers == [0, 2] and {name: getattr(config, name) for name in META_POOLER} == META_POOLER
    model = VJEPAForVideoClassification.from_pretrained(tmp_path / "ours").eval()
    clip = torch.randn(1, 8, 3, 64, 64)
    with torch.no_grad():
        layers = model.vjepa(clip, output_layers=[0, 2]).layer_hidden_states
        tokens = torch.cat(layers, dim=1)
        assert torch.allclose(model(clip).logits, model.classifier(model.pooler(tokens)))
    assert torch.equal(layers[1], model.vjepa(clip).last_hidden_state)
    with pytest.raises(ValueError, match="pooler_num_attention_heads=16"):
        export_to_transformers(tmp_path / "ours", tmp_path / "back")
    assert left_behind(tmp_path) == ["ours"]


# --- mistakes ------------------------------------------------------------------------------------------------------


def test_from_pretrained_names_the_command_that_converts(tmp_path):
    their_folder(tmp_path / "theirs", VJEPA2Model)
    for model_class in (VJEPAModel, VJEPAForPreTraining, VJEPAForVideoClassification):
        with pytest.raises(ValueError, match="vjepa-hf convert"):
            model_class.from_pretrained(tmp_path / "theirs")


def change_config(folder, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_weights(folder, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


MISTAKES = {
    "rope_theta": lambda folder: change_config(folder, rope_theta=500.0),
    "use_SiLU": lambda folder: change_config(folder, use_SiLU=True),
    "image_size=32": lambda folder: change_config(folder, image_size=32),
    "hidden_act='silk'": lambda folder: change_config(folder, hidden_act="silk"),
    "num_attention_heads=3": lambda folder: change_config(folder, num_attention_heads=3),
    "field 'hidden_size'": lambda folder: change_config(folder, hidden_size="wide"),
    "model_type='vit'": lambda folder: change_config(folder, model_type="vit"),
    "config.json": lambda folder: (folder / "config.json").unlink(),
    "model.safetensors": lambda folder: (folder / "model.safetensors").unlink(),
    "damaged": lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
    "predictor.embeddings.mask_tokens is missing": lambda folder: change_weights(
        folder, lambda state: state.pop("vjepa2.predictor.embeddings.mask_tokens")
    ),
    "encoder.registers is unknown": lambda folder: change_weights(
        folder, lambda state: state.update({"vjepa2.encoder.registers": torch.zeros(2)})
    ),
    "encoder.layernorm.bias has the shape": lambda folder: change_weights(
        folder, lambda state: state.update({"vjepa2.encoder.layernorm.bias": torch.zeros(2)})
    ),
}


@pytest.mark.parametrize("named", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, named):
    their_folder(tmp_path / "theirs")
    MISTAKES[named](tmp_path / "theirs")
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        convert_transformers(tmp_path / "theirs", tmp_path / "ours")
    assert left_behind(tmp_path) == []


def test_a_missing_shard_is_named(tmp_path):
    their_folder(tmp_path / "theirs", max_shard_size="200KB")
    shard = sorted((tmp_path / "theirs").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=shard.name):
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"position_embedding_type": "sincos"}, "position_embedding_type='sincos'"),
        ({"position_embedding_type": "rope_interpolated"}, "position_embedding_type='rope_interpolated'"),
        ({"image_size": (64, 96)}, "not square"),
        ({"image_tokenizer": True}, "image_tokenizer"),
    ],
)
def test_models_that_transformers_cannot_compute_are_refused(tmp_path, fields, named):
    config = config_from_transformers(their_config(), has_pooler=False)
    for name, value in fields.items():
        setattr(config, name, value)
    VJEPAModel(config).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=named):
        export_to_transformers(tmp_path / "ours", tmp_path / "theirs")
    assert left_behind(tmp_path) == ["ours"]


def test_a_name_that_cannot_be_downloaded_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="facebook/vjepa2-nothing"):
        convert_transformers("facebook/vjepa2-nothing", tmp_path / "ours")
    assert left_behind(tmp_path) == []
