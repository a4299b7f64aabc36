"""Images that were enlarged and padded before they were reinforced, as ml-dr does it with CIFAR-100: stored so, as PNG."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_dr.encoded import MAX_PIXELS, image_info, rgb_image
from dali_dr.sources.source import Source

_FILTERS: Final = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to images: torchvision's Resize on a PIL image, then RandomCrop's padding with zeros.

    Attributes:
      enlarge: the shorter edge afterwards, or (height, width); None: they keep their size.
      padding: pixels on each side.
      interpolation: Pillow's filter.
    """

    enlarge: int | tuple[int, int] | None = None
    padding: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return self.enlarge is not None or self.padding > 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what becomes of an image."""
        height, width = self._enlarged(height, width)
        return height + 2 * self.padding, width + 2 * self.padding

    def __call__(self, image: Image.Image) -> Image.Image:
        """What becomes of an RGB image."""
        height, width = self._enlarged(image.height, image.width)
        if (width, height) != image.size:
            image = image.resize((width, height), _FILTERS[self.interpolation])
        if not self.padding:
            return image
        padded = Image.new("RGB", (width + 2 * self.padding, height + 2 * self.padding))
        padded.paste(image, (self.padding, self.padding))
        return padded

    def _enlarged(self, height: int, width: int) -> tuple[int, int]:
        if self.enlarge is None:
            return height, width
        if isinstance(self.enlarge, tuple):
            return self.enlarge
        short, long = sorted((height, width))
        if short == self.enlarge:
            return height, width
        other = int(self.enlarge * long / short)  # as torchvision rounds it
        return (self.enlarge, other) if height <= width else (other, self.enlarge)


UNCHANGED: Final = Preparation()


class Prepared:
    """The images of a source, prepared, as PNG.

    Args:
      source: the images.
      preparation: what is done to them.
      max_pixels: that one of them may have.
    """

    def __init__(self, source: Source, preparation: Preparation, max_pixels: int = MAX_PIXELS) -> None:
        self._source, self._preparation, self._max_pixels = source, preparation, max_pixels
        self.keys, self.labels = source.keys, source.labels
        self.class_names, self.notes = source.class_names, source.notes
        self.readers: int | None = getattr(source, "readers", None)

    keys: Sequence[str]
    labels: Sequence[int] | npt.NDArray[np.int32]
    class_names: Sequence[str]
    notes: Sequence[str]

    def __len__(self) -> int:
        return len(self._source)

    def read(self, number: int) -> bytes:
        """The PNG. ValueError where the image cannot be decoded."""
        data = self._source.read(number)
        size = self._preparation.size(*image_info(data, max_pixels=self._max_pixels)[1:])
        if size[0] * size[1] > self._max_pixels:  # as of a thin image whose shorter edge is enlarged
            raise ValueError(f"becomes {size[0]}x{size[1]} pixels, more than {self._max_pixels} (--max-pixels)")
        buffer = io.BytesIO()
        self._preparation(rgb_image(data)).save(buffer, "PNG")
        return buffer.getvalue()

    def where(self, number: int) -> str:
        return self._source.where(number)

    def image_size(self, number: int) -> tuple[int, int]:
        """(height, width) of the PNG, which is not made for it."""
        _, height, width = image_info(self._source.read(number), max_pixels=self._max_pixels)
        return self._preparation.size(height, width)
