"""The data sets that the loaders of loaders.py read, each in two forms: its JPEGs in tiles, and the files as they were.

Both forms of a variant hold the same photos and the very same views. VARIANT is tiled, which is what dali_dr writes unless
it is told otherwise; "original-VARIANT" has the photos' own bytes, and is what everybody else's loaders read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dali_dr.throughput.sets import LIBRARY, ORIGINAL, SIZE, Images, drawn, write

__all__ = ["LIBRARY", "ORIGINAL", "SIZE", "VIEWS", "Images", "drawn", "folder_images", "prepare", "write"]

VIEWS = 400  # per image, where they are drawn here: as many as ImageNet+ has
ALWAYS = ("rrc", "rrc+ra+re", "plain", ORIGINAL + "rrc", ORIGINAL + "rrc+ra+re")


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
