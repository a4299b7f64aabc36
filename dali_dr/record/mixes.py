"""The columns of mixed views, from and to `Mix`: an entry for each view that has a partner."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dali_dr.augment.views import MAX_SIDE, NO_PARTNER, SELF_PARTNER, Mix, no_partner_views
from dali_dr.record.boxes import place_boxes
from dali_dr.record.checks import check_rows
from dali_dr.record.columns import Columns
from dali_dr.record.layout import DOUBLE, MIXING, OWN_MIXES, WEIGHT_STEPS, WIDE_WEIGHTS, Header
from dali_dr.record.tables import Tables


def mix_flags(mix: Mix | None) -> int:
    """The flags MIXING, WIDE_WEIGHTS, where a MixUp weight does not fit two bytes, DOUBLE and OWN_MIXES."""
    if mix is None:
        return 0
    steps = mix.lam.astype(np.float64) * WEIGHT_STEPS
    wide = bool((steps != np.floor(steps)).any())
    return MIXING | WIDE_WEIGHTS * wide | DOUBLE * mix.double | OWN_MIXES * mix.own_mixes


def write_mix(
    mix: Mix, every: Mix, op_index: npt.NDArray[np.intp], partner_table: npt.NDArray[np.int32], header: Header
) -> Columns:
    """The columns of mixed views.

    Args:
      mix: of all views; of pairs of a double-mix, the first one's.
      every: of all rows.
      op_index: (Q, n) places in the operation table, of the views that have a partner.
      partner_table: see `tables.write_partners`.
      header: says how weights are stored.
    """
    partnered = mix.partner != NO_PARTNER
    partners, numbers = mix.views.take(partnered), mix.partner[partnered]
    lam, cut = (every.lam, every.cut) if header.flags & OWN_MIXES else (mix.lam[partnered], mix.cut[partnered])
    weights, cuts, erased = lam[lam < 1], cut[:, 2] > 0, partners.erase[:, 2] > 0
    index = np.searchsorted(partner_table, numbers).reshape(-1, 1)
    return {
        "partnered": partnered,
        "mixups": lam < 1,
        "cutmixes": cuts,
        "partner flips": partners.flip,
        "partner erased": erased,
        "mixup weights": weights if header.flags & WIDE_WEIGHTS else weights.astype(np.float64) * WEIGHT_STEPS,
        "partner crops, low bytes": partners.crop & 255,
        "partners": index[:, : header.has_partner_table],
        "partner crops, high bytes": partners.crop >> 8,
        "cutmix boxes": cut[cuts],
        "partner erase boxes": partners.erase[erased],
        "partner ops": op_index,
    }


def class_tables_of(columns: Columns, header: Header) -> npt.NDArray[np.int64]:
    """int64 (views,): each view's class table with PARTNER_CLASSES: its partner's, or the last."""
    out = np.full(len(columns["partnered"]), header.partner_entries, np.int64)
    if header.has_partner_table:
        out[columns["partnered"]] = _partner_index(columns, header)
    return out


def _partner_index(columns: Columns, header: Header) -> npt.NDArray[np.integer]:
    """(Q,): each partner's place in the partner table; RecordError for one that is not there."""
    index: npt.NDArray[np.integer] = columns["partners"][:, 0]
    check_rows(index >= header.partner_entries, "partner table entry", index, f"want below {header.partner_entries}")
    return index


def read_mix(columns: Columns, header: Header, tables: Tables) -> Mix:
    """The inverse of ``write_mix``: its ``mix``, without lam and boxes where these are each row's own (`read_own`).

    RecordError for the first value that is wrong.
    """
    partnered, view_size = columns["partnered"], header.view_size
    if header.flags & DOUBLE:
        check_rows(~partnered, "partner", partnered, "want one in every view of a double-mix")
    views = len(partnered)
    mix = Mix(
        np.full(views, NO_PARTNER, np.int32),
        no_partner_views(views, header.num_ops),
        np.ones(views, np.float32),
        np.zeros((views, 4), np.int32),
        np.zeros(views, np.bool_),
    )
    mix.partner[partnered] = SELF_PARTNER
    if header.has_partner_table:
        mix.partner[partnered] = tables.partners[_partner_index(columns, header)]
    if not header.flags & OWN_MIXES:
        mix.lam[partnered], mix.cut[partnered] = read_own(columns, header)
    partners = mix.views
    partners.crop[partnered] = _read_crops(columns, header)
    partners.flip[partnered] = columns["partner flips"]
    partners.ops[partnered], partners.magnitudes[partnered] = tables.operations(columns["partner ops"])
    erased, boxes = columns["partner erased"], columns["partner erase boxes"]
    partners.erase[partnered] = place_boxes("partner erase box", erased, boxes, view_size)
    return mix


def read_own(columns: Columns, header: Header) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """lam float32 (Q,) and CutMix boxes int32 (Q, 4) of the views that have a partner; with OWN_MIXES of all rows."""
    cut = place_boxes("cutmix box", columns["cutmixes"], columns["cutmix boxes"], header.view_size)
    return _read_weights(columns, header), cut


def _read_weights(columns: Columns, header: Header) -> npt.NDArray[np.float32]:
    """float32 (Q,): 1 where there is no MixUp."""
    mixup, weights = columns["mixups"], columns["mixup weights"]
    lam = np.ones(len(mixup), np.float32)
    if header.flags & WIDE_WEIGHTS:
        check_rows(~((weights >= 0) & (weights < 1)), "mixup weight", weights, "want it in 0..1")
        lam[mixup] = weights
    else:
        lam[mixup] = weights / np.float32(WEIGHT_STEPS)
    return lam


def _read_crops(columns: Columns, header: Header) -> npt.NDArray[np.int32]:
    """int32 (Q, 4), inside the image if it is its own partner, else inside the largest that a record allows."""
    low, high = columns["partner crops, low bytes"], columns["partner crops, high bytes"]
    crop = low.astype(np.int32) | high.astype(np.int32) << 8
    limit = (MAX_SIDE, MAX_SIDE) if header.has_partner_table else (header.image_height, header.image_width)
    outside = (crop[:, :2] + crop[:, 2:] > limit) | (crop[:, 2:] == 0)
    check_rows(outside, "partner crop", crop, f"want it inside {limit[0]}x{limit[1]} and not empty")
    return crop
