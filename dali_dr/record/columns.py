"""Columns of a record, from and to bytes, as the tables of `layout` describe them.

Columns in memory are arrays by name: (entries,) where the table says a width of 1, else (entries, width).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_dr.record.checks import DAMAGED, refuse
from dali_dr.record.layout import BIT, Column, Header, group_columns

Columns = dict[str, npt.NDArray[Any]]


class ColumnReader:
    """Cuts columns off a part of a record, in order."""

    def __init__(self, part: bytes, offset: int = 0) -> None:
        self._part = part
        self._offset = offset

    def take(self, columns: Iterable[Column], header: Header, rows: int = 0) -> Columns:
        """The columns for so many rows; RecordError where the part ends too early."""
        out: Columns = {}
        counts = {"views": header.drawn(rows), "rows": rows}
        for column in columns:
            if (entries := counts.get(column.entries, -1)) < 0:
                bits = out.get(column.entries)
                entries = getattr(header, column.entries) if bits is None else int(np.count_nonzero(bits))
                counts[column.entries] = entries
            width = column.width if isinstance(column.width, int) else getattr(header, column.width)
            if column.type == BIT:
                flat = self._bits(column.name, entries * width)
            else:
                dtype = getattr(header, column.type, column.type)
                flat = self._elements(column.name, dtype, entries * width)
            if column.width == 1:
                out[column.name] = flat
            elif column.by_rank:
                out[column.name] = flat.reshape(width, entries).T
            else:
                out[column.name] = flat.reshape(entries, width)
        return out

    def finish(self) -> None:
        """RecordError if anything is left of the part."""
        if self._offset != len(self._part):
            have = f"but its columns end at byte {self._offset}: {DAMAGED}"
            refuse("length of a part of the record", f"{len(self._part)} bytes", have)

    def _elements(self, name: str, dtype: str, count: int) -> npt.NDArray[Any]:
        end = self._offset + count * np.dtype(dtype).itemsize
        if end > len(self._part):
            have = f"but this part of the record has {len(self._part)} bytes: {DAMAGED}"
            refuse(f"end of column {name}", f"byte {end}", have)
        elements = np.frombuffer(self._part, dtype, count, self._offset)
        self._offset = end
        return elements

    def _bits(self, name: str, count: int) -> npt.NDArray[np.bool_]:
        bits = np.unpackbits(self._elements(name, "u1", (count + 7) // 8), bitorder="little")
        if bits[count:].any():
            refuse(f"last byte of column {name}", f"{bits[-8:]}", f"want its unused bits zero: {DAMAGED}")
        return bits[:count].view(np.bool_)


def write_columns(
    columns: Iterable[Column], header: Header, values: Mapping[str, npt.NDArray[Any]]
) -> dict[str, bytes]:
    """The bytes of each column, in order; the inverse of `ColumnReader.take`."""
    out = {}
    for column in columns:
        value = values[column.name]
        if column.type == BIT:
            typed = np.packbits(value, bitorder="little")
        else:
            typed = value.astype(getattr(header, column.type, column.type))
        out[column.name] = (typed.T if column.by_rank else typed).tobytes()
    return out


def cut_group(values: Columns, header: Header, rows: range) -> Columns:
    """The columns of one group of rows, of those of all rows."""
    places = {
        "rows": slice(rows.start, rows.stop),
        "views": slice(header.drawn(rows.start), header.drawn(rows.stop)),
    }
    place_of: dict[str, slice] = {}
    for column in group_columns(header.flags):
        if column.entries not in places:
            bits, place = values[column.entries], place_of[column.entries]
            first = int(np.count_nonzero(bits[: place.start]))
            places[column.entries] = slice(first, first + int(np.count_nonzero(bits[place])))
        place_of[column.name] = places[column.entries]
    return {name: values[name][place] for name, place in place_of.items()}


def join_groups(groups: list[Columns]) -> Columns:
    """The inverse of `cut_group`: the columns of all rows."""
    if len(groups) == 1:
        return groups[0]
    return {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}
