"""A second reader of reinforcement records, written from schemas/reinforcement-record.md alone, agrees with the codec.

`read` below uses struct, math and zstandard only, and nothing of dali_dr: whoever ports the format can start from it.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_record_codec import SHAPES, random_reinforcements, record_of

from dali_dr.record.codec import decode, encode
from dali_dr.record.labels import Reinforcements


def read(frame: bytes) -> list[dict[str, Any]]:
    """The views of a record: crop, flip, ops [(id, magnitude)], erase (None: none), ids, probs."""
    size = zstandard.get_frame_parameters(frame).content_size
    assert size <= 64 << 20
    data = zstandard.ZstdDecompressor().decompress(frame)
    assert len(data) == size >= 48
    magic, version, header_bytes, record_bytes, flags, views, height, width = struct.unpack_from("<4sHHIIIII", data)
    view_height, view_width, num_ops, op_entries, topk, class_entries = struct.unpack_from("<6H", data, 28)
    encoding, reserved, log_step = struct.unpack_from("<B3sf", data, 40)
    assert (magic, version, header_bytes, record_bytes, reserved) == (b"drrc", 1, 48, len(data), bytes(3))
    assert flags < 8 and 1 <= views <= 65536 and 1 <= height <= 65535 and 1 <= width <= 65535
    assert view_height >= 1 and view_width >= 1 and num_ops <= 16 and encoding <= 2
    assert (op_entries == 0) == (num_ops == 0) and (class_entries == 0) == (topk == 0) and class_entries >= topk
    has_flips, has_erase, wide_classes = flags & 1, flags & 2, flags & 4

    position = 48

    def numbers(form: str, count: int) -> tuple[Any, ...]:
        nonlocal position
        start, position = position, position + count * struct.calcsize("<" + form)
        assert position <= len(data)
        return struct.unpack_from(f"<{count}{form}", data, start)

    def bits(count: int) -> int:
        """A bit column as one whole number: bit i of the column is bit i of the number."""
        number = int.from_bytes(bytes(numbers("B", (count + 7) // 8)), "little")
        assert number < 1 << count
        return number

    classes = numbers("I" if wide_classes else "H", class_entries)
    assert len(set(classes)) == class_entries
    op_ids = numbers("B", op_entries)
    op_magnitudes = numbers("f", op_entries)
    ops = numbers("H" if op_entries > 256 else "B", num_ops * views)
    vertical_bits, horizontal_bits = ((side * (side + 1) // 2 - 1).bit_length() for side in (height, width))
    crop_bits = vertical_bits + horizontal_bits
    crops = bits(views * crop_bits)
    flips = bits(views) if has_flips else 0
    erased = bits(views) if has_erase else 0
    boxes = numbers("H" if max(view_height, view_width) > 255 else "B", 4 * erased.bit_count())
    class_indices = numbers("H" if class_entries > 256 else "B", topk * views)
    values = numbers("feB"[encoding], topk * views)
    assert position == len(data)

    def box(number: int, side: int) -> tuple[int, int]:
        """The start and length of box ``number`` on an axis of ``side`` pixels."""
        assert number < side * (side + 1) // 2
        free = (math.isqrt(8 * number + 1) - 1) // 2
        return number - free * (free + 1) // 2, side - free

    def probabilities(row: int) -> list[float]:
        column = [values[rank * views + row] for rank in range(topk)]
        if encoding < 2 or not column:
            return column
        codes = [sum(column[1 : rank + 1]) for rank in range(topk)]
        assert codes[-1] <= 255
        weights = [math.exp(-log_step * code) if code <= 254 else 0.0 for code in codes]
        total = math.exp(-log_step * (column[0] - 96)) if column[0] <= 254 else 0.0
        for weight in weights:
            total += weight
        assert math.isfinite(total)
        return [struct.unpack("<f", struct.pack("<f", weight / total))[0] for weight in weights]

    out = []
    for row in range(views):
        crop = crops >> row * crop_bits & (1 << crop_bits) - 1
        top, crop_height = box(crop & (1 << vertical_bits) - 1, height)
        left, crop_width = box(crop >> vertical_bits, width)
        erase = None
        if erased >> row & 1:
            before = (erased & (1 << row) - 1).bit_count()
            erase = boxes[4 * before : 4 * before + 4]
            assert erase[2] >= 1 and erase[3] >= 1
            assert erase[0] + erase[2] <= view_height and erase[1] + erase[3] <= view_width
        entries = [ops[slot * views + row] for slot in range(num_ops)]
        view: dict[str, Any] = {
            "crop": (top, left, crop_height, crop_width),
            "flip": bool(flips >> row & 1),
            "ops": [(op_ids[entry], op_magnitudes[entry]) for entry in entries],
            "erase": erase,
            "ids": [classes[class_indices[rank * views + row]] for rank in range(topk)],
            "probs": probabilities(row),
        }
        assert all(op <= 13 and math.isfinite(magnitude) for op, magnitude in view["ops"])
        assert len(set(view["ids"])) == topk
        assert all(a >= b for a, b in zip([1.0, *view["probs"]], [*view["probs"], 0.0], strict=True))
        out.append(view)
    return out


def assert_agrees(frame: bytes, loaded: Reinforcements) -> None:
    views = read(frame)
    assert len(views) == len(loaded)
    for row, view in enumerate(views):
        assert view["crop"] == tuple(loaded.crop[row].tolist())
        assert view["flip"] == loaded.flip[row]
        assert view["ops"] == list(zip(loaded.ops[row].tolist(), loaded.magnitudes[row].tolist(), strict=True))
        assert (view["erase"] or (0, 0, 0, 0)) == tuple(loaded.erase[row].tolist())
        assert view["ids"] == loaded.soft_ids[row].tolist()
        assert view["probs"] == loaded.soft_probs[row].tolist()  # every bit


@pytest.mark.parametrize("encoding", ["log8", "float16", "float32"])
@pytest.mark.parametrize("name", SHAPES)
def test_second_reader_agrees(name: str, encoding: Any) -> None:
    stored, frame = record_of(name, encoding)
    loaded = decode(frame).reinforcements
    assert_agrees(frame, loaded)
    if encoding == "float32":
        assert_agrees(frame, stored)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    views=st.integers(1, 20),
    num_ops=st.integers(0, 3),
    topk=st.integers(0, 12),
    num_classes=st.sampled_from([100, 70_000]),
    image=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    view_size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    erased=st.sampled_from([0.0, 0.3, 1.0]),
    sharpness=st.floats(0, 12),
    encoding=st.sampled_from(["log8", "float16", "float32"]),
    log_step=st.floats(0.1, 1.0),
)
def test_second_reader_agrees_on_any_record(
    seed: int, image: tuple[int, int], view_size: tuple[int, int], encoding: Any, log_step: float, **shape: Any
) -> None:
    stored = random_reinforcements(np.random.default_rng(seed), image=image, view_size=view_size, **shape)
    frame = encode(
        stored,
        image_height=image[0],
        image_width=image[1],
        view_size=view_size,
        probabilities=encoding,
        log_step=log_step,
    )
    assert_agrees(frame, decode(frame).reinforcements)
