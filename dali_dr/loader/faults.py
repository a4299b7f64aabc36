"""Faults that stopped a pipeline, as data: which sample of which shard, and what is wrong with it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final, Literal

from dali_dr import _plugin
from dali_dr.errors import DaliDrError, ShardError
from dali_dr.images.decoder import cleaned, decoder_failure
from dali_dr.sampling.sampler import Share
from dali_dr.shards.dataset import Dataset

Kind = Literal["internal", "argument", "shard", "record", "image", "view"]
KINDS: Final[tuple[Kind, ...]] = ("internal", "argument", "shard", "record", "image", "view")
"""In the order of Fault::Kind in csrc/fault.h."""


@dataclass(frozen=True)
class Fault:
    """What one of our operators found wrong; None where it is unknown.

    Attributes:
      kind: "shard": a file of the data set is missing, replaced, damaged or not to be read. "record": a reinforcement
        record is damaged, or does not hold what was asked for. "image": an image file's header. "view": packed words, or
        what they say of their image. "argument": what was asked for does not exist or fit, whatever the data set holds.
        "internal": anything else, out of memory for instance.
      message: what, where, and what to do.
      sample: number of the sample at fault; that of the partner, where the partner's image cannot be read.
      key: of that sample.
      shard: path of the tar.
      offset: of the member's data in the tar, in bytes.
      place: place in the batch, from 0, of the (first) sample that cannot be had.
      failed: numbers of all samples of the batch that cannot be had, in its order; empty where they are not known, as with
        kind "view".
      whole_file: nothing in the shard can be had: it is missing, or not the file that the index means.
      partner: at fault is the image that the one at `place` is mixed with.
      every_view: no view of the sample can be had, not only those that were asked for.
    """

    kind: Kind
    message: str
    sample: int | None = None
    key: str | None = None
    shard: str | None = None
    offset: int | None = None
    place: int | None = None
    failed: tuple[int, ...] = ()
    whole_file: bool = False
    partner: bool = False
    every_view: bool = False


class _Struct(ctypes.Structure):
    """DaliDrFault of csrc/operators/monitor.h."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("place", ctypes.c_int32),
        ("whole_file", ctypes.c_int32),
        ("partner", ctypes.c_int32),
        ("sample", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("key", ctypes.c_char_p),
        ("shard", ctypes.c_char_p),
        ("message", ctypes.c_char_p),
        ("failed", ctypes.POINTER(ctypes.c_int64)),
        ("num_failed", ctypes.c_int64),
    )


def take_fault(number: int) -> Fault | None:
    """Takes the fault of the pipeline whose operators have ``monitor=number``.

    Args:
      number: of the monitor.

    Returns:
      The first fault since one was taken, or None. A pipeline runs ahead of its consumer, and a fault stays until it is
      taken: take what is left once a pipeline has been given up, before another one gets its monitor.
    """
    raw = _Struct()
    if not _plugin.library().dali_dr_monitor_fault(number, ctypes.byref(raw)):
        return None
    return Fault(
        kind=KINDS[raw.kind],
        message=_text(raw.message),
        sample=_known(raw.sample),
        key=_text(raw.key) or None,
        shard=_text(raw.shard) or None,
        offset=_known(raw.offset),
        place=_known(raw.place),
        failed=tuple(raw.failed[: raw.num_failed]),
        whole_file=bool(raw.whole_file),
        partner=bool(raw.partner),
    )


def explained(error: RuntimeError, fault: Fault | None, share: Share | None, dataset: Dataset) -> DaliDrError:
    """One clear error for what DALI reports amid its own context.

    Args:
      error: DALI's.
      fault: what is at fault: of the pipeline's monitor (it may be of a later batch, which was read ahead), or found by trying
        the samples out; None where that is unknown.
      share: of the batch that was due; None while the pipeline is built.
      dataset: that was read.
    """
    text = str(error)
    if fault is not None:
        return ShardError(
            fault.message, kind=fault.kind, sample=fault.sample, key=fault.key, shard=fault.shard, offset=fault.offset
        )
    if share is not None and (failure := decoder_failure(text)):
        keys = ", ".join(dataset.keys[int(n)] for n in share.samples[:4])
        return ShardError(
            f"an image of {dataset.path} could not be decoded, but can be now: it is in the batch with samples "
            f"{share.samples.tolist()} ({keys}, …) or was read ahead. The decoder says: {failure.reason}. Go on, or look for "
            f"it with `dali-dr verify --images {dataset.path}`",
            kind="image",
        )
    return DaliDrError(f"the pipeline failed: {cleaned(text)}", kind="internal")


def _known(number: int) -> int | None:
    return None if number < 0 else number


def _text(encoded: bytes) -> str:
    return encoded.decode(errors="backslashreplace")
