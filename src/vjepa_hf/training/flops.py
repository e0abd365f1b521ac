"""FLOPs of a training step, computed from sizes, and the measured matmul throughput of a device.

Only matmuls count; a multiplication and an addition are two FLOPs. Recomputed work does not count, such as the scores
that fused attention computes again in its backward pass.

`matmul_utilization` in the log is the FLOP/s of the run divided by the measured matmul throughput. It is not MFU,
which divides by the peak that the vendor states.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..model.configuration_vjepa import VJEPAConfig

# Side of the square matrices of `matmul_rate`: large enough for full throughput, small enough to be fast.
SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class ClipFlops:
    """FLOPs of one clip in a training step, all mask types together.

    Attributes:
        target: forward pass of the target encoder, which has no backward pass.
        context: forward passes of the context encoder.
        predictor: forward passes of the predictor.
        backward: backward passes of the context encoder and the predictor.
        attention: part of `context` and `predictor` in attention with a backward pass; fused attention recomputes
            half of it there.
    """

    target: int
    context: int
    predictor: int
    backward: int
    attention: int

    @property
    def total(self) -> int:
        return self.target + self.context + self.predictor + self.backward


def attention_flops(num_tokens: int, width: int) -> int:
    """Count the FLOPs of the scores and weighted sums of all heads."""
    return 4 * num_tokens**2 * width


def layer_flops(num_tokens: int, width: int, mlp_ratio: float) -> int:
    """Count the FLOPs of a transformer layer over `num_tokens` tokens."""
    qkv_and_projection = 8 * num_tokens * width**2
    mlp = 4 * num_tokens * width * int(width * mlp_ratio)
    return qkv_and_projection + attention_flops(num_tokens, width) + mlp


def embedding_flops(config: VJEPAConfig, num_tokens: int, image: bool = False) -> int:
    """Count the FLOPs of the embedding of tubelets, or of an image by its tokenizer."""
    size = config.num_channels * (1 if image else config.tubelet_size) * config.patch_size**2
    return 2 * num_tokens * size * config.hidden_size


def encoder_flops(config: VJEPAConfig, num_tokens: int | None = None, image: bool = False) -> int:
    """Count the FLOPs of a forward pass of the encoder over one clip or image, or over `num_tokens` of its tokens."""
    if num_tokens is None:
        num_tokens = math.prod(config.grid_size[1:] if image else config.grid_size)
    layer = layer_flops(num_tokens, config.hidden_size, config.mlp_ratio)
    return embedding_flops(config, num_tokens, image) + config.num_hidden_layers * layer


def predictor_flops(config: VJEPAConfig, num_context: int, num_targets: int) -> int:
    """Count the FLOPs of a forward pass of the predictor: context tokens go in, target tokens come out."""
    width, num_tokens = config.pred_hidden_size, num_context + num_targets
    size, levels = config.hidden_size, config.pred_num_levels
    join_levels = 2 * num_context * levels * size**2 if levels > 1 else 0
    outputs = num_targets + (num_context if config.pred_context_head else 0)
    in_and_out = 2 * num_context * width * size + 2 * outputs * width * levels * size + join_levels
    return in_and_out + config.pred_num_hidden_layers * layer_flops(num_tokens, width, config.pred_mlp_ratio)


def clip_flops(
    config: VJEPAConfig,
    num_context: Sequence[int],
    num_targets: Sequence[int],
    freeze_layers: int = 0,
    image: bool = False,
) -> ClipFlops:
    """Count the FLOPs of one clip or image with `num_context` and `num_targets` tokens, one entry per mask type.

    With `freeze_layers`, the embedding and that many first layers of the context encoder have no backward pass.
    """
    context = sum(encoder_flops(config, kept, image) for kept in num_context)
    predictor = sum(predictor_flops(config, *tokens) for tokens in zip(num_context, num_targets, strict=True))
    # Every matmul has two in the backward pass, but the gradient of the pixels is not needed.
    backward = 2 * (context + predictor) - sum(embedding_flops(config, kept, image) for kept in num_context)
    if freeze_layers:
        layers = sum(layer_flops(kept, config.hidden_size, config.mlp_ratio) for kept in num_context)
        backward -= 2 * freeze_layers * layers + sum(embedding_flops(config, kept, image) for kept in num_context)
    trained_layers = config.num_hidden_layers - freeze_layers
    attention = 0
    for kept, masked in zip(num_context, num_targets, strict=True):
        tokens, width = kept + masked, config.pred_hidden_size
        attention += trained_layers * attention_flops(kept, config.hidden_size)
        attention += config.pred_num_hidden_layers * attention_flops(tokens, width)
    return ClipFlops(encoder_flops(config, image=image), context, predictor, backward, attention)


def step_flops(
    config: VJEPAConfig,
    context_masks: Sequence[torch.Tensor],
    target_masks: Sequence[torch.Tensor],
    freeze_layers: int = 0,
    image: bool = False,
) -> int:
    """Count the FLOPs of a training step over a batch with masks `(B, K)` and `(B, M)`, one of each per mask type."""
    num_context, num_targets = ([mask.shape[1] for mask in masks] for masks in (context_masks, target_masks))
    return len(context_masks[0]) * clip_flops(config, num_context, num_targets, freeze_layers, image).total


def matmul_rate(
    device: torch.device | str,
    dtype: torch.dtype,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure the FLOP/s of a matmul of large square matrices, the best of a few repeats.

    It depends on the other programs on the device, and on a CPU on the number of threads of this process.
    """
    device = torch.device(device)
    side = SIDE.get(device.type, 4096)
    # Random numbers, because a GPU multiplies constant matrices faster.
    generator = torch.Generator(device).manual_seed(0)
    left, right = torch.rand(2, side, side, device=device, generator=generator).to(dtype)
    left @ right.T
    times = []
    for _ in range(repeats):
        _wait_for(device)
        started = clock()
        left @ right.T
        _wait_for(device)
        times.append(clock() - started)
    return 2 * side**3 / min(times)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
