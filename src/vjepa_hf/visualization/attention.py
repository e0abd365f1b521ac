"""Where the attentive pooler of a classifier looks."""

import numpy as np
import torch
from matplotlib.figure import Figure

from ..model.modeling_vjepa import VJEPAAttentivePooler
from .strips import plot_strips


@torch.no_grad()
def pooler_attention(pooler: VJEPAAttentivePooler, tokens: torch.Tensor) -> torch.Tensor:
    """Return the attention of the pooler's query to each token, as the mean over its heads, `(B, N)`; rows sum to 1.

    The weights are computed from the queries and keys, because fused attention does not return them. With several
    pooler layers, the tokens are those that the last layer attends to.

    Args:
        pooler: pooler of a classifier.
        tokens: features `(B, N, D)` that it pools.
    """
    for layer in pooler.self_attention_layers:
        tokens, _ = layer(tokens)
    last = pooler.cross_attention_layer
    attention, heads = last.attention, last.attention.num_attention_heads
    query = attention.q(pooler.query_tokens).unflatten(-1, (heads, -1))  # (1, 1, heads, D / heads)
    key, _ = attention.kv(last.norm1(tokens)).chunk(2, dim=-1)  # (B, N, D)
    scores = (query * key.unflatten(-1, (heads, -1))).sum(dim=-1) * attention.scaling  # (B, N, heads)
    return scores.float().softmax(dim=1).mean(dim=-1)


def plot_attention(frames: np.ndarray, attention: np.ndarray, num_columns: int = 8) -> Figure:
    """Draw frames, and the attention below them.

    Args:
        frames: uint8 `(n, H, W, 3)`, the frame of each time step.
        attention: `(n, h, w)`.
        num_columns: number of evenly spaced time steps to draw.
    """
    return plot_strips({"video": frames, "attention": attention}, num_columns)
