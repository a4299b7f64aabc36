"""The one judge of images: what enters a data set is shown by the decoder that training uses as Pillow shows it.

Shown means: all of it, and regions of it, to the bytes of Pillow's ``convert("RGB")``, on the CPU. (nvJPEG's pixels differ a
little from everyone's; that gap is measured apart, docs/gpu.md.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from dali_dr.encoded import MAX_PIXELS, ImageFault, image_info, rgb_image
from dali_dr.images.convert import format_of
from dali_dr.images.decoder import Decoder, Pixels, Region
from dali_dr.images.jpeg import is_plain, is_smoothed

BATCH: Final = 32
"""Images that are judged together: enough for all processors, and small in memory."""
_PIXELS: Final = 1 << 25  # that are decoded together, unless one image has more: 100 MB, twice
CONVERT: Final = "--convert stores what Pillow shows of it as PNG; or leave it out"
REPLACE: Final = "replace it by a whole copy, or leave it out"


@dataclass(frozen=True, slots=True)
class Shown:
    """An image that may enter.

    Attributes:
      suffix: of its container, as shards are written with.
      height, width: in pixels, EXIF orientation not applied.
    """

    suffix: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image that may not.

    Attributes:
      reason: what is wrong with it.
      remedy: what to do.
    """

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


_SMOOTHED: Final = Refusal(
    "it is a progressive JPEG without its last scans, of which decoders show a region otherwise than the same region of the "
    "whole",
    f"replace it by a whole copy; {CONVERT}",
)


class Judge:
    """Judges images by the batch, on all processors. Closed at the end, or a context manager.

    Args:
      max_pixels: that an image may have.
      threads: of the CPU; None: as many as there are.
      decode: False: look at headers only, which says little.
    """

    def __init__(self, *, max_pixels: int = MAX_PIXELS, threads: int | None = None, decode: bool = True) -> None:
        self.max_pixels = max_pixels
        self._decode = decode
        threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(threads, "judge")
        self._decoder = Decoder(threads, BATCH)
        self._lock = threading.Lock()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, images: Sequence[bytes]) -> list[Shown | Refusal]:
        """What becomes of each of the encoded ``images``, any number of them; from any thread, one at a time."""
        with self._lock:
            verdicts: list[Shown | Refusal] = [self._header(data) for data in images]
            if self._decode:
                for places in self._batches(verdicts):
                    self._judge(images, places, verdicts)
        return verdicts

    def _header(self, data: bytes) -> Shown | Refusal:
        try:
            return Shown(*image_info(data, max_pixels=self.max_pixels))
        except ImageFault as error:
            readable = error.remedy is None and format_of(data, self.max_pixels) is not None
            return Refusal(error.reason, error.remedy or (CONVERT if readable else REPLACE))

    def _batches(self, verdicts: Sequence[Shown | Refusal]) -> Iterator[list[int]]:
        """The places of images that are decoded together."""
        places: list[int] = []
        pixels = 0
        for place, verdict in enumerate(verdicts):
            if isinstance(verdict, Refusal):
                continue
            size = verdict.height * verdict.width
            if places and (len(places) == BATCH or pixels + size > _PIXELS):
                yield places
                places, pixels = [], 0
            places.append(place)
            pixels += size
        if places:
            yield places

    def _judge(self, images: Sequence[bytes], places: list[int], verdicts: list[Shown | Refusal]) -> None:
        """Decodes the images at ``places`` by both, and notes what is against them."""
        sizes = {place: _size(verdicts[place]) for place in places}
        wanted: dict[int, Pixels] = {}
        # Pillow first: what it refuses need not be tried on a decoder, whose pipeline ends where one image fails.
        for place, pixels in zip(places, self._pool.map(_by_pillow, (images[n] for n in places)), strict=True):
            if isinstance(pixels, str):
                verdicts[place] = Refusal(f"Pillow cannot read it: {pixels}", REPLACE)
            elif is_smoothed(images[place]):
                verdicts[place] = _SMOOTHED
            elif problem := self._decoder.unreadable(images[place]):
                verdicts[place] = _undecodable(problem)
            else:
                wanted[place] = pixels
        places = list(wanted)
        tried = [(place, regions(*sizes[place])[0]) for place in places]
        self._compare(images, tried, wanted, verdicts, whole=True)
        more = [
            (place, region)
            for place in places
            if isinstance(verdicts[place], Shown) and not is_plain(images[place])
            for region in regions(*sizes[place])[1:]
        ]
        for start in range(0, len(more), BATCH):
            self._compare(images, more[start : start + BATCH], wanted, verdicts, whole=False)

    def _compare(
        self,
        images: Sequence[bytes],
        tried: Sequence[tuple[int, Region]],
        wanted: Mapping[int, Pixels],
        verdicts: list[Shown | Refusal],
        whole: bool,
    ) -> None:
        """Decodes ``tried``, places and regions, and refuses what is not as ``wanted``."""
        decoded = self._decoder.decode([images[n] for n, _ in tried], [region for _, region in tried], whole=whole)
        for at, *pixels in decoded:
            place, region = tried[at]
            problem = _against(wanted[place], pixels, region)
            if problem is not None:
                verdicts[place] = problem


def regions(height: int, width: int) -> list[Region]:
    """Regions of an image of (height, width) pixels that are tried: of a plain JPEG the first, which costs little, as a decoder
    need not read to the end; of others also corners, a whole stripe, a pixel."""
    h, w = -(-height // 8), -(-width // 4)
    return [
        (height // 8, width * 3 // 8, h, w),
        (0, 0, h, w),
        (height - h, width - w, h, w),
        (height // 2, 0, -(-height // 5), width),
        (height * 2 // 3, width * 2 // 3, 1, 1),
    ]


def _size(verdict: Shown | Refusal) -> tuple[int, int]:
    assert isinstance(verdict, Shown)
    return verdict.height, verdict.width


def _by_pillow(data: bytes) -> Pixels | str:
    try:
        return np.asarray(rgb_image(data))
    except ValueError as error:
        return str(error)


def _against(want: Pixels, got: Sequence[Pixels | str | None], region: Region) -> Refusal | None:
    """What is against an image of the pixels ``want``; ``got`` is what the decoder shows: all of it, and ``region``."""
    if isinstance(got[0], str):
        return _undecodable(got[0])
    y, x, height, width = region
    whole, part = got
    for what, ours, theirs in (
        ("", whole, want),
        (
            f" in the region of {height}x{width} pixels at row {y}, column {x}",
            part,
            want[y : y + height, x : x + width],
        ),
    ):
        if ours is not None and not np.array_equal(ours, theirs):
            return Refusal(
                f"the decoder that training uses shows {_difference(ours, theirs)} than Pillow{what}", CONVERT
            )
    return None


def _undecodable(why: str) -> Refusal:
    return Refusal(f"the decoder that training uses cannot decode it, although Pillow can: {why}", CONVERT)


def _difference(ours: Pixels | str, theirs: Pixels) -> str:
    assert not isinstance(ours, str)
    if ours.shape != theirs.shape:
        return f"another size ({ours.shape[0]}x{ours.shape[1]} instead of {theirs.shape[0]}x{theirs.shape[1]})"
    gap = np.abs(ours.astype(np.int16) - theirs)
    return f"other pixels (up to {gap.max()} levels in {(gap > 0).mean():.1%} of the values)"
