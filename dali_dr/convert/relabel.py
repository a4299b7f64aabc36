"""naver-ai/relabel_imagenet: a map of labels for each image, from which targets of fresh crops are pooled in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from dali_dr.convert import native
from dali_dr.convert.format import Meaning, Record
from dali_dr.errors import ConvertError

FORMAT: Final = "relabel"
SUFFIX: Final = ".pt"
LICENCE: Final = (
    "naver-ai/relabel_imagenet is under the Apache License 2.0; the terms of the images' data set hold besides"
)
BoxOrder = Literal["code", "transposed"]
BOX_ORDERS: Final[tuple[BoxOrder, ...]] = ("code", "transposed")
_TEACHER: Final = "efficientnet_l2_475"  # of the published maps


def meaning(first: bytes, *, box_order: BoxOrder = "code", num_classes: int) -> Meaning:
    """What the archives hold.

    Args:
      first: any file of theirs, which says what size the maps have.
      box_order: which edge of a crop is meant by which number of a box: as the authors' code has it, or exchanged.
      num_classes: of the images.
    """
    from dali_dr.record.label_map import LabelMaps, encode_label_map

    shape = native.label_map(first)[0].shape

    def converter(number: int, files: Sequence[bytes], size: tuple[int, int]) -> Record:
        (file,) = files
        scores, ids = native.label_map(file)
        if scores.shape != shape:
            raise ConvertError(f"a map of {scores.shape}, where others have {shape} (depth, height, width)")
        return Record(encode_label_map(scores, ids, num_classes=num_classes))

    depth, height, width = shape
    maps: dict[str, Any] = {"label_maps": LabelMaps(height=height, width=width, depth=depth, order=box_order)}
    notes = (
        "crops are not stored: targets are pooled from the map for fresh crops, whose boxes are taken as "
        + (
            "the authors' code takes them" if box_order == "code" else "the authors' code would, were x and y exchanged"
        ),
    )
    return Meaning(
        FORMAT,
        converter,
        None,
        num_classes,
        LICENCE,
        teacher={"names": [_TEACHER], "weights_digest": None},
        config={"box_order": box_order},
        reinterpreted=notes,
        manifest=maps,
    )
