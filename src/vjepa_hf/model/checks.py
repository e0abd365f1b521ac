"""Checks of what a model is given: arguments, clips, masks, labels, boxes and saved weights.

Each raises an error that says what was given, what is allowed and what to do.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from difflib import get_close_matches

import torch
from transformers import PreTrainedModel

from .configuration_vjepa import VJEPAConfig
from .tubelets import Grid

# PyTorch's losses skip clips with this label.
IGNORED_LABEL = -100
# Arguments that a `Trainer` may pass to every model.
IGNORED_ARGUMENTS = ("num_items_in_batch",)


class WeightShapeError(ValueError, RuntimeError):
    """Weights have another shape than the configuration asks for; transformers raises `RuntimeError` for it."""


def check_arguments(model: PreTrainedModel, unknown: Mapping[str, object]) -> None:
    """Check that `forward` got no unknown argument. `None` asks for nothing, and wrappers such as peft pass it."""
    given = [name for name, value in unknown.items() if value is not None and name not in IGNORED_ARGUMENTS]
    if given:
        known = [name for name in inspect.signature(type(model).forward).parameters if name not in ("self", "kwargs")]
        close = get_close_matches(given[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the arguments are {', '.join(known)}."
        raise TypeError(f"{type(model).__name__} got an unknown argument {given[0]}; {hint}")


def check_clips(pixel_values_videos: torch.Tensor, num_channels: int) -> None:
    """Check type and shape of a batch of clips."""
    if not isinstance(pixel_values_videos, torch.Tensor) or not pixel_values_videos.is_floating_point():
        given_type = getattr(pixel_values_videos, "dtype", type(pixel_values_videos).__name__)
        raise ValueError(
            f"pixel_values_videos is a tensor of normalized floating point numbers, got {given_type}; "
            "VJEPAVideoProcessor makes it from bytes and arrays."
        )
    shape = tuple(pixel_values_videos.shape)
    if len(shape) != 5 or shape[2] != num_channels or shape[0] == 0:
        raise ValueError(
            f"pixel_values_videos has the shape (B, T, C, H, W) with C = num_channels = {num_channels} and at least "
            f"one clip, got {shape}."
        )


def check_mask(name: str, mask: torch.Tensor | None, tubelets: torch.Tensor) -> None:
    """Check the shape of a mask, and on a CPU its indices. Reading them on a GPU would wait for it."""
    if mask is None:
        return
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.long or mask.ndim != 2:
        given_type = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(f"{name} is a LongTensor (B, tokens) of token indices, got {given_type}.")
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
        raise ValueError(f"{name} names a token twice in one clip; remove the second.")


def check_layers(layers: Sequence[int], config: VJEPAConfig) -> None:
    """Check indices of encoder layers whose features are asked for."""
    depth = config.num_hidden_layers
    if list(layers) != sorted(set(layers)) or any(not 0 <= layer < depth for layer in layers):
        raise ValueError(f"output_layers={list(layers)} must be increasing indices of layers from 0 to {depth - 1}.")


def check_tubelets(tubelets: torch.Tensor, grid: Grid, config: VJEPAConfig, tubelet_size: int) -> None:
    """Check the shape of a batch of tubelet tokens."""
    size = config.num_channels * tubelet_size * config.patch_size**2
    if tubelets.ndim != 3 or tubelets.shape[1:] != (math.prod(grid), size):
        raise ValueError(
            f"tubelets of the grid {grid} have the shape (B, {math.prod(grid)}, {size}), got "
            f"{tuple(tubelets.shape)}; pass grid_size for clips of another size."
        )


def check_mask_lists(context_masks: Sized, target_masks: Sized, mask_type_indices: Sized) -> None:
    """Check that there is one of each per mask type, and at least one type."""
    lengths = len(context_masks), len(target_masks), len(mask_type_indices)
    if not lengths[0] or len(set(lengths)) > 1:
        raise ValueError(
            "context_masks, target_masks and mask_type_indices have one entry per mask type and at least one, got "
            f"{lengths[0]}, {lengths[1]} and {lengths[2]} entries."
        )


def check_objective(config: VJEPAConfig) -> None:
    """Check that the predictor predicts features of an encoder of the same width."""
    if config.pred_target_size not in (None, config.hidden_size):
        raise ValueError(
            f"the predictor of this configuration predicts features of width pred_target_size="
            f"{config.pred_target_size}, as the distilled V-JEPA 2.1 models do, but the target encoder has "
            f"hidden_size={config.hidden_size}. To pretrain, load the encoder with init_parts target_encoder into a "
            "model without pred_target_size; the predictor then starts with random weights."
        )


def check_one_level(config: VJEPAConfig) -> None:
    """Check that the predictor predicts the output of the encoder, and not several of its layers."""
    if config.pred_num_levels > 1 or config.pred_target_size not in (None, config.hidden_size):
        raise ValueError(
            f"the predictor of this configuration (pred_num_levels={config.pred_num_levels}, pred_target_size="
            f"{config.pred_target_size}) predicts several layers at once, as V-JEPA 2.1 does; use a model of V-JEPA 1 "
            "or 2, whose predictor predicts the output of the encoder."
        )


def check_target_hidden_state(target_hidden_state: torch.Tensor, expected: tuple[int, ...]) -> None:
    """Check the shape of the target features of an earlier call."""
    if target_hidden_state.shape != expected:
        raise ValueError(
            f"target_hidden_state has the shape {tuple(target_hidden_state.shape)}, but these clips need {expected}; "
            "pass the one that a call on the same clips returned."
        )


def check_attentions(output_attentions: bool, attn_implementation: str | None) -> None:
    """Check that attention weights are asked of an implementation that has them."""
    if output_attentions and attn_implementation != "eager":
        raise ValueError(
            f"output_attentions=True needs eager attention, got {attn_implementation!r}; "
            'load the model with attn_implementation="eager".'
        )


def check_views(num_views: int, num_clips: int, has_hidden_outputs: bool) -> None:
    """Check that the clips of a video fill views of `num_clips`, and that hidden outputs belong to a single clip."""
    if num_views % num_clips:
        raise ValueError(
            f"pixel_values_videos has {num_views} clips of a video, not a multiple of pooler_num_clips={num_clips}; "
            f"give the processor num_clips={num_clips}."
        )
    if num_views > 1 and has_hidden_outputs:
        raise ValueError(f"output_hidden_states and output_attentions need a single clip, got {num_views} views.")


def check_labels(labels: torch.Tensor, batch: int, config: VJEPAConfig) -> None:
    """Check labels of clips: their shape, and on a CPU that class indices are indices of classes."""
    if not isinstance(labels, torch.Tensor):
        raise ValueError(
            f"labels is a tensor of class indices (B,), got {type(labels).__name__}; use config.label2id."
        )
    if labels.ndim == 0 or labels.shape[0] != batch:
        raise ValueError(f"labels has the shape {tuple(labels.shape)}; {batch} clips need {batch} labels.")
    if labels.ndim > 1 and not labels.is_floating_point():
        raise ValueError(f"labels {tuple(labels.shape)} of {labels.dtype}: several labels of a clip must be floats.")
    if labels.is_floating_point() or config.num_labels == 1:
        return  # fractions of classes, several labels, or a number to predict
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        num_labels = config.num_labels or 0
        wrong = labels[(labels != IGNORED_LABEL) & ((labels < 0) | (labels >= num_labels))]
        if wrong.shape[0]:
            raise ValueError(
                f"labels contains {wrong[0].item()}, but class indices must be in [0, {num_labels - 1}] "
                f"because num_labels={num_labels}."
            )


def check_boxes(
    boxes: torch.Tensor, box_mask: torch.Tensor, labels: torch.Tensor | None, batch: int, config: VJEPAConfig
) -> None:
    """Check the shapes of boxes, their mask and labels, and that the boxes lie within the frame."""
    if boxes.ndim != 3 or boxes.shape[0] != batch or boxes.shape[2] != 4:
        raise ValueError(f"boxes of {batch} clips have the shape ({batch}, R, 4), got {tuple(boxes.shape)}.")
    if box_mask.dtype != torch.bool or box_mask.shape != boxes.shape[:2]:
        raise ValueError(
            f"box_mask of boxes {tuple(boxes.shape)} is a bool tensor {tuple(boxes.shape[:2])}, got "
            f"{box_mask.dtype} {tuple(box_mask.shape)}."
        )
    expected = (*box_mask.shape, config.num_labels)
    if labels is not None and labels.shape != expected:
        raise ValueError(f"labels have the shape (B, R, num_labels) = {expected}, got {tuple(labels.shape)}.")
    if torch.compiler.is_compiling():
        return
    low, high = boxes.split(2, dim=-1)
    is_inside = ((low >= 0) & (low < high) & (high <= 1)).all(dim=-1)
    if not (is_inside | ~box_mask).all():
        raise ValueError(
            "boxes are x1 < x2 and y1 < y2 between 0 and 1: divide pixels by the width and height of the frame, "
            "and clamp what reaches beyond it."
        )


def check_full_precision(target_encoder: torch.nn.Module) -> None:
    """Check that a moving average of these weights moves: half precision rounds its small updates away."""
    for tensor in (*target_encoder.parameters(), *target_encoder.buffers()):
        if torch.finfo(tensor.dtype).bits < 32:
            raise ValueError(
                f"the target encoder has weights in {tensor.dtype}, which rounds most updates of an average away. "
                "Load the model with dtype=torch.float32 (or call model.float()), and train with autocast or "
                'mixed_precision="bf16".'
            )


def check_parts_are_whole(model: PreTrainedModel, missing: Iterable[str], source: str) -> None:
    """Check that a checkpoint has all weights or none of each part of a model, and has an encoder."""
    encoders = ("vjepa.encoder.", "encoder.", "context_encoder.")
    complete = []
    for part in (*encoders, "vjepa.predictor.", "predictor.", "pooler.", "classifier."):
        names = {name for name in model.state_dict() if name.startswith(part)}
        gone = sorted(names.intersection(missing))
        if gone and len(gone) < len(names):
            raise ValueError(f"{source} has only some weights of {part[:-1]}; it lacks {', '.join(gone[:5])}.")
        complete += [part] if names and not gone else []
    if not any(part in encoders for part in complete):
        raise ValueError(f"{source} has no weights of an encoder; give the folder of a V-JEPA model.")


def check_shapes(mismatched: Iterable[tuple[str, torch.Size, torch.Size]], may_differ: bool, source: str) -> None:
    """Check that weights have the shape of the configuration; `may_differ` lets all but position embeddings differ."""
    for name, stored, expected in sorted(mismatched):
        if "position_embeddings" in name:
            raise WeightShapeError(
                f"{source} has position embeddings for another clip size ({name}: {tuple(stored)}, not "
                f"{tuple(expected)}). Load it without num_frames and image_size, then call "
                "model.resize_position_embeddings(num_frames=..., image_size=...)."
            )
        if not may_differ:
            raise WeightShapeError(
                f"{source} has {name} of shape {tuple(stored)}, but the configuration asks for {tuple(expected)}. "
                "ignore_mismatched_sizes=True initializes such weights at random."
            )
