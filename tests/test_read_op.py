"""fn.dr.read against tarfile and a row decoder written here from schemas/reinforcement-record.md alone.

Shards, records and index.bin are written here too (tarfile, struct, zstandard), from schemas/sample-index.md, so that
nothing of dali_dr but the operator is under test; the last tests then read what dali_dr's own codec writes.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import re
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

pytest.importorskip("nvidia.dali")
import nvidia.dali.fn as fn
from nvidia.dali import pipeline_def

from dali_dr._plugin import load
from dali_dr.errors import PluginError
from dali_dr.loader.faults import Fault, take_fault

try:
    load()
except PluginError as error:
    pytest.skip(f"the plugin does not load: {error}", allow_module_level=True)

VIEW = (224, 224)


@dataclass
class Row:
    """One stored view, as drawn; ``code`` is the rest code and the steps of the logarithmic encoding."""

    crop: tuple[int, int, int, int]
    flip: bool
    ops: list[tuple[int, float]]
    erase: tuple[int, int, int, int]
    ids: list[int]
    code: list[int]

    def packed(self) -> list[int]:
        words = [*self.crop, int(self.flip), *self.erase, len(self.ops)]
        for op, magnitude in self.ops:
            words += [op, struct.unpack("<i", struct.pack("<f", magnitude))[0]]
        return words

    def probs(self, step: float) -> np.ndarray:
        """By the schema's formula, with libm's exp in float64, as the operator uses it."""
        if not self.code:
            return np.zeros(0, np.float32)
        step = float(np.float32(step))
        codes = np.cumsum([0, *self.code[1:]]).tolist()
        total = 0.0 if self.code[0] == 255 else math.exp(-step * (self.code[0] - 96))
        weights = [0.0 if c == 255 else math.exp(-step * c) for c in codes]
        for weight in weights:
            total += weight
        return np.array([w / total for w in weights], np.float32)


@dataclass
class Sample:
    key: str
    image: bytes
    label: int
    rows: list[Row] = field(default_factory=list)
    step: float = 0.15
    size: tuple[int, int] = (375, 500)
    group_rows: int | None = None  # of its record; None: all


def draw(rng: np.random.Generator, number: int, views: int, ops: int, topk: int, classes: int = 1000) -> Sample:
    sample = Sample(f"n{number:08d}_{number}", rng.bytes(int(rng.integers(1, 9000))), int(rng.integers(1000)))
    height, width = sample.size
    for _ in range(views):
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        crop = (int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
        erase = (0, 0, 0, 0)
        if rng.random() < 0.3:
            eh, ew = (int(v) for v in rng.integers(1, 225, 2))
            erase = (int(rng.integers(225 - eh)), int(rng.integers(225 - ew)), eh, ew)
        chosen = [(int(rng.integers(14)), float(np.float32(rng.normal()))) for _ in range(ops)]
        ids = rng.choice(classes, topk, replace=False).tolist()
        code = [int(rng.integers(80, 150)), *rng.integers(0, 20, topk - 1).tolist()] if topk else []
        sample.rows.append(Row(crop, bool(rng.integers(2)), chosen, erase, ids, code))
    return sample


def parts(sample: Sample) -> list[bytes]:
    """The record's bytes before compression, frame by frame, with the logarithmic encoding."""
    rows, (height, width) = sample.rows, sample.size
    group_rows = sample.group_rows or len(rows)
    classes = sorted({c for row in rows for c in row.ids})
    table = sorted({op for row in rows for op in row.ops})
    bits = [(n * (n + 1) // 2 - 1).bit_length() for n in (height, width)]
    num_ops, topk = len(rows[0].ops), len(rows[0].ids)

    def number(start: int, extent: int, length: int) -> int:
        d = length - extent
        return d * (d + 1) // 2 + start

    def index(values: list[int], entries: int) -> bytes:
        return struct.pack(f"<{len(values)}{'H' if entries > 256 else 'B'}", *values)

    def group(rows: list[Row]) -> bytes:
        crops = 0
        for i, row in enumerate(rows):
            top, left, h, w = row.crop
            crops |= (number(top, h, height) | number(left, w, width) << bits[0]) << (i * sum(bits))
        bit_bytes = (len(rows) + 7) // 8
        return b"".join(
            [
                crops.to_bytes((len(rows) * sum(bits) + 7) // 8, "little"),
                sum(row.flip << i for i, row in enumerate(rows)).to_bytes(bit_bytes, "little"),
                sum((row.erase[2] > 0) << i for i, row in enumerate(rows)).to_bytes(bit_bytes, "little"),
                bytes(edge for row in rows if row.erase[2] for edge in row.erase),
                index([table.index(row.ops[slot]) for slot in range(num_ops) for row in rows], len(table)),
                index([classes.index(row.ids[k]) for k in range(topk) for row in rows], len(classes)),
                bytes(row.code[k] for k in range(topk) for row in rows),
            ]
        )

    tables = b"".join(
        [
            struct.pack(f"<{len(classes)}H", *classes),
            bytes(op for op, _ in table),
            struct.pack(f"<{len(table)}f", *(magnitude for _, magnitude in table)),
        ]
    )
    groups = [group(rows[start : start + group_rows]) for start in range(0, len(rows), group_rows)]
    header = struct.pack(
        "<4sHHIIIIIHHHHHHB3xfI", b"drrc", 1, 52, 52 + len(tables) + sum(map(len, groups)), 3, len(rows), height, width,
        *VIEW, num_ops, len(table), topk, len(classes), 2, sample.step, group_rows,
    )  # fmt: skip
    head = header + tables
    return [head + groups[0]] if len(groups) == 1 else [head, *groups]


def encode(sample: Sample) -> bytes:
    """The record's bytes before compression, for a sample whose rows are in one group."""
    (record,) = parts(sample)
    return record


def compressed(record: list[bytes]) -> bytes:
    return b"".join(zstandard.compress(part) for part in record)


def crc32c(data: bytes) -> int:
    """Castagnoli's, reflected, bit by bit."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


class DataSet:
    """Shards of ``samples`` in ``folder``, ``per_shard`` in each, and their index.bin."""

    def __init__(
        self, folder: Path, samples: Sequence[Sample], per_shard: int = 5, frames: dict[int, bytes] | None = None
    ):
        self.folder, self.samples, self.index = folder, samples, folder / "index.bin"
        self.shards: list[Path] = []
        for first in range(0, len(samples), per_shard):
            path = folder / f"train-{len(self.shards):06d}.tar"
            self.shards.append(path)
            with tarfile.open(path, "w") as archive:  # Python's default: PAX
                for number, sample in enumerate(samples[first : first + per_shard], first):
                    add(archive, f"{sample.key}.jpg", sample.image)
                    add(archive, f"{sample.key}.cls", str(sample.label).encode())
                    if sample.rows:
                        frame = compressed(parts(sample))
                        add(archive, f"{sample.key}.dr.zst", (frames or {}).get(number, frame))
        self.write_index()

    def write_index(self, version: int = 1, checksums: bool = False) -> None:
        """Of version 1, or of version 2 (all in one), where the image of sample i has the size that sample i says."""
        if version == 2:
            return self._write_new_index(checksums)
        entries, keys, offsets = b"", b"", [0]
        members = {}
        for shard, path in enumerate(self.shards):
            with tarfile.open(path) as archive:
                members.update({m.name: (shard, m.offset_data // 512, m.size) for m in archive})
        for sample in self.samples:
            record = members.get(f"{sample.key}.dr.zst", (0, 0, 0))
            entries += struct.pack("<6Ii", *members[f"{sample.key}.jpg"], *record, sample.label)
            keys += sample.key.encode()
            offsets.append(len(keys))
        files = b"".join(
            struct.pack("<QH", path.stat().st_size, len(path.name.encode())) + path.name.encode()
            for path in self.shards
        )
        header = struct.pack(
            "<8sIIQQIIQQ8x", b"DDRINDEX", 1, 64, len(self.samples), 1000, len(self.shards), 0, len(files), len(keys)
        )
        body = header + entries
        body += bytes(-len(body) % 8) + struct.pack(f"<{len(offsets)}Q", *offsets) + keys + files
        self.index.write_bytes(body)

    def _write_new_index(self, checksums: bool) -> None:
        entries, crcs, keys, offsets, files, first = b"", b"", b"", [0], b"", 0
        for path in self.shards:
            with tarfile.open(path) as archive:
                members = {m.name: (m.offset_data // 512, m.size) for m in archive}
            files += struct.pack("<QQH", path.stat().st_size, first, len(path.name.encode())) + path.name.encode()
            for sample in self.samples[first:]:
                if f"{sample.key}.jpg" not in members:
                    break
                places = (*members[f"{sample.key}.jpg"], *members.get(f"{sample.key}.dr.zst", (0, 0)))
                entries += struct.pack("<4Ii2H", *places, sample.label, *sample.size)
                crcs += struct.pack("<I", crc32c(sample.image)) if checksums else b""
                keys += sample.key.encode()
                offsets.append(len(keys))
                first += 1
        assert first == len(self.samples)
        lengths = len(self.shards), int(checksums), len(files), len(keys)
        header = struct.pack("<8sIIQIIIIQQ8x", b"DDRINDEX", 2, 64, first, 1000, 1000, *lengths)
        body = header + entries + (crcs if checksums else b"")
        body += bytes(-len(body) % 8) + struct.pack(f"<{len(offsets)}Q", *offsets) + keys + files
        self.index.write_bytes(body[:56] + struct.pack("<I", crc32c(body)) + body[60:])

    def offset(self, number: int, suffix: str) -> int:
        for path in self.shards:
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.name == f"{self.samples[number].key}.{suffix}":
                        return member.offset_data
        raise KeyError(number)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    rng = np.random.default_rng(0)
    samples = [draw(rng, i, views=int(rng.integers(1, 30)), ops=2, topk=10) for i in range(12)]
    samples.append(draw(rng, 12, views=400, ops=2, topk=10, classes=300))  # u16 tables of classes and operations
    samples[12].group_rows = 134
    for number in (3, 5, 7):
        samples[number].group_rows = int(rng.integers(1, len(samples[number].rows)))
    samples.append(draw(rng, 13, views=3, ops=0, topk=1))
    samples.append(draw(rng, 14, views=3, ops=2, topk=0))
    return DataSet(tmp_path_factory.mktemp("shards"), samples)


@pipeline_def
def read_pipeline(
    index: str, samples: Any, views: Any = None, monitor: int = -1, retry_s: float = 0.0, max_pixels: int = 0,
    check_images: bool = False,
) -> Any:  # fmt: skip
    inputs = [fn.external_source(samples, batch=True, dtype=None)]
    if views is not None:
        inputs.append(fn.external_source(views, batch=True))
    checks = {"max_pixels": max_pixels, "check_images": check_images}
    return tuple(fn.dr.read(*inputs, index=index, monitor=monitor, retry_s=retry_s, **checks))


def read(
    index: Path, samples: Sequence[int], views: Sequence[Any] | None = None, threads: int = 2, **options: Any
) -> list[list[np.ndarray]]:
    """The outputs for one batch: a list of outputs, each a list of arrays."""
    numbers = [np.int64(s) for s in samples]
    rows = None if views is None else [np.asarray(v, np.int32) for v in views]
    pipe = read_pipeline(
        str(index), lambda: numbers, None if rows is None else lambda: rows, batch_size=len(numbers), num_threads=threads,
        device_id=None, prefetch_queue_depth=1, **options,
    )  # fmt: skip
    return [[np.asarray(out.at(i)) for i in range(len(numbers))] for out in pipe.run()]


def test_everything_equals_the_shards(dataset: DataSet) -> None:
    """Every view of every sample, in random order."""
    rng = np.random.default_rng(1)
    places = [(s, v) for s, sample in enumerate(dataset.samples) for v in range(len(sample.rows))]
    rng.shuffle(places)
    images = {}
    for path in dataset.shards:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    images[member.name[:-4]] = archive.extractfile(member).read()  # type: ignore[union-attr]
    for wanted in (places[:300], places[300:]):
        wanted = [p for p in wanted if len(dataset.samples[p[0]].rows[0].ops) == 2]
        outs = read(dataset.index, [s for s, _ in wanted], [v for _, v in wanted], threads=3)
        assert [str(out[0].dtype) for out in outs] == ["uint8", "int64", "int32", "int32", "int32", "int32", "float32"]
        for (number, view), image, label, start, shape, params, ids, probs in zip(wanted, *outs, strict=True):
            sample = dataset.samples[number]
            row = sample.rows[view]
            assert image.tobytes() == images[sample.key] == sample.image
            assert label.shape == () and label == sample.label
            assert start.tolist() == list(row.crop[:2]) and shape.tolist() == list(row.crop[2:])
            assert params.tolist() == row.packed()
            assert ids.tolist() == row.ids
            assert probs.tobytes() == row.probs(sample.step).tobytes()


def test_several_views_share_one_region(dataset: DataSet) -> None:
    rng = np.random.default_rng(2)
    numbers = [12, 3, 12, 5]
    views = [rng.integers(len(dataset.samples[n].rows), size=m) for n, m in zip(numbers, (1, 2, 7, 3), strict=True)]
    outs = read(dataset.index, numbers, views)
    for number, rows, image, _, start, shape, params, ids, probs in zip(numbers, views, *outs, strict=True):
        sample = dataset.samples[number]
        chosen = [sample.rows[int(v)] for v in rows]
        assert image.tobytes() == sample.image
        boxes = np.array([row.crop for row in chosen])
        corner = boxes[:, :2].min(0)
        assert start.tolist() == corner.tolist()
        assert shape.tolist() == ((boxes[:, :2] + boxes[:, 2:]).max(0) - corner).tolist()
        assert params.tolist() == [row.packed() for row in chosen]
        assert ids.tolist() == [row.ids for row in chosen]
        np.testing.assert_array_equal(probs, [row.probs(sample.step) for row in chosen])


def test_records_of_other_shapes(dataset: DataSet) -> None:
    """No operations and one class; no predictions at all; both beside an ordinary record in one batch."""
    _, _, _, _, params, ids, probs = read(dataset.index, [13, 0, 14], [2, 0, 1])
    assert [p.shape for p in params] == [(10,), (14,), (14,)]
    assert [i.shape for i in ids] == [p.shape for p in probs] == [(1,), (10,), (0,)]
    assert params[0].tolist() == dataset.samples[13].rows[2].packed()
    assert params[2].tolist() == dataset.samples[14].rows[1].packed()


def test_without_views_only_images_and_labels(dataset: DataSet, tmp_path: Path) -> None:
    images, labels = read(dataset.index, [7, 0, 7])
    assert [i.tobytes() for i in images] == [dataset.samples[n].image for n in (7, 0, 7)]
    assert [int(label) for label in labels] == [dataset.samples[n].label for n in (7, 0, 7)]
    plain = DataSet(tmp_path, [Sample("dir/a", b"abc", 0), Sample("dir/b", b"defg", 3)])
    images, labels = read(plain.index, [1, 0])
    assert [i.tobytes() for i in images] == [b"defg", b"abc"] and [int(label) for label in labels] == [3, 0]
    with pytest.raises(
        RuntimeError, match=r"sample 1 \(key dir/b\) in .*train-000000.tar.* has no reinforcement record"
    ):
        read(plain.index, [1], [0])


def test_names_that_need_extension_headers(tmp_path: Path) -> None:
    """Longer than 100 bytes, with a folder, and not ASCII: tarfile writes PAX headers before two of these."""
    rng = np.random.default_rng(3)
    samples = [draw(rng, i, 2, 2, 3) for i in range(4)]
    for sample, key in zip(samples, ("x" * 150, "folder/" * 20 + "y", "Grüße", "./dotted"), strict=True):
        sample.key = key
    data = DataSet(tmp_path, samples)
    images, *_ = read(data.index, range(4), [0] * 4)
    assert [i.tobytes() for i in images] == [s.image for s in samples]


def expect(pattern: str, index: Path, samples: Sequence[int], views: Sequence[Any] | None, **options: Any) -> None:
    with pytest.raises(RuntimeError) as caught:
        read(index, samples, views, **options)
    assert re.search(pattern, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize("number", [-1, 15, 2**40])
def test_a_sample_that_does_not_exist(dataset: DataSet, number: int) -> None:
    expect(rf"sample {number} does not exist: .*index\.bin has 15 samples", dataset.index, [0, number], [0, 0])


def test_a_fresh_view_needs_the_drawing_rules(dataset: DataSet) -> None:
    expect(
        r"sample 13 \(key n00000013_13\) in .*: a negative view number asks for a fresh view", dataset.index, [13], [-1]
    )


@pytest.mark.parametrize("view", [3, [0, 1, 3]])
def test_a_view_that_does_not_exist(dataset: DataSet, view: Any) -> None:
    bad = view if isinstance(view, int) else 3
    pattern = (
        rf"sample 13 \(key n00000013_13\) in .*train-000002\.tar at offset {dataset.offset(13, 'dr.zst')}: "
        rf"view {bad} does not exist, the record holds views 0 to 2"
    )
    expect(pattern, dataset.index, [13], [view])


@pytest.fixture
def fresh(tmp_path: Path) -> DataSet:
    """A small data set of its own, for a test that damages it: samples 0 and 1 in one shard, 2 and 3 in another."""
    rng = np.random.default_rng(4)
    return DataSet(tmp_path, [draw(rng, i, 4, 2, 5) for i in range(4)], per_shard=2)


def test_a_missing_shard(fresh: DataSet) -> None:
    fresh.shards[1].unlink()
    expect(
        r"shard .*train-000001\.tar cannot be opened \(No such file.*wanted for sample 2 \(key n00000002_2\).*restore it",
        fresh.index, [0, 2], [0, 0],
    )  # fmt: skip
    read(fresh.index, [0, 1], [0, 0])  # shards that are not asked for do not matter


def test_a_shortened_shard(fresh: DataSet) -> None:
    size = fresh.shards[1].stat().st_size
    os.truncate(fresh.shards[1], size - 512)
    expect(rf"train-000001\.tar has {size - 512} bytes instead of {size} .*cut off.*index\.bin", fresh.index, [3], [0])
    os.truncate(fresh.shards[1], 0)
    expect(r"train-000001\.tar is empty", fresh.index, [3], [0])


def test_a_shard_cut_off_while_in_use(fresh: DataSet) -> None:
    """Where shards are mapped, touching their pages is SIGBUS."""
    script = f"""
import os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}
import numpy as np
from test_read_op import read_pipeline
numbers = iter([0, 1])
pipe = read_pipeline({str(fresh.index)!r}, lambda: [np.int64(next(numbers))], batch_size=1, num_threads=1,
                     device_id=None, prefetch_queue_depth=1, exec_async=False, exec_pipelined=False)
pipe.run()
os.truncate({str(fresh.shards[0])!r}, 512)
try:
    pipe.run()
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"sample 1 \(key n00000001_1\) in .*train-000000\.tar.* cannot be read", done.stdout), done.stdout


def test_a_rewritten_shard(fresh: DataSet) -> None:
    """Same size, other order: the index is stale, and the tar headers tell."""
    first, second = fresh.samples[:2]
    size = fresh.shards[0].stat().st_size
    with tarfile.open(fresh.shards[0], "w") as archive:
        for sample in (second, first):
            add(archive, f"{sample.key}.jpg", sample.image)
            add(archive, f"{sample.key}.cls", str(sample.label).encode())
            add(archive, f"{sample.key}.dr.zst", compressed(parts(sample)))
    assert fresh.shards[0].stat().st_size == size
    expect(r"sample 0 \(key n00000000_0\) in .*train-000000\.tar at offset 512.*no tar member", fresh.index, [0], [0])


def test_a_swapped_key(fresh: DataSet) -> None:
    """Same place and size, other name."""
    blob = bytearray(fresh.shards[0].read_bytes())
    blob[0:11] = b"n00000009_9"
    fresh.shards[0].write_bytes(blob)
    expect(r"sample 0 \(key n00000000_0\).*no tar member of that key", fresh.index, [0], [0])


def run_to_fault(index: Path, samples: Sequence[int], views: Sequence[Any], monitor: int) -> str:
    """Runs a batch that must fail; DALI's message."""
    numbers, rows = [np.int64(s) for s in samples], [np.asarray(v, np.int32) for v in views]
    pipe = read_pipeline(
        str(index), lambda: numbers, lambda: rows, monitor, batch_size=len(numbers), num_threads=2, device_id=None,
        prefetch_queue_depth=1,
    )  # fmt: skip
    with pytest.raises(RuntimeError) as caught:
        pipe.run()
    return str(caught.value)


def failed(index: Path, samples: Sequence[int], views: Sequence[Any], monitor: int) -> Fault | None:
    """What the monitor keeps of a batch that must fail; its message is in DALI's error."""
    message = run_to_fault(index, samples, views, monitor)
    fault = take_fault(monitor)
    assert fault is None or fault.message in message
    return fault


def test_faults_come_as_data(fresh: DataSet) -> None:
    """Kind, sample, key, shard and offset of the first that fails, and the numbers of all that do, in the batch's order."""
    blob = bytearray(fresh.shards[0].read_bytes())
    offset = fresh.offset(1, "dr.zst")
    blob[offset : offset + 8] = b"damaged!"
    fresh.shards[0].write_bytes(blob)
    fault = failed(fresh.index, [2, 1, 0, 1, 3], [0, 0, 4, 1, 0], monitor=1000)
    assert fault is not None and fault.message.startswith("sample 1 (key n00000001_1) in")
    assert (fault.kind, fault.sample, fault.key, fault.place) == ("record", 1, "n00000001_1", 1)
    assert (fault.shard, fault.offset) == (str(fresh.shards[0]), offset)
    assert fault.failed == (1, 0, 1)  # view 4 of sample 0 does not exist
    assert take_fault(1000) is None, "taken is gone"

    fresh.shards[1].unlink()
    fault = failed(fresh.index, [0, 3], [0, 0], monitor=1000)
    assert fault is not None and (fault.kind, fault.sample, fault.failed) == ("shard", 3, (3,))
    assert fault.shard == str(fresh.shards[1]) and fault.offset is not None
    fault = failed(fresh.index, [0, 4], [0, 0], monitor=1000)
    assert fault is not None and (fault.kind, fault.sample, fault.key, fault.shard) == ("argument", 4, None, None)
    fault = failed(fresh.index, [0], [[]], monitor=1000)
    assert fault is not None and (fault.kind, fault.sample, fault.place, fault.failed) == ("argument", None, None, ())


def test_monitors_are_apart(fresh: DataSet) -> None:
    """However many there are; the first fault stays until it is taken."""
    assert failed(fresh.index, [9], [0], monitor=-1) is None
    numbers = [7, 7 + 256, 7 + 2**16, 2**31 - 1]
    for number in numbers:
        run_to_fault(fresh.index, [100 + number], [0], number)
    for number in numbers:
        fault = take_fault(number)
        assert fault is not None and fault.sample == 100 + number
        assert take_fault(number) is None


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda record: zstandard.compress(b"x" * 100), "magic"),
        (lambda record: zstandard.compress(record[:-1]), "record_bytes is"),
        (lambda record: record, "not a zstd frame"),
        (lambda record: zstandard.compress(record)[:-3], "zstd frame of"),
        (lambda record: zstandard.compress(record) * 2, "record_bytes is"),
        (lambda record: zstandard.compress(record) + b"x", "not a zstd frame"),
        (lambda record: zstandard.compress(record) + zstandard.compress(b""), "2 zstd frames, but 1 row groups"),
        (lambda record: zstandard.ZstdCompressor(write_content_size=False).compress(record), "content size"),
        (lambda record: zstandard.compress(record[:12] + b"\x83" + record[13:]), "flags are 131"),
        (lambda record: zstandard.compress(record[:-5] + b"\xff" * 5), "probability code"),
    ],
)
def test_a_damaged_record(tmp_path: Path, damage: Any, message: str) -> None:
    rng = np.random.default_rng(5)
    samples = [draw(rng, i, 5, 2, 3) for i in range(3)]
    data = DataSet(tmp_path, samples, frames={1: damage(encode(samples[1]))})
    where = rf"sample 1 \(key n00000001_1\) in .*train-000000\.tar at offset {data.offset(1, 'dr.zst')}: .*{message}"
    expect(where, data.index, [0, 2, 1], [0, 0, 4])
    read(data.index, [0, 2], [0, 0])  # its neighbours are unharmed


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda group: group[:-1], "record_bytes is"),
        (lambda group: group[:-1] + b"\xff", "probability code"),
        (lambda group: bytes(len(group)), "its columns need only"),
    ],
)
def test_a_damaged_group(tmp_path: Path, damage: Any, message: str) -> None:
    sample = draw(np.random.default_rng(5), 0, 9, 2, 3)
    sample.group_rows = 4
    head, first, second, third = parts(sample)
    data = DataSet(tmp_path, [sample], frames={0: compressed([head, first, damage(second), third])})
    expect(rf"sample 0 .*at offset {data.offset(0, 'dr.zst')}: .*{message}", data.index, [0], [[0, 8, 7]])
    if len(damage(second)) == len(second):  # rows of other groups are unharmed
        params = read(data.index, [0], [[0, 8, 3]])[4][0]
        assert params.tolist() == [sample.rows[row].packed() for row in (0, 8, 3)]


@pytest.mark.parametrize(
    "at, value, message",
    [
        (0, b"X", "does not start with DDRINDEX"),
        (8, b"\x03", "is of version 3"),
        (64 + 24, b"\xe8\x03\x00\x00", "label of sample 0 .*is 1000, but the data set has 1000 classes"),
        (64 + 24, b"\xff\xff\xff\xff", "label of sample 0 .*is -1"),
        (12, b"\x41", "header_bytes"),
        (16, b"\xff" * 8, "too short"),
        (32, b"\xff" * 4, "too short"),
        (36, b"\x01", "flags"),
        (40, b"\x00", "its lengths want"),
        (64, b"\x09", "lies in file 9 of 2"),
        (68, b"\xff\xff\xff\xff", "outside that file"),
        (68, b"\x00\x00\x00\x00", "outside that file"),
        (72, b"\xff\xff\xff\x7f", "outside that file"),
        (64 + 4 * 28 + 8, b"\xff", "key of sample 0"),
    ],
)
def test_a_damaged_index(fresh: DataSet, at: int, value: bytes, message: str) -> None:
    blob = bytearray(fresh.index.read_bytes())
    blob[at : at + len(value)] = value
    fresh.index.write_bytes(blob)
    expect(rf"index\.bin.*{message}", fresh.index, [0], [0])
    for length in (0, 10, 63, 64, len(blob) - 1):
        os.truncate(fresh.index, length)
        expect(r"index\.bin", fresh.index, [0], [0])


def png(height: int, width: int, mark: int = 0) -> bytes:
    """The chunks of a PNG, which is all that is read of it."""
    header = b"\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\0\0\0CRC:"
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\1\0none" + bytes([mark]) * 256 + b"CRC:\0\0\0\0IENDCRC:"


@pytest.fixture
def sized(tmp_path: Path) -> DataSet:
    """Three samples whose images are as large as their records and the index, of version 2 with checksums, say."""
    rng = np.random.default_rng(8)
    samples = [draw(rng, i, 4, 2, 5) for i in range(3)]
    for sample in samples:
        sample.image = png(*sample.size, mark=sample.label % 256)
    data = DataSet(tmp_path, samples, per_shard=2)
    data.write_index(version=2, checksums=True)
    return data


def test_an_index_of_version_2(sized: DataSet) -> None:
    for checksums in (True, False):
        sized.write_index(version=2, checksums=checksums)
        outs = read(sized.index, [0, 1, 2], [3, 2, 1], check_images=checksums)
        for sample, view, image, label, _, _, params, ids, _ in zip(sized.samples, (3, 2, 1), *outs, strict=True):
            assert (image.tobytes(), int(label)) == (sample.image, sample.label)
            assert (params.tolist(), ids.tolist()) == (sample.rows[view].packed(), sample.rows[view].ids)
    expect(r"made without image checksums.*`dali-dr index --full DIR`", sized.index, [0], [0], check_images=True)
    blob = bytearray(sized.index.read_bytes())
    rng = np.random.default_rng(9)
    for _ in range(50):
        at, bit = int(rng.integers(8, len(blob))), int(rng.integers(8))
        blob[at] ^= 1 << bit
        sized.index.write_bytes(blob)
        expect(r"index\.bin", sized.index, [0], [0])
        blob[at] ^= 1 << bit


def test_an_image_of_another_size(sized: DataSet) -> None:
    blob = sized.shards[0].read_bytes()
    other = blob.replace(sized.samples[1].image, png(375, 499, mark=sized.samples[1].label % 256))
    sized.shards[0].write_bytes(other)
    expect(
        r"the image of sample 1 \(key n00000001_1\) in .* is 499 pixels wide and 375 high, its index says 500 pixels wide",
        sized.index, [0, 1], [0, 0],
    )  # fmt: skip
    sized.write_index(version=1)  # which does not say; but the record does
    expect(r"sample 1 .*: it was made for an image 500 pixels wide and 375 high", sized.index, [1], [0])
    read(sized.index, [1])


def check_sizes(folder: Path, images: Sequence[bytes]) -> None:
    """That the operator reads the sizes that Pillow reads."""
    from PIL import Image

    samples = []
    for number, encoded in enumerate(images):
        with Image.open(io.BytesIO(encoded)) as image:
            samples.append(Sample(f"k{number}", encoded, 0, size=(image.height, image.width)))
    data = DataSet(folder, samples, per_shard=len(samples))
    data.write_index(version=2)
    outs, _ = read(data.index, range(len(samples)))
    assert [out.tobytes() for out in outs] == list(images)


def test_sizes_in_unusual_headers(tmp_path: Path) -> None:
    from PIL import Image

    def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
        stream = io.BytesIO()
        Image.new(mode, (70, 33)).save(stream, form, **options)
        return stream.getvalue()

    jpeg = saved("JPEG")
    segment = b"\xff\xe5\xff\xff" + bytes(65533)
    other = Image.new("RGB", (20, 10))
    check_sizes(
        tmp_path,
        [
            jpeg,
            saved("JPEG", progressive=True),
            saved("JPEG", "CMYK"),
            saved("JPEG", "L"),
            saved("JPEG", exif=bytes(60000), icc_profile=bytes(200_000), comment=b"x" * 65000),
            jpeg[:2] + segment * 3 + jpeg[2:],
            jpeg[:2] + b"\xff\xff\xff" + jpeg[2:],
            saved("MPO", save_all=True, append_images=[other]),
            saved("PNG"),
            saved("PNG", "P"),
            saved("WEBP"),
            saved("WEBP", lossless=True),
            saved("WEBP", exif=bytes(100)),  # with alpha an odd chunk would precede EXIF, which decoders refuse
            saved("WEBP", save_all=True, append_images=[other.resize((70, 33))]),
        ],
    )


@pytest.mark.parametrize("name", ["photos", "flowers"])
def test_sizes_of_photos(name: str, test_data: Any, tmp_path: Path) -> None:
    files = sorted(f for f in test_data(name).rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    check_sizes(tmp_path, [f.read_bytes() for f in files])


def test_a_limit_of_pixels(sized: DataSet) -> None:
    read(sized.index, [0, 2], [0, 0], max_pixels=375 * 500)
    for views in ([0], None):
        expect(
            r"sample 2 .* 187500 pixels, but `max_pixels` is 187499: raise", sized.index, [2], views, max_pixels=187499
        )
    expect("`max_pixels` is -1", sized.index, [2], None, max_pixels=-1)


def test_checksums_of_images(sized: DataSet) -> None:
    blob = bytearray(sized.shards[1].read_bytes())
    blob[sized.offset(2, "jpg") + 100] ^= 1
    sized.shards[1].write_bytes(blob)
    read(sized.index, [0, 2], [0, 0])
    expect(r"the image of sample 2 .*does not have the checksum", sized.index, [0, 2], [0, 0], check_images=True)
    read(sized.index, [0, 1], [0, 0], check_images=True)


def test_an_id_beyond_the_outputs(sized: DataSet) -> None:
    blob = bytearray(sized.index.read_bytes())
    struct.pack_into("<I", blob, 28, 1)
    struct.pack_into("<I", blob, 56, 0)
    struct.pack_into("<I", blob, 56, crc32c(bytes(blob)))
    sized.index.write_bytes(blob)
    expect(r"sample 0 .* has the class id \d+, but ids are below 1", sized.index, [0], [0])


@pytest.mark.parametrize("damage", ["missing shard", "shard that is being copied", "missing index"])
def test_what_comes_back_in_time_is_no_error(fresh: DataSet, damage: str) -> None:
    path = fresh.index if damage == "missing index" else fresh.shards[1]
    aside = path.with_name("aside")
    aside.write_bytes(path.read_bytes())
    if damage.startswith("missing"):
        path.unlink()
    else:
        os.truncate(path, 1000)
    # An index is put back by a rename, as ours is written: half of one is an error.
    restore = f"mv '{aside}' '{path}'" if path == fresh.index else f"cat '{aside}' >'{path}'"
    # Another process: DALI builds pipelines with the interpreter's lock held.
    restoring = subprocess.Popen(["sh", "-c", f"sleep 0.5; {restore}"])
    images, *_ = read(fresh.index, [0, 2, 3], [0, 0, 0], retry_s=60)
    assert [i.tobytes() for i in images] == [fresh.samples[n].image for n in (0, 2, 3)]
    assert restoring.wait(timeout=10) == 0


def test_a_lost_shard_is_waited_for_once(fresh: DataSet) -> None:
    fresh.shards[1].unlink()
    begin = time.monotonic()
    expect(r"train-000001\.tar cannot be opened", fresh.index, [0, 2, 3, 2, 3, 2, 3], [0] * 7, retry_s=0.5)
    assert 0.5 < time.monotonic() - begin < 5


def test_inputs_of_wrong_types(dataset: DataSet) -> None:
    def run(samples: list[np.ndarray], views: list[np.ndarray]) -> None:
        pipe = read_pipeline(
            str(dataset.index), lambda: samples, lambda: views, batch_size=len(samples), num_threads=1, device_id=None
        )
        pipe.run()

    zero = np.zeros((), np.int64)
    with pytest.raises(RuntimeError, match="pass one int64 scalar"):
        run([zero.astype(np.int32)], [zero.astype(np.int32)])
    with pytest.raises(RuntimeError, match="pass an int32 scalar"):
        run([zero], [zero])
    with pytest.raises(RuntimeError, match="`views` is empty"):
        run([zero], [np.zeros(0, np.int32)])
    expect("cannot be opened", dataset.folder / "absent.bin", [0], [0])


class Counter:
    """Batches 0, 1, 2, … of consecutive samples; picklable, and a checkpoint restores it by its argument."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, info: Any) -> np.ndarray:
        number = info.idx_in_epoch % 12
        return np.array(number, np.int64) if self.column == "samples" else np.array(0, np.int32)


@pipeline_def
def counting_pipeline(index: str) -> Any:
    samples = fn.external_source(Counter("samples"), batch=False)
    views = fn.external_source(Counter("views"), batch=False)
    return tuple(fn.dr.read(samples, views, index=index))


def test_checkpoints_and_serialised_pipelines(dataset: DataSet) -> None:
    options = {"batch_size": 4, "num_threads": 2, "device_id": None, "enable_checkpointing": True}
    pipe = counting_pipeline(str(dataset.index), **options)
    pipe.run()
    state = pipe.checkpoint()
    params = pipe.run()[4]
    later = [np.asarray(params.at(i)) for i in range(4)]
    again = counting_pipeline(str(dataset.index), **options, checkpoint=state)
    params = again.run()[4]
    resumed = [np.asarray(params.at(i)) for i in range(4)]
    assert [x.tolist() for x in later] == [x.tolist() for x in resumed]
    assert later[1].tolist() == dataset.samples[5].rows[0].packed()
    from nvidia.dali import Pipeline

    @pipeline_def
    def constant() -> Any:
        from nvidia.dali import types

        sample = types.Constant(np.int64(3), dtype=types.INT64, shape=())
        view = types.Constant(np.int32(0), dtype=types.INT32, shape=())
        return tuple(fn.dr.read(sample, view, index=str(dataset.index)))

    text = constant(batch_size=1, num_threads=1, device_id=None).serialize()
    restored = Pipeline.deserialize(text, batch_size=1, num_threads=1, device_id=None)
    assert np.asarray(restored.run()[4].at(0)).tolist() == dataset.samples[3].rows[0].packed()


def test_a_batch_size_that_changes(dataset: DataSet) -> None:
    batches = [[0, 1, 2, 3, 4], [5], [6, 7, 8]]
    state = {"next": 0}

    def samples() -> list[np.ndarray]:
        state["next"] += 1
        return [np.int64(n) for n in batches[state["next"] - 1]]

    pipe = read_pipeline(
        str(dataset.index), samples, batch_size=5, num_threads=2, device_id=None, prefetch_queue_depth=1,
        exec_async=False, exec_pipelined=False,
    )  # fmt: skip
    for batch in batches:
        images, _ = pipe.run()
        assert [np.asarray(images.at(i)).tobytes() for i in range(len(batch))] == [
            dataset.samples[n].image for n in batch
        ]


def test_what_write_shards_writes(tmp_path: Path, jpeg_bytes: list[bytes]) -> None:
    """The other way round: dali_dr's own writer, index and codec against this operator."""
    from PIL import Image

    from dali_dr.augment.draw import draw as draw_views
    from dali_dr.augment.spec import AugmentationSpec
    from dali_dr.record.labels import Reinforcements, order_by_confidence
    from dali_dr.shards.sample import Sample as Stored
    from dali_dr.shards.write import write_shards

    rng = np.random.default_rng(6)
    spec = AugmentationSpec.preset("rrc+ra+re")
    stored = []
    for number, image in enumerate(jpeg_bytes):
        width, height = Image.open(io.BytesIO(image)).size
        views = draw_views(spec, seed=1, key=str(number), views=range(20), image_height=height, image_width=width)
        probs = -np.sort(-rng.dirichlet(np.full(50, 0.1), 20).astype(np.float32), axis=1)[:, :10]
        ids = np.argsort(rng.random((20, 100)), axis=1)[:, :10].astype(np.int32)
        stored.append(Stored(f"k{number}", image, number, Reinforcements.from_views(views, ids, probs)))
    write_shards(
        stored,
        tmp_path,
        spec=spec,
        num_classes=100,
        samples_per_shard=3,
        probabilities="float32",
        keep_bytes=True,
        progress=False,
    )
    every = [(s, v) for s in range(len(stored)) for v in range(20)]
    outs = read(tmp_path / "index.bin", [s for s, _ in every], [v for _, v in every])
    for (number, view), image, label, _, _, params, ids, probs in zip(every, *outs, strict=True):
        want = stored[number]
        assert want.reinforcements is not None
        row = want.reinforcements.take(order_by_confidence(want.reinforcements)[view : view + 1])
        assert image.tobytes() == want.image_bytes and label == want.label
        assert params.tobytes() == row.pack().tobytes()
        assert ids.tobytes() == row.soft_ids.tobytes() and probs.tobytes() == row.soft_probs.tobytes()


def test_both_decoders_agree_on_damaged_records(tmp_path: Path) -> None:
    """Mutated records: what dali_dr.record.decode accepts, the operator reads alike; what it refuses is refused.

    But for two things that a reader of rows need not see: repeated ids in the class table, and table entries that no
    row uses.
    """
    from dali_dr.errors import RecordError
    from dali_dr.record.decode import decode

    rng = np.random.default_rng(7)
    sample = draw(rng, 0, views=6, ops=2, topk=4)
    frames = []
    for number in range(200):
        sample.group_rows = 4 if number % 2 else None
        original = parts(sample)
        record = bytearray(b"".join(original))
        for _ in range(int(rng.integers(1, 3))):
            at = int(rng.integers(12 if rng.random() < 0.5 else 52, len(record)))
            record[at] ^= 1 << int(rng.integers(8))
        ends = np.cumsum([0, *map(len, original)]).tolist()
        frames.append(compressed([bytes(record[a:b]) for a, b in itertools.pairwise(ends)]))
    samples = [Sample(f"s{i}", b"image", 0, sample.rows) for i in range(len(frames))]
    data = DataSet(tmp_path, samples, per_shard=len(frames), frames=dict(enumerate(frames)))
    accepted = 0
    for number, frame in enumerate(frames):
        try:
            want = decode(frame).reinforcements
        except RecordError as error:
            if not re.search("class table of|class id of|operation of|operation magnitude of", str(error)):
                with pytest.raises(RuntimeError, match=rf"sample {number} \(key s{number}\)"):
                    read(data.index, [number], [range(6)])
            continue
        if len(want) == 6:
            accepted += 1
            *_, params, ids, probs = (out[0] for out in read(data.index, [number], [range(6)]))
            assert params.tobytes() == want.pack().tobytes()
            assert ids.tobytes() == want.soft_ids.tobytes() and probs.tobytes() == want.soft_probs.tobytes()
    assert 30 < accepted < 170
