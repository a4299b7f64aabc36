"""What `ReinforcedIterator` yields, for type checkers and for people: the tensors of a batch by name."""

# No `from __future__ import annotations`: with it NotRequired would not be known at run time.
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # knows defaults, which typing does from Python 3.13 on


class _Always(TypedDict):
    """What every batch has.

    Attributes:
      data: (B, 3, size, size), or (B, size, size, 3) with layout="HWC", of the `dtype` asked for; normalised unless
        that is "uint8".
      label: (B,) int64 class ids of the data set itself; (B, 1) with label_ndim=2.
      mix_label: (B,) int64, or (B, 1) as label: of data sets with stored mixing, the label of the image that the view is mixed
        with; the label itself where nothing is.
      mix_weight: (B,) float32 in 0 … 1, the weight of label; the other has the rest.
    """

    data: torch.Tensor
    label: torch.Tensor
    mix_label: NotRequired[torch.Tensor]
    mix_weight: NotRequired[torch.Tensor]


class Batch(_Always):
    """A batch with sparse targets, the default.

    At run time a plain dict. With data, label, mix_label and mix_weight as every batch has them:

    Attributes:
      soft_ids: (B, K) int32, the teacher's most likely classes on exactly this view, falling.
      soft_probs: (B, K) float32, their probabilities (see `dali_dr.losses`).
    """

    soft_ids: torch.Tensor
    soft_probs: torch.Tensor


class IndexedBatch(Batch):
    """A `Batch` with with_index=True, which says what it shows.

    Attributes:
      index: (B,) int64 sample numbers.
      view: (B,) int32 rows of `Dataset.reinforcements(i)`; view v < 0 is fresh, drawn with number -v - 1.
    """

    index: torch.Tensor
    view: torch.Tensor


class DenseBatch(_Always):
    """A batch with `targets` other than "sparse"; data, label, mix_label and mix_weight as in `Batch`.

    Attributes:
      targets: (B, classes) float32; with targets="top1" (B,) int64, the teacher's most likely class.
      index, view: with with_index=True, as in `IndexedBatch`.
    """

    targets: torch.Tensor
    index: NotRequired[torch.Tensor]
    view: NotRequired[torch.Tensor]


if TYPE_CHECKING:
    Given = TypeVar("Given", default=list[Batch])
else:
    from typing import TypeVar

    Given = TypeVar("Given")  # what an iterator yields: list[Batch], list[DenseBatch], or (images, targets)
