"""Finds dead links, without a network: `python docs/check_links.py build/docs`. Exit status 1 if there are any.

Two things are looked at. In the built site every link must lead to a file that is there and, with #, to a place in it;
scripts, styles, fonts and pictures must be its own. In the repository's view every relative link of a Markdown file must
lead to a file and, with #, to a heading of it. Of other addresses only the form is looked at; `make docs-links` asks them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(`+)(?:(?!\1).)+\1", re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_BLOCK = re.compile(r"^( *)(```+|~~~+).*?^\1\2[`~]*\s*?$", re.MULTILINE | re.DOTALL)
_SKIPPED = {"build", "dist", "node_modules"}  # folders without pages of ours
_LOADED = {"script", "img", "source", "iframe"}  # elements whose src a browser fetches by itself
_RELATIONS = {"stylesheet", "icon", "preload", "manifest"}  # kinds of <link> that it fetches


class Page(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the element's links and its id."""
        values = {name: value or "" for name, value in attrs}
        self.places.update(values[name] for name in ("id", "name") if values.get(name))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and _RELATIONS & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        if tag in _LOADED and "src" in values:
            self.loaded.append(values["src"])


def address_fault(url: str) -> str | None:
    """What is wrong with the form of an address elsewhere; None: nothing."""
    parts = urlsplit(url)
    if parts.scheme == "mailto":
        return None if "@" in parts.path else "no mail address"
    if parts.scheme not in ("http", "https"):
        return f"the scheme {parts.scheme!r} is neither http nor https"
    host = parts.hostname or ""
    good = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+|localhost|\d+(\.\d+){3}", host)
    return None if good and " " not in url else f"{host!r} is no name of a host"


def site_faults(site: Path) -> Iterator[str]:
    """Dead links of a built site, each with the page it is on."""
    site = site.resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no pages; build them with `make docs`"
    for path, page in pages.items():
        name = path.relative_to(site)
        for url in page.loaded:
            if urlsplit(url).scheme not in ("", "data"):
                yield f"{name}: loads {url}, which is not of the site"
            elif not url.startswith("data:") and not (path.parent / unquote(urlsplit(url).path)).exists():
                yield f"{name}: loads {url}, which is not there"
        for url in page.links:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                if fault := address_fault(url):
                    yield f"{name}: {url}: {fault}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_relative_to(site) or not target.exists():
                yield f"{name}: {url} leads to no file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                yield f"{name}: {url} leads to no place of that page"


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown text."""
    found: dict[str, int] = {}
    anchors = set()
    for match in _HEADING.finditer(_BLOCK.sub("", text)):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", match[1]).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        anchors.add(f"{slug}-{count}" if count else slug)
    return anchors


def repository_faults(root: Path = ROOT) -> Iterator[str]:
    """Dead relative links of Markdown files, as the repository's view follows them."""
    for path in sorted(root.rglob("*.md")):
        name = path.relative_to(root)
        if any(part in _SKIPPED or part.startswith(".") for part in name.parts):
            continue
        text = _CODE.sub("", _BLOCK.sub("", path.read_text(encoding="utf-8")))
        for match in _LINK.finditer(text):
            url = match[1]
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                if fault := address_fault(url):
                    yield f"{name}: {url}: {fault}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or not target.is_relative_to(root):
                yield f"{name}: {url} leads to no file of the repository"
            elif (
                parts.fragment
                and target.suffix == ".md"
                and parts.fragment not in headings(target.read_text(encoding="utf-8"))
            ):
                yield f"{name}: {url} leads to no heading"


def main() -> int:
    """Prints what is dead."""
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"
    faults = [*site_faults(site), *repository_faults()]
    for fault in faults:
        print(fault, file=sys.stderr)
    pages = list(site.rglob("*.html"))
    print(
        f"{len(pages)} pages, {sum(len(Page(p.read_text(encoding='utf-8')).links) for p in pages)} links, {len(faults)} dead"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
