"""The objective of V-JEPA 2.1: levels, the loss on context tokens, images; against Meta's code and written out.

pytest tests/model/test_objective.py
"""

import pytest
import torch

from recorded_weights import drawn
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.conversion.meta import from_meta, to_meta
from vjepa_hf.model.objective import context_loss, distances_to_targets

# facebookresearch/vjepa2 with app/vjepa_2_1, on the weights and masks of this file: losses of its train.py with a
# context loss of weight 0.5, and gradient norms.
RECORDED = {
    ("video", True): {"loss": 1.3332287, "context": 0.8543103, "encoder": 0.0456565, "predictor": 0.4245285},
    ("video", False): {"loss": 1.3609691, "context": 0.9097910, "encoder": 0.0476070, "predictor": 0.4273731},
    ("image", True): {"loss": 1.2687742, "context": 0.7869549, "encoder": 0.0782591, "predictor": 0.4464343},
    ("image", False): {"loss": 1.3199185, "context": 0.8892437, "encoder": 0.0816438, "predictor": 0.4503041},
}


def config(**changes) -> VJEPAConfig:
    """Clips of 4 frames of 64 x 64: a grid of 2 x 4 x 4; four levels of width 48."""
    fields = {"hidden_size": 48, "num_hidden_layers": 12, "num_attention_heads": 4, "image_size": 64, "num_frames": 4}
    fields |= {"pred_hidden_size": 24, "pred_num_hidden_layers": 4, "pred_num_attention_heads": 2}
    fields |= {"pred_num_mask_tokens": 8, "pred_mask_token_per_mask_type": False, "pred_num_levels": 4}
    fields |= {"position_embedding_type": "rope_interpolated", "level_layers": [2, 5, 8, 11]}
    return VJEPAConfig(**fields | {"pred_context_head": True, "image_tokenizer": True} | changes)


@pytest.fixture
def model() -> VJEPAForPreTraining:
    """A model whose weights are functions of their names in Meta's code."""
    model = VJEPAForPreTraining(config())
    parts = {
        part: {
            name: drawn(f"{part}.{name}", tuple(value.shape), 0.1)
            + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
            for name, value in state.items()
        }
        for part, state in to_meta(model.state_dict()).items()
    }
    model.load_state_dict(from_meta(parts))
    return model.eval()


def make_input(kind: str) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Two clips with two mask types, or two images with one: pixels, context masks, target masks."""
    num_frames, num_tokens = (4, 32) if kind == "video" else (1, 16)
    pixels = drawn("clips", (2, 3, num_frames, 64, 64), 1.0).transpose(1, 2)
    order = torch.stack([drawn(f"order {row}", (num_tokens,), 1.0).argsort() for row in range(2)])
    sizes = [(8, 16), (16, 4)] if kind == "video" else [(8, 4)]
    contexts, targets = zip(*((order[:, :k], order[:, -m:]) for k, m in sizes), strict=True)
    return pixels, [mask.sort(dim=1).values for mask in contexts], [mask.sort(dim=1).values for mask in targets]


@pytest.mark.parametrize(("kind", "by_distance"), RECORDED)
def test_losses_and_gradients_are_those_of_metas_code(model, kind, by_distance):
    expected = RECORDED[kind, by_distance]
    outputs = model(*make_input(kind), context_loss_by_distance=by_distance)
    outputs.loss.backward()
    assert outputs.loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    assert torch.stack(outputs.context_losses).mean().item() == pytest.approx(expected["context"], rel=1e-5)
    for part, module in (("encoder", model.context_encoder), ("predictor", model.vjepa.predictor)):
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        assert norm == pytest.approx(expected[part], rel=1e-4), part


@torch.no_grad()
def test_the_loss_is_the_formula_written_out(model):
    pixels, context_masks, target_masks = make_input("video")
    outputs = model(pixels, context_masks, target_masks, context_loss_weight=0.3)
    features = model.vjepa(pixels, output_layers=[2, 5, 8, 11]).layer_hidden_states
    norm = torch.nn.LayerNorm(48, eps=1e-5, elementwise_affine=False)
    levels = torch.cat([norm(feature) for feature in features], dim=-1)
    encoder, model.vjepa.encoder = model.vjepa.encoder, model.context_encoder  # predictions come from the other one
    places = [(t, h, w) for t in range(2) for h in range(4) for w in range(4)]
    losses, context_losses = [], []
    for context_mask, target_mask in zip(context_masks, target_masks, strict=True):
        predicted = model.vjepa(pixels, context_mask=context_mask, target_mask=target_mask)
        for clip in range(2):
            errors = predicted.predictor_hidden_state[clip] - levels[clip, target_mask[clip]]
            losses.append(errors.abs().mean())
            for position, token in enumerate(context_mask[clip].tolist()):
                nearest = min(
                    sum((a - b) ** 2 for a, b in zip(places[token], places[target], strict=True)) ** 0.5
                    for target in target_mask[clip].tolist()
                )
                error = (predicted.predictor_context_state[clip, position] - levels[clip, token]).abs().mean()
                context_losses.append((len(context_mask[clip]), error / nearest**0.5))
    model.vjepa.encoder = encoder
    context = sum(loss / size for size, loss in context_losses) / 4  # two clips, two mask types
    torch.testing.assert_close(outputs.loss, torch.stack(losses).mean() + 0.3 * context)
    torch.testing.assert_close(torch.stack(outputs.context_losses).mean(), context)


@pytest.mark.parametrize("grid", [(1, 2, 5), (4, 3, 5), (8, 6, 6)])
def test_distances_are_those_to_the_nearest_target(grid):
    num_tokens = grid[0] * grid[1] * grid[2]
    order = torch.stack([torch.randperm(num_tokens, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    context, target = order[:, : num_tokens // 3], order[:, -max(1, num_tokens // 8) :]
    axes = [torch.arange(length, dtype=torch.float64) for length in grid]
    places = torch.cartesian_prod(*axes)
    expected = torch.cdist(places[context], places[target]).amin(dim=-1)
    torch.testing.assert_close(distances_to_targets(context, target, grid), expected.float())


def test_a_token_that_is_context_and_target_has_a_finite_weight():
    mask = torch.tensor([[0, 1, 2]])
    distances = distances_to_targets(mask, mask[:, :1], (1, 2, 2))
    torch.testing.assert_close(distances, torch.tensor([[1.0, 1.0, 1.0]]))
    assert context_loss(torch.ones(1, 3, 2), torch.zeros(1, 3, 2), distances).item() == 1


def test_a_context_loss_without_weight_changes_nothing_and_its_head_still_gets_a_gradient(model):
    """Weight 0 during the warm-up: the optimizer and a distributed run see every parameter."""
    outputs = model(*make_input("video"), context_loss_weight=0.0)
    outputs.loss.backward()
    assert torch.equal(outputs.loss, torch.stack(outputs.losses).mean())
    gradient = model.vjepa.predictor.context_proj.weight.grad
    assert gradient is not None and not gradient.any()


def test_one_mask_type_at_a_time_gives_the_gradients_of_all_at_once(model):
    pixels, context_masks, target_masks = make_input("video")
    model(pixels, context_masks, target_masks).loss.backward()
    joint = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    target_hidden_state = None
    for index in range(2):
        masks = [context_masks[index]], [target_masks[index]]
        output = model(pixels, *masks, [index], target_hidden_state)
        target_hidden_state = output.target_hidden_state
        assert target_hidden_state.shape == (2, 32, 4 * 48) and not target_hidden_state.requires_grad
        (output.loss / 2).backward()
    for name, gradient in joint.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, msg=name)


def test_only_the_tokenizer_of_the_modality_gets_a_gradient(model):
    embeddings, predictor = model.context_encoder.embeddings, model.vjepa.predictor
    parameters = {
        "video": (embeddings.projection.weight, embeddings.modality_embeddings.video),
        "image": (embeddings.image_projection.weight, embeddings.modality_embeddings.image),
    }
    parameters["video"] += (predictor.modality_embeddings.video,)
    parameters["image"] += (predictor.modality_embeddings.image,)
    for kind, other in (("video", "image"), ("image", "video")):
        model.zero_grad()
        model(*make_input(kind)).loss.backward()
        assert all(parameter.grad.any() for parameter in parameters[kind])
        assert all(parameter.grad is None for parameter in parameters[other])


def test_levels_can_be_supervised_without_a_context_loss():
    model = VJEPAForPreTraining(config(pred_context_head=False, pred_num_levels=2))
    outputs = model(*make_input("video"))
    assert outputs.context_losses is None and outputs.predictions[0].shape == (2, 16, 2 * 48)
    assert torch.equal(outputs.loss, torch.stack(outputs.losses).mean())


def test_target_features_of_another_number_of_levels_are_refused(model):
    pixels, context_masks, target_masks = make_input("video")
    with pytest.raises(ValueError, match="these clips need"):
        model(pixels, context_masks, target_masks, target_hidden_state=torch.zeros(2, 32, 48))
