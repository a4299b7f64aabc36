"""Every nesting of two and of three wrappers over every order, against the same nestings written in plain Python lists."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_sampling import scalar_mix, scalar_permutation

from dali_dr.keyed import Int64
from dali_dr.sampling.choice import Choice, Curriculum
from dali_dr.sampling.order import ClassPaired, Global, Order, Repeated, Sequential, Showings, Subset, Windowed
from dali_dr.sampling.sampler import RandomShapes, Sampler, Shape, Share

BASES = ("Sequential", "Global", "Windowed")
WRAPPERS = ("Repeated", "ClassPaired", "Subset")
NESTINGS = [  # innermost first
    (base, *wrappers) for base in BASES for depth in (2, 3) for wrappers in itertools.product(WRAPPERS, repeat=depth)
]
CASES = 93  # of each nesting
assert len(NESTINGS) == 108 and len(NESTINGS) * CASES >= 10_000


@dataclasses.dataclass
class Model:
    """An order, and what it means: the samples of an epoch as a list, of which runs of `group` belong together."""

    order: Order
    group: int
    members: list[int]
    numbers: int  # sample numbers are below this
    epoch: Callable[[int], list[int]]


def base_model(name: str, size: int, seed: int, rng: random.Random) -> Model:
    if name == "Sequential":
        return Model(Sequential(size), 1, [*range(size)], size, lambda epoch: [*range(size)])
    if name == "Global":

        def permuted(epoch: int) -> list[int]:
            key = scalar_mix(scalar_mix(seed, 0x4F524452, epoch))
            return [scalar_permutation(p, size, key) for p in range(size)]

        return Model(Global(size, seed), 1, [*range(size)], size, permuted)
    cuts = [0, *sorted(rng.sample(range(1, size), min(2, size - 1))), size]
    shards = [range(a, b) for a, b in itertools.pairwise(cuts)]
    window = rng.randint(1, size + 1)

    def windowed(epoch: int) -> list[int]:
        key = scalar_mix(scalar_mix(seed, 0x53485244, epoch))
        stream = [n for p in range(len(shards)) for n in shards[scalar_permutation(p, len(shards), key)]]
        result = []
        for number, begin in enumerate(range(0, size, window)):
            some = stream[begin : begin + window]
            key = scalar_mix(seed, 0x57494E44, epoch, number)
            result += [some[scalar_permutation(p, len(some), key)] for p in range(len(some))]
        return result

    order = Windowed(tuple(len(shard) for shard in shards), seed, window)
    return Model(order, 1, [*range(size)], size, windowed)


def repeated_model(base: Model, times: int) -> Model:
    def epoch(number: int) -> list[int]:
        shown = base.epoch(number)
        groups = [shown[i : i + base.group] for i in range(0, len(shown), base.group)]
        kept = groups[: len(groups) // times or 1]
        return [sample for group in kept for sample in group for _ in range(times)]

    return Model(Repeated(base.order, times), base.group * times, base.members, base.numbers, epoch)


def paired_model(base: Model, mates: int, labels: list[int], seed: int) -> Model:
    def epoch(number: int) -> list[int]:
        chosen: dict[int, list[int]] = {}
        for anchor in base.members:
            same = [n for n in base.members if labels[n] == labels[anchor]]
            own, others = same.index(anchor), len(same) - 1
            key = scalar_mix(seed, 0x50414952, number, anchor)
            steps = [scalar_permutation(k % others, others, key) + 1 for k in range(mates)] if others else [0] * mates
            chosen[anchor] = [same[(own + step) % len(same)] for step in steps]
            assert len(set(chosen[anchor])) == min(mates, others or 1)
        return [sample for anchor in base.epoch(number) for sample in (anchor, *chosen[anchor])]

    order = ClassPaired(base.order, np.array(labels), seed, mates)
    return Model(order, base.group * (mates + 1), base.members, base.numbers, epoch)


def subset_model(base: Model, numbers: list[int], bound: int) -> Model:
    return Model(
        Subset(base.order, np.array(numbers)),
        base.group,
        sorted(numbers[n] for n in base.members),
        bound,
        lambda epoch: [numbers[n] for n in base.epoch(epoch)],
    )


def nested_model(nesting: Sequence[str], size: int, seed: int, rng: random.Random) -> Model:
    most = 3 if len(nesting) < 4 else 2  # mates and repetitions
    model = base_model(nesting[0], size, seed, rng)
    for wrapper in nesting[1:]:
        if wrapper == "Repeated":
            model = repeated_model(model, rng.randint(1, most))
        elif wrapper == "ClassPaired":
            classes = rng.randint(1, 4)
            labels = [rng.randrange(classes) for _ in range(model.numbers)]
            model = paired_model(model, rng.randint(1, most), labels, seed + 1)
        else:
            bound = model.numbers + rng.randint(0, 4)
            model = subset_model(model, rng.sample(range(bound), model.numbers), bound)
    model.epoch = functools.cache(model.epoch)
    return model


def rows_of(views: Any) -> list[list[int]]:
    return views.reshape(len(views), -1).tolist()  # type: ignore[no-any-return]


def check_views(samples: list[int], views: list[list[int]], group: int, stored: int) -> None:
    """No view twice in a group, of any sample of which it has no more views than are stored."""
    for begin in range(0, len(samples), group):
        seen = collections.defaultdict(list)
        for place in range(begin, begin + group):
            seen[samples[place]] += views[place]
        for own in seen.values():
            assert all(0 <= view < stored for view in own)
            assert len(own) > stored or len(set(own)) == len(own)


def fixed(batch_size: int) -> Any:
    return lambda epoch, begin: Shape(batch_size, (8, 8))


def refused(groups: int, world_size: int, groups_per_batch: int) -> bool:
    """Whether no way of sharing out gives every rank equally many batches of one to so many groups."""
    return 0 < groups < world_size or (groups_per_batch == 1 and groups % world_size > 0)


def shares_of_ranks(ranks: list[Sampler], epoch: int, consumed: int = 0) -> list[tuple[Share, ...]]:
    """Steps of an epoch, each the shares of all ranks, which have equally many."""
    each = [list(itertools.islice(r.run(epoch, consumed, 64), r.batches(epoch, consumed))) for r in ranks]
    steps = list(zip(*each, strict=True))
    for step in steps:
        assert len({share.consumed for share in step}) == 1 and {share.epoch for share in step} == {epoch}
    for rank, shares in zip(ranks, each, strict=True):
        assert rank.images(epoch, consumed) == sum(len(share.samples) for share in shares)
    return steps


def check_ranks(make: Callable[..., Sampler], model: Model, epoch: int, resumed: tuple[int, int], many: int) -> None:
    """The ranks' shares are the epoch, cut between groups; from any place on, also with another world size."""
    world_size, other = resumed
    expected = model.epoch(epoch)
    groups = len(expected) // model.group
    if refused(groups, world_size, many):
        for rank in range(world_size):
            with pytest.raises(ValueError, match="ranks would get no batch"):
                make(rank, world_size)
        return
    steps = shares_of_ranks([make(rank, world_size) for rank in range(world_size)], epoch)
    assert [n for step in steps for share in step for n in share.samples.tolist()] == expected
    assert all(0 < len(s.samples) <= many * model.group and not len(s.samples) % model.group for t in steps for s in t)

    consumed = steps[len(steps) // 2][0].consumed
    rest = (len(expected) - consumed) // model.group
    if refused(groups, other, many):  # no sampler is made for it
        return
    ranks = [make(rank, other) for rank in range(other)]
    if refused(rest, other, many):
        for sampler in ranks:
            with pytest.raises(ValueError, match="ranks would get no batch"):
                sampler.run(epoch, consumed)
        return
    further = shares_of_ranks(ranks, epoch, consumed)
    assert [n for step in further for share in step for n in share.samples.tolist()] == expected[consumed:]
    views = [row for step in steps for share in step for row in rows_of(share.views)]
    assert [row for step in further for share in step for row in rows_of(share.views)] == views[consumed:]


cases = st.tuples(
    st.integers(1, 9),  # samples of the base
    st.integers(0, 2**32),  # seed of the orders, and of the wrappers' arguments
    st.integers(1, 12),  # views stored
    st.integers(1, 2),  # views per image
    st.booleans(),  # a curriculum
    st.integers(0, 60),  # first epoch
    st.integers(1, 4),  # ranks
    st.integers(1, 3),  # ranks after resuming
    st.integers(1, 3),  # groups in a batch
)


@pytest.mark.parametrize("outermost", WRAPPERS)
@pytest.mark.parametrize("base", BASES)
def test_every_nesting(base: str, outermost: str) -> None:
    nestings = [nesting for nesting in NESTINGS if nesting[0] == base and nesting[-1] == outermost]
    count = sum(drawn_cases(nesting) for nesting in nestings)
    print(f"{count} cases of {len(nestings)} nestings")
    assert len(nestings) == 12 and count >= 12 * CASES


def drawn_cases(nesting: Sequence[str]) -> int:
    """How many cases of a nesting were drawn and found right."""
    count = 0

    @settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(case=cases)
    def check(case: Any) -> None:
        nonlocal count
        check_case(nesting, *case)
        count += 1

    check()
    return count


def check_case(
    nesting: Sequence[str],
    size: int,
    seed: int,
    stored: int,
    m: int,
    curriculum: bool,
    first: int,
    world_size: int,
    other: int,
    many: int,
) -> None:
    model = nested_model(nesting, size, seed, random.Random(seed))
    order = model.order
    choice = Choice(stored, 3, min(m, stored), Curriculum("easy", "hard", 50, 0.3) if curriculum else None)
    assert order.members().tolist() == model.members and order.group == model.group
    for epoch in (first, first + 1):
        expected = model.epoch(epoch)
        assert set(expected) <= set(model.members) and order.length == len(expected) > 0
        shown = order.at(epoch, np.arange(order.length))
        assert shown.samples.tolist() == expected
        assert (shown.turns == epoch).all() and (shown.places >= 0).all() and (shown.places < shown.of).all()
        views = choice.views(shown.samples, shown.turns, epoch, shown.places, shown.of)
        check_views(expected, rows_of(views), model.group, stored)
    some = np.random.default_rng(seed).permutation(order.length)[:5]
    alone = order.at(epoch, some)
    assert all(np.array_equal(a, b[some]) for a, b in zip(vars(alone).values(), vars(shown).values(), strict=True))

    def sampler(rank: int, world_size: int) -> Sampler:
        return Sampler(order, choice, fixed(many * model.group), rank, world_size)

    check_ranks(sampler, model, first, (world_size, other), many)


# ---- named faults


def test_pairs_of_repeated_samples_of_a_subset() -> None:
    numbers = np.array([90, 3, 41, 7, 8, 60, 12, 33])
    order = ClassPaired(Repeated(Subset(Global(8, 1), numbers), 2), np.arange(100) % 2, seed=1)
    assert order.group == 4 and order.members().tolist() == sorted(numbers.tolist())
    for epoch in range(5):
        shown = order.at(epoch, np.arange(order.length))
        assert set(shown.samples.tolist()) <= set(numbers.tolist())
        views = Choice(30, 2).views(shown.samples, shown.turns, epoch, shown.places, shown.of).reshape(-1, 4)
        groups = shown.samples.reshape(-1, 4)
        assert (groups[:, :2] == groups[:, 2:]).all() and (groups[:, 0] != groups[:, 1]).all()
        assert (views[:, :2] != views[:, 2:]).all()


@pytest.mark.parametrize(
    ("mates", "others", "room"), [(1, 0, 2), (3, 0, 4), (3, 2, 2), (5, 2, 3), (3, 3, 1), (2, 5, 1)]
)
def test_classes_with_fewer_others_than_mates(mates: int, others: int, room: int) -> None:
    """A sample of which a group has several showings takes as many places; the others of the data set keep theirs."""
    labels = np.r_[np.zeros(others + 1, np.int64), np.ones(20, np.int64)]
    order = ClassPaired(Global(len(labels), 3), labels, 5, mates)
    shown = order.at(2, np.arange(order.length))
    groups, places, of = (a.reshape(-1, mates + 1) for a in (shown.samples, shown.places, shown.of))
    small = labels[groups[:, 0]] == 0
    assert (of[small] == room).all() and (of[~small] == 1).all() and (places[~small] == 0).all()
    for samples, own in zip(groups[small].tolist(), places[small].tolist(), strict=True):
        times = collections.Counter(samples)
        assert max(times.values()) <= room and len(times) == min(mates, others) + 1
        for sample, count in times.items():
            assert sorted(p for s, p in zip(samples, own, strict=True) if s == sample) == list(range(count))


def test_mates_that_are_anchors_of_the_same_group() -> None:
    """A class of two, paired twice: a b, and each with the other again."""
    order = ClassPaired(ClassPaired(Sequential(2), np.zeros(2, np.int64), 1), np.zeros(2, np.int64), 2)
    shown = order.at(7, np.arange(8))
    assert shown.samples.tolist() == [0, 1, 1, 0, 1, 0, 0, 1]
    assert shown.places.tolist() == [0, 0, 1, 1, 0, 0, 1, 1] and set(shown.of.tolist()) == {2}


def test_repetitions_never_show_a_view_twice_in_a_turn() -> None:
    """400 views are no multiple of three: each permutation serves 133 turns and leaves one view for the next."""
    samples, stored, times = np.arange(7), 400, 3
    order, choice = Repeated(Sequential(21), times), Choice(stored, 4)
    seen = []
    for epoch in range(300):
        shown = order.at(epoch, np.arange(order.length))
        views = choice.views(shown.samples, shown.turns, epoch, shown.places, shown.of).reshape(7, times)
        assert shown.samples.reshape(7, times).tolist() == np.repeat(samples[:, None], times, axis=1).tolist()
        assert all(len(set(row)) == times for row in views.tolist())
        seen.append(views)
    for cycle in (seen[:133], seen[133:266]):
        assert all(len(set(row)) == 399 for row in np.concatenate(cycle, axis=1).tolist())
    assert (
        len(np.unique([sorted(set(range(400)) - set(np.concatenate(seen[:133], 1)[i].tolist())) for i in samples])) > 1
    )


def test_more_showings_than_views() -> None:
    """Then a turn shows every view before it shows one again, and the views of one showing differ."""
    for stored, of, m in itertools.product((1, 2, 3, 5, 7), (2, 3, 5, 8), (1, 2, 3)):
        if m <= stored < of * m:
            showings = stored // m
            for turn in range(12):
                args = np.full(of, turn), turn, np.arange(of), np.int64(of)
                views = Choice(stored, 1, m).views(np.full(of, 4), *args).reshape(of, m)
                for begin in range(0, of, showings):
                    some = views[begin : begin + showings].ravel()
                    assert len(set(some.tolist())) == len(some)


@pytest.mark.parametrize(("stored", "of", "m"), [(12, 3, 1), (12, 3, 2), (12, 12, 1), (4, 8, 1), (4, 6, 2), (1, 5, 1)])
def test_turns_that_fit_the_views_walk_through_them_one_by_one(stored: int, of: int, m: int) -> None:
    """Where a turn's views divide those stored, or the other way round, showings are turns of one showing."""
    numbers = np.arange(12 * of)
    turns, places = np.divmod(numbers, of)
    samples, choice = np.full(len(numbers), 3), Choice(stored, 7, m)
    views = choice.views(samples, turns, 0, places, of)
    assert np.array_equal(views, choice.views(samples, numbers, 0))
    for cycle in views.reshape(-1, stored).tolist():
        assert sorted(cycle) == [*range(stored)]


def test_places_do_not_depend_on_what_else_is_in_a_batch() -> None:
    choice = Choice(24, 3, 2, Curriculum("easy", "hard", 9, 0.1), 0.7)
    rng = np.random.default_rng(0)
    samples, turns, of = rng.integers(50, size=300), rng.integers(40, size=300), rng.integers(1, 20, size=300)
    places = rng.integers(of)
    together = choice.views(samples, turns, 5, places, of)
    for i in range(300):
        assert np.array_equal(choice.views(samples[[i]], turns[[i]], 5, places[[i]], of[[i]]), together[[i]])


@pytest.mark.parametrize("of", [1, 3, 6, 12, 50])
def test_a_curriculum_leaves_enough_views_for_a_turn(of: int) -> None:
    choice = Choice(24, 3, 2, Curriculum("easy", "hard", 9, 0.1))
    for epoch in range(10):
        low, high = choice.rows(epoch, of)
        assert 0 <= low < high <= 24 and high - low >= min(2 * of, 24)
        views = choice.views(np.full(of, 9), epoch, epoch, np.arange(of), of)
        assert low <= views.min() and views.max() < high
        assert of > 12 or len(np.unique(views)) == 2 * of


# ---- orders of the user


@dataclasses.dataclass(frozen=True)
class Twice:
    """Every sample twice an epoch, far apart."""

    size: int
    group = 1

    @property
    def length(self) -> int:
        return 2 * self.size

    def at(self, epoch: int, positions: Int64) -> Showings:
        places, samples = np.divmod(positions, self.size)
        return Showings(samples, np.full_like(samples, epoch), places, np.full_like(samples, 2))

    def members(self) -> Int64:
        return np.arange(self.size)


@pytest.mark.parametrize("times", [1, 3])
def test_an_order_of_the_user(times: int) -> None:
    sampler = Sampler(Repeated(Twice(6), times), Choice(12, 1), fixed(times))
    for epoch in range(5):
        shares = list(itertools.takewhile(lambda s: s.epoch == epoch, sampler.run(epoch)))  # noqa: B023
        seen = collections.defaultdict(list)
        for share in shares:
            for sample, view in zip(share.samples.tolist(), share.views.tolist(), strict=True):
                seen[sample].append(view)
        assert all(len(set(views)) == len(views) == (2 if times == 1 else len(views)) for views in seen.values())
    labels = np.array([0, 0, 0, 0, 0, 1])  # the last is alone, so its four showings need four views
    shown = ClassPaired(Twice(6), labels, 3).at(0, np.arange(24))
    alone = shown.samples == 5
    assert set(shown.of[alone].tolist()) == {4} and set(shown.of[~alone].tolist()) == {2}
    assert all(len(set(row)) == 2 for row in shown.places[alone].reshape(-1, 2).tolist())


@dataclasses.dataclass(frozen=True)
class Couples(Twice):
    """Two neighbours at a time, of which each has a number of showings of its own."""

    group = 2

    def at(self, epoch: int, positions: Int64) -> Showings:
        samples = positions % self.size
        return Showings(samples, np.full_like(samples, epoch), positions // self.size, 3 + samples)


def test_mates_of_anchors_that_are_shown_unequally_often() -> None:
    order = ClassPaired(Couples(4), np.zeros(4, np.int64), 3, mates=3)
    for epoch in range(20):
        shown = order.at(epoch, np.arange(order.length))
        views = Choice(13, 1).views(shown.samples, shown.turns, epoch, shown.places, shown.of)
        check_views(shown.samples.tolist(), rows_of(views), order.group, 13)
        for samples, of in zip(shown.samples.reshape(-1, 8), shown.of.reshape(-1, 8), strict=True):
            assert all(len(np.unique(of[samples == sample])) == 1 for sample in samples)


class Old:
    """An order as they were, without `at` and `members`."""

    length, group, repeats = 12, 1, 1

    def samples(self, epoch: int, positions: Int64) -> Int64:
        return positions


@pytest.mark.parametrize(
    "make",
    [
        lambda order: Sampler(order, Choice(3), fixed(4)),
        lambda order: Repeated(order, 2),
        lambda order: ClassPaired(order, np.zeros(12), 1),
        lambda order: Subset(order, np.arange(12)),
    ],
)
def test_an_order_that_lacks_something_is_refused(make: Any) -> None:
    with pytest.raises(TypeError, match=r"Old is no order, because it lacks at, members\. Implement .*Order"):
        make(Old())


@dataclasses.dataclass(frozen=True)
class Uneven(Twice):
    group = 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sampler(Uneven(6), Choice(3), fixed(5)), "12 positions, no multiple of the 5"),
        (lambda: Subset(Global(3, 0), np.array([4, 5, 4])), "twice"),
        (lambda: Subset(Global(4, 0), np.array([4, 5, 6])), "place 3 of a subset that has 3"),
        (lambda: ClassPaired(Sequential(4), np.zeros(3), 0).at(0, np.arange(8)), "sample 3, but there are labels of 3"),
        (lambda: Sampler(Sequential(12), Choice(3), fixed(4)).run(0, 13), "want a multiple of 1 within 0 … 12"),
        (lambda: Sampler(Repeated(Sequential(12), 3), Choice(3), fixed(6)).run(0, 4), "want a multiple of 3"),
        (lambda: Sampler(Repeated(Sequential(0), 3), Choice(3), fixed(6)), "holds no samples"),
    ],
)
def test_what_does_not_fit_together_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_order_that_shows_others_than_its_members_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Liar(Twice):
        def members(self) -> Int64:
            return np.arange(self.size - 1)

    with pytest.raises(ValueError, match=r"shows sample 5, which is none of its members"):
        ClassPaired(Liar(6), np.zeros(6), 0).at(0, np.arange(24))


# ---- ranks


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(1, 60),
    times=st.integers(1, 3),
    many=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    worlds=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**32),
)
def test_ranks_have_equally_many_batches_of_varying_shape(
    size: int, times: int, many: list[int], worlds: tuple[int, int], seed: int
) -> None:
    model = repeated_model(base_model("Global", size, seed, random.Random(seed)), times)
    shapes = RandomShapes(tuple(Shape(n * times, (n, n)) for n in many), seed)
    expected, consumed = model.epoch(0), 0
    for world_size in worlds:
        outcomes = []
        for rank in range(world_size):
            try:
                sampler = Sampler(model.order, Choice(4), shapes, rank, world_size)
                outcomes.append(list(itertools.takewhile(lambda s: s.epoch == 0, sampler.run(0, consumed))))
            except ValueError:
                outcomes.append([])
        left = (len(expected) - consumed) // times
        if not all(outcomes):
            assert not any(outcomes)
            whole = len(expected) // times
            assert left == 0 or min(many) == 1 or left < world_size or whole < world_size
            return
        steps = list(zip(*outcomes, strict=True))
        assert [n for step in steps for share in step for n in share.samples.tolist()] == expected[consumed:]
        for step in steps:
            assert len({(share.consumed, share.size) for share in step}) == 1
            assert all(times <= len(share.samples) <= times * share.size[0] for share in step)
        consumed = steps[len(steps) // 2][0].consumed


def test_the_last_batch_has_a_sample_for_every_rank() -> None:
    """33 samples, 4 ranks, batches of 4: after two global batches of 16 one sample would be left."""
    steps = shares_of_ranks([Sampler(Sequential(33), Choice(2), fixed(4), rank, 4) for rank in range(4)], 0)
    assert [[len(share.samples) for share in step] for step in steps] == [[4, 4, 4, 4], [3, 3, 3, 4], [1, 1, 1, 1]]


def test_a_state_that_leaves_fewer_samples_than_ranks() -> None:
    """Refused at once on all ranks, and nothing is lost: fewer ranks finish the epoch, and fill and drop go on anyway."""
    consumed = next(iter(Sampler(Sequential(10), Choice(2), fixed(7)).run())).consumed
    assert consumed == 7
    for rank in range(4):
        with pytest.raises(ValueError, match=r"position 7: 3 samples are left.* 4 ranks .*at most 3 ranks"):
            Sampler(Sequential(10), Choice(2), fixed(2), rank, 4).run(0, consumed)
    steps = shares_of_ranks([Sampler(Sequential(10), Choice(2), fixed(2), rank, 3) for rank in range(3)], 0, consumed)
    assert [[share.samples.tolist() for share in step] for step in steps] == [[[7], [8], [9]]]
    ranks = [Sampler(Sequential(10), Choice(2), fixed(2), rank, 4, "fill") for rank in range(4)]
    filled = [share.samples.tolist() for step in shares_of_ranks(ranks, 0, consumed) for share in step]
    assert filled == [[7, 8], [9, 0], [1, 2], [3, 4]]
    dropping = Sampler(Sequential(10), Choice(2), fixed(2), 3, 4, "drop")
    assert dropping.done(0, consumed) and next(dropping.run(0, consumed)).epoch == 1


def test_batches_of_one_sample_per_rank_that_do_not_divide() -> None:
    for rank in range(3):
        with pytest.raises(ValueError, match=r"4 samples are left and batches hold one per rank.*3 do not divide 4"):
            Sampler(Sequential(10), Choice(2), fixed(1), rank, 3)
        assert Sampler(Sequential(9), Choice(2), fixed(1), rank, 3).batches(0) == 3


def test_lengths_are_counted_by_batches() -> None:
    calls = []

    def shapes(epoch: int, begin: int) -> Shape:
        calls.append(begin)
        return Shape(256, (8, 8))

    sampler = Sampler(Global(1_281_167, 0), Choice(400), shapes, 3, 8)
    calls.clear()
    assert (sampler.batches(0), sampler.images(0)) == (626, 160_146)
    assert len(calls) == 2 * 626


def test_lists_will_do_for_arrays() -> None:
    positions = np.arange(6)
    pairs = [
        (Windowed([2, 4], 1, 3), Windowed((2, 4), 1, 3)),  # type: ignore[arg-type]
        (Subset(Global(6, 1), [5, 3, 1, 0, 2, 4]), Subset(Global(6, 1), np.array([5, 3, 1, 0, 2, 4]))),  # type: ignore[arg-type]
        (ClassPaired(Global(6, 1), [0, 1, 0, 1, 0, 1], 2), ClassPaired(Global(6, 1), np.array([0, 1] * 3), 2)),  # type: ignore[arg-type]
    ]
    for listed, arrayed in pairs:
        assert np.array_equal(listed.at(1, positions).samples, arrayed.at(1, positions).samples)


def test_an_order_that_gives_no_showings_is_named() -> None:
    class Wrong(Sequential):
        def at(self, epoch: int, positions: Any) -> Any:
            return positions

    with pytest.raises(TypeError, match=r"Wrong\.at gave a ndarray, want a .*Showings"):
        next(Sampler(Wrong(6), Choice(2), lambda epoch, begin: Shape(2, (8, 8))).run())
