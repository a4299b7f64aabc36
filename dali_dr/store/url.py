"""URLs of stores: which texts are some, and how they are joined and shown. Nothing secret may be in one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from dali_dr.errors import ShardError

SCHEMES: Final = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https", "hf")
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class StoreError(ShardError):
    """A store that cannot be reached, refuses, or does not give what it should."""


def is_url(text: object) -> bool:
    """Whether ``text`` names an object in a store, not a file on this machine ("file://…" is one of those)."""
    match = _URL.match(text) if isinstance(text, str) else None
    return match is not None and match[1].lower() != "file"


def as_place(text: str | Path) -> Path | str:
    """A folder or file as a Path, a URL as its text without a slash at its end.

    Raises:
      StoreError: the URL's scheme is not known, it names no bucket, or it has a user, a password or a query in it.
    """
    if not is_url(text):
        if isinstance(text, str) and text.lower().startswith("file://"):
            return Path(unquote(urlsplit(text).path))
        return Path(text)
    parts = urlsplit(str(text))
    if parts.scheme.lower() not in SCHEMES:
        raise StoreError(f"{shown_url(str(text))}: no store is called {parts.scheme}://; known: {', '.join(SCHEMES)}")
    if not parts.netloc:
        raise StoreError(f"{shown_url(str(text))}: names no bucket: {parts.scheme}://BUCKET/FOLDER")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise StoreError(
            f"{shown_url(str(text))}: has a user, a password or a query in it: give credentials by the environment "
            "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, HF_TOKEN, …)"
        )
    return str(text).rstrip("/")


def shown_url(url: str) -> str:
    """``url`` without user, password, query and fragment, for messages and logs."""
    match = _URL.match(url)
    if match is None:
        return url
    rest = re.split(r"[?#]", url[match.end() :], maxsplit=1)[0]
    netloc, slash, path = rest.partition("/")
    return f"{match[0]}{netloc.rpartition('@')[2]}{slash}{path}"


def join(place: Path | str, name: str) -> Path | str:
    """The object ``name`` in a folder or below a URL."""
    return place / name if isinstance(place, Path) else f"{place}/{name}"
