"""What an installation contains: the package, and the examples without a second copy of them.

pytest tests/repository/test_packaging.py
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import vjepa_hf
from house import REPO, tracked_files

BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools changes sys.argv
for build in (build_meta.build_sdist, build_meta.build_wheel, build_meta.build_editable):
    build(f"{folder}/{build.__name__}")
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of a fresh clone, so that building leaves no trace in this one."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in tracked_files(".", ":!docs", ":!tests", ":!benchmarks", ":!studies"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / path, folder / path)
    return folder


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory) -> dict[str, Path]:
    """What setuptools builds without a network: `build_sdist`, `build_wheel`, `build_editable` -> file."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("build_sdist", "build_wheel", "build_editable"):
        (folder / name).mkdir()
    result = subprocess.run([sys.executable, "-c", BUILD, folder], cwd=checkout, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return {path.parent.name: path for path in folder.glob("*/*.*")}


def installed_path(path: str) -> str:
    """Where a file of the checkout is in an installation: `examples/a.py` is `vjepa_hf/examples/a.py`."""
    return path.removeprefix("src/") if path.startswith("src/") else f"vjepa_hf/{path}"


def test_wheel_has_every_file_of_package_and_examples_and_no_other(built):
    with zipfile.ZipFile(built["build_wheel"]) as wheel:
        contents = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {installed_path(path): (REPO / path).read_bytes() for path in tracked_files("src", "examples")}
    assert contents.keys() == expected.keys()
    assert contents == expected


def test_source_distribution_has_every_file_of_package_and_examples(built):
    with tarfile.open(built["build_sdist"]) as archive:
        contents = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert contents >= {"LICENSE", "README.md", "setup.cfg", "pyproject.toml", *tracked_files("src", "examples")}


def test_editable_installation_finds_the_examples_of_the_checkout(built, checkout):
    with zipfile.ZipFile(built["build_editable"]) as wheel:
        (finder,) = (name for name in wheel.namelist() if name.endswith("_finder.py"))
        mapping = re.search(r"^MAPPING\b.*?= (\{.*\})$", wheel.read(finder).decode(), re.MULTILINE)[1]
    folders = {"vjepa_hf": str(checkout / "src/vjepa_hf"), "vjepa_hf.examples": str(checkout / "examples")}
    assert ast.literal_eval(mapping) == folders


@pytest.mark.slow
def test_examples_of_a_wheel_run_by_their_module_name(built, tmp_path, run_example):
    with zipfile.ZipFile(built["build_wheel"]) as wheel:
        wheel.extractall(tmp_path)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = ("accelerate", "launch", "-m", "vjepa_hf.examples.pretrain", "--help")
    assert "--output_dir" in run_example(*command, PYTHONPATH=path).stdout


def test_version_is_the_same_wherever_it_is_written(built):
    version = vjepa_hf.__version__
    assert built["build_wheel"].name.startswith(f"vjepa_hf-{version}-")
    assert f"\nversion: {version}\n" in (REPO / "CITATION.cff").read_text()
    assert re.search(r"^## \[?([\d.]+)", (REPO / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version
