"""index.bin: where the image and the record of every sample lie (layout: schemas/sample-index.md).

It is derived from the tars. Opening reads through it once, for its checksum and the labels; entries and keys are read
from the file when they are asked for, so that a process holds four bytes per sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

import google_crc32c
import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.shards import tar
from dali_dr.shards.index_layout import (
    CHECKSUM_AT,
    ENTRY,
    HEADER_BYTES,
    STORED_1,
    IndexedFile,
    Layout,
    LayoutError,
    parse_files,
    section_crc,
)
from dali_dr.shards.reading import PinnedFile

REMEDY: Final = "delete it, it is rebuilt from the shards"
_BATCH: Final = 4096  # keys that are decoded at a time
_SEARCHED: Final = 1 << 20  # bytes of key text that are searched at a time


class Keys(Sequence[str]):
    """The keys of all samples, read and decoded as they are asked for."""

    def __init__(self, index: SampleIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if not isinstance(item, slice):
            return self._index.key(item)
        start, stop, step = item.indices(len(self))
        if step == 1:
            return [key for at in range(start, stop, _BATCH) for key in self._index.keys_of(at, min(stop, at + _BATCH))]
        return [self._index.key(i) for i in range(start, stop, step)]

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self), _BATCH):
            yield from self._index.keys_of(at, min(len(self), at + _BATCH))

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
    """The index at ``path``, of version 1 or 2.

    Its descriptor stays open. What is read later is compared with what opening saw, so that an index that is cut off
    or overwritten in use is an error.

    Attributes:
      path: the file.
      version: of its format.
      labels: int32 (S,), read-only; every one is below ``num_classes``.
      keys: sequence of S keys, read from the file.
      files: the files that samples lie in.
      num_classes: labels are below it.
      num_outputs: teacher ids are below it; None in version 1, which does not say.
      has_sizes: whether entries know the height and width of their image; not in version 1.
      has_crcs: whether entries know the CRC-32C of their image.
      has_image_files: whether images may lie in other files than their records (a sidecar data set), in version 2.

    Raises:
      ShardError: if the file is missing, of another version, does not have its checksum, or its lengths or labels do
        not fit. The places in its entries are checked when they are used.
    """

    files: tuple[IndexedFile, ...]
    num_classes: int
    num_outputs: int | None
    has_crcs: bool
    has_image_files: bool

    def __init__(self, path: str | Path) -> None:
        self.path: Path = Path(path).absolute()  # others open it by this name later
        self._file = PinnedFile(self.path, REMEDY)
        try:
            self._layout = layout = Layout.parse(self._file.head(HEADER_BYTES))
            if layout.end != self._file.size:
                raise LayoutError(f"its lengths want {layout.end} bytes, it has {self._file.size}")
            self.labels: npt.NDArray[np.int32] = self._read_through()
            self.files, self._first = parse_files(
                self._file.read(layout.table_at, layout.end - layout.table_at), layout
            )
        except LayoutError as error:
            raise self._damaged(str(error)) from None
        self.version: int = layout.version
        self.checksum: int | None = layout.checksum
        self.num_classes, self.num_outputs = layout.num_classes, layout.num_outputs
        self.has_sizes: bool = layout.version > 1
        self.has_crcs, self.has_image_files = layout.crcs_at is not None, layout.files_at is not None
        self.keys: Keys = Keys(self)
        outside = (self.labels < 0) | (self.labels >= self.num_classes)
        if outside.any():
            number = int(np.argmax(outside))
            raise self._damaged(f"the label of sample {number} is {self.labels[number]} of {self.num_classes} classes")

    def __len__(self) -> int:
        return self._layout.samples

    def __reduce__(self) -> tuple[type[SampleIndex], tuple[Path]]:
        return SampleIndex, (self.path,)

    @property
    def entries(self) -> npt.NDArray[Any]:
        """(S,) structured array of ``ENTRY``, read anew each time; see `entries_of`."""
        return self.entries_of(0, len(self))

    def entries_of(self, start: int, stop: int) -> npt.NDArray[Any]:
        """The entries of samples ``start`` .. ``stop`` - 1 of ``ENTRY``, whose places were not checked."""
        layout, count = self._layout, stop - start
        raw = self._file.read(HEADER_BYTES + start * layout.stored.itemsize, count * layout.stored.itemsize)
        stored = np.frombuffer(raw, layout.stored, count)
        entries = np.zeros(count, ENTRY)
        for name in layout.stored.names or ():
            entries[name] = stored[name]
        if layout.stored != STORED_1:
            home = np.searchsorted(self._first, np.arange(start, stop), side="right") - 1
            entries["record_file"] = home
            entries["image_file"] = home if layout.files_at is None else self._column(layout.files_at, start, count)
        if layout.crcs_at is not None:
            entries["image_crc"] = self._column(layout.crcs_at, start, count)
        return entries

    def checked(self, number: int) -> int:
        """``number`` from 0 (negative: from the end). IndexError outside the index."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} is outside 0..{len(self) - 1} of {self.path}")
        return number % len(self)

    def entry(self, number: int) -> npt.NDArray[Any]:
        """The entry of sample ``number``, as a 0-d record of ``ENTRY`` whose places were checked."""
        number = self.checked(number)
        entry: npt.NDArray[Any] = self.entries_of(number, number + 1)[0]
        for kind in ("image", "record"):
            file, block, size = (int(entry[f"{kind}_{part}"]) for part in ("file", "block", "bytes"))
            if size == 0 and kind == "record":
                continue
            if file >= len(self.files) or not block or not size or block * tar.BLOCK + size > self.files[file].size:
                raise self._damaged(f"the {kind} of sample {number} ({self.key(number)}) lies outside its file")
        if self.has_sizes and not (entry["image_height"] and entry["image_width"]):
            raise self._damaged(f"the image of sample {number} ({self.key(number)}) has no height or no width")
        return entry

    def key(self, number: int) -> str:
        """The key of sample ``number`` (negative: from the end). IndexError outside the index."""
        number = self.checked(number)
        return self.keys_of(number, number + 1)[0]

    def keys_of(self, start: int, stop: int) -> list[str]:
        """The keys of samples ``start`` .. ``stop`` - 1."""
        offsets, text = self._keys_between(start, stop)
        ends = (offsets - offsets[0]).tolist()
        return [text[a:b].decode("utf-8", "replace") for a, b in itertools.pairwise(ends)]

    def position(self, key: str) -> int:
        """The sample number of ``key``, or -1. A search through all keys: about 15 ms in a million."""
        wanted = key.encode("utf-8", "surrogatepass")
        at, end = self._layout.keys_at, self._layout.table_at
        while wanted and at + len(wanted) <= end:
            text = self._file.read(at, min(_SEARCHED + len(wanted), end - at))
            place = -1
            while (place := text.find(wanted, place + 1)) >= 0:
                number = self._starting_at(at + place - self._layout.keys_at, len(wanted))
                if number >= 0:
                    return number
            at += _SEARCHED
        return -1

    def find(self, key: str) -> int:
        """The sample number of ``key``. KeyError if there is none."""
        number = self.position(key)
        if number < 0:
            raise KeyError(f"no sample {key!r} in {self.path}")
        return number

    def crc_of(self, start: int, stop: int, image_tars: int) -> int:
        """What ``index_crc32c`` of the shard with samples ``start`` .. ``stop`` - 1 must be; of version 2.

        Args:
          start, stop: its samples.
          image_tars: of the data set; they come last among the files.
        """
        layout, count = self._layout, stop - start
        width = layout.stored.itemsize
        stored = self._file.read(HEADER_BYTES + start * width, count * width)
        tars = None
        if image_tars and layout.files_at is not None:
            tars = self._column(layout.files_at, start, count) - np.uint32(len(self.files) - image_tars)
        offsets, text = self._keys_between(start, stop)
        return section_crc(stored, offsets[1:] - offsets[:-1], text, tars)

    def _read_through(self) -> npt.NDArray[np.int32]:
        """Check the checksum; the labels."""
        layout = self._layout
        width = layout.stored.itemsize
        at = HEADER_BYTES + (24 if layout.version == 1 else 16)  # of the next label
        labels, checksum = np.empty(layout.samples, np.int32), 0
        done = 0
        for start, piece in self._file.stream():
            if layout.checksum is not None:
                head = piece[:CHECKSUM_AT] + bytes(4) + piece[CHECKSUM_AT + 4 :] if start == 0 else piece
                checksum = google_crc32c.extend(checksum, head)
            if done < layout.samples:  # no label lies across two pieces: they are whole entries long
                here = min(layout.samples - done, -(-(start + len(piece) - at) // width))
                labels[done : done + here] = np.ndarray((here,), "<i4", piece, at - start, (width,))
                done, at = done + here, at + here * width
        if layout.checksum is not None and checksum != layout.checksum:
            raise LayoutError(f"its checksum is {checksum:08x}, its header says {layout.checksum:08x}")
        labels.flags.writeable = False
        return labels

    def _column(self, section: int, start: int, count: int) -> npt.NDArray[np.uint32]:
        return np.frombuffer(self._file.read(section + 4 * start, 4 * count), "<u4", count)

    def _keys_between(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], bytes]:
        """Offsets of the keys, with the end of the last one, and their text."""
        raw = self._file.read(self._layout.offsets_at + 8 * start, 8 * (stop - start + 1))
        offsets = np.frombuffer(raw, "<u8")
        end = self._layout.table_at - self._layout.keys_at
        if int(offsets[-1]) > end or (offsets[1:] < offsets[:-1]).any():
            raise self._damaged(f"the keys of samples {start} .. {stop - 1} lie outside its keys")
        begin = int(offsets[0])
        return offsets.astype(np.int64), self._file.read(self._layout.keys_at + begin, int(offsets[-1]) - begin)

    def _starting_at(self, offset: int, length: int) -> int:
        """The sample whose key lies at ``offset`` .. + ``length`` of the keys, or -1."""

        def begin(number: int) -> int:
            return int.from_bytes(self._file.read(self._layout.offsets_at + 8 * number, 8), "little")

        low, high = 0, len(self)
        while low < high:  # the first that begins there or later
            middle = (low + high) // 2
            low, high = (middle + 1, high) if begin(middle) < offset else (low, middle)
        return low if low < len(self) and begin(low) == offset and begin(low + 1) == offset + length else -1

    def _damaged(self, what: str) -> ShardError:
        return ShardError(f"{self.path}: not a sample index: {what}; {REMEDY}")
