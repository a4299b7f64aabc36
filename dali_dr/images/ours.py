"""Our own decoder of JPEGs (csrc/jpeg/decode.h), image by image: what the judge asks; training has it in its graph."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np

from dali_dr import _plugin
from dali_dr.images.decoder import Pixels, Region

_REASON_BYTES: Final = 256
_FOREIGN: Final = 2


def decoded(data: bytes, region: Region) -> Pixels | str | None:
    """A region of an image as training decodes it. From any thread; other threads go on meanwhile.

    Args:
      data: encoded.
      region: (top, left, height, width) in pixels of the image.

    Returns:
      uint8 (height, width, 3); or why it cannot be decoded; or None: training leaves it to DALI's decoder.
    """
    out = np.empty((*region[2:], 3), np.uint8)
    reason = ctypes.create_string_buffer(_REASON_BYTES)
    box = (ctypes.c_int32 * 4)(*region)
    outcome = _function()(data, len(data), box, out.ctypes.data, reason, _REASON_BYTES)
    if outcome == _FOREIGN:
        return None
    return out if outcome == 0 else reason.value.decode(errors="replace")


@_plugin.once
def _function() -> Any:
    function = _plugin.library().dali_dr_jpeg_decode
    function.argtypes = (
        ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_int32), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64,
    )  # fmt: skip
    return function
