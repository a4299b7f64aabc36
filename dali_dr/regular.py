"""Regular files alone: what is none is an error before it is opened, and sizes are known before memory is taken.

To open a FIFO waits for a writer, to read a device may never end; names in folders and lists come from elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

_KINDS: Final = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path) -> int:
    """A descriptor, for reading, of the regular file at ``path``; links are followed.

    Raises:
      OSError: it cannot be opened, or is of another kind, which is named.
    """
    _refuse_others(Path(path).stat(), path)  # before: opening alone may wait, or act on a device
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _refuse_others(os.fstat(descriptor), path)  # it may have been exchanged in between
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: str | Path, most: int) -> bytes:
    """The whole regular file at ``path``.

    Args:
      path: links are followed.
      most: bytes that it may have.

    Raises:
      OSError: it cannot be read, is of another kind, or longer.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else b""
        if size > most or len(data) > most:  # the second: it grew meanwhile
            raise OSError(errno.EFBIG, f"it has {max(size, len(data))} bytes, at most {most} are read", str(path))
        return data


def _refuse_others(status: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "of another kind")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
