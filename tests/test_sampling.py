"""The order of samples, the choice of views and the ranks' shares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dali_dr.sampling.choice import choose_views
from dali_dr.sampling.order import keyed_permutation, mix
from dali_dr.sampling.sampler import LastBatch, Sampler


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_permutation_is_one(size: int, key: int) -> None:
    assert np.array_equal(np.sort(keyed_permutation(np.arange(size), size, key)), np.arange(size))


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
    samples = np.arange(20)
    epochs = np.stack([choose_views(samples, e, num_views, 1) for e in range(2 * num_views)])
    for cycle in (epochs[:num_views], epochs[num_views:]):
        assert np.array_equal(np.sort(cycle, axis=0), np.broadcast_to(np.arange(num_views)[:, None], cycle.shape))
    if num_views >= 32:
        assert (epochs[:num_views] != epochs[num_views:]).any()
        assert (epochs[:, :1] != epochs).any(axis=0)[1:].all()  # images are not in step


def test_views_in_one_epoch_are_spread_evenly() -> None:
    counts = np.bincount(choose_views(np.arange(40_000), 3, 400, 0), minlength=400)
    assert stats.chisquare(counts).pvalue > 1e-4


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
    try:
        ranks = [Sampler(num_samples, 3, batch_size, 1, r, world_size, shuffle, last_batch) for r in range(world_size)]
    except ValueError:
        assert num_samples < world_size * batch_size
        return
    for epoch in range(2):
        seen: list[int] = []
        for sampler in ranks:
            steps = sampler.steps_in_epoch()
            shares = sampler.shares(epoch * steps, steps)
            assert all(s.epoch == epoch for s in shares)
            if last_batch != "partial":
                assert all(len(s.samples) == batch_size for s in shares)
            assert all(len(s.samples) > 0 for s in shares)
            seen += np.concatenate([s.samples for s in shares]).tolist()
        if last_batch == "partial":
            assert sorted(seen) == list(range(num_samples))
        elif last_batch == "drop":
            assert len(seen) == len(set(seen)) == num_samples // (batch_size * world_size) * batch_size * world_size
        else:
            assert set(seen) == set(range(num_samples)) and len(seen) - num_samples < batch_size * world_size
        if not shuffle and world_size == 1 and last_batch == "partial":
            assert seen == list(range(num_samples))


def test_epochs_and_seeds_differ() -> None:
    sampler = Sampler(1000, 10, 1000, seed=1)
    first, second = sampler.shares(0, 2)
    assert (first.samples != second.samples).mean() > 0.9
    assert (Sampler(1000, 10, 1000, seed=2).shares(0, 1)[0].samples != first.samples).mean() > 0.9


def test_shares_do_not_depend_on_how_many_are_computed_at_once() -> None:
    sampler = Sampler(101, 5, 8, seed=3, rank=1, world_size=2)
    together = sampler.shares(0, 30)
    for step, share in enumerate(together):
        alone = sampler.shares(step, 1)[0]
        assert np.array_equal(alone.samples, share.samples) and np.array_equal(alone.views, share.views)
        assert (alone.epoch, alone.consumed) == (share.epoch, share.consumed)


@pytest.mark.parametrize("worlds", [(1, 2, 4, 3), (4, 1), (3, 5, 2)])
def test_another_world_size_continues_the_epoch_exactly(worlds: tuple[int, ...]) -> None:
    """Two global batches with each world size in turn, the rest with the last one: every sample exactly once."""
    seen: list[int] = []
    consumed = 0
    for number, world_size in enumerate(worlds):
        last = number == len(worlds) - 1
        ends = set()
        for rank in range(world_size):
            sampler = Sampler(200, 4, 8, 5, rank, world_size, start_consumed=consumed)
            shares = sampler.shares(0, sampler.steps_in_epoch(consumed) if last else 2)
            assert all(s.epoch == 0 for s in shares)
            seen += np.concatenate([s.samples for s in shares]).tolist()
            ends.add(shares[-1].consumed)
        (consumed,) = ends
    assert consumed == 200 and sorted(seen) == list(range(200))


def test_bad_arguments_are_refused() -> None:
    good = Sampler(10, 2, 4)
    for change in (
        {"rank": 1},
        {"batch_size": 0},
        {"last_batch": "pad"},
        {"batch_size": 11, "last_batch": "drop"},
        {"start_consumed": 11},
        {"world_size": 11, "rank": 0, "batch_size": 1},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            dataclasses.replace(good, **change)  # type: ignore[arg-type]
