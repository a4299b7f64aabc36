"""URLs of stores: which texts are some, and how they are joined and shown. Nothing secret may be in one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from dali_dr.errors import ShardError

SCHEMES: Final = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https", "hf")
# abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER, as Hadoop writes it.
_CONTAINER_IS_USER: Final = ("abfs", "abfss")
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# What is meant for one: a slash that was forgotten, or a scheme that begins with no letter.
_NEARLY: Final = re.compile(rf"(?:({'|'.join((*SCHEMES, 'file'))}):/?|[^/\\:]*://)(?=[^/]|$)", re.IGNORECASE)
# Controls and lone surrogates, which no store has.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class StoreError(ShardError):
    """A store that cannot be reached, refuses, or does not give what it should."""


class MissingError(StoreError):
    """An object that is not there."""

    _KIND = "usage"


def is_url(text: object) -> bool:
    """Whether ``text`` names an object in a store, not a file on this machine ("file://…" is one of those)."""
    match = _URL.match(text) if isinstance(text, str) else None
    return match is not None and match[1].lower() != "file"


def as_place(text: str | Path) -> Path | str:
    """A folder or file as a Path, a URL as its text without a slash at its end.

    Raises:
      StoreError: the URL's scheme is not known, it names no bucket, it has a user, a password or a query in it, or a part
        that is empty, "." or ".."; or the text is nearly a URL, and no such file is there.
    """
    if not is_url(text):
        if isinstance(text, str) and text.lower().startswith("file://"):
            return Path(unquote(urlsplit(text).path))
        refuse_typos(text)
        return Path(text)
    parts = _split(str(text))
    if parts.scheme.lower() not in SCHEMES:
        raise StoreError(
            f"{shown_url(str(text))}: no store is called {parts.scheme}://; known: {', '.join(SCHEMES)}", kind="usage"
        )
    if not parts.netloc:
        raise StoreError(f"{shown_url(str(text))}: names no bucket: {parts.scheme}://BUCKET/FOLDER", kind="usage")
    user = parts.username if parts.scheme.lower() not in _CONTAINER_IS_USER else None
    if user or parts.password is not None or parts.query or parts.fragment:
        raise StoreError(
            f"{shown_url(str(text))}: has a user, a password or a query in it: give credentials by the environment "
            "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, HF_TOKEN, …)",
            kind="usage",
        )
    place = str(text).rstrip("/")
    if any(part in ("", ".", "..") for part in place.split("/")[3:]):
        raise StoreError(
            f"{shown_url(place)}: has a part that is empty, . or ..: write the folder itself", kind="usage"
        )
    return place


def refuse_typos(text: str | Path) -> None:
    """StoreError for a text that is nearly a URL ("s3:/b/x", "s3:b/x", "3://b/x"), unless a file is called so."""
    match = _NEARLY.match(text) if isinstance(text, str) else None
    if match is None or os.path.lexists(text):
        return
    if match[1] is None:
        raise StoreError(
            f"{shown_url(str(text))}: no store is called {match[0]}; known: {', '.join(SCHEMES)}", kind="usage"
        )
    rest = str(text)[match.end() :]
    shown = shown_url(f"{match[1].lower()}://{rest}").partition("://")[2]
    meant = f"{match[1].lower()}://{'/' if match[1].lower() == 'file' else ''}{shown}"
    raise StoreError(
        f"{match[0]}{shown}: did you mean {meant}? (A folder that is called so is written ./{match[1]}:…)", kind="usage"
    )


def _split(url: str) -> SplitResult:
    """The parts of a URL. StoreError if its host or port is none."""
    try:
        parts = urlsplit(url)
        parts.port if parts.scheme.lower() in ("http", "https") else None
    except ValueError:
        raise StoreError(
            f"{shown_url(url)}: its host or port is none: write SCHEME://HOST[:PORT]/FOLDER", kind="usage"
        ) from None
    return parts


def shown_url(url: str) -> str:
    """``url`` without user, password, query and fragment, for messages and logs."""
    match = _URL.match(url)
    if match is None:
        return url
    rest = re.split(r"[?#]", url[match.end() :], maxsplit=1)[0]
    netloc, slash, path = rest.partition("/")
    user, at, host = netloc.rpartition("@")
    if match[1].lower() in _CONTAINER_IS_USER and ":" not in user:
        host = f"{user}{at}{host}"
    return f"{match[0]}{host}{slash}{path}"


def join(place: Path | str, name: str) -> Path | str:
    """The object ``name`` in a folder or below a URL."""
    return place / name if isinstance(place, Path) else f"{place}/{name}"


def checked_name(name: str) -> str:
    """``name`` itself, if it names an object below a URL or a folder and nothing else.

    Raises:
      StoreError: it is empty or absolute, has a part that is empty, "." or "..", a control character or what is no
        Unicode: it may lead out of the folder.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or _UNSAFE.search(name):
        raise StoreError(f"{name!r} is no name of an object of a data set: it could lead out of its folder: rename it")
    return name


def below(folder: Path, name: str) -> Path:
    """The file for the object ``name`` in ``folder``, never outside it by ``name`` itself; StoreError as `checked_name`."""
    return folder.joinpath(*checked_name(name).split("/"))
