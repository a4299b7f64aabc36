"""What a source leaves out: counted by kind, with an example of each, in one line."""

from __future__ import annotations

import dataclasses
from typing import Final

from dali_dr.errors import brief

_MOST_KINDS: Final = 20  # that are told one by one: a folder may hold files of thousands of suffixes


@dataclasses.dataclass
class _Kind:
    plural: str
    hint: str
    example: str
    count: int = 0


class LeftOut:
    """Counts of what is left out.

    Args:
      what: the beginning of the line, such as "left out".
    """

    def __init__(self, what: str = "left out") -> None:
        self._what = what
        self._kinds: dict[str, _Kind] = {}

    def add(self, kind: str, example: str, plural: str = "", hint: str = "") -> None:
        """One more of ``kind`` ("hidden file"); ``hint``: what to do of it, or what others do with it."""
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = _Kind(plural or f"{kind}s", hint, example)
        found.example = min(found.example, example)  # folders are listed in any order
        found.count += 1

    @property
    def notes(self) -> tuple[str, ...]:
        """The line, where there is something to tell."""
        if not self._kinds:
            return ()
        kinds = sorted(self._kinds.items(), key=lambda item: (-item[1].count, item[0]))
        told = [
            f"{kind.count} {name if kind.count == 1 else kind.plural} ({brief(kind.example)[1:-1]}"
            f"{', …' if kind.count > 1 else ''}{'; ' if kind.hint else ''}{kind.hint})"
            for name, kind in kinds[:_MOST_KINDS]
        ]
        if rest := kinds[_MOST_KINDS:]:
            told.append(f"{sum(kind.count for _, kind in rest)} files of {len(rest)} other kinds")
        return (f"{self._what}: {', '.join(told)}",)
