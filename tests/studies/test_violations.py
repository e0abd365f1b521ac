"""The study of impossible clips is fair: twins are equal up to the violation, and equal scores count half.

pytest tests/studies/test_violations.py
"""

import importlib
import sys

import numpy as np
import pytest

from house import REPO

TOY_KINDS = ("vanishes", "teleports", "reverses", "turns", "changes form", "changes color")
BALL_KINDS = ("vanishes", "teleports", "reverses", "passes the wall")


@pytest.fixture(scope="module")
def study():
    """The module of the study, which imports the `programs` of the benchmarks and not that of the tests."""
    path, modules = list(sys.path), dict(sys.modules)
    sys.path[:0] = [str(REPO / "studies" / "surprise"), str(REPO / "benchmarks")]
    sys.modules.pop("programs", None)
    yield importlib.import_module("violations")
    sys.path[:] = path
    for name in ("violations", "programs", "report"):
        del sys.modules[name]
    sys.modules.update({name: modules[name] for name in ("programs", "report") if name in modules})


def differing_frames(pair) -> list[int]:
    possible, impossible = pair
    assert possible.shape == impossible.shape == (16, 32, 32, 3) and possible.dtype == np.uint8
    return np.flatnonzero((possible != impossible).any(axis=(1, 2, 3))).tolist()


@pytest.mark.parametrize("kind", TOY_KINDS)
def test_twins_of_shapes_are_equal_up_to_the_violation(study, kind):
    assert kind in study.TOY_KINDS
    for seed in range(3):
        differing = differing_frames(study.toy_pair(seed, kind, 32))
        assert differing == list(range(differing[0], 16)) and 8 <= differing[0] < 12


@pytest.mark.parametrize("kind", BALL_KINDS)
def test_twins_of_balls_are_equal_up_to_the_violation(study, kind):
    pytest.importorskip("pybullet")
    assert kind in study.BALL_KINDS
    for seed in range(2):
        differing = differing_frames(study.ball_pair(seed, kind, 32))
        assert 8 <= differing[0] <= 12 and len(differing) >= 3


def test_possible_clips_of_a_seed_and_kind_are_always_the_same(study):
    first, second = (study.toy_pair(3, "turns", 32) for _ in range(2))
    assert all(np.array_equal(*clips) for clips in zip(first, second, strict=True))


def test_equal_scores_count_half(study):
    scores = [np.array([np.nan, 1.0, 2.0]), np.array([np.nan, 2.0, 2.0])]
    assert study.is_surprising(scores, np.nanmax) == 0.5
    assert study.is_surprising(scores, np.nanmean) == 1 and study.is_surprising(scores[::-1], np.nanmean) == 0


def test_frame_difference_is_the_change_up_to_the_frames_of_a_step(study):
    clip = np.zeros((6, 4, 4, 3), dtype=np.uint8)
    clip[3:, :2] = 8
    maps = study.frame_difference(clip, 0, 2)
    np.testing.assert_array_equal(maps, [np.zeros((2, 2)), [[4, 4], [0, 0]], np.zeros((2, 2))])
    assert np.isnan(study.frame_difference(clip, 1, 2)).any(axis=(1, 2)).tolist() == [True, False, False]


def test_a_clip_is_as_surprising_as_its_most_surprising_tubelets(study):
    maps = np.zeros((3, 6, 6))
    maps[0] = np.nan
    maps[1, :2, :2] = 3  # a ninth of the tubelets
    maps[2, 0, 0] = 8
    assert study.most_surprising(maps) == 3


def test_the_page_has_a_row_of_each_kind_and_of_all(study):
    pair = [np.zeros((1, 3, 3)), np.ones((1, 3, 3))]
    scores = {("shape", "turns", "a"): [pair] * 3, ("shape", "turns", "b"): [pair[::-1]] * 3}
    lines = study.page(scores, ["a", "b"], "a folder")
    rows = [line for line in lines if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:5]] == ["| shape turns", "| all shapes", "| all"]
    assert "1.00 (0.44 to 1.00) | 0.00 (0.00 to 0.56)" in rows[2]
