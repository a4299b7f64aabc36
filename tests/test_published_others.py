"""FKD's soft labels and ReLabel's maps, from published files to what training shows, against replays as published."""

from __future__ import annotations

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
