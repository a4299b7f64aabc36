"""The bytes of records are fixed: data sets in many places hold them, and their digests.

If a test here fails, the format has changed. That needs a new version number in the header, a new section in
schemas/reinforcement-record.md, and a reader that still reads the old one; never a new digest for a
version that was released.

What is pinned is what the zstd frames hold: how libzstd packs it may change with its version. The input comes from
integers of a bit generator, whose stream NumPy keeps (NEP 19), so that no library's rounding has a part in it.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zstandard

from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER, Mix, Views, no_partner_views
from dali_dr.record.decode import decode
from dali_dr.record.encode import encode
from dali_dr.record.labels import Reinforcements


class Numbers:
    """Uniform integers, the same for ever."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.Philox(key=seed)

    def below(self, limit: int, *shape: int) -> np.ndarray:
        words = self._source.random_raw(math.prod(shape)) >> np.uint64(32)
        return (words % np.uint64(limit)).astype(np.int64).reshape(shape)

    def boxes(self, views: int, height: int, width: int) -> np.ndarray:
        top, left = self.below(height, views), self.below(width, views)
        tall, wide = (self.below(65536, views) % (side - start) + 1 for side, start in ((height, top), (width, left)))
        return np.stack([top, left, tall, wide], axis=1).astype(np.int32)

    def views(self, views: int, image: tuple[int, int], view: tuple[int, int], num_ops: int, entries: int) -> Views:
        return Views(
            crop=self.boxes(views, *image),
            flip=self.below(2, views) == 1,
            ops=self.below(14, views, num_ops).astype(np.uint8),
            magnitudes=((self.below(entries, views, num_ops) - 5) / np.float32(8)).astype(np.float32),
            erase=self.boxes(views, *view) * (self.below(3, views) == 0)[:, None].astype(np.int32),
        )


def reinforcements(
    seed: int,
    *,
    views: int = 19,
    num_ops: int = 2,
    entries: int = 11,
    topk: int = 5,
    classes: int = 1000,
    pool: int = 40,
    bare: bool = False,
    image: tuple[int, int] = (375, 500),
    view: tuple[int, int] = (224, 224),
    partners: int | None = None,
    double: bool = False,
    weight_steps: int = 1 << 16,
) -> Reinforcements:
    """Views of every kind: all values are integers, or quotients that are exact in float32."""
    numbers = Numbers(seed)
    own = numbers.views(views, image, view, num_ops, entries)
    first = numbers.below(pool, views, 1)
    ids = (first + np.arange(topk) * 7) % (pool + 7 * topk) * (classes // (pool + 7 * topk))
    weights = -np.sort(-numbers.below(1 << 12, views, topk), axis=1)
    # Below 1/16 each, with K <= 8 at most 1/2 in all.
    probs = (weights / np.float32(1 << 16)).astype(np.float32)
    probs[::3, :1] += np.float32(0.5)  # confident rows
    probs[1::5, 3:] = 0
    if bare:
        own = replace(own, flip=own.flip & False, erase=own.erase * 0)
    stored = Reinforcements.from_views(own, ids.astype(np.int32), probs)
    if partners is None:
        return stored
    alone = (numbers.below(4, views) == 0) & (not double)
    number = numbers.below(max(partners, 1), views) * 12345 if partners else np.full(views, SELF_PARTNER)
    mixup, cutmix = numbers.below(2, views) == 1, numbers.below(2, views) == 1
    mix = Mix(
        partner=np.where(alone, NO_PARTNER, number).astype(np.int32),
        views=numbers.views(views, image if partners == 0 else (3000, 4000), view, num_ops, entries),
        lam=np.where(alone | ~mixup, 1, numbers.below(weight_steps, views) / weight_steps).astype(np.float32),
        cut=numbers.boxes(views, *view) * (cutmix & ~alone)[:, None].astype(np.int32),
        swapped=np.zeros(views, np.bool_),
    )
    nobody = no_partner_views(views, num_ops)
    for name in ("crop", "flip", "ops", "magnitudes", "erase"):
        getattr(mix.views, name)[alone] = getattr(nobody, name)[alone]
    stored = replace(stored, mix=mix)
    if double:
        pairs = Views.take(stored, np.arange(views) // 2)
        assert pairs.mix is not None
        pairs.mix.swapped[1::2] = True
        stored = Reinforcements.from_views(pairs, stored.soft_ids, stored.soft_probs)
    return stored


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {  # what is stored, how, and the start of its SHA-256
    "log8": ({}, {}, "f0477c0e58f68880"),
    "log8, another step": ({}, {"log_step": 0.4}, "7d90d7fd9ddacfc2"),
    "root8": ({}, {"probabilities": "root8"}, "85ff8223777a1780"),
    "root8, mixed": ({"partners": 5}, {"probabilities": "root8"}, "2f609f02cbb2e2d7"),
    "root8, groups": ({"views": 230}, {"probabilities": "root8"}, "120b9fe6f62f28f7"),
    "float16": ({}, {"probabilities": "float16"}, "4c24840c8bacbc7f"),
    "float32": ({}, {"probabilities": "float32"}, "521966bafa8e5372"),
    "no predictions": ({"topk": 0}, {}, "cd4b5fa0d83818b7"),
    "no operations": ({"num_ops": 0}, {}, "4d3761dec0d4ce73"),
    "nothing but crops": ({"topk": 0, "num_ops": 0, "bare": True}, {}, "043c2c714d9e7053"),
    "large view": ({"view": (256, 300)}, {}, "5b1cfd0f1eaaec0c"),
    "one view of one pixel": ({"views": 1, "image": (1, 1)}, {}, "8bd9449279af80f4"),
    "wide operation table": ({"views": 300, "num_ops": 3, "entries": 90}, {}, "200a437d6672033f"),
    "wide class ids": ({"classes": 2_000_000}, {}, "59d7cd60256efd17"),
    "wide class table": ({"views": 90, "topk": 8, "pool": 700, "classes": 5000}, {}, "9df0b38ece7c6b79"),
    "groups": ({"views": 20}, {"group_rows": 8}, "b056e0ba897801f8"),
    "groups by default": ({"views": 230}, {}, "d10ae0267e316d9c"),
    "mixed": ({"partners": 5}, {}, "ef5902114c6b3bfc"),
    "mixed, float32": ({"partners": 5}, {"probabilities": "float32"}, "b42d683dbde8c54b"),
    "mixed, wide weights": ({"partners": 5, "weight_steps": 1 << 20}, {}, "c52c591e67c06497"),
    "mixed with itself": ({"partners": 0, "view": (256, 300)}, {}, "da45ff4d2d91776b"),
    "mixed, many partners": ({"partners": 5000, "views": 400}, {}, "529d7c02d6996f54"),
    "mixed, classes by partner": ({"partners": 4, "views": 90, "pool": 700, "classes": 5000}, {}, "c73af00c3d0ef35d"),
    "mixed, wide classes by partner": (
        {"partners": 4, "views": 90, "pool": 700, "classes": 900_000},
        {},
        "d055f4b6d54a547d",
    ),
    "mixed, groups": ({"partners": 5, "views": 33}, {"group_rows": 8}, "22d571d030c6d06d"),
    "double-mix": ({"partners": 3, "double": True, "views": 18}, {}, "e5c6da2db4b350aa"),
    "double-mix, groups": ({"partners": 3, "double": True, "views": 18}, {"group_rows": 8}, "1117ecfec85dd1cc"),
}


def contents(member: bytes) -> list[bytes]:
    """What each zstd frame of a member holds."""
    out = []
    while member:
        frame = zstandard.ZstdDecompressor().decompressobj()
        out.append(frame.decompress(member))
        member = frame.unused_data
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_version_2_never_change(kind: str) -> None:
    what, how, digest = KINDS[kind]
    height, width = what.get("image", (375, 500))
    view = what.get("view", (224, 224))
    stored = reinforcements(zlib.crc32(kind.encode()), **what)
    how = {"probabilities": "log8"} | how
    member = encode(stored, image_height=height, image_width=width, view_size=view, **how)
    parts = contents(member)
    lengths = b"".join(len(part).to_bytes(4, "little") for part in parts)  # so that frames end where they did
    found = hashlib.sha256(lengths + b"".join(parts)).hexdigest()[:16]
    assert found == digest, "a change of bytes is a new version of the format: see the first lines of this file"
    again = replace(decode(member).reinforcements, soft_probs=stored.soft_probs)
    assert again == stored  # the digest is of a record that says what was stored
