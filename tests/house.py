"""The repository as text, for the tests that guard how it is built. No guard imports the code it reads."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "src" / "vjepa_hf"
# Real videos and reference numbers, which are not part of the project.
SHARED = Path(os.environ.get("VJEPA_SHARED") or REPO.parent / "shared")


def sources(*patterns: str) -> dict[str, str]:
    """Path below the repository -> text, for every file that matches. Nothing found is an error in the guard."""
    paths = sorted(path for pattern in patterns for path in REPO.glob(pattern))
    assert paths, f"no file matches {patterns}: this guard would watch an empty room"
    return {path.relative_to(REPO).as_posix(): path.read_text() for path in paths}


def modules() -> dict[str, str]:
    """Dotted name below the package, such as `model.tubelets` -> text, for each module of the package."""
    texts = sources("src/vjepa_hf/**/*.py")
    return {
        path.removeprefix("src/vjepa_hf/").removesuffix(".py").replace("/", "."): text for path, text in texts.items()
    }


def tracked_files(*folders: str) -> list[str]:
    """The files of a clone made now: what git tracks, and what it would track (new and not ignored)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    listing = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: there is no list of its files to compare with")
    return sorted(path for path in set(listing.stdout.splitlines()) if (REPO / path).exists())


def imports(text: str) -> tuple[set[str], set[str], set[str]]:
    """(ours, others, optional) of a module: `.x` or `..x.y` of each `from .x import z`, the top names of all other
    imports, and those of them that stand inside a `try`. Imports inside functions count."""
    tree = ast.parse(text)
    guarded = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    ours, others, optional = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = {node.module.split(".")[0]}
        elif isinstance(node, ast.ImportFrom):
            ours.add("." * node.level + (node.module or ""))
            continue
        else:
            continue
        (optional if id(node) in guarded else others).update(names)
    return ours, others, optional


def classes(text: str) -> list[ast.ClassDef]:
    return [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]


def functions(text: str) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]


def dotted(node: ast.AST) -> str:
    """`np.random.default_rng` for the expression of that name, "" for an expression that is no plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (start := dotted(node.value)):
        return f"{start}.{node.attr}"
    return ""


def attributes_read(text: str) -> set[str]:
    """Every `b` of an expression `a.b` that is read, not assigned."""
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Load)}


def fields(node: ast.ClassDef) -> list[str]:
    """Names of the annotated attributes of a class body: the fields of a dataclass or of a config."""
    names = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
    return [name for name in names if not name.startswith("_")]


def exported_names(text: str) -> list[str]:
    """The value of `__all__`."""
    assignments = (node for node in ast.parse(text).body if isinstance(node, ast.Assign))
    return next((ast.literal_eval(node.value) for node in assignments if dotted(node.targets[0]) == "__all__"), [])
