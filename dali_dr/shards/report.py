"""What became of images that are not in a data set as their source has them: refused ones, and those that were changed.

Tiled images are not among these: they are the source's in every coefficient, and are counted in dataset.json.

`report/skipped.jsonl` and `report/changed.jsonl`, one JSON object a line, lie beside the shards of a finished data set;
`pack` and `reinforce` write the same. A later run on the same folder finds out with them whether the source changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import google_crc32c
import numpy as np

from dali_dr.errors import DaliDrError, ShardError, shown
from dali_dr.shards import files, tar

REPORT_NAME: Final = "report"  # the folder of it, in that of the data set
SKIPPED_NAME: Final = "skipped.jsonl"
CHANGED_NAME: Final = "changed.jsonl"
SUMMARY_NAME: Final = "summary.json"
CONFIG_NAME: Final = "config.yaml"  # options of `dali-dr reinforce` that make the data set again
FIRST: Final = 10  # refused images that are told of one by one; the others are only counted
_STARTS: Final = 16  # first bytes of a refused image that are kept
_log = logging.getLogger(__name__)
_Line = TypeVar("_Line", "Refused", "Changed")


@dataclass(frozen=True)
class Refused:
    """A sample that was left out.

    Attributes:
      key: its key, or what stood in its place.
      reason, remedy: what is wrong with it, and what to do; "" where that is not known.
      path: where its image lies; "" where that is not known.
      bytes: length of the image in its source.
      starts: its first bytes, hex.
      label: its label, if it is an integer.
      crc32c: of the image's bytes in its source. This, label and bytes are None where they are not known.
    """

    key: str
    reason: str
    remedy: str = ""
    path: str = ""
    bytes: int | None = None
    starts: str = ""
    label: int | None = None
    crc32c: int | None = None

    @classmethod
    def of(cls, sample: Any, error: DaliDrError) -> Refused:
        """``sample``, which may be anything that a user's iterable gave, that was refused with ``error``."""
        image, label = getattr(sample, "image_bytes", None), getattr(sample, "label", None)
        data = bytes(image) if isinstance(image, (bytes, bytearray, memoryview)) else None
        origin = getattr(sample, "origin", None)
        size, crc = (
            (None, None) if origin is None else (origin.bytes, origin.crc)
        )  # of what was changed or tiled before
        if data is not None:
            size, crc = size or len(data), google_crc32c.value(data) if crc is None else crc
        return cls(
            key=str(getattr(sample, "key", sample)),
            reason=shown(error) if error.reason is None else error.reason,
            remedy=error.remedy or "",
            path=origin.path if origin else "",
            bytes=size,
            starts=(data or b"")[:_STARTS].hex(),
            label=int(label) if isinstance(label, (int, np.integer)) else None,
            crc32c=crc,
        )

    @property
    def facts(self) -> str:
        """Where the image lies, its length and its first bytes, as far as they are known and the reason does not tell."""
        told = self.bytes is None or f"({self.bytes} bytes" in self.reason
        size = "" if told else f"{self.bytes} bytes" + f", starting {self.starts}" * bool(self.starts)
        return ", ".join(part for part in (self.path, size) if part)

    def __str__(self) -> str:
        """One line of all that is known."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return shown(f"sample {self.key}: {self.reason}{remedy}" + f" ({self.facts})" * bool(self.facts))


@dataclass(frozen=True)
class Changed:
    """A sample whose image is not stored as its source has it.

    Attributes:
      key: its key.
      path: where its image lies; "" where that is not known.
      change: what was done to it.
      crc32c: of the bytes in the source.
    """

    key: str
    path: str
    change: str
    crc32c: int | None = None


class Announcer:
    """Tells the log of refused images: the first few as warnings, the others for those who keep a log file."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, refused: Refused, shard: str = "") -> None:
        """Tells of one; ``shard``: the name of the shard that it would be in."""
        self._count += 1
        where = f"{shard}: " if shard else ""
        _log.log(logging.WARNING if self._count <= FIRST else logging.INFO, "%sleft out: %s", where, refused)
        if self._count == FIRST + 1:
            _log.warning("more images are left out; they are listed in %s/%s in the end", REPORT_NAME, SKIPPED_NAME)


def write_lists(out: Path, refused: Sequence[Refused], changed: Sequence[Changed]) -> None:
    """Writes the two lists for the data set in ``out``; where there is nothing for one of them, it is not there."""
    for name, lines in ((SKIPPED_NAME, refused), (CHANGED_NAME, changed)):
        path = out / REPORT_NAME / name
        if lines:
            files.make_folder(path.parent)
            text = "".join(json.dumps(asdict(line)) + "\n" for line in lines)  # ASCII: whatever keys hold
            tar.write_atomically(path, text.encode())
        elif path.exists():  # of a run that was killed just before its end, and whose last images are others now
            files.remove(path)
            files.sync_folder(path.parent)


def read_refused(out: Path) -> list[Refused]:
    """The samples that were left out of the finished data set in ``out``. ShardError if the list cannot be read."""
    return _read(out / REPORT_NAME / SKIPPED_NAME, Refused)


def read_changed(out: Path) -> list[Changed]:
    """The changed samples of the finished data set in ``out``. ShardError if the list cannot be read."""
    return _read(out / REPORT_NAME / CHANGED_NAME, Changed)


def counted(changes: Iterable[str]) -> dict[str, int]:
    """How often each of ``changes`` was made, the most frequent first."""
    counts: dict[str, int] = {}
    for change in changes:
        counts[change] = counts.get(change, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def remove_partial(folder: Path) -> None:
    """Removes what a run that was killed while it wrote into ``folder`` left half done; nothing where there is none."""
    for stale in folder.glob(".*.tmp"):
        files.remove(stale)


def _read(path: Path, kind: type[_Line]) -> list[_Line]:
    try:
        return [line_of(kind, json.loads(line)) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ShardError(f"{path}: not a list of images that this dali_dr wrote ({error}); remove the file") from error


def line_of(kind: type[_Line], data: Mapping[str, Any]) -> _Line:
    """A line of a list; of an earlier dali_dr: key and "why"."""
    if kind is Refused and "why" in data:
        data = {"key": data["key"], "reason": data["why"]}
    return kind(**data)
