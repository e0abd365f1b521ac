"""The notebooks run in an empty folder without a download, and are stored without outputs.

pytest tests/repository/test_notebooks.py
"""

import json
import re
import subprocess
import sys

import pytest

from house import REPO
from programs import cpu_environment

FOLDER = REPO / "docs" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def notebook(name: str) -> dict:
    return json.loads((FOLDER / name).read_text())


def code_cells(content: dict) -> list[dict]:
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def stored_outputs(content: dict) -> list[int]:
    """Indices of the code cells that are stored as executed."""
    cells = enumerate(code_cells(content))
    return [index for index, cell in cells if cell["outputs"] or cell["execution_count"] is not None]


def test_notebooks_are_stored_without_outputs():
    assert NOTEBOOKS
    assert {name: stored_outputs(notebook(name)) for name in NOTEBOOKS} == {name: [] for name in NOTEBOOKS}


def test_stored_outputs_catch_a_violation():
    cell = {"cell_type": "code", "outputs": [], "execution_count": None}
    assert stored_outputs({"cells": [cell]}) == []
    assert stored_outputs({"cells": [cell, cell | {"execution_count": 3}]}) == [1]
    assert stored_outputs({"cells": [cell | {"outputs": ["text"]}]}) == [0]


@pytest.fixture
def run_notebook(tmp_path):
    """Run the code cells of a notebook in order, as one program in an empty folder, and return what they print."""

    def run(name: str) -> str:
        program = "\n\n".join("".join(cell["source"]) for cell in code_cells(notebook(name)))
        (tmp_path / "notebook.py").write_text(program)
        environment = cpu_environment(tmp_path / "hf_home") | {"MPLBACKEND": "agg"}
        command = [sys.executable, "notebook.py"]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
        assert result.returncode == 0, result.stderr[-8000:]
        return result.stdout

    return run


@pytest.mark.slow
def test_notebook_about_neighbors_finds_them(run_notebook, tmp_path):
    output = run_notebook("features_and_neighbors.ipynb")
    assert "(64, 128)" in output  # one vector per video
    neighbors = re.findall(r"^(\d+\.mp4)  \d\. (\d+\.mp4)  -?[01]\.\d\d  [a-z-]+$", output, re.MULTILINE)
    assert len(neighbors) == 9
    assert all(query != neighbor for query, neighbor in neighbors)
    assert re.search(r"same motion: [01]\.\d\d, chance 0\.1", output)
    assert {path.name for path in (tmp_path / "output/neighbors").glob("*.*")} == {"features.pt", "neighbors.png"}


@pytest.mark.slow
def test_notebook_about_continued_pretraining_compares_before_and_after(run_notebook, tmp_path):
    output = run_notebook("continue_pretraining.ipynb")
    assert re.findall(r"^(\w+): [01]\.\d\d \(95 % interval [01]\.\d\d to", output, re.MULTILINE) == ["before", "after"]
    adapted = tmp_path / "output" / "continued" / "adapted"
    assert (adapted / "model.safetensors").exists() and (adapted / "curves.png").exists()
    assert "init_from: output/continued/start" in (adapted / "arguments.yaml").read_text()
