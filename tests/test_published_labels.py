"""Targets as published code makes them: ml-dr's with its fault, FKD's in every form, from what is stored of a prediction."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from published import fkd, ml_dr_replay
from torch.nn import functional

from dali_dr import losses
from dali_dr.record.labels import Rest, densify, targets

CLASSES, K = 100, 10


def near_one(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids and float32 probabilities, falling, whose sums are 1 but for a few units of the last place."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(K, 0.3), rows) * (1 + rng.integers(-2, 3, (rows, 1)) * 6e-8)
    ids = np.stack([rng.permutation(CLASSES)[:K] for _ in range(rows)])
    return ids.astype(np.int32), -np.sort(-probs.astype(np.float32), axis=1)


def reference(ids: np.ndarray, probs: np.ndarray, method: str = "smooth") -> torch.Tensor:
    return torch.stack(
        [ml_dr_replay.densify((p.tolist(), i.tolist()), CLASSES, method) for i, p in zip(ids, probs, strict=True)]
    )


def test_the_fault_is_reproduced_where_sums_exceed_1() -> None:
    ids, probs = near_one(4000)
    want = reference(ids, probs)
    faulty = (want.gather(1, torch.from_numpy(ids).long()) != torch.from_numpy(probs)).any(1)
    assert 500 < int(faulty.sum()) < 3500  # both sides are tried
    got = densify(torch.from_numpy(ids), torch.from_numpy(probs), CLASSES, "ml-dr")
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)
    ours = densify(torch.from_numpy(ids), torch.from_numpy(probs), CLASSES)
    assert (ours.gather(1, torch.from_numpy(ids).long()) == torch.from_numpy(probs)).all()
    torch.testing.assert_close(ours[~faulty], want[~faulty], rtol=1e-6, atol=1e-9)


def test_numpy_differs_from_torch_only_where_a_sum_is_on_the_edge() -> None:
    ids, probs = near_one(4000, seed=1)
    got, want = densify(ids, probs, CLASSES, "ml-dr"), reference(ids, probs).numpy()
    differ = np.abs(got - want).max(1) > 1e-6
    exact = probs.astype(np.float64).sum(1)
    assert got.dtype == np.float32 and (np.abs(exact[differ] - 1) < 3e-7).all()
    clear = np.abs(exact - 1) > 3e-7
    scaled = probs * np.float32(1 + 1e-5)
    np.testing.assert_allclose(densify(ids, scaled, CLASSES, "ml-dr"), reference(ids, scaled).numpy(), rtol=2e-6)
    assert not differ[clear].any()


def test_the_known_example() -> None:
    probs = torch.tensor([[0.936, 0.04, 0.02, 0.0041]])
    ids = torch.tensor([[7, 1, 2, 3]])
    got = densify(ids, probs, CLASSES, "ml-dr")
    want = torch.softmax(probs[0], 0)
    torch.testing.assert_close(got[0, ids[0]], want)
    assert float(got[0, 7]) < 0.5 and float(got.sum()) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_losses_take_it(dtype: torch.dtype) -> None:
    ids, probs = (torch.from_numpy(a) for a in near_one(300, seed=2))
    torch.manual_seed(0)
    logits = torch.randn(300, CLASSES).to(dtype)
    log_probs, dense = torch.log_softmax(logits.double(), 1), reference(ids.numpy(), probs.numpy()).double()
    got = losses.kl_divergence(logits, ids, probs, rest="ml-dr")
    want = functional.kl_div(log_probs, dense, reduction="batchmean")
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    cross = losses.soft_cross_entropy(logits, ids, probs, rest="ml-dr")
    torch.testing.assert_close(cross.double(), -(dense * log_probs).sum(1).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["full", "hard", "smoothing", "marginal_smoothing", "marginal_renorm"])
def test_fkd_forms(form: str) -> None:
    """What is stored of a softmax gives the targets that FKD's own recovery makes of its label files."""
    torch.manual_seed(random.Random(form).getrandbits(31))
    predictions = torch.softmax(3 * torch.randn(50, CLASSES), 1)
    stored = {"full": "full", "hard": "hard", "smoothing": "smoothing"}.get(form, "k5")
    label = torch.stack([fkd.quantised(p, stored) for p in predictions])  # type: ignore[arg-type]
    want = fkd.dense(label, form, CLASSES)
    probs, ids = predictions.topk(CLASSES if form == "full" else 5)
    got = targets(ids, probs, CLASSES, form)  # type: ignore[arg-type]
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rest", ["spread", "ml-dr"])
def test_rows_of_few_classes(rest: Rest) -> None:
    """K = 0 and K = C leave nothing to spread, or everything."""
    empty = densify(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0), 4, rest)
    assert torch.equal(empty, torch.full((2, 4), 0.25))
    assert np.array_equal(densify(np.zeros((2, 0), int), np.zeros((2, 0), np.float32), 4, rest), empty.numpy())
    everything = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    assert torch.equal(densify(torch.arange(4)[None], everything, 4, rest), everything)
