"""FLOPs of a clip, computed from sizes, and the matmul throughput that this device reaches.

FLOPs are those of matmuls; a multiplication and an addition are two. `clip_flops` counts what the mathematics needs:
work that is done twice, such as scores that fused attention recomputes in its backward pass, does not count.

Needed FLOPs over time and over the measured matmul throughput are the `matmul_utilization` of the log. It is not MFU,
which divides by the peak that the vendor states.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..model.configuration_vjepa import VJEPAConfig

# Sides of the square matrices of `matmul_rate`: large enough to reach the rate, small enough to take moments.
SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class ClipFlops:
    """Operations of one clip in a training step, all mask types together.

    Attributes:
        target: forward pass of the target encoder, which has no backward pass.
        context: forward passes of the context encoder.
        predictor: forward passes of the predictor.
        backward: backward passes of context encoder and predictor.
        attention: how many of `context` and `predictor` are products of attention that have a backward pass; half of
            these again is what fused attention recomputes there.
    """

    target: int
    context: int
    predictor: int
    backward: int
    attention: int

    @property
    def total(self) -> int:
        return self.target + self.context + self.predictor + self.backward


def attention_flops(num_queries: int, num_keys: int, width: int) -> int:
    """Scores and weighted sum of all heads together."""
    return 4 * num_queries * num_keys * width


def layer_flops(num_tokens: int, width: int, mlp_ratio: float, num_outputs: int | None = None) -> int:
    """A transformer layer over `num_tokens` tokens of which the last `num_outputs` are needed (None: all)."""
    outputs = num_tokens if num_outputs is None else num_outputs
    qkv = 6 * num_tokens * width**2
    projection = 2 * outputs * width**2
    mlp = 4 * outputs * width * int(width * mlp_ratio)
    return qkv + attention_flops(outputs, num_tokens, width) + projection + mlp


def embedding_flops(config: VJEPAConfig, num_tokens: int) -> int:
    """The matrix product from tubelets to tokens."""
    size = config.num_channels * config.tubelet_size * config.patch_size**2
    return 2 * num_tokens * size * config.hidden_size


def encoder_flops(config: VJEPAConfig, num_tokens: int | None = None) -> int:
    """Forward pass of the encoder over one clip, or over `num_tokens` of its tokens."""
    num_tokens = math.prod(config.grid_size) if num_tokens is None else num_tokens
    layer = layer_flops(num_tokens, config.hidden_size, config.mlp_ratio)
    return embedding_flops(config, num_tokens) + config.num_hidden_layers * layer


def predictor_flops(config: VJEPAConfig, num_context: int, num_targets: int) -> int:
    """Forward pass of the predictor; its last layer is needed at the target tokens only."""
    width, num_tokens = config.pred_hidden_size, num_context + num_targets
    in_and_out = 2 * num_tokens * width * config.hidden_size
    layers = (config.pred_num_hidden_layers - 1) * layer_flops(num_tokens, width, config.pred_mlp_ratio)
    return in_and_out + layers + layer_flops(num_tokens, width, config.pred_mlp_ratio, num_targets)


def clip_flops(
    config: VJEPAConfig, num_context: Sequence[int], num_targets: Sequence[int], freeze_layers: int = 0
) -> ClipFlops:
    """Operations of one clip with `num_context` and `num_targets` tokens, one entry per mask type.

    The embedding and the first `freeze_layers` of the context encoder have no backward pass, if there are any.
    """
    context = sum(encoder_flops(config, kept) for kept in num_context)
    predictor = sum(predictor_flops(config, *tokens) for tokens in zip(num_context, num_targets, strict=True))
    # Every product has two in the backward pass, but nobody needs the gradient of the pixels.
    backward = 2 * (context + predictor) - sum(embedding_flops(config, kept) for kept in num_context)
    if freeze_layers:
        layers = sum(layer_flops(kept, config.hidden_size, config.mlp_ratio) for kept in num_context)
        backward -= 2 * freeze_layers * layers + sum(embedding_flops(config, kept) for kept in num_context)
    trained_layers = config.num_hidden_layers - freeze_layers
    attention = 0
    for kept, masked in zip(num_context, num_targets, strict=True):
        tokens, width = kept + masked, config.pred_hidden_size
        attention += trained_layers * attention_flops(kept, kept, config.hidden_size)
        attention += (config.pred_num_hidden_layers - 1) * attention_flops(tokens, tokens, width)
        attention += attention_flops(masked, tokens, width)
    return ClipFlops(encoder_flops(config), context, predictor, backward, attention)


def step_flops(
    config: VJEPAConfig,
    context_masks: Sequence[torch.Tensor],
    target_masks: Sequence[torch.Tensor],
    freeze_layers: int = 0,
) -> int:
    """Count the FLOPs of a training step over a batch with masks `(B, K)` and `(B, M)`, one of each per mask type."""
    num_context, num_targets = ([mask.shape[1] for mask in masks] for masks in (context_masks, target_masks))
    return len(context_masks[0]) * clip_flops(config, num_context, num_targets, freeze_layers).total


def matmul_rate(
    device: torch.device | str,
    dtype: torch.dtype,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure the FLOP/s of a matmul of large square matrices, the best of a few repeats.

    It depends on what else runs on the device, and on a CPU on the threads of this process.
    """
    device = torch.device(device)
    side = SIDE.get(device.type, 4096)
    # Random numbers: a GPU multiplies equal ones faster than any that a model has.
    generator = torch.Generator(device).manual_seed(0)
    left, right = torch.rand(2, side, side, device=device, generator=generator).to(dtype)
    left @ right.T
    times = []
    for _ in range(repeats):
        _wait_for(device)
        began = clock()
        left @ right.T
        _wait_for(device)
        times.append(clock() - began)
    return 2 * side**3 / min(times)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
