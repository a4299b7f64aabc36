"""Workers that fail or die beside others at the same shards: the data set is that of one undisturbed worker."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, Killed, Tap, tapped
from test_faults_calls import studio, undisturbed
from writing import Studio, generate, snapshot

from dali_dr.errors import DaliDrError, ShardError
from dali_dr.reinforce.part import Part
from dali_dr.shards import files, tar

__all__ = ["studio"]  # a fixture


class Refusing(Tap):
    """Every call of these names fails, below the limit of how often."""

    def __init__(self, *calls: str, code: int = errno.EIO, times: int = 1000) -> None:
        self.calls, self.code, self.times = calls, code, times

    def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        if call in self.calls and self.times > 0:
            self.times -= 1
            raise OSError(self.code, os.strerror(self.code))
        return do()


class InOneThread(Fault):
    """A fault that befalls the thread that made it, and no other."""

    def __init__(self, kind: str, at: int) -> None:
        super().__init__(kind, at)
        self.thread = threading.get_ident()

    def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        return super().on(call, arguments, do) if threading.get_ident() == self.thread else do()


def test_where_there_are_no_links(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with tapped(Refusing("link", code=errno.EPERM)):
        assert tar.create_atomically(path, b"first") and not tar.create_atomically(path, b"second")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
    path.unlink()

    class Full(Refusing):
        def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
            if call == "link":
                self.calls = ("write",)  # from here on
                raise OSError(errno.EPERM, "no links")
            return super().on(call, arguments, do)

    with tapped(Full(code=errno.ENOSPC)), pytest.raises(ShardError, match=r"file: .*No space left.*5 bytes"):
        tar.create_atomically(path, b"first")
    assert not list(tmp_path.iterdir())


def test_where_folders_cannot_be_synced(tmp_path: Path) -> None:
    class NoFolders(Tap):
        def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
            if call == "open" and arguments[1] & os.O_DIRECTORY:
                raise OSError(errno.EINVAL, "not here")
            return do()

    with tapped(NoFolders()):
        files.make_folder(tmp_path / "a" / "b")
        tar.write_atomically(tmp_path / "a" / "b" / "file", b"data")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"data"


def test_where_there_are_no_locks(tmp_path: Path) -> None:
    with tapped(Refusing("flock", code=errno.ENOLCK)):
        files.close(files.open_locked(tmp_path))
    with tapped(Refusing("flock")), pytest.raises(ShardError, match="Input/output"):
        files.open_locked(tmp_path)


def beside_another(studio: Studio, kind: str, at: int, whole: dict[str, Any]) -> bool:
    """A worker with a fault and one without at the same time; whether the first failed.

    A worker that dies is at the same shards as the other. One whose disk fails takes back names of files that it could not
    make durable, which may be the other's: it has a part of its own.
    """
    parts = [Part(), Part()] if kind in ("killed", "dead") else [Part(0, 2), Part(1, 2)]
    studio.clear()
    failed: list[BaseException] = []

    def other() -> None:
        try:
            generate(studio.root / "bad", studio.out, part=parts[1])
        except DaliDrError as error:
            failed.append(error)

    thread = threading.Thread(target=other)
    told = False
    with tapped(InOneThread(kind, at)):
        thread.start()
        try:
            generate(studio.root / "bad", studio.out, part=parts[0])
        except (DaliDrError, Killed):
            told = True
        thread.join(60)
    assert not thread.is_alive()
    # A name that could not be made durable was taken back while the other went by it.
    assert not failed or kind != "killed", failed
    studio.run(studio.commands["generation"])
    assert snapshot(studio.out) == whole, (kind, at)
    return told


def test_another_worker_goes_on(studio: Studio) -> None:
    whole = undisturbed(studio, studio.commands["generation"])
    rng = random.Random(5)
    told = [beside_another(studio, kind, rng.randint(1, 60), whole) for kind in ("killed", "EIO", "killed", "dead")]
    assert any(told)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed", "EIO", "ENOSPC", "lost", "dead"])
def test_another_worker_goes_on_whatever_call_fails(studio: Studio, kind: str) -> None:
    whole = undisturbed(studio, studio.commands["generation"])
    told = [beside_another(studio, kind, at, whole) for at in range(1, 160, 2)]
    print(f"two workers, {kind}: {len(told)} runs, {sum(told)} failed")
