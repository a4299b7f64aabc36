"""Data sets that were damaged, made up or are changed while they are read: one error, soon, and never a wrong value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import random
import shutil
import socket
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from test_shards_write import CLASSES, sample, write

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.cli import main
from dali_dr.errors import ShardError
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.index import SampleIndex
from dali_dr.shards.index_layout import ENTRY, IndexedFile
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.sample_table import SampleTable
from dali_dr.shards.verify import verify


@pytest.fixture(scope="module")
def original(jpeg_bytes: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "original"
    write([sample(n, jpeg_bytes[2 + n % 2]) for n in range(15)], out, teacher={"names": ["a"]}, keep_bytes=True)
    Dataset(out)
    return out


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def one_error(call: Callable[[], object], match: str = ".") -> str:
    """The message of the one ShardError, which came within a second and 100 MB."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ShardError, match=match) as caught:
            call()
        assert time.perf_counter() - start < 1 and tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    return str(caught.value)


# --- dataset.json


def sealed(data: dict[str, Any]) -> bytes:
    data.pop("checksum", None)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data["checksum"] = "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _with(**members: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda data: sealed(data | members)


def _shard(**members: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda data: sealed(data | {"shards": [data["shards"][0] | members, *data["shards"][1:]]})


def _text(old: bytes, new: bytes) -> Callable[[dict[str, Any]], bytes]:
    def change(data: dict[str, Any]) -> bytes:
        text = sealed(data)
        assert old in text
        return text.replace(old, new, 1)

    return change


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], bytes], str]] = {
    "deep lists": (lambda data: b"[" * 100_000, "nested too deeply"),
    "deep objects": (lambda data: b'{"a":' * 100_000, "nested too deeply"),
    "deep extra": (_text(b'"extra": {}', b'"extra": {"a":' + b"[" * 5000 + b"]" * 5000 + b"}"), "nested too deeply|recursion"),
    "deeper than the schema": (
        _text(b'"extra": {}', b'"extra": {"a":' + b"[" * 800 + b"]" * 800 + b"}"),
        "nested too deeply|recursion|checksum",
    ),
    "many lists": (lambda data: b"[" + b"[]," * 2_000_000 + b"[]]", "more than"),
    "10^13 samples": (
        lambda data: _with(images=10**13 + 5)(data | {"shards": [data["shards"][0] | {"samples": 10**13}, data["shards"][1]]}),
        "more samples than fit",
    ),
    "10^13 samples in 10^16 bytes": (
        lambda data: _with(images=10**13 + 5)(
            data | {"shards": [data["shards"][0] | {"samples": 10**13, "bytes": 10**17}, data["shards"][1]]}
        ),
        "bytes, dataset.json says",
    ),
    "10^15 classes": (_with(classes=10**15), r"\$\.classes"),
    "10^5000 classes": (_text(b'"classes": 12', b'"classes": 1' + b"0" * 5000), "digits"),
    "negative samples": (_shard(samples=-1), r"samples"),
    "negative bytes": (_shard(bytes=-1), r"bytes"),
    "samples of a float": (_shard(samples=1e300), "samples|images"),
    "outputs of letters": (_with(teacher={"names": ["a"], "outputs": "abc"}), "outputs"),
    "outputs 0": (_with(teacher={"names": ["a"], "outputs": 0}), "outputs"),
    "outputs true": (_with(teacher={"names": ["a"], "outputs": True}), "outputs"),
    "NaN": (_text(b'"extra": {}', b'"extra": {"a": NaN}'), "NaN is no JSON number"),
    "infinity": (_text(b'"extra": {}', b'"extra": {"a": -Infinity}'), "-Infinity is no JSON number"),
    "1e999": (_text(b'"extra": {}', b'"extra": {"a": 1e999}'), "beyond the range"),
    "a name twice": (_text(b'"extra": {}', b'"extra": {}, "extra": {}'), "'extra' stands twice"),
    "not UTF-8": (_text(b'"extra": {}', b'"extra": {"a": "\xff"}'), "utf-8"),
    "half a character": (_text(b'"extra": {}', b'"extra": {"a": "\\ud800"}'), "surrogates"),
    "byte order mark": (lambda data: b"\xef\xbb\xbf" + sealed(data), "not JSON"),
    "UTF-16": (lambda data: sealed(data).decode().encode("utf-16"), "not JSON"),
    "empty": (lambda data: b"", "not JSON"),
    "zeros": (lambda data: bytes(4096), "not JSON"),
    "name with a slash": (_shard(name="a/b.tar"), "name"),
    "name of dots": (_shard(name="../b.tar"), "name"),
    "name with a zero byte": (_shard(name="a\0.tar"), "name"),
    "name with a new line": (_shard(name="shard-000000.tar\n"), "control characters"),
    "image tar with a zero byte": (_with(image_tars=[{"path": "a\0b", "bytes": 10240}]), "control characters"),
    "image tar with an escape": (_with(image_tars=[{"path": "\x1b[2J", "bytes": 10240}]), "control characters"),
    "no index checksum": (
        lambda data: sealed(data | {"shards": [{n: v for n, v in s.items() if n != "index_crc32c"} for s in data["shards"]]}),
        "index_crc32c",
    ),
    "no checksum": (lambda data: json.dumps({n: v for n, v in data.items() if n != "checksum"}).encode(), "checksum is None"),
    "version 1 with a checksum": (_with(format_version=1), r"\$"),
    "another index checksum": (_shard(index_crc32c=1), "index_crc32c"),
    "fewer classes than labels": (_with(classes=5), "label"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFESTS)
def test_hostile_manifests(case: str, folder: Path) -> None:
    change, match = MANIFESTS[case]
    (folder / "dataset.json").write_bytes(change(json.loads((folder / "dataset.json").read_bytes())))
    message = one_error(lambda: Dataset(folder), match)
    assert str(folder) in message and len(message) < 1000


def test_verify_takes_no_memory_for_samples_that_are_not_there(folder: Path) -> None:
    data = json.loads((folder / "dataset.json").read_bytes())
    data["spec"] = AugmentationSpec.preset("rrc+mixing+ra+re", 32).to_json()
    data["shards"][0] |= {"samples": 10**13, "bytes": 10**17}
    (folder / "dataset.json").write_bytes(sealed(data | {"images": 10**13 + 5}))
    report = verify(folder, progress=False)
    assert any("bytes, dataset.json says" in problem for problem in report.problems)


def test_every_changed_byte_of_a_manifest_is_an_error_or_no_change(folder: Path) -> None:
    path, rng = folder / "dataset.json", random.Random(0)
    good, manifest = path.read_bytes(), Manifest.load(folder)
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            assert Manifest.load(folder) == manifest  # white space
        except ShardError as error:
            assert str(path) in str(error)


def test_a_huge_manifest_is_not_read(folder: Path) -> None:
    with (folder / "dataset.json").open("r+b") as file:
        file.truncate(2**40)
    one_error(lambda: Dataset(folder), "want at most")


def test_a_hundred_thousand_shards_are_legal(folder: Path) -> None:
    data = json.loads((folder / "dataset.json").read_bytes())
    shards = [data["shards"][0] | {"name": f"shard-{n:06d}.tar"} for n in range(100_000)]
    (folder / "dataset.json").write_bytes(sealed(data | {"shards": shards, "images": 10 * len(shards)}))
    assert Manifest.load(folder).images == 1_000_000


def test_a_changed_manifest_is_sealed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b'"extra": {}', b'"extra": {"note": "mine"}'))
    assert "dali-dr seal" in one_error(lambda: Dataset(folder))
    assert main(["seal", str(folder)]) == 0
    assert Dataset(folder).manifest.extra == {"note": "mine"} and verify(folder, progress=False).ok
    with pytest.raises(ShardError, match=r"NaN|JSON compliant"):
        dataclasses.replace(Manifest.load(folder), extra={"a": float("nan")}).save(folder)


# --- something else under the name of a file


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("kind", [_pipe, _folder, _device, _socket, _loop])
@pytest.mark.parametrize("name", ["dataset.json", "shard-000000.tar"])
def test_something_else_than_a_file(kind: Callable[[Path], None], name: str, folder: Path) -> None:
    opened = Dataset(folder)
    kind(folder / name)
    assert str(folder / name) in one_error(lambda: Dataset(folder))
    if name != "dataset.json":
        assert str(folder / name) in one_error(lambda: opened.image(0))
        assert not verify(folder, progress=False).ok


@pytest.mark.parametrize("kind", [_pipe, _device, _socket, _loop])
def test_an_index_that_is_something_else_is_made_anew(kind: Callable[[Path], None], folder: Path) -> None:
    kind(folder / "index.bin")
    one_error(lambda: SampleIndex(folder / "index.bin"))
    assert Dataset(folder).labels.tolist() == [n % CLASSES for n in range(15)]
    assert (folder / "index.bin").is_file() and not (folder / "index.bin").is_symlink()


# --- index.bin with the right checksum

HEAD = {"samples": (16, "<Q"), "num_classes": (24, "<I"), "num_outputs": (28, "<I"), "files": (32, "<I"),
        "flags": (36, "<I"), "table": (40, "<Q"), "keys": (48, "<Q"), "zero": (60, "<I"), "version": (8, "<I"),
        "header_bytes": (12, "<I")}  # fmt: skip


def put(path: Path, at: int, form: str, value: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, value)
    data[56:60] = struct.pack("<I", google_crc32c.value(bytes(data[:56] + bytes(4) + data[60:])))
    path.write_bytes(data)


@pytest.mark.parametrize("field", HEAD)
@pytest.mark.parametrize("value", [0, 1, 2, 7, 10**13, 2**31, 2**32 - 1, 2**64 - 1])
def test_lying_headers(field: str, value: int, folder: Path) -> None:
    path, (at, form) = folder / "index.bin", HEAD[field]
    value &= 2 ** (8 * struct.calcsize(form)) - 1
    (before,) = struct.unpack_from(form, path.read_bytes(), at)
    put(path, at, form, value)
    try:
        index = SampleIndex(path)
    except ShardError as error:
        assert str(path) in str(error)
    else:
        assert (
            value == before
            or field in ("num_outputs", "flags")
            or (field == "num_classes" and value > max(index.labels))
        )
    if value != before:
        assert Dataset(folder).labels.tolist() == [n % CLASSES for n in range(15)]  # made anew


@pytest.mark.parametrize(
    ("at", "form", "value", "match"),
    [
        (64 + 24 * 3, "<I", 0, "outside its file"),
        (64 + 24 * 3, "<I", 2**32 - 1, "outside its file"),
        (64 + 24 * 3 + 4, "<I", 0, "outside its file"),
        (64 + 24 * 3 + 4, "<I", 2**32 - 1, "outside its file"),
        (64 + 24 * 3 + 8, "<I", 0, "outside its file"),
        (64 + 24 * 3 + 12, "<I", 2**32 - 1, "outside its file"),
        (64 + 24 * 3 + 20, "<H", 0, "no height"),
        (64 + 24 * 3 + 22, "<H", 0, "no height"),
    ],
)
def test_lying_entries(at: int, form: str, value: int, match: str, folder: Path) -> None:
    put(folder / "index.bin", at, form, value)
    index = SampleIndex(folder / "index.bin")
    one_error(lambda: index.entry(3), match)
    index.entry(4)
    assert Dataset(folder).record(3).image_height > 0  # dataset.json knows better


@pytest.mark.parametrize("label", [-1, CLASSES, 4098, 2**31 - 1])
def test_labels_are_below_the_classes(label: int, folder: Path) -> None:
    put(folder / "index.bin", 64 + 24 * 3 + 16, "<i", label)
    one_error(lambda: SampleIndex(folder / "index.bin"), f"the label of sample 3 is {label} of {CLASSES} classes")
    put(folder / "index.bin", 64 + 24 * 3 + 16, "<i", 5)
    assert Dataset(folder).label(3) == 3  # a label of this index is not that of dataset.json: made anew


def test_first_samples_that_do_not_rise(folder: Path) -> None:
    path = folder / "index.bin"
    table = path.read_bytes().index(b"shard-000000.tar") - 18
    second = table + 18 + len(b"shard-000000.tar")
    for at, value in ((table + 8, 1), (second + 8, 16), (second + 8, 2**63), (table + 8, 12)):
        shutil.copy(path, folder / "good")
        put(path, at, "<Q", value)
        one_error(lambda: SampleIndex(path), "do not rise")
        shutil.move(folder / "good", path)


def test_key_offsets_that_lie(folder: Path) -> None:
    path = folder / "index.bin"
    offsets = path.read_bytes().index(struct.pack("<3Q", 0, 8, 16))
    for value in (0, 2**63, 2**64 - 1, 10**6):
        shutil.copy(path, folder / "good")
        put(path, offsets + 16, "<Q", value)
        index = SampleIndex(path)
        one_error(lambda index=index: index.key(1), "the keys of samples 1 .. 1")
        shutil.move(folder / "good", path)


# --- changed while it is read


def test_an_index_cut_off_or_changed_in_use(tmp_path: Path) -> None:
    """Every value that is read is what it was; what is not in memory any more is an error."""
    path, count = tmp_path / "index.bin", 20_000
    rows, keys = np.zeros(count, ENTRY), [f"key/{n * n}" for n in range(count)]
    rows["label"], rows["image_bytes"], rows["image_crc"] = np.arange(count) % 7, np.arange(count), 5
    rows["image_height"] = rows["image_width"] = 9
    table = SampleTable()
    table.add_file(IndexedFile("f", 2**40), keys, rows)
    table.write(path, 7)
    good = path.read_bytes()

    def use(index: SampleIndex, wanted: int = 0) -> None:
        errors = 0
        for start in range(0, count, 100):
            try:
                got = index.entries_of(start, start + 100)["image_bytes"].tolist(), index.keys[start : start + 100]
            except ShardError as error:
                errors += 1
                assert "while it was in use" in str(error) and str(path) in str(error)
            else:
                assert got == (list(range(start, start + 100)), keys[start : start + 100])
        assert (errors > 0) == (wanted > 0) and errors >= wanted

    for damage, wanted in (
        (lambda: os.truncate(path, 0), 150),
        (lambda: os.truncate(path, 300_000), 50),
        (lambda: path.write_bytes(bytes(len(good))), 150),
        (lambda: path.write_bytes(good[:100_000] + bytes([good[100_000] ^ 1]) + good[100_001:]), 1),
        (lambda: path.write_bytes(good + b"more"), 0),
        (lambda: path.write_bytes(good), 0),
        (lambda: path.unlink(), 0),  # the file that was opened stays
    ):
        index = SampleIndex(path)
        damage()
        use(index, wanted)
        path.write_bytes(good)


def test_an_index_is_used_after_fork_and_pickle(original: Path) -> None:
    index = SampleIndex(original / "index.bin")
    want = list(index.keys)
    child = os.fork()
    if child == 0:
        os._exit(0 if [index.key(n) for n in range(15)] == want else 1)
    assert [index.key(n) for n in range(15)] == want and os.waitpid(child, 0)[1] == 0
    assert list(pickle.loads(pickle.dumps(index)).keys) == want


def test_random_mutations_change_no_value_in_silence(original: Path, folder: Path) -> None:
    """Of all files: what is read is what was written, or an error."""
    before = Dataset(original)
    want = [(before.keys[n], before.label(n), before.image(n), before.record(n).reinforcements) for n in range(15)]
    rng = random.Random(3)
    names, silent, seen = sorted(path.name for path in original.iterdir() if path.suffix != ".idx"), 0, 0
    for _ in range(120):
        name = rng.choice(names)
        data = bytearray((original / name).read_bytes())
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (folder / name).write_bytes(data)
        try:
            dataset = Dataset(folder)
            assert len(dataset) == 15
        except ShardError:
            seen += 1
        else:
            for n in range(15):
                try:
                    got = dataset.keys[n], dataset.label(n), dataset.image(n), dataset.record(n).reinforcements
                except ShardError as error:
                    seen += 1
                    assert str(folder) in str(error)
                else:
                    silent += got != want[n]
        for one in ("index.bin", name):
            shutil.copy(original / one, folder / one)
    assert silent == 0 and seen > 30


# --- an index that is made anew from a tar that was changed


def test_a_tar_that_was_changed_gives_no_index(folder: Path) -> None:
    path = folder / "shard-000000.tar"
    data = path.read_bytes()
    at = data.index(b"c0/s0003.cls\0") + 512
    path.write_bytes(data[:at] + b"7" + data[at + 1 :])
    (folder / "index.bin").unlink()
    assert str(path) in one_error(lambda: Dataset(folder), "index_crc32c")
    path.write_bytes(data)
    assert Dataset(folder).label(3) == 3 and not (Dataset(folder).index.has_crcs)
    entry = Dataset(folder).index.entry(2)
    at = int(entry["image_block"]) * 512 + int(entry["image_bytes"]) - 30
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    Dataset(folder).image(2)  # without CRCs, its header is all that is compared
    assert main(["index", "--full", "--quiet", str(folder)]) == 1
    path.write_bytes(data)
    assert main(["index", "--full", "--quiet", str(folder)]) == 0
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    one_error(lambda: Dataset(folder).image(2), "CRC-32C")
    assert np.array_equal(Dataset(folder).labels, [n % CLASSES for n in range(15)])


def test_an_unfinished_folder_of_an_earlier_dali_dr_is_continued_or_refused(
    folder: Path, tmp_path: Path, jpeg_bytes: list[bytes]
) -> None:
    samples = [sample(n, jpeg_bytes[2 + n % 2]) for n in range(15)]
    with pytest.raises(ShardError, match="label"):
        write([*samples[:12], dataclasses.replace(samples[12], label=CLASSES)], tmp_path / "d", keep_bytes=True)
    facts = tmp_path / "d" / ".shard-000000.tar.json"
    data = json.loads(facts.read_text())
    facts.write_text(json.dumps({name: value for name, value in data.items() if name not in ("sizes", "crcs")}))
    write(samples, tmp_path / "d", keep_bytes=True)
    assert (tmp_path / "d" / "index.bin").read_bytes() == (folder / "index.bin").read_bytes()
