"""What classes are called: those of the labels and those of the teacher, which need not be the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dali_dr.errors import DaliDrError, shown
from dali_dr.shards.dataset import Dataset
from dali_dr.sources.class_file import read_class_file
from dali_dr.sources.classes import MAX_CLASSES, SYNSET, imagenet_classes

# What a note says of names that a file may replace.
_TAKEN: Final = ", taken for ImageNet's"
_NUMBERED: Final = ": outputs are shown by their numbers"
IMAGENET: Final = 1000  # classes
_IN_KEY: Final = re.compile(r"(?:^|/)(n\d{8})(?=[/_])")  # a key of ImageNet's begins with its synset
_KEYS_LOOKED_AT: Final = 64


@dataclass(frozen=True)
class Names:
    """What classes are called.

    Attributes:
      labels: one for each class of the set.
      outputs: one for each output of the teacher.
      comparable: whether a label and an output of the same number are the same class.
      note: what a reader should know of it, or "".
    """

    labels: Sequence[str]
    outputs: Sequence[str]
    comparable: bool = True
    note: str = ""

    def label(self, number: int) -> str:
        """Of a label."""
        return self.labels[number]

    def output(self, number: int) -> str:
        """Of an output of the teacher."""
        return self.outputs[number]


def names_of(dataset: Dataset, file: Path | None = None) -> Names:
    """The names of a set's classes.

    Names are the set's own. Synsets are shown with ImageNet's words for them. A set without names gets ImageNet's if it has
    1,000 classes and its keys hold the synsets of their labels. A set whose teacher knows 1,000 classes, of which the
    set's are a few, gets ImageNet's for the teacher's.

    Args:
      dataset: any.
      file: a name in each line, for class 0, 1, … As many as the set's own classes name labels, as many as the teacher has
        outputs name its predictions; where both number the same classes, they name both. What is comparable stays so, and
        what is not, too.

    Raises:
      DaliDrError: the file cannot be read, or has another number of names than there are classes of either.
    """
    names = _own_names(dataset)
    return _shown(names if file is None else _renamed(dataset, names, file))


def _shown(names: Names) -> Names:
    """The same, of texts that show controls and do not send them."""
    labels = [shown(name) for name in names.labels]
    outputs = labels if names.outputs is names.labels else [shown(name) for name in names.outputs]
    return replace(names, labels=labels, outputs=outputs)


def _renamed(dataset: Dataset, names: Names, file: Path) -> Names:
    given = read_class_file(file, MAX_CLASSES).names
    classes, outputs = dataset.manifest.image_classes, dataset.num_outputs
    if len(given) not in (classes, outputs):
        known = str(classes) if outputs == classes else f"{classes} and its teacher {outputs} outputs"
        raise DaliDrError(
            f"{file}: names {len(given)} classes, {dataset.path} has {known}: want a name in a line for each",
            kind="usage",
        )
    note = (
        names.note.replace(_TAKEN, "").replace(_NUMBERED, ", which are not compared")
        if len(given) == outputs
        else names.note
    )
    if names.comparable:
        both = [*given, *names.labels[len(given) :]]
        return Names(both, both)
    if len(given) == classes:
        return replace(names, labels=[*given, *names.labels[classes:]])
    return replace(names, outputs=given, note=note)


def _own_names(dataset: Dataset) -> Names:
    outputs = dataset.num_outputs
    own = dataset.class_names
    if own is None:
        if dataset.num_classes == IMAGENET and _keys_are_imagenets(dataset):
            return _with_outputs(imagenet_classes()[1], outputs)
        return _with_outputs([f"class {n}" for n in range(dataset.num_classes)], outputs)
    known = own[: dataset.manifest.image_classes]
    if len(known) < len(own) == outputs == IMAGENET:
        return _of_few(known, own)
    return _with_outputs(_with_words(own), outputs)


def _with_outputs(labels: Sequence[str], outputs: int) -> Names:
    if outputs == len(labels):
        return Names(labels, labels)
    note = f"The teacher has {outputs} outputs and the set {len(labels)} classes{_NUMBERED}."
    return Names(labels, [f"output {n}" for n in range(outputs)], comparable=False, note=note)


def _of_few(known: Sequence[str], own: Sequence[str]) -> Names:
    """Of a set of few classes and a teacher of ImageNet's 1,000."""
    synsets, words = imagenet_classes()
    if all(name in (synset, word) for name, synset, word in zip(known, synsets, words, strict=False)):
        return Names(words, words)
    labels = [*_with_words(known), *own[len(known) :]]
    note = (
        f"The set has {len(known)} classes and its teacher {len(own)}{_TAKEN}: labels and predictions number "
        "classes differently, so they are not compared."
    )
    return Names(labels, words, comparable=False, note=note)


def _with_words(names: Sequence[str]) -> Sequence[str]:
    """ImageNet's words for names that are all its synsets."""
    if not all(SYNSET.fullmatch(name) for name in names):
        return names
    words = dict(zip(*imagenet_classes(), strict=True))
    return [words.get(name, name) for name in names]


def _keys_are_imagenets(dataset: Dataset) -> bool:
    """Whether some keys, spread over the set, all hold the synset of their label."""
    if not len(dataset):
        return False
    synsets = imagenet_classes()[0]
    for number in range(0, len(dataset), -(-len(dataset) // _KEYS_LOOKED_AT)):
        match = _IN_KEY.search(dataset.keys[number])
        if match is None or match[1] != synsets[dataset.label(number)]:
            return False
    return True
