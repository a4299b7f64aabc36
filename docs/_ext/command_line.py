"""The reference of the command line, written from the parser: `{command-line}` becomes a section per subcommand."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

from dali_dr.cli import make_parser

MARK = ":::{command-line}\n:::"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|$~])")
_PAGE = re.compile(r"docs/([\w/]+)\.md")
_MARKED = re.compile(r"((?<![\w`-])--?[a-z][\w-]*|docs/[\w/]+\.md)")  # an option, or a page of these
_WIDTH = 96  # columns of a usage line


def subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """The subcommands of a parser with their one-line help, without other spellings of the same."""
    found: dict[str, tuple[argparse.ArgumentParser, str]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                if name in helps:
                    found[name] = (sub, helps[name])
    return found


def reference() -> str:
    """Markdown of all subcommands."""
    parser = make_parser()
    rows = [
        f"| [`dali-dr {name}`](#dali-dr-{name}) | {prose(text)} |" for name, (_, text) in subcommands(parser).items()
    ]
    table = "\n".join(["| command | |", "|---|---|", *rows])
    own = "\n\n".join(_groups(parser))
    return "\n\n".join([table, own, *_sections(parser, 2)]) + "\n"


def prose(text: str) -> str:
    """A help text as Markdown: what Markdown would take for marks is shown, options are code."""
    parts = _MARKED.split(" ".join(text.split()))
    return "".join(_SPECIAL.sub(r"\\\1", part) if at % 2 == 0 else _marked(part) for at, part in enumerate(parts))


def _marked(text: str) -> str:
    page = _PAGE.fullmatch(text)
    return f"[{text}]({page[1]}.md)" if page else f"`{text}`"


def _sections(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    for sub, help_text in subcommands(parser).values():
        yield f"{'#' * level} {sub.prog}"
        yield prose(sub.description or help_text)
        usage = argparse.HelpFormatter(sub.prog, width=_WIDTH)
        usage.add_usage(sub.usage, sub._actions, sub._mutually_exclusive_groups, prefix="")
        yield f"```text\n{usage.format_help().rstrip()}\n```"
        yield from _groups(sub)
        if sub.epilog:
            yield f"```text\n{sub.epilog.strip()}\n```"
        yield from _sections(sub, level + 1)


def _groups(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)
        ]
        if not actions or all(isinstance(action, argparse._HelpAction) for action in actions):
            continue
        title = {"positional arguments": "Arguments", "options": "Options"}.get(
            group.title or "", group.title or "Options"
        )
        yield f"**{prose(title[0].upper() + title[1:])}**"
        if group.description:
            yield prose(group.description)
        yield "\n\n".join(
            _entry(formatter, action) for action in actions if not isinstance(action, argparse._HelpAction)
        )


def _entry(formatter: argparse.HelpFormatter, action: argparse.Action) -> str:
    """A term of a definition list: how the option is written; below it, its help."""
    text = formatter._expand_help(action) if action.help else ""
    if action.choices is not None and action.metavar is not None:
        text += f" Choices: {', '.join(map(str, action.choices))}."
    term = " ".join(formatter._format_action_invocation(action).split())
    return f"`{term}`\n: {prose(text)}" if text else f"`{term}`"


def expand(app: Sphinx, docname: str, content: list[str]) -> None:
    """source-read: puts the reference in the place of its mark."""
    if MARK in content[0]:
        content[0] = content[0].replace(MARK, reference())


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", expand, priority=300)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
