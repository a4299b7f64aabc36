"""What a run refuses before it begins: settings that do not go together, or not with its source."""

from __future__ import annotations

import numpy as np

from dali_dr.errors import ShardError
from dali_dr.record.labels import ROW_ORDERS, RowOrder
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.select import BY_LABEL, SELECTS, Select
from dali_dr.sources.source import Source


def check_settings(
    source: Source, generation: Generation, *, select: Select, row_order: RowOrder, pool: int | None
) -> None:
    """ShardError for settings of a `dali_dr.reinforce.run.Run` that do not go together, or not with the source."""
    keys, kept = source.keys, generation.num_views
    if len(set(keys)) < len(keys):
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ShardError(f"two images have the key {twice}: rename one")
    if pool is not None and pool < kept:
        raise ShardError(f"a pool of {pool} candidates holds no {kept} views", kind="usage")
    mixing = generation.spec.mixing
    if select not in SELECTS or row_order not in ROW_ORDERS:
        raise ShardError(
            f"select is {select!r:.80} and row_order {row_order!r:.80}, want one of {', '.join(SELECTS)}, and "
            f"{' or '.join(ROW_ORDERS)}",
            kind="usage",
        )
    if pool is None and select != "random":
        raise ShardError(
            f"select is {select!r}, but there is no pool to select from: pass pool (--pool P), too", kind="usage"
        )
    if select in BY_LABEL:
        _check_labels(source, generation, select)
    if pool is not None and mixing is not None and mixing.double:
        raise ShardError(
            "the views of a double-mix come in pairs, of which a pool cannot keep one: leave the pool out", kind="usage"
        )


def _check_labels(source: Source, generation: Generation, select: Select) -> None:
    """ShardError unless every view has one label that is a class of the teacher, whose loss can be told."""
    teacher, labels = generation.teacher, np.asarray(source.labels)
    others = "choose another selection, such as min-confidence"
    if getattr(teacher, "target", "class") != "class":
        raise ShardError(f"select is {select!r}, but the teacher gives embeddings, not classes: {others}", kind="usage")
    if generation.spec.mixing is not None:
        raise ShardError(f"select is {select!r}, but mixed views have two labels: {others}", kind="usage")
    if len(labels) and (beyond := (labels < 0) | (labels >= teacher.num_outputs)).any():
        number = int(np.argmax(beyond))
        raise ShardError(
            f"{source.where(number)}: its label is {labels[number]}, which is no class of the teacher (0 to "
            f"{teacher.num_outputs - 1}), so it has no loss to select by: {others}, or a teacher of these classes",
            kind="usage",
        )
