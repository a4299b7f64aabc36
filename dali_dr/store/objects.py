"""Objects of S3, Google Cloud Storage, Azure and web servers, by obstore.

obstore is asked once for each request; what passes is tried again here, where it is known what a second try means: a read
goes on behind the bytes that came, with the version pinned; a create-only put whose answer was lost is looked at.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from dali_dr.store import aide, clients, uploads
from dali_dr.store.answers import Answer, Kind, understood
from dali_dr.store.patience import Patience, retry_s
from dali_dr.store.reading import InFile, InMemory, Reader
from dali_dr.store.store import Entry, Traffic
from dali_dr.store.url import MissingError, StoreError, shown_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")
_WEB: Final = ("http://", "https://")


class Objects:
    """The objects below a URL, as `Store` says.

    Attributes:
      url: without a slash at its end.
      traffic: of this process.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._prefix = clients.bucket_and_prefix(self._url)[1]
        self._forget()

    def _forget(self) -> None:
        self.traffic: Traffic = Traffic()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._clients: dict[float | None, ObjectStore] = {}
        self._reader = Reader(self)

    def __getstate__(self) -> str:
        return self._url

    def __setstate__(self, url: str) -> None:
        self.__init__(url)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Objects({shown_url(self._url)!r})"

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return self._url

    @aide.survives_forks
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects whose names begin with ``prefix``, by name."""
        import obstore

        folder = "/".join(part for part in (self._prefix, prefix.rpartition("/")[0]) if part)
        entries: list[Entry] = []
        last: str | None = None

        def pages() -> None:
            nonlocal last
            for page in obstore.list(self.client(), folder or None, offset=last, chunk_size=1000):
                self.count(requests=1)
                for meta in page:
                    last = max(last or "", meta["path"])
                    entries.append(Entry(self._name(meta["path"]), meta["size"], meta["e_tag"] or meta["version"]))

        self.asked("its list", self._url, pages)
        return iter(_of_folder(entries, prefix))

    @aide.survives_forks
    def head(self, name: str) -> Entry | None:
        """The object ``name``; None if there is none."""
        import obstore

        key = self.key(name)
        try:
            meta = self.asked("what it is", self.shown(name), lambda: obstore.head(self.client(), key))
        except MissingError:
            return None
        return Entry(name, meta["size"], meta["e_tag"] or meta["version"])

    @aide.survives_forks
    def read(self, name: str, begin: int = 0, size: int | None = None, *, limit: int = 1 << 30) -> bytes:
        """Bytes of an object, as `Store.read`."""
        sink = InMemory(limit)
        if size is None:
            self._reader.whole(name, sink, begin=begin)
        elif size > 0:
            self._reader.part(name, sink, begin, size)
        return sink.taken()

    @aide.survives_forks
    def download(
        self, name: str, to: Path, *, expect: int | None = None, step: Callable[[int], None] | None = None
    ) -> Entry:
        """Writes an object into a file, as `Store.download`; parts of it come at once."""
        try:
            with to.open("wb") as file:
                return self._reader.whole(name, InFile(file.fileno(), step), expect=expect)
        except BaseException:
            to.unlink(missing_ok=True)
            raise

    @aide.survives_forks
    def put(self, name: str, data: bytes | Path, *, create: bool = False) -> bool:
        """Writes an object by one put, as `Store.put`: up to 5 GiB, and a file without a copy of it in memory.

        Where the answer to a create-only put was lost and the next try meets an object, that object is read: True where it
        has these bytes, since either ours was written or another's that nobody can tell from it.
        """
        self._writable(name)
        return uploads.put(self, name, data, create=create)

    @aide.survives_forks
    def remove(self, name: str) -> None:
        """Removes an object; none is none."""
        import obstore

        self._writable(name)
        key = self.key(name)
        try:
            self.asked("to be removed", self.shown(name), lambda: obstore.delete(self.client(), key))
        except MissingError:
            return

    # What the modules beside this one need.

    def own(self) -> None:
        """Forgets what is another process's, after a fork."""
        if self._process != os.getpid():
            self._forget()

    def client(self, whole_s: float | None = None) -> ObjectStore:
        """obstore's client, opened when it is needed first (`clients.client`)."""
        aide.used()
        with self._lock:
            if whole_s not in self._clients:
                self._clients[whole_s] = clients.client(self._url, whole_s=whole_s)
            return self._clients[whole_s]

    def key(self, name: str) -> str:
        """Of the object ``name``, in its bucket."""
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise StoreError(f"{self.shown(name)}: {name!r} is no name of an object")
        return f"{self._prefix}/{name}" if self._prefix else name

    def shown(self, name: str) -> str:
        """The object ``name`` in messages."""
        return f"{shown_url(self._url)}/{name}"

    def count(self, *, requests: int = 0, retries: int = 0, read: int = 0, written: int = 0) -> None:
        """Adds to the traffic."""
        with self._lock:
            self.traffic.requests += requests
            self.traffic.retries += retries
            self.traffic.read += read
            self.traffic.written += written

    def asked(self, what: str, where: str, call: Callable[[], T]) -> T:
        """What ``call`` returns, tried again where that may help."""
        patience = Patience()
        while True:
            try:
                result = call()
            except StoreError:
                raise
            except Exception as error:
                self.again(understood(error), patience, what, where)
            else:
                self.count(requests=1)
                return result

    def again(self, answer: Answer, patience: Patience, what: str, where: str) -> None:
        """Pauses before the next try.

        Raises:
          StoreError: there is none, with what the store said last.
        """
        self.count(requests=1)
        if answer.kind is Kind.LATER and patience.wait():
            self.count(retries=1)
            return
        raise self.refusal(answer, patience, what, where) from None

    def refusal(self, answer: Answer, patience: Patience, what: str, where: str) -> StoreError:
        """The error that says ``answer``."""
        if answer.kind is Kind.MISSING:
            return MissingError(f"{where}: there is no such object, or no such bucket")
        if answer.kind is Kind.CHANGED:
            return StoreError(f"{where}: changed while it was read: read it again, when nobody writes to it")
        if answer.kind is Kind.UNABLE and self._url.startswith(_WEB):
            return StoreError(
                f"{where}: the web server does not give {what} ({answer.text}): of a web server, only what is named can be "
                "read"
            )
        if answer.kind is Kind.LATER:
            return StoreError(
                f"{where}: the store does not give {what}: {answer.text}; {patience.tries} tries within {retry_s():g} s: "
                "look at the network and the endpoint, or set DALI_DR_STORE_RETRY_S to try for longer"
            )
        remedy = f": {answer.remedy}" if answer.remedy else ""
        return StoreError(f"{where}: {answer.text}{remedy}")

    def _writable(self, name: str) -> None:
        if self._url.lower().startswith(_WEB):
            raise StoreError(
                f"{self.shown(name)}: a web server is only read: write to a bucket or a folder", kind="usage"
            )

    def _name(self, key: str) -> str:
        return key[len(self._prefix) :].lstrip("/") if self._prefix else key


def _of_folder(entries: list[Entry], prefix: str) -> list[Entry]:
    """Those that begin with ``prefix``, without the empty objects that consoles make for folders."""
    folders = set()
    for entry in entries:
        parent = entry.name
        while parent := parent.rpartition("/")[0]:
            if parent in folders:
                break
            folders.add(parent)
    kept = [
        entry
        for entry in entries
        if entry.name.startswith(prefix) and entry.name and not (entry.bytes == 0 and entry.name in folders)
    ]
    return sorted(kept, key=lambda entry: entry.name)
