"""Small published sets as their authors' code stores them: ml-dr, FKD and ReLabel; for the tests of the conversion."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from conftest import encode_jpeg, picture, write_files
from PIL import Image

CLASSES = 7
CLASS_FOLDERS = ("n01", "n02", "n03")
SIZES = ((60, 80), (80, 60), (50, 50), (64, 90))


def photos(folder: Path, count: int) -> Path:
    """A folder of class folders of ``count`` JPEGs of several sizes."""
    files = {}
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        name = f"{CLASS_FOLDERS[number % len(CLASS_FOLDERS)]}/{CLASS_FOLDERS[number % 3]}_{number}.JPEG"
        files[name] = encode_jpeg(picture(height, width, number))
    return write_files(folder, files)


def in_order(folder: Path) -> list[Path]:
    """The images as torchvision's ImageFolder sorts them."""
    return [path for one in sorted(folder.iterdir()) if one.is_dir() for path in sorted(one.iterdir())]


def sizes_of(folder: Path) -> list[tuple[int, int]]:
    """(height, width) of the images, in order."""
    found = []
    for path in in_order(folder):
        with Image.open(path) as image:
            found.append((image.height, image.width))
    return found


def config(variant: str = "randaug", views: int = 3, size: int = 32, **more: Any) -> dict[str, Any]:
    """A config.pth.tar's contents."""
    on = {"enable": True}
    images: dict[str, Any] = {
        "uint8": on,
        "random_resized_crop": {"enable": True, "size": size},
        "random_horizontal_flip": {"enable": True, "p": 0.5},
        "rand_augment": {"enable": "randaug" in variant, "p": 1.0},
        "random_erase": {"enable": "randaug" in variant, "p": 0.25},
        "normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    if variant == "cifar":
        images |= {"resize": {"size": size}, "random_crop": {"size": size, "padding": 4}}
        del images["random_resized_crop"]
    if "mixing" in variant:
        images["mixup"] = {"enable": True, "alpha": 1.0, "div_by": 2.0, "p": 0.5}
        images["cutmix"] = {"enable": True, "alpha": 1.0, "p": 0.5}
    reinforce = {"num_samples": views, "topk": 4, "compress": True, "image_augmentation": images}
    teacher = {"timm_ensemble": True, "name": "ig_resnext101_32x8d,ig_resnext101_32x16d"}
    return {"dataset": "imagenet", "num_classes": CLASSES, "teacher": teacher, "reinforce": reinforce} | more


def views_of(
    number: int, size: tuple[int, int], count: int, *, variant: str = "randaug", images: int = 1, seed: int = 0
) -> tuple[int, list[dict[str, Any]]]:
    """What a file of image ``number``, of (height, width), holds; partners are of ``size``, too."""
    draw = random.Random(1000 * seed + number)

    def crop() -> tuple[int, int, int, int]:
        height, width = draw.randint(1, size[0]), draw.randint(1, size[1])
        return draw.randint(0, size[0] - height), draw.randint(0, size[1] - width), height, width

    def one() -> list[Any]:
        if variant == "cifar":
            return [32, (draw.randint(0, 8), draw.randint(0, 8)), draw.random() < 0.5]
        found: list[Any] = [crop(), draw.random() < 0.5]
        if "randaug" in variant:
            ops = [(draw.randrange(1, 14), draw.choice((-0.25, 0.25))) for _ in range(2)]
            found += [ops, (draw.randint(0, 10), draw.randint(0, 10), 5, 7) if draw.random() < 0.5 else None]
        return found

    views = []
    for _ in range(count):
        parameters = one()
        if "mixing" in variant:
            mixed = draw.random() < 0.7
            parameters = [
                draw.randrange(images) if mixed else None,
                *([list(pair) for pair in zip(parameters, one(), strict=True)] if mixed else parameters),
                draw.random() / 2 if mixed else None,
                None,
            ]
        probs = np.random.default_rng(draw.randrange(1 << 30)).dirichlet(np.ones(CLASSES)).astype(np.float32)[:4]
        ids = draw.sample(range(CLASSES), 4)
        views.append({"params": parameters, "prob": ([float(p) for p in probs], ids)})
    return number, views


def saved(value: Any, *, by: str = "torch") -> bytes:
    """A file that holds ``value``, by torch.save or joblib."""
    buffer = io.BytesIO()
    if by == "torch":
        torch.save(value, buffer, pickle_protocol=4)
    else:
        joblib.dump(value, buffer, compress=True)
    return buffer.getvalue()


def ml_dr(
    sizes: Sequence[tuple[int, int]], *, views: int = 3, variant: str = "randaug", seed: int = 0, by: str = "torch"
) -> dict[str, bytes]:
    """A set's files by name; all images of a set that is mixed should have one size."""
    files = {
        f"{number}.pth.tar": saved(views_of(number, size, views, variant=variant, images=len(sizes), seed=seed), by=by)
        for number, size in enumerate(sizes)
    }
    return files | {"config.pth.tar": saved(config(variant, views), by=by)}


def stored(
    files: Mapping[str, bytes], place: Path, kind: str, *, folder: str = "reinforced_data", shuffle: int | None = 0
) -> Path:
    """The files as a "folder", a "tar" or a "tar.gz", in the order given or any other."""
    names = list(files)
    if shuffle is not None:
        random.Random(shuffle).shuffle(names)
    if kind == "folder":
        return write_files(place, {f"{folder}/{name}" if folder else name: files[name] for name in names})
    path = place.with_name(f"{place.name}.{kind}")
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        if folder:
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name in names:
            entry = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            entry.size = len(files[name])
            archive.addfile(entry, io.BytesIO(files[name]))
    return path
