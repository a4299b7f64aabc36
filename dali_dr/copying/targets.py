"""Where the objects of a copy go: a folder, a store, a store that has commits."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, cast

from dali_dr.copying.origins import FolderOrigin, Item, Origin, Step, StoreOrigin
from dali_dr.errors import ShardError
from dali_dr.shards import files, folder
from dali_dr.shards.tar import write_atomically
from dali_dr.store.store import Store
from dali_dr.store.url import StoreError

_TEMPORARY: Final = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp")  # as files.temporary names them
# What goes into one commit of a store that has commits: their number an hour is limited (128, says the Hub's documentation),
# and what a killed copy has uploaded without a commit is found again by its hash.
COMMIT_FILES: Final = 100
COMMIT_BYTES: Final = 4 << 30


class Target(Protocol):
    """Where objects go."""

    where: str

    def open(self, names: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        """For as long as ``names`` are written there."""
        ...

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Of ``names``, those that are there, and their sizes."""
        ...

    def read(self, name: str, limit: int) -> bytes | None:
        """The small object ``name``; None where there is none."""
        ...

    def take(self, item: Item, step: Step) -> None:
        """Take ``item``, checked, and what goes beside it before it; from several threads."""
        ...

    def settle(self, last: bool = False) -> None:
        """See that what was taken is there: all of it if ``last``, else as much as should not wait."""
        ...

    def mark(self, name: str, data: bytes) -> bytes:
        """Make the small object ``name``, unless there is one: what it holds now."""
        ...

    def unmark(self, name: str) -> None:
        """Remove ``name``."""
        ...

    def recheck(self, item: Item, step: Step) -> bool:
        """Whether ``item`` is there in the bytes that it must have, of which all are read."""
        ...


class FolderTarget:
    """A folder, written as the writers do: each file under a hidden name, durable, and only then under its own.

    Args:
      path: of it; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    @contextlib.contextmanager
    def open(self, names: Iterable[str]) -> Iterator[None]:
        """See `Target.open`: locked, and rid of what a killed copy left half done."""
        ours = set(names)
        with folder.lock(self.path):
            for parent in {(self.path / name).parent for name in ours}:
                for entry in parent.iterdir() if parent.is_dir() else ():
                    match = _TEMPORARY.fullmatch(entry.name)
                    if match and (parent / match[1]).relative_to(self.path).as_posix() in ours:
                        files.remove(entry)
            yield

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """See `Target.sizes`."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found[name] = (self.path / name).stat().st_size
        return found

    def read(self, name: str, limit: int) -> bytes | None:
        """See `Target.read`."""
        return FolderOrigin(self.path).read(name, limit)

    def take(self, item: Item, step: Step) -> None:
        """See `Target.take`."""
        path = self.path / item.name
        files.make_folder(path.parent)
        partial = files.temporary(path)
        try:
            item.origin.fetch(item.source, partial, item.size, step)
            beside = item.checked(partial)  # what was written, and not what was read: nothing comes in between
            if item.beside is not None and beside is not None:
                _publish(self.path / item.beside[0], beside)
            files.publish(partial, path)
        finally:
            files.discard(partial)

    def settle(self, last: bool = False) -> None:
        """See `Target.settle`: it is."""

    def mark(self, name: str, data: bytes) -> bytes:
        """See `Target.mark`; the folder is locked."""
        there = self.read(name, len(data) + 1024)
        if there is None:
            _publish(self.path / name, data)
        return data if there is None else there

    def unmark(self, name: str) -> None:
        """See `Target.unmark`."""
        if files.remove(self.path / name):
            files.sync_folder(self.path)

    def recheck(self, item: Item, step: Step) -> bool:
        """See `Target.recheck`."""
        return _right(FolderOrigin(self.path), item, step)


class Batches(Protocol):
    """A store that takes several objects in one commit, and few commits."""

    def put_many(
        self,
        objects: Mapping[str, bytes | Path],
        *,
        replace: Iterable[str] = (),
        remove: Iterable[str] = (),
        strict: bool = False,
    ) -> list[str]:
        """Write ``objects``: those of ``replace`` over what is there, the others where there is none; and remove some.
        StoreError if ``strict`` and one that is not to be replaced is there with other bytes."""
        ...


class StoreTarget:
    """A store.

    Args:
      store: of the destination's URL.
      room: a folder for what is held.
    """

    def __init__(self, store: Store, room: Path) -> None:
        self.store, self.where, self._room = store, store.url, room

    @contextlib.contextmanager
    def open(self, names: Iterable[str]) -> Iterator[None]:
        """See `Target.open`: others may write there, too, and what they write is equal."""
        yield

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """See `Target.sizes`."""
        ours = set(names)
        return {entry.name: entry.bytes for entry in self.store.list() if entry.name in ours}

    def read(self, name: str, limit: int) -> bytes | None:
        """See `Target.read`."""
        return StoreOrigin(self.store, self._room).read(name, limit)

    def take(self, item: Item, step: Step) -> None:
        """See `Target.take`."""
        made = False
        try:
            with item.origin.hold(item.source, item.size, step) as path:
                beside = item.checked(path)
                if item.beside is not None and beside is not None:
                    self.store.put(item.beside[0], beside)
                made = self.store.put(item.name, path, create=not item.replace)
                there = None if made or item.replace else self.store.head(item.name)
                if there is not None and there.bytes != item.size:  # an equal one is of another copy of the same
                    raise ShardError(
                        f"{self.where}/{item.name}: another object is there now; choose another destination"
                    )
        except ShardError:
            if made:  # the source's file was changed after it was checked
                self.store.remove(item.name)
            raise

    def settle(self, last: bool = False) -> None:
        """See `Target.settle`: it is."""

    def mark(self, name: str, data: bytes) -> bytes:
        """See `Target.mark`."""
        if self.store.put(name, data, create=True):
            return data
        return self.read(name, len(data) + 1024) or data  # another copy has ended in between

    def unmark(self, name: str) -> None:
        """See `Target.unmark`."""
        self.store.remove(name)

    def recheck(self, item: Item, step: Step) -> bool:
        """See `Target.recheck`."""
        return _right(StoreOrigin(self.store, self._room), item, step)


class BatchTarget(StoreTarget):
    """A store that takes several objects in one commit.

    Args:
      store: of the destination's URL.
      room: a folder for what is held: up to `COMMIT_BYTES`, and what is on its way.
    """

    def __init__(self, store: Store, room: Path) -> None:
        super().__init__(store, room)
        self._batches = cast(Batches, store)
        self._lock = threading.Lock()
        self._held = contextlib.ExitStack()
        self._waiting: dict[str, bytes | Path] = {}
        self._replace: set[str] = set()
        self._remove: list[str] = []
        self._bytes = 0

    @contextlib.contextmanager
    def open(self, names: Iterable[str]) -> Iterator[None]:
        """See `Target.open`."""
        try:
            yield
        finally:
            with contextlib.suppress(ShardError):  # of a copy that failed: what was held may have changed
                self._held.close()

    def take(self, item: Item, step: Step) -> None:
        """See `Target.take`."""
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(item.origin.hold(item.source, item.size, step))
            beside = item.checked(path)
            with self._lock:
                if item.beside is not None and beside is not None:
                    self._waiting[item.beside[0]] = beside
                    self._replace.add(item.beside[0])
                self._waiting[item.name] = path
                if item.replace:
                    self._replace.add(item.name)
                self._bytes += path.stat().st_size
                self._held.push(stack.pop_all().__exit__)

    def settle(self, last: bool = False) -> None:
        """See `Target.settle`: a commit, once there is enough for one."""
        with self._lock:
            enough = len(self._waiting) >= COMMIT_FILES or self._bytes >= COMMIT_BYTES
            if not (enough or (last and (self._waiting or self._remove))):
                return
            objects, held, replace, remove = self._waiting, self._held, self._replace, self._remove
            self._waiting, self._held, self._replace, self._remove = {}, contextlib.ExitStack(), set(), []
            self._bytes = 0
        made = False
        try:
            with held:
                self._batches.put_many(objects, replace=replace, remove=remove, strict=True)
                made = True
        except ShardError:
            if made:  # a file of the source was changed after it was checked
                self._batches.put_many({}, remove=list(objects))
            raise

    def mark(self, name: str, data: bytes) -> bytes:
        """See `Target.mark`: with the first commit."""
        there = self.read(name, len(data) + 1024)
        if there is None:
            self._waiting[name] = data
        return data if there is None else there

    def unmark(self, name: str) -> None:
        """See `Target.unmark`: with the last commit."""
        if self._waiting.pop(name, None) is None:
            self._remove.append(name)


def target_in(store: Store, room: Path) -> StoreTarget:
    """The target for ``store``."""
    return BatchTarget(store, room) if hasattr(store, "put_many") else StoreTarget(store, room)


def _right(origin: Origin, item: Item, step: Step) -> bool:
    """Whether ``origin`` has ``item`` in the right bytes. What cannot be read is an error, what is wrong is not."""
    try:
        with origin.hold(item.name, item.size, step) as path:
            if item.check is not None:
                item.check(path, f"{origin.where}/{item.name}")
    except StoreError:
        raise
    except ShardError:
        return False
    return item.check is not None


def _publish(path: Path, data: bytes) -> None:
    files.make_folder(path.parent)
    write_atomically(path, data)
