"""The page is one small file without references to other files, and it contains the arrays of the look.

pytest tests/look/test_page.py
"""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vjepa_hf.look import look_at, write_page
from vjepa_hf.look.page import JPEG_BYTES, jpegs, page_data


@pytest.fixture
def look(pretrained, video):
    return look_at(video, pretrained, box=(0, 0, 0.5, 0.5))


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def unpack(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def references(page: str) -> list[str]:
    """What a browser would load: addresses in attributes and styles, imports, and requests of programs."""
    return re.findall(
        r"""(?:src|href|srcset|action)\s*=\s*["']?(?!data:)[\w./:]+|url\([^)]*\)|@import|\bfetch\(|XMLHttpRequest|"""
        r"""import\s*\(|https?://(?!www\.w3\.org/2000/svg")""",
        page,
    )


def test_the_page_loads_nothing_and_is_small(look, tmp_path):
    page = write_page(look, tmp_path / "look.html").read_text()
    assert references(page) == []
    assert len(page) < 500_000 and page.count("<script") == 2
    assert data_of(page) == json.loads(json.dumps(page_data(look)))


def test_references_catch_a_violation():
    for text in ('<img src="a.png">', "<link href=a.css>", "url(x.woff)", "@import 'a'", "fetch('a')", "http://a.b"):
        assert references(text), text
    assert references('<img src="data:image/png;base64,AA">') == []


def test_data_are_those_of_the_look(look):
    data = page_data(look)
    assert data["grid"] == (4, 4) and data["size"] == (48, 48) and data["times"] == look.times.round(3).tolist()
    np.testing.assert_array_equal(unpack(data["colors"]).reshape(look.pca.colors.shape), look.pca.colors)
    for region, entry in zip(look.regions, data["regions"], strict=True):
        errors = unpack(entry["model"]).reshape(region.hidden.shape)
        assert ((errors == 255) == ~region.hidden).all()
        shown = errors[region.hidden] / 254 * entry["highest"]
        expected = region.errors.model[region.hidden].clip(0, entry["highest"])
        np.testing.assert_allclose(shown, expected, atol=entry["highest"] / 250)
        assert entry["means"][entry["trivialName"]] == min(entry["means"]["mean"], entry["means"]["copy"])
        assert [value is None for value in entry["curve"]] == (~region.hidden.any(axis=(1, 2))).tolist()
    scores = np.isfinite(look.surprise.scores)
    assert data["surprise"]["times"] == look.times[scores].round(3).tolist()
    assert len(unpack(data["surprise"]["maps"])) == 16 * scores.sum()


def test_the_most_probable_classes_are_drawn(look):
    probabilities = np.array([[0.1, 0.9, 0.0], [0.2, 0.2, 0.6]]).repeat(5, axis=0)
    drawn = page_data(replace(look, probabilities=probabilities, class_names=("a", "b", "c")))["classes"]
    assert drawn["names"] == ["b", "c", "a"] and drawn["probabilities"][1] == 5 * [0] + 5 * [0.6]


def test_names_cannot_end_the_script(look, tmp_path):
    name = "</script><script>alert(1)</script>"
    page = write_page(replace(look, video=f"videos/{name}.mp4", model=name), tmp_path / "look.html").read_text()
    assert page.count("</script>") == 2 and data_of(page)["model"] == name


def test_frames_are_jpegs_within_a_budget():
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    sizes = {}
    for budget in (JPEG_BYTES, 9_000):
        images = [base64.b64decode(image) for image in jpegs(noise, budget)]
        assert all(Image.open(io.BytesIO(image)).size == (64, 64) for image in images)
        sizes[budget] = sum(map(len, images))
    assert sizes[9_000] < 9_000 < sizes[JPEG_BYTES] < JPEG_BYTES


def test_ten_seconds_stay_below_five_megabytes(look, tmp_path):
    """The worst case: 15 frames per second of noise at full size."""
    noise = np.random.default_rng(0).integers(0, 256, (150, 320, 320, 3), dtype=np.uint8)
    page = write_page(replace(look, frames=noise, frame_times=np.arange(150) / 15), tmp_path / "look.html")
    assert page.stat().st_size < 5_000_000
