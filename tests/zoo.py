"""A zoo of image files, over format, colour, depth, subsampling, coding, metadata, size and damage; all made here.

By Pillow, by the tools of libjpeg-turbo and libwebp where they are installed, and by editing bytes. Deterministic.
"""

from __future__ import annotations

import functools
import io
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import zoo_bytes as edit
import zoo_tools
from conftest import picture
from PIL import Image, ImageCms, PngImagePlugin, features
from zoo_lossless import lossless_jpeg


class Animal(NamedTuple):
    """A file: what it is called in tests, the suffix that it goes by, its bytes."""

    name: str
    suffix: str
    data: bytes


SIZES = ((1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (7, 5), (8, 8), (16, 16), (17, 33), (45, 61), (1, 700), (700, 1))
_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def image_of(mode: str, height: int = 45, width: int = 61, seed: int = 0) -> Image.Image:
    """A picture in a mode of Pillow's."""
    rgb = picture(height, width, seed)
    if mode in ("RGBA", "LA"):
        alpha = picture(height, width, seed + 1)[..., :1]
        colour = rgb if mode == "RGBA" else rgb[..., :1]
        return Image.fromarray(np.concatenate([colour, alpha], -1), mode=mode)
    if mode == "CMYK":  # with black, which a conversion from RGB does not give
        return Image.fromarray(np.concatenate([rgb, picture(height, width, seed + 1)[..., :1] // 2], -1), mode="CMYK")
    if mode == "P":
        return Image.fromarray(rgb).quantize(64)
    if mode in ("I;16", "I"):
        return Image.fromarray(rgb[..., 0].astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    return Image.fromarray(rgb).convert(mode)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = "a description"
    return tags.tobytes()


# ---- JPEG


def jpegs() -> Iterator[Animal]:
    """By Pillow: sizes × subsampling × coding, colours, restart markers, metadata."""
    for (height, width), sampling, progressive in itertools.product(SIZES, (0, 1, 2), (False, True)):
        data = saved(image_of("RGB", height, width), "JPEG", subsampling=sampling, progressive=progressive)
        yield Animal(
            f"jpeg-{height}x{width}-{('444', '422', '420')[sampling]}-{'pro' if progressive else 'base'}", "jpg", data
        )
    for mode, quality, progressive in itertools.product(("L", "CMYK", "RGB"), (10, 95), (False, True)):
        options = {"quality": quality, "progressive": progressive}
        yield Animal(
            f"jpeg-{mode.lower()}-{quality}-{'pro' if progressive else 'base'}",
            "jpg",
            saved(image_of(mode), "JPEG", **options),
        )
    rgb = image_of("RGB")
    variants: dict[str, dict[str, object]] = {
        "optimised": {"optimize": True}, "rgb-coded": {"keep_rgb": True},
        "rgb-coded-pro": {"keep_rgb": True, "progressive": True}, "restart-blocks": {"restart_marker_blocks": 2},
        "restart-rows": {"restart_marker_rows": 1}, "restart-pro": {"restart_marker_rows": 1, "progressive": True},
        "best": {"quality": 100, "subsampling": 0}, "icc": {"icc_profile": _PROFILE}, "long-icc": {"icc_profile": b"x" * 200_000},
        "xmp": {"xmp": _XMP}, "comment": {"comment": b"a comment" * 50}, "dpi": {"dpi": (300, 300)},
        **{f"exif-{turn}": {"exif": exif(turn)} for turn in range(1, 9)}, "exif-odd": {"exif": b"Exif\0\0garbage"},
        "qtables-16": {"qtables": [[min(255, 4 * k + 1) for k in range(64)]] * 2},
    }  # fmt: skip
    for name, options in variants.items():
        yield Animal(f"jpeg-{name}", "jpg", saved(rgb, "JPEG", **options))
    thumbnail = saved(image_of("RGB", 12, 16, 9), "JPEG")
    yield Animal(
        "jpeg-thumbnail", "jpg", edit.after_soi(saved(rgb, "JPEG"), edit.segment(0xE1, b"Exif\0\0" + thumbnail))
    )
    mpo = saved(rgb, "MPO", save_all=True, append_images=[image_of("RGB", 45, 61, 5), image_of("RGB", 20, 30, 6)])
    yield Animal("jpeg-mpo", "jpg", mpo)
    # Colour coding: Adobe's transform 0, 1, 2 for three and four components, inverted or not.
    for mode, transform in itertools.product(("RGB", "CMYK"), (0, 1, 2)):
        bare = edit.without(edit.without(saved(image_of(mode), "JPEG", quality=92), 0xE0), 0xEE)
        adobe = edit.segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))
        yield Animal(f"jpeg-{mode.lower()}-adobe-{transform}", "jpg", edit.after_soi(bare, adobe))
        if transform == 0:
            yield Animal(f"jpeg-{mode.lower()}-no-marker", "jpg", bare)
    for depth, mode in itertools.product((8, 12, 16), ("L", "RGB")):
        samples = np.atleast_3d(np.asarray(image_of(mode, 13, 17))).astype(np.int64) << depth - 8
        yield Animal(f"jpeg-lossless-{mode.lower()}-{depth}", "jpg", lossless_jpeg(samples, depth))
    base = saved(rgb, "JPEG")
    yield Animal("jpeg-12-bit", "jpg", edit.jpeg_with(base, _as_12_bit))
    yield Animal("jpeg-hierarchical", "jpg", edit.jpeg_with(base, lambda kind, part: _remarked(kind, part, 0xC0, 0xC5)))
    yield Animal("jpeg-extended", "jpg", edit.jpeg_with(base, lambda kind, part: _remarked(kind, part, 0xC0, 0xC1)))
    yield Animal("jpeg-wide", "jpg", saved(image_of("L", 8, 65_500), "JPEG"))
    yield Animal("jpeg-high", "jpg", saved(image_of("RGB", 65_500, 3), "JPEG"))
    yield Animal("jpeg-159-megapixels", "jpg", saved(Image.new("L", (12_610, 12_610), 77), "JPEG"))
    yield Animal("jpeg-11-megapixels", "jpg", saved(Image.new("RGB", (4000, 2800), (200, 10, 90)), "JPEG"))


def _followed(marker: int, junk: bytes, kind: int, part: bytes) -> bytes:
    return part + junk if kind == marker else part


def _as_12_bit(kind: int, part: bytes) -> bytes:
    return b"\xff\xc1" + part[2:4] + b"\x0c" + part[5:] if kind == 0xC0 else part


def _remarked(kind: int, part: bytes, old: int, new: int) -> bytes:
    return bytes([0xFF, new]) + part[2:] if kind == old else part


EOI = b"\xff\xd9"
_CUTS = (0.02, 0.3, 0.5, 0.6, 0.75, 0.9, 0.98)


def harmed_jpegs() -> Iterator[Animal]:
    """What happens to JPEGs on disks and in bad writers."""
    rgb = image_of("RGB", 120, 150, 3)
    kinds = {
        "base": saved(rgb, "JPEG", quality=90), "pro": saved(rgb, "JPEG", quality=90, progressive=True),
        "restart": saved(rgb, "JPEG", quality=90, restart_marker_rows=1), "grey": saved(rgb.convert("L"), "JPEG", quality=90),
    }  # fmt: skip
    for name, data in kinds.items():
        for share in _CUTS:
            yield Animal(f"jpeg-{name}-cut-{share}", "jpg", edit.cut(data, share))
        for share in (0.4, 0.6, 0.95):
            yield Animal(f"jpeg-{name}-zeros-{share}", "jpg", edit.zero_tail(data, share))
            yield Animal(f"jpeg-{name}-zeros-{share}-eoi", "jpg", edit.shorter(edit.zero_tail(data, share), 2) + EOI)
        for share in _CUTS[1:]:
            yield Animal(f"jpeg-{name}-cut-{share}-eoi", "jpg", edit.cut(data, share) + EOI)
        yield Animal(f"jpeg-{name}-no-eoi", "jpg", edit.shorter(data, 2))
        yield Animal(f"jpeg-{name}-half-eoi", "jpg", edit.shorter(data, 1))
        start = edit.scan_start(data)
        for part in range(1, 9):
            yield Animal(
                f"jpeg-{name}-flipped-{part}", "jpg", edit.flipped(data, start + (len(data) - start) * part // 9)
            )
        yield Animal(f"jpeg-{name}-no-dht", "jpg", edit.without(data, 0xC4))
        yield Animal(f"jpeg-{name}-no-dqt", "jpg", edit.without(data, 0xDB))
        yield Animal(f"jpeg-{name}-no-sof", "jpg", edit.without(edit.without(data, 0xC0), 0xC2))
        yield Animal(
            f"jpeg-{name}-junk-segments", "jpg", edit.jpeg_with(data, lambda kind, part: part + b"ab" * (kind == 0xDB))
        )
        yield Animal(
            f"jpeg-{name}-zeros-between",
            "jpg",
            edit.jpeg_with(data, lambda kind, part: part + bytes(3) * (kind == 0xE0)),
        )
        yield Animal(
            f"jpeg-{name}-fill",
            "jpg",
            edit.jpeg_with(data, lambda kind, part: b"\xff" * 3 * (kind not in (0xD8,)) + part),
        )
        yield Animal(f"jpeg-{name}-junk-before", "jpg", b"junk" + data)
        yield Animal(f"jpeg-{name}-line-before", "jpg", b"\r\n" + data)
        yield Animal(f"jpeg-{name}-junk-behind", "jpg", data + b"junk" * 100)
        yield Animal(f"jpeg-{name}-second-behind", "jpg", data + kinds["grey"])
        yield Animal(f"jpeg-{name}-second-soi", "jpg", edit.after_soi(data, b"\xff\xd8"))
        yield Animal(f"jpeg-{name}-long-com", "jpg", edit.after_soi(data, b"\xff\xfe\xff\xff" + b"c" * 50))
        yield Animal(f"jpeg-{name}-empty-com", "jpg", edit.after_soi(data, edit.segment(0xFE, b"")))
        yield Animal(f"jpeg-{name}-bad-length", "jpg", edit.after_soi(data, b"\xff\xfe\x00\x01"))
        yield Animal(f"jpeg-{name}-height-0", "jpg", edit.jpeg_with(data, _height_0))
        yield Animal(f"jpeg-{name}-higher", "jpg", edit.jpeg_with(data, _higher))
    # A progressive JPEG whose scans were never all written is smoothed by libjpeg, and differently by region.
    for scans in range(1, 11):
        yield Animal(f"jpeg-pro-{scans}-scans", "jpg", edit.first_scans(kinds["pro"], scans))
    yield Animal("jpeg-restart-lost", "jpg", kinds["restart"].replace(b"\xff\xd1", b"", 1))
    yield Animal("jpeg-restart-wrong", "jpg", kinds["restart"].replace(b"\xff\xd1", b"\xff\xd5", 1))


def _sized(kind: int, part: bytes, size: bytes) -> bytes:
    return part[:5] + size + part[7:] if kind in (0xC0, 0xC2) else part


def _height_0(kind: int, part: bytes) -> bytes:
    return _sized(kind, part, b"\0\0")


def _higher(kind: int, part: bytes) -> bytes:
    return _sized(kind, part, b"\0\xff")


# ---- PNG


def pngs() -> Iterator[Animal]:
    """Colour types × depths × interlacing, sizes, chunks."""
    for (colour, channels, depths), interlaced in itertools.product(
        (
            (edit.GREY, 1, (1, 2, 4, 8, 16)),
            (edit.RGB, 3, (8, 16)),
            (edit.PALETTE, 1, (1, 2, 4, 8)),
            (edit.GREY_ALPHA, 2, (8, 16)),
            (edit.RGBA, 4, (8, 16)),
        ),
        (False, True),
    ):
        for depth in depths:
            samples = np.random.default_rng([colour, depth]).integers(0, 1 << depth, (13, 19, channels))
            palette = (
                [(b"PLTE", np.random.default_rng(depth).bytes(3 * (1 << depth)))] if colour == edit.PALETTE else []
            )
            see_through = {edit.GREY: b"\0\1", edit.RGB: b"\0\1\0\2\0\3", edit.PALETTE: b"\0\x80"}.get(colour)
            for clear in (False, True) if see_through else (False,):
                before = [*palette, *([(b"tRNS", see_through)] if clear else [])]
                name = f"png-{colour}-{depth}{'-adam7' if interlaced else ''}{'-trns' if clear else ''}"
                yield Animal(name, "png", edit.png(samples, colour, depth, interlaced=interlaced, before=before))
    for height, width in SIZES:
        yield Animal(f"png-{height}x{width}", "png", saved(image_of("RGB", height, width), "PNG"))
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        yield Animal(f"png-pillow-{mode}", "png", saved(image_of(mode), "PNG", optimize=True))
    yield Animal("png-pillow-p-clear", "png", saved(image_of("P"), "PNG", transparency=bytes(range(64))))
    yield Animal("png-exif", "png", saved(image_of("RGB"), "PNG", exif=exif(6)))
    rgb = np.asarray(image_of("RGB"))
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a text" * 99, zip=True)
    text.add_itxt("Author", "a name")
    yield Animal("png-text", "png", saved(Image.fromarray(rgb), "PNG", pnginfo=text))
    yield Animal("png-iccp", "png", saved(Image.fromarray(rgb), "PNG", icc_profile=_PROFILE))
    extra: dict[str, tuple[bytes, bytes]] = {
        "gama": (b"gAMA", struct.pack(">I", 100_000)), "gama-45455": (b"gAMA", struct.pack(">I", 45_455)),
        "srgb": (b"sRGB", b"\0"), "chrm": (b"cHRM", struct.pack(">8I", *range(10_000, 90_000, 10_000))),
        "phys": (b"pHYs", struct.pack(">IIB", 1, 2, 0)), "sbit": (b"sBIT", b"\5\6\5"), "bkgd": (b"bKGD", b"\0\1\0\2\0\3"),
        "time": (b"tIME", b"\x07\xe8\1\1\0\0\0"), "private": (b"prVt", b"xyz"), "unknown-critical": (b"PRvT", b"xyz"),
        "bad-iccp": (b"iCCP", b"name\0\0garbage"), "offs": (b"oFFs", bytes(9)),
    }  # fmt: skip
    for name, one in extra.items():
        yield Animal(f"png-{name}", "png", edit.png(rgb, edit.RGB, before=[one]))
    yield Animal("png-many-idats", "png", edit.png(rgb, edit.RGB, idats=40))
    yield Animal("png-wide", "png", saved(Image.new("L", (100_000, 2), 5), "PNG"))
    yield Animal("png-159-megapixels", "png", saved(Image.new("1", (12_610, 12_610), 1), "PNG"))
    for default, same in itertools.product((False, True), (False, True)):
        first, second = image_of("RGB", seed=1), image_of("RGB", seed=1 if same else 2)
        name = f"png-apng-{'default' if default else 'first'}-{'same' if same else 'other'}"
        yield Animal(
            name, "png", saved(first, "PNG", save_all=True, default_image=default, append_images=[second, first])
        )


def harmed_pngs() -> Iterator[Animal]:
    rgb = np.asarray(image_of("RGB", 60, 70, 4))
    kinds = {
        "plain": edit.png(rgb, edit.RGB, before=[(b"tEXt", b"a\0b")]),
        "adam7": edit.png(rgb, edit.RGB, interlaced=True, idats=5),
    }
    for name, data in kinds.items():
        for share in _CUTS:
            yield Animal(f"png-{name}-cut-{share}", "png", edit.cut(data, share))
        yield Animal(f"png-{name}-zeros", "png", edit.zero_tail(data, 0.6))
        for kind in (b"IHDR", b"IDAT", b"IEND"):
            yield Animal(f"png-{name}-crc-{kind.decode().lower()}", "png", edit.png_wrong_crc(data, kind))
        for where in (3, 300, 3000):
            yield Animal(
                f"png-{name}-flipped-{where}", "png", edit.png_with(data, lambda k, d, w=where: _harmed(k, d, w))
            )
        yield Animal(f"png-{name}-adler", "png", edit.png_with(data, lambda k, d: _harmed(k, d, -1)))
        yield Animal(f"png-{name}-short-idat", "png", edit.png_with(data, _short))
        yield Animal(f"png-{name}-no-iend", "png", edit.png_with(data, lambda k, d: [] if k == b"IEND" else [(k, d)]))
        yield Animal(f"png-{name}-no-idat", "png", edit.png_with(data, lambda k, d: [] if k == b"IDAT" else [(k, d)]))
        yield Animal(f"png-{name}-junk-behind", "png", data + b"junk" * 100)
        yield Animal(f"png-{name}-junk-before", "png", b"junk" + data)
        yield Animal(f"png-{name}-signature", "png", edit.flipped(data, 0))
    yield Animal("png-crc-text", "png", edit.png_wrong_crc(kinds["plain"], b"tEXt"))
    yield Animal("png-no-palette", "png", edit.png(rgb[..., :1], edit.PALETTE))
    yield Animal("png-short-palette", "png", edit.png(rgb[..., :1], edit.PALETTE, before=[(b"PLTE", bytes(30))]))
    yield Animal("png-0x0", "png", edit.png(np.zeros((0, 0, 3)), edit.RGB))


def _harmed(kind: bytes, data: bytes, at: int) -> list[tuple[bytes, bytes]]:
    return [(kind, edit.flipped(data, at % len(data)) if kind == b"IDAT" else data)]


def _short(kind: bytes, data: bytes) -> list[tuple[bytes, bytes]]:
    return [(kind, data[: len(data) // 2] if kind == b"IDAT" else data)]


# ---- WebP


def webps() -> Iterator[Animal]:
    for (height, width), lossless in itertools.product(SIZES, (False, True)):
        for mode in ("RGB", "RGBA"):
            name = f"webp-{height}x{width}-{mode.lower()}-{'lossless' if lossless else 'lossy'}"
            yield Animal(name, "webp", saved(image_of(mode, height, width), "WEBP", lossless=lossless))
    for name, options in {
        "exif": {"exif": exif(3)}, "icc": {"icc_profile": _PROFILE}, "xmp": {"xmp": _XMP}, "poor": {"quality": 0},
        "exact": {"lossless": True, "exact": True}, "best": {"quality": 100, "method": 6}, "alpha": {"alpha_quality": 10},
    }.items():  # fmt: skip
        yield Animal(f"webp-{name}", "webp", saved(image_of("RGBA" if name == "alpha" else "RGB"), "WEBP", **options))
    rgb, lossless = saved(image_of("RGB"), "WEBP"), saved(image_of("RGB"), "WEBP", lossless=True)
    for odd, (kind, flag), (coding, data) in itertools.product(
        (False, True),
        ((b"ICCP", 0x20), (b"EXIF", 0x08), (b"XMP ", 0x04), (b"ABCD", 0)),
        (("lossy", rgb), ("lossless", lossless)),
    ):
        chunks = [(kind, b"x" * (100 + odd))]
        name = f"webp-chunk-{kind.decode().strip().lower()}-{'odd' if odd else 'even'}-{coding}"
        yield Animal(name, "webp", edit.webp_extended(data, 61, 45, flag, chunks))
    # EXIF is looked for where the flag (8) says so.
    odd_length, even = b"x" * 33, b"x" * 34
    exif_chunk, odd_icc, odd_xmp = (b"EXIF", even), (b"ICCP", odd_length), (b"XMP ", odd_length)
    for name, flags, some in (
        ("odd-icc-exif", 0x28, [odd_icc, exif_chunk]), ("odd-xmp-exif", 0x0C, [odd_xmp, exif_chunk]),
        ("even-icc-odd-exif", 0x28, [(b"ICCP", even), (b"EXIF", odd_length)]), ("exif-odd-xmp", 0x0C, [exif_chunk, odd_xmp]),
        ("odd-other-exif", 0x08, [(b"ABCD", odd_length), exif_chunk]), ("odd-icc-flag-alone", 0x28, [odd_icc]),
        ("flag-alone", 0x08, []), ("no-flag", 0, [exif_chunk]), ("odd-icc-exif-no-flag", 0x20, [odd_icc, exif_chunk]),
    ):  # fmt: skip
        yield Animal(f"webp-exif-{name}", "webp", edit.webp_extended(rgb, 61, 45, flags, some))
    for seed in range(6):  # some have an odd length of pixels
        pixels = saved(image_of("RGB", seed=seed), "WEBP", lossless=True)
        yield Animal(f"webp-exif-pixels-{seed}", "webp", edit.webp_extended(pixels, 61, 45, 0x08, [(b"EXIF", even)]))
    all_odd = [(b"ICCP", b"x" * 101), (b"EXIF", b"x" * 33), (b"XMP ", b"x" * 7)]
    yield Animal("webp-chunk-all-odd", "webp", edit.webp_extended(rgb, 61, 45, 0x2C, all_odd))
    yield Animal("webp-canvas-larger", "webp", edit.webp_extended(rgb, 80, 90, 0, []))
    frames = [image_of("RGB", seed=1), image_of("RGB", seed=2)]
    for name, some in (("animated", frames), ("animated-same", frames[:1] * 2)):
        yield Animal(f"webp-{name}", "webp", saved(some[0], "WEBP", save_all=True, append_images=some[1:], duration=50))


def harmed_webps() -> Iterator[Animal]:
    image = image_of("RGB", 60, 70, 4)
    for name, data in {"lossy": saved(image, "WEBP"), "lossless": saved(image, "WEBP", lossless=True)}.items():
        for share in _CUTS:
            yield Animal(f"webp-{name}-cut-{share}", "webp", edit.cut(data, share))
        yield Animal(f"webp-{name}-zeros", "webp", edit.zero_tail(data, 0.6))
        for part in range(1, 7):
            yield Animal(f"webp-{name}-flipped-{part}", "webp", edit.flipped(data, 30 + (len(data) - 30) * part // 7))
        yield Animal(f"webp-{name}-riff-short", "webp", data[:4] + struct.pack("<I", len(data) // 2) + data[8:])
        yield Animal(f"webp-{name}-riff-long", "webp", data[:4] + struct.pack("<I", len(data) + 99) + data[8:])
        yield Animal(f"webp-{name}-junk-behind", "webp", data + b"junk" * 100)
        yield Animal(f"webp-{name}-junk-before", "webp", b"junk" + data)


# ---- what is no JPEG, PNG or WebP, or not what its name says


def strangers() -> Iterator[Animal]:
    others: dict[str, tuple[str, tuple[str, ...], str]] = {
        "GIF": ("gif", ("P", "L", "RGB"), "gif"), "BMP": ("bmp", ("1", "L", "P", "RGB"), "bmp"),
        "TIFF": ("tif", ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"), "tiff"), "ICO": ("ico", ("RGBA",), "ico"),
        "PPM": ("ppm", ("1", "L", "RGB"), "ppm"), "TGA": ("tga", ("L", "RGB", "RGBA"), "tga"),
        "PCX": ("pcx", ("L", "RGB"), "pcx"),
        "JPEG2000": ("jp2", ("L", "RGB", "RGBA"), "jp2"), "DDS": ("dds", ("RGB",), "dds"), "SGI": ("sgi", ("L", "RGB"), "sgi"),
        "AVIF": ("avif", ("RGB", "RGBA"), "avif"),
    }  # fmt: skip
    for kind, (suffix, modes, name) in others.items():
        if (kind == "AVIF" and not features.check("avif")) or (kind == "JPEG2000" and not features.check("jpg_2000")):
            continue
        for mode in modes:
            yield Animal(f"{name}-{mode.lower()}", suffix, saved(image_of(mode), kind))
    yield Animal(
        "gif-animated", "gif", saved(image_of("P"), "GIF", save_all=True, append_images=[image_of("P", seed=3)])
    )
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        yield Animal(f"tiff-{compression}", "tif", saved(image_of("RGB"), "TIFF", compression=compression))
    png, jpeg = saved(image_of("RGB"), "PNG"), saved(image_of("RGB"), "JPEG")
    for name, suffix, data in (
        ("png-called-jpg", "jpg", png), ("jpeg-called-png", "png", jpeg), ("jpeg-called-webp", "webp", jpeg),
        ("gif-called-jpg", "jpg", saved(image_of("P"), "GIF")), ("bmp-called-png", "png", saved(image_of("RGB"), "BMP")),
        ("tiff-called-jpg", "jpg", saved(image_of("RGB"), "TIFF")), ("empty", "jpg", b""), ("one-byte", "jpg", b"\xff"),
        ("soi-only", "jpg", b"\xff\xd8\xff"), ("zeros", "jpg", bytes(5000)), ("text", "png", b"not found\n" * 20),
        ("html", "jpg", b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>"),
        ("git-lfs", "jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("noise", "jpg", np.random.default_rng(5).bytes(3000)), ("riff-wave", "webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(28)),
    ):  # fmt: skip
        yield Animal(name, suffix, data)


ROOMS: tuple[Callable[[], Iterator[Animal]], ...] = (
    jpegs,
    harmed_jpegs,
    pngs,
    harmed_pngs,
    webps,
    harmed_webps,
    strangers,
)
"""What needs no tools."""


@functools.cache
def zoo() -> tuple[Animal, ...]:
    """All files; at least 300 of them whatever tools are missing (`zoo_tools.missing`)."""
    animals = [animal for room in ROOMS for animal in room()]
    animals += [Animal(*one) for one in zoo_tools.made(53, 47)]
    assert len({animal.name for animal in animals}) == len(animals)
    return tuple(animals)
