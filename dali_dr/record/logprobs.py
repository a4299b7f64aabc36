"""The 8-bit logarithmic code of probabilities: nats below the most likely class, in steps of equal size.

A row of K probabilities becomes K bytes: the code of the rest (what all other classes have together), then the steps
from each class's code to the next.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
import numpy.typing as npt

from dali_dr.record.checks import check_rows

# Nats per step that an encoder accepts. Below, the codes do not span the ratios that predictions have (at 0.1, the
# rest may weigh exp(9.6) = 14,765 times the most likely class); above, they are crude.
MIN_LOG_STEP: Final = 0.1
MAX_LOG_STEP: Final = 1.0
# 0.15 nats: mean KL(original || stored) stays below about step**2 / 24 = 9.4e-4 nats (1e-3 is promised).
DEFAULT_LOG_STEP: Final = 0.15

_REST_BIAS: Final = 96  # the rest may outweigh the most likely class by exp(96 * 0.15) = 1.8 million
_ZERO_CODE: Final = 255
_EXP_LIMIT: Final = 709  # exp(709.8) overflows: a step no encoder writes


def to_codes(probs: npt.NDArray[np.float32], step: float) -> npt.NDArray[np.uint8]:
    """(N, K): the rest code and the K - 1 steps of every row of falling probabilities."""
    if not probs.shape[1]:
        return np.empty(probs.shape, np.uint8)
    values = probs.astype(np.float64)
    first, rest = values[:, :1], 1 - values.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.clip(np.rint(np.log(first / values) / step), 0, _ZERO_CODE - 1)
        rest_code = np.clip(np.rint(np.log(first / rest) / step) + _REST_BIAS, 0, _ZERO_CODE - 1)
    codes[values == 0] = _ZERO_CODE
    rest_code[rest <= 0] = _ZERO_CODE
    codes[:, 0] = 0
    # log need not be monotonic to the last bit, and the steps must not be negative
    steps = np.diff(np.maximum.accumulate(codes, axis=1), axis=1)
    return np.hstack([rest_code, steps]).astype(np.uint8)


def from_codes(codes: npt.NDArray[np.uint8], step: float) -> npt.NDArray[np.float32]:
    """float32 (N, K), K > 0, of the stored rest codes and steps (N, K)."""
    columns = codes.T
    totals = columns.astype(np.uint32)
    totals[0] = 0
    totals = totals.cumsum(axis=0, dtype=np.uint32)
    check_rows(totals[-1] > _ZERO_CODE, "logarithmic code", totals[-1], f"want at most {_ZERO_CODE}")
    weight, rest = _weights(step)
    weights = weight[totals]
    total = rest[columns[0]]
    for row in weights:  # in this order, so that every reader rounds alike
        total = total + row
    check_rows(~np.isfinite(total), "weight of the rest", total, f"want it finite (log_step is {step})")
    return np.ascontiguousarray((weights / total).T.astype(np.float32))


@functools.lru_cache(maxsize=16)
def _weights(step: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weight of every class code and of every rest code, by libm (NumPy's exp may differ in the last bit)."""

    def exp(value: float) -> float:
        return math.exp(value) if value < _EXP_LIMIT else math.inf

    weight = np.array([exp(-step * code) for code in range(_ZERO_CODE)] + [0.0])
    rest = np.array([exp(-step * (code - _REST_BIAS)) for code in range(_ZERO_CODE)] + [0.0])
    return weight, rest
