"""Lists of images in a file, CSV with a header or JSON Lines: rows of text, checked one by one as they are read."""

from __future__ import annotations

import csv
import dataclasses
import errno
import functools
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, NamedTuple

from dali_dr.errors import ShardError, brief, kind_of
from dali_dr.regular import open_regular
from dali_dr.shards.sample import MAX_IMAGE_BYTES, key_fault
from dali_dr.sources.classes import numbered
from dali_dr.sources.fetched import local, told_by_url
from dali_dr.sources.remote import READERS, Gone, below, parent, read_place, shown_place
from dali_dr.sources.sizes import sizes_at
from dali_dr.sources.source import READING, Reading, keys_of
from dali_dr.store.url import StoreError, as_place, is_url

_EXACT: Final = 2.0**53  # whole numbers below are exact as floats
MAX_LINE: Final = 1 << 20  # bytes: paths have up to 4,096, and a line may hold columns besides
_SIZES: Final = threading.Lock()
LABEL: Final = "label"  # the column of labels, unless a user names another


class Row(NamedTuple):
    """An image: its path, its label as text, its key ("": none was given), and the number of its line or row from 1."""

    path: str
    label: str
    key: str
    line: int


@dataclasses.dataclass(frozen=True)
class FileList:
    """Images listed in a file: CSV with a header or JSON Lines, with "path", "label" and, if wanted, "key".

    The list may lie at a URL. Paths are relative to the list's folder, absolute, or URLs. Labels that are all whole
    numbers are class numbers; others are names, which are numbered as `dali_dr.sources.classes.numbered` says. A file
    that is listed and cannot be read is told of when it is read.

    Attributes:
      files: image files, or their URLs.
      keys: those given, else the paths without extension, made safe.
      labels: class numbers.
      class_names: names by class number.
      notes: see `Source`.
    """

    files: Sequence[Path | str]
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        files = [file.absolute() if isinstance(file, Path) else file for file in self.files]  # as in `ImageFolder`
        object.__setattr__(self, "files", files)

    @classmethod
    def load(cls, path: Path | str, reading: Reading = READING) -> FileList:
        """Reads the list, a file or at a URL.

        Raises:
          ShardError: naming the line that cannot be understood, or whose image cannot be stored.
        """
        place = as_place(path)
        with told_by_url():
            rows = read_rows(local(place), reading)
        return cls.of_rows(place, rows, reading)

    @classmethod
    def of_rows(cls, path: Path | str, rows: Sequence[Row], reading: Reading = READING, unit: str = "line") -> FileList:
        """The list of ``rows``, at least one, which were read from ``path`` and checked by `checked_row`.

        Args:
          path: of the list, or its URL.
          rows: its images.
          reading: how it is read.
          unit: what the numbers of rows count, for messages.

        Raises:
          ShardError: naming the row whose image has no class number or key.
        """
        classes = numbered(path, [row.label for row in rows], reading, lambda number: f"{unit} {rows[number].line}")
        given = any(row.key for row in rows)
        keys = _given_keys(path, rows, unit) if given else _keys_of_paths(path, rows, unit)
        folder = parent(path)
        files: list[Path | str] = []
        for row in rows:
            try:
                files.append(below(folder, row.path))
            except StoreError as error:
                raise ShardError(f"{path}: {unit} {row.line}: {error}") from error
        return cls(files, keys, classes.labels, classes.class_names, classes.notes)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> bytes:
        return read_place(self.files[number], MAX_IMAGE_BYTES)

    def where(self, number: int) -> str:
        return shown_place(self.files[number])

    def size(self, number: int) -> int:
        file = self.files[number]
        if isinstance(file, Path):
            return file.stat().st_size
        with _SIZES:  # the first that asks finds out for all
            size = self._sizes[number]
        if size < 0:
            raise Gone(errno.ENOENT, "no such object", shown_place(file))
        return size

    @functools.cached_property
    def _sizes(self) -> dict[int, int]:
        """Bytes of the objects."""
        numbers = [number for number, file in enumerate(self.files) if isinstance(file, str)]
        return dict(zip(numbers, sizes_at([str(self.files[number]) for number in numbers]).tolist(), strict=True))

    @functools.cached_property
    def readers(self) -> int | None:
        """See `dali_dr.sources.source.readers_of`."""
        return READERS if any(isinstance(file, str) for file in self.files) else None


def read_rows(path: Path, reading: Reading = READING) -> list[Row]:
    """The rows of the list at ``path``, at least one.

    Raises:
      ShardError: naming the line that cannot be understood.
    """
    label = reading.label_field or LABEL
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            lines = _lines(path, file)
            found = _csv_rows(path, lines, label) if path.suffix.lower() == ".csv" else _json_rows(path, lines)
            rows = [checked_row(path, line, row, label) for line, row in found]
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror or error}", kind=kind_of(error)) from error
    if not rows:
        raise ShardError(
            f"{path}: lists no images; expected a header path,{label} and a line for each (or JSON Lines)", kind="usage"
        )
    return rows


def checked_row(path: Path | str, line: int, row: Mapping[str, Any], label: str = LABEL, unit: str = "line") -> Row:
    """A row of three texts that are what a name of a file, a class and a sample may be.

    Args:
      path: of the list, for messages.
      line: number of the row.
      row: values by column, of whatever kind; others than path, label and key do not count.
      label: the column of labels.
      unit: what ``line`` counts.

    Raises:
      ShardError: naming the row and the value that is none.
    """
    where = f"{path}: {unit} {line}"
    for name in ("path", label):
        if row.get(name) in (None, ""):
            if name in row:
                hint = "; fill it in, or take the line out"
            elif name == label:
                hint = "; --label-field names another column"
            else:
                hint = f"; want columns path and {label}, which a CSV names in its first line, separated by commas"
            raise ShardError(f"{where}: has no {name}: {brief(dict(row), 200)}{hint}")
    file = _text(where, "path", row["path"], "a text")
    if not Path(file).name:
        raise ShardError(f"{where}: path is {brief(file)}, which names no file")
    value = row[label]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)  # a column of floats, as pandas writes one that had gaps
    return Row(file, _text(where, label, value), _text(where, "key", row.get("key")), line)


def _text(where: str, name: str, value: object, want: str = "a text or a whole number") -> str:
    """``value`` of the column ``name`` as text, None as "". ShardError if it is no text (or number, where that is wanted)."""
    value = "" if value is None else value
    number = isinstance(value, int) and not isinstance(value, bool) and want != "a text"
    if not number and not isinstance(value, str):
        raise ShardError(f"{where}: {name} is {brief(value)}, want {want}")
    text = str(value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ShardError(f"{where}: {name} is {brief(text)}, which holds NUL or half a character")
    return text


def _given_keys(path: Path | str, rows: Sequence[Row], unit: str) -> list[str]:
    for row in rows:
        if not row.key:
            raise ShardError(f"{path}: {unit} {row.line}: has no key, as others have: give all rows one, or none")
        if fault := key_fault(row.key):
            raise ShardError(f"{path}: {unit} {row.line}: {brief(row.key)}: {fault}")
    keys = [row.key for row in rows]
    _distinct(path, rows, keys, unit, "key")
    return keys


def _keys_of_paths(path: Path | str, rows: Sequence[Row], unit: str) -> list[str]:
    paths = [PurePosixPath("/", row.path.split("://", 1)[1]) if is_url(row.path) else Path(row.path) for row in rows]
    for row, file in zip(rows, paths, strict=True):
        if ".." in file.parts:
            raise ShardError(
                f"{path}: {unit} {row.line}: of the path {brief(row.path)} no key can be made, as it leads upwards: add a "
                "column key, whose values name the samples, or write paths without '..' (absolute ones will do)"
            )
    files = [file.as_posix()[len(file.anchor) :] for file in paths]
    _distinct(path, rows, files, unit, "path")
    return keys_of(files)


def _distinct(path: Path | str, rows: Sequence[Row], texts: Sequence[str], unit: str, what: str) -> None:
    """ShardError if one of the rows' ``texts``, which are ``what``, comes twice."""
    if len(set(texts)) == len(texts):
        return
    first: dict[str, Row] = {}
    for row, text in zip(rows, texts, strict=True):
        if (other := first.setdefault(text, row)) is not row:
            raise ShardError(
                f"{path}: {unit} {row.line}: the {what} {brief(text)} is that of {unit} {other.line} already: leave the image "
                "out, or add a column key with distinct values"
            )


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


def _csv_rows(path: Path, lines: Iterator[str], label: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    try:
        for row in reader:
            if not row:
                continue
            if not header:
                header = row
                for name in ("path", label, "key"):
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
