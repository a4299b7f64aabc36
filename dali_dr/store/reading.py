"""Reads of objects: in pieces at once, each going on where it broke, all of one version."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol

from dali_dr.store.answers import Answer, Kind, understood
from dali_dr.store.patience import Patience
from dali_dr.store.store import Entry
from dali_dr.store.url import StoreError

if TYPE_CHECKING:
    from obstore import GetResult

    from dali_dr.store.objects import Objects

# One connection brings its window a round trip: 8 MiB pieces, 8 at once, fill 1 GB/s at 50 ms.
PIECE: Final = 8 << 20
STREAMS: Final = 8
# Bytes that are handed on at a time, and that count as progress.
_CHUNK: Final = 1 << 20
# … and on a connection that breaks, where what had come of such a chunk is lost.
_SMALL_CHUNK: Final = 1 << 16
_SHORT: Final = Answer(Kind.LATER, "the connection broke")


class Sink(Protocol):
    """Takes the bytes of an object, in any order, from several threads."""

    def start(self, size: int, where: str) -> None:
        """So many bytes will come."""

    def write(self, offset: int, data: bytes) -> None:
        """Bytes that belong at ``offset``; each comes once."""


class InMemory:
    """A sink that keeps the bytes; no more than ``limit`` of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def start(self, size: int, where: str) -> None:
        if size > self._limit:
            raise StoreError(f"{where}: has {size:,} bytes, more than the {self._limit:,} that it may have")
        self._data = bytearray(size)

    def write(self, offset: int, data: bytes) -> None:
        self._data[offset : offset + len(data)] = data

    def taken(self) -> bytes:
        return bytes(self._data)


class InFile:
    """A sink that writes to an open file."""

    def __init__(self, file: int, step: Callable[[int], None] | None) -> None:
        self._file = file
        self._step = step
        self._lock = threading.Lock()

    def start(self, size: int, where: str) -> None:
        pass

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written
        if self._step is not None:
            with self._lock:
                self._step(len(data))


@dataclasses.dataclass(frozen=True)
class _Version:
    """What all pieces must be of: a tag, or where the server has none, a time."""

    size: int
    tag: str | None
    when: Any

    @classmethod
    def of(cls, meta: Any) -> _Version:
        tag = meta["e_tag"] or meta["version"]
        return cls(meta["size"], tag, None if tag else meta["last_modified"])

    @property
    def condition(self) -> dict[str, Any]:
        """If-Match compares strongly: a weak tag would never match."""
        return {"if_match": self.tag} if self.tag and not self.tag.startswith("W/") else {}


class Reader:
    """Reads objects of a store."""

    def __init__(self, store: Objects) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._whole_only = False  # the server knows no ranges

    def whole(self, name: str, sink: Sink, *, begin: int = 0, expect: int | None = None) -> Entry:
        """Reads an object from ``begin`` on into ``sink``, whose offsets begin there."""
        where = self._store.shown(name)
        first, version = self._first(name, begin, begin + PIECE)
        if expect is not None and version.size != expect:
            raise StoreError(f"{where}: has {version.size:,} bytes, not {expect:,}: it is another object than expected")
        if begin > version.size:
            raise StoreError(f"{where}: ends at byte {version.size:,}, before {begin:,}")
        sink.start(version.size - begin, where)
        stop = threading.Event()
        end = version.size if self._whole_only else min(begin + PIECE, version.size)
        work = [
            self._threads().submit(
                self._piece, name, sink, (at, min(at + PIECE, version.size)), begin, version, None, stop
            )
            for at in range(end, version.size, PIECE)
        ]
        try:
            self._piece(name, sink, (begin, end), begin, version, first, stop)
            for piece in work:
                piece.result()
        finally:
            stop.set()
            _ended(work)
        return Entry(name, version.size, version.tag)

    def part(self, name: str, sink: Sink, begin: int, size: int) -> None:
        """Reads exactly ``size`` bytes from ``begin`` on."""
        where = self._store.shown(name)
        first, version = self._first(name, begin, begin + size)
        if begin + size > version.size:
            raise StoreError(f"{where}: ends at byte {version.size:,}, before {begin + size:,}")
        sink.start(size, where)
        self._piece(name, sink, (begin, begin + size), begin, version, first, threading.Event())

    def _first(self, name: str, begin: int, end: int) -> tuple[GetResult | None, _Version]:
        """The answer that says of which version all is."""
        patience = Patience()
        while True:
            try:
                got = self._get(name, begin, end, None)
                return got, _Version.of(got.meta)
            except StoreError:
                raise
            except Exception as error:
                answer = understood(error)
                if answer.kind is Kind.RANGE:  # begins at the end, or behind
                    entry = self._store.head(name)
                    if entry is not None and entry.bytes <= begin:
                        return None, _Version(entry.bytes, entry.tag, None)
                    answer = Answer(Kind.LATER, answer.text)
                if answer.kind is Kind.UNABLE and not self._whole_only:
                    self._whole_only = True
                    continue
                self._store.again(answer, patience, "its bytes", self._store.shown(name))

    def _get(self, name: str, begin: int, end: int, version: _Version | None) -> GetResult:
        import obstore

        options: dict[str, Any] = version.condition if version else {}
        if not self._whole_only:
            options = options | {"range": (begin, end)}
        got = obstore.get(self._store.client(), self._store.key(name), options=options)  # type: ignore[arg-type]
        self._store.count(requests=1)
        return got

    def _piece(
        self,
        name: str,
        sink: Sink,
        span: tuple[int, int],
        base: int,
        version: _Version,
        got: GetResult | None,
        stop: threading.Event,
    ) -> None:
        """As `_read`; where it fails, the other pieces stop."""
        try:
            self._read(name, sink, span, base, version, got, stop)
        except BaseException:
            stop.set()
            raise

    def _read(
        self,
        name: str,
        sink: Sink,
        span: tuple[int, int],
        base: int,
        version: _Version,
        got: GetResult | None,
        stop: threading.Event,
    ) -> None:
        """Reads the bytes of ``span``; ``got`` is the answer to the first request, if there was one already."""
        at, end = span
        patience = Patience()
        while at < end and not stop.is_set():
            answer = _SHORT
            try:
                if got is None:
                    got = self._get(name, at, end, version)
                    if _Version.of(got.meta) != version:
                        raise self._changed(name)
                skip = at if self._whole_only else 0
                for chunk in got.stream(min_chunk_size=_CHUNK if patience.tries == 0 else _SMALL_CHUNK):
                    self._store.count(read=len(chunk))
                    data, skip = bytes(chunk)[skip:], max(0, skip - len(chunk))
                    data = data[: end - at]
                    if data:
                        sink.write(at - base, data)
                        at += len(data)
                        patience.renew()
                    if at == end or stop.is_set():
                        break
            except StoreError:
                raise
            except OSError as error:
                if error.errno is not None:
                    raise  # the sink's
                answer = understood(error)
            except Exception as error:
                answer = understood(error)
            got = None
            if at < end and not stop.is_set():
                self._store.again(answer, patience, "its bytes", self._store.shown(name))

    def _changed(self, name: str) -> StoreError:
        return self._store.refusal(Answer(Kind.CHANGED, ""), Patience(), "", self._store.shown(name))

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="dali_dr-store")
            return self._pool


def _ended(work: list[Future[None]]) -> None:
    """Waits until no piece writes any more."""
    for piece in work:
        if not piece.cancel():
            piece.exception()
