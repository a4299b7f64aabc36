"""Lists of images in a file, CSV with a header or JSON Lines: rows of text, checked one by one as they are read."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from dali_dr.errors import ShardError, brief
from dali_dr.regular import open_regular, read_regular
from dali_dr.shards.sample import MAX_IMAGE_BYTES
from dali_dr.sources.classes import numbered
from dali_dr.sources.source import READING, Reading, keys_of

MAX_LINE: Final = 1 << 20  # bytes: paths have up to 4,096, and a line may hold columns besides
_COLUMNS: Final = ("path", "label", "key")


class Row(NamedTuple):
    """An image: its path, its label as text, its key ("": none was given)."""

    path: str
    label: str
    key: str


@dataclasses.dataclass(frozen=True)
class FileList:
    """Images listed in a file: CSV with a header or JSON Lines, with "path", "label" and, if wanted, "key".

    Paths are relative to the list's folder, or absolute. Labels that are all whole numbers are class numbers; others
    are names, which are numbered in sorted order. A file that is listed and cannot be read is told of when it is read.

    Attributes:
      files: image files.
      keys: those given, else the paths without extension, made safe.
      labels: class numbers.
      class_names: names by class number.
      notes: see `Source`.
    """

    files: Sequence[Path]
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", [file.absolute() for file in self.files])  # as in `ImageFolder`

    @classmethod
    def load(cls, path: Path, reading: Reading = READING) -> FileList:
        """Reads the list.

        Raises:
          ShardError: naming the line that cannot be understood.
        """
        rows = read_rows(path)
        labels, class_names = numbered(path, [row.label for row in rows])
        paths = [Path(row.path) for row in rows]
        given = [row.key for row in rows]
        keys = given if any(given) else keys_of([p.relative_to(p.anchor) for p in paths])
        return cls([path.parent / p for p in paths], keys, labels, class_names)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> bytes:
        return read_regular(self.files[number], MAX_IMAGE_BYTES)

    def where(self, number: int) -> str:
        return str(self.files[number])


def read_rows(path: Path) -> list[Row]:
    """The rows of the list at ``path``, at least one.

    Raises:
      ShardError: naming the line that cannot be understood.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            reader = _csv_rows if path.suffix == ".csv" else _json_rows
            rows = [_checked(path, line, row) for line, row in reader(path, _lines(path, file))]
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not rows:
        raise ShardError(f"{path}: lists no images; expected a header path,label and a line for each (or JSON Lines)")
    return rows


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """The lines of a list, none of which may be long."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise ShardError(f"{path}: line {number}: has more than {MAX_LINE} bytes, so it is no list of images")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ShardError(f"{path}: line {number}: not UTF-8 ({error.reason}); save the list as UTF-8") from error
        if "\0" in text:
            raise ShardError(f"{path}: line {number}: holds a NUL byte, so it is no list of images")
        yield text


def _csv_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    try:
        for row in reader:
            if not row:
                continue
            if not header:
                header = row
                for name in _COLUMNS:
                    if header.count(name) > 1:
                        raise ShardError(f"{path}: line {reader.line_num}: has {header.count(name)} columns {name}")
            elif len(row) > len(header):
                raise ShardError(
                    f"{path}: line {reader.line_num}: has {len(row)} fields, the header {len(header)}; quote a path "
                    "that holds a comma"
                )
            else:
                yield reader.line_num, dict(zip(header, row, strict=False))
    except csv.Error as error:
        raise ShardError(f"{path}: line {reader.line_num}: not CSV: {error}") from error


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
        except RecursionError as error:
            raise ShardError(f"{path}: line {number}: not JSON of a list: it is nested too deeply") from error
        except ValueError as error:
            raise ShardError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ShardError(f"{path}: line {number}: want an object with path and label, got {brief(row)}")
        yield number, row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{brief([name for name, _ in pairs])}: a name comes twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _checked(path: Path, line: int, row: Mapping[str, Any]) -> Row:
    """A row of three texts that are what a name of a file, a class and a sample may be."""
    for name in ("path", "label"):
        if row.get(name) in (None, ""):
            raise ShardError(f"{path}: line {line}: has no {name}: {brief(dict(row), 200)}")
    texts = []
    for name in _COLUMNS:
        value = row.get(name)
        value = "" if value is None else value
        if not isinstance(value, str) and (name == "path" or isinstance(value, bool) or not isinstance(value, int)):
            want = "a text" if name == "path" else "a text or a whole number"
            raise ShardError(f"{path}: line {line}: {name} is {brief(value)}, want {want}")
        text = str(value)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise ShardError(f"{path}: line {line}: {name} is {brief(text)}, which holds NUL or half a character")
        texts.append(text)
    if not Path(texts[0]).name:
        raise ShardError(f"{path}: line {line}: path is {brief(texts[0])}, which names no file")
    return Row(*texts)
