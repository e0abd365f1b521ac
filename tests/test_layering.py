"""Imports go strictly down, so that a reader of a file needs to know only files below it."""

import ast
import sys

from house import REPO, modules, sources

LEVEL = {
    "configuration_vjepa": 0,
    "tubelets": 0,
    "frame_sampling": 0,
    "video_io": 0,
    "masking": 0,
    "transforms": 0,
    "schedules": 0,
    "linear": 0,
    "metrics": 0,
    "detection_metrics": 0,
    "sources": 0,
    "class_names": 0,
    "grouping": 0,
    "released_checkpoints": 0,
    "checkpoints": 0,
    "run_guard": 0,
    "flops": 1,
    "modeling_vjepa": 1,
    "video_processing_vjepa": 1,
    "data": 1,
    "arguments": 1,
    "modeling_vjepa_detection": 2,
    "detection": 2,
    "diagnostics": 2,
    "starting_weights": 2,
    "training": 2,
    "features": 2,
    "finetuning": 2,
    "dense_features": 2,
    "shrinking": 2,
    "conversion": 2,
    "visualization": 2,
    "evaluation": 3,
    "online_evaluation": 4,
    "cli": 4,
    "__init__": 4,
}
# What `register_for_auto_class` copies to the Hub. There, only these are certain to be importable: the standard
# library, what transformers' vision models need anyway, and PyAV, which the video-classification pipeline needs.
EXPORTED = {
    "configuration_vjepa",
    "tubelets",
    "linear",
    "frame_sampling",
    "video_io",
    "modeling_vjepa",
    "modeling_vjepa_detection",
    "video_processing_vjepa",
}
EXPORT_MAY_IMPORT = {"numpy", "torch", "torchvision", "transformers", "safetensors", "huggingface_hub", "PIL", "av"}
DECODERS = {"av", "torchcodec", "decord", "cv2", "imageio"}
# The second one writes videos; what it reads goes through the first.
MAY_IMPORT_A_DECODER = ("video_io", "shrinking")


def imports(text: str) -> tuple[set[str], set[str], set[str]]:
    """(ours, others, optional) of a module: `x` of each `from .x import y`, the top names of all other imports,
    and those of them that stand inside a `try`. Imports inside functions count."""
    tree = ast.parse(text)
    guarded = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    ours, others, optional = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = {node.module.split(".")[0]}
        elif isinstance(node, ast.ImportFrom):
            ours.add(node.module if node.level == 1 and node.module else "." * node.level + (node.module or ""))
            continue
        else:
            continue
        (optional if id(node) in guarded else others).update(names)
    return ours, others, optional


def layering_violations(texts: dict[str, str]) -> list[str]:
    found = [f"{name}: has no level in LEVEL" for name in texts if name not in LEVEL]
    for name in sorted(set(texts) & set(LEVEL)):
        ours, others, _ = imports(texts[name])
        if "vjepa_hf" in others:
            found.append(f"{name}: imports its own package by the absolute name; write `from .x import y`")
        for other in sorted(ours):
            if other not in LEVEL:
                found.append(f"{name}: `{other}` is not one dot and one name of ours; write `from .x import y`")
            elif LEVEL[other] >= LEVEL[name]:
                found.append(f"{name} (level {LEVEL[name]}) imports {other} (level {LEVEL[other]}): not down")
    return found


def export_violations(texts: dict[str, str]) -> list[str]:
    found = []
    for name in sorted(set(texts) & EXPORTED):
        ours, others, _ = imports(texts[name])
        found += [f"{name}: imports {other}, which is not exported" for other in sorted(ours - EXPORTED)]
        strangers = others - EXPORT_MAY_IMPORT - set(sys.stdlib_module_names)
        found += [
            f"{name}: imports {other}, a hard requirement on a stranger's machine" for other in sorted(strangers)
        ]
    return found


def decoder_violations(texts: dict[str, str]) -> list[str]:
    found = []
    for name, text in sorted(texts.items()):
        _, others, optional = imports(text)
        found += [f"{name}: imports {d}; decoders live in video_io" for d in sorted((others | optional) & DECODERS)]
    return [line for line in found if line.split(":")[0] not in MAY_IMPORT_A_DECODER]


def sibling_violations(scripts: dict[str, str]) -> list[str]:
    """Scripts lean on the package and never on each other; the toy data set is data, so anyone may make it, and
    benchmarks share the page they write and what a step could do otherwise."""
    names = {path.rsplit("/", 1)[-1].removesuffix(".py") for path in scripts}
    found = []
    for path, text in sorted(scripts.items()):
        _, others, optional = imports(text)
        siblings = (others | optional) & names - {"make_toy_videos", "report", "options"}
        found += [f"{path}: imports the script {sibling}" for sibling in sorted(siblings)]
    return found


def scripts() -> dict[str, str]:
    return sources("examples/*.py", "benchmarks/*.py")


def modules_without_tests(names: set[str]) -> list[str]:
    names = names - {"__init__"}  # tests/test_import.py
    return sorted(name for name in names if not (REPO / "tests" / f"test_{name}.py").exists())


def test_every_file_has_a_level_and_imports_go_strictly_down():
    assert layering_violations(modules()) == []


def test_every_level_has_its_file():
    assert set(LEVEL) <= set(modules())


def test_exported_files_stand_alone():
    assert EXPORTED <= set(modules())
    assert export_violations(modules()) == []


def test_only_video_io_and_the_writer_of_videos_import_a_decoder():
    assert decoder_violations(modules()) == []


def test_scripts_do_not_import_each_other():
    assert sibling_violations(scripts()) == []


def test_every_module_has_its_test_file():
    assert modules_without_tests(set(modules())) == []


def test_layering_catches_a_violation():
    good = dict.fromkeys(LEVEL, "import math\n")
    assert layering_violations(good) == []
    for name, line in {
        "masking": "from .training import x",  # upward
        "data": "from .arguments import x",  # sideways
        "modeling_vjepa": "from . import tubelets",  # the exporter would not copy it
        "evaluation": "from ..other import x",
        "training": "from vjepa_hf.data import x",
        "cli": "def late():\n    from .__init__ import x",
        "unheard_of": "import math",
    }.items():
        assert len(layering_violations(good | {name: line})) == 1, (name, line)


def test_exported_files_catch_a_violation():
    assert export_violations({"modeling_vjepa": "import math, torch\nfrom .tubelets import x"}) == []
    assert export_violations({"video_io": "try:\n    import torchcodec\nexcept ImportError:\n    pass"}) == []
    for line in ("from .masking import x", "import scipy", "def late():\n    import accelerate"):
        assert len(export_violations({"modeling_vjepa": line})) == 1, line


def test_decoders_catch_a_violation():
    line = "def late():\n    try:\n        import av\n    finally:\n        pass"
    assert decoder_violations({"video_io": line}) == []
    assert len(decoder_violations({"data": line})) == 1


def test_scripts_catch_a_violation():
    texts = {
        "examples/a.py": "import make_toy_videos",
        "examples/make_toy_videos.py": "",
        "benchmarks/b.py": "import a",
    }
    assert sibling_violations(texts) == ["benchmarks/b.py: imports the script a"]


def test_missing_test_files_catch_a_violation():
    assert modules_without_tests({"unheard_of", "__init__"}) == ["unheard_of"]
