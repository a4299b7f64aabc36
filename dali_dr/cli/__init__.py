"""The `dali-dr` command. Exit status: 0 done, 1 an error that was reported, 2 bad usage.

A module per group of subcommands holds their options beside what they do. To add one: a module with ``add``, and a row
in `_GROUPS`. Imports of what a subcommand needs stay inside it, so that --help and bad usage answer at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Final

from dali_dr.cli import bench, convert, copy, evaluate, export, look, pack, reinforce, repair, reshape, tune
from dali_dr.cli.common import Parser, say
from dali_dr.errors import DaliDrError, ShownFormatter

_GROUPS: Final = (
    reinforce,
    pack,
    convert,
    evaluate,
    look,
    tune,
    bench,
    reshape,
    repair,
    copy,
    export,
)  # in the order of --help


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the exit status."""
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)  # what a run tells of its shards goes to its log files
    console.setFormatter(ShownFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[console])
    options = make_parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
    except (DaliDrError, OSError) as error:
        say(f"dali-dr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("dali-dr: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 1
    return status or 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(prog="dali-dr", description="Reinforced data sets: make, inspect, check, look at.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in _GROUPS:
        group.add(commands)
    return parser
