"""Stored views, replayed through the operator that training uses (on the CPU), of one image or of many."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_dr.augment.fresh import resize_of
from dali_dr.augment.views import Views
from dali_dr.errors import DaliDrError
from dali_dr.images.decoder import cleaned
from dali_dr.loader.graph import view_pipeline
from dali_dr.shards.dataset import Dataset

Pixels = npt.NDArray[np.uint8]
_AT_ONCE: Final = 16  # images in a batch: enough to keep some threads at work


@dataclass(frozen=True)
class Wanted:
    """Views of one image.

    Attributes:
      number: of the sample.
      image: its encoded bytes.
      views: those to replay, one or more.
    """

    number: int
    image: bytes
    views: Views


def spread(count: int, wanted: int) -> list[int]:
    """Up to ``wanted`` of the numbers 0 … count - 1, evenly spread, rising and each once, the first and last among them."""
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [place * (count - 1) // (wanted - 1) for place in range(wanted)]


def replay_views(dataset: Dataset, number: int, rows: Sequence[int] | npt.NDArray[Any]) -> Iterator[Pixels]:
    """Replays stored views of one sample.

    Yields:
      (size, size, 3) uint8 RGB per row; mixed views rounded.
    """
    views = dataset.reinforcements(number).take(np.asarray(rows))
    wanted = [Wanted(number, dataset.image(number), views)]
    for _, pixels in replay_many(dataset, wanted, most=len(views), threads=1):
        yield from pixels


def replay_many(
    dataset: Dataset, wanted: Iterable[Wanted], *, most: int, threads: int
) -> Iterator[tuple[Wanted, Pixels]]:
    """Replays views of many images, in batches, the images taken a batch or two ahead.

    Args:
      dataset: that they are of.
      wanted: views of images, in any number.
      most: views of an image, at most.
      threads: of DALI.

    Yields:
      Each of ``wanted`` in its order, with (views, size, size, 3) uint8 RGB; mixed views rounded.

    Raises:
      DaliDrError: an image that cannot be shown.
    """
    feed = _Feed(dataset, wanted, most)
    spec = dataset.spec
    pipeline = view_pipeline(
        feed,
        batch_size=feed.capacity,
        mixing=spec.mixing is not None,
        device="cpu",
        device_id=None,
        num_threads=threads,
        size=(spec.size, spec.size),
        stored_size=spec.size,
        interpolation=spec.interpolation,
        resize_shorter=resize_of(spec),
        prefetch=1,
    )
    while True:
        try:
            (out,) = pipeline.run()
        except StopIteration:
            return
        except RuntimeError as error:
            if feed.failure is not None:
                raise feed.failure from None
            keys = ", ".join(dict.fromkeys(dataset.keys[one.number] for batch in feed.begun for one in batch))
            raise DaliDrError(f"views of samples {keys} cannot be shown: {cleaned(str(error))}") from error
        batch = feed.begun.popleft()
        if spec.mixing is None:
            pixels = [np.asarray(out[place]) for place in range(len(batch))]
        else:  # an entry per view, floats
            ends = np.cumsum([len(one.views) for one in batch])[:-1]
            rounded = [np.rint(np.asarray(out[place])).astype(np.uint8) for place in range(len(out))]
            pixels = np.split(np.stack(rounded), ends)
        for one, views in zip(batch, pixels, strict=True):
            yield one, np.ascontiguousarray(views.transpose(0, 2, 3, 1))


class _Feed:
    """Gives the pipeline its batches, and keeps what they are of until they come out."""

    def __init__(self, dataset: Dataset, wanted: Iterable[Wanted], most: int) -> None:
        self._dataset, self._mixing = dataset, dataset.spec.mixing is not None
        self._wanted = iter(wanted)
        self._left: Wanted | None = None  # what had no room in the batch before
        self.begun: deque[list[Wanted]] = deque()
        self.failure: BaseException | None = None
        self.capacity = _AT_ONCE * most if self._mixing else _AT_ONCE

    def __call__(self, info: Any) -> tuple[Any, ...]:
        try:
            batch = list(self._taken())
            if not batch:
                raise StopIteration
            self.begun.append(batch)
            if self._mixing:
                return self._mixed(batch)
        except StopIteration:
            raise
        except BaseException as error:  # DALI would say something else
            self.failure = error
            raise
        return [np.frombuffer(one.image, np.uint8) for one in batch], [one.views.pack() for one in batch]

    def _taken(self) -> Iterator[Wanted]:
        """The images of the next batch; with mixing as many as have views for it."""
        room = self.capacity
        while room > 0:
            one = self._left or next(self._wanted, None)
            self._left = None
            if one is None:
                return
            need = len(one.views) if self._mixing else 1
            if need > room and room < self.capacity:
                self._left = one
                return
            room -= need
            yield one

    def _mixed(self, batch: list[Wanted]) -> tuple[Any, ...]:
        """The inputs of a mixing pipeline, an entry per view: each image and each partner is decoded once."""
        words = [row for one in batch for row in one.views.pack()]
        wanted = np.concatenate([one.views.mix.partner for one in batch if one.views.mix is not None])
        numbers = sorted({int(number) for number in wanted if number >= 0})
        images = [np.frombuffer(one.image, np.uint8) for one in batch]
        partners = [np.frombuffer(self._dataset.image(number), np.uint8) for number in numbers]
        places = [np.int32(place) for place, one in enumerate(batch) for _ in range(len(one.views))]
        slots = {number: np.int32(slot) for slot, number in enumerate(numbers)}
        partner_places = [slots.get(int(number), np.int32(0)) for number in wanted]  # where there is none, any will do

        def padded(files: list[Any]) -> list[Any]:
            return files + [_ONE_PIXEL] * (len(words) - len(files))

        return padded(images), words, places, padded(partners), partner_places


def _one_pixel() -> Any:
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


_ONE_PIXEL: Final = _one_pixel()
