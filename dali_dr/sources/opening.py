"""Which kind of source a text names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dali_dr.errors import ShardError
from dali_dr.sources.folder import ImageFolder
from dali_dr.sources.huggingface import PARQUET, PREFIX, open_huggingface, open_parquet
from dali_dr.sources.lists import FileList
from dali_dr.sources.remote import shown_place
from dali_dr.sources.source import READING, Reading, Source, check_keys
from dali_dr.sources.tars import SUFFIXES as TAR_SUFFIXES
from dali_dr.sources.tars import WebDatasetTars
from dali_dr.store.url import as_place, is_url, refuse_typos


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
    Kind(lambda text: text.startswith(PREFIX) and not is_url(text), open_huggingface),
    Kind(lambda text: text.lower().endswith(PARQUET), open_parquet),
    Kind(lambda text: text.lower().endswith((".csv", ".jsonl")), lambda text, reading: FileList.load(text, reading)),
    Kind(lambda text: text.lower().endswith(TAR_SUFFIXES), WebDatasetTars.match),
    Kind(lambda text: True, lambda text, reading: ImageFolder.scan(text, reading)),
)
"""The first that is meant is opened. To add a kind of source: a class with what `Source` wants, and a row here."""


def open_source(what: str | Path, reading: Reading = READING) -> Source:
    """The source that ``what`` names: a folder, tars, a list, or a table of images.

    Tars are given as webdataset takes them: a name, a pattern (``t-*.tar``), braces (``t-{000..146}.tar``), several with "::".
    Lists are .csv, .jsonl or .parquet; tables .parquet files, or Hugging Face's "hf:NAME_OR_FOLDER:SPLIT". All but the last
    may lie at URLs.

    Raises:
      ShardError: it is none of these, holds no images, or one whose key or class a data set cannot hold.
    """
    text = _text(what)
    source = next(kind for kind in KINDS if kind.is_meant(text)).open(text, reading)
    check_keys(source)
    return source


def check_output(what: str | Path, out: Path | str, called: str = "images", taken: str = "a class") -> None:
    """ShardError if the data set ``out`` would lie in the folder ``what``, and be taken for a class of it the next time."""
    text = _text(what)
    if next(kind for kind in KINDS if kind.is_meant(text)) is not KINDS[-1]:
        return
    folder, out = as_place(text), as_place(out)
    if isinstance(folder, Path) and isinstance(out, Path):
        inside = out.resolve().is_relative_to(folder.resolve())
    else:
        inside = f"{out}/".startswith(f"{folder}/")
    if inside:
        raise ShardError(
            f"{shown_place(out)}: is the folder of {called} itself: choose another --out"
            if f"{out}".rstrip("/") == f"{folder}".rstrip("/")
            else f"{shown_place(out)}: lies in the folder of {called} {shown_place(folder)}, where it would be taken for "
            f"{taken}: choose another --out",
            kind="usage",
        )


def _text(what: str | Path) -> str:
    """What a user has given, "file://…" as the path that it is. StoreError for what is nearly a URL."""
    text = str(what)
    if not text.startswith(PREFIX):
        for part in text.split("::"):
            if not is_url(part):
                refuse_typos(part)
    return text if is_url(text) else str(as_place(text)) if text.lower().startswith("file://") else text
