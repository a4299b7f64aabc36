"""The order of samples in an epoch: a keyed permutation of 0 … size-1 that is computed per position, never stored.

Method: a generalised Feistel network on Z_a × Z_b with a·b barely above `size`, and cycle walking for the few numbers
that fall outside (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, methods 3 and 2). Unlike a
binary Feistel network, whose domain is a power of four, hardly any number has to walk: fewer than one in √size.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from dali_dr.keyed import GOLDEN, MASK, MIX_1, MIX_2, Int64, UInt64, mix

ROUNDS, SMALL, ROUNDS_SMALL = 8, 64, 16
"""Half rounds of the network. Four make a pseudo-random permutation of a large domain (Luby & Rackoff 1988); a domain of
a few numbers needs more before pairs of values come out evenly (tests/test_sampling.py measures it)."""

_32 = np.uint64(32)


def keyed_permutation(positions: npt.ArrayLike, size: int, key: int | UInt64) -> Int64:
    """Maps positions to numbers by the permutation of 0 … size-1 that `key` selects.

    Args:
      positions: integers in 0 … size-1, any shape.
      size: length of the permutation, 1 … 2^62.
      key: one key for all positions, or a uint64 array of the positions' shape: then each position is looked up in a
        permutation of its own.

    Returns:
      int64 array of the positions' shape. For one key the results of all positions are exactly 0 … size-1.
    """
    shape = np.shape(positions)
    x = np.array(positions, np.uint64).reshape(-1)
    if size == 1:
        return np.zeros(shape, np.int64)
    keys = np.asarray(key, np.uint64).reshape(-1) if isinstance(key, np.ndarray) else mix(key).reshape(1)
    rounds = ROUNDS_SMALL if size < SMALL else ROUNDS
    rows, columns = _sides(size)
    y = _network(x, rows, columns, rounds, keys)
    while (outside := np.nonzero(y >= size)[0]).size:  # cycle walking: the orbit of an inner number comes back inside
        own = keys if len(keys) == 1 else keys[outside]
        y[outside] = _network(y[outside], rows, columns, rounds, own)
    return y.astype(np.int64).reshape(shape)


@functools.lru_cache(maxsize=64)
def _sides(size: int) -> tuple[int, int]:
    """The sides of the domain, nearly equal, whose product exceeds `size` least: what exceeds has to walk."""
    root = math.isqrt(size - 1) + 1
    return min(((rows, -(-size // rows)) for rows in range(root, max(root // 2, root - 64), -1)), key=math.prod)


def _network(x: UInt64, rows: int, columns: int, rounds: int, keys: UInt64) -> UInt64:
    """One pass of the generalised Feistel network over Z_rows × Z_columns."""
    left, right = np.divmod(x, np.uint64(columns))
    for number in range(0, rounds, 2):
        left = (left + _round(right, keys, number)) % np.uint64(rows)
        right = (right + _round(left, keys, number + 1)) % np.uint64(columns)
    return left * np.uint64(columns) + right


def _round(half: UInt64, keys: UInt64, number: int) -> UInt64:
    """A keyed 31-bit hash of one half: multiply and fold twice, which is all a Feistel round has to be."""
    h = (half + (keys + np.uint64(GOLDEN * (number + 1) & MASK))) * MIX_1
    h = (h ^ (h >> _32)) * MIX_2
    return h >> np.uint64(33)
