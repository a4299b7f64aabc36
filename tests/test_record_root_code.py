"""The root code of probabilities: what it loses at most and on average, derived apart from the codec, and what it keeps.

The bound: with roots s of the probabilities and r of the stored weights, both over classes and rest, scaling to 1 only
helps, as ln Z <= Z - 1:  KL(p || w/Z) = sum p ln(p/w) + ln Z <= sum f(s, r),  f = 2 s^2 ln(s/r) - s^2 + r^2.  Rounding
keeps s within half a step of r. On that range f is greatest where r is one step and s one and a half (`WORST`).
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_record_codec import contents, of_probabilities

from dali_dr.errors import RecordError
from dali_dr.record import rootprobs
from dali_dr.record.decode import decode
from dali_dr.record.encode import encode

WORST = 2 * 1.5**2 * math.log(1.5) - 1.5**2 + 1  # 0.575 steps squared


def through(probs: Any) -> tuple[npt.NDArray[np.float32], float]:
    """What a record keeps of (N, K) probabilities, and its step."""
    stored = of_probabilities(probs)
    member = encode(stored, image_height=375, image_width=500, view_size=(224, 224))
    record = decode(member)
    assert record.probabilities == "root8" and record.log_step == 0
    (step,) = struct.unpack_from("<f", contents(member)[0], 44)
    return record.reinforcements.soft_probs, step


def divergence(original: npt.NDArray[Any], stored: npt.NDArray[Any]) -> list[float]:
    """KL(original || stored) of each row over classes and rest, summed exactly."""
    out = []
    for p_row, q_row in zip(original.astype(float).tolist(), stored.astype(float).tolist(), strict=True):
        p = [*p_row, max(1 - math.fsum(p_row), 0.0)]
        q = [*q_row, 1 - math.fsum(q_row)]
        assert min(q) > 0  # nothing is impossible, so that no student is ever infinitely wrong
        out.append(math.fsum(a / math.fsum(p) * math.log(a / math.fsum(p) / b) for a, b in zip(p, q, strict=True) if a))
    return out


def test_the_worst_place_of_the_bound() -> None:
    """f over every code and every root that rounds to it: nowhere above WORST."""
    codes = np.concatenate([[0.3], np.arange(1, 256)])[:, None]
    centre = np.arange(256)[:, None]
    root = np.maximum(centre + np.linspace(-0.5, 0.5, 201), 1e-9)
    f = 2 * root**2 * np.log(root / codes) - root**2 + codes**2
    assert WORST - 1e-9 <= f.max() <= WORST + 1e-9


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    topk=st.sampled_from([1, 2, 3, 5, 10, 16, 40, 150, 600]),
    outside=st.integers(0, 400),
    spread=st.sampled_from([0.003, 0.03, 0.3, 1.0, 30.0]),
)
def test_divergence_is_bounded(seed: int, topk: int, outside: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.dirichlet(np.full(topk + outside, spread), 20) if topk + outside > 1 else np.ones((20, 1))
    probs = (-np.sort(-whole, axis=1)[:, :topk]).astype(np.float32)
    stored, step = through(probs)
    assert max(divergence(probs, stored)) <= WORST * (topk + 1) * step**2 * 1.001 + 2e-6
    assert (stored[:, 1:] <= stored[:, :-1]).all()
    assert (stored.astype(np.float64).sum(axis=1) < 1).all()
    if topk <= 40:  # codes are multiples of the step, up to one factor that makes each row sum to 1
        roots = np.sqrt(stored.astype(np.float64))
        scale = roots[:, :1] / np.rint(np.sqrt(probs[:, :1].astype(np.float64)) / step)
        assert np.allclose(roots, np.maximum(np.rint(np.sqrt(probs.astype(np.float64)) / step), 0.3) * scale, rtol=1e-5)


@pytest.mark.parametrize(
    "row",
    [
        [1.0, 0.0, 0.0],
        [1.0],
        [0.0],
        [0.0, 0.0],
        [0.99999994, 5e-9, 1e-9],
        [1.0, 1e-38, 1e-45],
        [0.6, 0.4, 2e-7],  # the sum exceeds 1 in float32
        [1 / 3] * 3,
        [1e-3] * 3,
        [1e-3] * 1000,
        [1e-3] * 500,
        [1.0] + [0.0] * 999,
        [0.5] * 2 + [0.0] * 998,
        [1e-6] * 10,
    ],
    ids=lambda row: f"{row[0]:.0e}x{len(row)}",
)
def test_extreme_predictions(row: list[float]) -> None:
    probs = np.array([row], np.float32)
    stored, step = through(probs)
    assert divergence(probs, stored)[0] <= WORST * (len(row) + 1) * step**2 + 2e-6
    assert (stored[:, 1:] <= stored[:, :-1]).all() and stored.astype(np.float64).sum() < 1
    assert len(set(stored[probs == 0].tolist())) <= 1  # equals stay equal


@pytest.mark.parametrize(("topk", "most"), [(1, 2e-4), (5, 7e-4), (10, 1e-3), (50, 1e-3), (300, 1e-3), (1000, 3e-3)])
def test_divergence_on_average(topk: int, most: float) -> None:
    """Of softmaxes over 1,000 classes: what is promised, whatever K."""
    logits = np.random.default_rng(5).normal(0, 3, (400, 1000))
    whole = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probs = (-np.sort(-whole, axis=1)[:, :topk]).astype(np.float32)
    stored, step = through(probs)
    assert 1 / 256 <= step <= 0.0236 and step == np.float32(step)
    assert np.mean(divergence(probs, stored)) < most


def test_storing_twice_changes_nothing() -> None:
    """Merging and cutting data sets, which reads records and writes them, loses nothing more."""
    for topk in (1, 3, 10, 60):
        rng = np.random.default_rng(topk)
        probs = (-np.sort(-rng.dirichlet(np.full(topk + 20, 0.2), 300), axis=1)[:, :topk]).astype(np.float32)
        once, _ = through(probs)
        assert np.array_equal(through(once)[0], once)


@pytest.mark.parametrize(
    ("falls", "rank"),
    [
        ([[16, 15, 3]], 2),
        ([[3, 15, 3]], 1),
        ([[3, 15, 16]], 0),
        ([[3, 16, 15]], 3),  # the last alone in its byte
        ([[16, 0, 0], [0, 16, 0]], 3),
        ([[9]], 1),
        ([], 0),
    ],
)
def test_falls_share_bytes_where_all_are_small(falls: list[list[int]], rank: int) -> None:
    rows = np.array(falls, np.uint8).reshape(max(len(falls), 1), -1)
    codes = np.hstack([np.full((len(rows), 2), 200, np.uint8), rows])
    assert rootprobs.pair_rank(codes) == rank
    packed = rootprobs.pack(codes, rank)
    assert np.array_equal(rootprobs.unpack(packed, rank, codes.shape[1] - 1), codes)
    if falls == [[3, 15, 3]]:
        assert packed.tolist() == [[200, 200, 3 | 15 << 4, 3]]


def test_halves_that_are_left_over_must_be_zero() -> None:
    packed = np.array([[9, 9, 0x11, 0x01], [9, 9, 0x11, 0x21]], np.uint8)
    assert rootprobs.unpack(packed[:1], 1, 4).tolist() == [[9, 9, 1, 1, 1]]
    with pytest.raises(RecordError, match="unused bits of the last pair of falls of row 1"):
        rootprobs.unpack(packed, 1, 4)
    with pytest.raises(RecordError, match="root code of row 0 is -1"):
        rootprobs.from_codes(np.array([[9, 2, 3]], np.uint8), 0.0235)
