"""The test sets of the papers: which ImageNet classes an image's class or name stands for, and what belongs to the set.

Facts that timm's package has (synsets of ImageNet, ImageNet-A and -R, the labels of ReaL) are read from there; those of
ObjectNet and ImageNet-C are in the JSON files beside this one, which say where they are from.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr.errors import DaliDrError, brief
from dali_dr.evaluate.metrics import NONE
from dali_dr.sources.classes import SYNSET, imagenet_classes

Ids = npt.NDArray[np.int64]
OWN: Final = "own"  # the set's own class numbers are the model's outputs
IMAGENET: Final = 1000  # classes
_VAL_NAME: Final = re.compile(r"ILSVRC2012_val_(\d{8})")
_NAMED: Final = 4  # missing classes that are named in a message


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A set that is to be evaluated, before that.

    Attributes:
      where: it lies, for messages.
      class_names: by class number; None where they are not known.
      num_classes: of the set.
      labels: class numbers, an image each.
      keys: names, an image each.
    """

    where: str
    class_names: Sequence[str] | None
    num_classes: int
    labels: npt.NDArray[np.int32]
    keys: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What is right for every image.

    Attributes:
      accepted: (N, A) int64, class ids of the model that are right, rows filled up with -1. A row of -1 alone: the image is
        left out.
      considered: class ids whose outputs count; None: all.
      missing: what belongs to the set and is not there, by name.
    """

    accepted: Ids
    considered: tuple[int, ...] | None = None
    missing: tuple[str, ...] = ()

    @property
    def numbers(self) -> Ids:
        """The images that are evaluated."""
        return np.flatnonzero((self.accepted != NONE).any(1)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A test set as its authors score it.

    Attributes:
      name: as `--as` takes it.
      text: what it is, in a line.
      answers: what is right for the images of a set of this kind, from the set and the file that `--real` names.
      images: that the whole set has; None: any number.
      border: pixels that are cut off each side before all else.
      whole: its images are shown whole, without a margin that the centre crop cuts off, unless a user says otherwise.
    """

    name: str
    text: str
    answers: Callable[[Labelled, Path | None], Answers]
    images: int | None = None
    border: int = 0
    whole: bool = False


def facts(name: str) -> dict[str, Any]:
    """A file of facts beside this module."""
    data: dict[str, Any] = json.loads(resources.files("dali_dr.evaluate").joinpath(name).read_text())
    return data


@functools.cache
def _timm_file(name: str) -> str:
    """A table of timm's package."""
    found = importlib.util.find_spec("timm")
    path = Path(found.origin or "").parent / "data/_info" / name if found else Path(name)
    try:
        return path.read_text()
    except OSError as error:
        raise DaliDrError(
            f"timm's table {path} cannot be read ({error.strerror}): install timm>=1.0, which has it"
        ) from error


def imagenet_ids(names: Sequence[str] | None, count: int, where: str) -> Ids:
    """ImageNet's class numbers of a set's classes, by what these are called: synsets, numbers 0 … 999, or its own names.

    Raises:
      DaliDrError: a class that is none of ImageNet's.
    """
    synsets, short = imagenet_classes()
    if names is None:
        if count == IMAGENET:
            return np.arange(IMAGENET)
        raise DaliDrError(
            f"{where}: has {count} classes without names, so which of ImageNet's they are is not known", kind="usage"
        )
    if tuple(names) == short or tuple(names) == synsets:
        return np.arange(IMAGENET)
    if all(SYNSET.match(name) for name in names):
        numbers = {synset: number for number, synset in enumerate(synsets)}
        found = [numbers.get(name[: len("n01440764")], NONE) for name in names]  # also "n01440764 tench"
        what = "is none of ImageNet's 1,000 synsets"
    else:
        found = [int(name) if name.isascii() and name.isdigit() else NONE for name in names]
        found = [number if number < IMAGENET else NONE for number in found]
        what = "is neither a synset nor a number from 0 to 999"
    if NONE in found:
        raise DaliDrError(
            f"{where}: the class {brief(names[found.index(NONE)])} {what}: is this a set of ImageNet's classes? Its class "
            "folders are called n01440764, … or 0, 1, …; leave --as out for a set of other classes",
            kind="usage",
        )
    return np.array(found, np.int64)


def own_answers(of: Labelled, real: Path | None = None) -> Answers:
    """The set's own numbers."""
    return Answers(of.labels.astype(np.int64)[:, None])


def imagenet_answers(of: Labelled, real: Path | None = None) -> Answers:
    """ImageNet's 1,000 classes."""
    ids = imagenet_ids(of.class_names, of.num_classes, of.where)[of.labels]
    return Answers(ids[:, None], None, _absent(ids, range(IMAGENET)))


def _some_answers(table: str) -> Callable[[Labelled, Path | None], Answers]:
    """Of the classes that timm's ``table`` lists; images of other classes are left out."""

    def answers(of: Labelled, real: Path | None = None) -> Answers:
        number_of = {synset: number for number, synset in enumerate(imagenet_classes()[0])}
        considered = tuple(sorted(number_of[synset] for synset in _timm_file(table).split()))
        ids = imagenet_ids(of.class_names, of.num_classes, of.where)[of.labels]
        ids = np.where(np.isin(ids, considered), ids, NONE)
        return Answers(ids[:, None], considered, _absent(ids, considered))

    return answers


def _absent(ids: Ids, expected: Iterable[int]) -> tuple[str, ...]:
    synsets, short = imagenet_classes()
    here = set(np.unique(ids).tolist())
    return tuple(f"{synsets[number]} ({short[number]})" for number in expected if number not in here)


def objectnet_answers(of: Labelled, real: Path | None = None) -> Answers:
    """ObjectNet's 113 classes that overlap with ImageNet, by the names of their folders; the other 200 are left out."""
    known: dict[str, list[int]] = facts("objectnet.json")["classes"]
    names = list(of.class_names or ())
    if not known.keys() & set(names):
        raise DaliDrError(
            f"{of.where}: none of its classes is called as ObjectNet's folders are: expected CLASS/NAME.png, such as "
            f"{next(iter(known))}/….png, as in the folder objectnet-1.0/images; give that, or a set packed from it",
            kind="usage",
        )
    width = max(map(len, known.values()))
    table = np.full((len(names), width), NONE, np.int64)
    for number, name in enumerate(names):
        ids = known.get(name, [])
        table[number, : len(ids)] = ids
    here = {names[number] for number in np.unique(of.labels)}
    considered = tuple(sorted({number for ids in known.values() for number in ids}))
    return Answers(table[of.labels], considered, tuple(name for name in known if name not in here))


def real_answers(of: Labelled, real: Path | None = None) -> Answers:
    """ReaL's labels of ImageNet's validation images, by their file names; images without a label are left out."""
    where = "timm's imagenet_real_labels.json" if real is None else str(real)
    try:
        labels = json.loads(_timm_file("imagenet_real_labels.json") if real is None else real.read_text())
        rows = [sorted({int(id_) for id_ in row}) for row in labels]
    except (OSError, ValueError, TypeError) as error:
        raise DaliDrError(
            f"{where}: want ReaL's real.json, a list of lists of class numbers: {error}", kind="usage"
        ) from error
    if any(not 0 <= id_ < IMAGENET for row in rows for id_ in row):
        raise DaliDrError(f"{where}: has a class number outside 0 … 999", kind="usage")
    accepted = np.full((len(of.keys), max(1, *map(len, rows))), NONE, np.int64)
    here: set[int] = set()
    for number, key in enumerate(of.keys):
        match = _VAL_NAME.search(key)
        image = int(match[1]) - 1 if match else -1
        if not 0 <= image < len(rows):
            raise DaliDrError(
                f"{of.where}: {brief(key)} is not called ILSVRC2012_val_00000001 … {len(rows):08d}, by which {where} knows "
                "images: give ImageNet's validation images under their own names",
                kind="usage",
            )
        here.add(image)
        accepted[number, : len(rows[image])] = rows[image]
    missing = (f"ILSVRC2012_val_{n + 1:08d}" for n, row in enumerate(rows) if row and n not in here)
    return Answers(accepted, None, tuple(missing))


_OBJECTNET: Final = facts("objectnet.json")
KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(OWN, "the set's own classes are the model's outputs", own_answers),
        Kind("imagenet", "ImageNet's 1,000 classes, by synset or number", imagenet_answers, 50_000),
        Kind("imagenet-v2", "arXiv 1902.10811; folders 0 … 999", imagenet_answers, 10_000),
        Kind("imagenet-a", "arXiv 1907.07174; its 200 classes alone", _some_answers("imagenet_a_synsets.txt"), 7_500),
        Kind("imagenet-r", "arXiv 2006.16241; its 200 classes alone", _some_answers("imagenet_r_synsets.txt"), 30_000),
        Kind("imagenet-sketch", "arXiv 1905.13549", imagenet_answers, 50_889),
        Kind(
            "objectnet",
            "Barbu et al. 2019; the 113 classes that ImageNet has, several ids each, without the border",
            objectnet_answers,
            int(_OBJECTNET["images"]),
            int(_OBJECTNET["border"]),
        ),
        Kind("imagenet-c", "arXiv 1903.12261; CORRUPTION/SEVERITY/SYNSET, mCE", imagenet_answers, 50_000, whole=True),
        Kind("imagenet-real", "arXiv 2006.07159; several labels an image", real_answers, 46_837),
    )
}
"""By the names that `--as` takes. To add one: a row."""


def kind_of(name: str) -> Kind:
    """The kind called ``name``. ValueError if there is none."""
    if name not in KINDS:
        raise ValueError(f"kinds: there is no kind of set {name!r}; want one of {', '.join(KINDS)}")
    return KINDS[name]


def named(missing: Sequence[str]) -> str:
    """``missing`` in words, the first of them by name."""
    return ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
