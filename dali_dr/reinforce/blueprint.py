"""Blueprint: all that another process needs to open a run. It can be pickled, and is small where it holds names alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.choices import KEEPS
from dali_dr.choices import Keep as Keep
from dali_dr.errors import DaliDrError
from dali_dr.reinforce.generate import Generation, check_drawn
from dali_dr.reinforce.kept import settle_batch
from dali_dr.reinforce.networks import Amp, Predictor, Target, Teacher, fit_batch
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.run import Run
from dali_dr.reinforce.teachers import load_teacher
from dali_dr.shards import outbox
from dali_dr.shards.manifest import teacher_class
from dali_dr.sources.opening import open_source
from dali_dr.sources.source import READING, Reading, Source

_TEACHER: frozenset[str] = frozenset({"teacher", "device"})


@dataclasses.dataclass(frozen=True)
class Named:
    """A teacher by name; see `dali_dr.reinforce.teachers.load_teacher`."""

    names: str
    temperature: float = 1.0
    amp: Amp | None = None
    compile: bool = False
    target: Target = "class"

    def load(self, device: torch.device) -> Teacher:
        return load_teacher(
            self.names, device, temperature=self.temperature, amp=self.amp, compile=self.compile, target=self.target
        )


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """A run, to be opened in any process on any machine that sees the source and the folder or store of the data set.

    Attributes:
      source: as `dali_dr.sources.open_source` takes it, or the source itself, which is then pickled.
      out: folder or URL of the data set.
      teacher: by name; or itself, whose weights then travel with the blueprint.
      generation: attributes of `Generation` by name, but teacher and device; without batch_views, these are measured where
        the run is opened first.
      options: attributes of `Run` by name, but source, out, generation, part and progress; without num_classes, those of the
        source, and more if the teacher knows more.
      reading: how a source that is given as a text is read.
      keep: what is kept of a prediction: "topk", as generation says; "full", all; "hard" and "smoothing", one class. None:
        "topk" for classes, "full" for embeddings.
    """

    source: str | Source
    out: Path | str
    teacher: Named | Predictor
    generation: Mapping[str, Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reading: Reading = READING
    keep: Keep | None = "topk"

    def __post_init__(self) -> None:
        # Before a teacher is fetched, or workers are started.
        check_drawn(self.generation["spec"], self.generation["num_views"], self.generation.get("seed", 0))

    @classmethod
    def of(cls, source: str | Source, out: Path | str, generation: Generation, **options: Any) -> Blueprint:
        """From what a caller in Python has; options: attributes of `Run` by name."""
        fields = [field.name for field in dataclasses.fields(generation)]
        given = {name: getattr(generation, name) for name in fields if name not in _TEACHER}
        return cls(source, out, generation.teacher, given, options)

    def run(
        self,
        device: str = "cpu",
        *,
        part: Part | None = None,
        progress: bool = False,
        tell: Callable[[str], object] | None = None,
        dry: bool = False,
    ) -> Run:
        """Opens source, teacher and outbox.

        Args:
          device: "cpu"; "gpu", of which the process gets the one that is called as its place on its machine (`Part.local`);
            or "auto", a GPU where there is one.
          part: of the shards, for `Run.work`.
          progress: see `Run`.
          tell: called with what a user should know of source and classes.
          dry: write nothing, for a run that is not to be done.

        Raises:
          DaliDrError: there is no such device, source or teacher; or they do not go together.
        """
        part = Part() if part is None else part
        place = device_of(device, part, self.generation.get("decode_device", "cpu"))
        source = open_source(self.source, self.reading) if isinstance(self.source, str) else self.source
        if tell is not None:
            for note in (*source.notes, *_library_note(self.generation["spec"], len(source))):
                tell(note)
        teacher = self._teacher(place)
        out = Path(str(self.out)) if dry else outbox.folder_for(self.out)
        given = dict(self.generation)
        if given.get("batch_views") is None:
            given["batch_views"] = self._settled(out, teacher, dry)
        given["topk"] = self._topk(teacher)
        wanted = self.generation.get("topk", given["topk"])
        if tell is not None and self.keep in (None, "topk") and not _embeds(teacher) and wanted > given["topk"]:
            tell(f"--topk is {wanted}, and the teacher has {given['topk']} classes: all are kept")
        generation = Generation(teacher=teacher, device="gpu" if place.type == "cuda" else "cpu", **given)
        options = dict(self.options)
        if "num_classes" not in options:
            names = class_names(source, teacher, tell)
            options |= {"num_classes": len(names), "class_names": names}
        return Run(source, out, generation, part=part, progress=progress, **options)

    def _settled(self, out: Path, teacher: Predictor, dry: bool) -> int:
        """The views per teacher batch."""

        def measure() -> int:
            return fit_batch(teacher, self.generation["spec"].size)

        if dry:
            return measure()
        outbox.refresh(out)
        return settle_batch(out, measure)

    def _teacher(self, place: torch.device) -> Predictor:
        if isinstance(self.teacher, Named):
            return self.teacher.load(place)
        if isinstance(self.teacher, Teacher) and self.teacher.device != place:
            return dataclasses.replace(self.teacher, device=place)
        return self.teacher

    def _topk(self, teacher: Predictor) -> int:
        keep = self.keep or ("full" if _embeds(teacher) else "topk")
        if keep not in KEEPS:
            raise DaliDrError(f"keep is {keep!r}, want one of {', '.join(KEEPS)}", kind="usage")
        outputs = teacher.num_outputs
        wanted: int = self.generation.get("topk", 10)
        return {"topk": min(wanted, outputs), "full": outputs}.get(keep, 1)


def _library_note(spec: AugmentationSpec, images: int) -> list[str]:
    """What to tell of a library of partners that is no smaller than the source."""
    partners = None if spec.mixing is None else spec.mixing.partners
    if not isinstance(partners, int) or partners < images:
        return []
    return [f'mixing.partners is {partners}, and there are {images} images: partners are drawn from all, as with "any"']


def device_of(device: str, part: Part, decode_device: str = "cpu") -> torch.device:
    """torch's device of "cpu", "gpu" or "auto", which is made the current one.

    Raises:
      DaliDrError: there is none, or images shall be decoded on a GPU that is not used.
    """
    gpu = torch.cuda.is_available() if device == "auto" else device == "gpu"
    if not gpu:
        if decode_device == "gpu":
            raise DaliDrError(
                "--decode-device gpu: wants --device gpu, too: views are made where images are decoded", kind="usage"
            )
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DaliDrError("--device gpu: torch sees no CUDA device on this machine", kind="usage")
    torch.cuda.set_device(part.local % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def class_names(source: Source, teacher: Predictor, tell: Callable[[str], object] | None = None) -> Sequence[str]:
    """The names of the data set's classes: the source's, and more if the teacher knows more.

    Raises:
      DaliDrError: the source has more classes than the teacher.
    """
    names = source.class_names
    if _embeds(teacher):
        return list(names)
    name, known = getattr(teacher, "name", type(teacher).__name__), teacher.num_outputs
    if len(names) > known:
        raise DaliDrError(
            f"the images have {len(names)} classes, but teacher {name} predicts {known}: use a teacher trained for these "
            "classes",
            kind="usage",
        )
    if len(names) < known and tell is not None:
        tell(
            f"the images have {len(names)} classes, but teacher {name} predicts {known}; unless the first of these are the "
            "same classes, stored labels mean other classes than stored predictions"
        )
    return [*names, *map(teacher_class, range(len(names), known))]


def _embeds(teacher: Predictor) -> bool:
    """Whether its outputs are no classes, as `Teacher` knows of itself."""
    return bool(getattr(teacher, "target", "class") == "embedding")
