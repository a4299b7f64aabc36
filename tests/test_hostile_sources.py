"""Sources of damaged or hostile metadata: one ShardError that names the file, soon and in little memory."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset.tariterators  # noqa: F401  (it is imported with torch when a tar is first read)
from conftest import REPOSITORY, encode_jpeg, write_files

import dali_dr
from dali_dr.encoded import MAX_PIXELS, image_info
from dali_dr.images.admit import Admission
from dali_dr.images.judge import Judge
from dali_dr.sources import FileList, open_source
from dali_dr.sources.classes import MAX_CLASSES
from dali_dr.sources.entrance import Entrance
from dali_dr.sources.lists import MAX_LINE

IMAGE = encode_jpeg(np.zeros((16, 16, 3), np.uint8))


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Fails a test that takes long, or that grows the process by more than 100 MB."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def refused(path: Path, match: str) -> str:
    with pytest.raises(dali_dr.ShardError, match=match) as caught:
        open_source(path)
    assert path.name in str(caught.value) and len(str(caught.value)) < 1000
    return str(caught.value)


LISTS: dict[str, tuple[str, bytes, str]] = {
    "deep": (".jsonl", b"[" * 200_000, "line 1: not JSON of a list: it is nested too deeply"),
    "deep later": (".jsonl", b'{"path":"a","label":1}\n' + b'{"a":' * 100_000, "line 2: not JSON"),
    "no object": (".jsonl", b"[1]\n", "line 1: want an object"),
    "NaN": (".jsonl", b'{"path":"a","label":NaN}\n', "line 1: not JSON: NaN"),
    "infinite": (".jsonl", b'{"path":"a","label":1e999}\n', "line 1: label is inf"),
    "fraction": (".jsonl", b'{"path":"a","label":1.5}\n', "line 1: label is 1.5"),
    "yes": (".jsonl", b'{"path":"a","label":true}\n', "line 1: label is True"),
    "huge": (".jsonl", b'{"path":"a","label":1' + b"0" * 30 + b"}\n", "line 1: the label '10+…?' is too large"),
    "digits": (".jsonl", b'{"path":"a","label":' + b"9" * 5000 + b"}\n", "line 1: not JSON"),
    "twice": (".jsonl", b'{"path":"a","path":"b","label":1}\n', "comes twice"),
    "list as path": (".jsonl", b'{"path":["a"],"label":1}\n', "line 1: path is"),
    "NUL in JSON": (".jsonl", b'{"path":"a\\u0000","label":1}\n', "line 1: path"),
    "surrogate": (".jsonl", b'{"path":"a","label":"\\ud800"}\n', "line 1: label"),
    "surrogate key": (".jsonl", b'{"path":"a","label":1,"key":"\\udfff"}\n', "line 1: key"),
    "no label": (".jsonl", b'{"path":"a"}\n', "line 1: has no label"),
    "empty": (".jsonl", b"", "lists no images"),
    "blank": (".csv", b"\n\n\n", "lists no images"),
    "header": (".csv", b"path,label\n", "lists no images"),
    "columns": (".csv", b"path,label,path\na,1,b\n", "line 1: has 2 columns path"),
    "comma": (".csv", b"path,label\na,b.jpg,1\n", "line 2: has 3 fields, the header 2"),
    "NUL": (".csv", b"path,label\na\0.jpg,1\n", "line 2: holds a NUL"),
    "Latin-1": (".csv", b"path,label\na.jpg,1\n\xe9.jpg,1\n", "line 3: not UTF-8"),
    "UTF-16": (".csv", "path,label\na.jpg,1\n".encode("utf-16"), "line 1: not UTF-8"),
    "quote": (".csv", b'path,label\n"a' + b"\n" * 200_000, "not CSV"),
    "field": (".csv", b"path,label\n" + b"a" * 200_000 + b",1\n", "line 2: not CSV"),
    "nan": (".csv", b"path,label\na,1\nb,nan\n", "line 3: the label 'nan'"),
    "minus": (".csv", b"path,label\na,1\nb,-1\n", "line 3: the label '-1'"),
    "10^30": (".csv", b"path,label\na,1" + b"0" * 30 + b"\n", "line 2: the label"),
    "other digits": (".csv", "path,label\na,1\nb,١\n".encode(), "line 3: the label"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list(name: str, tmp_path: Path) -> None:
    suffix, data, match = LISTS[name]
    path = tmp_path / f"list{suffix}"
    path.write_bytes(data)
    refused(path, match)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_line_of_a_gigabyte(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_bytes(b"")
    os.truncate(path, 1 << 30)  # zeros, of which none is on the disk
    refused(path, f"line 1: has more than {MAX_LINE} bytes")


def test_labels_up_to_a_sane_limit(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"path,label\na.jpg,%d\n" % (MAX_CLASSES - 1))
    source = open_source(path)
    assert len(source.class_names) == MAX_CLASSES and source.class_names[-1] == "999999"
    for label in (MAX_CLASSES, 2_000_000_000, 2**31, 10**30):
        path.write_bytes(b"path,label\na.jpg,0\nb.jpg,%d\n" % label)
        refused(path, "line 3: the label .* is too large: a data set has up to 1000000 classes")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("gone")


def entering(source: Any, count: int) -> list[dali_dr.Sample]:
    with Judge() as judge:
        return Entrance(source, Admission(judge)).samples(range(count))


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (fifo, "FIFO|regular file"),
    "socket": (unix_socket, "socket|regular file"),
    "device": (device, "device|regular file"),
    "folder": (folder, "folder|regular file"),
    "loop": (loop, "symbolic links"),
    "dangling": (dangling, "No such file"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "images.tar"])
def test_what_is_no_file_is_not_opened(kind: str, name: str, tmp_path: Path) -> None:
    make, match = KINDS[kind]
    make(tmp_path / name)
    refused(tmp_path / name, match)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_what_is_no_file_among_images_is_left_out_with_its_reason(kind: str, tmp_path: Path) -> None:
    make, match = KINDS[kind]
    write_files(tmp_path, {"images/c/a.jpg": IMAGE, "images/c/notes.txt": b""})
    make(tmp_path / "images" / "c" / "b.jpg")
    (tmp_path / "list.csv").write_text("path,label\nimages/c/a.jpg,0\nimages/c/b.jpg,0\n")
    for source in (open_source(tmp_path / "images"), open_source(tmp_path / "list.csv")):
        good, bad = entering(source, 2)
        assert (good.image_bytes, good.problem) == (IMAGE, None)
        assert "cannot be read" in str(bad.problem) and re.search(match, str(bad.problem))
        assert isinstance(source, FileList) or "1 .txt file (c/notes.txt)" in source.notes[0]


def test_files_that_are_empty_or_vanish_or_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"c/a.jpg": IMAGE, "c/b.jpg": b"", "c/c.jpg": IMAGE, "c/d.jpg": IMAGE})
    source = open_source(tmp_path)
    (tmp_path / "c" / "c.jpg").unlink()
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:  # the tests may run as root, who may read all
        if str(path).endswith("d.jpg"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    samples = entering(source, 4)
    assert [sample.image_bytes for sample in samples] == [IMAGE, b"", b"", b""]
    for number, why in ((1, "empty"), (2, "No such file"), (3, "Permission denied")):
        assert why in str(samples[number].problem)


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    write_files(tmp_path, {"elsewhere/a.jpg": IMAGE, "images/d/b.jpg": IMAGE})
    (tmp_path / "images" / "c").symlink_to(tmp_path / "elsewhere")
    assert open_source(tmp_path / "images").keys == ["c/a", "d/b"]
    (tmp_path / "images" / "d" / "up").symlink_to(tmp_path / "images")
    with pytest.raises(dali_dr.ShardError, match=r"images/d/up: a link that leads back"):
        open_source(tmp_path / "images")


def test_pack_lists_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from dali_dr.cli import main

    write_files(tmp_path, {"images/c/a.jpg": IMAGE})
    fifo(tmp_path / "images" / "c" / "b.jpg")
    arguments = ["pack", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(arguments) == 1
    assert main([*arguments, "--on-error", "skip"]) == 0
    assert "c/b" in caplog.text and "FIFO" in caplog.text
    assert len(dali_dr.Dataset(tmp_path / "out")) == 1


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(text: bytes) -> bytes:
    return header("p", len(text), b"x") + text.ljust(-(-len(text) // 512) * 512, b"\0")


TARS: dict[str, bytes] = {
    "member of 2^40": header("a.jpg", 1 << 40),
    "pax header of 2^42": header("p", 1 << 42, b"x") + bytes(1024),
    "pax header of 2^64": header("p", (1 << 64), b"x") + bytes(1024),
    "pax size of 2^42": pax(b"21 size=4398046511104\n") + header("a.jpg", 1) + bytes(512),
    "pax size of 2^64": pax(b"28 size=18446744073709551616\n") + header("a.jpg", 1) + bytes(512),
    "pax size of 10^5000": pax(b"5010 size=1" + b"0" * 4998 + b"\n") + header("a.jpg", 1) + bytes(512),
    "negative pax size": pax(b"11 size=-1\n") + header("a.jpg", 1) + bytes(512),
    "long name of 2^40": header("././@LongLink", 1 << 40, b"L") + bytes(1024),
    "long link of 2^63": header("././@LongLink", (1 << 63) - 1, b"K") + bytes(1024),
    "extensions of extensions": b"".join(header("././@LongLink", 0, b"L") for _ in range(20_000)),
    "no tar": b"x" * 2000,
    "empty": b"",
}


@pytest.mark.parametrize("name", TARS)
def test_a_tar(name: str, tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(TARS[name])
    refused(path, "not a readable tar|holds no samples|cannot be read")


LABELS: dict[str, bytes] = {
    "NaN": b"NaN", "infinite": b"1e999", "fraction": b"1.7", "10^30": b"1" + b"0" * 30, "deep": b"[" * 100_000,
    "yes": b"true", "digits": b"9" * 5000, "negative": b"-1", "nothing": b"", "Latin-1": b"\xe9",
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_a_label_in_a_tar(suffix: str, name: str, tmp_path: Path) -> None:
    text = LABELS[name] if suffix == "cls" else b'{"label": ' + LABELS[name] + b"}"
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as out:
        for member, data in (("k.jpg", IMAGE), (f"k.{suffix}", text)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    assert "sample k" in refused(path, f"k.{suffix}")


def png(height: int, width: int, chunks: bytes = b"") -> bytes:
    """A PNG of one bit per pixel of these sizes, with nothing but `chunks` in it."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)) + chunks


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def whole_png(side: int) -> bytes:
    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(side, side, chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def webp(height: int, width: int) -> bytes:
    body = struct.pack("<I", 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    data = b"WEBPVP8X" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("data", [png(20_000, 20_000, chunk(b"IDAT", b"")), whole_png(20_000), webp(16_000, 16_000)])
def test_too_many_pixels_are_refused_before_memory_is_taken(data: bytes, full: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"x.* pixels, above the limit of {MAX_PIXELS}"):
        image_info(data, full=full)
    with pytest.raises(dali_dr.ShardError, match=f"sample k: .*above the limit of {MAX_PIXELS}"):
        samples = [dali_dr.Sample("k", data, 0)]
        dali_dr.write_shards(samples, tmp_path / "o", spec=None, num_classes=1, progress=False)


def test_the_limit_is_an_argument(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert image_info(png(20_000, 20_000, chunk(b"IDAT", b"")), max_pixels=400_000_000) == ("png", 20_000, 20_000)
    with pytest.raises(ValueError, match="16x16 pixels, above the limit of 255"):
        image_info(IMAGE, max_pixels=255)
    samples = [dali_dr.Sample("k", IMAGE, 0)]
    options: Any = {"spec": None, "num_classes": 1, "progress": False}
    with pytest.raises(dali_dr.ShardError, match="above the limit of 255"):
        dali_dr.write_shards(samples, tmp_path / "a", max_pixels=255, **options)
    assert dali_dr.write_shards(samples, tmp_path / "a", max_pixels=256, **options).images == 1
    assert not recwarn.list  # none of Pillow's


def test_real_photos_pass_the_limit() -> None:
    assert 14_204 * 10_652 < MAX_PIXELS < 20_000 * 20_000  # the largest camera; the image of the issue
    assert MAX_PIXELS * 3 <= 1 << 29


def test_in_a_process_of_little_memory(tmp_path: Path) -> None:
    """All at once, where the process may have 100 MB more than what it has when all is imported."""
    for name, (suffix, data, _) in LISTS.items():
        (tmp_path / f"{name.replace(' ', '-')}{suffix}").write_bytes(data)
    for name, data in TARS.items():
        (tmp_path / f"{name.replace(' ', '-').replace('^', '')}.tar").write_bytes(data)
    (tmp_path / "bomb.png").write_bytes(whole_png(20_000))
    script = """
    import json, pathlib, resource, sys
    import webdataset.tariterators  # which is imported, with torch, when a tar is first read
    from dali_dr.encoded import image_info
    from dali_dr.errors import ShardError
    from dali_dr.sources import open_source
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 100_000_000,) * 2)
    for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
        try:
            image_info(path.read_bytes(), full=True) if path.suffix == ".png" else open_source(path)
        except (ShardError, ValueError) as error:
            assert not isinstance(error, MemoryError)
        else:
            raise SystemExit(f"{path.name} was read")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


SPECS: dict[str, Any] = {
    "NaN": {"flip": float("nan")},
    "infinite": {"flip": float("inf")},
    "10^400": {"flip": 10**400},
    "10^5000": {"size": 10**5000},
    "text": {"size": "abc" * 10**6},
    "deep": {"crop": json.loads("[" * 900 + "]" * 900)},
    "list": {"interpolation": ["bilinear"]},
    "names": {"x" * 10**6: 1},
    "crop NaN": {"crop": {"scale": [float("nan"), 1.0], "ratio": [1.0, 2.0]}},
    "mixing": {"mixing": "abc"},
}


@pytest.mark.parametrize("name", SPECS)
def test_a_spec(name: str, tmp_path: Path) -> None:
    good = dali_dr.AugmentationSpec.preset("rrc+ra+re").to_json()
    with pytest.raises(dali_dr.SpecError) as caught:
        dali_dr.AugmentationSpec.from_json({**good, **SPECS[name]})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", [b"[" * 200_000, b"\xff", b"{", b"", b'{"size": NaN}', b"[]", b'"rrc"'])
def test_a_file_of_a_spec(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(text)
    with pytest.raises(dali_dr.SpecError, match=r"spec\.json"):
        dali_dr.AugmentationSpec.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_that_is_no_file(kind: str, tmp_path: Path) -> None:
    KINDS[kind][0](tmp_path / "spec.json")
    with pytest.raises(dali_dr.SpecError, match=r"spec\.json: cannot be read"):
        dali_dr.AugmentationSpec.load(tmp_path / "spec.json")
