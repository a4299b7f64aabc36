"""Published archives, looked through once: which files they hold, where, and their checksums. Folders and tars, plain or
compressed with gzip, on this machine or in a store: then tars are fetched once, and files of folders one by one.

What the look has found is kept in the folder of the unfinished data set, for the archives are large: `Survey`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from dali_dr.convert.names import Named, Naming
from dali_dr.convert.streams import Sequential, is_gzip, pieces_of
from dali_dr.convert.survey import MAX_FILE, Found, Survey, Where
from dali_dr.errors import ConvertError, shown
from dali_dr.progress import bar as progress_bar
from dali_dr.regular import read_regular
from dali_dr.shards import tar
from dali_dr.shards.reading import open_regular, read_fully
from dali_dr.shards.tar_scan import TarFault
from dali_dr.sources.fetched import File, Remote, local, told_by_url
from dali_dr.sources.listing import Listing
from dali_dr.sources.remote import READERS, read_named, size_if_there, store_of
from dali_dr.store.url import as_place, shown_url
from dali_dr.texts import Texts

KEPT_ABOVE: Final = 16 << 20  # bytes of an archive: smaller ones are looked through in no time
_BLOCK: Final = tar.BLOCK


class Archive:
    """One archive.

    Args:
      path: of it, or what says its URL.
      survey: of it.

    Attributes:
      path, survey: of it.
      streamed: whether it is read from its beginning to its end (`rows`) or anywhere (`read`).
      readers: threads that `read` it at a time, where they wait for a store; 0: it lies on this machine.
    """

    streamed = False
    readers = 0

    def __init__(self, path: Where, survey: Survey) -> None:
        self.path, self.survey = path, survey

    def __len__(self) -> int:
        return len(self.survey)

    @property
    def configs(self) -> Mapping[str, bytes]:
        """The configuration of each folder in it, b"" where there is none."""
        return dict(zip(self.survey.folders, self.survey.configs, strict=True))

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of it."""
        name = self.path.name if isinstance(self.path, Path) else str(self.path)
        return {"name": name, "bytes": self.survey.length, "sha256": self.survey.sha256}

    def read(self, row: int) -> bytes:
        """File ``row`` of the survey. From any thread."""
        raise NotImplementedError

    def rows(self, step: Callable[[int], object] | None = None) -> Iterator[tuple[int, bytes]]:
        """All files of the survey, in order; ``step`` as in `pieces_of`."""
        for row in range(len(self)):
            yield row, self.read(row)

    def has_files_of(self, other: Archive) -> bool:
        """Whether it holds the files of the other, in whatever container: their sizes, and a file, are the same."""
        if not (
            len(self) == len(other) and self.survey.sizes.sum(dtype=np.int64) == other.survey.sizes.sum(dtype=np.int64)
        ):
            return False  # which needs no order
        mine, theirs = (np.lexsort((one.numbers, one.runs)) for one in (self.survey, other.survey))
        if not all(
            np.array_equal(getattr(self.survey, name)[mine], getattr(other.survey, name)[theirs])
            for name in ("runs", "numbers", "sizes")
        ):
            return False
        row, file = next(iter(self.rows()))
        wanted = int(theirs[int(np.flatnonzero(mine == row)[0])])
        return file == next(data for number, data in other.rows() if number == wanted)


class _Tar(Archive):
    def __init__(self, path: File, survey: Survey) -> None:
        super().__init__(path, survey)
        self._file = local(path)
        self._descriptor = open_regular(self._file)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._descriptor)

    def read(self, row: int) -> bytes:
        offset, size = int(self.survey.blocks[row]) * _BLOCK, int(self.survey.sizes[row])
        with told_by_url():
            return read_fully(self._descriptor, self._file, offset, size)


class _Compressed(Archive):
    streamed = True

    def __init__(self, path: File, survey: Survey) -> None:
        super().__init__(path, survey)
        self._file = local(path)

    def rows(self, step: Callable[[int], object] | None = None) -> Iterator[tuple[int, bytes]]:
        pieces = pieces_of(self._file, step=step)
        scan = Sequential(self._file, pieces)
        try:
            for row in range(len(self)):
                yield row, scan.read(int(self.survey.blocks[row]) * _BLOCK, int(self.survey.sizes[row]))
        except TarFault as error:
            raise ConvertError(f"{self.path}: {error}, where it was longer before: was it changed?") from error
        finally:
            pieces.close()


class _Folder(Archive):
    """A folder of files. Their names are listed anew, which costs less than to keep them."""

    def __init__(self, path: Path, survey: Survey, names: Texts) -> None:
        super().__init__(path, survey)
        self._folder, self._names = path, names

    def read(self, row: int) -> bytes:
        path = self._folder / self._names[row]
        try:
            return read_regular(path, MAX_FILE)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConvertError(f"{path}: cannot be read ({why})") from error


class _InStore(Archive):
    """A folder of objects."""

    readers = READERS

    def __init__(self, path: Where, survey: Survey, names: Texts, url: str) -> None:
        super().__init__(path, survey)
        self._names, self._url = names, url

    def read(self, row: int) -> bytes:
        return _read_object(self._url, self._names[row], int(self.survey.sizes[row]))


class Passing(Protocol):
    """Takes what passes by while a compressed archive is looked through."""

    def configured(self, named: Named, config: bytes) -> None:
        """A folder's configuration."""

    def came(self, named: Named, file: Callable[[], bytes]) -> None:
        """A file, whose bytes ``file`` gives, if it is called at once."""


def open_archive(
    path: Path | str, naming: Naming, *, kept: Path | None = None, progress: bool = True, passing: Passing | None = None
) -> Archive:
    """The archive at ``path``, once it was looked through, unless that was done before.

    Args:
      path: a folder or a tar, plain or compressed with gzip, or the URL of one.
      naming: of its files.
      kept: a folder where what was found of large archives is kept, and looked for; None: nowhere.
      progress: show a progress bar.
      passing: takes its files, if it is compressed and was not looked through before.

    Raises:
      ConvertError: it cannot be read, or holds what it should not.
    """
    there: File
    if isinstance(path, str):
        url = str(as_place(path))
        if size_if_there(url) is None:
            return _open_objects(url, naming)
        there = Remote.look(url)
        with told_by_url():
            there.local(progress=progress)
        size, stamp = there.bytes, f"{url} {there.bytes} {there.tag} {naming.digest}"
    else:
        there = path = path.absolute()
        if path.is_dir():
            return _open_folder(path, naming)
        if not path.exists():
            raise ConvertError(f"{path}: no such file or folder", kind="usage")
        about = path.stat()
        size, stamp = about.st_size, f"{path} {about.st_size} {about.st_mtime_ns} {naming.digest}"
    place = (
        None
        if kept is None
        else kept / f"{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:16]}.npz"
    )
    survey = None if place is None else Survey.load(place, stamp)
    if survey is None:
        with (
            progress_bar(
                total=size,
                unit="B",
                unit_scale=True,
                disable=not progress,
                desc=shown(f"looking through {there.name}"),
            ) as bar,
            told_by_url(),
        ):
            survey = _look_through(local(there), naming, bar.update, passing if is_gzip(local(there)) else None)
        if place is not None and size >= KEPT_ABOVE:
            survey.save(place, stamp)
    with told_by_url():
        return _Compressed(there, survey) if is_gzip(local(there)) else _Tar(there, survey)


def _look_through(path: Path, naming: Naming, step: Callable[[int], object], passing: Passing | None = None) -> Survey:
    found, sha, size = Found(path), hashlib.sha256(), path.stat().st_size
    pieces = pieces_of(path, step=step, sha=sha)
    scan = Sequential(path, pieces)
    try:
        for file in scan.files():
            named = naming(file.name)
            if named is not None:
                read = functools.partial(scan.read, file.offset, file.size)
                found.add(file.name, named, file.offset // _BLOCK, file.size, read)
                if passing is not None and named.number is None:
                    passing.configured(named, found.folders[named.folder])
                elif passing is not None:
                    passing.came(named, read)
        for _ in pieces:  # to its end, for the checksums
            pass
    except TarFault as error:
        raise ConvertError(f"{path}: not a readable tar ({error}): download it again") from error
    except ConvertError as error:
        told = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise ConvertError(told, kind=error.kind) from error
    finally:
        pieces.close()
    return found.survey(size, sha.hexdigest())


def _open_folder(path: Path, naming: Naming) -> Archive:
    """The folder's files, and those in folders below it."""
    survey, names = _surveyed(path, naming, _walk(path, ""), lambda name, _: read_regular(path / name, MAX_FILE))
    return _Folder(path, survey, names)


def _open_objects(url: str, naming: Naming) -> Archive:
    """The objects below ``url``."""
    listing = Listing(url, store_of(url))
    where = _Url(url)
    if not listing:
        raise ConvertError(f"{where}: no such object, and there are none below it: correct the URL", kind="usage")
    walk = _walk_objects(listing, "")
    survey, names = _surveyed(where, naming, walk, lambda name, size: _read_object(url, name, size))
    return _InStore(where, survey, names, url)


@dataclass(frozen=True)
class _Url:
    """A folder in a store."""

    url: str

    def __str__(self) -> str:
        return shown_url(self.url)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]


def _read_object(url: str, name: str, size: int) -> bytes:
    try:
        return read_named(store_of(url), name, f"{url}/{name}", MAX_FILE, size=size)
    except OSError as error:
        raise ConvertError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _surveyed(
    where: Where, naming: Naming, walk: Iterable[tuple[str, int]], read: Callable[[str, int], bytes]
) -> tuple[Survey, Texts]:
    """What is in a folder, and the names of its files; of ``walk`` (names and sizes), whose configurations are ``read``."""
    names, sha, total = Texts(), hashlib.sha256(), 0
    found = Found(where)
    for name, size in walk:
        try:
            named = naming(name)
        except ConvertError as error:
            raise ConvertError(f"{where}: {error}", kind=error.kind) from error
        if named is None:
            continue

        def config(name: str = name, size: int = size) -> bytes:
            data = read(name, size)
            sha.update(data)
            return data

        try:
            found.add(name, named, 0, size, config)
        except OSError as error:
            raise ConvertError(f"{where}/{name}: cannot be read ({error.strerror})") from error
        if named.number is not None:
            names.append(name)
        total += size
        sha.update(f"{name} {size}\n".encode(errors="surrogateescape"))
    return found.survey(total, sha.hexdigest()), names


def _walk_objects(listing: Listing, folder: str) -> Iterator[tuple[str, int]]:
    """As `_walk`."""
    here = sorted((item.name, item.folder) for item in listing.items(folder) if not item.name.startswith("."))
    paths = [f"{folder}/{name}" if folder else name for name, is_folder in here if not is_folder]
    yield from zip(paths, listing.sizes_of(paths).tolist(), strict=True)
    for name, is_folder in here:
        if is_folder:
            yield from _walk_objects(listing, f"{folder}/{name}" if folder else name)


def _walk(root: Path, folder: str) -> Iterator[tuple[str, int]]:
    """Path and size of every file below ``root``/``folder``, those of one folder by name."""
    here: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else here).append(entry.name)
        for name in sorted(here):
            path = f"{folder}/{name}" if folder else name
            yield path, os.stat(f"{root}/{path}").st_size  # noqa: PTH116  (a million of them)
    except OSError as error:
        raise ConvertError(f"{error.filename or root / folder}: cannot be read ({error.strerror})") from error
    for name in sorted(folders):
        yield from _walk(root, f"{folder}/{name}" if folder else name)
