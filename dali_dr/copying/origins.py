"""Where the objects of a copy come from: each is held as a file while it is checked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

from dali_dr.errors import ShardError
from dali_dr.shards import files
from dali_dr.shards.reading import opened, read_fully
from dali_dr.store.store import Store

Step = Callable[[int], None]
Check = Callable[[Path, str], None]
Maker = Callable[[Path], bytes]
_WEB: Final = ("http://", "https://")
_ASKED: Final = 8  # objects at a time, for their sizes
_PIECE: Final = 4 << 20  # bytes that are copied at a time


class Origin(Protocol):
    """Where objects come from."""

    where: str

    def names(self, entered: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
        """All objects there and their sizes; in a folder, one below it that is not among ``entered`` is one name, "NAME/".
        Of a web server, which lists nothing, those of ``wanted``."""
        ...

    def read(self, name: str, limit: int) -> bytes | None:
        """The small object ``name``; None where there is none."""
        ...

    def hold(self, name: str, size: int | None, step: Step) -> contextlib.AbstractContextManager[Path]:
        """A file with the bytes of ``name`` while the context lasts; ShardError at its end if they changed meanwhile."""
        ...

    def fetch(self, name: str, to: Path, size: int | None, step: Step) -> None:
        """Write ``name`` into the new file ``to``, durably."""
        ...


class FolderOrigin:
    """A folder.

    Args:
      path: of it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    def names(self, entered: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
        """See `Origin.names`."""
        found: dict[str, int] = {}
        for base in ("", *(f"{name}/" for name in entered)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path / base) as entries:
                for entry in entries:
                    if not entry.is_dir():
                        found[base + entry.name] = entry.stat().st_size if entry.is_file() else 0
                    elif base + entry.name not in entered:
                        found[f"{base}{entry.name}/"] = 0
        return found

    def read(self, name: str, limit: int) -> bytes | None:
        """See `Origin.read`."""
        if not (self.path / name).exists():
            return None
        with opened(self.path / name) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise ShardError(
                    f"{self.path / name}: has {size} bytes, at most {limit} are read; restore it from a copy"
                )
            return read_fully(descriptor, self.path / name, 0, size)

    @contextlib.contextmanager
    def hold(self, name: str, size: int | None, step: Step) -> Iterator[Path]:
        """See `Origin.hold`: the file itself."""
        path = self.path / name
        with opened(path) as descriptor:
            before = _state(os.fstat(descriptor))
            _expect(path, before[0], size)
            yield path
            try:
                after = _state(path.stat())
            except OSError:
                after = None
            if after != before:
                raise ShardError(f"{path}: was changed or replaced while it was copied; let it be, and copy again")

    def fetch(self, name: str, to: Path, size: int | None, step: Step) -> None:
        """See `Origin.fetch`."""
        path = self.path / name
        with opened(path) as descriptor, files.NewFile.open(to) as file:
            count = os.fstat(descriptor).st_size
            _expect(path, count, size)
            for at in range(0, count, _PIECE):
                piece = read_fully(descriptor, path, at, min(_PIECE, count - at))
                file.write(piece)
                step(len(piece))
            file.sync()


class StoreOrigin:
    """A store.

    Args:
      store: of the data set's URL.
      room: a folder for what is held.
    """

    def __init__(self, store: Store, room: Path) -> None:
        self.where, self._store, self._room = store.url, store, room

    def names(self, entered: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
        """See `Origin.names`; a store has no folders."""
        if self.where.lower().startswith(_WEB):
            with ThreadPoolExecutor(_ASKED) as pool:
                return {entry.name: entry.bytes for entry in pool.map(self._store.head, wanted) if entry is not None}
        return {entry.name: entry.bytes for entry in self._store.list()}

    def read(self, name: str, limit: int) -> bytes | None:
        """See `Origin.read`."""
        return None if self._store.head(name) is None else self._store.read(name, limit=limit)

    @contextlib.contextmanager
    def hold(self, name: str, size: int | None, step: Step) -> Iterator[Path]:
        """See `Origin.hold`: a download."""
        path = self._room / f"{secrets.token_hex(8)}-{name.rpartition('/')[2]}"
        try:
            self._store.download(name, path, expect=size, step=step)
            yield path
        finally:
            files.discard(path)

    def fetch(self, name: str, to: Path, size: int | None, step: Step) -> None:
        """See `Origin.fetch`."""
        self._store.download(name, to, expect=size, step=step)
        _settle(to)


@dataclasses.dataclass
class Item:
    """An object of the copy.

    Attributes:
      name: at the destination.
      origin: where it comes from.
      source: its name there.
      size: bytes that it must have; None if that is not known.
      check: raises a ShardError if a file, said to be from a place, does not hold the right bytes.
      beside: makes the small object that goes before it, from a checked file: its name and the bytes.
      replace: put it over what is there.
      small: so that what is there is always read and compared.
    """

    name: str
    origin: Origin
    source: str
    size: int | None = None
    check: Check | None = None
    beside: tuple[str, Maker] | None = None
    replace: bool = False
    small: bool = False

    @property
    def place(self) -> str:
        """Where it comes from, for messages."""
        return f"{self.origin.where}/{self.source}"

    def checked(self, path: Path) -> bytes | None:
        """Check the file; what goes beside it."""
        if self.check is not None:
            self.check(path, self.place)
        return None if self.beside is None else self.beside[1](path)


def _settle(path: Path) -> None:
    """Make a file durable that another has written."""
    try:
        descriptor = files.system.open(path, os.O_RDONLY)
        try:
            files.system.fsync(descriptor)
        finally:
            files.close(descriptor)
    except OSError as error:
        files.discard(path)
        raise files.failure(path, error) from error


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def _expect(path: Path, size: int, wanted: int | None) -> None:
    if wanted is not None and size != wanted:
        raise ShardError(
            f"{path}: has {size} bytes, dataset.json says {wanted}: it is cut off or was changed; restore it from a copy"
        )
