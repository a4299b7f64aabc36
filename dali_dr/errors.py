"""The one family of errors that dali_dr raises, and how foreign text is shown.

A message says what is wrong, where, and what to do, in one line. Names of files, keys, classes and what libraries say of
damaged files come from elsewhere: whatever acts on a terminal or a log in them is printed escaped. The rule is applied
where texts leave: in `DaliDrError`, in `ShownFormatter` for logs, in `dali_dr.cli.common.say` for prints.
"""

from __future__ import annotations

import difflib
import errno
import logging
import re
import reprlib
from collections.abc import Iterable
from types import TracebackType
from typing import Any, ClassVar, Final

# Controls (C0, DEL, C1), lone surrogates, and what changes lines or their direction: Arabic letter mark, left-to-right
# and right-to-left marks, line and paragraph separators, embeddings, overrides, isolates; byte order mark, annotations.
_HIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]"
)

_OF_NAMES: Final = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG,
}  # fmt: skip
_NEAR: Final = 0.65  # likeness of names from which on one may be meant for the other, as difflib measures it


def shown(text: object) -> str:
    """``text`` in one line that any terminal and log can show: control characters and the like as \\xNN or \\uNNNN.

    What is shown once stays as it is, so texts may pass here any number of times.
    """
    return _HIDDEN.sub(_escape, str(text))


def brief(value: object, limit: int = 100) -> str:
    """What ``value`` is, in up to ``limit`` characters, whatever it is: deep, long, or without a repr."""
    shorten = reprlib.Repr()
    shorten.maxstring = shorten.maxother = shorten.maxlong = limit
    try:
        text = shorten.repr(value)
    except Exception:  # a number of more digits than Python prints, someone's __repr__
        text = f"a {type(value).__name__}"
    return shown(text if len(text) <= limit else text[:limit] + "…")


def meant(word: str, known: Iterable[str]) -> str:
    """ ": did you mean X or Y?" of the names that are nearly ``word``, for the end of a message; "" where none is."""
    names = {name.lower(): name for name in known}
    close = [names[name] for name in difflib.get_close_matches(word.lower(), names, 3, _NEAR)]
    if not close:
        return ""
    return f": did you mean {', '.join(close[:-1]) + ' or ' * (len(close) > 1) + close[-1]}?"


def kind_of(error: OSError) -> str | None:
    """The `DaliDrError.kind` of what the system refuses of a path that a user has named: whether another is the remedy."""
    return "usage" if error.errno in _OF_NAMES else None


class ShownFormatter(logging.Formatter):
    """A formatter of log records in one line each, `shown`; tracebacks follow in lines of their own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The record's line."""
        return shown(super().formatMessage(record))

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        """The traceback, line by line."""
        return "\n".join(map(shown, super().formatException(ei).split("\n")))


class DaliDrError(Exception):
    """Base of all errors raised by dali_dr. Its message is `shown`; the attributes are as they are.

    Attributes:
      kind: what is at fault: "usage": what an argument or option says or names, and another one is the remedy; in
        training, what `dali_dr.loader.faults.Fault` says. This and the following are None where unknown.
      sample: number of the sample.
      key: of the sample.
      shard: path of the tar.
      offset: of the member's data in the tar, in bytes.
      reason: what is wrong with the sample, without its key.
      remedy: what to do about it.
    """

    _KIND: ClassVar[str | None] = None  # where none is given

    def __init__(
        self,
        *args: object,
        kind: str | None = None,
        sample: int | None = None,
        key: str | None = None,
        shard: str | None = None,
        offset: int | None = None,
        reason: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(*(shown(a) if isinstance(a, str) else a for a in args))
        self.kind = kind or self._KIND
        self.sample = sample
        self.key = key
        self.shard = shard
        self.offset = offset
        self.reason = reason
        self.remedy = remedy


class SpecError(DaliDrError, ValueError):
    """An augmentation specification that cannot be drawn or replayed."""

    _KIND = "usage"


class RecordError(DaliDrError, ValueError):
    """A reinforcement record (one image's stored views) that is malformed or cannot be encoded."""


class ShardError(DaliDrError, ValueError):
    """A data set on disk (shards, index, manifest) that is missing, damaged or inconsistent, or a sample it cannot hold."""


class ConvertError(ShardError):
    """A file of a published set that is damaged, hostile, or not what its authors write."""


class PluginError(DaliDrError, ImportError):
    """The DALI plugin is not built, or was built for another DALI version."""


def _escape(match: re.Match[Any]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
