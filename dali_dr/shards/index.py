"""index.bin: where the image and the record of every sample lie (layout: schemas/sample-index.md).

It is derived from the tars, mapped instead of loaded, and opens in the same time at any size.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.shards import tar

INDEX_NAME: Final = "index.bin"
VERSION: Final = 1
MAX_LABEL: Final = 2**31 - 1  # labels are i32
_MAGIC: Final = b"DDRINDEX"
_HEADER: Final = struct.Struct("<8sIIQQIIQQ8x")
ENTRY: Final = np.dtype(
    [
        ("image_file", "<u4"),
        ("image_block", "<u4"),
        ("image_bytes", "<u4"),
        ("record_file", "<u4"),
        ("record_block", "<u4"),
        ("record_bytes", "<u4"),
        ("label", "<i4"),
    ]
)
assert _HEADER.size == 64 and ENTRY.itemsize == 28


class IndexedFile(NamedTuple):
    """A file that samples lie in: its name relative to the index's folder and its size in bytes."""

    name: str
    size: int


class Keys(Sequence[str]):
    """The keys of all samples, decoded one by one from the mapped index."""

    def __init__(self, index: SampleIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [self._index.key(i) for i in range(*item.indices(len(self)))]
        return self._index.key(item)

    def __iter__(self) -> Iterator[str]:
        return (self._index.key(i) for i in range(len(self)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._index.position(key) >= 0

    def index(self, key: Any, start: int = 0, stop: int | None = None) -> int:
        """The sample number of ``key``; ValueError if it is absent or outside start..stop."""
        number = self._index.position(key)
        if number < 0 or number not in range(*slice(start, stop).indices(len(self))):
            raise ValueError(f"no sample {key!r} in {self._index.path}")
        return number

    def __repr__(self) -> str:
        return f"<{len(self)} keys of {self._index.path}>"


class SampleIndex:
    """The mapped index at ``path``.

    Attributes:
      path: the file.
      entries: (S,) structured array of ``ENTRY``, read-only, in the mapping.
      keys: lazily decoded sequence of S keys.
      files: the files that samples lie in.
      num_classes: labels are below it.

    Raises:
      ShardError: if the file is missing, of another version, or its lengths do not fit together. Entries and
        key offsets are checked when they are used, so that opening touches a few pages only.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()  # others open it by this name later
        try:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise ShardError(f"{self.path}: cannot be mapped ({error})") from error
        if len(self._map) < _HEADER.size:
            raise self._damaged("shorter than its header")
        magic, version, header_bytes, samples, classes, files, flags, table_bytes, key_bytes = _HEADER.unpack_from(
            self._map
        )
        if magic != _MAGIC:
            raise self._damaged("it does not start with DDRINDEX")
        if version != VERSION or header_bytes != _HEADER.size or flags:
            raise self._damaged(f"version {version} with flags {flags} is not readable here (want {VERSION} with 0)")
        offsets_at = -(-(_HEADER.size + samples * ENTRY.itemsize) // 8) * 8
        self._keys_at: int = offsets_at + 8 * (samples + 1)
        self._keys_end: int = self._keys_at + key_bytes
        if self._keys_end + table_bytes != len(self._map):
            raise self._damaged(f"its lengths want {self._keys_end + table_bytes} bytes, it has {len(self._map)}")
        self.num_classes = int(classes)
        self.entries: npt.NDArray[Any] = np.frombuffer(self._map, ENTRY, samples, _HEADER.size)
        self._offsets = np.frombuffer(self._map, "<u8", samples + 1, offsets_at)
        self.files = tuple(self._read_files(files))
        self.keys = Keys(self)

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, number: int) -> str:
        """The key of sample ``number`` (negative: from the end). IndexError outside the index."""
        number = self._number(number)
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        if not start <= end <= self._keys_end - self._keys_at:
            raise self._damaged(f"the key of sample {number} lies at {start}..{end} of its keys")
        return self._map[self._keys_at + start : self._keys_at + end].decode("utf-8", "replace")

    def position(self, key: str) -> int:
        """The sample number of ``key``, or -1. A search through the mapped keys: about 5 ms in a million."""
        wanted = key.encode()
        at = self._keys_at
        while wanted and (at := self._map.find(wanted, at, self._keys_end)) >= 0:
            start = at - self._keys_at
            number = int(np.searchsorted(self._offsets, start))
            if self._offsets[number] == start and self._offsets[number + 1] == start + len(wanted):
                return number
            at += 1
        return -1

    def find(self, key: str) -> int:
        """The sample number of ``key``. KeyError if there is none."""
        number = self.position(key)
        if number < 0:
            raise KeyError(f"no sample {key!r} in {self.path}")
        return number

    def entry(self, number: int) -> npt.NDArray[Any]:
        """The entry of sample ``number``, as a 0-d record of ``ENTRY`` whose places were checked."""
        number = self._number(number)
        entry = self.entries[number]
        for kind in ("image", "record"):
            file, block, size = (int(entry[f"{kind}_{part}"]) for part in ("file", "block", "bytes"))
            if size == 0 and kind == "record":
                continue
            if file >= len(self.files) or not block or block * tar.BLOCK + size > self.files[file].size:
                raise self._damaged(f"the {kind} of sample {number} ({self.key(number)}) lies outside its file")
        checked: npt.NDArray[Any] = entry
        return checked

    def _number(self, number: int) -> int:
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} is outside 0..{len(self) - 1} of {self.path}")
        return number % len(self)

    def _read_files(self, count: int) -> Iterator[IndexedFile]:
        at, end = self._keys_end, len(self._map)
        for _ in range(count):
            if at + 10 > end:
                raise self._damaged("its file table is cut off")
            size, length = struct.unpack_from("<QH", self._map, at)
            at += 10
            if at + length > end:
                raise self._damaged("its file table is cut off")
            yield IndexedFile(self._map[at : at + length].decode("utf-8", "replace"), size)
            at += length
        if at != end:
            raise self._damaged("bytes follow its file table")

    def _damaged(self, what: str) -> ShardError:
        return ShardError(f"{self.path}: not a sample index: {what}; delete it, it is rebuilt from the shards")


class SampleTable:
    """Samples as they are collected for an index: entries and keys, grown file by file.

    Args:
      image_tars: tars of the images, where they are not beside their records; ``image_file`` of the entries that are
        added counts in them. They follow the other files in the index.
    """

    def __init__(self, image_tars: Sequence[IndexedFile] = ()) -> None:
        self.files: list[IndexedFile] = []
        self._image_tars = list(image_tars)
        self._entries: list[npt.NDArray[Any]] = []
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._keys = bytearray()

    def add_file(self, file: IndexedFile, keys: Iterable[str], entries: npt.NDArray[Any]) -> None:
        """Append the samples of one tar; the numbers of this file in ``entries`` are set here."""
        entries = entries.copy()
        entries["record_file"] = len(self.files)
        if not self._image_tars:
            entries["image_file"] = len(self.files)
        encoded = [key.encode() for key in keys]
        self.files.append(file)
        self._entries.append(entries)
        self._lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        self._keys += b"".join(encoded)

    def write(self, path: Path, num_classes: int) -> None:
        """Write the index of all added samples to ``path``, atomically."""
        entries = np.concatenate(self._entries) if self._entries else np.empty(0, ENTRY)
        if self._image_tars:
            entries["image_file"] += len(self.files)
        offsets = np.zeros(len(entries) + 1, "<u8")
        if self._lengths:
            np.cumsum(np.concatenate(self._lengths), out=offsets[1:].view(np.int64))
        names = [(file.size, file.name.encode()) for file in [*self.files, *self._image_tars]]
        files = b"".join(struct.pack("<QH", size, len(name)) + name for size, name in names)
        header = _HEADER.pack(
            _MAGIC,
            VERSION,
            _HEADER.size,
            len(entries),
            num_classes,
            len(names),
            0,
            len(files),
            len(self._keys),
        )
        gap = bytes(-(len(header) + entries.nbytes) % 8)  # the offsets start at a multiple of 8
        tar.write_atomically(
            path,
            header,
            entries.tobytes(),
            gap,
            offsets.tobytes(),
            bytes(self._keys),
            files,
        )
