"""The HTML page of a look at a video: one file that refers to no other."""

import base64
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import whole_file
from .clip import Look
from .regions import DESCRIPTIONS, HiddenRegion

JPEG_BYTES = 3_000_000  # of all frames; base64 makes a third more of them
JPEG_QUALITIES = (80, 65, 50, 35, 20)
VISIBLE = 255  # in maps of errors
NUM_CLASSES = 6  # to draw
DATA = '<script id="data" type="application/json">'


def write_page(look: Look, path: str | Path) -> Path:
    """Write a look as one HTML page of less than 5 MB for 10 seconds, and return its path.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(page_data(look), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8").replace(DATA, DATA + text)
    with whole_file(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)


def page_data(look: Look) -> dict[str, Any]:
    """Return what the program of the page reads: numbers, texts, and bytes in base64."""
    trusted = {name: round(value, 4) for name, value in look.health.items()}
    return {
        "video": look.video.rsplit("/", 1)[-1],
        "model": look.model,
        "facts": look.facts,
        "warnings": look.warnings,
        "missing": look.missing,
        "health": trusted,
        "size": look.frames.shape[2:0:-1],
        "grid": look.pca.projections.shape[1:3],
        "times": look.times.round(3).tolist(),
        "frameTimes": look.frame_times.round(3).tolist(),
        "frames": jpegs(look.frames),
        "colors": _bytes(look.pca.colors),
        "variance": look.pca.variance_ratios.round(4).tolist(),
        "attention": None if look.attention is None else _bytes(_scaled(look.attention, look.attention.max())),
        "regions": [_region(region) for region in look.regions],
        "surprise": _surprise(look),
        "neighbors": [_neighbors(*row) for row in zip(look.neighbors, look.similarities, strict=True)],
        "classes": _classes(look),
    }


def jpegs(frames: np.ndarray, max_bytes: int = JPEG_BYTES) -> list[str]:
    """Encode frames `(F, H, W, 3)` as JPEG in base64, at the best quality that keeps them within `max_bytes`."""
    for quality in JPEG_QUALITIES:
        images = [_jpeg(frame, quality) for frame in frames]
        if sum(map(len, images)) <= max_bytes:
            break
    return [base64.b64encode(image).decode() for image in images]


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _bytes(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).decode()


def _scaled(values: np.ndarray, highest: float) -> np.ndarray:
    """Scale values from 0 to `highest` to bytes from 0 to 254; nan becomes `VISIBLE`."""
    scaled = (254 * values / max(highest, 1e-12)).clip(0, 254).round()
    return np.where(np.isnan(scaled), VISIBLE, scaled)


def _region(region: HiddenRegion) -> dict[str, Any]:
    """Return the maps of a hidden region, in the same units for the prediction and for the better trivial one."""
    means = region.means
    trivial = min(("mean", "copy"), key=lambda name: means[name])
    maps = {"model": region.errors.model, "trivial": getattr(region.errors, trivial)}
    highest = max(float(np.nanpercentile(values, 99.5)) for values in maps.values())
    return {
        "name": region.name,
        "description": DESCRIPTIONS[region.name],
        "means": {name: round(value, 4) for name, value in means.items()},
        "trivialName": trivial,
        "highest": round(highest, 4),
        "curve": _curve(maps["model"]),
        "trivialCurve": _curve(maps["trivial"]),
        **{name: _bytes(_scaled(values, highest)) for name, values in maps.items()},
    }


def _surprise(look: Look) -> dict[str, Any] | None:
    """Return the measured time steps of the surprise."""
    if look.surprise is None:
        return None
    measured = np.isfinite(look.surprise.scores)
    maps = look.surprise.maps[measured]
    return {
        "times": look.times[: len(measured)][measured].round(3).tolist(),
        "scores": look.surprise.scores[measured].round(4).tolist(),
        "maps": _bytes(_scaled(maps, float(np.percentile(maps, 99.5)))),
    }


def _curve(errors: np.ndarray) -> list[float | None]:
    """Return the mean error of each time step; None where nothing is hidden."""
    hidden = ~np.isnan(errors)
    counts = hidden.sum(axis=(1, 2))
    sums = np.where(hidden, errors, 0).sum(axis=(1, 2))
    return [round(float(total / count), 4) if count else None for total, count in zip(sums, counts, strict=True)]


def _neighbors(indices: np.ndarray, similarities: np.ndarray) -> list[list[float]]:
    return [[int(i), round(float(s), 3)] for i, s in zip(indices, similarities, strict=True) if i >= 0]


def _classes(look: Look) -> dict[str, Any] | None:
    """Return the classes that are most probable at some time, and their probabilities over time."""
    if look.probabilities is None:
        return None
    best = np.argsort(-look.probabilities.max(axis=0), kind="stable")[:NUM_CLASSES]
    return {
        "names": [look.class_names[index] for index in best],
        "probabilities": look.probabilities[:, best].T.round(4).tolist(),
    }
