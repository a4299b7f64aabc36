"""A small ImageFolder, its conversion, and what the loader shows of it: for the tests of all three formats."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from conftest import encode_jpeg, picture
from PIL import Image

import dali_dr
from dali_dr.cli import main

SIZE: Final = 56
CLASSES: Final = 12
IMAGES: Final = 14
VIEWS: Final = 8


@dataclass
class Photos:
    """An ImageFolder of small JPEGs, in its order: paths (WNID, NAME), classes and images as Pillow decodes them."""

    root: Path
    names: list[tuple[str, str]]
    images: list[Image.Image]


def photos_in(root: Path, size: tuple[int, int] | None = None) -> Photos:
    names, images = [], []
    for number in range(IMAGES):
        wnid = f"n{number * CLASSES // IMAGES:08d}"  # some classes have two
        name = f"{wnid}_{100 + number}.JPEG"
        height, width = size or (58 + 11 * (number % 5), 120 - 9 * (number % 7))
        data = encode_jpeg(picture(height, width, number), mode="L" if number == 3 else "RGB")
        (root / wnid).mkdir(parents=True, exist_ok=True)
        (root / wnid / name).write_bytes(data)
        names.append((wnid, name))
        images.append(Image.open(io.BytesIO(data)).convert("RGB"))
    return Photos(root, names, images)


def convert(form: str, inputs: Sequence[Path], photos: Photos, out: Path, *options: str) -> dali_dr.Dataset:
    arguments = ["convert", form, *map(str, inputs), "--images", str(photos.root), "--out", str(out), "--quiet"]
    assert main([*arguments, *options]) == 0
    return dali_dr.Dataset(out)


def shown(data: dali_dr.Dataset, epochs: int = VIEWS, **options: Any) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Number, view and the rest of every row of so many epochs."""
    options = {"batch_size": 5, "device": "cpu", "num_threads": 2, "order": "sequential", **options}
    iterator = dali_dr.ReinforcedIterator(data, with_index=True, **options)
    for _ in range(epochs):
        for (batch,) in iterator:
            for row in range(len(batch["data"])):
                values = {name: tensor[row] for name, tensor in batch.items()}
                yield int(values["index"]), int(values["view"]), values
