"""What obstore's errors say: a kind to act on, and one short text without the URLs, headers and bodies that are in them."""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import Final

# Answers that mean "later": RFC 9110 (408, 500, 502, 503, 504), RFC 6585 (429).
_LATER: Final = frozenset({408, 429, 500, 502, 503, 504})
# … and the codes that say so under another status: two conditional puts at once (409), a clock or a connection that slept.
_LATER_CODES: Final = frozenset(
    {"ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "ServerBusy", "InternalError"}
)
# A session that is over is said by a 400, a bucket of another region by one of these or by a redirect to nowhere.
_DENIED_CODES: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
_REGION_CODES: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "IncorrectEndpoint"}
)
_REGION: Final = "incorrectly configured region"
_NO_BUCKET_CODES: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})

_STATUS: Final = re.compile(r"status code: (\d{3})|\bstatus: (\d{3}),")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_HTTP_KIND: Final = re.compile(r"\bkind: (Connect|Timeout|Interrupted|Request|Decode|Body|Unknown)\b")
_REASON: Final = re.compile(
    r'Os \{[^}]*\bmessage: "([^"\\\n]{1,80})"|error: "(failed to lookup address information[^"\\\n]{0,60})'
)
# Where machines in clouds ask for credentials: object_store ends there when nothing else has some.
_METADATA: Final = re.compile(
    r"169\.254\.169\.254|169\.254\.170\.2|fd00:ec2::254|metadata\.google\.internal|latest/api/token|latest/meta-data|"
    r"computeMetadata/v1|metadata/identity/oauth2"
)


class Kind(enum.Enum):
    """What an answer means for the one who asked."""

    MISSING = "there is no such object"
    NO_BUCKET = "there is no such bucket"
    EXISTS = "there is such an object"
    CHANGED = "it is not the version that was asked for"
    RANGE = "there are no bytes in this range"
    DENIED = "access is denied"
    NO_CREDENTIALS = "no credentials were found"
    REGION = "the bucket is in another region"
    LATER = "it may work later"
    UNABLE = "the store cannot do this"
    NAME = "the name is none"
    OTHER = "it failed"


_REMEDIES: Final = {
    Kind.NO_BUCKET: "create it, or mend the URL",
    Kind.DENIED: "look at the credentials in the environment, and what they may do (who may not list is denied what is "
    "not there, too)",
    Kind.NO_CREDENTIALS: "set them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
    "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, …; AWS_SKIP_SIGNATURE=true for what is public)",
    Kind.REGION: "set AWS_REGION to the bucket's",
    Kind.NAME: "rename or remove it",
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """An error of obstore.

    Attributes:
      kind: what it means.
      text: in a few words, without anything secret: the status and the store's code, or why there was no answer.
    """

    kind: Kind
    text: str

    @property
    def remedy(self) -> str:
        """What to do; "" where nothing general can be said."""
        return _REMEDIES.get(self.kind, "")


def understood(error: Exception) -> Answer:
    """What ``error``, raised by a function of obstore, says."""
    name, text = type(error).__name__, str(error)
    status, code = _status(text), _first(_CODE, text)
    kind = _kind(error, name, text, status, code)
    if status is not None:
        return Answer(kind, f"{kind.value} (status {status}{', ' + code if code else ''})")
    http = _first(_HTTP_KIND, text)
    if kind in (Kind.LATER, Kind.NO_CREDENTIALS):
        reason = _first(_REASON, text) or {
            "Connect": "no connection",
            "Timeout": "no answer in time",
        }.get(http or "", "the connection broke")
        return Answer(kind, reason if kind is Kind.LATER else f"{kind.value} ({reason})")
    if kind is Kind.OTHER:
        return Answer(kind, f"{kind.value} ({_plain(text)})")
    return Answer(kind, kind.value)


def _kind(error: Exception, name: str, text: str, status: int | None, code: str | None) -> Kind:
    if code in _NO_BUCKET_CODES:
        return Kind.NO_BUCKET
    if code in _REGION_CODES or _REGION in text:
        return Kind.REGION
    if code in _DENIED_CODES:
        return Kind.DENIED
    if status in _LATER or code in _LATER_CODES:
        return Kind.LATER
    if _METADATA.search(text):
        return Kind.NO_CREDENTIALS
    if isinstance(error, FileNotFoundError) or status == 404:
        return Kind.MISSING
    by_name = {
        "AlreadyExistsError": Kind.EXISTS,
        "PreconditionError": Kind.CHANGED,
        "NotModifiedError": Kind.CHANGED,
        "PermissionDeniedError": Kind.DENIED,
        "UnauthenticatedError": Kind.DENIED,
        "NotSupportedError": Kind.UNABLE,
        "InvalidPathError": Kind.NAME,
    }
    if name in by_name:
        return by_name[name]
    by_status = {
        401: Kind.DENIED, 403: Kind.DENIED, 405: Kind.UNABLE, 409: Kind.EXISTS, 412: Kind.CHANGED, 416: Kind.RANGE,
        501: Kind.UNABLE,
    }  # fmt: skip
    if status is not None:
        return by_status.get(status, Kind.OTHER)
    if isinstance(error, OSError) or _HTTP_KIND.search(text) or "HTTP error" in text:
        return Kind.LATER
    return Kind.OTHER


def _status(text: str) -> int | None:
    match = _STATUS.search(text)
    return int(match[1] or match[2]) if match else None


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return next((group for group in match.groups() if group), None) if match else None


def _plain(text: str) -> str:
    """The first line of ``text``, short, without the URLs in it."""
    line = text.split("\n", 1)[0]
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", "…", line)[:120]
