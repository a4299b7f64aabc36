"""report/source.bin of a tiled data set: CRC-32C and length of each image's file as it was in the source.

A tiled image has other bytes than its source. By this table a later run on the same folder finds out whether the source
is still the same, without tiling it again. It may be lost: then images are tiled again and compared with what is stored.

Layout, little-endian: 8 bytes ``DDRSRC01``, u32 CRC-32C of all that follows, u32 zero, and per sample u32 CRC-32C and
u32 length of the source's bytes; length 0 where they are not known.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt

from dali_dr.shards import files, tar
from dali_dr.shards.report import REPORT_NAME

SOURCES_NAME: Final = "source.bin"
SOURCES_TABLE: Final = f"{REPORT_NAME}/{SOURCES_NAME}"
SOURCE: Final = np.dtype([("crc", "<u4"), ("bytes", "<u4")])
MAX_SOURCE_BYTES: Final = 2**32 - 1
_MAGIC: Final = b"DDRSRC01"
_HEADER: Final = struct.Struct("<8sII")


def write_sources(out: Path, sources: Sequence[npt.NDArray[Any]] | None) -> None:
    """Writes the table of the data set in ``out``, of arrays of `SOURCE`; None: it has none, and what is there goes."""
    path = out / REPORT_NAME / SOURCES_NAME
    if sources is not None:
        rows = np.concatenate([np.empty(0, SOURCE), *sources]).tobytes()
        files.make_folder(path.parent)
        tar.write_atomically(path, _HEADER.pack(_MAGIC, google_crc32c.value(rows), 0) + rows)
    elif path.exists():  # of a run that was killed just before its end, and removed by force since
        files.remove(path)
        files.sync_folder(path.parent)


def read_sources(out: Path, count: int) -> npt.NDArray[Any] | None:
    """The table of the data set in ``out`` with ``count`` samples; None where there is none that is whole."""
    try:
        data = (out / REPORT_NAME / SOURCES_NAME).read_bytes()
    except OSError:
        return None
    if len(data) != _HEADER.size + count * SOURCE.itemsize:
        return None
    magic, crc, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC or crc != google_crc32c.value(data[_HEADER.size :]):
        return None
    return np.frombuffer(data, SOURCE, offset=_HEADER.size)
