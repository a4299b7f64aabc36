"""The order in which images were reinforced, as a list of their paths says it; and what messages call an image."""

from __future__ import annotations

import codecs
import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.convert.images import Pictures
from dali_dr.convert.names import PathTable
from dali_dr.errors import ConvertError, brief
from dali_dr.shards.others import strip_leading
from dali_dr.shards.sample import safe_key
from dali_dr.sources.remote import read_place, shown_place
from dali_dr.sources.source import Source
from dali_dr.texts import Texts

_MAX_ORDER: Final = 1 << 30  # bytes of a list of paths
_OPEN: Final = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # what is open already


class Ordered:
    """A source in the order of a list of paths, one in each line: position in the list is the index of a reinforcement.

    Args:
      source: the images.
      file: the list; paths are compared without suffix with the keys of the images.

    Raises:
      ConvertError: naming a line whose image is not there, or was named before; or where images are not in the list.
    """

    def __init__(self, source: Source, file: Path | str) -> None:
        self._source = source
        self._numbers = _order(source, file)
        self.keys: Sequence[str] = Texts(source.keys[number] for number in self._numbers.tolist())
        labels = np.asarray(source.labels, np.int32)
        self.labels: npt.NDArray[np.int32] = labels[self._numbers]
        self.class_names, self.notes = source.class_names, source.notes
        for name in ("size", "place"):  # as far as the source knows them
            if hasattr(source, name):
                setattr(self, name, functools.partial(self._of, getattr(source, name)))
        for name in ("image_tars", "image_labels", "readers"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, number: int) -> bytes:
        return self._source.read(int(self._numbers[number]))

    def where(self, number: int) -> str:
        return self._source.where(int(self._numbers[number]))

    def _of(self, what: Any, number: int) -> Any:
        return what(int(self._numbers[number]))


def _order(source: Source, file: Path | str) -> npt.NDArray[np.int64]:
    """The number of the image of each line."""
    keys = source.keys
    try:
        data = _piped(file) if str(file).startswith(_OPEN) else read_place(file, _MAX_ORDER)
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        raise ConvertError(
            f"{shown_place(file)}: cannot be read ({why}): want a path of an image in each line",
            kind="usage",
        ) from error
    tables = [PathTable(keys, "have one key")]
    with contextlib.suppress(ConvertError):  # two images called alike in folders called alike
        tables.append(PathTable((_last(key) for key in keys), ""))
    names = (line.strip() for line in text.splitlines())
    found: list[int] = []
    seen = np.zeros(len(keys), bool)
    for line, name in enumerate(names, 1):
        if not name:
            continue
        number = next((one for table in tables if (one := _find(table, name)) >= 0), -1)
        if number < 0 or seen[number]:
            what = "no image is called so" if number < 0 else "this image was named before"
            raise ConvertError(f"{file}: line {line}: {brief(name)}: {what}", kind="usage")
        seen[number] = True
        found.append(number)
    if len(found) < len(keys):
        missing = int(np.argmin(seen))
        raise ConvertError(
            f"{file}: names {len(found)} of {len(keys)} images, and not {named(source, missing)}: it must name them all, in the "
            "order in which they were reinforced",
            kind="usage",
        )
    return np.array(found, np.int64)


def _piped(path: Path | str) -> bytes:
    """What a shell's ``<(command)`` writes; a FIFO might have nobody who writes."""
    with Path(path).open("rb") as pipe:
        data = pipe.read(_MAX_ORDER + 1)
    if len(data) > _MAX_ORDER:
        raise ValueError(f"more than {_MAX_ORDER} bytes come")
    return data


def named(images: Source | Pictures, number: int) -> str:
    """Image ``number``, for messages: its key, and where it is if the key is written otherwise."""
    key = images.keys[number]
    return f"{key}, {images.where(number)}" if "%" in key else key


def _find(table: PathTable, name: str) -> int:
    """The image that ``name`` means: a key, or a path with a suffix, of which folders in front may be too many; or -1."""
    path = strip_leading(name)
    while path:
        base = path.rfind("/") + 1
        dot = path.rfind(".", base + 1)
        for text in (path, path[:dot] if dot > 0 else path):
            for key in (text, safe_key(text)):
                if (number := table.find(key)) >= 0:
                    return number
        path = path.partition("/")[2]
    return -1


def _last(key: str) -> str:
    """The last folder and the name."""
    return "/".join(key.split("/")[-2:])
