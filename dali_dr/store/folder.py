"""A folder of this machine as a store, for copies from and to it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from dali_dr.store.store import Entry, Traffic
from dali_dr.store.url import MissingError, StoreError, below

_PIECE = 1 << 20


class Folder:
    """The files below a folder, as `Store` says. Symbolic links to files are files, links to folders are not entered.

    Attributes:
      folder: need not exist before something is put.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.traffic: Traffic = Traffic()

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All files whose names begin with ``prefix``, by name."""
        names = []
        for root, folders, files in os.walk(self.folder):
            base = Path(root).relative_to(self.folder).as_posix()
            base = "" if base == "." else f"{base}/"
            folders[:] = [name for name in folders if _may_hold(f"{base}{name}/", prefix)]
            names += [f"{base}{name}" for name in files if f"{base}{name}".startswith(prefix)]
        for name in sorted(names):
            entry = self.head(name)
            if entry is not None:
                yield entry

    def head(self, name: str) -> Entry | None:
        """The file ``name``; None if there is none."""
        path = below(self.folder, name)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(name, status.st_size, f"{status.st_mtime_ns}") if path.is_file() else None

    def read(self, name: str, begin: int = 0, size: int | None = None, *, limit: int = 1 << 30) -> bytes:
        """Bytes of a file, as `Store.read`."""
        entry = self._there(name)
        if size is None and entry.bytes - begin > limit:
            raise StoreError(f"{self.url}/{name}: has {entry.bytes:,} bytes, more than the {limit:,} that it may have")
        with below(self.folder, name).open("rb") as file:
            file.seek(begin)
            data = file.read(entry.bytes - begin if size is None else size)
        if size is not None and len(data) < size:
            raise StoreError(f"{self.url}/{name}: ends at byte {entry.bytes:,}, before {begin + size:,}")
        self.traffic.read += len(data)
        return data

    def download(
        self, name: str, to: Path, *, expect: int | None = None, step: Callable[[int], None] | None = None
    ) -> Entry:
        """Copies a file, as `Store.download`."""
        entry = self._there(name)
        if expect is not None and entry.bytes != expect:
            raise StoreError(f"{self.url}/{name}: has {entry.bytes:,} bytes, not {expect:,}")
        try:
            with below(self.folder, name).open("rb") as source, to.open("wb") as target:
                copied = 0
                while piece := source.read(_PIECE):
                    target.write(piece)
                    copied += len(piece)
                    if step is not None:
                        step(len(piece))
            if copied != entry.bytes or self.head(name) != entry:
                raise StoreError(f"{self.url}/{name}: changed while it was read")
        except BaseException:
            to.unlink(missing_ok=True)
            raise
        self.traffic.read += copied
        return entry

    def put(self, name: str, data: bytes | Path, *, create: bool = False) -> bool:
        """Writes a file, whole or not at all, as `Store.put`; durable when this returns."""
        path = below(self.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, hidden: what a killed process leaves is no object of a data set.
        partial = path.parent / f".put-{uuid.uuid4().hex}"
        try:
            with partial.open("xb") as file:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, _PIECE)
                else:
                    file.write(data)
                self.traffic.written += file.tell()
                file.flush()
                os.fsync(file.fileno())
            if create:
                try:
                    os.link(partial, path)
                except FileExistsError:
                    return False
                partial.unlink()
            else:
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync(path.parent)
        return True

    def remove(self, name: str) -> None:
        """Removes a file; none is none."""
        below(self.folder, name).unlink(missing_ok=True)

    def _there(self, name: str) -> Entry:
        entry = self.head(name)
        if entry is None:
            raise MissingError(f"{self.url}/{name}: there is no such file")
        return entry


def _may_hold(folder: str, prefix: str) -> bool:
    return folder.startswith(prefix) or prefix.startswith(folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
