"""JPEGs in tiles: the same image without loss, with restart markers, so that a region is decoded from its own bytes alone."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Final

from dali_dr import _plugin
from dali_dr.images import jpeg

STEPS: Final = ("read", "write", "compare", "slices")
"""What tiling does, in this order: the coefficients are read and written; what was written is compared, coefficients and
pixels; and so are a few regions, as training decodes them."""


class _Struct(ctypes.Structure):
    """DaliDrTiled of csrc/jpeg/export.cc."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("reason", ctypes.c_char_p),
        ("steps", ctypes.c_double * len(STEPS)),
    )


@dataclass(frozen=True)
class Timed:
    """What `timed` gives: the tiled file, or why there is none; and the seconds of each of STEPS."""

    result: bytes | str
    seconds: tuple[float, ...]


def tiled(data: bytes) -> bytes | str:
    """The same JPEG in tiles, or why it is stored as it is.

    Coefficients, quantisation tables and metadata are the original's; decoders show the same pixels. That is looked at before
    anything is returned. Many threads may call this at once: Python's lock is not held meanwhile.

    Args:
      data: An encoded image.

    Returns:
      The tiled file; or a reason, in the same words for all images of a kind: it is no JPEG, is tiled already, has colours
      that are not YCbCr or grey, is damaged, would grow by more than 8 %, …
    """
    return timed(data).result


def timed(data: bytes) -> Timed:
    """As `tiled`, with the time that it took."""
    if not jpeg.is_jpeg(data):
        return Timed("it is no JPEG", (0.0,) * len(STEPS))
    library = _library()
    made = library.dali_dr_tiled_new(data, len(data))
    if not made:
        raise MemoryError
    try:
        struct: Any = made.contents
        result = struct.reason.decode() or ctypes.string_at(struct.data, struct.size)
        return Timed(result, tuple(struct.steps))
    finally:
        library.dali_dr_tiled_delete(made)


@_plugin.once
def _library() -> ctypes.CDLL:
    """The plugin, once its functions' types are said."""
    library = _plugin.library()
    library.dali_dr_tiled_new.argtypes = (ctypes.c_char_p, ctypes.c_uint64)
    library.dali_dr_tiled_new.restype = ctypes.POINTER(_Struct)
    library.dali_dr_tiled_delete.argtypes = (ctypes.POINTER(_Struct),)
    library.dali_dr_tiled_delete.restype = None
    return library
