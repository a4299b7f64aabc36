"""TileCounts: how many images of a shard, or of a data set, are stored as tiled JPEGs, and what that cost in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dali_dr.images.tiling import Tiling


@dataclass(frozen=True)
class TileCounts:
    """Counts of images that were to be tiled.

    Attributes:
      images: that are tiled.
      bytes_before: of these images in their sources; None where it is not known of all of them any more.
      bytes_after: of these images as they are stored.
      kept: by reason, how many are stored as they were.
    """

    images: int = 0
    bytes_before: int | None = 0
    bytes_after: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tiling: Tiling, stored: int) -> Self:
        """Of one image, of which ``stored`` bytes are stored."""
        if tiling.kept is not None:
            return cls(kept={tiling.kept: 1})
        return cls(1, tiling.before, stored)

    def __add__(self, other: TileCounts) -> TileCounts:
        known = self.bytes_before is not None and other.bytes_before is not None
        kept = dict(self.kept)
        for reason, count in other.kept.items():
            kept[reason] = kept.get(reason, 0) + count
        return TileCounts(
            self.images + other.images,
            (self.bytes_before or 0) + (other.bytes_before or 0) if known else None,
            self.bytes_after + other.bytes_after,
            kept,
        )

    @property
    def total(self) -> int:
        """Images, tiled or not."""
        return self.images + sum(self.kept.values())

    @property
    def ratio(self) -> float | None:
        """Bytes of the tiled images by those that they had before; None where it is not known."""
        return self.bytes_after / self.bytes_before if self.bytes_before else None

    def to_json(self) -> dict[str, Any]:
        """As dataset.json has it: the reasons by falling count, so that equal images give equal bytes in any order."""
        kept = dict(sorted(self.kept.items(), key=lambda item: (-item[1], item[0])))
        return {
            "images": self.images,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "kept": kept,
        }

    def __str__(self) -> str:
        """One line, such as "399 of 400 images, +1.9 % bytes"."""
        cost = "" if self.ratio is None else f", {100 * (self.ratio - 1):+.1f} % bytes"
        return f"{self.images} of {self.total} images{cost}"
