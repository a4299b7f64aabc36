"""The members of an augmentation spec: what each kind of augmentation may draw, checked when it is made."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Final, Literal, TypeGuard

from dali_dr.errors import SpecError, brief

MAX_OPS: Final = 8  # RandAugment operations per view; draw() reserves random words for as many
MAX_BINS: Final = 1 << 16  # strengths of RandAugment, of which a spec has one or a few
MAX_WIDE_BINS: Final = 256  # strengths of TrivialAugmentWide, all of which are drawn
MAX_RESIZE: Final = 16384  # pixels
MAX_JITTER: Final = 10.0  # above, views are all but white
MAX_HUE: Final = 0.5  # half a turn: all colours
MAX_RADIUS: Final = 32.0  # pixels
LATER: Final = {"later": True}
"""Metadata of a field that older specs did not have: left out of JSON at its default, which is the old meaning."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """torchvision's RandomResizedCrop: crop area as a fraction of the image, aspect ratio width/height."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        assign(self, "scale", interval("crop.scale", self.scale, at_most=1.0))
        assign(self, "ratio", interval("crop.ratio", self.ratio))


@dataclass(frozen=True)
class FixedResizeCrop:
    """torchvision's Resize(resize), then RandomCrop or CenterCrop of the view's size: ImageNet+'s "CropFlip".

    Attributes:
      resize: length in pixels of the image's shorter side after the resize, at least the view's size.
      random: whether the view lies anywhere in the resized image, each place as likely; else in its centre.
    """

    resize: int = 256
    random: bool = True

    def __post_init__(self) -> None:
        integer("crop.resize", self.resize, 1, MAX_RESIZE)
        flag("crop.random", self.random)


@dataclass(frozen=True)
class RandAugment:
    """torchvision's RandAugment: ``num_ops`` operations at index ``magnitude`` of ``num_bins`` strengths.

    Attributes:
      num_ops: operations per view.
      magnitude: index of their strength.
      num_bins: how many strengths torchvision's ranges are divided into. timm's magnitudes 0 to 10 are those of 11.
      magnitude_std: timm's mstd: each operation's index is drawn from a normal distribution of this deviation around
        ``magnitude``, in steps of half a deviation, and cut to 0..num_bins-1. 0: always ``magnitude``.
      probability: of each operation to be applied; timm's RandAugment has 0.5.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_bins: int = 31
    magnitude_std: float = field(default=0.0, metadata=LATER)
    probability: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        integer("rand_augment.num_ops", self.num_ops, 1, MAX_OPS)
        integer("rand_augment.num_bins", self.num_bins, 2, MAX_BINS)
        integer("rand_augment.magnitude", self.magnitude, 0, self.num_bins - 1)
        assign(self, "magnitude_std", bounded("rand_augment.magnitude_std", self.magnitude_std, self.num_bins))
        assign(self, "probability", probability("rand_augment.probability", self.probability))


@dataclass(frozen=True)
class AutoAugment:
    """torchvision's AutoAugment (Cubuk et al., arXiv 1805.09501): one of 25 pairs of operations per view.

    Attributes:
      policy: whose pairs; "imagenet" is the only one.
    """

    policy: Literal["imagenet"] = "imagenet"

    def __post_init__(self) -> None:
        if self.policy != "imagenet":
            raise error("auto_augment.policy", 'want "imagenet"', self.policy)


@dataclass(frozen=True)
class TrivialAugmentWide:
    """torchvision's TrivialAugmentWide (Müller and Hutter, arXiv 2103.10158): one operation of any strength per view.

    Attributes:
      num_bins: how many strengths its wide ranges are divided into.
    """

    num_bins: int = 31

    def __post_init__(self) -> None:
        integer("trivial_augment.num_bins", self.num_bins, 2, MAX_WIDE_BINS)


@dataclass(frozen=True)
class ColourJitter:
    """torchvision's ColorJitter: brightness, contrast, saturation and hue changed in a random order.

    Attributes:
      brightness, contrast, saturation: x: a factor from max(0, 1 - x) to 1 + x; 0: unchanged.
      hue: x: a shift from -x to x of the colour circle's turn, at most 0.5; 0: unchanged.
      probability: of the whole (MoCo v2: 0.8).
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            assign(self, name, bounded(f"colour_jitter.{name}", getattr(self, name), MAX_JITTER))
        assign(self, "hue", bounded("colour_jitter.hue", self.hue, MAX_HUE))
        assign(self, "probability", probability("colour_jitter.probability", self.probability))
        if not any((self.brightness, self.contrast, self.saturation, self.hue)):
            raise SpecError("augmentation colour_jitter: changes nothing: want one of its four ranges above 0")

    @property
    def num_ops(self) -> int:
        """How many of the four are changed."""
        return sum(x > 0 for x in (self.brightness, self.contrast, self.saturation, self.hue))


@dataclass(frozen=True)
class GaussianBlur:
    """SimCLR's and MoCo v2's blur: Pillow's ``ImageFilter.GaussianBlur``.

    Attributes:
      probability: that a view is blurred.
      radius: (low, high), the range of the blur's standard deviation, in pixels of the view.
    """

    probability: float = 0.5
    radius: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        assign(self, "probability", probability("blur.probability", self.probability))
        assign(self, "radius", interval("blur.radius", self.radius, at_most=MAX_RADIUS))


@dataclass(frozen=True)
class RandomErasing:
    """torchvision's RandomErasing (value 0): area as a fraction of the view, aspect ratio height/width."""

    probability: float = 0.25
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        assign(self, "probability", probability("random_erasing.probability", self.probability))
        assign(self, "scale", interval("random_erasing.scale", self.scale, at_most=1.0))
        assign(self, "ratio", interval("random_erasing.ratio", self.ratio))


def assign(target: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass, in its ``__post_init__``."""
    object.__setattr__(target, name, value)


def error(name: str, want: str, value: object) -> SpecError:
    """The error about the member ``name``."""
    return SpecError(f"augmentation {name}: {want}, got {brief(value)}")


def flag(name: str, value: object) -> None:
    """SpecError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise error(name, "want true or false", value)


def integer(name: str, value: object, low: int, high: int) -> None:
    """SpecError unless ``value`` is an integer in low..high."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise error(name, f"want an integer in {low}..{high}", value)


def number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a finite number."""
    # A whole number may be too large for a float, and for math.isfinite.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def probability(name: str, value: object) -> float:
    """``value`` as a float. SpecError unless it is a number in 0..1."""
    if not number(value) or not 0 <= value <= 1:
        raise error(name, "want a probability in 0..1", value)
    return float(value)


def bounded(name: str, value: object, most: float) -> float:
    """``value`` as a float. SpecError unless it is a number in 0..most."""
    if not number(value) or not 0 <= value <= most:
        raise error(name, f"want a number in 0..{most:g}", value)
    return float(value)


def interval(name: str, value: object, at_most: float = math.inf) -> tuple[float, float]:
    """``value`` as two floats. SpecError unless they are 0 < low <= high <= at_most."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(map(number, value)):
        low, high = map(float, value)
        if 0 < low <= high <= at_most:
            return low, high
    bound = "" if at_most == math.inf else f" <= {at_most:g}"
    raise error(name, f"want two numbers 0 < low <= high{bound}", value)
