"""Lists of images in a file, CSV with a header or JSON Lines: rows of text, checked one by one as they are read."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, overload

from dali_dr.errors import ShardError, brief
from dali_dr.regular import open_regular
from dali_dr.shards.index_layout import MAX_LABEL

MAX_LINE: Final = 1 << 20  # bytes: paths have up to 4,096, and a line may hold columns besides
_COLUMNS: Final = ("path", "label", "key")


class Row(NamedTuple):
    """An image: its path, its label as text, its key ("": none was given)."""

    path: str
    label: str
    key: str


class Numbers(Sequence[str]):
    """The texts "0" … "count - 1": names of classes that have none, of which a label may claim a billion."""

    def __init__(self, count: int) -> None:
        self._range = range(count)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [str(number) for number in self._range[item]]
        return str(self._range[item])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as lists have none


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


def numbered(path: Path, labels: Sequence[str]) -> tuple[list[int], Sequence[str]]:
    """Class numbers, and names by class number: labels that are all whole numbers are those, others are names.

    Raises:
      ShardError: some are whole numbers, and others numbers that are none, or one is too large.
    """
    whole = [label.isascii() and label.isdigit() for label in labels]
    if all(whole):
        for row, label in enumerate(labels, start=1):
            if len(label) > 10 or int(label) > MAX_LABEL:
                raise ShardError(f"{path}: image {row}: the label {brief(label)} is above {MAX_LABEL}")
        numbers = [int(label) for label in labels]
        return numbers, Numbers(max(numbers) + 1)
    if any(whole):  # a 1.0, -1 or nan among numbers is a mistake, not a name
        for row, label in enumerate(labels, start=1):
            if not whole[row - 1] and _is_number(label):
                raise ShardError(f"{path}: image {row}: the label {brief(label)} is no class number, as others are")
    names = sorted(set(labels))
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[label] for label in labels], names


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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
