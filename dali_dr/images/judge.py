"""The one judge of images: what enters a data set is shown by the decoders that training uses as Pillow shows it.

Shown means: all of it, and regions of it, to the bytes of Pillow's ``convert("RGB")``, on the CPU: by DALI's decoder, and
JPEGs by our own, too. (nvJPEG's pixels differ a little from everyone's; that gap is measured apart, docs/gpu.md.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from dali_dr.augment.views import MAX_SIDE
from dali_dr.encoded import MAX_PIXELS, ImageFault, image_info, rgb_image
from dali_dr.images.convert import format_of
from dali_dr.images.decoder import Decoder, Pixels, Region
from dali_dr.images.jpeg import is_jpeg, is_plain, is_smoothed
from dali_dr.images.ours import decoded

T = TypeVar("T")
U = TypeVar("U")
BATCH: Final = 32
"""Images that are judged together: enough for all processors, and small in memory."""
_PIXELS: Final = 1 << 25  # that are decoded together, unless one image has more: 100 MB, twice
CONVERT: Final = "--convert stores what Pillow shows of it as PNG; or leave it out"
SMALLER: Final = "scale it down, cut it, or leave it out"
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
        self._pool = ThreadPoolExecutor(threads + 1, "judge")  # one waits for the decoder, which has threads of its own
        # More than that DALI parses on several threads, and where that of the calling one fails, it takes away the memory that
        # the others still use (SetupImpl in dali/operators/imgcodec/image_decoder.h, 2.4): the process may end.
        self._batch = min(BATCH, 4 * (threads + 1))
        self._decoder = Decoder(threads, self._batch)
        self._decoding = threading.Lock()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, images: Sequence[bytes]) -> list[Shown | Refusal]:
        """What becomes of each of the encoded ``images``, any number of them; from any number of threads at once."""
        verdicts: list[Shown | Refusal] = [self._header(data) for data in images]
        if self._decode:
            batches = [self._pool.submit(self._judge, images, places, verdicts) for places in self._batches(verdicts)]
            for batch in batches:
                batch.result()
        return verdicts

    def map(self, work: Callable[[U], T], images: Sequence[U]) -> list[T]:
        """``work`` of each image, in parallel."""
        return list(self._pool.map(work, images))

    def _header(self, data: bytes) -> Shown | Refusal:
        try:
            shown = Shown(*image_info(data, max_pixels=self.max_pixels))
        except ImageFault as error:
            readable = error.remedy is None and format_of(data, self.max_pixels) is not None
            return Refusal(error.reason, error.remedy or (CONVERT if readable else REPLACE))
        if max(shown.height, shown.width) > MAX_SIDE:
            size = f"{shown.height}x{shown.width}"
            return Refusal(f"the image has {size} pixels, a shard holds up to {MAX_SIDE} a side", SMALLER)
        return shown

    def _batches(self, verdicts: Sequence[Shown | Refusal]) -> Iterator[list[int]]:
        """The places of images that are decoded together."""
        places: list[int] = []
        pixels = 0
        for place, verdict in enumerate(verdicts):
            if isinstance(verdict, Refusal):
                continue
            size = verdict.height * verdict.width
            if places and (len(places) == self._batch or pixels + size > _PIXELS):
                yield places
                places, pixels = [], 0
            places.append(place)
            pixels += size
        if places:
            yield places

    def _judge(self, images: Sequence[bytes], places: list[int], verdicts: list[Shown | Refusal]) -> None:
        """Decodes the images at ``places`` by both, and notes what is against them."""
        plain: list[_Trial] = []
        others: list[_Trial] = []
        # Pillow first: what it refuses need not be tried on a decoder, whose pipeline ends where one image fails.
        for place in places:
            data, size = images[place], _size(verdicts[place])
            try:
                image = rgb_image(data)
            except ValueError as error:
                verdicts[place] = Refusal(f"Pillow cannot read it: {error}", REPLACE)
                continue
            if is_smoothed(data):
                verdicts[place] = _SMOOTHED
            elif is_plain(data):
                plain.append(_Trial(place, _REGIONS[0](*size), image))
            else:
                others.append(_Trial(place, _REGIONS[0](*size), image))
        with self._decoding:
            self._compare(images, plain, verdicts, whole=False)
            self._compare(images, others, verdicts, whole=True)
            more = [
                trial._replace(region=region(*_size(verdicts[trial.place])))
                for trial in others
                if isinstance(verdicts[trial.place], Shown)
                for region in _REGIONS[1:]
            ]
            for start in range(0, len(more), self._batch):
                self._compare(images, more[start : start + self._batch], verdicts, whole=False)
        for trial in (*plain, *others, *more, *map(_of_all, others)):
            if isinstance(verdicts[trial.place], Shown) and is_jpeg(data := images[trial.place]):
                verdicts[trial.place] = _against(trial, (None, decoded(data, trial.region))) or verdicts[trial.place]

    def _compare(
        self, images: Sequence[bytes], trials: Sequence[_Trial], verdicts: list[Shown | Refusal], whole: bool
    ) -> None:
        """Decodes what is tried, and refuses what is not as Pillow has it."""
        encoded = [images[trial.place] for trial in trials]
        for at, *pixels in self._decoder.decode(encoded, [trial.region for trial in trials], whole=whole):
            problem = _against(trials[at], pixels)
            if problem is not None:
                verdicts[trials[at].place] = problem


class _Trial(NamedTuple):
    """An image, by its place, of which a region is tried; and what Pillow shows of it."""

    place: int
    region: Region
    image: Image.Image


# Of a plain JPEG the first is tried, which costs little, as a decoder need not read to the end. The rest is Pillow's word alone:
# what the decoder does with a plain JPEG from its first row to its last is what Pillow does, as both are libjpeg-turbo, and
# costs as much again; regions are what it goes a way of its own for. tests/test_judge.py holds thousands of damaged plain JPEGs,
# whole and in all regions, against that.
_REGIONS: Final[tuple[Callable[[int, int], Region], ...]] = (
    lambda h, w: (h // 8, w * 3 // 8, -(-h // 8), -(-w // 4)),
    lambda h, w: (0, 0, -(-h // 8), -(-w // 4)),
    lambda h, w: (h - -(-h // 8), w - -(-w // 4), -(-h // 8), -(-w // 4)),
    lambda h, w: (h // 2, 0, -(-h // 5), w),
    lambda h, w: (h * 2 // 3, w * 2 // 3, 1, 1),
)


def _of_all(trial: _Trial) -> _Trial:
    """The same of the whole image."""
    return trial._replace(region=(0, 0, trial.image.height, trial.image.width))


def _size(verdict: Shown | Refusal) -> tuple[int, int]:
    assert isinstance(verdict, Shown)
    return verdict.height, verdict.width


def _against(trial: _Trial, got: Sequence[Pixels | str | None]) -> Refusal | None:
    """What is against an image of which the decoder shows ``got``: all of it, if not None, and the region."""
    for one in got:
        if isinstance(one, str):
            return Refusal(f"the decoder that training uses cannot decode it, although Pillow can: {one}", CONVERT)
    whole, part = got
    y, x, height, width = trial.region
    region = f" in the region of {height}x{width} pixels at row {y}, column {x}"
    for what, ours, image in (
        ("", whole, trial.image),
        (region, part, trial.image.crop((x, y, x + width, y + height))),
    ):
        if isinstance(ours, np.ndarray) and not np.array_equal(ours, theirs := np.asarray(image)):
            return Refusal(
                f"the decoder that training uses shows {_difference(ours, theirs)} than Pillow{what}", CONVERT
            )
    return None


def _difference(ours: Pixels, theirs: Pixels) -> str:
    if ours.shape != theirs.shape:
        return f"another size ({ours.shape[0]}x{ours.shape[1]} instead of {theirs.shape[0]}x{theirs.shape[1]})"
    gap = np.abs(ours.astype(np.int16) - theirs)
    return f"other pixels (up to {gap.max()} levels in {(gap > 0).mean():.1%} of the values)"
