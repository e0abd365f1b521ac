"""Features of a set of real and a set of generated videos, and the distance between them, with its origin."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers.utils import cached_file

from ..conversion.meta import POOLER_PROJECTION
from ..conversion.released import LICENSE
from ..data.sources import load_videos
from ..data.videos import VideoFailure
from ..files import named_damage, parents_of, whole_file
from ..model.configuration_vjepa import VJEPAConfig
from ..model.frame_sampling import regular_clips
from ..model.modeling_vjepa import VJEPAForVideoClassification, VJEPAModel
from ..model.video_inputs import open_video, video_name
from ..model.video_io import VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .comparison_page import comparison_page
from .distance import BLIND_SPOT, VideoSetDistance, VideoSetMoments, check_set, check_settings
from .features import FrozenEncoder, VideoFeatures, extract_features
from .generators import contributions, rank_generators
from .shards import encoder_fingerprint, video_version, weights_fingerprint
from .views import RegularClips

FEATURES = ("pooler", "trained_pooler", "mean")
BATCH_ROWS = 1024  # cached features in memory
LICENSE_NOTE = (
    f"Meta's released V-JEPA weights are under {LICENSE}, which excludes commercial use; for other weights, see the "
    "model card"
)


class MeanPooling(torch.nn.Module):
    """Mean over the tokens of a clip, `(B, N, D)` to `(B, D)`."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mean(dim=1)


class ProjectedAttention(torch.nn.Module):
    """Cross-attention of the pooler with the output projection that a released probe stores.

    Meta's code never applied the projection, so it was never trained. PyPI's `vjepa` 0.1.2 applies it, and published
    values of JEDi are of that package.
    """

    def __init__(self, attention: torch.nn.Module, projection: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.attention = attention
        self.weight, self.bias = (torch.nn.Parameter(projection[name].float()) for name in ("weight", "bias"))

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(self.attention(queries, tokens), self.weight, self.bias)


@dataclass(frozen=True)
class WholeVideoClip(RegularClips):
    """One clip per video: frames evenly spaced from its first to its last frame, or at a step around its middle.

    A video shorter than a clip repeats frames. A video of one frame is an error, because it shows no motion.

    Attributes:
        processor: defines the number of frames and their size.
        frame_step: distance between the frames of the clip; None spreads them over the video.
        value_range: lowest and highest possible value of float arrays, such as (-1, 1).
    """

    frame_step: float | None = None
    value_range: tuple[float, float] | None = None

    @property
    def num_views(self) -> int:
        """V, 1."""
        return 1

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that affect the pixels."""
        spacing = "over the video" if self.frame_step is None else self.frame_step
        return {**super().settings, "frame_step": spacing}

    def __str__(self) -> str:
        processor = self.processor
        height, width = processor.crop_size["height"], processor.crop_size["width"]
        spacing = "spread over the video" if self.frame_step is None else f"at step {self.frame_step}"
        return f"{processor.num_frames} frames of {height} x {width} pixels, {spacing}"

    def __call__(self, video: Any, row: int) -> torch.Tensor:
        """Return the normalized clip `(1, T, C, H, W)` of a value of the column `video`, or of an array of frames.

        Raises:
            VideoDecodeError: the video cannot be read, or has one frame.
            ValueError: the values of an array are outside of `value_range`, or it is missing.
        """
        if hasattr(video, "ndim"):
            frames = self._scaled(torch.as_tensor(video[self._indices(len(video), f"video {row}")]))
        else:
            with open_video(video) as file:
                frames = file.frames(self._indices(file.info.num_frames, video_name(video)))
        options = {"num_clips": 1, "num_crops": 1, "do_rescale": not frames.is_floating_point()}
        return self.processor(frames, return_tensors="pt", **options)["pixel_values_videos"]

    def _indices(self, total: int, name: str) -> np.ndarray:
        if total < 2:
            raise VideoDecodeError(name, "a clip", f"it has {total or 'no'} frame, so it is not a video")
        num_frames = self.processor.num_frames
        if self.frame_step is not None:
            return regular_clips(total, num_frames, self.frame_step)[0]
        return np.linspace(0, total - 1, num_frames).round().astype(np.int64)

    def _scaled(self, frames: torch.Tensor) -> torch.Tensor:
        """Return uint8 frames unchanged, and others scaled to [0, 1]."""
        if frames.dtype == torch.uint8:
            return frames
        if self.value_range is None:
            raise ValueError(f"arrays of {frames.dtype} need a value_range, such as (0, 1), (-1, 1) or (0, 255)")
        low, high = self.value_range
        if not (low <= frames.min() and frames.max() <= high):
            lowest, highest = frames.min().item(), frames.max().item()
            raise ValueError(f"values from {lowest:.4g} to {highest:.4g} are not in value_range=({low}, {high})")
        return (frames.float() - low) / (high - low)


@dataclass(frozen=True)
class SetEncoder:
    """Encoder, pooler and clip settings that give one vector per video.

    Attributes:
        accelerator: its mixed precision is the precision of the encoder.
        model: encoder.
        pooler: module from tokens `(B, N, D)` to `(B, D)`.
        clips: makes the clip of a video.
        features: one of `FEATURES`.
        batch_size: clips per forward pass.
        num_workers: worker processes that decode, per process.
    """

    accelerator: Accelerator
    model: VJEPAModel
    pooler: torch.nn.Module
    clips: WholeVideoClip
    features: str
    batch_size: int = 16
    num_workers: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that affects the features of a video."""
        return {
            "features": self.features,
            "published_setting": self.is_published,
            "encoder": encoder_fingerprint(self.model),
            "pooler": weights_fingerprint(self.pooler),
            "clips": json.loads(json.dumps(self.clips.settings, default=str)),
            "precision": str(self.accelerator.mixed_precision),
        }

    @property
    def layers(self) -> list[int] | None:
        """Encoder layers that the pooler reads; None for the last one."""
        return None if self.features == "mean" else self.model.config.pooler_layers

    @property
    def is_published(self) -> bool:
        """Whether sizes and steps are those of published values: ViT-H/16 with a stored projection, 16 x 224 x 224."""
        is_projected = any(isinstance(module, ProjectedAttention) for module in self.pooler.modules())
        config = self.model.config
        sizes = (config.hidden_size, config.num_hidden_layers, config.num_frames, config.image_size)
        return is_projected and sizes == (1280, 32, 16, 224) and self.clips.frame_step is None

    def encode(self, videos: Iterable[Any]) -> Iterator[tuple[np.ndarray, list[VideoFailure]]]:
        """Yield float32 features `(n, D)` of the readable videos of each batch, and the failures of the others."""
        encoder = FrozenEncoder(self.accelerator, self.model, self.batch_size, self.pooler, self.layers)
        rows = enumerate(videos)
        while batch := list(islice(rows, self.batch_size)):
            encoded = encoder([(row, self._clip(video, row)) for row, video in batch], to="cpu")
            vectors = [tokens[0, 0].numpy() for _, tokens in encoded if isinstance(tokens, torch.Tensor)]
            width = self.model.config.hidden_size
            failures = [failure for _, failure in encoded if isinstance(failure, VideoFailure)]
            yield np.stack(vectors) if vectors else np.empty((0, width), np.float32), failures

    def _clip(self, video: Any, row: int) -> torch.Tensor | VideoFailure:
        try:
            return self.clips(video, row)
        except VideoDecodeError as error:
            name = f"video {row}" if hasattr(video, "ndim") else video_name(video)
            return VideoFailure(name, error.cause)

    def moments(self, videos: Iterable[Any], folder: Path | None) -> "VideoSet":
        """Sum the features of videos; with a `folder` they are cached there, and all processes take part.

        Raises:
            ValueError: the features of a video are not finite; or several processes without a folder.
        """
        result = VideoSet()
        if folder is None:
            if self.accelerator.num_processes > 1:
                raise ValueError("streams and arrays need a single process: launch one, or give a list of files")
            for features, failures in self.encode(videos):
                result.add(features, failures)
            return result
        result.videos = videos if isinstance(videos, Sequence) else list(videos)
        result.cached = extract_features(
            self.accelerator,
            self.model,
            self.clips,
            result.videos,
            folder,
            self.batch_size,
            self.num_workers,
            self.pooler,
            self.layers,
        )
        for rows, features in result.batches():
            result.add(features, [], [video_name(result.videos[int(row)]) for row in rows])
        result.failures = list(result.cached.failures.values())
        return result


@dataclass
class VideoSet:
    """Sums of the features of the readable videos of a set, and the failures of the others.

    Attributes:
        moments: sums of the features.
        failures: unreadable videos.
        videos: all videos, if their features are cached.
        cached: their features on disk.
    """

    moments: VideoSetMoments = field(default_factory=VideoSetMoments)
    failures: list[VideoFailure] = field(default_factory=list)
    videos: Sequence[Any] = ()
    cached: VideoFeatures | None = None

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows of readable videos and their cached features `(n, D)`."""
        if self.cached is not None:
            readable = self.cached.readable
            for start in range(0, len(readable), BATCH_ROWS):
                rows = readable[start : start + BATCH_ROWS]
                yield rows, self.cached.tokens[rows][:, 0]

    def worst(self, real: VideoSetMoments) -> list[dict[str, Any]]:
        """Return row, name and contribution of the ten files that pull the set away most."""
        values = [contributions(real, self.moments, features.astype(np.float64)) for _, features in self.batches()]
        if self.cached is None:
            return []
        rows, contribution = self.cached.readable, np.concatenate(values)
        return [
            {
                "row": int(rows[index]),
                "video": video_name(self.videos[int(rows[index])]),
                "contribution": float(contribution[index]),
            }
            for index in np.argsort(-contribution, kind="stable")[:10]
        ]

    def add(self, features: np.ndarray, failures: Iterable[VideoFailure], names: Sequence[str] = ()) -> None:
        """Add features `(n, D)` of readable videos, and failures of others.

        Raises:
            ValueError: a feature is not finite.
        """
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            name = names[row] if names else f"readable video {self.moments.count + row}"
            raise ValueError(f"the features of {name} are not finite: the encoder or its precision is at fault")
        if len(features):
            self.moments.add(features.astype(np.float64))
        self.failures += failures

    def check(self, name: str) -> None:
        """Check that the set can be compared.

        Raises:
            ValueError: it has fewer than two readable videos, or its features are all equal.
        """
        if self.moments.count < 2 and self.failures:
            raise ValueError(
                f"{self.moments.count} of {self.moments.count + len(self.failures)} {name} videos can be read, and a "
                f"set needs at least 2: {self.failures[0]}"
            )
        check_set(self.moments, name)


def load_set_encoder(
    model: str | Path,
    features: str = "pooler",
    frame_step: float | None = None,
    value_range: tuple[float, float] | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
) -> SetEncoder:
    """Load what gives one vector per video.

    Args:
        model: folder or Hub name of a classifier, or with `features="mean"` of any model.
        features: "pooler", the vector before the classifier as `videojedi` computes it, with the projection that a
            converted probe stores; "trained_pooler", the vector that the classifier was trained on, without it; or
            "mean", the mean of all tokens. A probe that was trained here has no projection: the first two are equal.
        frame_step: as in `WholeVideoClip`.
        value_range: as in `WholeVideoClip`.
        batch_size: clips per forward pass.
        num_workers: worker processes that decode, per process.

    Raises:
        ValueError: the model has no pooler, or its processor makes clips of another size than the model's.
    """
    if features not in FEATURES:
        raise ValueError(f"features={features!r} must be one of {', '.join(FEATURES)}")
    pooler: torch.nn.Module = MeanPooling()
    with named_damage(model):
        processor = VJEPAVideoProcessor.from_pretrained(model)
        if features != "mean":
            encoder, pooler = _load_pooled(model, with_projection=features == "pooler")
        else:
            encoder = VJEPAModel.from_pretrained(model, add_predictor=False, dtype=torch.float32)
    size, config = processor.crop_size, encoder.config
    height, width = config.frame_size
    if (processor.num_frames, size["height"], size["width"]) != (config.num_frames, height, width):
        raise ValueError(
            f"the processor of {model} makes clips of {processor.num_frames} frames of {size['height']} x "
            f"{size['width']} pixels, but the model is configured for {config.num_frames} of {height} x {width}"
        )
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    clips = WholeVideoClip(processor, frame_step, value_range)
    return SetEncoder(accelerator, encoder, pooler, clips, features, batch_size, num_workers)


def _load_pooled(model: str | Path, with_projection: bool) -> tuple[VJEPAModel, torch.nn.Module]:
    """Return the encoder and the pooler of a classifier, the latter with its stored projection if there is one.

    Raises:
        ValueError: the weights have no pooler. transformers would draw one at random.
    """
    message = (
        f"{model} has no attentive pooler: train one with `python examples/probe.py --model {model}`, convert a "
        "released probe with `vjepa-hf convert --probe`, or use --features mean"
    )
    architectures = VJEPAConfig.from_pretrained(model).architectures
    if architectures and VJEPAForVideoClassification.__name__ not in architectures:
        raise ValueError(message)
    loaded: Any = VJEPAForVideoClassification.from_pretrained(model, output_loading_info=True, dtype=torch.float32)
    classifier, info = loaded
    if any(key.startswith("pooler.") for key in info["missing_keys"]):
        raise ValueError(message)
    file = cached_file(model, POOLER_PROJECTION, _raise_exceptions_for_missing_entries=False)
    if with_projection and file is not None:
        layer = classifier.pooler.cross_attention_layer
        layer.attention = ProjectedAttention(layer.attention, load_file(file))
    return classifier.vjepa, classifier.pooler


def compare_videos(
    encoder: SetEncoder, real: Any, generated: Any, features_dir: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Compute JEDi between two sets of videos. On several processes, call it on all of them.

    A set is a source of `load_videos`, a list of videos, a stream, or arrays `(n, T, H, W, C)` or `(n, T, C, H, W)`.

    Args:
        encoder: encoder and clip settings, the same for both sets.
        real: the real videos.
        generated: the generated videos.
        features_dir: folder that caches the features of files, so that an interrupted call resumes.
        options: `real_stats`, `video_column` and `seed`, as in `compare_generators`.

    Returns:
        The result of `VideoSetDistance.compute`; `unreadable_real` and `unreadable_generated`: names of unreadable
        videos with their causes; `worst`: the ten videos that add most to `jedi`, with how much, if they are files;
        `settings`: how the features were made; `blind_spot` and `license`: sentences. Empty on other processes than
        the main one.

    Raises:
        ValueError: as `compare_generators`.
    """
    result = compare_generators(encoder, real, {"generated": generated}, features_dir, **options)
    return result["generators"]["generated"] if result else {}


def compare_generators(
    encoder: SetEncoder,
    real: Any,
    generated: Mapping[str, Any],
    features_dir: str | Path | None = None,
    real_stats: str | Path | None = None,
    video_column: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare several sets of generated videos with one real set. On several processes, call it on all of them.

    Args:
        encoder: encoder and clip settings, the same for all sets.
        real: the real videos.
        generated: name of each generator -> its videos.
        features_dir: folder that caches the features of files, so that an interrupted call resumes.
        real_stats: file of the sums of the real set; it is written, or read if it exists.
        video_column: column with the videos, if a set is a table.
        seed: seed of the bootstrap and of the permutations.

    Returns:
        `generators`: name -> result as in `compare_videos`; `pairs`: the records of `rank_generators`, which of two
        generators is closer and with which p-value. Empty on other processes than the main one.

    Raises:
        ValueError: a set has fewer than two readable videos, its features are equal or not finite, a generated set
            is the real set, or `real_stats` is damaged or of other settings or videos.
    """
    settings, is_main = encoder.settings, encoder.accelerator.is_main_process
    folders = {name: Path(features_dir) / name if features_dir else None for name in ("real", *generated)}
    real_videos = as_videos(real, video_column)
    generated_videos = {name: as_videos(source, video_column) for name, source in generated.items()}
    stats = Path(real_stats) if real_stats is not None and Path(real_stats).exists() else None
    if stats is not None:
        real_set = read_stats(stats, settings, real_videos)
    else:
        real_set = _sums(encoder, real_videos, folders["real"])
    real_set.check("real")
    sets = {name: _sums(encoder, videos, folders[name]) for name, videos in generated_videos.items()}
    for name, generated_set in sets.items():
        generated_set.check(name)
        if real_set.moments.has_same_features(generated_set.moments):
            raise ValueError(f"the real and the {name} videos have the same features: the same set was given twice")
    if not is_main:
        return {}
    results = {}
    for name, generated_set in sets.items():
        distance = VideoSetDistance(settings, seed)
        distance.real, distance.generated = real_set.moments, generated_set.moments
        results[name] = {
            **distance.compute(),
            "unreadable_real": [str(failure) for failure in real_set.failures],
            "unreadable_generated": [str(failure) for failure in generated_set.failures],
            "worst": generated_set.worst(real_set.moments),
            "settings": settings,
            "blind_spot": BLIND_SPOT,
            "license": LICENSE_NOTE,
        }
    moments = {name: generated_set.moments for name, generated_set in sets.items()}
    pairs = rank_generators(real_set.moments, moments, seed) if len(moments) > 1 else []
    if real_stats is not None and stats is None:
        write_stats(Path(real_stats), real_set, settings, real_videos)
    return {"generators": results, "pairs": pairs}


def write_comparison(
    encoder: SetEncoder,
    real: Any,
    generated: Mapping[str, Any],
    output: str | Path,
    features_dir: str | Path | None = None,
    page: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write the result of `compare_generators` to a JSON file on the main process, and return it.

    The file of a single generator has the result of `compare_videos`. Without `features_dir` the features are cached
    next to the file while the call runs, so that a call that was killed resumes. A mistake leaves no file.

    Args:
        encoder: as in `compare_generators`, like `real`, `generated` and `options`.
        real: the real videos.
        generated: name of each generator -> its videos.
        output: JSON file to write.
        features_dir: folder that keeps the features.
        page: HTML file to write, see `comparison_page`.
        options: `real_stats`, `video_column` and `seed`.

    Raises:
        OSError: the folder of a file to write cannot be made.
        ValueError: as `compare_generators`.
    """
    output = Path(output)
    folder = Path(features_dir) if features_dir else output.with_name(f"{output.stem}.features")
    is_main, is_new = encoder.accelerator.is_main_process, not folder.exists()
    encoder.accelerator.wait_for_everyone()
    with parents_of(output), parents_of(page or output), parents_of(options.get("real_stats") or output):
        try:
            result = compare_generators(encoder, real, generated, folder, **options)
        except ValueError:
            if is_main and is_new:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if is_main:
            content = result if len(generated) > 1 else next(iter(result["generators"].values()))
            if page is not None:
                videos = {name: as_videos(source, options.get("video_column")) for name, source in generated.items()}
                with whole_file(page) as unfinished:
                    unfinished.write_text(comparison_page(result, videos), encoding="utf-8")
            with whole_file(output) as unfinished:
                unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            if features_dir is None:
                shutil.rmtree(folder)
    return result


def summary(result: Mapping[str, Any]) -> list[str]:
    """Return the lines that `vjepa-hf compare` prints about a result of `compare_generators`."""
    first = next(iter(result["generators"].values()))
    lines = [f"skipped real video {failure}" for failure in first["unreadable_real"]]
    if not first["settings"]["published_setting"]:
        lines.append("these are not the published settings: compare the value only with others of the same settings")
    for name, values in result["generators"].items():
        lines += [f"skipped {name} video {failure}" for failure in values["unreadable_generated"]]
        lines.append(f"{name}: {values['num_real']} real and {values['num_generated']} generated videos")
        lines += [f"  warning: {warning}" for warning in values["warnings"]]
        for key in ("jedi", "jedi_unbiased"):
            low, high = values[f"{key}_interval"]
            lines.append(f"  {key:<14} {values[key]:.4f}  (95 % interval {low:.4f} to {high:.4f})")
        lines.append(f"  {'floor':<14} {values['floor']:.4f}  (between halves of the real set)")
        lines.append(f"  {'similarity':<14} {values['similarity']:.4f}")
    for pair in result["pairs"]:
        lines.append(
            f"{pair['first']} is closer than {pair['second']} by {pair['difference']:.4f}, p={pair['p_value']:.3f}"
        )
    return [*lines, f"license: {first['license']}"]


def generated_names(sources: Sequence[str]) -> list[str]:
    """Return short and different names of sets, for results and for folders of features.

    Raises:
        ValueError: a source is given twice.
    """
    if len(set(sources)) < len(sources):
        raise ValueError("the same generated videos are given twice")
    stems = [Path(source.rstrip("/")).stem for source in sources]
    is_short = len({*stems, "real"}) == len(stems) + 1
    return stems if is_short else [f"{number} {stem}" for number, stem in enumerate(stems, 1)]


def _sums(encoder: SetEncoder, videos: Iterable[Any], folder: Path | None) -> VideoSet:
    is_listed = isinstance(videos, Sequence) and not any(hasattr(video, "ndim") for video in videos[:1])
    return encoder.moments(videos, folder if is_listed else None)


def as_videos(source: Any, video_column: str | None = None) -> Iterable[Any]:
    """Return the videos of a set: a list, or for a stream an iterable.

    Raises:
        ValueError: the source is of none of the kinds of `compare_videos`.
    """
    if isinstance(source, str | Path | datasets.Dataset | datasets.IterableDataset):
        table = load_videos(source, video_column)
        return table["video"] if isinstance(table, datasets.Dataset) else (row["video"] for row in table)
    if hasattr(source, "ndim"):
        if source.ndim != 5:
            raise ValueError(f"an array of videos has 5 axes, (n, T, H, W, C) or (n, T, C, H, W), not {source.ndim}")
        return list(source)
    if isinstance(source, Iterable):
        return source
    raise ValueError(f"a set of videos is a folder, list, table, stream or array, not {type(source).__name__}")


# --- statistics of the real set --------------------------------------------------------------------------------------


def write_stats(path: Path, real: VideoSet, settings: Mapping[str, Any], videos: Iterable[Any]) -> None:
    """Write the sums of the real set with their settings, and the names and versions of its videos.

    Raises:
        ValueError: the videos are a stream, whose videos could not be checked later.
    """
    names, versions = _identities(path, videos)
    records: dict[str, Any] = {"settings": settings, "videos": names, "versions": versions}
    records["failures"] = [[failure.video, failure.cause] for failure in real.failures]
    real.moments.save(path, {name: json.dumps(value) for name, value in records.items()})


def read_stats(path: Path, settings: Mapping[str, Any], videos: Iterable[Any]) -> VideoSet:
    """Read a file of `write_stats`.

    Raises:
        ValueError: it is damaged, or was made with other settings or from other videos.
    """
    moments, metadata = VideoSetMoments.load(path)
    try:
        records = {name: json.loads(metadata[name]) for name in ("settings", "videos", "versions", "failures")}
        failures = [VideoFailure(video, cause) for video, cause in records["failures"]]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a complete file of statistics ({error}); delete it") from error
    check_settings(settings, records["settings"], str(path))
    names, versions = _identities(path, videos)
    if names != records["videos"]:
        raise ValueError(f"{path} was made from other videos than the real ones; give another file, or delete it")
    for name, version, recorded in zip(names, versions, records["versions"], strict=True):
        if version not in (recorded, None):
            raise ValueError(f"{name} was changed after {path} was written; delete that file")
    return VideoSet(moments, failures)


def _identities(path: Path, videos: Iterable[Any]) -> tuple[list[str], list[str | None]]:
    if not isinstance(videos, Sequence):
        raise ValueError(f"{path} can only keep statistics of listed videos, not of a stream")
    names = [f"video {row}" if hasattr(video, "ndim") else video_name(video) for row, video in enumerate(videos)]
    return names, [video_version(video) for video in videos]
