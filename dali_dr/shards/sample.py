"""Sample: one image as it goes into a shard, the rules that it and its key must keep, and the members it becomes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

import google_crc32c
import numpy as np

from dali_dr.augment.views import MAX_SIDE
from dali_dr.encoded import MAX_PIXELS, image_info
from dali_dr.errors import RecordError, ShardError
from dali_dr.images.judge import Refusal, Shown
from dali_dr.images.tiling import Tiling
from dali_dr.record.copied import check_copied
from dali_dr.record.encode import encode
from dali_dr.record.label_map import check_label_map
from dali_dr.record.labels import Reinforcements, order_by_confidence
from dali_dr.record.logprobs import DEFAULT_LOG_STEP
from dali_dr.shards import tar
from dali_dr.shards.manifest import Manifest

MAX_IMAGE_BYTES: Final = 2**32 - 1  # the index counts in u32
MAX_KEY_FOLDER: Final = 155  # bytes in a tar's header before a slash
MAX_KEY_BASE: Final = 100 - len(f".{tar.RECORD_SUFFIX}")  # and after it, the longest suffix included
_DIGEST: Final = 16  # hex digits, 64 bits: none of a billion keys is like another
_CUT: Final = re.compile(r"(?:%[0-9A-F]?|[./_])+$")
_LEFT_OUT: Final = re.compile(r"__[^/]*__/")  # by webdataset
_PLAIN: Final = re.compile(r"(?!__)(?:[0-9A-Za-z_-][0-9A-Za-z_.-]*/)*[0-9A-Za-z_-]+")  # most keys, told at once


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image lies in a tar that stays as it is.

    Attributes:
      tar: number of the tar in `Manifest.image_tars`.
      offset: of the image's first byte there.
      bytes: its length; None: that of the sample's bytes.
      crc: CRC-32C of its bytes; None: that of the sample's bytes. Where both are known, a sample that says what it shows
        needs no bytes.
    """

    tar: int
    offset: int
    bytes: int | None = None
    crc: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the image of a sample comes from, for reports and to find out later whether it is still the same.

    Attributes:
      path: where it lies.
      change: what was done to its bytes before they were stored (a container mended, another format converted); None:
        they are stored as they are.
      crc: CRC-32C of the bytes that lie there; None where they are those of the sample.
      bytes: how many lie there; None where they are those of the sample, 0 where that is not known.
    """

    path: str = ""
    change: str | None = None
    crc: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """One image as it goes into a shard.

    Attributes:
      key: name in the shard and in `Dataset.keys`; "/" makes folders, the part after the last "/" holds no dot.
      image_bytes: the encoded image (a container of `dali_dr.encoded.CONTAINERS`), stored as it is or tiled.
      label: class id, 0 <= label < num_classes.
      reinforcements: stored views and predictions, or None for a plain image.
      problem: why the sample cannot be stored, where that is known before; it is refused.
      place: where the image is, for a sidecar data set, which does not store it again.
      origin: where the image comes from, for the report.
      shown: what a judge has said of the image, whose header need not be read again.
      tiling: what became of the image where it was tiled before it came; None: it was not.
      record: in place of ``reinforcements``, the record as another data set of the same settings has it, which is stored
        untouched; or the label map (`dali_dr.record.label_map.encode_label_map`).
      counts: views, and teacher classes per view, of ``record``, where who gives it has made it of this image and these
        settings just now: it is not read again.
    """

    key: str
    image_bytes: bytes
    label: int
    reinforcements: Reinforcements | None = None
    problem: str | Refusal | None = None
    place: Place | None = None
    origin: Origin | None = None
    shown: Shown | None = None
    tiling: Tiling | None = None
    record: bytes | None = None
    counts: tuple[int, int] | None = None

    @property
    def can_be_stored(self) -> bool:
        """Whether it has bytes and nothing is known against it."""
        return self.problem is None and isinstance(self.image_bytes, (bytes, bytearray, memoryview))


Samples = Iterable[Sample] | Callable[[int], Iterable[Sample]]  # the second leaves out as many as it is told


class Parts(NamedTuple):
    """What a sample becomes.

    Attributes:
      members: (suffix, bytes) of its files in the tar, in their order.
      views: how many.
      topk: teacher classes per view; -1 without reinforcements, 0 with a label map.
      size: (height, width) of the image.
      crc: CRC-32C of the image's bytes.
      map_classes: classes of its label map; 0 without.
    """

    members: list[tuple[str, bytes]]
    views: int
    topk: int
    size: tuple[int, int]
    crc: int
    map_classes: int = 0


def safe_key(text: str) -> str:
    """``text`` as a key that is allowed: white space, control characters, "%" and the dots of its last part become %XX.

    So does the first underscore of a first part __…__. Distinct texts give distinct keys. For names that come from
    elsewhere, such as "dog 1.v2" -> "dog%201%2Ev2".
    """
    if _PLAIN.fullmatch(text):
        return text
    folder, slash, base = text.rpartition("/")

    def escape(part: str, more: str = "") -> str:
        return "".join(
            "".join(f"%{byte:02X}" for byte in c.encode(errors="surrogatepass"))  # names that are not UTF-8
            if c.isspace() or not c.isprintable() or c in "%" + more
            else c
            for c in part
        )

    key = escape(folder) + slash + escape(base, ".")
    return f"%5F{key[1:]}" if _LEFT_OUT.match(key) else key


def fitting_key(key: str, *, whole: bool = True) -> str:
    """``key``, which is safe, or where a tar's header could not hold it (or not ``whole``), as much as can and a digest."""
    if whole and len(key) <= MAX_KEY_BASE and key.isascii():
        return key
    folder, slash, base = key.rpartition("/")
    if whole and len(base.encode()) <= MAX_KEY_BASE and len(folder.encode()) <= MAX_KEY_FOLDER:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:_DIGEST]
    # What is cut may end in a part of a %XX, or leave a folder called ".." or "__a__".
    folder = _CUT.sub("", folder.encode()[:MAX_KEY_FOLDER].decode(errors="ignore"))
    base = _CUT.sub("", base.encode()[: MAX_KEY_BASE - _DIGEST - 1].decode(errors="ignore"))
    return f"{folder}{slash if folder else ''}{base}-{digest}"


def key_fault(key: str) -> str | None:
    """Why tar, webdataset or DALI's reader would read ``key`` differently; None if they do not."""
    if len(key) <= MAX_KEY_BASE and _PLAIN.fullmatch(key):
        return None
    parts = key.split("/")
    for bad, what in (
        (not key, "no character"),
        (any(c.isspace() or not c.isprintable() for c in key), "white space or control characters (.idx splits there)"),
        ("." in parts[-1], "a dot after the last '/' (webdataset splits the name there)"),
        (any(part in ("", ".", "..") for part in parts), "an empty, '.' or '..' part"),
        (_LEFT_OUT.match(key) is not None, "a first part __…__ (webdataset leaves such out)"),
    ):
        if bad:
            return f"the key has {what}; rename it (dali_dr.shards.sample.safe_key does it)"
    try:
        tar.header(f"{key}.{tar.RECORD_SUFFIX}", 0)
    except ValueError as error:  # UnicodeEncodeError (lone surrogates) included
        return (
            f"the key does not fit a tar header ({error}): at most {MAX_KEY_BASE} bytes after a '/', {MAX_KEY_FOLDER} "
            "before it"
        )
    return None


def check_key(sample: Sample) -> None:
    """Refuse a key that tar, webdataset or DALI's reader would read differently.

    Raises:
      ShardError: saying what is wrong with it.
    """
    if not isinstance(sample, Sample):
        raise ShardError(f"want a dali_dr.Sample, got {sample!r:.100}")
    if not isinstance(sample.key, str) or not sample.key:
        raise ShardError(f"sample {sample.key!r:.100}: the key must be a string that is not empty")
    if fault := key_fault(sample.key):
        refuse(sample.key, *fault.split("; ", 1))


def parts_of(sample: Sample, draft: Manifest, *, max_pixels: int = MAX_PIXELS) -> Parts:
    """What ``sample`` becomes in a data set of the settings in ``draft``.

    Args:
      sample: whose key was found good by `check_key`.
      draft: the settings; its shards and counts are not used.
      max_pixels: that the image may have.

    Raises:
      ShardError: naming the key, if it cannot be stored.
    """
    key = sample.key
    if isinstance(sample.problem, Refusal):
        refuse(key, sample.problem.reason, sample.problem.remedy)
    if sample.problem is not None:
        refuse(key, sample.problem)
    image = _image_of(sample)
    if sample.shown is not None:
        suffix, height, width = sample.shown.suffix, sample.shown.height, sample.shown.width
    else:
        try:
            suffix, height, width = image_info(image, max_pixels=max_pixels)
        except ValueError as error:
            refuse(key, str(error))
    if max(height, width) > MAX_SIDE:
        refuse(key, f"the image has {height}x{width} pixels, a shard holds up to {MAX_SIDE} a side; leave it out")
    label = sample.label
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label < draft.num_classes:
        refuse(key, f"label is {label!r}, want an integer in 0..{draft.num_classes - 1}")
    members = [(suffix, image), (tar.LABEL_SUFFIX, b"%d" % int(label))]
    if draft.image_tars:
        members = []
        if sample.place is None or (sample.reinforcements is None and sample.record is None):
            refuse(key, "a sidecar data set wants a place and reinforcements for every sample")
    crc = None if sample.place is None else sample.place.crc
    crc = google_crc32c.value(image) if crc is None else crc
    if draft.label_maps is not None:
        classes = _check_label_map(key, sample, draft)
        members.append((tar.RECORD_SUFFIX, sample.record or b""))
        return Parts(members, 0, 0, (height, width), crc, classes)
    if sample.record is not None:
        views_and_topk = sample.counts or _check_record(key, sample.record, draft, height, width)
        members.append((tar.RECORD_SUFFIX, sample.record))
        return Parts(members, *views_and_topk, (height, width), crc)
    if sample.reinforcements is None:
        return Parts(members, 0, -1, (height, width), crc)
    members.append((tar.RECORD_SUFFIX, record_of(key, sample.reinforcements, draft, height, width)))
    views = sample.reinforcements
    return Parts(members, len(views), views.topk, (height, width), crc)


def _image_of(sample: Sample) -> bytes:
    image = sample.image_bytes
    if not isinstance(image, (bytes, bytearray, memoryview)):
        refuse(sample.key, f"image_bytes is a {type(image).__name__}, want the encoded image as bytes")
    image = bytes(image)
    if len(image) > MAX_IMAGE_BYTES:
        refuse(sample.key, f"the image has {len(image)} bytes, a shard holds up to {MAX_IMAGE_BYTES}")
    return image


def record_of(key: str, reinforcements: Reinforcements, draft: Manifest, height: int, width: int) -> bytes:
    """The record of an image of (height, width) pixels, its views by falling confidence."""
    if not isinstance(reinforcements, Reinforcements):
        refuse(key, f"reinforcements is a {type(reinforcements).__name__}, want a dali_dr.Reinforcements")
    if draft.spec is None or draft.probabilities is None:
        refuse(key, "has reinforcements, but spec is None: pass the spec that its views were drawn from")
    if reinforcements.num_ops != draft.spec.num_ops:
        refuse(key, f"has {reinforcements.num_ops} operations per view, the spec {draft.spec.num_ops}")
    mixing, mix = draft.spec.mixing, reinforcements.mix
    if (mix is None) != (mixing is None) or (mix is not None and mixing is not None and mix.double != mixing.double):
        refuse(key, "has mixed views and the spec no mixing, or the other way round, or one of them a double-mix")
    if mix is not None and mixing is not None and mix.own_mixes and not mixing.own_mixes:
        refuse(key, "has pairs of a double-mix with lam and CutMix box of each view's own, which the spec does not say")
    if (beyond := reinforcements.soft_ids >= draft.num_outputs).any():
        row = int(np.argmax(beyond.any(axis=1)))
        ids = reinforcements.soft_ids[row].tolist()
        refuse(key, f"view {row}: class id outside 0..{draft.num_outputs - 1} in {ids}")
    try:
        return encode(
            reinforcements.take(order_by_confidence(reinforcements)),
            image_height=height,
            image_width=width,
            view_size=(draft.spec.size, draft.spec.size),
            probabilities=draft.probabilities,
            log_step=DEFAULT_LOG_STEP if draft.log_step is None else draft.log_step,
        )
    except RecordError as error:
        refuse(key, str(error))


def _check_record(key: str, record: bytes, draft: Manifest, height: int, width: int) -> tuple[int, int]:
    """Views and teacher classes per view of a ready record, which must be one of this image and these settings."""
    if draft.spec is None or draft.probabilities is None:
        refuse(key, "has a record, but spec is None: pass the spec that its views were drawn from")
    size = (draft.spec.size, draft.spec.size)
    try:
        return check_copied(record, (height, width), size, draft.probabilities, draft.spec.mixing is not None)
    except RecordError as error:
        refuse(key, str(error))


def _check_label_map(key: str, sample: Sample, draft: Manifest) -> int:
    """How many classes the label map of ``sample`` has, which must be one of these settings."""
    if draft.label_maps is None or sample.record is None or sample.reinforcements is not None:
        refuse(
            key, "has no label map, or views beside it; a data set with label maps wants one as every sample's record"
        )
    try:
        return check_label_map(sample.record, draft.label_maps, draft.num_outputs)
    except RecordError as error:
        refuse(key, str(error))


def refuse(key: str, reason: str, remedy: str = "") -> NoReturn:
    """ShardError that sample ``key`` cannot be stored because of ``reason``, and what to do."""
    what = f"{reason}; {remedy}" if remedy else reason
    raise ShardError(
        f"sample {key if key.isprintable() else repr(key)}: {what}", key=key, reason=reason, remedy=remedy or None
    )
