"""What may be drawn: the augmentation spec that a data set's manifest carries as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, Self

from dali_dr.augment.members import (
    LATER,
    MAX_OPS,
    AutoAugment,
    ColourJitter,
    FixedResizeCrop,
    GaussianBlur,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugmentWide,
    assign,
    error,
    integer,
    number,
    probability,
)
from dali_dr.errors import SpecError, brief, meant
from dali_dr.regular import read_regular

MAX_SIZE: Final = 4096  # largest view edge in pixels
MAX_ALPHA: Final = 100.0  # of a Beta distribution; above, it is all but a constant
_MAX_BYTES: Final = 1 << 20  # of a file that holds a spec
INTERPOLATIONS: Final = ("bilinear", "bicubic")
CENTRE_PART: Final = 0.875  # of an image's shorter side after the resize, that a view shows: 224 of 256

__all__ = [
    "MAX_OPS", "AugmentationSpec", "AutoAugment", "ColourJitter", "FixedResizeCrop", "GaussianBlur", "Mixing",
    "RandAugment", "RandomErasing", "RandomResizedCrop", "TrivialAugmentWide",
]  # fmt: skip


@dataclass(frozen=True)
class Mixing:
    """MixUp, then CutMix with the same partner, each at its own odds (ImageNet+, arXiv 2303.08983, appendix C).

    Attributes:
      mixup_probability: of MixUp.
      mixup_alpha: lam = low + (high - low) * Beta(alpha, alpha).
      lam: (low, high), the weight of the image itself; the partner has the rest.
      cutmix_probability: of CutMix, drawn independently.
      cutmix_alpha: the pasted box covers 1 - Beta(alpha, alpha) of the view before it is cut off at the border.
      partners: "any" image of the data set (the image itself included); "self": the image itself, seen in another
        view (one decode); or the size of a library of images spread evenly over the data set, from which all
        partners are taken.
      pool: the partners of one image are drawn from so many, which are drawn anew for every image (ImageNet+ mixed
        within small batches); None: no such limit. A pool costs fewer decodes in generation and smaller records.
      double: stored views come in pairs that share all parameters, the second with image and partner exchanged: two
        training views from two decodes. Every pair has a partner, also where nothing is mixed.
      own_mixes: with double: the views of a pair share crops, operations and erase boxes, but lam and CutMix box are
        drawn for each of them ("two sets of coefficients", appendix C.3).
    """

    mixup_probability: float = 0.5
    mixup_alpha: float = 1.0
    lam: tuple[float, float] = (0.0, 0.5)
    cutmix_probability: float = 0.5
    cutmix_alpha: float = 1.0
    partners: Literal["any", "self"] | int = "any"
    pool: int | None = 16
    double: bool = False
    own_mixes: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("mixup_probability", "cutmix_probability"):
            assign(self, name, probability(f"mixing.{name}", getattr(self, name)))
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            if not number(value) or not 0 < value <= MAX_ALPHA:
                raise error(f"mixing.{name}", f"want a number above 0, at most {MAX_ALPHA:g}", value)
            assign(self, name, float(value))
        lam = self.lam
        if not (
            isinstance(lam, (tuple, list)) and len(lam) == 2 and all(map(number, lam)) and 0 <= lam[0] <= lam[1] <= 1
        ):
            raise error("mixing.lam", "want two numbers 0 <= low <= high <= 1", lam)
        assign(self, "lam", (float(lam[0]), float(lam[1])))
        if self.partners not in ("any", "self"):
            if isinstance(self.partners, str):
                raise error("mixing.partners", 'want "any", "self" or the size of a library', self.partners)
            integer("mixing.partners", self.partners, 1, (1 << 31) - 1)
        if self.pool is not None:
            integer("mixing.pool", self.pool, 1, (1 << 31) - 1)
        if not isinstance(self.double, bool):
            raise error("mixing.double", "want true or false", self.double)
        if not isinstance(self.own_mixes, bool) or (self.own_mixes and not self.double):
            raise error("mixing.own_mixes", "want true or false, and true with double alone", self.own_mixes)


@dataclass(frozen=True)
class AugmentationSpec:
    """How views are drawn; the defaults are ImageNet+'s (arXiv 2303.08983).

    Attributes:
      size: edge of the square view, in pixels.
      interpolation: Pillow filter of the resize.
      crop: the random resized crop, or a crop of a fixed resize.
      flip: probability of a horizontal flip.
      colour_jitter: colour jitter, or None for none.
      greyscale: probability that the view is made grey (torchvision's RandomGrayscale).
      blur: Gaussian blur, or None for none.
      auto_augment, trivial_augment, rand_augment: AutoAugment, TrivialAugmentWide or RandAugment: one of them, or None
        for none.
      random_erasing: random erasing, or None for none.
      mixing: MixUp and CutMix of two finished views, or None for none.

    They are done in this order; within a view's operations colour jitter, greyscale, blur (as in SimCLR and MoCo v2),
    then the one of AutoAugment, TrivialAugmentWide and RandAugment. Construction checks every value; SpecError names
    the member at fault.
    """

    size: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: RandomResizedCrop | FixedResizeCrop = field(default_factory=RandomResizedCrop)
    flip: float = 0.5
    rand_augment: RandAugment | None = None
    random_erasing: RandomErasing | None = None
    mixing: Mixing | None = None
    colour_jitter: ColourJitter | None = None
    greyscale: float = field(default=0.0, metadata=LATER)
    blur: GaussianBlur | None = None
    auto_augment: AutoAugment | None = None
    trivial_augment: TrivialAugmentWide | None = None

    def __post_init__(self) -> None:
        integer("size", self.size, 1, MAX_SIZE)
        if self.interpolation not in INTERPOLATIONS:
            raise error("interpolation", f"want one of {', '.join(INTERPOLATIONS)}", self.interpolation)
        assign(self, "flip", probability("flip", self.flip))
        assign(self, "greyscale", probability("greyscale", self.greyscale))
        for name, kinds in _MEMBERS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) and (value is not None or name not in _OPTIONAL):
                raise error(name, f"want a {' or a '.join(kind.__name__ for kind in kinds)}", value)
        if isinstance(self.crop, FixedResizeCrop) and self.crop.resize < self.size:
            raise error("crop.resize", f"want the view's size, {self.size}, or more", self.crop.resize)
        named = [name for name in _AUTOMATIC if getattr(self, name) is not None]
        if len(named) > 1:
            raise SpecError(f"augmentation {' and '.join(named)}: want one of them; take the others out")

    @classmethod
    def preset(cls, name: str, size: int = 224) -> Self:
        """The preset ``name`` at view edge ``size``: "rrc+ra+re" is ImageNet+'s; docs/augmentations.md has them all."""
        if not isinstance(name, str) or name not in PRESETS:
            near = meant(name, PRESETS) if isinstance(name, str) else ""
            raise SpecError(f"augmentation preset: want one of {', '.join(PRESETS)}, got {brief(name)}{near}")
        return cls(size=size, **PRESETS[name](size))

    @property
    def name(self) -> str | None:
        """The name of the preset that this spec equals at its own size, or None."""
        return next((name for name in PRESETS if self == self.preset(name, self.size)), None)

    @property
    def num_ops(self) -> int:
        """Operations of every view (n). Where one is not drawn, its place holds Identity with magnitude 0."""
        window = isinstance(self.crop, FixedResizeCrop) and self.crop.random
        jitter = 0 if self.colour_jitter is None else self.colour_jitter.num_ops
        automatic = self.rand_augment.num_ops if self.rand_augment else 2 * (self.auto_augment is not None)
        automatic += self.trivial_augment is not None
        return 2 * window + jitter + (self.greyscale > 0) + (self.blur is not None) + automatic

    def later(self) -> list[str]:
        """What of the spec's JSON data sets of format versions 1 to 4 cannot have, by its place, as "crop.resize"."""
        places = []
        for name, value in self.to_json().items():
            if name not in _FIRST:
                places.append(name)
            elif isinstance(value, dict):
                places += [f"{name}.{inner}" for inner in value if inner not in _FIRST[name]]
        return places

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON-able dict; optional members that are None, and later fields at their defaults, are left out."""
        out = _told(self)
        members = {name: _plain(out.pop(name)) for name in _MEMBERS if out[name] is not None}
        out = {name: value for name, value in out.items() if name not in _MEMBERS}
        return out | members

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``.

        Optional members may be absent or null, fields that older specs did not have absent; every other field must be
        there, so that a stored spec never depends on the defaults of the version that reads it.

        Raises:
          SpecError: on unknown or missing fields and on values out of range.
        """
        values = _checked_fields(cls, "", data)
        for name, kinds in _MEMBERS.items():
            if values.get(name) is not None:
                kind = _kind_of(kinds, values[name])
                values[name] = kind(**_checked_fields(kind, name, values[name]))
        return cls(**values)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The spec in a JSON file.

        Raises:
          SpecError: naming the file, and what is wrong with it.
        """
        try:
            return cls.from_json(json.loads(read_regular(path, _MAX_BYTES)))
        except OSError as error:
            raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from error
        except RecursionError as error:
            raise SpecError(f"{path}: not a spec: its JSON is nested too deeply") from error
        except ValueError as error:
            raise SpecError(f"{path}: not JSON: {error}") from error


def _plain(member: Any) -> dict[str, Any]:
    """A member dataclass as a JSON-able dict (tuples become lists, as JSON reads them back)."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in _told(member).items()}


def _told(instance: Any) -> dict[str, Any]:
    """The fields that JSON names."""
    later, values = _later(instance), {f.name: getattr(instance, f.name) for f in fields(instance)}
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def _later(cls: Any) -> dict[str, Any]:
    """The fields that older specs did not have, with their defaults."""
    return {f.name: f.default for f in fields(cls) if "later" in f.metadata}


def _kind_of(kinds: tuple[type, ...], data: Any) -> type:
    """The kind of a member whose JSON is ``data``: the one that knows its fields best."""
    names = set(data) if isinstance(data, Mapping) else set()
    return max(kinds, key=lambda kind: len(names & {f.name for f in fields(kind)}))


def _checked_fields(cls: type, where: str, data: Any) -> dict[str, Any]:
    """``data`` as keyword arguments of the dataclass ``cls``: a mapping with no unknown or missing field."""
    place = where or "spec"
    if not isinstance(data, Mapping):
        raise error(place, "want a JSON object", data)
    known = {f.name for f in fields(cls)}
    unknown = sorted(brief(name, 40) for name in data if name not in known)
    if unknown:
        raise SpecError(
            f"augmentation {place}: unknown field(s) {', '.join(unknown[:10])}; known: {', '.join(sorted(known))}"
        )
    missing = sorted(known - _later(cls).keys() - data.keys() - (_OPTIONAL if not where else frozenset()))
    if missing:
        raise SpecError(f"augmentation {place}: missing field(s) {', '.join(missing)}")
    return dict(data)


# A further optional member is a dataclass, a field of AugmentationSpec and a line in each of these.
_MEMBERS: Final[dict[str, tuple[type, ...]]] = {
    "crop": (RandomResizedCrop, FixedResizeCrop),
    "rand_augment": (RandAugment,),
    "random_erasing": (RandomErasing,),
    "mixing": (Mixing,),
    "colour_jitter": (ColourJitter,),
    "blur": (GaussianBlur,),
    "auto_augment": (AutoAugment,),
    "trivial_augment": (TrivialAugmentWide,),
}
_OPTIONAL: Final = frozenset(_MEMBERS) - {"crop"}
_AUTOMATIC: Final = ("auto_augment", "trivial_augment", "rand_augment")
# The fields of a spec in data sets of format versions 1 to 4.
_FIRST: Final[dict[str, frozenset[str]]] = {
    "size": frozenset(),
    "interpolation": frozenset(),
    "flip": frozenset(),
    "crop": frozenset({"scale", "ratio"}),
    "rand_augment": frozenset({"num_ops", "magnitude", "num_bins"}),
    "random_erasing": frozenset({"probability", "scale", "ratio"}),
    "mixing": frozenset(
        {"mixup_probability", "mixup_alpha", "lam", "cutmix_probability", "cutmix_alpha", "partners", "pool", "double"}
    ),
}


def _timm(magnitude: int) -> RandAugment:
    """timm's "rand-m{magnitude}-mstd0.5-inc1" with torchvision's operations."""
    return RandAugment(2, magnitude, num_bins=11, magnitude_std=0.5, probability=0.5)


# Of docs/augmentations.md, which names their sources; members that depend on the view's size among them.
PRESETS: Final[dict[str, Callable[[int], dict[str, Any]]]] = {
    "rrc": lambda size: {},
    "rrc+mixing": lambda size: {"mixing": Mixing()},
    "rrc+ra+re": lambda size: {"rand_augment": RandAugment(), "random_erasing": RandomErasing()},
    "rrc+mixing+ra+re": lambda size: {
        "rand_augment": RandAugment(),
        "random_erasing": RandomErasing(),
        "mixing": Mixing(),
    },
    "crop+flip": lambda size: {"crop": FixedResizeCrop(math.floor(size / CENTRE_PART))},
    "rrc+aa+re": lambda size: {"auto_augment": AutoAugment(), "random_erasing": RandomErasing()},
    "rrc+ta+re": lambda size: {"trivial_augment": TrivialAugmentWide(), "random_erasing": RandomErasing()},
    "moco-v2": lambda size: {
        "crop": RandomResizedCrop((0.2, 1.0)),
        "colour_jitter": ColourJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
        "greyscale": 0.2,
        "blur": GaussianBlur(0.5, (0.1, 2.0)),
    },
    "swav": lambda size: {
        "crop": RandomResizedCrop((0.14, 1.0)),
        "colour_jitter": ColourJitter(0.8, 0.8, 0.8, 0.2, probability=0.8),
        "greyscale": 0.2,
        "blur": GaussianBlur(0.5, (0.1, 2.0)),
    },
    "fkd": lambda size: {
        "interpolation": "bicubic",
        "crop": RandomResizedCrop((0.08, 0.936)),
        "colour_jitter": ColourJitter(0.4, 0.4, 0.4),
    },
    "deit": lambda size: {
        "interpolation": "bicubic",
        "rand_augment": _timm(9),
        "random_erasing": RandomErasing(0.25, (0.02, 1 / 3), (0.3, 10 / 3)),
    },
    "usi": lambda size: {"interpolation": "bicubic", "rand_augment": _timm(7)},
}
