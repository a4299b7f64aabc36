"""What files in published archives are called: which image each belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

import numpy as np

from dali_dr.errors import ConvertError, brief
from dali_dr.shards.others import strip_leading
from dali_dr.shards.sample import safe_key

CONFIG_NAME: Final = "config.pth.tar"
_NUMBERED: Final = re.compile(r"([0-9]{1,9})\.pth\.tar")
_DOT: Final = re.compile(r"\.|%2E")


class Named(NamedTuple):
    """What the name of a file says.

    Attributes:
      folder: the run that it belongs to: files of several folders are views of the same images.
      number: of its image; None: it is the folder's configuration.
    """

    folder: str
    number: int | None


_BESIDE: Final = ("export.json", "order.txt")  # see dali_dr/convert/export.py


class Naming(Protocol):
    """How the files of a format are called."""

    @property
    def digest(self) -> str:
        """Of all that the meaning of a name depends on."""

    def __call__(self, name: str) -> Named | None:
        """What ``name``, a path in an archive, says; None: it is nothing of ours. ConvertError: it should not be there."""


class Numbered:
    """ml-dr's: FOLDER/NUMBER.pth.tar, and FOLDER/config.pth.tar. Hidden files and what `export` puts beside are none of ours."""

    digest = "numbered"

    def __call__(self, name: str) -> Named | None:
        folder, _, base = strip_leading(name).rpartition("/")
        if match := _NUMBERED.fullmatch(base):
            return Named(folder, int(match[1]))
        if base == CONFIG_NAME:
            return Named(folder, None)
        if base.startswith(".") or base in _BESIDE:
            return None
        raise ConvertError(
            f"{brief(name)}: want NUMBER.pth.tar and {CONFIG_NAME} alone; is this one of ml-dr's archives?",
            kind="usage",
        )


class Mirrored:
    """FKD's and ReLabel's: the path of the image, CLASS/NAME up to the name's first dot, and ``suffix``.

    Args:
      keys: of the images, in order.
      suffix: with which names end, such as ".pt".

    Raises:
      ConvertError: two images have one path.
    """

    def __init__(self, keys: Iterable[str], suffix: str) -> None:
        self._suffix = suffix
        self._table = PathTable((mirrored(key) for key in keys), "have one name up to its first dot")

    @property
    def digest(self) -> str:
        return f"{self._suffix} {self._table.digest}"

    def __call__(self, name: str) -> Named | None:
        base = name.rpartition("/")[2]
        if base.startswith("."):
            return None
        path = mirrored(safe_key(strip_leading(name)))
        number = -1
        if base.endswith(self._suffix):
            # Images without folders are joined by their names alone.
            number = self._table.find(path.rpartition("/")[2] if self._table.flat else path)
        if number < 0:
            raise ConvertError(
                f"{brief(name)}: no image is called {brief(path)}: want {self._suffix} files under the names of the images"
            )
        return Named("", number)


def mirrored(key: str) -> str:
    """What joins an image with a file of another suffix: the class folder and the name up to its first dot."""
    folder, slash, base = key.rpartition("/")
    match = _DOT.search(base, 1)
    return f"{folder.rpartition('/')[2]}{slash}{base[: match.start()] if match else base}"


class PathTable:
    """Numbers of texts, by 64-bit hashes: 12 bytes each.

    Args:
      texts: in order.
      twice: what to say of two images whose texts are the same.

    Attributes:
      flat: whether none has a folder.
      digest: of all of them.
    """

    def __init__(self, texts: Iterable[str], twice: str) -> None:
        hashes, self.flat, all_texts = bytearray(), True, hashlib.sha256()
        for text in texts:
            encoded = text.encode("utf-8", "surrogateescape")
            self.flat = self.flat and b"/" not in encoded
            hashes += _hashed(encoded)
        all_texts.update(hashes)
        self.digest: str = all_texts.hexdigest()[:32]
        found = np.frombuffer(bytes(hashes), "<u8")
        self._numbers = np.argsort(found, kind="stable").astype(np.int32)
        self._hashes = found[self._numbers]
        same = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        if len(same):
            pair = self._numbers[same[0] : same[0] + 2].tolist()
            raise ConvertError(f"images {pair[0]} and {pair[1]} {twice}: rename one")

    def __len__(self) -> int:
        return len(self._numbers)

    def find(self, text: str) -> int:
        """The number of ``text``; -1 if it is none."""
        value = np.frombuffer(_hashed(text.encode("utf-8", "surrogateescape")), "<u8")[0]
        at = int(np.searchsorted(self._hashes, value))
        return int(self._numbers[at]) if at < len(self._hashes) and self._hashes[at] == value else -1


def _hashed(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()
