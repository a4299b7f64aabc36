"""Where images to be reinforced come from. A source knows keys, labels and bytes; it decodes nothing."""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dali_dr.encoded import SUFFIXES
from dali_dr.errors import ShardError
from dali_dr.regular import read_regular
from dali_dr.reinforce.lists import Numbers, numbered, read_rows
from dali_dr.shards import tar
from dali_dr.shards.facts import members_of, read_image
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.sample import MAX_IMAGE_BYTES, Place, safe_key

_SYNSET = re.compile(r"n\d{8}")


class Images(Protocol):
    """Images by number: distinct keys, class numbers and the encoded bytes. What generation asks for."""

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int] | npt.NDArray[np.int32]: ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> bytes: ...


class Source(Images, Protocol):
    """Images to be reinforced: what a user gives, with the names of the classes."""

    @property
    def class_names(self) -> Sequence[str]: ...


@runtime_checkable
class TarSource(Source, Protocol):
    """A source whose images lie in tars, beside which a sidecar data set may be written."""

    def place(self, number: int) -> Place:
        """Where image ``number`` lies."""

    def image_tars(self, out: Path) -> tuple[ImageTar, ...]:
        """The tars, as the manifest of a sidecar data set in ``out`` names them."""


def staying_in_tars(source: Source) -> TarSource:
    """``source``, of which it is known that its images lie in tars.

    Raises:
      ShardError: they do not.
    """
    if not isinstance(source, TarSource):
        raise ShardError("a sidecar data set goes with images in tars: give a pattern such as 'images/*.tar'")
    return source


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder of class folders of images, as torchvision's ImageFolder: classes and files in sorted order.

    Also a flat folder of ImageNet's own file names (`n01440764_10026.JPEG`), whose class is the synset in front.
    Where every class is an ImageNet synset, labels are ImageNet's class numbers (0 … 999), also for a part of the
    classes; else they are the positions of the class folders.

    Links are followed. What is called an image and is no regular file, or not there any more, is told of when it is read.

    Attributes:
      root: the folder.
      files: image files relative to root, in order.
      keys: the sample keys: the files without extension, made safe by `dali_dr.shards.sample.safe_key`.
      labels: class numbers.
      class_names: names by class number: ImageNet's own for synsets, else those of the folders.
      others: how many files are not called images, and so are left out.
    """

    root: Path
    files: Sequence[Path]
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    others: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())  # the working directory may change before `read`

    @classmethod
    def scan(cls, root: Path) -> ImageFolder:
        """Lists the images under `root`.

        Raises:
          ShardError: no such folder, a folder in it cannot be listed or leads back to itself, no images in class folders,
            or a class folder whose name is not UTF-8.
        """
        if not root.is_dir():
            raise ShardError(f"{root} is not a folder: give a folder of class folders of images")
        found = [path.relative_to(root) for path in _files_under(root)]
        files = sorted(file for file in found if file.suffix.lower()[1:] in SUFFIXES)
        classes = [_class_of(f) for f in files]
        if not files or None in classes:
            stray = f" ({root / files[classes.index(None)]} is in none)" if files else ""
            raise ShardError(
                f"{root} holds no images in class folders{stray}: expected {root}/CLASS/NAME.jpg "
                f"(or {', '.join(f'.{s}' for s in SUFFIXES)}), or ImageNet's file names such as n01440764_10026.JPEG"
            )
        names = sorted({c for c in classes if c is not None})
        for name in names:
            if not _is_unicode(name):  # dataset.json could not hold it
                raise ShardError(f"{root}: the name of the class folder {name} is not UTF-8: rename it")
        synsets, descriptions = imagenet_classes() if all(_SYNSET.fullmatch(n) for n in names) else ((), ())
        if synsets and all(n in synsets for n in names):
            number = {synset: i for i, synset in enumerate(synsets)}
            class_names: Sequence[str] = descriptions
        else:
            number = {n: i for i, n in enumerate(names)}
            class_names = names
        labels = [number[c] for c in classes if c is not None]
        return cls(root, files, _keys_of(files), labels, class_names, len(found) - len(files))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> bytes:
        return read_regular(self.root / self.files[number], MAX_IMAGE_BYTES)


@dataclasses.dataclass(frozen=True)
class FileList:
    """Images listed in a file: CSV with a header or JSON Lines, with "path", "label" and, if wanted, "key".

    Paths are relative to the list's folder, or absolute. Labels that are all whole numbers are class numbers; others
    are names, which are numbered in sorted order. A file that is listed and cannot be read is told of when it is read.

    Attributes:
      files: image files.
      keys: those given, else the paths without extension, made safe.
      labels: class numbers.
      class_names: names by class number.
    """

    files: Sequence[Path]
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", [file.absolute() for file in self.files])  # as in `ImageFolder`

    @classmethod
    def load(cls, path: Path) -> FileList:
        """Reads the list.

        Raises:
          ShardError: naming the line that cannot be understood.
        """
        rows = read_rows(path)
        labels, class_names = numbered(path, [row.label for row in rows])
        paths = [Path(row.path) for row in rows]
        given = [row.key for row in rows]
        keys = given if any(given) else _keys_of([p.relative_to(p.anchor) for p in paths])
        return cls([path.parent / p for p in paths], keys, labels, class_names)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> bytes:
        return read_regular(self.files[number], MAX_IMAGE_BYTES)


@dataclasses.dataclass(frozen=True)
class WebDatasetTars:
    """Webdataset tars: samples of an image, a class number (KEY.cls, or "label" in KEY.json) and whatever else.

    Attributes:
      tars: the files, in order.
      keys: in the order of the tars.
      labels: int32 (S,).
      members: int64 (S, 3): number of the tar, offset and length of the image.
      class_names: the numbers as text.
    """

    tars: Sequence[Path]
    keys: Sequence[str]
    labels: npt.NDArray[np.int32]
    members: npt.NDArray[np.int64]
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tars", [path.absolute() for path in self.tars])  # as in `ImageFolder`

    @classmethod
    def match(cls, pattern: str) -> WebDatasetTars:
        """Reads the tars whose names match ``pattern`` ("**": any folders), in sorted order; see `scan`."""
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (absolute patterns)
        return cls.scan([Path(path) for path in found or [pattern]])

    @classmethod
    def scan(cls, tars: Sequence[Path]) -> WebDatasetTars:
        """Reads the headers of the tars, and their labels.

        Raises:
          ShardError: naming tar and key of a sample without an image or label.
        """
        keys, labels, members = [], [], []
        for number, path in enumerate(tars):
            for group in members_of(path):
                sample = read_image(path, number, group)
                keys.append(sample.key)
                labels.append(sample.label)
                members.append((number, sample.image.offset, sample.image.size))
        if not keys:
            raise ShardError(f"{tars[0]}: holds no samples")
        class_names = Numbers(max(labels) + 1)
        return cls(tars, keys, np.array(labels, np.int32), np.array(members, np.int64), class_names)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, number: int) -> bytes:
        file, offset, size = self.members[number].tolist()
        return tar.read_at(self.tars[file], offset, size)

    def place(self, number: int) -> Place:
        """Where image ``number`` is, for a sidecar data set."""
        file, offset, _ = self.members[number].tolist()
        return Place(file, offset)

    def image_tars(self, out: Path) -> tuple[ImageTar, ...]:
        """The tars, as the manifest of a sidecar data set in ``out`` names them."""
        return tuple(ImageTar(os.path.relpath(path, out), path.stat().st_size) for path in self.tars)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
      is_meant: whether the text that a user gives names one.
      open: makes the source of it.
    """

    is_meant: Callable[[str], bool]
    open: Callable[[str], Source]


KINDS: Final = (
    Kind(lambda text: text.endswith((".csv", ".jsonl")), lambda text: FileList.load(Path(text))),
    Kind(lambda text: text.endswith(".tar"), WebDatasetTars.match),
    Kind(lambda text: True, lambda text: ImageFolder.scan(Path(text))),
)
"""The first that is meant is opened. To add a kind of source: a class with what `Source` wants, and a row here."""


def open_source(what: str | Path) -> Source:
    """The source that ``what`` names: a folder, a pattern of webdataset tars (or one), or a .csv or .jsonl list.

    Raises:
      ShardError: it is none of these, or holds no images.
    """
    text = str(what)
    return next(kind for kind in KINDS if kind.is_meant(text)).open(text)


def _files_under(root: Path) -> Iterator[Path]:
    """What is no folder below ``root``, in any order; links to folders are followed. ShardError: see `ImageFolder.scan`."""
    waiting: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(root, ())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = folder.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                raise ShardError(f"{folder}: a link that leads back to a folder that it is in: remove it")
            for entry in os.scandir(folder):
                path = folder / entry.name
                if _is_folder(entry):
                    waiting.append((path, (*above, here)))
                else:
                    yield path
        except OSError as error:
            raise ShardError(f"{folder}: cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: told of when it is read
        return False


def _keys_of(files: Iterable[Path]) -> list[str]:
    """Distinct safe keys: the paths without extension, or with it where that was taken (a.jpg, a.png)."""
    keys: list[str] = []
    taken: set[str] = set()
    for file in files:
        key = safe_key(file.with_suffix("").as_posix())
        key = safe_key(file.as_posix()) if key in taken else key
        taken.add(key)
        keys.append(key)
    return keys


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8, as Python shows them
        return False
    return True


def _class_of(file: Path) -> str | None:
    if len(file.parts) > 1:
        return file.parts[0]
    match = _SYNSET.match(file.name)
    return match.group() if match else None


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(synset ids, short names) of ImageNet's 1,000 classes in class order, from timm's tables."""
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    synsets = tuple(info.label_names())
    return synsets, tuple(info.label_name_to_description(s).split(",")[0] for s in synsets)
