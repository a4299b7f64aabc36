"""Sample: one image as it goes into a shard, the rules that it and its key must keep, and the members it becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

import google_crc32c
import numpy as np

from dali_dr.augment.views import MAX_SIDE
from dali_dr.encoded import MAX_PIXELS, image_info
from dali_dr.errors import RecordError, ShardError
from dali_dr.record.encode import encode
from dali_dr.record.labels import Reinforcements, order_by_confidence
from dali_dr.record.logprobs import DEFAULT_LOG_STEP
from dali_dr.shards import tar
from dali_dr.shards.manifest import Manifest

MAX_IMAGE_BYTES: Final = 2**32 - 1  # the index counts in u32


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image lies in a tar that stays as it is.

    Attributes:
      tar: number of the tar in `Manifest.image_tars`.
      offset: of the image's first byte there.
    """

    tar: int
    offset: int


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """One image as it goes into a shard.

    Attributes:
      key: name in the shard and in `Dataset.keys`; "/" makes folders, the part after the last "/" holds no dot.
      image_bytes: the encoded image (a container of `dali_dr.encoded.CONTAINERS`), stored untouched.
      label: class id, 0 <= label < num_classes.
      reinforcements: stored views and predictions, or None for a plain image.
      problem: why the sample cannot be stored, where that is known before; it is refused.
      place: where the image is, for a sidecar data set, which does not store it again.
    """

    key: str
    image_bytes: bytes
    label: int
    reinforcements: Reinforcements | None = None
    problem: str | None = None
    place: Place | None = None


Samples = Iterable[Sample] | Callable[[int], Iterable[Sample]]  # the second leaves out as many as it is told


class Parts(NamedTuple):
    """What a sample becomes.

    Attributes:
      members: (suffix, bytes) of its files in the tar, in their order.
      views: how many.
      topk: teacher classes per view; -1 without reinforcements.
      size: (height, width) of the image.
      crc: CRC-32C of the image's bytes.
    """

    members: list[tuple[str, bytes]]
    views: int
    topk: int
    size: tuple[int, int]
    crc: int


def safe_key(text: str) -> str:
    """``text`` as a key that is allowed: white space, control characters, "%" and the dots of its last part become %XX.

    Distinct texts give distinct keys. For names that come from elsewhere, such as "dog 1.v2" -> "dog%201%2Ev2".
    """
    folder, slash, base = text.rpartition("/")

    def escape(part: str, more: str = "") -> str:
        return "".join(
            "".join(f"%{byte:02X}" for byte in c.encode(errors="surrogatepass"))  # names that are not UTF-8
            if c.isspace() or not c.isprintable() or c in "%" + more
            else c
            for c in part
        )

    return escape(folder) + slash + escape(base, ".")


def check_key(sample: Sample) -> None:
    """Refuse a key that tar, webdataset or DALI's reader would read differently.

    Raises:
      ShardError: saying what is wrong with it.
    """
    if not isinstance(sample, Sample):
        raise ShardError(f"want a dali_dr.Sample, got {sample!r:.100}")
    key = sample.key
    if not isinstance(key, str) or not key:
        raise ShardError(f"sample {key!r:.100}: the key must be a string that is not empty")
    parts = key.split("/")
    for bad, what in (
        (any(c.isspace() or not c.isprintable() for c in key), "white space or control characters (.idx splits there)"),
        ("." in parts[-1], "a dot after the last '/' (webdataset splits the name there)"),
        (any(part in ("", ".", "..") for part in parts), "an empty, '.' or '..' part"),
        (re.match(r"__[^/]*__/", key) is not None, "a first part __…__ (webdataset leaves such out)"),
    ):  # fmt: skip
        if bad:
            refuse(key, f"the key has {what}; rename it (dali_dr.shards.sample.safe_key does it)")
    try:
        tar.header(f"{key}.{tar.RECORD_SUFFIX}", 0)
    except ValueError as error:  # UnicodeEncodeError (lone surrogates) included
        refuse(key, f"the key does not fit a tar header ({error}): at most 93 bytes after a '/', 155 before it")


def parts_of(sample: Sample, draft: Manifest, *, check_image: bool = False, max_pixels: int = MAX_PIXELS) -> Parts:
    """What ``sample`` becomes in a data set of the settings in ``draft``.

    Args:
      sample: whose key was found good by `check_key`.
      draft: the settings; its shards and counts are not used.
      check_image: also decode the image in full.
      max_pixels: that the image may have.

    Raises:
      ShardError: naming the key, if it cannot be stored.
    """
    key = sample.key
    if sample.problem is not None:
        refuse(key, sample.problem)
    image = _image_of(sample)
    try:
        suffix, height, width = image_info(image, full=check_image, max_pixels=max_pixels)
    except ValueError as error:
        refuse(key, str(error))
    if max(height, width) > MAX_SIDE:
        refuse(key, f"the image has {height}x{width} pixels, a shard holds up to {MAX_SIDE} a side")
    label = sample.label
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label < draft.num_classes:
        refuse(key, f"label is {label!r}, want an integer in 0..{draft.num_classes - 1}")
    members = [(suffix, image), (tar.LABEL_SUFFIX, b"%d" % int(label))]
    if draft.image_tars:
        members = []
        if sample.place is None or sample.reinforcements is None:
            refuse(key, "a sidecar data set wants a place and reinforcements for every sample")
    if sample.reinforcements is None:
        return Parts(members, 0, -1, (height, width), google_crc32c.value(image))
    members.append((tar.RECORD_SUFFIX, _record_of(key, sample.reinforcements, draft, height, width)))
    views = sample.reinforcements
    return Parts(members, len(views), views.topk, (height, width), google_crc32c.value(image))


def _image_of(sample: Sample) -> bytes:
    image = sample.image_bytes
    if not isinstance(image, (bytes, bytearray, memoryview)):
        refuse(sample.key, f"image_bytes is a {type(image).__name__}, want the encoded image as bytes")
    image = bytes(image)
    if len(image) > MAX_IMAGE_BYTES:
        refuse(sample.key, f"the image has {len(image)} bytes, a shard holds up to {MAX_IMAGE_BYTES}")
    return image


def _record_of(key: str, reinforcements: Reinforcements, draft: Manifest, height: int, width: int) -> bytes:
    """The record of an image of (height, width) pixels, its views by falling confidence."""
    if not isinstance(reinforcements, Reinforcements):
        refuse(key, f"reinforcements is a {type(reinforcements).__name__}, want a dali_dr.Reinforcements")
    if draft.spec is None or draft.probabilities is None:
        refuse(key, "has reinforcements, but spec is None: pass the spec that its views were drawn from")
    num_ops = draft.spec.rand_augment.num_ops if draft.spec.rand_augment else 0
    if reinforcements.num_ops != num_ops:
        refuse(key, f"has {reinforcements.num_ops} RandAugment operations per view, the spec {num_ops}")
    mixing, mix = draft.spec.mixing, reinforcements.mix
    if (mix is None) != (mixing is None) or (mix is not None and mixing is not None and mix.double != mixing.double):
        refuse(key, "has mixed views and the spec no mixing, or the other way round, or one of them a double-mix")
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


def refuse(key: str, what: str) -> NoReturn:
    """ShardError that sample ``key`` cannot be stored because of ``what``."""
    raise ShardError(f"sample {key if key.isprintable() else repr(key)}: {what}")
