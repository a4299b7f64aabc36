"""JPEGs in tiles are the same image: by Pillow's pixels, by jpegtran's coefficients, by their metadata; or a reason is given."""

from __future__ import annotations

import io
import itertools
import math
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo_bytes as edit
import zoo_tools
from conftest import encode_jpeg, picture
from PIL import Image
from zoo import Animal, image_of, zoo

from dali_dr.images import tiles
from dali_dr.images.decoder import Decoder
from dali_dr.images.tiles import tiled

TILE = 64  # pixels, about
LEAST = 32
GROWTH = 1.08
HUGE = "159"  # megapixels
SIDES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 130)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_METADATA = (*range(0xE0, 0xF0), 0xFE)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Pillow warns of much that is here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tool(data: bytes, *command: str) -> bytes:
    """What one of libjpeg-turbo's tools makes of a file."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is absent (Debian: libjpeg-turbo-progs)")
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def coefficients(data: bytes) -> bytes:
    """The same for all files of one image: jpegtran's, which reads coefficients and tables and writes them its own way."""
    return tool(data, "jpegtran", "-copy", "all", "-optimize")


def metadata(data: bytes) -> list[bytes]:
    return [data[begin:end] for marker, begin, end in edit.segments(data) if marker in _METADATA]


def bare(data: bytes) -> bytes:
    return edit.jpeg_with(data, lambda marker, part: b"" if marker in _METADATA else part)


def made_tiled(data: bytes) -> bytes:
    result = tiled(data)
    assert isinstance(result, bytes), result
    return result


def assert_same(data: bytes, result: bytes) -> None:
    assert np.array_equal(pixels(data), pixels(result))
    assert metadata(data) == metadata(result)
    assert len(result) <= GROWTH * len(data)
    assert tiled(result) == "it is tiled already"


def frame(data: bytes) -> tuple[int, int, int, int, int]:
    """Marker, height, width, and the size of an MCU, of a frame header."""
    marker, begin = next((m, b) for m, b, _ in edit.segments(data) if m in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
    body = data[begin + 4 :]
    factors = [body[7 + 3 * n] for n in range(body[5])] if body[5] > 1 else [0x11]
    wide, high = (8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors))
    return marker, int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), high, wide


def best_interval(mcus: int, wide: int) -> int:
    """By the definition: the divisor whose tiles are nearest to 64 pixels, or the whole row."""
    divisors = [n for n in range(1, mcus + 1) if mcus % n == 0 and (n * wide >= LEAST or n == mcus)]
    return min(divisors, key=lambda n: (round(abs(math.log(n * wide / TILE)), 9), -n))


def assert_in_tiles(result: bytes) -> None:
    """One baseline scan, whose restart markers divide the rows of MCUs, counted from 0 to 7 and again."""
    marker, height, width, high, wide = frame(result)
    kinds = [kind for kind, _, _ in edit.segments(result)]
    assert marker in (0xC0, 0xC1) and kinds.count(0xDA) == 1
    begin = next(begin for kind, begin, _ in edit.segments(result) if kind == 0xDD)
    across, down = math.ceil(width / wide), math.ceil(height / high)
    interval = int.from_bytes(result[begin + 4 : begin + 6], "big")
    assert interval == best_interval(across, wide)
    found = [mark[1] - 0xD0 for mark in _RESTART.findall(result[edit.scan_start(result) :])]
    assert found == [n % 8 for n in range(across // interval * down - 1)]


# ---- the same image


SAMPLINGS = {"4:4:4": "1x1", "4:2:2": "2x1", "4:2:0": "2x2", "4:4:0": "1x2", "4:1:1": "4x1", "4:1:0": "4x2"}
CODINGS: dict[str, tuple[str, ...]] = {
    "baseline": (), "optimised": ("-optimize",), "progressive": ("-progressive",),
    "restarts": ("-restart", "3B"), "rows": ("-restart", "2"),
}  # fmt: skip
SMALL = {"it is no larger than a tile", "it would grow by more than 8 %", "it is tiled already"}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_samplings_and_codings(sampling: str, coding: str) -> None:
    """By cjpeg: the sizes that are odd in MCUs, and long thin ones."""
    for height, width in ((100, 201), (65, 33), (33, 65), (129, 128), (3, 900), (900, 3)):
        ppm = io.BytesIO()
        Image.fromarray(picture(height, width, height)).save(ppm, "PPM")
        data = tool(ppm.getvalue(), "cjpeg", "-sample", SAMPLINGS[sampling], "-quality", "85", *CODINGS[coding])
        result = tiled(data)
        if isinstance(result, str):
            assert result in SMALL, (height, width)
            continue
        assert_same(data, result)
        assert_in_tiles(result)
        assert coefficients(result) == coefficients(data)
        assert tool(result, "djpeg", "-ppm") == tool(data, "djpeg", "-ppm")


def test_sizes() -> None:
    """Every pair of small sides."""
    made = 0
    for height, width in itertools.product(SIDES, SIDES):
        for options in ({"subsampling": 2}, {"subsampling": 0, "progressive": True}, {"mode": "L"}):
            data = encode_jpeg(picture(height, width, 7), **options)
            _, _, _, high, wide = frame(data)
            across, down = math.ceil(width / wide), math.ceil(height / high)
            result = tiled(data)
            if across // best_interval(across, wide) * down < 2:
                assert result == "it is no larger than a tile"
                continue
            assert isinstance(result, bytes) or result in SMALL
            if isinstance(result, bytes):
                assert_same(data, result)
                assert_in_tiles(result)
                made += 1
    assert made > 300


@pytest.mark.parametrize("quality", [5, 30, 60, 90, 95, 100])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_qualities(mode: str, quality: int) -> None:
    data = encode_jpeg(picture(240, 320, quality), mode=mode, quality=quality, subsampling=0 if quality > 90 else 2)
    result = made_tiled(data)
    assert_same(data, result)
    assert coefficients(result) == coefficients(data)


def test_arithmetic() -> None:
    """By arithmetic coding a file is smaller than by Huffman codes, so only much metadata lets it in."""
    comment = edit.segment(0xFE, b"c" * 60_000)
    for words in ((), ("-progressive",)):
        data = tool(encode_jpeg(picture(100, 200, 1)), "jpegtran", "-arithmetic", *words)
        assert tiled(data) == "it would grow by more than 8 %"
        result = made_tiled(edit.after_soi(data, comment))
        assert tool(result, "djpeg", "-ppm") == tool(data, "djpeg", "-ppm")
        assert_in_tiles(result)


def test_huffman_tables_are_libjpegs() -> None:
    """The scan and its tables are jpegtran's own in every byte, restart interval given: none is shorter."""
    for height, width, options in (
        (100, 201, {}), (375, 500, {"quality": 97, "subsampling": 0}), (64, 64, {"mode": "L"}), (333, 500, {"quality": 10}),
    ):  # fmt: skip
        data = encode_jpeg(picture(height, width, 5), **options)
        result = made_tiled(data)
        _, _, width, _, wide = frame(data)
        interval = best_interval(math.ceil(width / wide), wide)
        expected = tool(data, "jpegtran", "-copy", "none", "-optimize", "-restart", f"{interval}B")
        assert bare(result) == bare(expected)


def test_flat_and_noisy() -> None:
    """One symbol a table, and many: pictures of one colour, of noise, of extremes."""
    rng = np.random.default_rng(0)
    for values in (
        np.full((80, 200, 3), 128, np.uint8),
        rng.integers(0, 256, (80, 200, 3), np.uint8),
        rng.integers(0, 2, (80, 200, 3), np.uint8) * np.uint8(255),
    ):
        for quality in (1, 100):
            data = encode_jpeg(values, quality=quality, subsampling=0)
            result = made_tiled(data)
            assert_same(data, result)
            assert coefficients(result) == coefficients(data)


# ---- metadata


def test_metadata() -> None:
    """All that Pillow reads of it, and every segment, in order and byte for byte."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    data = encode_jpeg(
        picture(90, 130, 1), exif=exif.tobytes(), icc_profile=bytes(range(256)) * 600, xmp=b"<x:xmpmeta/>",
        comment=b"one", dpi=(300, 300),
    )  # fmt: skip
    data = edit.after_soi(data, edit.segment(0xFE, b"before all"), edit.segment(0xEF, b""))
    data = edit.jpeg_with(data, lambda kind, part: part + edit.segment(0xED, b"behind the frame") * (kind == 0xC0))
    result = made_tiled(data)
    assert_same(data, result)
    assert len(metadata(result)) == 10  # of which three are the profile
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(result)) as after:
        assert before.info == after.info
        assert before.getexif() == after.getexif()


@pytest.mark.parametrize("added", ["none", "adobe", "both", "twice"])
def test_markers_of_colour(added: str) -> None:
    """JFIF and Adobe stay as they were, and are not written where there were none."""
    plain = bare(encode_jpeg(picture(50, 130, 3)))
    adobe = edit.segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")
    jfif = edit.segment(0xE0, b"JFIF\0\1\2\1\0\x48\0\x48\0\0")
    parts = {"none": [], "adobe": [adobe], "both": [adobe, jfif], "twice": [jfif, jfif]}[added]
    data = edit.after_soi(plain, *parts)
    result = made_tiled(data)
    assert metadata(result) == parts
    assert_same(data, result)
    assert tool(result, "djpeg", "-ppm") == tool(data, "djpeg", "-ppm")


def test_metadata_between_scans() -> None:
    """A comment between the scans of a progressive file comes before the frame."""
    data = encode_jpeg(picture(90, 130, 1), progressive=True)
    at = data.rindex(b"\xff\xc4")
    data = data[:at] + edit.segment(0xFE, b"between") + data[at:]
    result = made_tiled(data)
    assert metadata(result)[-1] == edit.segment(0xFE, b"between")
    assert np.array_equal(pixels(data), pixels(result))


def test_component_ids_and_tables() -> None:
    """Ids that are not 1, 2, 3, and tables of 16 bits."""
    data = encode_jpeg(picture(90, 130, 1))
    renamed = edit.jpeg_with(data, _renamed)
    result = made_tiled(renamed)
    begin = next(begin for marker, begin, _ in edit.segments(result) if marker == 0xC0)
    assert [result[begin + 10 + 3 * n] for n in range(3)] == [11, 12, 13]
    assert_same(renamed, result)
    wide = encode_jpeg(picture(90, 130, 1), qtables=[[4 * k + 1 for k in range(64)]] * 2)
    wide = edit.jpeg_with(wide, lambda kind, part: _of_16_bits(part) if kind == 0xDB else part)
    wide = edit.jpeg_with(wide, lambda kind, part: b"\xff\xc1" + part[2:] if kind == 0xC0 else part)
    result = made_tiled(wide)
    assert_same(wide, result)
    assert frame(result)[0] == 0xC1


def _renamed(kind: int, part: bytes) -> bytes:
    first = {0xC0: 10, 0xDA: 5}.get(kind)
    step = 3 if kind == 0xC0 else 2
    if first is None:
        return part
    changed = bytearray(part)
    for n in range(3):
        changed[first + step * n] += 10
    return bytes(changed)


def _of_16_bits(part: bytes) -> bytes:
    """The same tables with two bytes a number, of which the last are above 255."""
    tables, at = b"", 4
    while at < len(part):
        tables += bytes([part[at] | 0x10]) + b"".join(bytes([k > 60, part[at + 1 + k]]) for k in range(64))
        at += 65
    return edit.segment(0xDB, tables)


# ---- what is left as it is


def shorter_scan(data: bytes) -> bytes:
    return edit.shorter(data, 40) + b"\xff\xd9"


LEFT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no JPEG": (lambda _: b"\x89PNG\r\n\x1a\n", "it is no JPEG"),
    "nothing": (lambda _: b"", "it is no JPEG"),
    "three bytes": (lambda _: b"\xff\xd8\xff", "it is no JPEG"),
    "behind the end": (lambda data: data + b"more", "it has bytes behind its end"),
    "two images": (lambda data: data + data, "it has bytes behind its end"),
    "cut": (lambda data: data[: len(data) // 2], "it is cut off"),
    "no end": (lambda data: data[:-2], "it is cut off"),
    "short scan": (shorter_scan, "it is damaged: libjpeg warns or stops"),
    "junk": (
        lambda data: edit.jpeg_with(data, lambda kind, part: part + b"ab" * (kind == 0xDB)),
        "it has bytes between its segments that belong to none",
    ),
    "no tables": (lambda data: edit.without(data, 0xDB), "it is damaged: libjpeg warns or stops"),
    "second frame": (
        lambda data: edit.jpeg_with(data, lambda kind, part: part * (2 if kind == 0xC0 else 1)),
        "it has more than one frame",
    ),
    "height 0": (
        lambda data: edit.jpeg_with(data, lambda kind, part: part[:5] + b"\0\0" + part[7:] if kind == 0xC0 else part),
        "its header does not say its size",
    ),
    "Adobe RGB": (
        lambda data: edit.after_soi(bare(data), edit.segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")),
        "its colours are not YCbCr",
    ),
    "twelve bits": (
        lambda data: edit.jpeg_with(data, lambda kind, part: part[:4] + b"\x0c" + part[5:] if kind == 0xC0 else part),
        "it is not of 8 bits",
    ),
    "a reserved marker": (
        lambda data: edit.after_soi(data, edit.segment(0xF5, b"abc")), "it has markers that are not of a JPEG's image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT)
def test_left(kind: str) -> None:
    change, reason = LEFT[kind]
    assert tiled(change(encode_jpeg(picture(90, 130, 1)))) == reason


def test_left_by_pillow() -> None:
    """Colours, and scans that are not all there."""
    cmyk = io.BytesIO()
    image_of("CMYK", 90, 130).save(cmyk, "JPEG")
    assert tiled(cmyk.getvalue()) == "it is neither grey nor of three colours"
    assert tiled(encode_jpeg(picture(90, 130, 1), keep_rgb=True)) == "its colours are not YCbCr"
    progressive = encode_jpeg(picture(90, 130, 1), progressive=True)
    for scans in range(1, 10):
        assert tiled(edit.first_scans(progressive, scans)) == "not all of it is there", scans
    assert_same(progressive, made_tiled(progressive))


def test_grows() -> None:
    """Exactly 8 % is the bound: metadata makes the same growth less."""
    data = tool(encode_jpeg(picture(64, 512, 2), quality=5), "jpegtran", "-optimize")
    grown = len(made_tiled(edit.after_soi(data, edit.segment(0xFE, bytes(60_000))))) - 60_004 - len(data)
    assert grown > GROWTH * len(data) - len(data)
    assert tiled(data) == "it would grow by more than 8 %"
    enough = math.ceil(grown / (GROWTH - 1)) - len(data) - 4  # bytes of a comment with which it is 8 %
    for more, fits in ((1, True), (-15, False)):
        result = tiled(edit.after_soi(data, edit.segment(0xFE, bytes(enough + more))))
        assert isinstance(result, bytes) == fits


def test_no_jpeg_needs_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise AssertionError("the plugin was asked")

    monkeypatch.setattr(tiles, "_library", fail)
    assert tiled(b"RIFF\0\0\0\0WEBP") == "it is no JPEG"


# ---- the zoo, the decoder, photos


def test_zoo() -> None:
    """Every file of the zoo: a reason, or the same image."""
    animals: list[Animal] = [animal for animal in zoo() if HUGE not in animal.name]
    results = {animal.name: tiled(animal.data) for animal in animals}
    made = {animal.name: (animal.data, results[animal.name]) for animal in animals}
    for name, (data, result) in made.items():
        if isinstance(result, bytes):
            assert np.array_equal(pixels(data), pixels(result)), name
            assert_in_tiles(result)
        else:
            assert result and not any(c.isdigit() for c in result.replace("8 %", "").replace("8 bits", "")), name
    count = sum(isinstance(result, bytes) for result in results.values())
    assert count >= (140 if not zoo_tools.missing() else 70)
    assert len({result for result in results.values() if isinstance(result, str)}) >= 12
    assert all(isinstance(results[animal.name], str) for animal in animals if animal.data[:2] != b"\xff\xd8")


def test_dalis_decoder() -> None:
    """DALI shows tiled files as Pillow shows the originals: the whole, and regions at every edge and border of tiles."""
    rng = np.random.default_rng(4)
    originals, files, regions = [], [], []
    for mode, sampling, progressive in itertools.product(("RGB", "L"), (0, 1, 2), (False, True)):
        data = encode_jpeg(picture(171, 333, sampling), mode=mode, subsampling=sampling, progressive=progressive)
        # A comment, so that it does not matter how much tiles cost.
        result = made_tiled(edit.after_soi(data, edit.segment(0xFE, bytes(60_000))))
        for _ in range(6):
            y, x = int(rng.integers(0, 171)), int(rng.integers(0, 333))
            originals.append(pixels(data))
            files.append(result)
            regions.append((y, x, int(rng.integers(1, 172 - y)), int(rng.integers(1, 334 - x))))
    decoder = Decoder(2, len(files))
    seen = 0
    for place, *shown in decoder.decode(files, regions):
        assert len(shown) == 2, shown
        whole, part = shown
        y, x, height, width = regions[place]
        assert np.array_equal(whole, originals[place])
        assert np.array_equal(part, originals[place][y : y + height, x : x + width])
        seen += 1
    assert seen == len(files)


def test_photos_by_threads(photos_dir: Path) -> None:
    """Real ones by four threads: as by one, the same image, and hardly larger in all."""
    photos = [path.read_bytes() for path in sorted(photos_dir.iterdir())[:40]]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(tiled, photos))
    assert results == [tiled(photo) for photo in photos]
    for photo, result in zip(photos, results, strict=True):
        if isinstance(result, bytes):
            assert_same(photo, result)
            assert_in_tiles(result)
            assert coefficients(result) == coefficients(photo)
    total = sum(len(r) if isinstance(r, bytes) else len(p) for p, r in zip(photos, results, strict=True))
    assert total <= 1.03 * sum(map(len, photos))
    assert sum(isinstance(result, str) for result in results) <= 2
