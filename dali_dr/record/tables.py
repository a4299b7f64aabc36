"""The tables of a record's head: classes, operations and partners, which the columns of rows point into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dali_dr.augment.operations import OPERATIONS, outside_limits
from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER, Mix, Views
from dali_dr.record.checks import DAMAGED, check_rows, refuse
from dali_dr.record.columns import Columns
from dali_dr.record.labels import repeats
from dali_dr.record.layout import CLASS_BITS_AT, MAX_ENTRIES, PACKED_CLASSES, PARTNER_CLASSES, WIDE_CLASSES, Header

_INT32_MAX = np.iinfo(np.int32).max


def write_classes(ids: npt.NDArray[np.int32], mix: Mix | None) -> tuple[int, Columns, npt.NDArray[np.integer[Any]]]:
    """The class table, or class tables by partner where one would be large.

    Args:
      ids: (rows, K).
      mix: how the views are mixed: one for each row, or for each two.

    Returns:
      The flags WIDE_CLASSES and PARTNER_CLASSES, the columns, and each id's place in its table (rows, K).
    """
    classes, index = _most_frequent_first(ids)
    if len(classes) > MAX_ENTRIES:
        refuse("number of class table entries", len(classes), f"a record holds {MAX_ENTRIES}: store fewer views")
    flags = WIDE_CLASSES * bool(classes.max(initial=0) > 0xFFFF)
    if mix is not None and len(classes) > 256 and (grouped := _by_partner(mix, ids)) is not None:
        counts, gaps, index = grouped
        gap_bytes = gaps.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : 4 if flags else 2]
        return flags | PARTNER_CLASSES, {"class counts": counts, "class gaps": gap_bytes}, index
    if not len(classes):
        return flags, {"classes": classes}, index
    width = max(int(classes.max()).bit_length(), 1)
    bits = np.unpackbits(classes.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")[:, :width]
    return PACKED_CLASSES | width << CLASS_BITS_AT, {"packed classes": bits}, index


def _most_frequent_first(ids: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp]]:
    """Distinct ids (D,), most frequent first (equals: lower id first), and each id's place in them (N, K)."""
    table, index, counts = np.unique(ids.ravel(), return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return table[order], place[index].reshape(ids.shape)


def _by_partner(
    mix: Mix, ids: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Class tables of the views of each partner (ascending numbers) and of those without: what a mixed view may be.

    Returns:
      Classes per table; ascending ids as differences, table after table; each id's place in its table (N, K). None
      where these do not fit a record.
    """
    numbers = np.unique(mix.partner[mix.partner >= 0])
    group = np.where(mix.partner >= 0, np.searchsorted(numbers, mix.partner), len(numbers))
    group = np.repeat(group, len(ids) // len(group))
    keys, index = np.unique(group[:, None].astype(np.int64) << 32 | ids, return_inverse=True)
    counts = np.bincount(keys >> 32, minlength=len(numbers) + 1)
    if len(keys) > MAX_ENTRIES:
        return None
    starts = np.cumsum(counts) - counts
    classes = keys & 0xFFFFFFFF
    gaps = np.diff(classes, prepend=0)
    first = starts[counts > 0]
    gaps[first] = classes[first]
    return counts, gaps, index.reshape(ids.shape) - starts[group][:, None]


def write_operations(*parts: Views) -> tuple[Columns, list[npt.NDArray[np.intp]]]:
    """The columns of distinct pairs of operation and magnitude; of each part, the places in them (views, n)."""
    keys = []
    for views in parts:
        bits = np.ascontiguousarray(views.magnitudes).view(np.uint32)
        keys.append(views.ops.astype(np.uint64) << np.uint64(32) | bits)
    table, index = np.unique(np.concatenate([part.ravel() for part in keys]), return_inverse=True)
    if len(table) > MAX_ENTRIES:
        refuse("number of operation table entries", len(table), f"a record holds {MAX_ENTRIES}: store fewer views")
    columns = {"op ids": table >> np.uint64(32), "op magnitudes": table.astype(np.uint32).view(np.float32)}
    ends = np.cumsum([part.size for part in keys])[:-1]
    places = np.split(index, ends)
    return columns, [place.reshape(part.shape) for place, part in zip(places, keys, strict=True)]


def write_partners(mix: Mix | None) -> npt.NDArray[np.int32]:
    """The partner table: ascending sample numbers; empty where each partner is the image itself, or there is none."""
    numbers = np.zeros(0, np.int32) if mix is None else mix.partner[mix.partner != NO_PARTNER]
    own = numbers == SELF_PARTNER
    if own.any() and not own.all():
        refuse("partner", "the image itself in some views", "want it in all mixed views or in none")
    table = np.unique(numbers[~own])
    if len(table) > MAX_ENTRIES:
        refuse("number of partners", len(table), f"a record holds {MAX_ENTRIES}: store fewer views")
    return table


def largest_class_table(counts: npt.NDArray[np.uint16], class_entries: int) -> int:
    """Entries of the largest class table; RecordError unless the class counts add up."""
    if (total := int(counts.sum(dtype=np.int64))) != class_entries:
        refuse("sum of the class counts", total, f"want class_entries = {class_entries}: {DAMAGED}")
    return int(counts.max())


@dataclass(frozen=True)
class Tables:
    """The tables of a record that is read.

    Attributes:
      classes: class ids (D,), of all tables.
      class_starts: int64 (tables + 1,): where in ``classes`` each table starts, and the end.
      op_ids: uint8 (M,).
      op_magnitudes: float32 (M,).
      partners: sample numbers (P,).
    """

    classes: npt.NDArray[Any]
    class_starts: npt.NDArray[np.int64]
    op_ids: npt.NDArray[np.uint8]
    op_magnitudes: npt.NDArray[np.float32]
    partners: npt.NDArray[np.int32]

    @classmethod
    def read(cls, head: Columns, header: Header) -> Self:
        """The tables in the columns of the head; RecordError for the first value that is wrong."""
        op_ids, op_magnitudes, partners = head["op ids"], head["op magnitudes"], head["partner table"]
        by_partner = bool(header.flags & PARTNER_CLASSES)
        if by_partner:
            starts = np.concatenate([[0], np.cumsum(head["class counts"], dtype=np.int64)])
            classes = _from_gaps(starts, head["class gaps"])
        else:
            starts = np.array([0, header.class_entries])
            classes = _from_bits(head["packed classes"]) if header.flags & PACKED_CLASSES else head["classes"]
        check_rows(classes > _INT32_MAX, "class id", classes, "want below 2**31")
        if not by_partner:
            check_rows(repeats(classes[None]), "class table", classes[None], "want distinct ids")
        check_rows(op_ids >= len(OPERATIONS), "operation", op_ids, f"want 0..{len(OPERATIONS) - 1}")
        check_rows(~np.isfinite(op_magnitudes), "operation magnitude", op_magnitudes, "want a finite number")
        impossible = outside_limits(op_ids, op_magnitudes)
        check_rows(impossible, "operation magnitude", op_magnitudes, "want one that its operation can have")
        check_rows(partners > _INT32_MAX, "partner", partners, "want below 2**31")
        return cls(classes, starts, op_ids, op_magnitudes.astype(np.float32, copy=False), partners.astype(np.int32))

    def class_ids(
        self, index: npt.NDArray[np.integer[Any]], table: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.int32]:
        """int32 (rows, K): the ids at ``index`` (rows, K) of each row's table (rows,)."""
        entries = index + self.class_starts[table][:, None]
        unknown = entries >= self.class_starts[table + 1][:, None]
        check_rows(unknown, "class table entries", entries, "want them below the number of entries")
        ids = np.ascontiguousarray(self.classes[entries].astype(np.int32))
        check_rows(repeats(ids), "class table entries", entries, "want distinct classes")
        return ids

    def operations(self, index: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Operations and magnitudes, of the shape of ``index``: (views, n)."""
        check_rows(index >= len(self.op_ids), "operation table entries", index, f"want below {len(self.op_ids)}")
        return self.op_ids[index], self.op_magnitudes[index]


def _from_bits(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The classes (entries,) of bits (entries, at most 31), lowest first."""
    return bits.astype(np.int64) @ (np.int64(1) << np.arange(bits.shape[1], dtype=np.int64))


def _from_gaps(starts: npt.NDArray[np.int64], gap_bytes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The classes of all tables (entries,), from the bytes of their differences (entries, 2 or 4)."""
    gaps = np.zeros(len(gap_bytes), np.int64)
    for place, plane in enumerate(gap_bytes.T):
        gaps |= plane.astype(np.int64) << (8 * place)
    counts, starts = np.diff(starts), starts[:-1]
    first = np.zeros(len(gaps), np.bool_)
    first[starts[counts > 0]] = True
    check_rows((gaps == 0) & ~first, "class gap", gaps, "want distinct classes")
    total = np.cumsum(gaps)
    before = np.repeat(total[np.minimum(starts, len(gaps) - 1)] - gaps[np.minimum(starts, len(gaps) - 1)], counts)
    return np.asarray(total - before)
