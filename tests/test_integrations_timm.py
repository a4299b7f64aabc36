"""timm's training script after the diff of docs/migration: its protocol, what it gets, what it is told."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
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
from dali_dr.integrations import timm_dataset, timm_loader
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD

load_torchvision()
timm_data = pytest.importorskip("timm.data")

BATCH = 6
DIFFS = diffs("timm")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("timm"))


def options(data: Path, **change: Any) -> Namespace:
    """The script's options: its defaults, but for sizes."""
    defaults: dict[str, Any] = {
        "data_dir": str(data), "dataset": "", "train_split": "train", "val_split": "validation", "class_map": "",
        "device": "cpu", "batch_size": BATCH, "workers": 4, "lr": 0.01, "epochs": 3, "seed": 42, "smoothing": 0.1,
        "mixup": 0.0, "cutmix": 0.0, "cutmix_minmax": None, "mixup_prob": 1.0, "mixup_switch_prob": 0.5,
        "mixup_mode": "batch", "mixup_off_epoch": 0, "bce_loss": False, "jsd_loss": False, "aug_splits": 0,
        "aug_repeats": 0, "resplit": False, "reprob": 0.0, "remode": "pixel", "recount": 1, "aa": None, "hflip": 0.5,
        "vflip": 0.0, "color_jitter": 0.4, "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3], "no_aug": False,
        "train_interpolation": "random", "train_img_sizes": None, "naflex_loader": False, "pin_mem": False,
        "num_classes": CLASSES, "img_size": SIZE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "no_prefetcher": False,
        "channels_last": False, "grad_accum_steps": 1, "resume": "", "output": ".",
    }  # fmt: skip
    assert set(change) <= set(defaults)
    return Namespace(**(defaults | change))


def make(args: Namespace, source: Any = None, **more: Any) -> Any:
    """The script's loader for training, made as it makes it."""
    dataset = timm_dataset(args.dataset, root=args.data_dir, split=args.train_split) if source is None else source
    given: dict[str, Any] = {
        "input_size": (3, args.img_size, args.img_size), "batch_size": args.batch_size, "is_training": True,
        "use_prefetcher": not args.no_prefetcher, "num_aug_repeats": args.aug_repeats, "device": torch.device("cpu"),
        "re_prob": args.reprob, "num_workers": args.workers,
    }  # fmt: skip
    return timm_loader(args, dataset, **(given | {"loader_options": {"num_threads": 1}} | more))


def logits_of(images: torch.Tensor) -> Any:
    """Of the miniature's model before training, float64."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.LazyLinear(CLASSES))
    model(torch.zeros(1, 3, SIZE, SIZE))
    return model(images).detach().double().numpy()


def test_few_lines_change() -> None:
    assert {name: changed_lines(diff) for name, diff in DIFFS.items()} == {"train.py": (7, 4), "validate.py": (4, 2)}
    assert max(changed_lines(DIFFS["train.py"])) <= MOST_LINES


def test_the_script_trains_and_resumes(data: Path, tmp_path: Path) -> None:
    """What it sees is Pillow's replay and the stored targets; resumed, it sees and becomes what it would have."""
    script = changed_miniature("timm_train", DIFFS["train.py"], tmp_path)
    args = options(data, output=str(tmp_path), channels_last=True)
    assert 0 <= script.main(args) <= 100
    whole, losses = list(script.seen), list(script.losses)
    state = torch.load(tmp_path / "last.pth.tar", weights_only=True)["state_dict"]
    assert args.smoothing == 0.0 and type(script.criteria[0]) is torch.nn.CrossEntropyLoss
    assert [epoch for epoch, _, _ in whole] == [e for e in range(3) for _ in range(3)]  # 22 images, the last 4 dropped
    first = written(dali_dr.Dataset(data / "train"), batch_size=BATCH, seed=42, last_batch="drop")
    for (_, images, targets), (want, wanted) in zip(whole[:3], first, strict=True):
        assert torch.equal(images, want) and images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(targets, wanted, atol=1e-6, rtol=0)
    by_hand = soft_cross_entropy(logits_of(first[0][0]), first[0][1].double().numpy())
    assert losses[0] == pytest.approx(by_hand, rel=1e-5)

    script.seen.clear(), script.losses.clear()
    script.main(options(data, output=str(tmp_path), epochs=2))
    script.main(options(data, output=str(tmp_path), resume=str(tmp_path / "last.pth.tar")))
    assert same(script.seen, whole) and script.losses == losses
    again = torch.load(tmp_path / "last.pth.tar", weights_only=True)["state_dict"]
    assert all(torch.equal(again[name], value) for name, value in state.items())


@pytest.mark.parametrize("bce", [False, True])
def test_mixup_and_both_losses(data: Path, tmp_path: Path, bce: bool) -> None:
    """With the script's mixing, off from epoch 1, in two accumulated steps, resumed; the loss by hand."""
    script = changed_miniature("timm_train", DIFFS["train.py"], tmp_path)
    given = {"mixup": 0.4, "cutmix": 1.0, "bce_loss": bce, "grad_accum_steps": 2, "mixup_off_epoch": 1}
    script.main(options(data, output=str(tmp_path), epochs=2, **given))
    whole, losses = list(script.seen), list(script.losses)
    plain = written(dali_dr.Dataset(data / "train"), batch_size=BATCH, seed=42, last_batch="drop")
    assert not any(torch.equal(a[1], b[0]) for a, b in zip(whole[:3], plain, strict=True))
    images, targets = whole[0][1:]
    logits, wanted = logits_of(images), targets.double().numpy()
    by_hand = soft_cross_entropy(logits, wanted)
    if bce:
        odds = 1 / (1 + np.exp(-logits))
        by_hand = float(-(wanted * np.log(odds) + (1 - wanted) * np.log(1 - odds)).mean())
    assert losses[0] == pytest.approx(by_hand, rel=1e-5)
    unmixed = make(options(data))
    unmixed.set_epoch(1)
    assert all(torch.equal(a[1], b[0]) for a, b in zip(whole[3:], unmixed, strict=True))
    script.seen.clear()
    script.main(options(data, output=str(tmp_path), epochs=1, **given))
    script.main(options(data, output=str(tmp_path), epochs=2, **given, resume=str(tmp_path / "last.pth.tar")))
    assert same(script.seen, whole)


def test_bce_without_mixing_keeps_what_chooses_it(data: Path, tmp_path: Path) -> None:
    script = changed_miniature("timm_train", DIFFS["train.py"], tmp_path)
    args = options(data, output=str(tmp_path), epochs=1, bce_loss=True, no_prefetcher=True)
    script.main(args)
    assert args.smoothing == 0.1 and type(script.criteria[0]).__name__ == "BinaryCrossEntropy"
    _, images, targets = script.seen[0]
    odds, wanted = 1 / (1 + np.exp(-logits_of(images))), targets.double().numpy()  # the stored targets, not smoothed
    by_hand = -(wanted * np.log(odds) + (1 - wanted) * np.log(1 - odds)).mean()
    assert script.losses[0] == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(("crop_pct", "interpolation", "size"), [(0.9, "bicubic", 64), (1.0, "bilinear", 60)])
def test_evaluation_is_timms(data: Path, crop_pct: float, interpolation: str, size: int) -> None:
    """Labels, order and pixels of timm's own loader over the same images: a level of one byte would be 0.0039 / 0.229."""
    given: dict[str, Any] = {
        "input_size": (3, size, size), "batch_size": BATCH, "interpolation": interpolation, "crop_pct": crop_pct,
        "mean": (0.4, 0.5, 0.6), "std": (0.3, 0.25, 0.2), "device": torch.device("cpu"), "num_workers": 0,
    }  # fmt: skip
    stock = timm_data.create_loader(timm_data.create_dataset("", root=str(data), split="photos"), **given)
    ours = timm_loader(options(data), timm_dataset("", root=data), loader_options={"num_threads": 1}, **given)
    assert len(ours) == len(stock) == 4 and len(ours.dataset) == len(stock.dataset)
    for (images, labels), (want, wanted) in zip(ours, stock, strict=True):
        torch.testing.assert_close(images, want, atol=1e-5, rtol=0)
        assert torch.equal(labels, wanted) and labels.dtype == torch.int64


def test_training_batches_are_as_the_script_says(data: Path) -> None:
    half = make(options(data), img_dtype=torch.bfloat16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    images, targets = next(iter(half))
    assert images.dtype == torch.bfloat16 and targets.dtype == torch.float32 and images.abs().max() <= 1
    wide = make(options(data), input_size=(3, 64, 32))
    assert next(iter(wide))[0].shape == (BATCH, 3, 64, 32)
    repeated = make(options(data, aug_repeats=3.0))
    assert all(set(Counter(batch).values()) == {3} for batch in repeated.batch_sampler)
    assert not [name for name in ("sampler", "batch_sampler", "dataset") if not hasattr(half, name)]


def test_options_without_meaning_are_named_once(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = options(data, aa="rand-m9", reprob=0.25, scale=[0.35, 1.0], workers=8, pin_mem=True)
    with caplog.at_level(logging.WARNING):
        ours = make(args)
        list(ours), list(ours)
    smoothing, views, loading = told(caplog)
    assert smoothing.startswith("--smoothing 0.1: set to 0") and args.smoothing == 0.0
    assert views.startswith("--scale [0.35, 1.0], --aa rand-m9, --reprob 0.25: not used") and "hflip" not in views
    assert loading.startswith("--workers 8, --pin-mem: not used")
    caplog.clear()
    make(options(data), loader_options={"num_threads": 1, "rank": 1, "world_size": 2})
    make(options(data, smoothing=0.0))
    assert told(caplog) == []


def test_mixing_is_the_scripts_and_of_the_stored_targets(data: Path) -> None:
    plain, mixed = make(options(data)), make(options(data, mixup=0.4))
    other = make(options(data, mixup=0.4, seed=1))
    shares = []
    for (images, targets), (before, stored) in zip(mixed, plain, strict=True):
        shares.append(share_of(images, before))
        torch.testing.assert_close(targets, shares[-1] * stored + (1 - shares[-1]) * stored.flip(0), atol=1e-5, rtol=0)
    assert len({round(share, 4) for share in shares}) == 3
    assert not torch.equal(next(iter(other))[0], next(iter(mixed))[0])
    never = make(options(data, mixup=0.4, mixup_prob=0.0))
    plain.set_epoch(0)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(never, plain, strict=True))


def test_views_that_are_stored_mixed_are_not_mixed_again(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = {f"class{n % 3}/{n}.jpg": encode_jpeg(picture(60 + 9 * n, 140 - 7 * n, n)) for n in range(6)}
    stored = test_mixing.make(write_files(tmp_path / "photos", photos), tmp_path / "set", "rrc+mixing")
    args = options(data, mixup=0.4, num_classes=None, img_size=test_mixing.SIZE, smoothing=0.0, seed=0)
    with caplog.at_level(logging.WARNING):
        ours = make(args, stored)
    (note,) = told(caplog)
    assert note.startswith("--mixup 0.4: not used") and not ours.mixup_enabled
    bare = dali_dr.ReinforcedIterator(stored, batch_size=BATCH, device="cpu", num_threads=1, as_tuples=True)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(ours, bare, strict=True))
    with pytest.raises(ValueError, match=r"--mixup 0.4 with --no-prefetcher.*stored mixed"):
        make(options(data, mixup=0.4, num_classes=None, no_prefetcher=True), stored)


def test_fresh_views_have_labels_and_keep_smoothing(data: Path) -> None:
    fresh: Any = {"num_threads": 1, "augment": "rrc", "last_batch": "partial"}
    args = options(data, train_split="val")
    ours = make(args, loader_options=fresh)
    assert args.smoothing == 0.1
    assert Counter(int(label) for _, labels in ours for label in labels) == dict.fromkeys(range(CLASSES), 1)
    smooth = make(options(data, train_split="val", mixup=0.4), loader_options=fresh)
    for _, targets in smooth:  # timm's Mixup smooths one-hot targets by off = smoothing / classes
        assert targets.min().item() == pytest.approx(0.1 / CLASSES, rel=1e-5)


def test_where_the_data_lie(data: Path, tmp_path: Path) -> None:
    assert timm_dataset("", root=data, split="validation").path == data / "val"
    assert timm_dataset("", root=str(data), split="train").path == data / "train"
    assert timm_dataset(root=data / "val", split="train").path == data / "val"
    with pytest.raises(ValueError, match="--dataset wds/x: leave it out"):
        timm_dataset("wds/x", root=data)
    with pytest.raises(ValueError, match="no --data-dir"):
        timm_dataset("", split="train")
    with pytest.raises(dali_dr.ShardError, match=r"photos: no dataset.json.*`dali-dr reinforce"):
        timm_dataset("", root=data, split="photos")
    dataset = timm_dataset("", root=data, split="train")
    loader = make(options(data), dataset)
    dataset.set_epoch(4)  # as train.py does up to 1.0.28
    assert loader.epoch == 4 and dataset.transform is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aug_splits": 3}, "--aug-splits cannot be had"),
        ({"jsd_loss": True}, "--jsd-loss cannot be had.*--aug-splits"),
        ({"train_img_sizes": [64, 96]}, r"--train-img-sizes cannot be had.*size=\["),
        ({"class_map": "map.txt"}, "--class-map cannot be had.*--classes FILE"),
        ({"num_classes": 1000}, "the model has 1000 classes and .* 20: --num-classes 20"),
        ({"mixup": 0.2, "no_prefetcher": True}, "--mixup 0.2 with --no-prefetcher: .* leave --no-prefetcher out"),
        ({"cutmix_minmax": [0.2, 0.8]}, "--cutmix-minmax .* pass --cutmix"),
        ({"mixup": 0.2, "mixup_mode": "pair"}, "--mixup-mode pair: "),
        ({"aug_repeats": 1.5}, "--aug-repeats 1.5: want a whole number"),
        ({"batch_size": 64}, "an epoch has 22 samples and last_batch is 'drop'. Use a smaller batch"),
    ],
)
def test_what_cannot_be_had_is_said(data: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, dali_dr.DaliDrError), match=said):
        make(options(data, **change))


def test_evaluation_that_cannot_be_had_is_said(data: Path) -> None:
    source = timm_dataset("", root=data)
    for given, said in (
        ({"input_size": (3, 64, 96)}, "64 x 96: evaluation shows squares"),
        ({"input_size": (3, 64, 64), "crop_mode": "squash"}, 'crop_mode is "squash"'),
        ({"input_size": (1, 64, 64)}, "3 channels"),
    ):
        with pytest.raises(ValueError, match=said):
            timm_loader(options(data), source, batch_size=4, device="cpu", **given)  # type: ignore[arg-type]
    with pytest.raises(dali_dr.SpecError, match="interpolation"):
        timm_loader(options(data), source, 64, 4, interpolation="lanczos", device="cpu")


@pytest.mark.slow
def test_the_real_script(data: Path, tmp_path: Path) -> None:
    """DALI_DR_TIMM_SCRIPTS: the folder with train.py and validate.py of timm at aa4b585."""
    folder = os.environ.get("DALI_DR_TIMM_SCRIPTS")
    if folder is None:
        pytest.skip("DALI_DR_TIMM_SCRIPTS does not name the folder of timm's train.py and validate.py")
    for name, diff in DIFFS.items():
        (tmp_path / name).write_text((Path(folder) / name).read_text())
        apply(diff, tmp_path)
    start = "import runpy, sys; from dali_dr._torchvision import load_torchvision as load; load(); "
    start += "sys.path.insert(0, '.'); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    model = f"--data-dir {data} --model test_efficientnet --device cpu --num-classes {CLASSES} --img-size {SIZE} "
    words = (
        model + "-b 8 --sched step --decay-epochs 1 --warmup-epochs 0 --opt adamw --lr 1e-4 --mixup 0.2 --output out "
    )

    def run(script: str, more: str) -> str:
        command = [sys.executable, "-c", start, script, *more.split()]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            command, cwd=tmp_path, check=True, env=environment, timeout=600, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    run("train.py", words + "--epochs 2 --experiment whole")
    run("train.py", words + "--epochs 1 --experiment first")
    run("train.py", words + "--epochs 2 --experiment second --resume out/first/last.pth.tar")
    states = [
        torch.load(tmp_path / "out" / name / "last.pth.tar", weights_only=False)["state_dict"]
        for name in ("whole", "second")
    ]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert '"top1"' in run("validate.py", model + "--checkpoint out/whole/last.pth.tar")
