"""What is known about one complete shard: counts, checksum and the place of every sample.

The writer leaves it as a hidden JSON file beside each shard until the data set is finished; where that file is lost,
the same facts are read from the tar.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

from dali_dr.augment.views import MAX_SIDE
from dali_dr.encoded import ANY_PIXELS, SUFFIXES, image_info
from dali_dr.errors import RecordError, ShardError
from dali_dr.images.tiling import Tiling, tile
from dali_dr.record.decode import Record, decode
from dali_dr.record.label_map import LabelMaps, check_label_map
from dali_dr.shards import tar
from dali_dr.shards.index_layout import ENTRY, MAX_LABEL, IndexedFile, section_crc, stored_entries
from dali_dr.shards.manifest import ImageTar, Manifest, ShardInfo
from dali_dr.shards.others import Group, LabelRule, groups_of, image_of, no_image
from dali_dr.shards.reading import opened
from dali_dr.shards.report import Changed, Refused
from dali_dr.shards.source_table import MAX_SOURCE_BYTES, SOURCE
from dali_dr.shards.tile_counts import TileCounts

_HASH_CHUNK = 1 << 22
_HEADS = (4 << 10, 64 << 10)  # bytes of an image that are tried for its size before all of it is read


class StoredSample(NamedTuple):
    """A sample in a tar: its key, class id and the members that hold its image and its record, if it has one.

    ``image_tar`` is the number of the tar in `Manifest.image_tars` that the image lies in, None: in the shard;
    ``size`` the image's (height, width) in its header and ``crc`` the CRC-32C of its bytes, both None until they are
    known.
    """

    key: str
    label: int
    image: tar.Member
    record: tar.Member | None
    image_tar: int | None = None
    size: tuple[int, int] | None = None
    crc: int | None = None


@dataclass
class ShardFacts:
    """One shard's facts; the lists have one item per sample, in order.

    Attributes:
      name: file name of the tar.
      bytes: its length.
      sha256: its SHA-256, hex.
      keys, labels: of the samples.
      images, records: (offset / 512, length in bytes) of each image and record; length 0: no record.
      views: views of each image; 0 without record.
      topk: teacher classes per view; -1 without records, 0 with label maps, None before the first sample.
      map_classes: the most classes that a label map has; 0 without.
      refused: samples that were left out (``on_error="skip"``), in the order they came.
      changed: samples whose images are not stored as their source has them.
      image_tars: number in `Manifest.image_tars` of each image's tar; empty where the shard holds the images.
      sizes: (height, width) of each image, from its header.
      crcs: CRC-32C of each image's bytes; None where they were not read.
      sources: (CRC-32C, length) of each image's bytes in its source, (0, 0) where they are not known; empty where images
        are not to be tiled.
      tiles: what became of images that were to be tiled.
    """

    name: str
    bytes: int = 0
    sha256: str = ""
    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    images: list[tuple[int, int]] = field(default_factory=list)
    records: list[tuple[int, int]] = field(default_factory=list)
    views: list[int] = field(default_factory=list)
    topk: int | None = None
    map_classes: int = 0
    refused: list[Refused] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    image_tars: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    crcs: list[int | None] = field(default_factory=list)
    sources: list[tuple[int, int]] = field(default_factory=list)
    tiles: TileCounts = field(default_factory=TileCounts)

    @property
    def info(self) -> ShardInfo:
        """The shard's line in the manifest."""
        return ShardInfo(self.name, len(self.keys), self.bytes, self.sha256, self.index_crc32c)

    @property
    def index_crc32c(self) -> int:
        """CRC-32C of what the index says of the shard: keys, labels, places and sizes."""
        encoded = [key.encode() for key in self.keys]
        tars = np.array(self.image_tars, np.uint32) if self.image_tars else None
        lengths = np.array([len(key) for key in encoded], np.int64)
        return section_crc(stored_entries(self.entries()), lengths, b"".join(encoded), tars)

    @property
    def source_table(self) -> npt.NDArray[Any]:
        """``sources`` as rows of `SOURCE`."""
        rows = np.asarray(self.sources, "<u4").reshape(-1, 2)
        return np.ascontiguousarray(rows).view(SOURCE).ravel()

    @property
    def consumed(self) -> int:
        """Samples of the source that this shard took: written and skipped."""
        return len(self.keys) + len(self.refused)

    @property
    def record_bytes(self) -> int:
        """Sum of the records' lengths."""
        return sum(size for _, size in self.records)

    def check_topk(self, topk: int) -> None:
        """ShardError if a sample with ``topk`` (-1: no record) differs from those before it."""
        if self.topk is not None and topk != self.topk:
            raise ShardError(f"has {describe_topk(topk)}, the samples before it {describe_topk(self.topk)}")

    def add(self, sample: StoredSample, views: int, topk: int, map_classes: int = 0) -> None:
        """Append a sample; ``views`` 0 and ``topk`` -1 without record, both 0 with a label map of so many classes."""
        self.check_topk(topk)
        self.topk = topk
        self.map_classes = max(self.map_classes, map_classes)
        self.views.append(views)
        self.keys.append(sample.key)
        self.labels.append(sample.label)
        self.images.append((sample.image.offset // tar.BLOCK, sample.image.size))
        self.sizes.append(sample.size or (0, 0))
        self.crcs.append(sample.crc)
        if sample.image_tar is not None:
            self.image_tars.append(sample.image_tar)
        self.records.append(
            (0, 0) if sample.record is None else (sample.record.offset // tar.BLOCK, sample.record.size)
        )

    def add_tiling(self, tiling: Tiling, source: tuple[int, int]) -> None:
        """Note what became of the image of the sample that was added last, and (CRC-32C, length) of its source's bytes."""
        crc, length = source
        self.sources.append((crc, min(length, MAX_SOURCE_BYTES)))
        self.tiles += TileCounts.of(tiling, self.images[-1][1])

    def entries(self) -> npt.NDArray[Any]:
        """The index entries (S,) of ``ENTRY``.

        CRCs that are not known and file numbers are 0, but for ``image_file`` of a sidecar shard, that counts in
        `Manifest.image_tars`.
        """
        entries = np.zeros(len(self.keys), ENTRY)
        for kind, places in (("image", self.images), ("record", self.records)):
            entries[f"{kind}_block"], entries[f"{kind}_bytes"] = np.asarray(places, np.int64).reshape(-1, 2).T
        entries["label"] = self.labels
        entries["image_height"], entries["image_width"] = np.asarray(self.sizes, np.int64).reshape(-1, 2).T
        entries["image_crc"] = [crc or 0 for crc in self.crcs]
        if self.image_tars:
            entries["image_file"] = self.image_tars
        return entries

    def save(self, shard: Path) -> None:
        """Write the facts beside ``shard``."""
        facts = json.dumps(self.to_json())
        checked = {"crc32c": google_crc32c.value(facts.encode()), "facts": facts}
        tar.write_atomically(facts_path(shard), json.dumps(checked).encode())

    @classmethod
    def load(cls, shard: Path, draft: Manifest | None = None, images: ImageTars | None = None) -> ShardFacts:
        """The facts of the complete ``shard`` of ``draft``, from their file or else from the tar (see `scan_shard`)."""
        return cls.saved(shard) or scan_shard(shard, images, draft=draft)

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON-able dict."""
        rare = {name: [asdict(one) for one in getattr(self, name)] for name in ("refused", "changed")}
        return {**vars(self), **rare, "tiles": asdict(self.tiles)}  # what there is a thousand times is not copied

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ShardFacts:
        """The facts in ``data``, also of an earlier dali_dr, which kept the keys and the reasons of refused samples."""
        data = dict(data)
        keys, reasons = data.pop("skipped", ()), data.pop("reasons", ())
        refused = [Refused(**one) for one in data.pop("refused", ())]
        refused += [Refused(key, why) for key, why in zip(keys, reasons, strict=True)]
        changed = [Changed(**one) for one in data.pop("changed", ())]
        return cls(**data | {"refused": refused, "changed": changed, "tiles": TileCounts(**data.pop("tiles", {}))})

    @classmethod
    def saved(cls, shard: Path) -> ShardFacts | None:
        """The facts in the file beside ``shard``, if there is one that fits it."""
        try:
            facts = parse_facts(facts_path(shard).read_bytes())
            fits = facts is not None and facts.bytes == shard.stat().st_size and facts.name == shard.name
            return facts if fits else None
        except OSError:
            return None


def parse_facts(data: bytes) -> ShardFacts | None:
    """The facts in what `ShardFacts.save` wrote; None if it is damaged, or of an earlier dali_dr, which wrote no checksum."""
    try:
        checked = json.loads(data)
        if google_crc32c.value(checked["facts"].encode()) != checked["crc32c"]:
            return None
        return ShardFacts.from_json(json.loads(checked["facts"]))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def facts_path(shard: Path) -> Path:
    """Where the facts of ``shard`` lie while the data set is being written."""
    return shard.with_name(f".{shard.name}.json")


def describe_topk(topk: int) -> str:
    """What a sample has, for messages."""
    return "no reinforcements" if topk < 0 else f"reinforcements with {topk} teacher classes per view"


def members_of(shard: Path) -> Iterator[list[tar.Member]]:
    """The members of each sample of ``shard``: neighbours with one key, as webdataset groups them."""
    for _, members in itertools.groupby(tar.scan(shard), key=lambda member: member.key):
        yield list(members)


class ImageTars:
    """The images and labels of a sidecar data set by key, found by reading through its image tars when first asked.

    Args:
      folder: of the data set.
      tars: `Manifest.image_tars`.
      rule: where labels are and what they mean.
    """

    def __init__(self, folder: Path, tars: Sequence[ImageTar], rule: LabelRule | None = None) -> None:
        self.paths: list[Path] = [folder.absolute() / image_tar.path for image_tar in tars]
        self._rule = LabelRule() if rule is None else rule

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> ImageTars | None:
        """Those of a data set; None where its shards hold its images."""
        return cls(folder, manifest.image_tars, LabelRule.of_extra(manifest.extra)) if manifest.image_tars else None

    def find(self, key: str) -> StoredSample:
        """The sample without its record. ShardError if no tar holds it, or it lacks something."""
        try:
            number, group = self._groups[key]
        except KeyError:
            raise ShardError(
                f"sample {key}: its image is in none of {len(self.paths)} image tars ({self.paths[0]}, …)"
            ) from None
        return read_image(self.paths[number], number, group, self._rule)

    @functools.cached_property
    def _groups(self) -> dict[str, tuple[int, Group]]:
        groups: dict[str, tuple[int, Group]] = {}
        for number, path in enumerate(self.paths):
            for group in groups_of(path):
                if image_of(path, group) is not None:  # a license beside the images may be called as one of them
                    groups[group.key] = number, group
        return groups


def read_image(path: Path, number: int, group: Group, rule: LabelRule) -> StoredSample:
    """The image sample in a tar that others made.

    Args:
      path: the tar.
      number: of the tar in `Manifest.image_tars`.
      group: of the tar.
      rule: where the label is.

    Raises:
      ShardError: naming tar and key.
    """
    image = image_of(path, group)
    if image is None:
        no_image(path, group)
    return StoredSample(group.key, rule.label_of(path, group), image, None, number)


def scan_shard(
    shard: Path, images: ImageTars | None = None, *, full: bool = True, draft: Manifest | None = None
) -> ShardFacts:
    """The facts of ``shard``, read from the tar alone.

    Args:
      images: of a sidecar data set; None where the shard holds its images.
      full: also hash the file, decode every record and read every image; else sha256, the counts of views and the
        CRCs stay empty.
      draft: what the data set is; None: of records, its images not tiled. Where images are tiled, they are tiled again
        with ``full``, which tells tiled ones from those that were kept as they were. What tiled ones were in their
        source is lost.

    Raises:
      ShardError: naming shard and key, if a sample lacks its image or label or a record is damaged.
    """
    facts = ShardFacts(shard.name, bytes=_size(shard), sha256=digest(shard) if full else "")
    tiled = draft is not None and draft.tiles is not None
    for members in members_of(shard):
        sample, data = measured(read_sample(shard, members, images), images.paths if images else [shard], full)
        counts: tuple[int, ...] = (0, -1)
        if full and sample.record is not None:
            counts = counts_of(shard, sample.record, draft)
        try:
            facts.add(sample, *(counts if full else (0, 0)))
        except ShardError as error:
            raise ShardError(f"{shard}: sample {sample.key}: {error}") from None
        if tiled and full:
            _, tiling = tile(data, None)
            facts.add_tiling(tiling, (0, 0) if tiling.kept is None else (sample.crc or 0, len(data)))
    return facts


def read_sample(shard: Path, members: list[tar.Member], images: ImageTars | None = None) -> StoredSample:
    """The sample that ``members`` make up, with its image from ``images`` if it is a sidecar shard.

    Raises:
      ShardError: naming shard and key, if they do not make one.
    """
    key = members[0].key
    if images is not None:
        if [member.suffix for member in members] != [tar.RECORD_SUFFIX]:
            raise ShardError(
                f"{shard}: sample {key}: its members are {', '.join(m.name for m in members)}; want "
                f"{key}.{tar.RECORD_SUFFIX} alone, its image is in a tar of images"
            )
        try:
            return images.find(key)._replace(record=members[0])
        except ShardError as error:
            raise ShardError(f"{shard}: {error}") from error
    parts = {member.suffix: member for member in members}
    pictures = [parts[suffix] for suffix in SUFFIXES if suffix in parts]
    if len(pictures) != 1 or tar.LABEL_SUFFIX not in parts or len(parts) != len(members):
        raise ShardError(
            f"{shard}: sample {key}: its members are {', '.join(m.name for m in members)}; want one image "
            f"({', '.join(SUFFIXES)}), one {tar.LABEL_SUFFIX} and at most one of each other"
        )
    label = parts[tar.LABEL_SUFFIX]
    text = tar.read_at(shard, label.offset, label.size)
    if not text.isdigit() or len(text) > 10 or int(text) > MAX_LABEL:
        raise ShardError(f"{shard}: sample {key}: its label is {text[:20]!r}, want a class id in ASCII digits")
    return StoredSample(key, int(text), pictures[0], parts.get(tar.RECORD_SUFFIX))


def measured(sample: StoredSample, places: Sequence[Path], full: bool = False) -> tuple[StoredSample, bytes]:
    """``sample`` with the size of its image, from the image's header; and what was read of the image.

    Args:
      sample: whose image lies in ``places[sample.image_tar]``, or the only place.
      places: tars.
      full: read all of the image, and give its CRC-32C too.

    Raises:
      ShardError: naming tar and key, if it is no image.
    """
    place, image = places[sample.image_tar or 0], sample.image
    data = b""
    for length in (image.size,) if full else (*(n for n in _HEADS if n < image.size), image.size):
        data = tar.read_at(place, image.offset, length)
        try:
            _, height, width = image_info(data, max_pixels=ANY_PIXELS)
            if max(height, width) > MAX_SIDE:
                raise ValueError(f"the image has {height}x{width} pixels, want up to {MAX_SIDE} a side")
            break
        except ValueError as error:
            if length == image.size:
                raise ShardError(f"{place}: sample {sample.key}: {error}") from error
    return sample._replace(size=(height, width), crc=google_crc32c.value(data) if full else None), data


def counts_of(shard: Path, member: tar.Member, draft: Manifest | None) -> tuple[int, int, int]:
    """Of what is in a KEY.dr.zst member, as `ShardFacts.add` takes them: views, classes per view, classes of a label map.

    Raises:
      ShardError: naming shard and key, where it is damaged.
    """
    if draft is not None and draft.label_maps is not None:
        return 0, 0, read_label_map(shard, member, draft.label_maps, draft.num_outputs)
    reinforcements = read_record(shard, member).reinforcements
    return len(reinforcements), reinforcements.topk, 0


def read_label_map(shard: Path, member: tar.Member, maps: LabelMaps, num_classes: int) -> int:
    """How many classes the label map in a KEY.dr.zst member has; ShardError naming shard and key."""
    try:
        return check_label_map(tar.read_at(shard, member.offset, member.size), maps, num_classes)
    except RecordError as error:
        raise ShardError(f"{shard}: sample {member.key}: {error}") from error


def read_record(shard: Path, member: tar.Member) -> Record:
    """The decoded record in a KEY.dr.zst member; ShardError naming shard and key."""
    try:
        return decode(tar.read_at(shard, member.offset, member.size))
    except RecordError as error:
        raise ShardError(f"{shard}: sample {member.key}: {error}") from error


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    sha = hashlib.sha256()
    with opened(path) as descriptor:
        while chunk := os.read(descriptor, _HASH_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def image_files(manifest: Manifest) -> list[IndexedFile]:
    """The image tars of a sidecar data set, as the index lists them after the shards."""
    return [IndexedFile(image_tar.path, image_tar.bytes) for image_tar in manifest.image_tars]


def _size(path: Path) -> int:
    with opened(path) as descriptor:
        return os.fstat(descriptor).st_size
