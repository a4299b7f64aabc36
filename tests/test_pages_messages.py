"""docs/troubleshooting.md quotes messages as the sources have them, so that whoever searches for one finds it."""

from __future__ import annotations

import ast
import re

from conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
FEWEST = 40
_QUOTED = re.compile(r"^\*\*(`+) ?(?P<message>.+?) ?\1\*\*(?: \((?P<of>.+)\))?$", re.MULTILINE)


def quoted() -> list[tuple[str, str | None]]:
    """Messages on the page, and whose they are where they are not ours."""
    return [(match["message"], match["of"]) for match in _QUOTED.finditer(PAGE.read_text())]


def in_source() -> list[str]:
    """All texts of the package, with … where values are put in; texts that are added, joined."""
    found: list[str] = []

    def text(node: ast.AST) -> str | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            return node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part) or "…" for part in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = text(node.left), text(node.right)
            return None if left is None and right is None else (left or "…") + (right or "…")
        return None

    for path in sorted((REPOSITORY / "dali_dr").rglob("*.py")):
        found += filter(None, (text(node) for node in ast.walk(ast.parse(path.read_text()))))
    for path in sorted((REPOSITORY / "csrc").rglob("*.cc")):
        if not {"tests", "fuzz"} & set(path.parts):
            found += re.findall(r'"((?:[^"\\\n]|\\.)*)"', re.sub(r'"\s*\n\s*"', "", path.read_text()))
    return found


def test_every_message_is_in_the_sources() -> None:
    source = in_source()
    ours = [message for message, of in quoted() if of is None]
    assert len(ours) == len(set(ours)) >= FEWEST
    for message in ours:
        assert any(message in text for text in source), f"no message reads: {message}"


def test_every_bold_line_is_a_message() -> None:
    """And has words behind it: what it means, what to do."""
    lines = PAGE.read_text().splitlines()
    bold = [number for number, line in enumerate(lines) if line.startswith("**")]
    assert len(bold) == len(quoted())
    for number in bold:
        answer = lines[number + 2]
        assert lines[number + 1] == "" and answer and not answer.startswith(("**", "#")), lines[number]
