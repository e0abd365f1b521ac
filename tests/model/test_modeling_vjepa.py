"""pytest tests/test_modeling_vjepa.py"""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from vjepa_hf import (
    VJEPAConfig,
    VJEPAForActionDetection,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAModel,
)
from vjepa_hf.model.modeling_vjepa import (
    VJEPAAttention,
    VJEPACrossAttention,
    VJEPADropPath,
    average_views,
)
from vjepa_hf.model.tubelets import resize_positions, sincos_positions, take_tokens, to_tubelets
from vjepa_hf.training.setup import checkpoint_activations


def masks(batch=2, num_tokens=32, num_context=10, num_targets=14, seed=0):
    """Disjoint context and target indices `(B, K)` and `(B, M)`."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(num_tokens, generator=generator) for _ in range(batch)])
    return order[:, :num_context].sort().values, order[:, num_context : num_context + num_targets].sort().values


@torch.no_grad()
def run(model, *args, **kwargs):
    return model(*args, **kwargs)


# Features


def test_features_have_one_vector_per_token(tiny_model, tiny_clip):
    assert run(tiny_model, tiny_clip).last_hidden_state.shape == (2, 32, 48)


@torch.no_grad()
def test_video_features_are_means_of_tokens_over_a_time_step_or_the_videos_clips(tiny_model, tiny_clip):
    tokens = tiny_model(tiny_clip).last_hidden_state
    features = {pool: tiny_model.get_video_features(tiny_clip, pool=pool) for pool in ("none", "time", "mean")}
    torch.testing.assert_close(features["none"], tokens)
    torch.testing.assert_close(features["time"], torch.stack([tokens[:, :16].mean(1), tokens[:, 16:].mean(1)], dim=1))
    torch.testing.assert_close(features["mean"], tokens.mean(dim=1))
    clips = torch.stack([tiny_clip, tiny_clip.flip(0), tiny_clip.flip(1)], dim=1)  # (B, V, T, C, H, W)
    shapes = {"none": (2, 3, 32, 48), "time": (2, 3, 2, 48), "mean": (2, 48)}
    for pool, shape in shapes.items():
        of_video = tiny_model.get_video_features(clips, pool=pool)
        assert of_video.shape == shape
        expected = torch.stack([tiny_model.get_video_features(clips[:, view], pool=pool) for view in range(3)], dim=1)
        torch.testing.assert_close(of_video, expected.mean(dim=1) if pool == "mean" else expected)
    with pytest.raises(ValueError, match="pool='max' must be mean, time or none"):
        tiny_model.get_video_features(tiny_clip, pool="max")


def test_without_target_mask_the_predictor_does_no_work(tiny_model, tiny_clip):
    tiny_model.predictor = None
    context, _ = masks()
    assert run(tiny_model, tiny_clip).predictor_hidden_state is None
    assert run(tiny_model, tiny_clip, context_mask=context).predictor_hidden_state is None


def test_context_features_do_not_change_when_every_masked_pixel_does(tiny_model, tiny_clip):
    context, target = masks()
    tubelets = to_tubelets(tiny_clip, 2, 8)
    kept = torch.zeros(2, 32, dtype=torch.bool).scatter(1, context, True)
    changed = torch.where(kept.unsqueeze(-1), tubelets, torch.full_like(tubelets, 1e6))
    ours = run(tiny_model, tiny_clip, context_mask=context, target_mask=target)
    other = run(tiny_model, tubelets=changed, context_mask=context, target_mask=target)
    assert torch.equal(ours.last_hidden_state, other.last_hidden_state)
    assert torch.equal(ours.predictor_hidden_state, other.predictor_hidden_state)
    # The guard can fail: without a mask, the same change is seen everywhere.
    assert not torch.allclose(run(tiny_model, tiny_clip)[0], run(tiny_model, tubelets=changed)[0])


def test_dropped_tubelets_are_dropped_before_embedding(tiny_model, tiny_clip):
    seen = []
    projection = tiny_model.encoder.embeddings.projection
    projection.register_forward_hook(lambda module, given, result: seen.append(tuple(given[0].shape)))
    run(tiny_model, tiny_clip, context_mask=masks()[0])
    assert seen == [(2 * 10, 3, 2, 8, 8)]


def test_tubelet_projection_is_the_convolution_of_its_weights(tiny_model, tiny_clip):
    projection = tiny_model.encoder.embeddings.projection
    convolved = nn.Conv3d.forward(projection, tiny_clip.transpose(1, 2)).flatten(2).transpose(1, 2)
    tokens = projection(to_tubelets(tiny_clip, 2, 8).reshape(-1, 3, 2, 8, 8)).reshape(2, 32, 48)
    torch.testing.assert_close(tokens, convolved)


def test_context_of_all_tokens_equals_no_mask(tiny_model, tiny_clip):
    everything = torch.arange(32).expand(2, -1)
    torch.testing.assert_close(run(tiny_model, tiny_clip, context_mask=everything)[0], run(tiny_model, tiny_clip)[0])


def test_features_follow_the_order_of_the_context_mask(tiny_model, tiny_clip):
    context, _ = masks()
    straight = run(tiny_model, tiny_clip, context_mask=context)[0]
    reversed_ = run(tiny_model, tiny_clip, context_mask=context.flip(1))[0]
    torch.testing.assert_close(reversed_, straight.flip(1))


def test_tubelets_in_place_of_pixels_give_the_same_features(tiny_model, tiny_clip):
    tubelets = to_tubelets(tiny_clip, 2, 8)
    assert torch.equal(run(tiny_model, tubelets=tubelets)[0], run(tiny_model, tiny_clip)[0])


@pytest.mark.parametrize(("frames", "height", "width"), [(8, 32, 32), (4, 16, 40), (2, 48, 24)])
def test_other_sizes_and_frame_counts_work_in_encoder_and_predictor(tiny_model, frames, height, width):
    clip = torch.randn(2, frames, 3, height, width)
    num_tokens = frames // 2 * (height // 8) * (width // 8)
    context, target = masks(num_tokens=num_tokens, num_context=5, num_targets=4)
    outputs = run(tiny_model, clip, context_mask=context, target_mask=target)
    assert run(tiny_model, clip).last_hidden_state.shape == (2, num_tokens, 48)
    assert outputs.predictor_hidden_state.shape == (2, 4, 48)
    grid = (frames // 2, height // 8, width // 8)
    tubelets = to_tubelets(clip, 2, 8)
    assert torch.equal(run(tiny_model, tubelets=tubelets, grid_size=grid)[0], run(tiny_model, clip)[0])


def test_hidden_states_are_the_embeddings_and_every_layer(tiny_model, tiny_clip):
    outputs = run(tiny_model, tiny_clip, output_hidden_states=True)
    assert [state.shape for state in outputs.hidden_states] == [(2, 32, 48)] * 3
    assert torch.equal(tiny_model.encoder.norm(outputs.hidden_states[-1]), outputs.last_hidden_state)
    assert run(tiny_model, tiny_clip).hidden_states is None


def test_hidden_states_can_be_asked_for_in_the_configuration(tiny_model, tiny_clip):
    tiny_model.config.output_hidden_states = True
    assert len(run(tiny_model, tiny_clip).hidden_states) == 3


def test_a_tuple_is_returned_where_asked(tiny_model, tiny_clip):
    outputs = run(tiny_model, tiny_clip, return_dict=False)
    assert isinstance(outputs, tuple) and outputs[0].shape == (2, 32, 48)


def test_only_the_chosen_hidden_states_are_returned(tiny_model, tiny_clip):
    every = run(tiny_model, tiny_clip, output_hidden_states=True).hidden_states
    for chosen, indices in (([0, -1], {0, 2}), ([1], {1}), (-1, {2}), (0, {0}), ((2, 1), {1, 2})):
        states = run(tiny_model, tiny_clip, output_hidden_states=chosen).hidden_states
        assert len(states) == 3
        for index, state in enumerate(states):
            assert torch.equal(state, every[index]) if index in indices else state is None
    assert run(tiny_model, tiny_clip, output_hidden_states=[]).hidden_states is None
    with pytest.raises(ValueError, match=r"output_hidden_states=\[0, 3\] contains 3; the 3 hidden states"):
        tiny_model(tiny_clip, output_hidden_states=[0, 3])


def test_pretraining_returns_hidden_states_and_attentions_of_the_context_encoder(tiny_pretraining_model, tiny_clip):
    model = tiny_pretraining_model
    (context_a, target_a), (context_b, target_b) = masks(), masks(num_context=4, num_targets=20, seed=1)
    assert run(model, tiny_clip, [context_a], [target_a]).hidden_states is None
    model.set_attn_implementation("eager")
    arguments = (tiny_clip, [context_a, context_b], [target_a, target_b])
    outputs = run(model, *arguments, output_hidden_states=[0, -1], output_attentions=True)
    for hidden_states, features in zip(outputs.hidden_states, outputs.context_hidden_states, strict=True):
        assert hidden_states[0].shape == features.shape and hidden_states[1] is None
        assert torch.equal(model.context_encoder.norm(hidden_states[2]), features)
    shapes = [[weights.shape[-1] for weights in attentions] for attentions in outputs.attentions]
    assert shapes == [[10, 10], [4, 4]]
    model.config.output_hidden_states = True
    assert len(run(model, *arguments).hidden_states) == 2
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match='attn_implementation="eager"'):
        model(*arguments, output_attentions=True)


# Attention implementations and dtypes


def test_eager_attention_returns_weights_that_sum_to_one(tiny_model, tiny_clip):
    tiny_model.set_attn_implementation("eager")
    attentions = run(tiny_model, tiny_clip, output_attentions=True).attentions
    assert [weights.shape for weights in attentions] == [(2, 2, 32, 32)] * 2
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(2, 2, 32))


def test_attentions_from_another_implementation_are_an_error_with_the_remedy(tiny_model, tiny_clip):
    with pytest.raises(ValueError, match='attn_implementation="eager"'):
        tiny_model(tiny_clip, output_attentions=True)


def test_eager_and_sdpa_agree(tiny_model, tiny_clip):
    context, target = masks()
    expected = run(tiny_model, tiny_clip, context_mask=context, target_mask=target)
    tiny_model.set_attn_implementation("eager")
    outputs = run(tiny_model, tiny_clip, context_mask=context, target_mask=target)
    torch.testing.assert_close(outputs.last_hidden_state, expected.last_hidden_state)
    torch.testing.assert_close(outputs.predictor_hidden_state, expected.predictor_hidden_state)


def test_attention_goes_through_the_interface_of_transformers(tiny_model, tiny_clip):
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    calls = []

    def counting(module, query, key, value, attention_mask, **kwargs):
        calls.append(kwargs["is_causal"])
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("counting", counting)
    tiny_model.set_attn_implementation("counting")
    run(tiny_model, tiny_clip)
    assert calls == [False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_single(tiny_model, tiny_pretraining_model, tiny_classifier, tiny_clip, dtype):
    context, target = masks()
    expected = run(tiny_model, tiny_clip).last_hidden_state
    features = run(tiny_model.to(dtype), tiny_clip.to(dtype)).last_hidden_state
    assert features.dtype == dtype
    torch.testing.assert_close(features.float(), expected, rtol=0.1, atol=0.1)
    loss = run(tiny_pretraining_model.to(dtype), tiny_clip.to(dtype), [context], [target]).loss
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert run(tiny_classifier.to(dtype), tiny_clip.to(dtype)).logits.dtype == dtype


def test_gradient_checkpointing_changes_memory_not_gradients(tiny_pretraining_model, tiny_clip):
    context, target = masks()
    plain = tiny_pretraining_model.train()
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    assert any(
        module.gradient_checkpointing for module in checkpointed.modules() if hasattr(module, "gradient_checkpointing")
    )
    for model in (plain, checkpointed):
        model(tiny_clip, [context], [target]).loss.backward()
    for ours, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, other.grad)


def test_every_path_compiles_into_one_graph(
    tiny_model, tiny_pretraining_model, tiny_classifier, tiny_config, tiny_clip
):
    context, target = masks()
    tiny_config.num_labels = 2
    tiny_detector = VJEPAForActionDetection(tiny_config).eval()
    pretraining_inputs = (tiny_clip, [context, target], [target, context])
    checkpointed = copy.deepcopy(tiny_pretraining_model).train()
    checkpoint_activations(checkpointed)
    calls = [
        (tiny_model, (tiny_clip,), {}),
        (tiny_model, (tiny_clip,), {"context_mask": context}),
        (tiny_model, (tiny_clip,), {"context_mask": context, "target_mask": target}),
        (tiny_model, (tiny_clip,), {"output_hidden_states": True}),
        (tiny_pretraining_model.train(), pretraining_inputs, {}),
        (checkpointed, pretraining_inputs, {}),
        (tiny_classifier, (tiny_clip,), {"labels": torch.tensor([0, 2])}),
        (tiny_classifier, (torch.stack([tiny_clip, tiny_clip], dim=1),), {}),
        (tiny_detector, (tiny_clip, BOXES), {}),
        (tiny_detector, (tiny_clip, BOXES, torch.tensor([[True, False]] * 2), torch.ones(2, 2, 2)), {}),
    ]
    for model, args, kwargs in calls:
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*args, **kwargs)[0], model(*args, **kwargs)[0])


def test_compiled_graph_serves_other_token_counts(tiny_model, tiny_clip):
    torch.compiler.reset()
    compiled = torch.compile(tiny_model, fullgraph=True, dynamic=True, backend="eager")
    for num_context in (8, 11, 17, 23):
        context, target = masks(num_context=num_context, num_targets=30 - num_context)
        kwargs = {"context_mask": context, "target_mask": target}
        torch.testing.assert_close(run(compiled, tiny_clip, **kwargs)[1], run(tiny_model, tiny_clip, **kwargs)[1])


# Wrong inputs


def test_tubelets_of_another_grid_are_an_error(tiny_model):
    with pytest.raises(ValueError, match=r"\(B, 32, 384\), got \(1, 31, 384\); pass grid_size"):
        tiny_model(tubelets=torch.zeros(1, 31, 384))


def test_prediction_needs_a_context_mask_and_a_predictor(tiny_model, tiny_config, tiny_clip):
    context, target = masks()
    with pytest.raises(ValueError, match="target_mask needs context_mask"):
        tiny_model(tiny_clip, target_mask=target)
    with pytest.raises(ValueError, match="target_mask needs a predictor"):
        VJEPAModel(tiny_config, add_predictor=False)(tiny_clip, context_mask=context, target_mask=target)


# Positions


def test_both_splits_of_the_position_embedding_have_the_asked_width():
    for uniform_power in (True, False):
        assert sincos_positions((2, 3, 4), 64, uniform_power).shape == (24, 64)


def test_positions_put_time_before_rows_before_columns():
    table = sincos_positions((2, 3, 4), 64, uniform_power=False).reshape(2, 3, 4, 64)
    time, row, column = table[..., :32], table[..., 32:48], table[..., 48:]
    assert torch.equal(time, time[:, :1, :1].expand_as(time))
    assert torch.equal(row, row[:1, :, :1].expand_as(row))
    assert torch.equal(column, column[:1, :1].expand_as(column))
    assert torch.equal(time[1, 0, 0, :16], (1.0 / 10000 ** (torch.arange(16, dtype=torch.float64) / 16)).sin().float())


def test_positions_are_resized_by_explicit_size_where_scaling_would_round_down():
    table = sincos_positions((2, 11, 11), 48, uniform_power=True)
    assert resize_positions(table, (2, 11, 11), (2, 15, 15)).shape == (2 * 15 * 15, 48)
    assert resize_positions(table, (2, 11, 11), (2, 11, 11)) is table


def test_models_resized_for_other_clips_give_the_same_for_them_and_save_it(tiny_model, tiny_classifier, tmp_path):
    clip = torch.randn(1, 2, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    expected = run(tiny_model, clip).last_hidden_state, run(tiny_classifier, clip).logits
    for model, before in zip((tiny_model, tiny_classifier), expected, strict=True):
        model.resize_position_embeddings(num_frames=2, image_size=(48, 32))
        assert model.config.grid_size == (1, 6, 4)
        torch.testing.assert_close(run(model, clip)[0], before)
        model.save_pretrained(tmp_path)
        torch.testing.assert_close(run(type(model).from_pretrained(tmp_path).eval(), clip)[0], before)
    assert tiny_model.predictor.position_embeddings.shape == (24, 24)
    with pytest.raises(ValueError, match="num_frames=3 is not a multiple of tubelet_size=2"):
        tiny_model.resize_position_embeddings(num_frames=3)


# Pretraining


def test_loss_is_the_mean_over_mask_types_of_the_mean_absolute_error(tiny_pretraining_model, tiny_clip):
    (context_a, target_a), (context_b, target_b) = masks(), masks(num_context=4, num_targets=20, seed=1)
    outputs = run(tiny_pretraining_model, tiny_clip, [context_a, context_b], [target_a, target_b])
    whole = run(tiny_pretraining_model.vjepa, tiny_clip).last_hidden_state
    normed = nn.functional.layer_norm(whole, (48,))
    expected = []
    for index, (context, target) in enumerate([(context_a, target_a), (context_b, target_b)]):
        features = tiny_pretraining_model.context_encoder(to_tubelets(tiny_clip, 2, 8), (2, 4, 4), context)[0]
        prediction = tiny_pretraining_model.vjepa.predictor(features, (2, 4, 4), context, target, index)
        torch.testing.assert_close(outputs.predictions[index], prediction)
        expected.append((prediction - take_tokens(normed, target)).abs().mean())
    torch.testing.assert_close(outputs.loss, torch.stack(expected).mean())
    torch.testing.assert_close(torch.stack(outputs.losses), torch.stack(expected))


def test_gradient_reaches_context_encoder_and_predictor_only(tiny_pretraining_model, tiny_clip):
    context, target = masks()
    tiny_pretraining_model.train()(tiny_clip, [context], [target]).loss.backward()
    trained = {name for name, parameter in tiny_pretraining_model.named_parameters() if parameter.grad is not None}
    expected = {name for name, _ in tiny_pretraining_model.named_parameters() if "vjepa.encoder" not in name}
    assert trained == expected and expected


def test_both_encoders_start_equal(tiny_config):
    model = VJEPAForPreTraining(tiny_config)
    contexts = model.context_encoder.state_dict()
    for name, target in model.vjepa.encoder.state_dict().items():
        assert torch.equal(target, contexts[name])


def test_update_moves_every_tensor_of_the_target_encoder_positions_included(tiny_pretraining_model):
    model = tiny_pretraining_model
    with torch.no_grad():
        for tensor in model.context_encoder.state_dict().values():
            tensor.add_(1.0)
    before = copy.deepcopy(model.vjepa.encoder.state_dict())
    model.update_target_encoder(0.75)
    after = model.vjepa.encoder.state_dict()
    assert "embeddings.position_embeddings" in after
    for name, tensor in model.context_encoder.state_dict().items():
        torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * tensor)


@pytest.mark.parametrize("momentum", [-0.1, 1.5])
def test_momentum_outside_zero_to_one_is_an_error(tiny_pretraining_model, momentum):
    with pytest.raises(ValueError, match=f"momentum={momentum}"):
        tiny_pretraining_model.update_target_encoder(momentum)


def test_target_encoder_stays_frozen_and_in_evaluation_mode(tiny_pretraining_model, tmp_path):
    tiny_pretraining_model.save_pretrained(tmp_path)
    for model in (tiny_pretraining_model.train(), VJEPAForPreTraining.from_pretrained(tmp_path).train()):
        assert not model.vjepa.encoder.training and model.context_encoder.training and model.vjepa.predictor.training
        assert not any(parameter.requires_grad for parameter in model.vjepa.encoder.parameters())
        assert all(parameter.requires_grad for parameter in model.context_encoder.parameters())


def test_more_mask_types_than_mask_tokens_use_the_tokens_in_turn(tiny_pretraining_model, tiny_clip):
    with torch.no_grad():
        tiny_pretraining_model.vjepa.predictor.mask_tokens.normal_(generator=torch.Generator().manual_seed(0))
    context, target = masks()
    predictions = run(tiny_pretraining_model, tiny_clip, [context] * 3, [target] * 3).predictions
    assert torch.equal(predictions[0], predictions[2]) and not torch.allclose(predictions[0], predictions[1])


# Classification


def test_views_are_averaged_as_probabilities(tiny_classifier, tiny_clip):
    other = tiny_clip.flip(-1) * 2
    logits = run(tiny_classifier, torch.stack([tiny_clip, other], dim=1)).logits
    single = [run(tiny_classifier, clip).logits.softmax(-1) for clip in (tiny_clip, other)]
    torch.testing.assert_close(logits.softmax(-1), (single[0] + single[1]) / 2)


def test_loss_of_views_is_the_mean_of_their_losses(tiny_classifier, tiny_clip):
    labels = torch.tensor([0, 2])
    clips = (tiny_clip, tiny_clip * 3)
    loss = run(tiny_classifier, torch.stack(clips, dim=1), labels=labels).loss
    torch.testing.assert_close(loss, sum(run(tiny_classifier, clip, labels=labels).loss for clip in clips) / 2)


def test_the_encoder_sees_one_clip_of_a_video_at_a_time_however_many_there_are(tiny_classifier, tiny_clip):
    sizes = []
    tiny_classifier.vjepa.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    run(tiny_classifier, tiny_clip[:, None].expand(-1, 9, -1, -1, -1, -1))
    assert sizes == [2] * 9


def test_a_pooler_of_several_clips_sees_the_tokens_of_each_view_together(tiny_classifier, tiny_clip):
    tiny_classifier.config.pooler_num_clips = 2
    clips = [tiny_clip, tiny_clip.flip(1), 2 * tiny_clip, tiny_clip.flip(-1)]
    tokens = [run(tiny_classifier.vjepa, clip).last_hidden_state for clip in clips]
    head = torch.nn.Sequential(tiny_classifier.pooler, tiny_classifier.classifier)
    with torch.no_grad():
        first, second = (head(torch.cat(pair, dim=1)).softmax(-1) for pair in (tokens[:2], tokens[2:]))
    logits = run(tiny_classifier, torch.stack(clips, dim=1)).logits
    torch.testing.assert_close(logits.softmax(-1), (first + second) / 2)
    with pytest.raises(
        ValueError, match="1 clips of a video, not a multiple of pooler_num_clips=2; give the processor"
    ):
        tiny_classifier(tiny_clip)


def test_hidden_states_of_several_views_are_an_error(tiny_classifier, tiny_clip):
    assert len(run(tiny_classifier, tiny_clip, output_hidden_states=True).hidden_states) == 3
    with pytest.raises(ValueError, match="need a single clip, got 2 views"):
        tiny_classifier(torch.stack([tiny_clip] * 2, dim=1), output_hidden_states=True)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_forward_pass_without_a_backward_pass_leaves_nothing_behind(tiny_model, tiny_clip, attention):
    tiny_model.set_attn_implementation(attention)
    inside = []
    layer = tiny_model.encoder.layers[0].attention.qkv
    layer.register_forward_hook(lambda module, inputs, output: inside.append(weakref.ref(output)))
    tiny_model(tiny_clip)
    gc.collect()
    assert len(inside) == 1 and inside[0]() is None


def test_sure_answers_of_several_labels_stay_finite():
    sure = torch.tensor([[[20.0, -110.0, 7.0]]])
    torch.testing.assert_close(average_views(sure, "multi_label_classification"), sure[:, 0])
    two = average_views(sure.repeat(1, 2, 1).bfloat16(), "multi_label_classification")
    torch.testing.assert_close(two.float(), sure[:, 0], rtol=1e-2, atol=0.1)


def test_average_of_views_respects_the_kind_of_problem():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(average_views(logits, "regression"), logits.mean(1))
    torch.testing.assert_close(average_views(logits, "multi_label_classification").sigmoid(), logits.sigmoid().mean(1))
    torch.testing.assert_close(average_views(logits, None).softmax(-1), logits.softmax(-1).mean(1))


def test_classifier_holds_no_predictor(tiny_classifier):
    assert tiny_classifier.vjepa.predictor is None
    assert not any("predictor" in name for name in tiny_classifier.state_dict())


def test_deeper_pooler_attends_among_tokens_first(tiny_config, tiny_clip):
    tiny_config.num_pooler_layers = 4
    model = VJEPAForVideoClassification(tiny_config)
    assert len(model.pooler.self_attention_layers) == 3
    assert run(model, tiny_clip).logits.shape == (2, 2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cross_attention_has_no_output_projection(tiny_config, attention):
    tiny_config._attn_implementation = attention
    module = VJEPACrossAttention(tiny_config)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    queries, tokens = (torch.randn(2, n, 48, generator=generator) for n in (3, 40))
    query = module.q(queries).unflatten(-1, (2, -1)).transpose(1, 2)
    key, value = module.kv(tokens).unflatten(-1, (2, 2, -1)).transpose(1, 3).unbind(2)
    weights = (query @ key.transpose(2, 3) * module.scaling).softmax(-1)
    torch.testing.assert_close(module(queries, tokens), (weights @ value).transpose(1, 2).flatten(2))


# Modules that other libraries replace, wrap or hook


class Counted(nn.Module):
    """A module in place of another, as quantizers, adapters and wrappers make them; it counts its calls."""

    def __init__(self, module):
        super().__init__()
        self.inside, self.calls = module, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.inside(*args, **kwargs)


BOXES = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.2, 0.2, 0.9, 1.0]]]).expand(2, -1, -1)
CONTEXT, TARGET = masks()
# Class -> the arguments that make it use every weight it has, next to a clip.
EVERY_MODEL = {
    VJEPAModel: {"context_mask": CONTEXT, "target_mask": TARGET},
    VJEPAForPreTraining: {"context_masks": [CONTEXT], "target_masks": [TARGET]},
    VJEPAForVideoClassification: {},
    VJEPAForActionDetection: {"boxes": BOXES},
}
every_model = pytest.mark.parametrize(("model_class", "arguments"), EVERY_MODEL.items())


def without_call(model, arguments, clip):
    """Names of the modules with parameters whose replacement is not noticed."""
    missed = []
    for name, module in list(model.named_modules()):
        if not module._parameters or not name:
            continue
        parent, _, attribute = name.rpartition(".")
        counted = Counted(module)
        setattr(model.get_submodule(parent), attribute, counted)
        run(model, clip, **arguments)
        setattr(model.get_submodule(parent), attribute, module)
        missed += [name] if not counted.calls else []
    return missed


@every_model
def test_every_module_with_weights_may_be_replaced_by_one_that_calls_it(
    model_class, arguments, tiny_config, tiny_clip
):
    """A module whose weights its parent reads is passed by by quantizers, adapters, offloading and hooks."""
    tiny_config.num_pooler_layers, tiny_config.num_hidden_layers, tiny_config.pred_num_hidden_layers = 2, 1, 1
    model = model_class(tiny_config).eval()
    assert without_call(model, arguments, tiny_clip) == []
    # The guard can fail: an attention that does not call its layers.
    attention = next(module for module in model.modules() if isinstance(module, VJEPAAttention))
    attention.forward = lambda hidden_states, rotation: (hidden_states, None)
    assert any(name.endswith("qkv") for name in without_call(model, arguments, tiny_clip))


@every_model
def test_few_parameters_have_no_module_of_their_own(model_class, arguments, tiny_config):
    model = model_class(tiny_config)
    own = {
        name.rpartition(".")[2] for module in model.modules() if list(module.children()) for name in module._parameters
    }
    expected = {"VJEPAModel": {"mask_tokens"}, "VJEPAForPreTraining": {"mask_tokens"}}
    assert own == expected.get(model_class.__name__, {"query_tokens"})


@every_model
def test_every_linear_layer_is_exactly_a_linear_layer(model_class, arguments, tiny_config):
    linear = [module for module in model_class(tiny_config).modules() if isinstance(module, nn.Linear)]
    assert linear and all(type(module) is nn.Linear for module in linear)


@every_model
def test_a_configuration_may_ask_for_tuples(model_class, arguments, tiny_config, tiny_clip):
    model = model_class(tiny_config).eval()
    expected = run(model, tiny_clip, **arguments)[0]
    model.config.return_dict = False
    outputs = run(model, tiny_clip, **arguments)
    assert isinstance(outputs, tuple) and torch.equal(outputs[0], expected)


@pytest.mark.parametrize("targets", ["all-linear", ["projection"], ["kv"]], ids=["all", "projection", "kv"])
@pytest.mark.parametrize("model_class", [VJEPAForVideoClassification, VJEPAForActionDetection])
def test_adapters_reach_every_layer_they_name_and_merge_to_the_same_answer(
    model_class, targets, tiny_config, tiny_clip
):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model, arguments = model_class(tiny_config).eval(), EVERY_MODEL[model_class]
    plain = run(model, tiny_clip, **arguments).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).eval()
    adapted(tiny_clip, **arguments).logits.square().sum().backward()
    assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)
    expected = run(adapted, tiny_clip, **arguments).logits
    assert not torch.allclose(expected, plain)
    merged = run(adapted.merge_and_unload(), tiny_clip, **arguments).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


@every_model
def test_weights_may_wait_elsewhere_until_their_module_is_called(
    model_class, arguments, tiny_config, tiny_clip, tmp_path
):
    accelerate = pytest.importorskip("accelerate")
    model = model_class(tiny_config).eval()
    expected = run(model, tiny_clip, **arguments)[0]
    in_memory = accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu")
    assert torch.equal(run(in_memory, tiny_clip, **arguments)[0], expected)
    on_disk = accelerate.disk_offload(copy.deepcopy(model), tmp_path / "off", execution_device="cpu")
    assert torch.equal(run(on_disk, tiny_clip, **arguments)[0], expected)
    model.save_pretrained(tmp_path / "model")
    parts = {name: "disk" for name, _ in model.named_children()}
    parts[min(parts)] = "cpu"
    spread = model_class.from_pretrained(tmp_path / "model", device_map=parts, offload_folder=tmp_path / "parts")
    assert torch.equal(run(spread.eval(), tiny_clip, **arguments)[0], expected)


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean():
    drop_path = VJEPADropPath(0.25).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        branch = drop_path(torch.ones(4000, 2, 3))
    torch.testing.assert_close(branch.unique(), torch.tensor([0.0, 4 / 3]))
    assert torch.equal(branch.amin((1, 2)), branch.amax((1, 2)))
    assert branch.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop_path.eval()(torch.ones(2, 2, 3)), torch.ones(2, 2, 3))


# Saving and loading


def test_pretraining_folder_loads_as_model_with_the_target_encoder(tiny_pretraining_model, tiny_clip, tmp_path):
    with torch.no_grad():
        for tensor in tiny_pretraining_model.context_encoder.parameters():
            tensor.add_(0.5)
    tiny_pretraining_model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    model, report = VJEPAModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert torch.equal(run(model, tiny_clip)[0], run(tiny_pretraining_model.vjepa, tiny_clip)[0])


def test_pretraining_folder_loads_without_its_predictor_and_without_a_word(tiny_pretraining_model, tmp_path):
    tiny_pretraining_model.save_pretrained(tmp_path)
    model, report = VJEPAModel.from_pretrained(tmp_path, add_predictor=False, output_loading_info=True)
    assert model.predictor is None
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_pretraining_folder_loads_as_classifier_with_the_target_encoder(tiny_pretraining_model, tmp_path):
    tiny_pretraining_model.save_pretrained(tmp_path)
    model, report = VJEPAForVideoClassification.from_pretrained(tmp_path, num_labels=5, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert all(name.startswith(("pooler.", "classifier.")) for name in report["missing_keys"])
    expected = tiny_pretraining_model.vjepa.encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.vjepa.encoder.state_dict().items())


def test_model_folder_loads_for_pretraining_with_equal_encoders(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    model = VJEPAForPreTraining.from_pretrained(tmp_path)
    for name, tensor in tiny_model.encoder.state_dict().items():
        assert torch.equal(model.vjepa.encoder.state_dict()[name], tensor)
        assert torch.equal(model.context_encoder.state_dict()[name], tensor)


def test_stored_position_tables_survive_saving(tiny_pretraining_model, tmp_path):
    with torch.no_grad():
        tiny_pretraining_model.vjepa.encoder.embeddings.position_embeddings.add_(1.0)
        tiny_pretraining_model.vjepa.predictor.position_embeddings.add_(2.0)
    tiny_pretraining_model.save_pretrained(tmp_path)
    loaded = VJEPAForPreTraining.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny_pretraining_model.state_dict().items())


def test_auto_classes_know_every_model(tiny_pretraining_model, tiny_classifier, tmp_path):
    from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification

    tiny_pretraining_model.save_pretrained(tmp_path / "pretraining")
    tiny_classifier.save_pretrained(tmp_path / "classifier")
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "classifier"), VJEPAConfig)
    assert type(AutoModel.from_pretrained(tmp_path / "pretraining")) is VJEPAModel
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path / "pretraining")) is VJEPAForPreTraining
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path / "classifier")
    assert type(loaded) is VJEPAForVideoClassification


def test_weights_start_as_published(tiny_config):
    tiny_config.hidden_size, tiny_config.num_attention_heads, tiny_config.pred_hidden_size = 192, 4, 96
    model = VJEPAForPreTraining(tiny_config)
    checked = 0
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "mask_tokens" not in name:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        elif "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        else:
            assert (parameter == 0).all(), name
        checked += 1
    assert checked == len(list(model.parameters())) and checked > 50


# Gradients


def test_a_weight_changed_between_forward_and_backward_is_an_error(tiny_pretraining_model, tiny_clip):
    context, target = masks()
    layer = tiny_pretraining_model.context_encoder.layers[0]
    for weight in (layer.norm1.weight, layer.mlp.fc1.weight, layer.attention.qkv.weight):
        loss = tiny_pretraining_model.train()(tiny_clip, [context], [target]).loss
        with torch.no_grad():
            weight.mul_(1.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_gradients_of_single_clips_by_vmap_are_those_of_a_backward_pass_for_each(tiny_classifier, tiny_clip):
    tiny_classifier.set_attn_implementation("eager")
    weights, labels = dict(tiny_classifier.named_parameters()), torch.tensor([0, 1])

    def loss(weights, clip, label):
        logits = torch.func.functional_call(tiny_classifier, weights, (clip[None],)).logits
        return nn.functional.cross_entropy(logits, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, tiny_clip, labels)
    for index in range(2):
        one = torch.autograd.grad(loss(weights, tiny_clip[index], labels[index]), list(weights.values()))
        for name, gradient in zip(weights, one, strict=True):
            torch.testing.assert_close(each[name][index], gradient, rtol=1e-3, atol=1e-5)


def test_forward_mode_gradients_are_those_of_backward_mode(tiny_model, tiny_clip):
    tiny_model.set_attn_implementation("eager")
    direction = torch.randn(tiny_clip.shape, generator=torch.Generator().manual_seed(0))

    def mean(clip):
        return tiny_model(clip).last_hidden_state.square().mean()

    _, forward = torch.func.jvp(mean, (tiny_clip,), (direction,))
    backward = (torch.func.grad(mean)(tiny_clip) * direction).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-3, atol=1e-5)


def test_a_training_step_runs_on_the_meta_device(tiny_config):
    with torch.device("meta"):
        model, clip = VJEPAForPreTraining(tiny_config), torch.empty(2, 4, 3, 32, 32)
    context, target = (mask.to("meta") for mask in masks())
    model(clip, [context], [target]).loss.backward()
    assert all(w.grad.shape == w.shape for w in model.parameters() if w.requires_grad)


# One mask type after the other


def test_mask_types_one_by_one_give_the_gradients_of_the_joint_call_with_one_target_pass(
    tiny_pretraining_model, tiny_clip
):
    model = tiny_pretraining_model.train()
    with torch.no_grad():
        model.vjepa.predictor.mask_tokens.normal_(generator=torch.Generator().manual_seed(0))
    context_masks, target_masks = zip(masks(), masks(num_context=4, num_targets=20, seed=1), strict=True)
    joint = model(tiny_clip, context_masks, target_masks)
    joint.loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    target_passes, target_hidden_state, losses = [], None, []
    model.vjepa.encoder.register_forward_hook(lambda *_: target_passes.append(1))
    for index in range(2):
        outputs = model(
            tiny_clip,
            context_masks[index : index + 1],
            target_masks[index : index + 1],
            mask_type_indices=[index],
            target_hidden_state=target_hidden_state,
        )
        target_hidden_state = outputs.target_hidden_state
        (outputs.loss / 2).backward()
        losses += outputs.losses
    assert len(target_passes) == 1
    torch.testing.assert_close(losses, list(joint.losses))
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    # The guard can fail: with the mask token of the other type the loss is another one.
    other = run(model, tiny_clip, context_masks[1:], target_masks[1:], mask_type_indices=[0])
    assert not torch.allclose(other.losses[0], joint.losses[1])


def test_target_features_of_other_clips_are_an_error(tiny_pretraining_model, tiny_clip):
    context, target = masks()
    with pytest.raises(ValueError, match=r"target_hidden_state has the shape \(1, 32, 48\).*need \(2, 32, 48\)"):
        tiny_pretraining_model(tiny_clip, [context], [target], target_hidden_state=torch.zeros(1, 32, 48))
    with pytest.raises(ValueError, match="got 1, 1 and 2 entries"):
        tiny_pretraining_model(tiny_clip, [context], [target], mask_type_indices=[0, 1])


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_moving_average_in_half_precision_is_an_error_that_says_what_to_do(tiny_pretraining_model, dtype):
    with pytest.raises(ValueError, match=f"weights in {dtype}.*dtype=torch.float32"):
        tiny_pretraining_model.to(dtype).update_target_encoder(0.998)


def test_two_hundred_updates_move_the_average_as_far_as_they_should(tiny_pretraining_model):
    target, context = tiny_pretraining_model.vjepa.encoder, tiny_pretraining_model.context_encoder
    with torch.no_grad():
        for weight in context.parameters():
            weight.add_(0.01)
    before = [weight.clone() for weight in target.parameters()]
    for _ in range(200):
        tiny_pretraining_model.update_target_encoder(0.998)
    for weight, old in zip(target.parameters(), before, strict=True):
        torch.testing.assert_close((weight - old) / 0.01, torch.full_like(old, 1 - 0.998**200), rtol=0.01, atol=1e-3)


# Export of any batch


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("model_class", [VJEPAModel, VJEPAForVideoClassification, VJEPAForActionDetection])
def test_an_exported_model_takes_any_number_of_clips_and_boxes(model_class, strict, tiny_config):
    def inputs(num_clips, num_boxes):
        arguments = {"pixel_values_videos": torch.randn(num_clips, 4, 3, 32, 32, generator=generator)}
        if model_class is VJEPAForActionDetection:
            corners = torch.rand(num_clips, num_boxes, 2, 2, generator=generator).sort(dim=2).values
            arguments["boxes"] = corners.flatten(2)
            arguments["box_mask"] = torch.rand(num_clips, num_boxes, generator=generator) > 0.3
        return arguments

    generator = torch.Generator().manual_seed(0)
    model, any_size = model_class(tiny_config).eval(), torch.export.Dim.AUTO
    example = inputs(2, 3)
    dynamic = {
        name: {0: any_size} if name == "pixel_values_videos" else {0: any_size, 1: any_size} for name in example
    }
    program = torch.export.export(model, (), example, dynamic_shapes=dynamic, strict=strict).module()
    for sizes in ((1, 1), (3, 2), (5, 4)):
        given = inputs(*sizes)
        torch.testing.assert_close(program(**given)[0], model(**given)[0], rtol=1e-4, atol=1e-5)


# Loading for another clip size


def test_a_folder_loads_for_another_clip_size_as_if_resized_after_loading(tiny_pretraining_model, tmp_path):
    from transformers import AutoConfig, AutoModel

    with torch.no_grad():
        for table in ("encoder.embeddings", "predictor"):
            tiny_pretraining_model.vjepa.get_submodule(table).position_embeddings.add_(0.5)
    tiny_pretraining_model.save_pretrained(tmp_path)
    saved = VJEPAModel.from_pretrained(tmp_path)
    for size in (
        {"image_size": 64},
        {"num_frames": 8, "image_size": (16, 64)},
        {"crop_size": 16},
        {"frames_per_clip": 2},
    ):
        expected = copy.deepcopy(saved)
        names = {"crop_size": "image_size", "frames_per_clip": "num_frames"}
        expected.resize_position_embeddings(**{names.get(name, name): value for name, value in size.items()})
        config = AutoConfig.from_pretrained(tmp_path, **size)
        for model in (
            VJEPAModel.from_pretrained(tmp_path, **size),
            VJEPAModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **size),
            AutoModel.from_pretrained(tmp_path, **size),
            VJEPAModel.from_pretrained(tmp_path, config=config),
            VJEPAForPreTraining.from_pretrained(tmp_path, **size).vjepa,
        ):
            assert model.config.grid_size == expected.config.grid_size == config.grid_size
            for name, tensor in expected.state_dict().items():
                assert torch.equal(model.state_dict()[name], tensor), (size, name)


def test_a_clip_size_with_as_many_tokens_is_resampled_too(tiny_config, tmp_path):
    tiny_config.image_size = (32, 64)
    VJEPAModel(tiny_config).save_pretrained(tmp_path)
    saved, clip = VJEPAModel.from_pretrained(tmp_path), torch.randn(1, 4, 3, 64, 32)
    turned = VJEPAModel.from_pretrained(tmp_path, image_size=(64, 32))
    assert not torch.equal(turned.encoder.embeddings.position_embeddings, saved.encoder.embeddings.position_embeddings)
    torch.testing.assert_close(run(turned, clip)[0], run(saved, clip)[0])


def test_a_size_that_tubelets_do_not_fill_is_an_error_when_loading(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="image_size=60 is not a positive multiple of patch_size=8"):
        VJEPAModel.from_pretrained(tmp_path, image_size=60)


def test_a_number_of_positions_does_not_resize_them(tiny_model):
    with pytest.raises(ValueError, match="new_num_position_embeddings=64 does not define a grid.*num_frames"):
        tiny_model.resize_position_embeddings(64)


def test_an_empty_state_dict_gives_initial_weights_and_a_foreign_one_is_an_error(tiny_config):
    model = VJEPAModel.from_pretrained(None, config=tiny_config, state_dict={})
    assert model.encoder.layers[0].mlp.fc1.weight.std() > 0.01
    with pytest.raises(ValueError, match="no weights of an encoder"):
        VJEPAModel.from_pretrained(None, config=tiny_config, state_dict={"tensor": torch.zeros(1)})


def test_position_tables_are_filled_where_they_are_made(tiny_config):
    from transformers.initialization import no_init_weights

    with no_init_weights():
        bare = VJEPAForPreTraining(tiny_config)
    filled = VJEPAForPreTraining(tiny_config)
    tables = [name for name, _ in filled.named_buffers()]
    assert len(tables) == 3
    for name in tables:
        assert torch.equal(bare.get_buffer(name), filled.get_buffer(name))


# What other loops do with a model


def test_the_trainer_of_transformers_finds_the_loss_of_pretraining(tiny_pretraining_model, tmp_path):
    from transformers import Trainer, TrainingArguments

    def collate(clips):
        context, target = masks(batch=len(clips))
        return {"pixel_values_videos": torch.stack(clips), "context_masks": [context], "target_masks": [target]}

    clips = list(torch.randn(4, 4, 3, 32, 32))
    arguments = TrainingArguments(
        tmp_path, use_cpu=True, report_to="none", remove_unused_columns=False, disable_tqdm=True, max_steps=1
    )
    trainer = Trainer(
        tiny_pretraining_model, arguments, train_dataset=clips, eval_dataset=clips, data_collator=collate
    )
    trainer.train()
    with torch.no_grad():
        expected = tiny_pretraining_model(**collate(clips)).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert run(tiny_pretraining_model, **collate(clips), return_loss=False).loss is None


def test_a_predictor_that_gets_no_gradient_in_a_process_group_is_named(tiny_model, tiny_clip, tmp_path, monkeypatch):
    from vjepa_hf.model import modeling_vjepa

    warnings = []
    monkeypatch.setattr(modeling_vjepa.logger, "warning_once", warnings.append)
    tiny_model(tiny_clip)
    assert not warnings
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        run(tiny_model, tiny_clip)
        tiny_model(tiny_clip, context_mask=CONTEXT, target_mask=TARGET)
        assert not warnings
        tiny_model(tiny_clip)
        assert len(warnings) == 1 and "add_predictor=False" in warnings[0]
        tiny_model.predictor.requires_grad_(False)
        tiny_model(tiny_clip)
        assert len(warnings) == 1
    finally:
        torch.distributed.destroy_process_group()
