"""What is asked of a store: whole objects by name, ranges of them, and creation that only one of several succeeds in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Entry:
    """An object.

    Attributes:
      name: relative to the store's URL, with "/" between parts.
      bytes: its size.
      tag: changes when the object does (an ETag or a version); None where the store has none.
    """

    name: str
    bytes: int
    tag: str | None = None


@dataclasses.dataclass
class Traffic:
    """What went over the wire.

    Attributes:
      requests: answered, or given up.
      retries: of them, sent again.
      read, written: bytes.
    """

    requests: int = 0
    retries: int = 0
    read: int = 0
    written: int = 0


class Store(Protocol):
    """The objects below a URL. Usable from several threads at once; can be pickled; opened anew after a fork.

    What passes (time-outs, connections that break, 408, 429, 500, 502, 503, 504) is tried again with growing pauses before
    any method fails. A StoreError says which object, what the store said, and what to do; it holds no credentials. What is
    not there is a MissingError. An OSError is of this machine's files.

    Attributes:
      url: without a slash at its end.
      traffic: so far, of this process.
    """

    @property
    def url(self) -> str: ...

    @property
    def traffic(self) -> Traffic: ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose names begin with ``prefix``, by name. StoreError where one of the folder is called ``../x`` or
        the like."""
        ...

    def head(self, name: str) -> Entry | None:
        """The object ``name``; None if there is none."""
        ...

    def read(self, name: str, begin: int = 0, size: int | None = None, *, limit: int = 1 << 30) -> bytes:
        """Bytes of an object: all, or exactly ``size`` from ``begin``. StoreError if it is missing, shorter, or all of it
        more than ``limit``."""
        ...

    def download(
        self, name: str, to: Path, *, expect: int | None = None, step: Callable[[int], None] | None = None
    ) -> Entry:
        """Writes an object into the file ``to``, which is not made durable; where this fails, ``to`` is removed.

        Args:
          name: of the object.
          to: new, or overwritten.
          expect: bytes that it must have.
          step: called with the bytes of each piece that was written.

        Raises:
          StoreError: it is missing, of another size, or changed while it was read.
        """
        ...

    def put(self, name: str, data: bytes | Path, *, create: bool = False) -> bool:
        """Writes an object, whole or not at all.

        Args:
          name: of the object.
          data: bytes, or a file that holds them.
          create: write only where there is no such object.

        Returns:
          Whether it was written: False where ``create`` met an object.
        """
        ...

    def remove(self, name: str) -> None:
        """Removes an object; none is none."""
        ...
