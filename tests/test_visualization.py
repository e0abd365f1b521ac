"""Figures are written as PNG files, and masks are drawn at the positions of the tokens.

pytest tests/test_visualization.py
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vjepa_hf.evaluation import detection
from vjepa_hf.evaluation.detection import plot_detections
from vjepa_hf.visualization import CURVES, _matching_names, plot_confusion, plot_curves, plot_masks, shade_masked


def backend_after(statement: str) -> str:
    """Return the backend, which was "svg" before a statement, and whether the statement imported pyplot."""
    program = f"""
import sys, matplotlib
matplotlib.use("svg")
{statement}
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return result.stdout.strip().lower()  # matplotlib 3.8 writes "agg", later versions "Agg"


def test_importing_does_not_change_the_backend():
    assert backend_after("import vjepa_hf.evaluation, vjepa_hf.visualization") == "svg false"
    assert backend_after("import matplotlib.pyplot; matplotlib.use('Agg')") == "agg true"  # the test can fail


def test_only_hidden_tubelets_are_darkened():
    video = torch.full((4, 3, 16, 24), 200, dtype=torch.uint8)
    # grid 2 x 2 x 3; token 7 = time step 1, row 0, column 1
    shaded = shade_masked(video, torch.tensor([7]), tubelet_size=2, patch_size=8)
    kept = shaded == 200
    assert kept[2:, :, :8, 8:16].all()
    assert kept.sum() == 2 * 3 * 8 * 8
    assert (shaded[~kept] == 30).all()


def test_masks_over_a_clip_become_a_picture(tmp_path):
    video = torch.randint(256, (4, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plot_masks(video, {"short": torch.tensor([0, 5]), "long": torch.tensor([11])}, tmp_path / "masks.png", 2, 8, 4)
    with Image.open(tmp_path / "masks.png") as picture:
        assert picture.width > picture.height > 100


def test_curves_are_drawn_from_rows_with_different_metrics(tmp_path):
    rows = [{"step": 1, "loss": 0.9, "learning_rate": 1e-4}, {"step": 2, "target_std": 0.5}, {"step": 2, "loss": 0.8}]
    rows += [
        {"step": 2, "loss/mask_type_0": 0.7, "loss/mask_type_1": 0.9} | {f"loss/time_{time}": 0.8 for time in range(8)}
    ]
    plot_curves(rows, tmp_path / "curves.png", title="a run")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1600, 900)


def test_a_star_matches_the_metrics_of_a_run():
    rows = [
        {"step": 1, "loss": 0.9, "loss/mask_type_0": 0.8, "loss/mask_type_1": 1.0},
        {"step": 2, "loss/mask_type_1": 0.9},
    ]
    assert _matching_names(rows, ("loss", "loss/mask_type_*")) == ["loss", "loss/mask_type_0", "loss/mask_type_1"]
    assert _matching_names([{"loss": 0.9, "loss/mask_type_0": 0.9}], ("loss", "loss/mask_type_*")) == ["loss"]
    assert _matching_names(rows, ("loss/time_*",)) == []


def test_every_curve_is_a_metric_that_a_run_logs(tiny_pretraining_model, tiny_clip):
    from vjepa_hf.training.arguments import OptimizationArguments
    from vjepa_hf.training.diagnostics import health
    from vjepa_hf.training.log import Throughput
    from vjepa_hf.training.optimization import clip_gradients, hyperparameters

    masks = [torch.tensor([[0], [1]])] * 2, [torch.tensor([[16], [17]])] * 2
    outputs = tiny_pretraining_model(tiny_clip, *masks)
    outputs.loss.backward()
    logged = {"loss", *clip_gradients(tiny_pretraining_model, 1.0), *Throughput().read()}
    logged |= {*hyperparameters(0, OptimizationArguments()), *health(tiny_pretraining_model, outputs, *masks)}
    for names, _ in CURVES:
        for name in names:
            assert _matching_names([dict.fromkeys(logged, 0.0)], (name,)), name


def test_key_frames_with_boxes_become_a_picture_that_shows_which_actions_are_correct(tmp_path, monkeypatch):
    texts = []
    draw_box = detection._draw_box
    monkeypatch.setattr(detection, "_draw_box", lambda *args: texts.append(args[-1]) or draw_box(*args))
    frames = [torch.full((3, 48, 64), 90, dtype=torch.uint8)] * 3
    box = [0.25, 0.25, 0.75, 0.75]
    detections = {"boxes": [box, box], "labels": [1, 0], "scores": [0.4, 0.9]}
    nothing = {"boxes": [], "labels": [], "scores": []}
    truths = [{"boxes": [box], "labels": [0]}, {"boxes": [box, box], "labels": [1, 0]}, nothing]
    predictions = [detections, nothing, detections]
    plot_detections(frames, predictions, truths, ["sit", "run"], tmp_path / "boxes.png", threshold=0.4)
    with Image.open(tmp_path / "boxes.png") as picture:
        assert picture.width > picture.height > 300
    correct, missed = [("sit 0.90", "lightgreen"), ("run 0.40", "tomato")], [("run", "white"), ("sit", "white")]
    assert [lines for lines in texts if lines] == [correct, missed, [(line, "tomato") for line, _ in correct]]


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
