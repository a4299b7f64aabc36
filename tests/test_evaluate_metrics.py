"""Metrics against torchmetrics, and against sums written out in NumPy's float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dali_dr._torchvision import load_torchvision
from dali_dr.errors import DaliDrError
from dali_dr.evaluate.layouts import CORRUPTIONS
from dali_dr.evaluate.metrics import Tally, mean_corruption_error

TOLERANCE = 1e-9


def made_up(images: int, classes: int, seed: int, sharpness: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a model that is right about half the time, and labels."""
    rng = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(images, classes, generator=rng)
    labels = torch.where(
        torch.rand(images, generator=rng) < 0.5, logits.argmax(1), torch.randint(classes, (images,), generator=rng)
    )
    return logits, labels


def by_hand(logits: torch.Tensor, accepted: list[list[int]], bins: int = 15) -> dict[str, Any]:
    """Figures of arXiv 1706.04599's formulas, image by image."""
    top1 = top5 = 0
    nll = 0.0
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, right in zip(logits.double().numpy(), accepted, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        order = np.argsort(-p, kind="stable")
        top1 += int(order[0]) in right
        top5 += bool({int(k) for k in order[:5]} & set(right))
        likeliest = max(row[k] for k in right)
        mass = likeliest + math.log(sum(math.exp(row[k] - likeliest) for k in right))
        nll -= mass - row.max() - math.log(np.exp(row - row.max()).sum())
        number = next(n for n in range(bins) if p.max() <= (n + 1) / bins)  # (low, high]
        members[number].append((float(p.max()), int(order[0]) in right))
    ece = sum(abs(sum(sure for sure, _ in m) - sum(hit for _, hit in m)) for m in members) / len(logits)
    return {"top1": top1, "top5": top5, "nll": nll / len(logits), "ece": ece, "bins": [len(m) for m in members]}


@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_figures_are_torchmetrics(classes: int) -> None:
    load_torchvision()
    metrics = pytest.importorskip("torchmetrics.classification")
    logits, labels = made_up(700, classes, classes)
    tally = Tally()
    for begin in range(0, 700, 64):  # the last batch is smaller
        tally.update(logits[begin : begin + 64], labels[begin : begin + 64])
    ours = tally.scores()
    p = logits.double().softmax(1)
    assert float(p.max()) < 1, "torchmetrics has a bin of its own for a confidence of exactly 1"
    calibration = metrics.MulticlassCalibrationError(classes, n_bins=15, norm="l1")
    assert ours.ece == pytest.approx(float(calibration(p, labels)), abs=1e-6)  # it keeps confidences as float32
    compute = pytest.importorskip("torchmetrics.functional.classification.calibration_error")._ce_compute
    sure, top = p.max(1)  # and its formula without that
    assert ours.ece == pytest.approx(float(compute(sure, (top == labels).double(), 15, norm="l1")), abs=TOLERANCE)
    for k, value in ((1, ours.top1), (5, ours.top5)):
        if k <= classes:
            accuracy = metrics.MulticlassAccuracy(classes, top_k=k, average="micro")
            assert value == pytest.approx(float(accuracy(p, labels)), abs=1e-6)  # theirs is float32
    assert ours.nll == pytest.approx(float(F.cross_entropy(logits.double(), labels)), abs=TOLERANCE)
    hits = p.topk(min(5, classes), 1).indices == labels[:, None]
    assert (ours.images, ours.top1_right, ours.top5_right) == (700, int(hits[:, 0].sum()), int(hits.any(1).sum()))


def test_figures_are_those_written_out_also_at_the_edges_of_bins() -> None:
    logits, labels = made_up(300, 6, 1)
    edges = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0, 0.0, -800.0],  # a confidence of 1/5, the upper edge of the third bin
            [7.0, 7.0, 7.0, -800.0, -800.0, -800.0],  # 1/3, that of the fifth
            [900.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # exactly 1
            [-900.0, 0.0, -900.0, -900.0, -900.0, -901.0],
        ]
    )
    logits, labels = torch.cat([logits, edges]), torch.cat([labels, torch.tensor([5, 4, 0, 2])])
    expected = by_hand(logits, [[int(label)] for label in labels])
    tally = Tally()
    tally.update(logits, labels)
    ours = tally.scores()
    assert [one.images for one in ours.reliability] == expected["bins"]
    assert ours.reliability[14].images >= 2
    assert (ours.top1_right, ours.nll, ours.ece) == pytest.approx(
        (expected["top1"], expected["nll"], expected["ece"]), abs=TOLERANCE
    )
    assert sum(one.images * abs(one.accuracy - one.confidence) for one in ours.reliability) / 304 == pytest.approx(
        ours.ece
    )
    assert all(one.low < one.confidence <= one.high + 1e-12 for one in ours.reliability if one.images)


def test_several_right_classes_and_outputs_that_do_not_count() -> None:
    rng = np.random.default_rng(2)
    logits, _ = made_up(200, 40, 3)
    considered = sorted(rng.choice(40, 17, replace=False).tolist())
    accepted = [sorted(rng.choice(considered, rng.integers(1, 4), replace=False).tolist()) for _ in range(200)]
    padded = torch.tensor([row + [-1] * (3 - len(row)) for row in accepted])
    tally = Tally(considered)
    tally.update(logits, padded)
    places = {id_: n for n, id_ in enumerate(considered)}
    expected = by_hand(logits[:, considered], [[places[k] for k in row] for row in accepted])
    ours = tally.scores()
    assert (ours.top1_right, ours.top5_right) == (expected["top1"], expected["top5"])
    assert (ours.nll, ours.ece) == pytest.approx((expected["nll"], expected["ece"]), abs=TOLERANCE)
    everywhere = Tally()
    everywhere.update(logits, padded)
    assert everywhere.scores().top1_right < ours.top1_right  # other classes are in the way


def test_tallies_add_up_to_that_of_all_images() -> None:
    logits, labels = made_up(101, 20, 4)
    whole, parts = Tally(), [Tally(), Tally(), Tally()]
    whole.update(logits, labels)
    for n, part in enumerate(parts):
        part.update(logits[n::3], labels[n::3])
    for other in parts[1:]:
        parts[0].add(other)
    ours, expected = parts[0].scores(), whole.scores()
    assert (ours.images, ours.top1_right, ours.top5_right) == (101, expected.top1_right, expected.top5_right)
    assert (ours.nll, ours.ece) == pytest.approx((expected.nll, expected.ece), abs=1e-12)
    with pytest.raises(ValueError, match="15 and 10 bins"):
        parts[0].add(Tally(bins=10))


def test_what_cannot_be_scored_is_refused() -> None:
    logits = torch.zeros(2, 4)
    with pytest.raises(DaliDrError, match="not finite"):
        Tally().update(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
    with pytest.raises(DaliDrError, match="no right class among the 4"):
        Tally().update(logits, torch.tensor([0, 4]))
    with pytest.raises(DaliDrError, match="no right class"):
        Tally([0, 1]).update(logits, torch.tensor([0, 2]))
    with pytest.raises(DaliDrError, match="class 9, and the model has 4 outputs"):
        Tally([0, 9]).update(logits, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(3, 1\)"):
        Tally().update(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(DaliDrError, match="no images"):
        Tally().scores()
    for considered in ([], [1, 1]):
        with pytest.raises(ValueError, match="considered"):
            Tally(considered)


ALEXNET = {  # by severity, from the authors' own listing (hendrycks/robustness, issue 10)
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.72440),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
}


def test_mce_is_one_for_alexnet_and_the_mean_of_ratios_else() -> None:
    reference = CORRUPTIONS["alexnet_errors"]
    assert len(reference) == 15
    mce, each = mean_corruption_error(ALEXNET, reference)
    assert mce == pytest.approx(1, abs=TOLERANCE) and set(each) == set(ALEXNET)
    rng = np.random.default_rng(0)
    errors = {name: rng.uniform(0, 1, 5).tolist() for name in reference}
    expected = np.mean([np.mean(errors[name]) / reference[name] for name in reference])
    assert mean_corruption_error(errors, reference)[0] == pytest.approx(expected, abs=TOLERANCE)
    with pytest.raises(ValueError, match="spatter"):
        mean_corruption_error({"spatter": [0.5]}, reference)
    with pytest.raises(ValueError, match="one corruption or more"):
        mean_corruption_error({}, reference)
