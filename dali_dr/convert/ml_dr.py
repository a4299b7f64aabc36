"""apple/ml-dr: ImageNet+ and its kin. What config.pth.tar says, as a spec of ours and the settings of the reader."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeGuard

import numpy as np

from dali_dr.augment.spec import MAX_SIZE, AugmentationSpec, Mixing, RandAugment, RandomErasing, RandomResizedCrop
from dali_dr.convert import native
from dali_dr.convert.format import Meaning, Record
from dali_dr.convert.prepared import Preparation
from dali_dr.errors import ConvertError, SpecError, brief
from dali_dr.record.layout import ENCODINGS, Probabilities
from dali_dr.record.logprobs import DEFAULT_LOG_STEP

FORMAT: Final = "ml-dr"
LICENCE: Final = (
    "apple/ml-dr states one licence, the Apple Sample Code License, and none for the metadata alone; the terms of the "
    "images' data set hold besides"
)
# With a parameter that is stored, in the order in which ml-dr applies them whatever the order in the configuration.
_STORED: Final = (
    "resize",
    "random_crop",
    "random_resized_crop",
    "random_horizontal_flip",
    "rand_augment",
    "random_erase",
    "mixup",
    "cutmix",
)
_SILENT: Final = ("uint8", "to_tensor", "normalize")  # without parameters
_OTHERWISE: Final = {"random_resize_crop": "random_resized_crop"}  # as Flowers-102's configuration spells it
_REPLAYED: Final = (
    "RandAugment was applied to uint8 tensors when the teacher saw the views, and is replayed on PIL images, as ml-dr's own "
    "training does it: Color, Contrast and Sharpness differ by up to one level, which a second operation can widen"
)
_PILLOWS: Final[dict[Any, Any]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which torchvision takes, too
_MOST: Final = {"num_classes": 100_000, "num_samples": 1 << 30}  # a set of ImageNet-21K has 21,841 classes
_VARYING: Final = frozenset(
    {"num_samples", "seed", "gpu", "rank", "artifact_path", "data_path"}
)  # between runs of one set


class Configured(Protocol):
    """An archive, as far as it is of concern here."""

    @property
    def path(self) -> object: ...

    @property
    def configs(self) -> Mapping[str, bytes]:
        """The configuration of each folder that holds files; b"" where there is none."""


@dataclasses.dataclass(frozen=True)
class Alone:
    """An archive of which a configuration is known, and nothing more."""

    path: object
    configs: Mapping[str, bytes]


def meaning(
    archives: Sequence[Configured],
    *,
    config: bytes | None = None,
    probabilities: Probabilities | None = None,
    log_step: float | None = None,
    num_images: int,
    num_classes: int,
) -> Meaning:
    """What the archives hold.

    Args:
      archives: that were looked through.
      config: a config.pth.tar that takes the place of theirs.
      probabilities, log_step: how they are stored; None: of a set that was exported from here as they were, then in the very
        codes that they had (csrc/record/write.h), else as "root8", 0.15.
      num_images, num_classes: of the images.

    Raises:
      ConvertError: there is no configuration, those of several runs differ, or one says what cannot be replayed.
    """
    notes: list[str] = []
    said = _config(archives, config, notes)
    reading = _Reading(said, notes)
    exported = _exported(said)
    spec = exported.spec or reading.spec()
    recode = exported.probabilities is not None and probabilities in (None, exported.probabilities)
    probabilities = probabilities or exported.probabilities or "root8"
    log_step = log_step or exported.log_step or DEFAULT_LOG_STEP
    classes = num_classes if said.get("num_classes") is None else said["num_classes"]
    if num_classes > classes:
        raise ConvertError(
            f"the images have {num_classes} classes, the reinforcements {classes}: are these the images?", kind="usage"
        )
    mixing = spec.mixing is not None
    sizes = np.zeros((num_images, 2), np.uint32) if mixing else None
    settings = native.MlDr(
        transforms=tuple(name for name in _STORED if name in reading.enabled),
        view=spec.size,
        crop=reading.edge("random_crop") if "random_crop" in reading.enabled else 0,
        num_ops=spec.rand_augment.num_ops if spec.rand_augment else 0,
        num_classes=classes,
        num_images=num_images,
        probabilities=probabilities,
        log_step=log_step,
        recode=recode,
        sizes=sizes,
    )

    def converter(number: int, files: Sequence[bytes], size: tuple[int, int]) -> Record:
        made = native.ml_dr_record(files, number, size, settings)
        return Record(made.record, (made.views, made.topk))

    return Meaning(
        FORMAT,
        converter,
        spec,
        classes,
        LICENCE,
        teacher=reading.teacher(spec.size),
        mixing=mixing,
        sizes=sizes,
        probabilities=probabilities,
        log_step=log_step if probabilities == "log8" else None,
        config=said,
        reinterpreted=tuple(notes),
        preparation=reading.preparation(),
        manifest={"decoder": "libjpeg-turbo"},  # Pillow's
    )


@dataclasses.dataclass(frozen=True)
class _Exported:
    """What the configuration of a set that was exported from here adds to ml-dr's words; None where it is none."""

    probabilities: Probabilities | None = None
    log_step: float | None = None
    spec: AugmentationSpec | None = None


def _exported(config: Mapping[str, Any]) -> _Exported:
    ours = config.get("dali_dr")
    if not isinstance(ours, dict):
        return _Exported()
    encoding, step, spec = ours.get("probabilities"), ours.get("log_step"), ours.get("spec")
    if encoding not in ENCODINGS or not (step is None or isinstance(step, float)):
        raise ConvertError(
            f"config.pth.tar: dali_dr: encoding {brief(encoding)} in steps of {brief(step)} is not known"
        )
    try:
        return _Exported(encoding, step, None if spec is None else AugmentationSpec.from_json(spec))
    except SpecError as error:
        raise ConvertError(f"config.pth.tar: dali_dr: {error}") from error


def _config(archives: Sequence[Configured], given: bytes | None, notes: list[str]) -> dict[str, Any]:
    """The configuration, of which ``num_samples`` is the sum over all runs; ``notes`` get what is taken otherwise."""
    found: list[tuple[str, dict[str, Any]]] = []
    for archive in archives:
        for folder, data in archive.configs.items():
            where = f"{archive.path}{f' ({folder})' if folder else ''}"
            data = given or data
            if not data:
                raise ConvertError(
                    f"{where}: has no config.pth.tar, which says how its parameters are to be read: give one with --config",
                    kind="usage",
                )
            found.append((where, _read(where, data)))
    first_place, first = found[0]
    for where, config in found[1:]:
        if differs := sorted(_differences(_same(first), _same(config))):
            raise ConvertError(
                f"{where}: its config.pth.tar is of another set than that of {first_place}: {', '.join(differs[:3])}",
                kind="usage",
            )
    counts = [config["reinforce"].get("num_samples") or 0 for _, config in found]
    if len(set(counts)) > 1:
        notes.append(
            "ml-dr draws a run, then one of its views; here each view of all runs is as likely, of short ones, too"
        )
    return first | {"reinforce": {**first["reinforce"], "num_samples": sum(counts)}}


def _read(where: str, data: bytes) -> dict[str, Any]:
    try:
        config = native.pickle_json(data)
    except ConvertError as error:
        raise ConvertError(f"{where}: config.pth.tar: {error}") from error
    if not isinstance(config, dict):
        raise ConvertError(f"{where}: config.pth.tar: holds {brief(config)}, want a configuration")
    config = config.get("parameters", config)
    config = config if isinstance(config, dict) else {}
    reinforce = config.get("reinforce")
    reinforce = reinforce if isinstance(reinforce, dict) else {}
    augmentation = reinforce.get("image_augmentation")
    if not isinstance(augmentation, dict) or not all(isinstance(one, dict) for one in augmentation.values()):
        raise ConvertError(f"{where}: config.pth.tar: has no reinforce.image_augmentation")
    for name, said, least in (("num_classes", config, 1), ("num_samples", reinforce, 0)):
        value = said.get(name)
        if value is not None and not (_is_whole(value) and least <= value <= _MOST[name]):
            raise ConvertError(
                f"{where}: config.pth.tar: {name} is {brief(value)}, want a whole number from {least} to {_MOST[name]}"
            )
    result: dict[str, Any] = json.loads(json.dumps(config))
    return result


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _same(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in all runs of a set."""
    rest = {name: value for name, value in config["reinforce"].items() if name not in _VARYING}
    return {"dataset": config.get("dataset"), "teacher": config.get("teacher"), **rest}


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {name for name in {**one, **other} if one.get(name) != other.get(name)}


class _Reading:
    """Reads a configuration; what is taken otherwise than it says is added to ``notes``.

    Attributes:
      enabled: the transforms that are, with their arguments.
    """

    def __init__(self, config: Mapping[str, Any], notes: list[str]) -> None:
        self._config, self._notes = config, notes
        self.enabled: dict[str, dict[str, Any]] = {}
        for name, arguments in config["reinforce"]["image_augmentation"].items():
            rest = {key: value for key, value in arguments.items() if key != "enable"}
            if not arguments.get("enable", True):
                continue
            if name in _OTHERWISE:
                notes.append(f"{name} in the configuration is taken as {_OTHERWISE[name]}")
                name = _OTHERWISE[name]
            if name not in _STORED and name not in _SILENT:
                raise ConvertError(f"config.pth.tar: image_augmentation.{name}: is not replayed here")
            self.enabled[name] = rest
        if "rand_augment" in self.enabled:
            notes.append(_REPLAYED)

    def spec(self) -> AugmentationSpec:
        """What the views were drawn from."""
        filter_ = self._get("random_resized_crop", "interpolation", "bilinear")
        try:
            return AugmentationSpec(
                size=self.edge("random_resized_crop" if "random_resized_crop" in self.enabled else "random_crop"),
                interpolation=_PILLOWS.get(filter_, filter_),
                crop=self._crop(),
                flip=self._get("random_horizontal_flip", "p", 0.5) if "random_horizontal_flip" in self.enabled else 0.0,
                rand_augment=self._rand_augment(),
                random_erasing=self._random_erasing(),
                mixing=self._mixing(),
            )
        except SpecError as error:
            raise ConvertError(f"config.pth.tar: {error}") from error

    def edge(self, name: str) -> int:
        """The size of a square, as ``name`` says it."""
        if name not in self.enabled:
            raise ConvertError("config.pth.tar: neither random_resized_crop nor random_crop is enabled")
        size = self.enabled[name].get("size")
        if isinstance(size, list) and len(size) in (1, 2) and size[0] == size[-1]:
            size = size[0]
        if not _is_whole(size) or not 1 <= size <= MAX_SIZE:
            raise ConvertError(
                f"config.pth.tar: {name}.size is {brief(size)}, want the edge of a square, up to {MAX_SIZE} pixels"
            )
        return size

    def preparation(self) -> Preparation:
        """What is done to images before."""
        enlarge: int | tuple[int, int] | None = None
        if "resize" in self.enabled:
            self._only("resize", "size", "interpolation", "antialias")
            size = self.enabled["resize"].get("size")
            if isinstance(size, list) and len(size) == 2:
                if not all(_is_whole(edge) and 1 <= edge <= MAX_SIZE for edge in size):
                    raise ConvertError(
                        f"config.pth.tar: resize.size is {brief(size)}, want a height and a width, up to {MAX_SIZE} pixels"
                    )
                enlarge = (size[0], size[1])
            else:
                enlarge = self.edge("resize")
        padding = self._get("random_crop", "padding", 0) or 0
        if not _is_whole(padding) or not 0 <= padding <= MAX_SIZE:
            raise ConvertError(f"config.pth.tar: random_crop.padding is {brief(padding)}, want one number of pixels")
        interpolation = self._get("resize", "interpolation", "bilinear")
        if interpolation not in ("bilinear", "bicubic"):
            raise ConvertError(
                f"config.pth.tar: resize.interpolation is {brief(interpolation)}, want bilinear or bicubic"
            )
        return Preparation(enlarge, padding, interpolation)

    def teacher(self, size: int) -> dict[str, Any]:
        """What a manifest says of the teacher."""
        said = self._config.get("teacher")
        said = said if isinstance(said, dict) else {}
        names = next((said[name] for name in ("name", "arch", "checkpoint") if said.get(name)), None)
        if isinstance(names, str):
            names = names.split(",")
        elif not isinstance(names, list):
            names = ["not named in the configuration"]
        found: dict[str, Any] = {
            "names": [str(name).strip() for name in names],
            "weights_digest": None,
            "input_size": size,
        }
        normalise = self.enabled.get("normalize", {})
        if normalise.get("mean") is not None and normalise.get("std") is not None:
            found["normalisation"] = {name: self._channels(name) for name in ("mean", "std")}
        return found

    def _channels(self, name: str) -> list[float]:
        """A number for each channel."""
        values = self.enabled["normalize"][name]
        numbers = isinstance(values, list) and all(_is_whole(one) or isinstance(one, float) for one in values)
        if not numbers or len(values) != 3 or not all(abs(one) < 1e6 and (one > 0 or name == "mean") for one in values):
            raise ConvertError(
                f"config.pth.tar: normalize.{name} is {brief(values)}, want a number for each of R, G and B"
            )
        return [float(one) for one in values]

    def _crop(self) -> RandomResizedCrop:
        if "random_resized_crop" in self.enabled:
            if "random_crop" in self.enabled:
                raise ConvertError("config.pth.tar: random_crop and random_resized_crop are both enabled")
            self._only("random_resized_crop", "size", "scale", "ratio", "interpolation", "antialias")
            usual = RandomResizedCrop()
            return RandomResizedCrop(
                self._get("random_resized_crop", "scale", usual.scale),
                self._get("random_resized_crop", "ratio", usual.ratio),
            )
        self._only("random_crop", "size", "padding")
        crop, prepared = self.edge("random_crop"), self.preparation()
        if not isinstance(prepared.enlarge, int):
            self._notes.append("random_crop is told of as a crop of all scales, for which the spec has no other words")
            return RandomResizedCrop((0.08, 1.0), (1.0, 1.0))
        scale = min(1.0, (crop / (prepared.enlarge + 2 * prepared.padding)) ** 2)
        self._notes.append(
            "images are stored enlarged and padded, and random_crop is told of as a crop of one scale of them, which it is "
            "of square images"
        )
        return RandomResizedCrop((scale, scale), (1.0, 1.0))

    def _rand_augment(self) -> RandAugment | None:
        if "rand_augment" not in self.enabled:
            return None
        self._only("rand_augment", "p", "num_ops", "magnitude", "num_magnitude_bins")
        if self._get("rand_augment", "p", 1.0) != 1.0:
            self._notes.append("views that RandAugment left out, by its p, have the operation Identity")
        get: Callable[[str, int], Any] = lambda name, usual: self._get("rand_augment", name, usual)  # noqa: E731
        return RandAugment(get("num_ops", 2), get("magnitude", 9), get("num_magnitude_bins", 31))

    def _random_erasing(self) -> RandomErasing | None:
        if "random_erase" not in self.enabled:
            return None
        self._only("random_erase", "p", "scale", "ratio", "inplace")
        usual = RandomErasing(0.5)  # torchvision's p
        found = {name: self._get("random_erase", name, getattr(usual, name)) for name in ("scale", "ratio")}
        return dataclasses.replace(usual, probability=self._get("random_erase", "p", 0.5), **found)

    def _mixing(self) -> Mixing | None:
        if not {"mixup", "cutmix"} & self.enabled.keys():
            return None
        self._only("mixup", "p", "alpha", "div_by")
        self._only("cutmix", "p", "alpha")
        odds, alphas = {}, {}
        for name in ("mixup", "cutmix"):
            alphas[name] = self._get(name, "alpha", 1.0)
            odds[name] = self._get(name, "p", 1.0) if name in self.enabled and alphas[name] else 0.0
        division = self._get("mixup", "div_by", 1.0)
        if not isinstance(division, (int, float)) or division < 1:
            raise ConvertError(f"config.pth.tar: mixup.div_by is {brief(division)}, want a number of 1 or more")
        return Mixing(
            mixup_probability=odds["mixup"],
            mixup_alpha=alphas["mixup"] or 1.0,
            lam=(0.0, 1.0 / division),
            cutmix_probability=odds["cutmix"],
            cutmix_alpha=alphas["cutmix"] or 1.0,
            pool=self._pool(),
        )

    def _pool(self) -> int | None:
        """Images of one GPU's batch, in which views were mixed; None where that is not known."""
        batch, world = self._config.get("batch_size"), self._config.get("world_size")
        usual = all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in (batch, world))
        return max(1, int(batch) // int(world)) if usual and batch is not None and world is not None else None

    def _get(self, transform: str, name: str, usual: Any) -> Any:
        value = self.enabled.get(transform, {}).get(name)
        return usual if value is None else value

    def _only(self, transform: str, *known: str) -> None:
        """ConvertError if a transform has arguments that are not known."""
        for name, value in self.enabled.get(transform, {}).items():
            if name not in known and value is not None:
                raise ConvertError(f"config.pth.tar: {transform}.{name} is {brief(value)}, which is not replayed here")
