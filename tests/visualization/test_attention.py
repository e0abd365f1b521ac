"""The attention of the pooler is what decides its output, whichever attention function runs.

pytest tests/visualization/test_attention.py
"""

import copy

import numpy as np
import pytest
import torch

from tiny_models import seeded
from vjepa_hf import VJEPAForVideoClassification
from vjepa_hf.visualization.attention import plot_attention, pooler_attention


@pytest.fixture(params=[1, 3])
def pooler(tiny_config, request):
    """Pooler of one layer (V-JEPA) or three (V-JEPA 2), with a query that looks somewhere."""
    tiny_config.num_labels, tiny_config.num_pooler_layers = 3, request.param
    pooler = seeded(VJEPAForVideoClassification, tiny_config).pooler
    with torch.no_grad():
        for weight in (pooler.query_tokens, pooler.cross_attention_layer.attention.kv.weight):
            weight.mul_(20)
    return pooler


@pytest.fixture
def tokens():
    return torch.randn(2, 32, 48, generator=torch.Generator().manual_seed(0))


def test_attention_weighs_the_values_as_the_pooler_does(pooler, tokens):
    """With one head and equal values per token, the output of the attention is the weighted mean of the values."""
    with torch.no_grad():
        mixed = tokens
        for layer in pooler.self_attention_layers:
            mixed, _ = layer(mixed)
        last = pooler.cross_attention_layer
        normed = last.norm1(mixed)
        outputs = last.attention(pooler.query_tokens.expand(2, -1, -1), normed)[:, 0]
        values = last.attention.kv(normed).chunk(2, dim=-1)[1]
        heads = last.attention.num_attention_heads
        # Give all heads the same value, so that the mean over the heads of the outputs uses the mean weights.
        shared = values.unflatten(-1, (heads, -1))
        weights = pooler_attention(pooler, tokens)
        assert weights.shape == (2, 32) and torch.allclose(weights.sum(dim=1), torch.ones(2))
        assert weights.std(dim=1).min() > 1e-3
        per_head = torch.stack([_weights_of_head(pooler, mixed, head) for head in range(heads)])  # (heads, B, N)
        torch.testing.assert_close(per_head.mean(dim=0), weights)
        expected = torch.einsum("hbn,bnhd->bhd", per_head, shared).flatten(1)
        torch.testing.assert_close(outputs, expected)


def _weights_of_head(pooler, tokens, head):
    last = pooler.cross_attention_layer
    attention = last.attention
    size = tokens.shape[-1] // attention.num_attention_heads
    part = slice(head * size, (head + 1) * size)
    query = attention.q(pooler.query_tokens)[0, 0, part]
    keys = attention.kv(last.norm1(tokens))[..., : tokens.shape[-1]][..., part]
    return (keys @ query / size**0.5).softmax(dim=-1)


def test_eager_and_fused_attention_give_the_same_map(pooler, tokens):
    fused, eager = copy.deepcopy(pooler), copy.deepcopy(pooler)
    for module, name in ((fused, "sdpa"), (eager, "eager")):
        for part in module.modules():
            if hasattr(part, "config"):
                part.config = copy.deepcopy(part.config)
                part.config._attn_implementation = name
    torch.testing.assert_close(pooler_attention(fused, tokens), pooler_attention(eager, tokens), atol=1e-6, rtol=1e-4)


def test_a_token_twice_gets_its_attention_twice(tiny_classifier, tokens):
    """So one clip has the map of a probe that reads it as all of its clips."""
    pooler = tiny_classifier.pooler
    once, twice = pooler_attention(pooler, tokens), pooler_attention(pooler, torch.cat([tokens, tokens], dim=1))
    torch.testing.assert_close(twice.unflatten(1, (2, -1)).sum(dim=1), once)


def test_attention_is_drawn_below_the_frames():
    figure = plot_attention(np.zeros((4, 8, 8, 3), np.uint8), np.random.default_rng(0).random((4, 2, 2)), 2)
    assert [axis.get_ylabel() for axis in figure.axes] == ["video", "", "attention", ""]
