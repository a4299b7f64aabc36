"""Webdataset tars as a source of images."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.shards import tar
from dali_dr.shards.facts import members_of, read_image
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.sample import Place
from dali_dr.sources.classes import Numbers
from dali_dr.sources.source import READING, Reading


@dataclasses.dataclass(frozen=True)
class WebDatasetTars:
    """Webdataset tars: samples of an image, a class number (KEY.cls, or "label" in KEY.json) and whatever else.

    Attributes:
      tars: the files, in order.
      keys: in the order of the tars.
      labels: int32 (S,).
      members: int64 (S, 3): number of the tar, offset and length of the image.
      class_names: the numbers as text.
      notes: see `Source`.
    """

    tars: Sequence[Path]
    keys: Sequence[str]
    labels: npt.NDArray[np.int32]
    members: npt.NDArray[np.int64]
    class_names: Sequence[str]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tars", [path.absolute() for path in self.tars])  # as in `ImageFolder`

    @classmethod
    def match(cls, pattern: str, reading: Reading = READING) -> WebDatasetTars:
        """Reads the tars whose names match ``pattern`` ("**": any folders), in sorted order; see `scan`."""
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (absolute patterns)
        return cls.scan([Path(path) for path in found or [pattern]], reading)

    @classmethod
    def scan(cls, tars: Sequence[Path], reading: Reading = READING) -> WebDatasetTars:
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

    def where(self, number: int) -> str:
        file, offset, _ = self.members[number].tolist()
        return f"{self.tars[file]} at byte {offset}"

    def place(self, number: int) -> Place:
        """Where image ``number`` is, for a sidecar data set."""
        file, offset, _ = self.members[number].tolist()
        return Place(file, offset)

    def image_tars(self, out: Path) -> tuple[ImageTar, ...]:
        """The tars, as the manifest of a sidecar data set in ``out`` names them."""
        return tuple(ImageTar(os.path.relpath(path, out), path.stat().st_size) for path in self.tars)
