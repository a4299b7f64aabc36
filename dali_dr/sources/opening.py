"""Which kind of source a text names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dali_dr.sources.folder import ImageFolder
from dali_dr.sources.lists import FileList
from dali_dr.sources.source import READING, Reading, Source
from dali_dr.sources.tars import WebDatasetTars


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
      is_meant: whether the text that a user gives names one.
      open: makes the source of it.
    """

    is_meant: Callable[[str], bool]
    open: Callable[[str, Reading], Source]


KINDS: Final = (
    Kind(lambda text: text.endswith((".csv", ".jsonl")), lambda text, reading: FileList.load(Path(text), reading)),
    Kind(lambda text: text.endswith(".tar"), WebDatasetTars.match),
    Kind(lambda text: True, lambda text, reading: ImageFolder.scan(Path(text), reading)),
)
"""The first that is meant is opened. To add a kind of source: a class with what `Source` wants, and a row here."""


def open_source(what: str | Path, reading: Reading = READING) -> Source:
    """The source that ``what`` names: a folder, a pattern of webdataset tars (or one), or a .csv or .jsonl list.

    Raises:
      ShardError: it is none of these, or holds no images.
    """
    text = str(what)
    return next(kind for kind in KINDS if kind.is_meant(text)).open(text, reading)
