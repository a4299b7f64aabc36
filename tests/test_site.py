"""The documentation site: built without a warning, no dead link, complete, and fit to be looked at in a browser."""

from __future__ import annotations

import argparse
import functools
import html
import http.server
import json
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import chromium
from conftest import REPOSITORY
from filelock import FileLock

import dali_dr

sphinx = pytest.importorskip("sphinx", reason="Sphinx is not installed (pip install '.[docs]')")

DOCS = REPOSITORY / "docs"
sys.path.append(str(DOCS))
sys.path.append(str(DOCS / "pictures"))
sys.path.append(str(DOCS / "_ext"))

CODE = ("_modules/", "source/")  # pages of code, whose lines are as long as they are
BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 99))"
LEFT = "net::ERR_ABORTED"  # what a page still fetched, say its icon, when the next one was opened
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The built site; built once, by whichever process of pytest-xdist comes first. Warnings are in BUILT/warnings."""
    base = tmp_path_factory.getbasetemp()
    built = (base if worker_id == "master" else base.parent) / "site"
    with FileLock(f"{built}.lock"):
        if not built.exists():
            command = [
                sys.executable,
                "-m",
                "sphinx",
                "-q",
                "-n",
                "-b",
                "html",
                "-d",
                f"{built}.doctrees",
                str(DOCS),
                str(built),
            ]
            done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=500)
            built.mkdir(exist_ok=True)
            (built / "warnings").write_text(done.stderr if done.stderr or not done.returncode else "failed")
    return built


def words(page: Path) -> str:
    """The text of a page, without marks."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_it_is_built_without_a_warning(site: Path) -> None:
    assert (site / "warnings").read_text() == ""


def test_no_link_is_dead(site: Path) -> None:
    from check_links import repository_faults, site_faults

    assert [*site_faults(site), *repository_faults()] == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    from check_links import repository_faults, site_faults

    body = (
        '<a href="other.html#here"></a><a href="other.html#gone"></a><a href="gone.html"></a><a href="../outside"></a>'
        '<a href="https://nohost"></a><a href="ftp://example.org"></a><script src="https://cdn.example.org/a.js"></script>'
        '<img src="gone.png"><link rel="stylesheet" href="https://fonts.example.org/a.css"><a href="https://example.org/a#b"></a>'
    )
    (tmp_path / "page.html").write_text(body)
    (tmp_path / "other.html").write_text('<p id="here">')
    (tmp_path / "a.md").write_text(
        "# A `b` c\n\n[x](#a-b-c) [x](#a) [y](b.md#two-1) [y](b.md#three) [z](gone.md) `[w](code.md)`\n\n```\n[v](code.md)\n```\n"
    )
    (tmp_path / "b.md").write_text("# Two\n\n## Two\n")
    dead = ["other.html#gone", "gone.html", "../outside", "https://nohost", "ftp://example.org"]
    dead += ["cdn.example", "gone.png", "fonts.exa"]
    found = list(site_faults(tmp_path))
    assert len(found) == len(dead)
    assert all(any(name in fault for fault in found) for name in dead), found
    found = list(repository_faults(tmp_path))
    assert [re.search(r": (\S+) leads", fault)[1] for fault in found] == ["#a", "b.md#three", "gone.md"]  # type: ignore[index]


def test_no_server_is_asked_for_what_is_no_address() -> None:
    """`make docs-links` took links to files of the repository for addresses, and all of them for dead."""
    settings: dict[str, Any] = {"__file__": str(DOCS / "conf.py")}
    exec((DOCS / "conf.py").read_text(), settings)
    asked = {"http", "https", "mailto"}
    own = [scheme for scheme in settings["myst_url_schemes"] if scheme not in asked]
    assert own == ["repository"]
    for scheme in own:
        assert any(re.match(pattern, f"{scheme}:docs/index.md") for pattern in settings["linkcheck_ignore"])


def test_every_public_name_is_documented(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    found = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines() if " py:" in line}
    public = {f"dali_dr.{name}" for name in dali_dr.__all__}
    assert public <= found, sorted(public - found)


def options(parser: argparse.ArgumentParser) -> dict[str, set[str]]:
    """Of every subcommand, the options that its --help names."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                shown = re.findall(r"(?<![\w-])--[a-z][\w-]*", sub.format_help().split("show this help")[-1])
                found[f"{parser.prog} {name}"] = set(shown) - {"--help"}
                found.update(options(sub))
    return found


def test_every_option_of_every_subcommand_is_on_the_page_of_commands(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dali_dr.cli import make_parser

    monkeypatch.setenv("COLUMNS", "1000")  # so that --help breaks no line within an option
    page = (site / "cli.html").read_text(encoding="utf-8")
    wanted = options(make_parser())
    assert len(wanted) > 15
    for command, names in wanted.items():
        start = page.index(f'id="{command.replace(" ", "-")}"')
        section = html.unescape(re.sub(r"<[^>]+>", " ", page[start : page.index("</section>", start)]))
        assert names <= set(re.findall(r"--[a-z][\w-]*", section)), command


def test_sections_of_docstrings_are_set_as_lists(site: Path) -> None:
    losses = (site / "api/losses.html").read_text(encoding="utf-8")
    assert "<strong>soft_ids, soft_probs, rest</strong>" in losses
    assert "Raises" in losses and "Returns" in losses
    for page in (site / "api").glob("*.html"):
        left = re.findall(r"(?:Args|Attributes|Raises|Returns|Yields):\s*$", words(page), re.MULTILINE)
        assert not [name for name in left if name.startswith("Args")], page.name  # napoleon makes "Parameters" of it
        assert "ndarray[tuple[" not in words(page), page.name


def test_indented_code_and_groups_of_arguments_of_docstrings_are_found() -> None:
    from public_names import _own_sections, _with_code

    text = "Trains.\n\n    for batch in loader:\n\n        step(batch)\n\nWith care.\n\n- a list\n\n  goes on\n"
    groups = (
        "\nArgs:\n  a, b: one.\n\nHow it is stored:\n  c: two\n    lines.\n\nExample:\n  train(c)\n\nReturns:\n  It.\n"
    )
    lines = _with_code((text + groups).splitlines())
    assert lines[2:7] == [".. code-block:: python", "", "   for batch in loader:", "   ", "       step(batch)"]
    assert lines[lines.index("Example:") :][:4] == ["Example:", "  .. code-block:: python", "", "     train(c)"]
    assert lines[lines.index("- a list") :][:3] == ["- a list", "", "  goes on"]
    assert _own_sections(lines) == ["How it is stored"]


def test_files_of_the_repository_are_pages(site: Path) -> None:
    page = words(site / "source/examples/train_timm.py.html")
    text = (REPOSITORY / "examples/train_timm.py").read_text(encoding="utf-8")
    assert all(line in page for line in text.splitlines() if line.strip())
    changelog = words(site / "changelog.html")
    heading = re.search(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heading is not None and heading[1].replace("`", "") in changelog


def test_the_notebook_is_shown_with_its_stored_output(site: Path) -> None:
    page = words(site / "notebook.html")
    cells = json.loads((REPOSITORY / "examples/notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    pictures = 0
    for cell in cells:
        if cell["cell_type"] == "code":
            assert all(line.strip() in page for line in "".join(cell["source"]).splitlines())
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            pictures += "image/png" in data or "image/jpeg" in data
            if not data:
                assert all(line.strip() in page for line in "".join(output.get("text", "")).splitlines())
    assert (site / "notebook.html").read_text(encoding="utf-8").count("what the cell above shows") == pictures


def test_drawings_are_what_their_script_draws() -> None:
    import make
    from drawing import DARK, LIGHT

    for palette in (LIGHT, DARK):
        for draw in (make.overview, make.epochs):
            stored = (DOCS / "pictures" / f"{draw.__name__}-{palette.name}.svg").read_text(encoding="utf-8")
            assert stored == draw(palette).svg(), f"{draw.__name__}: `make pictures` draws it anew"
    for path in (DOCS / "pictures").glob("*.svg"):
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert path.stat().st_size < 150_000


def test_the_citation_is_of_this_version() -> None:
    said = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= said.keys()
    assert said["version"] == dali_dr.__version__
    assert f"{{{dali_dr.__version__}}}" in (DOCS / "citation.md").read_text(encoding="utf-8")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, without a line on stderr for each."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of this machine that gives the folder's files."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_pages_in_a_browser(site: Path) -> None:
    """Every page without a message in the console or a request that fails or leaves the site, on a phone."""
    pages = sorted(site.rglob("*.html"))
    faults: list[str] = []
    with chromium() as browser, served(site) as address:
        page = browser.new_page(viewport=PHONE)
        page.on(
            "console", lambda message: faults.append(f"{page.url}: {message.text}") if message.type == "error" else None
        )
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        page.on(
            "requestfailed",
            lambda request: (
                faults.append(f"{page.url}: {request.url}: {request.failure}") if request.failure != LEFT else None
            ),
        )
        page.on("response", lambda answer: faults.append(f"{page.url}: {answer.url}") if answer.status >= 400 else None)
        page.on("request", lambda request: faults.append(request.url) if not request.url.startswith(own) else None)
        own = (address, "data:", "blob:")
        for path in pages:
            page.goto(f"{address}/{path.relative_to(site).as_posix()}", wait_until="load")
            broken = page.evaluate(BROKEN)
            faults += [f"{path}: picture {name}" for name in broken]
            name = path.relative_to(site).as_posix()
            if not name.startswith(CODE) and page.evaluate("document.scrollingElement.scrollWidth") > PHONE["width"]:
                faults.append(f"{name}: is wider than a phone")
        page.goto(f"{address}/search.html?q=curriculum")
        page.wait_for_selector("#search-results li a", timeout=20_000)

        for scheme, shown in (("light", "overview-light"), ("dark", "overview-dark")):
            themed = browser.new_page(color_scheme=scheme)
            themed.goto((site / "concepts.html").as_uri())
            visible = themed.evaluate("[...document.images].filter(i => i.offsetWidth).map(i => i.src)")
            if not any(shown in src for src in visible) or len(visible) != 5:
                faults.append(f"concepts in {scheme}: {visible}")
    assert faults == []
