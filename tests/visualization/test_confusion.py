"""Confusion matrices become PNG files, with the names as they are.

pytest tests/visualization/test_confusion.py
"""

import numpy as np
import pytest
from PIL import Image

from vjepa_hf.visualization.confusion import plot_confusion
from vjepa_hf.visualization.curves import plot_curves


@pytest.mark.parametrize("num_classes, width", [(3, 550), (60, 1050)])
def test_the_size_of_a_confusion_matrix_follows_the_names(tmp_path, num_classes, width):
    matrix = np.eye(num_classes, dtype=int) * 3
    plot_confusion(matrix, [f"class {number}" for number in range(num_classes)], tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.width == width


def test_names_with_the_marks_of_formulas_are_drawn_as_they_are(tmp_path):
    names = ["$x_$", "a_b^{", "100 $", "line\nbreak", "\\frac"]
    plot_confusion(np.eye(5, dtype=int), names, tmp_path / "confusion.png")
    plot_curves([{"step": 1, "loss": 1.0}], tmp_path / "curves.png", title="run_$x_$")
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "curves.png"}
