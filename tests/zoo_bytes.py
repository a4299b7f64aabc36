"""Images made and harmed byte by byte, for the zoo: a PNG writer, and edits of JPEG, PNG and WebP files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Passes of an interlaced PNG: first row and column, steps between rows and columns (PNG specification, 8.2)."""
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types of PNG
ALONE = (0x01, *range(0xD0, 0xD9))  # markers of JPEG that no length follows: TEM, RST0 … RST7, SOI


# ---- PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(samples: np.ndarray, depth: int) -> bytes:
    """(h, w, channels) samples as filtered rows (filter 0, and Sub on every other row)."""
    height, width, channels = samples.shape
    if height == 0 or width == 0:
        return b""
    flat = samples.reshape(height, width * channels)
    if depth == 16:
        packed = flat.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        packed = flat.astype(np.uint8)
    else:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step = max(1, channels * depth // 8)
    lines = []
    for y, row in enumerate(packed):
        if y % 2:
            before = np.concatenate([np.zeros(step, np.uint8), row[:-step]])
            lines.append(b"\x01" + (row - before).tobytes())
        else:
            lines.append(b"\x00" + row.tobytes())
    return b"".join(lines)


def png(
    samples: np.ndarray,
    colour: int,
    depth: int = 8,
    *,
    interlaced: bool = False,
    before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
    idats: int = 1,
) -> bytes:
    """A PNG file of (h, w, channels) samples.

    Args:
      samples: below 2**depth each.
      colour: type.
      depth: bits a sample.
      interlaced: by Adam7.
      before, after: chunks before and after the pixels.
      idats: chunks that the pixels are divided among.
    """
    height, width, _ = samples.shape
    passes = [samples[top::down, left::right] for top, left, down, right in ADAM7] if interlaced else [samples]
    data = zlib.compress(b"".join(_rows(one, depth) for one in passes))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    parts = [data[len(data) * i // idats : len(data) * (i + 1) // idats] for i in range(idats)]
    chunks = [(b"IHDR", header), *before, *((b"IDAT", part) for part in parts), *after, (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(kind, data) for kind, data in chunks)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, data) of all chunks."""
    found, at = [], len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_with(data: bytes, change: Callable[[bytes, bytes], list[tuple[bytes, bytes]]]) -> bytes:
    """The same file with each chunk replaced by what `change` makes of it, with right checksums."""
    made = [chunk(*new) for kind, old in png_chunks(data) for new in change(kind, old)]
    return SIGNATURE + b"".join(made)


def png_wrong_crc(data: bytes, kind: bytes) -> bytes:
    """The same file with a wrong checksum of the first chunk of a kind."""
    at = data.index(kind)
    (length,) = struct.unpack_from(">I", data, at - 4)
    return flipped(data, at + 4 + length)


# ---- JPEG


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of the segments of a JPEG file up to the first SOS, that one with all that follows."""
    at = 0
    while at < len(data):
        marker = data[at + 1]
        if marker in ALONE:
            yield marker, at, at + 2
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            yield marker, at, len(data)
            return
        yield marker, at, end
        at = end


def scan_start(data: bytes) -> int:
    """Where the coded pixels of the first scan begin."""
    at = next(begin for marker, begin, _ in segments(data) if marker == 0xDA)
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def first_scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG file with only its first scans, and EOI."""
    starts = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] == 0xDA]
    if count >= len(starts):
        return data
    tables = data.rfind(b"\xff\xc4", starts[count - 1], starts[count])  # of the next scan
    return data[: tables if tables > 0 else starts[count]] + b"\xff\xd9"


def jpeg_with(data: bytes, change: Callable[[int, bytes], bytes]) -> bytes:
    """The same file with each segment replaced by what `change` makes of its marker and bytes."""
    return b"".join(change(marker, data[begin:end]) for marker, begin, end in segments(data))


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def after_soi(data: bytes, *added: bytes) -> bytes:
    """The same file with bytes put in after its first marker."""
    return data[:2] + b"".join(added) + data[2:]


def without(data: bytes, marker: int) -> bytes:
    """The same file without the segments of a marker."""
    return jpeg_with(data, lambda kind, part: b"" if kind == marker else part)


# ---- WebP


def webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        found.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


def webp(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_extended(data: bytes, width: int, height: int, flags: int, chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A WebP file of one image with VP8X and chunks: those before the pixels (ICCP), then the others."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    first = [one for one in chunks if one[0] == b"ICCP"]
    last = [one for one in chunks if one[0] != b"ICCP"]
    pixels = [one for one in webp_chunks(data) if one[0] in (b"VP8 ", b"VP8L", b"ALPH")]
    return webp([(b"VP8X", bytes([flags, 0, 0, 0]) + canvas), *first, *pixels, *last])


# ---- any


def flipped(data: bytes, at: int, bits: int = 0x55) -> bytes:
    """The same bytes with one changed."""
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def zero_tail(data: bytes, share: float) -> bytes:
    """The same length with zeros from a share of it on, as an unfinished copy leaves it."""
    kept = int(len(data) * share)
    return data[:kept] + bytes(len(data) - kept)


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def shorter(data: bytes, count: int) -> bytes:
    return data[:-count]
