"""What libjpeg-turbo's and libwebp's command-line tools make of pictures, for the zoo; nothing where a tool is missing."""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

TOOLS = ("cjpeg", "jpegtran", "cwebp", "webpmux", "wrjpgcom")


def missing() -> list[str]:
    """The tools that are not there, and whose files are therefore left out."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def _piped(data: bytes, *command: str) -> bytes | None:
    """What a tool writes of what it is given; None where it is missing or does not know an option."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)
    return done.stdout if done.returncode == 0 and done.stdout else None


def _by_files(data: bytes, suffix: str, *command: str) -> bytes | None:
    """The same for tools that want files: IN and OUT in the command."""
    if shutil.which(command[0]) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        into, out = Path(folder, f"in.{suffix}"), Path(folder, "out")
        into.write_bytes(data)
        words = [{"IN": str(into), "OUT": str(out)}.get(word, word) for word in command]
        done = subprocess.run(words, capture_output=True, check=False, timeout=60)
        return out.read_bytes() if done.returncode == 0 and out.is_file() else None


def _saved(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


SAMPLINGS = (
    "1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "2x1,1x2,1x1", "2x2,2x1,2x1", "2x2,1x2,1x2",
    "1x1,2x2,2x2", "2x1,2x1,2x1", "2x2,2x2,2x2", "1x2,1x2,1x2", "4x1,2x1,2x1", "3x1", "1x3", "3x3",
)  # fmt: skip
CODINGS: dict[str, tuple[str, ...]] = {
    "baseline": (), "optimised": ("-optimize",), "progressive": ("-progressive",), "arithmetic": ("-arithmetic",),
    "arithmetic-progressive": ("-arithmetic", "-progressive"), "restart": ("-restart", "1"),
    "restart-blocks": ("-restart", "3B"), "rgb": ("-rgb",), "grey": ("-grayscale",), "poor": ("-quality", "3"),
    "fast-dct": ("-dct", "fast"), "float-dct": ("-dct", "float"), "smooth": ("-smooth", "40"),
    "12-bit": ("-precision", "12"), "lossless": ("-lossless", "1"),
}  # fmt: skip
TRANSFORMS: dict[str, tuple[str, ...]] = {
    "arithmetic": ("-arithmetic",), "progressive": ("-progressive",), "grey": ("-grayscale",),
    "restart": ("-restart", "1"), "rotated": ("-rotate", "90"), "flipped": ("-flip", "horizontal"),
    "transposed": ("-transpose",), "cropped": ("-crop", "33x21+8+8"), "no-copy": ("-copy", "none"),
}  # fmt: skip
WEBP: dict[str, tuple[str, ...]] = {
    "lossy": (), "poor": ("-q", "1"), "lossless": ("-lossless",), "near-lossless": ("-near_lossless", "40"),
    "partitions": ("-partitions", "3"), "segments": ("-segments", "4"), "simple-filter": ("-nostrong",),
    "sharp-yuv": ("-sharp_yuv",), "no-alpha": ("-noalpha",), "alpha": ("-alpha_q", "20"), "passes": ("-pass", "3"),
    "low-memory": ("-low_memory",), "jpeg-like": ("-jpeg_like",), "crop": ("-crop", "1", "2", "31", "17"),
    "photo": ("-preset", "photo"), "drawing": ("-preset", "drawing"),
}  # fmt: skip


@functools.cache
def made(height: int, width: int) -> tuple[tuple[str, str, bytes], ...]:
    """(name, suffix, bytes) of all that the tools can make of a picture of this size."""
    rng = np.random.default_rng([height, width])
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([(x * 5 + y) % 256, (y * 7) % 256, (x * y) % 256], -1).astype(np.uint8)
    rgb[height // 3 :, width // 3 :] ^= rng.integers(0, 40, (height - height // 3, width - width // 3, 3), np.uint8)
    return tuple((name, suffix, data) for name, suffix, data in _all(rgb) if data is not None)


def _all(rgb: np.ndarray) -> Iterator[tuple[str, str, bytes | None]]:
    ppm, jpeg = _saved(rgb, "PPM"), _saved(rgb, "JPEG", quality=85, comment=b"a comment")
    for sampling in SAMPLINGS:
        for name, extra in (("", ()), ("-progressive", ("-progressive",))):
            yield f"cjpeg-{sampling}{name}", "jpg", _piped(ppm, "cjpeg", "-sample", sampling, *extra)
    for name, words in CODINGS.items():
        yield f"cjpeg-{name}", "jpg", _piped(ppm, "cjpeg", *words)
    for name, words in TRANSFORMS.items():
        yield f"jpegtran-{name}", "jpg", _piped(jpeg, "jpegtran", *words)
    yield "wrjpgcom", "jpg", _piped(jpeg, "wrjpgcom", "-comment", "a comment " * 100)
    rgba = np.concatenate([rgb, rgb[..., :1]], -1)
    for name, words in WEBP.items():
        yield (
            f"cwebp-{name}",
            "webp",
            _by_files(_saved(rgba, "PNG"), "png", "cwebp", "-quiet", *words, "IN", "-o", "OUT"),
        )
    webp = _saved(rgb, "WEBP")
    for kind in ("exif", "icc", "xmp"):
        for odd in (False, True):
            with tempfile.NamedTemporaryFile() as file:
                file.write(b"II*\0\x08\0\0\0\0\0\0\0\0\0" + b"x" * odd)
                file.flush()
                yield (
                    f"webpmux-{kind}-{'odd' if odd else 'even'}",
                    "webp",
                    _by_files(webp, "webp", "webpmux", "-set", kind, file.name, "IN", "-o", "OUT"),
                )
    yield "webpmux-frame", "webp", _by_files(webp, "webp", "webpmux", "-frame", "IN", "+100", "-o", "OUT")
