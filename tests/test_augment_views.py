"""Views: checks, row selection and the packed form."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dali_dr.augment.operations import OP_NAMES
from dali_dr.augment.views import Views


def make(rows: int = 3, num_ops: int = 2, **columns: Any) -> Views:
    defaults: dict[str, Any] = {
        "crop": np.tile(np.array([1, 2, 30, 40], np.int32), (rows, 1)),
        "flip": np.arange(rows) % 2 == 1,
        "ops": np.full((rows, num_ops), 5, np.uint8),
        "magnitudes": np.full((rows, num_ops), -9.0, np.float32),
        "erase": np.tile(np.array([0, 0, 5, 6], np.int32), (rows, 1)),
    }
    return Views(**(defaults | columns))


@st.composite
def any_views(draw: st.DrawFn) -> Views:
    rows, num_ops = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    boxes = hnp.arrays(np.int32, (rows, 4))
    return Views(
        crop=draw(boxes),
        flip=draw(hnp.arrays(np.bool_, rows)),
        ops=draw(hnp.arrays(np.uint8, (rows, num_ops), elements=st.integers(0, len(OP_NAMES) - 1))),
        magnitudes=draw(hnp.arrays(np.float32, (rows, num_ops), elements=st.floats(width=32))),
        erase=draw(boxes),
    )


@settings(max_examples=100, deadline=None)
@given(any_views())
def test_unpack_inverts_pack_bit_for_bit(views: Views) -> None:
    packed = views.pack()
    assert packed.dtype == np.int32 and packed.shape == (len(views), 10 + 2 * views.num_ops)
    assert Views.unpack(packed) == views
    np.testing.assert_array_equal(Views.unpack(packed).pack(), packed)


def test_packed_words_are_those_of_the_contract() -> None:
    views = make(
        rows=1,
        flip=np.array([True]),
        ops=np.array([[1, 11]], np.uint8),
        magnitudes=np.array([[-0.5, 178.5]], np.float32),
        erase=np.array([[7, 8, 9, 10]], np.int32),
    )
    minus_half, threshold = -0x41000000, 0x43328000  # IEEE 754 bits of -0.5f (0xBF000000) and 178.5f
    assert views.pack().tolist() == [[1, 2, 30, 40, 1, 7, 8, 9, 10, 2, 1, minus_half, 11, threshold]]


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (4, 2, "flip"),
        (4, -1, "flip"),
        (9, 1, "op count"),
        (9, 3, "op count"),
        (10, 18, "op id"),
        (12, -1, "op id"),
    ],
)
def test_unpack_names_the_bad_row(word: int, value: int, message: str) -> None:
    packed = make().pack()
    packed[1, word] = value
    with pytest.raises(ValueError, match=f"view 1: {message}"):
        Views.unpack(packed)


@pytest.mark.parametrize(
    "packed",
    [np.zeros((2, 9), np.int32), np.zeros((2, 11), np.int32), np.zeros((2, 10)), np.zeros(10, np.int32)],
)
def test_unpack_rejects_wrong_shapes_and_types(packed: np.ndarray) -> None:
    with pytest.raises(ValueError, match="packed views"):
        Views.unpack(packed)


@pytest.mark.parametrize(
    ("column", "row", "message"),
    [
        ("crop", (-1, 0, 5, 5), "crop"),
        ("crop", (0, -1, 5, 5), "crop"),
        ("crop", (0, 0, 0, 5), "crop"),
        ("crop", (0, 0, 5, -5), "crop"),
        ("crop", (1, 0, 100, 5), "crop"),
        ("crop", (0, 1, 5, 200), "crop"),
        ("crop", (2**31 - 1, 0, 2**31 - 1, 5), "crop"),
        ("ops", (0, 18), "op index"),
        ("magnitudes", (0.0, np.nan), "magnitude"),
        ("magnitudes", (np.inf, 0.0), "magnitude"),
        ("erase", (-1, 0, 5, 5), "erase"),
        ("erase", (220, 0, 5, 5), "erase"),
        ("erase", (0, 0, 5, 225), "erase"),
        ("erase", (0, 0, 5, 0), "erase"),
        ("erase", (3, 0, 0, 0), "erase"),
    ],
)
def test_validate_names_the_bad_row(column: str, row: tuple[float, ...], message: str) -> None:
    views = make()
    views.validate(100, 200, 224)
    getattr(views, column)[2] = row
    with pytest.raises(ValueError, match=rf"view 2: {message}"):
        views.validate(100, 200, 224)


@pytest.mark.parametrize(
    ("op", "good", "bad", "message"),
    [
        ("Hue", [-0.5, 0.0, 0.5], [0.51, -0.6, 3.0], "Hue is no value from -0.5 to 0.5"),
        ("GaussianBlur", [1e-30, 0.1, 300.0], [0.0, -1.0], "GaussianBlur is no value"),
        ("WindowTop", [0.0, 31.0], [0.5, -1.0], "WindowTop is no whole number"),
        ("WindowLeft", [0.0, 8191.0], [1e-3, -2.0], "WindowLeft is no whole number"),
        ("Posterize", [-3.0, 0.5, 99.0], [], ""),
    ],
)
def test_validate_knows_the_limits_of_magnitudes(op: str, good: list[float], bad: list[float], message: str) -> None:
    views = make()
    views.ops[2, 1] = OP_NAMES.index(op)
    for magnitude in good:
        views.magnitudes[2, 1] = magnitude
        views.validate(100, 200, 224)
    for magnitude in bad:
        views.magnitudes[2, 1] = magnitude
        with pytest.raises(ValueError, match=f"view 2: magnitude .* of {message}"):
            views.validate(100, 200, 224)


def test_validate_accepts_the_whole_image_and_no_erase() -> None:
    whole = np.tile(np.array([0, 0, 100, 200], np.int32), (3, 1))
    make(crop=whole, erase=np.zeros((3, 4), np.int32)).validate(100, 200, 224)
    make(rows=0).validate(100, 200, 224)
    make(num_ops=0).validate(100, 200, 224)


@pytest.mark.parametrize(
    "columns",
    [
        {"crop": np.zeros((3, 4), np.int64)},
        {"crop": np.zeros((3, 5), np.int32)},
        {"erase": np.zeros((2, 4), np.int32)},
        {"flip": np.zeros(3, np.uint8)},
        {"flip": np.zeros((3, 1), np.bool_)},
        {"ops": np.zeros((3, 1), np.uint8)},
        {"magnitudes": np.zeros((3, 2), np.float64)},
    ],
)
def test_construction_rejects_wrong_columns(columns: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"^Views"):
        make(**columns)


@dataclasses.dataclass(frozen=True, eq=False)
class Scored(Views):
    score: np.ndarray


def test_take_keeps_subclass_and_order() -> None:
    base = make(rows=4)
    crop = base.crop.copy()
    crop[:, 0] = [10, 11, 12, 13]
    columns = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)} | {"crop": crop}
    views = Scored(**columns, score=np.array([0.0, 0.1, 0.2, 0.3]))
    taken = views.take([3, 1, 1])
    assert type(taken) is Scored
    assert taken.crop[:, 0].tolist() == [13, 11, 11] and taken.score.tolist() == [0.3, 0.1, 0.1]
    assert views.take(slice(1, 3)) == views.take(np.array([False, True, True, False]))
    assert len(views.take([])) == 0
    assert views.take([0, 1, 2, 3]) == views and views.take([0]) != views.take([1])
    assert views != Views(**columns)
