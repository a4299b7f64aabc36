"""Small data sets that are copied, and what is compared of folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from conftest import encode_jpeg, picture

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.encoded import image_info
from dali_dr.record.label_map import LabelMaps, encode_label_map

CLASSES, VIEWS, TOPK, SIZE = 5, 4, 3, 32
TEACHER = {"names": ["tiny_a", "tiny|b"], "input_size": 32, "weights_digest": "sha256:00ff"}
NAMES = ["cat", "dog", "`x` | <b>*y*</b>", "a\\b", "[e](f)"]


def photos(count: int) -> list[bytes]:
    return [encode_jpeg(picture(40 + n % 5, 64 + n, n)) for n in range(count)]


def reinforced(out: Path, images: int = 12, *, seed: int = 0, per_shard: int = 3, **options: Any) -> Path:
    """A set of drawn views with made-up predictions."""
    spec = dali_dr.AugmentationSpec.preset("rrc+ra+re", SIZE)
    rng = np.random.default_rng(seed)

    def samples() -> Iterator[dali_dr.Sample]:
        for number, data in enumerate(photos(images)):
            height, width = image_info(data)[1:]
            drawn = draw(spec, seed=seed, key=str(number), views=range(VIEWS), image_height=height, image_width=width)
            ids = np.stack([rng.permutation(CLASSES)[:TOPK] for _ in range(VIEWS)]).astype(np.int32)
            probs = -np.sort(-rng.dirichlet(np.full(TOPK, 0.5), VIEWS), axis=1).astype(np.float32)
            views = dali_dr.Reinforcements.from_views(drawn, ids, np.minimum(probs, np.float32(1)))
            yield dali_dr.Sample(f"c/{number:03d}", data, number % CLASSES, views)

    written: dict[str, Any] = {
        "num_classes": CLASSES,
        "class_names": NAMES,
        "teacher": TEACHER,
        "samples_per_shard": per_shard,
        "seed": seed,
        "check_images": False,
        "progress": False,
        **options,
    }
    dali_dr.write_shards(samples(), out, spec=spec, **written)
    return out


def plain(out: Path, images: int = 7) -> Path:
    samples = (dali_dr.Sample(f"{n:03d}", data, n % CLASSES) for n, data in enumerate(photos(images)))
    dali_dr.write_shards(
        samples,
        out,
        spec=None,
        num_classes=CLASSES,
        samples_per_shard=3,
        keep_bytes=True,
        check_images=False,
        progress=False,
    )
    return out


def label_maps(out: Path, images: int = 5) -> Path:
    rng = np.random.default_rng(3)
    maps = LabelMaps(4, 4, 2, "code")

    def samples() -> Iterator[dali_dr.Sample]:
        for number, data in enumerate(photos(images)):
            ids = rng.integers(0, CLASSES, (2, 4, 4)).astype(np.int32)
            record = encode_label_map(rng.normal(size=(2, 4, 4)).astype(np.float32), ids, num_classes=CLASSES)
            yield dali_dr.Sample(f"{number:03d}", data, number % CLASSES, record=record)

    dali_dr.write_shards(
        samples(),
        out,
        spec=None,
        num_classes=CLASSES,
        label_maps=maps,
        teacher=TEACHER,
        samples_per_shard=2,
        check_images=False,
        progress=False,
    )
    return out


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
