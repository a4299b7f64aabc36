"""What to say of a place where no data set is: what is there instead, what is nearly called so, and what to do."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Final

from dali_dr.encoded import CONTAINERS
from dali_dr.errors import ShardError, meant

_MANIFEST: Final = "dataset.json"  # MANIFEST_NAME and STATE_NAME of `dali_dr.shards.manifest`, which imports this
_STATE: Final = ".write_shards.json"
_LOOKED_AT: Final = 200  # entries of a folder, and of each of the first folders in it
_FOLDERS: Final = 20
_IMAGES: Final = tuple(suffix for container in CONTAINERS for suffix in (f".{one}" for one in container.suffixes))


def no_data_set(place: Path) -> ShardError:
    """The error for ``place``, which is no folder with a dataset.json in it."""
    if place.name == _MANIFEST and place.is_file():
        return ShardError(f"{place}: is a file of a data set, which is a folder: give {place.parent}", kind="usage")
    if place.is_file():
        return ShardError(f"{place}: is a file, and a data set is a folder{_around(place)}", kind="usage")
    if not place.is_dir():
        return ShardError(
            f"{place}: no such folder{near_path(place) or '; a data set is a folder that dali-dr made'}", kind="usage"
        )
    return ShardError(f"{place / _MANIFEST}: missing; {_instead(place)}", kind="usage")


def near_path(path: Path) -> str:
    """ ": did you mean …?" of what lies where ``path`` is not; of the first part of it that is not there."""
    missing = next((one for one in [*reversed(path.parents), path] if not os.path.lexists(one)), path)
    names = [entry.name for entry in _entries(missing.parent)]
    return meant(missing.name, names)


def _around(file: Path) -> str:
    """What to give instead of a file."""
    if (file.parent / _MANIFEST).is_file():
        return f": give {file.parent}"
    if file.suffix == ".tar":
        return f"; of tars of images, one is made by dali-dr pack --input {file} --out SET"
    return ""


def _instead(folder: Path) -> str:
    """What a folder without dataset.json is, and what to do about it."""
    entries = _entries(folder)
    names = {entry.name for entry in entries}
    folders = list(filter(_is_folder, entries))[:_FOLDERS]
    if not names:
        return "the folder is empty: a data set is a folder that dali-dr made"
    if _STATE not in names:
        if sets := [one for one in folders if (Path(one) / _MANIFEST).is_file()]:
            return f"there are data sets in this folder: give one, such as {sets[0].path}"
        if any(map(_is_image, itertools.chain(entries, *map(_entries, folders)))):
            return (
                f"it is a folder of images: make a data set of it by dali-dr pack {folder} --out SET, or with a teacher by "
                "dali-dr reinforce"
            )
        if any(name.endswith(".tar") for name in names) and not any(name.startswith("index.") for name in names):
            return (
                f"it is a folder of tars: make a data set of them by dali-dr pack --input '{folder}/*.tar' --out SET; or if "
                "dali-dr began to write there, run the same command again to finish it"
            )
    return "a data set has this file once its writing is finished: run the writer again to finish it"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(_IMAGES)


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """The first entries of a folder; none of what is no folder, or may not be read."""
    try:
        with os.scandir(folder) as found:
            return list(itertools.islice(found, _LOOKED_AT))
    except OSError:
        return []
