"""The marker segments of a JPEG file (ITU-T T.81, annex B): whether it is a plain one, and the same without junk between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in the data of a scan
_SOI: Final = b"\xff\xd8"
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_DRI: Final = 0xDD
_BASELINE: Final = 0xC0
_PROGRESSIVE: Final = (0xC2, 0xCA)  # by Huffman, by arithmetic coding
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 … SOF15, among which lie DHT, JPG and DAC
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RST0 … RST7, SOI: no segment follows


def is_jpeg(data: bytes) -> bool:
    """Whether ``data`` begins as a JPEG file does."""
    return data[:3] == _SOI + b"\xff"


def components(data: bytes) -> int:
    """How many colours a JPEG has by its frame header: 4 for CMYK; 0 where there is none."""
    return next((data[start + 9] for marker, start, end in _segments(data) if marker in _FRAMES and end > start + 9), 0)


def restart_interval(data: bytes) -> int:
    """MCUs between the restart markers of a JPEG by its headers; 0 where it has none, and of what is no JPEG."""
    interval = 0
    for marker, start, end in _segments(data) if is_jpeg(data) else ():
        if marker == _DRI and end >= start + 6:
            interval = int.from_bytes(data[start + 4 : start + 6], "big")
        if marker == _SOS:
            break
    return interval


def is_plain(data: bytes) -> bool:
    """Whether ``data`` is a JPEG of the common kind: baseline, grey or of three colours, no restarts, nothing between its
    segments, one scan that ends where the file does. A decoder reads such a file in one way, whichever region it shows."""
    if not is_jpeg(data):
        return False
    at = 2
    baseline = False
    for marker, start, end in _segments(data):
        if start != at or marker == _DRI or marker in _ALONE:
            return False
        if marker in _FRAMES:
            baseline = marker == _BASELINE and end > start + 9 and data[start + 9] in (1, 3)
        if marker == _SOS:
            # Every FF in the scan is one with a 00 behind it, but for that of EOI.
            ends = data[-2:] == bytes((0xFF, _EOI))
            return baseline and ends and data.count(b"\xff", end) == data.count(b"\xff\0", end) + 1
        at = end
    return False


def is_smoothed(data: bytes) -> bool:
    """Whether ``data`` is a progressive JPEG whose scans do not give the first coefficients in full, as of a file cut off.

    libjpeg then smooths over the borders of blocks, and at the edges of a region otherwise than in the whole image (jdcoefct.c,
    smoothing_ok; it looks at the first nine coefficients behind the mean).
    """
    accuracy: dict[int, list[int]] = {}  # of each component: the lowest bit that is known of each coefficient; -1: none
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            if marker not in _PROGRESSIVE or end < start + 10 + 3 * data[start + 9]:
                return False
            accuracy = {data[start + 10 + 3 * n]: [-1] * 64 for n in range(data[start + 9])}
        elif marker == _SOS and accuracy and end >= start + 8 + 2 * data[start + 4]:
            first, last, bits = data[end - 3 : end]
            for n in range(data[start + 4]):
                known = accuracy.get(data[start + 5 + 2 * n])
                if known is not None:
                    known[first : last + 1] = [bits & 15] * (min(last, 63) + 1 - first)
    means = all(known[0] >= 0 for known in accuracy.values())
    return means and any(bit != 0 for known in accuracy.values() for bit in known[1:10])


def without_junk(data: bytes) -> bytes | None:
    """The same JPEG without what lies between its segments and belongs to none; None if there is no such thing.

    Decoders pass over such bytes in different ways. Pixels and metadata stay as they are, and so does all after the end.
    """
    if not is_jpeg(data):
        return None
    parts, at, junk = [_SOI], 2, False
    for marker, start, end in _segments(data):
        junk |= start != at
        parts.append(data[start:end])
        at = end
        if marker == _SOS:
            at = _scan_end(data, end)
            parts.append(data[end:at])
        if marker == _EOI:
            break
    parts.append(data[at:])
    return b"".join(parts) if junk else None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where it begins, where its segment ends) up to the end of the image or of the file, scans' data left out."""
    at = 2  # after SOI
    while True:
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) - 1 and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if not 0 <= at < len(data) - 1:
            return
        marker = data[at + 1]
        if marker == 0:  # no marker: a byte of junk
            at += 2
            continue
        if marker in _ALONE or marker == _EOI:
            end = at + 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if end < at + 4:  # shorter than its own length: libjpeg passes over that
                at += 4
                continue
            if end > len(data):
                return
        yield marker, at, end
        if marker == _EOI:
            return
        at = _scan_end(data, end) if marker == _SOS else end


def _scan_end(data: bytes, at: int) -> int:
    """Where the next marker that is no restart begins, or the file ends."""
    found = _MARKER.search(data, at)
    return found.start() if found else len(data)
