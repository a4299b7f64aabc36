"""The entrance of a data set: images of a source as samples, read, judged, mended; those that may not enter say why."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import google_crc32c

from dali_dr.errors import ShardError, shown
from dali_dr.images.admit import Admission, Admitted
from dali_dr.images.judge import Refusal
from dali_dr.shards.sample import Origin, Sample
from dali_dr.sources.remote import Unavailable
from dali_dr.sources.source import Images, readers_of

_REMEDY = "make it a file that can be read, or take it out of the source"


class Read(NamedTuple):
    """An image as its source has it: its number, its bytes, and why there are none."""

    number: int
    data: bytes
    unread: Refusal | None


class Entrance:
    """Makes samples without reinforcements of the images of a source. From any thread.

    Args:
      images: of the source.
      admission: who admits them.
    """

    def __init__(self, images: Images, admission: Admission) -> None:
        self._images, self._admission = images, admission

    def read(self, number: int) -> Read:
        """Image ``number``. Unavailable: its store does not answer."""
        try:
            return Read(number, self._images.read(number), None)
        except Unavailable:  # no fault of the image: to leave it out would be one
            raise
        except (OSError, ShardError, ValueError) as error:  # ValueError: a name that no file can have
            return Read(number, b"", Refusal(shown(f"cannot be read: {error}"), _REMEDY))

    def admit(self, batch: Sequence[Read]) -> list[Sample]:
        """Their samples; `Sample.problem` of those that may not enter, `Sample.origin` of all."""
        readable = [image.data for image in batch if image.unread is None]
        verdicts = iter(self._admission(readable) if readable else ())
        return [self._sample(image, image.unread or next(verdicts)) for image in batch]

    def samples(self, numbers: Sequence[int]) -> list[Sample]:
        """The samples of images ``numbers``, which are judged together, and of a store read at once."""
        readers = min(readers_of(self._images, 1), len(numbers))
        if readers < 2:
            return self.admit([self.read(number) for number in numbers])
        with ThreadPoolExecutor(readers, "read") as pool:
            return self.admit(list(pool.map(self.read, numbers)))

    def _sample(self, image: Read, verdict: Admitted | Refusal) -> Sample:
        number, data, _ = image
        key, label, path = self._images.keys[number], int(self._images.labels[number]), self._images.where(number)
        if isinstance(verdict, Refusal):
            return Sample(key, data, label, problem=verdict, origin=Origin(path))
        origin = Origin(path)
        if verdict.data is not data:
            origin = Origin(path, verdict.change, int(google_crc32c.value(data)), len(data))
        return Sample(key, verdict.data, label, origin=origin, shown=verdict.shown, tiling=verdict.tiling)
