"""The order of samples, the choice of views and the ranks' shares."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dali_dr.keyed import mix
from dali_dr.sampling.choice import Choice, Curriculum
from dali_dr.sampling.order import ClassPaired, Global, Order, Repeated, Sequential, Subset, Windowed
from dali_dr.sampling.permutation import keyed_permutation
from dali_dr.sampling.sampler import LastBatch, Progressive, RandomShapes, Sampler, Shape, Share


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_permutation_is_one(size: int, key: int) -> None:
    assert np.array_equal(np.sort(keyed_permutation(np.arange(size), size, key)), np.arange(size))


def scalar_mix(*words: int) -> int:
    """mix() once more, in Python's integers, from SplitMix64's definition."""
    state, mask = 0, 2**64 - 1
    for number, word in enumerate(words, 1):
        state = ((state ^ word) + 0x9E3779B97F4A7C15 * number) & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        state ^= state >> 31
    return state


def scalar_permutation(position: int, size: int, key: int) -> int:
    root = math.isqrt(size - 1) + 1
    sides = [(r * -(-size // r), -r) for r in range(1, root + 1) if r > root // 2 and r > root - 64]
    rows = -min(sides)[1]
    columns = -(-size // rows)
    x, y = position, size
    while y >= size:
        left, right = divmod(x, columns)
        for number in range(1, (16 if size < 64 else 8) + 1):
            half = right if number % 2 else left
            h = (half + key + 0x9E3779B97F4A7C15 * number) * 0xBF58476D1CE4E5B9 & 2**64 - 1
            h = (h ^ h >> 32) * 0x94D049BB133111EB % 2**64 >> 33
            if number % 2:
                left = (left + h) % rows
            else:
                right = (right + h) % columns
        x = y = left * columns + right
    return y


@pytest.mark.parametrize("size", [2, 3, 63, 64, 100, 1009])
def test_permutation_is_the_network_that_the_docstring_names(size: int) -> None:
    for key in (0, 1, 2**64 - 1):
        want = [scalar_permutation(p, size, scalar_mix(key)) for p in range(size)]
        assert keyed_permutation(np.arange(size), size, key).tolist() == want


@pytest.mark.parametrize(("last_batch", "digest"), [("drop", "341b89ccfdfa21ae"), ("partial", "59afbcc1a439bb23")])
def test_order_and_views_are_those_of_saved_states(last_batch: LastBatch, digest: str) -> None:
    """A change here lets runs go on differently from their saved states: raise the state's version with it."""
    shapes = RandomShapes((Shape(12, (8, 8)), Shape(24, (6, 6)), Shape(6, (9, 9))), 1)
    orders: tuple[Order, ...] = (
        Global(1009, 5),
        Windowed((400, 400, 209), 5, 100),
        Repeated(Global(1009, 5), 3),
        ClassPaired(Global(1009, 5), np.arange(1009) % 10, 6),
    )
    found = hashlib.sha256()
    for order in orders:
        for choice in (Choice(400, 5), Choice(32, 5, 2, Curriculum("easy", "all", 4, 0.5), 0.75)):
            for share in itertools.islice(Sampler(order, choice, shapes, 1, 2, last_batch).run(1), 100):
                found.update(np.r_[share.epoch, share.consumed, share.size].astype("<i8").tobytes())
                found.update(share.samples.astype("<i8").tobytes() + share.views.astype("<i8").tobytes())
    assert found.hexdigest()[:16] == digest


def test_permutation_needs_no_other_positions() -> None:
    whole = keyed_permutation(np.arange(1000), 1000, 3)
    assert [int(keyed_permutation([p], 1000, 3)[0]) for p in (0, 17, 999)] == whole[[0, 17, 999]].tolist()


def test_permutation_of_a_huge_set_stays_inside_and_distinct() -> None:
    size = 10**12 + 39
    numbers = keyed_permutation(np.arange(10**5), size, 1)
    assert numbers.min() >= 0 and numbers.max() < size and len(np.unique(numbers)) == 10**5


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 8, 32, 50])
def test_pairs_of_values_are_equally_likely(size: int) -> None:
    keys = np.repeat(mix(11, np.arange(20_000, dtype=np.uint64))[:, None], 2, axis=1)
    for here, there in ((0, 1), (0, size - 1), (size // 2, 0)):
        if here != there:
            pairs = keyed_permutation(np.broadcast_to([here, there], keys.shape), size, keys)
            counts = np.bincount(pairs[:, 0] * size + pairs[:, 1], minlength=size * size).reshape(size, size)
            assert np.diag(counts).sum() == 0
            assert stats.chisquare(counts[~np.eye(size, dtype=bool)]).pvalue > 1e-4


def test_a_key_per_position_selects_a_permutation_per_position() -> None:
    keys = mix(5, np.arange(50, dtype=np.uint64))
    together = keyed_permutation(np.full(50, 7), 400, keys)
    # The public one-key form hashes integers; arrays are taken as they are.
    alone = [int(keyed_permutation([7], 400, keys[i : i + 1])[0]) for i in range(50)]
    assert together.tolist() == alone


def test_order_looks_random() -> None:
    order = keyed_permutation(np.arange(20_000), 20_000, 9)
    assert abs(stats.spearmanr(np.arange(20_000), order).statistic) < 0.03
    steps = np.diff(order)
    assert abs(stats.spearmanr(steps[:-1], steps[1:]).statistic + 0.5) < 0.05  # as for a random permutation
    thirds = np.histogram2d(np.arange(20_000), order, bins=10)[0]
    assert stats.chisquare(thirds.ravel()).pvalue > 1e-4


@pytest.mark.parametrize("num_views", [1, 2, 7, 32, 400])
def test_no_view_repeats_before_all_were_seen(num_views: int) -> None:
    samples, choice = np.arange(20), Choice(num_views, seed=1)
    epochs = np.stack([choice.views(samples, e, e) for e in range(2 * num_views)])
    for cycle in (epochs[:num_views], epochs[num_views:]):
        assert np.array_equal(np.sort(cycle, axis=0), np.broadcast_to(np.arange(num_views)[:, None], cycle.shape))
    if num_views >= 32:
        assert (epochs[:num_views] != epochs[num_views:]).any()
        assert (epochs[:, :1] != epochs).any(axis=0)[1:].all()  # images are not in step


@pytest.mark.parametrize("m", [2, 4, 5])
def test_several_views_per_image_run_through_all(m: int) -> None:
    choice = Choice(20, seed=1, views_per_image=m)
    seen = np.concatenate([choice.views(np.arange(9), e, e) for e in range(20 // m)], axis=1)
    assert seen.shape == (9, 20)
    assert np.array_equal(np.sort(seen, axis=1), np.broadcast_to(np.arange(20), seen.shape))


def test_views_in_one_epoch_are_spread_evenly() -> None:
    counts = np.bincount(Choice(400).views(np.arange(40_000), 3, 3), minlength=400)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_mixture_with_fresh_views() -> None:
    samples, stored = np.arange(20_000), Choice(50, seed=3)
    mixed = Choice(50, seed=3, p_reinforced=0.9)
    views = mixed.views(samples, 7, 7)
    fresh = views < 0
    assert stats.binomtest(int(fresh.sum()), len(samples), 0.1).pvalue > 1e-4
    assert (views[fresh] == -8).all() and np.array_equal(views[~fresh], stored.views(samples, 7, 7)[~fresh])
    again = mixed.views(samples, 8, 8) < 0
    assert stats.binomtest(int((again & fresh).sum()), len(samples), 0.01).pvalue > 1e-4  # drawn anew each time
    assert (Choice(0).views(samples, 2, 2) == -3).all() and (
        Choice(50, p_reinforced=0).views(samples, 2, 2) == -3
    ).all()


def test_curriculum_follows_the_cosine() -> None:
    curriculum = Curriculum("easy", "hard", epochs=11, part=0.25)
    assert curriculum(0) == (0.0, 0.25) and curriculum(10) == curriculum(99) == (0.75, 1.0)
    for epoch in range(11):
        shift = 0.75 * 0.5 * (1 - np.cos(np.pi * epoch / 10))
        np.testing.assert_allclose(curriculum(epoch), (shift, 0.25 + shift))
    choice = Choice(40, window=Curriculum("easy", "all", epochs=3, part=0.5))
    for epoch, end in ((0, 20), (1, 30), (2, 40)):
        views = np.unique(np.concatenate([choice.views(np.arange(50), visit, epoch) for visit in range(5)]))
        assert views.min() >= 0 and views.max() < end and len(views) == end


@pytest.mark.parametrize("window", [(0.5, 0.5), (-0.1, 1), (0, 1.1)])
def test_windows_outside_the_views_are_refused(window: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="window of epoch 4"):
        Choice(10, window=lambda epoch: window).views(np.arange(3), 0, 4)


# ---- orders


def epoch_order(order: Order, epoch: int) -> Any:
    return order.at(epoch, np.arange(order.length)).samples


@pytest.mark.parametrize(
    "order",
    [
        Global(103, 5),
        Sequential(103),
        Windowed((40, 40, 23), 5, 10),
        Windowed((40, 40, 23), 5, 1),
        Windowed((1,) * 103, 5, 1000),
        Windowed((103,), 5, 103),
    ],
    ids=repr,
)
def test_an_epoch_has_every_sample_once(order: Order) -> None:
    for epoch in range(3):
        assert np.array_equal(np.sort(epoch_order(order, epoch)), np.arange(103))
        assert np.array_equal(epoch_order(order, epoch)[[5, 77]], order.at(epoch, np.array([5, 77])).samples)
    if not isinstance(order, Sequential):
        assert (epoch_order(order, 0) != epoch_order(order, 1)).any()


def test_windows_stay_near_the_stream_of_shards() -> None:
    order = Windowed((1000,) * 50, seed=2, window=300)
    samples = epoch_order(order, 0)
    shards = samples // 1000
    assert len(np.unique(np.concatenate([shards[i : i + 300] for i in range(0, 300, 300)]))) <= 2
    for begin in range(0, 50_000, 300):  # a window's samples are those of a run of the stream
        assert len(np.unique(shards[begin : begin + 300])) <= 2
    first_seen = shards[np.sort(np.unique(shards, return_index=True)[1])]
    assert not np.array_equal(first_seen, np.arange(50))  # shards are shuffled
    assert (np.diff(samples[:300]) != 1).mean() > 0.9  # and so are windows


def test_repeated_augmentation_has_different_views_side_by_side() -> None:
    sampler = Sampler(Repeated(Global(100, 1), 3), Choice(30, 1), fixed(12))
    samples, views = together(list(itertools.islice(sampler.run(), 8)))
    assert np.array_equal(samples.reshape(-1, 3), np.repeat(samples[::3, None], 3, axis=1))
    assert len(np.unique(samples)) == 32  # 8 batches of 4 samples
    assert all(len(set(row)) == 3 for row in views.reshape(-1, 3).tolist())


def test_pairs_are_of_one_class() -> None:
    labels = np.random.default_rng(0).integers(0, 12, 200)
    labels[17] = 99  # alone in its class
    order = ClassPaired(Global(200, 3), labels, seed=3, mates=2)
    groups = epoch_order(order, 0).reshape(-1, 3)
    assert np.array_equal(np.sort(groups[:, 0]), np.arange(200))
    assert (labels[groups] == labels[groups[:, :1]]).all()
    assert all(len(set(g)) == 3 for g in groups.tolist() if g[0] != 17)
    assert groups[groups[:, 0] == 17].tolist() == [[17, 17, 17]]
    assert (
        epoch_order(order, 1).reshape(-1, 3)[np.argsort(epoch_order(order, 1)[::3]), 1]
        != groups[np.argsort(groups[:, 0]), 1]
    ).mean() > 0.7
    partners = np.concatenate([epoch_order(order, e).reshape(-1, 3)[:, 1] for e in range(60)])
    members = np.nonzero(labels == 4)[0]
    counts = np.bincount(partners, minlength=200)[members]
    assert stats.chisquare(counts).pvalue > 1e-4  # every mate is as likely


def test_subset_of_samples() -> None:
    numbers = np.array([90, 3, 41, 7, 8, 60])
    assert sorted(epoch_order(Subset(Global(6, 1), numbers), 0).tolist()) == sorted(numbers.tolist())
    paired = epoch_order(ClassPaired(Subset(Global(6, 1), numbers), np.arange(100) % 2, seed=1), 0)
    assert set(paired.tolist()) == set(numbers.tolist())


# ---- the sampler


def fixed(batch_size: int) -> Any:
    return lambda epoch, begin: Shape(batch_size, (8, 8))


def shares_of(sampler: Sampler, epoch: int, consumed: int = 0) -> list[Share]:
    return list(itertools.takewhile(lambda s: s.epoch == epoch, sampler.run(epoch, consumed)))


def together(shares: Sequence[Share]) -> tuple[Any, Any]:
    return np.concatenate([s.samples for s in shares]), np.concatenate([s.views for s in shares])


@settings(max_examples=80, deadline=None)
@given(
    num_samples=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    world_size=st.integers(1, 5),
    last_batch=st.sampled_from(["partial", "drop", "fill"]),
    shuffle=st.booleans(),
)
def test_ranks_are_disjoint_and_complete(
    num_samples: int, batch_size: int, world_size: int, last_batch: LastBatch, shuffle: bool
) -> None:
    order = Global(num_samples, 1) if shuffle else Sequential(num_samples)
    short = num_samples < world_size or (batch_size == 1 and num_samples % world_size)
    if short if last_batch == "partial" else (last_batch == "drop" and num_samples < world_size * batch_size):
        for rank in range(world_size):  # all of them, so that none waits for the others
            with pytest.raises(ValueError, match="get"):
                Sampler(order, Choice(3), fixed(batch_size), rank, world_size, last_batch)
        return
    ranks = [Sampler(order, Choice(3), fixed(batch_size), r, world_size, last_batch) for r in range(world_size)]
    for epoch in range(2):
        seen: list[int] = []
        batches = set()
        for sampler in ranks:
            shares = shares_of(sampler, epoch)
            batches |= {len(shares), sampler.batches(epoch)}
            assert sampler.images(epoch) == sum(len(s.samples) for s in shares)
            if last_batch != "partial":
                assert all(len(s.samples) == batch_size for s in shares)
            assert all(0 < len(s.samples) <= batch_size for s in shares)
            seen += together(shares)[0].tolist()
        assert len(batches) == 1
        if last_batch == "partial":
            assert sorted(seen) == list(range(num_samples))
        elif last_batch == "drop":
            assert len(seen) == len(set(seen)) == num_samples // (batch_size * world_size) * batch_size * world_size
        else:
            assert set(seen) == set(range(num_samples)) and len(seen) - num_samples < batch_size * world_size
        if not shuffle and world_size == 1 and last_batch == "partial":
            assert seen == list(range(num_samples))


def test_epochs_and_seeds_differ() -> None:
    first, second = itertools.islice(Sampler(Global(1000, 1), Choice(10), fixed(1000)).run(), 2)
    assert (first.samples != second.samples).mean() > 0.9
    other = next(Sampler(Global(1000, 2), Choice(10), fixed(1000)).run())
    assert (other.samples != first.samples).mean() > 0.9


def test_shares_do_not_depend_on_how_many_are_computed_at_once() -> None:
    sampler = Sampler(Global(101, 3), Choice(5, 3), fixed(8), rank=1, world_size=2)
    for some, single in zip(itertools.islice(sampler.run(block=7), 30), sampler.run(block=1), strict=False):
        assert np.array_equal(some.samples, single.samples) and np.array_equal(some.views, single.views)
        assert (some.epoch, some.consumed) == (single.epoch, single.consumed)


@pytest.mark.parametrize("worlds", [(1, 2, 4, 3), (4, 1), (3, 5, 2)])
@pytest.mark.parametrize("shapes", [fixed(8), RandomShapes((Shape(4, (8, 8)), Shape(8, (6, 6)), Shape(2, (9, 9))), 1)])
def test_another_world_size_continues_the_epoch_exactly(worlds: tuple[int, ...], shapes: Any) -> None:
    """Two global batches with each world size in turn, the rest with the last one: every sample exactly once."""
    seen: list[int] = []
    consumed = 0
    for number, world_size in enumerate(worlds):
        last = number == len(worlds) - 1
        ends = set()
        for rank in range(world_size):
            sampler = Sampler(Global(200, 5), Choice(4), shapes, rank, world_size)
            shares = shares_of(sampler, 0, consumed)[: None if last else 2]
            seen += together(shares)[0].tolist()
            ends.add(shares[-1].consumed)
        (consumed,) = ends
    assert consumed == 200 and sorted(seen) == list(range(200))


def test_random_shapes_are_the_same_on_every_rank_and_even() -> None:
    shapes = RandomShapes((Shape(2, (8, 8)), Shape(4, (6, 6)), Shape(8, (4, 4))), 1)
    ranks = [shares_of(Sampler(Global(6000, 1), Choice(4), shapes, r, 2, "drop"), 0) for r in range(2)]
    assert [(s.size, len(s.samples)) for s in ranks[0]] == [(s.size, len(s.samples)) for s in ranks[1]]
    counts = np.bincount([s.size[0] for s in ranks[0]], minlength=9)[[8, 6, 4]]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_progressive_resizing() -> None:
    sampler = Sampler(Global(10, 1), Choice(4), Progressive(5, lambda epoch: 100 + 20 * epoch))
    assert [s.size for s in itertools.islice(sampler.run(), 6)] == [(n, n) for n in (100, 100, 120, 120, 140, 140)]


def test_groups_are_not_torn_apart() -> None:
    order = Repeated(Global(101, 1), 3)
    for world_size in (1, 2, 3):
        for rank in range(world_size):
            for share in shares_of(Sampler(order, Choice(9), fixed(6), rank, world_size), 0):
                assert all(len(set(g)) == 1 for g in share.samples.reshape(-1, 3).tolist())
    with pytest.raises(ValueError, match="multiple of 3"):
        Sampler(order, Choice(9), fixed(8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sampler(Global(10, 0), Choice(2), fixed(4), rank=1),
        lambda: Sampler(Global(10, 0), Choice(2), fixed(0)),
        lambda: Sampler(Global(10, 0), Choice(2), fixed(4), last_batch="pad"),  # type: ignore[arg-type]
        lambda: Sampler(Global(10, 0), Choice(2), fixed(11), last_batch="drop"),
        lambda: Sampler(Global(10, 0), Choice(2), fixed(1), rank=0, world_size=11),
        lambda: Choice(2, p_reinforced=1.1),
        lambda: Choice(2, views_per_image=3),
        lambda: Curriculum("easy", "harder", 3),
        lambda: Windowed((3,), 0, 0),
        lambda: Repeated(Global(3, 0), 0),
    ],
)
def test_bad_arguments_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        make()
