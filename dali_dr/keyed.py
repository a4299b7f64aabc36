"""Keyed random numbers: each is a pure function of a key and a place, so any of them is had without the others.

Two kinds. `mix` hashes a few words into one, for orders and choices that are computed anew all the time. `philox_words`
gives long streams of good random bits by a published generator, for what is stored or drawn on other machines again.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Final

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

# Odd increment and multipliers of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
# OOPSLA 2014).
GOLDEN: Final = 0x9E3779B97F4A7C15
MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
MIX_2: Final = np.uint64(0x94D049BB133111EB)
MASK: Final = (1 << 64) - 1
"""For Python's integers, which do not wrap around by themselves."""

_BLOCK: Final = 4  # 64-bit words that Philox4x64 gives for one counter
_MAX_GAP: Final = 32  # numbers skipped within a run: drawing their words costs less than another generator (30 us)


def mix(*words: int | UInt64) -> UInt64:
    """Hashes 64-bit words (integers or broadcastable uint64 arrays) into one uint64 array by chained SplitMix64 steps."""
    state = np.zeros((), np.uint64)
    for number, word in enumerate(words):
        step = np.uint64((GOLDEN * (number + 1)) & MASK)
        with np.errstate(over="ignore"):
            state = (state ^ np.asarray(word if isinstance(word, np.ndarray) else word & MASK, np.uint64)) + step
            state = (state ^ (state >> np.uint64(30))) * MIX_1
            state = (state ^ (state >> np.uint64(27))) * MIX_2
            state = state ^ (state >> np.uint64(31))
    return state


def philox_key(key: str, seed: int, person: bytes) -> UInt64:
    """uint64 (2,), the key of `numpy.random.Philox` for one sample: BLAKE2b of (seed, key).

    Args:
      key: of the sample.
      seed: 0..2^64-1.
      person: BLAKE2b personalisation, at most 16 bytes: what the numbers are for, and the version of their use.
    """
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + key.encode(), digest_size=16, person=person).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def philox_words(key: UInt64, stream: int, numbers: Int64, words: int) -> UInt64:
    """Random words of numbered places in one stream of Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as
    1, 2, 3", SC 2011).

    Word w of number v is word w mod 4 of the block with the 256-bit counter stream*2^192 + v*words/4 + floor(w/4) + 1.

    Args:
      key: uint64 (2,), of `philox_key`.
      stream: 0..2^64-1: streams of one key are independent.
      numbers: int64 (N,), each >= 0, in any order; runs of nearly consecutive numbers are fast.
      words: per number, a multiple of 4.

    Returns:
      uint64 (N, words).
    """
    ordered, places = np.unique(numbers, return_inverse=True)
    raw = np.empty((len(ordered), words), np.uint64)
    breaks = np.flatnonzero(np.diff(ordered) > _MAX_GAP) + 1
    for begin, end in itertools.pairwise([0, *breaks.tolist(), len(ordered)]):
        run = ordered[begin:end] - ordered[begin : begin + 1]
        if run.size:
            # NumPy's Philox adds one to the counter before each block.
            counter = (stream << 192) + int(ordered[begin]) * (words // _BLOCK)
            span = np.random.Philox(counter=counter, key=key).random_raw((int(run[-1]) + 1, words))
            raw[begin:end] = span[run]
    return raw[places]
