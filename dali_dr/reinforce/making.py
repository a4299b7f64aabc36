"""The samples of one shard in the making: from its journal what is there and still right, the rest made."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator

from dali_dr.reinforce.journal import Chunk, Entry, Journal, crc_of, sealed
from dali_dr.reinforce.measure import Meter, confidence_of
from dali_dr.reinforce.pieces import Pieces
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.sample import Sample

Step = Callable[[int], object]  # told how many more images are done
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Making:
    """One shard in the making.

    Attributes:
      pieces: of the run.
      piece: number of the shard.
      draft: the settings.
      meter: of the work.
      journal: of the shard.
      step: see `Step`.
    """

    pieces: Pieces
    piece: int
    draft: Manifest
    meter: Meter
    journal: Journal
    step: Step | None = None

    def samples(self) -> Iterator[Sample]:
        """All samples of the shard in order, with their records; those that cannot be stored say why."""
        count = len(self.pieces.numbers(self.piece))
        at = 0
        for chunk in self.journal.chunks():
            yield from self._made(range(at, chunk.begin))
            taken = 0
            for sample in self._taken(chunk):
                self.meter.see(chunk.entries[taken].confidence)
                taken += 1
                yield self._stepped(sample)
            share = taken / len(chunk.entries)
            self.meter.take(chunk.seconds * share, chunk.teacher_seconds * share)
            _log.info("shard %d: %d images from before", self.piece, taken)
            yield from self._made(range(chunk.begin + taken, chunk.end))
            at = chunk.end
        yield from self._made(range(at, count))

    def _made(self, places: range) -> Iterator[Sample]:
        """The samples at ``places`` of the shard, which are whole batches, made and journalled."""
        if not places:
            return
        meter, journal = self.meter, self.journal
        journal.begin(places.start, meter.seconds, meter.teacher_seconds)
        for sample in self.pieces.samples(self._numbers(places), meter.teacher):
            confidence, done = confidence_of(sample), sealed(sample, self.draft)
            meter.see(confidence)
            entry = Entry(sample.key, crc_of(sample), done.record, done.counts or (0, -1), confidence)
            journal.add(entry, meter.seconds, meter.teacher_seconds)
            yield self._stepped(done)

    def _taken(self, chunk: Chunk) -> Iterator[Sample]:
        """The samples of ``chunk``, up to the first batch with an image that changed."""
        batch = self.pieces.batch
        entering = self.pieces.entering(self._numbers(range(chunk.begin, chunk.end)))
        for first in range(0, len(chunk.entries), batch):
            entries = chunk.entries[first : first + batch]
            samples = list(itertools.islice(entering, len(entries)))
            if not all(entry.fits(sample) for entry, sample in zip(entries, samples, strict=True)):
                return
            for entry, sample in zip(entries, samples, strict=True):
                stored = {"record": entry.record, "counts": entry.counts} if entry.record is not None else {}
                yield dataclasses.replace(sample, **stored)  # type: ignore[arg-type]

    def _numbers(self, places: range) -> range:
        """The images of the source at ``places`` of the shard."""
        return self.pieces.numbers(self.piece)[places.start : places.stop]

    def _stepped(self, sample: Sample) -> Sample:
        if self.step is not None:
            self.step(1)
        return sample
