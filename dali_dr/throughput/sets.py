"""The data sets that loaders read when they are measured: views of photos, drawn here or stored, and random targets.

The rates do not depend on the targets. A set is written twice, VARIANT with its JPEGs in tiles and "original-VARIANT" with the
photos' own bytes, which everybody else's loaders read.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np

from dali_dr.augment.draw import draw
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.encoded import image_info
from dali_dr.record.labels import Reinforcements
from dali_dr.shards.sample import Sample
from dali_dr.shards.write import write_shards

SIZE: Final = 224  # pixels of a view's edge
ORIGINAL: Final = "original-"  # prefix of the folder of a variant whose files are as they were

LIBRARY: Final = 64  # images from which all partners come, in the variants of that name
MIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "double-mix": ("rrc+mixing+ra+re", {"double": True}),
    "library": ("rrc+mixing+ra+re", {"partners": LIBRARY}),
    "library-rrc": ("rrc+mixing", {"partners": LIBRARY}),
}
"""Variants that are presets with another mixing."""

Images = list[tuple[str, bytes, int]]
"""Of each image: key, bytes, label."""


def drawn(
    variant: str, images: Images, stored: list[Any] | None, classes: int, views: int, size: int = SIZE
) -> tuple[Any, list[Any]]:
    """The spec of a variant and its samples: with `views` views each, or as many as `stored` has, whose crops, flips and
    targets are then taken. Of "plain": None and samples without any."""
    if variant == "plain":
        return None, [Sample(key, data, label) for key, data, label in images]
    preset, mixing = MIXED.get(variant, (variant, {}))
    spec = AugmentationSpec.preset(preset, size=size)
    if mixing and spec.mixing:
        spec = dataclasses.replace(spec, mixing=dataclasses.replace(spec.mixing, **mixing))
    sizes = [image_info(data)[1:] for _, data, _ in images]
    rng = np.random.default_rng(0)
    samples = []
    for number, (key, data, label) in enumerate(images):
        height, width = sizes[number]
        count = views if stored is None else len(stored[number])
        found = draw(
            spec,
            seed=0,
            key=key,
            views=range(count),
            image_height=height,
            image_width=width,
            population=len(images),
            partner_size=lambda partner: sizes[partner],
        )
        columns = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
        if stored is not None:
            columns |= {"crop": stored[number].crop, "flip": stored[number].flip}
            ids, probs = stored[number].soft_ids, stored[number].soft_probs
        else:
            ids = np.stack([rng.permutation(classes)[:10] for _ in range(count)]).astype(np.int32)
            probs = -np.sort(-rng.dirichlet(np.full(12, 0.3), count), axis=1)[:, :10].astype(np.float32)
        samples.append(Sample(key, data, label, Reinforcements(**columns, soft_ids=ids, soft_probs=probs)))
    return spec, samples


def write(spec: Any, samples: list[Any], classes: int, out: Path, **writing: Any) -> None:
    """Samples of `drawn` as a data set, with more arguments of `write_shards`."""
    write_shards(samples, out, spec=spec, num_classes=classes, progress=False, **writing)
