"""V-JEPA model configuration."""

import copy
import math
import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .rotary import check_grid

# A name this similar to a field is a misspelt field. Fields that other tools add are less similar.
MISSPELT = 0.8
# Far above every published model. What is larger is a mistake, and would take minutes and all memory to build.
LARGEST = {
    "hidden_size": 2**14, "num_hidden_layers": 2**10, "mlp_ratio": 2**6, "image_size": 2**14, "patch_size": 2**8,
    "tubelet_size": 2**8, "num_frames": 2**16, "num_channels": 2**10, "pred_hidden_size": 2**14,
    "pred_num_hidden_layers": 2**10, "pred_mlp_ratio": 2**6, "pred_num_mask_tokens": 2**10,
    "num_pooler_layers": 2**10, "pooler_num_clips": 2**10, "pooler_mlp_ratio": 2**6, "roi_size": 2**8,
    "num_labels": 2**20,
}  # fmt: skip
MAX_TOKENS = 2**22  # of a clip; each one has a row in the position embeddings
# None lets transformers choose by the type of the labels.
_POSITION_EMBEDDING_TYPES = ("sincos", "rope", "rope_interpolated")
_PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")


@strict
class VJEPAConfig(PreTrainedConfig):
    r"""
    Configuration of a V-JEPA model. The defaults are the published ViT-L/16 at 16 frames of 224 x 224 pixels.

    Args:
        hidden_size (`int`, defaults to 1024): Width D of the encoder.
        num_hidden_layers (`int`, defaults to 24): Number of transformer layers of the encoder.
        num_attention_heads (`int`, defaults to 16): Attention heads of the encoder.
        mlp_ratio (`float`, defaults to 4.0): Hidden width of the encoder's MLPs in units of `hidden_size`.
        hidden_act (`str`, defaults to `"gelu"`): Activation of every MLP (exact GELU).
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the layer norms of encoder and predictor.
        qkv_bias (`bool`, defaults to `True`): Whether queries, keys and values have a bias.
        attention_probs_dropout_prob (`float`, defaults to 0.0): Dropout of attention weights, in training only.
        drop_path_rate (`float`, defaults to 0.0): Stochastic depth of the last layer; grows from 0 linearly.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the truncated normal initial weights.
        initializer_depth_scaling (`bool`, defaults to `False`): Whether the initial weights of the two output matrices
            of layer l, counted from 1, are divided by `sqrt(2 * l)`, as in V-JEPA 2.
        image_size (`int` or `(int, int)`, defaults to 224): Height and width in pixels. Also known as `crop_size`.
        patch_size (`int`, defaults to 16): Height and width of a tubelet in pixels.
        tubelet_size (`int`, defaults to 2): Length of a tubelet in frames.
        num_frames (`int`, defaults to 16): Frames of a clip. Also known as `frames_per_clip`.
        num_channels (`int`, defaults to 3): Channels of a frame. Also known as `in_chans`.
        position_embedding_type (`str`, defaults to `"sincos"`): `"sincos"`, a table that is added once (V-JEPA);
            `"rope"`, queries and keys that turn with time, row and column (V-JEPA 2); or `"rope_interpolated"`, the
            same with rows and columns of every grid spread over 256 pixels (V-JEPA 2.1).
        uniform_power (`bool`, defaults to `True`): Whether time, height and width get equal shares of the sin-cos
            position embedding (released models) or one half, one quarter and one quarter.
        pred_hidden_size (`int`, defaults to 384): Width of the predictor.
        pred_num_hidden_layers (`int`, defaults to 12): Number of transformer layers of the predictor.
        pred_num_attention_heads (`int`, *optional*): Attention heads of the predictor; `None` for the encoder's.
        pred_mlp_ratio (`float`, defaults to 4.0): Hidden width of the predictor's MLPs in units of `pred_hidden_size`.
        pred_num_mask_tokens (`int`, defaults to 2): Number of mask tokens; mask type `i` uses token `i` modulo this.
        pred_mask_token_per_mask_type (`bool`, defaults to `True`): Whether pretraining uses a mask token for each mask
            type; otherwise all use token 0, as V-JEPA 2 does with its ten.
        pred_zero_init_mask_tokens (`bool`, defaults to `True`): Whether mask tokens start at zero.
        level_layers (`list[int]`, *optional*): Encoder layers, counted from 0, whose output has a layer norm of its
            own (V-JEPA 2.1); the last one is the last layer. `None` for the last layer only.
        pred_num_levels (`int`, defaults to 1): How many of the last `level_layers` the predictor reads and predicts.
        pred_target_size (`int`, *optional*): Width of a predicted level; `None` for `hidden_size`. The distilled
            V-JEPA 2.1 models predict the features of a wider model.
        pred_context_head (`bool`, defaults to `False`): Whether the predictor has a second output projection, for
            context tokens (V-JEPA 2.1).
        image_tokenizer (`bool`, defaults to `False`): Whether a clip of one frame is an image with an embedding of its
            own, and encoder and predictor add an embedding of the modality (V-JEPA 2.1).
        num_pooler_layers (`int`, defaults to 1): Layers of the attentive pooler: one cross-attention layer, after
            `num_pooler_layers - 1` self-attention layers over the tokens.
        pooler_num_attention_heads (`int`, *optional*): Attention heads of the pooler; `None` for the encoder's.
        pooler_layers (`list[int]`, *optional*): Encoder layers, counted from 0, whose normed tokens the pooler attends
            to together; `None` for the last layer. The Diving48 probes of V-JEPA 2 read four layers.
        pooler_num_clips (`int`, defaults to 1): Clips of a video whose tokens the pooler attends to together.
        pooler_mlp_ratio (`float`, defaults to 4.0): Hidden width of the pooler's MLPs in units of `hidden_size`.
        pooler_layer_norm_eps (`float`, defaults to 1e-5): Epsilon of the pooler's layer norms.
        roi_size (`int`, defaults to 7): Rows and columns of the features that are taken from a box at every time step,
            for action detection.

    Raises:
        ValueError: for a misspelt field or values that do not fit together; the message names field and value.

    Example:

    ```python
    >>> from vjepa_hf import VJEPAConfig, VJEPAModel

    >>> config = VJEPAConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3)
    >>> model = VJEPAModel(config)
    ```"""

    model_type = "vjepa"
    attribute_map = {"crop_size": "image_size", "frames_per_clip": "num_frames", "in_chans": "num_channels"}

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    initializer_depth_scaling: bool = False
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 16
    tubelet_size: int = 2
    num_frames: int = 16
    num_channels: int = 3
    position_embedding_type: str = "sincos"
    uniform_power: bool = True
    pred_hidden_size: int = 384
    pred_num_hidden_layers: int = 12
    pred_num_attention_heads: int | None = None
    pred_mlp_ratio: float | int = 4.0
    pred_num_mask_tokens: int = 2
    pred_mask_token_per_mask_type: bool = True
    pred_zero_init_mask_tokens: bool = True
    level_layers: list[int] | None = None
    pred_num_levels: int = 1
    pred_target_size: int | None = None
    pred_context_head: bool = False
    image_tokenizer: bool = False
    num_pooler_layers: int = 1
    pooler_num_attention_heads: int | None = None
    pooler_layers: list[int] | None = None
    pooler_num_clips: int = 1
    pooler_mlp_ratio: float | int = 4.0
    pooler_layer_norm_eps: float = 1e-5
    roi_size: int = 7

    def __post_init__(self, **kwargs):
        self._check_names(kwargs)
        _check_size("num_labels", kwargs.get("num_labels") or 0)  # before every label gets a name
        super().__post_init__(**kwargs)
        self.check_values()

    @property
    def num_labels(self) -> int | None:
        """Number of labels; setting it gives every label a name."""
        return None if self.id2label is None else len(self.id2label)

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        _check_size("num_labels", num_labels)
        super(VJEPAConfig, type(self)).num_labels.__set__(self, num_labels)  # type: ignore[attr-defined]

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """Write the configuration to a file, without references to code that is not in the folder of the file."""
        config = copy.copy(self)
        drop_references_to_code(config, os.path.dirname(json_file_path))
        super(VJEPAConfig, config).to_json_file(json_file_path, use_diff=use_diff)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return height, width

    @property
    def grid_size(self) -> tuple[int, int, int]:
        """Token grid (t, h, w) of a clip of the configured size."""
        height, width = self.frame_size
        return self.num_frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    def _check_names(self, names: Mapping[str, object]) -> None:
        """Check the names that are no fields: only misspelt ones are errors, others are kept and saved."""
        model_type = names.get("model_type", self.model_type)
        if model_type == "vjepa2":
            source = names.get("_name_or_path") or "FOLDER_OR_HUB_NAME"
            raise ValueError(
                "this is V-JEPA 2 in the format of transformers (model_type 'vjepa2'); convert it once with "
                f"`vjepa-hf convert {source} OUTPUT`, then load OUTPUT."
            )
        if model_type != self.model_type:
            raise ValueError(
                f"model_type={model_type!r} is another kind of model than {self.model_type!r}; load its folder with "
                "the classes of that model, or with AutoModel."
            )
        check_spelling(names, [*VJEPAConfig.__annotations__, *self.attribute_map], "field", type(self).__name__)

    def check_values(self) -> None:
        """Check that the values are possible and fit together; a model does so again before it is built.

        Raises:
            ValueError: a value that is not possible; the message names field and value.
        """
        positive = (
            "hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "layer_norm_eps", "patch_size",
            "tubelet_size", "num_frames", "num_channels", "pred_hidden_size", "pred_num_hidden_layers",
            "pred_mlp_ratio", "pred_num_mask_tokens", "num_pooler_layers", "pooler_num_clips", "pooler_mlp_ratio",
            "pooler_layer_norm_eps", "roi_size",
        )  # fmt: skip
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be positive.")
        for name in LARGEST:
            value = getattr(self, name)
            for number in value if isinstance(value, list | tuple) else (value or 0,):
                _check_size(name, number)
        if not 0 <= self.initializer_range < math.inf:
            raise ValueError(f"initializer_range={self.initializer_range} must be finite and not negative.")
        if self.hidden_act not in ACT2FN:
            close = get_close_matches(self.hidden_act, ACT2FN, n=1)
            raise ValueError(
                f"hidden_act={self.hidden_act!r} is no activation of transformers; "
                f"{f'did you mean {close[0]!r}?' if close else 'the published models have gelu.'}"
            )
        for name in ("attention_probs_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1).")
        if not self.num_labels or self.num_labels < 1:
            raise ValueError(f"num_labels={self.num_labels} must be at least 1.")
        if self.problem_type not in _PROBLEM_TYPES:
            raise ValueError(f"problem_type={self.problem_type!r} must be one of {_PROBLEM_TYPES}.")
        if self.position_embedding_type not in _POSITION_EMBEDDING_TYPES:
            raise ValueError(
                f"position_embedding_type={self.position_embedding_type!r} must be one of {_POSITION_EMBEDDING_TYPES}."
            )
        self._check_divisible()
        self._check_widths()
        num_tokens = math.prod(self.grid_size)
        if num_tokens > MAX_TOKENS:
            raise ValueError(
                f"num_frames={self.num_frames} and image_size={self.image_size} give {num_tokens} tokens; at most "
                f"{MAX_TOKENS} are allowed. Choose a shorter or smaller clip, or larger tubelets."
            )
        self._check_levels()

    def _check_divisible(self) -> None:
        if self.num_frames % self.tubelet_size:
            raise ValueError(
                f"num_frames={self.num_frames} is not a multiple of tubelet_size={self.tubelet_size}; "
                "choose a number of frames that tubelets fill."
            )
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size={self.image_size} must be one number or (height, width).")
        for side in self.frame_size:
            if side <= 0 or side % self.patch_size:
                raise ValueError(
                    f"image_size={self.image_size} is not a positive multiple of patch_size={self.patch_size}; "
                    "choose sides that patches fill."
                )
        check_grid(self.grid_size, self.position_embedding_type)

    def _check_widths(self) -> None:
        heads = self.pred_num_attention_heads
        if heads is not None and heads <= 0:
            raise ValueError(f"pred_num_attention_heads={heads} must be positive, or None for the encoder's number.")
        pooler_heads = self.pooler_num_attention_heads
        if pooler_heads is not None and (pooler_heads <= 0 or self.hidden_size % pooler_heads):
            raise ValueError(
                f"pooler_num_attention_heads={pooler_heads} must divide hidden_size={self.hidden_size}; None takes "
                "num_attention_heads."
            )
        for width_name, heads_name, number in (
            ("hidden_size", "num_attention_heads", self.num_attention_heads),
            ("pred_hidden_size", "pred_num_attention_heads", heads or self.num_attention_heads),
        ):
            width = getattr(self, width_name)
            if width % number:
                raise ValueError(f"{width_name}={width} is not a multiple of {heads_name}={number}.")
            if self.position_embedding_type != "sincos":
                if width // number % 2 or width // number < 6:
                    raise ValueError(
                        f"{width_name}={width} with {heads_name}={number} gives heads of {width // number} features; "
                        f"position_embedding_type={self.position_embedding_type!r} needs an even number, at least 6."
                    )
                continue
            if not self.uniform_power and width % 8:
                raise ValueError(
                    f"{width_name}={width} is not a multiple of 8, which position embeddings need with "
                    "uniform_power=False; change the width or set uniform_power=True."
                )

    def _check_levels(self) -> None:
        for name in ("level_layers", "pooler_layers"):
            layers = getattr(self, name)
            if layers is not None and (
                not layers
                or sorted(set(layers)) != list(layers)
                or not 0 <= layers[0] <= layers[-1] < self.num_hidden_layers
            ):
                raise ValueError(
                    f"{name}={layers} must be increasing indices of layers from 0 to {self.num_hidden_layers - 1}, "
                    "or None."
                )
        levels = self.level_layers or [self.num_hidden_layers - 1]
        if levels[-1] != self.num_hidden_layers - 1:
            raise ValueError(f"level_layers={levels} must end with the last layer, {self.num_hidden_layers - 1}.")
        if not 1 <= self.pred_num_levels <= len(levels):
            raise ValueError(f"pred_num_levels={self.pred_num_levels} must be 1 to {len(levels)}, see level_layers.")
        if self.image_tokenizer and self.tubelet_size == 1:
            raise ValueError("image_tokenizer=True needs tubelets of several frames, but tubelet_size=1.")
        if self.pred_target_size is not None and self.pred_target_size <= 0:
            raise ValueError(f"pred_target_size={self.pred_target_size} must be positive, or None for hidden_size.")


def _check_size(name: str, value: float) -> None:
    if value > LARGEST[name]:
        raise ValueError(f"{name}={value} is too large; at most {LARGEST[name]} is allowed.")


def check_spelling(names: Mapping[str, object], known: Collection[str], kind: str, owner: str) -> None:
    """Check that no unknown name is almost a known one. Other unknown names are what tools around a model add.

    Args:
        names: name -> value, as given.
        known: names that mean something.
        kind: what a name is, for the message.
        owner: class that has the names, for the message.

    Raises:
        ValueError: a misspelt name.
    """
    for name in names:
        close = get_close_matches(name, known, n=1, cutoff=MISSPELT)
        if close and name not in known:
            raise ValueError(f"unknown {kind} {name}={names[name]!r} in {owner}; did you mean {close[0]}?")


def drop_references_to_code(settings: Any, folder: str) -> None:
    """Remove from `auto_map` and `custom_pipelines` the classes whose file is not in `folder`.

    A folder that was loaded may refer to code of another repository. A saved copy must not, because its users would
    run that code with `trust_remote_code=True`.
    """

    def is_here(reference: Any) -> bool:
        name = reference.get("impl") if isinstance(reference, dict) else reference
        return isinstance(name, str) and os.path.isfile(os.path.join(folder, name.split(".")[0] + ".py"))

    for field in ("auto_map", "custom_pipelines"):
        references = getattr(settings, field, None)
        if references is not None:
            delattr(settings, field)
            kept = {key: reference for key, reference in dict(references).items() if is_here(reference)}
            if kept:
                setattr(settings, field, kept)


__all__ = ["VJEPAConfig"]
