"""Which of a pool of candidate views are kept, by what the teacher says of them (arXiv 2303.08983, appendix C.6)."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from dali_dr.keyed import philox_key

Select = Literal["random", "min-confidence", "max-confidence", "min-entropy", "max-entropy", "kmeans"]
SELECTS: Final[tuple[Select, ...]] = (
    "random",
    "min-confidence",
    "max-confidence",
    "min-entropy",
    "max-entropy",
    "kmeans",
)
_PERSON: Final = b"dali_dr select 1"  # version of the derivation of the random numbers
_ITERATIONS: Final = 30  # of Lloyd's algorithm at most; it mostly converges in ten

_Floats = npt.NDArray[np.float64]


def random_order(count: int, key: str, seed: int) -> npt.NDArray[np.intp]:
    """A permutation of 0..count-1 that depends on (count, key, seed) alone: raw Philox words, sorted."""
    return np.argsort(_philox(key, seed).random_raw(count), kind="stable")


def select(probs: npt.NDArray[Any], keep: int, how: Select, *, key: str, seed: int) -> npt.NDArray[np.intp]:
    """Rows of the views to keep, in rising order.

    "random" is a keyed permutation's first rows. Confidence is the highest probability, entropy that of the whole row.
    "kmeans" keeps the view nearest to each of ``keep`` centres of the predictions: views that differ in what the
    teacher sees. Ties go to the lower row.

    Args:
      probs: (P, C), the teacher's probabilities of the candidates; C may be a part of the classes, most likely first.
      keep: 1..P.
      how: see above.
      key: of the sample.
      seed: of the data set.

    Returns:
      (keep,) distinct integers.
    """
    if not 1 <= keep <= len(probs):
        raise ValueError(f"select: cannot keep {keep} of {len(probs)} views")
    values = probs.astype(np.float64)
    if how == "random":
        rows = random_order(len(values), key, seed)[:keep]
    elif how == "kmeans":
        rows = _kmeans(values, keep, _philox(key, seed))
    else:
        side, _, what = how.partition("-")
        logs = np.log(np.where(values > 0, values, 1))
        score = values.max(axis=1) if what == "confidence" else -(values * logs).sum(axis=1)
        rows = np.argsort(score if side == "min" else -score, kind="stable")[:keep]
    return np.sort(rows)


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
