"""The page of a benchmark: what was run, on which machine and which commit, and the tables. Imported, not run."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch


def commit_of(checkout: Path) -> str:
    """The commit of a checkout, marked if files differ from it."""
    command = ["git", "-C", checkout, "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "(no commit)"


# Read when the code is, so that a page names what was measured and not what was committed in the meantime.
COMMIT = commit_of(Path(__file__).parent)


def environment(*more: str) -> str:
    """The line that says where figures come from; `more` are versions and settings that matter to this benchmark."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    machine = [device, f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"]
    return ", ".join([f"torch {torch.__version__}", *more, *machine, f"vjepa_hf {COMMIT}"])


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, ["---"] * len(header), *rows)]


def opening(title: str, script: str, doc: str, *more: str) -> list[str]:
    """Title, the command, and the third paragraph of the script's docstring, which says what is measured and how.

    Args:
        title: of the page.
        script: its `__file__`.
        doc: its `__doc__`: first line, command, what is measured.
        more: versions and settings for `environment`.
    """
    explanation = " ".join(doc.split("\n\n")[2].split())
    return [f"# {title}", "", f"`python benchmarks/{Path(script).name}`: {explanation}", "", environment(*more), ""]


def publish(lines: Iterable[str], output: Path | None) -> None:
    """Print a page and write it to a Markdown file, if one is asked for."""
    page = "\n".join(lines).rstrip("\n") + "\n"
    print(page, flush=True)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page)
