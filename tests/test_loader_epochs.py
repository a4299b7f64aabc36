"""What an iterator gives when it is looked into, broken off, interrupted, limited, resumed: against lists written down before."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import linecache
import logging
import os
import pickle
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture
from test_iterator import loader, make_dataset

import dali_dr
from dali_dr.loader import iterator as loader_module
from dali_dr.sampling.choice import Curriculum
from dali_dr.sampling.order import Global
from dali_dr.sampling.permutation import keyed_permutation

COUNT, BATCH, SEED = 14, 4, 7
Batches = list[list[int]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    images = [encode_jpeg(picture(40 + 3 * i, 70 - 2 * i, i)) for i in range(COUNT)]
    return make_dataset(tmp_path_factory.mktemp("epochs") / "set", images)


def written(epoch: int) -> Batches:
    """The batches of an epoch, by the sampler's arithmetic alone (which tests/test_sampling.py pins): four, the last of two."""
    order = Global(COUNT, SEED).at(epoch, np.arange(COUNT)).samples.tolist()
    return [order[begin : begin + BATCH] for begin in range(0, COUNT, BATCH)]


def make(dataset: dali_dr.Dataset, **options: Any) -> dali_dr.ReinforcedIterator:
    return loader(dataset, **{"batch_size": BATCH, "seed": SEED, **options})


def indices(batch: Any) -> list[int]:
    found: list[int] = batch[0]["index"].tolist()
    return found


def taken(batches: Any, limit: int | None = None) -> Batches:
    return [indices(batch) for batch in itertools.islice(batches, limit)]


def test_a_peek_costs_nothing(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    assert indices(next(iter(it))) == written(0)[0]
    assert [taken(it) for _ in range(3)] == [written(1), written(2), written(3)]


def test_next_alone_goes_on_and_into_the_next_epoch(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    assert [indices(next(it)) for _ in range(4)] == written(0)
    with pytest.raises(StopIteration):
        next(it)
    assert [indices(next(it)) for _ in range(2)] == written(1)[:2]


def test_a_break_ends_the_epoch(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    for epoch, limit in enumerate((2, 1, 4, 3)):
        found = []
        for number, batch in enumerate(it, 1):
            found.append(indices(batch))
            if number == limit:
                break
        assert found == written(epoch)[:limit]
    assert taken(it) == written(4)


def test_a_loop_that_counts_to_the_length(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    for epoch in range(3):
        batches = iter(it)
        assert [indices(next(batches)) for _ in range(len(it))] == written(epoch)


def test_sanity_check_and_limited_batches(dataset: dali_dr.Dataset) -> None:
    """As Lightning validates: two batches first, then all of them after each epoch; and limit_train_batches=2."""
    validation = make(dataset, order="sequential")
    whole = [list(range(COUNT))[b : b + BATCH] for b in range(0, COUNT, BATCH)]
    assert taken(validation, 2) == whole[:2]
    assert [taken(validation) for _ in range(3)] == [whole] * 3
    training = make(dataset)
    assert [taken(training, 2) for _ in range(3)] == [written(epoch)[:2] for epoch in range(3)]


def test_iter_again_without_a_batch_is_the_same_epoch(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    assert iter(iter(it)) is it and it.epoch == 0
    assert taken(it) == written(0)
    iter(it), iter(it)
    assert taken(it) == written(1)


def test_reset_begins_an_epoch(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    taken(it, 2)
    it.reset()
    assert [indices(next(it)) for _ in range(4)] == written(1)
    it.reset()
    it.reset()
    assert taken(it) == written(2)
    it.reset()  # as scripts for DALI do after each epoch
    assert taken(it) == written(3)


@pytest.mark.parametrize("auto_reset", [False, "no", None])
def test_without_auto_reset_the_end_stays_the_end(dataset: dali_dr.Dataset, auto_reset: Any) -> None:
    it = make(dataset, auto_reset=auto_reset)
    assert taken(it) == written(0)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(it)
    it.reset()
    assert [indices(next(it)) for _ in range(4)] == written(1)
    assert taken(it) == written(2)  # iter() resets it, too


def test_set_epoch(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    for epoch in (0, 1, 5, 5, 2):
        it.set_epoch(epoch)
        assert taken(it) == written(epoch)
    batches = iter(it)
    assert indices(next(batches)) == written(3)[0]
    it.set_epoch(9)  # while one is under way: the next iter()
    assert indices(next(batches)) == written(3)[1]
    assert taken(it) == written(9) and taken(it) == written(10)
    it.set_epoch(4)
    it.set_epoch(6)
    assert it.epoch == 6 and taken(it, 1) == written(6)[:1]
    for bad in (-1, 1.5, "1", True, 2**31):
        with pytest.raises(ValueError, match="epoch is"):
            it.set_epoch(bad)  # type: ignore[arg-type]
    it.set_epoch(np.int64(1))  # type: ignore[arg-type]
    assert taken(it) == written(1)


def test_set_epoch_is_in_the_state_at_once(dataset: dali_dr.Dataset) -> None:
    it, other = make(dataset), make(dataset)
    taken(it, 2)
    it.set_epoch(5)
    other.load_state_dict(it.state_dict())
    assert taken(other) == written(5)
    assert indices(next(it)) == written(0)[2]  # it goes on until then
    other.load_state_dict(it.state_dict())
    assert taken(other) == written(0)[3:]
    assert taken(it) == written(5)


def test_set_epoch_back_and_forth_keeps_a_loaded_place(dataset: dali_dr.Dataset) -> None:
    it, other = make(dataset), make(dataset)
    taken(it, 2)
    for begin in (iter, lambda it: it):
        other.load_state_dict(it.state_dict())
        other.set_epoch(2)
        assert other.epoch == 2 and other.state_dict()["epoch"] == 2
        other.set_epoch(0)
        assert taken(begin(other)) == written(0)[2:]


def test_samplers_say_set_epoch_too(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    for part in (it.sampler, it.batch_sampler, it.batch_sampler.sampler):
        part.set_epoch(5)
        assert taken(it) == written(5)


@pytest.mark.parametrize("begin", [iter, lambda it: it])
def test_resume_at_every_step_in_every_way(dataset: dali_dr.Dataset, begin: Callable[[Any], Any]) -> None:
    it = make(dataset)
    states = []
    for _ in range(3):
        for _batch in it:
            states.append(json.loads(json.dumps(it.state_dict())))
    flat = [batch for epoch in range(4) for batch in written(epoch)]
    other = make(dataset)
    for step, state in enumerate(states, 1):
        for used in (0, 1, 3):  # batches taken before, of which nothing may be left
            taken(begin(other), used)
            other.load_state_dict(state)
            epoch, place = divmod(step, 4)
            if place == 0:
                assert taken(begin(other)) == written(epoch)
            else:
                assert taken(begin(other)) == written(epoch)[place:]
            assert taken(other, 1) == written(epoch + 1)[:1]
    assert len(flat) == 16


def test_set_epoch_keeps_a_loaded_place_of_that_epoch(
    dataset: dali_dr.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    it = make(dataset)
    it.set_epoch(3)
    taken(it, 2)
    state = it.state_dict()
    other = make(dataset)
    other.load_state_dict(state)
    other.set_epoch(3)  # as a loop over epochs does that goes on in epoch 3
    assert taken(other) == written(3)[2:]
    other.load_state_dict(state)
    with caplog.at_level(logging.WARNING):
        other.set_epoch(4)
        assert taken(other) == written(4)
    assert "epoch 3 after 8" in caplog.text


def interrupted(frame: FrameType | None) -> bool:
    """Whether the iterator's __next__ is under way."""
    while frame is not None:
        if frame.f_code.co_name == "__next__" and frame.f_code.co_filename == loader_module.__file__:
            return True
        frame = frame.f_back
    return False


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """Ctrl-C after so many seconds, as soon as the iterator is at work."""

    def strike(number: int, frame: FrameType | None) -> None:
        if interrupted(frame):
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 2e-4)

    before = signal.signal(signal.SIGALRM, strike)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)  # type: ignore[func-returns-value]
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_at_fifty_random_instants(dataset: dali_dr.Dataset, alarm: Callable[[float], None]) -> None:
    """`next` called again gives the batch that would have come; nothing is lost, repeated or shifted over three epochs."""
    rng = random.Random(1)
    struck = 0
    while struck < 50:
        it = make(dataset, num_threads=1)
        found: Batches = []
        alarm(rng.uniform(1e-4, 2e-2))
        while len(found) < 12:
            before = it.state_dict()
            try:
                found.append(indices(next(it)))
            except StopIteration:
                continue
            except KeyboardInterrupt:
                struck += 1
                assert it.state_dict() == before
                alarm(rng.uniform(1e-4, 2e-2))
        alarm(0)
        assert found == written(0) + written(1) + written(2)


class Struck:
    """Raises KeyboardInterrupt before the n-th line that runs in files whose path has `within` (or counts the lines)."""

    def __init__(self, within: str, line: int) -> None:
        self.within, self.line, self.seen, self.struck = within, line, 0, False

    def __enter__(self) -> Struck:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and self.within in frame.f_code.co_filename:
            self.seen += 1
            here = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            # Between the assignment before it and this return a signal is never handled; a tracer is.
            late = frame.f_code.co_name == "__next__" and here == "return result"
            if self.seen >= self.line and not late and not self.struck:
                self.struck = True
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # DALI's pipelines, interrupted when made
@pytest.mark.parametrize(
    ("within", "step", "prepare"),
    [("dali_dr/loader", 1, False), ("dali_dr/loader", 3, True), ("/", 7, False), ("/", 13, True)],
)
def test_interrupted_before_any_line(dataset: dali_dr.Dataset, within: str, step: int, prepare: bool) -> None:
    """Before each line of the loader's own files within `next`, and before some of all files: while an epoch runs, and
    (prepare) while an interruption before is being mended."""
    it = make(dataset, num_threads=1)
    place, line, strikes, beyond = 0, 1, 0, False  # beyond: no line of `next` is that far
    while not beyond and strikes < 60:
        if prepare:
            with pytest.raises((KeyboardInterrupt, StopIteration)), Struck("loader/feed.py", 1):
                next(it)
        try:
            with Struck(within, line):
                batch = next(it)
            beyond = True
        except StopIteration:
            continue
        except KeyboardInterrupt:
            strikes, line = strikes + 1, line + step
            batch = next(it, None) or next(it)  # None: it struck where an epoch ends
        assert indices(batch) == written(place // 4)[place % 4]
        place += 1
    assert strikes > 15


@pytest.mark.parametrize("prefetch", [1, 2, 5])
@pytest.mark.parametrize("name", ["curriculum", "size"])
def test_functions_of_the_epoch_are_asked_for_no_epoch_that_is_not_due(
    dataset: dali_dr.Dataset, name: str, prefetch: int
) -> None:
    """Tables of exactly as many epochs as a run has: what they raise for the one after it comes when that begins."""
    table: dict[str, list[Any]] = {"curriculum": [(0, 1), (0, 0.5), (0.5, 1)], "size": [32, 48, 64]}
    function: Callable[[int], Any] = table[name].__getitem__
    it = make(dataset, prefetch=prefetch, **{name: function})
    for epoch in range(3):
        assert taken(it) == written(epoch)
    state = it.state_dict()
    for _ in range(2):
        with pytest.raises(IndexError):
            next(it)
    assert it.state_dict() == state
    it.set_epoch(1)
    assert taken(it) == written(1)
    it.set_epoch(3)
    with pytest.raises(IndexError):
        next(iter(it))
    table[name].append(table[name][0])
    assert [indices(next(it)) for _ in range(4)] == written(3)


def test_an_error_comes_again_until_it_is_mended(tmp_path: Path) -> None:
    images = [encode_jpeg(picture(40 + 3 * i, 70 - 2 * i, i)) for i in range(COUNT)]
    dataset = make_dataset(tmp_path / "set", images)
    it = make(dataset, order="sequential", prefetch=1)
    shard = dataset.path / dataset.manifest.shards[0].name
    at = int(dataset.index.entry(6)["record_block"]) * 512
    whole = shard.read_bytes()
    with shard.open("r+b") as file:
        file.seek(at)
        file.write(b"damaged!")
    assert indices(next(it)) == [0, 1, 2, 3]
    for _ in range(2):
        state = it.state_dict()
        with pytest.raises(dali_dr.ShardError, match="image006"):
            next(it)
        assert it.state_dict() == state
    with shard.open("r+b") as file:
        file.seek(at)
        file.write(whole[at : at + 8])
    assert taken(it.__next__() for _ in range(3)) == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]


def test_a_data_set_that_is_away_for_a_while(tmp_path: Path) -> None:
    images = [encode_jpeg(picture(40 + 3 * i, 70 - 2 * i, i)) for i in range(COUNT)]
    dataset = make_dataset(tmp_path / "set", images)
    it = make(dataset)
    assert indices(next(it)) == written(0)[0]
    with pytest.raises(KeyboardInterrupt), Struck("loader/feed.py", 1):  # so that the pipeline is built anew
        next(it)
    dataset.path.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(dali_dr.ShardError, match=r"index\.bin cannot be opened") as caught:
            next(it)
        assert caught.value.kind == "shard"
    (tmp_path / "elsewhere").rename(dataset.path)
    assert taken(it.__next__() for _ in range(3)) == written(0)[1:]


def test_a_batch_of_one_keeps_its_shape(dataset: dali_dr.Dataset) -> None:
    (batch,) = next(make(dataset, batch_size=1))
    assert {name: value.ndim for name, value in batch.items()} == {
        "data": 4, "label": 1, "soft_ids": 2, "soft_probs": 2, "index": 1, "view": 1,
    }  # fmt: skip
    assert all(len(value) == 1 for value in batch.values())
    (batch,) = next(make(dataset, batch_size=1, label_ndim=2))
    assert batch["label"].shape == (1, 1)
    (batch,) = next(make(dataset, batch_size=3, label_ndim=2, views_per_image=2))
    assert batch["label"].shape == (6, 1) and torch.equal(batch["label"][::2], batch["label"][1::2])


# ---- the state's meaning


def test_state_of_other_settings_is_refused_by_name(dataset: dali_dr.Dataset, tmp_path: Path) -> None:
    state = make(dataset).state_dict()
    assert len(json.dumps(state)) < 1024
    changes: dict[str, dict[str, Any]] = {
        "seed": {"seed": 8},
        "order": {"order": "sequential"},
        "length": {"class_mates": 1},
        "samples": {"samples": list(range(COUNT))[::-1]},
        "classes": {"classes": range(20)},
        "repeats": {"repeats": 2},
        "views_per_image": {"views_per_image": 2},
        "p_reinforced": {"p_reinforced": 0.5},
        "curriculum": {"curriculum": Curriculum("easy", "all", 4)},
        "augment": {"augment": "rrc"},
    }
    for name, options in changes.items():
        with pytest.raises(ValueError, match=f"loader state was saved with {name}="):
            make(dataset, **options).load_state_dict(state)
    images = [encode_jpeg(picture(40 + 3 * i, 70 - 2 * i, 1 + i)) for i in range(COUNT)]
    with pytest.raises(ValueError, match=r"saved with data=.*data set"):
        make(make_dataset(tmp_path / "other", images)).load_state_dict(state)
    for options in ({"batch_size": 3}, {"rank": 1, "world_size": 2}, {"dtype": "uint8"}, {"size": 48}, {"prefetch": 1}):
        make(dataset, **options).load_state_dict(state)  # these may change


class Window:
    """A curriculum that is an object with attributes."""

    def __init__(self, part: float) -> None:
        self.part = part

    def __call__(self, epoch: int) -> tuple[float, float]:
        return 0.0, self.part


def part_of(part: float, epoch: int) -> tuple[float, float]:
    return 0.0, part


@pytest.mark.parametrize("kind", [Window, lambda part: functools.partial(part_of, part)])
def test_curricula_that_are_objects_are_told_apart(dataset: dali_dr.Dataset, kind: Callable[[float], Any]) -> None:
    state = make(dataset, curriculum=kind(0.4)).state_dict()
    make(dataset, curriculum=kind(0.4)).load_state_dict(state)
    with pytest.raises(ValueError, match="curriculum"):
        make(dataset, curriculum=kind(0.6)).load_state_dict(state)


def test_curricula_are_told_apart_by_their_names(dataset: dali_dr.Dataset) -> None:
    def easy(epoch: int) -> tuple[float, float]:
        return 0.0, 0.4

    def hard(epoch: int) -> tuple[float, float]:
        return 0.6, 1.0

    state = make(dataset, curriculum=easy).state_dict()
    make(dataset, curriculum=easy).load_state_dict(state)
    with pytest.raises(ValueError, match="curriculum"):
        make(dataset, curriculum=hard).load_state_dict(state)
    with pytest.raises(ValueError, match="curriculum"):
        make(dataset, curriculum=Curriculum("easy", "hard", 3)).load_state_dict(
            make(dataset, curriculum=Curriculum("easy", "hard", 4)).state_dict()
        )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"epoch": -1}, "epoch=-1"),
        ({"epoch": 1.5}, "epoch=1.5"),
        ({"epoch": "1"}, "epoch='1'"),
        ({"epoch": True}, "epoch=True"),
        ({"epoch": 10**30}, "epoch=1000"),
        ({"consumed": -4}, "consumed=-4"),
        ({"consumed": COUNT + 1}, "consumed=15"),
        ({"consumed": None}, "consumed=None"),
        ({"version": 1}, "version 1"),
        ({"version": None}, "version None"),
    ],
)
def test_state_out_of_range_is_refused_by_name(dataset: dali_dr.Dataset, change: dict[str, Any], what: str) -> None:
    it = make(dataset)
    taken(it, 2)
    before = it.state_dict()
    with pytest.raises(ValueError, match=what):
        it.load_state_dict({**before, **change})
    assert it.state_dict() == before
    for name in before:
        with pytest.raises(ValueError, match=name):
            it.load_state_dict({key: value for key, value in before.items() if key != name})
    for nothing in (None, [], 3, "state"):
        with pytest.raises(ValueError, match=r"state_dict\(\)"):
            it.load_state_dict(nothing)  # type: ignore[arg-type]


def test_state_of_torn_groups_is_refused(dataset: dali_dr.Dataset) -> None:
    it = make(dataset, repeats=2)
    with pytest.raises(ValueError, match="multiple of 2"):
        it.load_state_dict({**it.state_dict(), "consumed": 3})


# ---- where it may be used


def test_a_relative_path_survives_a_change_of_directory(
    dataset: dali_dr.Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(dataset.path.parent)
    it = loader(dali_dr.Dataset(dataset.path.name), batch_size=BATCH, seed=SEED, on_error="skip")
    other = dali_dr.ReinforcedIterator(dataset.path.name, batch_size=BATCH, device="cpu", with_index=True, seed=SEED)
    monkeypatch.chdir(tmp_path)
    assert taken(it, 1) == taken(other, 1) == written(0)[:1]
    it.load_state_dict(it.state_dict())
    assert taken(it) == written(0)[1:] and len(it.dataset.image(3)) == len(dataset.image(3))


def test_pickling_says_what_to_do_instead(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"state_dict\(\)"):
            way(it)
    assert len(pickle.loads(pickle.dumps(it.dataset))) == COUNT  # the data set may


def test_a_forked_child_is_told_what_to_do(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    assert indices(next(it)) == written(0)[0]
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:  # no pytest in here, whatever happens
        said = []
        for use in (lambda: next(it), lambda: iter(it), lambda: it.load_state_dict({})):
            try:
                use()
                said.append("nothing")
            except BaseException as error:
                said.append(f"{type(error).__name__}: {error}")
        os.write(writing, "\n".join(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read().split("\n")
    os.waitpid(child, 0)
    assert len(said) == 3 and all(text.startswith("DaliDrError") and "num_workers=0" in text for text in said), said
    assert indices(next(it)) == written(0)[1]


def test_two_threads_in_one_epoch_are_refused(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    found: list[Any] = []
    hold, go = threading.Event(), threading.Event()

    def worker() -> None:
        found.append(indices(next(it)))
        go.set()
        hold.wait(20)
        found.append(indices(next(it)))

    thread = threading.Thread(target=worker, name="prefetcher")
    thread.start()
    go.wait(20)
    with pytest.raises(dali_dr.DaliDrError, match="two threads, prefetcher and MainThread"):
        next(it)
    hold.set()
    thread.join()
    assert found == written(0)[:2]
    assert indices(next(it)) == written(0)[2]  # that thread is gone
    assert taken(it) == written(1)


def test_many_threads_at_once_never_tear_a_batch(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    found: list[list[int]] = []
    refused = []
    gate = threading.Barrier(4)

    def worker() -> None:
        gate.wait(20)
        try:
            found.append(indices(next(it)))
            gate.wait(20)
        except dali_dr.DaliDrError as error:
            refused.append(str(error))
            gate.wait(20)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == written(0)[:1] and len(refused) == 3


@pytest.mark.parametrize("attempt", range(3))
def test_threads_that_all_begin_an_epoch_are_refused_and_nothing_breaks(dataset: dali_dr.Dataset, attempt: int) -> None:
    it = make(dataset)
    known = {tuple(batch) for epoch in range(8) for batch in written(epoch)}
    found: list[tuple[int, ...]] = []
    other: list[BaseException] = []
    gate = threading.Barrier(4)

    def worker() -> None:
        gate.wait(20)
        try:
            for batch in it:
                found.append(tuple(indices(batch)))
        except dali_dr.DaliDrError:
            pass
        except BaseException as error:
            other.append(error)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not other and found and set(found) <= known
    it.set_epoch(9)
    assert taken(it) == written(9)


# ---- what it looks like from outside


def test_what_other_code_looks_for(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    assert (it.batch_size, it.drop_last, it.num_workers, len(it)) == (BATCH, False, 0, 4)
    assert isinstance(it.dataset, dali_dr.Dataset) and len(it.dataset) == COUNT
    assert list(it.batch_sampler) == written(0) and len(it.batch_sampler) == 4
    assert list(it.sampler) == [n for batch in written(0) for n in batch] and len(it.sampler) == COUNT
    assert taken(it) == written(0)
    assert it.drop_last is False and make(dataset, last_batch="drop").drop_last is True
    with pytest.raises(dali_dr.DaliDrError, match="collate_fn"):
        it.dataset[3]


def test_a_data_loader_made_of_its_parts_gives_its_batches(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    rebuilt = torch.utils.data.DataLoader(it.dataset, batch_sampler=it.batch_sampler, collate_fn=it.collate_fn)
    assert [taken(rebuilt) for _ in range(2)] == [written(0), written(1)]
    assert len(rebuilt) == 4
    it.set_epoch(7)
    assert taken(rebuilt, 2) == written(7)[:2]
    assert taken(it) == written(8)


def test_sizes_in_dalis_words_are_true(dataset: dali_dr.Dataset) -> None:
    it = make(dataset)
    assert (it.size, it._size, it.epoch_size(), it.epoch_size("Reader")) == (COUNT,) * 4
    assert -(-it._size // it.batch_size) == len(it)
    parts = [make(dataset, batch_size=3, rank=rank, world_size=3) for rank in range(3)]
    for part in parts:
        assert part._size == sum(len(batch) for batch in taken(part)) and part.epoch_size() == COUNT
    drop = make(dataset, last_batch="drop")
    assert drop._size == 12 and drop._size // drop.batch_size == len(drop) == len(taken(drop))
    assert make(dataset, last_batch="fill")._size == 16


def test_output_map_says_what_batches_hold(dataset: dali_dr.Dataset) -> None:
    for options in ({}, {"with_index": False}, {"targets": "dense"}, {"targets": "top1", "with_index": False}):
        it = make(dataset, **options)
        assert it.output_map == list(next(it)[0])
    assert make(dataset, as_tuples=True).output_map == ["data", "targets"]


def test_the_order_is_the_permutation_that_is_documented() -> None:
    """`written` is not the loader's own output: the global order is one keyed permutation."""
    from dali_dr.keyed import mix

    found = [n for batch in written(3) for n in batch]
    assert found == keyed_permutation(np.arange(COUNT), COUNT, int(mix(SEED, 0x4F524452, 3))).tolist()
