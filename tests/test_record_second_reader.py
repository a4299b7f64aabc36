"""A second reader of reinforcement records, written from schemas/reinforcement-record.md alone, agrees with the codec.

`read` below uses struct, math and zstandard only, and nothing of dali_dr: whoever ports the format can start from it.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_record_codec import SHAPES, random_reinforcements, record_of

from dali_dr.record.decode import decode
from dali_dr.record.encode import encode
from dali_dr.record.labels import Reinforcements


def read(member: bytes) -> list[dict[str, Any]]:
    """The views of a record: crop, flip, ops [(id, magnitude)], erase (None: none), ids, probs.

    With mixing also partner (a number, "self" or None), swapped, lam, cut (None: none) and partner_view.
    """
    parts, checksums, rest, total = [], [], member, 0
    while rest:
        facts = zstandard.get_frame_parameters(rest)
        checksums.append(facts.has_checksum)
        total += (size := facts.content_size)
        assert total <= 64 << 20
        unzip = zstandard.ZstdDecompressor().decompressobj()
        parts.append(unzip.decompress(rest))
        assert len(parts[-1]) == size
        rest = unzip.unused_data
    data = parts[0]
    assert len(data) >= 52
    magic, version, header_bytes, record_bytes, flags, views, height, width = struct.unpack_from("<4sHHIIIII", data)
    view_height, view_width, num_ops, op_entries, topk, class_entries = struct.unpack_from("<6H", data, 28)
    encoding, pair_rank, partner_entries, log_step, group_rows = struct.unpack_from("<BBHfI", data, 40)
    assert (magic, header_bytes, record_bytes) == (b"drrc", 52, total)
    assert version == 1 or (version == 2 and all(checksums))
    class_bits = flags >> 24
    assert class_bits < 32 and not flags & 0xFFFE00 and (version == 2 or flags < 128)
    assert (class_bits > 0) == bool(flags & 128) and not (flags & 128 and (flags & 64 or topk == 0))
    assert pair_rank <= (max(topk - 1, 0) if encoding == 3 else 0)
    assert 1 <= views <= 65536 and 1 <= height <= 65535 and 1 <= width <= 65535
    assert view_height >= 1 and view_width >= 1 and num_ops <= 16 and encoding <= 1 + version
    assert (op_entries == 0) == (num_ops == 0) and (class_entries == 0) == (topk == 0) and class_entries >= topk
    has_flips, has_erase, wide_classes, mixing, wide_weights, double, partner_classes = (
        flags & 1 << bit for bit in range(7)
    )
    assert mixing or not (wide_weights or double or partner_classes or partner_entries)
    own_mixes = flags & 256
    assert not (own_mixes and not double)
    assert not (partner_classes and topk == 0) and not (double and views % 2)
    assert 1 <= group_rows <= views and not (double and group_rows % 2)
    groups = -(-views // group_rows)
    assert len(parts) == (1 if groups == 1 else 1 + groups)

    position = 52

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

    class_tables: list[tuple[int, ...]] = []
    if partner_classes:
        counts = numbers("H", partner_entries + 1)
        assert sum(counts) == class_entries
        planes = [numbers("B", class_entries) for _ in range(4 if wide_classes else 2)]
        gaps = [sum(plane[i] << 8 * place for place, plane in enumerate(planes)) for i in range(class_entries)]
        for count in counts:
            part, gaps = gaps[:count], gaps[count:]
            assert 0 not in part[1:]
            class_tables.append(tuple(itertools.accumulate(part)))
        largest = max(counts)
    elif class_bits:
        packed = bits(class_entries * class_bits)
        ids = [packed >> entry * class_bits & (1 << class_bits) - 1 for entry in range(class_entries)]
        class_tables.append(tuple(ids))
        assert len(set(ids)) == class_entries
        largest = class_entries
    else:
        class_tables.append(numbers("I" if wide_classes else "H", class_entries))
        assert len(set(class_tables[0])) == class_entries
        largest = class_entries
    op_ids = numbers("B", op_entries)
    op_magnitudes = numbers("f", op_entries)
    partner_table = numbers("I", partner_entries)
    vertical_bits, horizontal_bits = ((side * (side + 1) // 2 - 1).bit_length() for side in (height, width))
    crop_bits = vertical_bits + horizontal_bits

    def group(views: int) -> list[dict[str, Any]]:
        """The next ``views`` rows, whose columns are all that is left of ``data``."""
        drawn = views // 2 if double else views
        crops = bits(drawn * crop_bits)
        flips = bits(drawn) if has_flips else 0
        erased = bits(drawn) if has_erase else 0
        box_form = "H" if max(view_height, view_width) > 255 else "B"
        boxes = numbers(box_form, 4 * erased.bit_count())
        ops = numbers("H" if op_entries > 256 else "B", num_ops * drawn)
        class_indices = numbers("H" if largest > 256 else "B", topk * views)
        places = topk
        if encoding == 3 and topk:
            places = pair_rank + 1 + (topk - pair_rank + 1) // 2 if pair_rank else topk + 1
        values = numbers("feBB"[encoding], places * views)
        partnered = 0
        if mixing:
            partnered = bits(drawn)
            mixed = partnered.bit_count()
            mixups, cuts = (bits(views if own_mixes else mixed) for _ in range(2))
            partner_flips, partner_erased = (bits(mixed) for _ in range(2))
            weights = numbers("f" if wide_weights else "H", mixups.bit_count())
            low = numbers("B", 4 * mixed)
            partner_places = numbers("H" if partner_entries > 256 else "B", mixed if partner_entries else 0)
            high = numbers("B", 4 * mixed)
            cut_boxes = numbers(box_form, 4 * cuts.bit_count())
            partner_boxes = numbers(box_form, 4 * partner_erased.bit_count())
            partner_ops = numbers("H" if op_entries > 256 else "B", num_ops * mixed)
            assert not double or mixed == drawn
        assert position == len(data)

        def rank(column: int, row: int) -> int:
            """Set bits of a bit column before ``row``."""
            return (column & (1 << row) - 1).bit_count()

        def mix_of(row: int, line: int) -> dict[str, Any]:
            nobody = {"crop": (0, 0, 1, 1), "flip": False, "ops": [(0, 0.0)] * num_ops, "erase": None}
            mix: dict[str, Any] = {"partner": None, "lam": 1.0, "cut": None, "partner_view": nobody}
            if not partnered >> row & 1:
                return mix
            entry = rank(partnered, row)
            mix["partner"] = partner_table[partner_places[entry]] if partner_entries else "self"
            own = line if own_mixes else entry
            if mixups >> own & 1:
                weight = weights[rank(mixups, own)]
                mix["lam"] = weight if wide_weights else weight / 65536
                assert 0 <= mix["lam"] < 1
            if cuts >> own & 1:
                mix["cut"] = cut_boxes[rank(cuts, own) :: cuts.bit_count()]
            crop = tuple(low[edge * mixed + entry] | high[edge * mixed + entry] << 8 for edge in range(4))
            at = 4 * rank(partner_erased, entry)
            places = [partner_ops[slot * mixed + entry] for slot in range(num_ops)]
            mix["partner_view"] = {
                "crop": crop,
                "flip": bool(partner_flips >> entry & 1),
                "ops": [(op_ids[place], op_magnitudes[place]) for place in places],
                "erase": partner_boxes[at : at + 4] if partner_erased >> entry & 1 else None,
            }
            return mix

        def box(number: int, side: int) -> tuple[int, int]:
            """The start and length of box ``number`` on an axis of ``side`` pixels."""
            assert number < side * (side + 1) // 2
            free = (math.isqrt(8 * number + 1) - 1) // 2
            return number - free * (free + 1) // 2, side - free

        def probabilities(row: int) -> list[float]:
            column = [values[rank * views + row] for rank in range(places)]
            if encoding < 2 or not column:
                return column
            if encoding == 3:
                rest, first, *falls = column
                if pair_rank:
                    falls = falls[: pair_rank - 1] + [
                        nibble for pair in falls[pair_rank - 1 :] for nibble in (pair & 15, pair >> 4)
                    ]
                    assert not any(falls[topk - 1 :])
                codes = [first - sum(falls[:rank]) for rank in range(topk)]
                assert min(codes) >= 0 and 1 / 256 <= log_step <= 1
                roots = [(code or 0.3) * log_step for code in (rest, *codes)]
                weights = [root * root for root in roots]
                total = 0.0
                for weight in weights:
                    total += weight
                return [struct.unpack("<f", struct.pack("<f", weight / total))[0] for weight in weights[1:]]
            codes = [sum(column[1 : rank + 1]) for rank in range(topk)]
            assert codes[-1] <= 255
            weights = [math.exp(-log_step * code) if code <= 254 else 0.0 for code in codes]
            total = math.exp(-log_step * (column[0] - 96)) if column[0] <= 254 else 0.0
            for weight in weights:
                total += weight
            assert math.isfinite(total)
            return [struct.unpack("<f", struct.pack("<f", weight / total))[0] for weight in weights]

        out = []
        for line in range(views):
            row = line // 2 if double else line
            crop = crops >> row * crop_bits & (1 << crop_bits) - 1
            top, crop_height = box(crop & (1 << vertical_bits) - 1, height)
            left, crop_width = box(crop >> vertical_bits, width)
            erase = None
            if erased >> row & 1:
                before = (erased & (1 << row) - 1).bit_count()
                erase = boxes[4 * before : 4 * before + 4]
                assert erase[2] >= 1 and erase[3] >= 1
                assert erase[0] + erase[2] <= view_height and erase[1] + erase[3] <= view_width
            entries = [ops[slot * drawn + row] for slot in range(num_ops)]
            classes = class_tables[-1]
            if partner_classes and partner_entries and partnered >> row & 1:
                classes = class_tables[partner_places[rank(partnered, row)]]
            view: dict[str, Any] = {
                "crop": (top, left, crop_height, crop_width),
                "flip": bool(flips >> row & 1),
                "ops": [(op_ids[entry], op_magnitudes[entry]) for entry in entries],
                "erase": erase,
                "ids": [classes[class_indices[place * views + line]] for place in range(topk)],
                "probs": probabilities(line),
            }
            if mixing:
                view |= mix_of(row, line) | {"swapped": bool(double and line % 2)}
            assert all(op <= 17 and math.isfinite(magnitude) for op, magnitude in view["ops"])
            assert len(set(view["ids"])) == topk
            assert all(a >= b for a, b in zip([1.0, *view["probs"]], [*view["probs"], 0.0], strict=True))
            out.append(view)
        return out

    if groups == 1:
        return group(views)
    assert position == len(data)
    out = []
    for start, part in zip(range(0, views, group_rows), parts[1:], strict=True):
        data, position = part, 0
        out += group(min(group_rows, views - start))
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
        assert ("partner" in view) == (loaded.mix is not None)
        if (mix := loaded.mix) is None:
            continue
        assert {"self": -2, None: -1}.get(view["partner"], view["partner"]) == mix.partner[row]
        assert (view["swapped"], view["lam"]) == (mix.swapped[row], mix.lam[row])
        assert (view["cut"] or (0, 0, 0, 0)) == tuple(mix.cut[row].tolist())
        other, own = view["partner_view"], mix.views
        assert other["crop"] == tuple(own.crop[row].tolist()) and other["flip"] == own.flip[row]
        assert other["ops"] == list(zip(own.ops[row].tolist(), own.magnitudes[row].tolist(), strict=True))
        assert (other["erase"] or (0, 0, 0, 0)) == tuple(own.erase[row].tolist())


@pytest.mark.parametrize("encoding", ["root8", "log8", "float16", "float32"])
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
    encoding=st.sampled_from(["root8", "log8", "float16", "float32"]),
    log_step=st.floats(0.1, 1.0),
    group_rows=st.integers(1, 20),
)
def test_second_reader_agrees_on_any_record(
    seed: int,
    image: tuple[int, int],
    view_size: tuple[int, int],
    encoding: Any,
    log_step: float,
    group_rows: int,
    **shape: Any,
) -> None:
    stored = random_reinforcements(np.random.default_rng(seed), image=image, view_size=view_size, **shape)
    frame = encode(
        stored,
        image_height=image[0],
        image_width=image[1],
        view_size=view_size,
        probabilities=encoding,
        log_step=log_step,
        group_rows=min(group_rows, len(stored)),
    )
    assert_agrees(frame, decode(frame).reinforcements)
