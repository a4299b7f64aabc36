"""The n-th system call of a run fails, for every n: an error that names the file, or nothing; and the same command again
gives what an undisturbed run gives, byte for byte, with no file too many."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator

import pytest
from faults import CALLS, HARMLESS, KINDS, Fault, Killed, check_told, tapped
from writing import Command, Studio, make_studio, memory_folder, snapshot

from dali_dr.errors import DaliDrError

COMMANDS = ("write_shards", "pack", "subset", "sidecar", "retile", "merge", "generation", "mixing")


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    root = memory_folder()
    with pytest.MonkeyPatch.context() as patch:
        logging.disable(logging.WARNING)
        try:
            yield make_studio(root, patch)
        finally:
            logging.disable(logging.NOTSET)
            shutil.rmtree(root)


def undisturbed(studio: Studio, command: Command) -> dict[str, object]:
    studio.clear()
    studio.run(command)
    return snapshot(studio.out)


def disturb(studio: Studio, command: Command, fault: Fault, whole: dict[str, object]) -> None:
    """One run with ``fault``, and one after it without."""
    studio.clear()
    told: BaseException | None = None
    with tapped(fault):
        try:
            studio.run(command)
        except (DaliDrError, Killed) as error:
            told = error
    where = f"{command.name}: {fault.kind} in call {fault.at}"
    if isinstance(told, DaliDrError):
        check_told(told, studio.root)
    if told is None:
        assert snapshot(studio.out) == whole, where
    assert told is None or fault.kind not in HARMLESS, where
    studio.run(command)
    after = snapshot(studio.out)
    assert after.keys() == whole.keys(), where
    assert after == whole, where


def sweep(studio: Studio, name: str, kind: str, step: int, start: int = 0) -> int:
    """Every ``step``-th call that ``kind`` can befall; how many that were."""
    command = studio.commands[name]
    whole = undisturbed(studio, command)
    count = Fault(kind)
    studio.clear()
    with tapped(count):
        studio.run(command)
    tried = range(1 + start % step, count.seen + 1, step)
    for at in tried:
        disturb(studio, command, Fault(kind, at), whole)
    return len(tried)


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_of_write_shards_may_fail(studio: Studio, kind: str) -> None:
    tried = sweep(studio, "write_shards", kind, 1 if kind in ("killed", "lost", "short") else 3)
    assert tried or kind == "done"


@pytest.mark.parametrize("name", COMMANDS[1:])
def test_a_share_of_the_calls_of_every_command_may_fail(studio: Studio, name: str) -> None:
    for start, kind in enumerate(KINDS):
        assert sweep(studio, name, kind, 12, start)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_call_of_every_command_may_fail(studio: Studio, name: str, kind: str) -> None:
    print(f"{name}: {kind}: {sweep(studio, name, kind, 1)} calls")


def test_the_commands_make_every_kind_of_call(studio: Studio) -> None:
    """So that a writer that goes past the seam, or a fault that never comes, is seen."""
    seen: set[str] = set()

    class Seeing(Fault):
        def on(self, call, arguments, do):  # type: ignore[no-untyped-def]
            seen.add(call)
            return do()

    for command in studio.commands.values():
        studio.clear()
        with tapped(Seeing("EIO")):
            studio.run(command)
    assert seen == {*CALLS} - {"pwrite"}  # of the conversion and of hollow files, which have tests of their own
