"""The public names of dali_dr: on which page each is documented, and what docstrings refer to.

`{public-names} ROOM …` becomes the documentation of every name of ``dali_dr.__all__`` that these rooms (modules) define,
so that a new name is documented without a line here; `{public-module} NAME` that of a module and its ``__all__``.
`{public-table}` becomes a table of all names. In docstrings,
`name` is a reference where the name is documented, and code where it is not; a reference in the form ``dali_dr.…`` that
leads nowhere in the code is a warning.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import re
import textwrap
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_annotation, desc_parameter, desc_returns, desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

import dali_dr

_ROOMS = re.compile(r"^:::\{public-names\} (.+)\n:::$", re.MULTILINE)
_RST = re.compile(r"^:::(\{eval-rst\}.*?^):::$", re.MULTILINE | re.DOTALL)
_MODULE = re.compile(r"^:::\{public-module\} (\S+)\n:::$", re.MULTILINE)
_TABLE = ":::{public-table}\n:::"
_PAGE = re.compile(r"(?<![\w/`])docs/([\w/]+)\.md")
_ARRAY = re.compile(
    r"(?:~?numpy\.)?ndarray\[tuple\[(?:~?typing\.)?Any, \.\.\.\], (?:~?numpy\.)?dtype\[((?:[^][]|\[[^][]*\])*)\]\]"
)
_FIELDS = ("attribute", "data", "property")
_EXAMPLE = re.compile(r"Examples?:")
_TITLE = re.compile(r"[A-Z][\w' ]*:")
_AT = re.compile(r"(?<![\w`])([A-Za-z]\w*@\w+)(?![\w`])")  # NAME@FILE, which reStructuredText takes for a mail address
_OPTION = re.compile(r"(?<![\w`'\"-])(--[a-z][\w-]*)(?![\w`'\"])")


@functools.cache
def homes() -> dict[str, str]:
    """The public names that are no modules, with the modules that define them."""
    values = {name: getattr(dali_dr, name) for name in dali_dr.__all__}
    return {name: value.__module__ for name, value in values.items() if not inspect.ismodule(value)}


def documented(rooms: list[str]) -> list[str]:
    """The public names that modules within ``rooms`` define, in alphabetical order."""
    return sorted(name for name, home in homes().items() if any(f"{home}.".startswith(f"{room}.") for room in rooms))


def expand(app: Sphinx, docname: str, content: list[str]) -> None:
    """source-read: puts documentation in the place of marks."""
    text = _ROOMS.sub(lambda m: "\n\n".join(_entry("dali_dr", name) for name in documented(m[1].split())), content[0])
    text = _MODULE.sub(lambda m: _module(m[1]), text)
    text = _RST.sub(r"```\1```", text)  # which MyST knows as a fence of backticks alone
    content[0] = text.replace(_TABLE, _table()) if _TABLE in text else text


def _module(name: str) -> str:
    entries = [_entry(name, member) for member in importlib.import_module(name).__all__]
    return "\n\n".join([f"```{{eval-rst}}\n.. automodule:: {name}\n```", *entries])


def _entry(module: str, name: str) -> str:
    value = getattr(importlib.import_module(module), name)
    if not inspect.isclass(value):
        body = f".. autofunction:: {module}.{name}"
    elif issubclass(value, Exception):
        body = f".. autoexception:: {module}.{name}\n   :members:\n   :show-inheritance:"
    else:
        body = f".. autoclass:: {module}.{name}\n   :members:"
    return f"## {name}\n\n```{{eval-rst}}\n{body}\n```"


def _table() -> str:
    rows = ["| name | |", "|---|---|"]
    for name in sorted(dali_dr.__all__, key=str.lower):
        value = getattr(dali_dr, name)
        first = (inspect.getdoc(value) or "").strip().split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        role = "mod" if inspect.ismodule(value) else "obj"
        rows.append(f"| {{py:{role}}}`dali_dr.{name}` | {re.sub('`+', '`', first)} |")
    return "\n".join(rows)


def mark_up(app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """autodoc-process-docstring, before napoleon: examples become code, named pages links, options of commands code."""
    if what == "module":  # a module that can be called shows the function's text, too, which stands below it here
        call = re.compile(rf"{name.rpartition('.')[2]}\(.* of dali_dr[\w.]*:")
        end = next((at for at, line in enumerate(lines) if call.match(line)), len(lines))
        del lines[end:]
    lines[:] = _with_code(lines)
    known = [*app.config.napoleon_custom_sections]
    own = [(title, "params_style") for title in _own_sections(lines)]
    app.config.napoleon_custom_sections = [*known, *(entry for entry in own if entry not in known)]
    lines[:] = [
        _AT.sub(r"``\1``", _OPTION.sub(r"``\1``", _PAGE.sub(r":doc:`docs/\1.md </\1>`", line))) for line in lines
    ]
    if what in _FIELDS:
        _set[name] = GoogleDocstring(list(lines), app.config, app, "function", name, of, options).lines()


_set: dict[
    str, list[str]
] = {}  # docstrings of fields, as they are to be: napoleon takes their first line for TYPE: TEXT


def restore(app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """autodoc-process-docstring, after napoleon: puts the docstrings of fields back."""
    if name in _set:
        lines[:] = _set.pop(name)


def add_places(app: Sphinx, doctree: nodes.document) -> None:
    """doctree-read: links may use the package's name of a thing or its module's, as viewcode does; types are short."""
    modules = sorted(set(homes().values()), key=len, reverse=True)
    for node in doctree.findall(desc_signature):
        for place in [i for i in node["ids"] if i.startswith("dali_dr.")]:
            first, _, rest = place.removeprefix("dali_dr.").partition(".")
            if first in homes():
                other = f"{homes()[first]}.{first}" + (f".{rest}" if rest else "")
            elif module := next((m for m in modules if place.startswith(f"{m}.")), None):
                other = f"dali_dr.{place.removeprefix(module + '.')}"
            else:
                continue
            node["ids"].append(other)
        for part in node.findall(lambda n: isinstance(n, desc_annotation | desc_parameter | desc_returns)):
            text = "".join(child.astext() for child in part.children)
            if (shorter := _ARRAY.sub(r"NDArray[\1]", text)) != text:
                part.clear()
                part += nodes.Text(shorter)


def _own_sections(lines: list[str]) -> list[str]:
    """The titles of groups of arguments that are none of Google's sections: "Schedule:", with "name: text" below it."""
    pairs = itertools.pairwise([*lines, ""])
    titles = [line[:-1] for line, below in pairs if _TITLE.fullmatch(line) and re.match(r" +\*{0,2}\w[\w, ]*: ", below)]
    return [title for title in titles if title.lower() not in GoogleDocstring("")._sections]


def _with_code(lines: list[str]) -> list[str]:
    """The lines with indented paragraphs, of the text or of a section "Example:", marked as Python."""
    out: list[str] = []
    at = 0
    while at < len(lines):
        if not lines[at].startswith("  ") or not _begins_code(out):
            out.append(lines[at])
            at += 1
            continue
        end = next((n for n in range(at, len(lines)) if lines[n] and not lines[n].startswith(" ")), len(lines))
        code = textwrap.dedent("\n".join(lines[at:end])).strip("\n").split("\n")
        shift = "  " if _EXAMPLE.fullmatch(out[-1]) else ""  # the code of a section stays in it
        if code[0].startswith((">>>", "..")):
            out += [*lines[at:end]]
        else:
            out += [f"{shift}.. code-block:: python", "", *(f"{shift}   {line}" for line in code), ""]
        at = end
    return out


def _begins_code(before: list[str]) -> bool:
    """Whether an indented line after these is code: after "Example:", or after a blank line below a paragraph."""
    if not before or _EXAMPLE.fullmatch(before[-1]):
        return bool(before)
    last = next((line for line in reversed(before) if line), " ")
    return not before[-1] and not last.startswith((" ", "- ", "* ", "..")) and not _TITLE.fullmatch(last)


def hide_overloads(app: Sphinx) -> None:
    """builder-inited: a class whose constructor is overloaded has one signature here: the one that `help` shows."""
    for name, module in homes().items():
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        analyzer.overloads.pop(f"{name}.__init__", None)


def shorten(
    app: Sphinx, what: str, name: str, of: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """autodoc-process-signature: NDArray[int32] as it was written, not what it stands for."""
    return tuple(text and _ARRAY.sub(r"~numpy.typing.NDArray[\1]", text) for text in (signature, returns))  # type: ignore[return-value]


def missing_reference(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """missing-reference: names by the module that defines them; packages of others; code that is no name at all."""
    target = str(node.get("reftarget", "")).partition("(")[0]
    domain = env.domains["py"]
    if node.get("refdomain") != "py":
        return None
    last = target.rpartition(".")[2]
    public = [f"dali_dr.{last}"] if _home(target) else []
    for name in [*public, f"dali_dr.{target}"]:
        if name in domain.objects:  # type: ignore[attr-defined]
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)
    if target.startswith("dali_dr.") and not _exists(target):
        return None
    return contnode


def _home(target: str) -> bool:
    module, _, last = target.rpartition(".")
    return last in homes() and module in ("", homes()[last])


def _exists(target: str) -> bool:
    """Whether a dotted name is a module of dali_dr, or an attribute of one."""
    parts = target.removesuffix("()").split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            fields = getattr(value, "__annotations__", {})
            if not hasattr(value, part) and part not in fields:
                return False
            value = getattr(value, part, None)
        return True
    return False


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", hide_overloads)
    app.connect("source-read", expand, priority=310)
    app.connect("autodoc-process-docstring", mark_up, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    app.connect("autodoc-process-signature", shorten)
    app.connect("doctree-read", add_places)
    app.connect("missing-reference", missing_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
