"""The data sets that the loaders of loaders.py read, each in two forms: its JPEGs in tiles, and the files as they were.

Both forms of a variant hold the same photos and the very same views. VARIANT is tiled, which is what dali_dr writes unless
it is told otherwise; "original-VARIANT" has the photos' own bytes, and is what everybody else's loaders read.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SIZE = 224
VIEWS = 400  # per image, where they are drawn here: as many as ImageNet+ has
ORIGINAL = "original-"  # prefix of the folder of a variant whose files are as they were
ALWAYS = ("rrc", "rrc+ra+re", "plain", ORIGINAL + "rrc", ORIGINAL + "rrc+ra+re")

LIBRARY = 64  # images from which all partners come, in the variants of that name
MIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "double-mix": ("rrc+mixing+ra+re", {"double": True}),
    "library": ("rrc+mixing+ra+re", {"partners": LIBRARY}),
    "library-rrc": ("rrc+mixing", {"partners": LIBRARY}),
}
"""Variants that are presets with another mixing."""

Images = list[tuple[str, bytes, int]]
"""Of each image: key, bytes, label."""


def prepare(data: Path | None, scratch: Path, variants: Iterable[str] = (), views: int = VIEWS) -> dict[str, Any]:
    """Writes the data sets ALWAYS and `variants` into `scratch`, with so many views per image where `data` has none.

    Returns:
      What they are made of, as JSON: source, number of images and views, bytes of the images in both forms.
    """
    from dali_dr import Dataset

    source = "photos of the demo" if data is None else data.name
    if data is None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
        from demo import collect_photos

        data = scratch / "photos"
        collect_photos(data)
    if (data / "dataset.json").exists():
        dataset = Dataset(data)
        images = [(dataset.keys[i], dataset.image(i), dataset.label(i)) for i in range(len(dataset))]
        stored = [dataset.reinforcements(i) for i in range(len(dataset))] if dataset.spec else None
        classes = dataset.num_classes
    else:
        images, stored, classes = folder_images(data), None, 1000
    wanted: dict[str, list[bool]] = {}  # variant -> whether to keep the bytes, once or twice
    for name in dict.fromkeys((*ALWAYS, *variants)):
        wanted.setdefault(name.removeprefix(ORIGINAL), []).append(name.startswith(ORIGINAL))
    for variant, kept in wanted.items():
        spec, samples = drawn(variant, images, stored, classes, views)
        for keep in kept:
            write(spec, samples, classes, scratch / (ORIGINAL * keep + variant), keep_bytes=keep)
    tiled, original = Dataset(scratch / "rrc"), Dataset(scratch / f"{ORIGINAL}rrc")
    facts = {"source": source, "images": len(tiled), "views": tiled.num_views, "bytes": sizes_of(tiled, original)}
    if not facts["bytes"]["images in tiles"]:
        print("no photo differs between both forms: they are in tiles already, or cannot be", file=sys.stderr)
    return facts


def sizes_of(tiled: Any, original: Any) -> dict[str, Any]:
    """What tiles cost: bytes of all images in two data sets of the same images, and how many differ."""
    pairs = [(tiled.image(i), original.image(original.find(tiled.keys[i]))) for i in range(len(tiled))]
    own, other = (sum(len(data) for data in column) for column in zip(*pairs, strict=True))
    changed = sum(a != b for a, b in pairs)
    return {"tiled": own, "original": other, "ratio": round(own / other, 4), "images in tiles": changed}


def folder_images(folder: Path) -> Images:
    """(key, bytes, label) of a folder in classes, or of one without any, whose labels are then all 0."""
    from dali_dr.errors import DaliDrError
    from dali_dr.sources import ImageFolder

    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder: name one of JPEG files")
    try:
        source = ImageFolder.scan(folder)
    except DaliDrError:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
        if not paths:
            raise
        return [(p.stem, p.read_bytes(), 0) for p in paths]
    return [(source.keys[i], source.read(i), source.labels[i]) for i in range(len(source))]


def drawn(
    variant: str, images: Images, stored: list[Any] | None, classes: int, views: int, size: int = SIZE
) -> tuple[Any, list[Any]]:
    """The spec of a variant and its samples: with `views` views each, or as many as `stored` has, whose crops, flips and
    targets are then taken. Of "plain": None and samples without any."""
    import numpy as np

    from dali_dr import AugmentationSpec, Reinforcements, Sample
    from dali_dr.augment.draw import draw
    from dali_dr.encoded import image_info

    if variant == "plain":
        return None, [Sample(key, data, label) for key, data, label in images]
    preset, mixing = MIXED.get(variant, (variant, {}))
    spec = AugmentationSpec.preset(preset, size=size)
    if mixing:
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
    from dali_dr import write_shards

    write_shards(samples, out, spec=spec, num_classes=classes, progress=False, **writing)
