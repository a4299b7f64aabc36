"""What a forked process asks of a store: a fresh process beside it does, since obstore's threads do not survive a fork.

Asking obstore there would wait for ever. PyTorch's DataLoader and multiprocessing fork on Linux, so it happens.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from dali_dr.store.url import StoreError, shown_url

if TYPE_CHECKING:
    from dali_dr.store.objects import Objects

P = ParamSpec("P")
T = TypeVar("T")

_user: int | None = None  # the process whose obstore has been used; inherited by a fork, which is how it knows
_aide: _Aide | None = None
_lock = threading.Lock()
_PANIC: Final = "PanicException"  # of Rust: no Exception, and of no module that could be imported
_START: Final = "import sys; from dali_dr.store.aide import serve; serve(int(sys.argv[1]))"


def used() -> None:
    """obstore is used in this process."""
    global _user
    if _user is None:
        _user = os.getpid()


def survives_forks(method: Callable[Concatenate[Objects, P], T]) -> Callable[Concatenate[Objects, P], T]:
    """``method``, done by an aide where obstore was used before this process was forked off; a panic is a StoreError."""

    @functools.wraps(method)
    def either(self: Objects, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.own()
        if _user in (None, os.getpid()):
            try:
                return method(self, *args, **kwargs)
            except BaseException as error:
                if type(error).__name__ != _PANIC:
                    raise
            raise StoreError(
                f"{shown_url(self.url)}: obstore broke down on what it was asked with: look at the URL, and at the "
                "environment's AWS_…, GOOGLE_…, AZURE_… and proxies for characters that do not belong there"
            )
        result: T = _of_this_process().ask(self, method.__name__, args, dict(kwargs))
        return result

    return either


class _Aide:
    """A process that does what it is told to, many things at once: each has a socket of its own."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._ended = False
        ours, theirs = socket.socketpair()
        self._control = ours
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        self._child = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it is there, and this process's own."""
        return not self._ended and self.process == os.getpid() and self._child.poll() is None

    def ask(self, store: Objects, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What ``store.method(*args, **kwargs)`` returns, or raises."""
        step = kwargs.pop("step", None)
        args = tuple(arg.absolute() if isinstance(arg, Path) else arg for arg in args)
        kwargs = {name: arg.absolute() if isinstance(arg, Path) else arg for name, arg in kwargs.items()}
        ours, theirs = socket.socketpair()
        with Connection(ours.detach()) as wire:
            try:
                with theirs:
                    socket.send_fds(self._control, [b"+"], [theirs.fileno()])
                wire.send((store, method, args, kwargs))
                kind, value = _heard(wire, store, step)
            except (EOFError, ConnectionError):
                self._ended = True
                kind, value = (
                    "raised",
                    StoreError(
                        f"{shown_url(store.url)}: the process that reads the store for this forked one has ended: begin again, "
                        "or start workers by spawn or forkserver"
                    ),
                )
        if kind == "raised":
            raise value
        return iter(value) if method == "list" else value


def _heard(wire: Connection, store: Objects, step: Callable[[int], None] | None) -> tuple[str, Any]:
    """The aide's last word, after its steps."""
    while True:
        kind, value = wire.recv()
        if kind == "traffic":
            store.count(**value)
        elif kind != "step":
            return kind, value
        elif step is not None:
            step(value)


def _of_this_process() -> _Aide:
    global _aide
    with _lock:
        if _aide is None or not _aide.alive:
            _aide = _Aide()
        return _aide


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def serve(control: int) -> None:
    """The aide: until nobody can ask any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C means the one who asks, who closes the wire
    with socket.socket(fileno=control) as asked:
        while True:
            message, handles, _, _ = socket.recv_fds(asked, 1, 1)
            if not message:
                os._exit(0)  # whatever is still read, nobody waits for it
            for handle in handles:
                threading.Thread(target=_do, args=[Connection(handle)], daemon=True).start()


def _do(wire: Connection) -> None:
    with wire, contextlib.suppress(OSError, EOFError):
        store, method, args, kwargs = wire.recv()
        if method == "download":
            # Always, so that it ends when the one who asked has gone.
            kwargs["step"] = lambda size: wire.send(("step", size))
        try:
            answer = ("returned", getattr(store, method)(*args, **kwargs))
            if method == "list":
                answer = ("returned", list(answer[1]))
        except Exception as error:
            answer = ("raised", _portable(error))
        traffic = store.traffic
        wire.send(("traffic", {name: getattr(traffic, name) for name in ("requests", "retries", "read", "written")}))
        wire.send(answer)


def _portable(error: Exception) -> Exception:
    """``error``, or where it cannot be pickled what it says."""
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return StoreError(f"{type(error).__name__} in the process that reads the store")
    return error
