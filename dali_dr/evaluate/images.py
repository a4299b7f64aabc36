"""The images of a test set as data sets that the loader shows: packed sets as they are, plain images packed part by part."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_dr.encoded import MAX_PIXELS, as_rgb
from dali_dr.errors import ShardError
from dali_dr.evaluate.kinds import Labelled
from dali_dr.pack import pack
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.manifest import MANIFEST_NAME
from dali_dr.shards.report import Refused, read_refused
from dali_dr.sources import Reading, Source, open_source
from dali_dr.store.url import MissingError, as_place, is_url

PART: Final = 500
"""Plain images that are packed at a time, which bounds what a run needs of the disk: 55 MB of ImageNet's, 2 GB of ObjectNet's."""
_ALWAYS: Final = "always"  # key of an image that is packed with every part, and not evaluated


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of a set's images.

    Attributes:
      dataset: they are in.
      samples: their numbers in it.
      numbers: their numbers in the set.
      refused: those that are not in it, and why.
    """

    dataset: Dataset
    samples: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    refused: Sequence[Refused] = ()


@dataclasses.dataclass(frozen=True)
class TestSet:
    """A test set that was opened.

    Attributes:
      labelled: what is known of its images.
      dataset: a packed set, or None.
      source: plain images, or None.
      refused: images that were left out when the set was packed, as far as its report says.
      notes: what a user should know of how it was read.
    """

    __test__ = False  # for pytest, which takes classes of such a name for tests

    labelled: Labelled
    dataset: Dataset | None
    source: Source | None
    refused: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        place: str | Path,
        reading: Reading,
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> TestSet:
        """Opens a packed set, or whatever `dali_dr.sources.open_source` takes.

        Args:
          place: a folder, a URL, or what else names images.
          reading: how plain images are read; a packed set's classes are numbered already.
          cache, cache_bytes: of a packed set in a store.

        Raises:
          ShardError: it is neither, or damaged.
        """
        text = str(place)
        dataset = _packed(text, cache, cache_bytes)
        if dataset is None:
            source = open_source(text, reading)
            labels = np.asarray(source.labels, np.int32)
            labelled = Labelled(text, source.class_names, len(source.class_names), labels, source.keys)
            return cls(labelled, None, source, notes=tuple(source.notes))
        labelled = Labelled(text, dataset.class_names, dataset.num_classes, dataset.labels, dataset.keys)
        refused = 0
        if dataset.remote is None:
            with contextlib.suppress(OSError, ShardError):
                refused = len(read_refused(dataset.path))
        return cls(labelled, dataset, None, refused)

    def parts(
        self, numbers: npt.NDArray[np.int64], border: int, threads: int | None, share: tuple[int, int]
    ) -> Iterator[Part]:
        """The images ``numbers``, in parts that are there until the next one is asked for.

        Args:
          numbers: of images, rising.
          border: pixels to cut off each side; images become PNG then, of what Pillow shows.
          threads: that judge plain images.
          share: (rank, world size): of plain images every process packs parts of its own; of a packed set the loader takes
            its share.

        Raises:
          ShardError: the images cannot be had.
        """
        if self.dataset is not None and not border:
            yield Part(self.dataset, numbers, numbers)
            return
        rank, world = share
        for begin in range(rank * PART, len(numbers), world * PART):
            some = numbers[begin : begin + PART]
            with tempfile.TemporaryDirectory(prefix="dali-dr-evaluate-") as folder:
                packed = pack(
                    _Some(self, some, border),
                    Path(folder) / "part",
                    on_error="skip",
                    convert=True,  # a test set is evaluated whole: what Pillow shows is shown
                    keep_bytes=True,  # tiles pay where images are read often
                    threads=threads,
                    progress=False,
                )
                dataset = Dataset(Path(folder) / "part")
                own = np.array([int(key.rpartition("-")[2]) for key in dataset.keys if key != _ALWAYS], np.int64)
                samples = np.array([n for n, key in enumerate(dataset.keys) if key != _ALWAYS], np.int64)
                yield Part(dataset, samples, own, packed.refused)


def is_packed(place: str | Path) -> bool:
    """Whether a packed set lies at ``place``, as far as this machine can tell: False of one in a store."""
    text = str(place)
    if text.startswith("hf:") or is_url(text):
        return False
    return (Path(as_place(text)) / MANIFEST_NAME).exists()


def _packed(text: str, cache: str | os.PathLike[str] | None, cache_bytes: int | None) -> Dataset | None:
    """The packed set at ``text``; None if there is no dataset.json."""
    if text.startswith("hf:") and not is_url(text):
        return None
    place = as_place(text)
    if isinstance(place, Path):
        return Dataset(place) if (place / MANIFEST_NAME).exists() else None
    try:
        return Dataset(place, cache=cache, cache_bytes=cache_bytes)
    except ShardError as error:
        if isinstance(error.__cause__, MissingError):
            return None
        raise


class _Some:
    """Some images of a set as a source of their own, whose keys end in their numbers in the set.

    One more comes last, which can always be packed: a data set has one image or more.
    """

    notes: Sequence[str] = ()

    def __init__(self, of: TestSet, numbers: npt.NDArray[np.int64], border: int) -> None:
        self._of, self._numbers, self._border = of, numbers.tolist(), border
        self.keys = [*(f"image-{number}" for number in self._numbers), _ALWAYS]
        self.labels = [0] * len(self.keys)  # what is right is said by the set's kind
        self.class_names = ["any"]
        self.readers: int | None = getattr(of.source, "readers", None)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, number: int) -> bytes:
        """The image's bytes; with a border, a PNG without it."""
        if number == len(self._numbers):
            return _black()
        own = self._numbers[number]
        source, dataset = self._of.source, self._of.dataset
        data = source.read(own) if source is not None else dataset.image(own) if dataset is not None else b""
        return without_border(data, self._border) if self._border else data

    def where(self, number: int) -> str:
        """Where the image lies, for messages."""
        if number == len(self._numbers):
            return _ALWAYS
        own = self._numbers[number]
        if self._of.source is not None:
            return self._of.source.where(own)
        return f"{self._of.labelled.where}: {self._of.labelled.keys[own]}"


def _black() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def without_border(data: bytes, border: int) -> bytes:
    """A PNG of what Pillow shows of an image, without ``border`` pixels of each side.

    Raises:
      ValueError: Pillow cannot read it, it has no more than the border, or more pixels than Pillow should decode.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            pixels = as_rgb(image) if width * height <= MAX_PIXELS else None
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise ValueError(f"Pillow cannot read it: {error}") from error
    if pixels is None or min(width, height) <= 2 * border:
        raise ValueError(
            f"it has {height}x{width} pixels; want more than a border of {border} on each side and at most {MAX_PIXELS}"
        )
    pixels = pixels.crop((border, border, width - border, height - border))
    out = io.BytesIO()
    pixels.save(out, "PNG", compress_level=1)  # it is read once
    return out.getvalue()
