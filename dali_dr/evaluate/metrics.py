"""Accuracy, log-likelihood and calibration, summed in float64 in one pass. Knows tensors, and no data set.

Every image has one or several right classes ("accepted"): one in ImageNet, several in ReaL and ObjectNet. A prediction is
right where it is one of them, and its likelihood is the sum of theirs, which for one class is what everybody computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, Self

import torch

from dali_dr.errors import DaliDrError

BINS: Final = 15
"""Bins of equal width for the calibration error, as in arXiv 1706.04599 and 2303.08983."""
NONE: Final = -1  # fills up a row of accepted classes
_TOP: Final = 5
_SUMS: Final = ("images", "top1", "top5", "nll")


@dataclasses.dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram: the images whose confidence is in (low, high], in the first bin also 0.

    Attributes:
      images: how many they are.
      confidence: their mean confidence, the probability of the likeliest class; 0 where there are none.
      accuracy: the part of them that is predicted right.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Scores:
    """What came of an evaluation. Rates are parts of 1.

    Attributes:
      images: that were evaluated.
      top1_right, top5_right: images among whose likeliest class, or five likeliest classes, is an accepted one.
      nll: mean negative log-likelihood of the accepted classes, in nats.
      ece: expected calibration error: mean over images of ``|accuracy - confidence|`` of their bin.
      reliability: the bins.
    """

    images: int
    top1_right: int
    top5_right: int
    nll: float
    ece: float
    reliability: tuple[Bin, ...]

    @property
    def top1(self) -> float:
        return self.top1_right / self.images

    @property
    def top5(self) -> float:
        return self.top5_right / self.images

    @property
    def error(self) -> float:
        """1 - top-1."""
        return (self.images - self.top1_right) / self.images


class Tally:
    """Sums over images, batch by batch; sums of several processes or sets add up.

    Args:
      considered: class ids whose outputs count, as where a set has 200 of 1,000 classes: softmax and ranks are over these
        alone. None: all.
      bins: of the calibration error.
      device: of the sums.

    Attributes:
      sums: float64 (4 + 3 bins,): images, right at first, right among five, sum of -log p; then per bin images, sums of
        confidences, right ones.
    """

    def __init__(
        self, considered: Sequence[int] | None = None, *, bins: int = BINS, device: str | torch.device = "cpu"
    ) -> None:
        if bins < 1:
            raise ValueError(f"bins is {bins}, want 1 or more")
        if considered is not None and (not len(considered) or len(set(considered)) != len(considered)):
            raise ValueError(f"considered has {len(considered)} classes, want one or more, none of them twice")
        self.bins = bins
        self._considered = None if considered is None else torch.tensor(list(considered), device=device)
        # Edges are k / bins rounded once; sums of a width drift off them.
        self._uppers = torch.arange(1, bins + 1, dtype=torch.float64, device=device) / bins
        self.sums = torch.zeros(len(_SUMS) + 3 * bins, dtype=torch.float64, device=device)

    @property
    def images(self) -> int:
        """How many were added."""
        return int(self.sums[0])

    def update(self, logits: torch.Tensor, accepted: torch.Tensor) -> None:
        """Adds a batch.

        Args:
          logits: (B, C) of any floating type.
          accepted: (B,) or (B, A) integers: the right classes of each image, one or more of them, rows filled up with -1.

        Raises:
          DaliDrError: logits that are not finite, or an image without a class that is considered.
          ValueError: other shapes.
        """
        if accepted.ndim == 1:
            accepted = accepted[:, None]
        if logits.ndim != 2 or accepted.ndim != 2 or len(logits) != len(accepted):
            raise ValueError(f"want logits (B, C) and accepted (B, A), got {(*logits.shape,)} and {(*accepted.shape,)}")
        if not len(logits):
            return
        accepted = accepted.to(self.sums.device, torch.int64)
        logits = logits.to(self.sums.device, torch.float64)
        if not bool(logits.isfinite().all()):
            raise DaliDrError("the model gives outputs that are not finite")
        logits, accepted = self._narrowed(logits, accepted)
        filled = accepted == NONE
        if bool((filled.all(1) | (accepted < NONE).any(1) | (accepted >= logits.shape[1]).any(1)).any()):
            raise DaliDrError(f"an image has no right class among the {logits.shape[1]} that are considered")
        log_p = logits.log_softmax(1)
        likelihood = log_p.gather(1, accepted.clamp(min=0)).masked_fill(filled, -torch.inf).logsumexp(1)
        likelihood = likelihood.clamp(max=0)  # a sum of all classes rounds to above 1
        top = log_p.topk(min(_TOP, log_p.shape[1]), dim=1)
        right = (top.indices[:, :, None] == accepted[:, None, :]).any(2)
        first = right[:, 0].double()
        confidence = logits.softmax(1).amax(1)  # not exp(log_p), which is off by a bit: 1/3 of equal logits is an edge
        # The first upper edge that is not below: bins are (low, high], as in arXiv 1706.04599.
        number = torch.bucketize(confidence, self._uppers).clamp(max=self.bins - 1)
        ones = torch.ones_like(confidence)
        self.sums[: len(_SUMS)] += torch.stack(
            [ones.sum(), first.sum(), right.any(1).double().sum(), -likelihood.sum()]
        )
        binned = self.sums[len(_SUMS) :].view(3, self.bins)
        for row, values in zip(binned, (ones, confidence, first), strict=True):
            row.index_add_(0, number, values)

    def _narrowed(self, logits: torch.Tensor, accepted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and classes among those that are considered."""
        if self._considered is None:
            return logits, accepted
        if int(self._considered.max()) >= logits.shape[1]:
            raise DaliDrError(
                f"the set has class {int(self._considered.max())}, and the model has {logits.shape[1]} outputs"
            )
        # One place more, so that a -1 stays one.
        places = torch.full((logits.shape[1] + 1,), NONE, device=logits.device)
        places[self._considered] = torch.arange(len(self._considered), device=logits.device)
        return logits[:, self._considered], places[accepted]

    def add(self, other: Self) -> None:
        """Adds what another tally has summed, of the same number of bins."""
        if other.bins != self.bins:
            raise ValueError(f"tallies of {self.bins} and {other.bins} bins cannot be added")
        self.sums += other.sums.to(self.sums.device)

    def add_ranks(self) -> None:
        """Adds what all processes of torch.distributed have summed, where that is initialised."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.sums)

    def scores(self) -> Scores:
        """The figures.

        Raises:
          DaliDrError: there were no images.
        """
        images, top1, top5, nll, *binned = self.sums.tolist()
        if not images:
            raise DaliDrError("no images were evaluated")
        counts, confidences, rights = (binned[n * self.bins : (n + 1) * self.bins] for n in range(3))
        uppers = [0.0, *self._uppers.tolist()]
        bins = tuple(
            Bin(uppers[n], uppers[n + 1], int(c), sure / c if c else 0.0, right / c if c else 0.0)
            for n, (c, sure, right) in enumerate(zip(counts, confidences, rights, strict=True))
        )
        ece = sum(abs(r - s) for s, r in zip(confidences, rights, strict=True)) / images
        return Scores(int(images), int(top1), int(top5), nll / images, ece, bins)


def mean_corruption_error(
    errors: Mapping[str, Sequence[float]], reference: Mapping[str, float]
) -> tuple[float, dict[str, float]]:
    """mCE of arXiv 1903.12261: the mean over corruptions of the model's error divided by the reference model's.

    Args:
      errors: top-1 errors by corruption, one for each severity, as parts of 1.
      reference: the reference model's mean error over the severities, by corruption.

    Returns:
      mCE and the corruptions' own CE, as parts of 1.

    Raises:
      ValueError: no corruption, one without an error, or one that the reference does not have.
    """
    if not errors or not all(errors.values()):
        raise ValueError("errors: want one corruption or more, each with the error of one severity or more")
    if strange := errors.keys() - reference.keys():
        raise ValueError(f"errors: the reference has none for {', '.join(sorted(strange))}")
    each = {name: sum(found) / len(found) / reference[name] for name, found in errors.items()}
    return sum(each.values()) / len(each), each
