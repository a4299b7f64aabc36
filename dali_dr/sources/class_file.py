"""A file that says which classes there are: a name in each line, whose number is that of the line, from 0."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from dali_dr.errors import ShardError, brief
from dali_dr.regular import open_regular

MAX_LINE: Final = 4096  # bytes: a name of a folder has up to 255
_SYNSET_AND_NAME: Final = re.compile(r"(n\d{8})[\s,]+(\S.*)")  # as in Kaggle's LOC_synset_mapping.txt


class ClassFile(NamedTuple):
    """The classes that a file says.

    Attributes:
      numbers: by what a class folder or a label may be called: the line, or the synset that it begins with.
      names: by class number: the lines, without the synset where a name follows it.
    """

    numbers: dict[str, int]
    names: list[str]


def read_class_file(path: Path, most: int) -> ClassFile:
    """The classes in the file at ``path``, of which there may be ``most``. Blank lines at its end do not count.

    Raises:
      ShardError: naming the line that cannot be understood.
    """
    numbers: dict[str, int] = {}
    names: list[str] = []
    blank = 0
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            while line := file.readline(MAX_LINE + 1):
                text = _text(path, len(names) + blank + 1, line)
                if not text:
                    blank += 1
                    continue
                if blank:
                    raise ShardError(
                        f"{path}: line {len(names) + 1} is blank, but others follow: a class has no name", kind="usage"
                    )
                if len(names) == most:
                    raise ShardError(f"{path}: has more than {most} lines, so it is no list of classes", kind="usage")
                match = _SYNSET_AND_NAME.fullmatch(text)
                for name in {text, match[1] if match else text}:
                    if name in numbers:
                        raise ShardError(
                            f"{path}: line {len(names) + 1}: {brief(name)} is in line {numbers[name] + 1} already",
                            kind="usage",
                        )
                    numbers[name] = len(names)
                names.append(match[2] if match else text)
    except OSError as error:
        raise ShardError(
            f"{path}: the file of classes cannot be read: {error.strerror or error}", kind="usage"
        ) from error
    if not names:
        raise ShardError(
            f"{path}: names no classes; expected the name of a class (or a synset) in each line", kind="usage"
        )
    return ClassFile(numbers, names)


def _text(path: Path, number: int, line: bytes) -> str:
    if len(line) > MAX_LINE:
        raise ShardError(
            f"{path}: line {number}: has more than {MAX_LINE} bytes, so it is no name of a class", kind="usage"
        )
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise ShardError(
            f"{path}: line {number}: not UTF-8 ({error.reason}); save the file as UTF-8", kind="usage"
        ) from error
    if "\0" in text:
        raise ShardError(f"{path}: line {number}: holds a NUL byte, so it is no name of a class", kind="usage")
    return text
