"""dali-dr verify --teacher of converted sets: the files hold what a small network says of views that are made here by
torchvision, as the authors' code makes them; asked again, it agrees, and of other images, sizes or orders it does not."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg
from PIL import Image
from published import archives, fkd, ml_dr_replay, ml_dr_writer
from published.converting import CLASSES, IMAGES, SIZE, Photos, convert, photos_in

from dali_dr._torchvision import load_torchvision
from dali_dr.reinforce.check import TeacherCheck, check_label_maps, check_teacher
from dali_dr.reinforce.networks import Member, Teacher

load_torchvision()
from torchvision.transforms import InterpolationMode  # noqa: E402
from torchvision.transforms import functional as F  # noqa: E402

VIEWS = 6
SEEN = 80  # pixels of what FKD's teacher sees


class Network(torch.nn.Module):
    """Random weights, with opinions that depend on where something is."""

    num_classes = CLASSES

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 24, 7, 4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
            torch.nn.Linear(24 * 16, CLASSES),
        )  # fmt: skip
        with torch.no_grad():
            self.layers[4].weight *= 30

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(x)
        return result


@torch.inference_mode()
def opinion(network: Network, view: torch.Tensor) -> torch.Tensor:
    """Probabilities (CLASSES,) of a normalised view (3, H, W)."""
    return torch.softmax(network.eval()(view[None]), 1)[0]


class Asked(ml_dr_writer.Generation):
    """Reinforcements whose predictions are those of a network."""

    network: Network

    def reinforcements(self, number: int) -> list[dict[str, Any]]:
        images = self.config["reinforce"]["image_augmentation"]
        out = []
        for _ in range(VIEWS):
            params = self.params(number)
            view = ml_dr_replay.replay(params, images, self.images[number], lambda n: self.images[n])
            probs = opinion(self.network, view).numpy()
            ids = np.argpartition(probs, -5)[-5:]
            out.append({"params": params, "prob": (probs[ids].tolist(), ids.tolist())})
        return out


def ask(data: Any, network: Network, size: int, mean: Any = fkd.MEAN, std: Any = fkd.STD) -> TeacherCheck:
    teacher = Teacher([Member("network", network, size, tuple(mean), tuple(std))], torch.device("cpu"))
    return check_teacher(data, teacher, samples=60, batch=20, num_threads=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return photos_in(tmp_path_factory.mktemp("published") / "images", (70, 90))


@pytest.mark.parametrize("variant", ml_dr_writer.VARIANTS)
def test_ml_dr(photos: Photos, tmp_path: Path, variant: str) -> None:
    augmentation = ml_dr_writer.augmentation(variant, SIZE)
    config = ml_dr_writer.config(augmentation, VIEWS, 5, num_classes=CLASSES)
    generation = Asked(photos.images, config, seed=1)
    generation.network = network = Network()
    place = archives.store(generation.files(), tmp_path / "published", "tar.gz", "reinforced_data", 3)
    data = convert("ml-dr", [place], photos, tmp_path / "out")
    normalise = augmentation["normalize"]["mean"], augmentation["normalize"]["std"]
    check = ask(data, network, SIZE, *normalise)
    assert check.ok and check.teacher_is_the_same is None and check.views == 60, check
    other = ask(data, Network(1), SIZE, *normalise)
    assert not other.ok and other.kl_mean > 20 * check.kl_mean, other
    # The same files, joined with images in another order, which fit all boxes.
    order = tmp_path / "order.txt"
    order.write_text("".join(f"{wnid}/{name}\n" for wnid, name in photos.names[1:] + photos.names[:1]))
    wrong = convert("ml-dr", [place], photos, tmp_path / "wrong", "--order", str(order))
    assert not ask(wrong, network, SIZE, *normalise).ok


def fkd_file(image: Image.Image, network: Network, seed: int) -> bytes:
    """What FKD's generation stores: the teacher sees larger views, by another filter, than training shows."""
    boxes, flips, _ = fkd.contents(fkd.label_file(image, VIEWS, CLASSES, "k5", seed=seed))
    labels = []
    sides = np.array([image.height, image.width] * 2)
    for box, flip in zip(boxes.astype(np.float64), flips, strict=True):
        top, left, height, width = np.rint(box * sides).astype(int).tolist()
        view = F.resized_crop(image, top, left, height, width, [SEEN, SEEN], InterpolationMode.BICUBIC)
        view = F.normalize(F.to_tensor(F.hflip(view) if flip else view), fkd.MEAN, fkd.STD)
        labels.append(fkd.quantised(opinion(network, view), "k5"))
    buffer = io.BytesIO()
    torch.save([boxes, flips, torch.stack(labels).numpy()], buffer)
    return buffer.getvalue()


def test_fkd(photos: Photos, tmp_path: Path) -> None:
    network = Network()
    files = {
        path: fkd_file(image, network, n)
        for n, (path, image) in enumerate(zip(fkd.paths(photos.names), photos.images, strict=True))
    }
    place = archives.store(files, tmp_path / "published", "tar", "FKD_soft_label")
    sizes = ("--probabilities", "float32", "--size", str(SIZE), "--teacher-size")
    right = ask(convert("fkd", [place], photos, tmp_path / "right", *sizes, str(SEEN)), network, SEEN)
    assert right.ok and right.kl_mean < 1e-6, right
    small = ask(convert("fkd", [place], photos, tmp_path / "small", *sizes, str(SIZE // 2)), network, SEEN)
    assert not small.ok and small.kl_mean > 1e-4, small


class Colours(torch.nn.Module):
    """A teacher that knows red (class 0) from blue (class 1)."""

    num_classes = CLASSES

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3))[:, [0, 2]] * 4, torch.zeros(len(x), CLASSES - 2)], 1)


@pytest.mark.parametrize("stored", ["code", "transposed"])
@pytest.mark.parametrize("said", ["code", "transposed"])
def test_relabel(tmp_path: Path, stored: str, said: str) -> None:
    """Images that are red on the left and blue on the right; maps of that, or with rows and columns exchanged."""
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[:, :60, 0] = pixels[:, 60:, 2] = 255
    photos = photos_in(tmp_path / "images")
    for wnid, name in photos.names:
        (photos.root / wnid / name).write_bytes(encode_jpeg(pixels))
    ids = torch.stack([torch.where(torch.arange(15) < 7, c, 1 - c).expand(15, 15) for c in (0, 1)])
    if stored == "code":
        ids = ids.transpose(1, 2)
    buffer = io.BytesIO()
    torch.save(torch.stack([torch.tensor([4.0, -4.0])[:, None, None].expand(2, 15, 15), ids.float()]), buffer)
    files: Mapping[str, bytes] = {f"{wnid}/{name.split('.')[0]}.pt": buffer.getvalue() for wnid, name in photos.names}
    place = archives.store(files, tmp_path / "published", "tar", "relabel_imagenet")
    data = convert("relabel", [place], photos, tmp_path / "out", "--box-order", said)
    teacher = Teacher([Member("colours", Colours(), 64, (0.5,) * 3, (0.5,) * 3)], torch.device("cpu"))
    check = check_label_maps(data, teacher, samples=50, batch=25, num_threads=2)
    assert check.better == stored and check.order == said and check.ok == (stored == said), check
    assert len(data) == IMAGES
