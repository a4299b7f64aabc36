"""The actor that makes shards on a machine of a Ray cluster. Imported where Ray is wanted, and by Ray's own processes."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import platform
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import ray

from dali_dr.errors import DaliDrError, ShardError, shown
from dali_dr.shards.files import WriteError
from dali_dr.shards.manifest import library_versions
from dali_dr.store.url import StoreError

_WARNINGS: Final = 20  # of one shard that go to the screen of whoever started the run; all are in the worker's log
_log = logging.getLogger(__name__)


class Making(Protocol):
    """What the actor asks of a run: `dali_dr.reinforce.run.Run` is one."""

    def make(self, number: int, step: Callable[[int], object] | None = None, *, again: bool = False) -> Any:
        """Makes shard ``number``, telling ``step`` how many more images are done; one that is there costs nothing.

        With ``again``, another worker had begun it.
        """


class Opening(Protocol):
    """What opens a run in another process: `dali_dr.reinforce.on_ray.Opener`."""

    def run(self, rank: int) -> Making:
        """The run, for worker ``rank``."""


class Stopped(KeyboardInterrupt):
    """The run was interrupted, where the driver runs: a worker keeps what it has, as at a Ctrl-C of its own."""


@dataclasses.dataclass(frozen=True)
class About:
    """A worker.

    Attributes:
      host: name of its machine.
      node: Ray's id of the machine.
      pid: of its process.
      versions: of what its shards depend on.
    """

    host: str
    node: str
    pid: int
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why something could not be made.

    Attributes:
      error: which says it.
      final: whether it would be the same again.
      sound: whether the process can be asked for more.
    """

    error: Exception
    final: bool = False
    sound: bool = True


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of a call.

    Attributes:
      made: what `Making.make` gave.
      failure: instead.
      warnings: what was logged meanwhile, for the screen.
    """

    made: Any = None
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()


class RayWorker:
    """Opens a run once, and makes its shards one after the other. Ray calls it, a method at a time; those of the group
    "ask" meanwhile."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._run: Making | None = None
        self._done = 0
        self._stop = threading.Event()

    def about(self) -> About:
        """Who this is, before anything large is loaded."""
        return About(socket.gethostname(), ray.get_runtime_context().get_node_id(), os.getpid(), versions())

    def open(self, opening: Opening) -> Reply:
        """Loads the teacher and looks at the source."""

        def opened() -> None:
            self._run = opening.run(self._rank)

        return self._reply(opened)

    def make(self, number: int, again: bool) -> Reply:
        """Makes a shard; see `Making.make`."""
        run = self._run
        assert run is not None
        self._done = 0
        return self._reply(lambda: run.make(number, self._step, again=again))

    @ray.method(concurrency_group="ask")  # type: ignore[untyped-decorator]
    def done(self) -> int:
        """Images of the shard that is being made that are done."""
        return self._done

    @ray.method(concurrency_group="ask")  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Ends the shard that is being made after its next image; what is kept of it is kept."""
        self._stop.set()

    def _step(self, images: int) -> None:
        self._done += images
        if self._stop.is_set():
            raise Stopped

    def _reply(self, call: Callable[[], Any]) -> Reply:
        """What ``call`` gives, or why it failed: an error that passes through Ray would bring Ray's traceback along."""
        with _warnings() as told:
            try:
                return Reply(call(), warnings=tuple(told))
            except Stopped:
                return Reply(failure=Failure(DaliDrError("interrupted")))
            except Exception as error:
                failed = Reply(failure=failure(error), warnings=tuple(told))
                _log.exception("worker %d", self._rank)
        return failed


def failure(error: Exception) -> Failure:
    """``error`` as it is told elsewhere."""
    if not isinstance(error, (DaliDrError, OSError)):  # a device that was lost, memory, what nobody has thought of
        text = str(error).split("\n", 1)[0]
        return Failure(DaliDrError(f"{type(error).__name__}: {text}"), sound=False)
    passes = isinstance(error, (WriteError, StoreError))
    final = isinstance(error, ShardError) and not passes and error.reason is not None  # an image that may not enter
    return Failure(_portable(error), final)


def versions() -> dict[str, str]:
    """Versions of what a shard's bytes, and the talk between processes, depend on."""
    return {**library_versions(), "ray": ray.__version__, "python": ".".join(platform.python_version_tuple()[:2])}


def _portable(error: Exception) -> Exception:
    """``error``, if it survives the way to another process; else one that says the same."""
    with contextlib.suppress(Exception):
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    return DaliDrError(f"{error}")


class _Heard(logging.Handler):
    """Keeps the first lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.told) < _WARNINGS:
            self.told.append(shown(record.getMessage()))


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings that this package logs meanwhile."""
    heard = _Heard()
    logger = logging.getLogger("dali_dr")
    logger.addHandler(heard)
    try:
        yield heard.told
    finally:
        logger.removeHandler(heard)
