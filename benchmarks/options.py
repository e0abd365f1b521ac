"""What a training step could do otherwise: every option as a change to a model. Imported by train_step.py, not run.

An option is applied in a process of its own, so it may replace what the package does for good.
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import ScalingType, layer_norm, pad, scaled_mm
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.model import linear, modeling_vjepa
from vjepa_hf.model.modeling_vjepa import TARGET_LAYER_NORM_EPS, VJEPAEncoder, VJEPALayer
from vjepa_hf.training import setup as training

# Of a layer, the products that selective checkpointing keeps: the dear ones.
DEAR = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.vjepa_hf.onednn_linear.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]


@dataclass(frozen=True)
class Option:
    """A change to a step.

    Attributes:
        apply: changes the model, or what the package does.
        where: "cpu", "cuda", "float8" (CPUs, where it is slow, and GPUs that have such products) or "": everywhere.
        bf16: whether it is for bf16 steps; None for all.
        compiled: whether it is a change to compiled layers; it then compiles them itself.
    """

    apply: Callable[[VJEPAForPreTraining], None]
    where: str = ""
    bf16: bool | None = None
    compiled: bool = False

    def is_for(self, device: str, bf16: bool) -> bool:
        if self.where == "float8" and device != "cpu" and torch.cuda.get_device_capability() < (8, 9):
            return False
        if self.where == "float8":
            return bf16
        return self.where in ("", torch.device(device).type) and self.bf16 in (None, bf16)


# --- the target encoder --------------------------------------------------------------------------------------------


def use_for_targets(model: VJEPAForPreTraining, encoder: VJEPAEncoder, follow: Callable[[], None]) -> None:
    """Take targets from another encoder, which `follow` brings up to date whenever the average has moved."""

    @torch.no_grad()
    def encode_targets(tubelets: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        features = encoder(tubelets, grid).last_hidden_state.float()
        return layer_norm(features, features.shape[-1:], eps=TARGET_LAYER_NORM_EPS)

    def update_target_encoder(momentum: float) -> None:
        update(momentum)
        follow()

    update = model.update_target_encoder
    model.encode_targets, model.update_target_encoder = encode_targets, update_target_encoder


def bf16_target(model: VJEPAForPreTraining) -> None:
    """Encode targets with bf16 weights, copied from the float32 average; residual stream and norms are bf16 too."""
    average = model.vjepa.encoder
    encoder = copy.deepcopy(average).bfloat16()

    @torch.no_grad()
    def follow() -> None:
        torch._foreach_copy_(list(encoder.state_dict().values()), list(average.state_dict().values()))

    use_for_targets(model, encoder, follow)


class Float8Linear(nn.Module):
    """Product of float8 numbers, with one scale for a token and one for an output; weights are scaled once a step."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.source = source
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        self.weight, self.scale = to_float8(self.source.weight)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        tokens, scale = to_float8(input.flatten(0, -2))
        by_row = ScalingType.RowWise
        bias = self.source.bias.bfloat16()
        product = scaled_mm(tokens, self.weight.T, scale, by_row, self.scale.T, by_row, bias=bias)
        return product.unflatten(0, input.shape[:-1])


def to_float8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as float8 numbers, and what each row has to be multiplied by."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale = rows.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-12) / largest
    return (rows / scale).clamp(-largest, largest).to(torch.float8_e4m3fn), scale


def float8_target(model: VJEPAForPreTraining) -> None:
    """Encode targets with float8 products in all layers."""
    encoder = copy.deepcopy(model.vjepa.encoder)
    products = []
    for layer, average in zip(encoder.layers, model.vjepa.encoder.layers, strict=True):
        for part, of_average, names in (
            (layer.attention, average.attention, ("qkv", "proj")),
            (layer.mlp, average.mlp, ("fc1", "fc2")),
        ):
            for name in names:
                products.append(Float8Linear(getattr(of_average, name)))
                setattr(part, name, products[-1])

    def follow() -> None:
        for product in products:
            product.follow()

    use_for_targets(model, encoder, follow)


# --- what is kept for the backward pass ----------------------------------------------------------------------------


def keep_everything(model: VJEPAForPreTraining) -> None:
    """Keep what norms and activations give, instead of computing it again."""

    @contextlib.contextmanager
    def remembered(function: Callable, inputs: torch.Tensor, recompute: bool = True) -> Iterator[torch.Tensor]:
        yield function(inputs)

    modeling_vjepa.forgotten = remembered


def checkpoint(model: VJEPAForPreTraining) -> None:
    """Keep what enters a layer only."""
    training.checkpoint_activations(model)


def checkpoint_selectively(model: VJEPAForPreTraining) -> None:
    """Keep what enters a layer, and its products."""
    contexts = functools.partial(create_selective_checkpoint_contexts, DEAR)
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False, "context_fn": contexts})


# --- kernels -------------------------------------------------------------------------------------------------------


def use_mkl(model: VJEPAForPreTraining) -> None:
    """Float32 products by PyTorch's choice of library."""
    linear.USE_ONEDNN = False


def change_attention(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Attention of changed queries, keys and values `(B, heads, N, D / heads)`."""
    attend = modeling_vjepa.attend

    def attend_changed(module: nn.Module, *parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        context, weights = attend(module, *(change(part) for part in parts))
        return context[..., : parts[2].shape[-1]], weights

    modeling_vjepa.attend = attend_changed


def lay_out_heads(model: VJEPAForPreTraining) -> None:
    """Queries, keys and values copied head by head before attention."""
    change_attention(torch.Tensor.contiguous)


def pad_heads(model: VJEPAForPreTraining) -> None:
    """Heads filled with zeros to a multiple of 64; the softmax still divides by the root of their own size."""
    change_attention(lambda part: pad(part, (0, -part.shape[-1] % 64)))


def compile_and_keep(model: VJEPAForPreTraining) -> None:
    """Compiled layers that keep all that the compiler would."""
    training.KEPT_ACTIVATIONS = 1.0
    training.compile_layers(model)


def compile_with(mode: str) -> Callable[[VJEPAForPreTraining], None]:
    """Layers compiled in another mode."""

    def apply(model: VJEPAForPreTraining) -> None:
        for module in model.modules():
            if isinstance(module, VJEPALayer):
                module.compile(dynamic=True, mode=mode)

    return apply


def compile_whole(model: VJEPAForPreTraining) -> None:
    """One graph from pixels to loss, for any number of tokens."""
    model.compile(dynamic=True)


OPTIONS = {
    "products by MKL": Option(use_mkl, "cpu", bf16=False),
    "keeps everything": Option(keep_everything),
    "checkpointed layers": Option(checkpoint),
    "checkpointed but products": Option(checkpoint_selectively),
    "heads copied together": Option(lay_out_heads),
    "heads padded to 64": Option(pad_heads),
    "bf16 target weights": Option(bf16_target, bf16=True),
    "float8 target": Option(float8_target, "float8"),
    "compiled, keeps everything": Option(compile_and_keep, compiled=True),
    "compiled as a whole": Option(compile_whole, compiled=True),
    "compiled, max-autotune": Option(compile_with("max-autotune-no-cudagraphs"), "cuda", compiled=True),
    "compiled, CUDA graphs": Option(compile_with("reduce-overhead"), "cuda", compiled=True),
}
