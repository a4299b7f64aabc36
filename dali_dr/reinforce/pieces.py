"""The pieces of a run: shard k holds images k*S .. (k+1)*S-1, and is a function of them and the settings alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dali_dr.ahead import ahead, batches
from dali_dr.errors import ShardError
from dali_dr.images.judge import BATCH, Refusal
from dali_dr.progress import bar as progress_bar
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.networks import Predictor
from dali_dr.reinforce.select import WIDE, Select, select
from dali_dr.shards.one_shard import OnError
from dali_dr.shards.report import Refused
from dali_dr.shards.sample import Place, Sample
from dali_dr.sources.source import Images, readers_of

_READERS = 8  # threads that wait for files; of a store more


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What the shards of a run are made of.

    Attributes:
      images: in the order of the data set.
      generation: what is drawn and who predicts; its num_views are kept.
      samples_per_shard: S.
      on_error: what becomes of samples that cannot be stored.
      pool: candidate views per image, of which num_views are kept; None: none are drawn in vain.
      select: how they are chosen.
      place: where image ``number`` lies, for a sidecar data set; None: each shard holds its images.
      progress: show a progress bar while all are judged.
    """

    images: Images
    generation: Generation
    samples_per_shard: int
    on_error: OnError = "raise"
    pool: int | None = None
    select: Select = "random"
    place: Callable[[int], Place] | None = None
    progress: bool = False

    def __len__(self) -> int:
        return -(-len(self.images) // self.samples_per_shard)

    def numbers(self, piece: int) -> range:
        """The images of ``piece``."""
        size = self.samples_per_shard
        return range(piece * size, min((piece + 1) * size, len(self.images)))

    @property
    def batch(self) -> int:
        """Images per teacher batch, which are cut from a piece's beginning."""
        return self._drawn.group

    def samples(self, numbers: range, teacher: Predictor) -> Iterator[Sample]:
        """The samples of images ``numbers``, predicted by ``teacher``; those that cannot be stored say why.

        Args:
          numbers: a piece's, or whole batches of it, of which the last of a piece is as long as it comes.
          teacher: to be asked in the place of the generation's.
        """
        drawn = dataclasses.replace(self._drawn, teacher=teacher)
        for number, sample in zip(numbers, drawn.samples(self.images, numbers.start, numbers.stop), strict=True):
            if sample.reinforcements is not None and self.pool is not None:
                sample = self._selected(sample, self.select in WIDE)
            yield self._placed(number, sample)

    def entering(self, numbers: range) -> Iterator[Sample]:
        """The same samples without views and predictions."""
        with self._drawn.judge() as judge:
            entrance = self._drawn.entrance(self.images, judge, tile=True)
            for batch in batches(iter(numbers), BATCH):
                yield from map(self._placed, batch, entrance.samples(batch))

    @property
    def _drawn(self) -> Generation:
        """What is drawn of each image, of which a part may be kept."""
        g = self.generation
        wide = self.pool is not None and self.select in WIDE
        return dataclasses.replace(
            g,
            num_views=self.pool or g.num_views,
            topk=g.teacher.num_outputs if wide else g.topk,
            mend=self.place is None,
        )

    def _placed(self, number: int, sample: Sample) -> Sample:
        return sample if self.place is None else dataclasses.replace(sample, place=self.place(number))

    def refused(self) -> dict[int, Refused]:
        """The images that may not enter, all of which are read and judged to find out, by number."""
        g = dataclasses.replace(self.generation, mend=self.place is None)
        found: dict[int, Refused] = {}
        count = readers_of(self.images, _READERS)
        with g.judge() as judge, ThreadPoolExecutor(count, "read") as readers:
            entrance = g.entrance(self.images, judge, tile=False)
            read = ahead(readers, entrance.read, range(len(self.images)), max(2 * BATCH, count + BATCH))
            with progress_bar(total=len(self.images), unit="img", desc="judging", disable=not self.progress) as bar:
                for batch in batches(read, BATCH):
                    for image, sample in zip(batch, entrance.admit(batch), strict=True):
                        if isinstance(sample.problem, Refusal):
                            why = ShardError(reason=sample.problem.reason, remedy=sample.problem.remedy)
                            found[image.number] = Refused.of(sample, why)
                    bar.update(len(batch))
        return found

    def without(self, refused: Collection[int]) -> Pieces:
        """Pieces of the images that are not ``refused``, numbered anew; none of these may be left out any more."""
        numbers = [number for number in range(len(self.images)) if number not in refused]
        place = self.place
        return dataclasses.replace(
            self,
            images=Chosen(self.images, numbers),
            on_error="raise",
            place=None if place is None else lambda number: place(numbers[number]),
        )

    def _selected(self, sample: Sample, wide: bool) -> Sample:
        """``sample`` with the best ``num_views`` of its candidates."""
        views, g = sample.reinforcements, self.generation
        assert views is not None
        probs = views.soft_probs
        if wide:  # what is looked at is comparable by class, not by rank
            probs = np.zeros_like(probs)
            np.put_along_axis(probs, views.soft_ids.astype(np.int64), views.soft_probs, axis=1)
        kept = views.take(select(probs, g.num_views, self.select, key=sample.key, seed=g.seed, label=sample.label))
        return dataclasses.replace(sample, reinforcements=kept.likeliest(g.topk))


class Chosen:
    """The images ``numbers`` of others."""

    def __init__(self, images: Images, numbers: Sequence[int]) -> None:
        self._images, self._numbers = images, numbers
        self.keys: Sequence[str] = [images.keys[number] for number in numbers]
        self.labels: Sequence[int] = [int(images.labels[number]) for number in numbers]
        self.readers: int | None = getattr(images, "readers", None)

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, number: int) -> bytes:
        return self._images.read(self._numbers[number])

    def where(self, number: int) -> str:
        return self._images.where(self._numbers[number])
