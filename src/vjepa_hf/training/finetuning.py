"""Fine-tuning of a classifier with `transformers.Trainer`: mixup, parameter groups and the modules for LoRA.

The frames, the augmentation and the mixing of a training clip are functions of (seed, epoch, sample id). They do not
depend on the number of workers, or on resuming.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.labelled import UNREADABLE, LabelledClip, LabelledVideos, TrainingVideos
from ..data.randomness import generator
from ..data.transforms import CropBox
from ..model.modeling_vjepa import VJEPAForVideoClassification
from ..model.video_inputs import video_name

# For `peft.LoraConfig`: the four linear layers of every encoder layer get adapters; pooler and classifier are trained.
LORA_TARGET_MODULES = r"vjepa\.encoder\.layers\.\d+\.(attention\.(qkv|proj)|mlp\.(fc1|fc2))"
LORA_MODULES_TO_SAVE = ["pooler", "classifier"]


# --- videos --------------------------------------------------------------------------------------------------------


class EpochCallback(TrainerCallback):
    """Callback that sets the epoch of the training videos, which Accelerate does only for a single process."""

    def __init__(self, videos: TrainingVideos) -> None:
        self.videos = videos

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch; `state.epoch` has a fraction if a run resumes within an epoch."""
        self.videos.set_epoch(int(state.epoch or 0))


def unreadable_videos(accelerator: Accelerator, videos: LabelledVideos) -> list[str]:
    """Return the names of the videos that any process could not read. Call it on all processes."""
    flags = accelerator.reduce(videos.unreadable.to(accelerator.device, torch.int64), "sum")
    return [video_name(videos.videos[row]) for row in torch.nonzero(flags)[:, 0].tolist()]


# --- batches -------------------------------------------------------------------------------------------------------


def balanced_weights(labels: np.ndarray, num_labels: int) -> tuple[float, ...]:
    """Return class weights for which all classes have the same total weight; their mean over the samples is 1.

    Raises:
        ValueError: a class has no samples.
    """
    counts = np.bincount(labels, minlength=num_labels)
    if counts.min() == 0:
        raise ValueError(
            f"class {int(counts.argmin())} has no training video, so its weight is undefined; add videos of it, "
            "drop the class, or do not balance the classes"
        )
    return tuple((len(labels) / (num_labels * counts)).tolist())


@dataclass(frozen=True)
class ClassificationCollator:
    """Collator that stacks clips and turns classes into soft labels `(B, L)`, for `modeling_vjepa.soft_cross_entropy`.

    It can mix each training clip with the previous one in the batch, by mixup (arXiv:1710.09412), by CutMix
    (arXiv:1905.04899) with one box for all frames, or by one of the two at random. torchvision draws one ratio per
    batch from the global generator; here the ratio of a clip is a function of (seed, epoch, sample id).

    Attributes:
        num_labels: L.
        seed: seed of the mixing.
        mixup_alpha: parameter of the beta distribution of mixup's ratio; 0 disables mixup.
        cutmix_alpha: parameter of the beta distribution of CutMix's ratio; 0 disables CutMix.
        label_smoothing: fraction of a training label that is spread over all classes.
        class_weights: weight of the training clips of each class; None: 1.
    """

    num_labels: int
    seed: int = 0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")

    def __call__(self, samples: Sequence[LabelledClip]) -> dict[str, torch.Tensor]:
        """Return `pixel_values_videos` (B, ...) and `labels` (B, L), which are zero for unreadable videos."""
        pixels = torch.stack([sample.pixels for sample in samples])
        classes = torch.tensor([sample.label for sample in samples])
        readable = classes != UNREADABLE
        labels = torch.nn.functional.one_hot(classes.where(readable, 0), self.num_labels) * readable[:, None].float()
        if samples[0].key is not None:
            pixels, labels = self._mix(pixels, labels, samples)
            weights = labels @ torch.tensor(self.class_weights or [1.0] * self.num_labels)
            spread = self.label_smoothing / self.num_labels * readable[:, None]
            labels = weights[:, None] * ((1 - self.label_smoothing) * labels + spread)
        return {"pixel_values_videos": pixels, "labels": labels}

    def _mix(
        self, pixels: torch.Tensor, labels: torch.Tensor, samples: Sequence[LabelledClip]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        alphas = {"mixup": self.mixup_alpha, "cutmix": self.cutmix_alpha}
        methods = [name for name, alpha in alphas.items() if alpha > 0]
        readable = [index for index, sample in enumerate(samples) if sample.label != UNREADABLE]
        if not methods or len(readable) < 2:
            return pixels, labels
        mixed_pixels, mixed_labels = pixels.clone(), labels.clone()
        for index, previous in zip(readable, readable[-1:] + readable[:-1], strict=True):
            key = samples[index].key
            assert key is not None  # training clips have one
            rng = generator("mix", self.seed, *key)
            method = methods[int(rng.integers(len(methods)))]
            ratio = rng.beta(alphas[method], alphas[method])
            if method == "cutmix":
                height, width = pixels.shape[-2:]
                box = cutmix_box(height, width, ratio, rng)
                rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
                mixed_pixels[index, ..., rows, columns] = pixels[previous, ..., rows, columns]
                ratio = 1 - box.height * box.width / (height * width)
            else:
                mixed_pixels[index] = torch.lerp(pixels[previous], pixels[index], ratio)
            mixed_labels[index] = torch.lerp(labels[previous], labels[index], ratio)
        return mixed_pixels, mixed_labels


def cutmix_box(height: int, width: int, ratio: float, generator: np.random.Generator) -> CropBox:
    """Draw a box with the fraction `1 - ratio` of the frame's area, cropped at the border."""
    scale = 0.5 * math.sqrt(1 - ratio)
    sides = []
    for length in (height, width):
        center, reach = int(generator.integers(length)), int(scale * length)
        sides.append((max(0, center - reach), min(length, center + reach)))
    (top, bottom), (left, right) = sides
    return CropBox(top, left, bottom - top, right - left)


# --- parameters ----------------------------------------------------------------------------------------------------


def layer_wise_groups(
    model: VJEPAForVideoClassification, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group the trainable parameters for AdamW; each layer has `layer_decay` times the learning rate of the next one.

    The head and the final norm of the encoder have `learning_rate`, the last layer `layer_decay` times that, and so on
    down to the embeddings (BEiT, arXiv:2106.08254, appendix). Biases and 1-D parameters have no weight decay.

    Args:
        model: classifier, with or without adapters of peft.
        learning_rate: learning rate of the head.
        weight_decay: weight decay of AdamW.
        layer_decay: factor in (0, 1]; 1: the same learning rate for all layers.

    Raises:
        ValueError: `layer_decay` is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must lie in (0, 1], got {layer_decay}")
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = not (name.endswith("bias") or parameter.ndim == 1)
            groups.setdefault((_layers_above(name, model.config.num_hidden_layers), is_decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay**layers_above,
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        for (layers_above, is_decayed), parameters in sorted(groups.items())
    ]


def _layers_above(name: str, num_hidden_layers: int) -> int:
    """Return the number of layers above a parameter; 0 for the head."""
    if "encoder.embeddings." in name:
        return num_hidden_layers + 1
    layer = re.search(r"encoder\.layers\.(\d+)\.", name)
    return num_hidden_layers - int(layer[1]) if layer else 0
