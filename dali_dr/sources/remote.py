"""Objects in stores, as sources read them: by URL, and so that what is wrong with one image is told from a store that is.

A source keeps URLs, never stores: it can be pickled, and another process opens its own.
"""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from dali_dr.regular import read_regular
from dali_dr.store.url import StoreError, as_place, is_url, shown_url

if TYPE_CHECKING:
    from dali_dr.store.store import Entry, Store

READERS: Final = 64
"""Threads that wait for a store: at 50 ms an object and 64 at once, some 1,200 images a second."""

_IN_BUCKET: Final = re.compile(r"([^/]+://[^/]+)/(.+)", re.DOTALL)
# hf://[datasets/]OWNER/NAME[@REVISION]/…, of whose revisions refs/pr/N has slashes.
_REPOSITORY: Final = r"hf://(?:datasets/)?(?!datasets/)[^/]+/(?:[^/]+@refs/pr/[^/]+|(?![^/]+@refs/pr/)[^/]+)"
_IN_HUB: Final = re.compile(rf"({_REPOSITORY})/(.+)", re.DOTALL | re.IGNORECASE)


class Unavailable(StoreError):
    """A store that does not answer, or not to us. No fault of an image: nothing is left out for it, the work stops."""


class Gone(OSError):
    """An object that is not there any more, or not as it was listed: a fault of that image."""


@functools.lru_cache(maxsize=64)
def store_of(url: str) -> Store:
    """The store of the objects below ``url``; one for all who ask in this process."""
    from dali_dr.store.opening import open_store

    return open_store(url)


def split(url: str) -> tuple[str, str]:
    """The bucket of an object's URL (a server, a repository), and its name there.

    Raises:
      StoreError: it names no object, or is no URL that `as_place` takes.
    """
    match = (_IN_HUB if url.lower().startswith("hf:") else _IN_BUCKET).fullmatch(str(as_place(url)))
    if match is None:
        raise StoreError(
            f"{shown_url(url)}: names no object, which come after the bucket: s3://BUCKET/NAME", kind="usage"
        )
    return match[1], match[2]


def read(url: str, most: int, *, size: int | None = None) -> bytes:
    """The whole object at ``url``.

    Args:
      url: of the object.
      most: bytes that it may have.
      size: that it had when it was listed; None: that is not known.

    Raises:
      Gone: it is not there, is larger than ``most``, or has another size than ``size``.
      Unavailable: the store does not say so.
    """
    root, name = split(url)
    return read_named(store_of(root), name, url, most, size=size)


def read_named(store: Store, name: str, url: str, most: int, *, size: int | None = None) -> bytes:
    """As `read`, of the object ``name``, which messages call ``url``."""
    if size is not None and size > most:
        raise Gone(errno.EFBIG, f"it has {size} bytes, at most {most} are read", shown_url(url))
    try:
        data = store.read(name, limit=most)
    except StoreError as error:
        _explain(store, name, url, size, most, error)
        raise
    if size is not None and len(data) != size:
        raise Gone(errno.ESTALE, _changed(size, len(data)), shown_url(url))
    return data


def read_part(url: str, begin: int, size: int, *, length: int) -> bytes:
    """``size`` bytes from ``begin`` of the object at ``url``, which had ``length``. Raises what `read` does."""
    root, name = split(url)
    store = store_of(root)
    try:
        return store.read(name, begin, size)
    except StoreError as error:
        _explain(store, name, url, length, None, error)
        raise


def size_of(url: str) -> int:
    """Bytes of an object. Raises what `read` does."""
    size = size_if_there(url)
    if size is None:
        raise Gone(errno.ENOENT, "no such object", shown_url(url))
    return size


def size_if_there(url: str) -> int | None:
    """Bytes of an object; None if there is none. Unavailable: the store does not say."""
    root, name = split(url)
    try:
        entry = store_of(root).head(name)
    except StoreError as error:
        raise Unavailable(str(error)) from error
    return None if entry is None else entry.bytes


def listed(store: Store, prefix: str = "") -> Iterator[Entry]:
    """`Store.list`, whose failures are those of the store: nothing is left out for them. Unavailable: it failed."""
    try:
        yield from store.list(prefix)
    except StoreError as error:
        raise Unavailable(str(error)) from error


def _explain(store: Store, name: str, url: str, size: int | None, most: int | None, error: StoreError) -> None:
    """Raises what a read that failed with ``error`` means."""
    try:
        entry = store.head(name)
    except StoreError:
        raise Unavailable(str(error)) from error
    if entry is None:
        raise Gone(errno.ENOENT, "no such object" if size is None else "is not there any more", shown_url(url))
    if size is not None and entry.bytes != size:
        raise Gone(errno.ESTALE, _changed(size, entry.bytes), shown_url(url))
    if most is not None and entry.bytes > most:
        raise Gone(errno.EFBIG, f"it has {entry.bytes} bytes, at most {most} are read", shown_url(url))
    raise Unavailable(str(error)) from error


def _changed(before: int, now: int) -> str:
    return f"was changed: it had {before} bytes when it was listed, and has {now}; run the command again"


def read_place(place: Path | str, most: int, *, size: int | None = None) -> bytes:
    """The whole file or object at ``place``; see `read` and `dali_dr.regular.read_regular`."""
    return read_regular(place, most) if isinstance(place, Path) else read(place, most, size=size)


def shown_place(place: Path | str) -> str:
    """A place, for messages."""
    return str(place) if isinstance(place, Path) else shown_url(place)


def parent(place: Path | str) -> Path | str:
    """The folder that a file or object is in."""
    return place.parent if isinstance(place, Path) else place.rpartition("/")[0]


def below(folder: Path | str, path: str) -> Path | str:
    """What ``path``, that may be a URL or absolute, means in a folder or below a URL.

    Raises:
      StoreError: it is a URL that `as_place` does not take, or leads out of the bucket.
    """
    if is_url(path):
        return as_place(path)
    if isinstance(folder, Path):
        return folder / path
    if path.startswith("/"):
        raise StoreError(
            f"{shown_url(folder)}: the path {path} is absolute: write it relative to the list, or as a URL"
        )
    parts = urlsplit(folder)
    found: list[str] = []
    for part in (*parts.path.split("/"), *path.split("/")):
        if part == "..":
            if not found:
                raise StoreError(f"{shown_url(folder)}: the path {path} leads out of the bucket")
            found.pop()
        elif part not in ("", "."):
            found.append(part)
    return f"{parts.scheme}://{parts.netloc}/{'/'.join(found)}"
