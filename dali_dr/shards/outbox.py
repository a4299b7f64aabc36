"""Outbox: a folder on this machine whose data set lies in a store.

Writers work in a folder as ever. In an outbox, each finished shard goes to the store by one create-only put, and what stays
is a hollow file of its size; small files follow, dataset.json last. In any other folder all of this does nothing. The
outbox may be lost at any time: another machine goes on from the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dali_dr.errors import ShardError
from dali_dr.shards import files, tar
from dali_dr.shards.manifest import MANIFEST_NAME
from dali_dr.shards.stored import Stored
from dali_dr.store.store import Store
from dali_dr.store.url import StoreError, shown_url

MARK_NAME: Final = ".store.json"  # in a folder that is an outbox: the URL
FOLDER_VARIABLE: Final = "DALI_DR_WORK"
_LOCK_NAME: Final = ".lock"  # a folder: writers lock the outbox itself, within the time that it is held
_FORMAT: Final = 1
_RUN: Final = "run"  # in the state
_READ_ONLY: Final = "a web server is only read: write to a bucket or a folder"
_NO_WRITING: Final = {
    "http": _READ_ONLY,
    "https": _READ_ONLY,
    "hf": "shards cannot be put on the Hub one by one, as each would be a commit: write to a folder or a bucket, then "
    "`dali-dr push`",
}
_DEPTH: Final = 4  # folders between a shared file and the outbox, and one more
Publish = Callable[[Path, Path], None]


def folder_for(place: Path | str) -> Path:
    """The folder to write in for ``place``: a folder itself, of a URL its outbox, which is made.

    Raises:
      ShardError: the outbox cannot be made; ``$DALI_DR_WORK`` says where outboxes lie.
    """
    if isinstance(place, Path):
        return place
    scheme = place.partition(":")[0].lower()
    if scheme in _NO_WRITING:
        raise StoreError(f"{shown_url(place)}: {_NO_WRITING[scheme]}", kind="usage")
    root = os.environ.get(FOLDER_VARIABLE)
    outboxes = Path(root).absolute() if root else Path.home() / ".cache" / "dali_dr" / "outbox"
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", place.rpartition("/")[2])[:40]
    out = outboxes / f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
    files.make_folder(out)
    mark = out / MARK_NAME
    if not mark.exists():
        tar.write_atomically(mark, json.dumps({"format": _FORMAT, "url": place}).encode())
    return out


@contextlib.contextmanager
def writing_to(place: Path | str, *, shared: bool = False, progress: bool = True) -> Iterator[Path]:
    """The folder to write in for ``place`` (see `folder_for`), brought up to what the store has; what was finished in it is
    delivered in the end. An outbox in which nothing was begun goes when that fails.

    Args:
      place: a folder, for which nothing is done, or a URL.
      shared: other processes of this machine, which say so too, write the same data set.
      progress: whether what takes long shows a bar.

    Raises:
      ShardError: another process of this machine writes there, or the store refuses something.
    """
    if isinstance(place, Path):
        yield place
        return
    with _held(place, shared) as (out, descriptor), _told(out, place):
        stored = Stored(out, _opened(place), progress)
        try:
            stored.take_in(alone=not shared)
            yield out
        except BaseException:
            if _is_empty(out) and (not shared or files.try_lock(descriptor)):
                files.remove_tree(out)
            raise
        if not (out / MANIFEST_NAME).exists():
            return
        stored.deliver()
        if not shared or files.try_lock(descriptor):  # the others are at an end
            files.remove_tree(out)


def _is_empty(out: Path) -> bool:
    """Whether nothing was begun in an outbox."""
    try:
        return {entry.name for entry in out.iterdir()} <= {MARK_NAME, _LOCK_NAME}
    except OSError:
        return False


def url_of(out: Path) -> str | None:
    """The URL whose outbox ``out`` is; None of any other folder."""
    try:
        url = json.loads((out / MARK_NAME).read_bytes())["url"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ShardError(
            f"{out / MARK_NAME}: cannot be read ({error}); remove {out} and run the command again"
        ) from error
    return str(url)


def shown_place(out: Path) -> str:
    """``out`` for messages: an outbox as its URL."""
    url = url_of(out)
    return str(out) if url is None else shown_url(url)


def publish(partial: Path, path: Path) -> None:
    """Give the complete and durable shard ``partial`` its final name, and in an outbox put it into the store before.

    Another writer may have been first with the same bytes, which is no error.
    """
    stored = _stored(path.parent)
    if stored is None:
        files.publish(partial, path)
        return
    with _cleared_away(path):
        size = partial.stat().st_size
        stored.upload(path, partial)
    files.discard(partial)
    stored.hollow(path, size)


@contextlib.contextmanager
def behind(out: Path, waiting: Callable[[str], object] = lambda name: None) -> Iterator[Publish]:
    """A `publish` for a writer that is alone in ``out``: a shard goes to the store while the next one is written.

    All are there when this ends, unless that is by an error. A shard that cannot be put stays here, under its name, and
    `refresh` puts it.

    Args:
      out: the folder.
      waiting: called with the name of a shard that must be in the store before the writer goes on, then with "".
    """
    stored = _stored(out)
    if stored is None:
        yield files.publish
        return
    flying: list[tuple[str, Future[None]]] = []

    def fly(path: Path) -> None:
        with _cleared_away(path):
            stored.upload(path, path)
            stored.hollow(path, path.stat().st_size)

    def land() -> None:
        while flying:
            name, future = flying.pop()
            if not future.done():
                waiting(name)
            future.result()
            waiting("")

    def publish_soon(partial: Path, path: Path) -> None:
        files.publish(partial, path)
        land()
        flying.append((path.name, executor.submit(fly, path)))

    with ThreadPoolExecutor(1, "upload") as executor:
        yield publish_soon
        land()


def refresh(out: Path, *, alone: bool = False) -> None:
    """Take in what others have put into the store: settings, facts of finished shards, what is shared; dataset.json.

    Args:
      out: the folder.
      alone: see `Stored.take_in`.
    """
    stored = _stored(out)
    if stored is not None:
        stored.take_in(alone=alone)


def create(path: Path, data: bytes) -> bool:
    """Write the small file ``path`` where there is none, in an outbox where there is none in the store.

    Returns:
      Whether it was this call that made it; else it holds what was there first.
    """
    stored = _stored_around(path)
    if stored is None:
        return tar.create_atomically(path, data)
    name = path.relative_to(stored.out).as_posix()
    made = stored.store.put(name, data, create=True)
    tar.write_atomically(path, data if made else stored.store.read(name))
    return made


def identity(out: Path) -> dict[str, str]:
    """What the settings of a run that begins in ``out`` also say: in an outbox, which run it is, so that what a machine has
    of another that was removed from the store is not taken for its own."""
    return {} if url_of(out) is None else {_RUN: secrets.token_hex(8)}


def share(path: Path) -> None:
    """Put the small file ``path`` of an outbox (a chunk, figures, a setting) into the store, over what is there."""
    stored = _stored_around(path)
    if stored is not None:
        stored.store.put(path.relative_to(stored.out).as_posix(), path)


def withdraw(path: Path) -> None:
    """Remove the small file ``path``, here and in the store."""
    stored = _stored_around(path)
    if stored is not None:
        stored.store.remove(path.relative_to(stored.out).as_posix())
    files.remove(path)


def deliver(out: Path) -> None:
    """Put what ``folder.finalise`` and the report wrote into the store, dataset.json last, and remove what was for resuming."""
    stored = _stored(out)
    if stored is not None:
        stored.deliver()


def refuse_what_stores_cannot(out: Path, *, force: bool, sidecar: bool) -> None:
    """ShardError for what is not done in an outbox: to remove what is in the store, and to write records beside images
    that lie elsewhere."""
    if not (force or sidecar) or (url := url_of(out)) is None:
        return
    if force:
        raise ShardError(
            f"{shown_url(url)}: --force (force=True) removes nothing from a store: remove what is there with the store's own "
            "tools, or choose another URL",
            kind="usage",
        )
    raise ShardError(
        f"{shown_url(url)}: a sidecar data set in a store names image tars that lie below its URL alone: bring them there, "
        "write the set into a folder, or with its images",
        kind="usage",
    )


def _opened(url: str) -> Store:
    from dali_dr.store.opening import open_store

    return open_store(url)


def _stored(out: Path) -> Stored | None:
    """The data set whose outbox ``out`` is; None of any other folder."""
    url = url_of(out)
    return None if url is None else Stored(out, _opened(url), progress=False)


def _stored_around(path: Path) -> Stored | None:
    """The data set in whose outbox ``path`` lies, if it lies in one."""
    return next((stored for folder in [*path.parents][:_DEPTH] if (stored := _stored(folder)) is not None), None)


@contextlib.contextmanager
def _cleared_away(path: Path) -> Iterator[None]:
    """A file that is gone is told as one that cannot be written, as in a folder: the run may have ended elsewhere."""
    try:
        yield
    except FileNotFoundError as error:
        raise files.failure(path, error) from error


@contextlib.contextmanager
def _held(url: str, shared: bool) -> Iterator[tuple[Path, int]]:
    """The outbox of ``url`` and a descriptor that holds it for this process, or for several."""
    while True:
        out = folder_for(url)
        lock = out / _LOCK_NAME
        files.make_folder(lock)
        try:
            descriptor = files.open_locked(lock, shared=shared)
        except BlockingIOError as error:
            raise StoreError(
                f"{shown_url(url)}: another process of this machine is writing there; wait for it or choose another URL"
            ) from error
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                break
        files.close(descriptor)  # whoever had it has delivered and removed it
    try:
        yield out, descriptor
    finally:
        files.close(descriptor)


@contextlib.contextmanager
def _told(out: Path, url: str) -> Iterator[None]:
    """Errors about the data set name the URL; those about this machine's disk, the outbox."""
    try:
        yield
    except ShardError as error:
        if not isinstance(error, files.WriteError):
            place = shown_url(url)
            error.args = tuple(a.replace(str(out), place) if isinstance(a, str) else a for a in error.args)
            error.shard = None if error.shard is None else error.shard.replace(str(out), place)
        raise
