"""Containers of encoded images: which there are, the size from the header, a check by decoding. The one list of them.

To add a container: a row in `CONTAINERS`, a reader of its header in csrc/image/header.cc (which the plugin uses to draw
fresh views), and a look at whether DALI's decoders show exactly what Pillow's ``convert("RGB")`` shows.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from PIL import Image, UnidentifiedImageError


def _nothing(encoded: bytes) -> str | None:
    return None


def _png_fault(encoded: bytes) -> str | None:
    if encoded[24:25] == b"\x10":  # the bit depth in IHDR, which comes first
        # Decoders cut or round to 8 bits each in its own way, so views would differ between devices.
        return "a PNG with 16 bits per channel; convert it to 8 bits"
    return None


@dataclass(frozen=True, slots=True)
class Container:
    """A format of image files.

    Attributes:
      name: as people write it.
      suffixes: of file names, lower case, without the dot; shards are written with the first.
      pillow: Pillow's name of the format.
      also: names that Pillow gives to variants that its reader of this format recognises.
      fault: why an image that Pillow reads is refused all the same, from its encoded bytes; None if it is not.
    """

    name: str
    suffixes: tuple[str, ...]
    pillow: str
    also: tuple[str, ...] = ()
    fault: Callable[[bytes], str | None] = _nothing


CONTAINERS: Final = (
    Container("JPEG", ("jpg", "jpeg"), "JPEG", also=("MPO",)),  # MPO: more pictures follow the first one
    Container("PNG", ("png",), "PNG", fault=_png_fault),
    Container("WebP", ("webp",), "WEBP"),
)
SUFFIXES: Final = tuple(suffix for container in CONTAINERS for suffix in container.suffixes)
NAMES: Final = f"{', '.join(c.name for c in CONTAINERS[:-1])} or {CONTAINERS[-1].name}"  # "JPEG, PNG or WebP"
_BY_SUFFIX: Final = {suffix: container for container in CONTAINERS for suffix in container.suffixes}
_BY_PILLOW: Final = {name: container for container in CONTAINERS for name in (container.pillow, *container.also)}


def written_suffix(suffix: str) -> str:
    """The suffix that shards are written with for images called ``suffix``: "jpg" for "jpeg".

    Raises:
      KeyError: it is none of `SUFFIXES`.
    """
    return _BY_SUFFIX[suffix].suffixes[0]


def image_info(image_bytes: bytes, *, full: bool = False) -> tuple[str, int, int]:
    """(suffix, height, width) of an encoded image, from its header; EXIF orientation is not applied.

    Args:
      image_bytes: the whole file.
      full: decode it too, about 1 ms.

    Returns:
      The first suffix of its container, and its size in pixels.

    Raises:
      ValueError: saying what is wrong with it.
    """
    if not image_bytes:
        raise ValueError("the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(image_bytes), formats=[c.pillow for c in CONTAINERS]) as image:
            container = _BY_PILLOW[image.format or ""]
            width, height = image.size
            if fault := container.fault(image_bytes):
                raise ValueError(fault)
            if full:
                image.load()
    except Exception as error:  # Pillow raises many kinds on damaged files
        why = "it is none" if isinstance(error, UnidentifiedImageError) else error  # whose text is a buffer's address
        raise ValueError(
            f"the image ({len(image_bytes)} bytes, starting {image_bytes[:8].hex()}) cannot be read as {NAMES}: {why}"
        ) from error
    return container.suffixes[0], height, width
