"""The chunks of a WebP file (RFC 9649): the same file in a form that every reader finds its way in."""

from __future__ import annotations

from typing import Final

_HEADER: Final = 12  # "RIFF", the length of what follows, "WEBP"

_HAS_EXIF: Final = 0x08  # in the first byte of VP8X
_PADS: Final = {b"XMP ": b" "}  # a text; of all others zero


def is_webp(data: bytes) -> bool:
    """Whether ``data`` begins as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def rewritten(data: bytes) -> bytes | None:
    """The same WebP file without what nvImageCodec stumbles over when it looks for EXIF; None if there is nothing such.

    It takes the chunk behind one of odd length from the wrong place: so the byte that pads a chunk is counted as part of it. It
    is zero: colour profiles and EXIF say their own length, and what is coded ends before it. And it wants an EXIF chunk where the
    header promises one: so the header does not, where there is none.
    """
    if not is_webp(data):
        return None
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    chunks: list[tuple[bytes, bytes]] = []
    at = _HEADER
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            return None
        chunks.append((data[at : at + 4], body))
        at += 8 + size + size % 2
    if at < end or not chunks:
        return None
    kinds = [kind for kind, _ in chunks]
    changed = [(kind, body + _PADS.get(kind, b"\0") if len(body) % 2 else body) for kind, body in chunks]
    if kinds[0] == b"VP8X" and b"EXIF" not in kinds and changed[0][1]:
        flags = changed[0][1]
        changed[0] = b"VP8X", bytes([flags[0] & ~_HAS_EXIF]) + flags[1:]
    if changed == chunks:
        return None
    parts = b"".join(kind + len(body).to_bytes(4, "little") + body for kind, body in changed)
    return b"RIFF" + (4 + len(parts)).to_bytes(4, "little") + b"WEBP" + parts
