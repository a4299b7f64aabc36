"""Very many short texts in little memory: names of files, keys."""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload


class Texts(Sequence[str]):
    """Texts in one piece of memory: their UTF-8 and eight bytes each, where a str takes fifty more.

    Args:
      texts: that are taken.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._text, self._ends = bytearray(), array.array("Q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Adds one, which may be a name of a file that is no UTF-8."""
        self._text += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: int | slice) -> str | Sequence[str]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        return self._text[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))
