"""Class numbers and their names: names in sorted order, whole numbers, ImageNet's, or a user's file of classes."""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib.util
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, overload

from dali_dr.errors import ShardError, brief, shown
from dali_dr.sources.class_file import read_class_file
from dali_dr.sources.fetched import local, told_by_url
from dali_dr.sources.source import READING, Reading
from dali_dr.store.url import as_place

MAX_CLASSES: Final = 1_000_000
"""Classes that a source may have. Their names are in dataset.json, and a teacher has an output for each: whatever claims
more (a label of 2,000,000,000, a column of paths taken for one of labels) is a mistake that would cost gigabytes."""

SYNSET: Final = re.compile(r"n\d{8}")
_WHOLE: Final = re.compile(r"([0-9]+)(\.0*)?")  # 3.0: a column of floats, as pandas writes one that had gaps
_NEGATIVE: Final = re.compile(r"-[0-9]+(\.0*)?")


class Numbers(Sequence[str]):
    """The texts "0" … "count - 1": names of classes that have none, of which a label may claim a million."""

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


class Classes(NamedTuple):
    """The classes of a source.

    Attributes:
      numbers: class numbers by what a folder or a label is called.
      names: names by class number.
      notes: where numbers are not the places in sorted order, which one is not.
    """

    numbers: Mapping[str, int]
    names: Sequence[str]
    notes: tuple[str, ...] = ()


class Numbered(NamedTuple):
    """Images by class.

    Attributes:
      labels: class numbers, an image each.
      class_names: by class number.
      notes: as in `Classes`.
    """

    labels: list[int]
    class_names: Sequence[str]
    notes: tuple[str, ...] = ()


Refuse = Callable[[str, str], NoReturn]  # a name, and why it has no number


def classes_of_folders(root: Path | str, folders: Collection[str], reading: Reading = READING) -> Classes:
    """Numbers of the class folders of ``root``, images in them or not.

    Raises:
      ShardError: naming a folder that has no number in the numbering asked for.
    """

    def refuse(name: str, why: str) -> NoReturn:
        raise ShardError(f"{root}: the class folder {brief(name)} {why}")

    classes = _given(folders, reading, refuse)
    if classes is None:
        numbers = _numbers_of_folders(folders, reading.numbering == "numeric", refuse)
        classes = _sorted(folders, refuse) if numbers is None else _numeric(numbers)
    return classes._replace(notes=_odd_bytes(classes) + classes.notes, names=_unicode(classes.names))


def numbered(
    path: Path | str,
    labels: Sequence[str],
    reading: Reading = READING,
    place: Callable[[int], str] = lambda number: f"image {number + 1}",
) -> Numbered:
    """Class numbers of images whose labels are texts: whole numbers where they all are, else names.

    Args:
      path: of the list or tar, for messages.
      labels: one of each image.
      reading: how classes are numbered.
      place: where in ``path`` image ``number`` is, for messages.

    Raises:
      ShardError: naming the first image whose label has no number.
    """
    found = list(dict.fromkeys(labels))

    def refuse(label: str, why: str) -> NoReturn:
        raise ShardError(f"{path}: {place(labels.index(label))}: the label {brief(label)} {why}")

    classes = _given(found, reading, refuse)
    if classes is None:
        numbers = _whole_numbers(found, reading.numbering == "numeric", refuse)
        classes = _sorted(found, refuse) if numbers is None else Classes(numbers, Numbers(max(numbers.values()) + 1))
    number_of = classes.numbers
    notes = () if all(map(_WHOLE.fullmatch, found)) else classes.notes  # that numbers are numbers surprises nobody
    return Numbered([number_of[label] for label in labels], classes.names, notes)


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(synset ids, short names) of ImageNet's 1,000 classes in class order, from timm's tables."""
    found = importlib.util.find_spec("timm")
    folder = Path(found.origin or "").parent / "data/_info" if found else Path()
    with contextlib.suppress(OSError, KeyError):  # a timm that keeps them elsewhere is asked
        # As its ImageNetInfo reads them, without the import of timm, which brings torch.
        listed = tuple((folder / "imagenet_synsets.txt").read_text().split())
        lemmas = (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines()
        names = dict(csv.reader(lemmas, delimiter="\t"))
        return listed, tuple(names[synset].split(",")[0] for synset in listed)
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    synsets = tuple(info.label_names())
    return synsets, tuple(info.label_name_to_description(s).split(",")[0] for s in synsets)


def _given(names: Collection[str], reading: Reading, refuse: Refuse) -> Classes | None:
    """The numbering that a user asked for, or ImageNet's where all are its synsets; None: by numbers or by order."""
    if reading.classes is not None:
        if reading.numbering != "auto":
            raise ShardError(
                f"{reading.classes}: classes are numbered by this file, and --labels {reading.numbering} numbers them "
                "otherwise: give one of the two",
                kind="usage",
            )
        return _of_file(names, reading.classes, refuse)
    if reading.numbering == "sorted":
        return _sorted(names, refuse)
    wanted = reading.numbering == "imagenet"
    if wanted or (reading.numbering == "auto" and all(SYNSET.fullmatch(name) for name in names)):
        synsets, descriptions = imagenet_classes()
        numbers = {synset: number for number, synset in enumerate(synsets)}
        strange = next((name for name in names if name not in numbers), None)
        if strange is None:
            return _differing({name: numbers[name] for name in names}, descriptions, "ImageNet's numbers")
        if wanted:
            refuse(strange, "is none of ImageNet's 1,000 synsets, as --labels imagenet wants them all to be")
    return None


def _of_file(names: Collection[str], path: Path | str, refuse: Refuse) -> Classes:
    """By the file at ``path``. Numbers alone, none of which is in it as a name, are those of its lines."""
    path = as_place(path)
    with told_by_url():
        file = read_class_file(local(path), MAX_CLASSES)
    numbers = file.numbers
    if not any(name in numbers for name in names):
        whole = ((name, _WHOLE.fullmatch(name)) for name in names)
        numbers = {name: number for name, m in whole if m and (number := _exact(m[1])) is not None} or numbers
    for name in names:
        if name not in numbers:
            refuse(name, f"is not in {path}, which names {len(file.names)} classes: add it there, or leave it out")
        if numbers[name] >= len(file.names):
            refuse(name, f"is the number of no class: {path} names {len(file.names)}, from 0")
    return _differing({name: numbers[name] for name in names}, file.names, f"the numbers of the lines of {path}", "")


def _numbers_of_folders(folders: Collection[str], wanted: bool, refuse: Refuse) -> dict[str, int] | None:
    """The numbers that names are; None where one is none, is too large or comes twice (1, 01): then all are names."""
    numbers: dict[str, int] = {}
    taken: dict[int, str] = {}
    for name in folders:
        number, why = _exact(name), ""
        if number is None:
            why = "is no whole number, as --labels numeric wants them all to be"
        elif number >= MAX_CLASSES:
            why = _above()
        elif taken.setdefault(number, name) != name:
            why = f"is the same number as {brief(taken[number])}: rename one of them"
        if number is None or why:
            if wanted:
                refuse(name, why)
            return None
        numbers[name] = number
    return numbers


def _numeric(numbers: Mapping[str, int]) -> Classes:
    """By the numbers that names are; a class without a folder is called by its number."""
    count = max(numbers.values()) + 1
    names: Sequence[str] = Numbers(count)
    if any(name != str(number) for name, number in numbers.items()):  # 007
        names = list(names)
        for name, number in numbers.items():
            names[number] = name
    return _differing(numbers, names, "the numbers that their names are")


def _sorted(names: Collection[str], refuse: Refuse) -> Classes:
    ordered = sorted(names)
    if len(ordered) > MAX_CLASSES:
        refuse(
            ordered[MAX_CLASSES],
            f"is one of {len(ordered)} distinct ones, and a data set has up to {MAX_CLASSES} classes: is it one?",
        )
    return Classes({name: number for number, name in enumerate(ordered)}, ordered)


def _differing(
    numbers: Mapping[str, int],
    names: Sequence[str],
    what: str,
    remedy: str = "; --labels sorted goes by it, too",
) -> Classes:
    """Classes of ``numbers``, with a note if they are not those of sorted order."""
    places = {name: place for place, name in enumerate(sorted(numbers))}
    differ = [name for name, place in places.items() if numbers[name] != place]
    notes: tuple[str, ...] = ()
    if differ:
        first = differ[0]
        notes = (
            f"classes have {what}: {brief(first)} is {numbers[first]}, and {places[first]} by sorted order, which "
            f"torchvision's ImageFolder goes by ({len(differ)} of {len(numbers)} differ{remedy})",
        )
    elif len(names) != len(numbers):
        notes = (f"classes have {what}: there are {len(names)}, of which {len(numbers)} are here",)
    return Classes(numbers, names, notes)


def _whole_numbers(labels: Collection[str], wanted: bool, refuse: Refuse) -> dict[str, int] | None:
    """The numbers that labels are; None where they are names. Numbers that are no class's are refused, never names."""
    digits = {label: match[1].lstrip("0") or "0" for label in labels if (match := _WHOLE.fullmatch(label))}
    as_names = "; --labels sorted takes labels as names"
    for label in labels:
        if label in digits:
            continue
        if wanted:
            refuse(label, "is no whole number, as --labels numeric wants them all to be")
        if _NEGATIVE.fullmatch(label):
            refuse(label, f"is negative: leave out images without a class{as_names}")
    numeric = len(digits) == len(labels) or all(_is_number(label) for label in labels)
    for label in labels:
        if label not in digits and (numeric or (digits and _is_number(label))):  # a 1.5 or nan is a mistake, not a name
            refuse(label, f"is a number, but none of a class, which are 0, 1, 2, …{as_names}")
    if not numeric:
        return None
    for label, text in digits.items():
        if len(text) > len(str(MAX_CLASSES)) or int(text) >= MAX_CLASSES:
            refuse(label, _above() + as_names)
    return {label: int(text) for label, text in digits.items()}


def _above() -> str:
    return f"is too large: a data set has up to {MAX_CLASSES} classes, numbered from 0 (is it one?)"


def _exact(name: str) -> int | None:
    """The whole number that a name is."""
    digits = name.lstrip("0") or "0"
    if not name or not name.isascii() or not name.isdigit() or len(digits) > 18:
        return None
    return int(digits)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unicode(names: Sequence[str]) -> Sequence[str]:
    """Names as dataset.json can hold them: bytes that are not UTF-8 as ``\\xNN``."""
    if isinstance(names, Numbers):
        return names
    return [os.fsencode(name).decode("utf-8", "backslashreplace") if _odd(name) else name for name in names]


def _odd_bytes(classes: Classes) -> tuple[str, ...]:
    odd = [name for name in classes.numbers if _odd(name)]
    if not odd:
        return ()
    count = "1 class folder has a name that is" if len(odd) == 1 else f"{len(odd)} class folders have names that are"
    return (f"{count} not UTF-8, and written {shown(_unicode(odd[:1])[0])} in class_names",)


def _odd(name: str) -> bool:
    """Whether a name of a file holds bytes that are not UTF-8, as Python shows them."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False
