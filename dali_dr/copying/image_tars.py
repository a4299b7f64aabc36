"""Image tars of a sidecar data set that is copied: where each goes, and what must be in it.

dataset.json and index.bin name these tars. Where one that lay outside comes into the copy, both are written anew with its
new name; all else in them stays.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.shards import tar
from dali_dr.shards.index import SampleIndex
from dali_dr.shards.index_layout import (
    HEADER_BYTES,
    IMAGE_CRCS,
    IMAGE_FILES,
    IndexedFile,
    Layout,
    pack_files,
    pack_header,
    parse_files,
    seal_header,
)
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.reading import opened, read_fully
from dali_dr.shards.report import REPORT_NAME

FOLDER: Final = "images"  # in the copy, of tars that lay outside
_PART: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.+=-]*")  # of a path that is the same everywhere
_BLOCK: Final = 1 << 16  # samples whose places are looked at together


def places_of(manifest: Manifest, where: str, with_images: bool, local: bool) -> dict[str, str]:
    """The name in the copy of each image tar, and its path as the manifest has it, in the manifest's order.

    Args:
      manifest: of the original.
      where: it is.
      with_images: take those that lie outside, too.
      local: it is a folder, whose owner says where else images lie; a store's manifest does not.

    Raises:
      ShardError: one lies outside and is not to be taken, or is named as something else in the data set.
    """
    paths = [image_tar.path for image_tar in manifest.image_tars]
    outside = [path for path in paths if not _is_inside(path)]
    if outside and not local:
        raise ShardError(
            f"{where}: its images lie outside, in {outside[0]!r:.200}, which is not followed in a store: copy it from the "
            "folder where it was made, with --with-images",
            kind="usage",
        )
    if outside and not with_images:
        raise ShardError(
            f"{where}: its images lie outside its folder, in {outside[0]!r:.200}: copy with --with-images "
            "(with_images=True), which takes these tars along",
            kind="usage",
        )
    names = {Path(path).name for path in outside}
    plain = len(names) == len(outside) and all(map(_PART.fullmatch, names))
    places = {
        (path if _is_inside(path) else f"{FOLDER}/{Path(path).name if plain else f'{number:06d}.tar'}"): path
        for number, path in enumerate(paths)
    }
    if len(places) < len(paths):
        raise ShardError(f"{where}: two of its image tars are or would be at one place; rename one of them")
    return places


def moved(manifest: Manifest, places: Mapping[str, str]) -> Manifest | None:
    """The manifest of the copy; None where all tars stay where they are."""
    if all(name == path for name, path in places.items()):
        return None
    tars = (dataclasses.replace(one, path=name) for one, name in zip(manifest.image_tars, places, strict=True))
    return dataclasses.replace(manifest, image_tars=tuple(tars))


def text_of(manifest: Manifest) -> bytes:
    """dataset.json, as `Manifest.save` writes it."""
    return (json.dumps(manifest.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def moved_index(path: Path, manifest: Manifest, copy: Manifest) -> bytes:
    """The index in the file ``path`` of the data set ``manifest``, with the names of ``copy``."""
    data = path.read_bytes()
    layout = Layout.parse(data[:HEADER_BYTES])
    if layout.num_outputs is None:
        raise ShardError(f"{path}: is of version 1, in which names are not changed; make it anew by `dali-dr index`")
    known, first = parse_files(data[layout.table_at :], layout)
    named = known[: len(manifest.shards)] + tuple(IndexedFile(one.path, one.bytes) for one in copy.image_tars)
    table = pack_files(named, first.tolist())
    flags = IMAGE_CRCS * (layout.crcs_at is not None) | IMAGE_FILES * (layout.files_at is not None)
    header = pack_header(
        samples=layout.samples,
        num_classes=layout.num_classes,
        num_outputs=layout.num_outputs,
        files=layout.files,
        flags=flags,
        table_bytes=len(table),
        key_bytes=layout.table_at - layout.keys_at,
    )
    body = data[HEADER_BYTES : layout.table_at]
    return seal_header(header, (body, table)) + body + table


class Images:
    """What the index says of the images in each tar.

    Args:
      index: of the data set.
      shards: how many files come before the image tars.
    """

    def __init__(self, index: SampleIndex, shards: int) -> None:
        kept: list[npt.NDArray[Any]] = []
        for start in range(0, len(index), _BLOCK):
            entries = index.entries_of(start, min(len(index), start + _BLOCK))
            kept.append(entries[["image_file", "image_block", "image_bytes", "image_crc"]])
        entries = np.concatenate(kept)
        self._entries = entries[np.argsort(entries["image_file"], kind="stable")]
        self._starts = np.searchsorted(self._entries["image_file"], np.arange(shards, len(index.files) + 1))
        self._has_crcs = index.has_crcs

    def check_of(self, number: int) -> Callable[[Path, str], None]:
        """A check of the tar ``number``: that every image lies there, by its CRC-32C where the index has them."""
        entries = self._entries[self._starts[number] : self._starts[number + 1]]
        has_crcs = self._has_crcs

        def check(path: Path, place: str) -> None:
            with opened(path) as descriptor:
                for entry in entries:
                    at, size = int(entry["image_block"]) * tar.BLOCK, int(entry["image_bytes"])
                    data = read_fully(descriptor, path, at, size)
                    if has_crcs and google_crc32c.value(data) != int(entry["image_crc"]):
                        raise ShardError(
                            f"{place}: the image at byte {at} is not the one that the index says: the tar was changed or "
                            "damaged; restore it from a copy"
                        )

        return check


def _is_inside(path: str) -> bool:
    """Whether ``path`` leads to a place in the data set's folder, on every system, that nothing else of it takes."""
    parts = path.split("/")
    return (
        posixpath.normpath(path) == path
        and all(
            part.isprintable() and not part.startswith(".") and "\\" not in part and ":" not in part for part in parts
        )
        and "" not in parts
        and path.endswith(".tar")
        and parts[0] != REPORT_NAME
    )
