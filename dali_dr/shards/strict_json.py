"""JSON from files that others may have damaged or made up: one error, soon, whatever the bytes are."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Final, NoReturn

from dali_dr.errors import ShardError
from dali_dr.shards.reading import opened, read_fully

MAX_BYTES: Final = 64 << 20  # a manifest of 100,000 shards has 25 MB
_MAX_NODES: Final = 1_000_000  # objects and lists; likewise, 100,000
_REMEDY: Final = "restore it from a copy"


def load_json(path: Path) -> Any:
    """The value in ``path``: UTF-8 without a byte order mark, no name twice in an object, every number finite.

    Raises:
      ShardError: naming the file, if it cannot be read or is anything else.
    """
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > MAX_BYTES:
            raise ShardError(f"{path}: has {size} bytes, want at most {MAX_BYTES}; {_REMEDY}")
        text = read_fully(descriptor, path, 0, size)
    return parse_json(text, str(path))


def parse_json(text: bytes, where: str) -> Any:
    """As `load_json`, of bytes that are from ``where``."""
    if text.count(b"{") + text.count(b"[") > _MAX_NODES:
        raise ShardError(f"{where}: holds more than {_MAX_NODES} objects and lists; {_REMEDY}")
    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise ShardError(f"{where}: not JSON that is read here (nested too deeply); {_REMEDY}") from None
    except ValueError as error:  # of JSON, UTF-8, and integers of thousands of digits
        raise ShardError(f"{where}: not JSON ({error}); {_REMEDY}") from None


def canonical(value: Any) -> bytes:
    """The one form of a JSON value that a checksum is taken of: names sorted, no white space, UTF-8, nothing escaped that
    need not be, floats as the shortest text that reads back the same.

    Raises:
      ValueError: for NaN, infinity and text that is not Unicode.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r:.80} stands twice in an object")
    return result


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is beyond the range of numbers")
    return value
