"""obstore's clients for a URL, by the usual environment. Nothing of it is shown or kept."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from dali_dr.store.patience import silence_s
from dali_dr.store.url import StoreError, shown_url
from dali_dr.store.variables import check_endpoint, check_environment

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_CONNECT: Final = timedelta(seconds=10)
# The whole of a request that is read: none, in effect, since silence ends it (obstore has 30 s without this).
_READ: Final = timedelta(days=1)
# Object stores of Azure by their hosts: ACCOUNT.dfs.core.windows.net, ACCOUNT.blob.core.windows.net.
_AZURE_HOST: Final = ".core.windows.net"
_AZURE_ACCOUNTS: Final = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR")


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """What a client is opened for (a bucket, a container, a server) and what the names of all objects below begin with.

    The path of a URL of the web is percent-encoded, that of a bucket is a name as it is.
    """
    parts = urlsplit(url)
    scheme, rest = url.split("://", 1)
    path = rest.partition("/")[2].strip("/")
    if scheme.lower() in ("http", "https"):
        return f"{scheme.lower()}://{parts.netloc}", unquote(path)
    return parts.netloc, path


def client(url: str, *, whole_s: float | None = None) -> ObjectStore:
    """A client of the bucket of ``url``, which tries each request once.

    Args:
      url: of a data set.
      whole_s: after so many seconds a request has failed, whatever it does; by default silence ends it, and only that
        (which does not count what is sent).

    Raises:
      StoreError: the environment names credentials that are not there, or has values that are none.
    """
    check_environment(url)
    scheme = urlsplit(url).scheme.lower()
    options: dict[str, Any] = {"connect_timeout": _CONNECT, "timeout": _READ}
    if whole_s is None:
        options["read_timeout"] = timedelta(seconds=silence_s())
    else:
        options["timeout"] = timedelta(seconds=whole_s)
    common: dict[str, Any] = {"client_options": options, "retry_config": {"max_retries": 0}}
    try:
        if scheme in ("s3", "s3a"):
            return _s3(url, common)
        if scheme in ("http", "https"):
            from obstore.store import HTTPStore

            options["allow_http"] = scheme == "http"
            return HTTPStore(bucket_and_prefix(url)[0], **common)
        if scheme == "gs":
            return _gcs(url, common)
        return _azure(url, common)
    except StoreError:
        raise
    except Exception as error:  # obstore and botocore: texts that may hold what is in the environment
        raise StoreError(
            f"{shown_url(url)}: the store cannot be opened ({type(error).__name__}): look at the variables of the "
            "environment that name its credentials and endpoint, and the files that they name"
        ) from None


def _s3(url: str, common: dict[str, Any]) -> ObjectStore:
    from obstore.store import S3Store

    more: dict[str, Any] = {}
    # What is in the environment goes first, as in AWS's own tools; the files of a profile are read by boto3 alone.
    if not any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE")):
        more = _s3_profile(url)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or more.get("endpoint")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT")
    if endpoint:
        check_endpoint(url, "endpoint_url of the profile", endpoint)  # the environment's was looked at
        more["endpoint"] = endpoint
        common["client_options"]["allow_http"] = endpoint.lower().startswith("http://")
    # One object is removed by one DELETE: not all services that speak S3 have DeleteObjects.
    return S3Store(bucket_and_prefix(url)[0], disable_bulk_delete=True, **common, **more)


def _s3_profile(url: str) -> dict[str, Any]:
    """Options of S3Store by AWS's shared files, where there are some; boto3 knows them (SSO, roles, processes)."""
    home = Path.home() / ".aws"
    files = [
        Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"),
        Path(os.environ.get("AWS_CONFIG_FILE") or home / "config"),
    ]
    profile = os.environ.get("AWS_PROFILE")
    if not profile and not any(file.is_file() for file in files):
        return {}
    try:
        import boto3  # type: ignore[import-untyped,unused-ignore]
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if not profile:
            return {}
        raise StoreError(
            f"{shown_url(url)}: AWS_PROFILE is set, and profiles are read by boto3, which is not installed: pip install "
            "boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    session = boto3.Session()
    if session.get_credentials() is None:
        return {}
    settings = session._session.get_scoped_config()
    endpoint = settings.get("endpoint_url")
    return {"credential_provider": Boto3CredentialProvider(session)} | ({"endpoint": endpoint} if endpoint else {})


def _gcs(url: str, common: dict[str, Any]) -> ObjectStore:
    from obstore.store import GCSStore

    more: dict[str, Any] = {}
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:  # as in Google's own libraries; obstore knows it as a key that needs none
        base = emulator if "://" in emulator else f"http://{emulator}"
        unsigned = {"client_email": "", "private_key": "", "private_key_id": ""}
        more["service_account_key"] = json.dumps({"gcs_base_url": base, "disable_oauth": True} | unsigned)
        common["client_options"]["allow_http"] = base.lower().startswith("http://")
    return GCSStore(bucket_and_prefix(url)[0], **common, **more)


def _azure(url: str, common: dict[str, Any]) -> ObjectStore:
    from obstore.store import AzureStore

    container, at, host = urlsplit(url).netloc.partition("@")
    more: dict[str, Any] = {}
    if at:
        account, _, domain = host.partition(".")
        if not f".{domain}".endswith(_AZURE_HOST):
            raise StoreError(
                f"{shown_url(url)}: not of the form abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER", kind="usage"
            )
        more["account_name"] = account
    elif not any(os.environ.get(name) for name in _AZURE_ACCOUNTS):
        raise StoreError(
            f"{shown_url(url)}: of no account: set AZURE_STORAGE_ACCOUNT_NAME, or write "
            "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER"
        )
    endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT") or os.environ.get("AZURE_ENDPOINT") or ""
    emulated = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true")
    common["client_options"]["allow_http"] = emulated or endpoint.lower().startswith("http://")
    return AzureStore(container, **common, **more)
