"""`decode`: a member's bytes as one image's reinforcements."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dali_dr.record.checks import DAMAGED, check_rows, refuse
from dali_dr.record.columns import ColumnReader, Columns, join_groups
from dali_dr.record.frames import check_checksums, decompress, split
from dali_dr.record.labels import Reinforcements
from dali_dr.record.layout import (
    DOUBLE,
    ENCODINGS,
    HEADER_BYTES,
    LOG8,
    MIXING,
    OWN_MIXES,
    PARTNER_CLASSES,
    Header,
    Probabilities,
    group_columns,
    head_columns,
)
from dali_dr.record.mixes import class_tables_of, read_mix, read_own
from dali_dr.record.rows import read_probabilities, read_views
from dali_dr.record.tables import Tables, largest_class_table


@dataclass(frozen=True)
class Record:
    """A decoded record.

    Attributes:
      reinforcements: the N views and their predictions, in stored order.
      image_height, image_width: source image in pixels, EXIF orientation not applied.
      view_size: (height, width) in pixels at which erase boxes and translations are given.
      probabilities: how probabilities are stored: "root8", "log8", "float16" or "float32".
      log_step: nats per unit of the logarithmic code, as float32 holds it; 0 for the other encodings.
    """

    reinforcements: Reinforcements
    image_height: int
    image_width: int
    view_size: tuple[int, int]
    probabilities: Probabilities
    log_step: float


def decode(member: bytes, *, num_outputs: int | None = None) -> Record:
    """The record in a member's zstd frames, checked for all that `Reinforcements.validate` checks but the sums.

    Args:
      member: the bytes of KEY.dr.zst.
      num_outputs: of the teacher: class ids are below it; None: not known.

    Raises:
      RecordError: naming the field that is wrong, its value, and what to do. Bytes raise nothing else.
    """
    frames = split(member)
    parts = [decompress(frame) for frame in frames]
    header = Header.read(parts[0])
    header.check(sum(map(len, parts)))
    check_checksums(frames, header.version)
    header, head, columns = _take_columns(parts, header)
    tables = Tables.read(head, header)
    views = read_views(columns, header, tables)
    if header.flags & MIXING:
        views = replace(views, mix=read_mix(columns, header, tables))
    table_of = class_tables_of(columns, header) if header.flags & PARTNER_CLASSES else np.zeros(len(views), np.int64)
    if header.flags & DOUBLE:
        views, table_of = views.take(np.repeat(np.arange(len(views)), 2)), np.repeat(table_of, 2)
        assert views.mix is not None
        views.mix.swapped[1::2] = True
        if header.flags & OWN_MIXES:
            views.mix.lam[:], views.mix.cut[:] = read_own(columns, header)
    soft_ids = tables.class_ids(columns["class indices"], table_of)
    if num_outputs is not None:
        check_rows(soft_ids >= num_outputs, "class id", soft_ids, f"want below {num_outputs}, the teacher's outputs")
    return Record(
        Reinforcements.from_views(views, soft_ids, read_probabilities(columns, header)),
        header.image_height,
        header.image_width,
        header.view_size,
        ENCODINGS[header.probability_encoding],
        header.log_step if header.probability_encoding == LOG8 else 0.0,
    )


def _take_columns(parts: list[bytes], header: Header) -> tuple[Header, Columns, Columns]:
    """The header with the size of its largest class table, the columns of the head, and those of all rows."""
    groups = header.groups
    if len(parts) != (frames := 1 if len(groups) == 1 else 1 + len(groups)):
        refuse("number of zstd frames", len(parts), f"want {frames} for {len(groups)} groups of rows: {DAMAGED}")
    reader = ColumnReader(parts[0], HEADER_BYTES)
    head = reader.take(head_columns(header.flags), header)
    if header.flags & PARTNER_CLASSES:
        header = replace(header, largest_table=largest_class_table(head["class counts"], header.class_entries))
    readers = [reader]
    if len(groups) > 1:
        reader.finish()
        readers = [ColumnReader(part) for part in parts[1:]]
    columns = []
    for reader, rows in zip(readers, groups, strict=True):
        columns.append(reader.take(group_columns(header.flags), header, len(rows)))
        reader.finish()
    return header, head, join_groups(columns)
