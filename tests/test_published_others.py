"""FKD's soft labels and ReLabel's maps, from published files to what training shows, against replays as published."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import archives, fkd, ml_dr_replay, ml_dr_writer, relabel
from published.converting import CLASSES, IMAGES, SIZE, VIEWS, Photos, convert, photos_in, shown

import dali_dr
from dali_dr.augment.draw import draw


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return photos_in(tmp_path_factory.mktemp("published") / "images")


@pytest.mark.parametrize("arrays", ["numpy", "torch"])
@pytest.mark.parametrize("stored", ["full", "hard", "smoothing", "k5", "k10"])
def test_fkd(photos: Photos, tmp_path: Path, stored: Any, arrays: Any) -> None:
    # Older code wrote the legacy container, or protocol 2.
    save = {"numpy": {}, "torch": {"_use_new_zipfile_serialization": stored in ("k5", "hard")}}[arrays]
    files = {
        path: fkd.label_file(image, VIEWS, CLASSES, stored, seed=n, arrays=arrays, **save)
        for n, (path, image) in enumerate(zip(fkd.paths(photos.names), photos.images, strict=True))
    }
    place = archives.store(files, tmp_path / "published", "tar" if arrays == "numpy" else "folder", "FKD_soft_label")
    options = ["--probabilities", "float32", "--size", str(SIZE)]
    if stored in ("full", "hard", "smoothing"):
        options += ["--form", stored]
    data = convert("fkd", [place], photos, tmp_path / "out", *options)
    forms = {"full": ["full"], "hard": ["hard"], "smoothing": ["smoothing"]}
    for form in forms.get(stored, ["marginal_smoothing", "marginal_renorm"]):
        seen = set()
        for number, view, row in shown(data, targets=form):
            boxes, flips, labels = fkd.contents(files[fkd.paths(photos.names)[number]])
            confidence = {"hard": lambda a: np.ones(len(a)), "smoothing": lambda a: a[:, 1], "full": lambda a: a.max(1)}
            by = confidence.get(stored, lambda a: a[:, 1].max(1))(labels)
            crop = int(np.argsort(-by, kind="stable")[view])
            want = fkd.view(photos.images[number], torch.from_numpy(boxes)[crop], flips[crop], SIZE)
            assert torch.equal(row["data"], want), (number, view, boxes[crop])
            target = fkd.dense(labels[crop : crop + 1], form, CLASSES)[0]
            torch.testing.assert_close(row["targets"], target, rtol=1e-6, atol=1e-7)
            seen.add((number, crop))
        assert len(seen) == IMAGES * VIEWS


@pytest.mark.parametrize("order", ["code", "transposed"])
def test_relabel(photos: Photos, tmp_path: Path, order: Any) -> None:
    save = {"_use_new_zipfile_serialization": order == "code"}
    files = {
        f"{wnid}/{name.split('.')[0]}.pt": relabel.label_map(CLASSES, seed=n, few=None if n % 2 else 7, **save)
        for n, (wnid, name) in enumerate(photos.names)
    }
    place = archives.store(files, tmp_path / "published", "tar" if order == "code" else "folder", "relabel_imagenet")
    data = convert("relabel", [place], photos, tmp_path / "out", "--box-order", order)
    spec, epochs, seed = dali_dr.AugmentationSpec.preset("rrc", size=SIZE), 5, 3
    names = list(files)
    for number, view, row in shown(data, epochs, augment=spec, seed=seed, targets="dense"):
        image = photos.images[number]
        size = (image.height, image.width)
        drawn = draw(
            spec, seed=seed, key=data.keys[number], views=[-view - 1], image_height=size[0],
            image_width=size[1],
        )  # fmt: skip
        crop = tuple(drawn.crop[0].tolist())
        want = ml_dr_replay.replay_one(
            image,
            {"random_resized_crop": crop, "random_horizontal_flip": bool(drawn.flip[0])},
            ml_dr_writer.augmentation("rrc", SIZE),
        )
        assert torch.equal(row["data"], want)
        assert int(row["label"]) == number * CLASSES // IMAGES
        target = relabel.target(files[names[number]], crop, size, CLASSES, order)  # type: ignore[arg-type]
        torch.testing.assert_close(row["targets"], target, rtol=0, atol=1e-6)


BLOCKED = """
import sys
class Torch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "joblib"):
            raise ImportError(f"{name} is not needed here")
sys.meta_path.insert(0, Torch())
from dali_dr.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_torch_is_needed(photos: Photos, tmp_path: Path) -> None:
    """Of all three formats and CIFAR's enlarged images, shards are those that are made where torch is there."""
    names, images = photos.names, photos.images
    cifar = ml_dr_writer.config(
        ml_dr_writer.augmentation("cifar100", SIZE), VIEWS, 5, use_joblib=True, num_classes=CLASSES
    )
    sets: dict[str, Mapping[str, bytes]] = {
        "ml-dr": ml_dr_writer.Generation(images, cifar).files(),
        "fkd": {
            path: fkd.label_file(images[n], VIEWS, CLASSES, "k5", seed=n) for n, path in enumerate(fkd.paths(names))
        },
        "relabel": {
            f"{wnid}/{name.split('.')[0]}.pt": relabel.label_map(CLASSES, seed=n)
            for n, (wnid, name) in enumerate(names)
        },
    }
    for form, files in sets.items():
        place = archives.store(files, tmp_path / form, "tar.gz", "published")
        data = convert(form, [place], photos, tmp_path / f"{form}-here")
        words = ["convert", form, str(place), "--images", str(photos.root), "--quiet", "--out"]
        for more in ([str(tmp_path / form / "dry"), "--dry-run"], [str(tmp_path / f"{form}-there")]):
            subprocess.run([sys.executable, "-c", BLOCKED, *words, *more], check=True, capture_output=True)
        for shard in data.path.glob("*.tar"):
            assert (tmp_path / f"{form}-there" / shard.name).read_bytes() == shard.read_bytes(), form


@pytest.mark.parametrize("arrays", ["legacy", "zip"])
def test_a_class_that_a_cell_lists_twice_counts_once(photos: Photos, tmp_path: Path, arrays: str) -> None:
    """With its last score, as `scatter_` on the CPU has it in ReLabel's code."""
    generator, files = torch.Generator().manual_seed(0), {}
    for wnid, name in photos.names:
        ids = torch.randint(0, 4, (5, 15, 15), generator=generator)  # of four classes, so that all cells repeat some
        buffer = io.BytesIO()
        stacked = torch.stack([6 * torch.randn(5, 15, 15, generator=generator), ids.float()])
        torch.save(stacked, buffer, _use_new_zipfile_serialization=arrays == "zip")
        files[f"{wnid}/{name.split('.')[0]}.pt"] = buffer.getvalue()
    place = archives.store(files, tmp_path / "published", "tar", "relabel_imagenet")
    data, names = convert("relabel", [place], photos, tmp_path / "out"), list(files)
    spec = dali_dr.AugmentationSpec.preset("rrc", size=SIZE)
    for number, view, row in shown(data, 2, augment=spec, seed=3, targets="dense"):
        image = photos.images[number]
        size = (image.height, image.width)
        key = data.keys[number]
        drawn = draw(spec, seed=3, key=key, views=[-view - 1], image_height=size[0], image_width=size[1])
        target = relabel.target(files[names[number]], tuple(drawn.crop[0].tolist()), size, CLASSES)  # type: ignore[arg-type]
        torch.testing.assert_close(row["targets"], target, rtol=0, atol=1e-6)
