"""Stored views, replayed through the operator that training uses (on the CPU), of one image or of many."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_dr.augment.fresh import resize_of
from dali_dr.augment.views import NO_PARTNER, Views
from dali_dr.errors import DaliDrError, shown
from dali_dr.images.decoder import cleaned
from dali_dr.loader.graph import view_pipeline
from dali_dr.shards.dataset import Dataset

Pixels = npt.NDArray[np.uint8]


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
    replayer = Replayer(dataset, images=1, views=len(views), threads=1)
    yield from replayer.replay([Wanted(number, dataset.image(number), views)])[0]


def named_view(dataset: Dataset, number: int, row: int) -> str:
    """What a view is called where one is told of."""
    return f"{dataset.keys[number]}, view {row}"


class Replayer:
    """Replays views of a few images at a time, from any thread.

    Args:
      dataset: a reinforced data set, that they are of.
      images: in a call, at most.
      views: of an image, at most.
      threads: of DALI.
    """

    def __init__(self, dataset: Dataset, *, images: int, views: int, threads: int) -> None:
        spec = dataset.spec
        self._dataset, self._mixing = dataset, spec.mixing is not None
        self._inputs: tuple[Any, ...] = ()
        self._one = threading.Lock()
        self._make = partial(
            view_pipeline,
            lambda info: self._inputs,
            batch_size=images * views if self._mixing else images,
            mixing=self._mixing,
            device="cpu",
            device_id=None,
            num_threads=threads,
            size=(spec.size, spec.size),
            stored_size=spec.size,
            interpolation=spec.interpolation,
            resize_shorter=resize_of(spec),
            prefetch=1,  # so that a run takes these inputs and no later ones
        )
        self._pipeline = self._make()

    def replay(self, wanted: Sequence[Wanted]) -> list[Pixels]:
        """Of each image its views, (views, size, size, 3) uint8 RGB; mixed ones rounded.

        Raises:
          DaliDrError: an image that cannot be shown.
        """
        inputs = self._mixed(wanted) if self._mixing else self._unmixed(wanted)
        with self._one:
            self._inputs = inputs
            try:
                (out,) = self._pipeline.run()
            except RuntimeError as error:
                self._pipeline = self._make()  # one that has failed runs no more
                keys = ", ".join(self._dataset.keys[one.number] for one in wanted)
                raise DaliDrError(f"views of samples {keys} cannot be shown: {cleaned(str(error))}") from error
            # Copied: DALI may reuse the memory in the next run.
            views = [np.array(out[place]) for place in range(len(out))]
        if self._mixing:  # an entry per view, floats
            ends = np.cumsum([len(one.views) for one in wanted])[:-1]
            views = np.split(np.rint(np.stack(views)).astype(np.uint8), ends)
        return [np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)) for pixels in views]

    def replay_each(self, want: Wanted) -> tuple[Pixels, dict[int, str]]:
        """The views of one image as `replay` gives them, where the partners of some cannot be shown.

        Returns:
          The views, black where they cannot be shown; and what is wrong with these, by their places.

        Raises:
          DaliDrError: the image itself cannot be shown.
        """
        try:
            return self.replay([want])[0], {}
        except DaliDrError:
            if not self._mixing:
                raise
        self.replay([replace(want, views=_alone(want.views.take([0])))])  # which tells whose fault it is
        size = self._dataset.spec.size
        pixels, faults = np.zeros((len(want.views), size, size, 3), np.uint8), {}
        for place in range(len(want.views)):
            view = want.views.take([place])
            try:
                pixels[place] = self.replay([replace(want, views=view)])[0][0]
            except DaliDrError as error:
                assert view.mix is not None
                partner = self._dataset.keys[int(view.mix.partner[0])]
                faults[place] = shown(f"its partner {partner} cannot be shown: {error}")
        return pixels, faults

    def _unmixed(self, wanted: Sequence[Wanted]) -> tuple[Any, ...]:
        return [np.frombuffer(one.image, np.uint8) for one in wanted], [one.views.pack() for one in wanted]

    def _mixed(self, wanted: Sequence[Wanted]) -> tuple[Any, ...]:
        """An entry per view: each image and each partner is decoded once."""
        words = [row for one in wanted for row in one.views.pack()]
        partners = np.concatenate([one.views.mix.partner for one in wanted if one.views.mix is not None]).tolist()
        numbers = sorted({number for number in partners if number >= 0})
        slots = {number: np.int32(slot) for slot, number in enumerate(numbers)}
        places = [np.int32(place) for place, one in enumerate(wanted) for _ in range(len(one.views))]
        partner_places = [slots.get(number, np.int32(0)) for number in partners]  # where there is none, any will do

        def padded(files: list[bytes]) -> list[Any]:
            return [np.frombuffer(file, np.uint8) for file in files] + [_ONE_PIXEL] * (len(words) - len(files))

        images = padded([one.image for one in wanted])
        return images, words, places, padded([self._dataset.image(number) for number in numbers]), partner_places


def _alone(views: Views) -> Views:
    """The same views without what is mixed into them."""
    assert views.mix is not None
    mix = views.mix
    partner = np.full_like(mix.partner, NO_PARTNER)
    nothing = replace(
        mix, partner=partner, lam=np.ones_like(mix.lam), cut=np.zeros_like(mix.cut), swapped=np.zeros_like(mix.swapped)
    )
    return replace(views, mix=nothing)


def _one_pixel() -> Any:
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


_ONE_PIXEL: Final = _one_pixel()
