"""Everything that the page shows of a video, as arrays.

The video is cut into consecutive clips of the length that the model was trained with, which are encoded one by one.
Shapes: n time steps of one tubelet each, h rows and w columns of tubelets, F displayed frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.dense_features import WindowClip, stream_windows, window_grid
from ..evaluation.surprise import Surprise
from ..evaluation.surprise import surprise as measure_surprise
from ..model.objective import normed_targets
from ..model.tubelets import Grid
from ..model.video_inputs import video_name
from ..training.diagnostics import DEAD_STD, alarms, effective_rank, feature_std, spread_tokens
from ..visualization.attention import pooler_attention
from ..visualization.pca import FeaturePCA, feature_pca
from ..visualization.prediction import PredictionErrors, prediction_errors
from .excerpt import Excerpt, FramesForDisplay
from .moments import nearest_moments, without_rhythm
from .parts import Parts, is_untrained, load_parts
from .regions import Box, HiddenRegion, mask_token_index, region_masks

MAX_SECONDS = 20.0
MAX_SURPRISES = 48

UNTRAINED = "untrained: all biases and layer norms of the encoder have their initial values; the pictures are random"


@dataclass(frozen=True)
class Look:
    """What a model makes of a video.

    Attributes:
        video: name of the video.
        model: name of the model.
        frames: uint8 `(F, H, W, 3)`: the part of the frames that the model sees, in a size for people.
        frame_times: float64 `(F,)`, in seconds.
        times: float64 `(n,)`: time of the first frame of each time step, in seconds.
        steps_per_clip: time steps that the model sees together.
        pca: principal components of the features, `(n, h, w, 3)`.
        attention: `(n, h, w)`, sums to 1 over a clip; None without attentive pooler.
        regions: predictions under several masks; empty without predictor.
        surprise: surprise at each time step, nan where it was not measured; None without predictor, or if the video is
            shorter than a clip.
        neighbors: int64 `(n, 3)`: the most similar time steps outside of the clip around it; -1 if there is none.
        similarities: float32 `(n, 3)`: their cosine, after the mean over the video was subtracted.
        probabilities: `(n, L)`, equal within a clip; None without classifier.
        class_names: names of the L classes.
        health: metrics of the features and predictions, as in `training.health`.
        facts: what was looked at, in words.
        warnings: why not to trust the pictures.
        missing: "predictor" or "classifier" -> why there is nothing to see of it.
    """

    video: str
    model: str
    frames: np.ndarray
    frame_times: np.ndarray
    times: np.ndarray
    steps_per_clip: int
    pca: FeaturePCA
    attention: np.ndarray | None
    regions: tuple[HiddenRegion, ...]
    surprise: Surprise | None
    neighbors: np.ndarray
    similarities: np.ndarray
    probabilities: np.ndarray | None
    class_names: tuple[str, ...]
    health: Mapping[str, float]
    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    missing: Mapping[str, str]


def look_at(
    video: Any,
    model: str | Path,
    *,
    box: Box | None = None,
    start: float = 0.0,
    max_seconds: float = MAX_SECONDS,
    seed: int = 0,
) -> Look:
    """Look at a video through a model: features, attention, predictions under masks, and classes.

    Memory does not depend on the length of the video, only on `max_seconds`.

    Args:
        video: video of any kind that the processor takes. Frames without times are taken for 25 per second.
        model: folder or Hub name of a model. What it lacks, such as a predictor, is explained in `missing`.
        box: region to hide at all times, next to the masks of training: x0, y0, x1, y1 in fractions of the picture.
        start: second of the video to start at.
        max_seconds: maximum number of seconds to look at.
        seed: seed of the masks.

    Raises:
        VideoDecodeError: the video cannot be read, or ends before `start`.
        ValueError: the model is damaged or has no V-JEPA encoder, or an argument is out of range.
        OSError: the model does not exist.
    """
    if not start >= 0 or not max_seconds > 0:
        raise ValueError(f"start={start} must be 0 or more and max_seconds={max_seconds} above 0.")
    parts = load_parts(model)
    config, processor = parts.encoder.config, parts.processor
    grid = window_grid(config, processor)
    masks = region_masks(grid, box, seed)
    with processor.open_video(video) as opened:
        excerpt = Excerpt(opened, start, max_seconds)
        shown = FramesForDisplay(excerpt, processor)
        clips = stream_windows(processor, shown, config.tubelet_size, grid[0], processor.num_frames)
        pieces = [_look_at_clip(parts, clip, grid, masks) for clip in clips]
        times = np.concatenate([piece.times for piece in pieces])
        surprise = _surprise(parts, excerpt, len(times))
    features = torch.cat([piece.features for piece in pieces])
    regions = _join_regions(pieces)
    health = _health(features, regions)
    steady = without_rhythm(features, np.concatenate([piece.positions for piece in pieces]))
    per_second = round(len(times) * excerpt.info.fps / excerpt.info.num_frames)
    neighbors, similarities = nearest_moments(steady.mean(dim=(1, 2)), max(grid[0], per_second))
    warnings = ([UNTRAINED] if is_untrained(parts.encoder) else []) + alarms(health)
    return Look(
        video=video_name(video),
        model=str(model),
        frames=np.stack(shown.pictures),
        frame_times=np.array(shown.times),
        times=times,
        steps_per_clip=grid[0],
        pca=feature_pca(steady),
        attention=_join([piece.attention for piece in pieces]),
        regions=regions,
        surprise=surprise,
        neighbors=neighbors,
        similarities=similarities,
        probabilities=_join([piece.probabilities for piece in pieces]),
        class_names=_class_names(parts),
        health=health,
        facts=_facts(excerpt, parts, times, grid),
        warnings=tuple(warnings),
        missing=parts.missing,
    )


@dataclass(frozen=True)
class _Piece:
    """The time steps of one clip; `positions` are their indices within the clip."""

    times: np.ndarray
    positions: np.ndarray
    features: torch.Tensor
    errors: dict[str, PredictionErrors]
    masks: dict[str, np.ndarray]
    attention: np.ndarray | None
    probabilities: np.ndarray | None


@torch.no_grad()
def _look_at_clip(parts: Parts, clip: WindowClip, grid: Grid, masks: dict[str, np.ndarray]) -> _Piece:
    pixels = clip.pixels[None].to(parts.encoder.device, parts.encoder.dtype)
    layers = parts.encoder.config.pooler_layers if parts.classifier else None
    outputs = parts.encoder(pixels, output_layers=layers)
    targets = normed_targets([outputs.last_hidden_state])
    errors = {}
    if parts.pretraining is not None:
        for name, hidden in masks.items():
            index = mask_token_index(name, parts.encoder.config)
            every = prediction_errors(parts.pretraining, pixels, hidden, index, targets)
            errors[name] = PredictionErrors(**{key: value[clip.window.kept] for key, value in vars(every).items()})
    attention = probabilities = None
    if parts.classifier is not None:
        tokens = torch.cat(outputs.probe_layers, dim=1)
        weights = pooler_attention(parts.classifier.pooler, tokens)[0]
        attention = weights.unflatten(0, (-1, *grid)).sum(dim=0)[clip.window.kept].cpu().numpy()
        probabilities = _probabilities(parts, tokens, len(clip.seconds[clip.window.kept]))
    return _Piece(
        np.array(clip.seconds[clip.window.kept]),
        np.arange(grid[0])[clip.window.kept],
        targets[0].unflatten(0, grid)[clip.window.kept].cpu(),
        errors,
        {name: hidden[clip.window.kept] for name, hidden in masks.items()},
        attention,
        probabilities,
    )


def _probabilities(parts: Parts, tokens: torch.Tensor, num_steps: int) -> np.ndarray | None:
    """Return the class probabilities of a clip for each of its time steps `(num_steps, L)`; None for a regression."""
    assert parts.classifier is not None
    problem = parts.classifier.config.problem_type
    if problem == "regression":
        return None
    logits = parts.classifier.classifier(parts.classifier.pooler(tokens))[0].float()
    scores = logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(dim=-1)
    return scores.expand(num_steps, -1).cpu().numpy()


def _surprise(parts: Parts, excerpt: Excerpt, num_steps: int) -> Surprise | None:
    """Measure the surprise at evenly spaced time steps, `MAX_SURPRISES` at most: each is an encoder pass."""
    config, processor = parts.encoder.config, parts.processor
    steps_per_clip = processor.num_frames // config.tubelet_size
    if parts.pretraining is None or min(num_steps, steps_per_clip) < 2:
        return None
    steps = min(-(-num_steps // MAX_SURPRISES), steps_per_clip)
    options = {"mask_token_index": mask_token_index("future", config), "stride": steps * config.tubelet_size}
    result = measure_surprise(parts.encoder, excerpt, processor, **options)
    return result if np.isfinite(result.scores).any() else None


def _join(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None


def _join_regions(pieces: list[_Piece]) -> tuple[HiddenRegion, ...]:
    regions = []
    for name in pieces[0].errors:
        fields = ("model", "mean", "copy")
        errors = {key: np.concatenate([getattr(piece.errors[name], key) for piece in pieces]) for key in fields}
        hidden = np.concatenate([piece.masks[name] for piece in pieces])
        if hidden.any():  # a video that ends before the hidden half of its only clip shows nothing of it
            regions.append(HiddenRegion(name, hidden, PredictionErrors(**errors)))
    return tuple(regions)


def _health(features: torch.Tensor, regions: tuple[HiddenRegion, ...]) -> dict[str, float]:
    """Return the metrics of `training.health` that need only the features and errors of one video."""
    tokens = spread_tokens([features.flatten(0, 2)[None]], min(2048, features[..., 0].numel()))
    std, rank = feature_std(tokens), float(effective_rank(tokens))
    health = {"target_std": float(std.mean()), "target_dead": float((std < DEAD_STD).float().mean())}
    health |= {"target_rank": rank, "target_rank_share": rank / min(tokens.shape)}
    if regions:
        means = [region.means for region in regions]
        for name, trivial in (("loss_ratio", "mean"), ("copy_ratio", "copy")):
            total = sum(mean[trivial] for mean in means)
            health[name] = sum(mean["model"] for mean in means) / max(total, 1e-12)
    return health


def _class_names(parts: Parts) -> tuple[str, ...]:
    if parts.classifier is None:
        return ()
    labels: Any = parts.classifier.config.id2label
    return tuple(str(labels[index]) for index in range(len(labels)))


def _facts(excerpt: Excerpt, parts: Parts, times: np.ndarray, grid: Grid) -> tuple[str, ...]:
    info, size = excerpt.info, parts.processor.crop_size
    seconds = info.num_frames / info.fps
    total = excerpt.num_frames_of_video / info.fps
    facts = [
        f"{seconds:.1f} s" if info.num_frames == excerpt.num_frames_of_video else f"{seconds:.1f} of {total:.1f} s"
    ]
    facts.append(f"{info.width} x {info.height} pixels, of which the model sees {size['width']} x {size['height']}")
    facts.append(f"{len(times)} time steps of {grid[1]} x {grid[2]} tubelets, {grid[0]} steps per clip")
    if not excerpt.has_times:
        facts.append(f"frames without times, taken for {info.fps:g} per second")
    return tuple(facts)
