"""What may be drawn: the augmentation spec that a data set's manifest carries as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeGuard

from dali_dr.errors import SpecError, brief
from dali_dr.regular import read_regular

MAX_SIZE: Final = 4096  # largest view edge in pixels
MAX_OPS: Final = 8  # RandAugment operations per view; draw() reserves random words for as many
MAX_ALPHA: Final = 100.0  # of a Beta distribution; above, it is all but a constant
_MAX_BYTES: Final = 1 << 20  # of a file that holds a spec
INTERPOLATIONS: Final = ("bilinear", "bicubic")


@dataclass(frozen=True)
class RandomResizedCrop:
    """torchvision's RandomResizedCrop: crop area as a fraction of the image, aspect ratio width/height."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _set(self, "scale", _interval("crop.scale", self.scale, at_most=1.0))
        _set(self, "ratio", _interval("crop.ratio", self.ratio))


@dataclass(frozen=True)
class RandAugment:
    """torchvision's RandAugment: ``num_ops`` operations at index ``magnitude`` of ``num_bins`` strengths."""

    num_ops: int = 2
    magnitude: int = 9
    num_bins: int = 31

    def __post_init__(self) -> None:
        _integer("rand_augment.num_ops", self.num_ops, 1, MAX_OPS)
        _integer("rand_augment.num_bins", self.num_bins, 2, 1 << 16)
        _integer("rand_augment.magnitude", self.magnitude, 0, self.num_bins - 1)


@dataclass(frozen=True)
class RandomErasing:
    """torchvision's RandomErasing (value 0): area as a fraction of the view, aspect ratio height/width."""

    probability: float = 0.25
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        _set(self, "probability", _probability("random_erasing.probability", self.probability))
        _set(self, "scale", _interval("random_erasing.scale", self.scale, at_most=1.0))
        _set(self, "ratio", _interval("random_erasing.ratio", self.ratio))


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
    """

    mixup_probability: float = 0.5
    mixup_alpha: float = 1.0
    lam: tuple[float, float] = (0.0, 0.5)
    cutmix_probability: float = 0.5
    cutmix_alpha: float = 1.0
    partners: Literal["any", "self"] | int = "any"
    pool: int | None = 16
    double: bool = False

    def __post_init__(self) -> None:
        for name in ("mixup_probability", "cutmix_probability"):
            _set(self, name, _probability(f"mixing.{name}", getattr(self, name)))
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            if not _number(value) or not 0 < value <= MAX_ALPHA:
                raise _error(f"mixing.{name}", f"want a number above 0, at most {MAX_ALPHA:g}", value)
            _set(self, name, float(value))
        lam = self.lam
        if not (
            isinstance(lam, (tuple, list)) and len(lam) == 2 and all(map(_number, lam)) and 0 <= lam[0] <= lam[1] <= 1
        ):
            raise _error("mixing.lam", "want two numbers 0 <= low <= high <= 1", lam)
        _set(self, "lam", (float(lam[0]), float(lam[1])))
        if self.partners not in ("any", "self"):
            if isinstance(self.partners, str):
                raise _error("mixing.partners", 'want "any", "self" or the size of a library', self.partners)
            _integer("mixing.partners", self.partners, 1, (1 << 31) - 1)
        if self.pool is not None:
            _integer("mixing.pool", self.pool, 1, (1 << 31) - 1)
        if not isinstance(self.double, bool):
            raise _error("mixing.double", "want true or false", self.double)


@dataclass(frozen=True)
class AugmentationSpec:
    """How views are drawn; the defaults are ImageNet+'s (arXiv 2303.08983).

    Attributes:
      size: edge of the square view, in pixels.
      interpolation: Pillow filter of the resize.
      crop: the random resized crop.
      flip: probability of a horizontal flip.
      rand_augment: RandAugment, or None for none.
      random_erasing: random erasing, or None for none.
      mixing: MixUp and CutMix of two finished views, or None for none.

    Construction checks every value; SpecError names the member at fault.
    """

    size: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: RandomResizedCrop = field(default_factory=RandomResizedCrop)
    flip: float = 0.5
    rand_augment: RandAugment | None = None
    random_erasing: RandomErasing | None = None
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        _integer("size", self.size, 1, MAX_SIZE)
        if self.interpolation not in INTERPOLATIONS:
            raise _error("interpolation", f"want one of {', '.join(INTERPOLATIONS)}", self.interpolation)
        _set(self, "flip", _probability("flip", self.flip))
        for name, kind in _MEMBERS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name not in _OPTIONAL):
                raise _error(name, f"want a {kind.__name__}", value)

    @classmethod
    def preset(cls, name: str, size: int = 224) -> Self:
        """The preset ``name`` at view edge ``size``: "rrc", "rrc+ra+re" (ImageNet+'s recommended one) or with "+mixing"."""
        if not isinstance(name, str) or name not in _PRESETS:
            raise SpecError(f"augmentation preset: want one of {', '.join(_PRESETS)}, got {brief(name)}")
        return cls(size=size, **_PRESETS[name])

    @property
    def name(self) -> str | None:
        """The name of the preset that this spec equals at its own size, or None."""
        return next((name for name in _PRESETS if self == self.preset(name, self.size)), None)

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
        """The spec as JSON-able dict; optional members that are None are left out."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        members = {name: _plain(out.pop(name)) for name in _MEMBERS if out[name] is not None}
        out = {name: value for name, value in out.items() if name not in _MEMBERS}
        return out | members

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``.

        Optional members may be absent or null; every other field must be there, so that a stored spec
        never depends on the defaults of the version that reads it.

        Raises:
          SpecError: on unknown or missing fields and on values out of range.
        """
        values = _checked_fields(cls, "", data)
        for name, kind in _MEMBERS.items():
            if values.get(name) is not None:
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
    values = {f.name: getattr(member, f.name) for f in fields(member)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _checked_fields(cls: type, where: str, data: Any) -> dict[str, Any]:
    """``data`` as keyword arguments of the dataclass ``cls``: a mapping with no unknown or missing field."""
    place = where or "spec"
    if not isinstance(data, Mapping):
        raise _error(place, "want a JSON object", data)
    known = {f.name for f in fields(cls)}
    unknown = sorted(brief(name, 40) for name in data if name not in known)
    if unknown:
        raise SpecError(
            f"augmentation {place}: unknown field(s) {', '.join(unknown[:10])}; known: {', '.join(sorted(known))}"
        )
    missing = sorted(known - data.keys() - (_OPTIONAL if not where else frozenset()))
    if missing:
        raise SpecError(f"augmentation {place}: missing field(s) {', '.join(missing)}")
    return dict(data)


def _set(target: object, name: str, value: object) -> None:
    object.__setattr__(target, name, value)  # the dataclasses are frozen


def _error(name: str, want: str, value: object) -> SpecError:
    return SpecError(f"augmentation {name}: {want}, got {brief(value)}")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _error(name, f"want an integer in {low}..{high}", value)


def _number(value: object) -> TypeGuard[float]:
    # A whole number may be too large for a float, and for math.isfinite.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _probability(name: str, value: object) -> float:
    if not _number(value) or not 0 <= value <= 1:
        raise _error(name, "want a probability in 0..1", value)
    return float(value)


def _interval(name: str, value: object, at_most: float = math.inf) -> tuple[float, float]:
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_number, value)):
        low, high = map(float, value)
        if 0 < low <= high <= at_most:
            return low, high
    bound = "" if at_most == math.inf else f" <= {at_most:g}"
    raise _error(name, f"want two numbers 0 < low <= high{bound}", value)


# A further optional member is a dataclass, a field of AugmentationSpec and a line in each of these.
_MEMBERS: Final[dict[str, type]] = {
    "crop": RandomResizedCrop,
    "rand_augment": RandAugment,
    "random_erasing": RandomErasing,
    "mixing": Mixing,
}
_OPTIONAL: Final = frozenset({"rand_augment", "random_erasing", "mixing"})
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
_PRESETS: Final[dict[str, dict[str, Any]]] = {
    "rrc": {},
    "rrc+mixing": {"mixing": Mixing()},
    "rrc+ra+re": {"rand_augment": RandAugment(), "random_erasing": RandomErasing()},
    "rrc+mixing+ra+re": {"rand_augment": RandAugment(), "random_erasing": RandomErasing(), "mixing": Mixing()},
}
