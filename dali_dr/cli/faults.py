"""How a run of the command ends: exit status, what is told of an error, and in which form.

0: done. 1: the command ran, and an error came up, which is told in one line on stderr; of a check, that something is not as
it should be. 2: the command line is wrong, or what it names: another command line is the remedy. 130: interrupted. 141:
whoever read stdout closed it. These two are what a shell says of a process that SIGINT or SIGPIPE ends. With --json stdout
is one JSON document whatever happens: of an error {"error": its line, "kind": …, "status": …} and "where" as far as that
is known.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from dali_dr.cli.parser import BAD_USAGE, ReaderGone, Usage, say
from dali_dr.errors import DaliDrError, brief, kind_of

FAILED: Final = 1
INTERRUPTED: Final = 128 + 2  # SIGINT
READER_GONE: Final = 128 + 13  # SIGPIPE
_USAGE: Final = "usage"  # the kind of error whose status is BAD_USAGE
DEBUG: Final = "DALI_DR_DEBUG"
_REMEDIES: Final = {
    errno.ENOSPC: "free space; the same command goes on",
    errno.EDQUOT: "free space of your quota; the same command goes on",
    errno.EACCES: "look at the permissions (ls -ld), or choose another place",
    errno.EPERM: "look at the permissions (ls -ld), or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "give a file",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def say_json(data: Any) -> None:
    """Prints ``data`` as JSON of ASCII characters, which escapes all others."""
    say(json.dumps(data, indent=1).replace("\x7f", "\\u007f"), lines=True)


def ended(run: Callable[[], int | None], words: Sequence[str], own: bool) -> int:
    """The exit status of ``run``, whose errors are told.

    Args:
      run: the subcommand.
      words: of the command line.
      own: whether this process is the command: then an unexpected exception is told, and its traceback kept in a file;
        else it is the caller's.
    """
    as_json = "--json" in words
    try:
        try:
            return _ended(run, words, own, as_json)
        except OSError as error:  # of stdout, as on a full disk
            return _tell(told_of(error), {"kind": "file", "type": type(error).__name__}, as_json=False)
    except ReaderGone:
        _let_go_of_stdout()
        return READER_GONE


def _ended(run: Callable[[], int | None], words: Sequence[str], own: bool, as_json: bool) -> int:
    try:
        status = run() or 0
        _flush()
        return status
    except ReaderGone:
        raise
    except SystemExit as error:  # bad usage; --help and --version
        if as_json and isinstance(error, Usage):
            say_json({"error": error.message, "kind": _USAGE, "status": BAD_USAGE})
        _flush()
        raise
    except KeyboardInterrupt:
        return _tell(
            "interrupted; the same command goes on where it stopped", {"kind": "interrupted"}, as_json, INTERRUPTED
        )
    except DaliDrError as error:
        _trace()
        return _tell(str(error), _facts(error), as_json)
    except OSError as error:
        _trace()
        kind = _USAGE if _is_of_a_name(error, words) else "file"
        facts = {"kind": kind, "type": type(error).__name__, **_place(error.filename)}
        return _tell(told_of(error), facts, as_json)
    except Exception as error:
        if _is_of_memory(error):
            text = (
                f"out of memory ({brief(str(error))}): take smaller batches (--batch, --batch-size) or fewer --threads"
            )
            return _tell(text, {"kind": "memory"}, as_json)
        if not own:
            raise
        return _tell(_bug(error, words), {"kind": "bug", "type": type(error).__name__}, as_json)


def told_of(error: OSError) -> str:
    """One line of what a file system refuses: where, what, and what to do."""
    if error.errno is None or error.strerror is None:
        return str(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    remedy = _REMEDIES.get(error.errno)
    return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}" + (f": {remedy}" if remedy else "")


def _tell(text: str, facts: dict[str, Any], as_json: bool, status: int | None = None) -> int:
    """Tells of an error. Returns ``status``, or the one of its kind."""
    status = status or (BAD_USAGE if facts["kind"] == _USAGE else FAILED)
    say(f"dali-dr: {text}", file=sys.stderr)
    if as_json:
        say_json({"error": text, "status": status, **facts})
        _flush()
    return status


def _is_of_a_name(error: OSError, words: Sequence[str]) -> bool:
    """Whether the system refuses a path for what it is, which is on the command line as it stands."""
    if kind_of(error) is None or not isinstance(error.filename, (str, bytes)):
        return False
    return os.fsdecode(error.filename) in {part for word in words for part in (word, word.partition("=")[2])}


def _facts(error: DaliDrError) -> dict[str, Any]:
    """What is known of ``error`` beside its message."""
    where = {name: getattr(error, name) for name in ("shard", "key", "sample", "offset")}
    facts: dict[str, Any] = {"kind": error.kind or "data", "type": type(error).__name__}
    if any(value is not None for value in where.values()):
        facts["where"] = {name: value for name, value in where.items() if value is not None}
    return facts | {name: value for name in ("reason", "remedy") if (value := getattr(error, name)) is not None}


def _place(filename: Any) -> dict[str, Any]:
    return {"where": {"path": os.fsdecode(filename)}} if isinstance(filename, (str, bytes)) else {}


def _is_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    kind = getattr(torch, "OutOfMemoryError", MemoryError)
    return isinstance(error, (MemoryError, kind))


def _trace() -> None:
    """The traceback of an error that is told in a line, for whoever asks for it."""
    if os.environ.get(DEBUG):
        traceback.print_exc()


def _bug(error: Exception, words: Sequence[str]) -> str:
    """What to tell of an exception that nobody thought of, whose traceback is kept for a report."""
    text = f"dali-dr {shlex.join(words)}\n{traceback.format_exc()}"
    what = f"{type(error).__name__}: {brief(str(error), 200)}"
    if os.environ.get(DEBUG):
        sys.stderr.write(text)
        kept = "above"
    else:
        try:
            descriptor, path = tempfile.mkstemp(".txt", "dali-dr-")
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            kept = str(Path(path))
        except OSError:
            kept = f"printed with {DEBUG}=1"
    return (
        f"this is a bug of dali-dr: {what}; please report it with what `dali-dr env` prints and the traceback ({kept})"
    )


def _flush() -> None:
    """Ends stdout. What cannot be written is an error, but if nobody reads it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError:
        _let_go_of_stdout()
        raise


def _let_go_of_stdout() -> None:
    """So that Python does not try to write there what is left, as the last it does."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass
