"""Journal of a shard in the making: what the teacher said of its first images, so that little is lost with a worker.

Chunks of records are written beside the shard, every half minute and when the worker is interrupted; whoever makes the
shard again takes them instead of asking the teacher. A chunk holds whole teacher batches, so that those before and after
it are cut as they would be without it, and the shard is the same in every byte. An image is the grain: what is lost is
the half minute, and the image in work.

A chunk says what it belongs to: the settings of the run, the kind of device, and each image's key and checksum. One that is
damaged or belongs to something else is left alone, and goes with the rest when the data set is finished; an image that
changed is made anew. (With mixed views, partners are compared by their sizes alone, which are among the settings.)

Layout, little-endian: magic, u32 length of the header, the header (JSON), counts of confidence (u32, images x bins), records,
SHA-256 of all before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.reinforce.kept import Kept
from dali_dr.reinforce.report import CONFIDENCE_BINS
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.sample import Sample, record_of

INTERVAL: Final = (
    30.0  # seconds between chunks: of a worker that is killed, no more work is lost than these and one image
)
_MAGIC: Final = b"dali_dr journal 1\n"
_LENGTH: Final = struct.Struct("<I")
_DIGEST: Final = hashlib.sha256().digest_size
_NAME: Final = re.compile(r"(\d{6,})-(\d{6,})")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image, done.

    Attributes:
      key: of the sample.
      crc: CRC-32C of its bytes in the source.
      record: that goes into the shard; None where it may not enter.
      counts: views, and teacher classes per view.
      confidence: views by the probability of the most likely class, (CONFIDENCE_BINS,).
    """

    key: str
    crc: int
    record: bytes | None
    counts: tuple[int, int]
    confidence: npt.NDArray[np.int64]

    def fits(self, sample: Sample) -> bool:
        """Whether it is of the image that ``sample`` holds now."""
        return self.key == sample.key and self.crc == crc_of(sample) and (self.record is None) == (sample.shown is None)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Images that are done, one after the other.

    Attributes:
      begin: the first one's place in the shard.
      entries: of them all.
      seconds: that they took.
      teacher_seconds: of these, in the teacher.
    """

    begin: int
    entries: Sequence[Entry]
    seconds: float
    teacher_seconds: float

    @property
    def end(self) -> int:
        return self.begin + len(self.entries)

    def pack(self, belongs: str) -> bytes:
        """The file of it."""
        head: dict[str, Any] = {
            "belongs": belongs,
            "begin": self.begin,
            "seconds": self.seconds,
            "teacher_seconds": self.teacher_seconds,
            "keys": [entry.key for entry in self.entries],
            "crcs": [entry.crc for entry in self.entries],
            "counts": [entry.counts for entry in self.entries],
            "sizes": [None if entry.record is None else len(entry.record) for entry in self.entries],
        }
        text = json.dumps(head).encode()
        confidence = np.array([entry.confidence for entry in self.entries], "<u4").tobytes()
        records = b"".join(entry.record or b"" for entry in self.entries)
        data = _MAGIC + _LENGTH.pack(len(text)) + text + confidence + records
        return data + hashlib.sha256(data).digest()

    @classmethod
    def unpack(cls, data: bytes, belongs: str) -> Chunk:
        """From its file. ValueError if that is damaged, or of something else than ``belongs`` says."""
        body, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(body).digest() != digest or not body.startswith(_MAGIC):
            raise ValueError("is damaged")
        at = len(_MAGIC) + _LENGTH.size
        (length,) = _LENGTH.unpack_from(body, len(_MAGIC))
        head = json.loads(body[at : at + length])
        if head["belongs"] != belongs:
            raise ValueError("belongs to another run")
        count, at = len(head["keys"]), at + length
        confidence = np.frombuffer(body, "<u4", count * CONFIDENCE_BINS, at).reshape(count, -1).astype(np.int64)
        at += confidence.size * 4
        entries = []
        for key, crc, counts, size, bins in zip(
            head["keys"], head["crcs"], head["counts"], head["sizes"], confidence, strict=True
        ):
            record = None if size is None else body[at : at + size]
            entries.append(Entry(key, crc, record, (counts[0], counts[1]), bins))
            at += size or 0
        return cls(head["begin"], entries, head["seconds"], head["teacher_seconds"])


class Journal:
    """The chunks of one shard.

    Args:
      kept: where they lie.
      shard: name of the shard, without suffix.
      belongs: see `belongs_to`.
      batch: images per teacher batch: chunks begin and end with one.
      images: in the shard.
    """

    def __init__(self, kept: Kept, shard: str, belongs: str, batch: int, images: int) -> None:
        self._kept, self._shard, self._belongs = kept, shard, f"{belongs} {shard}"
        self._batch, self._images = batch, images
        self._begin = 0
        self._pending: list[Entry] = []
        self._written = time.monotonic()
        self._seconds = self._teacher_seconds = 0.0  # up to the last chunk

    def chunks(self) -> list[Chunk]:
        """What is there of the shard, rising, without overlap."""
        found = []
        for path in self._kept.matching(f"{self._shard}.*.dr"):
            name = _NAME.fullmatch(path.name[len(self._shard) + 1 : -len(".dr")])
            try:
                chunk = Chunk.unpack(path.read_bytes(), self._belongs)
                if name is None or (chunk.begin, chunk.end) != (int(name[1]), int(name[2])):
                    raise ValueError("has another's name")
                if chunk.begin % self._batch or (chunk.end % self._batch and chunk.end != self._images):
                    raise ValueError("holds no whole batches")
            except (OSError, ValueError, LookupError, TypeError) as error:
                _log.warning("%s: is not used: %s", path.name, error)
                continue
            found.append(chunk)
        disjoint: list[Chunk] = []
        for chunk in sorted(found, key=lambda chunk: (chunk.begin, -chunk.end)):
            if not disjoint or chunk.begin >= disjoint[-1].end:
                disjoint.append(chunk)
        return disjoint

    def begin(self, at: int, seconds: float, teacher_seconds: float) -> None:
        """What is added next is the image ``at`` of the shard, after so many seconds of work on it."""
        self._begin, self._pending = at, []
        self._seconds, self._teacher_seconds = seconds, teacher_seconds
        self._written = time.monotonic()

    def add(self, entry: Entry, seconds: float, teacher_seconds: float) -> None:
        """The next image is done, after so many seconds of work on the shard; writes a chunk if it is time to."""
        self._pending.append(entry)
        if self._whole == len(self._pending) and time.monotonic() - self._written >= INTERVAL:
            self.flush(seconds, teacher_seconds)

    def flush(self, seconds: float, teacher_seconds: float) -> None:
        """Writes what is done, but for a batch that is not complete. What the disk does not take is not kept."""
        whole = self._whole
        self._written = time.monotonic()
        if not whole:
            return
        spent = seconds - self._seconds, teacher_seconds - self._teacher_seconds
        chunk = Chunk(self._begin, self._pending[:whole], *spent)
        try:
            self._kept.write(f"{self._shard}.{chunk.begin:06d}-{chunk.end:06d}.dr", chunk.pack(self._belongs))
        except ShardError as error:  # the shard itself goes on
            _log.warning("%s: what is done so far could not be kept: %s", self._shard, error)
            return
        self._begin, self._pending = chunk.end, self._pending[whole:]
        self._seconds, self._teacher_seconds = seconds, teacher_seconds

    def remove(self) -> None:
        """Removes all chunks, as the shard is there."""
        for path in self._kept.matching(f"{self._shard}.*.dr"):
            self._kept.withdraw(path)

    @property
    def _whole(self) -> int:
        """How many of the pending images are in whole batches."""
        end = self._begin + len(self._pending)
        return len(self._pending) if end == self._images else max(0, end - end % self._batch - self._begin)


def belongs_to(draft: Manifest, device: str) -> str:
    """What the records of a run depend on, as a digest: its settings, with the source, and the kind of device."""
    text = json.dumps([draft.settings(), device], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def crc_of(sample: Sample) -> int:
    """CRC-32C of the image as the source has it."""
    origin = sample.origin
    return int(google_crc32c.value(sample.image_bytes)) if origin is None or origin.crc is None else origin.crc


def sealed(sample: Sample, draft: Manifest) -> Sample:
    """``sample`` with its record, as the shard will hold it; as it is where it has none, or none that can be stored."""
    views, shown = sample.reinforcements, sample.shown
    if views is None or shown is None:
        return sample
    try:
        record = record_of(sample.key, views, draft, shown.height, shown.width)
    except ShardError:  # whoever writes the shard says so
        return sample
    return dataclasses.replace(sample, reinforcements=None, record=record, counts=(len(views), views.topk))
