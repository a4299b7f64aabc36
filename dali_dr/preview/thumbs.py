"""Small pictures: of the images, and of their views as training gets them, side by side in sprites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image

from dali_dr.encoded import rgb_image
from dali_dr.errors import DaliDrError
from dali_dr.preview.replayed import Pixels

_QUALITY: Final = 50  # of WebP; views of 64 pixels take some 740 bytes
_EFFORT: Final = 2  # of WebP's 0 to 6: 1 takes 10 % more bytes, 4 twice the time for 4 % less
_WIDEST: Final = 16_000  # pixels of a sprite: WebP holds 16,383


@dataclass(frozen=True)
class Sizes:
    """Edges of small pictures in pixels.

    Attributes:
      image: the longer side of an image's.
      view: of a view's.
    """

    image: int
    view: int


def image_thumb(encoded: bytes, edge: int) -> Image.Image:
    """The whole image, its longer side ``edge`` pixels or, of a smaller one, as it is. JPEGs are decoded at a fraction.

    Raises:
      DaliDrError: it cannot be decoded.
    """
    try:
        with Image.open(BytesIO(encoded)) as image:
            if image.format == "JPEG":
                image.draft("RGB", (edge, edge))
                picture = image.convert("RGB")
            else:
                picture = rgb_image(encoded)
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise DaliDrError(f"the image cannot be decoded: {error}") from error
    picture.thumbnail((edge, edge), Image.Resampling.BICUBIC, reducing_gap=2)
    return picture


def view_thumbs(views: Pixels | tuple[()], edge: int) -> list[Image.Image]:
    """Views (N, size, size, 3), shrunk to ``edge`` pixels; smaller ones as they are."""
    pictures = []
    for pixels in views:
        picture = Image.fromarray(pixels)
        if picture.width > edge:
            picture = picture.resize((edge, edge), Image.Resampling.BOX, reducing_gap=1.01)
        pictures.append(picture)
    return pictures


def sprite(pictures: Sequence[Image.Image], cell: int) -> Image.Image:
    """Pictures of up to ``cell`` pixels a side, in rows from the left, as many in a row as `columns` says."""
    across = columns(len(pictures), cell)
    down = max(-(-len(pictures) // across), 1)
    sheet = Image.new("RGB", (across * cell, down * cell))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % across * cell, place // across * cell))
    return sheet


def columns(count: int, cell: int) -> int:
    """Of a sprite: as near to a square as it gets."""
    across = 1
    while across * across < count:
        across += 1
    return max(min(across, _WIDEST // cell), 1)


def webp(picture: Image.Image, quality: int = _QUALITY) -> bytes:
    """As WebP."""
    out = BytesIO()
    picture.save(out, "WEBP", quality=quality, method=_EFFORT)
    return out.getvalue()
