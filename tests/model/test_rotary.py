"""Rotary positions are those of Meta's V-JEPA 2 and 2.1 on any grid, in encoder and predictor."""

import pytest
import torch

from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAModel
from vjepa_hf.conversion.meta import from_meta, to_meta
from vjepa_hf.model.rotary import rotate, rotation_of

# Recorded from facebookresearch/vjepa2 (c2963a4) with the weights of `weights_by_formula`: 5 features of the last
# token of the whole clip, of the last of every third token, and of the last prediction. For V-JEPA 2.1, its two
# changes of the rotation were made in that code.
RECORDED = {
    ("rope", (64, 64)): [
        0.133719,
        1.010577,
        1.482465,
        0.992112,
        0.005728,
        -0.352551,
        0.62904,
        1.393996,
        1.266225,
        0.432892,
    ],
    ("rope", (96, 96)): [
        0.757198,
        -0.072124,
        -0.915046,
        -0.610368,
        -0.746225,
        0.751786,
        -0.072509,
        -0.913132,
        -0.603994,
        -0.74334,
    ],
    ("rope", (48, 80)): [
        -1.344622,
        -0.594286,
        0.05996,
        1.444738,
        0.94929,
        -1.329261,
        -0.838641,
        -0.80163,
        1.029485,
        0.654361,
    ],
    ("rope_interpolated", (64, 64)): [
        0.146219,
        1.004249,
        1.46798,
        0.975704,
        0.001373,
        -0.344169,
        0.634831,
        1.396202,
        1.261601,
        0.427208,
    ],
    ("rope_interpolated", (96, 96)): [
        0.755506,
        -0.07522,
        -0.917008,
        -0.610734,
        -0.743973,
        0.748454,
        -0.073838,
        -0.912791,
        -0.599921,
        -0.741425,
    ],
    ("rope_interpolated", (48, 80)): [
        -1.364459,
        -0.573836,
        0.091845,
        1.482046,
        0.955734,
        -1.409335,
        -0.85175,
        -0.773324,
        1.113448,
        0.706155,
    ],
}
PREDICTED = {
    "rope": [0.851723, -0.715819, -0.279513, 0.90432, -0.713506],
    "rope_interpolated": [0.896683, -0.746775, -0.288839, 0.946012, -0.752171],
}


def rotary_config(kind: str = "rope", **fields) -> VJEPAConfig:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "num_frames": 4}
    sizes |= {"pred_hidden_size": 48, "pred_num_hidden_layers": 2, "pred_num_attention_heads": 2}
    sizes |= {"pred_num_mask_tokens": 10, "pred_mask_token_per_mask_type": False}
    return VJEPAConfig(**sizes | {"position_embedding_type": kind} | fields)


def weights_by_formula(config: VJEPAConfig) -> dict[str, torch.Tensor]:
    """Make the weights that the recorded numbers belong to, from their names in Meta's code."""
    parts = to_meta(VJEPAForPreTraining(config).state_dict())
    for state in parts.values():
        for name, value in state.items():
            numbers = torch.arange(value.numel(), dtype=torch.float64) * 0.7 + sum(map(ord, name))
            numbers = numbers.sin() * 0.1 + (1 if "norm" in name and name.endswith("weight") else 0)
            state[name] = numbers.reshape(value.shape).float()
    return {name.removeprefix("vjepa."): value for name, value in from_meta(parts).items() if "context" not in name}


def clip_by_formula(height: int, width: int) -> torch.Tensor:
    pixels = torch.arange(4 * 3 * height * width, dtype=torch.float64) * 0.37
    return pixels.sin().reshape(1, 4, 3, height, width).float()


@pytest.mark.parametrize(("kind", "size"), RECORDED)
def test_any_size_of_clip_gives_what_metas_code_gives(kind, size):
    model = VJEPAModel(rotary_config(kind)).eval()
    model.load_state_dict(weights_by_formula(model.config))
    clip, num_tokens = clip_by_formula(*size), 2 * (size[0] // 16) * (size[1] // 16)
    kept, targets = torch.arange(0, num_tokens, 3)[None], torch.arange(1, num_tokens, 3)[None]
    with torch.no_grad():
        whole = model(clip).last_hidden_state
        masked = model(clip, context_mask=kept, target_mask=targets)
    expected = torch.tensor(RECORDED[kind, size])
    found = torch.cat([whole[0, -1, :5], masked.last_hidden_state[0, -1, :5]])
    assert torch.allclose(found, expected, atol=2e-5)
    if size == (64, 64):
        assert torch.allclose(masked.predictor_hidden_state[0, -1, :5], torch.tensor(PREDICTED[kind]), atol=2e-5)


def test_the_predictor_counts_rows_on_the_grid_of_the_clip():
    """On a grid twice as wide, "rope" sees the same distances within the left half."""
    model = VJEPAModel(rotary_config(num_frames=2)).eval()
    model.load_state_dict(weights_by_formula(model.config))
    wide = clip_by_formula(64, 128)[:, :2]
    left_of_wide = torch.arange(32).reshape(4, 8)[:, :4].flatten()[None]
    whole = torch.arange(16)[None]
    predictions = [
        model(clip, context_mask=mask[:, ::2], target_mask=mask[:, 1::2]).predictor_hidden_state
        for clip, mask in ((wide, left_of_wide), (wide[..., :64], whole))
    ]
    assert torch.allclose(*predictions, atol=1e-5)


@pytest.mark.parametrize("kind", ["rope", "rope_interpolated"])
@pytest.mark.parametrize("head_size", [64, 80, 32, 6, 10])
def test_a_head_has_three_equal_parts_and_a_rest_that_does_not_turn(kind, head_size):
    cosines, *sines = rotation_of((3, 4, 5), None, head_size, kind, 16, torch.device("cpu"))
    assert all(table.shape == (60, head_size) and table.dtype == torch.float32 for table in (cosines, *sines))
    part = 2 * ((head_size // 3) // 2)
    assert (cosines[:, 3 * part :] == 1).all() and all((table[:, 3 * part :] == 0).all() for table in sines)
    by_place = cosines.reshape(3, 4, 5, head_size)
    assert torch.equal(by_place[..., :part], by_place[:, :1, :1, :part].expand(-1, 4, 5, -1))
    assert not torch.equal(by_place[0, 0, 0, part : 2 * part], by_place[0, 1, 0, part : 2 * part])


@pytest.mark.parametrize("kind", ["rope", "rope_interpolated"])
def test_gradients_of_every_kind_are_those_of_the_formula(kind):
    rotation = rotation_of((1, 2, 3), None, 14, kind, 16, torch.device("cpu"))
    rotation = tuple(table.double() for table in rotation)
    heads = torch.randn(2, 6, 2, 3, 14, dtype=torch.float64, requires_grad=True)

    def formula(heads):
        cosines, following, previous = (table[..., None, None, :] for table in rotation)
        return heads * cosines + heads.roll(-1, -1) * following + heads.roll(1, -1) * previous

    def turn(heads):
        return rotate(heads, rotation)

    assert torch.allclose(turn(heads), formula(heads))
    assert torch.allclose(torch.compile(turn, backend="eager", fullgraph=True)(heads), formula(heads))
    assert torch.autograd.gradcheck(turn, heads, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(turn, heads)
    assert torch.allclose(torch.func.vmap(turn)(heads[None])[0], formula(heads))


def test_rotation_of_2_1_keeps_lengths_and_that_of_2_does_not():
    heads = torch.randn(1, 60, 2, 3, 64)
    for kind, keeps in (("rope_interpolated", True), ("rope", False)):
        turned = rotate(heads, rotation_of((3, 4, 5), None, 64, kind, 16, torch.device("cpu")))
        assert torch.allclose(turned.norm(dim=-1), heads.norm(dim=-1), rtol=1e-4) == keeps


def test_angles_are_single_precision_in_a_model_of_half_precision():
    model = VJEPAModel(rotary_config(num_frames=64, image_size=256), add_predictor=False).bfloat16().eval()
    attention, seen = model.encoder.layers[0].attention, []
    attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model(torch.zeros(1, 4, 3, 64, 64))
    assert [table.dtype for table in seen[0]] == [torch.float32] * 3


def test_masked_pixels_cannot_change_context_features():
    model = VJEPAModel(rotary_config()).eval()
    clip = torch.randn(1, 4, 3, 64, 64)
    kept, targets = torch.arange(0, 32, 2)[None], torch.arange(1, 32, 2)[None]
    changed = clip.clone()
    changed.unflatten(-1, (4, 16))[..., 1::2, :] += 1  # columns of patches with odd numbers
    first, second = (model(c, context_mask=kept, target_mask=targets) for c in (clip, changed))
    assert torch.equal(first.last_hidden_state, second.last_hidden_state)
    assert torch.equal(first.predictor_hidden_state, second.predictor_hidden_state)
    assert not torch.equal(model(clip).last_hidden_state, model(changed).last_hidden_state)


def pretraining_step(config: VJEPAConfig) -> VJEPAForPreTraining:
    model = VJEPAForPreTraining(config)
    kept, targets = torch.arange(0, 32, 2)[None], torch.arange(1, 32, 2)[None]
    model(torch.randn(1, 4, 3, 64, 64), [kept, kept], [targets, targets]).loss.backward()
    return model


@pytest.mark.parametrize(("per_type", "trained"), [(False, [0]), (True, [0, 1])])
def test_mask_tokens_that_get_a_gradient(per_type, trained):
    model = pretraining_step(rotary_config(pred_mask_token_per_mask_type=per_type))
    gradient = model.vjepa.predictor.mask_tokens.grad
    assert gradient.abs().sum(dim=1).nonzero().flatten().tolist() == trained


def test_a_step_moves_the_target_encoder_without_position_tables():
    model = pretraining_step(rotary_config())
    assert not list(model.buffers())
    before = model.vjepa.encoder.norm.weight.clone()
    model.context_encoder.norm.weight.data += 1
    model.update_target_encoder(0.9)
    assert torch.allclose(model.vjepa.encoder.norm.weight, before + 0.1)


def test_initial_weights_scaled_by_depth():
    torch.manual_seed(0)
    model = VJEPAForPreTraining(rotary_config(initializer_depth_scaling=True, num_hidden_layers=4))
    for layers in (model.context_encoder.layers, model.vjepa.predictor.layers):
        for depth, layer in enumerate(layers, start=1):
            for matrix in (layer.attention.proj.weight, layer.mlp.fc2.weight):
                assert matrix.std().item() == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.1)
            assert layer.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_resizing_changes_only_the_configuration(tmp_path):
    model = VJEPAModel(rotary_config()).eval()
    clip = torch.randn(1, 8, 3, 96, 80)
    before = model(clip).last_hidden_state
    model.resize_position_embeddings(num_frames=8, image_size=(96, 80))
    assert model.config.grid_size == (4, 6, 5)
    assert torch.equal(before, model(clip).last_hidden_state)


@pytest.mark.parametrize("size", [(16, 64), (64, 16)])
def test_a_side_of_one_token_is_refused_where_it_would_divide_by_zero(size):
    with pytest.raises(ValueError, match="side of 1"):
        VJEPAModel(rotary_config("rope_interpolated"))(torch.zeros(1, 4, 3, *size))
    with pytest.raises(ValueError, match="side of 1"):
        rotary_config("rope_interpolated", image_size=size)
    VJEPAModel(rotary_config("rope"))(torch.zeros(1, 4, 3, *size))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"position_embedding_type": "rotary"}, "position_embedding_type"),
        ({"num_attention_heads": 16}, "at least 6"),
        ({"hidden_size": 66, "num_attention_heads": 6}, "even number"),
        ({"pooler_num_attention_heads": 5}, "pooler_num_attention_heads"),
        ({"pooler_layers": [0, 2]}, "pooler_layers"),
        ({"pooler_layers": [1, 0]}, "pooler_layers"),
        ({"level_layers": [0]}, "level_layers"),
        ({"pred_num_levels": 2}, "pred_num_levels"),
        ({"image_tokenizer": True, "tubelet_size": 1}, "image_tokenizer"),
    ],
)
def test_configurations_that_no_model_can_have(fields, named):
    with pytest.raises(ValueError, match=named):
        rotary_config(**fields)
