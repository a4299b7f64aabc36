"""Pages and links that work in the repository's view and in the site alike.

A page that holds only an `:::{include}` of a file outside docs (CHANGELOG.md, a notebook) *is* that file here. Links are
written relative to the file that has them, as the repository's view wants; here they lead to the page of their target,
or, where a file of the repository is no page, to a page that shows its text, made under source/.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
SCHEME = "repository:"
_INCLUDE = re.compile(r"^:::\{include\} (\S+)\n:::$", re.MULTILINE)
_LINK = re.compile(r"\]\(((?!https?:|mailto:|data:|#|<)[^)\s]+)\)")
_THEMED = re.compile(r"(\]\([^)\s]+)#gh-(light|dark)-mode-only\)")  # GitHub's way to say for which theme an image is
_FENCE = re.compile(r"^ *(```+|~~~+)")
_LONGEST = 400_000  # characters of a file that is shown
_log = logging.getLogger(__name__)


def stubs() -> dict[Path, Path]:
    """Files outside docs that are pages here: their paths, and those of the pages in docs that include them."""
    found = {}
    for page in sorted(DOCS.rglob("*.md")):
        for match in _INCLUDE.finditer(page.read_text(encoding="utf-8")):
            found[(page.parent / match[1]).resolve()] = page
    return found


def prose(text: str) -> Iterator[tuple[bool, str]]:
    """The lines of a Markdown text, each with whether it is prose (and no code)."""
    fence = ""
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        inside = bool(fence)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip().startswith(fence) and set(line.strip()) == {fence[0]}:
            fence = ""
        yield not (inside or mark), line


def notebook_markdown(text: str) -> str:
    """The cells of a Jupyter notebook with their stored output, as Markdown."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            shown = "".join(output.get("text", data.get("text/plain", "")))
            if picture := data.get("image/png", data.get("image/jpeg")):
                kind = "png" if "image/png" in data else "jpeg"
                parts.append(
                    f"![what the cell above shows](data:image/{kind};base64,{''.join(picture).replace(chr(10), '')})"
                )
            elif shown.strip():
                parts.append(f"```{{code-block}} text\n:class: cell-output\n\n{shown.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


class Links:
    """Rewrites the links of one file for the page that shows it."""

    def __init__(self, page: Path, origin: Path, pages: dict[Path, Path], used: set[str]) -> None:
        self.page, self.origin, self.pages, self.used = page, origin, pages, used

    def rewrite(self, text: str) -> str:
        """``text`` with links as the page needs them. A link may begin on one line and end on the next."""
        return "".join(self._line(line) if is_prose else line for is_prose, line in prose(text))

    def _line(self, line: str) -> str:
        line = _THEMED.sub(r"\1){.only-\2}", line)
        return _LINK.sub(lambda match: f"]({self._target(match[1])})", line)

    def _target(self, link: str) -> str:
        path, _, anchor = link.partition("#")
        target = (self.origin.parent / path).resolve()
        suffix = f"#{anchor}" if anchor else ""
        if target in self.pages:
            target = self.pages[target]
        if target.is_relative_to(DOCS) or target.suffix in (".png", ".svg", ".jpg"):
            return os.path.relpath(target, self.page.parent) + suffix
        if not target.exists() or not target.is_relative_to(ROOT):
            _log.warning(
                "%s: link to %s, which is not there", self.origin, link, type="repository", location=str(self.page)
            )
            return link
        name = target.relative_to(ROOT).as_posix()
        self.used.add(name)
        return f"{SCHEME}{name}"


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    """source-read: puts included files in their place and rewrites links."""
    page = Path(app.env.doc2path(docname))
    pages = stubs()
    used: set[str] = set()

    def included(match: re.Match[str]) -> str:
        origin = (page.parent / match[1]).resolve()
        app.env.note_dependency(str(origin), docname=docname)
        text = origin.read_text(encoding="utf-8")
        if origin.suffix == ".ipynb":
            text = notebook_markdown(text)
        return Links(page, origin, pages, used).rewrite(text)

    if _INCLUDE.search(content[0]):
        content[0] = _INCLUDE.sub(included, content[0])
    else:
        content[0] = Links(page, page, pages, used).rewrite(content[0])
    shown_files(app)[docname] = used


def shown_files(app: Sphinx) -> dict[str, set[str]]:
    """By page, the files outside docs that it links to; kept with the environment, for builds that go on."""
    if not hasattr(app.env, "repository_files"):
        app.env.repository_files = {}  # type: ignore[attr-defined]
    files: dict[str, set[str]] = app.env.repository_files  # type: ignore[attr-defined]
    return files


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """doctree-resolved: makes the addresses of shown files relative to the page."""
    for node in doctree.findall(nodes.reference):
        uri = node.get("refuri", "")
        if uri.startswith(SCHEME):
            here = app.builder.get_target_uri(docname)
            node["refuri"] = relative_uri(here, _page_name(uri.removeprefix(SCHEME)) + ".html")


def collect_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """html-collect-pages: a page for each file and folder that some page links to."""
    names = set().union(*shown_files(app).values())
    for name in sorted(names):
        if (ROOT / name).is_dir():
            names |= {child.relative_to(ROOT).as_posix() for child in _children(ROOT / name) if child.is_file()}
    names -= {origin.relative_to(ROOT).as_posix() for origin in stubs()}
    for name in sorted(names):
        path = ROOT / name
        body = _folder_body(app, path) if path.is_dir() else _file_body(path)
        title = html.escape(name)
        context = {"title": title, "body": f"<h1>{title}</h1>\n{body}", "parents": []}
        yield _page_name(name), context, "page.html"


def _page_name(name: str) -> str:
    return f"source/{name}" if not (ROOT / name).is_dir() else f"source/{name}/index"


def _children(folder: Path) -> list[Path]:
    hidden = (".so", ".pyc")
    return sorted(p for p in folder.iterdir() if p.name[0] not in "._" and p.suffix not in hidden)


def _folder_body(app: Sphinx, folder: Path) -> str:
    here = _page_name(folder.relative_to(ROOT).as_posix()) + ".html"
    pages = stubs()
    rows = []
    for child in _children(folder):
        name = html.escape(child.name)
        if child in pages:
            docname = pages[child].relative_to(DOCS).with_suffix("").as_posix()
            uri = relative_uri(here, app.builder.get_target_uri(docname))
            rows.append(f'<li><a href="{uri}"><code>{name}</code></a></li>')
        elif child.is_file():
            uri = relative_uri(here, _page_name(child.relative_to(ROOT).as_posix()) + ".html")
            rows.append(f'<li><a href="{uri}"><code>{name}</code></a></li>')
        else:
            rows.append(f"<li><code>{name}/</code></li>")
    return f"<ul>{''.join(rows)}</ul>"


def _file_body(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return f"<p>A binary file of {path.stat().st_size:,} bytes.</p>"
    note = ""
    if len(text) > _LONGEST:
        text, note = text[:_LONGEST], f"<p>The first {_LONGEST:,} characters of {len(text):,}.</p>"
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    return note + f'<div class="highlight">{highlight(text, lexer, HtmlFormatter(nowrap=False))}</div>'


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", read_source, priority=400)
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-collect-pages", collect_pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
