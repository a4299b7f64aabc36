"""Orders: which sample stands at each position of an epoch. Each is a pure function, computed per position."""

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


class Order(Protocol):
    """What stands at each position of an epoch.

    Attributes:
      length: positions of an epoch.
      group: positions that belong together (repetitions of a sample, members of a pair); batches hold whole groups.
    """

    @property
    def length(self) -> int: ...

    @property
    def group(self) -> int: ...

    def samples(self, epoch: int, positions: Int64) -> Int64:
        """Sample numbers at positions (B,) of an epoch: int64 (B,)."""
        ...

    @property
    def repeats(self) -> int:
        """How many repetitions of each sample stand side by side; position p is repetition p modulo this."""
        ...


class _Single:
    """Orders in which every position stands for itself."""

    group = 1
    repeats = 1


@dataclasses.dataclass(frozen=True)
class Sequential(_Single):
    """The order of the shards, for evaluation."""

    length: int

    def samples(self, epoch: int, positions: Int64) -> Int64:
        return positions


@dataclasses.dataclass(frozen=True)
class Global(_Single):
    """A new permutation of all samples in every epoch."""

    length: int
    seed: int

    def samples(self, epoch: int, positions: Int64) -> Int64:
        return keyed_permutation(positions, self.length, int(mix(self.seed, _GLOBAL, epoch)))


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
        if self.window < 1:
            raise ValueError(f"window is {self.window}, want at least 1")

    @functools.cached_property
    def length(self) -> int:
        return sum(self.shards)

    def samples(self, epoch: int, positions: Int64) -> Int64:
        number, offset = np.divmod(positions, self.window)
        whole = number < self.length // self.window
        keys = mix(self.seed, _WINDOW, epoch, number.astype(np.uint64))
        stream = np.empty_like(positions)
        for part, size in ((whole, self.window), (~whole, self.length % self.window)):
            if part.any():
                stream[part] = number[part] * self.window + keyed_permutation(offset[part], size, keys[part])
        ends, starts = _shard_stream(self.shards, self.seed, epoch)
        place = np.searchsorted(ends, stream, side="right")
        return stream - ends[place] + starts[place]


@functools.lru_cache(maxsize=4)
def _shard_stream(shards: tuple[int, ...], seed: int, epoch: int) -> tuple[Int64, Int64]:
    """Of an epoch's shards in order: where each ends in the stream, and the sample number just after its last."""
    order = keyed_permutation(np.arange(len(shards)), len(shards), int(mix(seed, _SHARDS, epoch)))
    sizes = np.array(shards, np.int64)
    return np.cumsum(sizes[order]), np.cumsum(sizes)[order]


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Repeated augmentation: every sample `times` times in a row, each time with another view (Hoffer et al. 2020; USI).

    An epoch keeps its length, so it shows one in `times` of the samples, others every epoch.
    """

    base: Order
    times: int

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"repetitions are {self.times}, want at least 1")

    @property
    def length(self) -> int:
        return self.base.length // self.times * self.times or self.times

    @property
    def group(self) -> int:
        return self.times

    @property
    def repeats(self) -> int:
        return self.times

    def samples(self, epoch: int, positions: Int64) -> Int64:
        return self.base.samples(epoch, positions // self.times)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassPaired:
    """Every sample followed by `mates` others of its class (BAKE, arXiv 2104.13298, section 3.3).

    An epoch has every sample once as an anchor, so it is mates + 1 times as long. A sample that is alone in its class is
    its own mate.

    Attributes:
      base: the order of the anchors.
      labels: (S,) class of every sample of the data set.
      seed: of the choice of mates.
      mates: M.
    """

    base: Order
    labels: npt.NDArray[np.integer]
    seed: int
    mates: int = 1
    repeats = 1

    def __post_init__(self) -> None:
        if self.mates < 1:
            raise ValueError(f"mates are {self.mates}, want at least 1")

    @property
    def length(self) -> int:
        return self.base.length * self.group

    @property
    def group(self) -> int:
        return self.mates + 1

    @functools.cached_property
    def _classes(self) -> tuple[Int64, Int64, Int64, Int64]:
        """Samples sorted by class; of every sample its place there, and its class's start and size."""
        members = np.argsort(self.labels, kind="stable")
        if isinstance(self.base, Subset):
            members = members[np.isin(members, self.base.numbers)]
        sorted_labels = self.labels[members]
        starts = np.searchsorted(sorted_labels, sorted_labels, side="left")
        sizes = np.searchsorted(sorted_labels, sorted_labels, side="right") - starts
        place = np.full(len(self.labels), -1, np.int64)
        place[members] = np.arange(len(members))
        return members, place, starts, sizes

    def samples(self, epoch: int, positions: Int64) -> Int64:
        anchors = self.base.samples(epoch, positions // self.group)
        mate = positions % self.group
        members, place, starts, sizes = self._classes
        at = place[anchors]
        start, others = starts[at], sizes[at] - 1
        result = anchors.copy()
        for size in np.unique(others[(mate > 0) & (others > 0)]):  # classes of equal size share one permutation length
            some = (mate > 0) & (others == size)
            keys = mix(self.seed, _PAIR, epoch, anchors[some].astype(np.uint64))
            step = keyed_permutation((mate[some] - 1) % size, int(size), keys) + 1
            result[some] = members[start[some] + (at[some] - start[some] + step) % (size + 1)]
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some samples only, in the order that `base` gives their places.

    Attributes:
      base: an order of len(numbers) positions.
      numbers: (n,) sample numbers, distinct.
    """

    base: Order
    numbers: Int64

    @property
    def length(self) -> int:
        return self.base.length

    @property
    def group(self) -> int:
        return self.base.group

    @property
    def repeats(self) -> int:
        return self.base.repeats

    def samples(self, epoch: int, positions: Int64) -> Int64:
        return self.numbers[self.base.samples(epoch, positions)]
