"""pytest tests/model/test_configuration_vjepa.py"""

import json

import pytest

from vjepa_hf import VJEPAConfig, VJEPAModel
from vjepa_hf.model.configuration_vjepa import LARGEST


def test_defaults_are_the_published_vitl16():
    config = VJEPAConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert (config.pred_hidden_size, config.pred_num_hidden_layers, config.pred_num_attention_heads) == (384, 12, None)
    assert config.grid_size == (8, 14, 14)
    assert config.layer_norm_eps == 1e-6 and config.pooler_layer_norm_eps == 1e-5
    assert config.uniform_power and config.pred_zero_init_mask_tokens


def test_names_of_vjepa2_are_understood():
    config = VJEPAConfig(crop_size=384, frames_per_clip=8, in_chans=4)
    assert (config.image_size, config.num_frames, config.num_channels) == (384, 8, 4)
    assert (config.crop_size, config.frames_per_clip, config.in_chans) == (384, 8, 4)


def test_image_size_may_be_height_and_width():
    config = VJEPAConfig(image_size=(64, 96))
    assert (config.frame_size, config.grid_size) == ((64, 96), (8, 4, 6))
    assert VJEPAConfig(image_size=64).frame_size == VJEPAConfig(image_size=[64, 64]).frame_size == (64, 64)


def test_a_saved_configuration_loads_equal(tmp_path):
    config = VJEPAConfig(image_size=[64, 96], num_labels=5, uniform_power=False)
    config.save_pretrained(tmp_path)
    loaded = VJEPAConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.num_labels == 5


@pytest.mark.parametrize(
    ("wrong", "right"), [("hiden_size", "hidden_size"), ("num_frame", "num_frames"), ("mlp_ration", "mlp_ratio")]
)
def test_a_misspelt_field_is_an_error_that_names_it_and_the_closest_field(wrong, right):
    with pytest.raises(ValueError, match=f"unknown field {wrong}=64 .* did you mean {right}?"):
        VJEPAConfig(**{wrong: 64})


def test_what_other_tools_write_is_kept_and_saved(tmp_path):
    notes = {"transformers.js_config": {"dtype": "q8"}, "unsloth_version": "2026.1", "notes": "videos of a lab"}
    notes |= {"batch_norm_eps": 0.1, "gradient_checkpointing": True, "torchscript": False, "pad_token_id": None}
    config = VJEPAConfig(**notes)
    config.trained_on = "videos of a lab"
    config.save_pretrained(tmp_path)
    loaded = VJEPAConfig.from_pretrained(tmp_path)
    for name, value in (notes | {"trained_on": "videos of a lab"}).items():
        assert getattr(loaded, name) == value, name
    assert loaded.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 15}, "num_frames=15 is not a multiple of tubelet_size=2"),
        ({"image_size": 225}, "image_size=225 is not a positive multiple of patch_size=16"),
        ({"image_size": (224, 30)}, r"image_size=\(224, 30\)"),
        ({"image_size": [32, 32, 32]}, r"image_size=\[32, 32, 32\] must be one number"),
        ({"image_size": [32]}, r"image_size=\[32\] must be one number"),
        ({"hidden_size": 1000}, "hidden_size=1000 is not a multiple of num_attention_heads=16"),
        ({"pred_hidden_size": 100}, "pred_hidden_size=100 is not a multiple of pred_num_attention_heads=16"),
        ({"pred_num_attention_heads": 0}, "pred_num_attention_heads=0"),
        (
            {"hidden_size": 36, "num_attention_heads": 2, "uniform_power": False},
            "hidden_size=36 .*uniform_power=False",
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be positive"),
        ({"num_pooler_layers": 0}, "num_pooler_layers=0 must be positive"),
        ({"mlp_ratio": -1.0}, "mlp_ratio=-1.0 must be positive"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1.0 must lie in \[0, 1\)"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob=-0.1"),
        ({"initializer_range": -0.02}, "initializer_range=-0.02"),
    ],
)
def test_values_that_do_not_fit_are_errors_naming_field_and_value(fields, message):
    with pytest.raises(ValueError, match=message):
        VJEPAConfig(**fields)


def test_a_value_of_the_wrong_type_is_an_error_naming_the_field():
    with pytest.raises(Exception, match="hidden_size"):
        VJEPAConfig(hidden_size="wide")


@pytest.mark.parametrize("name", LARGEST)
def test_an_absurd_size_is_an_error_before_anything_is_built(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}=1000000000000 is too large; at most {LARGEST[name]}"):
        VJEPAConfig(**{name: 10**12})
    fields = VJEPAConfig().to_diff_dict() | {name: 10**12}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"{name}=1000000000000 is too large"):
        VJEPAConfig.from_pretrained(tmp_path)


def test_sizes_set_later_are_checked_before_a_model_is_built(tmp_path):
    config = VJEPAConfig()
    with pytest.raises(ValueError, match="num_labels=10000000000 is too large"):
        config.num_labels = 10**10
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_hidden_layers=1000000000 is too large"):
        VJEPAModel(VJEPAConfig.from_pretrained(tmp_path, num_hidden_layers=10**9))
    with pytest.raises(ValueError, match="hidden_size=1000 is not a multiple of num_attention_heads=16"):
        VJEPAModel(VJEPAConfig.from_pretrained(tmp_path, hidden_size=1000))


def test_more_tokens_than_memory_holds_are_an_error_that_names_the_clip():
    with pytest.raises(ValueError, match="num_frames=65536 and image_size=4096 give 2147483648 tokens; at most"):
        VJEPAConfig(num_frames=2**16, image_size=2**12)


def test_the_number_of_labels_is_that_of_their_names():
    config = VJEPAConfig(num_labels=5)
    config.num_labels = 7
    assert config.num_labels == len(config.id2label) == len(config.label2id) == 7


def test_a_saved_configuration_does_not_refer_to_code_of_others(tmp_path):
    (tmp_path / "mine.py").write_text("")
    config = VJEPAConfig()
    config.auto_map = {
        "AutoConfig": "owner/repo--file.Class",
        "AutoModel": "gone.Class",
        "AutoProcessor": "mine.Class",
    }
    config.custom_pipelines = {"task": {"impl": "owner/repo--file.Pipeline", "pt": ["AutoModel"]}}
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == {"AutoProcessor": "mine.Class"} and "custom_pipelines" not in saved
    assert len(config.auto_map) == 3, "saving changes the file, not the configuration"
    config.save_pretrained(tmp_path / "elsewhere")
    assert "auto_map" not in (tmp_path / "elsewhere/config.json").read_text()
