"""The parser of the command line: argparse's, whose faults are one line that says what was nearly meant."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO, cast

from dali_dr.errors import meant, shown

BAD_USAGE: Final = 2  # exit status
_GIVEN_TWICE: Final = re.compile(r"argument FOLDER: not allowed with argument --input")
_PATTERN: Final = (
    "a pattern is put in quotes, or the shell makes many names of it: --input 't-*.tar' or 't-{000..146}.tar'"
)


class Usage(SystemExit):
    """Bad usage, which has been told on stderr. Its code is exit status 2.

    Attributes:
      message: that was told.
    """

    def __init__(self, message: str) -> None:
        super().__init__(BAD_USAGE)
        self.message = message


class Help(argparse.HelpFormatter):
    """Help whose lines that begin with two blanks stay as they are: examples to copy."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(line if line.startswith("  ") else fill(line, width, indent) for line in text.splitlines())


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, show what was typed, and name what is nearly that."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Help, **options})
        self.takes_config = False  # whether it has --config FILE, see `dali_dr.cli.config`

    def error(self, message: str) -> NoReturn:
        """The message on stderr, in one line; ends with exit status 2."""
        if _GIVEN_TWICE.search(message):
            message = f"FOLDER and --input: give one of them; {_PATTERN}"
        text = shown(message)
        say(f"{self.prog}: {text} (see {self.prog} --help)", file=sys.stderr)
        raise Usage(text)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but nothing is left over: what is not known is an error of the subcommand that was given it."""
        words = sys.argv[1:] if args is None else list(args)
        if "_ARGCOMPLETE" in os.environ:  # which asks about words that are not there yet
            return super().parse_known_args(words, namespace)
        if self._subparsers is not None:
            if not words:
                self.print_help()
                self.exit()
            self._refuse_before_command(words)
            return super().parse_known_args(words, namespace)
        settle = self._configure(words)
        self._refuse_unknown(words)
        found, left = cast("tuple[argparse.Namespace, list[str]]", super().parse_known_args(words, namespace))
        if left:
            pattern = f"; {_PATTERN}" if any(Path(word).suffix in (".tar", ".parquet") for word in left) else ""
            self.error(f"there is no place for {' '.join(left[:3])}{' …' * (len(left) > 3)}{pattern}")
        settle(found)
        return found, []

    def _refuse_before_command(self, words: Sequence[str]) -> None:
        """Tells of options before the subcommand that are not there, or are the subcommand's."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        name = words[0].partition("=")[0]
        if name.startswith("-") and not any(option.startswith(name) for option in self._option_string_actions):
            other = meant(name, known) or ": options go after the command, as in dali-dr info SET --json"
            self.error(f"there is no option {name} before a command{other}")
        if name in ("help", "version"):
            self.error(f"there is no command '{name}': did you mean {self.prog} --{name}?")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse's, in what the stream can encode; what cannot be written is an error, as of all else that is printed."""
        stream = sys.stderr if file is None else file
        if not message or stream is None:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            stream.write(message.encode(encoding, "backslashreplace").decode(encoding))
        except BrokenPipeError:
            if stream is sys.stdout:
                raise ReaderGone from None

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Tells of options that there are not before argparse tells what is missing, for the reason that it is mistyped."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in words:
            name = word.partition("=")[0]
            if word == "--":
                return
            if len(name) > 2 and name.startswith("--") and not any(option.startswith(name) for option in known):
                self.error(f"there is no option {name}{meant(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        if action.metavar == "COMMAND":
            raise argparse.ArgumentError(None, f"there is no command {value!r}{meant(str(value), known)}")
        want = meant(str(value), known) or f": want one of {', '.join(known)}"
        raise argparse.ArgumentError(action, f"there is no {value!r}{want}")

    def _configure(self, words: Sequence[str]) -> Any:
        """What `dali_dr.cli.config` does for --config, where this parser has that."""
        if not self.takes_config:
            return lambda found: None
        from dali_dr.cli.config import configure

        return configure(self, words)


class ReaderGone(Exception):
    """Whoever read stdout has closed it."""


def say(text: str, file: TextIO | None = None, end: str = "\n", *, lines: bool = False) -> None:
    """Prints ``text``, `shown`, in what the stream can encode. All that subcommands print goes through here.

    Args:
      text: one line; with ``lines`` several.
      file: None: stdout.
      end: after it.
      lines: ends of lines in it are meant.

    Raises:
      ReaderGone: nobody reads stdout any more. What nobody reads of stderr is lost.
    """
    stream = sys.stdout if file is None else file
    if stream is None:  # as of a process that was started without
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        ready = "\n".join(map(shown, text.split("\n"))) if lines else shown(text)
        print(ready.encode(encoding, "backslashreplace").decode(encoding), file=stream, end=end)
    except BrokenPipeError:
        if stream is sys.stdout:
            raise ReaderGone from None
