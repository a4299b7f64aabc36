"""What each rank reads at each step: positions of a global order, cut into global batches, cut into ranks' shares.

The whole state of a run is where the epoch's unread positions begin: positions 0 … consumed-1 were given out, by
however many ranks there were then. So a run can stop after any batch and go on with another world size.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import numpy as np

from dali_dr.sampling.choice import choose_views
from dali_dr.sampling.order import Int64, keyed_permutation, mix

LastBatch = Literal["partial", "drop", "fill"]

_ORDER_STREAM = 0x4F524452  # "ORDR"


@dataclasses.dataclass(frozen=True)
class Share:
    """One rank's part of one global batch.

    Attributes:
      epoch: epoch number, from 0.
      samples: (B,) int64 sample numbers; B may be smaller than the batch size at the end of an epoch.
      views: (B,) int64 rows of the samples' records.
      consumed: positions of the epoch that all ranks have been given after this step.
    """

    epoch: int
    samples: Int64
    views: Int64
    consumed: int


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A pure function from step number to one rank's samples and views.

    Attributes:
      num_samples: S, size of the data set.
      num_views: N, stored views per image.
      batch_size: samples per rank and step.
      seed: of the order and of the choice of views.
      rank, world_size: this process's place; shares of different ranks are disjoint and together complete.
      shuffle: a global permutation per epoch (True) or the order of the shards (False).
      last_batch: what to do when S is no multiple of batch_size · world_size. "partial": the ranks share what is left
        evenly, so some may get one sample fewer (or, with fewer left than ranks, an empty share, which the iterator
        leaves out); "drop": leave it out; "fill": fill up with samples from the beginning of the same epoch's order.
      start_epoch, start_consumed: where step 0 begins (from a saved state).
    """

    num_samples: int
    num_views: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    last_batch: LastBatch = "partial"
    start_epoch: int = 0
    start_consumed: int = 0

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.batch_size < 1 or self.num_views < 1:
            raise ValueError(
                f"num_samples ({self.num_samples}), batch_size ({self.batch_size}) and num_views ({self.num_views}) "
                "must be positive"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not within world_size {self.world_size}")
        if self.last_batch not in ("partial", "drop", "fill"):
            raise ValueError(f'last_batch must be "partial", "drop" or "fill", not {self.last_batch!r}')
        if self.last_batch == "drop" and self.num_samples < self.global_batch:
            raise ValueError(
                f'last_batch="drop" leaves nothing: {self.num_samples} samples, but a global batch is {self.global_batch} '
                f"({self.batch_size} × {self.world_size} ranks). Use a smaller batch or another last_batch"
            )
        if self.steps_in_epoch() == 0:
            raise ValueError(
                f"rank {self.rank} of {self.world_size} gets no sample: the data set has {self.num_samples}. Use fewer ranks"
            )
        if not 0 <= self.start_consumed <= self.num_samples or self.start_epoch < 0:
            raise ValueError(
                f"cannot start at epoch {self.start_epoch}, position {self.start_consumed} of {self.num_samples}"
            )

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world_size

    def steps_in_epoch(self, consumed: int = 0) -> int:
        """Steps of this rank from position `consumed` to the end of an epoch.

        The same for every rank, but for last_batch="partial" with fewer samples left over than there are ranks.
        """
        whole, left = divmod(self.num_samples - consumed, self.global_batch)
        if left == 0 or self.last_batch == "drop":
            return whole
        if self.last_batch == "fill":
            return whole + 1
        begin, end = self._cut(left)
        return whole + (end > begin)

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, first position) of the global batch of a step counted from the start."""
        first = self.steps_in_epoch(self.start_consumed)
        if step < first:
            return self.start_epoch, self.start_consumed + step * self.global_batch
        epochs, in_epoch = divmod(step - first, self.steps_in_epoch())
        return self.start_epoch + 1 + epochs, in_epoch * self.global_batch

    def shares(self, step: int, count: int) -> list[Share]:
        """This rank's shares at steps step … step+count-1, counted from the start.

        Computing several at once is much cheaper than one by one: the arithmetic of a batch is mostly NumPy's call
        overhead.
        """
        places = [self.locate(s) for s in range(step, step + count)]
        shares: list[Share] = []
        for epoch, group in itertools.groupby(places, key=lambda place: place[0]):
            parts = [self._positions(begin) for _, begin in group]
            samples = self._order(epoch, np.concatenate([positions for positions, _ in parts]))
            views = choose_views(samples, epoch, self.num_views, self.seed)
            cuts = np.cumsum([len(positions) for positions, _ in parts])[:-1]
            for (_, end), s, v in zip(parts, np.split(samples, cuts), np.split(views, cuts), strict=True):
                shares.append(Share(epoch, s, v, end))
        return shares

    def _positions(self, begin: int) -> tuple[Int64, int]:
        """This rank's positions of the global batch that starts at `begin`, and where the next one starts."""
        end = begin + self.global_batch
        if end <= self.num_samples or self.last_batch == "fill":
            first = begin + self.rank * self.batch_size
            return np.arange(first, first + self.batch_size) % self.num_samples, min(end, self.num_samples)
        cut_begin, cut_end = self._cut(self.num_samples - begin)
        return np.arange(begin + cut_begin, begin + cut_end), self.num_samples

    def _cut(self, left: int) -> tuple[int, int]:
        """This rank's even part of `left` samples."""
        return left * self.rank // self.world_size, left * (self.rank + 1) // self.world_size

    def _order(self, epoch: int, positions: Int64) -> Int64:
        if not self.shuffle:
            return positions
        return keyed_permutation(positions, self.num_samples, int(mix(self.seed, _ORDER_STREAM, epoch)))
