"""Rows of frames and maps become one figure.

pytest tests/visualization/test_strips.py
"""

import numpy as np

from vjepa_hf.visualization.strips import plot_strips


def test_a_row_has_evenly_spaced_pictures_and_all_maps_have_one_range():
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((9, 4, 6, 3), np.uint8)
    first = np.array([np.full((2, 3), value, dtype=np.float32) for value in range(9)])
    second = np.where(first > 4, np.nan, first - 20)
    figure = plot_strips({"video": frames, "a": first, "b": second}, num_columns=5)
    images = np.array([axis.images[0] for axis in figure.axes]).reshape(3, 5)
    assert [image.get_array()[0, 0, 0] for image in images[0]] == [0, 2, 4, 6, 8]
    assert {image.get_clim() for image in images[1:].flat} == {(-20, 8)}
    assert images[2, 4].get_array().mask.all()
    assert [axis.get_ylabel() for axis in figure.axes[::5]] == ["video", "a", "b"]


def test_maps_of_nothing_are_drawn():
    assert len(plot_strips({"nothing": np.full((1, 2, 2), np.nan)}, num_columns=3).axes) == 3
