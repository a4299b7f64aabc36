"""A person's photos, as many as it takes to measure with, and the data sets that loaders read of them."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

from dali_dr.encoded import SUFFIXES
from dali_dr.errors import DaliDrError, shown
from dali_dr.images.judge import Judge, Refusal
from dali_dr.shards.dataset import Dataset
from dali_dr.store.url import shown_url
from dali_dr.throughput.sets import ORIGINAL, Images, drawn, write

_T = TypeVar("_T")

MOST_IMAGES: Final = 400
"""Photos that are measured with: enough for rates that stay within some percent, few enough to be written in seconds."""
MOST_BYTES: Final = 192 << 20
"""And their bytes together: 50 photos of a phone, 1,700 of ImageNet's."""
FEWEST: Final = 2
"""Batches that an epoch must have; fewer photos are repeated, so that no loader begins epochs all the time."""
VIEWS: Final = 16  # stored per image; rates do not depend on it
CLASSES: Final = 1000
FORMS: Final = ("rrc", "rrc+ra+re", f"{ORIGINAL}rrc")
"""Data sets that are written; the second form of the photos' own files is not needed."""


@dataclasses.dataclass(frozen=True)
class Photos:
    """What was found.

    Attributes:
      images: key, bytes and label 0 of each.
      names: of their files, or their keys in the data set.
      found: files or samples that there are.
      unreadable: what could not be read, and why.
      tiled: whether the images are in tiles already.
    """

    images: Images
    names: tuple[str, ...]
    found: int
    unreadable: tuple[str, ...] = ()
    tiled: bool = False

    @property
    def bytes(self) -> int:
        """Of all images."""
        return sum(len(data) for _, data, _ in self.images)


def find_photos(data: Path | str, most: int = MOST_IMAGES, most_bytes: int = MOST_BYTES) -> Photos:
    """Photos of a folder, at any depth, or of a data set; drawn evenly, the same at every call.

    Args:
      data: the folder, or a data set's folder or URL.
      most, most_bytes: images, and bytes that they may have together; one is taken however large it is.

    Raises:
      DaliDrError: there are none, or none can be read.
    """
    if isinstance(data, str) or (data / "dataset.json").exists():
        return _of_dataset(Dataset(data), most, most_bytes)
    if not data.is_dir():
        what = "is a file: give the folder that it is in" if data.is_file() else "there is no such folder"
        raise DaliDrError(f"{data}: {what}", kind="usage")
    paths = sorted(p for p in data.rglob("*") if p.suffix.lower()[1:] in SUFFIXES and not p.is_dir())
    if not paths:
        raise DaliDrError(
            f"{data}: no images are in it or below it (.{', .'.join(SUFFIXES)}); others can be measured once "
            "`dali-dr pack FOLDER --out SET --convert` has packed them",
            kind="usage",
        )
    images: Images = []
    unreadable: list[str] = []
    names: list[str] = []
    total = 0
    for path in _shuffled(paths):
        try:
            content = path.read_bytes()
        except OSError as error:
            unreadable.append(f"{shown(path)}: {error.strerror}")
            continue
        total += len(content)
        if len(images) == most or (images and total > most_bytes):
            break
        images.append((f"{len(images):06d}", content, 0))
        names.append(shown(path.relative_to(data)))
    if not images:
        raise DaliDrError(f"{data}: none of its {len(paths)} images can be read, the first one: {unreadable[0]}")
    return Photos(images, tuple(names), len(paths), tuple(unreadable))


def _of_dataset(dataset: Dataset, most: int, most_bytes: int) -> Photos:
    images: Images = []
    names: list[str] = []
    total = 0
    for number in _shuffled(range(len(dataset))):
        content = bytes(dataset.image(number))
        total += len(content)
        if len(images) == most or (images and total > most_bytes):
            break
        images.append((f"{len(images):06d}", content, 0))
        names.append(dataset.keys[number])
    if not images:
        raise DaliDrError(f"{dataset.url or dataset.path}: holds no images", kind="usage")
    return Photos(images, tuple(names), len(dataset), tiled=dataset.manifest.tiles is not None)


def _shuffled(items: Sequence[_T]) -> list[_T]:
    return random.Random(0).sample(list(items), len(items))


@dataclasses.dataclass(frozen=True)
class Written:
    """What the loaders read.

    Attributes:
      images: distinct ones.
      repeats: times that each is there.
      refused: images that were left out, and why.
      bytes: of all data sets.
    """

    images: int
    repeats: int
    refused: tuple[str, ...]
    bytes: int


def space_wanted(photos: Photos, batch_size: int) -> int:
    """Bytes that `write_sets` takes on the disk, with a tenth to spare."""
    repeats = -(-FEWEST * batch_size // len(photos.images))
    records = 400 * VIEWS * len(photos.images) * repeats  # far above a record's bytes
    return int(1.1 * len(FORMS) * (photos.bytes * repeats + records)) + (1 << 20)


def check_space(photos: Photos, scratch: Path, batch_size: int) -> None:
    """Refuses a disk without the room.

    Raises:
      DaliDrError: saying how much is wanted and how to choose another place.
    """
    wanted, free = space_wanted(photos, batch_size), shutil.disk_usage(scratch).free
    if wanted > free:
        raise DaliDrError(
            f"{scratch}: has {free >> 20} MiB free, and {wanted >> 20} MiB are wanted for a while: give another folder by "
            "--scratch DIR, or take fewer photos by --images N"
        )


def write_sets(photos: Photos, scratch: Path, batch_size: int) -> Written:
    """Writes FORMS into ``scratch``; an image that training would refuse is left out of all of them.

    Raises:
      DaliDrError: no image is left.
    """
    repeats = -(-FEWEST * batch_size // len(photos.images))
    with Judge() as judge:
        verdicts = judge([data for _, data, _ in photos.images])
    refused = tuple(
        f"{name}: {one.reason}" for name, one in zip(photos.names, verdicts, strict=True) if isinstance(one, Refusal)
    )
    kept = [one for one, verdict in zip(photos.images, verdicts, strict=True) if not isinstance(verdict, Refusal)]
    if not kept:
        raise DaliDrError(f"none of the {len(photos.images)} images can be trained on, the first one: {refused[0]}")
    good = [(f"{turn}-{key}", data, label) for turn in range(repeats) for key, data, label in kept]
    for form in FORMS:
        spec, samples = drawn(form.removeprefix(ORIGINAL), good, None, CLASSES, VIEWS)
        write(spec, samples, CLASSES, scratch / form, keep_bytes=form.startswith(ORIGINAL), check_images=False)
    size = sum(p.stat().st_size for p in scratch.rglob("*") if p.is_file())
    return Written(len(kept), repeats, refused, size)


def source_name(data: Path | str) -> str:
    """What the photos are called in a report."""
    return shown_url(data) if isinstance(data, str) else shown(data.name or data)
