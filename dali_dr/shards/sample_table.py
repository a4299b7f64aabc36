"""SampleTable: samples as they are collected for an index, and the writing of index.bin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_dr.shards import tar
from dali_dr.shards.index_layout import (
    ENTRY,
    HEADER_BYTES,
    IMAGE_CRCS,
    IMAGE_FILES,
    IndexedFile,
    pack_files,
    pack_header,
    seal_header,
    stored_entries,
)


class SampleTable:
    """Samples as they are collected for an index: entries and keys, grown file by file.

    Args:
      image_tars: tars of the images, where they are not beside their records; ``image_file`` of the entries that are
        added counts in them. They follow the other files in the index.
      image_crcs: whether ``image_crc`` of the entries is known, and is written.
    """

    def __init__(self, image_tars: Sequence[IndexedFile] = (), *, image_crcs: bool = True) -> None:
        self.files: list[IndexedFile] = []
        self._image_tars = list(image_tars)
        self._image_crcs = image_crcs
        self._entries: list[npt.NDArray[Any]] = []
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._keys = bytearray()

    def add_file(self, file: IndexedFile, keys: Iterable[str], entries: npt.NDArray[Any]) -> None:
        """Append the samples of one tar. Of ``entries``, ``record_file`` is not read, nor, without image tars,
        ``image_file``.

        Raises:
          ValueError: an image has no size.
        """
        entries = np.array(entries, ENTRY)
        if not (entries["image_height"].all() and entries["image_width"].all()):
            raise ValueError(f"{file.name}: an image without height or width")
        encoded = [key.encode() for key in keys]
        self.files.append(file)
        self._entries.append(entries)
        self._lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        self._keys += b"".join(encoded)

    def write(self, path: Path, num_classes: int, num_outputs: int | None = None) -> None:
        """Write the index of all added samples to ``path``, atomically.

        Args:
          path: of the index.
          num_classes: labels are below it.
          num_outputs: teacher ids are below it; None: ``num_classes``.
        """
        entries = np.concatenate(self._entries) if self._entries else np.empty(0, ENTRY)
        parts = [stored_entries(entries)]
        if self._image_crcs:
            parts.append(entries["image_crc"].tobytes())
        if self._image_tars:
            parts.append((entries["image_file"] + np.uint32(len(self.files))).tobytes())
        parts.append(bytes(-(HEADER_BYTES + sum(map(len, parts))) % 8))  # the offsets start at a multiple of 8
        offsets = np.zeros(len(entries) + 1, "<u8")
        if self._lengths:
            np.cumsum(np.concatenate(self._lengths), out=offsets[1:].view(np.int64))
        counts = np.cumsum([0, *map(len, self._entries)]).tolist()
        first = counts[: len(self.files)] + [len(entries)] * len(self._image_tars)
        table = pack_files([*self.files, *self._image_tars], first)
        parts += [offsets.tobytes(), bytes(self._keys), table]
        header = pack_header(
            samples=len(entries),
            num_classes=num_classes,
            num_outputs=num_classes if num_outputs is None else num_outputs,
            files=len(first),
            flags=IMAGE_CRCS * self._image_crcs | IMAGE_FILES * bool(self._image_tars),
            table_bytes=len(table),
            key_bytes=len(self._keys),
        )
        tar.write_atomically(path, seal_header(header, parts), *parts)
