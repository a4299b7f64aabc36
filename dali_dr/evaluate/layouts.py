"""How the sets of the papers lie on disk: ImageNet V2's three in one folder, ImageNet-C's corruptions and severities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dali_dr.errors import DaliDrError, brief
from dali_dr.evaluate.kinds import Kind, facts
from dali_dr.store.url import as_place, is_url, shown_url

CORRUPTIONS: Final = facts("imagenet_c.json")
"""ImageNet-C's: `severities`, and `alexnet_errors` by corruption in the order of the paper, as parts of 1."""
_V2: Final = "imagenetv2-"  # its three folders are called imagenetv2-matched-frequency-format-val, -threshold0.7-, …


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A folder of images within a set: the set itself, or a corruption at a severity.

    Attributes:
      place: where it is.
      corruption, severity: of ImageNet-C.
    """

    place: str
    corruption: str = ""
    severity: int = 0


def sets_in(place: str | Path, kind: Kind) -> list[str]:
    """The sets that ``place`` names: itself, or those of ImageNet V2 in it."""
    text = str(place)
    if kind.name == "imagenet-v2" and not is_url(text):
        folder = Path(as_place(text))
        found = sorted(p for p in folder.glob(f"{_V2}*") if p.is_dir()) if folder.is_dir() else []
        if found:
            return list(map(str, found))
    return [text]


def name_of(place: str) -> str:
    """What a set is called in tables: the end of its path or URL."""
    text = shown_url(place) if is_url(place) else str(Path(place).absolute()) if Path(place).exists() else place
    return text.rstrip("/").rpartition("/")[2] or text


def leaves(place: str, kind: Kind) -> tuple[list[Leaf], tuple[str, ...]]:
    """The folders of a set, and which are missing.

    Raises:
      DaliDrError: ImageNet-C is at a URL, or has none of its corruptions.
    """
    if kind.name != "imagenet-c":
        return [Leaf(place)], ()
    if is_url(place):
        raise DaliDrError(
            f"{shown_url(place)}: ImageNet-C is read from a folder on this machine: copy it first", kind="usage"
        )
    root = Path(as_place(place))
    found = dict(_corruptions(root))
    if not found:
        raise DaliDrError(
            f"{brief(str(root))}: holds none of ImageNet-C's corruptions: expected CORRUPTION/SEVERITY/SYNSET/NAME.JPEG, "
            f"such as {next(iter(CORRUPTIONS['alexnet_errors']))}/1, or these in the folders of the downloads (noise, blur, …)",
            kind="usage",
        )
    here, missing = [], []
    for corruption in CORRUPTIONS["alexnet_errors"]:
        for severity in CORRUPTIONS["severities"]:
            folder = found.get(corruption, root / corruption) / str(severity)
            if folder.is_dir():
                here.append(Leaf(str(folder), corruption, severity))
            else:
                missing.append(f"{corruption}/{severity}")
    return here, tuple(missing)


def _corruptions(root: Path) -> Iterator[tuple[str, Path]]:
    """The corruptions' folders, in ``root`` or in the folders of the tars that ImageNet-C is downloaded as."""
    for corruption in CORRUPTIONS["alexnet_errors"]:
        for folder in (root / corruption, *sorted(root.glob(f"*/{corruption}"))):
            if any((folder / str(severity)).is_dir() for severity in CORRUPTIONS["severities"]):
                yield corruption, folder
                break
