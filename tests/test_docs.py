"""The code on the pages runs, in the order in which a reader meets it."""

import re

import pytest
from PIL import Image

from house import REPO
from vjepa_hf import VJEPAVideoProcessor


def python_blocks(page: str) -> str:
    """All Python of a page as one program, on the lines where the page has it, so that errors point into the page."""
    lines, inside = [], False
    for line in page.splitlines():
        opens, closes = line == "```python", line == "```"
        lines.append(line if inside and not closes else "")
        inside = opens or inside and not closes
    return "\n".join(lines)


def test_walk_of_one_clip_runs_and_has_the_shapes_it_claims(toy_video_path, tmp_path):
    page = REPO / "docs" / "index.md"
    program = python_blocks(page.read_text())
    assert program.count("assert") > 8
    exec(compile(program, page, "exec"), {"video": toy_video_path, "folder": tmp_path})


def test_code_about_data_runs(toy_videos, toy_video_path):
    page = REPO / "docs" / "data.md"
    program = python_blocks(page.read_text())
    assert "assert" in program
    exec(compile(program, page, "exec"), {"folder": toy_videos / "train", "video": toy_video_path})


def test_code_about_detection_runs(toy_video_path, tiny_pretraining_model, tmp_path):
    from vjepa_hf import VJEPAVideoProcessor

    tiny_pretraining_model.save_pretrained(tmp_path)
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(tmp_path)
    page = REPO / "docs" / "detection.md"
    program = python_blocks(page.read_text())
    assert program.count("assert") > 3
    exec(compile(program, page, "exec"), {"folder": tmp_path, "video": str(toy_video_path)})


def test_walk_catches_a_wrong_shape(toy_video_path, tmp_path):
    program = python_blocks((REPO / "docs" / "index.md").read_text())
    wrong = re.sub(r"\(1, 256, 96\)", "(1, 255, 96)", program)
    assert wrong != program
    with pytest.raises(AssertionError):
        exec(compile(wrong, "wrong", "exec"), {"video": toy_video_path, "folder": tmp_path})


def accuracy_rows(page: str) -> list[list[str]]:
    """Rows `| seed or mean | four accuracies |` of a page's tables."""
    return [row.split(" | ") for row in re.findall(r"^\| ((?:\d|mean)(?: \| \d\.\d{3}){4}) \|$", page, re.MULTILINE)]


def test_what_pretraining_teaches_is_told_as_it_was_measured():
    measured = accuracy_rows((REPO / "benchmarks" / "results" / "toy_learning.md").read_text())
    assert [row[0] for row in measured] == ["0", "1", "2", "mean"]
    assert accuracy_rows((REPO / "docs" / "recipe.md").read_text()) == measured[:3]
    told = re.findall(
        r"(\d+) % of the test\s+videos, and from an untrained encoder in (\d+) %", (REPO / "README.md").read_text()
    )
    pretrained, untrained = (f"{100 * float(value):.0f}" for value in measured[3][1:3])
    assert told == [(pretrained, untrained)]
    assert float(measured[3][1]) - float(measured[3][2]) > 0.15 and float(measured[3][3]) >= float(measured[3][4])


def test_code_about_probing_runs(tiny_model, tiny_classifier, toy_video_path, tmp_path):
    for model, name in ((tiny_model, "model"), (tiny_classifier, "probe")):
        model.save_pretrained(tmp_path / name)
        VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path / name)
    page = REPO / "docs" / "probing.md"
    program = python_blocks(page.read_text())
    assert program.count("assert") >= 3
    names = {"folder": tmp_path / "model", "probe": str(tmp_path / "probe"), "video": str(toy_video_path)}
    exec(compile(program, page, "exec"), names | {"image": Image.new("RGB", (40, 40))})
