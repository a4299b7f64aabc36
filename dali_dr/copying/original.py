"""The data set that is copied: its objects, and what each must be."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dali_dr.copying import image_tars
from dali_dr.copying.origins import Check, FolderOrigin, Item, Origin
from dali_dr.errors import ShardError, shown
from dali_dr.shards import tar
from dali_dr.shards.facts import digest, members_of
from dali_dr.shards.index import SampleIndex
from dali_dr.shards.index_fit import checked_index
from dali_dr.shards.index_layout import INDEX_NAME
from dali_dr.shards.manifest import MANIFEST_NAME, STATE_NAME, Manifest, ShardInfo, checksum_of
from dali_dr.shards.rebuild import rebuild_index
from dali_dr.shards.report import CHANGED_NAME, CONFIG_NAME, REPORT_NAME, SKIPPED_NAME, SUMMARY_NAME
from dali_dr.shards.source_table import SOURCES_NAME
from dali_dr.shards.strict_json import MAX_BYTES, parse_json

_log = logging.getLogger(__name__)
REPORTS: Final = tuple(
    f"{REPORT_NAME}/{name}"
    for name in (SKIPPED_NAME, CHANGED_NAME, SOURCES_NAME, "confidence.png", CONFIG_NAME, SUMMARY_NAME)
)
_MOST_INDEXED: Final = 4096  # bytes in an index of a sample or file, whose names are shorter: more is not downloaded
_OF_THE_HUB: Final = ".gitattributes"  # every repository has it


@dataclasses.dataclass(frozen=True)
class Original:
    """The data set that is copied, as those see it who put something beside the copy.

    Attributes:
      place: its folder or URL.
      manifest: that the copy will have.
      summary: of its report; empty where there is none.
      refused: images that were left out of it.
      there: a function of a name that reads the small object of the destination; None where there is none.
    """

    place: Path | str
    manifest: Manifest
    summary: Mapping[str, Any]
    refused: int
    there: Callable[[str], bytes | None]


class OriginalSet:
    """The data set in ``origin``.

    Args:
      origin: of it.
      place: of it.
      room: a folder for what is changed in the copy.
      with_images: see `copy_set`.
    """

    def __init__(self, origin: Origin, place: Path | str, room: Path, with_images: bool) -> None:
        self._origin, self._place, self._room = origin, place, room
        self._local = FolderOrigin(room)
        text = _manifest_text(origin)
        where = f"{origin.where}/{MANIFEST_NAME}"
        self.manifest = Manifest.from_json(parse_json(text, where), where)
        self._tars = image_tars.places_of(self.manifest, origin.where, with_images, isinstance(place, Path))
        parents = sorted({name.rpartition("/")[0] for name in (*self._tars, *REPORTS)} - {""})
        tars = [shard.name for shard in self.manifest.shards]
        idx = [_idx_name(name) for name in tars]
        self._names = origin.names(parents, [*tars, *idx, *self._tars, INDEX_NAME, *REPORTS])
        self._index_fault = ""  # what is wrong with it
        self._look()
        self._index_of: Origin = origin
        with self._index() as path:
            self._images = image_tars.Images(SampleIndex(path), len(self.manifest.shards)) if self._tars else None
            moved = image_tars.moved(self.manifest, self._tars)
            if moved is not None:
                (room / INDEX_NAME).write_bytes(image_tars.moved_index(path, self.manifest, moved))
                self.manifest = moved
                text = image_tars.text_of(moved)
                self._index_of = self._local
        self._text = text
        self.identity: str = checksum_of(json.loads(text))

    def items(self) -> list[Item]:
        """All objects, in the order in which they are copied."""
        shards = [self._shard(shard) for shard in self.manifest.shards]
        index = Item(INDEX_NAME, self._index_of, INDEX_NAME, check=self._check_index)
        if self._index_of is self._origin:
            index.size = self._names.get(INDEX_NAME)
        else:
            index.size = (self._room / INDEX_NAME).stat().st_size
        reports = [Item(name, self._origin, name, self._names[name]) for name in REPORTS if name in self._names]
        for one in reports:
            one.replace = True
        return [*shards, *self._image_tars(), index, *reports, *self.made({MANIFEST_NAME: self._text})]

    def made(self, objects: Mapping[str, bytes]) -> list[Item]:
        """Items of bytes that are here."""
        found = []
        for name, data in objects.items():
            (self._room / name).write_bytes(data)
            found.append(Item(name, self._local, name, len(data), _equal_to(data), replace=True, small=True))
        return found

    def told(self, there: Callable[[str], bytes | None]) -> Original:
        """See `Original`."""
        summary: Any = {}
        with contextlib.suppress(ShardError, ValueError):
            summary = json.loads(self._origin.read(f"{REPORT_NAME}/{SUMMARY_NAME}", MAX_BYTES) or b"{}")
        refused = 0
        if (name := f"{REPORT_NAME}/{SKIPPED_NAME}") in self._names:
            with self._origin.hold(name, None, lambda _: None) as path, path.open("rb") as lines:
                refused = sum(1 for _ in lines)
        return Original(self._place, self.manifest, summary if isinstance(summary, dict) else {}, refused, there)

    def left(self, names: Iterable[str]) -> tuple[str, ...]:
        """What is in the source and not among ``names``."""
        ours = {*names, _OF_THE_HUB}
        folders = {f"{name.rpartition('/')[0]}/" for name in ours if "/" in name}
        known = {f"{part}/" for name in folders for part in _prefixes(name)}
        return tuple(sorted({name for name in self._names if name not in ours and name not in known}))

    @contextlib.contextmanager
    def _index(self) -> Iterator[Path]:
        """The index as a file: the source's, or where that is damaged or absent one made of the shards, all of them checked."""
        if not self._index_fault:
            with self._origin.hold(INDEX_NAME, None, lambda _: None) as path:
                try:
                    checked_index(path, self.manifest, f"{self._origin.where}/{INDEX_NAME}")
                except ShardError as error:
                    self._index_fault = str(error)
                else:
                    yield path
                    return
        if self._tars:
            remedy = (
                "`dali-dr index` makes it anew" if isinstance(self._place, Path) else "restore it there from a copy"
            )
            raise ShardError(f"{self._index_fault}; {remedy}")
        _log.warning(
            "%s; the copy has one made anew of the shards, which are read once more for it", shown(self._index_fault)
        )
        path = self._room / INDEX_NAME
        rebuild_index(self._room, self.manifest, path, full=True, here=self._held)
        self._index_of = self._local
        yield path

    @contextlib.contextmanager
    def _held(self, shard: ShardInfo) -> Iterator[Path]:
        """A shard as a file; errors about it name its place."""
        with self._origin.hold(shard.name, shard.bytes, lambda _: None) as path:
            try:
                yield path
            except ShardError as error:
                raise ShardError(str(error).replace(str(path), f"{self._origin.where}/{shard.name}")) from error

    def _look(self) -> None:
        """ShardError if a shard is missing or of another size, before anything is copied; what is so with the index."""
        wanted = [(shard.name, shard.bytes) for shard in self.manifest.shards]
        most = (self.manifest.images + len(wanted) + len(self._tars) + 1) * _MOST_INDEXED
        for name, size in wanted:
            place, there = f"{self._origin.where}/{name}", self._names.get(name)
            if there is None:
                raise ShardError(f"{place}: is missing; restore it from a copy")
            if there != size:
                raise ShardError(
                    f"{place}: has {there} bytes, dataset.json says {size}: it is cut off or was changed; restore it from "
                    "a copy"
                )
        place, there = f"{self._origin.where}/{INDEX_NAME}", self._names.get(INDEX_NAME)
        if there is None:
            self._index_fault = f"{place}: is missing"
        elif there > most:
            self._index_fault = f"{place}: has {there} bytes, want at most {most}"

    def _shard(self, shard: ShardInfo) -> Item:
        idx = _idx_name(shard.name)
        made = (idx, _idx_of) if idx in self._names else None
        return Item(shard.name, self._origin, shard.name, shard.bytes, _hashed(shard.sha256), made)

    def _image_tars(self) -> Iterator[Item]:
        for number, (image_tar, source) in enumerate(zip(self.manifest.image_tars, self._tars.values(), strict=True)):
            assert self._images is not None
            check = self._images.check_of(number)
            yield Item(image_tar.path, self._origin, source, image_tar.bytes, check)

    def _check_index(self, path: Path, place: str) -> None:
        checked_index(path, self.manifest, place)


def _manifest_text(origin: Origin) -> bytes:
    text = origin.read(MANIFEST_NAME, MAX_BYTES)
    if text is None:
        begun = origin.read(STATE_NAME, MAX_BYTES) is not None
        what = "holds a data set that is not finished: run its writer again" if begun else "holds no data set"
        raise ShardError(f"{origin.where}: {what} ({MANIFEST_NAME} is missing, which comes last)", kind="usage")
    return text


def _hashed(sha256: str) -> Check:
    """A check of the SHA-256 of a shard."""

    def check(path: Path, place: str) -> None:
        found = digest(path)
        if found != sha256:
            raise ShardError(
                f"{place}: its SHA-256 is {found}, dataset.json says {sha256}: it was changed or damaged; "
                "restore it from a copy"
            )

    return check


def _equal_to(data: bytes) -> Check:
    def check(path: Path, place: str) -> None:
        if path.read_bytes() != data:
            raise ShardError(f"{place}: is not what it should be")

    return check


def _idx_name(shard: str) -> str:
    return Path(shard).with_suffix(".idx").name


def _idx_of(path: Path) -> bytes:
    """The .idx of a shard, made of its bytes, which were checked, and not copied: nothing says what it must be."""
    return tar.idx_text(list(members_of(path))).encode()


def _prefixes(name: str) -> Iterator[str]:
    parts = name.rstrip("/").split("/")
    return ("/".join(parts[: end + 1]) for end in range(len(parts)))
