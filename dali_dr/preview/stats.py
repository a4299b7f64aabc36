"""Statistics of a set as plots: histograms that take images one by one, and what is drawn of them in the end."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.augment.fresh import resize_of
from dali_dr.augment.operations import OP_NAMES
from dali_dr.preview.facts import WINDOW, Read, Reader, box_of
from dali_dr.preview.names import Names
from dali_dr.record.labels import Reinforcements, entropy
from dali_dr.shards.dataset import Dataset

_BINS: Final = 24
_ROWS: Final = 20  # of a plot with a row for each class


@dataclass
class Histogram:
    """Counts of values in bins of equal width; what lies outside counts in the first or last one."""

    least: float
    most: float
    bins: int = _BINS
    counts: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.bins, np.int64)

    def add(self, values: npt.ArrayLike) -> None:
        """Count finite values."""
        numbers = np.asarray(values, np.float64).ravel()
        numbers = numbers[np.isfinite(numbers)]
        place = np.floor((numbers - self.least) / (self.most - self.least) * self.bins)
        self.counts += np.bincount(place.clip(0, self.bins - 1).astype(np.int64), minlength=self.bins)

    def plot(self, name: str, title: str, unit: str, *, log: bool = False) -> dict[str, Any]:
        """As the page draws it; ``log``: the values are logarithms to base 2 of what the axis shows."""
        edges = np.linspace(self.least, self.most, self.bins + 1)
        shown = np.exp2(edges) if log else edges
        return {
            "name": name, "kind": "bins", "title": title, "unit": unit,
            "edges": [float(f"{edge:.4g}") for edge in shown], "counts": self.counts.tolist(),
        }  # fmt: skip


class _Loose:
    """A histogram whose limits are those of its values, which are kept until the end."""

    def __init__(self) -> None:
        self._values: list[npt.NDArray[np.float32]] = []

    def add(self, values: npt.ArrayLike) -> None:
        self._values.append(np.asarray(values, np.float32).ravel())

    def plot(self, name: str, title: str, unit: str) -> dict[str, Any]:
        values = np.concatenate(self._values) if self._values else np.zeros(0, np.float32)
        least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        if most <= least:
            least, most = max(least - 0.5, min(least, 0.0)), least + 0.5  # nothing here is below 0 but what is given so
        histogram = Histogram(least, most)
        histogram.add(values)
        return histogram.plot(name, title, unit)


class Statistics:
    """Takes what was read of images.

    Args:
      dataset: that they are of.
      reader: which read them.
      names: of the classes.
    """

    def __init__(self, dataset: Dataset, reader: Reader, names: Names) -> None:
        self._dataset, self._reader, self._names = dataset, reader, names
        self._images = 0
        self._confidence = Histogram(0, 1)
        self._entropy = Histogram(0, math.log(max(dataset.num_outputs, 2)))
        self._area, self._aspect = Histogram(0, 1), Histogram(-1, 1)
        self._divergence, self._bytes, self._image_bytes = _Loose(), _Loose(), _Loose()
        self._pixels = _Loose()
        self._ops: Counter[int] = Counter()
        self._magnitudes: dict[int, _Loose] = {}
        classes = dataset.num_classes
        self._agree, self._seen = np.zeros(classes, np.float64), np.zeros(classes, np.int64)

    def add(self, read: Read) -> None:
        """One image."""
        facts = read.facts
        self._images += 1
        self._image_bytes.add(facts["image_bytes"] / 1000)
        self._pixels.add(facts["height"].astype(np.float64) * facts["width"] / 1e6)
        label = int(facts["label"])
        if np.isfinite(facts["agreement"]):
            self._agree[label] += float(facts["agreement"])
            self._seen[label] += 1
        if read.cells is not None:
            self._confidence.add(facts["confidence"])
            self._entropy.add(facts["entropy"])
            self._bytes.add(facts["record_bytes"])
        if (views := read.all_views) is None:
            return
        if views.topk:
            self._confidence.add(views.soft_probs[:, 0])
            self._entropy.add(entropy(views.soft_probs, self._dataset.num_outputs))
            self._divergence.add(facts["divergence"])
        self._bytes.add(facts["record_bytes"] / max(len(views), 1))
        self._of_views(views, (int(facts["height"]), int(facts["width"])))

    def _of_views(self, views: Reinforcements, size: tuple[int, int]) -> None:
        """Crops and operations, as the page draws and names them of each view (`details`)."""
        spec = self._dataset.spec
        boxes = views.crop.astype(np.float64)
        if resize_of(spec):  # whose crop is the whole image
            boxes = np.array([box_of(views, row, size, spec) for row in range(len(views))], np.float64).reshape(-1, 4)
        self._area.add(boxes[:, 2] * boxes[:, 3] / max(size[0] * size[1], 1))
        self._aspect.add(np.log2(boxes[:, 3] / boxes[:, 2]))
        for op in np.unique(views.ops).tolist():
            if OP_NAMES[op] in WINDOW:
                continue
            here = views.ops == op
            self._ops[op] += int(here.sum())
            self._magnitudes.setdefault(op, _Loose()).add(views.magnitudes[here])

    def plots(self) -> list[dict[str, Any]]:
        """What there is to draw, JSON-able: of kind "bins", with edges and counts, or "rows", with names and values."""
        m = self._dataset.manifest
        found: list[dict[str, Any]] = []
        mapped = m.label_maps is not None
        if mapped or (m.views_max and m.topk):
            found += [
                self._confidence.plot("confidence", _CONFIDENCE[mapped], "probability" if not mapped else "share"),
                self._entropy.plot("entropy", _ENTROPY[mapped], "nats"),
            ]
        if m.views_max and m.topk:
            title = "Difference between the views of an image: mean KL to their mean"
            found.append(self._divergence.plot("divergence", title, "nats"))
        if self._seen.any():
            found.append(self._agreement())
        if m.views_max:
            found += self._of_crops()
        if m.views_max or mapped:
            what = "Bytes of a label map" if mapped else "Bytes per stored view"
            found.append(self._bytes.plot("bytes", what, "bytes"))
        found.append(self._image_bytes.plot("image_bytes", "Size of the stored image files", "kB"))
        if self._dataset.index.has_sizes:
            found.append(self._pixels.plot("pixels", "Size of the images", "megapixels"))
        found.append(self._classes())
        return found

    def _of_crops(self) -> list[dict[str, Any]]:
        found = [
            self._area.plot("area", "Area of the crops", "share of the image"),
            self._aspect.plot("aspect", "Aspect ratio of the crops", "width / height", log=True),
        ]
        if self._ops:
            counted = self._ops.most_common()
            rows = [[OP_NAMES[op], count, None] for op, count in counted]
            found.append({"name": "ops", "kind": "rows", "title": "Operations", "unit": "views", "rows": rows})
            for op, _ in sorted(counted):
                plot = self._magnitudes[op].plot(f"magnitude {OP_NAMES[op]}", f"Magnitudes of {OP_NAMES[op]}", "")
                if sum(count > 0 for count in plot["counts"]) > 1:
                    found.append({**plot, "small": True})
        return found

    def _agreement(self) -> dict[str, Any]:
        share = np.divide(self._agree, self._seen, out=np.full(len(self._seen), np.inf), where=self._seen > 0)
        order = np.argsort(share, kind="stable")[: min(_ROWS, int((self._seen > 0).sum()))]
        mean = self._agree.sum() / self._seen.sum()
        what = "views" if self._dataset.manifest.label_maps is None else "cells"
        title = f"Agreement of teacher and label: {mean:.1%} of the {what}; the classes with the least"
        rows = [[self._names.label(int(c)), round(float(share[c]), 4), int(c)] for c in order]
        return {"name": "agreement", "kind": "rows", "title": title, "unit": "share", "most": 1, "rows": rows}

    def _classes(self) -> dict[str, Any]:
        counts = np.bincount(self._dataset.labels, minlength=self._dataset.num_classes)
        order = np.argsort(-counts, kind="stable")
        order = order[counts[order] > 0]
        title = f"Images of each class: {len(order)} of {self._dataset.manifest.image_classes} classes have some"
        if len(order) > _ROWS:
            title += f", {counts[order[-1]]} to {counts[order[0]]}; the largest and the smallest"
            order = np.concatenate([order[: _ROWS // 2], order[-(_ROWS // 2) :]])
        rows = [[self._names.label(int(c)), int(counts[c]), int(c)] for c in order]
        return {"name": "classes", "kind": "rows", "title": title, "unit": "images", "rows": rows}


_CONFIDENCE: Final = ("The teacher's confidence in a view", "Share of a map that its leading class has")
_ENTROPY: Final = ("Entropy of the teacher's prediction", "Entropy of the shares of a map's classes")
