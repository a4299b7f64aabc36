"""A data set that lies in a store: its dataset.json decides, and what it lists comes into a cache on this machine when needed.

In the cache a set has a folder of its own, by its URL and what its dataset.json holds, laid out like a data set's: what reads
one reads the other. A set that is changed in the store is another one here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.shards.facts import digest, image_files
from dali_dr.shards.index import REMEDY as INDEX_REMEDY
from dali_dr.shards.index_layout import HEADER_BYTES, INDEX_NAME, STORED_1
from dali_dr.shards.manifest import MANIFEST_NAME, Manifest
from dali_dr.shards.sample import MAX_KEY_BASE, MAX_KEY_FOLDER
from dali_dr.shards.source_table import SOURCES_TABLE
from dali_dr.shards.strict_json import MAX_BYTES, parse_json
from dali_dr.store.cache import Shelf, Wanted
from dali_dr.store.room import Cache, NoRoom
from dali_dr.store.store import Store
from dali_dr.store.url import MissingError, StoreError, shown_url

CACHE_VARIABLE: Final = "DALI_DR_CACHE"
_SMALL: Final = (MANIFEST_NAME, INDEX_NAME, SOURCES_TABLE)
_PER_SAMPLE: Final = STORED_1.itemsize + 4 + 4 + 8 + MAX_KEY_FOLDER + 1 + MAX_KEY_BASE  # most bytes of one in an index
_PER_FILE: Final = 18  # and of a file, but for its name
_SLUG: Final = re.compile(r"[^A-Za-z0-9_-]+")


def cache_root(cache: str | os.PathLike[str] | None = None) -> Path:
    """The cache's folder: as given, else $DALI_DR_CACHE, else ~/.cache/dali_dr."""
    given = cache or os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser().absolute() if given else Path.home() / ".cache" / "dali_dr"


def load_manifest(url: str, store: Store | None = None) -> tuple[Manifest, bytes]:
    """The dataset.json of the set at ``url``, and its bytes. Nothing else is asked of the store.

    Raises:
      ShardError: it is missing or wrong.
    """
    from dali_dr.store.opening import open_store

    store = open_store(url) if store is None else store
    where = f"{shown_url(store.url)}/{MANIFEST_NAME}"
    try:
        text = store.read(MANIFEST_NAME, limit=MAX_BYTES)
    except MissingError as error:
        raise ShardError(
            f"{where}: missing; a data set has this file once its writing is finished: run the writer again to finish it, or "
            "look whether the URL is the set's",
            kind="usage",
        ) from error
    return Manifest.from_json(parse_json(text, where), where), text


class Remote:
    """What a `Dataset` in a store has beside one in a folder.

    Args:
      url: of the set.
      cache: the cache's folder; see `cache_root`.
      cache_bytes: that all sets in it may have; None: as many as leave some of the disk free.
      digest: SHA-256 of its dataset.json, where that must be what it was.

    Attributes:
      url: for messages.
      digest: of its dataset.json.
      manifest: the same, read.
      shelf: its objects in the cache.
      folder: where they lie.
      wanted: shards and image tars, by their numbers in the index.
      lost: paths of those that a loader could not get, and why.

    Raises:
      ShardError: there is no such set, it is not what ``digest`` says, or it names files outside itself.
    """

    manifest: Manifest
    wanted: list[Wanted]

    def __init__(
        self,
        url: str,
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        digest: str | None = None,
    ) -> None:
        from dali_dr.store.opening import open_store

        if cache_bytes is not None and (isinstance(cache_bytes, bool) or int(cache_bytes) < 1):
            raise ValueError(f"cache_bytes is {cache_bytes!r:.100}; pass a number of bytes, or None for no bound")
        self.url: str = shown_url(url)
        self._asked = url, cache, cache_bytes
        store = open_store(url)
        self.manifest, text = load_manifest(url, store)
        self.digest: str = hashlib.sha256(text).hexdigest()
        if digest not in (None, self.digest):
            raise ShardError(f"{self.url}/{MANIFEST_NAME}: was changed since the data set was opened: open it again")
        _check_names(self.manifest, self.url)
        keyed = hashlib.sha256(f"{store.url}\n{self.digest}".encode()).hexdigest()
        name = f"{_SLUG.sub('-', self.url.rpartition('/')[2])[:40]}-{keyed[:24]}"
        limit = None if cache_bytes is None else int(cache_bytes)
        self.shelf: Shelf = Shelf(Cache(cache_root(cache), limit, _SMALL), store, name)
        self.folder: Path = self.shelf.folder
        self._put(MANIFEST_NAME, text)
        self.wanted = [Wanted(shard.name, shard.bytes, shard.sha256) for shard in self.manifest.shards]
        self.wanted += [Wanted(file.name, file.size) for file in image_files(self.manifest)]
        self.lost: dict[str, str] = {}
        self._by_name = {wanted.name: wanted for wanted in self.wanted}

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (*self._asked, self.digest)

    def holding(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The file of that name, which is in the cache for so long. ShardError if it cannot be had."""
        return self.shelf.holding(self._by_name[name])

    @contextlib.contextmanager
    def holding_all(self, numbers: npt.NDArray[np.int64]) -> Iterator[None]:
        """Files by their numbers, in the cache for so long; those that cannot be had are left to whoever reads them."""
        with contextlib.ExitStack() as held:
            for number in numbers.tolist():
                try:
                    held.enter_context(self.shelf.holding(self.wanted[number]))
                except NoRoom:  # no fault of the file
                    raise
                except StoreError:
                    continue
            yield

    def fetch_index(self) -> None:
        """Have index.bin in the cache, anew.

        Raises:
          ShardError: there is none in the store, or it is larger than one of this set can be.
        """
        self.shelf.discard(INDEX_NAME)
        where = f"{self.url}/{INDEX_NAME}"
        found = self.shelf.store.head(INDEX_NAME)
        if found is None:
            raise ShardError(f"{where}: missing; {self._remedy()}")
        names = sum(len(wanted.name.encode()) + _PER_FILE for wanted in self.wanted)
        most = HEADER_BYTES + 2 * 8 + self.manifest.images * _PER_SAMPLE + names
        if found.bytes > most:
            raise ShardError(
                f"{where}: has {found.bytes} bytes, one of {self.manifest.images} samples has at most {most}; {self._remedy()}"
            )
        with self.shelf.holding(Wanted(INDEX_NAME, found.bytes)):
            pass

    def bad_index(self, why: str) -> ShardError:
        """Of an index that came from the store, if ``why`` is what is wrong with it, or with the file in the cache."""
        where = f"{self.url}/{INDEX_NAME}: "
        why = why.replace(str(self.folder), self.url).removeprefix(where).replace(f"; {INDEX_REMEDY}", "")
        return ShardError(f"{where}{why}; {self._remedy()}")

    def told(self, problem: str) -> str:
        """What is said of a file in the cache, of the object that it is a copy of."""
        if f"{self.folder / INDEX_NAME}: " in problem:
            return str(self.bad_index(problem))
        return problem.replace(str(self.folder), self.url)

    def bring(self, name: str) -> None:
        """Have a small file beside the shards in the cache, where the store has it."""
        if name not in _SMALL or self.shelf.path(name).exists():
            return
        found = self.shelf.store.head(name)
        if found is not None and found.bytes <= 16 + 8 * self.manifest.images:  # of source.bin
            with self.shelf.holding(Wanted(name, found.bytes)):
                pass

    def bring_for_checks(self, kept: contextlib.ExitStack) -> None:
        """Have the index and all image tars in the cache, as long as ``kept`` lasts. ShardError: one cannot be had."""
        for wanted in self.wanted[len(self.manifest.shards) :]:
            kept.enter_context(self.shelf.holding(wanted))
        self.fetch_index()

    @contextlib.contextmanager
    def checked(self, name: str) -> Iterator[Path]:
        """As `holding`; a copy in the cache that is damaged is fetched anew."""
        wanted = self._by_name[name]
        if wanted.sha256 is not None and self.shelf.there(wanted):
            with self.shelf.holding(wanted) as path:
                damaged = digest(path) != wanted.sha256
            if damaged:
                self.shelf.discard(name)
        with self.shelf.holding(wanted) as path:
            yield path

    def _put(self, name: str, data: bytes) -> None:
        path = self.shelf.path(name)
        with contextlib.suppress(OSError):
            if path.read_bytes() == data:
                return
        partial = path.with_name(f".{name}.{len(data)}-{secrets.token_hex(6)}.tmp")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as error:
            raise ShardError(
                f"{path}: cannot be written ({error.strerror}): free space there, or choose another folder for the cache"
            ) from error

    def _remedy(self) -> str:
        if self.manifest.image_tars:
            return "restore it there from a copy of the set"
        return (
            f"`dali-dr copy {self.url} FOLDER` makes it anew in the copy, and `dali-dr copy FOLDER {self.url} --recheck` "
            "mends it there"
        )


def check_fits(limit: int | None, total: int, what: str, remedy: str = "") -> None:
    """ShardError where a cache of ``limit`` bytes cannot hold the ``total`` of ``what``, which is more than one."""
    if limit is not None and total > limit:
        raise ShardError(
            f"{what} need {total} bytes at once, cache_bytes leaves {limit} for shards: pass {total - limit} bytes "
            f"more{remedy}"
        )


def _check_names(manifest: Manifest, url: str) -> None:
    """ShardError unless all files lie inside the set. (Of shards, the schema says so.)"""
    taken = {*_SMALL, *(shard.name for shard in manifest.shards)}
    for image_tar in manifest.image_tars:
        path = image_tar.path
        parts = path.split("/")
        if (
            any(not part or part.startswith(".") or len(part.encode()) > 200 for part in parts)
            or "\\" in path
            or path in taken
        ):
            raise ShardError(
                f"{url}: its images are in {path!r:.200}, which is not below the set: a set in a store has all its files there; "
                "copy it whole by `dali-dr copy`"
            )
        taken.add(path)
