"""Names of objects by patterns, as `glob` has them for files: "*" within a name, "**" for any folders, "[…]"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from dali_dr.errors import ShardError
from dali_dr.sources.fetched import Remote
from dali_dr.sources.remote import listed, split, store_of
from dali_dr.store.url import shown_url

_MAGIC: Final = re.compile(r"[*\[]")
_CLASS: Final = re.compile(r"\[(!?)(\]?[^\]/]*)\]")


def has_magic(url: str) -> bool:
    """Whether ``url`` is a pattern. "?" is none: it begins a query."""
    return _MAGIC.search(url) is not None


def matching(pattern: str) -> Iterator[Remote]:
    """The objects that ``pattern`` matches, sorted, or the one that it names.

    Raises:
      ShardError: there are none.
    """
    if not has_magic(pattern):
        yield Remote.look(pattern)
        return
    folder, _, rest = pattern.rpartition("/")
    while has_magic(folder):
        folder, _, more = folder.rpartition("/")
        rest = f"{more}/{rest}"
    root, prefix = split(f"{folder}/x")  # the bucket itself is no object
    prefix = prefix[:-1]
    wanted = _pattern(rest)
    found = [
        Remote(f"{root}/{entry.name}", entry.bytes, entry.tag)
        for entry in listed(store_of(root), prefix + _MAGIC.split(rest)[0])
        if wanted.fullmatch(entry.name.removeprefix(prefix)) and not entry.name.endswith("/")
    ]
    if not found:
        raise ShardError(f"{shown_url(pattern)}: no object matches: correct the name, or copy it there", kind="usage")
    yield from sorted(found, key=lambda file: file.url)


def _pattern(text: str) -> re.Pattern[str]:
    """``text`` as a regular expression. As with `glob`, "*" and "**" match no hidden names."""
    out: list[str] = []
    for part in text.split("/"):
        if part == "**":
            out.append(r"(?:[^/.][^/]*/)*")
            continue
        made, at = "", 0
        while at < len(part):
            match = _CLASS.match(part, at)
            if part[at] == "*":
                made, at = made + ("(?!\\.)[^/]*" if not at else "[^/]*"), at + 1
            elif match:
                inside = match[2].replace("\\", r"\\").replace("^", r"\^")
                inside = rf"\]{inside[1:]}" if inside.startswith("]") else inside
                made, at = f"{made}[{'^' if match[1] else ''}{inside}]", match.end()
            else:
                made, at = made + re.escape(part[at]), at + 1
        out.append(f"{made}/")
    try:
        return re.compile("".join(out).removesuffix("/"), re.DOTALL)
    except re.error as error:
        raise ShardError(
            f"{text}: cannot be understood as a pattern ({error}): write '*' for any characters", kind="usage"
        ) from error
