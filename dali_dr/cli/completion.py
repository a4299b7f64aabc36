"""dali-dr completion: what a shell wants, to complete commands, options, choices, presets, files and data sets by TAB.

argcomplete asks the command itself, so that what is completed is what this version has.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dali_dr.cli.parser import Parser, say
from dali_dr.errors import DaliDrError

_SHELLS: Final = ("bash", "zsh", "fish", "tcsh")
_ASKED: Final = "_ARGCOMPLETE"  # in the environment: argcomplete's, where a shell asks
_FOLDERS: Final = ("DIR", "FOLDER", "OUT", "SRC", "DST", "IMAGES")  # metavars
_SETS: Final = ("SET", "MODEL|SET")
_INSTALL: Final = """\
to have it in every shell, put this line into
  ~/.bashrc                     eval "$(dali-dr completion bash)"
  ~/.zshrc, after compinit      eval "$(dali-dr completion zsh)"
  ~/.config/fish/config.fish    dali-dr completion fish | source
  ~/.tcshrc                     eval `dali-dr completion tcsh`
"""


def add(commands: Any) -> None:
    """Adds the subcommand."""
    completion = commands.add_parser(
        "completion",
        help="print the shell script that completes this command by TAB",
        description="Print the shell script that completes this command by TAB (pip install 'dali_dr[completion]').",
        epilog=_INSTALL,
    )
    completion.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    completion.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> None:
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise DaliDrError("completion: argcomplete is not installed: pip install 'dali_dr[completion]'") from None
    say(shellcode(["dali-dr"], shell=options.shell), lines=True)


def complete(parser: Parser) -> None:
    """Answers the shell that asks for completions, and ends the process; else does nothing."""
    if _ASKED not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:  # the shell asks for what was uninstalled
        return
    for action in _actions(parser):
        completer = _completer(action)
        if completer is not None:
            action.completer = completer  # type: ignore[attr-defined]  # argcomplete's name
    argcomplete.autocomplete(parser)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All options, of subcommands, too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)
        else:
            yield action


def _completer(action: argparse.Action) -> Any:
    """What completes values of the option; None: its choices, or files."""
    from argcomplete.completers import DirectoriesCompleter

    if action.dest == "spec":
        return lambda prefix, **_: [*_presets(), *_files(prefix, ".json")]
    if action.dest == "config":
        return lambda prefix, **_: _files(prefix, ".yaml", ".yml")
    if action.dest in ("teacher", "model"):
        return lambda prefix, **_: [f"efficientnet-lite{number}" for number in range(3)]
    if action.metavar in _SETS:
        return lambda prefix, **_: _sets(prefix)
    return DirectoriesCompleter() if action.metavar in _FOLDERS else None


def _presets() -> list[str]:
    from dali_dr.augment.spec import PRESETS

    return list(PRESETS)


def _entries(prefix: str) -> list[Path]:
    folder = Path(prefix if prefix.endswith("/") else os.path.dirname(prefix) or ".")  # noqa: PTH120  (".": no parent)
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _files(prefix: str, *suffixes: str) -> list[str]:
    """Files of these kinds, and folders that may hold some."""
    return [
        f"{path}{'/' * path.is_dir()}" for path in _entries(prefix) if path.is_dir() or path.suffix.lower() in suffixes
    ]


def _sets(prefix: str) -> list[str]:
    """Data sets; where there are none, folders that may hold some."""
    folders = [path for path in _entries(prefix) if path.is_dir()]
    sets = [str(path) for path in folders if (path / "dataset.json").is_file() and str(path).startswith(prefix)]
    return sets or [f"{path}/" for path in folders]
