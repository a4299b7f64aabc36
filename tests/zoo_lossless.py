"""A writer of lossless JPEGs (ITU-T T.81, annex H), which neither Pillow nor the tools of most systems have."""

from __future__ import annotations

import struct

import numpy as np
from zoo_bytes import segment

_CODE = 5  # bits of every Huffman code: categories 0 … 16 need 17


def lossless_jpeg(samples: np.ndarray, depth: int = 8) -> bytes:
    """An SOF3 file of (h, w, channels) samples of `depth` bits, with predictor 1 (the sample to the left)."""
    height, width, channels = samples.shape
    values = samples.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << depth - 1
    bits = "".join(_coded(int(one)) for one in (values - predicted).reshape(-1))
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    parts = b"".join(bytes([number + 1, 0x11, 0]) for number in range(channels))
    selectors = b"".join(bytes([number + 1, 0]) for number in range(channels))
    counts = bytes(17 if length == _CODE else 0 for length in range(1, 17))
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xC3, struct.pack(">BHHB", depth, height, width, channels) + parts),
            segment(0xC4, b"\x00" + counts + bytes(range(17))),
            segment(0xDA, bytes([channels]) + selectors + bytes([1, 0, 0])),
            scan,
            b"\xff\xd9",
        ]
    )


def _coded(difference: int) -> str:
    category = abs(difference).bit_length()
    if category == 0:
        return format(0, f"0{_CODE}b")
    low = difference if difference > 0 else difference + (1 << category) - 1
    return format(category, f"0{_CODE}b") + format(low, f"0{category}b")
