"""What is fuzzed: the Python readers, each with the errors that it may raise; anything else is a finding.

A target is a function of bytes. It puts right what only a writer could get right, checksums above all, so that a fuzzer
sees what lies behind them.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import webdataset.tariterators  # noqa: F401  (imported, with torch, when a tar is first read, which takes seconds)
import zstandard

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.encoded import image_info
from dali_dr.errors import DaliDrError, RecordError, ShardError, SpecError
from dali_dr.loader import state
from dali_dr.record.decode import decode
from dali_dr.record.label_map import decode_label_map, encode_label_map
from dali_dr.shards import tar
from dali_dr.shards.facts import ShardFacts, facts_path, scan_shard
from dali_dr.shards.index import SampleIndex
from dali_dr.shards.manifest import MANIFEST_NAME, Manifest, checksum_of
from dali_dr.shards.others import LabelRule, groups_of
from dali_dr.shards.sample import key_fault
from dali_dr.sources import FileList, Reading, WebDatasetTars
from dali_dr.sources.classes import MAX_CLASSES, Numbers

_MEMORY = Path("/dev/shm")
_FOLDER = Path(tempfile.mkdtemp(prefix="dali_dr_fuzz_", dir=_MEMORY if _MEMORY.is_dir() else None))
MEANING: state.Meaning = {"data": "0123456789ab", "seed": 3, "length": 1000, "order": "global"}
"""Of the run that the target "state" restores."""


def clean_up() -> None:
    """Removes the files of the targets of this process."""
    shutil.rmtree(_FOLDER, ignore_errors=True)


def record(data: bytes) -> None:
    """A member of a shard."""
    try:
        read = decode(data)
    except RecordError:
        return
    assert len(read.reinforcements) > 0 and read.image_height > 0 and read.image_width > 0


def record_content(data: bytes) -> None:
    """What is in the zstd frames of a record; see `pack_parts` for the bytes."""
    record(b"".join(frame(part) for part in unpack_parts(data)))


def label_map(data: bytes) -> None:
    """What is in the zstd frame of a label map: refused, or a map that is written as it was read."""
    try:
        scores, ids = decode_label_map(frame(data))
    except RecordError:
        return
    classes = int.from_bytes(data[20:24], "little")
    assert scores.shape == ids.shape and np.isfinite(scores).all() and ids.min() >= 0 and ids.max() < classes
    again, same = decode_label_map(encode_label_map(scores, ids, num_classes=classes))
    assert np.array_equal(same, ids) and np.isin(again, [*scores.ravel(), 0]).all()


def manifest(data: bytes) -> None:
    """dataset.json, with its checksum put right where it is JSON."""
    try:
        value = json.loads(data)
        if isinstance(value, dict) and value.get("format_version") != 1:
            value["checksum"] = checksum_of(value)
            data = json.dumps(value).encode()
    except (ValueError, RecursionError):
        pass
    (_FOLDER / MANIFEST_NAME).write_bytes(data)
    try:
        read = Manifest.load(_FOLDER)
    except ShardError:
        return
    assert Manifest.from_json(json.loads(json.dumps(read.to_json()))) == read
    assert read.num_outputs > 0 and read.images >= 0 and read.settings()


def index(data: bytes) -> None:
    """index.bin, with its checksum put right."""
    if len(data) >= 64 and data[8:12] == struct.pack("<I", 2):
        blank = data[:56] + bytes(4) + data[60:]
        data = blank[:56] + struct.pack("<I", google_crc32c.value(blank)) + blank[60:]
    path = _FOLDER / "index.bin"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        read = SampleIndex(path)
        assert len(read) <= len(data)
        for number in range(min(len(read), 50)):
            _allowed(read.entry, number)
            _allowed(read.key, number)
            assert 0 <= int(read.labels[number]) < read.num_classes
        read.position("a/b")
    except ShardError:
        pass


def members(data: bytes) -> None:
    """A tar that others made, as members, as a shard and as a source."""
    path = _FOLDER / "images.tar"
    path.write_bytes(data)
    try:
        for member in tar.scan(path):
            assert member.offset >= 0 and member.size >= 0 and member.offset + member.size <= len(data)
    except ShardError:
        pass
    _allowed(scan_shard, path)
    try:
        source = WebDatasetTars.scan([path])
    except ShardError:
        return
    assert len(source) == len(source.keys) == len(source.labels) and source.place(0)
    _allowed(source.read, 0)


def label(data: bytes) -> None:
    """What a tar of others has as the label of a sample: a text or JSON, at a place that is given in front of it."""
    field, _, text = data.partition(b"\0")
    path = _FOLDER / "labelled.tar"
    with tarfile.open(path, "w") as out:
        for suffix, content in (("jpg", b""), ("cls", text), ("json", text)):
            info = tarfile.TarInfo(f"k.{suffix}")
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    for place in (None, "json", f"json:{field.decode(errors='replace')}"):
        try:
            source = WebDatasetTars.scan([path], Reading(label_field=place))
        except ShardError:
            continue
        number = int(source.labels[0])
        assert 0 <= number < len(source.class_names) and source.class_names[number].isprintable()
        group = next(groups_of(path))
        assert LabelRule.of_extra(json.loads(json.dumps(source.image_labels))).label_of(path, group) == number


def facts(data: bytes) -> None:
    """The hidden JSON beside a shard that is being written."""
    shard = _FOLDER / "shard-000000.tar"
    if not shard.exists():
        shard.write_bytes(bytes(10240))
    facts_path(shard).write_bytes(data)
    read = ShardFacts.saved(shard)
    if read is not None:
        assert len(read.entries()) == len(read.keys) and read.info.bytes == 10240 and read.consumed >= 0


def image(data: bytes) -> None:
    """The header of an image."""
    try:
        suffix, height, width = image_info(data, max_pixels=1 << 20)
    except ValueError:
        return
    assert suffix in ("jpg", "png", "webp") and 0 < height * width <= 1 << 20


def spec(data: bytes) -> None:
    """An augmentation specification, which must come back from its own JSON."""
    path = _FOLDER / "spec.json"
    path.write_bytes(data)
    try:
        read = AugmentationSpec.load(path)
    except SpecError:
        return
    assert AugmentationSpec.from_json(json.loads(json.dumps(read.to_json()))) == read


def csv_list(data: bytes) -> None:
    """A list of images as CSV."""
    _list("list.csv", data)


def json_list(data: bytes) -> None:
    """A list of images as JSON Lines."""
    _list("list.jsonl", data)


def loader_state(data: bytes) -> None:
    """The state of a loader."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        place = state.restore(value, MEANING, 4)
    except ValueError:
        return
    assert 0 <= place.epoch <= state.MAX_EPOCH and place.consumed % 4 == 0 and place.consumed <= 1000


TARGETS: dict[str, Callable[[bytes], None]] = {
    "record": record,
    "record_content": record_content,
    "label_map": label_map,
    "manifest": manifest,
    "index": index,
    "tar": members,
    "label": label,
    "facts": facts,
    "image": image,
    "spec": spec,
    "csv": csv_list,
    "jsonl": json_list,
    "state": loader_state,
}
"""To add one: a function here, a row, its seeds in seeds.py, and words in dictionaries/NAME.dict if it has any."""


def pack_parts(parts: list[bytes]) -> bytes:
    """Contents of frames as one input: their lengths but the last one's, u16 each after a byte of their number."""
    lengths = struct.pack(f"<B{len(parts) - 1}H", len(parts) - 1, *(len(part) for part in parts[:-1]))
    return lengths + b"".join(parts)


def unpack_parts(data: bytes) -> Iterator[bytes]:
    """The inverse of `pack_parts`, of any bytes."""
    count = min(data[0] % 8 if data else 0, (len(data) - 1) // 2)
    lengths = struct.unpack_from(f"<{max(count, 0)}H", data, 1) if count > 0 else ()
    at = 1 + 2 * len(lengths)
    for length in lengths:
        yield data[at : at + length]
        at += length
    yield data[at:]


def frame(content: bytes) -> bytes:
    """A zstd frame of a size and a checksum."""
    return zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True).compress(content)


def _list(name: str, data: bytes) -> None:
    path = _FOLDER / name
    path.write_bytes(data)
    try:
        read = FileList.load(path)
    except ShardError:
        return
    assert len(read) == len(read.keys) == len(read.labels) > 0
    assert isinstance(read.class_names, Numbers) or all(name.encode() for name in read.class_names)
    assert min(read.labels) >= 0 and max(read.labels) < len(read.class_names) <= MAX_CLASSES
    assert len(set(read.keys)) == len(read.keys) and not any(map(key_fault, read.keys))


def _allowed(function: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.suppress(DaliDrError):
        function(*arguments)
