"""One self-contained HTML page about generated sets: table, intervals, p-values and the videos that pull them away."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..model.video_inputs import open_video
from ..model.video_io import VideoDecodeError

THUMBNAILS, SIDE = 4, 96  # frames per video and their height in pixels
STYLE = "body{font-family:sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em;text-align:right}"
STYLE += "td:first-child,th:first-child{text-align:left}img{height:96px;margin-right:2px}figure{margin:1em 0}"


def comparison_page(result: Mapping[str, Any], videos: Mapping[str, Any]) -> str:
    """Return the HTML page of a result of `compare_generators`; it refers to no other file.

    Args:
        result: the result.
        videos: name of each generator -> its videos, for the thumbnails.
    """
    generators = result["generators"]
    first = next(iter(generators.values()))
    parts = ["<h1>JEDi</h1>", _table(generators), _plot(generators), _pairs(result["pairs"])]
    for name, values in generators.items():
        parts += [f"<p>{escape(name)}: {escape(warning)}</p>" for warning in values["warnings"]]
        if values["worst"]:
            parts.append(f"<h2>{escape(name)}: the videos that add most to jedi</h2>")
            parts += [_figure(record, videos[name][record["row"]]) for record in values["worst"]]
    parts += [f"<p>{escape(first['blind_spot'])}. {escape(first['license'])}.</p>"]
    head = f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>JEDi</title><style>{STYLE}</style>"
    return head + "\n".join(parts) + "</html>\n"


def _table(generators: Mapping[str, Any]) -> str:
    header = ("", "jedi", "jedi_unbiased", "95 % interval", "floor", "real", "generated", "unreadable")
    rows = ["".join(f"<th>{title}</th>" for title in header)]
    for name, values in generators.items():
        low, high = values["jedi_unbiased_interval"]
        cells = [escape(name), f"{values['jedi']:.4g}", f"{values['jedi_unbiased']:.4g}", f"{low:.4g} to {high:.4g}"]
        cells.append(f"{values['floor']:.4g}")
        cells += map(str, (values["num_real"], values["num_generated"], len(values["unreadable_generated"])))
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _plot(generators: Mapping[str, Any]) -> str:
    """Draw jedi_unbiased with its interval, one line per generator, as SVG."""
    ends = [end for values in generators.values() for end in (0.0, *values["jedi_unbiased_interval"])]
    low, high = min(ends), max(ends)
    width, left = 500, 200

    def x(value: float) -> float:
        return left + width * (value - low) / ((high - low) or 1)

    lines = [f"<line x1={x(0):.1f} x2={x(0):.1f} y1=0 y2={30 * len(generators)} stroke=silver />"]
    for index, (name, values) in enumerate(generators.items()):
        y = 30 * index + 15
        start, end = values["jedi_unbiased_interval"]
        lines.append(f"<text x=0 y={y + 4}>{escape(name)}</text>")
        lines.append(f"<line x1={x(start):.1f} x2={x(end):.1f} y1={y} y2={y} stroke=black />")
        lines.append(f"<circle cx={x(values['jedi_unbiased']):.1f} cy={y} r=4 />")
    caption = f"jedi_unbiased with 95 % interval, from {low:.4g} to {high:.4g}; the gray line is 0."
    size = f"width={left + width + 20} height={30 * len(generators)}"
    return f"<figure><svg {size}>{''.join(lines)}</svg><figcaption>{caption}</figcaption></figure>"


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    return "".join(
        f"<p>{escape(pair['first'])} is closer to the real videos than {escape(pair['second'])}: jedi_unbiased "
        f"differs by {pair['difference']:.4g} (permutation test, p = {pair['p_value']:.3g}).</p>"
        for pair in pairs
    )


def _figure(record: dict[str, Any], video: Any) -> str:
    """Return evenly spaced frames of a video with its name and contribution; no frames if it cannot be read again."""
    frames: Iterable[torch.Tensor] = ()
    try:
        with open_video(video) as file:
            info = file.info
            indices = np.linspace(0, info.num_frames - 1, THUMBNAILS).round().astype(np.int64)
            frames = file.frames(indices, size=(SIDE, max(1, round(SIDE * info.width / info.height))))
    except VideoDecodeError as error:
        record = record | {"video": f"{record['video']} ({error.cause})"}
    images = "".join(f'<img alt="" src="data:image/jpeg;base64,{_jpeg(frame)}">' for frame in frames)
    caption = f"{escape(record['video'])}: {record['contribution']:.4g}"
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>"


def _jpeg(frame: torch.Tensor) -> str:
    """Encode a uint8 frame `(C, H, W)` as JPEG in base64."""
    file = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
