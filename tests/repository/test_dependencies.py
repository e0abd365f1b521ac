"""setup.cfg declares every package that the code imports, and constraints-oldest.txt pins its oldest version."""

import configparser
import re
import sys
from pathlib import Path

from house import imports, sources

# Packages whose import name differs from their name on PyPI.
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}
# transformers needs them to save models and to process videos; our lower bounds are higher than its own.
USED_BY_TRANSFORMERS = {"safetensors", "torchvision", "huggingface_hub"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read_string(sources("setup.cfg")["setup.cfg"])
    return parser


def requirements(*extras: str) -> set[str]:
    """Return lines such as `torch>=2.10`: install_requires and the given extras."""
    parser = setup_cfg()
    texts = [parser["options"]["install_requires"], *(parser["options.extras_require"][extra] for extra in extras)]
    return {line for text in texts for line in text.split("\n") if line}


def all_extras() -> list[str]:
    return list(setup_cfg()["options.extras_require"])


# --- the oldest versions ---


def oldest_versions_violations(claimed: set[str], pinned: set[str]) -> list[str]:
    found = [f"{line}: has no lower bound; write name>=version" for line in claimed if ">=" not in line]
    oldest = {line.split(",")[0].replace(">=", "==") for line in claimed if ">=" in line}
    found += [f"{line}: in setup.cfg, but not pinned in constraints-oldest.txt" for line in oldest - pinned]
    return sorted(
        found + [f"{line}: pinned in constraints-oldest.txt, but not in setup.cfg" for line in pinned - oldest]
    )


def test_the_oldest_versions_are_those_that_setup_cfg_claims():
    lines = sources("constraints-oldest.txt")["constraints-oldest.txt"].splitlines()
    pinned = {line for line in lines if not line.startswith("#")}
    assert oldest_versions_violations(requirements(*all_extras()), pinned) == []


def test_oldest_versions_catch_a_violation():
    claimed, pinned = {"torch>=2.10", "transformers>=5.17,<6"}, {"torch==2.10", "transformers==5.17"}
    assert oldest_versions_violations(claimed, pinned) == []
    assert len(oldest_versions_violations(claimed | {"torchvision"}, pinned)) == 1
    assert len(oldest_versions_violations(claimed | {"numpy>=1.26"}, pinned)) == 1
    assert len(oldest_versions_violations(claimed, pinned | {"numpy==1.26"})) == 1
    assert len(oldest_versions_violations(claimed, {"torch==2.11", "transformers==5.17"})) == 2


def test_the_oldest_python_is_the_one_that_setup_cfg_claims():
    options = setup_cfg()["options"]
    assert options["python_requires"].replace(">=", "python") + " --version" in sources("Makefile")["Makefile"]


def unpinned(claimed: set[str], pins: str) -> list[str]:
    """Return the requirements that no line `name==version` of `pins` meets."""
    pinned = dict(line.split("==") for line in pins.splitlines())
    oldest = (re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in claimed if not line.startswith("#"))
    return sorted(name for name, version in oldest if _numbers(pinned.get(name, "0")) < _numbers(version))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_space_pins_every_requirement_and_its_version_of_gradio():
    texts = sources("examples/space/*")
    pins = texts["examples/space/requirements.txt"]
    assert len(pins.split()) > 15 and unpinned(requirements("demo"), pins) == []
    header = texts["examples/space/README.md"].split("---\n")[1]
    assert "sdk: gradio\n" in header and "app_file: app.py\n" in header
    assert f"gradio=={re.search('sdk_version: (.*)', header)[1]}" in pins.splitlines()


def test_unpinned_requirements_catch_a_violation():
    assert unpinned({"torch>=2.10", "transformers>=5.17,<6"}, "torch==2.10\ntransformers==5.24.0") == []
    assert unpinned({"torch>=2.10", "gradio>=6.31"}, "torch==2.9.1") == ["gradio", "torch"]


# --- what is imported ---


def imported_packages(text: str) -> set[str]:
    """Return the top names of all absolute imports, also of those inside functions."""
    _, others, optional = imports(text)
    return others | optional


def importable(requirements: set[str]) -> set[str]:
    """Return import names of requirements: `yaml` for `pyyaml>=6.0`."""
    packages = {re.match(r"[\w-]+", line)[0] for line in requirements if not line.startswith("#")}
    return {IMPORTED_AS.get(package, package) for package in packages}


def undeclared_imports(texts: dict[str, str], declared: set[str], own: set[str]) -> list[str]:
    """Return imports that are not declared, not ours and not in the standard library."""
    allowed = importable(declared) | own | set(sys.stdlib_module_names)
    found = ((file, name) for file, text in texts.items() for name in imported_packages(text) - allowed)
    return sorted(f"{file}: imports {name}" for file, name in found)


def unused_requirements(declared: set[str], texts: dict[str, str]) -> list[str]:
    """Return the requirements that nothing imports."""
    imported = set().union(*map(imported_packages, texts.values()))
    return sorted(importable(declared) - imported - USED_BY_TRANSFORMERS)


def test_the_package_imports_only_what_setup_cfg_declares():
    texts = sources("src/**/*.py")
    assert undeclared_imports(texts, requirements(*all_extras()), set()) == []


def test_tests_and_scripts_import_only_what_setup_cfg_declares():
    texts = sources("tests/**/*.py", "examples/**/*.py", "benchmarks/**/*.py", "studies/**/*.py")
    # Meta's checkouts call their packages `src` and `app`; a benchmark compares with them where somebody has one.
    # Studies install `pybullet`, which renders balls, and `vizdoom`, which plays levels; their pages say how. `space`
    # is a folder of examples.
    own = {Path(file).stem for file in texts} | {"vjepa_hf", "src", "app", "space", "pybullet", "vizdoom"}
    assert undeclared_imports(texts, requirements("dev", "demo", "browser"), own) == []


def test_every_requirement_is_imported():
    assert unused_requirements(requirements(), sources("src/**/*.py", "examples/**/*.py")) == []


def test_undeclared_imports_catch_a_violation():
    declared = {"torch>=2.10", "pyyaml>=6.0"}
    for text in (
        "import psutil",
        "def late():\n    from scipy.stats import norm",
        "import torch, PIL.Image",
        "import a.b",
    ):
        assert len(undeclared_imports({"x": text}, declared, {"house"})) == 1, text
    text = "import os, yaml, torch.nn\nfrom house import REPO\nfrom .data import Clip\nfrom torch import nn"
    assert undeclared_imports({"x": text}, declared, {"house"}) == []


def test_unused_requirements_catch_a_violation():
    assert unused_requirements({"torch>=2.10", "pyyaml>=6.0"}, {"x": "import torch\nimport yaml"}) == []
    assert unused_requirements({"torch>=2.10", "pyyaml>=6.0"}, {"x": "import torch"}) == ["yaml"]
