"""What a source of images is. A source knows keys, labels and bytes; it decodes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dali_dr.choices import Numbering as Numbering
from dali_dr.errors import ShardError, brief
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.sample import Place, fitting_key, key_fault, safe_key
from dali_dr.sources.remote import Unavailable


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a source is read, as far as a user may say.

    Attributes:
      numbering: of classes by their names: "sorted" is their place in sorted order, as torchvision numbers them; "numeric"
        the number that each name is; "imagenet" ImageNet's for synsets; "auto" the last two where all names are such.
      classes: a file, or the URL of one, with the name of a class in each line, whose numbers are those of the lines from
        0; None: none.
      label_field: where the label is, in tars ("cls", "json:label", …) and tables (a column); None: where it usually is.
      convert: also images that shards do not hold, which are stored as PNG.
    """

    numbering: Numbering = "auto"
    classes: Path | str | None = None
    label_field: str | None = None
    convert: bool = False


READING: Final = Reading()
_LOOKING: Final = 16  # threads that ask for the sizes of files
_LOOKED_AT: Final = 1024  # files that one of them looks at in one go


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
class SizedSource(Source, Protocol):
    """A source that knows the sizes of its images without reading them."""

    def size(self, number: int) -> int:
        """Bytes of image ``number``. OSError where its file cannot be looked at."""


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
        raise ShardError(
            "a sidecar data set goes with images in tars: give a pattern such as 'images/*.tar'", kind="usage"
        )
    return source


def image_labels(tars: TarSource) -> Mapping[str, Any]:
    """What the manifest of a sidecar data set says in its `extra` of the labels in ``tars``.

    A source says it in an attribute ``image_labels``, where labels are not KEY.cls with the class number itself.
    """
    said: Mapping[str, Any] = getattr(tars, "image_labels", {})
    return said


def sizes_of(source: Source) -> list[int] | None:
    """Bytes of each image, -1 where its file cannot be looked at; None where the source does not know them cheaply.

    Raises:
      Unavailable: a store does not answer.
    """
    if not isinstance(source, SizedSource):
        return None

    def size(number: int) -> int:
        try:
            return source.size(number)
        except Unavailable:
            raise
        except (OSError, ValueError):  # ValueError: a name that no file can have
            return -1

    readers = readers_of(source, _LOOKING)
    step = max(1, min(_LOOKED_AT, len(source) // readers))

    def some(first: int) -> list[int]:
        return [size(number) for number in range(first, min(first + step, len(source)))]

    with ThreadPoolExecutor(readers) as pool:  # a file server takes its time for each
        return [one for sizes in pool.map(some, range(0, len(source), step)) for one in sizes]


def readers_of(images: Images, usual: int) -> int:
    """Threads that read ``images`` at a time: ``usual``, or as many as the source says where it waits for a store.

    A source says it in an attribute ``readers``, None or absent where it lies on this machine.
    """
    return max(usual, getattr(images, "readers", None) or 0)


def check_keys(source: Source) -> None:
    """Refuses a source with a key that shards cannot hold.

    Raises:
      ShardError: saying where the first such image is.
    """
    for number, key in enumerate(source.keys):
        if fault := key_fault(key):
            raise ShardError(f"{source.where(number)}: sample {brief(key)}: {fault}", key=key)


def keys_of(files: Iterable[str]) -> list[str]:
    """Distinct safe keys of distinct paths: without extension, or with it where that was taken (a.jpg, a.png).

    What is too long for a tar's header is cut, and ends in a digest of the whole.
    """
    keys: list[str] = []
    taken: set[str] = set()
    for file in files:
        key = fitting_key(safe_key(_without_suffix(file)))
        if key in taken:
            key = fitting_key(safe_key(file))
        if key in taken:  # a.jpg, a.png.jpg, a.png: the second is called as the third would be
            key = fitting_key(safe_key(file), whole=False)
        taken.add(key)
        keys.append(key)
    return keys


def _without_suffix(file: str) -> str:
    dot = file.rfind(".", file.rfind("/") + 2)  # a dot that a name begins with begins no suffix
    return file[:dot] if dot > 0 else file
