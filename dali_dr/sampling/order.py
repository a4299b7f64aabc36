"""Orders: which sample stands at each position of an epoch, and which of its showings that is.

Each order is a pure function, computed per position. Orders wrap each other, in any nesting: a wrapper asks what it wraps
for whole groups, and knows no more of it than the protocol says.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dali_dr.keyed import Int64, mix
from dali_dr.sampling.permutation import keyed_permutation

# Streams of hashes, one per purpose, so that no two of them are alike.
_GLOBAL, _SHARDS, _WINDOW, _PAIR = 0x4F524452, 0x53485244, 0x57494E44, 0x50414952


@dataclasses.dataclass(frozen=True, eq=False)
class Showings:
    """What stands at B positions of an epoch.

    A sample is due once in a turn, and may then be shown several times, side by side or not: its showings of one turn
    have different places, so that each gets a view of its own (`dali_dr.sampling.choice.Choice.views`).

    Attributes:
      samples: int64 (B,) sample numbers.
      turns: int64 (B,), how often the sample was due before, over all epochs.
      places: int64 (B,), which showing of its turn it is, 0 <= place < of.
      of: int64 (B,), at least as many as the sample has showings in a turn. Where it changes from turn to turn, a view may
        come again before all were seen.
    """

    samples: Int64
    turns: Int64
    places: Int64
    of: Int64

    @classmethod
    def once(cls, samples: Int64, epoch: int) -> Showings:
        """Of an order that shows every sample once an epoch."""
        size = len(samples)
        return cls(samples, np.full(size, epoch, np.int64), np.zeros(size, np.int64), np.ones(size, np.int64))


class Order(Protocol):
    """What stands at each position of an epoch.

    Attributes:
      length: positions of an epoch, a multiple of group.
      group: positions that belong together (repetitions of a sample, members of a pair), from a multiple of it on; batches
        hold whole groups. In one group, the showings of a sample differ in their place and agree in turn and `of`.
    """

    @property
    def length(self) -> int: ...

    @property
    def group(self) -> int: ...

    def at(self, epoch: int, positions: Int64) -> Showings:
        """What stands at positions (B,) of an epoch; the same for a position whatever the others are."""
        ...

    def members(self) -> Int64:
        """The samples that the order can show: int64 (n,), ascending, each once."""
        ...


def check_order(order: object) -> None:
    """Raises a TypeError that says what to implement, where an order lacks something."""
    if missing := [name for name in ("length", "group", "at", "members") if not hasattr(order, name)]:
        raise TypeError(
            f"{type(order).__name__} is no order, because it lacks {', '.join(missing)}. Implement what "
            "dali_dr.sampling.order.Order has: the integers length and group, at(epoch, positions) -> Showings, and "
            "members() -> sorted sample numbers"
        )


class _Single:
    """Orders in which every position stands for itself, and that show every sample once."""

    group = 1

    def members(self: Order) -> Int64:
        return np.arange(self.length)


@dataclasses.dataclass(frozen=True)
class Sequential(_Single):
    """The order of the shards, for evaluation."""

    length: int

    def at(self, epoch: int, positions: Int64) -> Showings:
        return Showings.once(positions, epoch)


@dataclasses.dataclass(frozen=True)
class Global(_Single):
    """A new permutation of all samples in every epoch."""

    length: int
    seed: int

    def at(self, epoch: int, positions: Int64) -> Showings:
        return Showings.once(keyed_permutation(positions, self.length, int(mix(self.seed, _GLOBAL, epoch))), epoch)


@dataclasses.dataclass(frozen=True)
class Windowed(_Single):
    """Shard after shard in a new order every epoch, shuffled within windows: nearly sequential reads.

    For network disks and archives where a random read is dear. Samples move by less than `window` positions, so a
    window of a few shards mixes classes that were stored apart.

    Attributes:
      shards: samples per shard, in the data set's order.
      seed: of both shuffles.
      window: positions that are permuted together.
    """

    shards: tuple[int, ...]
    seed: int
    window: int

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "shards", tuple(int(size) for size in self.shards)
        )  # hashable, also where it was a list
        if self.window < 1:
            raise ValueError(f"window is {self.window}, want at least 1")

    @functools.cached_property
    def length(self) -> int:
        return sum(self.shards)

    def at(self, epoch: int, positions: Int64) -> Showings:
        number, offset = np.divmod(positions, self.window)
        whole = number < self.length // self.window
        keys = mix(self.seed, _WINDOW, epoch, number.astype(np.uint64))
        stream = np.empty_like(positions)
        for part, size in ((whole, self.window), (~whole, self.length % self.window)):
            if part.any():
                stream[part] = number[part] * self.window + keyed_permutation(offset[part], size, keys[part])
        ends, starts = _shard_stream(self.shards, self.seed, epoch)
        place = np.searchsorted(ends, stream, side="right")
        return Showings.once(stream - ends[place] + starts[place], epoch)


@functools.lru_cache(maxsize=4)
def _shard_stream(shards: tuple[int, ...], seed: int, epoch: int) -> tuple[Int64, Int64]:
    """Of an epoch's shards in order: where each ends in the stream, and the sample number just after its last."""
    order = keyed_permutation(np.arange(len(shards)), len(shards), int(mix(seed, _SHARDS, epoch)))
    sizes = np.array(shards, np.int64)
    return np.cumsum(sizes[order]), np.cumsum(sizes)[order]


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Repeated augmentation: every sample `times` times in a row, each time with another view (Hoffer et al. 2020; USI).

    An epoch keeps its length, so it shows one in `times` of the samples (of the groups of `base`), others every epoch.
    Where `base` keeps samples together, so does this: first all repetitions of a group's first sample, then of its next.
    """

    base: Order
    times: int

    def __post_init__(self) -> None:
        check_order(self.base)
        if self.times < 1:
            raise ValueError(f"repetitions are {self.times}, want at least 1")

    @property
    def length(self) -> int:
        groups = self.base.length // self.base.group
        return max(groups // self.times, min(groups, 1)) * self.group

    @property
    def group(self) -> int:
        return self.base.group * self.times

    def at(self, epoch: int, positions: Int64) -> Showings:
        shown = self.base.at(epoch, positions // self.times)
        places = shown.places * self.times + positions % self.times
        return Showings(shown.samples, shown.turns, places, shown.of * self.times)

    def members(self) -> Int64:
        return self.base.members()


@dataclasses.dataclass(frozen=True, eq=False)
class ClassPaired:
    """Every showing of `base` followed by `mates` others of its class (BAKE, arXiv 2104.13298, section 3.3).

    An epoch has every showing of `base` once as an anchor, so it is mates + 1 times as long. Mates are members of `base`,
    and have their anchor's turn and place. A sample that is alone in its class is its own mate, and one that has fewer
    others in its class than mates has some of them more than once.

    A sample that comes again in one group, for that or because it is the mate of several anchors, takes the next place that
    is free, so that it gets another view. `of` has room for the most that can come: as many as a group of `base` has
    positions, times as often as one anchor's mates can repeat a sample.

    Attributes:
      base: the order of the anchors.
      labels: (S,) class of every sample number that `base` can show.
      seed: of the choice of mates.
      mates: M.
    """

    base: Order
    labels: npt.NDArray[np.integer]
    seed: int
    mates: int = 1

    def __post_init__(self) -> None:
        check_order(self.base)
        object.__setattr__(self, "labels", np.asarray(self.labels))
        if self.mates < 1:
            raise ValueError(f"mates are {self.mates}, want at least 1")

    @property
    def length(self) -> int:
        return self.base.length * (self.mates + 1)

    @property
    def group(self) -> int:
        return self.base.group * (self.mates + 1)

    def at(self, epoch: int, positions: Int64) -> Showings:
        groups, wanted = _whole_groups(positions, self.group)
        size = self.base.group
        anchors = self.base.at(epoch, (groups[:, None] * size + np.arange(size)).reshape(-1))
        samples, others = self._with_mates(epoch, anchors.samples)

        def grouped(values: Int64) -> Int64:
            """(groups, group) of one value per anchor."""
            return np.repeat(values, self.mates + 1).reshape(-1, self.group)

        again = np.where(others == 0, self.mates + 1, -(-self.mates // np.maximum(others, 1)))  # of a sample in a row
        of = np.maximum(anchors.of.reshape(-1, size).max(axis=1, keepdims=True), size) * grouped(again)
        samples, places = samples.reshape(-1, self.group), grouped(anchors.places)
        if size > 1 or (again > 1).any():
            places = _told_apart(samples, places)
        turns = grouped(anchors.turns)
        return Showings(*(values.reshape(-1)[wanted] for values in (samples, turns, places, of)))

    def members(self) -> Int64:
        return self.base.members()

    @functools.cached_property
    def _classes(self) -> tuple[Int64, Int64, Int64, Int64]:
        """Members sorted by class; of every sample its place there (-1: no member), and its class's start and size."""
        members = self.base.members()
        if len(members) and members[-1] >= len(self.labels):
            raise ValueError(
                f"the order shows sample {members[-1]}, but there are labels of {len(self.labels)} samples"
            )
        members = members[np.argsort(self.labels[members], kind="stable")]
        sorted_labels = self.labels[members]
        starts = np.searchsorted(sorted_labels, sorted_labels, side="left")
        sizes = np.searchsorted(sorted_labels, sorted_labels, side="right") - starts
        place = np.full(len(self.labels), -1, np.int64)
        place[members] = np.arange(len(members))
        return members, place, starts, sizes

    def _with_mates(self, epoch: int, anchors: Int64) -> tuple[Int64, Int64]:
        """Each anchor and its mates (A, mates + 1), and how many others are in its class (A,)."""
        members, place, starts, sizes = self._classes
        at = place[anchors]
        if (at < 0).any():
            raise ValueError(f"the order shows sample {anchors[at < 0][0]}, which is none of its members()")
        start, others = starts[at], sizes[at] - 1
        rows = np.repeat(anchors[:, None], self.mates + 1, axis=1)
        for size in np.unique(others[others > 0]).tolist():  # classes of equal size share one permutation length
            some = np.flatnonzero(others == size)
            numbers = np.broadcast_to(np.arange(self.mates) % size, (len(some), self.mates))
            keys = mix(self.seed, _PAIR, epoch, anchors[some].astype(np.uint64))
            steps = keyed_permutation(numbers, size, np.broadcast_to(keys[:, None], numbers.shape)) + 1
            own, first = at[some, None], start[some, None]
            rows[some, 1:] = members[first + (own - first + steps) % (size + 1)]
        return rows, others


def _whole_groups(positions: Int64, group: int) -> tuple[Int64, Int64]:
    """The groups that hold positions (B,), and where each position is among all positions of these groups in a row."""
    numbers, offsets = np.divmod(positions, group)
    begins = np.diff(numbers, prepend=-1) != 0
    return numbers[begins], (np.cumsum(begins) - 1) * group + offsets


def _told_apart(samples: Int64, places: Int64) -> Int64:
    """Places such that no sample has one twice in a row (a group).

    What comes first keeps its place; each later one takes the lowest place that the sample has not got there.

    Args:
      samples: (rows, group) sample numbers.
      places: (rows, group).

    Returns:
      (rows, group) places. Where a sample has n places 0 … n - 1 and then more, these are n, n + 1, …
    """
    same = samples[:, :, None] == samples[:, None, :]
    earlier = same & np.tri(samples.shape[1], k=-1, dtype=np.bool_)
    again = (earlier & (places[:, :, None] == places[:, None, :])).any(axis=2)
    rows = np.flatnonzero(again.any(axis=1))
    if not len(rows):
        return places
    result = places.copy()
    same, earlier, again, places = same[rows], earlier[rows], again[rows], places[rows]
    taken = same & ~again[:, None, :]
    rank = (earlier & again[:, None, :]).sum(axis=2)  # among those of the sample that need a place
    free = rank
    while True:  # from below, so up to the lowest that has `rank` free places under it
        above = rank + (taken & (places[:, None, :] <= free[:, :, None])).sum(axis=2)
        if np.array_equal(above, free):
            break
        free = above
    result[rows] = np.where(again, free, places)
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some samples only, in the order that `base` gives their places.

    Attributes:
      base: an order of places in `numbers`, of length n where it shows all.
      numbers: (n,) sample numbers, distinct.
    """

    base: Order
    numbers: Int64

    def __post_init__(self) -> None:
        check_order(self.base)
        numbers = np.asarray(self.numbers)
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
            raise ValueError(f"the numbers of a subset are {numbers.dtype} {numbers.shape}, want whole numbers (n,)")
        object.__setattr__(self, "numbers", numbers.astype(np.int64))
        if len(np.unique(self.numbers)) != len(self.numbers):
            raise ValueError("the numbers of a subset name a sample twice")
        members = self.base.members()
        if len(members) and members[-1] >= len(self.numbers):
            raise ValueError(f"the order shows place {members[-1]} of a subset that has {len(self.numbers)} samples")

    @property
    def length(self) -> int:
        return self.base.length

    @property
    def group(self) -> int:
        return self.base.group

    def at(self, epoch: int, positions: Int64) -> Showings:
        shown = self.base.at(epoch, positions)
        return dataclasses.replace(shown, samples=self.numbers[shown.samples])

    def members(self) -> Int64:
        return np.sort(self.numbers[self.base.members()])
