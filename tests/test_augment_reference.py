"""The Pillow replay against torchvision's PIL functional path, byte for byte."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from dali_dr._torchvision import load_torchvision
from dali_dr.augment.draw import draw
from dali_dr.augment.operations import OP_NAMES
from dali_dr.augment.reference import normalise, replay_pillow
from dali_dr.augment.spec import AugmentationSpec, RandAugment, RandomErasing, RandomResizedCrop
from dali_dr.augment.views import Views

load_torchvision()
from torchvision.transforms import InterpolationMode, autoaugment  # noqa: E402
from torchvision.transforms import functional as F  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_replay(image: Image.Image, views: Views, row: int, spec: AugmentationSpec) -> np.ndarray:
    top, left, height, width = views.crop[row].tolist()
    image = F.resized_crop(image, top, left, height, width, [spec.size] * 2, InterpolationMode(spec.interpolation))
    if views.flip[row]:
        image = F.hflip(image)
    for op, magnitude in zip(views.ops[row], views.magnitudes[row].tolist(), strict=True):
        if OP_NAMES[op] == "Hue":
            image = F.adjust_hue(image, magnitude)
        elif OP_NAMES[op] == "GaussianBlur":
            image = image.filter(ImageFilter.GaussianBlur(magnitude))
        elif not OP_NAMES[op].startswith("Window"):
            image = autoaugment._apply_op(image, OP_NAMES[op], magnitude, InterpolationMode.NEAREST, None)
    tensor = F.pil_to_tensor(image)
    if views.erase[row].any():
        top, left, height, width = views.erase[row].tolist()
        tensor = F.erase(tensor, top, left, height, width, torch.zeros(1, dtype=torch.uint8))
    return tensor.permute(1, 2, 0).numpy()


def images(jpeg_bytes: list[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(data)) for data in jpeg_bytes]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [64, 161])
def test_random_chains(jpeg_bytes: list[bytes], size: int, interpolation: str) -> None:
    for magnitude in (3, 9, 17, 30):
        spec = AugmentationSpec(
            size=size,
            interpolation=interpolation,  # type: ignore[arg-type]
            crop=RandomResizedCrop(scale=(0.01, 1.0)),
            rand_augment=RandAugment(num_ops=3, magnitude=magnitude),
            random_erasing=RandomErasing(0.5),
        )
        for number, image in enumerate(images(jpeg_bytes)):
            views = draw(
                spec,
                seed=magnitude,
                key=str(number),
                views=range(6),
                image_height=image.height,
                image_width=image.width,
            )
            rgb = image.convert("RGB")
            for row in range(len(views)):
                want = torchvision_replay(rgb, views, row, spec)
                got = replay_pillow(image, views, row, spec)
                assert got.dtype == np.uint8 and got.shape == (size, size, 3)
                np.testing.assert_array_equal(got, want, err_msg=str(views.take([row])))
                np.testing.assert_array_equal(replay_pillow(np.asarray(rgb), views, row, spec), want)


@pytest.mark.parametrize("name", OP_NAMES[:16])
def test_each_operation_at_every_magnitude_and_sign(jpeg_bytes: list[bytes], name: str) -> None:
    image = images(jpeg_bytes)[0].convert("RGB")
    spec = AugmentationSpec(size=97)
    space = autoaugment.RandAugment()._augmentation_space(31, (spec.size, spec.size))
    more = {"Hue": (torch.linspace(0, 0.5, 31), True), "GaussianBlur": (torch.linspace(0.1, 5, 31), False)}
    values, signed = (space | more)[name]
    for value in np.unique(values.numpy()).astype(np.float32):
        for sign in (1, -1) if signed else (1,):
            views = Views(
                crop=np.array([[20, 30, 200, 300]], np.int32),
                flip=np.array([False]),
                ops=np.array([[OP_NAMES.index(name)]], np.uint8),
                magnitudes=np.array([[sign * value]], np.float32),
                erase=np.zeros((1, 4), np.int32),
            )
            np.testing.assert_array_equal(
                replay_pillow(image, views, 0, spec),
                torchvision_replay(image, views, 0, spec),
                err_msg=f"{name} {value}",
            )


def test_real_photos(photos_dir: Path) -> None:
    spec = AugmentationSpec.preset("rrc+ra+re")
    for path in sorted(photos_dir.rglob("*.*"))[:20]:
        image = Image.open(path).convert("RGB")
        views = draw(spec, seed=0, key=path.stem, views=range(5), image_height=image.height, image_width=image.width)
        for row in range(5):
            np.testing.assert_array_equal(
                replay_pillow(image, views, row, spec), torchvision_replay(image, views, row, spec)
            )


def one_view(op: str, magnitude: float, erase: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Views:
    return Views(
        crop=np.array([[0, 0, 60, 80]], np.int32),
        flip=np.array([False]),
        ops=np.array([[OP_NAMES.index(op)]], np.uint8),
        magnitudes=np.array([[magnitude]], np.float32),
        erase=np.array([erase], np.int32),
    )


def test_other_sizes_scale_erase_edges_and_translations() -> None:
    white, spec = np.full((60, 80, 3), 255, np.uint8), AugmentationSpec(size=224)
    # Edges 3 -> 1.5 -> 2, 3+4=7 -> 3.5 -> 4; 5 -> 2.5 -> 3, 5+2=7 -> 4.
    halved = replay_pillow(white, one_view("Identity", 0, (3, 5, 4, 2)), 0, spec, 112)
    rows, columns = np.nonzero(halved[..., 0] == 0)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (2, 4, 3, 4)
    oblong = replay_pillow(white, one_view("Identity", 0, (4, 8, 16, 32)), 0, spec, (448, 56))
    rows, columns = np.nonzero(oblong[..., 0] == 0)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (8, 40, 2, 10)
    # 30.45 px is 30 px as stored: 30 * 288 / 224 = 38.57 -> 39 right; -30 * 160 / 224 = -21.43 -> -21 (left).
    right = replay_pillow(white, one_view("TranslateX", 30.45), 0, spec, 288)
    assert not right[:, :39].any() and right[:, 39:].all()
    left = replay_pillow(white, one_view("TranslateX", -30.45), 0, spec, (100, 160))
    assert left.shape == (100, 160, 3) and left[:, :-21].all() and not left[:, -21:].any()
    # Half a pixel rounds away from zero: 15 * 112 / 224 = 7.5 -> 8, -7.5 -> -8.
    down = replay_pillow(white, one_view("TranslateY", 15), 0, spec, 112)
    assert not down[:8].any() and down[8:].all()
    up = replay_pillow(white, one_view("TranslateY", -15), 0, spec, 112)
    assert up[:-8].all() and not up[-8:].any()
    assert replay_pillow(white, one_view("Identity", 0, (4, 4, 1, 1)), 0, spec, 56).all()  # scaled to nothing


def test_normalise_is_torchvisions_bit_for_bit() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    theirs = F.normalize(F.to_tensor(Image.fromarray(values)), MEAN, STD).numpy()
    ours = normalise(values, MEAN, STD)
    assert ours.dtype == np.float32 and ours.shape == (3, 16, 16)
    assert ours.tobytes() == np.ascontiguousarray(theirs).tobytes()
