"""A folder of class folders of images, as torchvision's ImageFolder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from dali_dr.encoded import SUFFIXES
from dali_dr.errors import ShardError, brief
from dali_dr.regular import read_regular
from dali_dr.shards.absent import near_path
from dali_dr.shards.sample import MAX_IMAGE_BYTES
from dali_dr.sources.classes import SYNSET, classes_of_folders
from dali_dr.sources.folder_walk import Disk, Walk
from dali_dr.sources.listing import Listing
from dali_dr.sources.remote import READERS, read_named, store_of
from dali_dr.sources.source import READING, Reading, keys_of
from dali_dr.store.url import as_place, shown_url

_EXAMPLES: Final = 3  # of empty class folders that are named


def _no_folder(path: Path) -> str:
    """What to say of ``path``, which names no folder, nor a list or tars."""
    if path.is_file():
        return (
            f"{path} is not a folder, and its name is none of a list (.csv, .jsonl, .parquet) or of tars (.tar): give it "
            "such a name, or a folder of class folders of images"
        )
    if any(character in path.name for character in "*?{}"):
        return f"{path} is not a folder: a pattern names tars and ends in .tar, as in 't-*.tar' or 't-{{000..146}}.tar'"
    return f"{path} is not a folder{near_path(path) or ': give a folder of class folders of images'}"


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder of class folders of images: classes, their numbers and the order of images are torchvision's ImageFolder's.

    That holds for folders without images, too. Otherwise numbered are ImageNet's synsets and whole numbers, see
    `Reading.numbering`. Hidden folders and files, those of tools (`__MACOSX`, …) and what is not called an image are left
    out. `notes` say all of this.

    Also a flat folder of ImageNet's own file names (`n01440764_10026.JPEG`), whose class is the synset in front.

    Links are followed. What is called an image and is no regular file, or not there any more, is told of when it is read.

    Also the objects below a URL, as if they were files: found by one listing, read one by one.

    Attributes:
      root: the folder, or the URL of one.
      files: image files relative to root, in order.
      keys: the sample keys: the files without extension, made safe by `dali_dr.sources.source.keys_of`.
      labels: class numbers.
      class_names: names by class number: ImageNet's own for synsets, else those of the folders.
      notes: see `Source`.
      sizes: bytes of each image, in a store; an object that has others when it is read was changed.
    """

    root: Path | str
    files: Sequence[str]
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    notes: Sequence[str] = ()
    sizes: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.root, Path):
            object.__setattr__(self, "root", self.root.absolute())  # the working directory may change before `read`

    @classmethod
    def scan(cls, root: Path | str, reading: Reading = READING) -> ImageFolder:
        """Lists the images under `root`, a folder or a URL.

        Raises:
          ShardError: no such folder, a folder in it cannot be listed or leads back to itself, no images in class folders,
            or a class folder that has no number in the numbering asked for.
        """
        root = as_place(root)
        listing = None
        if isinstance(root, str):
            listing = Listing(root, store_of(root))
            if not listing:
                raise ShardError(
                    f"{shown_url(root)}: there are no objects below it: give the URL of a folder of class folders of images",
                    kind="usage",
                )
        elif not root.is_dir():
            raise ShardError(_no_folder(root), kind="usage")
        if reading.label_field is not None:
            raise ShardError(
                f"{root}: images in folders have no field {brief(reading.label_field)}: leave --label-field out",
                kind="usage",
            )
        walk = Walk(Disk(root) if isinstance(root, Path) else listing, convert=reading.convert)  # type: ignore[arg-type]
        found = {folder: walk.images_in(folder) for folder in walk.folders}
        if any(found.values()):
            empty = [folder for folder, files in found.items() if not files]
            walk.leave_out_beside()
        else:
            found, empty = _flat(root, walk), []
        classes = classes_of_folders(root, list(found), reading)
        files = [file for images in found.values() for file in images]
        labels = [classes.numbers[folder] for folder, images in found.items() for _ in images]
        notes = (*classes.notes, *_about_empty(empty), *walk.notes, *(listing.notes if listing is not None else ()))
        sizes = None if listing is None else listing.sizes_of(files)
        return cls(root, files, keys_of(files), labels, classes.names, notes, sizes)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def readers(self) -> int | None:
        """See `dali_dr.sources.source.readers_of`."""
        return READERS if isinstance(self.root, str) else None

    def read(self, number: int) -> bytes:
        if isinstance(self.root, Path):
            return read_regular(self.root / self.files[number], MAX_IMAGE_BYTES)
        size = None if self.sizes is None else int(self.sizes[number])
        return read_named(store_of(self.root), self.files[number], self.where(number), MAX_IMAGE_BYTES, size=size)

    def where(self, number: int) -> str:
        if isinstance(self.root, Path):
            return str(self.root / self.files[number])
        return f"{shown_url(self.root)}/{self.files[number]}"

    def size(self, number: int) -> int:
        if self.sizes is not None:
            return int(self.sizes[number])
        return (Path(self.root) / self.files[number]).stat().st_size


def _flat(root: Path | str, walk: Walk) -> dict[str, list[str]]:
    """The images right in ``root`` by their synsets, in order. ShardError if there are none, or others."""
    images = walk.images_beside()
    synsets = [match.group() if (match := SYNSET.match(file)) else None for file in images]
    if not images or None in synsets:
        stray = f" ({root}/{images[synsets.index(None)]} is in none)" if images else ""
        left = "".join(f"; {note}" for note in walk.notes)
        raise ShardError(
            f"{root} holds no images in class folders{stray}: expected {root}/CLASS/NAME.jpg "
            f"(or {', '.join(f'.{s}' for s in SUFFIXES)}), or ImageNet's file names such as n01440764_10026.JPEG{left}",
            kind="usage",
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
