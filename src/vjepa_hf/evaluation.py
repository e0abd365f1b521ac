"""Judge a frozen encoder: features of videos, few-label splits, and the attentive probe (paper, section 4.3)."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from .data import for_processor, video_name
from .modeling_vjepa import VJEPAForVideoClassification, VJEPAModel
from .video_io import VideoDecodeError


def encode_labels(labels: Sequence[Any], names: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """Turn labels into class indices `(n,)`, and name the classes in sorted order.

    Args:
        labels: one a sample.
        names: classes in their order, where they are known; None takes those that occur.

    Raises:
        ValueError: a label that is not among `names`.
    """
    order = {name: index for index, name in enumerate(names if names is not None else sorted(set(map(str, labels))))}
    for label in labels:
        if str(label) not in order:
            raise ValueError(f"label {str(label)!r} is not one of {', '.join(order)}")
    return np.array([order[str(label)] for label in labels], dtype=np.int64), list(order)


def few_labels(labels: Sequence[int] | np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Draw `per_class` samples of every class; their sorted places in `labels`.

    A larger number contains a smaller one with the same seed, so that results over label counts compare.

    Raises:
        ValueError: a class with fewer samples.
    """
    labels = np.asarray(labels)
    chosen = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) < per_class:
            raise ValueError(f"class {label} has {len(places)} samples, fewer than the {per_class} asked for")
        chosen.append(np.random.default_rng([seed, label]).permutation(places)[:per_class])
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class VideoFeatures:
    """Tokens of videos, from a frozen encoder.

    Attributes:
        tokens: float16 `(n, N, D)` on disk, one row a video; rows of unreadable videos are zero.
        failures: row -> why that video could not be read. Nothing takes its place.
    """

    tokens: np.ndarray
    failures: dict[int, str]

    @property
    def readable(self) -> np.ndarray:
        """Rows that hold a video, in order."""
        return np.array([row for row in range(len(self.tokens)) if row not in self.failures], dtype=np.int64)


class _ProcessedVideos(torch.utils.data.Dataset):
    """(row, clip or error) of some rows of a list of videos."""

    def __init__(self, videos: Sequence[Any], rows: Sequence[int], processor: Callable[..., Any]) -> None:
        self.videos, self.rows, self.processor = videos, rows, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[int, torch.Tensor | str]:
        row = self.rows[place]
        video = self.videos[row]
        try:
            return row, self.processor(for_processor(video), return_tensors="pt")["pixel_values_videos"][0]
        except VideoDecodeError as error:
            return row, f"{video_name(video)}: cannot read {error.asked}: {error.cause}"


@torch.inference_mode()
def extract_features(
    accelerator: Accelerator,
    model: VJEPAModel,
    processor: Callable[..., Any],
    videos: Sequence[Any],
    path: str | Path,
    batch_size: int = 16,
    num_workers: int = 0,
) -> VideoFeatures:
    """Run videos through the encoder and keep all their tokens in a .npy file, so that memory stays small.

    All processes call it, each does its share of the rows and gets the whole.

    Args:
        accelerator: of the run.
        model: encoder; set to evaluation mode.
        processor: turns a video into one clip of the size the model is configured for.
        videos: values of the column `video` of a source.
        path: of the .npy file, on a disk that all processes see.
        batch_size: clips of one forward pass.
        num_workers: processes that decode, for each process.
    """
    shape = (len(videos), math.prod(model.config.grid_size), model.config.hidden_size)
    if accelerator.is_main_process:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    accelerator.wait_for_everyone()
    tokens = np.load(path, mmap_mode="r+")
    model.to(accelerator.device).eval()
    rows = range(accelerator.process_index, len(videos), accelerator.num_processes)
    clips = _ProcessedVideos(videos, rows, processor)
    failures: list[tuple[int, str]] = []
    for batch in torch.utils.data.DataLoader(clips, batch_size, num_workers=num_workers, collate_fn=list):
        failures += [(row, clip) for row, clip in batch if isinstance(clip, str)]
        readable = [(row, clip) for row, clip in batch if not isinstance(clip, str)]
        if readable:
            pixels = torch.stack([clip for _, clip in readable]).to(accelerator.device)
            features = model(pixels).last_hidden_state
            tokens[[row for row, _ in readable]] = features.to("cpu", torch.float16).numpy()
    tokens.flush()
    accelerator.wait_for_everyone()
    return VideoFeatures(np.load(path, mmap_mode="r"), dict(gather_object(failures)))


def train_probe(
    classifier: VJEPAForVideoClassification,
    tokens: np.ndarray,
    labels: np.ndarray,
    generator: np.random.Generator,
    epochs: int = 50,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
) -> list[float]:
    """Train pooler and classifier on features; the encoder is not touched. AdamW, cosine to 0.

    Args:
        classifier: the model whose head is trained, on its device.
        tokens: features `(n, N, D)`.
        labels: class indices `(n,)`.
        generator: order of the samples.
        epochs: passes over the features.
        batch_size: samples of one step.
        learning_rate: at the first step.
        weight_decay: of AdamW.

    Returns:
        the mean loss of each epoch.
    """
    head = torch.nn.Sequential(classifier.pooler, classifier.classifier).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=weight_decay)
    batches = math.ceil(len(labels) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * batches)
    history = []
    for _ in range(epochs):
        losses = []
        for rows in np.array_split(generator.permutation(len(labels)), batches):
            target = torch.from_numpy(labels[rows]).to(classifier.device)
            loss = torch.nn.functional.cross_entropy(head(_to_model(tokens[rows], classifier)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    head.eval()
    return history


@torch.inference_mode()
def probe_logits(classifier: VJEPAForVideoClassification, tokens: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Logits `(n, L)` of pooler and classifier on features `(n, N, D)`."""
    head = torch.nn.Sequential(classifier.pooler, classifier.classifier).eval()
    batches = [
        head(_to_model(tokens[start : start + batch_size], classifier)) for start in range(0, len(tokens), batch_size)
    ]
    return torch.cat(batches).float().cpu().numpy()


def few_label_accuracy(
    accelerator: Accelerator,
    model: VJEPAModel,
    processor: Callable[..., Any],
    splits: Mapping[str, datasets.Dataset],
    label: str,
    per_class: int,
    heads: Sequence[VJEPAForVideoClassification],
    epochs: int = 80,
) -> float:
    """Mean test accuracy of attentive probes on frozen features, over draws of the few labels.

    Head s is trained on the labels that `few_labels(..., seed=s)` draws. Unreadable training videos are left out; an
    unreadable test video counts as wrong.

    Args:
        accelerator: of the run, one process.
        model: encoder.
        processor: turns a video into one clip of the size the model is configured for.
        splits: `train` and `test`, with the columns `video` and `label`.
        label: column that the probe learns.
        per_class: training videos of a class.
        heads: untrained classifiers, one a draw, on any device; only their pooler and classifier are used.
        epochs: passes of a probe over its training videos.
    """
    labels, names = encode_labels(splits["train"][label])
    expected, _ = encode_labels(splits["test"][label], names)
    chosen = [few_labels(labels, per_class, seed) for seed in range(len(heads))]
    used = np.unique(np.concatenate(chosen))
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        train, test = (
            extract_features(accelerator, model, processor, videos["video"], Path(folder) / f"{split}.npy")
            for split, videos in (("train", splits["train"].select(used)), ("test", splits["test"]))
        )
        for seed, rows in enumerate(chosen):
            classifier = heads[seed].to(accelerator.device)
            places = np.intersect1d(np.searchsorted(used, rows), train.readable)
            train_probe(
                classifier, train.tokens[places], labels[used][places], np.random.default_rng(seed), epochs=epochs
            )
            right = probe_logits(classifier, test.tokens[test.readable]).argmax(axis=1) == expected[test.readable]
            scores.append(right.sum() / len(expected))
    return float(np.mean(scores))


def _to_model(tokens: np.ndarray, classifier: VJEPAForVideoClassification) -> torch.Tensor:
    # The copy leaves the file on disk behind and is writable, as torch wants it.
    return torch.from_numpy(np.array(tokens)).to(classifier.device, classifier.dtype)
