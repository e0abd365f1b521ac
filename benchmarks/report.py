"""The page of a benchmark: command, method, machine, commit and tables. Imported by the scripts, not run."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

HERE = Path(__file__).resolve().parent


def git(checkout: Path, *command: str) -> str:
    """Return what a git command prints in a checkout; "" where git or the checkout is missing."""
    words = ["git", "-C", str(checkout), *command]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, marked if files differ from it."""
    return git(checkout, "describe", "--always", "--dirty", "--exclude=*") or "(no commit)"


def uncommitted_code(checkout: Path) -> str:
    """Return the changes that are not committed, as git lists them. Pages and images are results and do not count."""
    results = (f":(top,exclude,glob)**/*.{suffix}" for suffix in ("md", "png"))
    return git(checkout, "status", "--porcelain", "--", ":/", *results)


# Read at the start, so that a page names the code that was measured and not what was committed in the meantime.
# VJEPA_COMMIT names the commit of a copy without its history.
COMMIT = git(HERE, "rev-parse", "--short", "HEAD") or os.environ.get("VJEPA_COMMIT") or "(no commit)"


def refuse_uncommitted_code(output: Path | None) -> Path | None:
    """Check the option `--output` before anything is measured.

    Raises:
        typer.BadParameter: the checkout has changes that are not committed, so no commit names what is measured.
    """
    if output and (changes := uncommitted_code(HERE)):
        raise typer.BadParameter(f"commit these changes first, or omit --output to print the page:\n{changes}")
    return output


# Options that several scripts share.
Output = Annotated[Path | None, typer.Option(help="Markdown page to write", callback=refuse_uncommitted_code)]
ToyVideos = Annotated[Path, typer.Option(help="folder of the toy set, made if missing")]
Runs = Annotated[Path, typer.Option(help="folder of the pretraining runs, made if missing")]
Steps = Annotated[int | None, typer.Option(help="optimizer steps of pretraining, to cut it short")]


def make_app() -> typer.Typer:
    """Make a command line that accepts underscores in options, like the examples, and also dashes."""
    settings = {"token_normalize_func": lambda name: name.replace("_", "-")}
    return typer.Typer(context_settings=settings, pretty_exceptions_enable=False, add_completion=False)


def processor_name() -> str:
    """Return the name of the GPU, or of the CPU without one."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def environment(*more: str) -> str:
    """Return the line that says where the numbers come from; `more` are versions and settings of this benchmark."""
    machine = [processor_name(), f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"]
    return ", ".join([f"torch {torch.__version__}", *more, *machine, f"vjepa_hf {COMMIT}"])


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, ["---"] * len(header), *rows)]


def opening(title: str, command: str, method: str, *more: str) -> list[str]:
    """Return title, command, method and environment of a page.

    Args:
        title: of the page.
        command: script and subcommand, such as `data.py decode`.
        method: what is measured and how, a docstring: its paragraphs after the first one are printed.
        more: versions and settings for `environment`.
    """
    explanation = " ".join(" ".join(method.split("\n\n")[1:]).split())
    return [f"# {title}", "", f"`python benchmarks/{command}`: {explanation}", "", environment(*more), ""]


def publish(lines: Iterable[str], output: Path | None) -> None:
    """Print a page, and write it to a Markdown file if there is one."""
    page = "\n".join(lines).rstrip("\n") + "\n"
    print(page, flush=True)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page)
