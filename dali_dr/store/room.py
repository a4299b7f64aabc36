"""The room of a cache: how much of it is taken, by what, and what leaves it for something else. See cache.py."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dali_dr.store.locks import Locks, unwritable
from dali_dr.store.url import StoreError

KEPT_FREE: Final = 1 << 30
"""Bytes of the disk that the cache leaves free, whatever it may take: the system and the run's own checkpoints need some."""
TEMPORARY: Final = re.compile(r"\.(?P<name>.+)\.(?P<bytes>\d+)-[0-9a-f]{12}\.tmp")
PAUSE_S: Final = 0.02  # between looks at what another process does
SET: Final = ""  # the name whose byte stands for the set as a whole


class NoRoom(StoreError):
    """The cache has no room for an object, which may well be had."""


@dataclasses.dataclass(frozen=True)
class Want:
    """What is in the way of an object, in bytes.

    Attributes:
      used: of all that is in the cache, or will be.
      there: of these, those written.
      free: of the disk.
      of_disk: that are missing on the disk, if more than 0.
      of_limit: likewise, within the limit.
    """

    used: int
    there: int
    free: int
    of_disk: int
    of_limit: int

    @property
    def vain(self) -> bool:
        """Whether an empty cache would have no room either: the disk is full of other things."""
        return self.of_disk > self.used  # of which what is not written yet is missing, too


class Cache:
    """The folder of all sets on this machine.

    Args:
      root: the folder.
      limit: bytes that all that lies in it may have; None: any. Either way, `KEPT_FREE` bytes of the disk stay free.
      small: names of the files of a set that stay as long as any of its objects.
    """

    root: Path
    limit: int | None
    small: tuple[str, ...]

    def __init__(self, root: Path, limit: int | None, small: tuple[str, ...] = ()) -> None:
        self.root, self.limit, self.small = root, limit, small
        for folder in (root / "sets", root / "locks"):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise unwritable(folder, error) from error

    def folder(self, name: str) -> Path:
        """Where the set's objects lie."""
        return self.root / "sets" / name

    def locks(self, name: str) -> Locks:
        """An own opening of the set's locks."""
        try:
            return Locks(self.root / "locks" / name)
        except OSError as error:
            raise unwritable(self.root / "locks" / name, error) from error

    def reserve(self, partial: Path, size: int) -> tuple[bool, int]:
        """Make the unfinished file ``partial``, whose name says its ``size``, if there is room or room can be made.

        Returns:
          Whether it was made, and how many objects were removed for it.

        Raises:
          StoreError: there can never be room for it.
        """
        if self.limit is not None and size > self.limit:
            raise NoRoom(
                f"{self.root}: an object of {size} bytes does not fit into cache_bytes={self.limit}: pass more"
            )
        with self._alone():
            evicted, missing = 0, self._missing(size)
            if missing > 0:
                for place, name, folder in self._unused(missing):
                    if self._evict(place, name, folder):
                        evicted += 1
                        if (missing := self._missing(size)) <= 0:
                            break
            if missing > 0:
                return False, evicted
            try:
                partial.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            except OSError as error:
                raise unwritable(partial, error) from error
        return True, evicted

    def used(self) -> int:
        """Bytes of all that is there, or will be."""
        return sum(size for size, *_ in self._files())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Of all processes, one at a time counts and removes."""
        locks = self.locks(".room")
        try:
            while not locks.exclusive(SET):
                time.sleep(PAUSE_S / 4)
            yield
        finally:
            locks.close()

    def want(self, size: int) -> Want:
        """What is in the way of ``size`` more bytes."""
        files = list(self._files())
        disk = os.statvfs(self.root)
        used, there = sum(bytes_ for bytes_, *_ in files), sum(there for _, there, *_ in files)
        free = disk.f_bavail * disk.f_frsize
        beyond = 0 if self.limit is None else size + used - self.limit
        return Want(used, there, free, size + KEPT_FREE + used - there - free, beyond)

    def _missing(self, size: int) -> int:
        """Bytes that have to go before ``size`` more have room."""
        want = self.want(size)
        return max(want.of_disk, want.of_limit)

    def _files(self) -> Iterator[tuple[int, int, float, Path, Path]]:
        """(bytes that it has or will have, that it has now, last use, file, set's folder) of all files."""
        for folder in entries(self.root / "sets"):
            for path in below(Path(folder.path)):
                unfinished = TEMPORARY.fullmatch(path.name)
                try:
                    facts = os.lstat(path)
                except FileNotFoundError:
                    if unfinished is None:
                        continue
                    path, unfinished = (
                        path.with_name(unfinished["name"]),
                        None,
                    )  # it may be finished since it was listed
                    try:
                        facts = os.lstat(path)
                    except FileNotFoundError:
                        continue
                size = max(facts.st_size, int(unfinished["bytes"])) if unfinished else facts.st_size
                yield size, facts.st_size, facts.st_mtime, path, Path(folder.path)

    def _unused(self, missing: int) -> list[tuple[Path, str, Path]]:
        """(file, name whose lock protects it, set's folder) of all that may go: what dead processes left, then by last use;
        small files last. Nothing, where all of it is less than what is missing."""
        found, total = [], 0
        for size, _, used, path, folder in self._files():
            total += size
            name = path.relative_to(folder).as_posix()
            unfinished = TEMPORARY.fullmatch(path.name)
            if unfinished:
                name = (path.relative_to(folder).parent / unfinished["name"]).as_posix()
            small = name in self.small
            found.append(((not unfinished, small, used), (path, SET if small else name, folder)))
        return [one for _, one in sorted(found, key=lambda one: one[0])] if total >= missing else []

    def _evict(self, path: Path, name: str, folder: Path) -> bool:
        """Remove a file unless it is in use."""
        locks = self.locks(folder.name)
        try:
            if not locks.exclusive(name):
                return False
            if name == SET and any(other.relative_to(folder).as_posix() not in self.small for other in below(folder)):
                return False
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return True
        except OSError as error:
            raise unwritable(path, error) from error
        finally:
            locks.close()


def entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def below(folder: Path) -> Iterator[Path]:
    """All files below a folder; links are not followed."""
    for entry in entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from below(Path(entry.path))
        else:
            yield Path(entry.path)
