"""Promises of the whole repository, each a function from text to a list of violations and each proven able to fail."""

import ast
import configparser
import re
import sys
from pathlib import Path

import vjepa_hf
from house import REPO, attributes_read, classes, dotted, fields, functions, modules, sources, tracked_files

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


# --- randomness: a function of (seed, epoch, sample id), so never of a global generator ---

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
NUMPY_MAY = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
SEEDING = {"torch.manual_seed", "torch.cuda.manual_seed_all", "torch.seed", "set_seed", "transformers.set_seed"}
# Stochastic depth is dropout of a whole branch, and dropout draws from torch's generator: a compiled forward can be
# handed no other. Checkpoints therefore carry the state of that generator.
DRAWS_LIKE_DROPOUT = {("model.modeling_vjepa", "bernoulli_")}


def global_draw(call: ast.Call) -> str:
    """The name of the call when it draws from, or seeds, a global generator; else an empty string."""
    name = dotted(call.func) or getattr(call.func, "attr", "")
    module, _, function = name.rpartition(".")
    if any(keyword.arg == "generator" for keyword in call.keywords):
        return ""
    if module in ("np.random", "numpy.random"):
        return "" if function in NUMPY_MAY else name
    drawn = module == "torch" and function in TORCH_DRAWS or function in IN_PLACE_DRAWS and module != "init"
    return function if drawn else name if module == "random" or name in SEEDING else ""


def global_draws(texts: dict[str, str]) -> list[str]:
    calls = ((file, node) for file, text in texts.items() for node in ast.walk(ast.parse(text)))
    calls = ((file, node) for file, node in calls if isinstance(node, ast.Call))
    drawn = ((file, node.lineno, global_draw(node)) for file, node in calls)
    return [
        f"{file}:{line}: {name} uses a global generator"
        for file, line, name in drawn
        if name and (file, name) not in DRAWS_LIKE_DROPOUT
    ]


def test_nothing_in_the_package_draws_from_a_global_generator():
    assert global_draws(modules()) == []


def test_global_draws_catch_a_violation():
    for line in (
        "np.random.rand(3)",
        "numpy.random.shuffle(x)",
        "random.choice(x)",
        "torch.randn(3)",
        "x.uniform_(0, 1)",
        "torch.empty(3).normal_()",
        "torch.manual_seed(0)",
        "def late():\n    return torch.randperm(3)",
    ):
        assert len(global_draws({"data": line})) == 1, line
    for line in ("np.random.default_rng(0)", "torch.randn(3, generator=g)", "generator.random()", "init.normal_(x)"):
        assert global_draws({"data": line}) == [], line


# --- errors: nothing is swallowed ---

TOO_BROAD = {"Exception", "BaseException", "everything"}


def swallowed_errors(texts: dict[str, str]) -> list[str]:
    found = []
    for file, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler):
                if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
                    continue  # cleans up and passes the same error on
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                caught = {dotted(kind) if kind else "everything" for kind in kinds}
            elif isinstance(node, ast.Call) and dotted(node.func).endswith("suppress"):
                caught = {dotted(kind) for kind in node.args}
            else:
                continue
            if caught & TOO_BROAD:
                found.append(f"{file}:{node.lineno}: catches everything; name the errors that can happen here")
    return found


def test_no_error_is_swallowed():
    assert swallowed_errors(sources("src/**/*.py", "examples/**/*.py", "benchmarks/**/*.py")) == []


def test_swallowed_errors_catch_a_violation():
    for text in (
        "try:\n    f()\nexcept:\n    g()",
        "try:\n    f()\nexcept Exception as e:\n    g()",
        "try:\n    f()\nexcept (OSError, BaseException):\n    g()",
        "with contextlib.suppress(Exception):\n    f()",
    ):
        assert len(swallowed_errors({"x": text})) == 1, text
    for text in (
        "try:\n    f()\nexcept OSError:\n    g()",
        "try:\n    f()\nexcept BaseException:\n    g()\n    raise",
    ):
        assert swallowed_errors({"x": text}) == [], text


# --- names and order of what is public ---


def all_names(text: str) -> list[str] | None:
    """The value of `__all__` when that is the last statement of a module, else None."""
    last = ast.parse(text).body[-1]
    if isinstance(last, ast.Assign) and dotted(last.targets[0]) == "__all__":
        return ast.literal_eval(last.value)
    return None


def public_surface_violations(file: str, text: str) -> list[str]:
    names = all_names(text)
    if names is None:
        return [f"{file}: does not end with __all__"]
    found = [f"{file}: {name} does not start with VJEPA" for name in names if not name.startswith("VJEPA")]
    public = [node.name for node in classes(text) if not node.name.startswith("_")]
    found += [f"{file}: class {name} does not start with VJEPA" for name in public if not name.startswith("VJEPA")]
    if names != sorted(set(names)):
        found.append(f"{file}: __all__ is not in alphabetical order: {names}")
    return found


def test_hugging_face_files_end_with_their_sorted_vjepa_names():
    found = [line for name in HUGGING_FACE_FILES for line in public_surface_violations(name, modules()[name])]
    assert found == []


def test_package_exports_what_its_hugging_face_files_export():
    promised = {name for file in HUGGING_FACE_FILES for name in all_names(modules()[file]) or []}
    assert promised <= set(vjepa_hf.__all__)
    assert vjepa_hf.__all__ == sorted(set(vjepa_hf.__all__))
    assert all(hasattr(vjepa_hf, name) for name in vjepa_hf.__all__)


def test_public_surface_catches_a_violation():
    good = "class VJEPAA: pass\nclass VJEPAB: pass\n"
    assert public_surface_violations("f", good + "__all__ = ['VJEPAA', 'VJEPAB']") == []
    assert len(public_surface_violations("f", good)) == 1
    assert len(public_surface_violations("f", good + "__all__ = ['VJEPAB', 'VJEPAA']")) == 1
    assert len(public_surface_violations("f", "class Helper: pass\n__all__ = []")) == 1


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


# --- words ---

FORBIDDEN_WORDS = {
    r"\bteacher": "say target_encoder",
    r"momentum[ _]encoder": "say target_encoder",
    r"(?<![\w.])/(work|tmp|root|home)/": "a path of one machine",
    r"# *(TODO|FIXME|XXX)": "finish it or open an issue",
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
    assert (
        wording_violations(sources("src/**/*.py", "examples/**/*.*", "benchmarks/**/*.py", "docs/*.md", "*.md")) == []
    )


def test_wording_catches_a_violation():
    for line in ("the teacher's features", "momentum_encoder = 1", "data: /home/me/videos", "# TODO later"):
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


# --- documentation ---


def undocumented(texts: dict[str, str]) -> list[str]:
    found = []
    for file, text in texts.items():
        nodes = [node for node in classes(text) + functions(text) if not node.name.startswith("_")]
        # Layers of the model that nobody imports are explained by their code.
        nodes = [node for node in nodes if file != "model.modeling_vjepa" or node.name in (all_names(text) or [])]
        found += [f"{file}: {node.name} has no docstring" for node in nodes if not ast.get_docstring(node)]
        if file != "__init__" and not ast.get_docstring(ast.parse(text)):
            found.append(f"{file}: the module does not say what it is")
    return found


def test_every_public_name_has_a_docstring():
    assert undocumented(modules()) == []


def test_undocumented_catches_a_violation():
    assert undocumented({"x": '"""X."""\ndef f(): pass\ndef _g(): pass'}) == ["x: f has no docstring"]
    assert undocumented({"x": "import math"}) == ["x: the module does not say what it is"]


def api_page_violations(page: str, exported: set[str], texts: dict[str, str]) -> list[str]:
    """Public names that the page leaves out, and `module.name`s on it that do not exist."""
    written = set(re.findall(r"`([\w.]+)`", page))
    found = [f"docs/api.md: leaves out {name}" for name in sorted(exported - written)]
    defined = {f"{file}.{node.name}" for file, text in texts.items() for node in classes(text) + functions(text)}
    for file, text in texts.items():
        if file.endswith(".__init__"):
            folder = file.removesuffix(".__init__")
            promised = {f"{folder}.{name}" for name in all_names(text) or []}
            found += [f"docs/api.md: leaves out {name}" for name in sorted(promised - written)]
            defined |= promised
    claimed = {name for name in written if name.split(".")[0] in {file.split(".")[0] for file in texts}}
    claimed = {name for name in claimed if "." in name}
    return found + [f"docs/api.md: {name} does not exist" for name in sorted(claimed - defined)]


def test_api_page_has_every_public_name_and_no_other():
    exported = {name for name in vjepa_hf.__all__ if not name.startswith("__")}
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


def ledger_violations(page: str, tests: dict[str, str]) -> list[str]:
    """Rows of the ledger `difference | why | test` whose test does not exist, or that name none."""
    rows = [line for line in page.splitlines() if line.startswith("|") and not re.match(r"\|[\s:|-]+$", line)]
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    rows = [row for row in rows if row[-1].strip().lower() != "test"]
    if not rows:
        return ["docs/parity.md: has no row"]
    found = []
    for row in rows:
        named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", row[-1])
        if len(row) != 3 or not named:
            found.append(f"docs/parity.md: not `difference | why | test`: {row[0][:60]}")
        for file, name in named:
            texts = [text for path, text in tests.items() if path.endswith(f"/{file}.py")]
            defined = {node.name for text in texts for node in functions(text)}
            if name not in defined:
                found.append(f"docs/parity.md: no test {file}.py::{name}")
    return found


def test_every_row_of_the_parity_ledger_names_an_existing_test():
    assert ledger_violations(sources("docs/parity.md")["docs/parity.md"], sources("tests/**/test_*.py")) == []


def test_ledger_catches_a_violation():
    head = "| difference | why | test |\n|---|---|---|\n"
    tests = {"tests/test_a.py": "def test_b(): pass"}
    assert ledger_violations(head + "| x | y | `test_a.py::test_b` |", tests) == []
    assert len(ledger_violations(head + "| x | y | `test_a.py::test_gone` |", tests)) == 1
    assert len(ledger_violations(head + "| x | y | later |", tests)) == 1
    assert len(ledger_violations(head, tests)) == 1


def tree_files(readme: str) -> list[str]:
    """Paths of the annotated trees in a README: fenced blocks whose folders end with "/" and hold what is indented
    below them. A folder with a phrase beside it stands for its files. Raises where a file has no phrase."""
    paths = []
    for block in re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL):
        folders: list[tuple[int, str]] = []
        if not re.search(r"^(src|examples)/", block, re.MULTILINE):
            continue
        for line in block.splitlines():
            match = re.match(r"([\s│├└─|`-]*)([\w.\-]+(?:/[\w.\-]+)*/?)(\s+\S.*)?$", line)
            if not match:
                continue
            depth, name, phrase = len(match[1]), match[2], match[3]
            folders = [(d, folder) for d, folder in folders if d < depth]
            if name.endswith("/"):
                folders.append((depth, name))
                if phrase:
                    paths.append("".join(folder for _, folder in folders))
                continue
            assert phrase, f"README tree: {name} has no phrase"
            paths.append("".join(folder for _, folder in folders) + name)
    return paths


def tree_violations(readme: str, tracked: list[str]) -> list[str]:
    tracked = sorted({re.sub(r"^(src/vjepa_hf/\w+/).*", r"\1", path) for path in tracked})
    shown = [path for path in tree_files(readme) if path.startswith(("src/", "examples/"))]
    found = [f"README tree: {path} is shown twice" for path in sorted(set(shown)) if shown.count(path) > 1]
    found += [f"README tree: {path} is not in the repository" for path in sorted(set(shown) - set(tracked))]
    return found + [f"README tree: {path} is missing" for path in sorted(set(tracked) - set(shown))]


def test_readme_tree_is_the_tree():
    tracked = tracked_files("src", "examples")
    assert tracked
    assert tree_violations((REPO / "README.md").read_text(), tracked) == []


def test_readme_tree_catches_a_violation():
    readme = "```\nsrc/vjepa_hf/\n  a.py     what a is\nexamples/\n  b.py     b\n  configs/\n    c.yaml   c\n```\n"
    tracked = ["examples/b.py", "examples/configs/c.yaml", "src/vjepa_hf/a.py"]
    assert tree_violations(readme, tracked) == []
    assert tree_violations(readme, tracked + ["src/vjepa_hf/new.py"]) == [
        "README tree: src/vjepa_hf/new.py is missing"
    ]
    assert len(tree_violations(readme, tracked[1:])) == 1
    folder = readme.replace("examples/\n", "  model/   files\nexamples/\n", 1)
    assert tree_violations(folder, tracked + ["src/vjepa_hf/model/x.py", "src/vjepa_hf/model/y.py"]) == []
    assert len(tree_violations("no tree", tracked)) == len(tracked)


def broken_links(pages: dict[str, str]) -> list[str]:
    found = []
    for page, text in pages.items():
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not re.match(r"[a-z]+:", target) and not (REPO / Path(page).parent / target).exists():
                found.append(f"{page}: links to {target}, which does not exist")
    return found


def test_links_between_pages_lead_somewhere():
    assert broken_links(sources("*.md", "docs/*.md", "examples/*.md")) == []


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
    scripts = sources("examples/[!_]*.py", "benchmarks/*.py")
    for name in ("report", "options"):  # what benchmarks import
        del scripts[f"benchmarks/{name}.py"]
    assert scripts_without_their_command(scripts) == []


def test_scripts_without_their_command_catch_a_violation():
    assert scripts_without_their_command({"examples/a.py": '"""What.\n\n    python examples/a.py\n"""'}) == []
    assert scripts_without_their_command({"examples/a.py": '"""What."""'}) == ["examples/a.py"]


def loop_violations(text: str, max_lines: int = 150) -> list[str]:
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
    assert len(loop_violations(good + "\n" * 150)) == 1


# --- packaging ---

DISTRIBUTION = {"yaml": "pyyaml", "PIL": "pillow"}
# Imported by others on our behalf: the format of `save_pretrained`, and what transformers resizes a video with.
USED_INDIRECTLY = {"safetensors", "torchvision", "huggingface_hub"}


def requirement_names(lines: str) -> set[str]:
    names = (re.match(r"[\w.-]+", line) for line in lines.splitlines() if not line.strip().startswith("#"))
    return {name[0].lower() for name in names if name}


def requirement_violations(declared: set[str], optional: set[str], imported: set[str]) -> list[str]:
    imported = {DISTRIBUTION.get(name, name).lower() for name in imported}
    # pillow comes with matplotlib and torchvision, both of which need it to draw and to read an image.
    found = [
        f"{name} is imported but not in setup.cfg" for name in sorted(imported - declared - optional - {"pillow"})
    ]
    return found + [
        f"{name} is in setup.cfg but not imported" for name in sorted(declared - imported - USED_INDIRECTLY)
    ]


def imported_names(texts: dict[str, str]) -> set[str]:
    nodes = [node for text in texts.values() for node in ast.walk(ast.parse(text))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg")
    return parser


def test_every_import_is_a_declared_requirement_and_the_other_way_round():
    options = setup_cfg()
    declared = requirement_names(options["options"]["install_requires"])
    extras = options["options.extras_require"]
    optional = set().union(*(requirement_names(extras[name]) for name in extras if name != "dev"))
    scripts = {Path(path).stem for path in sources("examples/*.py", "benchmarks/*.py")}
    # Meta's checkout calls its package `src`; a benchmark compares with it where somebody has one.
    ours = scripts | {"vjepa_hf", "src"}
    imported = imported_names(sources("src/**/*.py", "examples/*.py", "benchmarks/*.py")) - ours
    assert declared and imported
    assert requirement_violations(declared, optional, imported) == []


def test_requirements_catch_a_violation():
    assert requirement_violations({"torch", "pyyaml"}, {"torchcodec"}, {"torch", "yaml", "torchcodec"}) == []
    assert requirement_violations({"torch"}, set(), {"torch", "scipy"}) == ["scipy is imported but not in setup.cfg"]
    assert requirement_violations({"torch", "lost"}, set(), {"torch"}) == ["lost is in setup.cfg but not imported"]


def test_make_help_names_every_target_a_person_may_ask_for():
    makefile = (REPO / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert targets == explained >= {"help", "pretrain", "test", "check", "style", "bench"}
