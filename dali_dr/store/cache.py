"""A store's objects on this machine's disk: whole, checked, fetched once for all processes; the longest unused go first.

    ROOT/sets/SET/…         objects, laid out as in the store; an unfinished one is called .NAME.BYTES-RANDOM.tmp
    ROOT/locks/SET          never removed: its bytes stand for names, and are locked

Who uses an object holds a shared lock on its byte, who fetches or removes it an exclusive one (open file description locks:
one descriptor for any number of objects). The kernel lets go of a dead process's locks, so nothing is to be cleaned up after
one but its unfinished file, which whoever wants the room removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dali_dr.store.locks import Locks, unwritable
from dali_dr.store.room import KEPT_FREE, PAUSE_S, SET, TEMPORARY, Cache, NoRoom, Want, entries
from dali_dr.store.store import Store
from dali_dr.store.url import StoreError, shown_url

_log = logging.getLogger(__name__)

_PIECE: Final = 1 << 20  # bytes that are hashed at a time
_TRIES: Final = 2  # of an object with wrong bytes: once more, since they may have changed on the way
_ROOM_S: Final = 120.0  # that one waits for others to let go of what they use, while nothing changes
_VAIN_S: Final = 1.0  # likewise, where that would not do: the disk gives back what was just removed a little later


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An object that is wanted in the cache.

    Attributes:
      name: in the store, and below the set's folder.
      bytes: its size.
      sha256: hex; None where it is not known.
    """

    name: str
    bytes: int
    sha256: str | None = None


@dataclasses.dataclass
class Counts:
    """What a shelf did: objects and bytes fetched, seconds in which anything was being fetched, objects that were there
    already, objects of any set that were removed for room, objects asked for again because their bytes were wrong."""

    fetched: int = 0
    bytes: int = 0
    seconds: float = 0.0
    hits: int = 0
    evicted: int = 0
    again: int = 0


class Stopped(StoreError):
    """Whoever wanted an object does not want it any more. A StoreError, which stores do not try again."""


class Shelf:
    """One set's objects in a cache: fetched when they are to be held, and kept while anybody holds them.

    Usable from several threads, and after a fork, in which nothing is held.

    Args:
      cache: the cache.
      store: of the set.
      name: of the set in the cache.

    Attributes:
      folder: where the objects lie.
      counts: what was done so far.
      short: called, while an object waits for room, to let go of what is not needed at once.
    """

    cache: Cache
    store: Store
    name: str

    def __init__(self, cache: Cache, store: Store, name: str) -> None:
        self.cache, self.store, self.name = cache, store, name
        self.folder: Path = cache.folder(name)
        self.counts: Counts = Counts()
        self.short: Callable[[], None] | None = None
        self._begin()
        try:
            self.folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        _shelves.add(self)
        weakref.finalize(self, _close, self._own)

    def _begin(self) -> None:
        self._change = threading.Condition()
        self._held: dict[str, int] = {}
        self._busy: set[str] = set()
        self._active, self._since = 0, 0.0
        self._own = [self.cache.locks(self.name)]  # a list, for the finalizer
        while not self._own[0].shared(SET):  # the small files are being removed
            time.sleep(PAUSE_S)

    def forked(self) -> None:
        """In the child of a fork: what the parent holds is not ours."""
        _close(self._own)
        self._begin()
        weakref.finalize(self, _close, self._own)

    def path(self, name: str) -> Path:
        """Where the object lies, or would."""
        return self.folder / name

    def there(self, wanted: Wanted) -> bool:
        """Whether the object is in the cache now; unless it is held, it may leave."""
        try:
            facts = os.lstat(self.path(wanted.name))
        except OSError:
            return False
        return facts.st_size == wanted.bytes and (facts.st_mode & 0o170000) == 0o100000  # a regular file

    def holds(self, name: str) -> bool:
        """Whether the object is held by anybody in this process."""
        return name in self._held

    def small_bytes(self) -> int:
        """Bytes of the set's small files, which stay."""
        return sum(path.stat().st_size for path in map(self.path, self.cache.small) if path.exists())

    def hold(
        self, wanted: Wanted, *, step: Callable[[int], None] | None = None, stop: Callable[[], bool] | None = None
    ) -> Path:
        """The object's file, which stays until `release`; fetched if it is not there.

        Args:
          wanted: the object.
          step: called with bytes as they arrive, by this process or another.
          stop: asked now and then whether the object is not wanted any more.

        Raises:
          StoreError: it cannot be had, or is not what it should be.
          Stopped: ``stop`` said so.
        """
        name, stop = wanted.name, stop or (lambda: False)
        with self._change:
            while name in self._busy:
                self._change.wait(0.1)
                if stop():
                    raise Stopped
            if name in self._held:
                self._held[name] += 1
                return self.path(name)
            self._busy.add(name)
        got = False
        try:
            self._obtain(wanted, step or (lambda count: None), stop)
            got = True
        finally:
            with self._change:
                self._busy.discard(name)
                if got:
                    self._held[name] = 1
                self._change.notify_all()
        return self.path(name)

    def release(self, name: str) -> bool:
        """Hold it once less; whether it is not held any more, so that it may leave."""
        with self._change:
            if name not in self._held:
                return False
            self._held[name] -= 1
            if self._held[name]:
                return False
            del self._held[name]
            self._own[0].release(name)
        return True

    @contextlib.contextmanager
    def holding(self, wanted: Wanted) -> Iterator[Path]:
        """The object's file, which stays for so long."""
        path = self.hold(wanted)
        try:
            yield path
        finally:
            self.release(wanted.name)

    def discard(self, name: str) -> None:
        """Remove a file that is not what it should be, unless another process holds it."""
        with self._change:
            if name in self._held or name in self._busy or not self._own[0].exclusive(name):
                return
            with contextlib.suppress(OSError):
                self.path(name).unlink()
            self._own[0].release(name)

    # ---- fetching

    def _obtain(self, wanted: Wanted, step: Callable[[int], None], stop: Callable[[], bool]) -> None:
        """Have the object there, with a shared lock on it."""
        locks, name, seen, begin = self._own[0], wanted.name, 0, time.monotonic()
        while True:
            if stop():
                raise Stopped
            if self.there(wanted):
                if locks.shared(name):
                    if self.there(wanted):
                        break
                    locks.release(name)  # it has left meanwhile
            elif locks.exclusive(name):
                try:
                    if not self.there(wanted):
                        self._fetch(wanted, step, stop)
                        seen = -1
                    locks.shared(name)
                except BaseException:
                    locks.release(name)
                    raise
                break
            arrived = self._arrived(name)  # another process fetches it
            step(max(0, arrived - seen))
            seen = max(seen, arrived)
            time.sleep(PAUSE_S)
        if seen >= 0:
            step(wanted.bytes - seen)
            with self._change:
                self.counts.hits += 1
        with contextlib.suppress(OSError):  # of a file system that is full, or read only now
            os.utime(self.path(name))
        if (waited := time.monotonic() - begin) > 60:
            _log.info("%s: took %.0f s", self._shown(name), waited)

    def _arrived(self, name: str) -> int:
        """Bytes of an unfinished file that another process writes."""
        place = self.path(name)
        with contextlib.suppress(OSError):
            for entry in os.scandir(place.parent):
                match = TEMPORARY.fullmatch(entry.name)
                if match and match["name"] == place.name:
                    return entry.stat(follow_symlinks=False).st_size
        return 0

    def _fetch(self, wanted: Wanted, step: Callable[[int], None], stop: Callable[[], bool]) -> None:
        """Fetch the object under its exclusive lock."""
        path = self.path(wanted.name)
        for entry in entries(path.parent):  # what a killed process left of it
            match = TEMPORARY.fullmatch(entry.name)
            if match and match["name"] == path.name:
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()
        partial = path.with_name(f".{path.name}.{wanted.bytes}-{secrets.token_hex(6)}.tmp")
        self._make_room(partial, wanted, stop)

        def arrived(count: int) -> None:
            if stop():
                raise Stopped
            step(count)

        self._count(+1)
        try:
            for attempt in range(1, _TRIES + 1):
                try:
                    self.store.download(wanted.name, partial, expect=wanted.bytes, step=arrived)
                except OSError as error:  # of the file: what the store does is a StoreError
                    raise unwritable(partial, error) from error
                wrong = self._wrong(partial, wanted)
                if wrong is None:
                    break
                if attempt == _TRIES:
                    raise StoreError(
                        f"{self._shown(wanted.name)}: {wrong}: it was changed or damaged in the store; restore it there from a "
                        "copy, and open the data set again if it was meant to change"
                    )
                with self._change:
                    self.counts.again += 1
            try:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())  # else a power loss could leave a file of the right size and wrong bytes
                partial.replace(path)
            except OSError as error:
                raise unwritable(path, error) from error
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        finally:
            self._count(-1)
        with self._change:
            self.counts.fetched += 1
            self.counts.bytes += wanted.bytes

    def _make_room(self, partial: Path, wanted: Wanted, stop: Callable[[], bool]) -> None:
        used, since, hoped = -1, time.monotonic(), time.monotonic()
        while True:
            made, evicted = self.cache.reserve(partial, wanted.bytes)
            with self._change:
                self.counts.evicted += evicted
            if made:
                return
            if self.short is not None:
                self.short()
            if stop():
                raise Stopped
            want, now = self.cache.want(wanted.bytes), time.monotonic()
            if want.used != used or evicted:
                used, since = want.used, now
            if not want.vain:
                hoped = now
            if now - since > _ROOM_S or now - hoped > _VAIN_S:
                raise NoRoom(
                    f"{self.cache.root}: no room for {wanted.name} of {wanted.bytes} bytes: {self._obstacle(want)}"
                )
            time.sleep(PAUSE_S)

    def _obstacle(self, want: Want) -> str:
        """What is in the way, and what to do."""
        limit = self.cache.limit
        if limit is not None and want.of_limit > max(0, want.of_disk):
            return f"{want.used} bytes are there, cache_bytes={limit}, in use by this or other processes: pass more cache_bytes"
        why = "would not do" if want.vain else "is in use by this or other processes"
        return (
            f"the disk has {want.free} bytes free, {KEPT_FREE} of which the cache leaves so, and what it holds, {want.there} "
            f"bytes, {why}: free {want.of_disk} bytes on that disk, or choose another folder for the cache (cache=, or the "
            "environment variable DALI_DR_CACHE)"
        )

    def _wrong(self, partial: Path, wanted: Wanted) -> str | None:
        """What is wrong with what came."""
        size = partial.stat().st_size
        if size != wanted.bytes:
            return f"has {size} bytes, {wanted.bytes} are wanted"
        if wanted.sha256 is None:
            return None
        sha = hashlib.sha256()
        with partial.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                sha.update(piece)
        return None if sha.hexdigest() == wanted.sha256 else "its SHA-256 is not the one in the data set's manifest"

    def _count(self, by: int) -> None:
        """Seconds in which anything was being fetched."""
        with self._change:
            if self._active == 0:
                self._since = time.monotonic()
            self._active += by
            if self._active == 0:
                self.counts.seconds += time.monotonic() - self._since

    def _shown(self, name: str) -> str:
        return f"{shown_url(self.store.url)}/{name}"


_shelves: weakref.WeakSet[Shelf] = weakref.WeakSet()


def _after_fork() -> None:
    for shelf in list(_shelves):
        shelf.forked()


os.register_at_fork(after_in_child=_after_fork)


def _close(own: list[Locks]) -> None:
    while own:
        with contextlib.suppress(OSError):
            own.pop().close()
