"""What an installation contains, and that all commands work in it: the package, and the only copy of the examples.

pytest tests/repository/test_packaging.py
"""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import vjepa_hf
from house import REPO, tracked_files
from programs import cpu_environment

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
    for path in tracked_files("."):
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


def test_the_wheel_stays_small_with_the_checkpoint_in_it(built):
    assert "vjepa_hf/tiny/model.safetensors" in zipfile.ZipFile(built["build_wheel"]).namelist()
    assert built["build_wheel"].stat().st_size < 3e6


def test_source_distribution_has_every_file_of_the_repository(built):
    with tarfile.open(built["build_sdist"]) as archive:
        contents = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert sorted(set(tracked_files(".")) - contents) == []
    assert not [name for name in contents if name.endswith(".pyc")]


def test_the_index_of_packages_accepts_the_metadata(built):
    pytest.importorskip("twine", reason="the extra `dist` is not installed")
    files = [built["build_sdist"], built["build_wheel"]]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.count("PASSED") == 2, result.stdout + result.stderr


def test_editable_installation_finds_the_examples_of_the_checkout(built, checkout):
    with zipfile.ZipFile(built["build_editable"]) as wheel:
        (finder,) = (name for name in wheel.namelist() if name.endswith("_finder.py"))
        mapping = re.search(r"^MAPPING\b.*?= (\{.*\})$", wheel.read(finder).decode(), re.MULTILINE)[1]
    folders = {"vjepa_hf": str(checkout / "src/vjepa_hf"), "vjepa_hf.examples": str(checkout / "examples")}
    assert ast.literal_eval(mapping) == folders


@pytest.fixture(scope="module")
def run_installed(built, tmp_path_factory):
    """Runs a command in a virtual environment with the wheel, and with the other packages of this environment.

    Their folders are on the path without being read for `.pth` files, which would add the checkout.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python]
    options = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *options, built["build_wheel"]], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "packages.pth").write_text("\n".join(packages))
    environment = cpu_environment(folder / "hf_home")
    environment.pop("PYTHONPATH", None)

    def run(cwd: Path, *command, status: int = 0) -> str:
        program = [python.parent / command[0], *map(str, command[1:])]
        result = subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
        assert result.returncode == status, f"$ {command}\n{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
        return result.stdout + result.stderr

    return run


@pytest.mark.slow
def test_all_commands_run_in_an_empty_folder_with_only_the_wheel(run_installed, tmp_path):
    program = "import vjepa_hf.examples as e, vjepa_hf as v, sys; print(e.__file__, v.__file__, sys.prefix)"
    *files, prefix = run_installed(tmp_path, "python", "-c", program).split()
    assert all(file.startswith(prefix) for file in files)
    assert run_installed(tmp_path, "vjepa-hf", "--version").strip() == vjepa_hf.__version__
    line = run_installed(tmp_path, "vjepa-hf", "pretrain", "--config", "vitl61", status=2)
    assert line.startswith("vjepa-hf pretrain: vitl61: no such file") and line.count("\n") == 1

    run_installed(tmp_path, "vjepa-hf", "pretrain", "--max_steps", 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]
    # `--multi_gpu` starts processes on CPUs too; without it, accelerate runs one.
    launch = ["python", "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2]
    words = ["-m", "vjepa_hf.examples.pretrain", "--max_steps", 10, "--output_dir", "output/two"]
    assert "2 processes" in run_installed(tmp_path, *launch, *words)
    run_installed(tmp_path, "vjepa-hf", "probe", "--label", "motion", "--labels_per_class", 8, "--epochs", 5)
    answers = run_installed(tmp_path, "vjepa-hf", "classify", "--videos", "output/toy_videos/test/000000.mp4")
    assert len(re.findall(r"^  0\.\d{3}  [\w-]+$", answers, re.MULTILINE)) == 5
    features = ["features", "output/toy_videos/test/000000.mp4", "--output", "features.safetensors"]
    assert "features (1, 4, 6, 6, 128)" in run_installed(tmp_path, "vjepa-hf", *features)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detect_actions", "draw_predictions", "make_toy_actions"])
def test_examples_of_a_wheel_run_by_their_module_name(run_installed, tmp_path, name):
    assert "--output" in run_installed(tmp_path, "python", "-m", f"vjepa_hf.examples.{name}", "--help")


@pytest.mark.slow
def test_tests_of_the_source_distribution_run_in_it(built, run_installed, tmp_path):
    with tarfile.open(built["build_sdist"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    files = ("model/test_tubelets.py", "training/test_arguments.py", "repository/test_pages.py", "test_cli.py")
    output = run_installed(folder, "python", "-m", "pytest", "-q", *(f"tests/{file}" for file in files))
    assert " passed" in output and "failed" not in output


def test_version_is_the_same_wherever_it_is_written(built):
    version = vjepa_hf.__version__
    assert built["build_wheel"].name.startswith(f"vjepa_hf-{version}-")
    assert f"\nversion: {version}\n" in (REPO / "CITATION.cff").read_text()
    assert re.search(r"^## \[?([\d.]+)", (REPO / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version
