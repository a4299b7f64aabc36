"""Stand-ins: pure arithmetic, on synthetic orders. What they are is written again here, one position at a time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from test_sampling import fixed, scalar_mix, scalar_permutation

from dali_dr.sampling.choice import Choice
from dali_dr.sampling.order import ClassPaired, Global, Order, Repeated, Sequential, Subset, Windowed
from dali_dr.sampling.sampler import LastBatch, Sampler
from dali_dr.sampling.standins import ATTEMPTS, Bad, NothingLeft, Showing, candidates, show

SEED = 5
STREAM = int.from_bytes(b"STAN", "big")


def reference_candidate(attempt: int, position: int, length: int, group: int, epoch: int) -> int:
    """The position tried for one position: see the module's docstring."""
    groups, (number, offset) = length // group, divmod(position, group)
    key = scalar_mix(SEED, STREAM, epoch, attempt)
    if attempt > 7:
        return scalar_permutation(number, groups, scalar_mix(key)) * group + offset
    size = -(-groups // 16)
    ahead = 2 * (scalar_permutation(attempt - 1, 7, scalar_mix(scalar_mix(SEED, STREAM, epoch, 0))) + 1)
    block, place = divmod(number, size)
    found = (block + ahead) % 16 * size + scalar_permutation(place, size, scalar_mix(key))
    return found * group + offset if found < groups else -1


def reference_shown(order: Order, choice: Choice, epoch: int, position: int, is_bad: Callable[[int, Any], bool]) -> Any:
    """What is shown at one position, and how many were passed over."""

    def at(place: int) -> tuple[int, list[int]]:
        shown = order.at(epoch, np.array([place]))
        views = choice.views(shown.samples, shown.turns, epoch, shown.places, shown.of)
        return int(shown.samples[0]), np.atleast_1d(views[0]).tolist()

    last = position
    drawn = (reference_candidate(attempt, position, order.length, order.group, epoch) for attempt in range(1, 65))
    for place in itertools.chain([position], drawn):
        if place >= 0 and not is_bad(*at(place)):
            return at(place)
        last = place
    for _ in range(order.length // order.group):
        last = (last + order.group) % order.length
        if not is_bad(*at(last)):
            return at(last)
    raise AssertionError("nothing is good")


ORDERS: dict[str, Callable[[], Order]] = {
    "sequential": lambda: Sequential(61),
    "global": lambda: Global(203, SEED),
    "windowed": lambda: Windowed((31, 40, 29), SEED, 16),
    "repeated": lambda: Repeated(Global(60, SEED), 3),
    "paired": lambda: ClassPaired(Global(60, SEED), np.arange(60) % 7, SEED, 2),
    "nested": lambda: ClassPaired(
        Repeated(Subset(Global(40, SEED), np.arange(20, 100, 2)), 2), np.arange(120) % 5, SEED, 1
    ),
    "tiny": lambda: Global(3, SEED),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_stand_ins_are_those_of_the_rule(name: str, share: float) -> None:
    """Samples that are bad in some views and samples that are bad in all, for every order, up to nearly all of them."""
    order = ORDERS[name]()
    choice = Choice(12, SEED, views_per_image=2 if name == "nested" else 1)
    rng = np.random.default_rng(1)
    members = order.members()
    whole = set(rng.permutation(members)[: int(share * (len(members) - 1))].tolist())

    def is_bad(sample: int, views: Sequence[int]) -> bool:
        return sample in whole or (sample * 7 + sum(views)) % 11 == 0

    bad = Bad(int(members.max()) + 1)
    bad.add_samples(whole)
    for sample in members.tolist():
        for views in itertools.product(range(12), repeat=choice.views_per_image):
            if is_bad(sample, views):
                bad.add(Showing(sample, views))
    for epoch in (0, 3):
        positions = np.random.default_rng(epoch).permutation(order.length)[:16]
        try:
            got = show(order, choice, epoch, positions, bad)
        except NothingLeft:
            with pytest.raises(AssertionError, match="nothing is good"):
                [reference_shown(order, choice, epoch, p, is_bad) for p in positions.tolist()]
            continue
        want = [reference_shown(order, choice, epoch, p, is_bad) for p in positions.tolist()]
        assert got.samples.tolist() == [sample for sample, _ in want]
        assert [np.atleast_1d(v).tolist() for v in got.views] == [views for _, views in want]
        alone = show(order, choice, epoch, positions[7:8] if len(positions) > 7 else positions[:1], bad)
        assert alone.samples[0] == got.samples[7 if len(positions) > 7 else 0]
        scheduled = order.at(epoch, positions).samples.tolist()
        first = {passed.place: passed.showing.sample for passed in reversed(got.passed)}
        assert all(scheduled[place] == sample for place, sample in first.items())


def test_every_attempt_is_a_bijection_of_groups() -> None:
    for order in (Global(1000, SEED), Global(1024, SEED), Global(17, SEED), Repeated(Global(333, SEED), 3)):
        positions = np.arange(order.length)
        for attempt in range(1, ATTEMPTS + 1):
            found = candidates(attempt, positions, order, SEED, 2)
            inside = found[found >= 0]
            assert len(np.unique(inside)) == len(inside) and (found[found >= 0] < order.length).all()
            assert (found[found >= 0] % order.group == positions[found >= 0] % order.group).all()
            assert attempt <= 7 or len(inside) == order.length


@pytest.mark.parametrize("world_size, batch_size", [(1, 64), (4, 16), (8, 32), (2, 256)])
def test_stand_ins_are_apart_within_a_global_batch(world_size: int, batch_size: int) -> None:
    """No batch has a sample twice, and none has a stand-in that it has scheduled, while seven attempts are enough."""
    count = 16 * 1024
    bad = Bad(count)
    bad.add_samples(np.random.default_rng(0).permutation(count)[: count // 10])
    order, choice = Global(count, SEED), Choice(8, SEED)
    ranks = [Sampler(order, choice, fixed(batch_size), r, world_size, bad=bad) for r in range(world_size)]
    steps = count // (batch_size * world_size)
    late = 0
    for shares in itertools.islice(zip(*(sampler.run() for sampler in ranks), strict=True), steps):
        samples = np.concatenate([share.samples for share in shares])
        attempts = Counter((rank, passed.place) for rank, share in enumerate(shares) for passed in share.passed)
        if max(attempts.values(), default=0) > 7:
            late += 1
            continue
        assert len(np.unique(samples)) == len(samples)
        begin = shares[0].consumed - len(samples)
        scheduled = order.at(0, np.arange(begin, shares[0].consumed)).samples
        replaced = samples[samples != scheduled]
        assert len(replaced) and not np.isin(replaced, scheduled).any() and not np.isin(scheduled, replaced).any()
    assert late <= 1


@pytest.mark.parametrize("kind", ["global", "windowed", "sequential"])
def test_a_missing_quarter_is_spread_evenly(kind: str) -> None:
    """100,000 positions, one shard of four gone: nothing is shown more than three times as often as the mean."""
    count = 100_000
    order = {
        "global": Global(count, SEED),
        "windowed": Windowed((count // 4,) * 4, SEED, 16_384),
        "sequential": Sequential(count),
    }[kind]
    bad = Bad(count)
    bad.add_samples(np.arange(count // 4, count // 2))
    for epoch in range(3):
        shown = show(order, Choice(8, SEED), epoch, np.arange(count), bad)
        times = np.bincount(shown.samples, minlength=count)
        assert times[count // 4 : count // 2].sum() == 0
        good = np.delete(times, np.arange(count // 4, count // 2))
        assert good.min() >= 1 and good.max() / good.mean() <= 3, np.bincount(good)


@pytest.mark.parametrize("last_batch", ["partial", "drop", "fill"])
@pytest.mark.parametrize("name", ["global", "repeated", "nested"])
def test_batches_do_not_depend_on_ranks_or_where_one_resumes(name: str, last_batch: LastBatch) -> None:
    order = ORDERS[name]()
    choice = Choice(12, SEED)
    bad = Bad(200 if name != "global" else 203)
    bad.add_samples(order.members()[::3])
    size = order.group * 4

    def positions(world_size: int, consumed: int, batch: int) -> list[tuple[int, int]]:
        """(sample, view) in the order of positions, from one place on."""
        ranks = [Sampler(order, choice, fixed(batch), r, world_size, last_batch, bad=bad) for r in range(world_size)]
        found: list[tuple[int, int]] = []
        for shares in zip(*(sampler.run(1, consumed) for sampler in ranks), strict=True):
            if shares[0].epoch > 1:
                return found
            for share in shares:
                found += zip(share.samples.tolist(), share.views.tolist(), strict=True)
        return found

    whole = positions(1, 0, size)
    for consumed in range(0, min(order.length, 6 * size) // size * size, size):
        for world_size in (1, 2):
            rest = positions(world_size, consumed, size // world_size)
            assert rest == whole[consumed:]


def test_nothing_left_is_one_error_and_no_recursion() -> None:
    order, choice = Global(1500, SEED), Choice(4, SEED)
    bad = Bad(1500)
    bad.add_samples(range(1499))
    assert set(show(order, choice, 0, np.arange(300), bad).samples.tolist()) == {1499}
    bad.add_samples([1499])
    with pytest.raises(NothingLeft, match="none of the 1500 samples"):
        show(order, choice, 0, np.arange(10), bad)
    views = Bad(50)
    for sample, view in itertools.product(range(50), range(4)):
        views.add(Showing(sample, (view,)))
    with pytest.raises(NothingLeft, match="none of the 50 samples"):
        show(Global(50, SEED), choice, 0, np.arange(10), views)
