"""Objects that are needed whole (archives, tables, lists, tars that are looked through), once on this machine.

They lie in ``$DALI_DR_CACHE``/sources, else ~/.cache/dali_dr/sources, each as NAME in a folder of its URL and version:
what was changed is fetched anew. What was interrupted goes on where it stopped. While all is larger than
``$DALI_DR_SOURCES_BYTES`` (default 64 GiB), what was used longest ago goes, but for what a process has in use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dali_dr.ahead import ahead
from dali_dr.errors import ShardError, shown
from dali_dr.progress import bar as progress_bar
from dali_dr.sources.remote import Gone, Unavailable, parent, read_part, split, store_of
from dali_dr.store.url import StoreError, as_place, shown_url

CACHE_VARIABLE: Final = "DALI_DR_CACHE"
BYTES_VARIABLE: Final = "DALI_DR_SOURCES_BYTES"
_DEFAULT_BYTES: Final = 64 << 30
_SPARED: Final = 256 << 20  # bytes of the disk that are left free
_RANGE: Final = 8 << 20  # bytes of a request
_AT_ONCE: Final = 6  # requests: one connection does not fill a link at 50 ms
_LOOKS: Final = 32  # objects that are looked at at once
_SYNCED: Final = 128 << 20  # bytes after which what there is is made durable, and noted
_WAIT: Final = 0.2  # seconds between looks at a file that another process fetches
_MOST_NAME: Final = 200  # bytes of a file's name in the cache
_Bytes = bytes  # which `Remote.bytes` hides
_LOCK, _PART, _STATE = ".lock", ".part", ".state"

_held: dict[Path, int] = {}  # locks of folders in use, to the end of this process
_places: dict[str, str] = {}  # URLs of what was in use, by the folders in the cache


@dataclasses.dataclass(frozen=True)
class Remote:
    """An object as it was when it was looked at.

    Attributes:
      url: of it.
      bytes: its size.
      tag: see `dali_dr.store.store.Entry`.
    """

    url: str
    bytes: int
    tag: str | None

    def __post_init__(self) -> None:
        if self.tag is not None:  # Azure has quotes around it in one answer, and none in another
            object.__setattr__(self, "tag", self.tag.strip('"'))

    @classmethod
    def look(cls, url: str) -> Remote:
        """The object at ``url``. Its ``url`` is as `as_place` has it.

        Raises:
          ShardError: there is none, or the store does not say.
        """
        root, name = split(url)
        try:
            entry = store_of(root).head(name)
        except StoreError as error:
            raise Unavailable(str(error)) from error
        if entry is None:
            raise ShardError(f"{shown_url(url)}: no such object: correct the name", kind="usage")
        return cls(str(as_place(url)), entry.bytes, entry.tag)

    def __str__(self) -> str:
        return shown_url(self.url)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def folder(self) -> Path:
        """Its folder in the cache, there or not."""
        version = f"{self.url} {self.bytes} {self.tag}"
        return cache_folder() / hashlib.sha256(version.encode()).hexdigest()[:32]

    @property
    def path(self) -> Path:
        """Its file in the cache, there or not."""
        name = re.sub(r"[^\w.+=@ -]", "_", self.name)
        return self.folder / (name.encode()[-_MOST_NAME:].decode(errors="ignore").lstrip(".") or "object")

    def local(self, *, progress: bool | None = None, keep: bool = True) -> Path:
        """Its file, fetched unless it is there.

        Args:
          progress: show a progress bar; None: on a terminal.
          keep: it stays there as long as this process lives.

        Raises:
          ShardError: it was changed since it was looked at, is gone, or there is no room for it.
        """
        _places[str(self.folder)] = str(parent(shown_url(self.url)))
        if self.folder in _held and self.path.exists():
            return self.path
        with _in_use(self.folder, lambda: self._fetch(progress), self._is_whole) as descriptor:
            os.utime(self.path)
            if keep:
                _held[self.folder] = os.dup(descriptor)
        return self.path

    def read(self, begin: int, size: int) -> _Bytes:
        """Some bytes: of the file, if it is there, else of the object. Raises what `remote.read_part` does."""
        with contextlib.suppress(OSError), self.path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, begin)
            if len(data) == size:
                return data
        _same(self)
        return read_part(self.url, begin, size, length=self.bytes)

    def check(self) -> None:
        """ShardError if the object is not what it was."""
        now = Remote.look(self.url)
        if now != self:
            raise ShardError(f"{shown_url(self.url)}: was changed while it was in use: run the command again")

    def _is_whole(self) -> bool:
        try:
            return self.path.stat().st_size == self.bytes
        except OSError:
            return False

    def _fetch(self, progress: bool | None) -> None:
        part, state = self.folder / _PART, self.folder / _STATE
        there = _there(part, state)
        _make_room(self.bytes - there, self.folder)
        bar = progress_bar(
            total=self.bytes,
            initial=there,
            unit="B",
            unit_scale=True,
            disable=None if progress is None else not progress,
            desc=shown(f"fetching {self.name}"),
        )
        try:
            with bar, part.open("r+b" if there else "wb") as file:
                file.truncate(there)
                file.seek(there)
                synced = there
                try:
                    with contextlib.closing(self._pieces(there)) as pieces:
                        for piece in pieces:
                            file.write(piece)
                            bar.update(len(piece))
                            if file.tell() - synced >= _SYNCED:
                                synced = _sync(file.fileno(), file.flush, state, file.tell())
                finally:
                    _sync(file.fileno(), file.flush, state, file.tell())
        except Gone as error:
            raise ShardError(f"{error.filename}: {error.strerror}") from error
        except OSError as error:
            raise ShardError(
                f"{self.folder}: {shown_url(self.url)} cannot be kept there ({error.strerror}): free space, or set "
                f"{CACHE_VARIABLE} to another folder; what was fetched stays, and the same command goes on"
            ) from error
        self._unchanged()
        part.replace(self.path)
        state.unlink(missing_ok=True)

    def _pieces(self, begin: int) -> Generator[_Bytes, None, None]:
        def piece(at: int) -> _Bytes:
            return read_part(self.url, at, min(_RANGE, self.bytes - at), length=self.bytes)

        with ThreadPoolExecutor(_AT_ONCE, "fetch") as executor:
            yield from ahead(executor, piece, range(begin, self.bytes, _RANGE), _AT_ONCE + 1)

    def _unchanged(self) -> None:
        """What was fetched in ranges is one object's. Else it is removed."""
        try:
            self.check()
        except Unavailable:
            raise
        except ShardError:
            for name in (_PART, _STATE):
                (self.folder / name).unlink(missing_ok=True)
            raise


File = Path | Remote
"""A file on this machine, or an object as it was when it was looked at."""


def local(file: Path | str | Remote, *, keep: bool = True) -> Path:
    """A file on this machine that holds ``file``, which may be a URL; see `Remote.local`."""
    if isinstance(file, str):
        file = Remote.look(file)
    return file.local(keep=keep) if isinstance(file, Remote) else file


def look_at_all(urls: Iterable[str]) -> list[Remote]:
    """`Remote.look` of all, several at a time."""
    with ThreadPoolExecutor(_LOOKS, "look") as pool:
        return list(pool.map(Remote.look, urls))


@functools.lru_cache(maxsize=1 << 20)
def _same(file: Remote) -> None:
    """Once in a process: see `Remote.check`."""
    file.check()


def cache_folder() -> Path:
    """Where objects are kept."""
    root = os.environ.get(CACHE_VARIABLE)
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "dali_dr").absolute() / "sources"


@contextlib.contextmanager
def told_by_url() -> Iterator[None]:
    """Errors within name what was fetched by its URL, not by its place in the cache."""
    try:
        yield
    except (Gone, Unavailable):
        raise
    except ShardError as error:
        text = by_url(str(error))
        if text == str(error):
            raise
        kind = type(error)
        raise kind(
            text,
            kind=error.kind,
            sample=error.sample,
            key=error.key,
            shard=error.shard and by_url(error.shard),
            offset=error.offset,
            reason=error.reason and by_url(error.reason),
            remedy=error.remedy,
        ) from error


def by_url(text: str) -> str:
    """``text`` with URLs in place of the files in the cache that stand for them."""
    for folder, url in tuple(_places.items()) if str(cache_folder()) in text else ():
        text = text.replace(folder, url)
    return text


def _there(part: Path, state: Path) -> int:
    """Bytes that an earlier fetch has left, and made durable."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        noted = json.loads(state.read_bytes())["bytes"]
        if isinstance(noted, int) and 0 <= noted <= part.stat().st_size:
            return noted
    return 0


def _sync(descriptor: int, flush: Callable[[], None], state: Path, size: int) -> int:
    flush()
    os.fdatasync(descriptor)
    new = state.with_suffix(".new")
    new.write_text(json.dumps({"bytes": size}))
    new.replace(state)
    return size


@contextlib.contextmanager
def _in_use(folder: Path, fetch: Callable[[], None], is_whole: Callable[[], bool]) -> Iterator[int]:
    """Within, ``folder`` holds the whole file, and nobody removes it: the descriptor of its lock, which is shared.

    Of several processes one fetches, and the others wait for it.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ShardError(
                f"{folder}: cannot be made ({error.strerror}): set {CACHE_VARIABLE} to a folder that can be written"
            ) from error
        try:
            if _locks(descriptor, fcntl.LOCK_EX, folder) and not is_whole():
                fetch()
            if _locks(descriptor, fcntl.LOCK_SH, folder) and is_whole():
                yield descriptor
                return
        finally:
            os.close(descriptor)
        time.sleep(_WAIT)


def _locks(descriptor: int, kind: int, folder: Path) -> bool:
    """Whether the lock could be had, and is that of the folder still, which another may have removed meanwhile."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), (folder / _LOCK).stat())
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return False


def _make_room(needed: int, folder: Path) -> None:
    """Removes what was used longest ago, for ``needed`` more bytes in ``folder``. ShardError if the disk has no room."""
    root = folder.parent
    others = sorted(_kept(root, folder))
    most = _bound()
    total = sum(size for _, size, _ in others) + sum(path.stat().st_size for path in folder.iterdir())
    for _, size, other in others:
        if total + needed <= most and shutil.disk_usage(root).free >= needed + _SPARED:
            break
        if _removed(other):
            total -= size
    free = shutil.disk_usage(root).free
    if free < needed + _SPARED:
        raise ShardError(
            f"{root}: has {free} bytes free, and {needed} more are to be fetched: free space, or set {CACHE_VARIABLE} to a "
            "folder with more of it"
        )


def _kept(root: Path, but: Path) -> Iterator[tuple[float, int, Path]]:
    """When each other folder of the cache was used last, its bytes and itself."""
    for folder in root.iterdir():
        with contextlib.suppress(OSError):  # it goes meanwhile
            if folder != but and folder.is_dir():
                found = [path.stat() for path in folder.iterdir()]
                yield max((one.st_mtime for one in found), default=0.0), sum(one.st_size for one in found), folder


def _removed(folder: Path) -> bool:
    """Removes a folder of the cache, unless it is in use."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            if _locks(descriptor, fcntl.LOCK_EX, folder):
                shutil.rmtree(folder)
                return True
        finally:
            os.close(descriptor)
    return False


def _bound() -> int:
    text = os.environ.get(BYTES_VARIABLE) or str(_DEFAULT_BYTES)
    if not text.isdecimal():
        raise ShardError(f"{BYTES_VARIABLE} is {text!r}, want a number of bytes")
    return int(text)
