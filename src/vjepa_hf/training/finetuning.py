"""Fine-tune a classifier with `transformers.Trainer`: labelled clips, mixed batches, parameter groups, LoRA's modules.

The frames of a training clip, its augmentation, and how it is mixed are functions of (seed, epoch, sample id), so a
resumed run sees what the straight one saw, with any number of workers.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.clips import ClipReader, ClipRequest, Transform, for_processor, video_name
from ..data.transforms import CropBox, normalize
from ..model.modeling_vjepa import IGNORED_LABEL, VJEPAForVideoClassification
from ..model.video_io import VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor

logger = logging.getLogger(__name__)

BALANCE_STREAM = 4  # keeps these random numbers apart from those of `data`, which are seeded alike
MIX_STREAM = 5
UNREADABLE = IGNORED_LABEL  # in place of a class index

# For `peft.LoraConfig`: the four matrices of every layer of the encoder, and what is trained whole beside them.
LORA_TARGET_MODULES = r"vjepa\.encoder\.layers\.\d+\.(attention\.(qkv|proj)|mlp\.(fc1|fc2))"
LORA_MODULES_TO_SAVE = ["pooler", "classifier"]


# --- videos --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledClip:
    """One sample of a batch.

    Attributes:
        pixels: normalized clip `(T, C, H, W)`, or V views of a video `(V, T, C, H, W)`; zero if it is unreadable.
        label: class index, or `UNREADABLE`.
        key: (epoch, sample id) of a training clip, for the random numbers of its mixing; None in evaluation.
    """

    pixels: torch.Tensor
    label: int
    key: tuple[int, int] | None = None


class LabelledVideos(torch.utils.data.Dataset):
    """Videos with their classes, as they are evaluated.

    A video that cannot be read is named in a warning and takes no part in loss and metrics; nothing takes its place.
    `unreadable`, one flag a video, lies in memory that all workers share, so that they are counted.

    Args:
        videos: values of the column `video` of a source.
        labels: class index of each.
        processor: that of the model.
        num_clips: views of a video, V, evenly spaced over it.
    """

    def __init__(
        self, videos: Sequence[Any], labels: np.ndarray, processor: VJEPAVideoProcessor, num_clips: int = 1
    ) -> None:
        self.videos, self.labels, self.processor, self.num_clips = videos, labels, processor, num_clips
        self.unreadable = torch.zeros(len(videos), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> LabelledClip:
        return self._sample(row, self._views)

    def _views(self, video: Any) -> torch.Tensor:
        return self.processor(for_processor(video), num_clips=self.num_clips)["pixel_values_videos"][0]

    def _sample(
        self, row: int, read: Callable[[Any], torch.Tensor], key: tuple[int, int] | None = None
    ) -> LabelledClip:
        video = self.videos[row]
        try:
            return LabelledClip(read(video), int(self.labels[row]), key)
        except VideoDecodeError as error:
            if not self.unreadable[row]:
                logger.warning("left out an unreadable video, %s: %s", video_name(video), error.cause)
            self.unreadable[row] = True
            return LabelledClip(torch.zeros(self._shape()), UNREADABLE, key)

    def _shape(self) -> tuple[int, ...]:
        num_views = self.num_clips * self.processor.num_crops
        views = (num_views,) if num_views > 1 else ()
        size = self.processor.crop_size
        return *views, self.processor.num_frames, len(self.processor.image_mean), size["height"], size["width"]


class TrainingVideos(LabelledVideos):
    """Random augmented clips of videos with their classes; another one of each video in every epoch.

    Args:
        videos: values of the column `video` of a source.
        labels: class index of each.
        processor: that of the model; it says how many frames a clip has, how far apart, and how it is normalized.
        transform: augmentation, to clips of the size that the model takes.
        seed: of all that is drawn.
        balanced: every class comes equally often in an epoch of as many clips, so videos of rare ones several times.
    """

    def __init__(
        self,
        videos: Sequence[Any],
        labels: np.ndarray,
        processor: VJEPAVideoProcessor,
        transform: Transform,
        seed: int,
        balanced: bool = False,
    ) -> None:
        super().__init__(videos, labels, processor)
        self.reader = ClipReader(
            processor.num_frames, processor.frame_step, seed, transform, processor.short_video, processor.fps
        )
        self.balanced = balanced
        # Shared, because workers that live longer than an epoch must hear of the next one.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.order: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0), np.empty(0))

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips from now on."""
        self.epoch.fill_(epoch)

    def __getitem__(self, place: int) -> LabelledClip:
        row, num_drawn = place, int(self.epoch)
        if self.balanced:
            if self.order[0] != self.epoch:
                self.order = (int(self.epoch), *balanced_order(self.labels, self.reader.seed, int(self.epoch)))
            row, num_drawn = int(self.order[1][place]), int(self.order[2][place])
        request = ClipRequest(row, num_drawn, group=())
        return self._sample(row, lambda video: self._augmented(video, request), key=(num_drawn, row))

    def _augmented(self, video: Any, request: ClipRequest) -> torch.Tensor:
        (clip,) = self.reader.read(video, [request])
        return normalize(clip, self.processor.image_mean, self.processor.image_std)


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """As many samples as there are labels, with each class equally often, give or take one.

    Returns:
        the samples `(n,)`, and a number `(n,)` for each that no earlier draw of the same sample had.
    """
    classes, counts = np.unique(labels, return_counts=True)
    per_class = math.ceil(len(labels) / len(classes))
    most_draws = math.ceil(per_class / counts.min())
    rows = np.empty((per_class, len(classes)), dtype=np.int64)
    for place, label in enumerate(classes):
        generator = np.random.default_rng([seed, epoch, int(label), BALANCE_STREAM])
        rows[:, place] = np.resize(generator.permutation(np.flatnonzero(labels == label)), per_class)
    draws = epoch * most_draws + np.arange(per_class)[:, None] // counts
    return rows.reshape(-1)[: len(labels)], draws.reshape(-1)[: len(labels)]


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
            generator = np.random.default_rng([self.seed, *samples[place].key, MIX_STREAM])
            kind = kinds[int(generator.integers(len(kinds)))]
            share = generator.beta(alphas[kind], alphas[kind])
            if kind == "cutmix":
                box = cutmix_box(*pixels.shape[-2:], share, generator)
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
