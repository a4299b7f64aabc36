"""The environment's credentials and endpoints, looked at before obstore sees them: it panics at some that are none."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import urlsplit

from dali_dr.store.url import StoreError, shown_url

# Which variables are of which scheme, by how their names begin.
_PREFIXES: Final = {
    "s3": ("AWS_",),
    "s3a": ("AWS_",),
    "gs": ("GOOGLE_", "STORAGE_EMULATOR_HOST"),
    "http": (),
    "https": (),
}
_OTHERS: Final = ("AZURE_",)
# Words in the names of those whose values get into headers, URLs or paths. (AWS_PAGER may be blank.)
_USED: Final = re.compile(
    r"_(KEY|SECRET|TOKEN|REGION|ENDPOINT|ACCOUNT|CREDENTIALS|ID|URI|URL|HOST|PROFILE|FILE|ARN|NAME)(_|$)"
)
_ENDPOINT: Final = re.compile(r"_(ENDPOINT|ENDPOINT_URL|ENDPOINT_URL_S3|FULL_URI)$|^STORAGE_EMULATOR_HOST$")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")  # a name; an address of version 6, without its brackets
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")


def check_environment(url: str) -> None:
    """Look at all variables that are of the store of ``url``.

    Raises:
      StoreError: one has white space around its value or a control character in it, as a file's last newline in a secret
        of Kubernetes, or is an endpoint and no URL of a server. The variable is named; its value, which may be secret, is not.
    """
    prefixes = _PREFIXES.get(urlsplit(url).scheme.lower(), _OTHERS)
    for name, value in sorted(os.environ.items()):
        upper = name.upper()  # as obstore, which takes both
        if not value or not upper.startswith(prefixes) or not _USED.search(upper):
            continue
        wrong = _wrong(upper, value)
        if wrong:
            raise StoreError(f"{shown_url(url)}: the environment's {name} {wrong}")


def check_endpoint(url: str, name: str, value: str) -> None:
    """StoreError unless ``value``, said in ``name``, is the URL of a server."""
    wrong = endpoint_fault(value)
    if wrong:
        raise StoreError(f"{shown_url(url)}: {name} {wrong}")


def endpoint_fault(value: str) -> str:
    """What is wrong with the URL of a server; "" if nothing is."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "has no port that is a number, or no host: want http(s)://HOST[:PORT]"
    if parts.scheme.lower() not in ("http", "https") or not value[len(parts.scheme) :].startswith("://"):
        return "does not begin with http:// or https://: want http(s)://HOST[:PORT]"
    if not host or not _HOST.fullmatch(host):
        return "names no host: want http(s)://HOST[:PORT]"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "has a user, a password or a query in it: want http(s)://HOST[:PORT]"
    return ""


def _wrong(name: str, value: str) -> str:
    if value.lstrip().startswith("{"):  # a service account, as JSON
        return ""
    if value != value.strip():
        return "has white space or a newline before or behind its value: set it without (a file's last newline is one)"
    if _CONTROL.search(value):
        return "has a control character in its value: set it anew"
    if not _ENDPOINT.search(name):
        return ""
    if name == "STORAGE_EMULATOR_HOST" and "://" not in value:
        value = f"http://{value}"  # as Google's own libraries take it
    return endpoint_fault(value)
