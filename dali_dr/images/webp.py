"""The chunks of a WebP file (RFC 9649): the same file with chunks of even length only."""

from __future__ import annotations

from typing import Final

_HEADER: Final = 12  # "RIFF", the length of what follows, "WEBP"


def is_webp(data: bytes) -> bool:
    """Whether ``data`` begins as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def with_even_chunks(data: bytes) -> bytes | None:
    """The same WebP file with the byte that pads a chunk of odd length counted as part of it; None if there is none such.

    nvImageCodec reads the chunk behind one of odd length from the wrong place. The byte is zero: colour profiles and EXIF say
    their own length, and what is coded ends before it.
    """
    if not is_webp(data):
        return None
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    parts, at, odd = [], _HEADER, False
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            return None
        if size % 2:
            odd, body = True, body + (b" " if data[at : at + 4] == b"XMP " else b"\0")
        parts.append(data[at : at + 4] + len(body).to_bytes(4, "little") + body)
        at += 8 + size + size % 2
    if not odd or at < end:
        return None
    chunks = b"".join(parts)
    return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks
