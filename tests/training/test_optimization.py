"""Schedules, parameter groups, hyperparameters of a step, gradient clipping.

pytest tests/training/test_optimization.py
"""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_run import tiny_arguments
from vjepa_hf.training.arguments import OptimizationArguments
from vjepa_hf.training.optimization import (
    clip_gradients,
    context_loss_options,
    ema_momentum,
    hyperparameters,
    learning_rate,
    make_optimizer,
    max_grad_norm,
    parameter_groups,
    set_hyperparameters,
    weight_decay,
)

RATES = {"start": 0.5, "peak": 1.0, "final": 0.0, "schedule_scale": 1.0}


def test_learning_rate_warms_up_linearly_then_follows_half_a_cosine():
    rates = [learning_rate(step, max_steps=10, warmup_steps=4, **RATES) for step in range(10)]
    expected = [0.625, 0.75, 0.875, 1.0, 0.933013, 0.75, 0.5, 0.25, 0.066987, 0.0]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_learning_rate_without_warmup_starts_one_step_below_its_peak():
    rates = [learning_rate(step, max_steps=10, warmup_steps=0, **RATES) for step in range(3)]
    assert rates == pytest.approx([0.975528, 0.904508, 0.793893], abs=1e-6)


def test_constant_schedule_stays_at_its_peak_and_linear_one_is_a_line():
    rates = [learning_rate(step, max_steps=10, warmup_steps=4, **RATES, schedule="constant") for step in range(12)]
    assert rates == pytest.approx([0.625, 0.75, 0.875] + [1.0] * 9)
    rates = [learning_rate(step, max_steps=4, warmup_steps=0, **RATES, schedule="linear") for step in range(6)]
    assert rates == pytest.approx([0.75, 0.5, 0.25, 0.0, 0.0, 0.0])


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="must be one of cosine, constant, linear, got 'Linear'"):
        learning_rate(0, max_steps=10, warmup_steps=4, **RATES, schedule="Linear")


def test_cooldown_of_v_jepa_2_ends_where_metas_schedule_ends():
    """Laid out over 1.25 times its 12,000 steps and cut at the end, it stops at a fifth of its peak."""
    values = {"start": 1e-4, "peak": 5.25e-4, "final": 1e-6, "schedule_scale": 1.25, "schedule": "linear"}
    rate = learning_rate(11_999, max_steps=12_000, warmup_steps=0, **values)
    assert rate == pytest.approx(5.25e-4 + 0.8 * (1e-6 - 5.25e-4)) == pytest.approx(1.058e-4, rel=1e-3)


def test_weight_of_the_context_loss_rises_on_a_line_between_two_steps():
    warmup = OptimizationArguments(context_loss_weight=0.5, context_loss_warmup=[15_000, 30_000])
    steps = (0, 14_999, 15_000, 18_000, 30_000, 90_000)
    weights = [context_loss_options(step, warmup)["context_loss_weight"] for step in steps]
    assert weights == pytest.approx([0, 0, 0, 0.1, 0.5, 0.5])
    plain = OptimizationArguments(context_loss_weight=0.7, context_loss_by_distance=False)
    assert context_loss_options(0, plain) == {"context_loss_weight": 0.7, "context_loss_by_distance": False}


def test_learning_rate_stays_final_after_the_end():
    assert learning_rate(500, max_steps=10, warmup_steps=4, **RATES) == 0.0


def test_stretched_schedules_are_cut_before_their_final_values():
    last = 99
    rate = learning_rate(last, max_steps=100, warmup_steps=0, start=0.0, peak=1.0, final=0.0, schedule_scale=1.25)
    assert rate == pytest.approx(0.5 * (1 + math.cos(math.pi * 100 / 125)))
    decay = weight_decay(last, max_steps=100, start=0.04, final=0.4, schedule_scale=1.25)
    assert decay == pytest.approx(0.4 - 0.36 * 0.5 * (1 + math.cos(math.pi * 0.8)))
    assert ema_momentum(100, max_steps=100, start=0.998, final=1.0, schedule_scale=1.25) == pytest.approx(0.9996)


def test_weight_decay_follows_half_a_cosine_per_step():
    decays = [weight_decay(step, max_steps=4, start=0.0, final=1.0, schedule_scale=1.0) for step in range(6)]
    assert decays == pytest.approx([0.146447, 0.5, 0.853553, 1.0, 1.0, 1.0], abs=1e-6)


def test_momentum_rises_linearly_from_its_start_and_stays_final():
    momenta = [ema_momentum(step, max_steps=4, start=0.9, final=1.0, schedule_scale=1.0) for step in range(6)]
    assert momenta == pytest.approx([0.9, 0.925, 0.95, 0.975, 1.0, 1.0])


def test_equal_start_and_final_are_constant():
    assert {ema_momentum(step, max_steps=9, start=0.99, final=0.99, schedule_scale=1.25) for step in range(20)} == {
        0.99
    }


# Properties

VALUES = st.floats(0, 1)
RUNS = st.integers(1, 400).flatmap(
    lambda steps: st.tuples(st.just(steps), st.integers(0, steps), st.integers(0, 2 * steps), st.floats(1, 2))
)


@given(RUNS, VALUES, VALUES, VALUES)
def test_learning_rate_is_monotonic_between_its_values(run, start, peak, final):
    steps, warmup, step, scale = run
    at = partial(
        learning_rate, max_steps=steps, warmup_steps=warmup, start=start, peak=peak, final=final, schedule_scale=scale
    )
    assert min(start, peak, final) - 1e-9 <= at(step) <= max(start, peak, final) + 1e-9
    direction = peak - start if step + 2 < warmup else final - peak
    if step + 1 >= warmup or step + 2 < warmup:
        assert (at(step + 1) - at(step)) * direction >= -1e-9
    if step + 1 == warmup:
        assert at(step) == pytest.approx(peak)


@given(RUNS, VALUES, VALUES)
def test_weight_decay_and_momentum_are_monotonic_between_their_values(run, start, final):
    steps, _, step, scale = run
    for schedule in (weight_decay, ema_momentum):
        at = partial(schedule, max_steps=steps, start=start, final=final, schedule_scale=scale)
        assert min(start, final) - 1e-9 <= at(step) <= max(start, final) + 1e-9
        assert (at(step + 1) - at(step)) * (final - start) >= -1e-9
        assert at(10**9) == pytest.approx(final)
    assert ema_momentum(0, max_steps=steps, start=start, final=final, schedule_scale=scale) == start


@given(RUNS, VALUES, VALUES)
def test_a_stretched_schedule_equals_the_schedule_of_a_longer_run(run, start, final):
    steps, warmup, step, scale = run
    longer = int(scale * steps)
    values = {"start": start, "final": final}
    assert weight_decay(step, max_steps=steps, schedule_scale=scale, **values) == weight_decay(
        step, max_steps=longer, schedule_scale=1.0, **values
    )
    values |= {"peak": 1.0, "warmup_steps": warmup}
    assert learning_rate(step, max_steps=steps, schedule_scale=scale, **values) == learning_rate(
        step, max_steps=longer, schedule_scale=1.0, **values
    )


# Optimizer


def test_biases_and_vectors_are_not_decayed_and_the_target_encoder_is_not_trained(model):
    decayed, plain = parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(parameter)].endswith("bias") or parameter.ndim == 1 for parameter in plain["params"])
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    trained = {names[id(parameter)] for group in (decayed, plain) for parameter in group["params"]}
    assert trained == {name for name in names.values() if not name.startswith("vjepa.encoder.")}


def test_every_step_sets_its_own_values(model):
    optimization = tiny_arguments().optimization
    optimizer = make_optimizer(model, optimization)
    values = hyperparameters(3, optimization)
    set_hyperparameters(optimizer, values)
    assert values["learning_rate"] == optimization.learning_rate
    for decayed, plain in (optimizer.param_groups[:2], optimizer.param_groups[2:]):
        assert decayed["lr"] == plain["lr"] == values["learning_rate"]
        assert decayed["weight_decay"] == values["weight_decay"] > 0 == plain["weight_decay"]


def test_the_predictor_can_have_its_own_learning_rate(model):
    optimization = tiny_arguments("--predictor_learning_rate_scale", "5").optimization
    optimizer = make_optimizer(model, optimization)
    set_hyperparameters(optimizer, hyperparameters(3, optimization))
    rate = optimization.learning_rate
    assert [group["lr"] for group in optimizer.param_groups] == [rate, rate, 5 * rate, 5 * rate]
    predictor = {id(parameter) for parameter in model.vjepa.predictor.parameters()}
    assert {id(parameter) for group in optimizer.param_groups[2:] for parameter in group["params"]} == predictor


def test_clipping_starts_after_the_warmup_unless_told_otherwise():
    optimization = tiny_arguments("--max_grad_norm", "3").optimization
    assert [max_grad_norm(step, optimization) for step in (0, 3, 4)] == [math.inf, math.inf, 3.0]
    assert max_grad_norm(0, tiny_arguments("--clip_after_warmup", "false").optimization) == 10.0


def test_encoder_and_predictor_are_clipped_separately(model):
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 1e-6 if name.startswith("vjepa.predictor") else 1.0)
    norms = clip_gradients(model, max_norm=1.0)
    assert norms["context_encoder_grad_norm"] > 1.0 > norms["predictor_grad_norm"]
    after = clip_gradients(model, max_norm=math.inf)
    assert after["context_encoder_grad_norm"].item() == pytest.approx(1.0, abs=1e-4)
    assert after["predictor_grad_norm"].item() == pytest.approx(norms["predictor_grad_norm"].item())
