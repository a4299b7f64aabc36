"""What a page says of an image: its facts, a row of a table each, and the details of the views that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.augment.fresh import resize_of
from dali_dr.augment.operations import OP_NAMES
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER, Views
from dali_dr.preview.maps import leading, shares
from dali_dr.preview.replayed import spread
from dali_dr.record.labels import Reinforcements, entropy
from dali_dr.shards.dataset import Dataset

NONE: Final = -1  # for "no class"
FACTS: Final = np.dtype(
    [
        ("number", "<u4"),  # of the sample
        ("label", "<i4"),
        ("teacher", "<i4"),  # the likeliest class of the mean of all views; of a label map, that leading most cells
        (
            "confidence",
            "<f4",
        ),  # mean probability of the views' likeliest classes; of a label map, the share of these cells
        ("entropy", "<f4"),  # mean over the views, nats; of a label map, of the shares of its classes
        ("divergence", "<f4"),  # `divergence`
        ("agreement", "<f4"),  # share of the views whose likeliest class is the label
        ("views", "<u4"),  # stored
        ("record_bytes", "<u4"),
        ("image_bytes", "<u4"),
        ("height", "<u4"),
        ("width", "<u4"),
    ]
)
"""A row of facts, little-endian, as the page reads it; NaN and -1 where an image has none."""
CLASSES_SHOWN: Final = 5  # of a view
_WITHOUT_MAGNITUDE: Final = ("Identity", "AutoContrast", "Equalize")
WINDOW: Final = ("WindowTop", "WindowLeft")  # of a fixed resize: where the view lies, no operation to a reader


@dataclass(frozen=True)
class Read:
    """What was read of a sample.

    Attributes:
      facts: of dtype FACTS, 0-d.
      all_views: all stored views, or None.
      rows: of those that are shown.
      cells: classes of a label map, (side, side), or None.
    """

    facts: npt.NDArray[Any]
    all_views: Reinforcements | None
    rows: tuple[int, ...] = ()
    cells: npt.NDArray[np.int32] | None = None

    @property
    def shown(self) -> Reinforcements | None:
        """The views that are shown."""
        return None if self.all_views is None or not self.rows else self.all_views.take(np.array(self.rows))


class Reader:
    """Reads facts and details of samples.

    Args:
      dataset: any.
      views: shown of an image, at most.
      comparable: whether labels and outputs of the teacher number the same classes.
    """

    def __init__(self, dataset: Dataset, views: int, comparable: bool) -> None:
        self._dataset, self._views, self._comparable = dataset, views, comparable

    def read(self, number: int) -> Read:
        """Of one sample. ShardError where its record is damaged."""
        dataset = self._dataset
        facts = self.indexed(number, number + 1)[0]
        if not dataset.has_record(number):
            return Read(facts, None)
        if (maps := dataset.manifest.label_maps) is not None:
            cells = leading(*dataset.label_map(number), maps.order)
            parts = shares(cells)
            share = np.array([part for _, part in parts])
            facts["teacher"], facts["confidence"] = parts[0]
            facts["entropy"] = -(share * np.log(share)).sum()
            facts["agreement"] = float((cells == facts["label"]).mean()) if self._comparable else np.nan
            return Read(facts, None, cells=cells)
        views = dataset.reinforcements(number)
        facts["views"] = len(views)
        if views.topk and len(views):
            self._of_views(facts, views)
        return Read(facts, views, tuple(spread(len(views), self._views)))

    def _of_views(self, facts: npt.NDArray[Any], views: Reinforcements) -> None:
        outputs = self._dataset.num_outputs
        mean_ids, mean = mean_of(views.soft_ids, views.soft_probs, outputs)
        facts["teacher"] = mean_ids[mean.argmax()]
        facts["confidence"] = views.soft_probs[:, 0].mean(dtype=np.float64)
        facts["entropy"] = entropy(views.soft_probs, outputs).mean()
        facts["divergence"] = divergence(views.soft_ids, views.soft_probs, outputs)
        if self._comparable:
            facts["agreement"] = self.agreeing(views, int(facts["label"])).mean()

    def agreeing(self, views: Reinforcements, label: int) -> npt.NDArray[np.bool_]:
        """Which views' likeliest class is the label; of mixed ones, that of either image."""
        best = views.soft_ids[:, 0]
        agree = best == label
        if views.mix is not None:
            partner = views.mix.partner
            other = np.where(partner >= 0, self._dataset.labels[np.maximum(partner, 0)], label)
            agree = agree | ((best == other) & (partner >= 0))
        return np.asarray(agree)

    def indexed(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Facts of samples start … stop - 1 that the index has; the others are NaN, -1 and 0."""
        facts = np.zeros(stop - start, FACTS)
        entries = self._dataset.index.entries_of(start, stop)
        facts["number"] = np.arange(start, stop)
        facts["label"] = entries["label"]
        facts["teacher"] = NONE
        for name in ("confidence", "entropy", "divergence", "agreement"):
            facts[name] = np.nan
        facts["record_bytes"], facts["image_bytes"] = entries["record_bytes"], entries["image_bytes"]
        facts["height"], facts["width"] = entries["image_height"], entries["image_width"]
        return facts


def mean_of(
    ids: npt.NDArray[np.int32], probs: npt.NDArray[np.float32], outputs: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """The mean of sparse predictions, their rests spread evenly (`densify`), for the classes that any of them names.

    Args:
      ids, probs: (N, K).
      outputs: C.

    Returns:
      The classes, rising (U,), and their mean probabilities (U,); every other class has an equal part of what is left.
    """
    classes, rows, _ = _dense(ids, probs, outputs)
    return classes, rows.mean(axis=0)


def divergence(ids: npt.NDArray[np.int32], probs: npt.NDArray[np.float32], outputs: int) -> float:
    """How much the views of an image differ: the mean of KL(view ‖ mean of all views), in nats.

    That is the generalised Jensen–Shannon divergence with equal weights (Lin 1991): finite, 0 where all predictions are
    equal, and at most the logarithm of the number of views. Rests are spread evenly (`densify`), rows normalised.

    Args:
      ids, probs: (N, K) predictions of the views.
      outputs: C, the teacher's.
    """
    classes, rows, rest = _dense(ids, probs, outputs)
    others = outputs - len(classes)  # that no view names: each has the rest of every view
    total = rows.sum(axis=1) + others * rest
    total = np.where(total > 0, total, 1)
    rows, rest = rows / total[:, None], rest / total
    mean, mean_rest = rows.mean(axis=0), rest.mean()
    terms = _relative(rows, mean[None]).sum(axis=1) + others * _relative(rest, np.array(mean_rest))
    return float(max(terms.mean(), 0.0))


def _dense(
    ids: npt.NDArray[np.int32], probs: npt.NDArray[np.float32], outputs: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Classes that any view names (U,), their probabilities (N, U), and those of every other class (N,), rests spread."""
    classes, at = np.unique(ids, return_inverse=True)
    kept = probs.astype(np.float64)
    others = outputs - ids.shape[1]
    rest = np.maximum(1 - kept.sum(axis=1), 0) / others if others > 0 else np.zeros(len(kept))
    rows = np.repeat(rest[:, None], len(classes), axis=1)
    np.put_along_axis(rows, at.reshape(ids.shape), kept, axis=1)  # NumPy 1 gives the places flat
    return classes.astype(np.int32), rows, rest


def _relative(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """p log(p / q), 0 where p is."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.asarray(p * np.log(ratio))


def details(read: Read, spec: AugmentationSpec | None, faults: Mapping[int, str] | None = None) -> dict[str, Any]:
    """What the page shows of an image beside its facts, JSON-able.

    Args:
      read: of the image.
      spec: of the set's views, if it has some.
      faults: what is wrong with views that cannot be shown, by their places among those that are.

    Returns:
      {"views": [view, …]} with, of each, "row" in the record, "box" [top, left, height, width] of what it shows, in pixels of
      the image, "flip" 0 or 1, "ops" [[name, magnitude or null], …], "erase" the like in pixels of the view or null,
      "classes" [[id, probability], …], and of a mixed one "mix": the like of the partner, its number (null: the image
      itself), "lam", "cut" and "swapped", and of one that cannot be shown "error"; or {"map": rows of class ids} of a label map.
    """
    if read.cells is not None:
        return {"views": [], "map": read.cells.tolist()}
    views = read.shown
    if views is None or spec is None:
        return {"views": []}
    size = int(read.facts["height"]), int(read.facts["width"])
    told = [_view(views, place, row, size, spec) for place, row in enumerate(read.rows)]
    for place, message in (faults or {}).items():
        told[place]["error"] = message
    return {"views": told}


def _view(views: Reinforcements, place: int, row: int, size: tuple[int, int], spec: AugmentationSpec) -> dict[str, Any]:
    ids, probs = views.soft_ids[place, :CLASSES_SHOWN].tolist(), views.soft_probs[place, :CLASSES_SHOWN].tolist()
    view = {
        "row": row,
        **_geometry(views, place, size, spec),
        "classes": [[number, round(probability, 4)] for number, probability in zip(ids, probs, strict=True)],
    }
    if (mix := views.mix) is not None and (partner := int(mix.partner[place])) != NO_PARTNER:
        view["mix"] = {
            "partner": None if partner == SELF_PARTNER else partner,
            "lam": round(float(mix.lam[place]), 4),
            "cut": mix.cut[place].tolist() if mix.cut[place].any() else None,
            "swapped": int(mix.swapped[place]),
            **_geometry(mix.views, place, size if partner == SELF_PARTNER else None, spec),
        }
    return view


def _geometry(views: Views, place: int, size: tuple[int, int] | None, spec: AugmentationSpec) -> dict[str, Any]:
    """``size`` is (height, width) of the image, None where that is not at hand."""
    ops = _ops(views, place)
    return {
        "box": box_of(views, place, size, spec),
        "flip": int(views.flip[place]),
        "ops": [
            [name, None if name in _WITHOUT_MAGNITUDE else float(f"{value:.4g}")]
            for name, value in ops
            if name not in WINDOW
        ],
        "erase": views.erase[place].tolist() if views.erase[place].any() else None,
    }


def _ops(views: Views, place: int) -> list[tuple[str, float]]:
    pairs = zip(views.ops[place].tolist(), views.magnitudes[place].tolist(), strict=True)
    return [(OP_NAMES[op], value) for op, value in pairs]


def box_of(views: Views, place: int, size: tuple[int, int] | None, spec: AugmentationSpec) -> list[float]:
    """[top, left, height, width] of what a view shows of its image, in pixels of the image.

    Args:
      views, place: the view.
      size: (height, width) of the image; None where it is not at hand: of a fixed resize, the box is then the whole image.
      spec: of the view.
    """
    if resize_of(spec) and size and min(size) > 0:
        return _window(dict(_ops(views, place)), size, spec)
    box: list[float] = views.crop[place].tolist()
    return box


def _window(ops: dict[str, float], size: tuple[int, int], spec: AugmentationSpec) -> list[float]:
    """The part of an image that a view of a fixed resize shows: cut out of the resized image where its operations say, or
    in the centre (`dali_dr.augment.reference`)."""
    shorter, resize = min(size), resize_of(spec)
    resized = [resize * side // shorter for side in size]
    centre = [round((side - spec.size) / 2) for side in resized]
    at = [
        int(ops.get(name, place if not ops.keys() & set(WINDOW) else 0))
        for name, place in zip(WINDOW, centre, strict=True)
    ]
    scale = [side / long for side, long in zip(size, resized, strict=True)]
    top, left = (round(place * factor, 1) for place, factor in zip(at, scale, strict=True))
    height, width = (round(spec.size * factor, 1) for factor in scale)
    return [top, left, height, width]


def sampled(count: int, most: int | None) -> Sequence[int]:
    """The numbers of the images that a page shows: all of ``count``, or ``most`` spread evenly."""
    return range(count) if most is None or most >= count else spread(count, most)
