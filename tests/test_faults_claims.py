"""Workers that fail or die in the middle of a claim: others go on, and the data set is that of one undisturbed worker."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, Killed, Tap, tapped
from test_faults_calls import studio, undisturbed
from writing import Studio, generate, snapshot

from dali_dr.errors import DaliDrError, ShardError
from dali_dr.reinforce.claims import Claims, ClaimsGone
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


@pytest.mark.parametrize("call", ["open", "pwrite", "fsync"])
def test_a_claim_that_cannot_be_written_is_left_to_others(tmp_path: Path, call: str) -> None:
    claims = Claims(tmp_path / "claims", lease=1000)
    with tapped(Refusing(call, code=errno.ENOSPC)), pytest.raises(ShardError, match=r"claims/a\.0.*No space left"):
        claims.take(["a"])
    assert not list((tmp_path / "claims").iterdir())
    taken = Claims(tmp_path / "claims", lease=1000).take(["a"])
    assert taken is not None and taken.generation == 0


def test_a_claim_that_cannot_even_be_removed_is_stale_after_the_lease(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims", lease=0.2)
    with tapped(Refusing("pwrite", "unlink")), pytest.raises(ShardError, match=r"claims/a\.0"):
        claims.take(["a"])
    other = Claims(tmp_path / "claims", lease=0.2)
    assert other.take(["a"]) is None  # nobody knows whose it is
    time.sleep(0.3)
    taken = other.take(["a"])
    assert taken is not None and taken.generation == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b'{"host": "x', b"{}\n", b"[" * 5000])
def test_a_claim_that_a_crash_tore_is_stale_after_the_lease(tmp_path: Path, content: bytes) -> None:
    claims = Claims(tmp_path / "claims", lease=0.1)
    (tmp_path / "claims" / "a.3").write_bytes(content)
    assert claims.take(["a"]) is None
    time.sleep(0.2)
    taken = claims.take(["a"])
    assert taken is not None and taken.generation == 4


def test_the_end_of_the_run_in_the_middle_of_a_claim(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")

    class Ending(Tap):
        def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
            if call == "open":
                (tmp_path / "claims").rmdir()
            return do()

    with tapped(Ending()), pytest.raises(ClaimsGone):
        claims.take(["a"])


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
    """A worker with a fault and one without at the same time; whether the first failed."""
    studio.clear()
    studio.lives.next()
    failed: list[BaseException] = []

    def other() -> None:
        try:
            generate(studio.root / "bad", studio.out, rank=1)
        except DaliDrError as error:
            failed.append(error)

    thread = threading.Thread(target=other)
    told = False
    with tapped(InOneThread(kind, at)):
        thread.start()
        try:
            generate(studio.root / "bad", studio.out)
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
