"""Crashes at every call of a run, after which any part of what was not fsynced may be gone (`crash_model`): what can be
opened is right, and the same command again gives what an undisturbed run gives, byte for byte."""

from __future__ import annotations

import random
from typing import Any

import pytest
from crash_model import Recorder, put
from faults import Fault, Killed, tapped
from test_faults_calls import COMMANDS, studio, undisturbed
from writing import Command, Studio, holdings, snapshot

from dali_dr.errors import DaliDrError

__all__ = ["studio"]  # a fixture


def recorded(studio: Studio, command: Command, kill_at: int = 0, fault: tuple[str, int] | None = None) -> Recorder:
    """A run on what is on the disk, recorded to its end or to that."""
    recorder = Recorder(studio.disk, kill_at, fault)
    with tapped(recorder):
        try:
            studio.run(command)
        except Killed:
            assert kill_at
        except DaliDrError:
            assert fault is not None
    return recorder


def check(
    studio: Studio, command: Command, whole: dict[str, Any], right: Any, tree: dict[str, Any], where: str
) -> None:
    """After a crash that leaves ``tree``: no wrong data set, and the same command again makes the right one."""
    studio.clear()
    put(tree, studio.disk)
    try:
        found = holdings(studio.out)
    except DaliDrError:
        found = None
    assert found is None or found == right, where
    studio.run(command)
    after = snapshot(studio.out)
    assert after.keys() == whole.keys(), where
    assert after == whole, where


def crashes(studio: Studio, name: str, draws: int, step: int = 1) -> tuple[int, int]:
    """Crashes after every ``step``-th call: (prefixes, distinct states) tried."""
    command = studio.commands[name]
    whole = undisturbed(studio, command)
    right = holdings(studio.out)
    studio.clear()
    recorder = recorded(studio, command)
    assert snapshot(studio.out) == whole
    seen: set[str] = set()
    prefixes = range(len(recorder.events), -1, -step)
    for count in prefixes:
        for draw in range(draws):
            rng = random.Random(f"{name} {count} {draw}")
            tree = recorder.disk_after(count, rng).after_crash(rng)
            if repr(tree) not in seen:
                seen.add(repr(tree))
                check(studio, command, whole, right, tree, f"{name}: {count} of {len(recorder.events)}, draw {draw}")
    return len(prefixes), len(seen)


def chains(studio: Studio, name: str, count: int) -> int:
    """Runs that are killed, or fail, at a random call, continued by others, of which the power then ends one; ``count``
    times. How many crashes that were."""
    command = studio.commands[name]
    whole = undisturbed(studio, command)
    right = holdings(studio.out)
    studio.clear()
    calls = Fault("EIO")
    with tapped(calls):
        studio.run(command)
    done = 0
    for number in range(count):
        rng = random.Random(f"{name} chain {number}")
        studio.clear()
        kind = rng.choice(("killed", "EIO", "lost"))
        at = rng.randint(1, calls.seen if kind != "lost" else calls.seen // 4)
        recorder = recorded(studio, command, at if kind == "killed" else 0, None if kind == "killed" else (kind, at))
        first = len(recorder.events)
        recorder.kill_at, recorder.fault = 0, None
        with tapped(recorder):
            studio.run(command)
        assert snapshot(studio.out) == whole
        for _ in range(3):
            events = rng.randint(first, len(recorder.events))
            tree = recorder.disk_after(events, rng).after_crash(rng)
            check(studio, command, whole, right, tree, f"{name}: chain {number}: {kind} at {at}, power at {events}")
            done += 1
        tree = recorder.disk_after(len(recorder.events), rng).after_crash(rng)
        check(studio, command, whole, right, tree, f"{name}: chain {number}: {kind} at {at}, power in the end")
        done += 1
    return done


@pytest.mark.parametrize(("name", "step"), [("write_shards", 1), ("subset", 2), ("generation", 3), ("mixing", 9)])
def test_a_crash_leaves_nothing_wrong(studio: Studio, name: str, step: int) -> None:
    _, states = crashes(studio, name, 2, step)
    assert states > 10


@pytest.mark.parametrize("name", ["write_shards", "generation"])
def test_a_crash_after_a_run_that_was_continued(studio: Studio, name: str) -> None:
    assert chains(studio, name, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_crashes_after_every_call(studio: Studio, name: str) -> None:
    prefixes, states = crashes(studio, name, 20)
    print(f"{name}: {prefixes} prefixes, 20 draws each, {states} distinct states")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_crashes_after_runs_that_were_continued(studio: Studio, name: str) -> None:
    print(f"{name}: {chains(studio, name, 100)} crashes in 100 chains")
