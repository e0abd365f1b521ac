"""Imports go one way along a chain of folders, so that a reader of a file needs to know only what is below it."""

import sys

from house import REPO, imports, modules, sources

# Each may import those on its left and itself; inside one there is no cycle. ruff (TID252) keeps `..` out of `model`.
ORDER = (
    "model",
    "pipelines",
    "files",
    "model_card",
    "data",
    "conversion",
    "visualization",
    "training",
    "evaluation",
    "look",
    "cli",
    "__init__",
)
# `register_for_auto_class` copies files of `model` to the Hub. There, only these are certain to be importable: the
# standard library, what transformers' vision models need anyway, and PyAV, which the pipeline needs.
EXPORT_MAY_IMPORT = {"numpy", "torch", "torchvision", "transformers", "safetensors", "huggingface_hub", "PIL", "av"}
DECODERS = {"av", "torchcodec", "decord", "cv2", "imageio"}
# The second one writes videos; what it reads goes through the first.
MAY_IMPORT_A_DECODER = ("model.video_io", "model.video_sources", "data.checks")


def imported_modules(name: str, text: str) -> set[str]:
    """Dotted names below the package of what a module imports from it; of `from .x import y` it is x, never y."""
    package = name.split(".")[:-1]
    found = set()
    for written in imports(text)[0]:
        dots = len(written) - len(written.lstrip("."))
        above = package[: len(package) - dots + 1] if dots <= len(package) + 1 else ["?"]
        found.add(".".join([*above, *filter(None, written.lstrip(".").split("."))]))
    return found


def layering_violations(texts: dict[str, str]) -> list[str]:
    found = [f"{name}: its folder has no place in ORDER" for name in texts if name.split(".")[0] not in ORDER]
    known = {name: text for name, text in texts.items() if name.split(".")[0] in ORDER}
    for name in sorted(known):
        if "vjepa_hf" in imports(known[name])[1]:
            found.append(f"{name}: imports its own package by the absolute name; write `from .x import y`")
        for other in sorted(imported_modules(name, known[name])):
            if other not in texts:
                found.append(f"{name}: `{other}` is not a module; write `from .x import y` with x a file")
            elif ORDER.index(other.split(".")[0]) > ORDER.index(name.split(".")[0]):
                found.append(f"{name} imports {other}, which is to its right in ORDER")
    return found + cycles(known)


def cycles(texts: dict[str, str]) -> list[str]:
    """Modules that can reach themselves through imports; the `__init__` of a folder only passes names on."""
    edges = {name: imported_modules(name, text) & set(texts) for name, text in texts.items()}
    found = []
    for name in sorted(edges):
        reached, frontier = set(), set(edges[name])
        while frontier:
            reached |= frontier
            frontier = set().union(*(edges[other] for other in frontier)) - reached
        if name in reached:
            found.append(f"{name} imports itself by way of others")
    return found


def third_party_violations(texts: dict[str, str]) -> list[str]:
    found = []
    for name, text in sorted(texts.items()):
        _, others, optional = imports(text)
        if name.startswith("model."):
            strangers = others - EXPORT_MAY_IMPORT - set(sys.stdlib_module_names)
            found += [f"{name}: imports {other}, which users of the Hub may not have" for other in sorted(strangers)]
        if name not in MAY_IMPORT_A_DECODER:
            decoders = (others | optional) & DECODERS
            found += [f"{name}: imports {decoder}; decoders belong to model.video_io" for decoder in sorted(decoders)]
    return found


def sibling_violations(scripts: dict[str, str]) -> list[str]:
    """Scripts lean on the package and never on each other; the toy data set is data, so anyone may make it, and
    benchmarks share the page they write, the example programs they run and the baseline they compare with."""
    names = {path.rsplit("/", 1)[-1].removesuffix(".py") for path in scripts}
    found = []
    for path, text in sorted(scripts.items()):
        _, others, optional = imports(text)
        siblings = (others | optional) & names - {"make_toy_videos", "report", "programs", "videomae"}
        found += [f"{path}: imports the script {sibling}" for sibling in sorted(siblings)]
    return found


def scripts() -> dict[str, str]:
    return sources("examples/*.py", "benchmarks/*.py")


def modules_without_tests(names: set[str]) -> list[str]:
    names = {name for name in names if not name.endswith("__init__")}  # tests/repository/test_import.py
    tests = {name: "/".join([*name.split(".")[:-1], f"test_{name.split('.')[-1]}.py"]) for name in names}
    return sorted(name for name, test in tests.items() if not (REPO / "tests" / test).exists())


def test_imports_go_strictly_down_the_chain_of_folders():
    assert layering_violations(modules()) == []


def test_every_folder_of_the_chain_is_there():
    assert {name.split(".")[0] for name in modules()} == set(ORDER)


def test_exported_files_stand_alone_and_only_video_io_and_the_writer_of_videos_import_a_decoder():
    assert third_party_violations(modules()) == []


def test_scripts_do_not_import_each_other():
    assert sibling_violations(scripts()) == []


def test_every_module_has_its_test_file():
    assert modules_without_tests(set(modules())) == []


def test_layering_catches_a_violation():
    names = ("model.tubelets", "data.clips", "data.sources", "training.setup", "evaluation.probes", "cli", "__init__")
    good = dict.fromkeys(names, "import math\n")
    assert layering_violations(good) == []
    for name, line in {
        "data.clips": "from ..training.setup import x",  # to the right
        "model.tubelets": "from . import clips",  # the exporter would not copy it
        "evaluation.probes": "from ...other import x",
        "training.setup": "from vjepa_hf.data.clips import x",
        "cli": "def late():\n    from .__init__ import x",
        "unheard_of.module": "import math",
        "data.sources": "from ..data.gone import x",
    }.items():
        assert len(layering_violations(good | {name: line})) == 1, (name, line)
    circle = {"data.clips": "from .sources import x", "data.sources": "from .clips import x"}
    assert len(layering_violations(good | circle)) == 2


def test_third_parties_catch_a_violation():
    optional = "def late():\n    try:\n        import av\n    finally:\n        pass"
    for name, line in (("model.modeling_vjepa", "import math, torch"), ("model.video_io", optional)):
        assert third_party_violations({name: line}) == []
    for name, line in (
        ("model.modeling_vjepa", "import scipy"),
        ("model.modeling_vjepa", "def late():\n    import accelerate"),
        ("data.clips", optional),
    ):
        assert len(third_party_violations({name: line})) == 1, line


def test_scripts_catch_a_violation():
    texts = {
        "examples/a.py": "import make_toy_videos",
        "examples/make_toy_videos.py": "",
        "benchmarks/b.py": "import a",
    }
    assert sibling_violations(texts) == ["benchmarks/b.py: imports the script a"]


def test_missing_test_files_catch_a_violation():
    assert modules_without_tests({"unheard_of", "__init__"}) == ["unheard_of"]
