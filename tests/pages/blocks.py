"""Fenced blocks of Markdown pages, and what a comment before a block says of how it is run.

<!-- page: compile: REASON -->          Python compiles, options of dali-dr exist; not run. Counted, and few.
<!-- page: run by tests/test_x.py -->   another test runs it; that file names this page
<!-- page: epochs N -->                 `range` ends after N, in a training loop of many epochs
<!-- page: slow -->                     run under the mark "slow"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

SHELL = frozenset({"sh", "bash", "console"})
DATA = frozenset({"json", "yaml", "toml"})
RUN = SHELL | DATA | {"python", "diff"}
SHOWN = frozenset({"text"})  # drawings and output: no code
_ORDER = re.compile(r"<!--\s*page:\s*(?P<what>compile|run by|epochs|slow)\b:?\s*(?P<rest>.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
      page: the file.
      line: of the fence, from 1.
      language: the first word behind the fence.
      text: within.
      orders: what comments before it say: "compile", "run by", "epochs", "slow" -> the rest of the comment.
    """

    page: Path
    line: int
    language: str
    text: str
    orders: dict[str, str]

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in their order; ValueError where one cannot be run as it is written."""
    found, orders = [], {}
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block":
            if "page:" in token.content:
                matches = list(_ORDER.finditer(token.content))
                if not matches:
                    raise ValueError(f"{page}: {token.content.strip()}: no such order; see tests/pages/blocks.py")
                orders |= {match["what"]: match["rest"] for match in matches}
        elif token.type in ("fence", "code_block"):
            line = token.map[0] + 1 if token.map else 0
            language = token.info.split()[0].strip("{}") if token.info.strip() else ""
            if token.type == "code_block" or language not in RUN | SHOWN:
                raise ValueError(
                    f"{page}:{line}: a block of {language or 'no'} language; want a fence of one of "
                    f"{', '.join(sorted(RUN))}, or text for what is no code"
                )
            if "compile" in orders and not orders["compile"]:
                raise ValueError(f"{page}:{line}: compile: say why it cannot be run")
            text = _typed(token.content) if language == "console" else token.content
            found.append(Block(page, line, language, text, orders))
            orders = {}
        elif token.type in ("paragraph_open", "heading_open") and orders:
            raise ValueError(
                f"{page}:{(token.map or [0])[0] + 1}: a comment for a block that does not follow: {orders}"
            )
    return found


def _typed(session: str) -> str:
    """The commands of a session: what stands behind `$ `; all else is output, and becomes empty lines."""
    return "".join(line[2:] if line.startswith("$ ") else "\n" for line in session.splitlines(keepends=True))


def well_formed(diff: Block) -> None:
    """ValueError where a hunk has not as many lines as it says."""
    old = new = 0
    for line in [*diff.text.splitlines(), "@@"]:
        if line.startswith(("--- ", "+++ ")):
            continue
        if line.startswith("@@"):
            if old or new:
                raise ValueError(f"{diff.where}: a hunk before {line!r} does not have as many lines as it says")
            said = re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line)
            old, new = (int(said[1] or 1), int(said[2] or 1)) if said else (0, 0)
            continue
        old -= line[:1] != "+"
        new -= line[:1] != "-"


def diffed(before: str, diff: Block) -> str:
    """The Python of ``before`` with a diff applied; ValueError where a line that it takes away or keeps is not there."""
    lines, out, at = before.splitlines(), [], 0
    for line in diff.text.splitlines():
        if line.startswith(("--- ", "+++ ")):
            continue
        if line.startswith("@@"):
            start = re.match(r"@@ -(\d+)", line)
            goal = int(start[1]) - 1 if start else at
            out, at = [*out, *lines[at:goal]], max(at, goal)
            continue
        sign, text = line[:1] or " ", line[1:]
        if sign == "+":
            out.append(text)
            continue
        if at >= len(lines) or lines[at] != text:
            found = lines[at] if at < len(lines) else "the end"
            raise ValueError(f"{diff.where}: the diff has {text!r} where the block before it has {found!r}")
        out, at = [*out, text] if sign == " " else out, at + 1
    return "\n".join([*out, *lines[at:]]) + "\n"
