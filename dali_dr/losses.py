"""Distillation losses on stored targets: sparse (top-K classes per view) without densifying, or dense.

Both losses take either form of target:

- sparse: ``soft_ids`` integer (..., K), distinct in each row, and ``soft_probs`` floating (..., K). ``rest`` says
  what becomes of the probability outside the K classes, as in `dali_dr.record.labels.densify`: "spread" evenly
  over the other C - K classes (none where rounding made the K sum to more than 1), "drop", "renormalise" the
  K classes to sum to 1, or "ml-dr", as the published code of ImageNet+ trains;
- dense: ``soft_ids=None`` and ``soft_probs`` floating (..., C), say after mixup; ``rest`` is unused.

``logits`` are (..., C). Half-precision logits are computed with in float32, under autocast too. The value equals
the dense computation on `densify(...)`, but only the student's log-softmax is of size (..., C).

Sources: soft cross-entropy as in FKD (Shen & Xing, arXiv 2112.01528); KL divergence with T = 1 as in Dataset
Reinforcement (Faghri et al., arXiv 2303.08983). They differ by the targets' entropy, which has no gradient.
`usi_loss` adds hard labels; `bake_loss` needs no teacher at all.

Views that are stored mixed have two hard labels: batches carry ``mix_label``, that of the partner, and ``mix_weight``,
the weight of the image's own (MixUp and the area of CutMix together). `mixed_cross_entropy`, `usi_loss` and
`bake_loss` take both as ``mix_labels`` and ``mix_weight``.
"""

from __future__ import annotations

from typing import Literal

import torch

from dali_dr.record.labels import RESTS, Rest

Reduction = Literal["mean", "sum", "none"]
KLReduction = Literal["batchmean", "sum", "none"]


def soft_cross_entropy(
    logits: torch.Tensor,
    soft_ids: torch.Tensor | None,
    soft_probs: torch.Tensor,
    *,
    rest: Rest = "spread",
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Cross-entropy -Σ_c t_c log softmax(logits)_c of targets t (FKD, arXiv 2112.01528).

    Args:
        logits: floating (..., C).
        soft_ids, soft_probs, rest: the targets; see the module's text.
        reduction: "mean" over rows, "sum" over rows, or "none".

    Returns:
        float32 (float64 for float64 logits): a scalar, or (...) with "none".

    Raises:
        ValueError: shapes that do not fit, an unknown rest or reduction.
    """
    target = _Target(logits, soft_ids, soft_probs, rest)
    return _reduce(target.cross_entropy(_log_softmax(logits, 1.0)), reduction, "mean")


def kl_divergence(
    logits: torch.Tensor,
    soft_ids: torch.Tensor | None,
    soft_probs: torch.Tensor,
    *,
    rest: Rest = "spread",
    temperature: float = 1.0,
    reduction: KLReduction = "batchmean",
) -> torch.Tensor:
    """KL(t ‖ softmax(logits)), the loss of Dataset Reinforcement (arXiv 2303.08983), with 0·log 0 = 0.

    With a temperature T both sides are softened and the loss is multiplied by T² (Hinton et al., arXiv
    1503.02531): the student is softmax(logits / T), and the targets become t^(1/T), scaled to their former
    sum, which for t = softmax(z) is softmax(z / T).

    Args:
        logits: floating (..., C).
        soft_ids, soft_probs, rest: the targets; see the module's text.
        temperature: T > 0.
        reduction: "batchmean" (mean over rows), "sum" over rows, or "none".

    Returns:
        float32 (float64 for float64 logits): a scalar, or (...) with "none".

    Raises:
        ValueError: shapes that do not fit, an unknown rest or reduction, T <= 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, want it above 0")
    target = _Target(logits, soft_ids, soft_probs, rest)
    if temperature != 1:
        target.soften(temperature)
    losses = target.cross_entropy(_log_softmax(logits, temperature)) - target.entropy()
    return _reduce(losses * temperature**2, reduction, "batchmean")


def mixed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    mix_labels: torch.Tensor | None = None,
    mix_weight: torch.Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """w · CE(labels) + (1 - w) · CE(mix_labels), the loss of mixed images (MixUp, arXiv 1710.09412; CutMix, 1905.04899).

    Cross-entropy is linear in its targets, so this is the cross-entropy on the mixed one-hot targets.

    Args:
        logits: floating (B, C).
        labels: int64 (B,), or floating (B, C): targets that are mixed already, as of `dali_dr.mixing.BatchMixing`.
        mix_labels: int64 (B,), the partners' labels; None: nothing is mixed.
        mix_weight: floating (B,), w in 0 … 1, the weight of `labels`; goes with mix_labels.
        label_smoothing: s in 0 … 1: of both labels, torch's (1 - s) · one-hot + s / C.
        reduction: "mean" over rows, "sum" over rows, or "none".

    Returns:
        float32 (float64 for float64 logits): a scalar, or (B,) with "none".

    Raises:
        ValueError: one of mix_labels and mix_weight without the other, shapes that do not fit, an unknown reduction.
    """
    logits = logits.to(_compute_dtype(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    if (mix_labels is None) != (mix_weight is None):
        raise ValueError("mix_labels and mix_weight go together: a batch of mixed views has both")
    if labels.is_floating_point():
        if mix_labels is not None:
            raise ValueError("labels are dense, mixed already: leave mix_labels and mix_weight out, or pass class ids")
        labels = labels.to(logits.dtype)
    losses = cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    if mix_labels is not None and mix_weight is not None:
        if mix_labels.shape != labels.shape or mix_weight.shape != labels.shape:
            shapes = f"{tuple(mix_labels.shape)} and {tuple(mix_weight.shape)}"
            raise ValueError(f"mix_labels and mix_weight are {shapes}, want {tuple(labels.shape)}, as the labels")
        others = cross_entropy(logits, mix_labels, label_smoothing=label_smoothing, reduction="none")
        weight = mix_weight.to(logits.dtype)
        losses = weight * losses + (1 - weight) * others
    return _reduce(losses, reduction, "mean")


def usi_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    soft_ids: torch.Tensor | None,
    soft_probs: torch.Tensor,
    *,
    mix_labels: torch.Tensor | None = None,
    mix_weight: torch.Tensor | None = None,
    alpha: float = 5.0,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    rest: Rest = "spread",
) -> torch.Tensor:
    """CE(labels) + alpha · KL(teacher ‖ student): the loss of USI (Ridnik et al., arXiv 2204.03475; alpha = 5, T = 1).

    Args:
        logits: floating (B, C).
        labels, mix_labels, mix_weight, label_smoothing: see `mixed_cross_entropy`.
        soft_ids, soft_probs, rest: the teacher's targets; see the module's text.
        alpha: weight of the divergence ("batchmean").
        temperature: see `kl_divergence`.
    """
    hard = mixed_cross_entropy(logits, labels, mix_labels, mix_weight, label_smoothing=label_smoothing)
    return hard + alpha * kl_divergence(logits, soft_ids, soft_probs, temperature=temperature, rest=rest)


@torch.no_grad()
def bake_targets(
    features: torch.Tensor, logits: torch.Tensor, *, omega: float = 0.5, temperature: float = 4.0
) -> torch.Tensor:
    """Targets that a batch gives itself: predictions propagated to similar images (BAKE, arXiv 2104.13298, eq. 3-5).

    (1-ω) (I - ωW)⁻¹ softmax(logits/τ), where W is the row-wise softmax of the cosine similarity of features with
    the diagonal left out. That is the limit of Q ← ωWQ + (1-ω)Q₀, which ω = 1 does not have: with it, it is one
    iteration, W softmax(logits/τ) (the paper's table 11).

    The batch is that of all processes together; see `dali_dr.distributed.bake_loss`.

    Args:
        features: floating (B, D), of the layer before the classifier.
        logits: floating (B, C).
        omega: ω, 0 <= ω <= 1.
        temperature: τ > 0.

    Returns:
        (B, C) float32 (float64 for float64 logits), without gradient; rows sum to 1.

    Raises:
        ValueError: an argument out of range, a batch of one image, features of another batch or shape.
    """
    if not 0 <= omega <= 1:
        raise ValueError(f"omega is {omega}, want 0 <= omega <= 1")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, want it above 0")
    if features.ndim != 2 or logits.ndim != 2 or len(features) != len(logits):
        shapes = f"{tuple(features.shape)} and {tuple(logits.shape)}"
        raise ValueError(f"features and logits are {shapes}, want (B, D) and (B, C) of one batch")
    if len(features) < 2:
        raise ValueError("BAKE needs at least two images in a batch: each learns from the others")
    dtype = _compute_dtype(logits)
    with torch.autocast(logits.device.type, enabled=False):
        unit = torch.nn.functional.normalize(features.to(dtype), dim=1)
        eye = torch.eye(len(unit), dtype=dtype, device=unit.device)
        weights = (unit @ unit.T).masked_fill(eye.bool(), -torch.inf).softmax(dim=1)
        predictions = (logits.to(dtype) / temperature).softmax(dim=1)
        if omega == 1:
            return weights @ predictions
        targets: torch.Tensor = (1 - omega) * torch.linalg.solve(eye - omega * weights, predictions)
    return targets


def bake_loss(
    logits: torch.Tensor,
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    mix_labels: torch.Tensor | None = None,
    mix_weight: torch.Tensor | None = None,
    omega: float = 0.5,
    temperature: float = 4.0,
    weight: float = 1.0,
    label_smoothing: float = 0.0,
    targets: torch.Tensor | None = None,
) -> torch.Tensor:
    """CE(labels) + λτ² · KL(targets ‖ softmax(logits/τ)) with `bake_targets` (arXiv 2104.13298, eq. 6; λ = 1, τ = 4).

    For batches with images of one class side by side: `ReinforcedIterator(..., class_mates=1)`. In a training of
    several processes use `dali_dr.distributed.bake_loss`, and synchronised batch norm.

    Args:
        logits: floating (B, C).
        features: floating (B, D).
        labels, mix_labels, mix_weight, label_smoothing: see `mixed_cross_entropy`.
        omega, temperature: see `bake_targets`.
        weight: λ.
        targets: (B, C), rows of `bake_targets` of a larger batch; None: those of this batch.
    """
    logits = logits.to(_compute_dtype(logits))
    if targets is None:
        targets = bake_targets(features, logits, omega=omega, temperature=temperature)
    student = torch.nn.functional.log_softmax(logits / temperature, dim=1)
    divergence = torch.nn.functional.kl_div(student, targets, reduction="batchmean")
    hard = mixed_cross_entropy(logits, labels, mix_labels, mix_weight, label_smoothing=label_smoothing)
    return hard + weight * temperature**2 * divergence


class _Target:
    """Targets as K listed probabilities (..., K) and one probability (..., 1) that all other classes have each."""

    def __init__(
        self, logits: torch.Tensor, soft_ids: torch.Tensor | None, soft_probs: torch.Tensor, rest: Rest
    ) -> None:
        classes, k = logits.shape[-1], soft_probs.shape[-1]
        if rest not in RESTS:
            raise ValueError(f"rest is {rest!r}, want one of {', '.join(RESTS)}")
        if soft_probs.shape[:-1] != logits.shape[:-1] or (k != classes if soft_ids is None else k > classes):
            want = "(..., C) with soft_ids=None" if soft_ids is None else "(..., K), K <= C,"
            raise ValueError(
                f"soft_probs are {tuple(soft_probs.shape)}, want {want} for logits (..., C) = {tuple(logits.shape)}"
            )
        if soft_ids is not None and soft_ids.shape != soft_probs.shape:
            raise ValueError(
                f"soft_ids {tuple(soft_ids.shape)} and soft_probs {tuple(soft_probs.shape)} differ in shape"
            )
        self.ids = None if soft_ids is None else soft_ids.long()
        self.probs = soft_probs.to(_compute_dtype(logits))
        self.others = classes - k
        self.other: torch.Tensor | None = None  # None: 0
        if self.ids is not None and rest != "drop":
            total = self.probs.sum(-1, keepdim=True)
            if rest == "renormalise":
                self.probs = self.probs / torch.where(total > 0, total, torch.ones_like(total))
                return
            if rest == "ml-dr":
                beyond = soft_probs.sum(-1, keepdim=True) > 1  # in the precision of the probabilities
                self.probs = torch.where(beyond, self.probs.softmax(-1), self.probs)
                total = torch.where(beyond, 1, total)
            if self.others:
                self.other = (1 - total).clamp(min=0) / self.others

    def soften(self, temperature: float) -> None:
        before = self._sum()
        self.probs = self.probs ** (1 / temperature)
        if self.other is not None:
            self.other = self.other ** (1 / temperature)
        after = self._sum()
        scale = before / torch.where(after > 0, after, torch.ones_like(after))
        self.probs = self.probs * scale
        if self.other is not None:
            self.other = self.other * scale

    def cross_entropy(self, log_probs: torch.Tensor) -> torch.Tensor:
        """(...): -Σ_k (p_k - r)·logp_k - r·Σ_c logp_c with r the probability of each other class."""
        listed = log_probs if self.ids is None else log_probs.gather(-1, self.ids)
        if self.other is None:
            return -(self.probs * listed).sum(-1)
        everywhere = self.other.squeeze(-1) * log_probs.sum(-1)
        return -((self.probs - self.other) * listed).sum(-1) - everywhere

    def entropy(self) -> torch.Tensor:
        """(...): -Σ t log t."""
        entropy = -torch.xlogy(self.probs, self.probs).sum(-1)
        if self.other is not None:
            entropy = entropy - self.others * torch.xlogy(self.other, self.other).squeeze(-1)
        return entropy

    def _sum(self) -> torch.Tensor:
        total = self.probs.sum(-1, keepdim=True)
        return total if self.other is None else total + self.others * self.other


def _compute_dtype(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    logits = logits.to(_compute_dtype(logits))
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, -1)


def _reduce(losses: torch.Tensor, reduction: str, mean: str) -> torch.Tensor:
    if reduction == mean:
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    if reduction == "none":
        return losses
    raise ValueError(f"reduction is {reduction!r}, want {mean!r}, 'sum' or 'none'")
