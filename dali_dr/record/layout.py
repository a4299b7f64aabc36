"""The layout of a record, versions 1 and 2: schemas/reinforcement-record.md as numbers and tables, said once."""

from __future__ import annotations

import functools
import struct
import sys
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from dali_dr.augment.views import MAX_SIDE
from dali_dr.choices import Probabilities as Probabilities
from dali_dr.record.checks import DAMAGED, UPDATE, refuse
from dali_dr.record.rootprobs import MAX_ROOT_STEP, MIN_ROOT_STEP

ENCODINGS: Final[tuple[Probabilities, ...]] = ("float32", "float16", "log8", "root8")  # by their number in the header
LOG8: Final = ENCODINGS.index("log8")
ROOT8: Final = ENCODINGS.index("root8")  # since version 2

MAGIC: Final = b"drrc"
VERSION: Final = 2  # that is written
FIRST_VERSION: Final = 1  # that is read
HEADER_BYTES: Final = 52
MAX_VIEWS: Final = 65536
MAX_OPS: Final = 16
MAX_ENTRIES: Final = 0xFFFF  # of any table, and classes per view
MAX_RECORD_BYTES: Final = 64 << 20
WEIGHT_STEPS: Final = 1 << 16  # MixUp weights in two bytes are multiples of 1 / this

FLIP, ERASE, WIDE_CLASSES, MIXING, WIDE_WEIGHTS, DOUBLE, PARTNER_CLASSES = (1 << bit for bit in range(7))
PACKED_CLASSES: Final = 128  # since version 2
OWN_MIXES: Final = 256  # since data sets of format version 5; readers of records before it refuse the bit
CLASS_BITS_AT: Final = 24  # bits 24 to 28 of the flags: bits of a packed class id
_FIRST_FLAGS: Final = 127  # of version 1
_ALL_FLAGS: Final = 511 | 31 << CLASS_BITS_AT


def narrow(value: int, limit: int) -> str:
    """The u8 column type if ``value`` is at most ``limit``, else u16."""
    return "u1" if value <= limit else "<u2"


def side_bits(length: int) -> int:
    """Bits that hold the number of any box on an axis of ``length`` pixels."""
    return (length * (length + 1) // 2 - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header's fields, by the names in the schema and in its order; and what follows from them.

    Attributes:
      largest_table: entries of the largest class table. Not stored: the class counts give it with PARTNER_CLASSES,
        and else it is ``class_entries``.
    """

    magic: bytes = MAGIC
    version: int = VERSION
    header_bytes: int = HEADER_BYTES
    record_bytes: int = 0
    flags: int
    views: int
    image_height: int
    image_width: int
    view_height: int
    view_width: int
    num_ops: int
    op_entries: int
    topk: int
    class_entries: int
    probability_encoding: int
    pair_rank: int = 0
    partner_entries: int
    log_step: float
    group_rows: int
    largest_table: int

    @classmethod
    def read(cls, head: bytes) -> Self:
        """The header with which ``head`` begins, as it is; RecordError where that is too short."""
        if len(head) < HEADER_BYTES:
            refuse("record size", f"{len(head)} bytes", f"want {HEADER_BYTES} or more: {DAMAGED}")
        values: dict[str, Any] = dict(zip(_STORED, _STRUCT.unpack_from(head), strict=True))
        return cls(**values, largest_table=values["class_entries"])

    def pack(self) -> bytes:
        """The inverse of ``read``."""
        return _STRUCT.pack(*(getattr(self, name) for name in _STORED))

    def check(self, available: int) -> None:
        """RecordError for the first field that the schema refuses; ``available``: the record's bytes."""
        if self.magic != MAGIC:
            refuse("magic", repr(self.magic), f"want {MAGIC!r}: this is not a reinforcement record")
        log8, root8 = self.probability_encoding == LOG8, self.probability_encoding == ROOT8
        step = (sys.float_info.min, sys.float_info.max) if log8 else (MIN_ROOT_STEP, MAX_ROOT_STEP) if root8 else (0, 0)
        for name, low, high, advice in (
            ("version", FIRST_VERSION, VERSION, UPDATE),
            ("header_bytes", HEADER_BYTES, HEADER_BYTES, UPDATE),
            ("probability_encoding", 0, ROOT8 if self.version > 1 else LOG8, UPDATE),
            ("record_bytes", available, available, DAMAGED),
            ("views", 1, MAX_VIEWS, DAMAGED),
            ("image_height", 1, MAX_SIDE, DAMAGED),
            ("image_width", 1, MAX_SIDE, DAMAGED),
            ("view_height", 1, MAX_SIDE, DAMAGED),
            ("view_width", 1, MAX_SIDE, DAMAGED),
            ("num_ops", 0, MAX_OPS, DAMAGED),
            ("op_entries", min(self.num_ops, 1), MAX_ENTRIES * min(self.num_ops, 1), DAMAGED),
            ("class_entries", self.topk, MAX_ENTRIES * min(self.topk, 1), DAMAGED),
            ("pair_rank", 0, max(self.topk - 1, 0) if root8 else 0, UPDATE),
            ("partner_entries", 0, MAX_ENTRIES * bool(self.flags & MIXING), UPDATE),
            ("group_rows", 1, self.views, DAMAGED),
            ("log_step", *step, DAMAGED),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                refuse(name, value, f"want {low}" + (f"..{high}" if low != high else "") + f": {advice}")
        if self.flags & ~(_ALL_FLAGS if self.version > 1 else _FIRST_FLAGS):
            refuse("flags", self.flags, f"want no unknown bits: {UPDATE}")
        packed = bool(self.flags & PACKED_CLASSES)
        if packed != bool(self.class_bits) or (packed and (not self.topk or self.flags & PARTNER_CLASSES)):
            refuse("flags", self.flags, f"want bits 24 to 28 with PACKED_CLASSES, of one class table: {DAMAGED}")
        if self.flags & (WIDE_WEIGHTS | DOUBLE | PARTNER_CLASSES) and not self.flags & MIXING:
            refuse("flags", self.flags, f"want bits 4 to 6 with MIXING only: {UPDATE}")
        if self.flags & OWN_MIXES and not self.flags & DOUBLE:
            refuse("flags", self.flags, f"want OWN_MIXES with DOUBLE only: {DAMAGED}")
        if self.flags & PARTNER_CLASSES and not self.topk:
            refuse("flags", self.flags, f"want PARTNER_CLASSES with predictions only: {DAMAGED}")
        for name in ("views", "group_rows"):
            if self.flags & DOUBLE and getattr(self, name) % 2:
                refuse(name, getattr(self, name), f"want an even number with DOUBLE: {DAMAGED}")

    @property
    def view_size(self) -> tuple[int, int]:
        """(height, width) at which erase and CutMix boxes are given."""
        return self.view_height, self.view_width

    @property
    def groups(self) -> list[range]:
        """The rows of each group."""
        starts = range(0, self.views, self.group_rows)
        return [range(start, min(start + self.group_rows, self.views)) for start in starts]

    def drawn(self, rows: int) -> int:
        """How many views share the parameters of so many rows: half as many with DOUBLE."""
        return rows // 2 if self.flags & DOUBLE else rows

    # What the tables of columns below refer to.

    @property
    def crop_bits(self) -> int:
        return side_bits(self.image_height) + side_bits(self.image_width)

    @property
    def class_tables(self) -> int:
        """With PARTNER_CLASSES: one for each partner, one for views without."""
        return self.partner_entries + 1

    @property
    def class_bits(self) -> int:
        return self.flags >> CLASS_BITS_AT & 31

    @property
    def class_bytes(self) -> int:
        return 4 if self.flags & WIDE_CLASSES else 2

    @property
    def class_type(self) -> str:
        return f"<u{self.class_bytes}"

    @property
    def class_index_type(self) -> str:
        return narrow(self.largest_table, 256)

    @property
    def op_index_type(self) -> str:
        return narrow(self.op_entries, 256)

    @property
    def edge_type(self) -> str:
        return narrow(max(self.view_size), 255)

    @property
    def probability_type(self) -> str:
        return ("<f4", "<f2", "u1", "u1")[self.probability_encoding]

    @property
    def probability_width(self) -> int:
        """Elements per row: one for each rank, but for the root code."""
        if self.probability_encoding != ROOT8 or not self.topk:
            return self.topk
        return self.pair_rank + 1 + (self.topk - self.pair_rank + 1) // 2 if self.pair_rank else self.topk + 1

    @property
    def weight_type(self) -> str:
        return "<f4" if self.flags & WIDE_WEIGHTS else "<u2"

    @property
    def partner_index_type(self) -> str:
        return narrow(self.partner_entries, 256)

    @property
    def has_partner_table(self) -> int:
        """0 where every partner is the image itself, else 1."""
        return min(self.partner_entries, 1)


_STRUCT: Final = struct.Struct("<4sHHIIIIIHHHHHHBBHfI")
_STORED: Final = tuple(f.name for f in fields(Header) if f.name != "largest_table")
assert _STRUCT.size == HEADER_BYTES


@dataclass(frozen=True)
class Column:
    """A row of the schema's tables of columns.

    Attributes:
      name: of the column, in messages too.
      type: NumPy type of an element or the header's property that gives it; "bit": bits, first in the lowest bit.
      width: elements per entry or the header's field that says how many.
      entries: how many: "rows", "views" (half of the rows with DOUBLE), a field of the header, or an earlier column
        of bits: as many as are set there.
      by_rank: the first elements of all entries come first, then all second ones, ...; else entry after entry.
      flag: of the header, with which the column is there; 0: always.
      unless: flag with which it is not.
    """

    name: str
    type: str
    width: str | int
    entries: str
    by_rank: bool = False
    flag: int = 0
    unless: int = 0


BIT: Final = "bit"

_HEAD: Final = (
    Column("class counts", "<u2", 1, "class_tables", flag=PARTNER_CLASSES),
    Column("class gaps", "u1", "class_bytes", "class_entries", by_rank=True, flag=PARTNER_CLASSES),
    Column("classes", "class_type", 1, "class_entries", unless=PARTNER_CLASSES | PACKED_CLASSES),
    Column("packed classes", BIT, "class_bits", "class_entries", flag=PACKED_CLASSES),
    Column("op ids", "u1", 1, "op_entries"),
    Column("op magnitudes", "<f4", 1, "op_entries"),
    Column("partner table", "<u4", 1, "partner_entries"),
)
_GROUP: Final = (
    Column("crops", BIT, "crop_bits", "views"),
    Column("flips", BIT, 1, "views", flag=FLIP),
    Column("erased", BIT, 1, "views", flag=ERASE),
    Column("erase boxes", "edge_type", 4, "erased", flag=ERASE),
    Column("ops", "op_index_type", "num_ops", "views", by_rank=True),
    Column("class indices", "class_index_type", "topk", "rows", by_rank=True),
    Column("probabilities", "probability_type", "probability_width", "rows", by_rank=True),
    Column("partnered", BIT, 1, "views", flag=MIXING),
    Column("mixups", BIT, 1, "partnered", flag=MIXING, unless=OWN_MIXES),
    Column("mixups", BIT, 1, "rows", flag=MIXING | OWN_MIXES),
    Column("cutmixes", BIT, 1, "partnered", flag=MIXING, unless=OWN_MIXES),
    Column("cutmixes", BIT, 1, "rows", flag=MIXING | OWN_MIXES),
    Column("partner flips", BIT, 1, "partnered", flag=MIXING),
    Column("partner erased", BIT, 1, "partnered", flag=MIXING),
    Column("mixup weights", "weight_type", 1, "mixups", flag=MIXING),
    Column("partner crops, low bytes", "u1", 4, "partnered", by_rank=True, flag=MIXING),
    Column("partners", "partner_index_type", "has_partner_table", "partnered", flag=MIXING),
    Column("partner crops, high bytes", "u1", 4, "partnered", by_rank=True, flag=MIXING),
    Column("cutmix boxes", "edge_type", 4, "cutmixes", by_rank=True, flag=MIXING),
    Column("partner erase boxes", "edge_type", 4, "partner erased", flag=MIXING),
    Column("partner ops", "op_index_type", "num_ops", "partnered", by_rank=True, flag=MIXING),
)


@functools.cache
def head_columns(flags: int) -> tuple[Column, ...]:
    """The columns of the head of records with these flags, in order."""
    return _with_flags(_HEAD, flags)


@functools.cache
def group_columns(flags: int) -> tuple[Column, ...]:
    """The columns of each group of rows of records with these flags, in order."""
    return _with_flags(_GROUP, flags)


def _with_flags(columns: tuple[Column, ...], flags: int) -> tuple[Column, ...]:
    return tuple(column for column in columns if flags & column.flag == column.flag and not flags & column.unless)
