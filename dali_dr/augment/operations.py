"""The operations of views: the one list of their names, numbers, magnitudes and what each does to a Pillow image.

Sources: ``torchvision.transforms.RandAugment._augmentation_space``, ``autoaugment._apply_op`` (NEAREST, no fill) and
``_functional_pil.adjust_hue``, BSD-3-Clause, whose PIL path makes the same Pillow calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

BLACK: Final = (0, 0, 0)


class Strength(Protocol):
    """How strong an operation is: RandAugment's index, which may lie between two whole ones, of so many strengths."""

    @property
    def magnitude(self) -> float: ...

    @property
    def num_bins(self) -> int: ...


Magnitude = Callable[[Strength, int], float | np.float32]
"""RandAugment's unsigned physical magnitude, of a strength and the edge of the view in pixels."""

Apply = Callable[[Image.Image, float, int], Image.Image]
"""The operation on an RGB image with a signed physical magnitude, that was drawn for a view of this edge in pixels."""


@dataclass(frozen=True)
class Operation:
    """An operation; its number is its place in ``OPERATIONS``.

    Attributes:
      name: torchvision's.
      apply: what it does.
      magnitude: how strong RandAugment makes it; of operations that it does not draw, ``_none``.
      signed: whether half of RandAugment's draws are negative.
      least, most: limits of a stored magnitude, both possible.
      whole: whether a stored magnitude is a whole number.
    """

    name: str
    apply: Apply
    magnitude: Magnitude
    signed: bool = False
    least: float = -math.inf
    most: float = math.inf
    whole: bool = False


def _none(spec: Strength, size: int) -> float:
    return 0.0


def _between(first: float, last: float) -> Magnitude:
    """Evenly spaced strengths."""
    return lambda spec, size: linspace(first, last, spec.num_bins, spec.magnitude)


def _shift(spec: Strength, size: int) -> np.float32:
    """Pixels."""
    return linspace(0.0, 150.0 / 331.0 * size, spec.num_bins, spec.magnitude)


def _kept_bits(spec: Strength, size: int) -> np.float32:
    return np.float32(8 - np.rint(np.float32(spec.magnitude) / np.float32((spec.num_bins - 1) / 4)))


def linspace(first: float, last: float, bins: int, index: float) -> np.float32:
    """``torch.linspace(first, last, bins)[index]``: a float32 step, multiplied and added to the nearer end.

    Rounded once (fused), as torch's AVX2 kernel does; its scalar kernel rounds twice and differs by an ulp in
    few places, none of them at magnitude 9 of 31. An index between two whole ones gives what lies between.
    """
    low, high = np.float32(first), np.float32(last)
    step = float((high - low) / np.float32(bins - 1))
    if index < bins // 2:
        return np.float32(float(low) + step * index)
    return np.float32(float(high) - step * (bins - 1 - index))


def _identity(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return image


def _shear_x(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return _affine(image, (1.0, math.tan(_shear_angle(magnitude)), 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    angle = _shear_angle(magnitude)  # torchvision divides sine by cosine here and takes the tangent above
    return _affine(image, (1.0, 0.0, 0.0, math.sin(angle) / math.cos(angle), 1.0, 0.0))


def _translate_x(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return _affine(image, (1.0, 0.0, -_translation(magnitude, image.width, size), 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, -_translation(magnitude, image.height, size)))


def _rotate(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return image.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=BLACK)


def _enhance(kind: Callable[[Image.Image], Any]) -> Apply:
    """The operation of one of Pillow's enhancers; a magnitude is the factor minus 1."""

    def apply(image: Image.Image, magnitude: float, size: int) -> Image.Image:
        enhanced: Image.Image = kind(image).enhance(1.0 + magnitude)
        return enhanced

    return apply


def _posterize(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return ImageOps.posterize(image, int(magnitude))


def _solarize(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return ImageOps.solarize(image, magnitude)  # type: ignore[arg-type]  # torchvision passes a float too


def _auto_contrast(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    return ImageOps.equalize(image)


def _hue(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = np.int32(magnitude * 255).astype(np.uint8)  # cut towards zero; a negative one wraps around
    turned = Image.fromarray(np.asarray(hue) + shift)
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _gaussian_blur(image: Image.Image, magnitude: float, size: int) -> Image.Image:
    width, height = (float(np.float32(magnitude * edge / size)) for edge in image.size)
    return image.filter(ImageFilter.GaussianBlur((width, height)))


def _shear_angle(magnitude: float) -> float:
    """The angle in radians, by torchvision's way through atan and degrees, so that every bit agrees."""
    return math.radians(math.degrees(math.atan(magnitude)))


def _translation(magnitude: float, out_size: int, stored_size: int) -> int:
    """Whole pixels: cut to an integer as torchvision does, then rescaled, alike to either side."""
    pixels = rescale(int(abs(magnitude)), out_size, stored_size)
    return -pixels if magnitude < 0 else pixels


def rescale(pixels: int, out_size: int, stored_size: int) -> int:
    """floor(pixels * out_size / stored_size + 1/2), exactly: an edge or shift at another size than the stored one."""
    return (2 * pixels * out_size + stored_size) // (2 * stored_size)


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Nearest-neighbour transform by an inverse matrix (output to input), black outside."""
    data: Any = matrix
    return image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.NEAREST, fillcolor=BLACK)


# RandAugment's in torchvision's order, then others. Numbers are in records and in csrc/view/layout.h: a further
# operation goes to the end. Greyscale is Color of magnitude -1, inversion Solarize of magnitude 0.
OPERATIONS: Final = (
    Operation("Identity", _identity, _none),
    Operation("ShearX", _shear_x, _between(0.0, 0.3), signed=True),
    Operation("ShearY", _shear_y, _between(0.0, 0.3), signed=True),
    Operation("TranslateX", _translate_x, _shift, signed=True),
    Operation("TranslateY", _translate_y, _shift, signed=True),
    Operation("Rotate", _rotate, _between(0.0, 30.0), signed=True),
    Operation("Brightness", _enhance(ImageEnhance.Brightness), _between(0.0, 0.9), signed=True),
    Operation("Color", _enhance(ImageEnhance.Color), _between(0.0, 0.9), signed=True),
    Operation("Contrast", _enhance(ImageEnhance.Contrast), _between(0.0, 0.9), signed=True),
    Operation("Sharpness", _enhance(ImageEnhance.Sharpness), _between(0.0, 0.9), signed=True),
    Operation("Posterize", _posterize, _kept_bits),
    Operation("Solarize", _solarize, _between(255.0, 0.0)),
    Operation("AutoContrast", _auto_contrast, _none),
    Operation("Equalize", _equalize, _none),
    Operation("Hue", _hue, _none, least=-0.5, most=0.5),
    Operation("GaussianBlur", _gaussian_blur, _none, least=math.ulp(0.0)),
    # These change no pixel: they say where the view begins in the image of a fixed resize.
    Operation("WindowTop", _identity, _none, least=0.0, whole=True),
    Operation("WindowLeft", _identity, _none, least=0.0, whole=True),
)
RAND_AUGMENT_OPERATIONS: Final = OPERATIONS[:14]
_LEAST: Final = np.array([operation.least for operation in OPERATIONS], np.float64)
_MOST: Final = np.array([operation.most for operation in OPERATIONS], np.float64)
_WHOLE: Final = np.array([operation.whole for operation in OPERATIONS])
OP_NAMES: Final = tuple(operation.name for operation in OPERATIONS)


def outside_limits(ops: npt.NDArray[np.uint8], magnitudes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where a finite magnitude is none that its operation can be stored with; of the shape of both."""
    outside: npt.NDArray[np.bool_] = (magnitudes < _LEAST[ops]) | (magnitudes > _MOST[ops])
    outside |= _WHOLE[ops] & (magnitudes != np.rint(magnitudes))
    return outside
