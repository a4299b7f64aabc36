"""The bytes of index.bin, versions 1 and 2 (schemas/sample-index.md): header, entries, file table."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

INDEX_NAME: Final = "index.bin"
VERSION: Final = 2
MAX_LABEL: Final = 2**31 - 1  # labels are i32
MAGIC: Final = b"DDRINDEX"
HEADER_BYTES: Final = 64
CHECKSUM_AT: Final = 56
IMAGE_CRCS: Final = 1  # flags of version 2
IMAGE_FILES: Final = 2
_HEADER_1: Final = struct.Struct("<8sIIQQIIQQ8x")
_HEADER_2: Final = struct.Struct("<8sIIQIIIIQQI4x")
assert _HEADER_1.size == _HEADER_2.size == HEADER_BYTES

# What is known of a sample, whichever version and section it comes from.
ENTRY: Final = np.dtype(
    [
        ("image_file", "<u4"),
        ("image_block", "<u4"),
        ("image_bytes", "<u4"),
        ("record_file", "<u4"),
        ("record_block", "<u4"),
        ("record_bytes", "<u4"),
        ("label", "<i4"),
        ("image_height", "<u2"),  # of the image file's header; 0: version 1, which does not know it
        ("image_width", "<u2"),
        ("image_crc", "<u4"),  # CRC-32C; 0 where the index has none
    ]
)
STORED_1: Final = np.dtype([(name, ENTRY[name]) for name in (ENTRY.names or ())[:7]])
STORED_2: Final = np.dtype(
    [
        (name, ENTRY[name])
        for name in (
            "image_block",
            "image_bytes",
            "record_block",
            "record_bytes",
            "label",
            "image_height",
            "image_width",
        )
    ]
)
assert STORED_1.itemsize == 28 and STORED_2.itemsize == 24


class IndexedFile(NamedTuple):
    """A file that samples lie in: its name relative to the index's folder and its size in bytes."""

    name: str
    size: int


class LayoutError(ValueError):
    """Bytes that are no sample index; the message says why."""


@dataclass(frozen=True)
class Layout:
    """What a header says, and where the sections lie.

    Attributes:
      num_outputs: teacher ids are below it; None in version 1.
      checksum: None in version 1.
      crcs_at, files_at: of the optional sections; None where they are not.
      end: of the file.
    """

    version: int
    samples: int
    num_classes: int
    num_outputs: int | None
    files: int
    checksum: int | None
    stored: np.dtype[Any]
    crcs_at: int | None
    files_at: int | None
    offsets_at: int
    keys_at: int
    table_at: int
    end: int

    @property
    def entries_end(self) -> int:
        """Where the entries end."""
        return HEADER_BYTES + self.samples * self.stored.itemsize

    @classmethod
    def parse(cls, header: bytes) -> Layout:
        """Of the first 64 bytes of a file. LayoutError if they are no header that can be read here."""
        if len(header) < HEADER_BYTES:
            raise LayoutError("shorter than its header")
        if header[:8] != MAGIC:
            raise LayoutError("it does not start with DDRINDEX")
        (version,) = struct.unpack_from("<I", header, 8)
        outputs: int | None = None
        checksum: int | None = None
        if version == 1:
            _, _, header_bytes, samples, classes, files, flags, table, keys = _HEADER_1.unpack(header)
            known, reserved = 0, 0
        elif version == VERSION:
            _, _, header_bytes, samples, classes, outputs, files, flags, table, keys, checksum = _HEADER_2.unpack(
                header
            )
            known, reserved = IMAGE_CRCS | IMAGE_FILES, int.from_bytes(header[60:], "little")
        else:
            raise LayoutError(f"it is of version {version}, this dali_dr reads 1 and {VERSION}")
        if header_bytes != HEADER_BYTES or flags & ~known or reserved:
            raise LayoutError(f"a header of {header_bytes} bytes with flags {flags:#x} is not readable here")
        if not 0 < classes <= MAX_LABEL or (outputs is not None and not 0 < outputs <= MAX_LABEL):
            raise LayoutError(f"it has {classes} classes and {outputs} outputs, want 1..{MAX_LABEL}")
        stored = STORED_1 if version == 1 else STORED_2
        at = HEADER_BYTES + samples * stored.itemsize
        crcs_at = at if flags & IMAGE_CRCS else None
        at += 4 * samples if flags & IMAGE_CRCS else 0
        files_at = at if flags & IMAGE_FILES else None
        at += 4 * samples if flags & IMAGE_FILES else 0
        offsets_at = at + -at % 8
        keys_at = offsets_at + 8 * (samples + 1)
        table_at = keys_at + keys
        end = table_at + table
        return cls(
            version, samples, classes, outputs, files, checksum, stored, crcs_at, files_at, offsets_at, keys_at,
            table_at, end,
        )  # fmt: skip


def pack_header(
    *, samples: int, num_classes: int, num_outputs: int, files: int, flags: int, table_bytes: int, key_bytes: int
) -> bytes:
    """A header of version 2 whose checksum is 0."""
    return _HEADER_2.pack(
        MAGIC, VERSION, HEADER_BYTES, samples, num_classes, num_outputs, files, flags, table_bytes, key_bytes, 0
    )


def seal_header(header: bytes, rest: Sequence[bytes]) -> bytes:
    """``header`` with the checksum of it and ``rest``."""
    checksum = google_crc32c.value(header)
    for part in rest:
        checksum = google_crc32c.extend(checksum, part)
    return header[:CHECKSUM_AT] + struct.pack("<I", checksum) + header[CHECKSUM_AT + 4 :]


def pack_files(files: Sequence[IndexedFile], first: Sequence[int]) -> bytes:
    """The file table of version 2."""
    names = [file.name.encode() for file in files]
    return b"".join(
        struct.pack("<QQH", file.size, start, len(name)) + name
        for file, start, name in zip(files, first, names, strict=True)
    )


def parse_files(table: bytes, layout: Layout) -> tuple[tuple[IndexedFile, ...], npt.NDArray[np.int64]]:
    """The files and, of each, the first sample that lies in it (version 1: 0). LayoutError if it is damaged."""
    head = struct.Struct("<QH" if layout.version == 1 else "<QQH")
    if layout.files * head.size > len(table):
        raise LayoutError("its file table is cut off")
    files, first, at = [], [], 0
    for _ in range(layout.files):
        if at + head.size > len(table):
            raise LayoutError("its file table is cut off")
        size, *start, length = head.unpack_from(table, at)
        at += head.size
        name = table[at : at + length]
        at += length
        if at > len(table):
            raise LayoutError("its file table is cut off")
        if not name or 0 in name:
            raise LayoutError("a name in its file table is empty or holds a zero byte")
        files.append(IndexedFile(name.decode("utf-8", "replace"), size))
        first.append(start[0] if start else 0)
    if at != len(table):
        raise LayoutError("bytes follow its file table")
    rising = all(a <= b for a, b in zip([0, *first], [*first, layout.samples], strict=True))
    if not rising or (layout.samples and (not first or first[0] != 0)):
        raise LayoutError("the first samples in its file table do not rise from 0 to the number of samples")
    return tuple(files), np.array(first, np.int64)


def stored_entries(entries: npt.NDArray[Any]) -> bytes:
    """``entries`` of ``ENTRY`` as version 2 stores them."""
    stored = np.empty(len(entries), STORED_2)
    for name in STORED_2.names or ():
        stored[name] = entries[name]
    return stored.tobytes()


def section_crc(
    stored: bytes, lengths: npt.NDArray[Any], text: bytes, image_tars: npt.NDArray[Any] | None = None
) -> int:
    """CRC-32C of the samples of one shard, as `ShardInfo.index_crc32c` keeps it.

    Args:
      stored: `stored_entries`.
      lengths: of the keys in bytes.
      text: the keys, one after another.
      image_tars: of a sidecar data set: number in dataset.json's image_tars of each image's tar.
    """
    crc = google_crc32c.value(stored)
    if image_tars is not None:
        crc = google_crc32c.extend(crc, image_tars.astype("<u4").tobytes())
    crc = google_crc32c.extend(crc, lengths.astype("<u4").tobytes())
    return int(google_crc32c.extend(crc, text))
