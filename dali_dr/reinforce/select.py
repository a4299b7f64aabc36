"""Which of a pool of candidate views are kept, by what the teacher says of them (arXiv 2303.08983, appendix C.6)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.choices import SELECTS as SELECTS
from dali_dr.choices import Select as Select
from dali_dr.keyed import philox_key

WIDE: Final[tuple[Select, ...]] = ("min-entropy", "max-entropy", "min-loss", "max-loss", "kmeans")
"""Those that look at all classes of a prediction."""
BY_LABEL: Final[tuple[Select, ...]] = ("min-loss", "max-loss")
_PERSON: Final = b"dali_dr select 1"  # version of the derivation of the random numbers
_ITERATIONS: Final = 30  # of Lloyd's algorithm at most; it mostly converges in ten

_Floats = npt.NDArray[np.float64]


def random_order(count: int, key: str, seed: int) -> npt.NDArray[np.intp]:
    """A permutation of 0..count-1 that depends on (count, key, seed) alone: raw Philox words, sorted."""
    return np.argsort(_philox(key, seed).random_raw(count), kind="stable")


def select(
    probs: npt.NDArray[Any], keep: int, how: Select, *, key: str, seed: int, label: int | None = None
) -> npt.NDArray[np.intp]:
    """Rows of the views to keep, in rising order.

    "random" is a keyed permutation's first rows. Confidence is the highest probability, entropy that of the whole row,
    loss -log of the label's probability: "min-loss" keeps what the teacher recognises, "max-loss" what it does not.
    "kmeans" keeps the view nearest to each of ``keep`` centres of the predictions: views that differ in what the
    teacher sees. Ties go to the lower row.

    Args:
      probs: (P, C), the teacher's probabilities of the candidates, by class; where only the highest one is looked at (see
        WIDE), C may be a part of the classes, most likely first.
      keep: 1..P.
      how: see above.
      key: of the sample.
      seed: of the data set.
      label: of the sample, 0..C-1; for the loss.

    Returns:
      (keep,) distinct integers.

    Raises:
      ValueError: there is no such selection, keep is out of range, or the label is none of the classes.
    """
    if how not in SELECTS:
        raise ValueError(f"select is {how!r:.80}, want one of {', '.join(SELECTS)}")
    if how in BY_LABEL and (label is None or not 0 <= label < probs.shape[1]):
        raise ValueError(
            f"select: {how} wants the probability of the label, which is {label}; the teacher has classes 0 to "
            f"{probs.shape[1] - 1}"
        )
    if not 1 <= keep <= len(probs):
        raise ValueError(f"select: cannot keep {keep} of {len(probs)} views")
    values = probs.astype(np.float64)
    if how == "random":
        rows = random_order(len(values), key, seed)[:keep]
    elif how == "kmeans":
        rows = _kmeans(values, keep, _philox(key, seed))
    else:
        side, _, what = how.partition("-")
        score = _score(values, what, label)
        rows = np.argsort(score if side == "min" else -score, kind="stable")[:keep]
    return np.sort(rows)


def _score(values: _Floats, what: str, label: int | None) -> _Floats:
    """(P,) confidence, entropy or loss (infinite for a label of probability 0)."""
    if what == "confidence":
        highest: _Floats = values.max(axis=1)
        return highest
    if what == "entropy":
        entropy: _Floats = -(values * np.log(np.where(values > 0, values, 1))).sum(axis=1)
        return entropy
    loss = np.full(len(values), np.inf)
    of_label = values[:, label]
    np.log(of_label, out=loss, where=of_label > 0)
    return np.where(of_label > 0, -loss, loss)


def _philox(key: str, seed: int) -> np.random.Philox:
    return np.random.Philox(key=philox_key(key, seed, _PERSON))


def _kmeans(points: _Floats, count: int, random: np.random.Philox) -> npt.NDArray[np.intp]:
    """The points nearest to the centres of Lloyd's algorithm, started as k-means++ (Arthur & Vassilvitskii 2007)."""
    uniform = (random.random_raw(count) >> np.uint64(11)) * 2.0**-53
    first = int(uniform[0] * len(points))
    centres, nearest = [points[first]], _distances(points, points[first : first + 1])[:, 0]
    for u in uniform[1:]:
        total = nearest.cumsum()
        at = min(int(np.searchsorted(total, u * total[-1], side="right")), len(points) - 1)
        centres.append(points[at])
        nearest = np.minimum(nearest, _distances(points, points[at : at + 1])[:, 0])
    middle = np.stack(centres)
    member = np.full(len(points), -1)
    for _ in range(_ITERATIONS):
        before, member = member, _distances(points, middle).argmin(axis=1)
        if np.array_equal(before, member):
            break
        for cluster in range(count):
            if (member == cluster).any():
                middle[cluster] = points[member == cluster].mean(axis=0)
    # Each centre takes the nearest point that is free; points may coincide, and a centre be without any of its own.
    distance = _distances(points, middle)
    rows = []
    for cluster in range(count):
        row = int(distance[:, cluster].argmin())
        rows.append(row)
        distance[row] = np.inf
    return np.array(rows, np.intp)


def _distances(points: _Floats, centres: _Floats) -> _Floats:
    """Squared Euclidean distances (P, centres)."""
    squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    positive: _Floats = squares.clip(min=0)
    return positive
