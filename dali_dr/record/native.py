"""Records written in C++ (csrc/record/write.h): what `encode` writes, rows put in order of falling confidence before."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr import _plugin
from dali_dr.augment.views import VIEW_COLUMNS, Views
from dali_dr.errors import RecordError
from dali_dr.record.labels import Reinforcements
from dali_dr.record.layout import ENCODINGS, Probabilities
from dali_dr.record.logprobs import DEFAULT_LOG_STEP

_MOST: Final = 2**32 - 1  # what a field of the settings holds; a record holds less


class _Columns(ctypes.Structure):
    """DaliDrColumns of csrc/record/export.cc."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in VIEW_COLUMNS)


class _Reinforcements(ctypes.Structure):
    """DaliDrReinforcements."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("views", "num_ops", "topk")),
        *((name, _Columns) for name in ("own", "of_partner")),
        *((name, ctypes.c_void_p) for name in ("ids", "probs", "partner", "lam", "cut", "swapped")),
    )


class _Settings(ctypes.Structure):
    """DaliDrWriteSettings."""

    _fields_ = (
        *(
            (name, ctypes.c_uint32)
            for name in (
                "image_height", "image_width", "view_height", "view_width", "encoding", "num_outputs", "recode",
            )
        ),
        ("log_step", ctypes.c_float),
    )  # fmt: skip


class _Record(ctypes.Structure):
    """DaliDrRecord."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_uint64), ("reason", ctypes.c_char_p))


def write(
    reinforcements: Reinforcements,
    *,
    image_height: int,
    image_width: int,
    view_size: tuple[int, int],
    probabilities: Probabilities = "root8",
    log_step: float = DEFAULT_LOG_STEP,
    num_outputs: int | None = None,
    recode: bool = False,
) -> bytes:
    """One image's reinforcements as zstd frames, from any thread; other threads go on meanwhile.

    Args:
      reinforcements: 1..65536 views, in any order, classes too.
      image_height, image_width: the source image in pixels, EXIF orientation not applied.
      view_size: (height, width) in pixels at which erase boxes and translations are given.
      probabilities: as `encode` has it.
      log_step: nats per unit of "log8", 0.1..1, which the others ignore.
      num_outputs: of the teacher: class ids are below it; None: not known.
      recode: where the probabilities were read from a record, look for the very codes that they were read from. Rows keep
        their order then, as confidences were rounded after they were put in order.

    Raises:
      RecordError: the reinforcements do not fit the image, the view or the format.
    """
    if probabilities not in ENCODINGS:
        raise RecordError(f"probabilities is {probabilities!r}, want one of {', '.join(ENCODINGS)}")
    columns = _ColumnsOf(reinforcements)
    limits = (image_height, image_width, *view_size, 0 if num_outputs is None else num_outputs)
    if min(limits) < 0 or max(limits) > _MOST or num_outputs == 0:
        raise RecordError(
            f"sizes of image and view, or number of outputs, of {limits}: want 1 or more, and less than 2**32"
        )
    settings = _Settings(*limits[:4], ENCODINGS.index(probabilities), limits[4], recode, log_step)
    library = _library()
    made = library.dali_dr_record_write(ctypes.byref(columns.struct), ctypes.byref(settings))
    if not made:
        raise MemoryError
    try:
        record: Any = made.contents
        if reason := record.reason.decode():
            raise RecordError(f"reinforcement record: {reason}")
        return ctypes.string_at(record.data, record.size)
    finally:
        library.dali_dr_record_delete(made)


class _ColumnsOf:
    """`Reinforcements` as C has them; keeps the arrays that it points into."""

    def __init__(self, reinforcements: Reinforcements) -> None:
        self._kept: list[npt.NDArray[Any]] = []
        self.struct = _Reinforcements(len(reinforcements), reinforcements.num_ops, reinforcements.topk)
        self.struct.own = self._views(reinforcements)
        self.struct.ids = self._place(reinforcements.soft_ids)
        self.struct.probs = self._place(reinforcements.soft_probs)
        if (mix := reinforcements.mix) is not None:
            self.struct.of_partner = self._views(mix.views)
            for name in ("partner", "lam", "cut", "swapped"):
                setattr(self.struct, name, self._place(getattr(mix, name)))

    def _views(self, views: Views) -> _Columns:
        return _Columns(*(self._place(getattr(views, name)) for name in VIEW_COLUMNS))

    def _place(self, column: npt.NDArray[Any]) -> int:
        self._kept.append(np.ascontiguousarray(column))
        return self._kept[-1].ctypes.data


@_plugin.once
def _library() -> ctypes.CDLL:
    """The plugin, once its functions' types are said."""
    library = _plugin.library()
    library.dali_dr_record_write.argtypes = (ctypes.POINTER(_Reinforcements), ctypes.POINTER(_Settings))
    library.dali_dr_record_write.restype = ctypes.POINTER(_Record)
    library.dali_dr_record_delete.argtypes = (ctypes.POINTER(_Record),)
    library.dali_dr_record_delete.restype = None
    return library
