"""What a look through an archive has found: which files it holds, where, and its checksum; kept for a run that goes on."""

from __future__ import annotations

import array
import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from dali_dr.convert.names import Named
from dali_dr.errors import ConvertError, brief
from dali_dr.shards import files, tar

MAX_FILE: Final = 64 << 20  # bytes of one file in an archive: ImageNet+'s have some 90 kB
_MAX_FOLDERS: Final = 255


class Where(Protocol):
    """Where an archive is: a Path, or what says a URL."""

    @property
    def name(self) -> str: ...


@dataclass
class Survey:
    """What an archive holds.

    Attributes:
      length, sha256: bytes of the file, and checksum; of a folder, of its configurations and a list of names and sizes.
      numbers: int32 (F,): of the images that its files belong to, in the order of the archive.
      runs: uint8 (F,): the folder of each, as a place in ``folders``.
      blocks, sizes: uint32 (F,): where in the tar each begins, in blocks of 512 bytes (0 in a folder), and its bytes.
      folders: in the archive, that hold files.
      configs: the configuration of each, b"" where there is none.
    """

    length: int
    sha256: str
    numbers: npt.NDArray[np.int32]
    runs: npt.NDArray[np.uint8]
    blocks: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.uint32]
    folders: tuple[str, ...] = ()
    configs: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def in_order(self) -> bool:
        """Whether its files come in the order of the images."""
        order = self.numbers.astype(np.int64) * (_MAX_FOLDERS + 1) + self.runs
        return bool((order[1:] >= order[:-1]).all())

    def save(self, path: Path, stamp: str) -> None:
        """Keep it in ``path``, of an archive that ``stamp`` identifies."""
        about = {
            "stamp": stamp,
            "bytes": self.length,
            "sha256": self.sha256,
            "folders": self.folders,
            "configs": [config.hex() for config in self.configs],
        }
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        np.savez(buffer, about=text, numbers=self.numbers, runs=self.runs, blocks=self.blocks, sizes=self.sizes)
        files.make_folder(path.parent)
        tar.write_atomically(path, buffer.getbuffer())

    @classmethod
    def load(cls, path: Path, stamp: str) -> Survey | None:
        """What `save` has kept of the same archive; None if it has not."""
        unreadable = contextlib.suppress(OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile)
        with unreadable, np.load(path, allow_pickle=False) as kept:
            about = json.loads(kept["about"].tobytes())
            if about["stamp"] == stamp:
                return cls(
                    about["bytes"],
                    about["sha256"],
                    kept["numbers"],
                    kept["runs"],
                    kept["blocks"],
                    kept["sizes"],
                    tuple(about["folders"]),
                    tuple(bytes.fromhex(config) for config in about["configs"]),
                )
        return None


@dataclass
class Found:
    """Files as they are found."""

    path: Where
    numbers: array.array[int] = field(default_factory=lambda: array.array("i"))
    runs: array.array[int] = field(default_factory=lambda: array.array("B"))
    blocks: array.array[int] = field(default_factory=lambda: array.array("I"))
    sizes: array.array[int] = field(default_factory=lambda: array.array("I"))
    folders: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, named: Named, block: int, size: int, config: Callable[[], bytes]) -> None:
        """Takes the file ``name``; ``config`` reads it."""
        if size > MAX_FILE:
            raise ConvertError(f"{self.path}: {brief(name)} has {size} bytes, at most {MAX_FILE} are read")
        if named.folder not in self.folders:
            if len(self.folders) == _MAX_FOLDERS:
                raise ConvertError(f"{self.path}: {brief(name)}: holds more than {_MAX_FOLDERS} folders")
            self.folders[named.folder] = b""
        if named.number is None:
            if self.folders[named.folder]:
                raise ConvertError(f"{self.path}: {brief(name)} is in it twice")
            self.folders[named.folder] = config()
            return
        self.numbers.append(named.number)
        self.runs.append(list(self.folders).index(named.folder))
        self.blocks.append(block)
        self.sizes.append(size)

    def survey(self, size: int, sha256: str) -> Survey:
        """All of it."""
        if not self.numbers:
            raise ConvertError(f"{self.path}: holds no reinforcements", kind="usage")
        return Survey(
            size,
            sha256,
            np.frombuffer(self.numbers, np.int32),
            np.frombuffer(self.runs, np.uint8),
            np.frombuffer(self.blocks, np.uint32),
            np.frombuffer(self.sizes, np.uint32),
            tuple(self.folders),
            tuple(self.folders.values()),
        )
