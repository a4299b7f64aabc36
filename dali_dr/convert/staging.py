"""What came before its turn, on disk: one file that only grows, so that a run that was killed finds it again.

A frame is a header of 20 bytes (magic, number, length, CRC-32C of the data, CRC-32C of the header), the data, and zeros
up to a multiple of 64. What a kill or a crash has left of the last frames is cut off, or noticed when it is read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np

from dali_dr.shards import files

_HEADER: Final = struct.Struct("<4sIIII")
_MAGIC: Final = b"drst"
_UNIT: Final = 64  # bytes: a place is kept in four


class Stage:
    """Bytes by number, in the file ``path``. Not for several threads at once.

    Args:
      path: made when the first bytes are put, or gone on with.
      count: numbers are below it.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self._places = np.zeros(count, np.uint32)  # of frames, from 1, in units; 0: not here
        self._descriptor: int | None = None
        self._end = 0
        if path.exists():
            self._open()
            self._scan()

    def __len__(self) -> int:
        return int(np.count_nonzero(self._places))

    def __contains__(self, number: int) -> bool:
        return bool(self._places[number])

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self._end

    def put(self, items: Iterable[tuple[int, bytes]]) -> None:
        """Append them. ShardError if that cannot be done."""
        if self._descriptor is None:
            files.make_folder(self.path.parent)
            self._open()
        parts: list[bytes] = []
        end = self._end
        places = {}
        for number, data in items:
            head = _HEADER.pack(_MAGIC, number, len(data), google_crc32c.value(data), 0)[:-4]
            head += struct.pack("<I", google_crc32c.value(head))
            padding = bytes(-(len(head) + len(data)) % _UNIT)
            places[number] = end // _UNIT + 1
            parts += (head, data, padding)
            end += len(head) + len(data) + len(padding)
        self._write(memoryview(b"".join(parts)))
        self._end = end
        for number, place in places.items():
            self._places[number] = place

    def get(self, number: int) -> bytes | None:
        """What was put under ``number``; None if nothing was, or it is damaged."""
        place = int(self._places[number])
        if not place or self._descriptor is None:
            return None
        at = (place - 1) * _UNIT
        data = os.pread(self._descriptor, 16 << 10, at)
        head = self._header(data)
        if head is not None and head[0] == number:
            size = _HEADER.size + head[1]
            if size > len(data):
                data += os.pread(self._descriptor, size - len(data), at + len(data))
            body = data[_HEADER.size : size]
            if len(body) == head[1] and google_crc32c.value(body) == head[2]:
                return body
        self._places[number] = 0
        return None

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            files.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        try:
            self._descriptor = files.system.open(self.path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise files.failure(self.path, error) from error

    def _scan(self) -> None:
        """The frames that are there."""
        assert self._descriptor is not None
        size = os.fstat(self._descriptor).st_size
        while (head := self._header(os.pread(self._descriptor, _HEADER.size, self._end))) is not None:
            number, length, _ = head
            end = self._end + -(-(_HEADER.size + length) // _UNIT) * _UNIT
            if end > size or number >= len(self._places):
                break
            self._places[number] = self._end // _UNIT + 1
            self._end = end

    @staticmethod
    def _header(data: bytes) -> tuple[int, int, int] | None:
        """Number, length and checksum of a frame; None if it is none."""
        if len(data) < _HEADER.size:
            return None
        magic, number, length, crc, own = _HEADER.unpack_from(data)
        if magic != _MAGIC or google_crc32c.value(data[: _HEADER.size - 4]) != own:
            return None
        return number, length, crc

    def _write(self, rest: memoryview) -> None:
        assert self._descriptor is not None
        at = self._end
        try:
            while rest:
                count = files.system.pwrite(self._descriptor, rest, at)
                rest, at = rest[count:], at + count
        except OSError as error:
            raise files.failure(self.path, error, len(rest)) from error
