"""Fresh views and evaluation: the loader against Pillow, torchvision and the drawing rules, without stored views."""

from __future__ import annotations

import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from PIL import Image
from test_iterator import epoch_of, loader, make_dataset

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.augment.draw import draw
from dali_dr.augment.fresh import resolve_augment
from dali_dr.augment.reference import normalise, replay_pillow
from dali_dr.augment.spec import RandomResizedCrop
from dali_dr.cli import main
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD

load_torchvision()
from torchvision import transforms as T  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402

CLASSES = 11


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images(jpeg_bytes: list[bytes]) -> list[bytes]:
    """Photos larger and smaller than a view, of all shapes and formats."""
    shapes = [(40, 90), (225, 224), (223, 400), (256, 256), (257, 300), (1, 9), (600, 31), (512, 512), (17, 17)]
    more = [encode_jpeg(picture(h, w, 20 + n), quality=97) for n, (h, w) in enumerate(shapes)]
    lossless = [encoded(picture(70, 50, 40), "PNG"), encoded(picture(333, 500, 41), "WEBP", lossless=True)]
    return [*jpeg_bytes, *more, *lossless]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> dali_dr.Dataset:
    samples = [dali_dr.Sample(f"a/{n:03d}", data, n % CLASSES) for n, data in enumerate(images)]
    out = tmp_path_factory.mktemp("plain") / "set"
    dali_dr.write_shards(samples, out, spec=None, num_classes=CLASSES, samples_per_shard=7, progress=False)
    return dali_dr.Dataset(out)


def opened(dataset: dali_dr.Dataset, number: int) -> Image.Image:
    return Image.open(io.BytesIO(dataset.image(number))).convert("RGB")


@pytest.mark.parametrize("preset", ["rrc", "rrc+ra+re"])
def test_views_are_drawn_and_replayed_exactly(plain: dali_dr.Dataset, preset: str) -> None:
    """Three epochs of the loader are replay_pillow(draw(spec, seed, key, epoch)), byte for byte, with hard targets."""
    spec = dali_dr.AugmentationSpec.preset(preset, 64)
    iterator = loader(plain, augment=preset, size=64, dtype="uint8", layout="HWC", seed=9)
    for epoch in range(3):
        seen = []
        for batch in epoch_of(iterator):
            assert (batch["view"] == -1 - epoch).all()
            assert torch.equal(batch["soft_ids"][:, 0], batch["label"].int()) and (batch["soft_probs"] == 1).all()
            for row, number in enumerate(batch["index"].tolist()):
                seen.append(number)
                image = opened(plain, number)
                views = draw(
                    spec,
                    seed=9,
                    key=plain.keys[number],
                    views=[epoch],
                    image_height=image.height,
                    image_width=image.width,
                )
                assert np.array_equal(batch["data"][row].numpy(), replay_pillow(image, views, 0, spec)), (epoch, number)
                assert int(batch["label"][row]) == plain.label(number) == number % CLASSES
        assert sorted(seen) == list(range(len(plain)))


def test_options_of_fresh_views(plain: dali_dr.Dataset) -> None:
    """Several views of one decode, another output size, dense targets, normalised tensors; a spec of one's own."""
    spec = dali_dr.AugmentationSpec(size=48, crop=RandomResizedCrop((0.3, 0.4)))
    iterator = loader(plain, augment=spec, size=(40, 56), views_per_image=3, targets="dense")
    (batch,) = next(iterator)
    assert batch["data"].shape == (15, 3, 40, 56) and batch["view"].tolist() == [-1, -2, -3] * 5
    assert torch.equal(batch["targets"], torch.nn.functional.one_hot(batch["label"], CLASSES).float())
    for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
        image = opened(plain, number)
        views = draw(spec, seed=7, key=plain.keys[number], views=[-1 - view], image_height=image.height,
                     image_width=image.width)  # fmt: skip
        expected = normalise(replay_pillow(image, views, 0, spec, (40, 56)), IMAGENET_MEAN, IMAGENET_STD)
        assert np.array_equal(batch["data"][row].numpy(), expected)


@pytest.mark.parametrize("preset", ["crop+flip", "moco-v2", "swav", "fkd", "deit", "usi", "rrc+aa+re", "rrc+ta+re"])
def test_presets_of_papers_are_drawn_while_training(plain: dali_dr.Dataset, preset: str) -> None:
    """In every byte what Python draws and Pillow shows."""
    spec = dali_dr.AugmentationSpec.preset(preset, 48)
    for batch in itertools.islice(loader(plain, augment=spec, views_per_image=4), 2):
        (one,) = batch
        for row, (number, view) in enumerate(zip(one["index"].tolist(), one["view"].tolist(), strict=True)):
            image = opened(plain, number)
            views = draw(spec, seed=7, key=plain.keys[number], views=[-1 - view], image_height=image.height,
                         image_width=image.width)  # fmt: skip
            expected = normalise(replay_pillow(image, views, 0, spec), IMAGENET_MEAN, IMAGENET_STD)
            assert np.array_equal(one["data"][row].numpy(), expected), (preset, views)


def test_a_reinforced_set_shown_plainly(tmp_path: Path, images: list[bytes]) -> None:
    """Stored views are left alone, and the names of presets take the stored size; with whole decodes too."""
    dataset = make_dataset(tmp_path / "set", images)
    shown = loader(dataset, augment="rrc+ra+re"), loader(dataset, augment=dataset.spec, roi_decode="off")
    for (a,), (b,) in zip(*shown, strict=True):
        assert torch.equal(a["data"], b["data"]) and a["data"].shape[-1] == dataset.spec.size
        assert a["soft_ids"].shape == (len(a["label"]), 1) and (a["view"] == -1).all()


def test_state_of_a_plain_run(plain: dali_dr.Dataset) -> None:
    whole = loader(plain, augment="rrc", size=32)
    batches = epoch_of(whole) + epoch_of(whole)
    first = loader(plain, augment="rrc", size=32)
    for _ in range(3):
        next(first)
    second = loader(plain, augment="rrc", size=32)
    second.load_state_dict(first.state_dict())
    rest = epoch_of(second) + epoch_of(second)
    assert len(rest) == len(batches) - 3
    assert all(torch.equal(a["data"], b["data"]) for a, b in zip(rest, batches[3:], strict=True))


FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def by_torchvision(image: Image.Image, evaluation: dali_dr.Evaluation) -> np.ndarray:
    chain = T.Compose([T.Resize(evaluation.resize, FILTERS[evaluation.interpolation]), T.CenterCrop(evaluation.size)])
    return np.asarray(chain(image))


EVALUATIONS = [
    dali_dr.Evaluation(),
    dali_dr.Evaluation(224, 232, "bicubic"),
    dali_dr.Evaluation(32, 32),
    dali_dr.Evaluation(33, 64, "bicubic"),
    dali_dr.Evaluation(160),
    dali_dr.Evaluation(223, 256),  # odd margins: halves are rounded to even
    dali_dr.Evaluation(97, 300, "bicubic"),
]


@pytest.mark.parametrize("evaluation", EVALUATIONS, ids=str)
def test_evaluation_is_torchvisions(plain: dali_dr.Dataset, evaluation: dali_dr.Evaluation) -> None:
    """Every byte, the whole set once, in order, with a partial last batch; small images are enlarged."""
    iterator = loader(plain, augment=evaluation, batch_size=8, dtype="uint8", layout="HWC")
    for _ in range(2):
        batches = epoch_of(iterator)
        assert [len(b["label"]) for b in batches] == [8, 8, 3]
        assert torch.cat([b["index"] for b in batches]).tolist() == list(range(19))
        shown = torch.cat([b["data"] for b in batches]).numpy()
        for number in range(19):
            assert np.array_equal(shown[number], by_torchvision(opened(plain, number), evaluation)), number


def by_axes(image: Image.Image, evaluation: dali_dr.Evaluation) -> np.ndarray:
    """`by_torchvision` without holding the resized image, for what is enlarged: Pillow resizes it horizontally first."""
    bilinear, size = Image.Resampling.BILINEAR, evaluation.size
    width, height = (int(evaluation.resize * length / min(image.size)) for length in image.size)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    across = image.resize((width, image.height), bilinear).crop((left, 0, left + size, image.height))
    return np.asarray(across.resize((size, height), bilinear).crop((0, top, size, top + size)))


def test_evaluation_of_long_images(tmp_path: Path) -> None:
    """However long: what is shown is computed, and what is not shown is not."""
    shapes = [(1, 700), (700, 1), (3, 900), (1200, 2)]
    images = [encoded(picture(h, w, n), "PNG") for n, (h, w) in enumerate(shapes)]
    longest = [
        encode_jpeg(picture(2, 65_500, 9)),
        encode_jpeg(picture(65_500, 1, 8)),
        encoded(picture(1, 65_535, 7), "PNG"),
    ]
    samples = [dali_dr.Sample(f"{n}", data, n) for n, data in enumerate([*images, *longest])]
    dali_dr.write_shards(samples, tmp_path / "set", spec=None, num_classes=len(samples), progress=False)
    for evaluation in (dali_dr.Evaluation(), dali_dr.Evaluation(16, 19), dali_dr.Evaluation(4096, 8192)):
        iterator = loader(tmp_path / "set", augment=evaluation, batch_size=1, dtype="uint8", layout="HWC", prefetch=1)
        for (batch,) in iterator:
            number, shown = int(batch["index"][0]), batch["data"][0].numpy()
            image = opened(iterator.dataset, number)
            if evaluation.size < 1000 and number < 4:
                expected = by_torchvision(image, evaluation)
                assert np.array_equal(by_axes(image, evaluation), expected)
            elif evaluation.size < 100:
                expected = by_axes(image, evaluation)
            else:
                assert shown.shape == (evaluation.size, evaluation.size, 3)
                continue
            assert np.array_equal(shown, expected), (evaluation, number)


def test_evaluation_of_real_photos(tmp_path: Path, photos_dir: Path) -> None:
    """Normalised, as torchvision's ToTensor and Normalize do it, by name."""
    paths = sorted(photos_dir.iterdir())[::8]
    samples = [dali_dr.Sample(f"{n}", path.read_bytes(), n) for n, path in enumerate(paths)]
    dali_dr.write_shards(samples, tmp_path / "set", spec=None, num_classes=len(paths), progress=False)
    tail = T.Compose([T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    iterator = loader(tmp_path / "set", augment="eval", batch_size=16)
    shown = torch.cat([batch["data"] for batch in epoch_of(iterator)])
    assert shown.shape == (len(paths), 3, 224, 224)
    for number in range(len(paths)):
        pixels = by_torchvision(opened(iterator.dataset, number), dali_dr.Evaluation())
        assert torch.equal(shown[number], tail(Image.fromarray(pixels))), paths[number]


def test_ranks_evaluate_every_image_once(plain: dali_dr.Dataset) -> None:
    parts = [
        torch.cat([b["index"] for b in epoch_of(loader(plain, augment="eval", size=32, rank=r, world_size=3))])
        for r in range(3)
    ]
    assert sorted(torch.cat(parts).tolist()) == list(range(19))


def test_what_augment_means() -> None:
    stored = dali_dr.AugmentationSpec.preset("rrc", 96)
    assert resolve_augment("eval") == dali_dr.Evaluation(224, 256)
    assert resolve_augment("eval", stored).resize == math.floor(96 / 0.875) == 109
    assert resolve_augment("rrc", stored, 64).size == 64
    assert resolve_augment(stored, None, 64).size == 96  # drawn as it says, shown at 64
    assert resolve_augment(dali_dr.Evaluation(224, 256), None, 112) == dali_dr.Evaluation(112, 128)
    for wrong in ("rcc", 3, None):
        with pytest.raises(dali_dr.SpecError, match="augment"):
            resolve_augment(wrong)  # type: ignore[arg-type]
    for arguments in ((224, 200), (0,), (224, 256, "nearest")):
        with pytest.raises(dali_dr.SpecError, match="evaluation"):
            dali_dr.Evaluation(*arguments)


def test_errors(plain: dali_dr.Dataset) -> None:
    with pytest.raises(dali_dr.ShardError, match='augment="rrc"'):
        loader(plain)
    with pytest.raises(ValueError, match="one size"):
        loader(plain, augment="eval", size=lambda epoch: 64)


def test_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(tmp_path / "in", {f"{'ab'[n % 2]}/{n}.jpg": encode_jpeg(picture(40, 50, n)) for n in range(5)})
    command = ["pack", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--quiet", "--samples-per-shard", "2"]
    command.append("--keep-bytes")
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["classes"], facts["shards"], facts["views"]) == (5, 2, 3, 0)
    assert main(command) == 0  # a second time: nothing to do
    dataset = dali_dr.Dataset(tmp_path / "out")
    assert dataset.class_names == ("a", "b") and dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.image(3) == (tmp_path / "in" / "b" / "1.jpg").read_bytes()
    assert main(["pack", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")]) == 2
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["pack", "--help"])
    assert caught.value.code == 0 and "--samples-per-shard" in capsys.readouterr().out
