"""What the site adds to the pages of docs/: the notebooks, and the files of the repository that pages link to.

A link from docs/ to `../examples/probe.py` works in a checkout. On the site, each linked file outside docs/ becomes a
page below `repository/`, and the link leads there. The site opens with quickstart.md.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
REPO = DOCS.parent
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sbatch": "bash", ".sh": "bash"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks and the linked files of the repository as pages."""
    for path in sorted(DOCS.glob("notebooks/*.ipynb")):
        files.append(File.generated(config, site_path(path), content=notebook_page(path)))
    pages, seen = sorted(DOCS.rglob("*.md")), set()
    while pages:
        page = pages.pop()
        for path in sorted(linked_files(page) - seen):
            seen.add(path)
            files.append(File.generated(config, site_path(path), content=page_of(path)))
            if path.suffix == ".md":
                pages.append(path)
    open_with(files, "quickstart.md")
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to the pages that `on_files` added."""
    source = repository_path(page.file.src_uri)
    if source.suffix not in (".md", ".ipynb"):  # the text of a program is not Markdown
        return markdown

    def lead(match: re.Match[str]) -> str:
        target = linked_path(source, match[1])
        if not target.exists():
            return match[1]  # mkdocs reports it
        return posixpath.relpath(site_path(target), posixpath.dirname(page.file.src_uri))

    return LINK.sub(lead, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tidy short code: `--option` stays on one line, and types lose the backticks of transformers' docstrings."""

    def tidy(match: re.Match[str]) -> str:
        text = match[0].replace("`", "") if page.file.src_uri.startswith("reference/") else match[0]
        return re.sub(r"(?<!\S)--?\w[\w-]*", r'<span class="option">\g<0></span>', text)

    return re.sub(r"(?<=<code>)[^<]+(?=</code>)", tidy, html)


def open_with(files: Files, name: str) -> None:
    """Make a page the first page of the site. The page that was first keeps its title as address."""
    home, first = files.get_file_from_path("index.md"), files.get_file_from_path(name)
    home.dest_uri, first.dest_uri = "walk.html", "index.html"
    home.url, first.url = "walk.html", "index.html"


def linked_path(source: Path, target: str) -> Path:
    """Return the path of a link in a file."""
    return Path(posixpath.normpath(source.parent / target))


def linked_files(page: Path) -> set[Path]:
    """Return the files and folders outside docs/ that a Markdown page links to, and the pages in these folders."""
    targets = {linked_path(page, match[1]) for match in LINK.finditer(page.read_text())}
    linked = {path for path in targets if path.exists() and not path.is_relative_to(DOCS)}
    return linked.union(*(path.glob("*.md") for path in linked if path.is_dir()))


def site_path(path: Path) -> str:
    """Return where a file is on the site, relative to its root: `repository/examples/probe.py.md`."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).with_suffix(".md" if path.suffix == ".ipynb" else path.suffix).as_posix()
    name = path.relative_to(REPO).as_posix()
    return f"repository/{name}" if path.suffix == ".md" else f"repository/{name}.md"


def repository_path(src_uri: str) -> Path:
    """Return the file that a page of the site shows: the inverse of `site_path`."""
    if not src_uri.startswith("repository/"):
        notebook = (DOCS / src_uri).with_suffix(".ipynb")
        return notebook if notebook.exists() else DOCS / src_uri
    path = REPO / src_uri.removeprefix("repository/")
    return path if path.exists() else path.with_suffix("")


def page_of(path: Path) -> str:
    """Return a file as a Markdown page: a program in a code block, a folder as a list of links."""
    if path.suffix == ".md":
        text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(), flags=re.DOTALL)  # the metadata of a model card
        return f"---\nsearch: {{boost: 0.3}}\n---\n{text}"
    title = f"---\nsearch: {{exclude: true}}\n---\n# {path.relative_to(REPO).as_posix()}\n\n"
    if path.is_dir():
        return title + "".join(f"- [{page.stem}]({path.name}/{page.name})\n" for page in sorted(path.glob("*.md")))
    return f"{title}`````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}\n`````\n"


def notebook_page(path: Path) -> str:
    """Return a notebook as a Markdown page; notebooks are stored without outputs."""
    pages = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        pages.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(pages) + "\n"
