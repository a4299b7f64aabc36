"""BatchMixing against timm.data.Mixup: the same numbers drawn, then every bit of images and targets."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import torch

from dali_dr._torchvision import load_torchvision
from dali_dr.mixing import BatchMixing
from dali_dr.record.labels import densify

load_torchvision()
import timm.data.mixup as timm_mixup  # noqa: E402

CLASSES, SEED, RANK, EPOCH = 13, 5, 3, 2
SETTINGS: list[dict[str, Any]] = [
    {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
    {"mixup_alpha": 0.2, "cutmix_alpha": 0.0},
    {"mixup_alpha": 0.0, "cutmix_alpha": 0.3},
    {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "probability": 0.5, "switch_probability": 0.2, "label_smoothing": 0.1},
]


class NumpyRandom:
    """timm's calls of the global numpy.random, answered by the generator that BatchMixing uses."""

    def __init__(self, step: int) -> None:
        generator = np.random.default_rng([SEED, RANK, EPOCH, step])
        self.rand = lambda *shape: generator.random(shape or None)
        self.beta = lambda a, b, size=None: generator.beta(a, b, size)
        self.randint = lambda low, high, size=None: generator.integers(low, high, size)


def numpy_for_timm(step: int) -> Any:
    names = {name: getattr(np, name) for name in ("ones", "zeros", "where", "sqrt", "clip", "float32", "concatenate")}
    return types.SimpleNamespace(random=NumpyRandom(step), **names)


@pytest.mark.parametrize("mode", ["batch", "elem"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_bit_is_timms(settings: dict[str, Any], mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = BatchMixing(**settings, mode=mode, seed=SEED, rank=RANK)
    theirs = timm_mixup.Mixup(
        mixup_alpha=ours.mixup_alpha,
        cutmix_alpha=ours.cutmix_alpha,
        prob=ours.probability,
        switch_prob=ours.switch_probability,
        mode=mode,
        label_smoothing=ours.label_smoothing,
        num_classes=CLASSES,
    )
    torch.manual_seed(0)
    changed = 0
    for step in range(60):
        images, labels = torch.randn(6, 3, 20, 27), torch.randint(CLASSES, (6,))
        before = images.clone()
        mixed, targets = ours(images, labels, num_classes=CLASSES, epoch=EPOCH, step=step)
        assert torch.equal(images, before)  # what was given stays
        monkeypatch.setattr(timm_mixup, "np", numpy_for_timm(step))
        want_images, want_targets = theirs(images.clone(), labels)
        assert torch.equal(mixed, want_images) and torch.equal(targets, want_targets), step
        changed += int(not torch.equal(mixed, before))
        last = BatchMixing(**settings, mode=mode, seed=SEED, rank=RANK, layout="HWC")
        other, _ = last(images.permute(0, 2, 3, 1), labels, num_classes=CLASSES, epoch=EPOCH, step=step)
        assert torch.equal(other.permute(0, 3, 1, 2), mixed)
    assert changed > 15


def test_soft_targets_mix_linearly() -> None:
    """Sparse targets equal their dense form, and mix by the weights that class ids mix by."""
    generator = np.random.default_rng(0)
    ids = torch.from_numpy(np.stack([generator.permutation(CLASSES)[:4] for _ in range(7)]))
    probs = torch.from_numpy(generator.dirichlet(np.ones(6), 7)[:, :4].astype(np.float32))
    dense = densify(ids, probs, CLASSES)
    identity = torch.arange(7)
    for mode in ("batch", "elem"):
        for step in range(20):
            mix = BatchMixing(mode=mode)  # type: ignore[arg-type]
            images = torch.randn(7, 3, 8, 8)
            weights = mix(images, identity, num_classes=7, epoch=0, step=step)[1]  # (7, 7): who has which share of whom
            by_sparse, sparse = mix(images, (ids, probs), num_classes=CLASSES, epoch=0, step=step)
            by_dense, mixed = mix(images, dense, num_classes=CLASSES, epoch=0, step=step)
            assert torch.equal(by_sparse, by_dense) and torch.equal(sparse, mixed)
            torch.testing.assert_close(mixed, weights @ dense)
            torch.testing.assert_close(mixed.sum(1), torch.ones(7))
            torch.testing.assert_close(by_dense[3], images[3])  # the middle of an odd batch


def test_draws_depend_on_the_place_alone() -> None:
    images, labels = torch.rand(4, 3, 16, 16), torch.arange(4)

    def mixed(epoch: int, step: int, **options: Any) -> torch.Tensor:
        return BatchMixing(**options)(images, labels, num_classes=4, epoch=epoch, step=step)[0]

    first = mixed(0, 0)
    torch.manual_seed(9)
    assert torch.equal(first, mixed(0, 0))
    others = [mixed(1, 0), mixed(0, 1), mixed(0, 0, seed=1), mixed(0, 0, rank=1)]
    assert not any(torch.equal(first, other) for other in others)
    assert torch.equal(mixed(0, 0, probability=0.0), images)


def test_half_precision_keeps_its_type() -> None:
    images = torch.rand(4, 3, 16, 16).half()
    for mode in ("batch", "elem"):
        mixed, targets = BatchMixing(mode=mode)(images, torch.arange(4), num_classes=4, epoch=0, step=0)  # type: ignore[arg-type]
        assert mixed.dtype == torch.float16 and targets.dtype == torch.float32


def test_errors() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    for options in (
        {"mixup_alpha": -1.0},
        {"mixup_alpha": 0.0, "cutmix_alpha": 0.0},
        {"probability": 1.5},
        {"mode": "x"},
    ):
        with pytest.raises(ValueError):
            BatchMixing(**options)  # type: ignore[arg-type]
    for bad_images, bad_targets, classes in (
        ((images * 255).byte(), labels, 4),
        (images[0], labels, 4),
        (images, labels[:3], 4),
        (images, torch.rand(4, 5), 4),
        (images, labels[:, None], 4),
    ):
        with pytest.raises(ValueError):
            BatchMixing()(bad_images, bad_targets, num_classes=classes, epoch=0, step=0)
