"""The health figures have the values that theory gives for known features, and alarms fire for collapse only.

pytest tests/test_diagnostics.py
"""

import pytest
import torch

from vjepa_hf.diagnostics import (
    MIN_RANK,
    MIN_STD,
    alarms,
    effective_rank,
    feature_std,
    health,
    loss_ratio,
    mean_cosine,
    spread_tokens,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_constant_features_have_no_spread_and_one_direction():
    tokens = normal(1, 16).repeat(100, 1)
    assert feature_std(tokens) < 1e-6
    assert effective_rank(tokens) < 1 + 1e-6 or feature_std(tokens) == 0
    assert mean_cosine(tokens).item() == pytest.approx(1.0)


def test_effective_rank_counts_equal_directions():
    axes = torch.eye(8)[:3]
    tokens = torch.cat([axes, -axes])
    assert effective_rank(tokens).item() == pytest.approx(3.0, abs=1e-4)
    assert effective_rank(tokens + 5.0).item() == pytest.approx(3.0, abs=1e-4)  # a common offset is no direction
    assert effective_rank(normal(4000, 16)).item() == pytest.approx(16.0, abs=0.1)


def test_a_line_has_rank_one():
    assert effective_rank(normal(200, 1) * normal(1, 16, seed=1)).item() == pytest.approx(1.0, abs=0.01)


def test_loss_ratio_is_one_for_the_mean_target_and_zero_for_the_target():
    targets = normal(300, 8)
    assert loss_ratio(targets.mean(dim=0).expand_as(targets), targets).item() == pytest.approx(1.0)
    assert loss_ratio(targets, targets).item() == 0.0


def test_loss_ratio_sees_that_shrinking_targets_are_not_better_predicted():
    targets, predictions = normal(300, 8), normal(300, 8, seed=1)
    assert loss_ratio(predictions * 1e-3, targets * 1e-3).item() == pytest.approx(
        loss_ratio(predictions, targets).item(), rel=1e-4
    )


def test_tokens_are_picked_evenly_from_all_mask_kinds_and_always_as_many():
    first, second = torch.zeros(2, 30, 4), torch.ones(2, 10, 4)
    assert spread_tokens([first, second], 8)[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert spread_tokens([second], 64).shape == (64, 4)


def test_health_is_the_same_in_one_process_and_gathered_from_two():
    targets, predictions = normal(2, 64, 8), normal(2, 64, 8, seed=1)
    whole = health([predictions], [targets], num_tokens=128)
    shares = iter([predictions[1], targets[1]])
    gathered = health([predictions[:1]], [targets[:1]], lambda part: torch.cat([part, next(shares)]), num_tokens=64)
    assert gathered == pytest.approx(whole, rel=1e-5)


def test_alarms_fire_for_collapse_and_are_silent_for_health():
    healthy = torch.nn.functional.layer_norm(normal(4, 200, 32), (32,))
    assert alarms(health([healthy], [healthy])) == []
    constant = healthy * 0.01 + normal(32)
    assert any(alarm.startswith("constant-features") for alarm in alarms(health([constant], [constant])))
    line = normal(4, 200, 1) * normal(1, 1, 32, seed=1)
    assert any(alarm.startswith("low-rank") for alarm in alarms(health([line], [line])))


def test_alarms_stand_at_their_thresholds():
    figures = {"target_std": MIN_STD, "target_rank": MIN_RANK}
    assert alarms(figures) == []
    assert len(alarms(figures | {"target_std": MIN_STD * 0.99})) == 1
    assert len(alarms(figures | {"target_rank": MIN_RANK * 0.99})) == 1
