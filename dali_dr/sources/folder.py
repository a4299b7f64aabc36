"""A folder of class folders of images, as torchvision's ImageFolder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dali_dr.encoded import SUFFIXES
from dali_dr.errors import ShardError, brief
from dali_dr.regular import read_regular
from dali_dr.shards.sample import MAX_IMAGE_BYTES
from dali_dr.sources.classes import SYNSET, classes_of_folders
from dali_dr.sources.folder_walk import Walk
from dali_dr.sources.source import READING, Reading, keys_of

_EXAMPLES: Final = 3  # of empty class folders that are named


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder of class folders of images: classes, their numbers and the order of images are torchvision's ImageFolder's.

    That holds for folders without images, too. Otherwise numbered are ImageNet's synsets and whole numbers, see
    `Reading.numbering`. Hidden folders and files, those of tools (`__MACOSX`, …) and what is not called an image are left
    out. `notes` say all of this.

    Also a flat folder of ImageNet's own file names (`n01440764_10026.JPEG`), whose class is the synset in front.

    Links are followed. What is called an image and is no regular file, or not there any more, is told of when it is read.

    Attributes:
      root: the folder.
      files: image files relative to root, in order.
      keys: the sample keys: the files without extension, made safe by `dali_dr.sources.source.keys_of`.
      labels: class numbers.
      class_names: names by class number: ImageNet's own for synsets, else those of the folders.
      notes: see `Source`.
    """

    root: Path
    files: Sequence[str]
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())  # the working directory may change before `read`

    @classmethod
    def scan(cls, root: Path, reading: Reading = READING) -> ImageFolder:
        """Lists the images under `root`.

        Raises:
          ShardError: no such folder, a folder in it cannot be listed or leads back to itself, no images in class folders,
            or a class folder that has no number in the numbering asked for.
        """
        if not root.is_dir():
            raise ShardError(f"{root} is not a folder: give a folder of class folders of images")
        if reading.label_field is not None:
            raise ShardError(
                f"{root}: images in folders have no field {brief(reading.label_field)}: leave --label-field out"
            )
        walk = Walk(root, convert=reading.convert)
        found = {folder: walk.images_in(folder) for folder in walk.folders}
        if any(found.values()):
            empty = [folder for folder, files in found.items() if not files]
            walk.leave_out_beside()
        else:
            found, empty = _flat(root, walk), []
        classes = classes_of_folders(root, list(found), reading)
        files = [file for images in found.values() for file in images]
        labels = [classes.numbers[folder] for folder, images in found.items() for _ in images]
        notes = (*classes.notes, *_about_empty(empty), *walk.notes)
        return cls(root, files, keys_of(files), labels, classes.names, notes)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> bytes:
        return read_regular(self.root / self.files[number], MAX_IMAGE_BYTES)

    def where(self, number: int) -> str:
        return str(self.root / self.files[number])

    def size(self, number: int) -> int:
        return (self.root / self.files[number]).stat().st_size


def _flat(root: Path, walk: Walk) -> dict[str, list[str]]:
    """The images right in ``root`` by their synsets, in order. ShardError if there are none, or others."""
    images = walk.images_beside()
    synsets = [match.group() if (match := SYNSET.match(file)) else None for file in images]
    if not images or None in synsets:
        stray = f" ({root / images[synsets.index(None)]} is in none)" if images else ""
        left = "".join(f"; {note}" for note in walk.notes)
        raise ShardError(
            f"{root} holds no images in class folders{stray}: expected {root}/CLASS/NAME.jpg "
            f"(or {', '.join(f'.{s}' for s in SUFFIXES)}), or ImageNet's file names such as n01440764_10026.JPEG{left}"
        )
    found: dict[str, list[str]] = {}
    for file, synset in zip(images, synsets, strict=True):
        if synset is not None:
            found.setdefault(synset, []).append(file)
    return found


def _about_empty(folders: Sequence[str]) -> tuple[str, ...]:
    if not folders:
        return ()
    named = ", ".join(brief(folder) for folder in folders[:_EXAMPLES])
    more = ", …" if len(folders) > _EXAMPLES else ""
    hold, keep = "1 class folder holds", "keeps its number"
    if len(folders) > 1:
        hold, keep = f"{len(folders)} class folders hold", "keep their numbers"
    return (f"{hold} no images ({named}{more}) and {keep}, as with torchvision's allow_empty=True",)
