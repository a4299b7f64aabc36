"""Reading files that may be anything: a pipe, a device or a folder under the name of a file, cut off or changed in use."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np

from dali_dr import regular
from dali_dr.errors import ShardError

_BLOCK: Final = 16 << 10  # bytes that are read and compared at a time: small, since most reads want a few bytes
_CACHED: Final = 32  # such blocks are kept
_PIECE: Final = _BLOCK * 3 * 7 * 2  # what passes at a time on opening: whole entries of an index of either version


def open_regular(path: Path) -> int:
    """A descriptor of the regular file ``path``, for reading.

    Raises:
      ShardError: if it is missing or something else; a pipe is not waited for.
    """
    try:
        return regular.open_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = error.strerror if isinstance(error, OSError) else error
        raise ShardError(f"{path}: cannot be read ({why}); restore it from a copy") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """As `open_regular`, closed at the end."""
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_fully(descriptor: int, path: Path, offset: int, size: int) -> bytes:
    """``size`` bytes from ``offset``, which must be there.

    Raises:
      ShardError: naming ``path``, if the file ends before or cannot be read.
    """
    try:
        if offset + size > os.fstat(descriptor).st_size:  # before memory is taken
            raise ShardError(f"{path}: ends before byte {offset + size}; restore it from a copy")
        data = os.pread(descriptor, size, offset)
        while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
            data += more
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); restore it from a copy") from error
    if len(data) != size:
        raise ShardError(f"{path}: ends before byte {offset + size}; restore it from a copy")
    return data


class PinnedFile:
    """A file that is read again and again and must stay what it was when it was first read.

    `stream` goes once through all of it and notes a CRC-32C of every 16 KiB; what `read` gives later was compared with
    these. So a file that is cut off or overwritten in use is an error, never other bytes and never a SIGBUS.

    Args:
      path: of a regular file.
      remedy: the end of messages about it.

    Attributes:
      size: its bytes.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self._remedy = path, remedy
        self._descriptor = open_regular(path)
        weakref.finalize(self, os.close, self._descriptor)
        self.size: int = os.fstat(self._descriptor).st_size
        self._sums = np.zeros(-(-self.size // _BLOCK), np.uint32)
        self._cached = functools.lru_cache(_CACHED)(functools.partial(_checked_block, weakref.proxy(self)))

    def head(self, size: int) -> bytes:
        """The first ``size`` bytes or fewer, not compared with anything: to be called before `stream`."""
        return read_fully(self._descriptor, self.path, 0, min(size, self.size))

    def stream(self) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of all of the file, piece by piece of ``PIECE`` bytes; to be taken to the end."""
        for start in range(0, self.size, _PIECE):
            piece = read_fully(self._descriptor, self.path, start, min(_PIECE, self.size - start))
            for at in range(0, len(piece), _BLOCK):
                self._sums[(start + at) // _BLOCK] = google_crc32c.value(piece[at : at + _BLOCK])
            yield start, piece

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, as they were when `stream` saw them.

        Raises:
          ShardError: they are not.
        """
        if size <= 0:
            return b""
        first, last = offset // _BLOCK, (offset + size - 1) // _BLOCK
        if last - first < _CACHED // 2:
            blocks = [self._cached(number) for number in range(first, last + 1)]
        else:
            blocks = [_checked_block(self, number) for number in range(first, last + 1)]
        data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        return data[offset - first * _BLOCK : offset - first * _BLOCK + size]


PIECE: Final = _PIECE


def _checked_block(file: PinnedFile, number: int) -> bytes:
    at = number * _BLOCK
    try:
        block = read_fully(file._descriptor, file.path, at, min(_BLOCK, file.size - at))
    except ShardError as error:
        raise ShardError(f"{file.path}: was cut off while it was in use: {file._remedy}") from error
    if google_crc32c.value(block) != file._sums[number]:
        raise ShardError(f"{file.path}: was changed while it was in use (near byte {at}): {file._remedy}")
    return block
