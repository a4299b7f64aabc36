"""Images of which some may not be readable: they come without bytes, and why is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dali_dr.encoded import MAX_PIXELS, image_info
from dali_dr.errors import ShardError, shown
from dali_dr.sources.source import Images


class Readable:
    """Images that give no bytes where the image's file cannot be read, and remember why.

    Args:
      images: what is read.
      max_pixels: that an image may have.
    """

    def __init__(self, images: Images, max_pixels: int = MAX_PIXELS) -> None:
        self._images, self._max_pixels = images, max_pixels
        self._problems: dict[int, str] = {}
        self.keys: Sequence[str] = images.keys
        self.labels: Sequence[int] | npt.NDArray[np.int32] = images.labels

    def __len__(self) -> int:
        return len(self._images)

    def read(self, number: int) -> bytes:
        """The encoded image ``number``, b"" where it cannot be read."""
        try:
            return self._images.read(number)
        except (OSError, ShardError, ValueError) as error:  # ValueError: a name that no file can have
            self._problems[number] = shown(f"cannot be read: {error}")
            return b""

    def problem(self, number: int, data: bytes) -> str:
        """Why image ``number``, of the encoded bytes ``data``, has no views."""
        if number in self._problems:
            return self._problems[number]
        try:
            image_info(data, full=True, max_pixels=self._max_pixels)
        except ValueError as error:
            return str(error)
        return "it came without views"

    def where(self, number: int) -> str:
        """As `Images` has it."""
        return self._images.where(number)
