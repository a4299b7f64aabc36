"""The 8-bit root code of probabilities: their square roots in steps of equal size.

The error of a stored square root is the same for likely and unlikely classes, and so is what each adds to the
divergence: about K * step**2 / 6 nats in all. A row of K probabilities becomes the code of the rest, that of the most
likely class, and the falls from each class's code to the next.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
import numpy.typing as npt

from dali_dr.record.checks import check_rows

# Mean KL(original || stored) is about K * step**2 / 6 = 9.2e-4 nats at K = 10, and less where rows are confident.
_STEP: Final = 0.0235
_STEP_RANKS: Final = 10
MIN_ROOT_STEP: Final = 1 / 256  # code 255 must span 0..1
MAX_ROOT_STEP: Final = 1.0
_ZERO_CODE_ROOT: Final = 0.3  # steps, of what has code 0: not zero, so that the divergence stays finite
_NIBBLE: Final = 15
_MAX_PAIR_RANK: Final = 255


def root_step(topk: int) -> float:
    """The step with which a row of so many classes is stored, as float32 holds it.

    Above 10 classes it falls as 1 / sqrt(K), so that the mean divergence stays at about 9e-4 nats, up to the 361
    classes at which it is the least there is; at 1000 that is some 2e-3.
    """
    step = _STEP * math.sqrt(_STEP_RANKS / max(topk, _STEP_RANKS))
    return max(float(np.float32(step)), MIN_ROOT_STEP)


def to_codes(probs: npt.NDArray[np.float32], step: float) -> npt.NDArray[np.uint8]:
    """(N, K + 1), or (N, 0) for K = 0: rest code, first code and falls of every row of falling probabilities."""
    if not probs.shape[1]:
        return np.empty(probs.shape, np.uint8)
    values = probs.astype(np.float64)
    rest = np.maximum(1 - values.sum(axis=1, keepdims=True), 0)
    roots = np.sqrt(np.hstack([rest, values])) / step
    found = _falls(np.rint(roots))
    # What was read from a record is stored as it was: the scale to a sum of 1 is undone where that gives it exactly.
    for shift in (-2, -1, 0, 1, 2):
        first = np.maximum(np.rint(roots[:, 1:2]) + shift, _ZERO_CODE_ROOT)
        tried = _falls(np.rint(roots * (first / np.maximum(roots[:, 1:2], 1e-9))))
        same = (from_codes(tried, step) == probs).all(axis=1)
        found[same] = tried[same]
    return found


def _falls(codes: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Rest code, first code and falls of the codes of rest and ranks."""
    codes = codes.clip(0, 255)
    return np.hstack([codes[:, :2], codes[:, 1:-1] - codes[:, 2:]]).astype(np.uint8)


def pair_rank(codes: npt.NDArray[np.uint8]) -> int:
    """The first rank from which on all falls fit four bits, so that two of them can share a byte; 0: there is none."""
    large = np.flatnonzero((codes[:, 2:] > _NIBBLE).any(axis=0))
    rank = 1 + (int(large[-1]) + 1 if len(large) else 0)
    return rank if rank < codes.shape[1] - 1 and rank <= _MAX_PAIR_RANK else 0


def pack(codes: npt.NDArray[np.uint8], rank: int) -> npt.NDArray[np.uint8]:
    """``codes`` with the falls from ``rank`` > 0 on two in a byte, the earlier one in the low bits."""
    if not rank:
        return codes
    falls = codes[:, rank + 1 :]
    falls = np.pad(falls, ((0, 0), (0, falls.shape[1] % 2)))
    return np.hstack([codes[:, : rank + 1], falls[:, ::2] | falls[:, 1::2] << 4])


def unpack(packed: npt.NDArray[np.uint8], rank: int, topk: int) -> npt.NDArray[np.uint8]:
    """The inverse of ``pack``; RecordError where the bits that are left over are not zero."""
    if not rank:
        return packed
    pairs = packed[:, rank + 1 :]
    falls = np.stack([pairs & _NIBBLE, pairs >> 4], axis=2).reshape(len(packed), -1)
    check_rows(falls[:, topk - rank :] != 0, "unused bits of the last pair of falls", falls, "want them zero")
    return np.hstack([packed[:, : rank + 1], falls[:, : topk - rank]])


def from_codes(codes: npt.NDArray[np.uint8], step: float) -> npt.NDArray[np.float32]:
    """float32 (N, K), K > 0, of the rest code, first code and falls (N, K + 1)."""
    columns = codes.T.astype(np.int64)
    columns[2:] *= -1
    ranks = columns[1:].cumsum(axis=0)
    check_rows(ranks[-1] < 0, "root code", ranks[-1], "want 0 or more")
    weight = _weights(step)
    weights = weight[ranks]
    total = weight[columns[0]]
    for row in weights:  # in this order, so that every reader rounds alike
        total = total + row
    return np.ascontiguousarray((weights / total).T.astype(np.float32))


@functools.lru_cache(maxsize=16)
def _weights(step: float) -> npt.NDArray[np.float64]:
    root = np.arange(256, dtype=np.float64)
    root[0] = _ZERO_CODE_ROOT
    return (root * step) ** 2
