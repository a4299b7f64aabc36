"""The walk through a folder of class folders: what torchvision's ImageFolder finds, in its order, and what is left out.

A folder is read once; nothing is asked of a single file, but where a link leads.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from dali_dr.encoded import SUFFIXES
from dali_dr.errors import ShardError
from dali_dr.images.convert import suffixes as convertible
from dali_dr.sources.left_out import LeftOut

TOOL_FOLDERS: Final = frozenset(
    (
        "__macosx",  # zip on a Mac
        "__pycache__",
        "@eadir",  # Synology
        "@recycle",  # QNAP
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "lost+found",  # ext4
        "$recycle.bin",  # Windows
        "system volume information",
    )
)
"""Folders that tools leave, in lower case; besides, all whose name begins with a dot."""

_TORCHVISION: Final = "torchvision's ImageFolder"
_TAKES: Final = f"{_TORCHVISION} takes them"
_KINDS: Final = (
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


class Item(Protocol):
    """What lies in a folder: as much of an os.DirEntry as is asked for."""

    @property
    def name(self) -> str: ...

    def is_dir(self) -> bool: ...

    def is_file(self, *, follow_symlinks: bool = True) -> bool: ...

    def is_symlink(self) -> bool: ...

    def stat(self) -> os.stat_result: ...


class Tree(Protocol):
    """A folder and what is below it; ``here`` is the path of a folder in it, "" its own."""

    def path(self, here: str) -> str:
        """For messages."""

    def items(self, here: str) -> Iterable[Item]:
        """What lies in a folder, in any order. OSError where it cannot be listed."""

    def identity(self, here: str) -> object:
        """Equal where two paths lead to one folder. OSError where there is none."""


class Disk:
    """A folder on this machine.

    Args:
      root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)

    def path(self, here: str) -> str:
        """See `Tree`."""
        return f"{self._root}/{here}" if here else self._root

    def items(self, here: str) -> Iterable[os.DirEntry[str]]:
        """See `Tree`."""
        return os.scandir(self.path(here))

    def identity(self, here: str) -> tuple[int, int]:
        """See `Tree`."""
        status = Path(self.path(here)).stat()
        return status.st_dev, status.st_ino


class Walk:
    """What lies right in a folder of class folders, and its images class by class.

    Args:
      tree: the folder.
      convert: whether all that Pillow reads is an image.

    Attributes:
      folders: the class folders, sorted.

    Raises:
      ShardError: a folder cannot be listed.
    """

    def __init__(self, tree: Tree, *, convert: bool) -> None:
        self._tree = tree
        self._suffixes = convertible() if convert else frozenset(SUFFIXES)
        self._left = LeftOut()
        self._refused = LeftOut("called images, and refused when they are read")
        self._called = LeftOut("called images, and taken as the folders that they are")
        folders, self._beside = self._listed("")
        self.folders: list[str] = sorted(folders)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out so far, and what is no image though it is called one."""
        return (*self._left.notes, *self._refused.notes, *self._called.notes)

    def images_in(self, folder: str) -> list[str]:
        """The images in the class folder and below, relative to the root, in torchvision's order.

        Raises:
          ShardError: a folder cannot be listed, or leads back to one that it is in.
        """
        found: list[tuple[str, list[str]]] = []
        waiting: list[tuple[str, tuple[object, ...]]] = [(folder, (self._identity(""),))]
        while waiting:
            here, above = waiting.pop()
            identity = self._identity(here)
            if identity in above:
                raise ShardError(f"{self._path(here)}: a link that leads back to a folder that it is in: remove it")
            folders, others = self._listed(here)
            waiting += ((f"{here}/{name}", (*above, identity)) for name in folders)
            found.append((here, sorted(entry.name for entry in others if self._is_image(f"{here}/", entry))))
        found.sort()  # by whole paths: a-b comes before a/b
        return [f"{here}/{name}" for here, names in found for name in names]

    def images_beside(self) -> list[str]:
        """The images right in the root, sorted, where there are none in folders."""
        for folder in self.folders:
            self._left.add("folder without images", folder, "folders without images")
        return sorted(entry.name for entry in self._beside if self._is_image("", entry))

    def leave_out_beside(self) -> None:
        """Counts what lies right in the root as left out."""
        for entry in self._beside:
            self._left.add("file beside the class folders", entry.name, "files beside the class folders")

    def _path(self, here: str) -> str:
        return self._tree.path(here)

    def _identity(self, here: str) -> object:
        try:
            return self._tree.identity(here)
        except OSError as error:
            raise ShardError(f"{self._path(here)}: cannot be listed: {error.strerror}") from error

    def _listed(self, here: str) -> tuple[list[str], list[Item]]:
        """Names of the folders in a folder, without those that are left out, and what else is in it, in any order."""
        folders: list[str] = []
        others: list[Item] = []
        try:
            for entry in self._tree.items(here):
                if not _is_folder(entry):
                    others.append(entry)
                    continue
                name, path = entry.name, f"{here}/{entry.name}" if here else entry.name
                if name[0] == "." or name.lower() in TOOL_FOLDERS:
                    kind = "hidden folder" if name[0] == "." else "folder of a tool"
                    hint = (
                        f"{_TORCHVISION} counts them as classes" if not here else f"{_TORCHVISION} takes images in them"
                    )
                    place = " beside the class folders" if not here else ""
                    self._left.add(kind + place, path, kind.replace("folder", "folders") + place, hint)
                    continue
                folders.append(name)
                if _suffix(name) in self._suffixes:
                    self._called.add("folder", path)
        except OSError as error:
            raise ShardError(f"{self._path(here)}: cannot be listed: {error.strerror}") from error
        return folders, others

    def _is_image(self, folder: str, entry: Item) -> bool:
        """Whether what is no folder is called an image, whose kind is told if it is no file; others are counted."""
        name = entry.name
        suffix = _suffix(name)
        called = suffix in self._suffixes
        if name[0] == ".":
            if called:
                self._left.add("hidden file called an image", folder + name, "hidden files called images", _TAKES)
            else:
                self._left.add("hidden file", folder + name)
            return False
        if not entry.is_file(follow_symlinks=False) and (kind := _kind(entry)) is not None:
            (self._refused if called else self._left).add(kind, folder + name)
        elif not called and not suffix:
            self._left.add("file without suffix", folder + name, "files without suffix")
        elif not called:
            hint = "--convert takes them" if suffix in convertible() else ""
            self._left.add(f".{suffix} file", folder + name, hint=hint)
        return called


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _is_folder(entry: Item) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _kind(entry: Item) -> str | None:
    """What an entry is that is no folder, where it is no regular file; links are followed."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        return "broken link" if entry.is_symlink() else None  # the latter: it is gone, which is told when it is read
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)
