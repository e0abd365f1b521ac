"""Health metrics have the theoretical values for known features; alarms report collapse and nothing else.

pytest tests/training/test_diagnostics.py
"""

import copy
import math

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DeviceMesh

from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler
from vjepa_hf.model.modeling_vjepa import VJEPAForPreTrainingOutput
from vjepa_hf.model.tubelets import take_tokens
from vjepa_hf.training.diagnostics import (
    ALARMS,
    Alarm,
    alarms,
    copy_errors,
    effective_rank,
    encoder_distance,
    feature_std,
    health,
    loss_ratio,
    loss_sums,
    mean_cosine,
    spread_tokens,
)

GRID = (2, 4, 4)
HEALTHY = {"target_std": 0.5, "context_std": 0.3, "target_dead": 0.0, "target_rank_share": 0.5, "loss_ratio": 0.7}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def masks():
    return MaskSampler([SHORT_RANGE, LONG_RANGE], GRID, seed=0)([(0, 0), (0, 1)])


@pytest.fixture
def step(tiny_pretraining_model, tiny_clip, masks):
    """A model, its outputs for two clips, and their masks."""
    return tiny_pretraining_model, tiny_pretraining_model(tiny_clip, *masks), *masks


def outputs_of(features: torch.Tensor, predictions, target_masks) -> VJEPAForPreTrainingOutput:
    """Return model outputs for given target features `(B, N, D)`."""
    targets = tuple(take_tokens(features, mask) for mask in target_masks)
    return VJEPAForPreTrainingOutput(
        predictions=tuple(predictions), targets=targets, target_hidden_state=features, context_hidden_states=targets
    )


# --- metrics of tokens ---


def test_constant_features_have_no_spread_and_one_direction():
    tokens = normal(1, 16).repeat(100, 1)
    assert feature_std(tokens).max() < 1e-6
    assert effective_rank(tokens) < 1 + 1e-6 or feature_std(tokens).max() == 0
    assert mean_cosine(tokens).item() == pytest.approx(1.0)


def test_std_is_computed_for_each_feature():
    tokens = normal(5000, 3) * torch.tensor([1.0, 0.0, 3.0]) + 7
    torch.testing.assert_close(feature_std(tokens), torch.tensor([1.0, 0.0, 3.0]), atol=0.1, rtol=0)


def test_effective_rank_counts_equal_directions():
    axes = torch.eye(8)[:3]
    tokens = torch.cat([axes, -axes])
    assert effective_rank(tokens).item() == pytest.approx(3.0, abs=1e-4)
    assert effective_rank(tokens + 5.0).item() == pytest.approx(3.0, abs=1e-4)  # a common offset is not a direction
    assert effective_rank(normal(4000, 16)).item() == pytest.approx(16.0, abs=0.1)


def test_effective_rank_is_rankme_of_the_singular_values():
    tokens = normal(200, 24) @ torch.diag(torch.logspace(0, -4, 24))
    values = torch.linalg.svdvals(tokens.double() - tokens.double().mean(dim=0))
    weights = values / values.sum()
    assert effective_rank(tokens).item() == pytest.approx(torch.exp(-(weights * weights.log()).sum()).item(), rel=1e-4)


def test_a_line_has_rank_one():
    assert effective_rank(normal(200, 1) * normal(1, 16, seed=1)).item() == pytest.approx(1.0, abs=0.01)


def test_loss_ratio_is_one_for_the_mean_target_and_zero_for_the_target():
    targets = normal(300, 8)
    assert loss_ratio(targets.mean(dim=0).expand_as(targets), targets).item() == pytest.approx(1.0)
    assert loss_ratio(targets, targets).item() == 0.0


def test_loss_ratio_does_not_shrink_with_the_targets():
    targets, predictions = normal(300, 8), normal(300, 8, seed=1)
    assert loss_ratio(predictions * 1e-3, targets * 1e-3).item() == pytest.approx(
        loss_ratio(predictions, targets).item(), rel=1e-4
    )


def test_tokens_are_spread_evenly_over_mask_types_in_a_fixed_number():
    first, second = torch.zeros(2, 30, 4), torch.ones(2, 10, 4)
    assert spread_tokens([first, second], 8)[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert spread_tokens([second], 64).shape == (64, 4)


# --- metrics of a step ---


def test_a_copy_is_the_target_at_the_nearest_context_token():
    # The feature of a token is its index. The target is in the second time step, the context around it.
    features = torch.arange(32.0).view(1, 32, 1)
    target_mask, context_mask = torch.tensor([[21]]), torch.tensor([[0, 15, 22]])  # 22 is next to 21
    outputs = outputs_of(features, [torch.full((1, 1, 1), 18.0)], [target_mask])
    assert copy_errors(outputs, [context_mask], [target_mask], GRID).tolist() == [3.0, 1.0]
    # Without it: 0 is (0, 0, 0) and 15 is (0, 3, 3), while 21 is (1, 1, 1): nearer to 0.
    far = copy_errors(outputs, [context_mask[:, :2]], [target_mask], GRID)
    assert far.tolist() == [3.0, 21.0]


def test_a_predictor_that_copies_has_the_copy_ratio_one(masks, tiny_pretraining_model):
    context_masks, target_masks = masks
    features = normal(2, 32, 48)
    grid = torch.cartesian_prod(*(torch.arange(length) for length in GRID)).float()
    nearest = [
        context.gather(1, torch.cdist(grid[target], grid[context]).round(decimals=3).argmin(dim=-1))
        for context, target in zip(context_masks, target_masks, strict=True)
    ]
    copies = [take_tokens(features, mask) for mask in nearest]
    outputs = outputs_of(features, copies, target_masks)
    assert health(tiny_pretraining_model, outputs, *masks)["copy_ratio"] == pytest.approx(1.0, rel=0.05)


def test_losses_by_mask_type_and_by_time_step_are_parts_of_the_loss(step):
    model, outputs, context_masks, target_masks = step
    sums = loss_sums(outputs, target_masks, GRID)
    assert sums.shape == (2, 2, 2)
    torch.testing.assert_close(sums[0].sum(dim=1) / sums[1].sum(dim=1), torch.stack(outputs.losses))
    assert sums[1].sum(dim=1).tolist() == [mask.numel() for mask in target_masks]
    metrics = health(*step)
    assert [metrics["loss/mask_type_0"], metrics["loss/mask_type_1"]] == pytest.approx(
        [loss.item() for loss in outputs.losses]
    )
    assert (metrics["loss/mask_type_0"] + metrics["loss/mask_type_1"]) / 2 == pytest.approx(outputs.loss.item())


def test_the_loss_of_a_time_step_sums_its_tokens():
    target_mask = torch.tensor([[3, 16, 31]])  # one token of the first time step, two of the second
    features = torch.zeros(1, 32, 2)
    outputs = outputs_of(features, [torch.tensor([[[1.0, 1.0], [2.0, 4.0], [6.0, 6.0]]])], [target_mask])
    assert loss_sums(outputs, [target_mask], GRID).tolist() == [[[1.0, 9.0]], [[1.0, 2.0]]]


def test_time_steps_without_targets_are_excluded(tiny_pretraining_model, tiny_clip):
    masks = [torch.arange(16).repeat(2, 1)], [torch.arange(16, 32).repeat(2, 1)]
    metrics = health(tiny_pretraining_model, tiny_pretraining_model(tiny_clip, *masks), *masks)
    assert "loss/time_0" not in metrics and metrics["loss/time_1"] == pytest.approx(metrics["loss/mask_type_0"])


def test_encoder_distance_is_relative_to_the_target_encoder(tiny_pretraining_model):
    assert encoder_distance(tiny_pretraining_model) == 0
    with torch.no_grad():
        for parameter in tiny_pretraining_model.context_encoder.parameters():
            parameter *= 1.25
    assert encoder_distance(tiny_pretraining_model).item() == pytest.approx(0.25)
    tiny_pretraining_model.update_target_encoder(0.5)
    assert encoder_distance(tiny_pretraining_model).item() == pytest.approx(0.125 / 1.125)


def test_health_is_the_same_in_one_process_and_gathered_from_two(step, tiny_clip):
    model, outputs, context_masks, target_masks = step
    whole = health(*step, num_tokens=128)

    def process(rank: int):
        """Return the arguments of a process with one of the clips."""
        rows = slice(rank, rank + 1)
        masks = [mask[rows] for mask in context_masks], [mask[rows] for mask in target_masks]
        return model, model(tiny_clip[rows], *masks), *masks

    sent = [[], []]
    for rank in range(2):  # record the tensors that each process sends
        health(*process(rank), lambda part, rank=rank: (sent[rank].append(part), part.repeat(2, 1))[1], 128)
    received = (torch.cat(parts) for parts in zip(*sent, strict=True))
    gathered = health(*process(0), lambda part: next(received), 128)
    assert gathered.keys() == whole.keys()
    sampled = {name for name in whole if name.endswith(("_std", "_rank", "_share", "_cosine", "_dead", "loss_ratio"))}
    for name in whole:
        tolerance = 0.25 if name in sampled else 1e-4  # other tokens are sampled, from few
        assert gathered[name] == pytest.approx(whole[name], rel=tolerance), name


def test_health_of_levels_is_that_of_the_last_one_with_the_context_loss(tiny_config, tiny_clip, masks):
    fields = {"level_layers": [0, 1], "pred_num_levels": 2, "pred_context_head": True}
    model = VJEPAForPreTraining(type(tiny_config)(**tiny_config.to_diff_dict() | fields))
    outputs = model(tiny_clip, *masks)
    metrics = health(model, outputs, *masks)
    assert metrics["context_loss"] == pytest.approx(torch.stack(outputs.context_losses).mean().item())
    outputs.targets = tuple(target[..., 48:] for target in outputs.targets)
    outputs.predictions = tuple(prediction[..., 48:] for prediction in outputs.predictions)
    outputs.target_hidden_state = outputs.target_hidden_state[..., 48:]
    outputs.context_losses = None
    last = health(model, outputs, *masks)
    assert "context_loss" not in last
    for name in ("target_std", "target_rank", "prediction_std", "prediction_cosine", "context_std", "loss_ratio"):
        assert metrics[name] == last[name]
    assert metrics["loss/mask_type_0"] == pytest.approx(outputs.losses[0].item())


def test_encoder_distance_of_sharded_weights_is_a_plain_tensor(tiny_pretraining_model, tmp_path):
    """Sharded weights are DTensors, whose norms must be reduced first."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = DeviceMesh("cpu", [0])
        model = copy.deepcopy(tiny_pretraining_model)
        with torch.no_grad():
            for parameter in model.context_encoder.parameters():
                parameter += 0.01
        expected = encoder_distance(model)
        for encoder in (model.context_encoder, model.vjepa.encoder):
            fully_shard(encoder, mesh=mesh)
        distance = encoder_distance(model)
        assert type(distance) is torch.Tensor
        torch.testing.assert_close(distance, expected)
    finally:
        torch.distributed.destroy_process_group()


def test_metrics_are_floats_and_close_in_half_precision(step):
    model, outputs, *masks = step
    half = VJEPAForPreTrainingOutput(**outputs)
    half.predictions = tuple(prediction.bfloat16() for prediction in outputs.predictions)
    assert all(isinstance(value, float) for value in health(model, outputs, *masks).values())
    assert health(model, half, *masks) == pytest.approx(health(model, outputs, *masks), rel=0.06, abs=0.01)


# --- alarms ---


def metrics_of(features: torch.Tensor, predictions: torch.Tensor, model, masks) -> dict[str, float]:
    target_masks = masks[1]
    taken = [take_tokens(predictions, mask) for mask in target_masks]
    return health(model, outputs_of(features, taken, target_masks), *masks)


def names(warnings: list[str]) -> set[str]:
    return {warning.split(":")[0] for warning in warnings}


def test_alarms_report_collapse_and_nothing_for_a_healthy_run(tiny_pretraining_model, masks):
    healthy = torch.nn.functional.layer_norm(normal(2, 32, 48), (48,))
    near = healthy + 0.1 * normal(2, 32, 48, seed=2)

    def raised(features, predictions):
        return names(alarms(metrics_of(features, predictions, tiny_pretraining_model, masks)))

    assert raised(healthy, near) == set()
    constant = healthy * 0.01 + normal(48)
    assert {"constant-features", "dead-features"} <= raised(constant, constant)
    line = normal(2, 32, 1) * normal(1, 1, 48, seed=1)
    assert "low-rank" in raised(line, line)
    assert raised(healthy, 3 * normal(2, 32, 48, seed=3)) == {"useless-predictor"}
    assert raised(healthy * math.nan, near) == {"not-finite"}


@pytest.mark.parametrize("alarm", ALARMS, ids=[alarm.name for alarm in ALARMS])
def test_an_alarm_is_raised_beyond_its_threshold(alarm: Alarm):
    assert {other.metric for other in ALARMS} == HEALTHY.keys() and alarms(HEALTHY) == []
    for beyond in (alarm.low - 1e-3, alarm.high + 1e-3):
        if math.isfinite(beyond):
            (warning,) = alarms(HEALTHY | {alarm.metric: beyond})
            assert warning.startswith(f"{alarm.name}: {alarm.metric} {beyond:.3g} is ")


def test_a_useless_predictor_is_not_an_alarm_during_the_warmup(step):
    metrics = health(*step) | {"loss_ratio": 2.0}
    assert "useless-predictor" in names(alarms(metrics))
    assert "useless-predictor" not in names(alarms(metrics, after_warmup=False))


def test_an_alarm_names_what_is_not_finite():
    assert alarms(HEALTHY | {"loss/mask_type_1": math.inf})[0].startswith("not-finite: loss/mask_type_1;")
