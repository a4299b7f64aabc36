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
from dali_dr.sampling.order import Order, check_order
from dali_dr.sampling.standins import Bad, Passed, show

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
      passed: what is known not to be had and was passed over for these samples, with places in this share.
    """

    epoch: int
    samples: Int64
    views: Int64
    size: tuple[int, int]
    consumed: int
    passed: tuple[Passed, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A pure function from a place in the run to one rank's samples and views.

    All ranks have equally many batches in an epoch, whatever last_batch is; also in the rest of an epoch that began with
    another world size.

    Attributes:
      order: what stands at each position of an epoch.
      choice: which views.
      shapes: how large batches are.
      rank, world_size: this process's place; shares of different ranks are disjoint and together complete.
      last_batch: what to do when an epoch does not fill its last global batch. "partial": the ranks share what is left
        evenly, so some may get one group of samples fewer. Where less than a group per rank would be left, the batch
        before is shortened, so that the last one has exactly a group for every rank. "drop": leave it out; "fill": fill
        up with samples from the beginning of the same epoch's order.
      bad: what is known not to be had, for which others stand in (`dali_dr.sampling.standins`). It may grow while a run goes
        on; shares computed before do not know of it. None: all can be had.

    Raises:
      TypeError: the order lacks something.
      ValueError: an argument out of range, or ranks without a batch: the epoch has fewer groups than there are ranks
        ("partial") or does not fill a batch ("drop"), or batches of one group per rank leave too few for all ("partial",
        where none can be shortened). All ranks raise it.
    """

    order: Order
    choice: Choice
    shapes: Shapes
    rank: int = 0
    world_size: int = 1
    last_batch: LastBatch = "partial"
    bad: Bad | None = None

    def __post_init__(self) -> None:
        check_order(self.order)
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not within world_size {self.world_size}")
        if self.last_batch not in ("partial", "drop", "fill"):
            raise ValueError(f'last_batch must be "partial", "drop" or "fill", not {self.last_batch!r}')
        if self.order.length < 1:
            raise ValueError("the order holds no samples")
        if self.order.length % self.order.group:
            raise ValueError(
                f"the order has {self.order.length} positions, no multiple of the {self.order.group} that it keeps together"
            )
        self._check(0, 0)
        if next(self._steps(0, 0), None) is None:
            raise ValueError(
                f"no rank of {self.world_size} gets a batch: an epoch has {self.order.length} samples and last_batch is "
                f"{self.last_batch!r}. Use a smaller batch, fewer ranks or another last_batch"
            )

    def run(self, epoch: int = 0, consumed: int = 0, block: int = 16) -> Iterator[Share]:
        """This rank's shares from a place on, over all epochs to come.

        Args:
          epoch, consumed: the place: positions 0 … consumed-1 of this epoch are done.
          block: shares computed at once; the arithmetic of a batch is mostly NumPy's call overhead.

        Raises:
          ValueError: there is no such place; or, at once and on all ranks, the rest of the epoch cannot be shared out among
            as many ranks: fewer ranks, or another last_batch, go on from there without losing a sample.
        """
        self._check(epoch, consumed)
        return self._run(epoch, consumed, block)

    def _run(self, epoch: int, consumed: int, block: int) -> Iterator[Share]:
        for number in itertools.count(epoch):
            if number > epoch:
                self._check(number, 0)
            places = self.epoch(number, consumed)
            while some := list(itertools.islice(places, block)):
                yield from self._shares(number, some)
            consumed = 0

    def images(self, epoch: int, consumed: int = 0) -> int:
        """Positions that this rank is given in an epoch, from position `consumed` on (time: per batch, not per sample)."""
        return sum(len(place.own) for place in self.epoch(epoch, consumed))

    def batches(self, epoch: int, consumed: int = 0) -> int:
        """Batches of an epoch from position `consumed` on, as many on every rank (time: per batch, not per sample)."""
        return sum(1 for _ in self._steps(epoch, consumed))

    def epoch(self, epoch: int, consumed: int = 0) -> Iterator[_Place]:
        """Where this rank's batches of an epoch lie, from position `consumed` on."""
        for begin, end, shape in self._steps(epoch, consumed):
            if self.last_batch == "fill":
                first = begin + self.rank * shape.batch_size
                own = range(first, first + shape.batch_size)
            else:
                groups, group = (end - begin) // self.order.group, self.order.group
                own = range(*(begin + groups * r // self.world_size * group for r in (self.rank, self.rank + 1)))
            yield _Place(own, shape.size, end)

    def _steps(self, epoch: int, consumed: int) -> Iterator[tuple[int, int, Shape]]:
        """Global batches of an epoch, from position `consumed` on: first position, the one after the last, shape.

        Each depends on the epoch and its first position alone, so that all ranks, and a run that goes on from there, agree.
        """
        length, group = self.order.length, self.order.group
        least = self.world_size * group  # positions that give every rank something
        while consumed < length:
            shape = self.shapes(epoch, consumed)
            if shape.batch_size < 1 or shape.batch_size % group:
                raise ValueError(
                    f"batch_size {shape.batch_size} is no positive multiple of {group}, the number of samples that this "
                    "order keeps together"
                )
            end = consumed + shape.batch_size * self.world_size
            if self.last_batch == "drop" and end > length:
                return
            if self.last_batch == "partial":
                if 0 < length - end < least:
                    end = length - least
                if min(end, length) - consumed < least:
                    raise self._too_few(epoch, consumed)
            end = min(end, length)
            yield consumed, end, shape
            consumed = end

    def _too_few(self, epoch: int, consumed: int) -> ValueError:
        left, group = (self.order.length - consumed) // self.order.group, self.order.group
        what = "samples" if group == 1 else f"groups of {group} samples"
        if left < self.world_size:
            why, remedy = f"{left} {what} are left", f"at most {left} ranks"
        else:
            why = f"{left} {what} are left and batches hold one per rank, so that the last would be short"
            remedy = f"larger batches, fewer ranks ({self.world_size} do not divide {left})"
        return ValueError(
            f"epoch {epoch}, position {consumed}: {why}, and some of the {self.world_size} ranks would get no batch and wait "
            f'for ever. Use {remedy}, or last_batch="fill" or "drop", or begin another epoch (set_epoch)'
        )

    def _check(self, epoch: int, consumed: int) -> None:
        """Raises a ValueError unless the rest of the epoch, from position `consumed` on, gives every rank its batches."""
        if epoch < 0 or not 0 <= consumed <= self.order.length or consumed % self.order.group:
            raise ValueError(
                f"position {consumed} of epoch {epoch} is none where batches begin: want a multiple of {self.order.group} "
                f"within 0 … {self.order.length}"
            )
        if self.last_batch == "partial" and self.world_size > 1:
            for _ in self._steps(epoch, consumed):
                pass

    def done(self, epoch: int, consumed: int) -> bool:
        """Whether no rank has a batch of the epoch left after position `consumed`."""
        left = self.order.length - consumed
        if left <= 0 or self.last_batch != "drop" or consumed == 0:
            return left <= 0  # without asking for the shape of a batch that may never be due
        return left < self.shapes(epoch, consumed).batch_size * self.world_size

    def _shares(self, epoch: int, places: list[_Place]) -> Iterator[Share]:
        positions = np.concatenate([np.arange(p.own.start, p.own.stop) for p in places]) % self.order.length
        shown = show(self.order, self.choice, epoch, positions, self.bad)
        ends = np.cumsum([len(p.own) for p in places])
        cuts = ends[:-1]
        for place, end, s, v in zip(
            places, ends.tolist(), np.split(shown.samples, cuts), np.split(shown.views, cuts), strict=True
        ):
            begin = end - len(s)
            passed = tuple(Passed(p.place - begin, p.showing) for p in shown.passed if begin <= p.place < end)
            yield Share(epoch, s, v, place.size, place.consumed, passed)


@dataclasses.dataclass(frozen=True)
class _Place:
    """One rank's positions of a global batch (they may run past the epoch's end, to wrap around)."""

    own: range
    size: tuple[int, int]
    consumed: int
