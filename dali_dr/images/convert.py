"""Images that shards do not hold, or that decoders show otherwise than Pillow, as PNG: exactly what Pillow shows of them."""

from __future__ import annotations

import functools
import io
from typing import Any, Final, cast

from PIL import Image, ImageFile

from dali_dr.encoded import as_rgb
from dali_dr.errors import shown

_PROGRAMS: Final = frozenset({"EPS"})  # which Pillow asks other programs to draw
_STUBS: Final = frozenset({"BUFR", "GRIB", "HDF5", "MPEG", "WMF"})  # which it knows, and cannot draw


@functools.cache
def suffixes() -> frozenset[str]:
    """Of file names, lower case, without the dot: of all formats that Pillow reads here."""
    Image.init()
    read = {*Image.OPEN, "MPO"} - _PROGRAMS - _STUBS  # MPO: JPEGs in a row, which the opener of JPEG opens
    return frozenset(suffix[1:] for suffix, name in Image.EXTENSION.items() if name in read)


def format_of(data: bytes, max_pixels: int) -> str | None:
    """Pillow's name of the format of ``data``, from its header; None if Pillow cannot read it, or it has more pixels."""
    header = _header(data, max_pixels)
    return header and header[0]


def size_of(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """(height, width) of what `as_png` makes; None where `format_of` is None."""
    header = _header(data, max_pixels)
    return header and header[1]


def as_png(data: bytes, max_pixels: int) -> bytes:
    """A PNG of Pillow's ``convert("RGB")`` of the image, as torchvision's loader shows it; of several frames the first.

    Metadata are left out, and the orientation in EXIF is not applied. Equal bytes give equal bytes, with the same Pillow.

    Raises:
      ValueError: Pillow cannot read it, or it has more than ``max_pixels``.
    """
    try:
        with _opened(data) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(f"it has {image.height}x{image.width} pixels, above the limit of {max_pixels}")
            pixels = as_rgb(image)
            out = io.BytesIO()
            Image.frombytes("RGB", pixels.size, pixels.tobytes()).save(out, "PNG")  # without what `image` knows besides
            return out.getvalue()
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise ValueError(shown(error) or type(error).__name__) from error


def _header(data: bytes, max_pixels: int) -> tuple[str | None, tuple[int, int]] | None:
    """Format, and (height, width); None if Pillow cannot read it, or it has more pixels."""
    try:
        with _opened(data) as image:
            return (image.format, (image.height, image.width)) if image.width * image.height <= max_pixels else None
    except Exception:  # Pillow raises many kinds on damaged files
        return None


def _opened(data: bytes) -> ImageFile.ImageFile:
    """As `Image.open` does, but for a limit of pixels of its own, which is one for the whole process."""
    Image.init()
    start = data[:16]
    for name in Image.ID:
        if name in _PROGRAMS or name not in Image.OPEN:
            continue
        factory, accept = cast("tuple[Any, Any]", Image.OPEN[name])
        accepted = True if accept is None else accept(start)
        if not accepted or isinstance(accepted, str):  # a text: Pillow was built without it
            continue
        try:
            return cast("ImageFile.ImageFile", factory(io.BytesIO(data), ""))
        except (SyntaxError, IndexError, TypeError, KeyError, EOFError, OSError, ValueError):
            continue
    raise ValueError("Pillow knows no such format")
