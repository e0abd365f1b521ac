"""Clips that keep all their tokens, packed to one sequence, give what each of them gives alone.

pytest tests/model/test_packed_masks.py
"""

import copy

import pytest
import torch

from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, MaskSampler, MultiBlockMask
from vjepa_hf.model.modeling_vjepa import VJEPADropPath, VJEPASegments, last_tokens
from vjepa_hf.training.diagnostics import health
from vjepa_hf.training.flops import clip_flops, step_flops
from vjepa_hf.training.setup import checkpoint_activations

GRID = (2, 4, 4)
SAMPLES = [(0, 3), (0, 5)]


@pytest.fixture
def masks():
    """Two clips, two mask kinds, no two lists of one length."""
    sampler = MaskSampler([MultiBlockMask(3, (0.15, 0.3)), MultiBlockMask(2, (0.3, 0.7))], GRID, mode="packed")
    context, target = sampler([(0, 0), (0, 1)])
    assert all(len(first) != len(second) for first, second in (*context, *target))
    return context, target


def one_by_one(model, clips, context_masks, target_masks):
    """Every clip as a batch of its own: per mask kind its predictions, and the loss of all."""
    outputs = [
        model(
            clips[clip : clip + 1], *([kind[clip][None] for kind in masks] for masks in (context_masks, target_masks))
        )
        for clip in range(len(clips))
    ]
    return outputs, torch.stack([output.loss for output in outputs]).mean()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_clips_give_loss_predictions_and_gradients_of_each_clip_alone(
    tiny_pretraining_model, tiny_clip, masks, attention
):
    model = tiny_pretraining_model.train()
    model.set_attn_implementation(attention)
    torch.nn.init.normal_(model.vjepa.predictor.mask_tokens, generator=torch.Generator().manual_seed(0))
    packed = model(tiny_clip, *masks)
    alone, loss = one_by_one(model, tiny_clip, *masks)
    torch.testing.assert_close(packed.loss, loss)
    for name in ("predictions", "targets", "context_hidden_states"):
        for kind, clips in enumerate(packed[name]):
            for clip, tokens in enumerate(clips):
                torch.testing.assert_close(tokens[None], alone[clip][name][kind])
    expected = gradients(model, loss)
    found = gradients(model, packed.loss)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_lists_of_one_length_give_the_same_packed_and_as_a_tensor(tiny_pretraining_model, tiny_clip):
    context, target = MaskSampler([SHORT_RANGE, LONG_RANGE], GRID)(SAMPLES)
    expected = tiny_pretraining_model(tiny_clip, context, target)
    found = tiny_pretraining_model(tiny_clip, [list(kind) for kind in context], [list(kind) for kind in target])
    torch.testing.assert_close(found.losses, expected.losses)
    for clips, tokens in zip(found.predictions, expected.predictions, strict=True):
        torch.testing.assert_close(torch.stack(clips), tokens)


def test_a_clip_does_not_see_its_neighbours(tiny_pretraining_model, tiny_clip, masks):
    before = tiny_pretraining_model(tiny_clip, *masks).predictions
    after = tiny_pretraining_model(torch.stack([tiny_clip[0], -tiny_clip[1]]), *masks).predictions
    for kind in range(2):
        assert torch.equal(before[kind][0], after[kind][0])
        assert not torch.equal(before[kind][1], after[kind][1])


def test_packed_masks_leave_out_no_token_and_are_those_that_subsampling_cuts():
    kinds = [SHORT_RANGE, LONG_RANGE]
    packed = MaskSampler(kinds, GRID, mode="packed")(SAMPLES, group=[*SAMPLES, (0, 7)])
    cut = MaskSampler(kinds, GRID)(SAMPLES)
    for kind in range(2):
        for clip in range(2):
            context, target = (masks[kind][clip].tolist() for masks in packed)
            assert sorted(context + target) == list(range(32))
            assert set(cut[0][kind][clip].tolist()) <= set(context)
            assert set(cut[1][kind][clip].tolist()) <= set(target)


def test_gradient_checkpointing_changes_nothing(tiny_pretraining_model, tiny_clip, masks):
    model = tiny_pretraining_model.train()
    again = copy.deepcopy(model)
    checkpoint_activations(again)
    expected = gradients(model, model(tiny_clip, *masks).loss)
    for name, gradient in gradients(again, again(tiny_clip, *masks).loss).items():
        torch.testing.assert_close(gradient, expected[name])


def test_the_health_line_and_the_meter_know_packed_clips(tiny_pretraining_model, tiny_config, tiny_clip):
    context, target = MaskSampler([SHORT_RANGE, LONG_RANGE], GRID)(SAMPLES)
    lists = [list(kind) for kind in context], [list(kind) for kind in target]
    expected = health(tiny_pretraining_model, tiny_pretraining_model(tiny_clip, context, target), context, target)
    found = health(tiny_pretraining_model, tiny_pretraining_model(tiny_clip, *lists), *lists)
    assert found == pytest.approx(expected, rel=1e-3)
    assert step_flops(tiny_config, *lists) == step_flops(tiny_config, context, target)


def test_the_meter_counts_every_clip_by_its_own_tokens(tiny_config, masks):
    clips = [[tuple(len(kind[clip]) for kind in part) for part in masks] for clip in range(2)]
    assert step_flops(tiny_config, *masks) == sum(clip_flops(tiny_config, *lengths).total for lengths in clips)


def test_last_tokens_of_every_segment():
    segments, outputs = (VJEPASegments.of(lengths, torch.device("cpu")) for lengths in ([3, 2], [1, 2]))
    tokens = torch.arange(5)[None, :, None]
    assert last_tokens(tokens, outputs, segments).flatten().tolist() == [2, 3, 4]
    assert segments.offsets.tolist() == [0, 3, 5]


def test_packed_lists_of_a_wrong_shape_are_an_error(tiny_pretraining_model, tiny_clip, masks):
    context, target = masks
    with pytest.raises(ValueError, match="a clip of a context or target mask"):
        tiny_pretraining_model(tiny_clip, [[kind[0][:0], kind[1]] for kind in context], target)
    with pytest.raises(ValueError, match="LongTensor"):
        tiny_pretraining_model(tiny_clip, [kind[:1] for kind in context], target)


def test_stochastic_depth_leaves_out_whole_clips_of_a_packed_sequence_each_for_itself():
    lengths = [2, 3, 4] * 20
    segments = VJEPASegments.of(lengths, torch.device("cpu"))
    torch.manual_seed(0)
    found = VJEPADropPath(0.5).train()(torch.ones(1, sum(lengths), 2), segments)
    clips = [clip.unique() for clip in found[0].split(lengths)]
    assert all(len(values) == 1 for values in clips)
    assert {values.item() for values in clips} == {0.0, 2.0}
