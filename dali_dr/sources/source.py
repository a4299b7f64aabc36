"""What a source of images is. A source knows keys, labels and bytes; it decodes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.sample import Place, safe_key

Numbering = Literal["auto", "sorted", "numeric", "imagenet"]
NUMBERINGS: Final[tuple[Numbering, ...]] = ("auto", "sorted", "numeric", "imagenet")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a source is read, as far as a user may say.

    Attributes:
      numbering: of classes by their names: "sorted" is their place in sorted order, as torchvision numbers them; "numeric"
        the number that each name is; "imagenet" ImageNet's for synsets; "auto" the last two where all names are such.
      classes: a file with the name of a class in each line, whose numbers are those of the lines from 0; None: none.
      label_field: where the label is, in tars ("cls", "json:label", …) and tables (a column); None: where it usually is.
      convert: also images that shards do not hold, which are stored as PNG.
    """

    numbering: Numbering = "auto"
    classes: Path | None = None
    label_field: str | None = None
    convert: bool = False


READING: Final = Reading()


class Images(Protocol):
    """Images by number: distinct keys, class numbers and the encoded bytes. What generation asks for."""

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int] | npt.NDArray[np.int32]: ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> bytes: ...

    def where(self, number: int) -> str:
        """Where image ``number`` lies, for messages and reports."""


class Source(Images, Protocol):
    """Images to be reinforced: what a user gives, with the names of the classes."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of how it was read: classes numbered otherwise than by their order, files left out."""


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


def keys_of(files: Iterable[Path]) -> list[str]:
    """Distinct safe keys: the paths without extension, or with it where that was taken (a.jpg, a.png)."""
    keys: list[str] = []
    taken: set[str] = set()
    for file in files:
        key = safe_key(file.with_suffix("").as_posix())
        key = safe_key(file.as_posix()) if key in taken else key
        taken.add(key)
        keys.append(key)
    return keys
