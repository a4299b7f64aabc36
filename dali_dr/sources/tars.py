"""Webdataset tars as a source of images, also as others make them."""

from __future__ import annotations

import array
import dataclasses
import glob
import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError, brief
from dali_dr.images.convert import suffixes as convertible
from dali_dr.shards import tar
from dali_dr.shards.absent import near_path
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.others import Group, LabelRule, groups_of, image_of, no_image, whole_number
from dali_dr.shards.outbox import url_of
from dali_dr.shards.reading import opened
from dali_dr.shards.sample import Place
from dali_dr.shards.tar_scan import COMPRESSED_SUFFIXES, COMPRESSIONS, Compressed, refuse_compressed
from dali_dr.sources.classes import numbered
from dali_dr.sources.fetched import File, Remote, look_at_all, told_by_url
from dali_dr.sources.globs import has_magic, matching
from dali_dr.sources.left_out import LeftOut
from dali_dr.sources.remote import READERS, Gone, read_part
from dali_dr.sources.source import READING, Reading
from dali_dr.store.url import is_url, shown_url

SUFFIXES: Final = (".tar", *COMPRESSED_SUFFIXES)
_BEGIN: Final = max(len(way.magic) for way in COMPRESSIONS)
_MAGICS: Final = tuple(way.magic for way in COMPRESSIONS)
_BEGINNERS: Final = 16  # threads that look how tars begin

MAX_TARS: Final = 1_000_000  # that braces may name
_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)")
_STREAMS: Final = ("pipe:", "ftp:")  # which webdataset takes


@dataclasses.dataclass(frozen=True)
class WebDatasetTars:
    """Webdataset tars: samples of an image, a label and whatever else, grouped and named as webdataset does it.

    The label is a class number or the name of a class, in KEY.cls or as "label" in KEY.json, or where
    `Reading.label_field` says. What is no part of a sample is left out, and counted in the notes: hidden members, those
    under __…__, README and LICENSE, and what has neither an image nor a label.

    Tars in a store are fetched one by one to be looked through (`dali_dr.sources.fetched`). Their images are read from what
    is there of that, else each by a request.

    Attributes:
      tars: the files or objects, in order.
      keys: in the order of the tars; webdataset's, but for what shards cannot store (`stored_key`).
      labels: int32 (S,).
      members: int64 (S, 3): number of the tar, offset and length of the image.
      class_names: the numbers as text, or the names.
      notes: see `Source`.
      rule: where labels are, and which classes they mean.
    """

    tars: Sequence[File]
    keys: Sequence[str]
    labels: npt.NDArray[np.int32]
    members: npt.NDArray[np.int64]
    class_names: Sequence[str]
    notes: Sequence[str] = ()
    rule: LabelRule = dataclasses.field(default_factory=LabelRule)

    def __post_init__(self) -> None:
        tars = [path.absolute() if isinstance(path, Path) else path for path in self.tars]  # as in `ImageFolder`
        object.__setattr__(self, "tars", tars)

    @classmethod
    def match(cls, pattern: str, reading: Reading = READING) -> WebDatasetTars:
        """Reads the tars that ``pattern`` names, see `expand`; and see `scan`."""
        return cls.scan(expand(pattern), reading)

    @classmethod
    def scan(cls, tars: Sequence[File], reading: Reading = READING) -> WebDatasetTars:
        """Reads the headers of the tars, and their labels.

        Raises:
          ShardError: naming tar and key of a sample without an image or label, or with the key of another; or a tar that
            is missing or compressed.
        """
        _refuse_compressed(tars)
        found = _Found(tars, LabelRule(reading.label_field), reading.convert)
        with told_by_url():
            for number in range(len(tars)):
                found.add(number)
        if not found.keys:
            left = "".join(f"; {note}" for note in found.left_out.notes)
            raise ShardError(f"{tars[0]}: holds no samples: no images with labels{left}", kind="usage")
        members = np.array(found.members, np.int64).reshape(-1, 3)
        with told_by_url():
            labels = numbered(_title(tars), found.labels, reading, found.label_place)
        numbers = dict(zip(found.labels, labels.labels, strict=True))
        plain = all(whole_number(text) == number for text, number in numbers.items())
        rule = LabelRule(reading.label_field, None if plain else numbers)
        notes = (*labels.notes, *found.left_out.notes)
        return cls(tars, found.keys, np.array(labels.labels, np.int32), members, labels.class_names, notes, rule)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, number: int) -> bytes:
        file, offset, size = self.members[number].tolist()
        there = self.tars[file]
        return tar.read_at(there, offset, size) if isinstance(there, Path) else there.read(offset, size)

    def where(self, number: int) -> str:
        file, offset, _ = self.members[number].tolist()
        return f"{self.tars[file]} at byte {offset}"

    def size(self, number: int) -> int:
        return int(self.members[number][2])

    @property
    def readers(self) -> int | None:
        """See `dali_dr.sources.source.readers_of`."""
        return None if all(isinstance(there, Path) for there in self.tars) else READERS

    def place(self, number: int) -> Place:
        """Where image ``number`` is, for a sidecar data set."""
        file, offset, _ = self.members[number].tolist()
        return Place(file, offset)

    def image_tars(self, out: Path) -> tuple[ImageTar, ...]:
        """The tars, as the manifest of a sidecar data set in ``out`` names them."""
        return tuple(_named(out, there) for there in self.tars)

    @property
    def image_labels(self) -> dict[str, Any]:
        """What the manifest of a sidecar data set says in its `extra`: where labels are, if not where they usually are."""
        return self.rule.to_extra()


def _title(tars: Sequence[File]) -> str:
    """All tars, for messages."""
    if len(tars) == 1:
        return str(tars[0])
    paths = [path.absolute().parent for path in tars if isinstance(path, Path)]
    return str(os.path.commonpath(paths)) if len(paths) == len(tars) else f"{tars[0]} and {len(tars) - 1} more"


def _named(out: Path, there: File) -> ImageTar:
    """A tar, as a data set in ``out``, or in the store whose outbox that is, names it."""
    url = url_of(out)
    if isinstance(there, Path) and url is None:
        return ImageTar.seen_from(out, there, there.stat().st_size)
    if url is not None and isinstance(there, Remote) and there.url.startswith(f"{url}/"):
        return ImageTar(there.url[len(url) + 1 :], there.bytes)
    raise ShardError(
        f"{there}: a data set at {out if url is None else shown_url(url)} cannot stay beside this tar: one in a store names "
        "tars below its own URL alone, one in a folder those on this machine: choose another --out, bring the tars there, or "
        "leave --sidecar out",
        kind="usage",
    )


def expand(pattern: str) -> list[File]:
    """The tars that ``pattern`` names, as webdataset understands it, and globs besides.

    "a.tar::b.tar" is a list; "t-{000..146}.tar" and "t-{a,b}.tar" are the names that braces give, in their order, each of
    which must be there; "t-*.tar" (with "**": in any folders) is what there is, in sorted order. A file that is called as
    the pattern is the file. Any of them may be URLs, of which globs are for stores that can be listed.

    Raises:
      ShardError: a file is not there, is none, or the braces cannot be understood.
    """
    found: list[File] = []
    for part in [pattern] if os.path.lexists(pattern) else pattern.split("::"):
        if part.startswith(_STREAMS) and not os.path.lexists(part):
            raise ShardError(
                f"{part}: tars are read at random, so pipes and FTP are not: download it first, and give its path",
                kind="usage",
            )
        names = [part] if os.path.lexists(part) or "{" not in part else _braces(part)
        if is_url(part):
            found += _objects(names)
            continue
        for name in names:
            matches = [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))  # noqa: PTH207
            if not matches:
                what = "no file matches" if glob.has_magic(name) else "no such file"
                several = f" ({brief(pattern)} names {len(names)} files in all)" if len(names) > 1 else ""
                near = near_path(Path(name)) if what == "no such file" else ""
                raise ShardError(
                    f"{name}: {what}{several}{near or ': correct the name, or copy the tar there'}", kind="usage"
                )
            found += map(Path, matches)
    return found


def _objects(urls: Sequence[str]) -> list[Remote]:
    """The objects that URLs name, some of which may be patterns, in order."""
    if not any(map(has_magic, urls)):
        return look_at_all(urls)
    return [file for url in urls for file in matching(url)]


class _Found:
    """The samples that were found so far.

    Attributes:
      keys, labels, members: of the samples; labels as texts.
      left_out: what is no part of one.
    """

    def __init__(self, tars: Sequence[File], rule: LabelRule, convert: bool) -> None:
        self.keys: list[str] = []
        self.labels: list[str] = []
        self.members = array.array("q")  # three of each sample; a million of them in 24 MB
        self.left_out = LeftOut()
        self._tars, self._rule = tars, rule
        self._others = convertible() if convert else frozenset[str]()
        self._taken: set[str] = set()
        self._texts: dict[str, str] = {}  # one object per class, not one per image

    def add(self, number: int) -> None:
        """Takes the samples of tar ``number``. ShardError: see `WebDatasetTars.scan`."""
        path = self._file(number)
        for group in groups_of(path, self.left_out.add):
            image = image_of(path, group, self._others)
            if image is None:
                self._leave(path, group)
                continue
            text = self._rule.text_of(path, group)
            if group.key in self._taken:
                self._twice(path, group, image)
            self._taken.add(group.key)
            self.keys.append(group.key)
            self.labels.append(self._texts.setdefault(text, text))
            self.members.extend((number, image.offset, image.size))

    def label_place(self, number: int) -> str:
        """Where the label of sample ``number`` is, for messages."""
        file, offset = self.members[3 * number], self.members[3 * number + 1]
        path, key = self._file(file), self.keys[number]
        group = next((g for g in groups_of(path) if any(m.offset == offset for m in g.members.values())), None)
        member = None if group is None else self._rule.member_of(group)
        place = f"sample {key}" if member is None else f"sample {key}: {member.name}"
        return place if len(self._tars) == 1 else f"{path}: {place}"

    def _file(self, number: int) -> Path:
        """Tar ``number`` on this machine, as long as no other is asked for."""
        there = self._tars[number]
        return there if isinstance(there, Path) else there.local(keep=False)

    def _leave(self, path: Path, group: Group) -> None:
        """Leaves out what has no image. ShardError if it has a label, or another kind of image, and so should have one."""
        others = [suffix for suffix in group.members if suffix.rpartition(".")[2] in convertible()]
        if others or self._rule.claims(path, group):
            no_image(path, group, f"; --convert stores .{others[0]} as PNG" if others else "")
        for member in group.members.values():
            self.left_out.add("member without image", f"{path.name}: {member.name}", "members without image")

    def _twice(self, path: Path, group: Group, image: tar.Member) -> None:
        first = 3 * self.keys.index(group.key)
        number, offset = self.members[first], self.members[first + 1]
        there = next((m.name for m in tar.scan(self._file(number)) if m.offset == offset), "")
        raise ShardError(
            f"{path}: {image.name}: its key in a data set, {group.key}, is that of {there} in {self._tars[number]}, too: "
            "rename one, or give the tars to two runs"
        )


def _braces(pattern: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    count = math.prod(abs(int(end) - int(begin)) + 1 for begin, end in _RANGE.findall(pattern))
    if count > MAX_TARS:
        raise ShardError(
            f"{pattern}: its braces say {count} tars, more than {MAX_TARS}: is there a digit too many?", kind="usage"
        )
    try:
        names: list[str] = expand_urls(pattern)
        return names
    except (AssertionError, ValueError, RecursionError) as error:  # the first: ${VARIABLE}
        raise ShardError(
            f"{pattern}: its braces cannot be understood ({error}); write them as {{000..146}}", kind="usage"
        ) from error


def _refuse_compressed(tars: Sequence[File]) -> None:
    """ShardError at once, before hours of reading, if a tar is missing or compressed."""
    with ThreadPoolExecutor(_BEGINNERS, "begin") as pool:
        begins = list(pool.map(_begin, tars))
    compressed = [item for item in zip(tars, begins, strict=True) if item[1].startswith(_MAGICS)]
    for path, begin in compressed:
        way = next(way for way in COMPRESSIONS if begin.startswith(way.magic))
        try:
            if isinstance(path, Path):
                refuse_compressed(path, begin, len(compressed) - 1)
        except Compressed as error:
            raise ShardError(f"{path}: {error}") from error
        raise ShardError(
            f"{path}: it is compressed with {way.name}, so that no image in it has a place of its own: make a plain tar of it "
            f"once, by `{way.stdout}`, and give that",
            kind="usage",
        )


def _begin(path: File) -> bytes:
    if isinstance(path, Remote):
        try:
            return read_part(path.url, 0, min(_BEGIN, path.bytes), length=path.bytes)
        except Gone as error:
            raise ShardError(f"{error.filename}: {error.strerror}") from error
    with opened(path) as descriptor:
        return os.pread(descriptor, _BEGIN, 0)
