"""Containers of encoded images: which there are, the size from the header, a check by decoding. The one list of them.

To add a container: a row in `CONTAINERS`, a reader of its header in csrc/image/header.cc (which the plugin uses to draw
fresh views), and a look at whether DALI's decoders show exactly what Pillow's ``convert("RGB")`` shows.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401  (they enter Image.OPEN)

from dali_dr.errors import shown

MAX_PIXELS: Final = 2 * (1024 * 1024 * 1024 // 4 // 3)
"""Pixels of the largest image that is decoded unless a user says otherwise: 178,956,970, half a GiB in RGB.

It is where Pillow, too, refuses an image (twice its MAX_IMAGE_PIXELS). Real photos are smaller: ImageNet's largest have
some 12 million pixels, the largest digital cameras 151 million.
"""
ANY_PIXELS: Final = 1 << 64
"""A limit above every image, for headers of images that were let in when their data set was made."""


class ImageFault(ValueError):
    """An image that is refused.

    Attributes:
      remedy: what to do, where that is known from what is wrong.
    """

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason if remedy is None else f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


def _nothing(encoded: bytes) -> str | None:
    return None


def _png_fault(encoded: bytes) -> str | None:
    if encoded[24:25] == b"\x10":  # the bit depth in IHDR, which comes first
        # Decoders cut or round to 8 bits each in its own way, so views would differ between devices.
        return "a PNG with 16 bits per channel; convert it to 8 bits"
    return None


def _webp_size(encoded: bytes) -> tuple[int, int] | None:
    """(height, width) that a WebP says at its beginning; None where it is not understood."""
    kind, data = encoded[12:16], encoded[20:30]
    if len(data) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(data[7:10], "little") + 1, int.from_bytes(data[4:7], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return int.from_bytes(data[8:10], "little") & 0x3FFF, int.from_bytes(data[6:8], "little") & 0x3FFF


@dataclass(frozen=True, slots=True)
class Container:
    """A format of image files.

    Attributes:
      name: as people write it.
      suffixes: of file names, lower case, without the dot; shards are written with the first.
      pillow: Pillow's name of the format.
      fault: why an image that Pillow reads is refused all the same, from its encoded bytes; None if it is not.
      early_size: (height, width) from the encoded bytes, or None, where Pillow takes memory for all pixels already when
        it opens the image.
    """

    name: str
    suffixes: tuple[str, ...]
    pillow: str
    fault: Callable[[bytes], str | None] = _nothing
    early_size: Callable[[bytes], tuple[int, int] | None] = lambda encoded: None


CONTAINERS: Final = (
    Container("JPEG", ("jpg", "jpeg"), "JPEG"),
    Container("PNG", ("png",), "PNG", fault=_png_fault),
    Container("WebP", ("webp",), "WEBP", early_size=_webp_size),
)
SUFFIXES: Final = tuple(suffix for container in CONTAINERS for suffix in container.suffixes)
NAMES: Final = f"{', '.join(c.name for c in CONTAINERS[:-1])} or {CONTAINERS[-1].name}"  # "JPEG, PNG or WebP"
_BY_SUFFIX: Final = {suffix: container for container in CONTAINERS for suffix in container.suffixes}


def written_suffix(suffix: str) -> str:
    """The suffix that shards are written with for images called ``suffix``: "jpg" for "jpeg".

    Raises:
      KeyError: it is none of `SUFFIXES`.
    """
    return _BY_SUFFIX[suffix].suffixes[0]


def image_info(image_bytes: bytes, *, full: bool = False, max_pixels: int = MAX_PIXELS) -> tuple[str, int, int]:
    """(suffix, height, width) of an encoded image, from its header; EXIF orientation is not applied.

    Args:
      image_bytes: the whole file.
      full: decode it too, about 1 ms.
      max_pixels: that it may have. Looked at before memory is taken for them. WebP has a limit in Pillow besides, which
        is `MAX_PIXELS`.

    Returns:
      The first suffix of its container, and its size in pixels.

    Raises:
      ImageFault: saying what is wrong with it.
    """
    if not image_bytes:
        raise ImageFault("the image is empty (0 bytes)")
    try:
        container = _container_of(image_bytes)
        if early := container.early_size(image_bytes):
            _check_pixels(*early, max_pixels)
        with _opened(container, image_bytes) as image:
            width, height = image.size
            _check_pixels(height, width, max_pixels)
            if fault := container.fault(image_bytes):
                raise ValueError(fault)
            if full:
                image.load()
    except Exception as error:  # Pillow raises many kinds on damaged files
        known = error if isinstance(error, ImageFault) else ImageFault(shown(error) or type(error).__name__)
        what = f"the image ({len(image_bytes)} bytes, starting {image_bytes[:8].hex()}) cannot be read as {NAMES}"
        raise ImageFault(f"{what}: {known.reason}", known.remedy) from error
    return container.suffixes[0], height, width


def rgb_image(image_bytes: bytes) -> Image.Image:
    """The image, decoded by Pillow and converted to RGB: what everything else is compared with.

    Args:
      image_bytes: the whole file, in a container of `CONTAINERS`, whose size in pixels was found bearable.

    Raises:
      ValueError: saying what is wrong with it.
    """
    try:
        with _opened(_container_of(image_bytes), image_bytes) as image:
            return as_rgb(image)
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise ValueError(shown(error) or type(error).__name__) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """``image``, decoded, in RGB; what Pillow raises on damaged files."""
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _opened(container: Container, image_bytes: bytes) -> ImageFile.ImageFile:
    """As `Image.open` does, but for a limit of pixels of its own, which is one for the whole process."""
    factory = cast("Callable[[io.BytesIO, str], ImageFile.ImageFile]", Image.OPEN[container.pillow][0])
    return factory(io.BytesIO(image_bytes), "")


def _container_of(image_bytes: bytes) -> Container:
    """By its first bytes. ValueError if it is none of `CONTAINERS`."""
    for container in CONTAINERS:
        accept = Image.OPEN[container.pillow][1]
        if accept is not None and (accepted := accept(image_bytes[:16])):
            if isinstance(accepted, str):  # Pillow was built without it
                raise ValueError(accepted)
            return container
    raise ValueError("it is none")


def _check_pixels(height: int, width: int, limit: int) -> None:
    if height * width > limit:
        raise ImageFault(
            f"it has {height}x{width} pixels, above the limit of {limit}",
            "scale it down, or raise max_pixels (--max-pixels)",
        )
