"""What each rank reads at each step: positions of an order, cut into global batches, cut into ranks' shares.

The whole state of a run is where the epoch's unread positions begin: positions 0 … consumed-1 were given out, by
however many ranks there were then. So a run can stop after any batch and go on with another world size.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from dali_dr.keyed import Int64, mix
from dali_dr.sampling.choice import Choice
from dali_dr.sampling.order import Order

LastBatch = Literal["partial", "drop", "fill"]

_SHAPE = 0x53484150  # stream of hashes that choose the shape of a batch


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of one batch: samples per rank, and the size of the views in pixels."""

    batch_size: int
    size: tuple[int, int]


Shapes = Callable[[int, int], Shape]
"""(epoch, first position) -> the shape of the global batch that starts there; the same on every rank."""


@dataclasses.dataclass(frozen=True)
class RandomShapes:
    """Every batch has one of several shapes, drawn evenly (the variable batch sampler of CVNets, arXiv 2206.02002)."""

    shapes: tuple[Shape, ...]
    seed: int = 0

    def __call__(self, epoch: int, begin: int) -> Shape:
        return self.shapes[int(mix(self.seed, _SHAPE, epoch, begin) % np.uint64(len(self.shapes)))]


@dataclasses.dataclass(frozen=True)
class Progressive:
    """One size per epoch: `size(epoch)`; for progressive resizing."""

    batch_size: int
    size: Callable[[int], int]

    def __call__(self, epoch: int, begin: int) -> Shape:
        size = self.size(epoch)
        return Shape(self.batch_size, (size, size))


@dataclasses.dataclass(frozen=True)
class Share:
    """One rank's part of one global batch.

    Attributes:
      epoch: epoch number, from 0.
      samples: (B,) int64 sample numbers; B may be smaller than the batch size at the end of an epoch.
      views: (B,) or (B, m) int64 rows of the samples' records; v < 0 is the fresh view number -v - 1.
      size: height and width of the views.
      consumed: positions of the epoch that all ranks have been given after this step.
    """

    epoch: int
    samples: Int64
    views: Int64
    size: tuple[int, int]
    consumed: int


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A pure function from a place in the run to one rank's samples and views.

    Attributes:
      order: what stands at each position of an epoch.
      choice: which views.
      shapes: how large batches are.
      rank, world_size: this process's place; shares of different ranks are disjoint and together complete.
      last_batch: what to do when an epoch does not fill its last global batch. "partial": the ranks share what is left
        evenly, so some may get one sample fewer (or, with fewer left than ranks, none, and then end the epoch one step
        earlier); "drop": leave it out; "fill": fill up with samples from the beginning of the same epoch's order.
      bad: samples that cannot be read; the next good one of the order stands in for each.
    """

    order: Order
    choice: Choice
    shapes: Shapes
    rank: int = 0
    world_size: int = 1
    last_batch: LastBatch = "partial"
    bad: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not within world_size {self.world_size}")
        if self.last_batch not in ("partial", "drop", "fill"):
            raise ValueError(f'last_batch must be "partial", "drop" or "fill", not {self.last_batch!r}')
        if self.order.length < 1:
            raise ValueError("the order holds no samples")
        if next(self.epoch(0), None) is None:
            raise ValueError(
                f"rank {self.rank} of {self.world_size} gets no batch: an epoch has {self.order.length} samples and "
                f"last_batch is {self.last_batch!r}. Use a smaller batch, fewer ranks or another last_batch"
            )

    def run(self, epoch: int = 0, consumed: int = 0, block: int = 16) -> Iterator[Share]:
        """This rank's shares from a place on, over all epochs to come.

        Args:
          epoch, consumed: the place: positions 0 … consumed-1 of this epoch are done.
          block: shares computed at once; the arithmetic of a batch is mostly NumPy's call overhead.
        """
        for number in itertools.count(epoch):
            places = self.epoch(number, consumed)
            while some := list(itertools.islice(places, block)):
                yield from self._shares(number, some)
            consumed = 0

    def epoch(self, epoch: int, consumed: int = 0) -> Iterator[_Place]:
        """Where this rank's batches of an epoch lie, from position `consumed` on."""
        while consumed < self.order.length:
            shape = self.shapes(epoch, consumed)
            if shape.batch_size < 1 or shape.batch_size % self.order.group:
                raise ValueError(
                    f"batch_size {shape.batch_size} is no positive multiple of {self.order.group}, the number of samples "
                    "that this order keeps together"
                )
            begin, whole = consumed, shape.batch_size * self.world_size
            consumed = min(begin + whole, self.order.length)
            if consumed - begin == whole or self.last_batch == "fill":
                first = begin + self.rank * shape.batch_size
                own = range(first, first + shape.batch_size)
            elif self.last_batch == "drop":
                break
            else:
                groups = (consumed - begin) // self.order.group
                cut = [begin + groups * r // self.world_size * self.order.group for r in (self.rank, self.rank + 1)]
                own = range(*cut)
            if len(own):
                yield _Place(own, shape.size, consumed)

    def done(self, epoch: int, consumed: int) -> bool:
        """Whether no rank has a batch of the epoch left after position `consumed`."""
        left = self.order.length - consumed
        whole = self.shapes(epoch, consumed).batch_size * self.world_size
        return left <= 0 or (self.last_batch == "drop" and left < whole)

    def _shares(self, epoch: int, places: list[_Place]) -> Iterator[Share]:
        positions = np.concatenate([np.arange(p.own.start, p.own.stop) for p in places]) % self.order.length
        samples = self._good(epoch, positions)
        visits = epoch * self.order.repeats + positions % self.order.repeats
        views = self.choice.views(samples, visits, epoch)
        cuts = np.cumsum([len(p.own) for p in places])[:-1]
        for place, s, v in zip(places, np.split(samples, cuts), np.split(views, cuts), strict=True):
            yield Share(epoch, s, v, place.size, place.consumed)

    def _good(self, epoch: int, positions: Int64) -> Int64:
        """The samples at positions, good ones in place of bad."""
        samples = self.order.samples(epoch, positions)
        bad = np.array(sorted(self.bad), np.int64)
        ahead = 0
        while bad.size and (which := np.nonzero(np.isin(samples, bad))[0]).size:
            ahead += self.order.group
            if ahead >= self.order.length:
                raise ValueError(f"none of the {self.order.length} samples of an epoch is good")
            samples[which] = self.order.samples(epoch, (positions[which] + ahead) % self.order.length)
        return samples


@dataclasses.dataclass(frozen=True)
class _Place:
    """One rank's positions of a global batch (they may run past the epoch's end, to wrap around)."""

    own: range
    size: tuple[int, int]
    consumed: int
