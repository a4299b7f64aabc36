"""The pipeline's input: numbers of samples and views, from a place of the run on."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from dali_dr.keyed import Int64
from dali_dr.loader.state import Place
from dali_dr.sampling.sampler import Sampler, Share

if TYPE_CHECKING:
    from dali_dr.loader.supply import Supply


class Feed:
    """Hands shares to the pipeline, which runs ahead of the consumer, and keeps them until the consumer has got them.

    The run has no end: after an epoch's last share comes the next epoch's first, so that prefetching does not drain. What
    the user's functions (a curriculum, sizes) raise for an epoch ahead is raised when that epoch is due, perhaps never:
    until then the pipeline is given fillers, which become stale.

    Args:
      sampler: of the run.
      place: the first share is the one at this place.
      with_size: batches differ in shape, so the size goes with them.
      pairs: a chosen view stands for two, rows 2v and 2v + 1.
      supply: of a data set in a store: what a share needs is waited for before the pipeline is given it.
    """

    def __init__(
        self, sampler: Sampler, place: Place, with_size: bool, pairs: bool, supply: Supply | None = None
    ) -> None:
        self._sampler = sampler
        self._with_size = with_size
        self._pairs = pairs
        self._supply = supply
        self.stale = 0
        """Batches that the pipeline was given for a place that was left since: to be thrown away before any other."""
        self._given: tuple[Any, ...] = ()
        self._begin(place)

    def _begin(self, place: Place) -> None:
        self._run = self._sampler.run(place.epoch, place.consumed)
        self._last = place  # of the run so far: where the next share begins, unless an epoch ends there
        self._shares: deque[tuple[Place, Share]] = deque()
        self._fed = 0  # of the shares kept, those that the pipeline has been given
        self._fillers = 0  # batches that the pipeline was given after these, for want of shares
        if self._supply is not None:
            self._supply.seek(place)

    def _at(self, number: int) -> tuple[Place, Share]:
        while len(self._shares) <= number:
            try:
                share = next(self._run)
            except Exception:
                self._run = self._sampler.run(self._last.epoch, self._last.consumed)  # a generator that raised is done
                raise
            begin = self._last if share.epoch == self._last.epoch else Place(share.epoch)
            self._shares.append((begin, share))
            self._last = Place(share.epoch, share.consumed)
        return self._shares[number]

    def seek(self, place: Place) -> Share:
        """The share at a place, which the consumer gets next; what was prepared for another place becomes stale."""
        spent = self._fillers > 0 and self._fed == 0
        if spent or self._at(0)[0] != place:
            self.stale += self._fed + self._fillers
            self._begin(place)
        return self._at(0)[1]

    def in_work(self) -> list[Share]:
        """What the pipeline has been given and the consumer has not."""
        return [share for _, share in itertools.islice(self._shares, self._fed)]

    def pop(self) -> None:
        """The consumer has got the share that it was to get next, or a stale one was thrown away."""
        if self.stale:
            self.stale -= 1
            return
        _, share = self._shares.popleft()
        self._fed -= 1
        if self._supply is not None:
            self._supply.passed(share)

    def _next(self) -> Share | None:
        """The next share for the pipeline, or None where it cannot be had but is not due yet."""
        if self._fillers:
            return None  # what was missing for these comes first
        try:
            share = self._at(self._fed)[1]
            if self._supply is not None:
                self._supply.need(share)
            return share
        except Exception:
            if self._fed:
                return None
            raise

    def __call__(self, info: Any) -> tuple[Any, ...]:
        """The next input of the pipeline, as `dali_dr.loader.graph.replay_pipeline` takes it."""
        share = self._next()
        if share is None:
            self._fillers += 1
            return self._given
        self._fed += 1
        self._given = inputs(share.samples, share.views, share.size, pairs=self._pairs, with_size=self._with_size)
        return self._given


def inputs(samples: Int64, views: Int64, size: tuple[int, int], *, pairs: bool, with_size: bool) -> tuple[Any, ...]:
    """One batch's input, as `dali_dr.loader.graph.replay_pipeline` takes it."""
    rows = views.astype(np.int32)
    given = samples, np.stack([2 * rows, 2 * rows + 1], axis=1) if pairs else rows
    return (*given, np.tile(np.array(size, np.int32), (len(samples), 1))) if with_size else given
