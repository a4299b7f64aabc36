"""A listing of objects as a tree of folders, in which `dali_dr.sources.folder_walk.Walk` finds what it would on disk."""

from __future__ import annotations

import array
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dali_dr.sources.left_out import LeftOut
from dali_dr.sources.remote import listed
from dali_dr.store.url import shown_url

if TYPE_CHECKING:
    from dali_dr.store.store import Store

_NO_NAMES: Final = ("", ".", "..")


class _Object(NamedTuple):
    """See `dali_dr.sources.folder_walk.Item`."""

    name: str
    folder: bool

    def is_dir(self) -> bool:
        return self.folder

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return not self.folder

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> os.stat_result:
        raise AssertionError("an object is a regular file")


class _Folder:
    """Names in a folder, and the sizes of its files."""

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.files: list[str] = []
        self.sizes = array.array("q")


class Listing:
    """The objects below a URL as a tree.

    Empty objects whose names end with a slash are the marks that consoles make for folders. A store may tell of them
    without the slash: then there is no object of that name. Objects with names that no file can have (`a//b`, `../a`)
    are left out.

    Args:
      url: of the folder.
      store: of it.

    Attributes:
      notes: what was left out for its name.
    """

    def __init__(self, url: str, store: Store) -> None:
        self._url, self._store = url, store
        self._folders = {"": _Folder()}
        left = LeftOut()
        for entry in listed(store):
            if not self._take(entry.name, entry.bytes):
                left.add("object whose name no file can have", entry.name, "objects whose names no file can have")
        self.notes: tuple[str, ...] = left.notes

    def __bool__(self) -> bool:
        """Whether there is anything."""
        root = self._folders[""]
        return bool(root.folders or root.files)

    def path(self, here: str) -> str:
        """See `dali_dr.sources.folder_walk.Tree`."""
        return f"{shown_url(self._url)}/{here}" if here else shown_url(self._url)

    def items(self, here: str) -> Iterable[_Object]:
        """See `dali_dr.sources.folder_walk.Tree`."""
        folder = self._folders[here]
        for name in folder.folders:
            yield _Object(name, folder=True)
        for name, size in zip(folder.files, folder.sizes, strict=True):
            if size or name not in folder.folders:
                yield _Object(name, folder=False)

    def identity(self, here: str) -> str:
        """See `dali_dr.sources.folder_walk.Tree`."""
        return here

    def sizes_of(self, files: Iterable[str]) -> npt.NDArray[np.int64]:
        """Bytes of files by their paths; those of one folder should be neighbours."""
        sizes, last, found = array.array("q"), "", dict[str, int]()
        for file in files:
            folder, _, name = file.rpartition("/")
            if folder != last or not found:
                last, there = folder, self._folders[folder]
                found = dict(zip(there.files, there.sizes, strict=True))
            sizes.append(found[name])
        return np.array(sizes, np.int64)

    def _take(self, path: str, size: int) -> bool:
        """Takes an object. Whether it has a name."""
        name = path.rpartition("/")[2]
        mark = not size and (not name or ("." not in name and self._is_mark(path)))
        folder = path.rstrip("/") if mark else path.rpartition("/")[0]
        if "\0" in path or not ((mark and not folder) or self._made(folder)):
            return False
        if mark:
            return True
        if name in _NO_NAMES:
            return False
        there = self._folders[folder]
        there.files.append(name)
        there.sizes.append(size)
        return True

    def _is_mark(self, path: str) -> bool:
        """Whether an empty object without suffix marks a folder. Below a class folder nothing depends on it."""
        return path in self._folders or "/" in path or self._store.head(path) is None

    def _made(self, folder: str) -> bool:
        """Makes a folder and those above it. Whether it has a name that one can have."""
        if folder in self._folders:
            return True
        above, _, name = folder.rpartition("/")
        if name in _NO_NAMES or (folder.startswith("/")) or not self._made(above):
            return False
        self._folders[folder] = _Folder()
        self._folders[above].folders.add(name)
        return True
