"""Labels of the stored views: the teacher's K most likely classes per view, from and to dense ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import numpy as np
import numpy.typing as npt

from dali_dr.augment.views import VIEW_COLUMNS, Views, reject
from dali_dr.choices import ROW_ORDERS as ROW_ORDERS
from dali_dr.choices import RowOrder as RowOrder

if TYPE_CHECKING:
    import torch

# What becomes of the probability outside the K stored classes:
# "spread": shared evenly by the other classes; "drop": left out; "renormalise": given to the K in proportion.
# "ml-dr": as the published code of Dataset Reinforcement trains: spread, but a fault kept, see `densify`.
# FKD (arXiv 2112.01528) calls the first and the third "marginal smoothing" and "marginal re-norm".
Rest = Literal["spread", "drop", "renormalise", "ml-dr"]
RESTS: Final[tuple[str, ...]] = ("spread", "drop", "renormalise", "ml-dr")
_SPREADING: Final = ("spread", "ml-dr")

# FKD's forms of a label (arXiv 2112.01528, section 3.5), see `targets`.
Form = Literal["full", "hard", "smoothing", "marginal_smoothing", "marginal_renorm"]
FORMS: Final[tuple[str, ...]] = ("full", "hard", "smoothing", "marginal_smoothing", "marginal_renorm")

# What the rows of a record are ordered by, see `order_rows`.

# A row may sum to a little more than 1: softmax in float32 adds about 1e-6, a float16 record up to 2**-11.
SUM_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, eq=False)
class Reinforcements(Views):
    """N views and the teacher's sparse predictions on them; K = 0 where there are none.

    Attributes:
      soft_ids: int32 (N, K): classes in order of falling probability, distinct within a row.
      soft_probs: float32 (N, K): their probabilities, not renormalised: the rest is the other classes'.
    """

    soft_ids: npt.NDArray[np.int32]
    soft_probs: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, dtype in (("soft_ids", np.int32), ("soft_probs", np.float32)):
            column = getattr(self, name)
            if column.ndim != 2 or column.shape[0] != len(self) or column.dtype != dtype:
                raise ValueError(
                    f"Reinforcements.{name}: want {np.dtype(dtype)} of shape (N, K) with N = {len(self)}, "
                    f"got {column.dtype} of shape {column.shape}"
                )
        if self.soft_ids.shape != self.soft_probs.shape:
            raise ValueError(
                f"Reinforcements: soft_ids {self.soft_ids.shape} and soft_probs {self.soft_probs.shape} differ in shape"
            )

    @classmethod
    def from_views(
        cls, views: Views, soft_ids: npt.NDArray[np.int32], soft_probs: npt.NDArray[np.float32]
    ) -> Reinforcements:
        """``views`` with predictions (N, K) added."""
        columns: dict[str, Any] = {name: getattr(views, name) for name in VIEW_COLUMNS}
        return cls(**columns, soft_ids=soft_ids, soft_probs=soft_probs, mix=views.mix)

    @property
    def topk(self) -> int:
        """Number of stored classes per view (K)."""
        return int(self.soft_ids.shape[1])

    def likeliest(self, topk: int | None) -> Reinforcements:
        """The same views with the ``topk`` most likely classes only; None: all."""
        ids, probs = self.soft_ids[:, :topk], self.soft_probs[:, :topk]
        return replace(self, soft_ids=np.ascontiguousarray(ids), soft_probs=np.ascontiguousarray(probs))

    def validate(self, image_height: int, image_width: int, view_size: int, num_classes: int | None = None) -> None:
        """Check the views (``Views.validate``) and the predictions.

        Raises:
          ValueError: naming the first bad row and what is wrong with it.
        """
        super().validate(image_height, image_width, view_size)
        self.validate_predictions(num_classes)

    def validate_predictions(self, num_classes: int | None = None) -> None:
        """Check ids (0 <= id < num_classes, distinct) and probabilities (finite, 0..1, falling, sum <= 1).

        Args:
          num_classes: None leaves the upper limit of the ids out.

        Raises:
          ValueError: naming the first bad row and what is wrong with it.
        """
        ids, probs = self.soft_ids, self.soft_probs
        limit = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
        reject(((ids < 0) | (ids > limit)).any(axis=1), f"class id outside 0..{limit} in (...)", ids)
        reject(repeats(ids), "class id twice in (...)", ids)
        outside = ~((probs >= 0) & (probs <= 1)).all(axis=1)  # true for NaN as well
        reject(outside, "probability outside 0..1 or not finite in (...)", probs)
        reject((probs[:, 1:] > probs[:, :-1]).any(axis=1), "probabilities are not falling: (...)", probs)
        total = probs.sum(axis=1, dtype=np.float64)
        reject(total > 1 + SUM_TOLERANCE, "probabilities sum to more than 1: (...)", probs)


def order_by_confidence(reinforcements: Reinforcements) -> npt.NDArray[np.intp]:
    """Rows in order of falling confidence (probability of the most likely class): a permutation of 0..N-1.

    Ties keep the order given, and so do views without predictions (K = 0). Pairs of a double-mix stay together,
    ordered by the sum of both confidences.
    """
    if not reinforcements.topk:
        return np.arange(len(reinforcements))
    confidence = reinforcements.soft_probs.max(axis=1)
    if reinforcements.mix is None or not reinforcements.mix.double:
        return np.argsort(-confidence, kind="stable")
    first = 2 * np.argsort(-confidence.reshape(-1, 2).sum(axis=1), kind="stable")
    return np.stack([first, first + 1], axis=1).ravel()


def order_by_entropy(reinforcements: Reinforcements, num_outputs: int) -> npt.NDArray[np.intp]:
    """Rows in order of rising entropy of the teacher's prediction: a permutation of 0..N-1, see `entropy`.

    Ties keep the order given, and so do views without predictions (K = 0). Pairs of a double-mix stay together,
    ordered by the sum of both entropies.
    """
    if not reinforcements.topk:
        return np.arange(len(reinforcements))
    doubt = entropy(reinforcements.soft_probs, num_outputs)
    if reinforcements.mix is None or not reinforcements.mix.double:
        return np.argsort(doubt, kind="stable")
    first = 2 * np.argsort(doubt.reshape(-1, 2).sum(axis=1), kind="stable")
    return np.stack([first, first + 1], axis=1).ravel()


def order_rows(reinforcements: Reinforcements, order: RowOrder, num_outputs: int) -> npt.NDArray[np.intp]:
    """Rows from what the teacher is surest of to what it is least sure of, so that a curriculum is a range of rows.

    Args:
      reinforcements: N views with predictions.
      order: "confidence", falling (`order_by_confidence`), or "entropy", rising (`order_by_entropy`).
      num_outputs: C, the teacher's classes.

    Returns:
      A permutation of 0..N-1.
    """
    return (
        order_by_confidence(reinforcements) if order == "confidence" else order_by_entropy(reinforcements, num_outputs)
    )


def entropy(probs: npt.NDArray[Any], num_outputs: int) -> npt.NDArray[np.float64]:
    """Entropy in nats of sparse predictions whose rest is spread evenly over the other classes (`densify`, "spread").

    With few classes kept of many that is more than the teacher's own entropy, the more the less of its probability was
    kept: an even rest is the least certain one.

    Args:
      probs: (N, K) probabilities of K distinct classes; rows that do not sum to 1 with their rest are normalised.
      num_outputs: C >= K, the teacher's classes.

    Returns:
      (N,), 0 … log C; 0 for a row of zeros with K = C.
    """
    kept = probs.astype(np.float64)
    others = num_outputs - kept.shape[1]
    rest = (1 - kept.sum(axis=1)).clip(min=0) if others > 0 else np.zeros(len(kept))
    total = kept.sum(axis=1) + rest
    terms = -np.log(kept, out=np.zeros_like(kept), where=kept > 0) * kept
    spread = np.zeros(len(kept))
    np.log(rest / max(others, 1), out=spread, where=rest > 0)
    total = np.where(total > 0, total, 1)
    entropies: npt.NDArray[np.float64] = (terms.sum(axis=1) - rest * spread) / total + np.log(total)
    return entropies


def repeats(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows of ``ids`` (N, K) hold a value twice: bool (N,)."""
    ordered = np.sort(ids, axis=1)
    return np.asarray((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))


@overload
def sparsify(probs: npt.NDArray[Any], k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...
@overload
def sparsify(probs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]: ...
def sparsify(probs: Any, k: int) -> tuple[Any, Any]:
    """The k most likely classes of each row, in order of falling probability; of equals the lower id first.

    Args:
      probs: (N, C) probabilities (no negative values), a NumPy array or torch tensor of any floating dtype.
      k: 0..C.

    Returns:
      ids int32 (N, k) and probabilities float32 (N, k), of the kind and on the device of ``probs``.
    """
    if probs.ndim != 2 or not 0 <= k <= probs.shape[1]:
        raise ValueError(f"sparsify: want (N, C) and 0 <= k <= C, got {tuple(probs.shape)} and k = {k}")
    # One integer key per entry makes ties deterministic at the cost of a plain top-k: bits of non-negative
    # float32 order as the numbers do, and below them stands the id, counted down. Adding 0 turns -0 into +0.
    classes = probs.shape[1]
    if isinstance(probs, np.ndarray):
        bits = (probs.astype(np.float32) + np.float32(0)).view(np.int32).astype(np.int64)
        keys = (bits << 32) + np.arange(classes - 1, -1, -1)
        if 0 < k < classes:
            keys = np.partition(keys, classes - k, axis=1)[:, classes - k :]
        keys = -np.sort(-keys, axis=1)[:, :k]
        ids = (classes - 1 - (keys & 0xFFFFFFFF)).astype(np.int32)
        return ids, (keys >> 32).astype(np.int32).view(np.float32)
    import torch

    bits = (probs.float() + 0.0).contiguous().view(torch.int32).long()
    keys = (bits << 32) + torch.arange(classes - 1, -1, -1, device=probs.device)
    keys = keys.topk(k, dim=1).values
    return (classes - 1 - (keys & 0xFFFFFFFF)).int(), (keys >> 32).int().view(torch.float32)


@overload
def densify(
    ids: npt.NDArray[Any], probs: npt.NDArray[Any], num_classes: int, rest: Rest = "spread"
) -> npt.NDArray[Any]: ...
@overload
def densify(ids: torch.Tensor, probs: torch.Tensor, num_classes: int, rest: Rest = "spread") -> torch.Tensor: ...
def densify(ids: Any, probs: Any, num_classes: int, rest: Rest = "spread") -> Any:
    """Dense targets (..., C) of sparse predictions (..., K); ids must be distinct in each row.

    "spread" gives every other class (1 - sum) / (C - K), and 0 where rounding made the sum exceed 1. "ml-dr" does what
    the code of arXiv 2303.08983 does there: a softmax over the K probabilities, as if they were logits, and 0 elsewhere
    (0.936 becomes 0.22). That only happens where sums are as published, in float32: stored as "float32", not "root8".
    "renormalise" leaves a row of zeros as it is.

    Args:
      ids: integers (..., K); NumPy or torch, as ``probs``.
      probs: floating (..., K).
      num_classes: C >= K.
      rest: see ``Rest``.

    Returns:
      (..., C) of the dtype, kind and device of ``probs``.
    """
    if rest not in RESTS:
        raise ValueError(f"rest is {rest!r}, want one of {', '.join(RESTS)}")
    k = probs.shape[-1]
    if ids.shape != probs.shape or k > num_classes:
        raise ValueError(
            f"densify: ids {tuple(ids.shape)} and probs {tuple(probs.shape)} must have one shape (..., K) "
            f"with K <= num_classes = {num_classes}"
        )
    shape = (*probs.shape[:-1], num_classes)
    if isinstance(probs, np.ndarray):
        total = probs.sum(axis=-1, keepdims=True)
        if rest == "renormalise":
            probs = probs / np.where(total > 0, total, 1)
        if rest == "ml-dr":
            probs = np.where(total > 1, _softmax(probs), probs)
        elsewhere = np.maximum(1 - total, 0) / max(num_classes - k, 1) if rest in _SPREADING else 0
        dense = np.empty(shape, probs.dtype)
        dense[...] = elsewhere
        np.put_along_axis(dense, ids.astype(np.int64), probs, axis=-1)
        return dense
    import torch

    total = probs.sum(-1, keepdim=True)
    if rest == "renormalise":
        probs = probs / torch.where(total > 0, total, torch.ones_like(total))
    if rest == "ml-dr":
        probs = torch.where(total > 1, probs.softmax(-1), probs)
    if rest in _SPREADING:
        dense = ((1 - total).clamp(min=0) / max(num_classes - k, 1)).expand(shape).contiguous()
    else:
        dense = probs.new_zeros(shape)
    return dense.scatter_(-1, ids.long(), probs)


def _softmax(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    weights = np.exp(values - values.max(axis=-1, keepdims=True, initial=0))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


@overload
def targets(
    ids: npt.NDArray[Any], probs: npt.NDArray[Any], num_classes: int, form: Form, topk: int | None = None
) -> npt.NDArray[Any]: ...
@overload
def targets(
    ids: torch.Tensor, probs: torch.Tensor, num_classes: int, form: Form, topk: int | None = None
) -> torch.Tensor: ...
def targets(ids: Any, probs: Any, num_classes: int, form: Form, topk: int | None = None) -> Any:
    """Dense targets (..., C) of stored predictions, in one of the forms of FKD (arXiv 2112.01528, section 3.5).

    With p_1 >= p_2 >= ... the teacher's probabilities and K the classes used:

    - "full": p as it is; every class must be stored.
    - "hard": 1 for the most likely class.
    - "smoothing": p_1 for the most likely class, (1 - p_1) / (C - 1) for the others.
    - "marginal_smoothing": p_1 ... p_K, and (1 - sum) / (C - K) for the others.
    - "marginal_renorm": p_1 ... p_K divided by their sum, 0 for the others.

    Args:
      ids: integers (..., stored K) in order of falling probability; NumPy or torch, as ``probs``.
      probs: floating (..., stored K).
      num_classes: C.
      form: see above.
      topk: use the first so many stored classes only (for the last two forms); None: all.

    Returns:
      (..., C) of the dtype, kind and device of ``probs``.

    Raises:
      ValueError: the stored data do not allow the form.
    """
    stored = probs.shape[-1]
    if form not in FORMS:
        raise ValueError(f"form is {form!r}, want one of {', '.join(FORMS)}")
    if form == "full" and stored != num_classes:
        raise ValueError(
            f"full labels want all {num_classes} classes stored, here are {stored}: data sets have all that were made with "
            "--keep full"
        )
    used = 1 if form in ("hard", "smoothing") else stored if topk is None else topk
    if not 1 <= used <= stored:
        raise ValueError(f"{form} labels of {used} classes: {stored} are stored")
    ids, probs = ids[..., :used], probs[..., :used]
    if form == "hard":
        probs = probs * 0 + 1
    return densify(ids, probs, num_classes, "renormalise" if form == "marginal_renorm" else "spread")
