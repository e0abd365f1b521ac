"""Linear layers, with the faster of two libraries for float32 products where PyTorch takes the slower one.

PyTorch's float32 products on a CPU are those of MKL, which uses half the width of the vector units of a CPU that Intel
did not make. oneDNN, which PyTorch carries as well, uses all of it; benchmarks/train_step.py measures both.
"""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula


def mkl_is_slow() -> bool:
    """Whether this CPU has wide vector units that MKL leaves to CPUs of Intel."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if not hasattr(torch.cpu, "get_capabilities"):  # added in PyTorch 2.11
        return False
    capabilities = torch.cpu.get_capabilities()
    return capabilities.get("avx512_f", False) and "AMD" in capabilities.get("cpu_name", "")


USE_ONEDNN = mkl_is_slow()
# Calling an operation of our own costs more than products of narrower layers gain.
SMALLEST_WEIGHT = 2**17


class Linear(nn.Linear):
    """`torch.nn.Linear` with the products of `linear`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight, self.bias)


def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`input @ weight.T + bias` of `(..., in)`, `(out, in)` and `(out,)`, equal to PyTorch's to rounding."""
    if USE_ONEDNN and _suits_onednn(input, weight):
        return onednn_linear(input, weight, bias)
    return functional.linear(input, weight, bias)


def _suits_onednn(input: torch.Tensor, weight: torch.Tensor) -> bool:
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False  # an exported model knows the operations of PyTorch only
    if type(input) is not torch.Tensor or type(weight) not in (torch.Tensor, nn.Parameter):
        return False  # sharded, quantized and other tensors have products of their own
    if weight.numel() < SMALLEST_WEIGHT:
        return False
    on_cpu = input.device.type == weight.device.type == "cpu"
    return on_cpu and input.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


# As an operation of its own, because torch.compile takes oneDNN's for weights that never change.
@torch.library.custom_op("vjepa_hf::onednn_linear", mutates_args=(), device_types="cpu")
def onednn_linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear` of float32 tensors on a CPU, by oneDNN; with gradients, compiled or not."""
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


@onednn_linear.register_fake
def _(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


def _keep_for_backward(ctx, inputs: tuple, output: torch.Tensor) -> None:
    input, weight, _ = inputs
    ctx.save_for_backward(input, weight)


def _backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    of_input, of_weight, of_bias = ctx.needs_input_grad
    rows = gradient.flatten(0, -2)
    return (
        onednn_linear(gradient, weight.T, None) if of_input else None,
        rows.T @ input.flatten(0, -2) if of_weight else None,  # MKL is as fast where the sum is over the long side
        rows.sum(dim=0) if of_bias else None,
    )


onednn_linear.register_autograd(_backward, setup_context=_keep_for_backward)


@register_flop_formula(torch.ops.vjepa_hf.onednn_linear)
def _(input_shape: torch.Size, weight_shape: torch.Size, *args, **kwargs) -> int:
    return 2 * torch.Size(input_shape).numel() * weight_shape[0]
