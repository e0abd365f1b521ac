"""The repository as text, for the tests that guard how it is built. No guard imports the code it reads."""

import ast
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "src" / "vjepa_hf"


def sources(*patterns: str) -> dict[str, str]:
    """Path below the repository -> text, for every file that matches. Nothing found is an error in the guard."""
    paths = sorted(path for pattern in patterns for path in REPO.glob(pattern))
    assert paths, f"no file matches {patterns}: this guard would watch an empty room"
    return {path.relative_to(REPO).as_posix(): path.read_text() for path in paths}


def modules() -> dict[str, str]:
    """Module name -> text, for each module of the package."""
    return {Path(path).stem: text for path, text in sources("src/vjepa_hf/*.py").items()}


def tracked_files(*folders: str) -> list[str]:
    """The files of a clone made now: what git tracks, and what it would track (new and not ignored)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    listing = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: there is no list of its files to compare with")
    return sorted(path for path in set(listing.stdout.splitlines()) if (REPO / path).exists())


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
