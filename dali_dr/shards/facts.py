"""What is known about one complete shard: counts, checksum and the place of every sample.

The writer leaves it as a hidden JSON file beside each shard until the data set is finished; where that file is lost,
the same facts are read from the tar.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dali_dr.errors import RecordError, ShardError
from dali_dr.record.codec import Record, decode
from dali_dr.shards import tar
from dali_dr.shards.index import ENTRY, MAX_LABEL, IndexedFile, SampleTable
from dali_dr.shards.manifest import ShardInfo

_HASH_CHUNK = 1 << 22


class StoredSample(NamedTuple):
    """A sample in a tar: its key, class id and the members that hold its image and its record, if it has one."""

    key: str
    label: int
    image: tar.Member
    record: tar.Member | None


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
        topk: teacher classes per view; -1 without records, None before the first sample.
        skipped: keys of samples that were refused and left out (``on_error="skip"``), in the order they came.
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
    skipped: list[str] = field(default_factory=list)

    @property
    def info(self) -> ShardInfo:
        """The shard's line in the manifest."""
        return ShardInfo(self.name, len(self.keys), self.bytes, self.sha256)

    @property
    def consumed(self) -> int:
        """Samples of the source that this shard took: written and skipped."""
        return len(self.keys) + len(self.skipped)

    @property
    def record_bytes(self) -> int:
        """Sum of the records' lengths."""
        return sum(size for _, size in self.records)

    def check_topk(self, topk: int) -> None:
        """ShardError if a sample with ``topk`` (-1: no record) differs from those before it."""
        if self.topk is not None and topk != self.topk:
            raise ShardError(f"has {describe_topk(topk)}, the samples before it {describe_topk(self.topk)}")

    def add(self, sample: StoredSample, views: int, topk: int) -> None:
        """Append a sample; ``views`` 0 and ``topk`` -1 without record."""
        self.check_topk(topk)
        self.topk = topk
        self.views.append(views)
        self.keys.append(sample.key)
        self.labels.append(sample.label)
        self.images.append((sample.image.offset // tar.BLOCK, sample.image.size))
        self.records.append(
            (0, 0) if sample.record is None else (sample.record.offset // tar.BLOCK, sample.record.size)
        )

    def entries(self) -> npt.NDArray[Any]:
        """The index entries (S,) of ``ENTRY``; file numbers are left 0."""
        entries = np.zeros(len(self.keys), ENTRY)
        for kind, places in (("image", self.images), ("record", self.records)):
            entries[f"{kind}_block"], entries[f"{kind}_bytes"] = np.asarray(places, np.int64).reshape(-1, 2).T
        entries["label"] = self.labels
        return entries

    def save(self, shard: Path) -> None:
        """Write the facts beside ``shard``."""
        tar.write_atomically(facts_path(shard), json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, shard: Path) -> ShardFacts:
        """The facts of the complete ``shard``, from their file or else from the tar."""
        try:
            facts = cls(**json.loads(facts_path(shard).read_bytes()))
            if facts.bytes == shard.stat().st_size and facts.name == shard.name:
                return facts
        except (OSError, ValueError, TypeError):
            pass
        return scan_shard(shard)


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


def scan_shard(shard: Path, *, full: bool = True) -> ShardFacts:
    """The facts of ``shard``, read from the tar alone.

    Args:
        full: also hash the file and decode every record; else sha256 and the counts of views stay empty.

    Raises:
        ShardError: naming shard and key, if a sample lacks its image or label or a record is damaged.
    """
    facts = ShardFacts(shard.name, bytes=_size(shard), sha256=digest(shard) if full else "")
    for members in members_of(shard):
        sample = read_sample(shard, members)
        counts = (0, -1)
        if full and sample.record is not None:
            reinforcements = read_record(shard, sample.record).reinforcements
            counts = len(reinforcements), reinforcements.topk
        try:
            facts.add(sample, *(counts if full else (0, 0)))
        except ShardError as error:
            raise ShardError(f"{shard}: sample {sample.key}: {error}") from None
    return facts


def read_sample(shard: Path, members: list[tar.Member]) -> StoredSample:
    """The sample that ``members`` make up. ShardError, naming shard and key, if they do not make one."""
    key = members[0].key
    parts = {member.suffix: member for member in members}
    images = [parts[suffix] for suffix in tar.IMAGE_SUFFIXES if suffix in parts]
    if len(images) != 1 or tar.LABEL_SUFFIX not in parts or len(parts) != len(members):
        raise ShardError(
            f"{shard}: sample {key}: its members are {', '.join(m.name for m in members)}; want one image "
            f"({', '.join(tar.IMAGE_SUFFIXES)}), one {tar.LABEL_SUFFIX} and at most one of each other"
        )
    label = parts[tar.LABEL_SUFFIX]
    text = tar.read_at(shard, label.offset, label.size)
    if not text.isdigit() or len(text) > 10 or int(text) > MAX_LABEL:
        raise ShardError(f"{shard}: sample {key}: its label is {text[:20]!r}, want a class id in ASCII digits")
    return StoredSample(key, int(text), images[0], parts.get(tar.RECORD_SUFFIX))


def read_record(shard: Path, member: tar.Member) -> Record:
    """The decoded record in a KEY.dr.zst member; ShardError naming shard and key."""
    try:
        return decode(tar.read_at(shard, member.offset, member.size))
    except RecordError as error:
        raise ShardError(f"{shard}: sample {member.key}: {error}") from error


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    sha = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_HASH_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def rebuild_index(folder: Path, shards: tuple[ShardInfo, ...], num_classes: int, index: Path) -> None:
    """Write ``index`` anew from the tars of ``folder``. ShardError if a tar does not hold what the manifest says."""
    table = SampleTable()
    for shard in shards:
        facts = scan_shard(folder / shard.name, full=False)
        if len(facts.keys) != shard.samples:
            raise ShardError(
                f"{folder / shard.name}: holds {len(facts.keys)} samples, dataset.json says {shard.samples}; "
                "restore it from a copy"
            )
        table.add_file(IndexedFile(shard.name, shard.bytes), facts.keys, facts.entries())
    table.write(index, num_classes)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); restore it from a copy") from error
