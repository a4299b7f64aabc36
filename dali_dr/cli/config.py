"""--config FILE: options of a subcommand in a YAML file, by their long names. What the command line says wins.

The file is turned into defaults of the parser, of the types that the options have, so that an option is checked by the same
function wherever it is said.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dali_dr.errors import DaliDrError, brief, meant

if TYPE_CHECKING:
    from dali_dr.cli.parser import Parser

_MAX_BYTES: Final = 1 << 20  # of a file of options
_NO_KEYS: Final = ("help", "config")
Settle = Callable[[argparse.Namespace], None]


def add_config(parser: Parser) -> None:
    """Adds --config."""
    parser.takes_config = True
    parser.add_argument(
        "--config",
        type=Path,
        default=None,
        metavar="FILE.yaml",
        help="take options from a YAML file, by their long names (views: 32); those of the command line win",
    )


def configure(parser: Parser, words: Sequence[str]) -> Settle:
    """Makes what the file that --config names in ``words`` says the defaults of ``parser``.

    Returns:
      A function of the namespace that was parsed then, which takes back what the command line has said otherwise.
    """
    path = _named(parser, words)
    if path is None:
        return lambda found: None
    values = _read(parser, path)
    actions = _keys(parser)
    set_to: dict[str, tuple[argparse.Action, Any, Any]] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in actions:
            parser.error(f"{path}: there is no option {key}{meant(name, actions) or ', see --help'}")
        action = actions[name]
        if action.dest in set_to:
            parser.error(f"{path}: {key} is there twice, with - and with _, or by two names")
        set_to[action.dest] = action, _checked(parser, path, key, action, value), action.default
    _refuse_both(parser, path, set_to)
    for action, value, _ in set_to.values():
        _put(parser, action, value)
    return lambda found: _settle(parser, set_to, found)


def _named(parser: Parser, words: Sequence[str]) -> Path | None:
    """The file that --config names."""
    known = [option for option in parser._option_string_actions if option.startswith("--config")]
    given: list[str] = []
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word == "--":
            break
        if name != "--config":
            if len(name) > 3 and any(option.startswith(name) for option in known):
                parser.error(f"{name}: write --config in full")
            continue
        if not equals and number + 1 < len(words):
            value = words[number + 1]
        given.append(value)
    if len(given) > 1:
        parser.error(f"--config is given twice, {' and '.join(given)}: put all options into one file")
    return Path(given[0]) if given and given[0] else None  # argparse says what is missing


def _keys(parser: Parser) -> dict[str, argparse.Action]:
    """The options that a file may say, by name; "out", "label_field". Positional ones by their name in --help, too."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        long = [option[2:].replace("-", "_") for option in action.option_strings if option.startswith("--")]
        names = long if action.option_strings else [action.dest, str(action.metavar).lower()]
        found |= {name: action for name in names if name not in _NO_KEYS}
    return found


def _read(parser: Parser, path: Path) -> dict[str, Any]:
    """The mapping in the file, whose keys are texts."""
    import yaml

    from dali_dr.regular import read_regular
    from dali_dr.strict_yaml import DuplicateKey, strict_yaml

    try:
        value = strict_yaml(read_regular(path, _MAX_BYTES).decode())
    except OSError as error:
        parser.error(f"--config {path}: cannot be read: {error.strerror or error}")
    except DaliDrError as error:
        parser.error(f"--config {error}")
    except DuplicateKey as error:
        parser.error(f"--config {path}: {error}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        parser.error(f"--config {path}: is no YAML: {' '.join(str(error).split())}")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        parser.error(f"--config {path}: want options as a YAML mapping, as in views: 32, a line each")
    return value


def _checked(parser: Parser, path: Path, key: str, action: argparse.Action, value: Any) -> Any:
    """``value`` of the type that the option has."""

    def refuse(want: str) -> None:
        parser.error(f"{path}: {key} is {brief(value)}, want {want}")

    if action.nargs == 0:
        if not isinstance(value, bool):
            refuse("true or false")
        return value
    if isinstance(value, dict) and getattr(action, "takes_mapping", False):
        return value
    several = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*") or isinstance(action.nargs, int)
    if not several:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            refuse(_kind(action))
        return _one(parser, path, key, action, value)
    ones = value if isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, (str, int, float)) for one in ones) or not ones:
        refuse(f"{_kind(action)}, or a list of these")
    if isinstance(action.nargs, int) and len(ones) != action.nargs:
        refuse(f"a list of {action.nargs}")
    return [_one(parser, path, key, action, one) for one in ones]


def _one(parser: Parser, path: Path, key: str, action: argparse.Action, value: Any) -> Any:
    try:
        made = parser._get_value(action, str(value))
        parser._check_value(action, made)
    except argparse.ArgumentError as error:
        parser.error(f"{path}: {key}: {error.message}")
    return made


def _kind(action: argparse.Action) -> str:
    return "a text" if action.type is None else "one value"


def _groups(parser: Parser, dest: str) -> list[argparse._MutuallyExclusiveGroup]:
    return [g for g in parser._mutually_exclusive_groups if any(one.dest == dest for one in g._group_actions)]


def _refuse_both(parser: Parser, path: Path, set_to: dict[str, Any]) -> None:
    """Refuses a file that says two options of which only one may be given."""
    for group in parser._mutually_exclusive_groups:
        both = [one.dest for one in group._group_actions if one.dest in set_to]
        if len(both) > 1:
            parser.error(f"{path}: {' and '.join(both)}: give one of them")


def _put(parser: Parser, action: argparse.Action, value: Any) -> None:
    """Makes ``value`` what the option is unless the command line says it."""
    action.default, action.required = value, False
    if not action.option_strings and action.nargs == "+":
        action.nargs = "*"
    for group in _groups(parser, action.dest):
        group.required = False
    if action.nargs == 0 and value:  # so that the command line can say otherwise
        name = action.option_strings[-1][2:]
        opposite = f"--{name[3:]}" if name.startswith("no-") else f"--no-{name}"
        if opposite not in parser._option_string_actions:
            parser.add_argument(opposite, dest=action.dest, action="store_false", default=value, help=argparse.SUPPRESS)


def _settle(parser: Parser, set_to: dict[str, tuple[argparse.Action, Any, Any]], found: argparse.Namespace) -> None:
    """Takes back what the file says of lists to which the command line added, and of options beside which it said others."""
    for dest, (action, value, before) in set_to.items():
        now = getattr(found, dest)
        if isinstance(action, argparse._AppendAction) and len(now) > len(value):
            setattr(found, dest, now[len(value) :])
        others = [one for group in _groups(parser, dest) for one in group._group_actions if one is not action]
        if any(getattr(found, one.dest) != one.default for one in others):
            setattr(found, dest, before)
