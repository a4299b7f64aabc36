"""A loader whose batches bear the names that a script reads, instead of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch

from dali_dr.loader.iterator import ReinforcedIterator
from dali_dr.loader.options import Options
from dali_dr.loader.state import Standing
from dali_dr.shards.dataset import Dataset

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # knows defaults, which typing does from Python 3.13 on

    Named = TypeVar("Named", default=dict[str, torch.Tensor])
else:
    from typing import TypeVar

    Named = TypeVar("Named")  # what an iterator yields: a dict, or a list of one


class NamedIterator(ReinforcedIterator[Named]):
    """A `ReinforcedIterator` that yields dicts under other names.

    Args:
      dataset, batch_size, options: see `ReinforcedIterator`.
      names: what a batch holds there, and what it is called here, in the order of the batch.

    Raises:
      ValueError: an argument out of range, or two things with one name.
    """

    def __init__(
        self,
        dataset: Dataset | str | os.PathLike[str],
        *,
        batch_size: int,
        names: Mapping[str, str],
        **options: Unpack[Options],
    ) -> None:
        if len(set(names.values())) < len(names):
            raise ValueError(f"two things of a batch are called alike, {', '.join(names.values())}: give them names")
        super().__init__(dataset, batch_size=batch_size, **options)
        self._names = dict(names)

    @property
    def output_map(self) -> list[str]:
        """What a batch holds, in order."""
        return list(self._names.values())

    def _next(self) -> tuple[Any, Standing]:
        given, standing = super()._next()
        (batch,) = cast("list[dict[str, torch.Tensor]]", given)
        return {there: batch[here] for here, there in self._names.items()}, standing


def has_teacher(dataset: Dataset, options: Mapping[str, Any]) -> bool:
    """Whether training with these options shows views that a teacher has seen, and so has its targets."""
    return options.get("augment") is None or dataset.manifest.label_maps is not None


def opened(dataset: Dataset | str | os.PathLike[str], options: Mapping[str, Any]) -> Dataset:
    """The data set as `ReinforcedIterator` opens it with these options."""
    if isinstance(dataset, Dataset):
        return dataset
    return Dataset(os.fspath(dataset), lossy=options.get("on_error") == "skip")
