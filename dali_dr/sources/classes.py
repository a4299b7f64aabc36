"""Class numbers and their names: ImageNet's, whole numbers, names in sorted order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from dali_dr.errors import ShardError, brief
from dali_dr.shards.index_layout import MAX_LABEL


class Numbers(Sequence[str]):
    """The texts "0" … "count - 1": names of classes that have none, of which a label may claim a billion."""

    def __init__(self, count: int) -> None:
        self._range = range(count)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [str(number) for number in self._range[item]]
        return str(self._range[item])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as lists have none


def numbered(path: Path, labels: Sequence[str]) -> tuple[list[int], Sequence[str]]:
    """Class numbers, and names by class number: labels that are all whole numbers are those, others are names.

    Raises:
      ShardError: some are whole numbers, and others numbers that are none, or one is too large.
    """
    whole = [label.isascii() and label.isdigit() for label in labels]
    if all(whole):
        for row, label in enumerate(labels, start=1):
            if len(label) > 10 or int(label) > MAX_LABEL:
                raise ShardError(f"{path}: image {row}: the label {brief(label)} is above {MAX_LABEL}")
        numbers = [int(label) for label in labels]
        return numbers, Numbers(max(numbers) + 1)
    if any(whole):  # a 1.0, -1 or nan among numbers is a mistake, not a name
        for row, label in enumerate(labels, start=1):
            if not whole[row - 1] and _is_number(label):
                raise ShardError(f"{path}: image {row}: the label {brief(label)} is no class number, as others are")
    names = sorted(set(labels))
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[label] for label in labels], names


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(synset ids, short names) of ImageNet's 1,000 classes in class order, from timm's tables."""
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    synsets = tuple(info.label_names())
    return synsets, tuple(info.label_name_to_description(s).split(",")[0] for s in synsets)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
