"""Losses on sparse targets equal torch.nn.functional on densified targets, in value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dali_dr import losses
from dali_dr.losses import KLReduction, Reduction, kl_divergence, soft_cross_entropy
from dali_dr.record.labels import Rest

CLASSES = 13


def make(rows: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (rows, C) float64 with gradient, ids and probabilities (rows, k); row 0 exceeds 1, row 1 is certain."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)).requires_grad_()
    teacher = torch.softmax(3 * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64), -1)
    probs, ids = teacher.topk(k)
    if k:
        probs[0] *= (1 + 1e-6) / probs[0].sum()
        probs[1] = torch.tensor([1.0] + [0.0] * (k - 1))
    return logits, ids.int(), probs


def dense_target(ids: torch.Tensor, probs: torch.Tensor, rest: str) -> torch.Tensor:
    """Densified by a plain loop, independent of dali_dr."""
    rows, k = ids.shape
    dense = torch.zeros(rows, CLASSES, dtype=torch.float64)
    for row in range(rows):
        total = float(probs[row].sum())
        if rest == "ml-dr" and total > 1:
            dense[row, ids[row].long()] = probs[row].exp() / probs[row].exp().sum()
            continue
        if rest in ("spread", "ml-dr") and k < CLASSES:
            dense[row] = max(1 - total, 0.0) / (CLASSES - k)
        for rank in range(k):
            dense[row, int(ids[row, rank])] = probs[row, rank] / (total if rest == "renormalise" and total else 1)
    return dense


@pytest.mark.parametrize("rest", ["spread", "drop", "renormalise", "ml-dr"])
@pytest.mark.parametrize("k", [0, 1, 5, CLASSES])
def test_cross_entropy_equals_dense(rest: Rest, k: int) -> None:
    logits, ids, probs = make(7, k)
    dense = dense_target(ids, probs, rest)
    reductions: tuple[Reduction, ...] = ("mean", "sum", "none")
    for reduction in reductions:
        ours = soft_cross_entropy(logits, ids, probs, rest=rest, reduction=reduction)
        theirs = F.cross_entropy(logits, dense, reduction=reduction)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(soft_cross_entropy(logits, None, dense, reduction=reduction), theirs)
        gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rest", ["spread", "drop", "renormalise", "ml-dr"])
@pytest.mark.parametrize("k", [0, 1, 5, CLASSES])
def test_kl_equals_dense(rest: Rest, k: int) -> None:
    logits, ids, probs = make(7, k, seed=1)
    dense = dense_target(ids, probs, rest)
    reductions: tuple[KLReduction, ...] = ("batchmean", "sum", "none")
    for reduction in reductions:
        theirs = F.kl_div(F.log_softmax(logits, -1), dense, reduction=reduction)
        if reduction == "none":
            theirs = theirs.sum(-1)
        for ours in (
            kl_divergence(logits, ids, probs, rest=rest, reduction=reduction),
            kl_divergence(logits, None, dense, reduction=reduction),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
            gradients = [torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (ours, theirs)]
            torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_temperature_softens_a_full_teacher_as_its_logits_would(temperature: float) -> None:
    logits, _, _ = make(6, 1)
    teacher_logits = 2 * torch.randn(6, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    probs, ids = torch.softmax(teacher_logits, -1).topk(CLASSES)
    want = temperature**2 * F.kl_div(
        F.log_softmax(logits / temperature, -1),
        F.softmax(teacher_logits / temperature, -1),
        reduction="batchmean",
    )
    torch.testing.assert_close(kl_divergence(logits, ids, probs, temperature=temperature), want)


@pytest.mark.parametrize("rest", ["spread", "drop", "renormalise", "ml-dr"])
def test_temperature_on_sparse_targets_equals_dense(rest: Rest) -> None:
    logits, ids, probs = make(7, 4, seed=2)
    dense = dense_target(ids, probs, rest)
    soft = dense ** (1 / 3)
    soft *= dense.sum(-1, keepdim=True) / soft.sum(-1, keepdim=True)
    want = 9 * F.kl_div(F.log_softmax(logits / 3, -1), soft, reduction="batchmean")
    torch.testing.assert_close(kl_divergence(logits, ids, probs, rest=rest, temperature=3), want)
    torch.testing.assert_close(kl_divergence(logits, None, dense, temperature=3), want)


def test_kl_of_equal_distributions_is_zero() -> None:
    logits, _, _ = make(5, 1)
    probs, ids = torch.softmax(logits.detach(), -1).topk(CLASSES)
    assert kl_divergence(logits, ids, probs).abs().item() < 1e-12


def test_leading_dimensions_are_rows() -> None:
    logits, ids, probs = make(6, 3)
    flat = kl_divergence(logits, ids, probs)
    shaped = kl_divergence(logits.view(2, 3, CLASSES), ids.view(2, 3, 3), probs.view(2, 3, 3))
    torch.testing.assert_close(flat, shaped)
    none = soft_cross_entropy(logits.view(2, 3, CLASSES), ids.view(2, 3, 3), probs.view(2, 3, 3), reduction="none")
    assert none.shape == (2, 3)


@pytest.mark.parametrize("loss", [soft_cross_entropy, kl_divergence])
def test_half_precision_is_computed_in_float32(loss: object) -> None:
    logits, ids, probs = make(6, 3)
    half, probs = logits.detach().bfloat16(), probs.float()
    want = loss(half.float(), ids, probs)  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
        got = loss(half, ids, probs)  # type: ignore[operator]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_certain_teacher_is_plain_cross_entropy() -> None:
    logits, _, _ = make(6, 1)
    labels = torch.arange(6)
    ours = soft_cross_entropy(logits, labels[:, None], torch.ones(6, 1))
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rest": "smooth"}, "rest is 'smooth'"),
        ({"reduction": "avg"}, "reduction is 'avg'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"soft_probs": torch.ones(5, 3)}, r"soft_probs are \(5, 3\)"),
        ({"soft_ids": torch.ones(6, 2)}, r"soft_ids \(6, 2\)"),
        ({"soft_ids": None}, "soft_ids=None"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str) -> None:
    logits, ids, probs = make(6, 3)
    arguments = {"soft_ids": ids, "soft_probs": probs, **change}
    with pytest.raises(ValueError, match=message):
        kl_divergence(logits, **arguments)  # type: ignore[arg-type]


def test_usi_is_ce_plus_alpha_kl() -> None:
    """Written out in float64, with T: KL(softened teacher ‖ softened student) · T², batch mean."""
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    labels, teacher = torch.randint(0, 7, (5,)), torch.rand(5, 7, dtype=torch.float64).softmax(1)
    probs, ids = teacher.sort(1, descending=True)
    for temperature in (1.0, 2.0):
        student = torch.log_softmax(logits / temperature, 1)
        soft = (teacher ** (1 / temperature)) / (teacher ** (1 / temperature)).sum(1, keepdim=True)
        expected = -torch.log_softmax(logits, 1)[torch.arange(5), labels].mean()
        expected = expected + 5 * temperature**2 * (soft * (soft.log() - student)).sum(1).mean()
        actual = losses.usi_loss(logits, labels, ids, probs, temperature=temperature)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            torch.autograd.grad(actual, logits, retain_graph=True)[0], torch.autograd.grad(expected, logits)[0]
        )


def test_bake_targets_are_the_limit_of_propagation() -> None:
    """Eq. 3 of the paper iterated: Q_t = ω W Q_(t-1) + (1-ω) Q_0, whose limit is the closed form."""
    torch.manual_seed(1)
    features, logits = torch.randn(6, 9, dtype=torch.float64), 3 * torch.randn(6, 4, dtype=torch.float64)
    weights = torch.empty(6, 6, dtype=torch.float64)
    for i in range(6):
        similarity = [torch.exp(torch.cosine_similarity(features[i], features[j], dim=0)) for j in range(6)]
        total = sum(similarity[j] for j in range(6) if j != i)
        for j in range(6):
            weights[i, j] = 0 if i == j else similarity[j] / total
    first = torch.softmax(logits / 4, 1)
    q = first
    for _ in range(200):
        q = 0.5 * weights @ q + 0.5 * first
    targets = losses.bake_targets(features, logits)
    torch.testing.assert_close(targets, q, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(targets.sum(1), torch.ones(6, dtype=torch.float64))


def test_bake_loss_has_no_gradient_through_its_targets() -> None:
    torch.manual_seed(2)
    features = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (6,))
    targets = losses.bake_targets(features, logits)
    student = torch.log_softmax(logits / 4, 1)
    expected = torch.nn.functional.nll_loss(torch.log_softmax(logits, 1), labels)
    expected = expected + 16 * (targets * (targets.log() - student)).sum(1).mean()
    actual = losses.bake_loss(logits, features, labels)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    actual.backward()
    assert features.grad is None
    with pytest.raises(ValueError, match="two images"):
        losses.bake_targets(features[:1], logits[:1])


def mixed_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (6, 4) float64 with gradient, labels and partners' labels, weights with both ends."""
    generator = torch.Generator().manual_seed(5)
    logits = (2 * torch.randn(6, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    labels, others = (torch.randint(0, 4, (6,), generator=generator) for _ in range(2))
    weight = torch.tensor([1.0, 0.0, 0.25, 0.5, 0.9, 0.05], dtype=torch.float64)
    return logits, labels, others, weight


def mixed_formula(
    logits: torch.Tensor, labels: torch.Tensor, others: torch.Tensor, weight: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """(B,): both labels written out, row by row."""
    rows = []
    for z, a, b, w in zip(logits, labels.tolist(), others.tolist(), weight.tolist(), strict=True):
        target = [smoothing / 4] * 4
        target[a] += (1 - smoothing) * w
        target[b] += (1 - smoothing) * (1 - w)
        log_total = torch.log(torch.exp(z).sum())
        rows.append(sum(t * (log_total - z[c]) for c, t in enumerate(target)))
    return torch.stack([torch.as_tensor(row) for row in rows])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_cross_entropy_takes_both_labels(smoothing: float) -> None:
    logits, labels, others, weight = mixed_batch()
    want = mixed_formula(logits, labels, others, weight, smoothing)
    for reduction, expected in (("none", want), ("mean", want.mean()), ("sum", want.sum())):
        ours = losses.mixed_cross_entropy(
            logits,
            labels,
            others,
            weight,
            label_smoothing=smoothing,
            reduction=reduction,  # type: ignore[arg-type]
        )
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (ours, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    dense = weight[:, None] * F.one_hot(labels, 4) + (1 - weight[:, None]) * F.one_hot(others, 4)
    ours = losses.mixed_cross_entropy(logits, dense, label_smoothing=smoothing)
    torch.testing.assert_close(ours, want.mean(), rtol=1e-12, atol=1e-12)
    alone = losses.mixed_cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(alone, F.cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_usi_and_bake_take_both_labels(smoothing: float) -> None:
    logits, labels, others, weight = mixed_batch()
    hard = mixed_formula(logits, labels, others, weight, smoothing).mean()
    teacher = torch.softmax(torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6)), 1)
    probs, ids = teacher.sort(1, descending=True)
    mixed = {"mix_labels": others, "mix_weight": weight, "label_smoothing": smoothing}
    want = hard + 5 * (teacher * (teacher.log() - logits.log_softmax(1))).sum(1).mean()
    ours = losses.usi_loss(logits, labels, ids, probs, **mixed)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, want, rtol=1e-12, atol=1e-12)

    features = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    targets = losses.bake_targets(features, logits, omega=0.9, temperature=2)
    divergence = (targets * (targets.log() - torch.log_softmax(logits / 2, 1))).sum(1).mean()
    ours = losses.bake_loss(logits, features, labels, omega=0.9, temperature=2, weight=3, **mixed)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, hard + 3 * 4 * divergence, rtol=1e-12, atol=1e-12)


def test_bake_with_omega_one_is_one_iteration() -> None:
    """Q_1 = ω W Q_0 + (1-ω) Q_0 at ω = 1, where the closed form has no inverse."""
    features = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    want = torch.zeros(5, 3, dtype=torch.float64)
    for i in range(5):
        similarity = {j: torch.exp(F.cosine_similarity(features[i], features[j], dim=0)) for j in range(5) if j != i}
        for j, value in similarity.items():
            want[i] += value / sum(similarity.values()) * torch.softmax(logits[j] / 4, 0)
    torch.testing.assert_close(losses.bake_targets(features, logits, omega=1), want, rtol=1e-12, atol=1e-12)


def test_wrong_labels_are_named() -> None:
    logits, labels, others, weight = mixed_batch()
    with pytest.raises(ValueError, match="go together"):
        losses.mixed_cross_entropy(logits, labels, others)
    with pytest.raises(ValueError, match="mixed already"):
        losses.mixed_cross_entropy(logits, torch.full((6, 4), 0.25), others, weight)
    with pytest.raises(ValueError, match=r"\(5,\) and \(6,\), want \(6,\)"):
        losses.mixed_cross_entropy(logits, labels, others[:5], weight)
    for wrong, message in (({"omega": 1.1}, "omega is 1.1"), ({"temperature": 0.0}, "temperature is 0.0")):
        with pytest.raises(ValueError, match=message):
            losses.bake_targets(torch.randn(6, 3), logits, **wrong)
    with pytest.raises(ValueError, match=r"\(6, 3, 1, 1\) and \(6, 4\)"):
        losses.bake_targets(torch.randn(6, 3, 1, 1), logits)
