"""Which keys are taken: a small table of all keys of a data set, and the keys of one shard on disk."""

from __future__ import annotations

import array
import functools
from pathlib import Path

from dali_dr.shards.facts import ShardFacts, members_of


class KeyTable:
    """Which shard a key is in, by 64-bit hash: 12 bytes a slot, at most half of them full (1.28 M keys: 50 MB).

    Hashes may collide, so a hit is to be checked against the keys of the shard it names.
    """

    def __init__(self) -> None:
        self._count = 0
        self._hashes = array.array("Q", bytes(8 << 10))
        self._shards = array.array("I", bytes(4 << 10))

    def shards_of(self, key: str) -> list[int]:
        """Shards that may hold ``key``."""
        value, shards, hashes = self._hash(key), [], self._hashes
        mask = len(hashes) - 1
        slot = value & mask
        while (held := hashes[slot]) != 0:
            if held == value and self._shards[slot] not in shards:
                shards.append(self._shards[slot])
            slot = (slot + 1) & mask
        return shards

    def add(self, key: str, shard: int) -> None:
        """Note that ``shard`` holds ``key``."""
        if 2 * self._count >= len(self._hashes):
            hashes, shards = self._hashes, self._shards
            self._hashes = array.array("Q", bytes(2 * hashes.itemsize * len(hashes)))
            self._shards = array.array("I", bytes(2 * shards.itemsize * len(shards)))
            for value, number in zip(hashes, shards, strict=True):
                if value:
                    self._put(value, number)
        self._put(self._hash(key), shard)
        self._count += 1

    def _put(self, value: int, shard: int) -> None:
        hashes = self._hashes
        mask = len(hashes) - 1
        slot = value & mask
        while hashes[slot] != 0:
            slot = (slot + 1) & mask
        hashes[slot], self._shards[slot] = value, shard

    @staticmethod
    def _hash(key: str) -> int:
        return hash(key) & (2**64 - 1) or 1  # 0 marks an empty slot


def keys_of(shard: Path) -> frozenset[str]:
    """The keys in the complete ``shard``; the last few shards asked for are remembered."""
    return _keys_in(shard, shard.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _keys_in(path: Path, _modified: int) -> frozenset[str]:
    facts = ShardFacts.saved(path)
    return frozenset(facts.keys if facts else (members[0].key for members in members_of(path)))
