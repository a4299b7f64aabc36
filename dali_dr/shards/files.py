"""Every system call that changes what is on disk: one place to make it durable, to explain its failures, to test both.

`System` is the seam: the bare calls, one method each, which tests replace by calls that fail or are recorded. The
functions below it are what the writers use. They try again where a call was interrupted, go on where a write was short,
and turn what the operating system says into a ShardError that names the file.

An fsync that failed may have dropped what it should have written, and a second one would say nothing of it. So nothing
is ever fsynced again: a file, and a name in a folder, whose fsync failed is removed, and made anew by the next run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from dali_dr.errors import ShardError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_BUFFER: Final = 1 << 20  # bytes: an image and its record go to the disk in one piece, several at a time
# A file system that cannot do something says so in one of these ways.
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_NO_LINKS: Final = _UNSUPPORTED | {errno.EPERM, errno.EMLINK, errno.EXDEV}
_NO_LOCKS: Final = _UNSUPPORTED | {errno.ENOLCK, errno.EBADF}
_NOT_OURS: Final = _UNSUPPORTED | {errno.EACCES, errno.EPERM, errno.EROFS}
_REMEDIES: Final = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.EROFS: "make the file system writable, or choose another folder",
    errno.EACCES: "make the folder writable, or choose another",
    errno.EPERM: "make the folder writable, or choose another",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.EIO: "look at the disk and the system's log",
    errno.ENAMETOOLONG: "choose shorter names",
    errno.ENOTDIR: "choose another folder",
}


class System:
    """The bare calls. Each either does what `os` does or raises its OSError."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def pwrite(self, descriptor: int, data: memoryview, at: int) -> int:
        return os.pwrite(descriptor, data, at)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def replace(self, old: Path, new: Path) -> None:
        old.replace(new)

    def link(self, old: Path, new: Path) -> None:
        new.hardlink_to(old)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def flock(self, descriptor: int, shared: bool = False) -> None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


system = System()


class WriteError(ShardError):
    """A file or folder of a data set that cannot be written; its cause is the OSError."""


def failure(path: Path, error: OSError, needed: int | None = None) -> WriteError:
    """What to raise where ``path`` cannot be written: what, why and what to do.

    Args:
      path: the file or folder.
      error: what the system said.
      needed: bytes that were to be written, where that is known.
    """
    why = error.strerror or str(error)
    size = f", {needed} bytes were to be written" if needed and error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    remedy = _REMEDIES.get(error.errno or 0, "remove what is in the way")
    return WriteError(
        f"{path}: cannot be written ({why}{size}); {remedy}, then run the same command again: it goes on where it stopped"
    )


class NewFile:
    """A file that is being written, from its beginning to its end. A context manager.

    Args:
      path: made, or emptied.
      flags: more of them, such as os.O_EXCL.

    Raises:
      OSError: it cannot be made (`open` says so in a ShardError, as the methods do of what they cannot write).
    """

    def __init__(self, path: Path, flags: int = os.O_TRUNC) -> None:
        self.path = path
        self._pending = bytearray()
        self._written = 0
        self._descriptor = _retried(system.open, path, os.O_WRONLY | os.O_CREAT | flags)

    @classmethod
    def open(cls, path: Path) -> NewFile:
        """A new file at ``path``, whose failure is a ShardError."""
        try:
            return cls(path)
        except OSError as error:
            raise failure(path, error) from error

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            _close(self._descriptor)
        except OSError as error:
            if kind is None:
                raise failure(self.path, error) from error

    @property
    def descriptor(self) -> int:
        """To write elsewhere in it."""
        return self._descriptor

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``."""
        if len(self._pending) + len(data) > _BUFFER:
            self._flush()
        if len(data) > _BUFFER:
            self._put(data)
        else:
            self._pending += data

    def sync(self) -> None:
        """Make what was written durable."""
        self._flush()
        try:
            _retried(system.fsync, self._descriptor)
        except OSError as error:
            raise failure(self.path, error, self._written) from error

    def _flush(self) -> None:
        pending, self._pending = self._pending, bytearray()
        if pending:
            self._put(pending)

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data).cast("B")
        try:
            while rest:
                count = _retried(system.write, self._descriptor, rest)
                if count == 0:
                    raise OSError(errno.EIO, "the file system takes no more bytes, and does not say why")
                rest = rest[count:]
                self._written += count
        except OSError as error:
            raise failure(self.path, error, self._written + len(rest)) from error


def write_at(descriptor: int, data: bytes, at: int) -> None:
    """Write ``data`` into an open file from byte ``at``, durably. OSError where that fails."""
    rest = memoryview(data)
    while rest:
        count = _retried(system.pwrite, descriptor, rest, at)
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest, at = rest[count:], at + count
    _retried(system.fsync, descriptor)


def make_hollow(path: Path, size: int, note: bytes) -> None:
    """Make ``path``, or put in its place, a file of ``size`` bytes that takes almost no space: ``note``, then zeros.

    Raises:
      ShardError: it cannot be made.
    """
    partial = temporary(path)
    try:
        file = NewFile(partial)
        with file:
            file.write(note)
            file.sync()
            write_at(file.descriptor, b"\0", size - 1)
    except OSError as error:
        discard(partial)
        raise failure(path, error) from error
    except BaseException:
        discard(partial)
        raise
    publish(partial, path)


def close(descriptor: int) -> None:
    """Let go of a descriptor, of which all that matters was fsynced."""
    with contextlib.suppress(OSError):
        _close(descriptor)


def temporary(path: Path) -> Path:
    """A hidden name beside ``path`` to write it under before it is complete, new with every call: writers on several
    machines may be at the same file, and process numbers repeat between machines."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def publish(partial: Path, path: Path) -> None:
    """Give the complete and durable file ``partial`` its final name, durably; one that has it is replaced.

    Raises:
      ShardError: that failed; there may be neither file then.
    """
    try:
        _retried(system.replace, partial, path)
    except OSError as error:
        discard(partial)
        raise failure(path, error) from error
    _sync_name(path)


def publish_first(partial: Path, path: Path) -> bool:
    """As `publish`, but only where there is no ``path`` yet; of several callers, one succeeds.

    Returns:
      Whether it was this call that made the file.

    Raises:
      ShardError: that failed; there may be neither file then.
    """
    try:
        made = _linked(partial, path)
    except OSError as error:
        raise failure(path, error) from error
    finally:
        discard(partial)
    if made:
        _sync_name(path)
    return made


def remove(path: Path) -> bool:
    """Remove the file ``path``; whether it was there. ShardError if that fails."""
    try:
        _retried(system.unlink, path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _kept(path, error) from error
    return True


def discard(path: Path) -> None:
    """Remove the file ``path`` if that can be done: another failure is being told, and a later run will clean up."""
    with contextlib.suppress(OSError):
        _retried(system.unlink, path)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it where they are absent, durably.

    Raises:
      ShardError: one cannot be made.
    """
    missing = []
    while not folder.is_dir():
        if folder.parent == folder or folder.is_symlink() or folder.exists():
            if folder.is_dir():  # another process has made it meanwhile
                break
            error = OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            raise failure(folder, error) from error
        missing.append(folder)
        folder = folder.parent
    # A run that was killed may have made the lowest folder that is there, and not have come to the next line.
    with contextlib.suppress(_Excused):
        _sync(folder.parent)
    for folder in reversed(missing):
        try:
            _retried(system.mkdir, folder)
        except FileExistsError:  # another process was first
            pass
        except OSError as error:
            raise failure(folder, error) from error
        try:
            _sync(folder.parent)
        except _Excused:
            pass
        except ShardError:
            with contextlib.suppress(OSError):  # it may be in use by another process already
                _retried(system.rmdir, folder)
            raise


def remove_folder(folder: Path) -> None:
    """Remove the empty ``folder``; one that is gone or, as others are at work in it, not empty, is none of our business.

    Raises:
      ShardError: it cannot be removed for another reason.
    """
    try:
        _retried(system.rmdir, folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise _kept(folder, error) from error


def remove_tree(folder: Path) -> None:
    """Remove ``folder`` and all that is in it. ShardError if something cannot be removed."""
    for place, folders, names in os.walk(folder, topdown=False):
        for name in sorted(names):
            remove(Path(place) / name)
        for name in sorted(folders):
            below = Path(place) / name
            remove(below) if below.is_symlink() else remove_folder(below)
    remove_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make new names in ``folder``, and removals, durable. ShardError if that fails."""
    with contextlib.suppress(_Unsupported):
        _sync(folder)


def open_locked(folder: Path, *, shared: bool = False) -> int:
    """A descriptor of ``folder`` (see `close`) that holds a lock on it, where its file system has locks.

    Args:
      folder: that is there.
      shared: several may hold it that all say so.

    Raises:
      BlockingIOError: another process holds the lock.
      ShardError: the folder cannot be opened or locked.
    """
    try:
        descriptor = _retried(system.open, folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise failure(folder, error) from error
    try:
        _retried(system.flock, descriptor, *([True] if shared else []))
    except BlockingIOError:
        close(descriptor)
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            close(descriptor)
            raise failure(folder, error) from error
    return descriptor


def try_lock(descriptor: int) -> bool:
    """Make of a shared lock (see `open_locked`) one that nobody else holds; False, and perhaps no lock, if others do."""
    try:
        _retried(system.flock, descriptor)
    except OSError:
        return False
    return True


def _kept(path: Path, error: OSError) -> WriteError:
    return WriteError(f"{path}: cannot be removed ({error.strerror}); remove it, or run the same command again")


class _Excused(WriteError):
    """A folder above ours, which may belong to somebody else, cannot be made durable by us."""


class _Unsupported(_Excused):
    """The file system cannot make folders durable: nothing can be done about it."""


def _sync(folder: Path) -> None:
    try:
        descriptor = _retried(system.open, folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _retried(system.fsync, descriptor)
        finally:
            close(descriptor)
    except OSError as error:
        told = failure(folder, error)
        kind = _Unsupported if error.errno in _UNSUPPORTED else _Excused if error.errno in _NOT_OURS else WriteError
        raise kind(*told.args) from error


def _sync_name(path: Path) -> None:
    """Make the new name ``path`` durable; where that fails, it is taken back."""
    try:
        sync_folder(path.parent)
    except ShardError:
        discard(path)
        raise


def _linked(partial: Path, path: Path) -> bool:
    try:
        _retried(system.link, partial, path)  # atomic, on NFS too; fails where the name exists
    except FileExistsError:
        with contextlib.suppress(OSError):
            return path.samefile(partial)  # an interrupted call, or one that NFS sent twice, had done it
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _copied(partial, path)
    return True


def _copied(partial: Path, path: Path) -> bool:
    """For a file system without links: exclusive, though a reader may see ``path`` half written."""
    try:
        file = NewFile(path, os.O_EXCL)
    except FileExistsError:
        return False
    try:
        with file:
            file.write(partial.read_bytes())
            file.sync()
    except BaseException:
        discard(path)
        raise
    return True


def _close(descriptor: int) -> None:
    with contextlib.suppress(InterruptedError):  # it is closed all the same: to try again may close another's
        system.close(descriptor)


def _retried(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Python does this itself for some calls, but not for those on names, which file servers may interrupt as well."""
    while True:
        try:
            return call(*args, **kwargs)
        except InterruptedError:
            continue
