"""Fine-tune a classifier with `transformers.Trainer`: labelled clips, mixed batches, parameter groups, LoRA's modules.

The frames of a training clip, its augmentation, and how it is mixed are functions of (seed, epoch, sample id), so a
resumed run sees what the straight one saw, with any number of workers.
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
from ..data.videos import video_name
from ..model.modeling_vjepa import VJEPAForVideoClassification

# For `peft.LoraConfig`: the four matrices of every layer of the encoder, and what is trained whole beside them.
LORA_TARGET_MODULES = r"vjepa\.encoder\.layers\.\d+\.(attention\.(qkv|proj)|mlp\.(fc1|fc2))"
LORA_MODULES_TO_SAVE = ["pooler", "classifier"]


# --- videos --------------------------------------------------------------------------------------------------------


class EpochCallback(TrainerCallback):
    """Tells the training videos which epoch begins. Accelerate does that itself, but only for a single process."""

    def __init__(self, videos: TrainingVideos) -> None:
        self.videos = videos

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the `Trainer`; a resumed one may begin in the middle of an epoch."""
        self.videos.set_epoch(int(state.epoch or 0))


def unreadable_videos(accelerator: Accelerator, videos: LabelledVideos) -> list[str]:
    """Names of the videos that any process failed to read; all processes call it."""
    flags = accelerator.reduce(videos.unreadable.to(accelerator.device, torch.int64), "sum")
    return [video_name(videos.videos[row]) for row in torch.nonzero(flags)[:, 0].tolist()]


# --- batches -------------------------------------------------------------------------------------------------------


def balanced_weights(labels: np.ndarray, num_labels: int) -> tuple[float, ...]:
    """A weight for every class, such that all classes weigh alike and the mean over the samples is 1.

    Raises:
        ValueError: a class without a sample.
    """
    counts = np.bincount(labels, minlength=num_labels)
    if counts.min() == 0:
        raise ValueError(f"class {int(counts.argmin())} has no training video, so it can be given no weight")
    return tuple((len(labels) / (num_labels * counts)).tolist())


@dataclass(frozen=True)
class ClassificationCollator:
    """Stack clips, and turn classes into the shares `(B, L)` that `modeling_vjepa.soft_cross_entropy` takes.

    Training clips may be mixed, each with the one before it in the batch: by mixup (arXiv:1710.09412) or, with equal
    chance where both are on, by CutMix (arXiv:1905.04899) with one box for all frames. torchvision has both, drawing
    one share a batch from the global generator; here each clip has its own, a function of (seed, epoch, sample id).

    Attributes:
        num_labels: L.
        seed: of the mixing.
        mixup_alpha: both parameters of the beta distribution of a clip's share; 0 switches mixup off.
        cutmix_alpha: likewise for CutMix.
        label_smoothing: share of a training label that is spread over all classes.
        class_weights: how much a training clip of each class counts; None: all alike.
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
        """`pixel_values_videos` (B, ...) and `labels` `(B, L)`, zero for unreadable videos."""
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
        kinds = [kind for kind, alpha in alphas.items() if alpha > 0]
        places = [place for place, sample in enumerate(samples) if sample.label != UNREADABLE]
        if not kinds or len(places) < 2:
            return pixels, labels
        mixed_pixels, mixed_labels = pixels.clone(), labels.clone()
        for place, other in zip(places, places[-1:] + places[:-1], strict=True):
            rng = generator("mix", self.seed, *samples[place].key)
            kind = kinds[int(rng.integers(len(kinds)))]
            share = rng.beta(alphas[kind], alphas[kind])
            if kind == "cutmix":
                box = cutmix_box(*pixels.shape[-2:], share, rng)
                rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
                mixed_pixels[place, ..., rows, columns] = pixels[other, ..., rows, columns]
                share = 1 - box.height * box.width / math.prod(pixels.shape[-2:])
            else:
                mixed_pixels[place] = torch.lerp(pixels[other], pixels[place], share)
            mixed_labels[place] = torch.lerp(labels[other], labels[place], share)
        return mixed_pixels, mixed_labels


def cutmix_box(height: int, width: int, share: float, generator: np.random.Generator) -> CropBox:
    """A box anywhere that covers `1 - share` of the frame, less what lies beyond the border."""
    scale = 0.5 * math.sqrt(1 - share)
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
    """Trainable parameters for AdamW, whose learning rate shrinks by `layer_decay` with every layer below the head.

    The head and the encoder's final norm learn at `learning_rate`, its last layer at `layer_decay` times that, and so
    on down to the embeddings (BEiT, arXiv:2106.08254, appendix). Biases and 1-D parameters are not decayed.

    Args:
        model: classifier, also one that peft has wrapped.
        learning_rate: of the head.
        weight_decay: of AdamW.
        layer_decay: in (0, 1]; 1 gives all the same.

    Raises:
        ValueError: a `layer_decay` outside of that.
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
    """Steps down from the head to the parameter: 0 for the head itself."""
    if "encoder.embeddings." in name:
        return num_hidden_layers + 1
    layer = re.search(r"encoder\.layers\.(\d+)\.", name)
    return num_hidden_layers - int(layer[1]) if layer else 0
