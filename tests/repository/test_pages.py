"""Pages and code name the same things: README, CHANGELOG, docs, the first lines of scripts.

pytest tests/repository/test_pages.py
"""

import ast
import re
from pathlib import Path

import pytest

from house import REPO, attributes_read, classes, exported_names, functions, modules, sources, tracked_files

# --- words ---

FORBIDDEN_WORDS = {
    r"\bteacher": "say target_encoder",
    r"momentum[ _]encoder": "say target_encoder",
    r"(?<![\w.])/(work|tmp|root|home)/": "a path of one machine",
    r"# *(TODO|FIXME|XXX)": "finish it or open an issue",
    r"suppress\((Base)?Exception\)": "name the errors that can happen here",
}


def wording_violations(texts: dict[str, str]) -> list[str]:
    lines = (
        (f"{file}:{number}", line) for file, text in texts.items() for number, line in enumerate(text.split("\n"), 1)
    )
    return [
        f"{place}: {remedy}: {line.strip()[:80]}"
        for place, line in lines
        for pattern, remedy in FORBIDDEN_WORDS.items()
        if re.search(pattern, line, re.IGNORECASE)
    ]


def test_one_word_for_one_thing():
    texts = sources("src/**/*.py", "examples/**/*.*", "benchmarks/**/*.py", "studies/**/*.py", "docs/*.md", "*.md")
    assert wording_violations(texts) == []


def test_wording_catches_a_violation():
    for line in (
        "the teacher's features",
        "momentum_encoder = 1",
        "data: /home/me/videos",
        "# TODO later",
        "with suppress(Exception):",
    ):
        assert len(wording_violations({"x": line})) == 1, line
    assert wording_violations({"x": "examples/tmp/y, target_encoder, https://a.b/work/x"}) == []


LETTERS = ("B", "T", "C", "H x W", "t x h x w", "N", "K", "M", "D")


def missing_letters(text: str) -> list[str]:
    """Letters of shapes that a legend does not explain."""
    text = text.replace("×", "x").replace("`", "").replace("|", " ")
    return [letter for letter in LETTERS if not re.search(rf"(^|[\s,;:(]){letter}[\s=,]", text, re.MULTILINE)]


def test_shape_letters_are_explained_once_in_the_docs_and_once_in_the_model():
    assert missing_letters(ast.get_docstring(ast.parse(modules()["model.modeling_vjepa"]))) == []
    assert missing_letters(sources("docs/index.md")["docs/index.md"]) == []


def test_missing_letters_catch_a_violation():
    legend = "B clips, T frames, C channels, H x W pixels; grid t x h x w, N tokens; K kept, M masked; D width"
    assert missing_letters(legend) == []
    assert missing_letters(legend.replace("K kept, ", "")) == ["K"]


# --- pages ---


def api_page_violations(page: str, exported: set[str], texts: dict[str, str]) -> list[str]:
    """Public names that the page leaves out, and `module.name`s on it that do not exist."""
    written = set(re.findall(r"`([\w.]+)`", page))
    found = [f"docs/api.md: leaves out {name}" for name in sorted(exported - written)]
    defined = {f"{file}.{node.name}" for file, text in texts.items() for node in classes(text) + functions(text)}
    for file, text in texts.items():
        if file.endswith(".__init__"):
            folder = file.removesuffix(".__init__")
            promised = {f"{folder}.{name}" for name in exported_names(text)}
            found += [f"docs/api.md: leaves out {name}" for name in sorted(promised - written)]
            defined |= promised
    claimed = {name for name in written if name.split(".")[0] in {file.split(".")[0] for file in texts}}
    claimed = {name for name in claimed if "." in name}
    return found + [f"docs/api.md: {name} does not exist" for name in sorted(claimed - defined)]


def test_api_page_has_every_public_name_and_no_other():
    exported = set(exported_names(modules()["__init__"]))
    assert exported
    assert api_page_violations(sources("docs/api.md")["docs/api.md"], exported, modules()) == []


def test_api_page_catches_a_violation():
    texts = {"data": "def find(): pass"}
    assert api_page_violations("`VJEPAModel` `data.find`", {"VJEPAModel"}, texts) == []
    assert len(api_page_violations("`data.find`", {"VJEPAModel"}, texts)) == 1
    assert len(api_page_violations("`data.lose`", set(), texts)) == 1
    texts = {"data.__init__": "__all__ = ['find', 'lose']"}
    assert api_page_violations("`data.find` `data.lose`", set(), texts) == []
    assert len(api_page_violations("`data.find`", set(), texts)) == 1


LEDGERS = ("docs/parity.md", "docs/guarantees.md")


def ledger_violations(page: str, tests: dict[str, str]) -> list[str]:
    """Rows of a ledger, of three cells of which the last has tests, whose test does not exist, or that name none."""
    rows = [line for line in page.splitlines() if line.startswith("|") and not re.match(r"\|[\s:|-]+$", line)]
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    rows = [row for row in rows if row[-1].strip().lower() != "test"]
    if not rows:
        return ["has no row"]
    found = []
    for row in rows:
        named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", row[-1])
        if len(row) != 3 or not named:
            found.append(f"not three cells of which the last names tests: {row[0][:60]}")
        for file, name in named:
            texts = [text for path, text in tests.items() if path.endswith(f"/{file}.py")]
            nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
            if name not in {node.name for node in nodes if isinstance(node, ast.FunctionDef)}:
                found.append(f"no test {file}.py::{name}")
    return found


@pytest.mark.parametrize("page", LEDGERS)
def test_every_row_of_a_ledger_names_an_existing_test(page):
    assert ledger_violations(sources(page)[page], sources("tests/**/test_*.py")) == []


def test_guarantees_say_what_is_not_promised():
    page = sources("docs/guarantees.md")["docs/guarantees.md"]
    assert page.startswith("# What is guaranteed\n")
    excluded = page.split("## What is not promised")[1]
    assert "Concealed stretches" in excluded and "another machine" in excluded


def test_ledger_catches_a_violation():
    head = "| difference | why | test |\n|---|---|---|\n"
    tests = {"tests/test_a.py": "def test_b(): pass"}
    assert ledger_violations(head + "| x | y | `test_a.py::test_b` |", tests) == []
    assert len(ledger_violations(head + "| x | y | `test_a.py::test_gone` |", tests)) == 1
    assert len(ledger_violations(head + "| x | y | later |", tests)) == 1
    assert len(ledger_violations(head, tests)) == 1


def tree_violations(readme: str, folders: dict[str, str]) -> list[str]:
    """Folders of the repository that the tree leaves out or has without a phrase, and others that do not exist.
    `folders` maps each to the file that has one line for each of its files, which the tree links to."""
    block = re.search(r"^```\n(\S+/ .*?)^```", readme, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^(\S+/) +\S", block[1], re.MULTILINE) if block else []
    found = [f"README tree: {folder} is missing or has no phrase" for folder in sorted(folders.keys() - set(lines))]
    found += [f"README tree: {folder} does not exist" for folder in sorted(set(lines) - folders.keys())]
    return found + [f"README: no link to {file}" for file in folders.values() if file and f"]({file})" not in readme]


def test_readme_has_one_line_a_folder_and_links_to_the_lines_of_its_files():
    tracked = [Path(path) for path in tracked_files(".") if "/" in path and not path.startswith(".")]
    folders = {f"{path.parts[0]}/": "" for path in tracked if path.parts[0] != "src"}
    package = {path.parent for path in tracked if path.name == "__init__.py"} - {Path("src/vjepa_hf")}
    folders |= {f"{folder}/": f"{folder}/__init__.py" for folder in package}
    assert len(folders) > 8
    assert tree_violations((REPO / "README.md").read_text(), folders) == []


def test_readme_tree_catches_a_violation():
    readme = "[src/a](src/a/__init__.py)\n```\nsrc/a/   what a is\ndocs/  pages\n```\n"
    folders = {"src/a/": "src/a/__init__.py", "docs/": ""}
    assert tree_violations(readme, folders) == []
    assert len(tree_violations(readme, folders | {"new/": ""})) == 1
    assert len(tree_violations(readme, {"src/a/": "src/a/__init__.py"})) == 1
    assert len(tree_violations(readme, folders | {"docs/": "docs/__init__.py"})) == 1
    assert len(tree_violations("no tree", folders)) == 3


def folder_docstring_violations(folder: str, docstring: str, files: set[str]) -> list[str]:
    """Files of a folder without a line "- `file`: ..." in the docstring of its `__init__`, and lines of no file."""
    lines = re.findall(r"^- `(\w+)`: \S", docstring, re.MULTILINE)
    found = [f"{folder}/__init__.py: no line for {name}" for name in sorted(files - set(lines))]
    found += [f"{folder}/__init__.py: {name} does not exist" for name in sorted(set(lines) - files)]
    return found + ([] if lines == sorted(lines) else [f"{folder}/__init__.py: lines are not in alphabetical order"])


def test_every_folder_has_one_line_a_file():
    for file, text in sources("src/vjepa_hf/*/__init__.py", "examples/__init__.py").items():
        folder = Path(file).parent
        paths = map(Path, tracked_files(f"{folder}/*.py"))  # also files in subfolders
        files = {path.stem for path in paths if path.parent == folder} - {"__init__"}
        assert folder_docstring_violations(folder.as_posix(), ast.get_docstring(ast.parse(text)), files) == []


def test_folder_docstrings_catch_a_violation():
    docstring = "What.\n\n- `a`: first\n- `b`: second\n"
    assert folder_docstring_violations("f", docstring, {"a", "b"}) == []
    assert len(folder_docstring_violations("f", docstring, {"a", "b", "c"})) == 1
    assert len(folder_docstring_violations("f", docstring, {"a"})) == 1
    assert len(folder_docstring_violations("f", "- `b`: x\n- `a`: y", {"a", "b"})) == 1


def moved_names_violations(changelog: str, texts: dict[str, str]) -> list[str]:
    """New paths in the table of moved names that are not modules."""
    rows = re.findall(r"^\| `.*? \| `([\w.]+)` \|$", changelog, re.MULTILINE)
    return [f"CHANGELOG.md: {name} does not exist" for name in rows if name not in texts] if rows else ["no table"]


def test_moved_names_are_where_the_changelog_says():
    assert moved_names_violations((REPO / "CHANGELOG.md").read_text(), modules()) == []


def test_moved_names_catch_a_violation():
    assert moved_names_violations("| `a`: `X` | `model.b` |\n| `c` | `data.c` |", {"model.b": ""}) == [
        "CHANGELOG.md: data.c does not exist"
    ]
    assert moved_names_violations("no table", {}) == ["no table"]


def reachable_violations(navigation: str, tasks: str, pages: set[str]) -> list[str]:
    """Pages of the site that its navigation leaves out, and pages that the task index does not link to.

    The API pages are reached from the navigation; `make docs` reports entries without a page.
    """
    pages = {page.replace(".ipynb", ".md") for page in pages}
    named = set(re.findall(r": ([\w/]+\.md)$", navigation, re.MULTILINE))
    found = [f"mkdocs.yml: the navigation leaves out {page}" for page in sorted(pages - named)]
    found += [f"mkdocs.yml: {page} does not exist" for page in sorted(named - pages)]
    linked = {target.replace(".ipynb", ".md") for target in re.findall(r"\]\(([^)#]+)", tasks)}
    tasks_pages = {page for page in pages if not page.startswith("reference/")} - {"tasks.md"}
    return found + [f"docs/tasks.md: no link to {page}" for page in sorted(tasks_pages - linked)]


def test_every_page_is_in_the_navigation_and_in_the_task_index():
    pages = {path.removeprefix("docs/") for path in tracked_files("docs/*.md", "docs/*.ipynb")}
    assert len(pages) > 20
    texts = sources("mkdocs.yml", "docs/tasks.md")
    assert reachable_violations(texts["mkdocs.yml"], texts["docs/tasks.md"], pages) == []


def test_unreachable_pages_catch_a_violation():
    navigation, tasks = "nav:\n  - A: a.md\n  - B: n/b.md\n  - T: tasks.md\n", "[a](a.md#x) [b](n/b.ipynb)"
    assert reachable_violations(navigation, tasks, {"a.md", "n/b.ipynb", "tasks.md"}) == []
    assert len(reachable_violations(navigation, tasks, {"a.md", "tasks.md"})) == 1
    assert len(reachable_violations(navigation, tasks, {"a.md", "n/b.ipynb", "tasks.md", "reference/c.md"})) == 1
    assert len(reachable_violations(navigation, tasks, {"a.md", "n/b.ipynb", "tasks.md", "c.md"})) == 2
    assert len(reachable_violations(navigation, "", {"a.md", "n/b.ipynb", "tasks.md"})) == 2


def broken_links(pages: dict[str, str]) -> list[str]:
    found = []
    for page, text in pages.items():
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not re.match(r"[a-z]+:", target) and not (REPO / Path(page).parent / target).exists():
                found.append(f"{page}: links to {target}, which does not exist")
    return found


def test_links_between_pages_lead_somewhere():
    assert broken_links(sources("*.md", "docs/**/*.md", "examples/*.md")) == []


def test_broken_links_catch_a_violation():
    assert broken_links({"docs/a.md": "[x](../LICENSE) [y](https://a.b) [z](#here)"}) == []
    assert len(broken_links({"docs/a.md": "[x](nowhere.md)"})) == 1


# --- scripts ---


def scripts_without_their_command(texts: dict[str, str]) -> list[str]:
    """Runnable files that do not open with the command line that runs them."""
    found = []
    for path, text in texts.items():
        opening = ast.get_docstring(ast.parse(text)) or ""
        if not re.search(rf"^\s*(\$ )?(python|accelerate launch|torchrun)\b.* {path}", opening, re.MULTILINE):
            found.append(path)
    return found


def test_every_script_opens_with_the_command_that_runs_it():
    studies = (
        "studies/*/compare.py",
        "studies/surprise/*.py",
        "studies/vizdoom/make_clips.py",
        "studies/vizdoom/masks.py",
    )
    scripts = sources("examples/[!_]*.py", "benchmarks/*.py", *studies)
    for name in ("report", "programs", "videomae"):  # what benchmarks import
        del scripts[f"benchmarks/{name}.py"]
    assert scripts_without_their_command(scripts) == []


def test_scripts_without_their_command_catch_a_violation():
    assert scripts_without_their_command({"examples/a.py": '"""What.\n\n    python examples/a.py\n"""'}) == []
    assert scripts_without_their_command({"examples/a.py": '"""What."""'}) == ["examples/a.py"]


def loop_violations(text: str, max_lines: int = 160) -> list[str]:
    """Of the training loop a reader sees at once: numbered steps in order, on a page or two, no `.forward`."""
    steps = [int(number) for number in re.findall(r"^\s*# (\d+)\. ", text, re.MULTILINE)]
    found = []
    if steps != list(range(1, len(steps) + 1)) or len(steps) < 8:
        found.append(f"steps are numbered {steps}")
    if len(text.splitlines()) > max_lines:
        found.append(f"{len(text.splitlines())} lines, more than {max_lines}")
    if "forward" in attributes_read(text):
        found.append("calls .forward, which goes around the hooks of a wrapped module")
    return found


def test_pretraining_loop_reads_in_numbered_steps():
    assert loop_violations(sources("examples/pretrain.py")["examples/pretrain.py"]) == []


def test_loop_catches_a_violation():
    good = "\n".join(f"# {number}. step" for number in range(1, 9))
    assert loop_violations(good) == []
    assert len(loop_violations(good.replace("# 3.", "# 4."))) == 1
    assert len(loop_violations(good + "\nmodel.forward(x)")) == 1
    assert len(loop_violations(good + "\n" * 160)) == 1


def test_make_help_names_every_target_a_person_may_ask_for():
    makefile = (REPO / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert targets == explained >= {"help", "pretrain", "test", "check", "style", "bench"}
