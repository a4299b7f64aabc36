"""The reader of tar headers against tarfile, and what it makes of tars that nobody writes."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import encode_jpeg, picture
from hypothesis import given, settings
from hypothesis import strategies as st

import dali_dr
from dali_dr.errors import ShardError
from dali_dr.shards import tar
from dali_dr.shards.verify import verify

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=90)


def by_tarfile(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path, "r:", encoding="utf-8") as archive:
        return [(info.name, info.offset_data, info.size) for info in archive if info.isreg()]


def scanned(path: Path) -> list[tuple[str, int, int]]:
    return [tuple(member) for member in tar.scan(path)]  # type: ignore[misc]


@given(
    st.lists(
        st.tuples(st.lists(NAME, min_size=1, max_size=4), st.integers(0, 3000), st.sampled_from("00000125")),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(FORMATS[1:]),
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_it_sees_what_tarfile_sees(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[list[str], int, str]], kind: int, common: bool
) -> None:
    path = tmp_path_factory.mktemp("tar") / "t.tar"
    headers = {"comment": "x" * 600} if common and kind == tarfile.PAX_FORMAT else None
    with tarfile.open(path, "w", format=kind, encoding="utf-8", pax_headers=headers) as archive:
        for parts, size, flag in members:
            info = tarfile.TarInfo("/".join(parts))
            info.type, info.size, info.mtime = flag.encode(), size if flag == "0" else 0, 0.5
            info.uid = 2**40 if size % 2 and kind != tarfile.USTAR_FORMAT else 1
            archive.addfile(info, io.BytesIO(os.urandom(size)))
    assert scanned(path) == by_tarfile(path)


def test_tars_of_the_system_s_tar(tmp_path: Path) -> None:
    (tmp_path / "files" / ("d" * 120)).mkdir(parents=True)
    for number in range(5):
        (tmp_path / "files" / ("d" * 120) / f"ä{number}.jpg").write_bytes(os.urandom(100 * number))
    (tmp_path / "files" / "link").symlink_to("nowhere")
    for kind in ("gnu", "pax", "ustar"):
        path = tmp_path / f"{kind}.tar"
        command = ["tar", f"--format={kind}", "-cf", str(path), "-C", str(tmp_path), "files"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            assert scanned(path) == by_tarfile(path) and len(scanned(path)) == 5


def block(name: str = "a.jpg", size: int | bytes = 5, flag: bytes = b"0", **fields: bytes) -> bytes:
    """A header whose checksum is right, whatever else it says."""
    info = tarfile.TarInfo(name)
    info.type = flag
    data = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    data[124:136] = size if isinstance(size, bytes) else (b"%011o\0" % size if size < 8**11 else base256(size))
    for field, value in fields.items():
        at = {"prefix": 345, "magic": 257}[field]
        data[at : at + len(value)] = value
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def base256(value: int) -> bytes:
    return b"\x80" + value.to_bytes(11, "big")


def pax(text: bytes, size: int | None = None, flag: bytes = b"x") -> bytes:
    return block("x", len(text) if size is None else size, flag) + text + bytes(-len(text) % 512)


GOOD = block(size=600) + bytes(1024)
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "short": bytes(100),
    "noise": random.Random(0).randbytes(4096),
    "member of 2^42": block(size=2**42),
    "member of 2^64": block(size=2**64),
    "member of 2^80": block(size=2**80),
    "negative": block(size=b"\xff" * 12),
    "negative octal": block(size=b"-0000000001\0"),
    "no number": block(size=b"zzz\0\0\0\0\0\0\0\0\0"),
    "pax of 2^42": pax(b"11 size=5\n", 2**42),
    "pax of 2^64": pax(b"11 size=5\n", 2**64),
    "pax of 2 MiB": pax(bytes(2 << 20)),
    "pax size of 2^42": pax(b"22 size=4398046511104\n") + GOOD,
    "pax size of 2^64": pax(b"29 size=18446744073709551616\n") + GOOD,
    "pax size of many digits": pax(b"%d size=%s\n" % (10_012, b"9" * 10_000)) + GOOD,
    "pax size negative": pax(b"12 size=-10\n") + GOOD,
    "pax record too long": pax(b"99 size=5\n") + GOOD,
    "pax record of no length": pax(b" size=5\n") + GOOD,
    "pax record of length 0": pax(b"0 size=5\n") + GOOD,
    "pax record of length 2": pax(b"2 size=5\n") + GOOD,
    "pax record of huge length": pax(b"9" * 400 + b" size=5\n") + GOOD,
    "pax path with a zero byte": pax(b"15 path=a\0.jpg\n") + GOOD,
    "pax and no more": pax(b"10 size=5\n"),
    "GNU name of 2^40": pax(b"a.jpg\0", 2**40, b"L"),
    "GNU link of 2^40": pax(b"a.jpg\0", 2**40, b"K"),
    "sparse": block(size=600, flag=b"S") + bytes(1024),
    "pax sparse": pax(b"22 GNU.sparse.major=1\n") + GOOD,
    "checksum": GOOD[:100] + b"x" + GOOD[101:],
    "cut off": GOOD[:700],
    "second header noise": GOOD + random.Random(1).randbytes(1024),
}


def within_bounds(call: Callable[[], object], match: str) -> str:
    """The message of the one ShardError, which came within a second and 20 MB."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ShardError, match=match) as caught:
            call()
        assert time.perf_counter() - start < 1 and tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tars_are_one_error(case: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(HOSTILE[case])
    within_bounds(lambda: list(tar.scan(path)), r"t\.tar: not a readable tar \(.+\); restore")


def test_good_blocks_are_read(tmp_path: Path) -> None:
    """What the hostile ones are made of is no error by itself."""
    path = tmp_path / "t.tar"
    for data, want in (
        (GOOD, [("a.jpg", 512, 600)]),
        (pax(b"12 size=600\n") + block(size=0) + bytes(1024), [("a.jpg", 1536, 600)]),
        (pax(b"13 path=b.jp\n") + GOOD, [("b.jp", 1536, 600)]),
        (pax(b"c.jpg\0", None, b"L") + GOOD, [("c.jpg", 1536, 600)]),
        (block(size=base256(600)) + bytes(1024), [("a.jpg", 512, 600)]),
        (block(prefix=b"p") + bytes(512), [("p/a.jpg", 512, 5)]),
        (block(prefix=b"p", magic=b"ustar  \0") + bytes(512), [("a.jpg", 512, 5)]),
    ):
        path.write_bytes(data + bytes(1024))
        assert scanned(path) == want


def test_mutated_shards_raise_shard_errors_only(tmp_path: Path) -> None:
    images = [encode_jpeg(picture(40, 50, n)) for n in range(3)]
    samples = [dali_dr.Sample(f"k{n}", data, n) for n, data in enumerate(images)]
    dali_dr.write_shards(samples, tmp_path / "set", spec=None, num_classes=3, progress=False)
    shard = tmp_path / "set" / "shard-000000.tar"
    good, rng, found = shard.read_bytes(), random.Random(7), 0
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(bad)) // 512 * 512 + rng.randrange(160)  # in headers, or as near as can be
            bad[min(at, len(bad) - 1)] = rng.randrange(256)
        shard.write_bytes(bad)
        found += not verify(tmp_path / "set", progress=False).ok
        (tmp_path / "set" / "index.bin").unlink(missing_ok=True)
        try:
            dataset = dali_dr.Dataset(tmp_path / "set")
            assert [dataset.label(n) for n in range(3)] == [0, 1, 2] and list(dataset.keys) == ["k0", "k1", "k2"]
        except ShardError as error:
            assert str(shard) in str(error)
    assert found >= 140  # a byte may be changed to itself
