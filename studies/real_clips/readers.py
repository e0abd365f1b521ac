"""The classifiers of the study, attentive probes and ridge regression, and how a setting is chosen and tested."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torchvision.transforms.v2 import functional
from transformers import PreTrainedModel, VideoMAEForPreTraining

from clips import CACHED_FRAMES, Clips, tasks
from pretraining import Options
from vjepa_hf import VJEPAConfig, VJEPAForVideoClassification
from vjepa_hf.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize
from vjepa_hf.evaluation.features import VideoFeatures
from vjepa_hf.evaluation.labels import encode_labels
from vjepa_hf.evaluation.probes import HeadSettings, predict, train_heads

PROBE, RIDGE = "attentive probe", "ridge regression"
PROBE_BATCH = 32
RIDGE_STRENGTHS = [0.1, 1.0, 10.0]

# (training rows, their labels, test rows, setting, seed) -> scores (test rows, classes)
Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray, float, int], np.ndarray]


def read_tokens(accelerator: Accelerator, model: PreTrainedModel, frames: np.ndarray, options: Options) -> np.ndarray:
    """Return the tokens of whole clips, unchanged and mirrored, from a frozen encoder: float16 `(2, n, N, D)`."""
    moments = np.linspace(0, CACHED_FRAMES - 1, options.num_frames).round().astype(int)
    size, tokens = (options.image_size, options.image_size), []
    for start in range(0, len(frames), options.batch_size):
        clips = torch.from_numpy(frames[start : start + options.batch_size, moments]).to(accelerator.device)
        clips = functional.resize(clips.flatten(0, 1), size, antialias=False).unflatten(0, (-1, len(moments)))
        tokens.append(encode(accelerator, model, torch.cat([clips, clips.flip(-1)])).unflatten(0, (2, -1)))
    return torch.cat(tokens, dim=1).numpy()


@torch.inference_mode()
def encode(accelerator: Accelerator, model: PreTrainedModel, clips: torch.Tensor) -> torch.Tensor:
    """Return the tokens of uint8 clips `(B, T, 3, H, W)` from a frozen encoder, on the CPU: float16 `(B, N, D)`."""
    encoder = (model.videomae if isinstance(model, VideoMAEForPreTraining) else model.vjepa).eval()
    pixels = normalize(clips.to(accelerator.device), IMAGENET_MEAN, IMAGENET_STD)
    with accelerator.autocast():
        return encoder(pixels).last_hidden_state.to("cpu", torch.float16)


def attentive_probe(
    tokens: np.ndarray,
    place: np.ndarray,
    options: Options,
    device: torch.device,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    learning_rate: float,
    seed: int,
) -> np.ndarray:
    """Learn from both views of a clip and return the mean of both, as a `Classifier`.

    Args:
        tokens: of `read_tokens`.
        place: row of the clips -> row of the tokens.
        options: sizes, and steps of the probe.
        device: where it learns.
        train: rows of the clips, as the rest.
        labels: class indices.
        test: rows.
        learning_rate: the setting.
        seed: of the start weights and the order.
    """
    torch.manual_seed(seed)
    # Only its pooler and its classifier are used, so its encoder is small.
    sizes = {"hidden_size": options.hidden_size, "num_attention_heads": options.num_heads}
    config = VJEPAConfig(**sizes, num_hidden_layers=1, image_size=16, num_frames=2, num_labels=int(labels.max()) + 1)
    head = VJEPAForVideoClassification(config).to(device)
    both, twice = np.concatenate(tokens[:, place[train]]), np.tile(labels, len(tokens))
    generator = np.random.default_rng(seed)
    epochs = max(1, round(options.probe_steps * PROBE_BATCH / len(twice)))
    settings, rows = [HeadSettings(learning_rate, 0.01)], np.arange(len(twice))
    (probe,) = train_heads(head, settings, VideoFeatures(both), twice, rows, generator, epochs, PROBE_BATCH)
    views = [VideoFeatures(view[place[test]]) for view in tokens]
    return np.mean([predict(head, [probe.head], view, np.arange(len(test)))[1][0] for view in views], axis=0)


def ridge(
    views: np.ndarray,
    place: np.ndarray,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    strength: float,
    seed: int,
) -> np.ndarray:
    """Solve a ridge regression on `views` `(2, n, ...)`, as a `Classifier`, used as by the probe. It draws nothing."""
    known = np.concatenate(views[:, place[train]]).reshape(len(views) * len(train), -1).astype(np.float32)
    asked = views[:, place[test]].astype(np.float32).mean(axis=0).reshape(len(test), -1)
    mean, scale = known.mean(axis=0), known.shape[1] ** 0.5 * (known.std(axis=0) + 1e-6)
    known, asked = (known - mean) / scale, (asked - mean) / scale
    targets = np.eye(labels.max() + 1)[np.tile(labels, len(views))]
    weights = np.linalg.solve(known @ known.T + strength * np.eye(len(known)), targets - targets.mean(axis=0))
    return asked @ known.T @ weights + targets.mean(axis=0)


def flat_features(clips: Clips) -> dict[str, np.ndarray]:
    """Return pixels `(2, n, side, side)`: the middle frame in gray, and the mean change between frames."""
    gray = np.stack([clip.mean(axis=1, dtype=np.float32) for clip in clips.frames])
    middle, motion = gray[:, CACHED_FRAMES // 2], np.abs(np.diff(gray, axis=1)).mean(axis=1)
    features = {"middle frame in gray": middle, "mean change between frames": motion}
    return {name: np.stack([values, values[..., ::-1]]) for name, values in features.items()}


def evaluate(
    clips: Clips, split: int, seed: int, classify: Classifier, settings: Sequence[float], num_heads: int
) -> dict[str, dict[str, Any]]:
    """Choose a setting on clips that no test of the split holds, then test.

    Returns:
        for each task `setting`, the accuracy of every setting where it was chosen, and for each path that was tested
        the share of the `num_heads` classifiers that were right.
    """
    found = {}
    for name, task in tasks(clips, split, seed).items():
        labels = np.zeros(len(clips.labels), dtype=np.int64)
        labels[task.rows], _ = encode_labels(clips.labels[task.rows])
        right = partial(share_right, classify, labels)
        validation = [
            float(np.mean([right(a, b, setting, 1).mean() for a, b in (task.choosing, task.choosing[::-1])]))
            for setting in settings
        ]
        setting, answers = settings[int(np.argmax(validation))], {}
        for test in task.tests:
            shares = right(np.setdiff1d(task.rows, test), test, setting, num_heads)
            answers |= dict(zip(clips.paths[test].tolist(), shares.tolist(), strict=True))
        found[name] = {"setting": setting, "validation": validation, "right": answers}
    return found


def share_right(
    classify: Classifier, labels: np.ndarray, train: np.ndarray, test: np.ndarray, setting: float, num_heads: int
) -> np.ndarray:
    """Return for each test row the fraction of the classifiers, one per seed, that are right about it."""
    scores = [classify(train, labels[train], test, setting, seed) for seed in range(num_heads)]
    return np.mean([score.argmax(axis=1) == labels[test] for score in scores], axis=0)
