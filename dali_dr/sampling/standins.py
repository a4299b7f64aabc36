"""Stand-ins: what is shown at a position whose own view cannot be had. Pure functions of (seed, epoch, position, attempt).

Candidates are other positions of the same epoch, in whole groups, at the same place within the group. Every attempt is a
bijection of the groups (but for the last, short block), so a good image stands in at most once per attempt, however the bad
ones lie.

The first `APART` attempts keep stand-ins apart from each other and from what is scheduled near them, without looking at
either: the groups of an epoch are cut into `BLOCKS` blocks, and a candidate lies an even number of blocks further on, another
number for each attempt. Positions of one batch lie in one block or in two that are neighbours; so as long as a batch is no
longer than a block, none of these candidates is scheduled in it, and no two of its positions have the same one. That holds
for any world size and batch size, because neither comes into it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.keyed import Int64, mix
from dali_dr.sampling.choice import Choice
from dali_dr.sampling.order import Order, Showings
from dali_dr.sampling.permutation import keyed_permutation

BLOCKS: Final = 16
APART: Final = BLOCKS // 2 - 1
"""Attempts whose candidates lie 2, 4, … BLOCKS - 2 blocks further on, in an order drawn for the epoch."""
ATTEMPTS: Final = 64
"""Candidates drawn for a position; after the last, one group after the other is tried, so that a good one is always found."""

_STAND_IN = 0x5354414E  # stream of hashes
_WALKED: Final = 512  # groups looked at together in that walk


class Showing(NamedTuple):
    """One way in which a sample is shown: its number and the views chosen, which decide whether it can be had."""

    sample: int
    views: tuple[int, ...]


class Passed(NamedTuple):
    """A showing that cannot be had, and the place (among the positions asked for) at which it was passed over."""

    place: int
    showing: Showing


class NothingLeft(ShardError):
    """No sample of an epoch can be had."""


class Bad:
    """What is known not to be had. A cache: asked of what it does not know yet, the pipeline finds out.

    Args:
      count: samples that there are.
    """

    def __init__(self, count: int) -> None:
        self._samples: npt.NDArray[np.bool_] = np.zeros(count, np.bool_)  # no view of them can be had
        self._touched: npt.NDArray[np.bool_] = np.zeros(count, np.bool_)  # some view of them cannot
        self._showings: set[Showing] = set()

    def add_samples(self, numbers: Int64 | Iterable[int]) -> None:
        """Samples of which no view can be had."""
        numbers = np.asarray(numbers if isinstance(numbers, np.ndarray) else list(numbers), np.int64)
        self._samples[numbers] = self._touched[numbers] = True

    def add(self, showing: Showing) -> None:
        """A sample that cannot be had in these views."""
        self._showings.add(showing)
        self._touched[showing.sample] = True

    def __contains__(self, showing: object) -> bool:
        return isinstance(showing, Showing) and (bool(self._samples[showing.sample]) or showing in self._showings)

    def all_of(self, numbers: Int64) -> bool:
        """Whether no view of any of these samples can be had."""
        return bool(self._samples[numbers].all())

    def among(self, samples: Int64, views: Int64) -> Int64:
        """The places in (B,) samples, shown in (B,) or (B, m) views, of those that cannot be had."""
        touched = np.flatnonzero(self._touched[samples])
        return np.array([i for i in touched.tolist() if Showing(int(samples[i]), rows(views[i])) in self], np.int64)


def rows(views: Int64 | np.int64) -> tuple[int, ...]:
    """The views of one showing, as a showing has them."""
    return tuple(np.atleast_1d(views).tolist())


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is shown at B positions.

    Attributes:
      samples: int64 (B,).
      views: int64 (B,) or (B, m).
      passed: what was passed over, in the order of its attempts; a place has as many as it took attempts.
    """

    samples: Int64
    views: Int64
    passed: tuple[Passed, ...] = ()


def candidates(attempt: int, positions: Int64, order: Order, seed: int, epoch: int) -> Int64:
    """The positions that are tried for positions (B,) at attempt 1 … ATTEMPTS; -1 where there is none.

    For each attempt, no two positions have the same candidate.
    """
    groups = order.length // order.group
    number, offset = np.divmod(positions, order.group)
    if attempt > APART:
        found = _permuted(number, groups, seed, epoch, attempt)
        return found * order.group + offset
    size = -(-groups // BLOCKS)
    block, place = np.divmod(number, size)
    steps = 2 * (int(_permuted(np.array([attempt - 1]), APART, seed, epoch, 0)[0]) + 1)
    found = (block + steps) % BLOCKS * size + _permuted(place, size, seed, epoch, attempt)
    return np.where(found < groups, found * order.group + offset, -1)


def _permuted(numbers: Int64, size: int, seed: int, epoch: int, attempt: int) -> Int64:
    return keyed_permutation(numbers, size, int(mix(seed, _STAND_IN, epoch, attempt)))


def show(order: Order, choice: Choice, epoch: int, positions: Int64, bad: Bad | None = None) -> Shown:
    """What is shown at positions (B,) of an epoch: what the order has there, or its stand-in.

    A stand-in is shown in the views that it has at its own position.

    Raises:
      NothingLeft: nothing of the epoch can be had.
    """
    samples, views = _at(order, choice, epoch, positions)
    left = bad.among(samples, views) if bad is not None else positions[:0]
    if bad is None or not len(left):
        return Shown(samples, views)
    samples, views = samples.copy(), views.copy()
    passed = [Passed(i, Showing(int(samples[i]), rows(views[i]))) for i in left.tolist()]
    for attempt in range(1, ATTEMPTS + 1):
        found = candidates(attempt, positions[left], order, choice.seed, epoch)
        trying = left[found >= 0]
        if not len(trying):
            continue
        samples[trying], views[trying] = _at(order, choice, epoch, found[found >= 0])
        failed = trying[bad.among(samples[trying], views[trying])]
        passed += [Passed(i, Showing(int(samples[i]), rows(views[i]))) for i in failed.tolist()]
        left = np.sort(np.concatenate([left[found < 0], failed]))
        if not len(left):
            return Shown(samples, views, tuple(passed))
    if bad.all_of(order.members()):
        raise _none_good(order)
    last = candidates(ATTEMPTS, positions[left], order, choice.seed, epoch)
    for i, begin in zip(left.tolist(), last.tolist(), strict=True):
        samples[i], views[i] = _walk(order, choice, epoch, begin, bad)
    return Shown(samples, views, tuple(passed))


def _walk(order: Order, choice: Choice, epoch: int, begin: int, bad: Bad) -> tuple[np.int64, Int64]:
    """The first that can be had in the groups after the one at position `begin`."""
    for ahead in range(1, order.length // order.group + 1, _WALKED):
        steps = np.arange(ahead, min(ahead + _WALKED, order.length // order.group + 1))
        samples, views = _at(order, choice, epoch, (begin + steps * order.group) % order.length)
        good = np.ones(len(samples), np.bool_)
        good[bad.among(samples, views)] = False
        if good.any():
            first = int(good.argmax())
            return samples[first], views[first]
    raise _none_good(order)


def _none_good(order: Order) -> NothingLeft:
    return NothingLeft(f"none of the {len(order.members())} samples that an epoch shows can be had")


def _at(order: Order, choice: Choice, epoch: int, positions: Int64) -> tuple[Int64, Int64]:
    shown = order.at(epoch, positions)
    if not isinstance(shown, Showings):
        raise TypeError(
            f"{type(order).__name__}.at gave a {type(shown).__name__}, want a dali_dr.sampling.order.Showings"
        )
    return shown.samples, choice.views(shown.samples, shown.turns, epoch, shown.places, shown.of)
