"""The metrics of a run become a PNG file.

pytest tests/visualization/test_curves.py
"""

import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from vjepa_hf.visualization.curves import CURVES, _matching_names, plot_curves


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


def test_curves_that_cannot_be_written_leave_the_old_ones_whole(tmp_path, monkeypatch):
    (tmp_path / "curves.png").write_text("old")

    def full(figure, path, **options):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        plot_curves([{"step": 1, "loss": 1.0}], tmp_path / "curves.png")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


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
