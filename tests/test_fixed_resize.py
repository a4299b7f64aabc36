"""Views of a fixed resize, from the operator to the loader: torchvision's Resize and crop on PIL images, byte for byte."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from PIL import Image
from test_iterator import epoch_of, loader
from test_reinforce import tiny_teacher
from test_replay import BLUR, FILTERS, HUE, Op, Pixels, apply, assert_same, pack, run

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.augment.draw import draw
from dali_dr.augment.members import ColourJitter, FixedResizeCrop, GaussianBlur
from dali_dr.augment.operations import OP_NAMES
from dali_dr.augment.reference import replay_pillow, replay_pillow_mixed
from dali_dr.augment.spec import Mixing
from dali_dr.augment.views import Views
from dali_dr.preview import replay_views
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.run import reinforce
from dali_dr.shards.verify import verify
from dali_dr.sources import ImageFolder

load_torchvision()
from torchvision.transforms import functional as F  # noqa: E402

TOP, LEFT = OP_NAMES.index("WindowTop"), OP_NAMES.index("WindowLeft")
SHAPES = [(32, 32), (375, 500), (501, 333), (256, 256), (256, 301), (97, 80), (33, 700), (700, 31), (1, 1), (900, 1201)]
CLASSES = 3


def cut_out(
    image: Pixels, resize: int, corner: tuple[int, int] | None, size: tuple[int, int], interpolation: str, flip: bool
) -> Image.Image:
    """torchvision's Resize(resize), and then the part at the corner, or the centre, maybe mirrored."""
    resized = F.resize(Image.fromarray(image), resize, FILTERS[interpolation])
    view = F.center_crop(resized, list(size)) if corner is None else F.crop(resized, *corner, *size)
    return F.hflip(view) if flip else view


def resized_size(shape: tuple[int, ...], resize: int) -> tuple[int, int]:
    height, width = (resize * side // min(shape[:2]) for side in shape[:2])
    return height, width


def corners(rng: np.random.Generator, shape: tuple[int, ...], resize: int, size: tuple[int, int]) -> list[Any]:
    """Both ends and places between."""
    rows, columns = (r - s for r, s in zip(resized_size(shape, resize), size, strict=True))
    places = [(int(rng.integers(rows + 1)), int(rng.integers(columns + 1))) for _ in range(3)]
    return [None, (0, 0), (rows, columns), *places]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("resize", "size"), [(256, (224, 224)), (97, (97, 97)), (41, (32, 25))], ids=str)
def test_operator_shows_the_part(resize: int, size: tuple[int, int], interpolation: str) -> None:
    rng = np.random.default_rng(resize)
    images, params, want, labels = [], [], [], []
    for number, shape in enumerate(SHAPES):
        image = picture(*shape, number)
        for corner in corners(rng, shape, resize, size):
            ops: list[Op] = [] if corner is None else [(TOP, corner[0]), (LEFT, corner[1])]
            more: list[Op] = [(HUE, 0.07), (BLUR, 1.3)] if number % 2 else []
            flip = bool(rng.integers(2))
            images.append(image)
            params.append(pack((0, 0, *shape), ops + more, flip=flip))
            view = cut_out(image, resize, corner, size, interpolation, flip)
            for index, value in more:
                view = apply(view, index, float(np.float32(value)))
            want.append(np.asarray(view))
            labels.append((shape, corner))
    padded = [np.pad(words, (0, 18 - len(words))) for words in params]  # words behind the operations are ignored
    got = run(images, padded, size=size, resize_shorter=resize, interpolation=interpolation, output_layout="HWC")
    assert_same(got, want, labels)


@pytest.mark.parametrize("size", [112, 160, 288, 97], ids=str)
def test_another_size_shows_the_same_part(size: int) -> None:
    rng = np.random.default_rng(size)
    images, params, want, labels = [], [], [], []
    resize = math.floor(256 * size / 224 + 0.5)
    for number, shape in enumerate(SHAPES):
        image = picture(*shape, number)
        for corner in corners(rng, shape, 256, (224, 224))[1:]:
            images.append(image)
            params.append(pack((0, 0, *shape), [(TOP, corner[0]), (LEFT, corner[1])]))
            scaled = [
                min(math.floor(place * size / 224 + 0.5), side - size)
                for place, side in zip(corner, resized_size(shape, resize), strict=True)
            ]
            want.append(np.asarray(cut_out(image, resize, (scaled[0], scaled[1]), (size, size), "bilinear", False)))
            labels.append((shape, corner))
    got = run(images, params, size=size, stored_size=224, resize_shorter=256, output_layout="HWC")
    assert_same(got, want, labels)
    spec = dali_dr.AugmentationSpec(crop=FixedResizeCrop(256))
    for image, words, view in list(zip(images, params, want, strict=True))[::7]:
        assert np.array_equal(replay_pillow(image, Views.unpack(words[None]), 0, spec, size), view)


def test_a_window_outside_the_resized_image_is_refused() -> None:
    image = picture(30, 40, 0)
    for corner in ((0, 64), (33, 0)):
        words = pack((0, 0, 30, 40), [(TOP, corner[0]), (LEFT, corner[1])])
        with pytest.raises(
            RuntimeError, match=rf"\({corner[0]}, {corner[1]}\) is not inside the image resized to 64x85"
        ):
            run([image], [words], size=32, resize_shorter=64)
        spec = dali_dr.AugmentationSpec(size=32, crop=FixedResizeCrop(64))
        with pytest.raises(ValueError, match="is not inside the image resized to 64x85"):
            replay_pillow(image, Views.unpack(words[None]), 0, spec)
    last = pack((0, 0, 30, 40), [(TOP, 32), (LEFT, 53)])
    assert run([image], [last], size=32, resize_shorter=64)[0].shape == (3, 32, 32)


# ---- Through data sets


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    pictures = [picture(*shape, 50 + n) for n, shape in enumerate(SHAPES)]
    png = io.BytesIO()
    Image.fromarray(picture(45, 52, 9)).save(png, "PNG")
    return [*(encode_jpeg(pixels, quality=92) for pixels in pictures), png.getvalue()]


def opened(dataset: dali_dr.Dataset, number: int) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(dataset.image(number))).convert("RGB"))


def shown_by_torchvision(
    dataset: dali_dr.Dataset, number: int, views: Views, row: int, spec: dali_dr.AugmentationSpec
) -> Pixels:
    """Stored or drawn parameters, shown without our code."""
    assert isinstance(spec.crop, FixedResizeCrop)
    ops = list(zip(views.ops[row].tolist(), views.magnitudes[row].tolist(), strict=True))
    corner = None
    if spec.crop.random:
        assert [op for op, _ in ops[:2]] == [TOP, LEFT]
        corner = (int(ops[0][1]), int(ops[1][1]))
        ops = ops[2:]
    image, size = opened(dataset, number), (spec.size, spec.size)
    assert views.crop[row].tolist() == [0, 0, *image.shape[:2]]
    view = cut_out(image, spec.crop.resize, corner, size, spec.interpolation, bool(views.flip[row]))
    for op, magnitude in ops:
        view = apply(view, op, magnitude)
    return np.asarray(view)


def reinforced(folder: Path, images: list[bytes], spec: dali_dr.AugmentationSpec) -> dali_dr.Dataset:
    """A data set with drawn views, and predictions of nobody."""
    rng, samples = np.random.default_rng(0), []
    for number, data in enumerate(images):
        width, height = Image.open(io.BytesIO(data)).size
        views = draw(spec, seed=3, key=f"k{number}", views=range(6), image_height=height, image_width=width)
        probs = np.sort(rng.random((6, 2)).astype(np.float32) / 2, axis=1)[:, ::-1].copy()
        ids = np.tile(np.array([0, 2], np.int32), (6, 1))
        columns = {name: getattr(views, name) for name in ("crop", "flip", "ops", "magnitudes", "erase")}
        stored = dali_dr.Reinforcements(**columns, soft_ids=ids, soft_probs=probs)
        samples.append(dali_dr.Sample(f"k{number}", data, number % CLASSES, stored))
    dali_dr.write_shards(samples, folder, spec=spec, num_classes=CLASSES, samples_per_shard=4, progress=False)
    return dali_dr.Dataset(folder)


@pytest.mark.parametrize("random", [True, False], ids=["anywhere", "centre"])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_stored_views_through_the_loader(
    tmp_path: Path, encoded: list[bytes], interpolation: Any, random: bool
) -> None:
    spec = dali_dr.AugmentationSpec(size=56, interpolation=interpolation, crop=FixedResizeCrop(64, random))
    dataset = reinforced(tmp_path / "set", encoded, spec)
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["format_version"] == 5
    for decoder in ("auto", "dali"):
        iterator, seen = loader(dataset, dtype="uint8", layout="HWC", seed=1, decoder=decoder), 0
        for batch in epoch_of(iterator):
            for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
                want = shown_by_torchvision(dataset, number, dataset.reinforcements(number), view, spec)
                assert np.array_equal(batch["data"][row].numpy(), want), (decoder, number, view)
                seen += 1
        assert seen == len(encoded)
    shown = list(replay_views(dataset, 1, range(6)))
    want = [shown_by_torchvision(dataset, 1, dataset.reinforcements(1), row, spec) for row in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(shown, want, strict=True))


def test_stored_views_at_other_sizes_through_the_loader(tmp_path: Path, encoded: list[bytes]) -> None:
    spec = dali_dr.AugmentationSpec(size=56, crop=FixedResizeCrop(64))
    dataset = reinforced(tmp_path / "set", encoded, spec)
    for size in (48, 77, (60, 50)):
        for batch in epoch_of(loader(dataset, dtype="uint8", layout="HWC", size=size)):
            for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
                want = replay_pillow(opened(dataset, number), dataset.reinforcements(number), view, spec, size)
                assert np.array_equal(batch["data"][row].numpy(), want), (size, number, view)


@pytest.mark.parametrize("preset", ["crop+flip", "moco-v2"])
def test_fresh_views_through_the_loader(tmp_path: Path, encoded: list[bytes], preset: str) -> None:
    """Of a plain set: hue and blur are among what "moco-v2" draws."""
    samples = [dali_dr.Sample(f"k{n}", data, n % CLASSES) for n, data in enumerate(encoded)]
    dali_dr.write_shards(samples, tmp_path / "set", spec=None, num_classes=CLASSES, progress=False)
    dataset, spec = dali_dr.Dataset(tmp_path / "set"), dali_dr.AugmentationSpec.preset(preset, 56)
    iterator, kinds = loader(dataset, augment=spec, dtype="uint8", layout="HWC", seed=5), set()
    for epoch in range(4):
        for batch in epoch_of(iterator):
            for row, number in enumerate(batch["index"].tolist()):
                image = opened(dataset, number)
                height, width = image.shape[:2]
                views = draw(spec, seed=5, key=f"k{number}", views=[epoch], image_height=height, image_width=width)
                kinds.update(views.ops.ravel().tolist())
                want = replay_pillow(image, views, 0, spec)
                if isinstance(spec.crop, FixedResizeCrop):
                    assert np.array_equal(want, shown_by_torchvision(dataset, number, views, 0, spec))
                assert np.array_equal(batch["data"][row].numpy(), want), (epoch, number)
    assert {HUE, BLUR} <= kinds if preset == "moco-v2" else {TOP, LEFT} <= kinds


# ---- Through generation


@pytest.mark.parametrize(
    "mixing",
    [
        None,
        Mixing(mixup_probability=0.7, cutmix_probability=0.7, pool=None),
        Mixing(double=True),
        Mixing(partners="self"),
    ],
    ids=["plain", "mixed", "double", "self"],
)
def test_generation_shows_the_teacher_what_training_shows(
    tmp_path: Path, encoded: list[bytes], mixing: Mixing | None
) -> None:
    """With every later operation, and partners that are parts of a fixed resize of their own images."""
    spec = dali_dr.AugmentationSpec(
        size=40, crop=FixedResizeCrop(46), mixing=mixing, greyscale=0.2, blur=GaussianBlur(0.5),
        colour_jitter=ColourJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
    )  # fmt: skip
    teacher = tiny_teacher()
    folder = write_files(tmp_path / "images", {f"c{n % 3}/{n:02d}.jpg": data for n, data in enumerate(encoded)})
    generation = Generation(spec, teacher, num_views=6, topk=3, batch_views=12, num_threads=2)
    reinforce(ImageFolder.scan(folder), tmp_path / "set", generation, num_classes=6, probabilities="float32",
              progress=False)  # fmt: skip
    dataset = dali_dr.Dataset(tmp_path / "set")
    assert verify(dataset.path, progress=False).ok
    for batch in epoch_of(loader(dataset, mean=(0.0,) * 3, std=(1 / 255,) * 3)):
        for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
            views = dataset.reinforcements(number)
            partner = -1 if views.mix is None else int(views.mix.partner[view])
            images = [opened(dataset, n) if n >= 0 else None for n in (number, partner)]
            want = replay_pillow_mixed(images[0], images[1], views, view, spec, (0.0,) * 3, (1 / 255,) * 3)
            assert np.array_equal(batch["data"][row].numpy(), want)
            seen = torch.from_numpy(replay_pillow_mixed(images[0], images[1], views, view, spec))[None]
            probs = teacher.predict(seen)[0].numpy()
            assert np.array_equal(probs[views.soft_ids[view]], views.soft_probs[view])
