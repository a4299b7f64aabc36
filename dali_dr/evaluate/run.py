"""Evaluates models on test sets: every image is decoded once per model, all figures come of that one pass."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack

import numpy as np
import torch

from dali_dr._plugin import build_facts
from dali_dr.errors import DaliDrError
from dali_dr.evaluate.images import Part, TestSet, is_packed
from dali_dr.evaluate.kinds import IMAGENET, OWN, Answers, Kind, kind_of, named
from dali_dr.evaluate.layouts import CORRUPTIONS, Leaf, leaves, name_of, sets_in
from dali_dr.evaluate.metrics import BINS, Scores, Tally, mean_corruption_error
from dali_dr.evaluate.models import Model, Override, View, load_model
from dali_dr.loader.iterator import ReinforcedIterator
from dali_dr.loader.options import Device
from dali_dr.progress import bar as progress_bar
from dali_dr.shards.report import Refused
from dali_dr.sources import Reading
from dali_dr.sources.source import READING

Amp = Literal["bfloat16", "float16"]
_TOLD: Final = 3  # refused images that a note names


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how it is done.

    Attributes:
      device: "cuda" or "cpu", where the models run.
      batch_size: images.
      amp: autocast to this type; metrics are in float64 whatever it is.
      num_threads: of the loader and of the judge of plain images; None: as many as there are processors.
      cache, cache_bytes: of sets in stores, see `dali_dr.Dataset`.
      progress: show a bar.
    """

    device: str = "cpu"
    batch_size: int = 64
    amp: Amp | None = None
    num_threads: int | None = None
    cache: str | os.PathLike[str] | None = None
    cache_bytes: int | None = None
    progress: bool = False

    @property
    def loader_device(self) -> Device:
        """Where views are made: on the GPU where the plugin was built with CUDA."""
        return "gpu" if self.device.startswith("cuda") and build_facts().get("cuda") else "cpu"


@dataclasses.dataclass(frozen=True)
class Result:
    """A model on a set.

    Attributes:
      model, set: their names.
      kind: the set's, see `dali_dr.evaluate.kinds`.
      place: where the set lies.
      view: what was shown.
      scores: over all images of the set.
      parameters: of the model.
      expected: images that the whole set has; None: unknown.
      missing: classes (of ImageNet-C: corruption/severity; of ReaL: images) that belong to the set and are not there.
      left_out: images that the set's scoring leaves out, such as those of other classes.
      refused: images that could not be decoded as Pillow decodes them, and were not evaluated.
      seconds: for this model, decoding included.
      notes: what a reader of the figures must know.
      mce: mean corruption error of ImageNet-C, normalised by AlexNet's; of the corruptions that are whole.
      corruption_errors: top-1 errors by corruption and severity.
      error_gap: top-1 error on the training set minus that on this one, where a training set was given.
      train: the scores on the training set.
    """

    model: str
    set: str
    kind: str
    place: str
    view: View
    scores: Scores
    parameters: int
    expected: int | None
    missing: tuple[str, ...]
    left_out: int
    refused: int
    seconds: float
    notes: tuple[str, ...]
    mce: float | None = None
    corruption_errors: dict[str, dict[int, float]] | None = None
    error_gap: float | None = None
    train: Scores | None = None

    @property
    def complete(self) -> bool:
        """Whether all of the set was evaluated, as far as is known."""
        return not self.missing and not self.refused and self.expected in (None, self.scores.images)


class EvaluateOptions(TypedDict, total=False):
    """The keyword arguments of `evaluations`."""

    kinds: Sequence[str] | str
    train: str | Path | None
    override: Override | None
    reading: Reading
    real: Path | None
    all_classes: bool
    machine: Machine | None
    bins: int


def evaluate(
    models: Sequence[Model | str] | Model | str,
    sets: Sequence[str | Path] | str | Path,
    **options: Unpack[EvaluateOptions],
) -> list[Result]:
    """Evaluates models on test sets; the arguments are those of `evaluations`, which gives results one by one.

    results = dali_dr.evaluate("runs/resnet50/best.pt", ["imagenet-val", "imagenet-a"], kinds=["imagenet", "imagenet-a"])
    print(results[0].scores.top1, results[0].scores.ece)
    """
    return list(evaluations(models, sets, **options))


def evaluations(
    models: Sequence[Model | str] | Model | str,
    sets: Sequence[str | Path] | str | Path,
    *,
    kinds: Sequence[str] | str = OWN,
    train: str | Path | None = None,
    override: Override | None = None,
    reading: Reading = READING,
    real: Path | None = None,
    all_classes: bool = False,
    machine: Machine | None = None,
    bins: int = BINS,
) -> Iterator[Result]:
    """Evaluates models on test sets, one set after the other, all models on each.

    Under torch.distributed every process evaluates its share and gives the same results: counts are those of one process
    exactly, sums to the last bits of float64.

    Args:
      models: `Model`s, or texts that `load_model` takes.
      sets: packed sets of ours or plain images, as `dali_dr.sources.open_source` takes them; or their URLs.
      kinds: names of `dali_dr.evaluate.kinds.KINDS`: one for all sets, or one for each.
      train: a training set, on which the models are evaluated as on a test set, for `Result.error_gap`. It is of kind
        "imagenet" where the first set is of any kind but "own".
      override: what to show instead of the models' own views.
      reading: how plain images are read; of sets of another kind than "own" classes are known by their names.
      real: ReaL's real.json; None: timm's copy.
      all_classes: rank over all of a model's outputs also where the set has some of ImageNet's classes only.
      machine: where and how.
      bins: of the calibration error.

    Raises:
      DaliDrError: a model, a set or a file that cannot be read, or that do not go together; or ``reading`` says what has
        no meaning for any of the sets.
      ValueError: arguments out of range.
    """
    machine = machine or Machine()
    models = [models] if isinstance(models, (Model, str)) else list(models)
    places = [sets] if isinstance(sets, (str, Path)) else list(sets)
    names = [kinds] * len(places) if isinstance(kinds, str) else list(kinds)
    if len(names) == 1:
        names *= len(places)
    if not models or not places or len(names) != len(places):
        raise ValueError(
            f"want models, sets, and one kind for all sets or one for each; got {len(models)} models, {len(places)} sets and "
            f"{len(names)} kinds"
        )
    wanted = [(place, kind_of(name)) for place, name in zip(places, names, strict=True)]
    training: list[tuple[str | Path, Kind]] = []
    if train is not None:
        kind = kind_of(OWN if wanted[0][1].name == OWN else "imagenet")
        training.append((train, dataclasses.replace(kind, images=None)))
    _check_reading(reading, [*training, *wanted])
    loaded = [load_model(model) if isinstance(model, str) else model for model in models]
    _check_outputs(loaded, [kind for _, kind in wanted])
    run = _Run(loaded, override or Override(), reading, real, all_classes, machine, bins)
    trained: dict[str, Scores] = {}
    for place, kind in training:
        trained = {result.model: result.scores for result in run.on(str(place), kind)}
    for place, kind in wanted:
        for one in sets_in(place, kind):
            for result in run.on(one, kind):
                if (scores := trained.get(result.model)) is not None:
                    gap = scores.error - result.scores.error
                    result = dataclasses.replace(result, train=scores, error_gap=gap)
                yield result


def _check_reading(reading: Reading, sets: Sequence[tuple[str | Path, Kind]]) -> None:
    """DaliDrError for what is said of reading and has no meaning for any of the sets."""
    plain = [kind for place, kind in sets if not is_packed(place)]
    numbers = [f"--labels {reading.numbering}"] if reading.numbering != READING.numbering else []
    numbers += [] if reading.classes is None else [f"--classes {reading.classes}"]
    given = numbers + ([] if reading.label_field is None else [f"--label-field {reading.label_field}"])
    if given and not plain:
        raise DaliDrError(
            f"{given[0]}: has no meaning for a packed set, whose classes were numbered when it was packed: leave it out, or "
            "pack the set anew with it",
            kind="usage",
        )
    if numbers and all(kind.name != OWN for kind in plain):
        raise DaliDrError(
            f"{numbers[0]}: has no meaning with --as {plain[0].name}, whose classes are known by their names: leave it out",
            kind="usage",
        )


def _check_outputs(models: Sequence[Model], kinds: Sequence[Kind]) -> None:
    """DaliDrError for a model that cannot have ImageNet's classes where a set is scored by them."""
    for kind in kinds:
        for model in models:
            outputs = getattr(model.module, "num_classes", None)
            if kind.name != OWN and isinstance(outputs, int) and outputs and outputs != IMAGENET:
                raise DaliDrError(
                    f"--as {kind.name} wants a model of {IMAGENET:,} outputs, {model.name} has {outputs:,}: leave --as out for "
                    "a set of the model's own classes, or take another model",
                    kind="usage",
                )


@dataclasses.dataclass
class _Count:
    """What is counted of a set, whatever the model.

    Attributes:
      missing, left_out, notes: as in `Result`.
      packed_out: images that were refused when the set was packed.
      refused: those that were refused now.
    """

    missing: list[str] = dataclasses.field(default_factory=list)
    left_out: int = 0
    packed_out: int = 0
    refused: list[Refused] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


class _Run:
    """Models that are evaluated together."""

    def __init__(
        self,
        models: list[Model],
        override: Override,
        reading: Reading,
        real: Path | None,
        all_classes: bool,
        machine: Machine,
        bins: int,
    ) -> None:
        if len({model.name for model in models}) != len(models):
            raise ValueError("two models have the same name: their results could not be told apart")
        self.models, self.override, self.reading, self.real = models, override, reading, real
        self.all_classes, self.machine, self.bins = all_classes, machine, bins
        group = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.share = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if group else (0, 1)
        self.device = torch.device(machine.device)
        self.memory = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        for model in models:
            model.module.eval().to(self.device, memory_format=self.memory)  # type: ignore[call-overload]

    def on(self, place: str, kind: Kind) -> list[Result]:
        """The results of all models on a set."""
        folders, absent = leaves(place, kind)
        views = [self.override.of(model.view, kind.whole) for model in self.models]
        for view in views:
            _ = view.evaluation  # what cannot be shown is told before anything is read
        totals: list[Tally] | None = None
        errors: list[dict[str, dict[int, float]]] = [{} for _ in self.models]
        seconds = [0.0] * len(self.models)
        count = _Count(missing=list(absent))
        for leaf in folders:
            tallies, took = self._leaf(leaf, kind, views, count)
            for number, tally in enumerate(tallies):
                seconds[number] += took[number]
                if leaf.corruption:
                    errors[number].setdefault(leaf.corruption, {})[leaf.severity] = tally.scores().error
            if totals is None:
                totals = tallies
            else:
                for total, tally in zip(totals, tallies, strict=True):
                    total.add(tally)
        assert totals is not None
        expected = kind.images and kind.images * (len(folders) + len(absent))
        return [
            self._result(model, view, place, kind, total.scores(), expected, count, took, found)
            for model, view, total, took, found in zip(self.models, views, totals, seconds, errors, strict=True)
        ]

    def _result(
        self,
        model: Model,
        view: View,
        place: str,
        kind: Kind,
        scores: Scores,
        expected: int | None,
        count: _Count,
        seconds: float,
        errors: dict[str, dict[int, float]],
    ) -> Result:
        notes = list(count.notes)
        if expected is not None and scores.images != expected:
            notes.append(f"incomplete: {scores.images} of {expected} images")
        if count.missing:
            notes.append(f"{len(count.missing)} missing: {named(count.missing)}")
        if count.left_out:
            notes.append(f"{count.left_out} images are not scored in {kind.name} and were left out")
        if count.packed_out:
            notes.append(f"{count.packed_out} images were left out when the set was packed")
        if count.refused:
            told = "; ".join(f"{one.path}: {one.reason}" for one in count.refused[:_TOLD])
            notes.append(f"{len(count.refused)} images cannot be decoded and were not evaluated: {told}")
        if view.crop_mode != "center":
            notes.append(f"timm shows this model images by crop_mode {view.crop_mode}; here the centre was cut out")
        whole = {name: found for name, found in errors.items() if len(found) == len(CORRUPTIONS["severities"])}
        mce = None
        if whole:
            mce = mean_corruption_error(
                {name: list(found.values()) for name, found in whole.items()}, CORRUPTIONS["alexnet_errors"]
            )[0]
            if len(whole) < len(CORRUPTIONS["alexnet_errors"]):
                notes.append(f"mCE is over {len(whole)} of {len(CORRUPTIONS['alexnet_errors'])} corruptions")
        return Result(
            model=model.name,
            set=name_of(place),
            kind=kind.name,
            place=place,
            view=view,
            scores=scores,
            parameters=model.parameters,
            expected=expected,
            missing=tuple(count.missing),
            left_out=count.left_out,
            refused=len(count.refused) + count.packed_out,
            seconds=round(seconds, 3),
            notes=tuple(notes),
            mce=mce,
            corruption_errors=errors or None,
        )

    def _leaf(self, leaf: Leaf, kind: Kind, views: list[View], count: _Count) -> tuple[list[Tally], list[float]]:
        """The models' tallies on a folder of images, summed over all processes, and the seconds that each took."""
        reading = self.reading
        if kind.name != OWN:  # known by their names
            reading = dataclasses.replace(reading, numbering="sorted", classes=None)
        opened = TestSet.open(leaf.place, reading, self.machine.cache, self.machine.cache_bytes)
        answers = self._answers(opened, kind)
        where = f"{leaf.corruption}/{leaf.severity}/" if leaf.corruption else ""
        count.missing += [where + name for name in answers.missing]
        count.notes += [note for note in (opened.notes if kind.name == OWN else ()) if note not in count.notes]
        numbers = answers.numbers
        count.left_out += len(answers.accepted) - len(numbers)
        count.packed_out += opened.refused
        if not len(numbers):
            raise DaliDrError(f"{leaf.place}: none of its images is scored in {kind.name}", kind="usage")
        tallies = [
            Tally(None if self.all_classes else answers.considered, bins=self.bins, device=self.device)
            for _ in self.models
        ]
        seconds = [0.0] * len(self.models)
        accepted = torch.from_numpy(answers.accepted)
        refused: list[Refused] = []
        total = len(numbers) * len(self.models)
        bar = progress_bar(
            total=total, desc=name_of(leaf.place), unit="img", disable=not self.machine.progress, leave=False
        )
        parts = opened.parts(numbers, kind.border, self.machine.num_threads, self.share)
        with bar, contextlib.closing(parts):  # type: ignore[type-var]
            for part in parts:
                refused += part.refused
                for number, (model, view) in enumerate(zip(self.models, views, strict=True)):
                    begun = time.perf_counter()
                    self._pass(model, view, part, accepted, tallies[number], bar, part.dataset is opened.dataset)
                    seconds[number] += time.perf_counter() - begun
        for tally in tallies:
            tally.add_ranks()
        count.refused += self._of_all_ranks(refused)
        if not tallies[0].images:
            raise DaliDrError(
                f"{leaf.place}: none of its {len(numbers)} images can be decoded, such as {count.refused[0].path}: "
                f"{count.refused[0].reason}"
            )
        return tallies, seconds

    def _of_all_ranks(self, refused: list[Refused]) -> list[Refused]:
        if self.share[1] == 1:
            return refused
        found: list[Any] = [None] * self.share[1]
        torch.distributed.all_gather_object(found, refused)
        return [one for own in found for one in own]

    def _answers(self, opened: TestSet, kind: Kind) -> Answers:
        """What is right for a set's images. DaliDrError where the set's classes are not the models'."""
        answers = kind.answers(opened.labelled, self.real)
        for model in self.models if kind.name == OWN else ():  # the others: `_check_outputs`
            outputs = getattr(model.module, "num_classes", None)
            if not isinstance(outputs, int) or not outputs:
                continue
            classes = opened.labelled.num_classes
            names = opened.labelled.class_names
            numbered = names is None or all(name == str(number) for number, name in enumerate(names))
            if classes > outputs or (classes < outputs and not numbered):
                plain = "" if opened.dataset is not None else ", how its classes are numbered by --labels or --classes"
                raise DaliDrError(
                    f"{opened.labelled.where}: has {classes} classes, and {model.name} {outputs} outputs: "
                    f"say what the set is by --as{plain}, or take another model",
                    kind="usage",
                )
        return answers

    def _pass(
        self, model: Model, view: View, part: Part, accepted: torch.Tensor, tally: Tally, bar: Any, shared: bool
    ) -> None:
        """One model on a part of a set; ``shared``: with the other processes, each of which takes its share of it."""
        rank, world = self.share if shared else (0, 1)
        numbers = torch.from_numpy(part.numbers)
        channels_last = self.memory is torch.channels_last
        if not len(part.samples):
            return
        positions = np.full(len(part.dataset), -1, np.int64)
        positions[part.samples] = np.arange(len(part.samples))
        every = len(part.samples) == len(part.dataset)
        loader = ReinforcedIterator(
            part.dataset,
            batch_size=min(self.machine.batch_size, max(1, -(-len(part.samples) // world))),
            device=self.machine.loader_device,
            augment=view.evaluation,
            mean=view.mean,
            std=view.std,
            layout="HWC" if channels_last else "CHW",
            samples=None if every else part.samples.tolist(),
            with_index=True,
            rank=rank,
            world_size=world,
            num_threads=self.machine.num_threads,
        )
        for (batch,) in loader:
            data = batch["data"].to(self.device, non_blocking=True)
            logits = self._forward(model, data.permute(0, 3, 1, 2) if channels_last else data)
            own = numbers[positions[batch["index"].cpu().numpy()]]
            try:
                tally.update(logits, accepted[own])
            except DaliDrError as error:
                raise DaliDrError(f"{model.name}: {error}") from error
            bar.update(len(own) * world)

    @torch.inference_mode()
    def _forward(self, model: Model, data: torch.Tensor) -> torch.Tensor:
        amp = self.machine.amp
        casting: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if amp is not None:
            casting = torch.autocast(self.device.type, getattr(torch, amp))
        try:
            with casting:
                logits = model.module(data)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise DaliDrError(
                f"{model.name} cannot take views of {tuple(data.shape[-2:])} pixels, or fails: {error}; its size is said by "
                "--size, or by options of the model such as {img_size: 384}",
                kind="usage",
            ) from error
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(data):
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise DaliDrError(f"{model.name} gives {got} for {len(data)} images, want a tensor ({len(data)}, classes)")
        return logits
