"""A folder of class folders of images, as torchvision's ImageFolder."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dali_dr.encoded import SUFFIXES
from dali_dr.errors import ShardError
from dali_dr.regular import read_regular
from dali_dr.shards.sample import MAX_IMAGE_BYTES
from dali_dr.sources.classes import imagenet_classes
from dali_dr.sources.source import READING, Reading, keys_of

_SYNSET = re.compile(r"n\d{8}")


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
      notes: see `Source`.
    """

    root: Path
    files: Sequence[Path]
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    others: int = 0
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())  # the working directory may change before `read`

    @classmethod
    def scan(cls, root: Path, reading: Reading = READING) -> ImageFolder:
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
        return cls(root, files, keys_of(files), labels, class_names, len(found) - len(files))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> bytes:
        return read_regular(self.root / self.files[number], MAX_IMAGE_BYTES)

    def where(self, number: int) -> str:
        return str(self.root / self.files[number])


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
