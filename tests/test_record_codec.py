"""The record codec: round trips, bounds of the lossy encodings; bad bytes raise RecordError and nothing else."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER, Mix, Views, no_partner_views
from dali_dr.errors import RecordError
from dali_dr.record.decode import Record, decode
from dali_dr.record.encode import encode
from dali_dr.record.labels import Reinforcements, densify, order_by_confidence, sparsify


def random_reinforcements(
    rng: np.random.Generator,
    *,
    views: int = 7,
    num_ops: int = 2,
    topk: int = 5,
    num_classes: int = 1000,
    magnitudes: int = 12,
    image: tuple[int, int] = (375, 500),
    view_size: tuple[int, int] = (224, 224),
    erased: float = 0.25,
    sharpness: float = 3.0,
    partners: int | None = None,
    double: bool = False,
    own_mixes: bool = False,
    grid: bool = True,
) -> Reinforcements:
    """Valid reinforcements with all kinds of boxes; float32 probabilities of a softmax over ``num_classes``."""

    def boxes(height: int, width: int) -> np.ndarray:
        size = np.stack([rng.integers(1, side + 1, views) for side in (height, width)], axis=1)
        start = (rng.random((views, 2)) * (np.array([height, width]) - size + 1)).astype(np.int64)
        return np.hstack([start, size]).astype(np.int32)

    erase = boxes(*view_size) * (rng.random((views, 1)) < erased).astype(np.int32)
    table = rng.normal(0, 50, magnitudes).astype(np.float32)
    pool = np.sort(rng.choice(num_classes, min(num_classes, max(2 * topk, 40)), replace=False))
    logits = sharpness * rng.normal(size=(views, len(pool)))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    columns, values = sparsify(probs / probs.sum(axis=1, keepdims=True), topk)
    own = Reinforcements(
        crop=boxes(*image),
        flip=rng.random(views) < 0.5,
        ops=rng.integers(0, 14, (views, num_ops), dtype=np.uint8),
        magnitudes=table[rng.integers(0, magnitudes, (views, num_ops))],
        erase=erase,
        soft_ids=pool[columns].astype(np.int32),
        soft_probs=values,
    )
    if partners is None:
        return own
    # partners: how many images there are to be mixed with; 0: the image itself.
    numbers = rng.choice(2**31 - 1, max(partners, 1), replace=False).astype(np.int32)
    partner = numbers[rng.integers(0, len(numbers), views)] if partners else np.full(views, SELF_PARTNER, np.int32)
    alone = (rng.random(views) < 0.3) & (not double)
    size = image if partners == 0 else (65535, 65535)
    lam = rng.integers(0, 65536, views) / 65536 if grid else rng.random(views)
    mix = Mix(
        np.where(alone, np.int32(NO_PARTNER), partner),
        Views(
            crop=boxes(*size),
            flip=rng.random(views) < 0.5,
            ops=rng.integers(0, 14, (views, num_ops), dtype=np.uint8),
            magnitudes=table[rng.integers(0, magnitudes, (views, num_ops))],
            erase=boxes(*view_size) * (rng.random((views, 1)) < erased).astype(np.int32),
        ),
        np.where(alone | (rng.random(views) < 0.5), 1, lam).astype(np.float32),
        boxes(*view_size) * ((rng.random(views) < 0.5) & ~alone)[:, None].astype(np.int32),
        np.zeros(views, np.bool_),
    )
    nothing = no_partner_views(views, num_ops)
    for name in ("crop", "flip", "ops", "magnitudes", "erase"):
        getattr(mix.views, name)[alone] = getattr(nothing, name)[alone]
    if not double:
        return replace(own, mix=mix)
    pairs = Views.take(replace(own, mix=mix), np.arange(views) // 2)  # an even number of views
    assert pairs.mix is not None
    pairs.mix.swapped[1::2] = True
    if own_mixes:  # of rows that were drawn, and not taken
        pairs.mix.lam[1::2], pairs.mix.cut[1::2] = mix.lam[views // 2 :], mix.cut[views // 2 :]
    return Reinforcements.from_views(pairs, own.soft_ids, own.soft_probs)


# Every branch of the layout: index widths, flags, empty columns, one-pixel axes, odd N.
SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "one view": {"views": 1},
    "odd": {"views": 33, "topk": 3},
    "no operations": {"num_ops": 0},
    "one operation": {"num_ops": 1},
    "three operations": {"num_ops": 3},
    "wide operation table": {"views": 400, "num_ops": 3, "magnitudes": 2000},
    "no predictions": {"topk": 0},
    "one class": {"topk": 1},
    "twelve classes": {"topk": 12},
    "wide classes": {"num_classes": 2_000_000},
    "wide class table": {"views": 50, "topk": 300},
    "nothing but crops": {"topk": 0, "num_ops": 0, "erased": 0.0},
    "all erased": {"erased": 1.0},
    "large view": {"view_size": (256, 300), "erased": 0.7},
    "one-pixel image": {"image": (1, 1)},
    "one row of pixels": {"image": (1, 700), "views": 9},
    "largest image": {"image": (65535, 65535), "views": 65},
    "one-pixel view": {"view_size": (1, 1), "erased": 0.5},
    "mixed": {"views": 33, "partners": 5},
    "mixed, many partners": {"views": 400, "partners": 300},
    "mixed, wide class table": {"views": 90, "topk": 10, "num_classes": 5000, "partners": 4, "sharpness": 0.0},
    "mixed, wider classes": {"views": 70, "topk": 10, "num_classes": 2_000_000, "partners": 3, "own_pools": True},
    "mixed, any weight": {"views": 20, "partners": 2, "grid": False, "num_ops": 0},
    "mixed with itself": {"views": 17, "partners": 0, "erased": 1.0},
    "double-mix": {"views": 18, "partners": 3, "double": True},
    "own mixes": {"views": 18, "partners": 3, "double": True, "own_mixes": True},
    "own mixes, wide weights": {"views": 4, "partners": 0, "double": True, "own_mixes": True, "grid": False},
    "own mixes, groups": {"views": 18, "partners": 3, "double": True, "own_mixes": True, "group_rows": 8},
    "double-mix with itself": {"views": 2, "partners": 0, "double": True, "topk": 0},
    "mixed, large view": {"views": 9, "partners": 3, "view_size": (300, 256), "erased": 0.7},
    "two groups": {"views": 20, "group_rows": 16},
    "groups of one view": {"views": 3, "group_rows": 1},
    "groups, three of seven": {"views": 21, "group_rows": 7, "num_ops": 3, "erased": 0.5},
    "groups of no bytes": {"views": 4, "group_rows": 3, "image": (1, 1), "num_ops": 0, "topk": 0, "erased": 0.0},
    "groups, wide tables": {"views": 400, "num_ops": 3, "magnitudes": 2000, "topk": 300, "num_classes": 2000},
    "mixed, groups": {"views": 33, "partners": 5, "group_rows": 8},
    "mixed, groups and class tables": {
        "views": 90, "topk": 10, "num_classes": 5000, "partners": 4, "sharpness": 0.0, "own_pools": True,
        "group_rows": 40,
    },
    "double-mix, groups": {"views": 18, "partners": 3, "double": True, "group_rows": 8},
}  # fmt: skip


def record_of(name: str, encoding: Any = "float32", seed: int = 0) -> tuple[Reinforcements, bytes]:
    shape = dict(SHAPES[name])
    own_pools = shape.pop("own_pools", name == "mixed, wide class table")
    group_rows = shape.pop("group_rows", None)
    stored = random_reinforcements(np.random.default_rng(seed), **shape)
    if own_pools:  # more than 256 classes in all, as views of many partners have
        rng = np.random.default_rng(seed)
        ids = [rng.choice(shape["num_classes"], shape["topk"], replace=False) for _ in range(shape["views"])]
        stored = replace(stored, soft_ids=np.array(ids, np.int32))
    height, width = shape.get("image", (375, 500))
    view_size = shape.get("view_size", (224, 224))
    frame = encode(
        stored,
        image_height=height,
        image_width=width,
        view_size=view_size,
        probabilities=encoding,
        group_rows=group_rows,
    )
    return stored, frame


def assert_equal_but_probabilities(a: Reinforcements, b: Reinforcements) -> None:
    assert replace(a, soft_probs=a.soft_probs * 0) == replace(b, soft_probs=b.soft_probs * 0)


@pytest.mark.parametrize("name", SHAPES)
def test_float32_is_lossless(name: str) -> None:
    stored, frame = record_of(name)
    record = decode(frame)
    assert record.reinforcements == stored
    assert (record.image_height, record.image_width) == SHAPES[name].get("image", (375, 500))
    assert record.view_size == SHAPES[name].get("view_size", (224, 224))
    assert (record.probabilities, record.log_step) == ("float32", 0.0)


@pytest.mark.parametrize("name", SHAPES)
def test_float16_rounds_to_nearest_and_touches_nothing_else(name: str) -> None:
    stored, frame = record_of(name, "float16")
    loaded = decode(frame).reinforcements
    assert np.array_equal(loaded.soft_probs, stored.soft_probs.astype(np.float16).astype(np.float32))
    assert_equal_but_probabilities(loaded, stored)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("encoding", "log_step"), [("root8", 0), ("log8", np.float32(0.15))])
def test_codes_touch_only_probabilities(name: str, encoding: Any, log_step: float) -> None:
    stored, frame = record_of(name, encoding)
    record = decode(frame)
    assert_equal_but_probabilities(record.reinforcements, stored)
    record.reinforcements.validate(record.image_height, record.image_width, max(record.view_size))
    assert (record.probabilities, record.log_step) == (encoding, log_step)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    views=st.integers(1, 40),
    num_ops=st.integers(0, 3),
    topk=st.integers(0, 12),
    image=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    view_size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    erased=st.sampled_from([0.0, 0.3, 1.0]),
    group_rows=st.integers(1, 40),
)
def test_any_reinforcements_survive_unchanged(
    seed: int, image: tuple[int, int], view_size: tuple[int, int], group_rows: int, **shape: Any
) -> None:
    stored = random_reinforcements(np.random.default_rng(seed), image=image, view_size=view_size, **shape)
    frame = encode(
        stored,
        image_height=image[0],
        image_width=image[1],
        view_size=view_size,
        probabilities="float32",
        group_rows=min(group_rows, len(stored)),
    )
    assert decode(frame).reinforcements == stored


def of_probabilities(probs: Any) -> Reinforcements:
    """Reinforcements with the given (N, K) probabilities."""
    probs = np.asarray(probs, np.float32)
    base = random_reinforcements(np.random.default_rng(0), views=len(probs), topk=probs.shape[1])
    return replace(base, soft_probs=probs)


def through_log8(probs: Any, log_step: float = 0.15) -> np.ndarray:
    how: dict[str, Any] = {"probabilities": "log8", "log_step": log_step}
    frame = encode(of_probabilities(probs), image_height=375, image_width=500, view_size=(224, 224), **how)
    return decode(frame).reinforcements.soft_probs


def divergence(original: Any, stored: Any) -> np.ndarray:
    """KL(original ‖ stored) per row in nats, over the K classes and the rest as one further outcome."""

    def complete(probs: Any) -> np.ndarray:
        probs = np.asarray(probs, np.float64)
        rest = np.maximum(1 - probs.sum(axis=1, keepdims=True), 0)
        return np.asarray(np.hstack([probs, rest]) / (probs.sum(axis=1, keepdims=True) + rest))

    p, q = complete(original), complete(stored)
    # The rest is a difference of float32 numbers near 1, so it is known to about 1e-7 only.
    q[:, -1] = np.maximum(q[:, -1], 1e-7)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(p > 0, p * np.log(p / q), 0).sum(axis=1))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    topk=st.integers(1, 12),
    sharpness=st.floats(0, 12),
    log_step=st.floats(0.1, 1.0),
)
def test_log8_divergence_is_bounded(seed: int, topk: int, sharpness: float, log_step: float) -> None:
    rng = np.random.default_rng(seed)
    probs = random_reinforcements(rng, views=40, topk=topk, sharpness=sharpness).soft_probs
    bound = log_step**2 / 8  # Hoeffding's lemma for errors of ln p within ± log_step / 2
    assert divergence(probs, through_log8(probs, log_step)).max() <= bound * 1.001 + 2e-6


def test_log8_divergence_on_average() -> None:
    probs = random_reinforcements(np.random.default_rng(5), views=2000, topk=10, sharpness=1.0).soft_probs
    assert divergence(probs, through_log8(probs)).mean() < 1e-3


@pytest.mark.parametrize(
    "probs",
    [
        [0.99999994, 5e-9, 1e-9],
        [1.0, 0.0, 0.0],
        [1.0, 1e-38, 1e-45],
        [0.6, 0.4, 2e-7],  # the sum exceeds 1 in float32
        [1e-3, 1e-3, 1e-3],  # a uniform teacher of 1000 classes
        [1 / 3, 1 / 3, 1 / 3],
        [0.5, 0.0, 0.0],
        [1e-4, 9e-5, 0.0],
    ],
)
def test_log8_on_extreme_predictions(probs: list[float]) -> None:
    stored = through_log8([probs])
    assert np.isfinite(stored).all() and (stored[0, 1:] <= stored[0, :-1]).all() and stored.sum() <= 1 + 1e-6
    assert divergence([probs], stored)[0] <= 0.15**2 / 8
    assert np.array_equal(stored[0] == 0, np.asarray(probs, np.float32) == 0)


def test_log8_of_all_zeros_is_next_to_nothing() -> None:
    stored = through_log8([[0.0, 0.0, 0.0]])[0]
    assert 0 < stored[0] < 1e-6 and not stored[1:].any()


@pytest.mark.parametrize("encoding", ["log8", "float16", "float32"])
def test_storing_twice_changes_nothing(encoding: Any) -> None:
    _, frame = record_of("usual", encoding)
    record = decode(frame)
    again = encode(
        record.reinforcements, image_height=375, image_width=500, view_size=(224, 224), probabilities=encoding
    )
    assert again == frame


def test_classes_are_put_in_falling_order_and_rows_stay() -> None:
    stored = random_reinforcements(np.random.default_rng(1), views=20, topk=6)
    shuffled = np.random.default_rng(2).permutation(6)
    mixed = replace(stored, soft_ids=stored.soft_ids[:, shuffled], soft_probs=stored.soft_probs[:, shuffled])
    frame = encode(mixed, image_height=375, image_width=500, view_size=(224, 224), probabilities="float32")
    assert decode(frame).reinforcements == stored


def test_frame_says_its_size_and_needs_little_memory() -> None:
    _, member = record_of("wide operation table", "log8")
    for frame, content in zip(frames(member), contents(member), strict=True):
        facts = zstandard.get_frame_parameters(frame)
        assert facts.content_size == len(content)
        assert facts.has_checksum and facts.window_size <= 1 << 17


@pytest.mark.parametrize(("views", "groups"), [(199, 1), (200, 2), (400, 4), (450, 4)])
def test_a_group_has_100_rows_or_a_few_more(views: int, groups: int) -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=views)
    member = encode(stored, image_height=375, image_width=500, view_size=(224, 224))
    (group_rows,) = struct.unpack_from("<I", plain(member), 48)
    assert group_rows == -(-views // groups) >= 100
    assert len(contents(member)) == (1 if groups == 1 else 1 + groups)


@pytest.mark.parametrize("group_rows", [0, 8, -1])
def test_encode_refuses_bad_groups(group_rows: int) -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=7)
    with pytest.raises(RecordError, match=f"group_rows is {group_rows}"):
        encode(stored, image_height=375, image_width=500, view_size=(224, 224), group_rows=group_rows)
    pairs = random_reinforcements(np.random.default_rng(0), views=8, partners=2, double=True)
    with pytest.raises(RecordError, match=r"group_rows is 3.*even"):
        encode(pairs, image_height=375, image_width=500, view_size=(224, 224), group_rows=3)


def test_frames_are_those_of_the_groups() -> None:
    """The right bytes, cut into other frames, and frames that do not belong there."""
    _, member = record_of("groups, three of seven", "log8")
    parts = contents(member)
    assert [len(part) > 0 for part in parts] == [True] * 4 and framed(parts) != member
    assert decode(framed(parts)).reinforcements == decode(member).reinforcements
    head, first, second, third = parts
    for wrong, message in (
        ([b"".join(parts)], "number of zstd frames is 1; want 4 for 3 groups"),
        ([*parts, b""], "number of zstd frames is 5"),
        ([head, first, second + third], "number of zstd frames is 3"),
        ([head + first[:1], first[1:], second, third], "columns end at byte"),
        ([head[:-1], head[-1:] + first, second, third], "column op magnitudes"),
        ([head, first + second[:1], second[1:], third], "columns end at byte"),
        ([head, first[:-1], first[-1:] + second, third], "column probabilities"),
        ([head, first, second], "record_bytes"),
        ([*parts, *parts], "record_bytes"),
        ([b"", *parts], "record size is 0 bytes"),
    ):
        with pytest.raises(RecordError, match=message):
            decode(framed(wrong))
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", 1) + b"x"
    for bad in (member + b"\0", member + skippable, skippable + member):
        with pytest.raises(RecordError, match="zstd"):
            decode(bad)
    large = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    with pytest.raises(RecordError, match="content size"):
        decode(member + large)
    with pytest.raises(RecordError, match="content size is absent"):
        decode(member + zstandard.ZstdCompressor(write_content_size=False).compress(b"x"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": np.array([[0, 0, 376, 10]], np.int32)}, "view 0: crop"),
        ({"ops": np.array([[18, 0]], np.uint8)}, "view 0: op"),
        ({"magnitudes": np.array([[0, np.nan]], np.float32)}, "view 0: magnitude"),
        ({"erase": np.array([[0, 220, 5, 5]], np.int32)}, "view 0: erase"),
        ({"soft_ids": np.array([[4, 4]], np.int32)}, "view 0: class id twice"),
        ({"soft_ids": np.array([[4, -1]], np.int32)}, "view 0: class id outside"),
        ({"soft_probs": np.array([[1.5, 0]], np.float32)}, "view 0: probability outside"),
        ({"soft_probs": np.array([[np.nan, 0]], np.float32)}, "view 0: probability outside"),
        ({"soft_probs": np.array([[0.8, 0.3]], np.float32)}, "view 0: probabilities sum"),
    ],
)
def test_encode_refuses_reinforcements_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    stored = replace(random_reinforcements(np.random.default_rng(0), views=1, topk=2), **change)
    with pytest.raises(RecordError, match=message):
        encode(stored, image_height=375, image_width=500, view_size=(224, 224))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_height": 0}, "image height is 0"),
        ({"image_width": 65536}, "image width is 65536"),
        ({"view_size": (224, 0)}, "view width is 0"),
        ({"view_size": (20, 224)}, "erase box"),
        ({"probabilities": "log4"}, "probabilities is 'log4'"),
        ({"probabilities": "log8", "log_step": 0.0}, "log_step is 0.0"),
        ({"probabilities": "log8", "log_step": math.nan}, "log_step is nan"),
        ({"probabilities": "log8", "log_step": 0.01}, "log_step is 0.01"),
    ],
)
def test_encode_refuses_bad_arguments(change: dict[str, Any], message: str) -> None:
    stored = random_reinforcements(np.random.default_rng(0), view_size=(224, 224), erased=1.0)
    with pytest.raises(RecordError, match=message):
        encode(stored, **{"image_height": 375, "image_width": 500, "view_size": (224, 224), **change})


def test_encode_refuses_no_views() -> None:
    stored = random_reinforcements(np.random.default_rng(0))
    with pytest.raises(RecordError, match="number of views is 0"):
        encode(stored.take(slice(0)), image_height=375, image_width=500, view_size=(224, 224))


def frames(member: bytes) -> list[bytes]:
    """The zstd frames of a member, as libzstd finds their ends."""
    out = []
    while member:
        cut = zstandard.ZstdDecompressor().decompressobj()
        cut.decompress(member)
        out.append(member[: len(member) - len(cut.unused_data)])
        member = cut.unused_data
    return out


def contents(member: bytes) -> list[bytes]:
    return [zstandard.ZstdDecompressor().decompress(frame) for frame in frames(member)]


def framed(parts: list[bytes]) -> bytes:
    return b"".join(zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in parts)


def plain(member: bytes) -> bytearray:
    return bytearray(b"".join(contents(member)))


def decode_plain(record: bytes | bytearray, lengths: list[int] | None = None) -> Record:
    """Decodes a record's bytes, in one zstd frame or in frames whose contents have these lengths."""
    ends = np.cumsum(lengths or [len(record)])[:-1].tolist()
    parts = [record[start:end] for start, end in zip([0, *ends], [*ends, len(record)], strict=True)]
    return decode(framed([bytes(part) for part in parts]))


@pytest.mark.parametrize(
    ("offset", "form", "value", "message"),
    [
        (0, "4s", b"PK\3\4", "magic"),
        (4, "H", 3, "version is 3"),
        (6, "H", 64, "header_bytes is 64"),
        (8, "I", 7, "record_bytes is 7"),
        (12, "I", 128, "flags is 128"),
        (12, "I", 256, "flags is 256"),
        (12, "I", 1 << 24, "flags is 16777216"),
        (12, "I", 16, "flags is 16"),
        (12, "I", 32, "flags is 32"),
        (12, "I", 64, "flags is 64"),
        (12, "I", 40, "views is 7"),
        (12, "I", 11 | 128 | 10 << 24, "column"),
        (16, "I", 0, "views is 0"),
        (16, "I", 65537, "views is 65537"),
        (16, "I", 6, "group_rows is 7"),
        (16, "I", 8, "number of zstd frames is 1; want 3"),
        (20, "I", 0, "image_height is 0"),
        (20, "I", 65536, "image_height is 65536"),
        (24, "I", 0, "image_width is 0"),
        (24, "I", 2**32 - 1, "image_width is"),
        (28, "H", 0, "view_height is 0"),
        (30, "H", 0, "view_width is 0"),
        (32, "H", 17, "num_ops is 17"),
        (32, "H", 0, "op_entries"),
        (34, "H", 0, "op_entries is 0"),
        (36, "H", 65535, "class_entries"),
        (36, "H", 0, "class_entries"),
        (38, "H", 0, "class_entries is 0"),
        (40, "B", 4, "probability_encoding is 4"),
        (40, "B", 0, "log_step"),
        (41, "B", 1, "pair_rank is 1"),
        (42, "H", 1, "partner_entries"),
        (44, "f", 0.0, "log_step is 0"),
        (44, "f", -1.0, "log_step is -1"),
        (44, "f", math.inf, "log_step is inf"),
        (44, "f", math.nan, "log_step is nan"),
        (44, "f", 1e30, "weight of the rest"),
        (48, "I", 0, "group_rows is 0"),
        (48, "I", 8, "group_rows is 8"),
        (48, "I", 2**32 - 1, "group_rows is"),
        (48, "I", 6, "number of zstd frames is 1; want 3"),
    ],
)
def test_every_header_field_is_checked(offset: int, form: str, value: Any, message: str) -> None:
    stored = of_probabilities([[1e-4, 5e-5]] * 7)  # rest codes below 96
    record = plain(
        encode(stored, image_height=375, image_width=500, view_size=(224, 224), probabilities="log8", group_rows=7)
    )
    struct.pack_into("<" + form, record, offset, value)
    with pytest.raises(RecordError, match=message):
        decode_plain(record)


# Offsets in a record of one view, n = 2, K = 2: see the schema's table of columns. D = 2, M = 2, B = 34.
COLUMNS = {"classes": 52, "op ids": 55, "op magnitudes": 57, "crops": 65, "flips": 70, "erased": 71}
COLUMNS |= {"erase boxes": 72, "ops": 76, "class indices": 78, "probabilities": 80}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("classes", bytes(3), "class table"),
        ("op ids", b"\x12", "operation of row 0 is 18"),
        ("op magnitudes", struct.pack("<f", math.nan), "operation magnitude"),
        ("op magnitudes", struct.pack("<f", -math.inf), "operation magnitude"),
        ("ops", b"\x02", "operation table entries of row 0 is .2, "),
        ("crops", b"\xff" * 4, "vertical crop number"),
        ("crops", b"\0\0\xfe\xff\x03", "horizontal crop number"),
        ("crops", b"\0\0\0\0\x80", "unused bits"),
        ("flips", b"\x02", "unused bits"),
        ("erased", b"\x03", "unused bits"),
        ("erased", b"\x00", "columns end at"),
        ("erase boxes", bytes([0, 0, 0, 1]), "erase box"),
        ("erase boxes", bytes([100, 0, 125, 1]), "erase box"),
        ("class indices", b"\x02", "class table entries"),
        ("class indices", b"\x01\x01", "distinct"),
    ],
)
@pytest.mark.parametrize("encoding", ["root8", "log8", "float32"])
def test_every_column_is_checked(encoding: Any, column: str, value: bytes, message: str) -> None:
    record = one_view_record(encoding)
    record[COLUMNS[column] : COLUMNS[column] + len(value)] = value
    with pytest.raises(RecordError, match=message):
        decode_plain(record)


@pytest.mark.parametrize(
    ("encoding", "value", "message"),
    [
        ("float32", struct.pack("<2f", 0.1, 0.2), "falling"),
        ("float32", struct.pack("<2f", math.nan, 0.2), "0..1"),
        ("float32", struct.pack("<2f", 0.5, -0.2), "0..1"),
        ("float32", struct.pack("<2f", 1.5, 0.2), "0..1"),
        ("float16", struct.pack("<2e", 0.1, 0.2), "falling"),
        ("float16", struct.pack("<2e", math.inf, 0.2), "0..1"),
    ],
)
def test_probabilities_are_checked(encoding: Any, value: bytes, message: str) -> None:
    record = one_view_record(encoding)
    record[COLUMNS["probabilities"] :] = value
    with pytest.raises(RecordError, match=message):
        decode_plain(record)


def test_codes_above_255_are_refused() -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=1, topk=3, num_ops=0, erased=0)
    record = plain(encode(stored, image_height=375, image_width=500, view_size=(224, 224), probabilities="log8"))
    record[-2:] = b"\x80\x80"
    with pytest.raises(RecordError, match="logarithmic code of row 0 is 256"):
        decode_plain(record)


def one_view_record(encoding: Any) -> bytearray:
    stored = random_reinforcements(np.random.default_rng(3), views=1, topk=2, erased=1)
    stored = replace(stored, flip=np.array([True]), ops=np.array([[1, 2]], np.uint8))
    record = plain(encode(stored, image_height=375, image_width=500, view_size=(224, 224), probabilities=encoding))
    sizes = {"root8": 3, "log8": 2, "float16": 4, "float32": 8}
    assert len(record) == COLUMNS["probabilities"] + sizes[encoding]
    return record


@pytest.mark.parametrize("encoding", ["root8", "log8", "float16", "float32"])
def test_every_truncation_is_refused(encoding: Any) -> None:
    _, frame = record_of("usual", encoding)
    record = bytes(plain(frame))
    for length in range(len(record)):
        cut = bytearray(record[:length])
        for patched in (bytes(cut), bytes(cut[:8] + struct.pack("<I", length) + cut[12:])[:length]):
            with pytest.raises(RecordError):
                decode_plain(patched)
    for length in range(len(frame)):
        with pytest.raises(RecordError):
            decode(frame[:length])
    with pytest.raises(RecordError, match="zstd"):
        decode(frame + b"\0")


def test_a_frame_without_size_or_with_too_much_is_refused() -> None:
    record = bytes(plain(record_of("usual")[1]))
    with pytest.raises(RecordError, match="content size is absent"):
        decode(zstandard.ZstdCompressor(write_content_size=False).compress(record))
    with pytest.raises(RecordError, match=f"content size is {(64 << 20) + 1}"):
        decode(zstandard.ZstdCompressor().compress(bytes((64 << 20) + 1)))
    with pytest.raises(RecordError):
        decode(b"\x50\x2a\x4d\x18" + bytes(4))  # a skippable frame


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_raise_record_errors_only(data: bytes) -> None:
    for attempt in (decode, decode_plain):
        with pytest.raises(RecordError):
            attempt(data)


@pytest.mark.parametrize("encoding", ["root8", "log8", "float16", "float32"])
def test_mutations_raise_record_errors_only_or_give_valid_views(encoding: Any) -> None:
    rng = np.random.default_rng(11)
    accepted = 0
    for name in SHAPES:
        if name in ("wide operation table", "wide class table", "mixed, many partners", "groups, wide tables"):
            continue
        member = record_of(name, encoding)[1]
        record, lengths = plain(member), [len(part) for part in contents(member)]
        for _ in range(120):
            mutated = bytearray(record)
            for _ in range(rng.integers(1, 4)):
                place = rng.integers(0, 52) if rng.random() < 0.5 else rng.integers(0, len(mutated))
                mutated[place] = rng.integers(0, 256) if rng.random() < 0.7 else mutated[place] ^ 1
            try:
                loaded = decode_plain(mutated, lengths)
            except RecordError:
                continue
            accepted += 1
            values = replace(loaded.reinforcements, soft_probs=loaded.reinforcements.soft_probs / np.float32(12))
            values.validate(loaded.image_height, loaded.image_width, max(loaded.view_size))
    assert accepted > 20  # the mutations reach beyond the header


def mixed_record(**change: Any) -> tuple[Reinforcements, bytearray]:
    """One mixed view without operations and predictions.

    Columns from byte 52 + 4 (partner table) + 5 (crop) + 2 (flips, erased) + 4 on.
    """
    stored = random_reinforcements(np.random.default_rng(3), views=1, topk=0, num_ops=0, erased=1, partners=1)
    assert stored.mix is not None
    mix = replace(
        stored.mix,
        partner=np.array([7], np.int32),
        views=replace(
            stored.mix.views, crop=np.array([[1, 2, 300, 4]], np.int32), erase=np.array([[1, 2, 3, 4]], np.int32)
        ),
        lam=np.array([0.25], np.float32),
        cut=np.array([[5, 6, 7, 8]], np.int32),
    )
    stored = replace(stored, flip=np.array([True]), mix=replace(mix, **change))
    return stored, plain(encode(stored, image_height=375, image_width=500, view_size=(224, 224)))


# Offsets in that record: see the schema's table of columns.
MIX_COLUMNS = {"table": 52, "partnered": 67, "mixups": 68, "cutmixes": 69, "flips": 70, "erased": 71, "weights": 72}
MIX_COLUMNS |= {"low": 74, "partners": 78, "high": 79, "cutmix boxes": 83, "erase boxes": 87}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("table", struct.pack("<I", 2**31), "partner"),
        ("partnered", b"\x03", "unused bits"),
        ("partnered", b"\x00", "column"),
        ("mixups", b"\x02", "column|unused bits"),
        ("flips", b"\x02", "unused bits"),
        ("low", bytes([1, 2, 0, 0]), "partner crop"),  # no width
        ("high", bytes([255, 0, 1, 0]), "partner crop"),  # past the largest image
        ("partners", b"\x01", "partner table entry"),
        ("cutmix boxes", bytes([5, 6, 0, 8]), "cutmix box"),
        ("cutmix boxes", bytes([200, 6, 25, 8]), "cutmix box"),
        ("erase boxes", bytes([1, 2, 3, 0]), "partner erase box"),
    ],
)
def test_every_mix_column_is_checked(column: str, value: bytes, message: str) -> None:
    stored, record = mixed_record()
    assert len(record) == 91 and decode_plain(record).reinforcements == stored
    assert struct.unpack_from("<H", record, MIX_COLUMNS["weights"]) == (1 << 14,)
    record[MIX_COLUMNS[column] : MIX_COLUMNS[column] + len(value)] = value
    with pytest.raises(RecordError, match=message):
        decode_plain(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": np.array([np.nan], np.float32)}, "mixup weight"),
        ({"lam": np.array([1.5], np.float32)}, "mixup weight"),
        ({"cut": np.array([[0, 220, 5, 5]], np.int32)}, "cutmix box"),
        ({"cut": np.array([[0, 220, 5, 0]], np.int32)}, "cutmix box"),
        ({"partner": np.array([-3], np.int32)}, "partner"),
        ({"partner": np.array([NO_PARTNER], np.int32)}, "has no partner"),
        ({"swapped": np.array([True])}, "pairs"),
    ],
)
def test_encode_refuses_bad_mixes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        mixed_record(**change)


def test_encode_refuses_pairs_that_differ() -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=6, partners=2, double=True)
    for rows in ([0, 1, 2], [1, 0], [0, 3], [0, 1, 1, 0]):
        with pytest.raises(RecordError, match="double-mix"):
            encode(stored.take(rows), image_height=375, image_width=500, view_size=(224, 224))


def test_pairs_stay_together_in_order_of_confidence() -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=12, partners=2, double=True)
    order = order_by_confidence(stored).reshape(-1, 2)
    assert (order[:, 0] % 2 == 0).all() and (order[:, 1] == order[:, 0] + 1).all()
    totals = stored.soft_probs[order].max(axis=2).sum(axis=1)
    assert (np.diff(totals) <= 0).all() and sorted(order.ravel()) == list(range(12))


def test_order_by_confidence_is_stable() -> None:
    stored = of_probabilities([[0.2, 0.1], [0.9, 0.0], [0.2, 0.2], [0.5, 0.4]])
    assert order_by_confidence(stored).tolist() == [1, 3, 0, 2]
    nothing = random_reinforcements(np.random.default_rng(0), views=3, topk=0)
    assert order_by_confidence(nothing).tolist() == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_sparsify_takes_the_largest_and_of_equals_the_lower_id(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.integers(0, 4, (5, 9)).astype(np.float32) / 32  # many ties
    want = [sorted(range(9), key=lambda c: (-row[c], c))[:k] for row in probs]
    ids, values = sparsify(probs, k)
    assert ids.dtype == np.int32 and values.dtype == np.float32 and ids.tolist() == want
    assert np.array_equal(values, np.take_along_axis(probs, ids, axis=1))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch_ids, torch_values = sparsify(torch.from_numpy(probs).to(dtype), k)
        assert torch_ids.dtype == torch.int32 and torch_values.dtype == torch.float32
        assert torch_ids.tolist() == want and np.array_equal(torch_values.numpy(), values)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_densify_rests(kind: str) -> None:
    ids, probs = np.array([[2, 0], [1, 3], [0, 1]], np.int32), np.array([[0.5, 0.2], [0.7, 0.300001], [0, 0]])
    wants: dict[Any, Any] = {
        "spread": [[0.2, 0.1, 0.5, 0.1, 0.1], [0, 0.7, 0, 0.300001, 0], [0, 0, 1 / 3, 1 / 3, 1 / 3]],
        "drop": [[0.2, 0, 0.5, 0, 0], [0, 0.7, 0, 0.300001, 0], [0] * 5],
        "renormalise": [
            [0.2 / 0.7, 0, 0.5 / 0.7, 0, 0],
            [0, 0.7 / 1.000001, 0, 0.300001 / 1.000001, 0],
            [0] * 5,
        ],
    }
    for rest, want in wants.items():
        if kind == "numpy":
            got = densify(ids, probs, 5, rest)
        else:
            got = densify(torch.from_numpy(ids), torch.from_numpy(probs), 5, rest).numpy()
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_densify_inverts_sparsify() -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(6), 4).astype(np.float32)
    ids, values = sparsify(probs, 6)
    assert np.array_equal(densify(ids, values, 6), probs)
    with pytest.raises(ValueError, match="K <= num_classes = 5"):
        densify(ids, values, 5)


def test_take_keeps_predictions_and_type() -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=6)
    taken = stored.take([4, 1])
    assert type(taken) is Reinforcements and np.array_equal(taken.soft_ids, stored.soft_ids[[4, 1]])
    views = Views(stored.crop, stored.flip, stored.ops, stored.magnitudes, stored.erase)
    assert Reinforcements.from_views(views, stored.soft_ids, stored.soft_probs) == stored
    with pytest.raises(ValueError, match="differ in shape"):
        replace(stored, soft_ids=stored.soft_ids[:, :2])


def test_predictions_that_rise_do_not_validate() -> None:
    stored = of_probabilities([[0.3, 0.2], [0.2, 0.3]])
    with pytest.raises(ValueError, match="view 1: probabilities are not falling"):
        stored.validate(375, 500, 224)


def test_sparsify_takes_negative_zero_for_zero() -> None:
    assert sparsify(np.array([[0.5, -0.0, 0.0]], np.float32), 3)[0].tolist() == [[0, 1, 2]]
    assert sparsify(torch.tensor([[0.5, -0.0, 0.0]]), 3)[0].tolist() == [[0, 1, 2]]


def test_the_class_table_starts_with_the_most_frequent() -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=5, topk=2)
    stored = replace(stored, soft_ids=np.array([[1, 7], [7, 2], [3, 7], [3, 1], [9, 7]], np.int32))
    record = plain(encode(stored, image_height=375, image_width=500, view_size=(224, 224)))
    packed = sum(id_ << 4 * place for place, id_ in enumerate((7, 1, 3, 2, 9)))  # 4 bits hold 9
    assert record[52:55] == packed.to_bytes(3, "little")


@pytest.mark.parametrize("entries", [255, 256, 257])
def test_column_widths_change_where_the_layout_says(entries: int) -> None:
    """Tables of 256 entries have u8 indices and of 257 u16; views of 255 pixels u8 boxes and of 256 u16."""
    stored = random_reinforcements(np.random.default_rng(0), views=entries, num_ops=1, topk=1)
    numbers = np.arange(entries, dtype=np.int32)
    side = entries - 1  # 254, 255, 256
    stored = replace(
        stored,
        magnitudes=numbers[:, None].astype(np.float32),
        ops=np.full((entries, 1), 3, np.uint8),
        soft_ids=65536 - entries + numbers[:, None],  # up to 65535: u16
        crop=np.tile(np.array([0, 0, 1, 1], np.int32), (entries, 1)),
        flip=np.zeros(entries, np.bool_),
        erase=np.tile(np.array([0, 0, side, side], np.int32), (entries, 1)),
    )
    frame = encode(stored, image_height=1, image_width=1, view_size=(side, side))
    index, edge = 1 + (entries > 256), 1 + (side > 255)
    tables = 52 + 2 * entries + 5 * entries
    codes = 2  # of a class and the rest
    assert len(plain(frame)) == tables + entries * (index + index + 4 * edge + codes) + (entries + 7) // 8
    assert_equal_but_probabilities(decode(frame).reinforcements, stored)


def test_the_first_number_that_is_no_crop_is_refused() -> None:
    record = one_view_record("log8")
    for number, message in ((375 * 376 // 2, "vertical"), ((500 * 501 // 2) << 17, "horizontal")):
        for step in (0, -1):
            value = number + (step if message == "vertical" else step << 17)
            record[COLUMNS["crops"] : COLUMNS["crops"] + 5] = value.to_bytes(5, "little")
            if step:
                decode_plain(record)
            else:
                with pytest.raises(RecordError, match=f"{message} crop number of row 0 is"):
                    decode_plain(record)
