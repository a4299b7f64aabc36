"""Records written in C++ hold what Python's `encode` writes, byte for byte before compression, and refuse what it refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_record_codec import SHAPES, random_reinforcements, record_of

from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER
from dali_dr.errors import RecordError
from dali_dr.record.decode import decode
from dali_dr.record.encode import encode
from dali_dr.record.frames import decompress, split
from dali_dr.record.labels import Reinforcements, order_by_confidence
from dali_dr.record.layout import ENCODINGS
from dali_dr.record.native import write

Rng = np.random.Generator


def reference(stored: Reinforcements, **settings: Any) -> bytes:
    """The record that `write_shards` stores."""
    try:
        order = order_by_confidence(stored)
    except ValueError as error:  # an odd number of rows cannot be pairs
        raise RecordError(str(error)) from error
    return encode(stored.take(order), **settings)


def contents(member: bytes) -> list[bytes]:
    return [decompress(frame) for frame in split(member)]


def outcome(writer: Any, stored: Reinforcements, **settings: Any) -> list[bytes] | None:
    """The contents of the frames, None where it is refused."""
    try:
        return contents(writer(stored, **settings))
    except RecordError:
        return None


def settings_of(name: str, encoding: str) -> dict[str, Any]:
    height, width = SHAPES[name].get("image", (375, 500))
    size = SHAPES[name].get("view_size", (224, 224))
    return {"image_height": height, "image_width": width, "view_size": size, "probabilities": encoding}


def shuffled(rng: Rng, stored: Reinforcements) -> Reinforcements:
    """The same with the classes of each row in any order."""
    order = rng.permuted(np.tile(np.arange(stored.topk), (len(stored), 1)), axis=1)
    ids, probs = (np.take_along_axis(column, order, axis=1) for column in (stored.soft_ids, stored.soft_probs))
    return replace(stored, soft_ids=ids, soft_probs=probs)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_shape_of_record(encoding: str) -> None:
    sizes = np.zeros(2)
    for name in SHAPES:
        stored, _ = record_of(name, encoding)
        settings = settings_of(name, encoding)
        python, native = reference(stored, **settings), write(stored, **settings)
        assert contents(native) == contents(python), name
        mixed_up = shuffled(np.random.default_rng(0), stored)
        assert contents(write(mixed_up, **settings)) == contents(reference(mixed_up, **settings)), name
        sizes += len(python), len(native)
    assert sizes[1] <= 1.005 * sizes[0]  # another libzstd compresses to other bytes


PROBABILITIES = ("usual", "ties", "zeros", "one-hot", "tiny", "of a record", "nearly of a record", "too much")


def probabilities(rng: Rng, kind: str, probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Others than a softmax gives."""
    if kind == "ties":
        return (np.floor(probs * 20) / 20).astype(np.float32)
    if kind == "zeros":
        return probs * (rng.random(probs.shape) < 0.5)
    if kind == "one-hot":
        return (probs == probs.max(axis=1, keepdims=True, initial=0)).astype(np.float32)
    if kind == "tiny":
        return (probs.astype(np.float64) ** rng.integers(1, 40)).astype(np.float32)
    if kind == "nearly of a record":
        return np.where(rng.random(probs.shape) < 0.2, np.nextafter(probs, np.float32(0)), probs)
    if kind == "too much":
        return np.minimum(probs * np.float32(1 + rng.choice([1e-4, 9e-4, 2e-3, -0.3])), np.float32(1))
    return probs


@st.composite
def cases(draw: st.DrawFn) -> tuple[Reinforcements, dict[str, Any]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    double = draw(st.booleans())
    partners = draw(st.sampled_from([None, None, 0, 1, 3, 300]))
    views = draw(st.one_of(st.integers(1, 30), st.sampled_from([199, 200, 313])))
    image, size = (
        draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (draw(st.sampled_from([9, 3000])), 400)
    )
    stored = random_reinforcements(
        rng,
        views=2 * views if double and partners is not None else views,
        num_ops=draw(st.sampled_from([0, 1, 2, 16])),
        magnitudes=draw(st.sampled_from([1, 12, 3000])),
        topk=draw(st.sampled_from([0, 1, 2, 3, 7, 8, 9, 10, 17, 129, 300])),
        num_classes=draw(st.sampled_from([300, 1000, 70_000, 3_000_000])),
        image=image,
        view_size=size,
        erased=draw(st.sampled_from([0.0, 0.3, 1.0])),
        sharpness=draw(st.sampled_from([0.0, 0.5, 3.0, 20.0])),
        partners=partners,
        double=double and partners is not None,
        own_mixes=draw(st.booleans()),
        grid=draw(st.booleans()),
    )
    if draw(st.booleans()):  # many classes in all, as views of many partners have
        pool = np.arange(stored.topk + draw(st.sampled_from([0, 200, 70_000])), dtype=np.int32)
        ids = np.array([rng.choice(pool, stored.topk, replace=False) for _ in range(len(stored))], np.int32)
        stored = replace(stored, soft_ids=ids.reshape(stored.soft_ids.shape))
    settings = {
        "image_height": image[0],
        "image_width": image[1],
        "view_size": size,
        "probabilities": draw(st.sampled_from(ENCODINGS)),
        "log_step": draw(st.sampled_from([0.1, 0.15, 0.37, 1.0])),
    }
    kind = draw(st.sampled_from(PROBABILITIES))
    if "of a record" in kind:
        stored = decode(encode(stored, **settings)).reinforcements
    stored = replace(stored, soft_probs=probabilities(rng, kind, stored.soft_probs))
    return shuffled(rng, stored) if draw(st.booleans()) else stored, settings


@settings(max_examples=220, deadline=None)
@given(case=cases())
def test_any_reinforcements(case: tuple[Reinforcements, dict[str, Any]]) -> None:
    stored, settings = case
    assert outcome(write, stored, **settings) == outcome(reference, stored, **settings)


NUMBERS: dict[Any, list[Any]] = {
    np.int32: [-(2**31), -3, SELF_PARTNER, NO_PARTNER, 0, 1, 223, 224, 65535, 65536, 2**31 - 1],
    np.uint8: [0, 13, 14, 255],
    np.bool_: [False, True],
    np.float32: [-1, -0.0, 0, 1e-45, 0.25, 0.3, 1, np.nextafter(np.float32(1), np.float32(2)), np.nan, np.inf, -np.inf],
}


@settings(max_examples=220, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), partners=st.sampled_from([None, 0, 2]), double=st.booleans(), data=st.data())
def test_what_python_refuses_is_refused(seed: int, partners: int | None, double: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    double = double and partners is not None
    stored = random_reinforcements(rng, views=4, topk=3, view_size=(200, 224), partners=partners, double=double)
    columns = {name: getattr(stored, name) for name in ("crop", "flip", "ops", "magnitudes", "erase")}
    columns |= {"soft_ids": stored.soft_ids, "soft_probs": stored.soft_probs}
    if stored.mix is not None:
        columns |= {f"mix.{name}": getattr(stored.mix, name) for name in ("partner", "lam", "cut", "swapped")}
        columns |= {
            f"views.{name}": getattr(stored.mix.views, name) for name in ("crop", "flip", "ops", "magnitudes", "erase")
        }
    for _ in range(data.draw(st.integers(1, 3))):
        column = columns[data.draw(st.sampled_from(sorted(columns)))]
        value = data.draw(st.sampled_from(NUMBERS[column.dtype.type]))
        column.reshape(-1)[data.draw(st.integers(0, column.size - 1))] = value
    settings = {"image_height": 375, "image_width": 500, "view_size": (200, 224)}
    settings |= {"probabilities": data.draw(st.sampled_from(ENCODINGS))}
    assert outcome(write, stored, **settings) == outcome(reference, stored, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_height": 0}, "0"),
        ({"image_width": 65536}, "image width is 65536"),
        ({"image_width": 2**32}, "4294967296"),
        ({"view_size": (224, 0)}, "0"),
        ({"view_size": (20, 224)}, "erase box"),
        ({"probabilities": "log4"}, "'log4'"),
        ({"probabilities": "log8", "log_step": 0.0}, "log_step is 0"),
        ({"probabilities": "log8", "log_step": float("nan")}, "log_step is nan"),
        ({"num_outputs": 3}, "class id"),
        ({"num_outputs": 0}, "outputs"),
    ],
)
def test_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    stored = random_reinforcements(np.random.default_rng(0), erased=1.0)
    with pytest.raises(RecordError, match=message):
        write(stored, **{"image_height": 375, "image_width": 500, "view_size": (224, 224), **change})


def test_what_a_record_cannot_hold_is_refused() -> None:
    settings = {"image_height": 375, "image_width": 500, "view_size": (224, 224), "probabilities": "float32"}
    rng = np.random.default_rng(0)
    few = random_reinforcements(rng, views=3, topk=3)
    many = few.take(np.zeros(65537, np.int64))
    tables = few.take(np.zeros(33000, np.int64))
    large = random_reinforcements(rng, views=1, topk=300, num_classes=400).take(np.zeros(60000, np.int64))
    each = np.arange(66000, dtype=np.int32).reshape(-1, 2)
    for stored, message in (
        (few.take(slice(0)), "number of views is 0"),
        (many, "number of views is 65537"),
        (replace(tables, magnitudes=each.astype(np.float32)), "operations"),
        (replace(tables, soft_ids=np.concatenate([each, each[:, :1] + 100_000], axis=1)), "class table entries"),
        (large, "record size"),
    ):
        with pytest.raises(RecordError, match=message):
            write(stored, **settings)


# ---- What was read from a record


def confident(rng: Rng, name: str) -> Reinforcements:
    """Of one of the shapes, its rows as far apart in confidence as those of real images."""
    shape = {key: value for key, value in SHAPES[name].items() if key not in ("own_pools", "group_rows")}
    return random_reinforcements(rng, **{**shape, "sharpness": rng.choice([0.3, 1.0, 3.0, 6.0])})


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("seed", range(3))
def test_a_record_is_written_again_as_it_was(encoding: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in SHAPES:
        stored, settings = confident(rng, name), settings_of(name, encoding)
        if encoding == "log8":  # the weight of a rest below what float32 resolves is not in the probabilities
            settled = stored.soft_probs.sum(axis=1, dtype=np.float64) < 1 - 1e-5
            stored = replace(stored, soft_probs=np.where(settled[:, None], stored.soft_probs, stored.soft_probs / 2))
        member = reference(stored, **settings)
        assert contents(write(decode(member).reinforcements, **settings, recode=True)) == contents(member), name


@pytest.mark.parametrize("topk", [1, 2, 10, 100, 1000])
def test_root_codes_are_found_again(topk: int) -> None:
    settings = {"image_height": 375, "image_width": 500, "view_size": (224, 224)}
    rng = np.random.default_rng(topk)
    for sharpness in (0.1, 0.5, 2.0, 8.0):  # of equal probabilities, several codes can be read as the same
        stored = random_reinforcements(rng, views=100, topk=topk, num_classes=1200, sharpness=sharpness)
        member = reference(stored, **settings)
        assert contents(write(decode(member).reinforcements, **settings, recode=True)) == contents(member), sharpness


def test_without_codes_to_be_found_a_record_is_written_as_ever() -> None:
    for name in ("usual", "mixed", "double-mix"):
        for encoding in ENCODINGS:
            stored, settings = record_of(name, encoding)[0], settings_of(name, encoding)
            assert write(stored, **settings, recode=True) == write(stored, **settings)


def test_threads_write_alike() -> None:
    cases = [(record_of(name, "root8")[0], settings_of(name, "root8")) for name in SHAPES]
    wanted = [write(stored, **settings) for stored, settings in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda case: write(case[0], **case[1]), cases))
            assert found == wanted


def test_frames_carry_size_and_checksum() -> None:
    stored = random_reinforcements(np.random.default_rng(0), views=400)
    frames = split(write(stored, image_height=375, image_width=500, view_size=(224, 224)))
    assert len(frames) == 5
    for frame in frames:
        facts = zstandard.get_frame_parameters(frame)
        assert facts.has_checksum and facts.content_size == len(decompress(frame))
