"""The configuration of a checkpoint is inferred from its tensors, or an error names the argument to pass.

pytest tests/conversion/test_infer.py
"""

import pytest
import torch

from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.conversion.infer import infer_config
from vjepa_hf.conversion.meta import convert, to_meta


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"uniform_power": False},
        {"image_size": (16, 48)},
        {"num_frames": 8, "tubelet_size": 4},
        {"mlp_ratio": 4.36364, "pred_num_mask_tokens": 3},
        {"qkv_bias": False, "num_channels": 1},
        {"num_hidden_layers": 11, "pred_num_hidden_layers": 1},
    ],
)
def test_configuration_is_inferred(tiny_config, changes):
    fields = tiny_config.to_dict() | changes
    config = VJEPAConfig(**{name: fields[name] for name in VJEPAConfig.__dataclass_fields__ if name in fields})
    inferred = infer_config(to_meta(VJEPAForPreTraining(config).state_dict()), num_attention_heads=2)
    for name in ("hidden_size", "num_hidden_layers", "patch_size", "tubelet_size", "num_channels", "qkv_bias",
                 "pred_hidden_size", "pred_num_hidden_layers", "pred_num_mask_tokens", "num_frames", "uniform_power",
                 "grid_size"):  # fmt: skip
        assert getattr(inferred, name) == getattr(config, name), name
    VJEPAForPreTraining(inferred).load_state_dict(VJEPAForPreTraining(config).state_dict())


def test_heads_of_published_widths_are_known_and_others_are_an_error(tiny_config, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"hidden_size=48.*--num_attention_heads"):
        convert(checkpoint, tmp_path / "model")
    tiny_config.hidden_size, tiny_config.num_attention_heads = 192, 3
    parts = to_meta(VJEPAForPreTraining(tiny_config).state_dict())
    assert infer_config(parts).num_attention_heads == 3


def test_a_clip_size_that_tables_do_not_determine_is_an_error(tiny_config):
    parts = to_meta(VJEPAForPreTraining(tiny_config).state_dict())
    for part, name in (
        ("encoder", "pos_embed"),
        ("target_encoder", "pos_embed"),
        ("predictor", "predictor_pos_embed"),
    ):
        generator = torch.Generator().manual_seed(0)
        parts[part][name] = torch.randn(parts[part][name].shape, generator=generator)
    with pytest.raises(ValueError, match="--num_frames.*--image_size.*--uniform_power"):
        infer_config(parts, num_attention_heads=2)
    config = infer_config(parts, 2, num_frames=4, image_size=[16, 64], uniform_power=False)
    assert (config.num_frames, config.image_size, config.uniform_power) == (4, (16, 64), False)
    with pytest.raises(ValueError, match="32 tokens do not fit"):
        infer_config(parts, 2, num_frames=4, image_size=16)
