"""V-JEPA: encoder, predictor, attentive pooler and the models made of them.

Letters in shape comments: B clips, V views of a clip, T frames, C channels, H x W pixels; grid t x h x w of tubelets,
N = t * h * w tokens; K context (kept) tokens, M target (masked) tokens; D width; L labels.
"""

import copy
import glob
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn
from torchvision.ops import roi_align
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import CONFIG_NAME, ModelOutput, can_return_tuple, logging

from .checks import (
    check_arguments,
    check_attentions,
    check_boxes,
    check_clips,
    check_full_precision,
    check_labels,
    check_layers,
    check_mask,
    check_mask_lists,
    check_objective,
    check_parts_are_whole,
    check_shapes,
    check_target_hidden_state,
    check_tubelets,
    check_views,
)
from .configuration_vjepa import VJEPAConfig
from .objective import context_loss, distances_to_targets, join_levels, normed_targets
from .rotary import Rotation, rotate, rotation_of
from .tubelets import Grid, grid_size, resize_positions, sincos_positions, take_tokens, to_tubelets

logger = logging.get_logger(__name__)

Model = TypeVar("Model", bound="VJEPAPreTrainedModel")
# All hidden states or none, or the index or indices of those to return.
HiddenStateChoice = bool | int | Sequence[int] | None
# Where `from_pretrained` finds the files of a folder of the Hub.
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# The default of a field that every output has: `ModelOutput` asks for one, and it must be None.
ALWAYS_SET: Any = None


@dataclass
class VJEPAModelOutput(ModelOutput):
    """Features of a clip.

    Attributes:
        last_hidden_state: `(B, N, D)`, or `(B, K, D)` with a context mask; after the final layer norm.
        predictor_hidden_state: `(B, M, D)` predicted features of the target tokens; only with a target mask.
        hidden_states: embeddings and the residual stream after every layer, before the final norm, each `(B, N, D)`;
            None for those that were not chosen.
        attentions: attention weights of every encoder layer, each `(B, heads, N, N)`; eager attention only.
        layer_hidden_states: normed features of the layers that `output_layers` asks for, each `(B, N, D)`.
        predictor_context_state: `(B, K, D)` predicted features of the context tokens, with `pred_context_head`.
    """

    last_hidden_state: torch.Tensor = ALWAYS_SET
    predictor_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    layer_hidden_states: tuple[torch.Tensor, ...] | None = None
    predictor_context_state: torch.Tensor | None = None

    @property
    def probe_layers(self) -> tuple[torch.Tensor, ...]:
        """Return the features that a probe reads: of each of the `output_layers`, by default of the last layer."""
        return self.layer_hidden_states or (self.last_hidden_state,)


@dataclass
class VJEPAForPreTrainingOutput(ModelOutput):
    """Loss of a batch and its parts; each tuple has one entry per mask type.

    With `pred_num_levels`, predictions and targets have the width levels * D: one level after the other.

    Attributes:
        loss: mean over the mask types of `losses`, plus the weighted mean of `context_losses`.
        losses: mean absolute error per mask type, scalars.
        predictions: `(B, M, D)` predicted features.
        targets: `(B, M, D)` layer-normed features of the target encoder, without gradient.
        context_hidden_states: `(B, K, D)` features of the context encoder.
        target_hidden_state: `(B, N, D)`, the features that `targets` are taken from, for every mask type.
        context_losses: loss on the context tokens per mask type, scalars; only with `pred_context_head`.
        hidden_states: per mask type those of the context encoder, as in `VJEPAModelOutput`.
        attentions: per mask type those of the context encoder, as in `VJEPAModelOutput`.
    """

    loss: torch.Tensor | None = None
    losses: tuple[torch.Tensor, ...] = ALWAYS_SET
    predictions: tuple[torch.Tensor, ...] = ALWAYS_SET
    targets: tuple[torch.Tensor, ...] = ALWAYS_SET
    context_hidden_states: tuple[torch.Tensor, ...] = ALWAYS_SET
    target_hidden_state: torch.Tensor = ALWAYS_SET
    context_losses: tuple[torch.Tensor, ...] | None = None
    hidden_states: tuple[tuple[torch.Tensor | None, ...], ...] | None = None
    attentions: tuple[tuple[torch.Tensor, ...], ...] | None = None


def average_views(logits: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """Average the probabilities of V views with `logits` `(B, V, L)`; return their logits `(B, L)`."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if problem_type == "regression":
        return logits.mean(dim=1)
    if problem_type == "multi_label_classification":  # log p - log(1 - p), because p may round to 0 or 1
        log_sigmoid = nn.functional.logsigmoid
        return log_sigmoid(logits).logsumexp(dim=1) - log_sigmoid(-logits).logsumexp(dim=1)
    return logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])


def soft_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the mean cross entropy of logits `(B, L)` with soft labels `(B, L)`, the fractions of each class.

    A row that sums to 1 counts once, a row that sums to w counts w times, and a row of zeros does not count.
    """
    loss = -(labels * logits.float().log_softmax(dim=-1)).sum()
    return loss / labels.sum().clamp_min(torch.finfo(loss.dtype).tiny)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend without a fused kernel, and return the weights too; the interface of `ALL_ATTENTION_FUNCTIONS`."""
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


class VJEPATubeletProjection(nn.Conv3d):
    """The convolution of the published checkpoints, for tubelets that fill its kernel: `(n, C, t, p, p)`.

    Such a convolution is one matmul, which takes a seventh of the time of PyTorch's convolution on a CPU.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Embed tubelets `(n, C, t, p, p)` as `(n, D, 1, 1, 1)`."""
        tokens = nn.functional.linear(input.flatten(1).to(self.weight.dtype), self.weight.flatten(1), self.bias)
        return tokens[..., None, None, None]


def initial_positions(config: VJEPAConfig, width: int) -> torch.Tensor | None:
    """Make the position embeddings `(N, width)` of the configured clip size, in the dtype of new weights.

    There are none where queries and keys turn.
    """
    if config.position_embedding_type != "sincos":
        return None
    return sincos_positions(config.grid_size, width, config.uniform_power).to(torch.get_default_dtype())


class VJEPAEmbeddings(nn.Module):
    """Tubelets to tokens: a linear projection plus fixed positions, or none where queries and keys turn."""

    position_embeddings: torch.Tensor | None

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.projection = VJEPATubeletProjection(
            config.num_channels, config.hidden_size, kernel_size=kernel, stride=kernel
        )
        # A buffer, not a formula: checkpoints may carry another table, and the moving average includes it.
        self.register_buffer("position_embeddings", initial_positions(config, config.hidden_size))
        if config.image_tokenizer:
            self.image_projection = VJEPATubeletProjection(
                config.num_channels, config.hidden_size, kernel_size=(1, *kernel[1:]), stride=(1, *kernel[1:])
            )
            self.modality_embeddings = VJEPAModalityEmbeddings(config.hidden_size)

    def forward(self, tubelets: torch.Tensor, grid: Grid, context_mask: torch.Tensor | None = None) -> torch.Tensor:
        # Masked tubelets leave before they are embedded: (B, N, P) -> (B, K, P)
        if context_mask is not None:
            tubelets = take_tokens(tubelets, context_mask)
        config = self.config
        image = is_image(tubelets, config)
        projection = self.image_projection if image else self.projection
        kernel = (config.num_channels, 1 if image else config.tubelet_size, config.patch_size, config.patch_size)
        # (B, K, P) -> (B * K, C, t, p, p) -> (B * K, D, 1, 1, 1) -> (B, K, D)
        tokens = projection(tubelets.reshape(-1, *kernel))
        tokens = tokens.reshape(*tubelets.shape[:2], config.hidden_size)
        if config.image_tokenizer:
            tokens = self.modality_embeddings(tokens, image)
        if self.position_embeddings is None:
            return tokens
        positions = resize_positions(self.position_embeddings, config.grid_size, grid)
        return tokens + (positions if context_mask is None else positions[context_mask])


def is_image(tubelets: torch.Tensor, config: VJEPAConfig) -> bool:
    """Return whether tubelets have one frame and an embedding of their own."""
    return config.image_tokenizer and tubelets.shape[-1] == config.num_channels * config.patch_size**2


class VJEPAModalityEmbeddings(nn.Module):
    """Embeddings of images and videos, which start near zero (V-JEPA 2.1)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.image = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.video = nn.Parameter(torch.zeros(1, 1, hidden_size))

    def forward(self, tokens: torch.Tensor, image: bool) -> torch.Tensor:
        return tokens + (self.image if image else self.video)


class VJEPAAttention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, config: VJEPAConfig, hidden_size: int, num_attention_heads: int):
        super().__init__()
        self.config = config
        self.num_attention_heads = num_attention_heads
        self.head_size = hidden_size // num_attention_heads
        self.scaling = self.head_size**-0.5
        self.is_causal = False
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, rotation: Rotation | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend among tokens `(B, N, D)`; return the attended tokens and the attention weights."""
        # (B, N, 3D) -> (B, N, 3, heads, D / heads) -> three times (B, N, heads, D / heads)
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_attention_heads, -1))
        if rotation is None:
            query, key, value = qkv.unbind(2)
        else:
            query, key, value = *rotate(qkv[:, :, :2], rotation).unbind(2), qkv[:, :, 2]
        context, weights = attend(self, *(part.transpose(1, 2) for part in (query, key, value)))
        return self.proj(context.flatten(2)), weights


class VJEPACrossAttention(nn.Module):
    """Multi-head attention of a few queries over tokens.

    There is no output projection: the released probes carry one in their weights that was never applied in training.
    """

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        self.num_attention_heads = config.pooler_num_attention_heads or config.num_attention_heads
        self.scaling = (config.hidden_size // self.num_attention_heads) ** -0.5
        self.is_causal = False
        self.q = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.kv = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=config.qkv_bias)

    def forward(self, queries: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Attend from queries `(B, Q, D)` to tokens `(B, N, D)`."""
        heads = self.num_attention_heads
        query = self.q(queries).unflatten(-1, (heads, -1))
        # (B, N, 2D) -> (B, N, 2, heads, D / heads) -> two times (B, N, heads, D / heads)
        key, value = self.kv(hidden_states).unflatten(-1, (2, heads, -1)).unbind(2)
        context, _ = attend(self, *(part.transpose(1, 2) for part in (query, key, value)))
        return context.flatten(2)


def attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend by the implementation that the config names; return `(B, queries, heads, D / heads)` and the weights."""
    config: Any = module.config
    interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)
    dropout = config.attention_probs_dropout_prob if module.training else 0.0
    return interface(
        module, query, key, value, attention_mask=None, scaling=module.scaling, dropout=dropout, is_causal=False
    )


class VJEPAMLP(nn.Module):
    def __init__(self, config: VJEPAConfig, hidden_size: int, mlp_ratio: float):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, int(hidden_size * mlp_ratio))
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(int(hidden_size * mlp_ratio), hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class VJEPADropPath(nn.Module):
    """Stochastic depth: in training, skips the whole branch of a clip with probability `drop_prob`."""

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return branch
        keep_prob = 1.0 - self.drop_prob
        keep = torch.empty(branch.shape[0], 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(keep_prob)
        return branch * keep / keep_prob


def drop_path_rates(highest: float, num_layers: int) -> list[float]:
    """Return the stochastic depth rate of every layer: it grows linearly from 0 to `highest`."""
    return [highest * index / max(1, num_layers - 1) for index in range(num_layers)]


class VJEPALayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer."""

    def __init__(
        self,
        config: VJEPAConfig,
        hidden_size: int,
        num_attention_heads: int,
        mlp_ratio: float,
        layer_norm_eps: float,
        drop_path_rate: float,
        depth: int | None = None,
    ):
        """Make a layer; `depth`, counted from 1, is for `initializer_depth_scaling`."""
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = VJEPAAttention(config, hidden_size, num_attention_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.mlp = VJEPAMLP(config, hidden_size, mlp_ratio)
        if config.initializer_depth_scaling and depth is not None:
            for output in (self.attention.proj, self.mlp.fc2):  # transformers initializes only modules with weights
                output.initializer_divisor = math.sqrt(2 * depth)  # type: ignore[assignment]
        self.drop_path = VJEPADropPath(drop_path_rate)

    def forward(
        self, hidden_states: torch.Tensor, rotation: Rotation | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Transform tokens `(B, N, D)`; return them and the attention weights."""
        branch, weights = self.attention(self.norm1(hidden_states), rotation)
        hidden_states = hidden_states + self.drop_path(branch)
        return hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states))), weights


def chosen_hidden_states(output_hidden_states: HiddenStateChoice, num_hidden_states: int) -> set[int]:
    """Return the indices of the hidden states to return; negative ones count from the last."""
    if output_hidden_states is None or isinstance(output_hidden_states, bool):
        return set(range(num_hidden_states)) if output_hidden_states else set()
    indices = [output_hidden_states] if isinstance(output_hidden_states, int) else output_hidden_states
    for index in indices:
        if not -num_hidden_states <= index < num_hidden_states:
            raise ValueError(
                f"output_hidden_states={output_hidden_states} contains {index}; the {num_hidden_states} hidden states "
                f"have the indices {-num_hidden_states} to {num_hidden_states - 1}, 0 is the embeddings."
            )
    return {index % num_hidden_states for index in indices}


class VJEPAEncoder(nn.Module):
    """Vision transformer over tubelets; with a context mask it embeds and encodes only the tubelets it names."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        self.embeddings = VJEPAEmbeddings(config)
        width, heads, mlp_ratio = config.hidden_size, config.num_attention_heads, config.mlp_ratio
        self.layers = nn.ModuleList(
            VJEPALayer(config, width, heads, mlp_ratio, config.layer_norm_eps, rate, depth)
            for depth, rate in enumerate(drop_path_rates(config.drop_path_rate, config.num_hidden_layers), start=1)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.level_layers is not None:  # the last of these layers has `norm`
            self.level_norms = nn.ModuleList(
                nn.LayerNorm(width, eps=config.layer_norm_eps) for _ in config.level_layers[:-1]
            )

    def norm_of(self, layer: int) -> nn.Module:
        """Return the layer norm of the output of a layer."""
        levels = (self.config.level_layers or [])[:-1]
        return self.level_norms[levels.index(layer)] if layer in levels else self.norm

    def forward(
        self,
        tubelets: torch.Tensor,
        grid: Grid,
        context_mask: torch.Tensor | None = None,
        output_hidden_states: HiddenStateChoice = False,
        output_attentions: bool = False,
        output_layers: Sequence[int] = (),
    ) -> VJEPAModelOutput:
        chosen = chosen_hidden_states(output_hidden_states, len(self.layers) + 1)
        hidden_states = self.embeddings(tubelets, grid, context_mask)
        rotation = rotation_for(self.layers[0], grid, context_mask, tubelets.device)
        all_hidden_states, all_attentions = [hidden_states if 0 in chosen else None], []
        layer_hidden_states = []
        for index, layer in enumerate(self.layers, start=1):
            hidden_states, weights = layer(hidden_states, rotation)
            all_hidden_states.append(hidden_states if index in chosen else None)
            if index - 1 in output_layers:
                layer_hidden_states.append(self.norm_of(index - 1)(hidden_states))
            if output_attentions:
                all_attentions.append(weights)
        is_normed = len(self.layers) - 1 in output_layers
        return VJEPAModelOutput(
            last_hidden_state=layer_hidden_states[-1] if is_normed else self.norm(hidden_states),
            hidden_states=tuple(all_hidden_states) if chosen else None,
            attentions=tuple(all_attentions) if output_attentions else None,
            layer_hidden_states=tuple(layer_hidden_states) if output_layers else None,
        )


def predicted_layers(config: VJEPAConfig) -> list[int]:
    """Return the encoder layers whose features the predictor reads and predicts."""
    return (config.level_layers or [config.num_hidden_layers - 1])[-config.pred_num_levels :]


def rotation_for(layer: Any, grid: Grid, mask: torch.Tensor | None, device: torch.device) -> Rotation | None:
    """Return the rotation of tokens in this layer and all like it; None with a position table."""
    config, kind = layer.attention.config, layer.attention.config.position_embedding_type
    if kind == "sincos":
        return None
    return rotation_of(grid, mask, layer.attention.head_size, kind, config.patch_size, device)


class VJEPAPredictor(nn.Module):
    """Narrow transformer that predicts the features of target tokens from features of context tokens."""

    position_embeddings: torch.Tensor | None

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        width = config.pred_hidden_size
        levels = config.pred_num_levels
        self.embed: nn.Module = nn.Linear(config.hidden_size, width)
        if levels > 1:
            self.embed = nn.Sequential(
                nn.Linear(levels * config.hidden_size, config.hidden_size),
                ACT2FN[config.hidden_act],
                nn.Linear(config.hidden_size, width),
            )
        self.mask_tokens = nn.Parameter(torch.zeros(config.pred_num_mask_tokens, width))
        self.register_buffer("position_embeddings", initial_positions(config, width))
        if config.image_tokenizer:
            self.modality_embeddings = VJEPAModalityEmbeddings(width)
        heads = config.pred_num_attention_heads or config.num_attention_heads
        self.layers = nn.ModuleList(
            VJEPALayer(config, width, heads, config.pred_mlp_ratio, config.layer_norm_eps, rate, depth)
            for depth, rate in enumerate(
                drop_path_rates(config.drop_path_rate, config.pred_num_hidden_layers), start=1
            )
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.proj = nn.Linear(width, levels * (config.pred_target_size or config.hidden_size))
        if config.pred_context_head:
            self.context_proj = nn.Linear(width, self.proj.out_features)

    def forward(
        self,
        context: torch.Tensor,
        grid: Grid,
        context_mask: torch.Tensor,
        target_mask: torch.Tensor,
        mask_token_index: int = 0,
        image: bool = False,
    ) -> torch.Tensor:
        """Predict features `(B, M, D)` at `target_mask` from the features `(B, K, D)` at `context_mask`.

        With `pred_context_head`, `(B, K + M, D)`: those of the context tokens first.
        """
        mask_token = self.mask_tokens[mask_token_index % self.mask_tokens.shape[0]]
        context = self.embed(context)
        if self.position_embeddings is None:
            targets = mask_token.expand(*target_mask.shape, -1).to(context.dtype)
        else:
            positions = resize_positions(self.position_embeddings, self.config.grid_size, grid)
            context = context + positions[context_mask]
            targets = (mask_token + positions[target_mask]).to(context.dtype)
        # (B, K + M, width): context tokens first, then one token for every target position
        hidden_states = torch.cat([context, targets], dim=1)
        if self.config.image_tokenizer:
            hidden_states = self.modality_embeddings(hidden_states, image)
        mask = torch.cat([context_mask, target_mask], dim=1)
        rotation = rotation_for(self.layers[0], grid, mask, context.device)
        for layer in self.layers:
            hidden_states, _ = layer(hidden_states, rotation)
        targets = self.proj(self.norm(hidden_states[:, context.shape[1] :]))
        if not self.config.pred_context_head:
            return targets
        return torch.cat([self.context_proj(self.norm(hidden_states[:, : context.shape[1]])), targets], dim=1)


class VJEPACrossAttentionLayer(GradientCheckpointingLayer):
    """Queries look at normed tokens; the queries themselves are not normed before attention."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.pooler_layer_norm_eps)
        self.attention = VJEPACrossAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.pooler_layer_norm_eps)
        self.mlp = VJEPAMLP(config, config.hidden_size, config.pooler_mlp_ratio)

    def forward(self, queries: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        queries = queries + self.attention(queries, self.norm1(hidden_states))
        return queries + self.mlp(self.norm2(queries))


class VJEPAAttentivePooler(nn.Module):
    """One vector per clip: a learnable query attends to all tokens (paper, section 4.3)."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        width, heads = config.hidden_size, config.pooler_num_attention_heads or config.num_attention_heads
        self.self_attention_layers = nn.ModuleList(
            VJEPALayer(config, width, heads, config.pooler_mlp_ratio, config.pooler_layer_norm_eps, drop_path_rate=0.0)
            for _ in range(config.num_pooler_layers - 1)
        )
        self.cross_attention_layer = VJEPACrossAttentionLayer(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Pool tokens `(B, N, D)` to `(B, D)`."""
        for layer in self.self_attention_layers:
            hidden_states, _ = layer(hidden_states)
        queries = self.query_tokens.expand(hidden_states.shape[0], -1, -1)  # len() would fix the batch in an export
        return self.cross_attention_layer(queries, hidden_states).squeeze(1)


class VJEPAPreTrainedModel(PreTrainedModel):
    """Base class of the models: configuration, initialization, loading, and what they support of transformers."""

    config: VJEPAConfig
    config_class = VJEPAConfig
    base_model_prefix = "vjepa"
    main_input_name = "pixel_values_videos"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    # Losses are means over the batch, so a `Trainer` that accumulates gradients divides them by the number of batches.
    # It would pass `num_items_in_batch` instead, because `forward` has `**kwargs`.
    accepts_loss_kwargs = False
    _no_split_modules = ["VJEPAEmbeddings", "VJEPALayer", "VJEPACrossAttentionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: VJEPAConfig):
        config.check_values()  # fields may have changed since the configuration was made
        super().__init__(config)

    @classmethod
    def from_pretrained(
        cls: type[Model], pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs
    ) -> Model:
        """Load a model whose parts are loaded whole or not at all.

        A part is an encoder, the predictor, the pooler or the classifier. transformers (5.17 to 5.24) loads a folder
        without a part, with some weights of a part or with none at all, and draws the missing weights at random with
        a warning. It takes a folder without configuration for a model of the default size, replaces position
        embeddings of another size with `ignore_mismatched_sizes=True`, reads pickles where there is no
        `.safetensors` file, and does not name a damaged file. Here only the predictor, the pooler, the classifier or
        one of two encoders may be missing, and only `.safetensors` files are read. Position embeddings are resampled
        by `resize_position_embeddings` if another `num_frames` or `image_size` is asked for. An empty `state_dict`
        asks for a model with initial weights.

        Raises:
            ValueError: a damaged file, a folder without configuration, a part with missing weights, no encoder, or
                weights of another shape than the configuration asks for.
            OSError: no weights to load.
        """
        folder = pretrained_model_name_or_path
        configured = kwargs.get("config") is not None or kwargs.get("subfolder")
        if not configured and os.path.isdir(folder or "") and not glob.glob(f"*{CONFIG_NAME}", root_dir=folder):
            raise ValueError(f"{folder} has no {CONFIG_NAME}; give the folder that save_pretrained wrote.")
        kwargs.setdefault("use_safetensors", True)  # a pickle could hold code
        kwargs, clip_size = _take_clip_size(folder, kwargs)
        may_differ = kwargs.pop("ignore_mismatched_sizes", False)
        try:
            loaded: Any = super().from_pretrained(
                folder, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        except SafetensorError as error:
            raise ValueError(f"{folder} holds a damaged .safetensors file ({error}); copy it here again.") from error
        model, info = loaded
        if kwargs.get("state_dict") != {}:
            check_parts_are_whole(model, info["missing_keys"], folder)
        check_shapes(info["mismatched_keys"], may_differ, folder)
        model.resize_position_embeddings(**clip_size)
        return loaded if output_loading_info else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            # As published: V-JEPA does not rescale by depth, V-JEPA 2 does.
            init.trunc_normal_(module.weight, std=std / getattr(module, "initializer_divisor", 1.0))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (VJEPAEmbeddings, VJEPAPredictor)):
            table = module.position_embeddings
            positions = None if table is None else initial_positions(self.config, table.shape[1])
            if table is not None and positions is not None:
                init.copy_(table, positions)
            if isinstance(module, VJEPAPredictor) and not self.config.pred_zero_init_mask_tokens:
                init.trunc_normal_(module.mask_tokens, std=std)
            elif isinstance(module, VJEPAPredictor):
                init.zeros_(module.mask_tokens)
        elif isinstance(module, VJEPAAttentivePooler):
            init.trunc_normal_(module.query_tokens, std=std)
        elif isinstance(module, VJEPAModalityEmbeddings):
            init.normal_(module.image, std=1e-6)
            init.normal_(module.video, std=1e-6)

    def _choose_outputs(
        self, output_hidden_states: HiddenStateChoice, output_attentions: bool | None
    ) -> tuple[HiddenStateChoice, bool]:
        """Replace arguments that are None by those of the configuration, and check them."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        check_attentions(bool(output_attentions), self.config._attn_implementation)
        return output_hidden_states, bool(output_attentions)

    @torch.no_grad()
    def resize_position_embeddings(
        self,
        new_num_position_embeddings: int | None = None,
        num_frames: int | None = None,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        """Configure the model for clips of another length or size, and resample the stored position embeddings.

        Features of such clips stay the same, because `forward` resamples the embeddings for any size of clip.

        Args:
            new_num_position_embeddings: argument of the base class; a number of positions does not define a grid.
            num_frames: frames of a clip; None keeps the number.
            image_size: pixels of a side, or (height, width); None keeps the size.

        Raises:
            ValueError: a size that is not a multiple of the tubelet size, or a number of positions.
        """
        if new_num_position_embeddings is not None:
            raise ValueError(
                f"new_num_position_embeddings={new_num_position_embeddings} does not define a grid of time steps, "
                "rows and columns; pass num_frames=... or image_size=..."
            )
        changes = {"num_frames": num_frames, "image_size": image_size}
        changes = {name: value for name, value in changes.items() if value is not None}
        if not changes:
            return
        old, new = self.config.grid_size, type(self.config)(**self.config.to_diff_dict() | changes).grid_size
        for module in self.modules():
            if isinstance(module, (VJEPAEmbeddings, VJEPAPredictor)) and module.position_embeddings is not None:
                module.position_embeddings = resize_positions(module.position_embeddings, old, new)
            if isinstance(getattr(module, "config", None), VJEPAConfig):
                for name, value in changes.items():
                    setattr(module.config, name, value)


def _take_clip_size(folder: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the arguments of `from_pretrained`: those that load a folder as it was saved, and the wanted clip size."""
    fields, names = ("num_frames", "image_size"), VJEPAConfig.attribute_map
    clip_size = {names.get(name, name): kwargs[name] for name in kwargs if names.get(name, name) in fields}
    kwargs = {name: value for name, value in kwargs.items() if names.get(name, name) not in fields}
    config = kwargs.get("config")
    if isinstance(config, VJEPAConfig) and folder is not None:
        of_hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        try:
            stored = VJEPAConfig.from_pretrained(folder, **of_hub)
        except OSError:  # weights without a configuration have the one that was given
            return kwargs, clip_size
        clip_size = {name: getattr(config, name) for name in fields} | clip_size
        kwargs["config"] = copy.deepcopy(config)
        for name in fields:
            setattr(kwargs["config"], name, getattr(stored, name))
    return kwargs, clip_size


class VJEPAModel(VJEPAPreTrainedModel):
    """Encoder and, unless `add_predictor=False`, predictor.

    `encoder` is the target (moving average) encoder of a pretraining run, the one to evaluate and to build on.
    """

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^pooler\.", r"^classifier\."]

    def __init__(self, config: VJEPAConfig, add_predictor: bool = True):
        super().__init__(config)
        self.encoder = VJEPAEncoder(config)
        self.predictor = VJEPAPredictor(config) if add_predictor else None
        if not add_predictor:
            ignored = type(self)._keys_to_ignore_on_load_unexpected
            self._keys_to_ignore_on_load_unexpected = [*ignored, r"^(vjepa\.)?predictor\."]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embeddings

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        tubelets: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
        mask_token_index: int = 0,
        grid_size: Grid | None = None,
        output_hidden_states: HiddenStateChoice = None,
        output_attentions: bool | None = None,
        output_layers: Sequence[int] | None = None,
        **kwargs,
    ) -> VJEPAModelOutput:
        """Encode whole clips or their context tokens, and predict the features of target tokens.

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)`, of any size that tubelets fill.
            tubelets: tubelet tokens `(B, N, C * tubelet_size * patch_size**2)`, in place of `pixel_values_videos`.
            context_mask: indices `(B, K)` of the tokens to keep. Only those tubelets are embedded and encoded.
            target_mask: indices `(B, M)` of the tokens to predict from the context; needs `context_mask`.
            mask_token_index: which mask token stands for the targets; the index of the mask type.
            grid_size: token grid (t, h, w) of `tubelets`, where it is not the configured one.
            output_hidden_states: whether to return the embeddings and the residual stream after every layer; an index
                or several: only those, and None for the others.
            output_attentions: whether to return attention weights; needs `attn_implementation="eager"`.
            output_layers: layers, counted from 0 and increasing, whose normed features to return.

        Raises:
            ValueError: inputs that do not fit each other or the configuration.
            TypeError: an unknown argument.
        """
        check_arguments(self, kwargs)
        output_layers = output_layers or ()
        output_hidden_states, output_attentions = self._choose_outputs(output_hidden_states, output_attentions)
        tubelets, grid = self.tokenize(pixel_values_videos, tubelets, grid_size)
        check_mask("context_mask", context_mask, tubelets)
        check_mask("target_mask", target_mask, tubelets)
        if target_mask is not None and context_mask is None:
            raise ValueError("target_mask needs context_mask: targets are predicted from context tokens; give both.")
        predictor = self.predictor
        if target_mask is not None and predictor is None:
            raise ValueError("target_mask needs a predictor; load the model without add_predictor=False.")

        if target_mask is None and predictor is not None:
            warn_of_unused_predictor(predictor)
        check_layers(output_layers, self.config)
        levels = predicted_layers(self.config) if target_mask is not None else []
        layers = sorted({*output_layers, *levels})
        outputs = self.encoder(tubelets, grid, context_mask, output_hidden_states, output_attentions, layers)
        features = dict(zip(layers, outputs.layer_hidden_states or (), strict=True))
        outputs.layer_hidden_states = tuple(features[layer] for layer in output_layers) if output_layers else None
        if target_mask is not None and context_mask is not None and predictor is not None:
            context = join_levels([features[layer] for layer in levels])
            image = is_image(tubelets, self.config)
            predictions = predictor(context, grid, context_mask, target_mask, mask_token_index, image)
            num_targets = target_mask.shape[1]
            outputs.predictor_hidden_state = predictions[:, -num_targets:]
            outputs.predictor_context_state = predictions[:, :-num_targets] if self.config.pred_context_head else None
        return outputs

    def get_video_features(self, pixel_values_videos: torch.Tensor, pool: str = "mean") -> torch.Tensor:
        """Encode whole clips and pool their tokens.

        "mean" is one vector per video, for search, clustering and duplicates. Subtract the mean over your videos, or
        standardize, before you compare such vectors by their cosine. "time" keeps when something happens: one vector
        per time step of `tubelet_size` frames. "none" keeps all tokens, ordered by time, row and column, for dense
        tasks and attentive probes, which separate actions better than means do.

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)`, or V clips per video `(B, V, T, C, H, W)`.
            pool: "mean", "time" or "none".

        Returns:
            "mean": `(B, D)`, over all clips of a video. "time": `(B, t, D)`, with V clips `(B, V, t, D)`. "none":
            `(B, N, D)`, with V clips `(B, V, N, D)`.

        Raises:
            ValueError: an unknown `pool`, or clips that do not fit the configuration.
        """
        if pool not in ("mean", "time", "none"):
            raise ValueError(f"pool={pool!r} must be mean, time or none.")
        is_multi_clip = pixel_values_videos.ndim == 6
        clips = pixel_values_videos.flatten(0, 1) if is_multi_clip else pixel_values_videos
        features = self(clips, return_dict=True).last_hidden_state
        if pool == "time":
            steps = max(1, clips.shape[1] // self.config.tubelet_size)  # an image of V-JEPA 2.1 has one frame
            features = features.unflatten(1, (steps, -1)).mean(dim=2)
        if is_multi_clip:
            features = features.unflatten(0, pixel_values_videos.shape[:2])
        return features.flatten(1, -2).mean(dim=1) if pool == "mean" else features

    def tokenize(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        tubelets: torch.Tensor | None = None,
        grid: Grid | None = None,
    ) -> tuple[torch.Tensor, Grid]:
        """Return tubelet tokens `(B, N, C * tubelet_size * patch_size**2)` and their grid (t, h, w)."""
        config = self.config
        if tubelets is not None and pixel_values_videos is None:
            grid = grid or config.grid_size
            check_tubelets(tubelets, grid, config, 1 if is_image(tubelets, config) else config.tubelet_size)
            return tubelets, grid
        if pixel_values_videos is None or tubelets is not None:
            raise ValueError("give exactly one of pixel_values_videos and tubelets.")
        check_clips(pixel_values_videos, config.num_channels)
        _, num_frames, _, height, width = pixel_values_videos.shape
        tubelet_size = 1 if config.image_tokenizer and num_frames == 1 else config.tubelet_size
        grid = grid_size(num_frames, height, width, tubelet_size, config.patch_size)
        return to_tubelets(pixel_values_videos, tubelet_size, config.patch_size), grid


def warn_of_unused_predictor(predictor: VJEPAPredictor) -> None:
    """Warn that a predictor without `target_mask` gets no gradient, at which DistributedDataParallel fails."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not torch.distributed.is_initialized():
        return
    if any(weight.requires_grad for weight in predictor.parameters()):
        logger.warning_once(
            "VJEPAModel runs without target_mask, so the weights of its predictor get no gradient, and "
            "DistributedDataParallel will fail. Load the model with from_pretrained(..., add_predictor=False), or "
            "call model.predictor.requires_grad_(False)."
        )


class VJEPAForPreTraining(VJEPAPreTrainedModel):
    """The V-JEPA objective: predict the target encoder's features of masked tokens from context tokens.

    `vjepa` holds the target encoder and the predictor; `context_encoder` is the encoder that is trained. A saved
    folder therefore loads as `VJEPAModel` with the target encoder as its encoder.
    """

    _keys_to_ignore_on_load_unexpected = [r"^pooler\.", r"^classifier\."]

    def __init__(self, config: VJEPAConfig):
        super().__init__(config)
        self.vjepa = VJEPAModel(config)
        self.context_encoder = VJEPAEncoder(config)
        self.post_init()
        self.train()

    def train(self, mode: bool = True) -> "VJEPAForPreTraining":
        """Set the mode of context encoder and predictor. The target encoder stays frozen and in evaluation mode."""
        super().train(mode)
        self.vjepa.encoder.eval().requires_grad_(False)
        return self

    def initialize_weights(self) -> None:
        """Initialize both encoders alike. One that is missing from a checkpoint becomes a copy of the other."""
        super().initialize_weights()
        contexts = self.context_encoder.state_dict(keep_vars=True)
        for name, target in self.vjepa.encoder.state_dict(keep_vars=True).items():
            # Like every function of `transformers.initialization`, this leaves loaded tensors as they are.
            init.copy_(target, contexts[name])
            init.copy_(contexts[name], target)

    def get_input_embeddings(self) -> nn.Module:
        return self.context_encoder.embeddings

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        context_masks: Sequence[torch.Tensor],
        target_masks: Sequence[torch.Tensor],
        mask_type_indices: Sequence[int] | None = None,
        target_hidden_state: torch.Tensor | None = None,
        output_hidden_states: HiddenStateChoice = None,
        output_attentions: bool | None = None,
        return_loss: bool = True,
        context_loss_weight: float = 0.5,
        context_loss_by_distance: bool = True,
        **kwargs,
    ) -> VJEPAForPreTrainingOutput:
        """Compute the loss of a batch of clips (paper, equation 1 and section 3.2) or of images.

        Mask types are independent of each other, so they may be given one call at a time, with a backward pass after
        each: only one type's activations are in memory then. Pass `target_hidden_state` of the first call to the
        others, so that the target encoder runs once, and divide each loss by the number of mask types.

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)`; with `image_tokenizer` and T = 1, images.
            context_masks: one LongTensor `(B, K)` of visible token indices per mask type; K may differ between types.
            target_masks: one LongTensor `(B, M)` of token indices to predict per mask type.
            mask_type_indices: which mask type each entry is, from 0; default 0, 1, ... Type i uses mask token i modulo
                the number of mask tokens, or token 0 without `pred_mask_token_per_mask_type`.
            target_hidden_state: `(B, N, D)`, as an earlier call on the same clips returned it.
            output_hidden_states: as in `VJEPAModel`, of the context encoder.
            output_attentions: as in `VJEPAModel`, of the context encoder.
            return_loss: whether to return `loss`; a `Trainer` reads here that this model needs no labels for it.
            context_loss_weight: weight of the loss on context tokens, which models with `pred_context_head` have
                (V-JEPA 2.1).
            context_loss_by_distance: whether that loss is divided by the square root of the distance of a token to the
                nearest target, see `objective.context_loss`.

        Raises:
            ValueError: lists that are empty or differ in length, a mask or a hidden state of the wrong shape.
            TypeError: an unknown argument.
        """
        check_arguments(self, kwargs)
        output_hidden_states, output_attentions = self._choose_outputs(output_hidden_states, output_attentions)
        if mask_type_indices is None:
            mask_type_indices = range(len(context_masks))
        check_mask_lists(context_masks, target_masks, mask_type_indices)
        tubelets, grid = self.vjepa.tokenize(pixel_values_videos)
        for mask in (*context_masks, *target_masks):
            check_mask("a context or target mask", mask, tubelets)
        if target_hidden_state is None:
            target_hidden_state = self.encode_targets(tubelets, grid)
        levels = predicted_layers(self.config)
        check_target_hidden_state(target_hidden_state, (*tubelets.shape[:2], len(levels) * self.config.hidden_size))
        predictor = self.vjepa.predictor
        assert predictor is not None  # `__init__` makes one
        check_objective(self.config)
        image = is_image(tubelets, self.config)
        losses, context_losses, predictions, targets, contexts = [], [], [], [], []
        for context_mask, target_mask, index in zip(context_masks, target_masks, mask_type_indices, strict=True):
            index = index if self.config.pred_mask_token_per_mask_type else 0
            context = self.context_encoder(
                tubelets, grid, context_mask, output_hidden_states, output_attentions, levels
            )
            features = join_levels(context.layer_hidden_states)
            prediction = predictor(features, grid, context_mask, target_mask, index, image)
            if self.config.pred_context_head:
                num_context = context_mask.shape[1]
                distances = distances_to_targets(context_mask, target_mask, grid) if context_loss_by_distance else None
                context_target = take_tokens(target_hidden_state, context_mask)
                context_losses.append(context_loss(prediction[:, :num_context], context_target, distances))
                prediction = prediction[:, num_context:]
            target = take_tokens(target_hidden_state, target_mask)
            losses.append(nn.functional.l1_loss(prediction.float(), target))
            predictions.append(prediction)
            targets.append(target)
            contexts.append(context)
        loss = torch.stack(losses).mean()
        if context_losses:
            loss = loss + context_loss_weight * torch.stack(context_losses).mean()
        return VJEPAForPreTrainingOutput(
            loss=loss if return_loss else None,
            losses=tuple(losses),
            predictions=tuple(predictions),
            targets=tuple(targets),
            context_hidden_states=tuple(context.last_hidden_state for context in contexts),
            target_hidden_state=target_hidden_state,
            context_losses=tuple(context_losses) or None,
            hidden_states=tuple(context.hidden_states for context in contexts) if contexts[0].hidden_states else None,
            attentions=tuple(context.attentions for context in contexts) if contexts[0].attentions else None,
        )

    @torch.no_grad()
    def encode_targets(self, tubelets: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Encode whole clips by the target encoder, as layer-normed features `(B, N, D)` in float32."""
        layers = predicted_layers(self.config)
        return normed_targets(self.vjepa.encoder(tubelets, grid, output_layers=layers).layer_hidden_states)

    @torch.no_grad()
    def update_target_encoder(self, momentum: float) -> None:
        """Move the target encoder to `momentum * target + (1 - momentum) * context`, position tables included.

        Raises:
            ValueError: a momentum outside [0, 1], or weights in half precision, which round such small moves away.
        """
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum={momentum} must lie in [0, 1].")
        target, context = self.vjepa.encoder, self.context_encoder
        check_full_precision(target)
        torch._foreach_lerp_(list(target.parameters()), list(context.parameters()), 1.0 - momentum)
        # Separately, because sharded parameters are DTensors and buffers are not. Rotary positions need no buffers.
        if buffers := list(target.buffers()):
            torch._foreach_lerp_(buffers, list(context.buffers()), 1.0 - momentum)


class VJEPAPooledModel(VJEPAPreTrainedModel):
    """Base class of the models that put an attentive pooler and a linear classifier on the encoder."""

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\."]

    def __init__(self, config: VJEPAConfig):
        super().__init__(config)
        self.vjepa = VJEPAModel(config, add_predictor=False)
        self.pooler = VJEPAAttentivePooler(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vjepa.get_input_embeddings()

    def encode(
        self, clips: torch.Tensor, output_hidden_states: HiddenStateChoice, output_attentions: bool | None
    ) -> Any:
        """Encode clips `(B, T, C, H, W)` to a `VJEPAModelOutput` with the layers that the pooler reads."""
        return self.vjepa(
            clips,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            output_layers=self.config.pooler_layers,
            return_dict=True,
        )


class VJEPAForVideoClassification(VJEPAPooledModel):
    """Encoder, attentive pooler and a linear classifier (paper, section 4.3)."""

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: HiddenStateChoice = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> ImageClassifierOutput:
        """Compute the logits `(B, L)` of clips, or of videos with several views.

        With several views, the softmax (or sigmoid) of the logits is the mean of the probabilities of the views, and
        the loss is the mean of their losses. With `pooler_num_clips`, as many consecutive clips make one view, and the
        pooler attends to the tokens of all of them. The encoder runs on one clip of each video at a time.

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)`, or views `(B, V, T, C, H, W)`.
            labels: class indices `(B,)`. With `config.problem_type` "single_label_classification" also the fractions
                `(B, L)` of the classes, see `soft_cross_entropy`.
            output_hidden_states: as in `VJEPAModel`, of a single clip.
            output_attentions: as in `VJEPAModel`, of a single clip.

        Raises:
            ValueError: the number of views is not a multiple of `pooler_num_clips`, or hidden states or attentions
                are requested for several views.
            TypeError: an unknown argument.
        """
        check_arguments(self, kwargs)
        if labels is not None:
            check_labels(labels, pixel_values_videos.shape[0], self.config)
        has_views = getattr(pixel_values_videos, "ndim", None) == 6
        check_clips(pixel_values_videos[:, 0] if has_views else pixel_values_videos, self.config.num_channels)
        videos = pixel_values_videos if has_views else pixel_values_videos[:, None]
        num_clips, num_views = self.config.pooler_num_clips, videos.shape[1]
        check_views(num_views, num_clips, bool(output_hidden_states or output_attentions))
        views = []
        for clips in videos.split(num_clips, dim=1):
            tokens: list[torch.Tensor] = []
            for clip in clips.unbind(1):
                outputs = self.encode(clip, output_hidden_states, output_attentions)
                tokens.extend(outputs.probe_layers)
            views.append(self.classifier(self.pooler(torch.cat(tokens, dim=1))))
        logits = torch.stack(views, dim=1)  # (B, V / num_clips, L)
        loss = None
        if labels is not None:
            view_labels = labels.repeat_interleave(logits.shape[1], dim=0)
            if self.config.problem_type == "single_label_classification" and labels.is_floating_point():
                loss = soft_cross_entropy(logits.flatten(0, 1), view_labels)
            else:
                loss = self.loss_function(labels=view_labels, pooled_logits=logits.flatten(0, 1), config=self.config)
        logits = average_views(logits, self.config.problem_type)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@dataclass
class VJEPAForActionDetectionOutput(ModelOutput):
    """Actions in the boxes of a batch of clips.

    Attributes:
        loss: binary cross entropy, mean over the boxes and the actions; only with labels.
        logits: `(B, R, L)`. The actions are independent: the sigmoid of a logit is a score in [0, 1]. Padding has the
            lowest number of the dtype, so its scores are 0.
        hidden_states: of the encoder, as in `VJEPAModelOutput`.
        attentions: of the encoder, as in `VJEPAModelOutput`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class VJEPAForActionDetection(VJEPAPooledModel):
    """Encoder, RoIAlign, attentive pooler and a linear classifier of each box (localization on AVA: paper, section 5).

    Boxes come from annotators or from a person detector. The model predicts which of the L actions a box shows, any
    number of them. RoIAlign (He et al., 2017) takes `roi_size` x `roi_size` features from the box at every time step,
    and the pooler attends to those of all time steps.
    """

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        boxes: torch.Tensor,
        box_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: HiddenStateChoice = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> VJEPAForActionDetectionOutput:
        """Compute the logits of every action in every box.

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)` around their key frames.
            boxes: `(B, R, 4)`, x1, y1, x2, y2 in units of the frame's width and height, from 0 to 1, so that resizing
                does not change them. A box is the same at all time steps.
            box_mask: `(B, R)`, True for a box and False for the padding of a clip with fewer boxes; None: no padding.
                A clip may have no box.
            labels: `(B, R, L)`, 1 for the actions of a box and 0 for the others.
            output_hidden_states: as in `VJEPAModel`.
            output_attentions: as in `VJEPAModel`.

        Raises:
            ValueError: shapes that do not fit each other, or boxes that are empty or not within [0, 1].
            TypeError: an unknown argument.
        """
        check_arguments(self, kwargs)
        check_clips(pixel_values_videos, self.config.num_channels)
        if box_mask is None:
            box_mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        check_boxes(boxes, box_mask, labels, pixel_values_videos.shape[0], self.config)
        outputs = self.encode(pixel_values_videos, output_hidden_states, output_attentions)
        _, num_frames, _, height, width = pixel_values_videos.shape
        grid = grid_size(num_frames, height, width, self.config.tubelet_size, self.config.patch_size)
        # Padding takes part as a box of the whole frame, so that no shape depends on the values of `box_mask`.
        whole_frame = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        real_boxes = torch.where(box_mask[..., None], boxes, whole_frame)
        if boxes.shape[1] == 0:  # attention needs at least one box, and the loss must reach every parameter
            real_boxes = whole_frame.expand(boxes.shape[0], 1, -1)
        layers = outputs.probe_layers
        tokens = torch.cat([box_features(layer, grid, real_boxes, self.config.roi_size) for layer in layers], dim=1)
        box_logits = self.classifier(self.pooler(tokens)).unflatten(0, real_boxes.shape[:2])
        box_logits = box_logits[:, : boxes.shape[1]]  # (B, R, L)
        loss = None
        if labels is not None:
            losses = nn.functional.binary_cross_entropy_with_logits(
                box_logits.float(), labels.where(box_mask[..., None], 0).float(), reduction="none"
            )
            num_terms = box_mask.sum() * box_logits.shape[-1]
            loss = losses.where(box_mask[..., None], 0.0).sum() / num_terms.clamp_min(1)
        logits = box_logits.masked_fill(~box_mask[..., None], torch.finfo(box_logits.dtype).min)
        return VJEPAForActionDetectionOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def box_features(features: torch.Tensor, grid: Grid, boxes: torch.Tensor, roi_size: int) -> torch.Tensor:
    """Take the features inside boxes, `(B * R, t * roi_size * roi_size, D)`.

    Args:
        features: features of whole clips, `(B, N, D)`.
        grid: token grid (t, h, w) of the clips.
        boxes: `(B, R, 4)`, x1, y1, x2, y2 between 0 and 1.
        roi_size: rows and columns of features in a box, at each time step.
    """
    t, h, w = grid
    # Time joins the channels, so that one box covers all time steps: (B, t * h * w, D) -> (B, t * D, h, w)
    volume = features.unflatten(1, (t, h, w)).permute(0, 1, 4, 2, 3).flatten(1, 2)
    corners = boxes * boxes.new_tensor([w, h, w, h])
    clips = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None].expand(-1, boxes.shape[1], 1)
    rois = torch.cat([clips.to(corners), corners], dim=-1).flatten(0, 1)  # (B * R, 5)
    # In float32, because roi_align does not support bfloat16 on a CPU.
    regions = roi_align(volume.float(), rois.float(), roi_size, aligned=True).to(features.dtype)
    # (B * R, t * D, roi_size, roi_size) -> (B * R, t * roi_size * roi_size, D)
    return regions.unflatten(1, (t, -1)).permute(0, 1, 3, 4, 2).flatten(1, 3)


__all__ = [
    "VJEPAForActionDetection",
    "VJEPAForPreTraining",
    "VJEPAForVideoClassification",
    "VJEPAModel",
    "VJEPAPreTrainedModel",
]
