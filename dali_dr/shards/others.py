"""What is a sample in tars that others made: which members belong together, which key, which image, which label.

Names are split as webdataset splits them. Its keys may be such as shards cannot store ("./a",
"dog 1"): `stored_key` maps them, and whoever joins a member of such a tar with a record goes by that.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from dali_dr.encoded import SUFFIXES
from dali_dr.errors import ShardError, brief
from dali_dr.shards import tar
from dali_dr.shards.sample import fitting_key, key_fault, safe_key

MAX_LABEL_BYTES: Final = 16 << 20  # of KEY.cls or KEY.json, which may hold captions too
MAX_NAME: Final = 256  # characters of the name of a class: more is a caption
_WEBDATASET: Final = "webdataset leaves them out, too"
_LEADING: Final = re.compile(r"(?:\.?/)+")
_META: Final = re.compile(r"__[^/]*__($|/)")  # webdataset leaves them out
_TOOLS: Final = re.compile(r"(?:.*/)?__MACOSX(?:/|$)")
_HIDDEN: Final = re.compile(r"(?:.*/)?\.(?!\.?/)[^/]")
_NAME: Final = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")  # up to the first dot of the last part, and after it
_WHOLE: Final = re.compile(r"([0-9]+)(?:\.0*)?")


class Group(NamedTuple):
    """Members of a tar that have one key.

    Attributes:
      key: as shards store it.
      members: by suffix, lower case.
    """

    key: str
    members: Mapping[str, tar.Member]

    @property
    def names(self) -> str:
        """For messages."""
        return ", ".join(member.name for member in self.members.values())


class Leave(Protocol):
    """Who counts members that are no part of a sample: `dali_dr.sources.left_out.LeftOut.add`."""

    def __call__(self, kind: str, example: str, plural: str = "", hint: str = "") -> None: ...


def stored_key(key: str) -> str:
    """The key that a sample of webdataset's ``key`` has in shards.

    It is ``key`` itself where shards can store that, but for "./" and "/" in front, as `tar -C folder .` writes it; what
    cannot stand in a key is %XX, as in `safe_key`, and what is too long is cut, as in `fitting_key`. Two keys of a tar
    may become one ("a", "./a"), which is an error to whoever reads them.
    """
    key = strip_leading(key)
    if key_fault(key) is None:
        return key
    safe = re.sub(r"(?<=/)/", "%2F", safe_key(key))
    return fitting_key(re.sub(r"(?<![^/])\.\.?(?=/)", lambda match: match[0].replace(".", "%2E"), safe))


def strip_leading(name: str) -> str:
    """``name`` without "./" and "/" in front."""
    match = _LEADING.match(name)
    return name[match.end() :] if match else name


def groups_of(path: Path, leave: Leave | None = None) -> Iterator[Group]:
    """What lies in the tar at ``path`` by key: neighbours with one key, as webdataset groups them.

    Args:
      path: the tar.
      leave: told of what has no key: hidden files, `__…__`, names without a suffix.

    Raises:
      ShardError: it is no tar, or a suffix comes twice with a key.
    """

    def keyed() -> Iterator[tuple[str, str, tar.Member]]:
        for member in tar.scan(path):
            name = strip_leading(member.name)
            key, suffix = _split(member.name)
            kind, hint = "", _WEBDATASET
            if _META.match(name) or _TOOLS.match(name):
                kind = "member under __…__"
            elif _HIDDEN.match(name):
                kind, hint = "hidden member", ""
            elif key is None or suffix is None:
                kind = "member without suffix"
            else:
                yield key, suffix.lower(), member
            if kind and leave is not None:
                leave(kind, f"{path.name}: {member.name}", kind.replace("member", "members"), hint)

    for key, neighbours in itertools.groupby(keyed(), key=lambda item: item[0]):
        members: dict[str, tar.Member] = {}
        for _, suffix, member in neighbours:
            if suffix in members:
                raise ShardError(
                    f"{path}: sample {stored_key(key)}: {members[suffix].name} and {member.name} are both its "
                    f".{suffix}: a key must be one sample's, and keys that a tar has twice must not be neighbours"
                )
            members[suffix] = member
        yield Group(stored_key(key), members)


def image_of(path: Path, group: Group, others: Collection[str] = ()) -> tar.Member | None:
    """The member that is the image: of several, the one with a suffix of one part; None: there is none.

    Args:
      path: the tar, for messages.
      group: the members.
      others: suffixes of images that shards do not hold, which will do where there is no other.

    Raises:
      ShardError: there are several, of which none is meant.
    """
    for wanted in (SUFFIXES, others):
        found = {suffix: m for suffix, m in group.members.items() if suffix.rpartition(".")[2] in wanted}
        plain = [member for suffix, member in found.items() if "." not in suffix]
        best = plain or list(found.values())
        if len(best) > 1:
            raise ShardError(
                f"{path}: sample {group.key}: its members are {group.names}; want one image, or one whose suffix has a "
                "single part (KEY.jpg beside KEY.small.jpg)"
            )
        if best:
            return best[0]
    return None


_NEIGHBOURS: Final = (
    ", one after the other and none of them a link: `tar --sort=name --hard-dereference -h -c …` packs them so"
)


def no_image(path: Path, group: Group, hint: str = "") -> NoReturn:
    """ShardError that a sample has a label and no image."""
    raise ShardError(
        f"{path}: sample {group.key}: its members are {group.names}; want one image ({', '.join(SUFFIXES)}) and a label in "
        f'{group.key}.cls or as "label" in {group.key}.json{hint or _NEIGHBOURS}'
    )


@dataclass(frozen=True)
class LabelRule:
    """Where the label of a sample in a tar is, and which class number it means.

    Attributes:
      field: "cls", "target.cls", "txt": the member of that suffix; "json:label", "meta.json:a.b": what is called so
        within it; None: KEY.cls, or "label" in KEY.json.
      numbers: class numbers by label; None: labels are whole numbers, and those are the classes.
    """

    field: str | None = None
    numbers: Mapping[str, int] | None = None

    @classmethod
    def of_extra(cls, extra: Mapping[str, Any]) -> LabelRule:
        """That of a sidecar data set, from its manifest's ``extra``."""
        said = extra.get(IMAGE_LABELS)
        said = said if isinstance(said, dict) else {}
        numbers = said.get("numbers")
        place = said.get("field")
        return cls(place if isinstance(place, str) else None, numbers if isinstance(numbers, dict) else None)

    def to_extra(self) -> dict[str, Any]:
        """What a manifest's ``extra`` says of it; empty for the usual rule."""
        said = {"field": self.field, "numbers": None if self.numbers is None else dict(self.numbers)}
        said = {name: value for name, value in said.items() if value is not None}
        return {IMAGE_LABELS: said} if said else {}

    def member_of(self, group: Group) -> tar.Member | None:
        """The member that the label is in, if the group has it."""
        if self.field is not None:
            return group.members.get(self.field.partition(":")[0].lower())
        return group.members.get(tar.LABEL_SUFFIX) or group.members.get("json")

    def claims(self, path: Path, group: Group) -> bool:
        """Whether a group without an image has a label, and so lacks its image."""
        if tar.LABEL_SUFFIX in group.members:
            return True
        try:
            return self.member_of(group) is not None and bool(self.text_of(path, group))
        except ShardError:  # a JSON without a label
            return False

    def text_of(self, path: Path, group: Group) -> str:
        """The label of a sample as text: a whole number, or a name.

        Raises:
          ShardError: naming tar, key and member.
        """
        member = self.member_of(group)
        if member is None:
            want = (
                f"{self.field} (--label-field)" if self.field else f'{group.key}.cls or as "label" in {group.key}.json'
            )
            raise ShardError(
                f"{path}: sample {group.key}: its members are {group.names}; want one image ({', '.join(SUFFIXES)}) and a "
                f"label in {want}{_NEIGHBOURS}"
            )
        if member.size > MAX_LABEL_BYTES:
            raise ShardError(
                f"{path}: sample {group.key}: {member.name} has {member.size} bytes, at most {MAX_LABEL_BYTES} are read"
            )
        data = tar.read_at(path, member.offset, member.size)
        keys = self.field.partition(":")[2] if self.field is not None else "label"
        try:
            return _label_text(member, data, keys or None, strict=bool(keys) and self.field is not None)
        except _NoLabel as error:
            raise ShardError(
                f"{path}: sample {group.key}: {member.name} holds {brief(data[:60])}: {error}; want a class id or the "
                "name of a class"
            ) from None

    def label_of(self, path: Path, group: Group) -> int:
        """The class number of a sample of a data set.

        Raises:
          ShardError: naming tar and key.
        """
        text = self.text_of(path, group)
        if self.numbers is not None and isinstance(number := self.numbers.get(text), int):
            return number
        whole = whole_number(text)
        if self.numbers is not None or whole is None:
            raise ShardError(
                f"{path}: sample {group.key}: its label is {brief(text)}, want a class id of this data set"
            )
        return whole


IMAGE_LABELS: Final = "image_labels"  # in a manifest's `extra`


def whole_number(text: str) -> int | None:
    """The class id that ``text`` is; None if it is none."""
    match = _WHOLE.fullmatch(text)
    return int(match[1]) if match and len(match[1]) <= 10 else None


class _NoLabel(ValueError):
    """Why something is no label."""


def _label_text(member: tar.Member, data: bytes, keys: str | None, *, strict: bool) -> str:
    """The label in ``data``, a text or JSON, at ``keys`` of an object; ``strict``: it must be an object."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise _NoLabel("it is not UTF-8") from error
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise _NoLabel("it is nested too deeply") from error
    except ValueError as error:
        if strict or member.name.lower().endswith("json"):
            raise _NoLabel("it is not JSON") from error
        value = text
    if isinstance(value, dict) or strict:
        value = _at(value, keys or "label")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _NoLabel(f"the label is {brief(value)}")
    try:
        text = str(value).strip()
    except ValueError as error:  # an int of more digits than Python prints
        raise _NoLabel("the label is a number of thousands of digits") from error
    if not text or len(text) > MAX_NAME or not text.isprintable():
        raise _NoLabel("it is empty" if not text else "it is too long or not in one line for the name of a class")
    return text


def _at(value: Any, keys: str) -> Any:
    """What is at ``keys`` of JSON: a name, or names in names with dots between."""
    if isinstance(value, dict) and keys in value:
        return value[keys]
    for key in keys.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (LookupError, TypeError, ValueError) as error:
            there = f", only {brief(list(value))}" if isinstance(value, dict) else ""
            raise _NoLabel(f"there is no {brief(keys)} in it{there}") from error
    return value


def _split(name: str) -> tuple[str | None, str | None]:
    """Key and suffix of a member, both None where there is none. As webdataset's, whose import takes 185 MB: it imports torch."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else (None, None)
