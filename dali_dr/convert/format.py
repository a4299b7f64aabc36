"""What a foreign format is to the conversion: how its files are called, what they become, what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.convert.prepared import UNCHANGED, Preparation
from dali_dr.record.layout import Probabilities


class Record(NamedTuple):
    """What is stored of an image.

    Attributes:
      member: KEY.dr.zst.
      counts: views, and classes per view; None where it holds none.
    """

    member: bytes
    counts: tuple[int, int] | None = None


class Converter(Protocol):
    """Makes the record of an image. From any thread."""

    def __call__(self, number: int, files: Sequence[bytes], size: tuple[int, int]) -> Record:
        """That of image ``number`` of (height, width) pixels, of its ``files``. ConvertError: what is wrong."""


@dataclass(frozen=True)
class Meaning:
    """What a published set is.

    Attributes:
      format: its name.
      converter: of its files.
      spec: of its views.
      num_classes: ids are below it.
      mixing: whether views name other images by number.
      sizes: where they do, uint32 (images, 2): to be filled, before files are converted, with height and width of each image.
      teacher: what a manifest says of it.
      probabilities, log_step: how they are stored.
      config: its own configuration, or what takes its place.
      reinterpreted: what was taken otherwise than it says.
      licence: of the metadata.
      preparation: what is done to images before.
      manifest: more fields of the manifest.
    """

    format: str
    converter: Converter
    spec: AugmentationSpec | None
    num_classes: int
    licence: str
    teacher: Mapping[str, Any] | None = None
    mixing: bool = False
    sizes: npt.NDArray[np.uint32] | None = None
    probabilities: Probabilities = "root8"
    log_step: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    reinterpreted: Sequence[str] = ()
    preparation: Preparation = UNCHANGED
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def published(self, archives: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What a manifest says of it in `extra`, of the ``archives``."""
        return {
            "format": self.format,
            "archives": [dict(archive) for archive in archives],
            "config": dict(self.config),
            "reinterpreted": list(self.reinterpreted),
            "licence": self.licence,
        }
