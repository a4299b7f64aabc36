"""A tar that may be compressed, read once from its beginning to its end, and never unpacked."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dali_dr.ahead import ahead
from dali_dr.convert.inflate import InflateError, decompressobj
from dali_dr.errors import ConvertError
from dali_dr.shards.reading import opened
from dali_dr.shards.tar_scan import COMPRESSIONS, Scan, TarFault, refuse_compressed

_CHUNK: Final = 1 << 20  # bytes that are read of a file at a time
_INFLATED: Final = 4 << 20  # and made of it at most: a bomb passes in such pieces
_AHEAD: Final = 4  # pieces
_BEGIN: Final = max(len(way.magic) for way in COMPRESSIONS)
_GZIP: Final = b"\x1f\x8b"
_UNKNOWN: Final = 1 << 62  # bytes: no header says more


class Sequential(Scan):
    """A tar of which places are read that never fall; what lies between them passes by.

    Args:
      path: of the file, for messages.
      pieces: of the tar, in order.
    """

    def __init__(self, path: Path, pieces: Iterator[bytes]) -> None:
        super().__init__(path, _UNKNOWN)
        self._pieces = pieces
        self._buffer, self._at = b"", 0

    def read(self, at: int, size: int) -> bytes:
        """See `Scan`."""
        start = at - self._at
        while start + size > len(self._buffer):
            piece = next(self._pieces, None)
            if piece is None:
                raise TarFault(f"it ends before byte {at + size}")
            if start >= len(self._buffer):
                start -= len(self._buffer)
                self._at += len(self._buffer)
                self._buffer = piece
            else:
                self._at, self._buffer, start = at, self._buffer[start:] + piece, 0
        return self._buffer[start : start + size]


def is_gzip(path: Path) -> bool:
    """Whether the tar at ``path`` is compressed with gzip. ConvertError if it is so with something else."""
    with opened(path) as descriptor:
        begin = os.pread(descriptor, _BEGIN, 0)
    if begin.startswith(_GZIP):
        return True
    try:
        refuse_compressed(path, begin)
    except TarFault as error:
        raise ConvertError(f"{path}: {error}") from error
    return False


def pieces_of(
    path: Path, *, step: Callable[[int], object] | None = None, sha: hashlib._Hash | None = None
) -> Generator[bytes, None, None]:
    """The tar at ``path``, piece by piece, decompressed if it is; a thread works ahead.

    Args:
      path: the file.
      step: called with the number of bytes that were read of it, again and again.
      sha: takes all of its bytes.

    Raises:
      ConvertError: it cannot be read, or is no whole gzip file.
    """
    made = _inflated(path, _read(path, step, sha)) if is_gzip(path) else _read(path, step, sha)
    with ThreadPoolExecutor(1, "archive") as executor:
        found = ahead(executor, lambda _: next(made, None), itertools.count(), _AHEAD)
        try:
            for piece in found:
                if piece is None:
                    break
                yield piece
        finally:
            found.close()


def _read(path: Path, step: Callable[[int], object] | None, sha: hashlib._Hash | None) -> Iterator[bytes]:
    with opened(path) as descriptor:
        while True:
            try:
                data = os.read(descriptor, _CHUNK)
            except OSError as error:
                raise ConvertError(f"{path}: cannot be read ({error.strerror}); copy it anew") from error
            if not data:
                return
            if sha is not None:
                sha.update(data)
            yield data
            if step is not None:
                step(len(data))


def _inflated(path: Path, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What gzip has made ``pieces`` of; several files one after the other are one."""
    inflater = decompressobj(31)
    try:
        for piece in pieces:
            data = piece
            while data:
                if inflater.eof:
                    if not data.strip(b"\0"):  # padding
                        break
                    inflater = decompressobj(31)
                yield inflater.decompress(data, _INFLATED)
                data = inflater.unconsumed_tail or inflater.unused_data
        if not inflater.eof:
            raise ConvertError(f"{path}: ends too early: download it again")
    except InflateError as error:
        raise ConvertError(f"{path}: is damaged ({error}): download it again") from error
