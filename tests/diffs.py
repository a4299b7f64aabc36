"""Changes that a page of the documentation shows: a script as it was, a diff, and the script that comes out."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^--- a/(\S+)$", re.MULTILINE)
CHANGED = re.compile(r"[+-](?!(\+\+|--) )")


@dataclasses.dataclass(frozen=True)
class Change:
    """One diff of a page.

    Attributes:
      name: of the file that it changes.
      diff: itself.
      before: the script, or "" where the page does not show it: it is somebody else's.
    """

    name: str
    diff: str
    before: str = ""

    @property
    def lines(self) -> int:
        """Lines that are added and lines that are removed, together."""
        return sum(CHANGED.match(line) is not None for line in self.diff.splitlines())

    def after(self, folder: Path) -> str:
        """The script with the diff applied, by git, in an empty folder outside any work tree."""
        path = folder / self.name
        path.write_text(self.before)
        subprocess.run(["git", "apply", "-"], input=self.diff, text=True, check=True, cwd=folder)
        return path.read_text()


def changes(page: Path) -> dict[str, Change]:
    """The diffs of a page by the names of the files that they change.

    The script before is the page's python block that begins with a comment of that name: `# NAME`.
    """
    blocks = BLOCK.findall(page.read_text())
    scripts = {text.splitlines()[0].removeprefix("# "): text for kind, text in blocks if kind == "python"}
    found = {}
    for kind, diff in blocks:
        if kind == "diff" and (name := FILE.search(diff)):
            found[name[1]] = Change(name[1], diff, scripts.get(name[1], ""))
    return found


def replaced(script: str, other: dict[str, str]) -> str:
    """The script with other values: each text to replace is there once."""
    for old, new in other.items():
        assert script.count(old) == 1, f"{old!r} is {script.count(old)} times in the script"
        script = script.replace(old, new)
    return script
