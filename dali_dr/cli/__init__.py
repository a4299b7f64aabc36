"""The `dali-dr` command. Exit statuses: see `dali_dr.cli.faults`.

A module per group of subcommands holds their options beside what they do. To add one: a module with ``add``, and a row
in `_GROUPS`. Imports of what a subcommand needs stay inside it, so that --help and bad usage answer at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Final

from dali_dr.cli import (
    bench,
    completion,
    convert,
    copy,
    env,
    evaluate,
    export,
    look,
    pack,
    preview,
    reinforce,
    repair,
    reshape,
    tune,
)
from dali_dr.cli.completion import complete
from dali_dr.cli.env import Version
from dali_dr.cli.faults import ended
from dali_dr.cli.parser import Parser
from dali_dr.errors import ShownFormatter

_GROUPS: Final = (
    reinforce,
    pack,
    convert,
    evaluate,
    look,
    preview,
    bench,
    tune,
    reshape,
    repair,
    copy,
    export,
    env,
    completion,
)  # in the order of --help


_EPILOG: Final = """\
example:
  dali-dr reinforce imagenet/train --out imagenet-plus --teacher efficientnet-lite0 --views 32

exit status: 0 done; 1 an error, told in a line on stderr (or of a check, that something is wrong); 2 the command line is \
wrong, or what it names; 130 interrupted. \
With --json stdout is one JSON document, of an error, too. DALI_DR_DEBUG=1 prints tracebacks.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the exit status.

    Args:
      arguments: of the command line; None: those of this process, which then is the command: it tells of exceptions that
        nobody thought of, which are else the caller's.
    """
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)  # what a run tells of its shards goes to its log files
    console.setFormatter(ShownFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[console])
    words = sys.argv[1:] if arguments is None else list(arguments)

    def run() -> int | None:
        parser = make_parser()
        complete(parser)
        options = parser.parse_args(words)
        status: int | None = options.run(options)
        return status

    return ended(run, words, own=arguments is None)


def make_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="dali-dr",
        description="Reinforced data sets: make, inspect, check, look at. dali-dr COMMAND --help tells of each.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action=Version, help="print versions of dali_dr, DALI and the plugin")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in _GROUPS:
        group.add(commands)
    return parser
