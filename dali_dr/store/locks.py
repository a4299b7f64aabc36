"""Locks on names, held by open descriptions of one file: the kernel lets go of a dead process's."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from pathlib import Path
from typing import Final

from dali_dr.store.url import StoreError

_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux
_NO_LOCKS: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF)


class Locks:
    """Locks on names, of one opening of one file. Another opening, of this process or another, is another owner."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def shared(self, name: str) -> bool:
        """Whether a shared lock was got; an exclusive one becomes it without a gap."""
        return self._set(fcntl.F_RDLCK, name)

    def exclusive(self, name: str) -> bool:
        """Whether an exclusive lock was got."""
        return self._set(fcntl.F_WRLCK, name)

    def release(self, name: str) -> None:
        """Let go of a lock."""
        self._set(fcntl.F_UNLCK, name)

    def close(self) -> None:
        """Let go of all locks, but for those that a fork shares."""
        os.close(self._descriptor)

    def _set(self, kind: int, name: str) -> bool:
        at = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")  # 56 bits: names do not meet
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            if error.errno in _NO_LOCKS:
                raise StoreError(
                    f"{self.path}: its file system has no locks ({error.strerror}): choose a folder on a local disk for the "
                    "cache (cache=, or the environment variable DALI_DR_CACHE)"
                ) from error
            raise StoreError(
                f"{self.path}: cannot be locked ({error.strerror}): choose another folder for the cache"
            ) from error
        return True


def unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path}: cannot be written ({error.strerror or error}): make the folder writable, free space there, or choose another "
        "folder for the cache (cache=, or the environment variable DALI_DR_CACHE)"
    )
