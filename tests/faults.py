"""System calls that fail on purpose: the n-th of a run, in every way that a file system knows."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from dali_dr.errors import DaliDrError
from dali_dr.shards import files

CALLS: Final = tuple(name for name, _ in inspect.getmembers(files.System, inspect.isfunction) if name[0] != "_")


class Tap(files.System):
    """All calls come through `on`, which may do them, refuse, or do something else."""

    def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        return do()


def _tapped_method(call: str) -> Any:
    bare = getattr(files.System, call)

    def method(self: Tap, *arguments: Any) -> Any:
        return self.on(call, arguments, lambda: bare(self, *arguments))

    return method


for _call in CALLS:
    setattr(Tap, _call, _tapped_method(_call))


@contextlib.contextmanager
def tapped(tap: files.System) -> Iterator[None]:
    """Put ``tap`` below the writers."""
    before = files.system
    files.system = tap
    try:
        yield
    finally:
        files.system = before


class Killed(BaseException):
    """The process is dead: nothing that it does from here on has an effect."""


_MAKING = ("open", "write", "pwrite", "fsync", "link", "replace", "mkdir")
_NAMES = ("open", "link", "replace", "unlink", "mkdir", "rmdir")
# The calls that a kind of fault can befall. "short" writes half; "interrupted" is EINTR before anything is done, and
# "done" EINTR after it; "lost" is an fsync that fails and drops what was written; "full", "dead" and "killed" last.
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "ENOSPC": _MAKING,
    "EDQUOT": _MAKING,
    "EIO": CALLS,
    "EROFS": _NAMES,
    "EMFILE": ("open",),
    "interrupted": CALLS,
    "done": ("link", "close", "fsync", "flock"),
    "short": ("write", "pwrite"),
    "lost": ("fsync",),
    "full": ("open", "write", "pwrite", "link", "mkdir"),
    "dead": CALLS,
    "killed": CALLS,
}
LASTING: Final = ("full", "dead", "killed")
HARMLESS: Final = ("interrupted", "done", "short")  # the run must not notice


class Fault(Tap):
    """The ``at``-th call that ``kind`` can befall fails (from 1 on; 0: none does).

    Attributes:
      seen: such calls so far.
    """

    def __init__(self, kind: str, at: int = 0) -> None:
        self.kind, self.at, self.seen = kind, at, 0

    def on(self, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        if call not in KINDS[self.kind]:
            return do()
        self.seen += 1
        if self.at == 0 or self.seen < self.at or (self.seen > self.at and self.kind not in LASTING):
            return do()
        return befall(self.kind, call, arguments, do)


def befall(kind: str, call: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
    """What becomes of ``call`` with a fault of ``kind``."""
    if call == "close":
        do()  # a descriptor is closed in any case
    if kind == "killed":
        raise Killed
    if kind == "full" and call == "open" and not arguments[1] & os.O_CREAT:
        return do()
    if kind == "short":
        descriptor, data, *at = arguments
        half = data[: max(1, len(data) // 2)]
        return os.pwrite(descriptor, half, *at) if at else os.write(descriptor, half)
    if kind == "done" and call != "close":
        do()
    if kind == "lost":
        with contextlib.suppress(OSError):  # a folder
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
    number = {"full": errno.ENOSPC, "dead": errno.EIO, "lost": errno.EIO, "interrupted": errno.EINTR}
    number["done"] = errno.EINTR
    code = number.get(kind) or getattr(errno, kind)
    raise OSError(code, os.strerror(code))


def check_told(error: DaliDrError, place: Path) -> None:
    """The error names a file at or below ``place``, and the system's own error is its cause."""
    assert str(place) in str(error), error
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    assert cause is not None and cause.strerror is not None and cause.strerror in str(error), repr(error)
