"""`encode`: one image's reinforcements as the bytes of a member KEY.dr.zst, see schemas/reinforcement-record.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from dali_dr.augment.views import MAX_SIDE, NO_PARTNER, VIEW_COLUMNS, Views
from dali_dr.errors import RecordError
from dali_dr.record.checks import refuse
from dali_dr.record.columns import cut_group, write_columns
from dali_dr.record.frames import compress
from dali_dr.record.labels import Reinforcements
from dali_dr.record.layout import (
    ENCODINGS,
    HEADER_BYTES,
    LOG8,
    MAX_ENTRIES,
    MAX_OPS,
    MAX_RECORD_BYTES,
    MAX_VIEWS,
    MIXING,
    ROOT8,
    Header,
    Probabilities,
    group_columns,
    head_columns,
)
from dali_dr.record.logprobs import DEFAULT_LOG_STEP, MAX_LOG_STEP, MIN_LOG_STEP
from dali_dr.record.mixes import mix_flags, write_mix
from dali_dr.record.rootprobs import root_step
from dali_dr.record.rows import view_flags, write_probabilities, write_views
from dali_dr.record.tables import write_classes, write_operations, write_partners

# A record of unmixed views has as many groups of rows as hold this many: 4 at N = 400, see `frames.compress`.
_MIN_GROUP_ROWS: Final = 100

# The columns with which a zstd block begins, see `frames.compress`; more and smaller ones pay where predictions vary
# more, as those of mixed views do. What hardly compresses is together (from "partnered" on).
_HEAD_BLOCKS: Final = frozenset({"partner table"})
_LOG8_BLOCKS: Final = frozenset({"ops"})
_FLOAT_BLOCKS: Final = frozenset({"ops", "probabilities"})
_MIXED_BLOCKS: Final = frozenset(
    {
        "ops", "class indices", "probabilities", "partnered", "partners", "partner crops, high bytes",
        "cutmix boxes", "partner erase boxes", "partner ops",
    }
)  # fmt: skip
# Ranks with which a block begins within the probabilities. Of unmixed views, the first three columns of codes share
# one with operations and class indices.
_LOG8_RANKS: Final = (3,)
_ROOT8_RANKS: Final = (1,)
_MIXED_RANKS: Final = (1, 2, 4)


def encode(
    reinforcements: Reinforcements,
    *,
    image_height: int,
    image_width: int,
    view_size: tuple[int, int],
    probabilities: Probabilities = "root8",
    log_step: float = DEFAULT_LOG_STEP,
    group_rows: int | None = None,
) -> bytes:
    """One image's reinforcements as zstd frames, one after another.

    Rows keep their order (see `labels.order_by_confidence`); within a row, classes are put in order of
    falling probability if they are not (equals keep their order). Equal input gives equal bytes. Mixed views:
    partners are all the image itself, or none is; pairs of a double-mix are rows 2i and 2i + 1.

    Args:
      reinforcements: 1..65536 views.
      image_height, image_width: the source image in pixels (1..65535), EXIF orientation not applied.
      view_size: (height, width) in pixels (1..65535) at which erase boxes and translations are given.
      probabilities: "root8", square roots in equal steps: the smallest, at a mean KL(original || stored) of about
        9e-4 nats with 10 to 360 classes, less with fewer and 2e-3 with 1000 (see `rootprobs.root_step`); "log8", one
        byte per class, off by a factor of at most exp(log_step / 2) before classes and rest are scaled to sum to 1;
        "float16"; or "float32" (lossless).
      log_step: nats per unit of "log8", 0.1..1, which the others ignore; KL(original || stored) of a view is at most
        log_step**2 / 8, and about log_step**2 / 24 for flat predictions, less for confident ones.
      group_rows: rows per group (1..N, even for double-mixes), which only sizes and reading times depend on;
        None: what serves best.

    Raises:
      RecordError: the reinforcements do not fit the image, the view or the format.
    """
    _check_arguments(reinforcements, image_height, image_width, view_size, probabilities, log_step)
    reinforcements = _sort_classes(reinforcements)
    try:
        reinforcements.validate(image_height, image_width, max(view_size))
    except ValueError as error:
        raise RecordError(f"these reinforcements cannot be stored: {error}") from error
    double = reinforcements.mix is not None and reinforcements.mix.double
    drawn = _first_of_pairs(reinforcements) if double else reinforcements
    mix = drawn.mix
    group_rows = _group_rows(reinforcements, group_rows)
    _check_boxes(reinforcements, view_size)

    partners = [] if mix is None else [mix.views.take(mix.partner != NO_PARTNER)]
    op_columns, (own_ops, *partner_ops) = write_operations(drawn, *partners)
    class_flags, class_columns, class_index = write_classes(reinforcements.soft_ids, mix)
    partner_table = write_partners(mix)
    head = class_columns | op_columns | {"partner table": partner_table}
    flags = view_flags(drawn) | mix_flags(reinforcements.mix) | class_flags
    encoding = ENCODINGS.index(probabilities)
    step = {ROOT8: root_step(reinforcements.topk), LOG8: float(np.float32(log_step))}.get(encoding, 0.0)
    stored_probs, pair_rank = write_probabilities(reinforcements.soft_probs, encoding, step)
    header = Header(
        flags=flags,
        views=len(reinforcements),
        image_height=image_height,
        image_width=image_width,
        view_height=view_size[0],
        view_width=view_size[1],
        num_ops=drawn.num_ops,
        op_entries=len(op_columns["op ids"]),
        topk=reinforcements.topk,
        class_entries=len(next(reversed(class_columns.values()))),
        probability_encoding=encoding,
        pair_rank=pair_rank,
        partner_entries=len(partner_table),
        log_step=step,
        group_rows=group_rows,
        largest_table=int(class_index.max(initial=-1)) + 1,
    )
    columns = write_views(drawn, own_ops, header)
    columns |= {"class indices": class_index, "probabilities": stored_probs}
    if mix is not None and reinforcements.mix is not None:
        columns |= write_mix(mix, reinforcements.mix, partner_ops[0], partner_table, header)
    stored = group_columns(flags)
    groups = [write_columns(stored, header, cut_group(columns, header, rows)) for rows in header.groups]
    return _member(header, write_columns(head_columns(flags), header, head), groups)


def _member(header: Header, head: dict[str, bytes], groups: list[dict[str, bytes]]) -> bytes:
    """The zstd frames of a record, of the bytes of its columns."""
    record_bytes = HEADER_BYTES + sum(len(column) for part in (head, *groups) for column in part.values())
    if record_bytes > MAX_RECORD_BYTES:
        refuse("record size", f"{record_bytes} bytes", f"want at most {MAX_RECORD_BYTES}: store fewer views")
    head = {"header": replace(header, record_bytes=record_bytes).pack(), **head}
    if len(groups) == 1:
        return compress([*_blocks(head, _HEAD_BLOCKS), *_group_blocks(groups[0], header)])
    frames = [compress(_group_blocks(group, header)) for group in groups]
    return b"".join([compress([b"".join(head.values())], literal=True), *frames])


def _group_blocks(columns: dict[str, bytes], header: Header) -> list[bytes]:
    """The columns of a group as zstd blocks."""
    rank = len(columns["probabilities"]) // max(header.probability_width, 1)  # bytes
    if header.flags & MIXING:
        within = {
            "probabilities": [rank * r for r in _MIXED_RANKS],
            "cutmix boxes": [len(columns["cutmix boxes"]) // 2],
        }
        return _blocks(columns, _MIXED_BLOCKS, within)
    if header.probability_encoding in (LOG8, ROOT8):
        ranks = _LOG8_RANKS if header.probability_encoding == LOG8 else _ROOT8_RANKS
        return _blocks(columns, _LOG8_BLOCKS, {"probabilities": [rank * r for r in ranks]})
    return _blocks(columns, _FLOAT_BLOCKS)


def _blocks(
    columns: dict[str, bytes], begins: frozenset[str], within: dict[str, list[int]] | None = None
) -> list[bytes]:
    """``columns``, one after another, cut before those named in ``begins`` and at the bytes ``within`` a column."""
    blocks = [b""]
    for name, column in columns.items():
        if name in begins:
            blocks.append(b"")
        start = 0
        for end in (within or {}).get(name, ()):
            blocks[-1] += column[start:end]
            blocks.append(b"")
            start = end
        blocks[-1] += column[start:]
    return blocks


def _check_arguments(
    reinforcements: Reinforcements,
    image_height: int,
    image_width: int,
    view_size: tuple[int, int],
    probabilities: str,
    log_step: float,
) -> None:
    if probabilities not in ENCODINGS:
        refuse("probabilities", repr(probabilities), f"want one of {', '.join(ENCODINGS)}")
    for name, value, low, high in (
        ("number of views", len(reinforcements), 1, MAX_VIEWS),
        ("image height", image_height, 1, MAX_SIDE),
        ("image width", image_width, 1, MAX_SIDE),
        ("view height", view_size[0], 1, MAX_SIDE),
        ("view width", view_size[1], 1, MAX_SIDE),
        ("number of operations per view", reinforcements.num_ops, 0, MAX_OPS),
        ("number of classes per view", reinforcements.topk, 0, MAX_ENTRIES),
    ):
        if not low <= value <= high:
            refuse(name, value, f"a record holds {low}..{high}")
    if probabilities == ENCODINGS[LOG8] and not MIN_LOG_STEP <= log_step <= MAX_LOG_STEP:
        refuse("log_step", log_step, f"want {MIN_LOG_STEP}..{MAX_LOG_STEP} nats")


def _sort_classes(reinforcements: Reinforcements) -> Reinforcements:
    """The same with classes in order of falling probability in each row."""
    probs = reinforcements.soft_probs
    if not (probs[:, 1:] > probs[:, :-1]).any():
        return reinforcements
    order = np.argsort(-probs, axis=1, kind="stable")
    ids = np.take_along_axis(reinforcements.soft_ids, order, axis=1)
    return replace(reinforcements, soft_ids=ids, soft_probs=np.take_along_axis(probs, order, axis=1))


def _first_of_pairs(reinforcements: Reinforcements) -> Reinforcements:
    """Every other row, of rows in pairs that differ in nothing but ``swapped``, lam, CutMix box and their predictions."""
    mix = reinforcements.mix
    assert mix is not None
    views = Views(*(getattr(reinforcements, name) for name in VIEW_COLUMNS))
    plain = replace(mix, swapped=np.zeros_like(mix.swapped), lam=np.ones_like(mix.lam), cut=np.zeros_like(mix.cut))
    first, second = slice(0, None, 2), slice(1, None, 2)
    paired = len(views) % 2 == 0 and not mix.swapped[first].any() and mix.swapped[second].all()
    if not paired or views.take(first) != views.take(second) or plain.take(first) != plain.take(second):
        refuse("a double-mix", "not in pairs", "want rows 2i and 2i + 1 alike but for lam and box, the second swapped")
    return reinforcements.take(first)


def _group_rows(reinforcements: Reinforcements, wanted: int | None) -> int:
    """Rows per group; mixed views compress best together, and their bytes are what is short."""
    views, mix = len(reinforcements), reinforcements.mix
    if wanted is None:
        return views if mix is not None else -(-views // max(views // _MIN_GROUP_ROWS, 1))
    double = mix is not None and mix.double
    if not 1 <= wanted <= views or (double and wanted % 2):
        refuse("group_rows", wanted, f"want 1..{views}" + ", even for a double-mix" * double)
    return wanted


def _check_boxes(views: Views, view_size: tuple[int, int]) -> None:
    """RecordError for boxes outside the view: `Views.validate` knows its longer side only."""
    columns = [("erase box", views.erase)]
    if views.mix is not None:
        columns += [("cutmix box", views.mix.cut), ("partner's erase box", views.mix.views.erase)]
    for name, column in columns:
        if (column[:, :2] + column[:, 2:] > view_size).any():
            refuse(name, "outside the view", f"the view is {view_size[0]}x{view_size[1]}")
