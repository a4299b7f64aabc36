"""The judge: what it leaves to Pillow's word alone holds, and what is mended or converted is what Pillow shows."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zoo_bytes as edit
from conftest import REPOSITORY, encode_cmyk, encode_jpeg, picture
from PIL import Image, ImageCms
from zoo import exif, harmed_jpegs, image_of, jpegs, pngs, saved, strangers, webps

from dali_dr.encoded import rgb_image
from dali_dr.images.admit import Admission, Admitted
from dali_dr.images.decoder import Decoder, Region
from dali_dr.images.jpeg import components, is_plain, is_smoothed, without_junk
from dali_dr.images.judge import Judge, Refusal, Shown
from dali_dr.images.webp import rewritten

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Pillow warns of much that is here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as judge:
        yield judge


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


# ---- of a plain JPEG the decoder is asked for one region; the rest is Pillow's word


def plain_jpegs() -> list[bytes]:
    found = []
    for mode, sampling in (("RGB", 0), ("RGB", 1), ("RGB", 2), ("L", 0)):
        for height, width in ((16, 16), (37, 53), (64, 96), (71, 40), (120, 131), (9, 200)):
            for quality in (30, 75, 95):
                seed = len(found)
                options = {"quality": quality, "subsampling": sampling, "optimize": bool(seed % 2)}
                found.append(encode_jpeg(picture(height, width, seed), mode, **options))
    return found


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """``data`` with one of the things that befall files, in its tables or its scan; mostly plain still."""
    scan = edit.segments(data)
    tables = next(at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") for kind, at, _ in scan if kind == 0xDA)
    head, body = bytearray(data[:tables]), bytearray(data[tables:-2])
    at, length = int(rng.integers(len(body))), int(rng.integers(1, 2 + len(body) // 2))
    kind = rng.integers(7)
    if kind == 0:
        for _ in range(rng.integers(1, 6)):
            body[rng.integers(len(body))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        body[at : at + min(length, 60)] = rng.bytes(min(length, 60))
    elif kind == 2:
        del body[at : at + length]
    elif kind == 3:
        body[at : at + length] = bytes(length)
    elif kind == 4:
        body[at:at] = rng.bytes(length)
    else:  # lengths, samplings, components, quantisation and Huffman tables, what a scan has
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(20, len(head)))
            head[place] = rng.integers(256) if kind == 5 else head[place] ^ 1 << int(rng.integers(8))
    return bytes(head) + bytes(body).replace(b"\xff\0", b"\xff").replace(b"\xff", b"\xff\0") + data[-2:]


REGIONS: tuple[Callable[[int, int], Region], ...] = (
    lambda h, w: (0, 0, 1, 1),
    lambda h, w: (h - 1, w - 1, 1, 1),
    lambda h, w: (h // 2, 0, h - h // 2, w),
    lambda h, w: (0, w // 2, h, w - w // 2),
    lambda h, w: (h // 3, w // 3, max(1, h // 3), max(1, w // 3)),
    lambda h, w: (h * 3 // 4, w // 5, max(1, h // 8), max(1, w // 2)),
    lambda h, w: (h - 1, 0, 1, w),
    lambda h, w: (0, w - 1, h, 1),
)


def shown_otherwise(images: Sequence[bytes]) -> list[tuple[int, str]]:
    """(place, what) of images that the decoder shows otherwise than Pillow, whole or in one of `REGIONS`."""
    decoder, found, size = Decoder(2, 12), [], 12
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        want = [np.asarray(rgb_image(data)) for data in batch]
        for region in REGIONS:
            boxes = [region(*pixels.shape[:2]) for pixels in want]
            for at, *got in decoder.decode(batch, boxes, whole=region is REGIONS[0]):
                y, x, height, width = boxes[at]
                if isinstance(got[0], str):
                    found.append((start + at, got[0]))
                elif got[0] is not None and not np.array_equal(got[0], want[at]):
                    found.append((start + at, "whole"))
                elif not np.array_equal(got[1], want[at][y : y + height, x : x + width]):
                    found.append((start + at, f"region {boxes[at]}"))
    return found


def test_damaged_plain_jpegs_that_enter_are_shown_whole_and_in_all_regions(judge: Judge) -> None:
    """The evidence for asking the decoder of a plain JPEG for one region alone: of thousands of damaged ones, none differs."""
    rng, sound = np.random.default_rng(20), plain_jpegs()
    sources = [int(rng.integers(len(sound))) for _ in range(4000)]
    pairs = [(sound[source], damaged(sound[source], rng)) for source in sources]
    plain = [(before, data) for before, data in pairs if data != before and is_plain(data)]
    assert len(plain) >= 3000
    verdicts = judge([data for _, data in plain])
    entered = [pair for pair, verdict in zip(plain, verdicts, strict=True) if isinstance(verdict, Shown)]
    assert len(entered) >= 2000 and len(plain) - len(entered) >= 200
    assert shown_otherwise([data for _, data in entered]) == []
    # Damage that can be seen, which is all that says something.
    seen = sum(not np.array_equal(by_pillow(before), by_pillow(data)) for before, data in entered[:400])
    assert seen >= 200


def test_every_bit_of_the_tables_of_a_plain_jpeg(judge: Judge) -> None:
    """Every fourth, over two files: frame, samplings, tables of both kinds, the scan's header."""
    images = []
    for data in (encode_jpeg(picture(37, 53, 1), subsampling=2, optimize=True), encode_jpeg(picture(30, 41, 2), "L")):
        tables = data.index(b"\xff\xda") + 12
        images += [
            data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            for at in range(2, tables)
            for bit in range(at % 4, 8, 4)
        ]
    plain = [data for data in images if is_plain(data)]
    entered = [data for data, verdict in zip(plain, judge(plain), strict=True) if isinstance(verdict, Shown)]
    assert len(entered) >= 500
    assert shown_otherwise(entered) == []


def test_plain_jpegs_are_shown(judge: Judge) -> None:
    sound = plain_jpegs()
    assert all(map(is_plain, sound)) and all(isinstance(verdict, Shown) for verdict in judge(sound))
    assert shown_otherwise(sound) == []


# ---- segments of JPEGs


RGB = encode_jpeg(picture(45, 61, 3))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xff\xff", RGB[:-1], RGB[:-2], RGB + b"\0", RGB + RGB,
        RGB[:200], b"\n" + RGB, saved(image_of("RGB"), "PNG"), saved(image_of("RGB"), "JPEG", progressive=True),
        saved(image_of("CMYK"), "JPEG"), saved(image_of("RGB"), "JPEG", restart_marker_rows=1),
        edit.after_soi(RGB, b"\0"), edit.after_soi(RGB, b"\xff"), edit.after_soi(RGB, b"\xff\xd8"),
        edit.after_soi(RGB, edit.segment(0xDD, b"\0\2")), edit.without(RGB, 0xC0),
        RGB[:-40] + b"\xff\xd0" + RGB[-38:], RGB[:-40] + b"\xff\x01" + RGB[-38:], RGB[:-40] + b"\xff\xd9" + RGB[-38:],
        edit.jpeg_with(RGB, lambda kind, part: b"\xff\xc1" + part[2:] if kind == 0xC0 else part),
        edit.jpeg_with(RGB, lambda kind, part: b"\xff\xc9" + part[2:] if kind == 0xC0 else part),
    ],
)  # fmt: skip
def test_what_is_not_plain(data: bytes) -> None:
    assert not is_plain(data)


def test_the_colours_of_a_jpeg_are_pillows() -> None:
    known = 0
    for animal in (*jpegs(), *harmed_jpegs()):
        if "159" in animal.name:
            continue
        try:
            with Image.open(io.BytesIO(animal.data)) as image:
                bands = len(image.getbands())
        except Exception:
            continue
        if image.format in ("JPEG", "MPO") and components(animal.data):
            assert components(animal.data) == bands, animal.name
            known += 1
    assert known >= 150


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("junk", [b"\0", b"\0\0\0", b"ab", b"\xff\0", b"\0\xff\0\xff", b"x" * 5000])
def test_junk_is_taken_out_of_a_jpeg_and_nothing_else(judge: Judge, junk: bytes, progressive: bool) -> None:
    """Behind each of its segments; pixels, EXIF, profile and comment are Pillow's of the file without the junk."""
    options = {"exif": exif(6), "icc_profile": ICC, "comment": b"a comment", "progressive": progressive}
    clean = saved(image_of("RGB", 24, 31), "JPEG", **options) + b"behind the end"
    assert without_junk(clean) is None
    for marker in (0xE0, 0xE1, 0xE2, 0xFE, 0xDB, 0xC2 if progressive else 0xC0, 0xC4):
        spoilt = edit.jpeg_with(clean, lambda kind, part, m=marker: part + junk if kind == m else part)
        assert spoilt != clean and without_junk(spoilt) == clean
    (outcome,) = Admission(judge)([spoilt])
    assert isinstance(outcome, Admitted) and outcome.change, outcome
    before, after = (Image.open(io.BytesIO(data)) for data in (clean, outcome.data))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert before.info == after.info and before.getexif() == after.getexif() and after.getexif()[0x0112] == 6


def test_a_progressive_jpeg_is_smoothed_until_its_last_scan(judge: Judge) -> None:
    """As libjpeg does it; at least some of these it shows otherwise in a region, and none of the others."""
    for mode, scans in (("RGB", 10), ("L", 6)):
        whole = saved(image_of(mode, 120, 150, 3), "JPEG", quality=90, progressive=True)
        assert whole.count(b"\xff\xda") == scans
        some = [edit.first_scans(whole, count) for count in range(1, scans + 1)]
        assert [is_smoothed(data) for data in some] == [True] * (scans - 1) + [False]
        otherwise = {place for place, _ in shown_otherwise(some)}
        assert otherwise and scans - 1 not in otherwise
        verdicts = judge(some)
        assert isinstance(verdicts.pop(), Shown)
        assert all(isinstance(verdict, Refusal) and "--convert" in verdict.remedy for verdict in verdicts)
    for data in (
        b"",
        RGB,
        saved(image_of("RGB"), "PNG"),
        b"\xff\xd8\xff\xc2\0\3",
        b"\xff\xd8\xff\xc2\0\x08\0\0\0\0\0\xff",
    ):
        assert not is_smoothed(data)


# ---- chunks of WebP


def webp_chunks(data: bytes) -> dict[bytes, int]:
    found, at = {}, 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found[data[at : at + 4]] = length
        at += 8 + length + length % 2
    assert at == len(data) and int.from_bytes(data[4:8], "little") == len(data) - 8
    return found


def test_a_webp_that_is_written_anew_is_the_same_to_pillow(judge: Judge) -> None:
    changed = 0
    extra = [
        saved(image_of("RGB", seed=seed), "WEBP", exif=exif(6) + b"\0" * odd, icc_profile=ICC + b"\0" * odd, xmp=xmp)
        for seed in range(3)
        for odd in (0, 1)
        for xmp in (b"<x/>", b"<xx/>")
    ]
    for data in [animal.data for animal in webps()] + extra:
        better = rewritten(data)
        if better is None:
            continue
        changed += 1
        assert not any(length % 2 for length in webp_chunks(better).values()) and rewritten(better) is None
        before, after = (Image.open(io.BytesIO(one)) for one in (data, better))
        assert np.array_equal(np.asarray(before.convert("RGBA")), np.asarray(after.convert("RGBA")))
        for key in ("exif", "icc_profile", "xmp"):
            want, got = before.info.get(key), after.info.get(key)
            assert (want is None) == (got is None)
            assert want is None or (got.startswith(want) and got[len(want) :] in (b"", b"\0", b" ")), key
        if data in extra:
            assert before.getexif() == after.getexif() and after.getexif()[0x0112] == 6
            assert ImageCms.ImageCmsProfile(io.BytesIO(after.info["icc_profile"])).tobytes()
    assert changed >= 20
    outcomes = Admission(judge)(extra)
    assert all(isinstance(outcome, Admitted) for outcome in outcomes)
    assert any(outcome.change for outcome in outcomes if isinstance(outcome, Admitted))


def test_what_is_no_whole_webp_stays_as_it_is() -> None:
    data = edit.webp_extended(
        saved(image_of("RGB"), "WEBP"), 61, 45, 0x08, [(b"ICCP", b"x" * 33), (b"EXIF", b"y" * 34)]
    )
    assert rewritten(data) is not None
    for other in (b"", data[:12], data[:15], data[:-1], data[:40], b"RIFX" + data[4:], saved(image_of("RGB"), "PNG")):
        assert rewritten(other) is None, other[:20]


# ---- admission: mended, converted


def pillows() -> dict[str, bytes]:
    """What shards do not hold as it is, and Pillow reads: over formats, depths, palettes, frames."""
    found = {animal.name: animal.data for animal in strangers() if "-called-" not in animal.name}
    found |= {animal.name: animal.data for animal in pngs() if "-16" in animal.name or "trns" in animal.name}
    frames = [image_of("P", seed=seed) for seed in range(3)]
    found["gif-frames"] = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2)
    found["gif-clear"] = saved(frames[0], "GIF", transparency=3)
    found["tiff-pages"] = saved(image_of("RGB"), "TIFF", save_all=True, append_images=frames[1:])
    found["tiff-lab"] = saved(image_of("RGB").convert("LAB"), "TIFF")
    found["tiff-ycbcr"] = saved(image_of("YCbCr"), "TIFF")
    found["tiff-fax"] = saved(image_of("1"), "TIFF", compression="group4")
    found["tiff-turned"] = saved(image_of("RGB"), "TIFF", exif=exif(6))
    found["jpeg-in-cmyk"] = encode_cmyk(4)
    # Its default image, which Pillow shows, is not its first frame.
    others = [image_of("RGB", seed=seed) for seed in (8, 9)]
    found["apng"] = saved(image_of("RGB"), "PNG", save_all=True, default_image=True, append_images=others)
    return found


def test_what_is_converted_is_what_pillow_shows(judge: Judge) -> None:
    images = pillows()
    outcomes = dict(zip(images, Admission(judge, convert=True)(list(images.values())), strict=True))
    entered = 0
    for name, data in images.items():
        outcome = outcomes[name]
        try:
            want = by_pillow(data)
        except Exception:
            assert isinstance(outcome, Refusal), name
            continue
        assert isinstance(outcome, Admitted), (name, outcome)
        assert outcome.change is None or (outcome.shown.suffix == "png" and "stored as PNG" in outcome.change)
        assert np.array_equal(by_pillow(outcome.data), want), name
        assert (outcome.shown.height, outcome.shown.width) == want.shape[:2]
        entered += 1
    assert entered >= 50
    plain = dict(zip(images, Admission(judge)(list(images.values())), strict=True))
    for name in ("gif-frames", "tiff-pages", "tiff-cmyk", "png-0-16", "png-2-16-adam7", "bmp-rgb"):
        refusal = plain[name]
        assert (isinstance(refusal, Refusal) and "--convert" in refusal.remedy) or "16 bits" in str(refusal), name
    for name in ("jpeg-in-cmyk", "apng"):
        assert isinstance(plain[name], Admitted) and plain[name] == outcomes[name]
    without = Admission(judge, mend=False)([images["jpeg-in-cmyk"], images["apng"]])
    assert all(isinstance(outcome, Refusal) for outcome in without)


def test_equal_images_become_equal_bytes_whoever_asks(judge: Judge) -> None:
    """Alone, in other company and from several threads at once."""
    images = [*pillows().values(), RGB, *(animal.data for animal in harmed_jpegs() if "flipped" in animal.name)]
    images += [animal.data for animal in webps() if "-exif-" in animal.name]
    admission = Admission(judge, convert=True)
    want = [admission([data])[0] for data in images]
    assert sum(isinstance(outcome, Admitted) and outcome.change is not None for outcome in want) >= 40
    turned = [images[shift:] + images[:shift] for shift in (0, 7, 31, 64)]
    with ThreadPoolExecutor(4) as pool:
        for shift, got in zip((0, 7, 31, 64), pool.map(admission, turned), strict=True):
            assert got == want[shift:] + want[:shift]
    with Judge(threads=1) as other:
        assert Admission(other, convert=True)(images) == want


# ---- limits


def test_headers_alone(judge: Judge) -> None:
    """`decode=False` sees what no header tells, and lets damage in that the decoder refuses."""
    cut, empty, bmp = RGB[: len(RGB) // 2], b"", saved(image_of("RGB"), "BMP")
    with Judge(decode=False) as headers:
        assert headers([RGB, cut]) == [Shown("jpg", 45, 61)] * 2
        for data in (empty, bmp, b"text"):
            assert headers([data]) == judge([data]) and isinstance(headers([data])[0], Refusal)
    sound, refused = judge([RGB, cut])
    assert sound == Shown("jpg", 45, 61) and isinstance(refused, Refusal) and "whole copy" in refused.remedy
    assert judge([]) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_limit_of_pixels(kind: str) -> None:
    data = saved(image_of("RGB", 40, 50), kind)
    for convert in (False, True):
        with Judge(max_pixels=1999) as judge:
            (refusal,) = Admission(judge, convert=convert)([data])
        assert isinstance(refusal, Refusal)
        if kind != "BMP":
            assert "40x50 pixels" in refusal.reason and "1999" in refusal.reason and "--max-pixels" in refusal.remedy
    with Judge(max_pixels=2000) as judge:
        assert isinstance(Admission(judge, convert=True)([data])[0], Admitted)


# ---- the process


def run(script: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.path.insert(0, 'tests')\n" + textwrap.dedent(script)
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, text=True, capture_output=True, timeout=120)


def test_a_fork_of_a_process_that_used_dali_is_told_and_does_not_hang() -> None:
    done = run(
        """
        import os, signal
        from conftest import encode_jpeg, picture
        from dali_dr.errors import DaliDrError
        from dali_dr.images.judge import Judge
        data = encode_jpeg(picture(30, 40, 0))
        judge = Judge()
        print("parent", type(judge([data])[0]).__name__, flush=True)
        for again in (False, True):
            if (child := os.fork()) == 0:
                signal.alarm(40)  # ends it where it hangs
                try:
                    with Judge() as other:
                        other([data])
                except DaliDrError as error:
                    print("child", error, flush=True)
                    os._exit(7)
                os._exit(0)
            print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print("parent", type(judge([data])[0]).__name__, flush=True)
        """
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["parent", "child", "status", "child", "status", "parent"], done
    assert lines[0] == lines[-1] == "parent Shown" and lines[2] == lines[4] == "status 7"
    assert "fork" in lines[1] and "spawn" in lines[1] and "Traceback" not in done.stderr


def test_what_decoders_say_is_heard_and_what_others_say_is_not_lost() -> None:
    """libjpeg and nvImageCodec write to the standard error stream; there must be nothing but what somebody else wrote."""
    done = run(
        """
        import threading, os, time, warnings
        warnings.simplefilter("ignore")
        from zoo import harmed_jpegs, harmed_pngs, harmed_webps
        from dali_dr.images.admit import Admission
        from dali_dr.images.judge import Judge
        images = [a.data for room in (harmed_jpegs, harmed_pngs, harmed_webps) for a in room()]
        ended = threading.Event()
        def other():
            for n in range(100_000):
                os.write(2, b"other %d\\n" % n)
                if ended.wait(0.002):
                    break
            print(n + 1)
        thread = threading.Thread(target=other)
        with Judge() as judge:
            thread.start()
            outcomes = Admission(judge, convert=True)(images)
            ended.set()
            thread.join()
        print(sum(type(outcome).__name__ == "Refusal" for outcome in outcomes))
        """
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written, refused = map(int, done.stdout.split())
    assert written >= 50 and refused >= 50
    told = done.stderr.splitlines()
    whole = [line for line in told if re.fullmatch(r"other \d+", line)]
    assert len(set(whole)) == len(whole) and set(whole) <= {f"other {n}" for n in range(written)}
    # Libraries write their lines in pieces, between which another's may fall: such a line is torn, and few are.
    torn = 1 + written // 50
    assert written - len(whole) <= torn and len(told) - len(whole) <= 2 * torn
