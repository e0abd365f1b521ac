"""V-JEPA: encoder, predictor, attentive pooler and the models made of them.

Letters in shape comments: B clips, V views of a clip, T frames, C channels, H x W pixels; grid t x h x w of tubelets,
N = t * h * w tokens; K context (kept) tokens, M target (masked) tokens; D width; L labels.
"""

import glob
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
from transformers.utils import CONFIG_NAME, ModelOutput, can_return_tuple

from .configuration_vjepa import VJEPAConfig
from .tubelets import grid_size, take_tokens, to_tubelets

# The published targets are normalized with PyTorch's default epsilon, unlike the encoder's own norms.
TARGET_LAYER_NORM_EPS = 1e-5
# A clip with this label counts in no loss of PyTorch.
IGNORED_LABEL = -100


@dataclass
class VJEPAModelOutput(ModelOutput):
    """Features of a clip.

    Attributes:
        last_hidden_state: `(B, N, D)`, or `(B, K, D)` with a context mask; after the final layer norm.
        predictor_hidden_state: `(B, M, D)` predicted features of the target tokens; only with a target mask.
        hidden_states: embeddings and the residual stream after every layer, before the final norm, each `(B, N, D)`.
        attentions: attention weights of every encoder layer, each `(B, heads, N, N)`; eager attention only.
    """

    last_hidden_state: torch.FloatTensor | None = None
    predictor_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class VJEPAForPreTrainingOutput(ModelOutput):
    """Loss of a batch and what it was computed from; each tuple has one entry per mask type.

    Attributes:
        loss: mean over the mask types of `losses`.
        losses: mean absolute error per mask type, scalars.
        predictions: `(B, M, D)` predicted features.
        targets: `(B, M, D)` layer-normed features of the target encoder, without gradient.
        context_hidden_states: `(B, K, D)` features of the context encoder.
        target_hidden_state: `(B, N, D)` what `targets` were taken from; one for all mask types.
    """

    loss: torch.FloatTensor | None = None
    losses: tuple[torch.FloatTensor, ...] | None = None
    predictions: tuple[torch.FloatTensor, ...] | None = None
    targets: tuple[torch.FloatTensor, ...] | None = None
    context_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    target_hidden_state: torch.FloatTensor | None = None


def sincos_positions(grid: tuple[int, int, int], width: int, uniform_power: bool) -> torch.Tensor:
    """Fixed 3D sin-cos position embeddings `(N, width)` in float32 (paper, section 3.3).

    Time, row and column each get a part of the width, all sines then all cosines: three parts of `2 * ceil(width / 6)`
    cut to `width` with `uniform_power`, else one half, one quarter and one quarter.
    """
    part = 2 * -(-width // 6)
    parts = (part, part, part) if uniform_power else (width // 2, width // 4, width // 4)
    coordinates = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in grid), indexing="ij")
    tables = []
    for coordinate, part in zip(coordinates, parts, strict=True):
        frequencies = 10000.0 ** (-torch.arange(part // 2, dtype=torch.float64) / (part / 2))
        angles = coordinate.reshape(-1, 1) * frequencies
        tables += [angles.sin(), angles.cos()]
    return torch.cat(tables, dim=1)[:, :width].float()


def resize_positions(table: torch.Tensor, grid: tuple[int, int, int], new_grid: tuple[int, int, int]) -> torch.Tensor:
    """Resample a position table `(N, D)` of `grid` to `new_grid`, trilinearly and by explicit size."""
    if grid == new_grid:
        return table
    volume = table.float().T.reshape(1, -1, *grid)
    volume = nn.functional.interpolate(volume, size=new_grid, mode="trilinear", align_corners=False)
    return volume.flatten(2)[0].T.to(table.dtype)


def average_views(logits: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """Logits `(B, L)` whose probabilities are the mean over the views of the probabilities of `logits` `(B, V, L)`."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if problem_type == "regression":
        return logits.mean(dim=1)
    if problem_type == "multi_label_classification":  # log p - log(1 - p), for p may round to 0 or 1
        log_sigmoid = nn.functional.logsigmoid
        return log_sigmoid(logits).logsumexp(dim=1) - log_sigmoid(-logits).logsumexp(dim=1)
    return logits.log_softmax(dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])


def soft_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of logits `(B, L)` with the shares that each class has of a clip, `labels` `(B, L)`.

    A row whose shares sum to 1 counts once, one that sums to w counts w times, and a row of zeros not at all.
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
    """Plain attention that also returns its weights; the interface of `ALL_ATTENTION_FUNCTIONS`."""
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
        tokens = nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return tokens[..., None, None, None]


class VJEPAEmbeddings(nn.Module):
    """Tubelets to tokens: a linear projection plus fixed positions."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.projection = VJEPATubeletProjection(
            config.num_channels, config.hidden_size, kernel_size=kernel, stride=kernel
        )
        # A buffer, not a formula: checkpoints may carry another table, and the moving average includes it.
        self.register_buffer("position_embeddings", torch.empty(math.prod(config.grid_size), config.hidden_size))

    def forward(
        self, tubelets: torch.Tensor, grid: tuple[int, int, int], context_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        # Masked tubelets leave before they are embedded: (B, N, P) -> (B, K, P)
        positions = resize_positions(self.position_embeddings, self.config.grid_size, grid)
        if context_mask is not None:
            tubelets = take_tokens(tubelets, context_mask)
            positions = positions[context_mask]
        config = self.config
        kernel = (config.num_channels, config.tubelet_size, config.patch_size, config.patch_size)
        # (B, K, P) -> (B * K, C, t, p, p) -> (B * K, D, 1, 1, 1) -> (B, K, D)
        tokens = self.projection(tubelets.to(self.projection.weight.dtype).reshape(-1, *kernel))
        return tokens.reshape(*tubelets.shape[:2], config.hidden_size) + positions


class VJEPAAttention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, config: VJEPAConfig, hidden_size: int, num_attention_heads: int):
        super().__init__()
        self.config = config
        self.num_attention_heads = num_attention_heads
        self.scaling = (hidden_size // num_attention_heads) ** -0.5
        self.is_causal = False
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend among tokens `(B, N, D)`; return the attended tokens and the attention weights."""
        # (B, N, 3D) -> (B, N, 3, heads, D / heads) -> three times (B, N, heads, D / heads)
        query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_attention_heads, -1)).unbind(2)
        context, weights = attend(self, *(part.transpose(1, 2) for part in (query, key, value)))
        return self.proj(context.flatten(2)), weights


class VJEPACrossAttention(nn.Module):
    """Multi-head attention of a few queries over tokens.

    There is no output projection: the released probes carry one in their weights that was never applied in training.
    """

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
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
    """Attention `(B, queries, heads, D / heads)` and its weights, by the implementation that the config names."""
    config: VJEPAConfig = module.config
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
    """Stochastic depth: in training, leaves out the whole branch of a clip with probability `drop_prob`."""

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return branch
        keep_prob = 1.0 - self.drop_prob
        keep = torch.empty(branch.shape[0], 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(keep_prob)
        return branch * keep / keep_prob


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
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = VJEPAAttention(config, hidden_size, num_attention_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.mlp = VJEPAMLP(config, hidden_size, mlp_ratio)
        self.drop_path = VJEPADropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Transform tokens `(B, N, D)`; return them and the attention weights."""
        branch, weights = self.attention(self.norm1(hidden_states))
        hidden_states = hidden_states + self.drop_path(branch)
        return hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states))), weights


class VJEPAEncoder(nn.Module):
    """Vision transformer over tubelets; with a context mask it embeds and encodes only the tubelets it names."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.embeddings = VJEPAEmbeddings(config)
        self.layers = nn.ModuleList(
            VJEPALayer(
                config,
                config.hidden_size,
                config.num_attention_heads,
                config.mlp_ratio,
                config.layer_norm_eps,
                config.drop_path_rate * index / max(1, config.num_hidden_layers - 1),
            )
            for index in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        tubelets: torch.Tensor,
        grid: tuple[int, int, int],
        context_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> VJEPAModelOutput:
        hidden_states = self.embeddings(tubelets, grid, context_mask)
        all_hidden_states, all_attentions = [hidden_states], []
        for layer in self.layers:
            hidden_states, weights = layer(hidden_states)
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            if output_attentions:
                all_attentions.append(weights)
        return VJEPAModelOutput(
            last_hidden_state=self.norm(hidden_states),
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_attentions) if output_attentions else None,
        )


class VJEPAPredictor(nn.Module):
    """Narrow transformer that predicts the features of target tokens from those of context tokens."""

    def __init__(self, config: VJEPAConfig):
        super().__init__()
        self.config = config
        width = config.pred_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_tokens = nn.Parameter(torch.zeros(config.pred_num_mask_tokens, width))
        self.register_buffer("position_embeddings", torch.empty(math.prod(config.grid_size), width))
        self.layers = nn.ModuleList(
            VJEPALayer(
                config,
                width,
                config.pred_num_attention_heads or config.num_attention_heads,
                config.pred_mlp_ratio,
                config.layer_norm_eps,
                config.drop_path_rate * index / max(1, config.pred_num_hidden_layers - 1),
            )
            for index in range(config.pred_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.proj = nn.Linear(width, config.hidden_size)

    def forward(
        self,
        context: torch.Tensor,
        grid: tuple[int, int, int],
        context_mask: torch.Tensor,
        target_mask: torch.Tensor,
        mask_token_index: int = 0,
    ) -> torch.Tensor:
        """Features `(B, M, D)` at `target_mask` `(B, M)` from `context` `(B, K, D)` at `context_mask` `(B, K)`."""
        positions = resize_positions(self.position_embeddings, self.config.grid_size, grid)
        mask_token = self.mask_tokens[mask_token_index % len(self.mask_tokens)]
        context = self.embed(context) + positions[context_mask]
        targets = (mask_token + positions[target_mask]).to(context.dtype)
        # (B, K + M, width): context tokens first, then one token for every target position
        hidden_states = torch.cat([context, targets], dim=1)
        for layer in self.layers:
            hidden_states, _ = layer(hidden_states)
        return self.proj(self.norm(hidden_states[:, context.shape[1] :]))


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
        self.self_attention_layers = nn.ModuleList(
            VJEPALayer(
                config,
                config.hidden_size,
                config.num_attention_heads,
                config.pooler_mlp_ratio,
                config.pooler_layer_norm_eps,
                drop_path_rate=0.0,
            )
            for _ in range(config.num_pooler_layers - 1)
        )
        self.cross_attention_layer = VJEPACrossAttentionLayer(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Pool tokens `(B, N, D)` to `(B, D)`."""
        for layer in self.self_attention_layers:
            hidden_states, _ = layer(hidden_states)
        queries = self.query_tokens.expand(len(hidden_states), -1, -1)
        return self.cross_attention_layer(queries, hidden_states).squeeze(1)


class VJEPAPreTrainedModel(PreTrainedModel):
    """What all models share: configuration, initialization, and what transformers may do with them."""

    config: VJEPAConfig
    config_class = VJEPAConfig
    base_model_prefix = "vjepa"
    main_input_name = "pixel_values_videos"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["VJEPAEmbeddings", "VJEPALayer", "VJEPACrossAttentionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers, from `.safetensors` files only, and a part of a model is loaded whole or not at all.

        A part is an encoder, the predictor, the pooler or the classifier; one that a folder lacks starts anew, and
        transformers names it.

        Raises:
            ValueError: a damaged file, a folder without configuration, or a part of which some weights are missing.
            OSError: nothing to load.
        """
        folder = pretrained_model_name_or_path
        configured = kwargs.get("config") is not None or kwargs.get("subfolder")
        if not configured and os.path.isdir(folder or "") and not glob.glob(f"*{CONFIG_NAME}", root_dir=folder):
            raise ValueError(f"{folder} has no {CONFIG_NAME}; give the folder that save_pretrained wrote.")
        kwargs.setdefault("use_safetensors", True)  # a pickle could hold code
        try:
            model, info = super().from_pretrained(folder, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise ValueError(f"{folder} holds a damaged .safetensors file ({error}); copy it here again.") from error
        check_parts_are_whole(model, info["missing_keys"], folder)
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            # As published: no rescaling by depth.
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (VJEPAEmbeddings, VJEPAPredictor)):
            table = module.position_embeddings
            init.copy_(table, sincos_positions(self.config.grid_size, table.shape[1], self.config.uniform_power))
            if isinstance(module, VJEPAPredictor) and not self.config.pred_zero_init_mask_tokens:
                init.trunc_normal_(module.mask_tokens, std=std)
            elif isinstance(module, VJEPAPredictor):
                init.zeros_(module.mask_tokens)
        elif isinstance(module, VJEPAAttentivePooler):
            init.trunc_normal_(module.query_tokens, std=std)

    @torch.no_grad()
    def resize_position_embeddings(
        self, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None
    ) -> None:
        """Make clips of another length or size the configured ones: position tables are resampled for good.

        What the model gives for such clips stays the same, since tables are otherwise resampled on the way.

        Args:
            num_frames: frames of a clip; None leaves them.
            image_size: pixels of a side, or (height, width); None leaves it.

        Raises:
            ValueError: for a size that tubelets do not fill.
        """
        wanted = {"num_frames": num_frames, "image_size": image_size}
        changes = {name: value for name, value in wanted.items() if value is not None}
        old, new = self.config.grid_size, type(self.config)(**self.config.to_diff_dict() | changes).grid_size
        for module in self.modules():
            if "position_embeddings" in dict(module.named_buffers(recurse=False)):
                module.position_embeddings = resize_positions(module.position_embeddings, old, new)
            if isinstance(getattr(module, "config", None), VJEPAConfig):
                for name, value in changes.items():
                    setattr(module.config, name, value)


def check_parts_are_whole(model: PreTrainedModel, missing: Iterable[str], source: str) -> None:
    """Check that of each part of a model, a checkpoint had all weights or none."""
    parts = (
        "vjepa.encoder.",
        "vjepa.predictor.",
        "encoder.",
        "predictor.",
        "context_encoder.",
        "pooler.",
        "classifier.",
    )
    for part in parts:
        gone = sorted(name for name in missing if name.startswith(part))
        if gone and len(gone) < sum(name.startswith(part) for name in model.state_dict()):
            raise ValueError(f"{source} has only some weights of {part[:-1]}; it lacks {', '.join(gone[:5])}.")


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
        context_mask: torch.LongTensor | None = None,
        target_mask: torch.LongTensor | None = None,
        mask_token_index: int = 0,
        grid_size: tuple[int, int, int] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> VJEPAModelOutput:
        """Features of whole clips, of their context tokens, and predictions of their target tokens.

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)`, of any size that tubelets fill.
            tubelets: tubelet tokens `(B, N, C * tubelet_size * patch_size**2)`, in place of `pixel_values_videos`.
            context_mask: indices `(B, K)` of the tokens to keep. Only those tubelets are embedded and encoded.
            target_mask: indices `(B, M)` of the tokens to predict from the context; needs `context_mask`.
            mask_token_index: which mask token stands for the targets; the index of the mask type.
            grid_size: token grid (t, h, w) of `tubelets`, where it is not the configured one.
            output_hidden_states: whether to return the residual stream after every layer.
            output_attentions: whether to return attention weights; needs `attn_implementation="eager"`.

        Raises:
            ValueError: for inputs that do not fit each other or the configuration.
        """
        output_hidden_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"output_attentions=True needs eager attention, got {self.config._attn_implementation!r}; "
                'load the model with attn_implementation="eager".'
            )
        tubelets, grid = self.tokenize(pixel_values_videos, tubelets, grid_size)
        check_mask("context_mask", context_mask, tubelets)
        check_mask("target_mask", target_mask, tubelets)
        if target_mask is not None and context_mask is None:
            raise ValueError("target_mask needs context_mask: targets are predicted from context tokens; give both.")
        if target_mask is not None and self.predictor is None:
            raise ValueError("target_mask needs a predictor; load the model without add_predictor=False.")

        outputs = self.encoder(tubelets, grid, context_mask, output_hidden_states, output_attentions)
        if target_mask is not None:
            outputs.predictor_hidden_state = self.predictor(
                outputs.last_hidden_state, grid, context_mask, target_mask, mask_token_index
            )
        return outputs

    def tokenize(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        tubelets: torch.Tensor | None = None,
        grid: tuple[int, int, int] | None = None,
    ) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Tubelet tokens `(B, N, C * tubelet_size * patch_size**2)` and their grid (t, h, w), from either input."""
        config = self.config
        if (pixel_values_videos is None) == (tubelets is None):
            raise ValueError("give exactly one of pixel_values_videos and tubelets.")
        if tubelets is not None:
            grid = grid or config.grid_size
            size = config.num_channels * config.tubelet_size * config.patch_size**2
            if tubelets.ndim != 3 or tubelets.shape[1:] != (math.prod(grid), size):
                raise ValueError(
                    f"tubelets of the grid {grid} have the shape (B, {math.prod(grid)}, {size}), got "
                    f"{tuple(tubelets.shape)}; pass grid_size for clips of another size."
                )
            return tubelets, grid
        check_clips(pixel_values_videos, config.num_channels)
        _, num_frames, _, height, width = pixel_values_videos.shape
        grid = grid_size(num_frames, height, width, config.tubelet_size, config.patch_size)
        return to_tubelets(pixel_values_videos, config.tubelet_size, config.patch_size), grid


def check_clips(pixel_values_videos: torch.Tensor, num_channels: int) -> None:
    """Check type and shape of a batch of clips."""
    if not isinstance(pixel_values_videos, torch.Tensor) or not pixel_values_videos.is_floating_point():
        found = getattr(pixel_values_videos, "dtype", type(pixel_values_videos).__name__)
        raise ValueError(
            f"pixel_values_videos is a tensor of normalized floating point numbers, got {found}; VJEPAVideoProcessor "
            "makes it from bytes and arrays."
        )
    shape = tuple(pixel_values_videos.shape)
    if len(shape) != 5 or shape[2] != num_channels or shape[0] == 0:
        raise ValueError(
            f"pixel_values_videos has the shape (B, T, C, H, W) with C = num_channels = {num_channels} and at least "
            f"one clip, got {shape}."
        )


def check_mask(name: str, mask: torch.Tensor | None, tubelets: torch.Tensor) -> None:
    """Check an index list: its shape, and on a CPU its numbers too, for which a GPU would have to be waited for."""
    if mask is None:
        return
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.long or mask.ndim != 2:
        found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(f"{name} is a LongTensor (B, tokens) of token indices, got {found}.")
    batch, num_tokens = tubelets.shape[:2]
    if mask.shape[0] != batch or not 0 < mask.shape[1] <= num_tokens:
        raise ValueError(
            f"{name} has the shape {tuple(mask.shape)}; for {batch} clips of {num_tokens} tokens it needs "
            f"{batch} rows of 1 to {num_tokens} indices."
        )
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return
    ordered = mask.sort(dim=1).values
    if ordered[:, 0].min() < 0 or ordered[:, -1].max() >= num_tokens:
        raise ValueError(
            f"{name} has indices from {ordered.min()} to {ordered.max()}; those of a clip go from 0 to "
            f"{num_tokens - 1}, time step by time step and row by row."
        )
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError(f"{name} names a token twice in one clip; leave out the second.")


def check_labels(labels: torch.Tensor, batch: int, config: VJEPAConfig) -> None:
    """Check labels of clips: their shape, and on a CPU that class indices are indices of classes."""
    if not isinstance(labels, torch.Tensor):
        raise ValueError(
            f"labels is a tensor of class indices (B,), got {type(labels).__name__}; use config.label2id."
        )
    if labels.ndim == 0 or len(labels) != batch:
        raise ValueError(f"labels has the shape {tuple(labels.shape)}; {batch} clips need {batch} labels.")
    if labels.ndim > 1 and not labels.is_floating_point():
        raise ValueError(f"labels {tuple(labels.shape)} of {labels.dtype}: several labels of a clip must be floats.")
    if labels.is_floating_point() or config.num_labels == 1:
        return  # shares of classes, several labels, or a number to predict
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = labels[(labels != IGNORED_LABEL) & ((labels < 0) | (labels >= config.num_labels))]
        if len(wrong):
            raise ValueError(f"labels has {wrong[0].item()}; num_labels={config.num_labels} allows 0 to one less.")


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
        """Switch context encoder and predictor; the target encoder always stays frozen and in evaluation mode."""
        super().train(mode)
        self.vjepa.encoder.eval().requires_grad_(False)
        return self

    def initialize_weights(self) -> None:
        """Both encoders start equal; one that is missing from a checkpoint becomes a copy of the other."""
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
        context_masks: Sequence[torch.LongTensor],
        target_masks: Sequence[torch.LongTensor],
        **kwargs,
    ) -> VJEPAForPreTrainingOutput:
        """Loss of a batch of clips (paper, equation 1 and section 3.2).

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)`.
            context_masks: one LongTensor `(B, K)` of visible token indices per mask type; K may differ between kinds.
            target_masks: one LongTensor `(B, M)` of token indices to predict per mask type.

        Raises:
            ValueError: when the lists are empty or differ in length, or for a mask of the wrong shape.
        """
        if not context_masks or len(context_masks) != len(target_masks):
            raise ValueError(
                "context_masks and target_masks are lists with one entry per mask type, got "
                f"{len(context_masks)} and {len(target_masks)} entries."
            )
        tubelets, grid = self.vjepa.tokenize(pixel_values_videos)
        for mask in (*context_masks, *target_masks):
            check_mask("a context or target mask", mask, tubelets)
        targets = self.encode_targets(tubelets, grid)
        outputs = VJEPAForPreTrainingOutput(losses=(), predictions=(), targets=(), context_hidden_states=())
        for index, (context_mask, target_mask) in enumerate(zip(context_masks, target_masks, strict=True)):
            context = self.context_encoder(tubelets, grid, context_mask).last_hidden_state
            prediction = self.vjepa.predictor(context, grid, context_mask, target_mask, index)
            target = take_tokens(targets, target_mask)
            outputs.losses += (nn.functional.l1_loss(prediction.float(), target),)
            outputs.predictions += (prediction,)
            outputs.targets += (target,)
            outputs.context_hidden_states += (context,)
        outputs.loss = torch.stack(outputs.losses).mean()
        outputs.target_hidden_state = targets
        return outputs

    @torch.no_grad()
    def encode_targets(self, tubelets: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Layer-normed features `(B, N, D)` of whole clips in float32, from the target encoder."""
        features = self.vjepa.encoder(tubelets, grid).last_hidden_state.float()
        return nn.functional.layer_norm(features, features.shape[-1:], eps=TARGET_LAYER_NORM_EPS)

    @torch.no_grad()
    def update_target_encoder(self, momentum: float) -> None:
        """Move the target encoder to `momentum * target + (1 - momentum) * context`, position tables included."""
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum={momentum} must lie in [0, 1].")
        target, context = self.vjepa.encoder, self.context_encoder
        torch._foreach_lerp_(list(target.parameters()), list(context.parameters()), 1.0 - momentum)
        # Apart from the parameters, which are of another kind of tensor where a run shards them.
        torch._foreach_lerp_(list(target.buffers()), list(context.buffers()), 1.0 - momentum)


class VJEPAPooledModel(VJEPAPreTrainedModel):
    """Encoder, attentive pooler and linear classifier, of whatever tokens `forward` gives to the pooler."""

    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\."]
    # The loss is a mean over the batch: a `Trainer` that accumulates gradients has to divide it, and would not,
    # because `forward` takes what it does not know.
    accepts_loss_kwargs = False

    def __init__(self, config: VJEPAConfig):
        super().__init__(config)
        self.vjepa = VJEPAModel(config, add_predictor=False)
        self.pooler = VJEPAAttentivePooler(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vjepa.get_input_embeddings()


class VJEPAForVideoClassification(VJEPAPooledModel):
    """Encoder, attentive pooler and a linear classifier (paper, section 4.3)."""

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> ImageClassifierOutput:
        """Class scores `(B, L)` of clips `(B, T, C, H, W)` or of videos with several views `(B, V, T, C, H, W)`.

        With views, the softmax (or sigmoid) of the logits is the mean over the views of their probabilities, and the
        loss is the mean over the views of their losses. With `pooler_num_clips` views that follow one another are
        clips of which the pooler sees all tokens, and make one view. The encoder runs on one clip of each video at a
        time.

        Args:
            pixel_values_videos: normalized clips.
            labels: class indices `(B,)`. With `config.problem_type` "single_label_classification" also the shares
                `(B, L)` that the classes have of a clip, see `soft_cross_entropy`.
            output_hidden_states: whether to return the residual stream after every layer, of a single clip.
            output_attentions: whether to return attention weights, of a single clip; needs
                `attn_implementation="eager"`.

        Raises:
            ValueError: for a number of views that is no multiple of `pooler_num_clips`, or several views with hidden
                states or attentions asked for.
        """
        if labels is not None:
            check_labels(labels, len(pixel_values_videos), self.config)
        has_views = getattr(pixel_values_videos, "ndim", None) == 6
        check_clips(pixel_values_videos[:, 0] if has_views else pixel_values_videos, self.config.num_channels)
        videos = pixel_values_videos if has_views else pixel_values_videos[:, None]
        num_clips, num_views = self.config.pooler_num_clips, videos.shape[1]
        if num_views % num_clips:
            raise ValueError(
                f"pixel_values_videos has {num_views} clips of a video, no multiple of pooler_num_clips={num_clips}; "
                f"give the processor num_clips={num_clips}."
            )
        if num_views > 1 and (output_hidden_states or output_attentions):
            raise ValueError(f"output_hidden_states and output_attentions need a single clip, got {num_views} views.")
        views = []
        for clips in videos.split(num_clips, dim=1):
            tokens = []
            for clip in clips.unbind(1):
                outputs = self.vjepa(
                    clip, output_hidden_states=output_hidden_states, output_attentions=output_attentions
                )
                tokens.append(outputs.last_hidden_state)
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
    """What happens in the boxes of a batch of clips.

    Attributes:
        loss: binary cross entropy, mean over the boxes and the actions; only with labels.
        logits: `(B, R, L)`, one independent yes or no an action: their sigmoid is a score in [0, 1]. Padding has the
            lowest number there is, and so the score 0.
        hidden_states: of the encoder, as in `VJEPAModelOutput`.
        attentions: of the encoder, as in `VJEPAModelOutput`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class VJEPAForActionDetection(VJEPAPooledModel):
    """Encoder, RoIAlign, attentive pooler and a linear classifier of each box (localization on AVA: paper, section 5).

    A box is given, by annotators or by a detector of people; the model tells which of the L actions it shows, any
    number of them. RoIAlign (He et al., 2017) cuts `roi_size` x `roi_size` features out of the box at every time
    step, and the pooler attends to all of them, through time.
    """

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        boxes: torch.Tensor,
        box_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> VJEPAForActionDetectionOutput:
        """Scores of every action in every box.

        Args:
            pixel_values_videos: normalized clips `(B, T, C, H, W)` around their key frames.
            boxes: `(B, R, 4)` as x1, y1, x2, y2 in units of the frame's width and height, from 0 to 1, so that they
                do not change when the frame is resized. The features of all time steps are taken from this place.
            box_mask: `(B, R)`, True for a box and False for the padding of a clip with fewer boxes than others; None
                for boxes everywhere. Clips may have no box at all.
            labels: `(B, R, L)`, 1 for the actions of a box and 0 for the others.
            output_hidden_states: whether to return the residual stream after every layer.
            output_attentions: whether to return attention weights; needs `attn_implementation="eager"`.

        Raises:
            ValueError: for shapes that do not fit each other, and for boxes that are empty or not within [0, 1].
        """
        tubelets, grid = self.vjepa.tokenize(pixel_values_videos)
        if box_mask is None:
            box_mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        self._check_boxes(len(tubelets), boxes, box_mask, labels)
        outputs = self.vjepa(
            tubelets=tubelets,
            grid_size=grid,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        # Padding is left out before the work begins: n boxes in all.
        real_boxes, clips = boxes[box_mask], box_mask.nonzero()[:, 0]
        num_boxes = len(real_boxes)
        if num_boxes == 0:
            # Attention does not run on nothing, and a loss must reach every parameter: a box that is left out below.
            real_boxes, clips = boxes.new_tensor([[0.0, 0.0, 1.0, 1.0]]), clips.new_zeros(1)
        tokens = box_features(outputs.last_hidden_state, grid, real_boxes, clips, self.config.roi_size)
        box_logits = self.classifier(self.pooler(tokens))[:num_boxes]  # (n, L)
        loss = None
        if labels is not None:
            loss = nn.functional.binary_cross_entropy_with_logits(
                box_logits.float(), labels[box_mask].float(), reduction="sum"
            ) / max(1, box_logits.numel())
        logits = box_logits.new_full((*box_mask.shape, box_logits.shape[-1]), torch.finfo(box_logits.dtype).min)
        logits[box_mask] = box_logits
        return VJEPAForActionDetectionOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _check_boxes(
        self, batch: int, boxes: torch.Tensor, box_mask: torch.Tensor, labels: torch.Tensor | None
    ) -> None:
        if boxes.ndim != 3 or boxes.shape[0] != batch or boxes.shape[2] != 4:
            raise ValueError(f"boxes of {batch} clips have the shape ({batch}, R, 4), got {tuple(boxes.shape)}.")
        if box_mask.dtype != torch.bool or box_mask.shape != boxes.shape[:2]:
            raise ValueError(
                f"box_mask of boxes {tuple(boxes.shape)} is a bool tensor {tuple(boxes.shape[:2])}, got "
                f"{box_mask.dtype} {tuple(box_mask.shape)}."
            )
        expected = (*box_mask.shape, self.config.num_labels)
        if labels is not None and labels.shape != expected:
            raise ValueError(f"labels have the shape (B, R, num_labels) = {expected}, got {tuple(labels.shape)}.")
        low, high = boxes[box_mask].split(2, dim=-1)
        if not ((low >= 0) & (low < high) & (high <= 1)).all():
            raise ValueError(
                "boxes are x1 < x2 and y1 < y2 between 0 and 1: divide pixels by the width and height of the frame, "
                "and clamp what reaches beyond it."
            )


def box_features(
    features: torch.Tensor, grid: tuple[int, int, int], boxes: torch.Tensor, clips: torch.Tensor, roi_size: int
) -> torch.Tensor:
    """Features `(n, t * roi_size * roi_size, D)` inside boxes, from those of whole clips, `(B, N, D)`.

    Args:
        features: one vector a token.
        grid: token grid (t, h, w) of the clips.
        boxes: `(n, 4)` as x1, y1, x2, y2 between 0 and 1.
        clips: `(n,)`, the clip that each box belongs to.
        roi_size: rows and columns that a box is cut into at each time step.
    """
    t, h, w = grid
    # Time beside the channels, so that one box cuts all time steps: (B, t * h * w, D) -> (B, t * D, h, w)
    volume = features.unflatten(1, (t, h, w)).permute(0, 1, 4, 2, 3).flatten(1, 2)
    corners = boxes * boxes.new_tensor([w, h, w, h])
    rois = torch.cat([clips[:, None].to(corners), corners], dim=1)
    # In single precision: the operation knows no bfloat16 on a CPU.
    regions = roi_align(volume.float(), rois.float(), roi_size, aligned=True).to(features.dtype)
    # (n, t * D, roi_size, roi_size) -> (n, t * roi_size * roi_size, D)
    return regions.unflatten(1, (t, -1)).permute(0, 1, 3, 4, 2).flatten(1, 3)


__all__ = [
    "VJEPAForActionDetection",
    "VJEPAForPreTraining",
    "VJEPAForVideoClassification",
    "VJEPAModel",
    "VJEPAPreTrainedModel",
]
