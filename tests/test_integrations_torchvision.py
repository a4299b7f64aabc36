"""torchvision's training script after the diff of docs/migration: its protocol, what it gets, what it is told."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import test_mixing
import torch
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from script_diffs import (
    MOST_LINES,
    apply,
    changed_lines,
    changed_miniature,
    diffs,
    make_data,
    one_process,  # noqa: F401  (a fixture of all tests here)
    same,
    share_of,
    soft_cross_entropy,
    told,
    written,
)
from test_iterator import CLASSES, SIZE

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.integrations import torchvision_data, torchvision_loader
from dali_dr.integrations.torchvision import EpochOrder

BATCH = 6
DIFF = diffs("torchvision")["train.py"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("torchvision"))


def options(data: Path, **change: Any) -> Namespace:
    """The script's options: its defaults, but for sizes."""
    defaults: dict[str, Any] = {
        "data_path": str(data), "device": "cpu", "batch_size": BATCH, "workers": 16, "lr": 0.01, "epochs": 3,
        "start_epoch": 0, "label_smoothing": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "auto_augment": None,
        "ra_magnitude": 9, "augmix_severity": 3, "random_erase": 0.0, "train_crop_size": SIZE, "val_crop_size": 64,
        "val_resize_size": 72, "interpolation": "bilinear", "ra_sampler": False, "ra_reps": 3, "weights": None,
        "backend": "pil", "use_v2": False, "cache_dataset": False, "resume": "", "test_only": False, "output_dir": ".",
        "distributed": False, "model_ema": False, "model_ema_steps": 1,
    }  # fmt: skip
    assert set(change) <= set(defaults)
    return Namespace(**(defaults | change))


def loaders(args: Namespace, **more: Any) -> tuple[Any, Any]:
    """The script's two loaders, made as it makes them."""
    root = Path(args.data_path)
    train, test, sampler, test_sampler = torchvision_data(root / "train", root / "val", args)
    common: dict[str, Any] = {"batch_size": args.batch_size, "num_workers": args.workers, "pin_memory": True}
    return (
        torchvision_loader(train, sampler=sampler, collate_fn=None, num_threads=1, **common, **more),
        torchvision_loader(test, sampler=test_sampler, num_threads=1, **common),
    )


def test_few_lines_change() -> None:
    assert changed_lines(DIFF) == (6, 6) and max(changed_lines(DIFF)) <= MOST_LINES


def test_the_script_trains_and_resumes(data: Path, tmp_path: Path) -> None:
    """What it sees is Pillow's replay and the stored targets; resumed, it sees and becomes what it would have."""
    script = changed_miniature("torchvision_train", DIFF, tmp_path)
    script.main(options(data, output_dir=str(tmp_path), model_ema=True))
    whole, losses = list(script.seen), list(script.losses)
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["model"]
    assert [epoch for epoch, _, _ in whole] == [e for e in range(3) for _ in range(4)]  # 22 images in batches of 6
    first = written(dali_dr.Dataset(data / "train"), batch_size=BATCH)
    for (_, images, targets), (want, wanted) in zip(whole[:4], first, strict=True):
        assert torch.equal(images, want)
        torch.testing.assert_close(targets, wanted, atol=1e-6, rtol=0)

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.LazyLinear(CLASSES))
    model(torch.zeros(1, 3, SIZE, SIZE))
    logits = model(first[0][0]).detach().double().numpy()
    assert losses[0] == pytest.approx(soft_cross_entropy(logits, first[0][1].double().numpy()), rel=1e-5)
    assert not torch.equal(state["2.weight"], model[2].weight)

    script.seen.clear(), script.losses.clear()
    script.main(options(data, output_dir=str(tmp_path), model_ema=True, epochs=2))
    assert same(script.seen, whole[:8])
    script.seen.clear(), script.losses.clear()
    resumed = options(data, output_dir=str(tmp_path), model_ema=True, resume=str(tmp_path / "checkpoint.pth"))
    script.main(resumed)
    assert same(script.seen, whole[8:]) and script.losses == losses[8:]
    again = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["model"]
    assert all(torch.equal(again[name], value) for name, value in state.items())
    only = options(data, output_dir=str(tmp_path), resume=str(tmp_path / "checkpoint.pth"), test_only=True)
    script.seen.clear()
    assert 0 <= script.main(only) <= 100 and not script.seen


def test_a_mixing_run_resumes(data: Path, tmp_path: Path) -> None:
    script = changed_miniature("torchvision_train", DIFF, tmp_path)
    mixing = {"mixup_alpha": 0.3, "cutmix_alpha": 1.0, "output_dir": str(tmp_path)}
    script.main(options(data, epochs=2, **mixing))
    whole = list(script.seen)
    script.seen.clear()
    script.main(options(data, epochs=1, **mixing))
    script.main(options(data, epochs=2, **mixing, resume=str(tmp_path / "checkpoint.pth")))
    assert same(script.seen, whole)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_torchvisions(data: Path, interpolation: str) -> None:
    """Labels and order of ImageFolder; pixels of its transforms, as bytes and as floats, in every bit."""
    torchvision = load_torchvision()
    transforms, mode = torchvision.transforms, torchvision.transforms.InterpolationMode(interpolation)
    view = [
        transforms.Resize(72, interpolation=mode, antialias=True),
        transforms.CenterCrop(64),
        transforms.PILToTensor(),
    ]
    preset = transforms.Compose(
        [
            *view,
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    folder = torchvision.datasets.ImageFolder(data / "photos", preset)
    stock = list(torch.utils.data.DataLoader(folder, batch_size=BATCH))
    args = options(data, interpolation=interpolation)
    _, ours = loaders(args)
    assert ours.dataset.classes == folder.classes and len(ours.dataset) == len(folder) and len(ours) == len(stock)
    for _ in range(2):  # every evaluation is the same
        for (images, labels), (want, wanted) in zip(ours, stock, strict=True):
            assert torch.equal(images, want) and torch.equal(labels, wanted) and labels.dtype == torch.int64


def test_evaluation_of_weights_is_theirs(data: Path) -> None:
    torchvision = load_torchvision()
    name = "ResNet50_Weights.IMAGENET1K_V2"  # resized to 232
    preset = torchvision.models.get_weight(name).transforms()
    folder = torchvision.datasets.ImageFolder(data / "photos", preset)
    _, ours = loaders(options(data, weights=name, test_only=True))
    images = torch.cat([images for images, _ in ours])
    assert torch.equal(images, torch.stack([image for image, _ in folder]))
    _, trained = loaders(options(data, weights=name))  # only with --test-only, as the script
    assert next(iter(trained))[0].shape[-1] == 64


def test_options_without_meaning_are_named_once(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = options(data, label_smoothing=0.1, auto_augment="ta_wide", random_erase=0.1, cache_dataset=True, workers=2)
    with caplog.at_level(logging.WARNING):
        train, _ = loaders(args)
        list(train), list(train)
    smoothing, views, loading = told(caplog)
    assert "--label-smoothing 0.1: set to 0" in smoothing and args.label_smoothing == 0.0
    assert views.startswith("--auto-augment ta_wide, --random-erase 0.1: not used") and "--ra-magnitude" not in views
    assert loading.startswith("--workers 2, --cache-dataset: not used")
    caplog.clear()
    loaders(options(data))
    loaders(options(data, label_smoothing=0.1), rank=1, world_size=2)  # the first rank speaks
    assert told(caplog) == []


def test_mixup_of_the_script_mixes_the_stored_targets(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, _ = loaders(options(data))
    mixed, _ = loaders(options(data, mixup_alpha=0.4))
    shares = set()
    for (images, targets), (before, stored) in zip(mixed, plain, strict=True):
        lam = share_of(images, before)
        torch.testing.assert_close(targets, lam * stored + (1 - lam) * stored.flip(0), atol=1e-5, rtol=0)
        shares.add(round(lam, 4))
    assert len(shares) == 4 and told(caplog) == []
    mixed.mixup_enabled = False
    mixed.set_epoch(0)
    plain.set_epoch(0)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(mixed, plain, strict=True))


def test_views_that_are_stored_mixed_are_not_mixed_again(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = {f"class{n % 3}/{n}.jpg": encode_jpeg(picture(60 + 9 * n, 140 - 7 * n, n)) for n in range(6)}
    stored = test_mixing.make(write_files(tmp_path / "photos", photos), tmp_path / "set", "rrc+mixing")
    args = options(data, mixup_alpha=0.4, cutmix_alpha=1.0, train_crop_size=test_mixing.SIZE)
    dataset, _, _, _ = torchvision_data(stored, stored, args)
    with caplog.at_level(logging.WARNING):
        ours = torchvision_loader(dataset, BATCH, num_threads=1)
    (note,) = told(caplog)
    assert note.startswith("--mixup-alpha 0.4, --cutmix-alpha 1.0: not used") and not ours.mixup_enabled
    bare = dali_dr.ReinforcedIterator(stored, batch_size=BATCH, device="cpu", num_threads=1, as_tuples=True)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(ours, bare, strict=True))


def test_fresh_views_have_labels_and_keep_smoothing(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = options(data, label_smoothing=0.1, random_erase=0.2)
    dataset, _, _, _ = torchvision_data(data / "val", data / "val", args)
    with caplog.at_level(logging.WARNING):
        ours = torchvision_loader(dataset, BATCH, augment="rrc", num_threads=1)
    (note,) = told(caplog)
    assert args.label_smoothing == 0.1 and "--random-erase 0.2" in note and "drawn by `augment`" in note
    found = Counter(int(label) for _, labels in ours for label in labels)
    assert found == dict.fromkeys(range(CLASSES), 1)
    for images, labels in ours:
        assert labels.dtype == torch.int64 and images.shape[1:] == (3, SIZE, SIZE)


def test_repeated_augmentation(data: Path) -> None:
    train, _ = loaders(options(data, ra_sampler=True, ra_reps=3))
    batches = list(train.batch_sampler)
    assert all(set(Counter(batch).values()) == {3} for batch in batches)
    with pytest.raises(ValueError, match="batch_size 6 is no positive multiple of 4"):
        loaders(options(data, ra_sampler=True, ra_reps=4))


def test_ranks_share_the_epoch(data: Path) -> None:
    shares = []
    for rank in range(2):
        train, _ = loaders(options(data), rank=rank, world_size=2)
        train.sampler.set_epoch(5)
        shares.append([n for batch in train.batch_sampler for n in batch])
        assert len(shares[-1]) == 11
    assert sorted([*shares[0], *shares[1]]) == list(range(22))


def test_a_state_within_an_epoch_goes_on_with_the_next_batch(data: Path) -> None:
    """Mixing included; `set_epoch` of the state's epoch, which the script calls, keeps the place."""
    args = options(data, mixup_alpha=0.4)
    whole, first, second = (loaders(args)[0] for _ in range(3))
    for ours in (whole, first):
        ours.sampler.set_epoch(3)
    batches = list(whole)
    it = iter(first)
    seen = [next(it), next(it)]
    second.load_state_dict(first.state_dict())
    second.sampler.set_epoch(3)
    seen += list(second)
    assert len(seen) == 4
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(seen, batches, strict=True))


def test_the_sampler_speaks_to_its_loader(data: Path) -> None:
    dataset, _, sampler, _ = torchvision_data(data / "train", data / "val", options(data))
    assert isinstance(sampler, EpochOrder) and len(sampler) == 22
    with pytest.raises(dali_dr.DaliDrError, match=r"set_epoch\(1\), but no loader"):
        sampler.set_epoch(1)
    ours = torchvision_loader(dataset, BATCH, sampler=sampler, num_threads=1)
    sampler.set_epoch(7)
    assert ours.epoch == 7 and iter(ours) is ours
    with pytest.raises(TypeError, match="order of a reinforced data set is its loader's"):
        iter(sampler)
    with pytest.raises(TypeError, match="are shown in batches"):
        dataset[0]
    del ours
    gc.collect()
    with pytest.raises(dali_dr.DaliDrError, match="any more"):
        sampler.set_epoch(8)


def test_what_cannot_be_had_is_said(data: Path, tmp_path: Path) -> None:
    args = options(data)
    with pytest.raises(
        dali_dr.ShardError, match=r"photos: no dataset.json.*`dali-dr reinforce .*photos.*`dali-dr pack"
    ):
        torchvision_data(data / "photos", data / "val", args)
    with pytest.raises(dali_dr.ShardError, match="no such folder"):
        torchvision_data(data / "train", data / "validation", args)
    few = write_files(tmp_path / "few", {f"{c}/a.jpg": encode_jpeg(picture(40, 40, c)) for c in range(CLASSES)})
    from dali_dr.cli import main

    assert main(["pack", str(few), "--out", str(tmp_path / "other")]) == 0
    with pytest.raises(ValueError, match=r"20 classes and .*other 20, the first other one 'class00' and '0'"):
        torchvision_data(data / "train", tmp_path / "other", args)
    plain, _, _, _ = torchvision_data(data / "val", data / "val", args)
    with pytest.raises(dali_dr.ShardError, match=r"plain images without reinforcements.*augment.*reinforce"):
        torchvision_loader(plain, BATCH)
    dataset, _, _, _ = torchvision_data(data / "train", data / "val", args)
    foreign: Any = torch.utils.data.SequentialSampler(range(3))
    with pytest.raises(ValueError, match="sampler is a SequentialSampler"):
        torchvision_loader(dataset, BATCH, sampler=foreign)
    with pytest.raises(ValueError, match="collate_fn"):
        torchvision_loader(dataset, BATCH, collate_fn=lambda batch: batch)
    with pytest.raises(dali_dr.SpecError, match="resize"):
        loaders(options(data, val_resize_size=32))


@pytest.mark.slow
def test_the_real_script(data: Path, tmp_path: Path) -> None:
    """DALI_DR_TORCHVISION_REFERENCES: the folder references/classification of torchvision 0.21.0 (7af6987)."""
    folder = os.environ.get("DALI_DR_TORCHVISION_REFERENCES")
    if folder is None:
        pytest.skip("DALI_DR_TORCHVISION_REFERENCES does not name torchvision's references/classification")
    for file in Path(folder).glob("*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    apply(DIFF, tmp_path)
    start = "import torch, runpy, sys; from dali_dr._torchvision import load_torchvision as load; load(); "
    start += "torch.manual_seed(0); sys.path.insert(0, '.'); runpy.run_path('train.py', run_name='__main__')"
    words = f"--data-path {data} --model shufflenet_v2_x0_5 --device cpu -b 8 --train-crop-size 64 --val-crop-size 64 "
    words += "--val-resize-size 72 --opt adamw --lr 1e-4 --lr-step-size 1 --label-smoothing 0.1 --mixup-alpha 0.2 --model-ema"

    def run(more: str) -> dict[str, torch.Tensor]:
        command = [sys.executable, "-c", start, *words.split(), *more.split()]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run(command, cwd=tmp_path, check=True, env=environment, timeout=600)
        model: dict[str, torch.Tensor] = torch.load(tmp_path / more.split()[1] / "checkpoint.pth", weights_only=False)[
            "model"
        ]
        return model

    whole = run("--output-dir whole --epochs 2")
    run("--output-dir parts --epochs 1")
    parts = run("--output-dir parts --epochs 2 --resume parts/checkpoint.pth")
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
