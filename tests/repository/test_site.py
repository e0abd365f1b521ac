"""The documentation site builds without a warning, and shows its pages without a network.

pytest tests/repository/test_site.py; skipped without the extra `docs`, which `make docs` installs.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from house import REPO, exported_names, sources, tracked_files

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


def test_the_site_opens_with_the_quickstart(site):
    assert '<h1 id="quickstart">' in (site / "index.html").read_text()
    assert '<h1 id="the-walk-of-one-clip">' in (site / "walk.html").read_text()


def test_every_page_and_notebook_is_there(site):
    pages = {Path(path).relative_to("docs") for path in tracked_files("docs/*.md", "docs/*.ipynb")}
    pages -= {Path("quickstart.md"), Path("index.md")}
    assert [str(page) for page in sorted(pages) if not (site / page.with_suffix(".html")).exists()] == []


def test_api_pages_have_every_public_name(site):
    missing = []
    for path, text in sources("src/vjepa_hf/__init__.py", "src/vjepa_hf/*/__init__.py").items():
        folder = "vjepa_hf" if path.count("/") == 2 else f"vjepa_hf.{Path(path).parent.name}"
        page = site / "reference" / ("models" if folder == "vjepa_hf" else Path(path).parent.name)
        ids = re.findall(r'id="([\w.]+)"', page.with_suffix(".html").read_text()) if exported_names(text) else []
        missing += [f"{folder}.{name}" for name in exported_names(text) if f"{folder}.{name}" not in ids]
    assert missing == []
    page = (site / "reference" / "models.html").read_text()
    assert "<code>int, defaults to 1024</code>" in page  # no backticks in backticks


def test_pages_load_nothing_from_the_network(site):
    loading = r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)"|<link[^>]+rel="stylesheet"[^>]+href="(https?:[^"]+)"'
    assert {str(page): re.findall(loading, page.read_text()) for page in site.rglob("*.html")
            if re.search(loading, page.read_text())} == {}  # fmt: skip
    styles = [style.read_text() for style in site.rglob("*.css")]
    assert styles and not any(re.search(r"url\(['\"]?https?:|@import ['\"]https?:", style) for style in styles)


def test_links_lead_to_pages_of_the_site(site):
    # also links to files of the repository, which become pages
    broken = []
    for page in site.rglob("*.html"):
        for target in re.findall(r'<a[^>]+href="((?!\w+:)[^"#?]+)', page.read_text()):
            if page.name != "404.html" and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(site)}: {target}")
    assert broken == []


def test_search_finds_the_pages(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    locations = {document["location"].split("#")[0] for document in index["docs"]}
    assert {"", "tasks.html", "notebooks/continue_pretraining.html", "reference/models.html"} - {""} <= locations
    assert not any(".py.html" in location for location in locations)
