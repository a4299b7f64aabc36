"""In which files of a data set samples lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dali_dr.shards.index import SampleIndex
from dali_dr.shards.manifest import Manifest


class Homes:
    """In which files samples lie.

    Args:
      index: of the data set.
      manifest: of the data set.
    """

    def __init__(self, index: SampleIndex, manifest: Manifest) -> None:
        self._ends = np.cumsum([shard.samples for shard in manifest.shards])
        self._columns: npt.NDArray[np.int64] | None = None
        if index.version == 1 or index.has_image_files:
            entries = index.entries
            record = np.where(entries["record_bytes"] > 0, entries["record_file"], entries["image_file"])
            self._columns = np.stack([entries["image_file"], record], axis=1).astype(np.int64)

    def of(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(B, 1) or (B, 2) file numbers of samples (B,): of the image, and of the record."""
        if self._columns is not None:
            return self._columns[samples]
        return np.searchsorted(self._ends, samples, side="right").astype(np.int64)[:, None]
