"""Promises of the code that ruff cannot check, each a function from text to a list of violations.

ruff checks the others (settings in pyproject.toml); the last test here shows that those settings are in force.
"""

import ast
import subprocess
import sys

import pytest

from house import REPO, attributes_read, classes, dotted, exported_names, fields, modules, sources

HUGGING_FACE_FILES = ("model.configuration_vjepa", "model.modeling_vjepa", "model.video_processing_vjepa")


# --- configuration and arguments: nothing is accepted and then ignored ---


def unread_fields(owners: dict[str, list[str]], readers: dict[str, str]) -> list[str]:
    read = set().union(*(attributes_read(text) for text in readers.values()))
    return [f"{owner}.{name} is read nowhere" for owner, names in owners.items() for name in names if name not in read]


def test_every_config_field_is_read():
    text = modules()["model.configuration_vjepa"]
    (config,) = (node for node in classes(text) if node.name == "VJEPAConfig")
    properties = (node for node in config.body if isinstance(node, ast.FunctionDef) and node.decorator_list)
    # A check reads a field too, so the configuration counts only with what it computes for others: its properties.
    readers = {"properties": "\n".join(ast.unparse(node) for node in properties)}
    readers |= {name: modules()[name] for name in HUGGING_FACE_FILES[1:]}
    owners = {config.name: fields(config)}
    assert len(owners["VJEPAConfig"]) > 10
    assert unread_fields(owners, readers) == []


def test_every_run_argument_is_read():
    owners = {
        node.name: fields(node) for node in classes(modules()["training.arguments"]) if node.name.endswith("Arguments")
    }
    assert sum(map(len, owners.values())) > 10
    readers = sources(
        "examples/*.py", "src/vjepa_hf/data/*.py", "src/vjepa_hf/training/*.py", "src/vjepa_hf/evaluation/*.py"
    )
    del readers["src/vjepa_hf/training/arguments.py"]  # a check reads an argument too
    assert unread_fields(owners, readers) == []


def test_unread_fields_catch_a_violation():
    readers = {"model": "x = config.used\nconfig.written = 1"}
    assert unread_fields({"C": ["used", "written", "ghost"]}, readers) == [
        "C.written is read nowhere",
        "C.ghost is read nowhere",
    ]


# --- randomness: a function of (seed, epoch, sample id), so every draw names its generator ---

TORCH_DRAWS = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "rand_like",
    "randn_like",
    "randint_like",
    "bernoulli",
    "normal",
}
TORCH_DRAWS |= {"multinomial", "poisson"}
IN_PLACE_DRAWS = {"bernoulli_", "normal_", "uniform_", "random_", "exponential_"}
# Stochastic depth is dropout of a whole branch, and dropout draws from torch's generator: a compiled forward can be
# handed no other. Checkpoints therefore carry the state of that generator.
DRAWS_LIKE_DROPOUT = {("model.modeling_vjepa", "bernoulli_")}


def draws_without_a_generator(texts: dict[str, str]) -> list[str]:
    """Calls of torch that draw from the global generator; numpy and `random` are ruff's (NPY002, TID251)."""
    found = []
    for file, text in texts.items():
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            module, _, name = (dotted(call.func) or getattr(call.func, "attr", "")).rpartition(".")
            draws = module == "torch" and name in TORCH_DRAWS or name in IN_PLACE_DRAWS and module != "init"
            named = any(keyword.arg == "generator" for keyword in call.keywords)
            if draws and not named and (file, name) not in DRAWS_LIKE_DROPOUT:
                found.append(f"{file}:{call.lineno}: {name} without generator=")
    return found


def test_nothing_in_the_package_draws_from_a_global_generator():
    assert draws_without_a_generator(modules()) == []


def test_draws_catch_a_violation():
    for line in (
        "torch.randn(3)",
        "x.uniform_(0, 1)",
        "torch.empty(3).normal_()",
        "def late():\n    return torch.randperm(3)",
    ):
        assert len(draws_without_a_generator({"data": line})) == 1, line
    for line in ("torch.randn(3, generator=g)", "generator.random()", "init.normal_(x)"):
        assert draws_without_a_generator({"data": line}) == [], line


def own_generators(texts: dict[str, str]) -> list[str]:
    """Calls of `default_rng` outside of `data.randomness`, which hashes purpose and key so that no streams overlap."""
    calls = {
        file: [dotted(node.func) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        for file, text in texts.items()
        if file != "data.randomness"
    }
    return [f"{file}: {name}" for file, names in calls.items() for name in names if name.endswith("default_rng")]


def test_all_generators_of_the_package_come_from_data_randomness():
    assert own_generators(modules()) == []


def test_own_generators_catch_a_violation():
    assert len(own_generators({"data.order": "rng = np.random.default_rng(3)"})) == 1
    assert len(own_generators({"data.order": "rng = default_rng(3)"})) == 1
    assert own_generators({"data.order": "rng = generator('order', 3)"}) == []


# --- names of what is public ---


def public_surface_violations(file: str, text: str) -> list[str]:
    public = {node.name for node in classes(text) if not node.name.startswith("_")} | set(exported_names(text))
    found = [f"{file}: {name} does not start with VJEPA" for name in sorted(public) if not name.startswith("VJEPA")]
    return found if exported_names(text) else [*found, f"{file}: has no __all__"]


def test_hugging_face_files_export_names_that_start_with_vjepa():
    found = [line for name in HUGGING_FACE_FILES for line in public_surface_violations(name, modules()[name])]
    assert found == []


def test_package_exports_what_its_hugging_face_files_export():
    promised = {name for file in HUGGING_FACE_FILES for name in exported_names(modules()[file])}
    assert promised <= set(exported_names(modules()["__init__"]))


def test_public_surface_catches_a_violation():
    good = "class VJEPAA: pass\n"
    assert public_surface_violations("f", good + "__all__ = ['VJEPAA']") == []
    assert len(public_surface_violations("f", good)) == 1
    assert len(public_surface_violations("f", good + "class Helper: pass\n__all__ = ['VJEPAA']")) == 1


def integer_defaults(text: str) -> list[str]:
    """Integer defaults in `__init__` of the classes of a model file: numbers that only the config may own."""
    found = []
    for node in classes(text):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                defaults = (d for d in item.args.defaults + item.args.kw_defaults if isinstance(d, ast.Constant))
                numbers = [d.value for d in defaults if isinstance(d.value, (int, float)) and d.value is not True]
                found += [f"{node.name}.__init__ has default {v}" for v in numbers if v is not False]
    return found


def test_no_layer_has_a_default_that_the_config_owns():
    models = [text for name, text in modules().items() if name.startswith("model.modeling_vjepa")]
    assert [line for text in models for line in integer_defaults(text)] == []


def test_integer_defaults_catch_a_violation():
    for signature in ("self, width=1024", "self, *, heads: int = 16", "self, eps=1e-6"):
        assert len(integer_defaults(f"class A(nn.Module):\n    def __init__({signature}): pass")) == 1, signature
    assert integer_defaults("class A:\n    def __init__(self, config, mask=None, causal=False): pass") == []


# --- ruff ---

# (file, text, rule that the text breaks there)
BROKEN_RULES = [
    ("src/vjepa_hf/data/x.py", "import numpy\n\nx = numpy.random.rand(3)", "NPY002"),
    ("src/vjepa_hf/data/x.py", "import random", "TID251"),
    ("src/vjepa_hf/data/x.py", "import torch\n\ntorch.manual_seed(0)", "TID251"),
    ("src/vjepa_hf/model/x.py", "from ..data import clips", "TID252"),
    ("examples/x.py", "try:\n    f()\nexcept (OSError, BaseException):\n    g()", "BLE001"),
    ("benchmarks/x.py", "try:\n    f()\nexcept OSError:\n    pass\nexcept Exception:\n    pass", "S110"),
    ("src/vjepa_hf/x.py", "import math", "D100"),
    ("src/vjepa_hf/x.py", "class X:\n    pass", "D101"),
    ("src/vjepa_hf/x.py", "def x():\n    pass", "D103"),
    ("src/vjepa_hf/x.py", "__all__ = ['b', 'a']\na = b = 1", "RUF022"),
]


def ruff_check(*arguments: str, text: str | None = None) -> str:
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format", "concise", *arguments]
    result = subprocess.run(command, cwd=REPO, input=text, capture_output=True, text=True)
    assert result.returncode in (0, 1), result.stderr
    return result.stdout


def test_ruff_finds_nothing():
    assert ruff_check() == ""


@pytest.mark.parametrize(("file", "text", "rule"), BROKEN_RULES)
def test_ruff_catches_a_violation(file, text, rule):
    assert f": {rule} " in ruff_check("--stdin-filename", file, "-", text=text)
