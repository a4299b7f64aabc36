"""Files in the forms in which they are published: a folder, a tar, a compressed tar, in any order."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Kind = Literal["folder", "tar", "tar.gz"]


def store(files: Mapping[str, bytes], place: Path, kind: Kind, inner: str = "", shuffle: int | None = 0) -> Path:
    """Writes files by their paths as ``place`` (a folder) or ``place.tar``, ``place.tar.gz``, and returns that path.

    Args:
      files: by path.
      place: without a suffix.
      kind: form.
      inner: folder in the archive (or below ``place``) that holds them, as ``tar c -C PARENT reinforced_data`` makes it.
      shuffle: seed of their order in an archive (a folder's is that of its hash table); None: as given.
    """
    names = list(files)
    if shuffle is not None:
        random.Random(shuffle).shuffle(names)
    if kind == "folder":
        for name in names:
            path = place / inner / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        return place
    path = place.with_name(f"{place.name}.{kind}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w", format=tarfile.GNU_FORMAT) as archive:
        for folder in sorted({str(parent) for n in names for parent in Path(inner, n).parents if parent != Path()}):
            entry = tarfile.TarInfo(f"{folder}/")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name in names:
            entry = tarfile.TarInfo(str(Path(inner, name)))
            entry.size = len(files[name])
            archive.addfile(entry, io.BytesIO(files[name]))
    return path
