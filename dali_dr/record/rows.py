"""The columns of a record's rows, from and to views and their predictions; those of mixed views are in `mixes`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dali_dr.augment.views import Views
from dali_dr.record import logprobs, rootprobs
from dali_dr.record.boxes import crops_from_bits, crops_to_bits, place_boxes
from dali_dr.record.checks import check_rows
from dali_dr.record.columns import Columns
from dali_dr.record.layout import ERASE, FLIP, LOG8, ROOT8, Header
from dali_dr.record.tables import Tables


def view_flags(views: Views) -> int:
    """The flags FLIP and ERASE."""
    return FLIP * bool(views.flip.any()) | ERASE * bool(views.erase[:, 2].any())


def write_views(views: Views, op_index: npt.NDArray[np.intp], header: Header) -> Columns:
    """The columns of views without their mix; ``op_index``: (views, n) places in the operation table."""
    erased = views.erase[:, 2] > 0
    return {
        "crops": crops_to_bits(views.crop, header.image_height, header.image_width),
        "flips": views.flip,
        "erased": erased,
        "erase boxes": views.erase[erased],
        "ops": op_index,
    }


def write_probabilities(probs: npt.NDArray[np.float32], encoding: int, step: float) -> tuple[npt.NDArray[Any], int]:
    """The column of probabilities (rows, K), in the encoding of that number, and the header's pair_rank."""
    if encoding == LOG8:
        return logprobs.to_codes(probs, step), 0
    if encoding == ROOT8:
        codes = rootprobs.to_codes(probs, step)
        rank = rootprobs.pair_rank(codes)
        return rootprobs.pack(codes, rank), rank
    return probs, 0


def read_views(columns: Columns, header: Header, tables: Tables) -> Views:
    """The inverse of ``write_views``; RecordError for the first value that is wrong."""
    crop = crops_from_bits(columns["crops"], header.image_height, header.image_width)
    nowhere = np.zeros(len(crop), np.bool_)
    flip, erased = columns.get("flips", nowhere), columns.get("erased", nowhere)
    boxes = columns.get("erase boxes", np.zeros((0, 4)))
    erase = place_boxes("erase box", erased, boxes, header.view_size)
    return Views(crop, flip, *tables.operations(columns["ops"]), erase)


def read_probabilities(columns: Columns, header: Header) -> npt.NDArray[np.float32]:
    """float32 (rows, K); RecordError for the first value that is wrong."""
    stored = columns["probabilities"]
    if header.probability_encoding == LOG8 and header.topk:
        return logprobs.from_codes(stored, header.log_step)
    if header.probability_encoding == ROOT8 and header.topk:
        return rootprobs.from_codes(rootprobs.unpack(stored, header.pair_rank, header.topk), header.log_step)
    probs = np.ascontiguousarray(stored.astype(np.float32))
    check_rows(~((probs >= 0) & (probs <= 1)), "probabilities", probs, "want numbers in 0..1")
    check_rows(probs[:, 1:] > probs[:, :-1], "probabilities", probs, "want them falling")
    return probs
