"""Tiling: what becomes of an image that is to be stored as a tiled JPEG (`dali_dr.images.tiles`), and what is told of it."""

from __future__ import annotations

from typing import Final, NamedTuple

from dali_dr.images.tiles import tiled

TILED_ALREADY: Final = "it is tiled already"
"""What `tiled` says of a file that it would write just so."""


class Tiling(NamedTuple):
    """What became of an image that was to be tiled.

    Attributes:
      before: bytes of its file in the source; None: not known any more.
      kept: why it is stored as it was, in words that are the same for all of a kind; None: it is tiled.
    """

    before: int | None
    kept: str | None = None


def tile(data: bytes, before: int | None) -> tuple[bytes, Tiling]:
    """The image ``data`` as it is stored: tiled, or as it is. From any thread; other threads go on meanwhile.

    Args:
      data: encoded.
      before: bytes of its file in the source.
    """
    found = tiled(data)
    if isinstance(found, str):
        return data, Tiling(before, None if found == TILED_ALREADY else found)
    return found, Tiling(before)
