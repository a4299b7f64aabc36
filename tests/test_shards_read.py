"""Dataset, index.bin, dataset.json and verify: what they accept, refuse, rebuild and find."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shards_write import CLASSES, SPEC, contents, sample, write

from dali_dr.cli import main
from dali_dr.errors import ShardError
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.index import SampleIndex
from dali_dr.shards.index_layout import ENTRY, STORED_2, IndexedFile
from dali_dr.shards.manifest import Manifest, ShardInfo, library_versions
from dali_dr.shards.sample_table import SampleTable
from dali_dr.shards.tar import header
from dali_dr.shards.verify import verify

STORED = ("image_block", "image_bytes", "record_block", "record_bytes", "label", "image_height", "image_width")


@pytest.fixture(scope="module")
def original(jpeg_bytes: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "original"
    write(
        [sample(number, jpeg_bytes[number % 4]) for number in range(25)],
        out,
        teacher={
            "names": ["a", "b"],
            "weights_digest": "sha256:00",
            "input_size": 224,
            "normalisation": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
            "ensembled": True,
        },
        class_names=[f"n{i}" for i in range(CLASSES)],
        extra={"note": "é"},
        seed=3,
    )
    return out


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


# --- index.bin


@given(
    st.lists(
        st.tuples(
            st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=6),
            st.text("abc/é", min_size=1, max_size=9),
        ),
        max_size=4,
    )
)
@settings(deadline=None)
def test_index_holds_what_was_added(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[str], str]]
) -> None:
    """Read back by an independent reader, written from the layout with struct alone."""
    path = tmp_path_factory.mktemp("index") / "index.bin"
    rng = random.Random(len(files))
    crcs, sidecar = rng.random() < 0.5, rng.random() < 0.5
    image_tars = [IndexedFile("../é.tar", 2**40), IndexedFile("/b.tar", 5)] if sidecar else []
    table, expected, first = SampleTable(image_tars, image_crcs=crcs), [], []
    for number, (keys, name) in enumerate(files):
        rows = np.zeros(len(keys), ENTRY)
        first.append(len(expected))
        for row, key in zip(rows, keys, strict=True):
            values = [rng.randrange(2**32) for _ in range(4)]
            row["image_block"], row["image_bytes"], row["record_block"], row["record_bytes"] = values
            row["label"], row["image_crc"] = rng.randrange(77), rng.randrange(2**32)
            row["image_height"], row["image_width"] = rng.randrange(1, 2**16), rng.randrange(1, 2**16)
            row["image_file"] = rng.randrange(2) if sidecar else 9
            image_file = len(files) + int(row["image_file"]) if sidecar else number
            stored = (*values, *(int(row[name]) for name in ("label", "image_height", "image_width")))
            expected.append((key, stored, int(row["image_crc"]) * crcs, image_file, number))
        table.add_file(IndexedFile(name, number + 10), keys, rows)
    table.write(path, 77, 99)
    data = path.read_bytes()
    magic, version, header, samples, classes, outputs, count, flags, table_bytes, key_bytes, checksum, zero = (
        struct.unpack_from("<8sIIQIIIIQQII", data)
    )
    assert (magic, version, header, zero, classes, outputs) == (b"DDRINDEX", 2, 64, 0, 77, 99)
    assert (samples, count, flags) == (len(expected), len(files) + len(image_tars), crcs + 2 * sidecar)
    assert checksum == crc32c(data[:56] + bytes(4) + data[60:])
    at = 64 + 24 * samples
    found_crcs = struct.unpack_from(f"<{samples}I", data, at) if crcs else [0] * samples
    at += 4 * samples * crcs
    image_files = struct.unpack_from(f"<{samples}I", data, at) if sidecar else [number for *_, number in expected]
    at += 4 * samples * sidecar
    assert data[at : at + -at % 8] == bytes(-at % 8)
    at += -at % 8
    offsets = struct.unpack_from(f"<{samples + 1}Q", data, at)
    blob = at + 8 * (samples + 1)
    found = [
        (
            data[blob + offsets[i] : blob + offsets[i + 1]].decode(),
            struct.unpack_from("<IIIIiHH", data, 64 + 24 * i),
            found_crcs[i],
            image_files[i],
        )
        for i in range(samples)
    ]
    assert found == [one[:-1] for one in expected] and offsets[0] == 0 and offsets[-1] == key_bytes
    at = blob + key_bytes
    assert len(data) == at + table_bytes
    names = [IndexedFile(name, number + 10) for number, (_, name) in enumerate(files)] + image_tars
    for file, start in zip(names, [*first, *([samples] * len(image_tars))], strict=True):
        size, begin, length = struct.unpack_from("<QQH", data, at)
        assert (size, begin, data[at + 18 : at + 18 + length].decode()) == (file.size, start, file.name)
        at += 18 + length
    index = SampleIndex(path)
    assert list(index.keys) == [key for key, *_ in expected] and index.labels.tolist() == [e[1][4] for e in expected]
    for entry, (_, stored, crc, image_file, record_file) in zip(index.entries, expected, strict=True):
        assert tuple(entry[list(STORED)].tolist()) == stored
        assert (entry["image_crc"], entry["image_file"], entry["record_file"]) == (crc, image_file, record_file)
    assert index.files == tuple(names) and (index.num_classes, index.num_outputs, index.version) == (77, 99, 2)
    assert (index.has_crcs, index.has_sizes) == (crcs, True)


def crc32c(data: bytes) -> int:
    """Bit by bit, from the definition."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
    return value ^ 0xFFFFFFFF


def test_the_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == google_crc32c.value(b"123456789") == 0xE3069283


def rows_of(count: int) -> np.ndarray:
    rows = np.zeros(count, ENTRY)
    rows["image_height"] = rows["image_width"] = 1
    return rows


@given(st.lists(st.text("ab", min_size=1, max_size=5), unique=True), st.text("ab", max_size=5))
@settings(deadline=None)
def test_find_agrees_with_a_list(tmp_path_factory: pytest.TempPathFactory, keys: list[str], other: str) -> None:
    table = SampleTable()
    table.add_file(IndexedFile("f", 0), keys, rows_of(len(keys)))
    path = tmp_path_factory.mktemp("find") / "index.bin"
    table.write(path, 1)
    index = SampleIndex(path)
    for key in [*keys, other]:
        assert (key in index.keys) == (key in keys)
        if key in keys:
            assert index.find(key) == index.keys.index(key) == keys.index(key)
        else:
            with pytest.raises(KeyError, match="no sample"):
                index.find(key)
            with pytest.raises(ValueError, match="no sample"):
                index.keys.index(key)
    assert index.keys[1:] == keys[1:] and [index.keys[-i - 1] for i in range(len(keys))] == keys[::-1]
    for outside in (len(keys), -len(keys) - 1):
        with pytest.raises(IndexError, match="outside"):
            index.keys[outside]


@pytest.mark.parametrize("sealed", [False, True])
def test_damaged_indices_raise_shard_errors_only(original: Path, tmp_path: Path, sealed: bool) -> None:
    """With the checksum of what they were, every one is refused; with their own, no lie of theirs is more than that."""
    good = (original / "index.bin").read_bytes()
    rng = random.Random(5)
    path = tmp_path / "index.bin"
    refused = 0
    for attempt in range(400):
        bad = bytearray(good[: rng.choice([len(good), len(good), rng.randrange(len(good))])])
        for _ in range(rng.randrange(1, 4) if bad else 0):
            place = rng.randrange(min(len(bad), rng.choice([64, len(bad)])))
            bad[place] = rng.randrange(256)
        if sealed and len(bad) > 64:
            bad[56:60] = struct.pack("<I", google_crc32c.value(bytes(bad[:56] + bytes(4) + bad[60:])))
        elif bytes(bad) == good:
            continue
        path.write_bytes(bad)
        try:
            index = SampleIndex(path)
            for number in range(len(index)):
                index.entry(number)
                index.key(number)
            assert sealed
        except ShardError as error:
            refused += 1
            assert str(path) in str(error), attempt
    assert refused > 100


def test_a_missing_damaged_or_stale_index_is_rebuilt(original: Path, folder: Path) -> None:
    good = (original / "index.bin").read_bytes()
    other = SampleTable()
    other.add_file(IndexedFile("shard-000000.tar", 5), ["x"], rows_of(1))
    for damage in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(good[:1000]),
        lambda path: other.write(path, CLASSES),
    ):
        damage(folder / "index.bin")
        dataset = Dataset(folder)
        assert dataset.image(7) == Dataset(original).image(7)
        assert dataset.image_size(7) == Dataset(original).image_size(7) and not dataset.index.has_crcs
        assert verify(folder, progress=False).problems == []
        assert main(["index", "--full", "--quiet", str(folder)]) == 0
        assert (folder / "index.bin").read_bytes() == good


# --- Dataset


def test_dataset_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such folder"):
        Dataset(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match=r"dataset\.json: missing; the folder is empty"):
        Dataset(tmp_path / "empty")
    (tmp_path / "empty" / ".write_shards.json").write_text("{}")
    with pytest.raises(ShardError, match=r"dataset\.json.*run the writer again"):
        Dataset(tmp_path / "empty")
    with (folder / "shard-000001.tar").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ShardError, match=r"shard-000001\.tar: has \d+ bytes, dataset\.json says"):
        Dataset(folder)
    (folder / "shard-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000001\.tar.*restore"):
        Dataset(folder)


def test_a_damaged_record_names_shard_and_key(folder: Path) -> None:
    stored = Dataset(folder)
    entry = stored.index.entry(13)
    with (folder / "shard-000001.tar").open("r+b") as file:
        file.seek(int(entry["record_block"]) * 512)
        file.write(b"\0\0\0\0")
    with pytest.raises(ShardError, match=rf"shard-000001\.tar: sample 13 \({stored.keys[13]}\): .*zstd"):
        stored.reinforcements(13)
    stored.reinforcements(12)


def test_an_index_of_other_tars_of_equal_size_is_noticed(folder: Path) -> None:
    entry = Dataset(folder).index.entry(12)
    with (folder / "shard-000001.tar").open("r+b") as file:
        file.seek((int(entry["image_block"]) - 1) * 512)
        file.write(header("c0/s0099.jpg", int(entry["image_bytes"])))
    with pytest.raises(ShardError, match=r"shard-000001\.tar: the image of sample 12 .*delete that file"):
        Dataset(folder).image(12)
    Dataset(folder).reinforcements(12)


def test_a_dataset_survives_pickle_and_negative_numbers(original: Path) -> None:
    stored = Dataset(original)
    again = pickle.loads(pickle.dumps(stored))
    assert again.keys[:] == stored.keys[:] and again.image(-1) == stored.image(24)
    assert again.reinforcements(3) == stored.reinforcements(3)
    with pytest.raises(IndexError):
        stored.image(25)
    assert stored.index_path == original / "index.bin"


# --- dataset.json


def test_manifest_round_trip(original: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(original)
    data = json.loads((original / "dataset.json").read_text())
    assert Manifest.from_json(data) == manifest and manifest.to_json() == data
    assert (data["images"], data["classes"], data["views"], data["topk"]) == (25, CLASSES, {"min": 5, "max": 5}, 3)
    assert data["teacher"]["ensembled"] is True and data["extra"] == {"note": "é"}
    assert manifest.versions == library_versions() and {"dali", "numpy", "pillow", "torch"} <= set(manifest.versions)
    manifest.save(tmp_path)
    assert (tmp_path / "dataset.json").read_bytes() == (original / "dataset.json").read_bytes()


def _set(*path: Any) -> Callable[[Any], None]:
    *where, name, value = path

    def change(data: Any) -> None:
        for step in where:
            data = data[step]
        data[name] = value

    return change


BAD_MANIFESTS = {
    "version": (_set("format_version", 6), r"format_version is 6, this dali_dr reads 1 to 5"),
    "tiles too early": (_set("format_version", 2), r"tiles|decoder"),
    "tiles of other images": (_set("tiles", "images", 1), r"tiles tells of \d+ images, the shards hold 25"),
    "tiles without a count": (lambda data: data["tiles"].pop("bytes_after"), r"\$.tiles"),
    "a kept image of none": (_set("tiles", "kept", "it is no JPEG", 0), r"\$.tiles.kept"),
    "no tiles": (lambda data: data.pop("tiles"), "'tiles' is a required property"),
    "decoder": (_set("decoder", "Pillow"), r"\$.decoder"),
    "version of no number": (_set("format_version", True), r"format_version is True"),
    "no version": (lambda data: data.pop("format_version"), "format_version is None"),
    "no shards": (lambda data: data.pop("shards"), "'shards' is a required property"),
    "unknown member": (_set("shard", 1), "shard"),
    "escaping shard": (_set("shards", 0, "name", "../x.tar"), r"\$.shards\[0\].name"),
    "digest": (_set("shards", 0, "sha256", "00"), r"\$.shards\[0\].sha256"),
    "twice": (_set("shards", 1, "name", "shard-000000.tar"), "twice"),
    "images": (_set("images", 24), "images is 24, the shards hold 25"),
    "class names": (_set("class_names", ["a"]), "1 class_names for 12"),
    "views": (_set("views", "min", 6), "views.min"),
    "spec": (_set("spec", "size", -1), "size"),
    "spec field": (_set("spec", "mixup", 1), "mixup"),
    "spec too new": (_set("spec", "greyscale", 0.2), "spec: greyscale: of format version 5, but format_version is 3"),
    "member of a spec too new": (
        lambda data: data["spec"]["rand_augment"].update(magnitude_std=0.5),
        "spec: rand_augment.magnitude_std: of format version 5",
    ),
    "crop too new": (
        lambda data: data["spec"].update(crop={"resize": 256, "random": True}),
        "spec: crop.resize and crop.random: of format version 5",
    ),
    "label maps of a later format": (
        lambda data: data.update(format_version=5, label_maps={"height": 2, "width": 2, "depth": 1, "order": "code"}),
        "False schema does not allow .*'order': 'code'",
    ),
    "no spec": (_set("spec", None), "no spec"),
    "encoding": (_set("probabilities", "encoding", "log7"), "log7"),
    "teacher": (_set("teacher", "names", []), "names"),
    "normalisation": (_set("teacher", "normalisation", "std", [0, 1, 1]), "std"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_a_wrong_manifest_is_refused_on_read(case: str, folder: Path) -> None:
    change, message = BAD_MANIFESTS[case]
    data = json.loads((folder / "dataset.json").read_text())
    change(data)
    (folder / "dataset.json").write_text(json.dumps(data))
    if "version" not in case:
        with pytest.raises(ShardError, match=r"dataset\.json: its checksum is .* `dali-dr seal`"):
            Dataset(folder)
        assert main(["seal", str(folder)]) == 1
        seal(folder)
    with pytest.raises(ShardError, match=message) as caught:
        Dataset(folder)
    assert str(folder / "dataset.json") in str(caught.value)


def test_a_wrong_manifest_is_refused_on_write(original: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(original)
    for changed in (
        {"shards": ()},
        {"teacher": {"names": "x"}},
        {"shards": (ShardInfo("a.tar", 1, 10240, "0" * 63),)},
        {"num_classes": 0},
    ):
        with pytest.raises(ShardError):
            dataclasses.replace(manifest, **changed).save(tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    for text in ("", "[]", "{", "null"):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(ShardError, match=r"dataset\.json"):
            Manifest.load(tmp_path)


# --- verify


def _flip(name: str, offset: Callable[[Dataset], int]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        place = offset(Dataset(folder))
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 0x10
        (folder / name).write_bytes(data)

    return change


def _edit(*path: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.loads((folder / "dataset.json").read_text())
        _set(*path)(data)
        (folder / "dataset.json").write_text(json.dumps(data))
        seal(folder)

    return change


def seal(folder: Path) -> None:
    """The right checksum, whatever the rest says."""
    data = json.loads((folder / "dataset.json").read_text())
    data.pop("checksum", None)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data["checksum"] = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(data))


def _edit_index(column: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / "index.bin").read_bytes())
        np.frombuffer(data, STORED_2, 25, 64)[column][11] ^= 1
        data[56:60] = struct.pack("<I", google_crc32c.value(bytes(data[:56] + bytes(4) + data[60:])))
        (folder / "index.bin").write_bytes(data)

    return change


DAMAGE = {
    "image byte": (
        _flip("shard-000001.tar", lambda d: int(d.index.entry(12)["image_block"]) * 512 + 400),
        ["shard-000001.tar: its SHA-256"],
    ),
    "record byte": (
        _flip("shard-000001.tar", lambda d: int(d.index.entry(12)["record_block"]) * 512 + 1),
        ["shard-000001.tar: its SHA-256", "sample c0/s0012"],
    ),
    "cut off": (
        lambda folder: (folder / "shard-000001.tar").write_bytes((folder / "shard-000001.tar").read_bytes()[:9000]),
        ["bytes, dataset.json says", "shard-000001.tar"],
    ),
    "missing": (lambda folder: (folder / "shard-000000.tar").unlink(), ["shard-000000.tar"]),
    "idx": (lambda folder: (folder / "shard-000000.idx").write_text("v1.2 0\n"), ["000000.idx: does not describe"]),
    "no idx": (lambda folder: (folder / "shard-000000.idx").unlink(), ["shard-000000.idx: missing"]),
    "label in index": (_edit_index("label"), ["index.bin: its samples of shard-000001.tar"]),
    "place in index": (_edit_index("record_block"), ["index.bin: its samples of shard-000001.tar"]),
    "size in index": (_edit_index("image_width"), ["index.bin: its samples of shard-000001.tar"]),
    "index": (_flip("index.bin", lambda d: 900), ["index.bin: not a sample index: its checksum is"]),
    "no index": (lambda folder: (folder / "index.bin").unlink(), ["index.bin"]),
    "topk": (_edit("topk", 4), ["has the K 3, dataset.json says 4"]),
    "views": (_edit("views", {"min": 1, "max": 5}), ["views: dataset.json says (1, 5), the shards hold (5, 5)"]),
    "record bytes": (_edit("record_bytes", 1), ["record_bytes"]),
    "encoding": (_edit("probabilities", {"encoding": "float16"}), ["encoding root8"]),
    "log step": (_edit("probabilities", "log_step", 0.1), ["log_step"]),
    "view size": (_edit("spec", "size", 64), ["view size (32, 32), dataset.json says (64, 64)"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_verify_finds_damage(case: str, folder: Path) -> None:
    assert verify(folder, progress=False).problems == []
    damage, expected = DAMAGE[case]
    damage(folder)
    before = contents(folder)
    report = verify(folder, progress=False)
    assert not report.ok and report.problem_count >= len(report.problems) > 0
    for text in expected:
        assert any(text in problem for problem in report.problems), report.problems
    assert contents(folder) == before


def test_verify_counts(original: Path) -> None:
    report = verify(original, images=True, progress=False)
    assert (report.ok, report.images, report.records, report.views) == (True, 25, 25, 125)
    assert report.bytes == sum(path.stat().st_size for path in original.glob("*.tar"))


def test_spec_is_kept(original: Path) -> None:
    assert Manifest.load(original).spec == SPEC
