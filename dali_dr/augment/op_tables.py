"""The operations of drawn views: tables of what a spec draws from, and the draws. C++ draws from the same tables.

Magnitudes are torchvision's. Those that it draws from a range are drawn here from a few values of it, because each value
that a record's views have takes five bytes of the record, and its number one byte in each view.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dali_dr.augment.members import MAX_OPS, AutoAugment, ColourJitter, GaussianBlur, RandAugment, TrivialAugmentWide
from dali_dr.augment.operations import OP_NAMES, OPERATIONS, RAND_AUGMENT_OPERATIONS, linspace
from dali_dr.augment.spec import AugmentationSpec

LEVELS: Final = 32  # values of a range that is drawn evenly: the middles of as many equal parts
_DEVIATION_STEPS: Final = 2  # values of RandAugment's index within one deviation
_DEVIATIONS: Final = 4  # to either side; beyond lie 6e-5 of a normal distribution
_POLICY_BINS: Final = 10  # strengths of AutoAugment, within RandAugment's ranges

_Floats = npt.NDArray[np.float64]
_Magnitudes = npt.NDArray[np.float32]
Stream = tuple[int, int]
Uniforms = Callable[[Stream], _Floats]
"""Gives the uniforms in [0, 1) of one stream for every view: float64 (N, words per view)."""

# Streams, see `dali_dr.augment.draw`. With 3 added, those of the partner's view.
OPS_STREAM: Final[Stream] = (2, 2 * MAX_OPS)  # 2i operation, 2i+1 sign
LEVEL_STREAM: Final[Stream] = (17, 2 * MAX_OPS)  # 2i index, 2i+1 gate; AutoAugment: policy; two gates; two signs
COLOUR_STREAM: Final[Stream] = (18, 12)  # jitter's gate, order, 4 factors; greyscale; blur's gate, radius; 3 are unused

_IDENTITY: Final = OP_NAMES.index("Identity")
_COLOR: Final = OP_NAMES.index("Color")
_BLUR: Final = OP_NAMES.index("GaussianBlur")
_SIGNED: Final = np.array([operation.signed for operation in OPERATIONS])
# torchvision's order of the four, in which their numbers are permuted.
_JITTER: Final = (("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color"), ("hue", "Hue"))

# `TrivialAugmentWide._augmentation_space`: the strongest, where that is not RandAugment's. Shifts in pixels, Rotate in
# degrees; Posterize leaves 2 bits at least.
_WIDE: Final = {
    **dict.fromkeys(("ShearX", "ShearY"), 0.99),
    **dict.fromkeys(("TranslateX", "TranslateY"), 32.0),
    "Rotate": 135.0,
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.99),
}
_WIDE_BITS: Final = 6  # that Posterize takes away at most

_Step = tuple[str, float, int]
# `AutoAugment._get_policies(IMAGENET)`: operation, probability, index of its strength (0 where it has none). "Invert" is
# Solarize with threshold 0.
_IMAGENET: Final[tuple[tuple[_Step, _Step], ...]] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)


class _Strength(NamedTuple):
    """What an operation's magnitude depends on; the index may lie between two whole ones."""

    magnitude: float
    num_bins: int


def _no_floats(*shape: int) -> _Floats:
    return np.zeros(shape, np.float64)


def _no_magnitudes(*shape: int) -> _Magnitudes:
    return np.zeros(shape, np.float32)


@dataclass(frozen=True, eq=False)
class OpTables:
    """What the operations of views are drawn from; magnitudes are those of records, at the spec's size.

    Attributes:
      jitter: probability of colour jitter.
      jitter_ops: (k,) numbers of its operations, in torchvision's order.
      jitter_magnitudes: float32 (k, LEVELS), each as likely as the others.
      greyscale: its probability.
      blur: its probability.
      blur_radii: float32 (LEVELS,), each as likely; none without blur.
      policies: int64 (P, 2), pairs of operations, each as likely; P is 0 without AutoAugment.
      policy_probabilities: float64 (P, 2) of each operation of a pair to be applied.
      policy_magnitudes: float32 (P, 2), unsigned.
      num_ops: operations of RandAugment or TrivialAugmentWide.
      probability: of each of them to be applied.
      level_ends: float64 (L,), rising to 1: level l is drawn where l is the first whose end is above the uniform.
      magnitudes: float32 (L, 14), unsigned: of each operation at each level.
    """

    jitter: float = 0.0
    jitter_ops: tuple[int, ...] = ()
    jitter_magnitudes: _Magnitudes = field(default_factory=lambda: _no_magnitudes(0, LEVELS))
    greyscale: float = 0.0
    blur: float = 0.0
    blur_radii: _Magnitudes = field(default_factory=lambda: _no_magnitudes(0))
    policies: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    policy_probabilities: _Floats = field(default_factory=lambda: _no_floats(0, 2))
    policy_magnitudes: _Magnitudes = field(default_factory=lambda: _no_magnitudes(0, 2))
    num_ops: int = 0
    probability: float = 1.0
    level_ends: _Floats = field(default_factory=lambda: np.ones(1))
    magnitudes: _Magnitudes = field(default_factory=lambda: _no_magnitudes(1, len(RAND_AUGMENT_OPERATIONS)))

    @classmethod
    def of(cls, spec: AugmentationSpec) -> OpTables:
        """The tables of a spec."""
        members: dict[str, object] = {"greyscale": spec.greyscale}
        if spec.colour_jitter is not None:
            members |= _jitter_tables(spec.colour_jitter)
        if spec.blur is not None:
            members |= _blur_tables(spec.blur)
        if spec.auto_augment is not None:
            members |= _policy_tables(spec.auto_augment, spec.size)
        if spec.trivial_augment is not None:
            members |= _wide_tables(spec.trivial_augment)
        if spec.rand_augment is not None:
            members |= _rand_tables(spec.rand_augment, spec.size)
        return cls(**members)  # type: ignore[arg-type]  # each of its own type

    @property
    def levelled(self) -> bool:
        """Whether RandAugment's or TrivialAugmentWide's operations differ in more than kind and sign."""
        return len(self.level_ends) > 1 or self.probability < 1


def magnitude_table(spec: RandAugment, size: int) -> _Magnitudes:
    """RandAugment's unsigned physical magnitude of each operation on a square view: float32 (14,)."""
    return _magnitudes_at(spec.magnitude, spec.num_bins, size)


def _magnitudes_at(index: float, num_bins: int, size: int) -> _Magnitudes:
    strength = _Strength(index, num_bins)
    return np.array([operation.magnitude(strength, size) for operation in RAND_AUGMENT_OPERATIONS], np.float32)


def _middles(low: float, high: float) -> _Floats:
    """The values of a range that are drawn: float64 (LEVELS,)."""
    return low + (high - low) * (np.arange(LEVELS) + 0.5) / LEVELS


def _jitter_tables(spec: ColourJitter) -> dict[str, object]:
    ops, magnitudes = [], []
    for name, operation in _JITTER:
        width = getattr(spec, name)
        if width > 0:
            ops.append(OP_NAMES.index(operation))
            magnitudes.append(_middles(-width if name == "hue" else max(-1.0, -width), width))
    return {
        "jitter": spec.probability,
        "jitter_ops": tuple(ops),
        "jitter_magnitudes": np.array(magnitudes).astype(np.float32),
    }


def _blur_tables(spec: GaussianBlur) -> dict[str, object]:
    return {"blur": spec.probability, "blur_radii": _middles(*spec.radius).astype(np.float32)}


def _policy_tables(spec: AutoAugment, size: int) -> dict[str, object]:
    def number(name: str) -> int:
        return OP_NAMES.index("Solarize" if name == "Invert" else name)

    def magnitude(name: str, index: int) -> float:
        return (
            0.0 if name == "Invert" else float(OPERATIONS[number(name)].magnitude(_Strength(index, _POLICY_BINS), size))
        )

    return {
        "policies": np.array([[number(name) for name, _, _ in pair] for pair in _IMAGENET]),
        "policy_probabilities": np.array([[probability for _, probability, _ in pair] for pair in _IMAGENET]),
        "policy_magnitudes": np.array([[magnitude(n, i) for n, _, i in pair] for pair in _IMAGENET]).astype(np.float32),
    }


def _wide_tables(spec: TrivialAugmentWide) -> dict[str, object]:
    bins = spec.num_bins
    table = np.stack([_magnitudes_at(index, bins, 1) for index in range(bins)])
    for name, most in _WIDE.items():
        table[:, OP_NAMES.index(name)] = [linspace(0.0, most, bins, index) for index in range(bins)]
    taken = np.rint(np.arange(bins, dtype=np.float32) / np.float32((bins - 1) / _WIDE_BITS))
    table[:, OP_NAMES.index("Posterize")] = 8 - taken
    return {"num_ops": 1, "level_ends": np.arange(1, bins + 1) / bins, "magnitudes": table}


def _rand_tables(spec: RandAugment, size: int) -> dict[str, object]:
    tables: dict[str, object] = {"num_ops": spec.num_ops, "probability": spec.probability}
    if spec.magnitude_std == 0:
        return tables | {"magnitudes": magnitude_table(spec, size)[None]}
    steps = range(-_DEVIATIONS * _DEVIATION_STEPS, _DEVIATIONS * _DEVIATION_STEPS + 1)
    indices = [spec.magnitude + spec.magnitude_std * step / _DEVIATION_STEPS for step in steps]
    # The normal distribution function half a step above each value.
    ends = [0.5 * (1 + math.erf((step + 0.5) / _DEVIATION_STEPS / math.sqrt(2))) for step in steps[:-1]]
    return tables | {
        "level_ends": np.array([*ends, 1.0]),
        "magnitudes": np.stack(
            [_magnitudes_at(min(max(index, 0.0), spec.num_bins - 1), spec.num_bins, size) for index in indices]
        ),
    }


def draw_ops(tables: OpTables, uniforms: Uniforms, count: int) -> tuple[npt.NDArray[np.uint8], _Magnitudes]:
    """The operations of ``count`` views, but those of a window: numbers and magnitudes, (N, n) each."""
    ops, magnitudes = np.zeros((count, 0), np.uint8), _no_magnitudes(count, 0)
    for more, strengths in _draw_parts(tables, uniforms):
        ops, magnitudes = np.hstack([ops, more.astype(np.uint8)]), np.hstack([magnitudes, strengths])
    return ops, magnitudes


def _draw_parts(tables: OpTables, uniforms: Uniforms) -> list[tuple[npt.NDArray[np.int64], _Magnitudes]]:
    """The operations of each kind of augmentation, in their order."""
    parts = []
    if tables.jitter_ops or tables.greyscale > 0 or len(tables.blur_radii):
        parts += _draw_colour(tables, uniforms(COLOUR_STREAM))
    if len(tables.policies):
        parts.append(_draw_policy(tables, uniforms(LEVEL_STREAM)))
    if tables.num_ops:
        parts.append(_draw_automatic(tables, uniforms))
    return parts


def _gated(
    gate: npt.NDArray[np.bool_], ops: npt.NDArray[np.int64], magnitudes: _Magnitudes
) -> tuple[npt.NDArray[np.int64], _Magnitudes]:
    """Operations (N, k) where ``gate`` (N, 1) or (N, k) is open, else Identity with magnitude 0."""
    return np.where(gate, ops, _IDENTITY), np.where(gate, magnitudes, np.float32(0))


def _level(u: _Floats) -> npt.NDArray[np.int64]:
    return np.floor(u * LEVELS).astype(np.int64)


def _draw_colour(tables: OpTables, u: _Floats) -> list[tuple[npt.NDArray[np.int64], _Magnitudes]]:
    parts = []
    if tables.jitter_ops:
        kinds = _permutation(u[:, 1], len(tables.jitter_ops))
        levels = _level(np.take_along_axis(u[:, 2:6], kinds, axis=1))
        ops = np.array(tables.jitter_ops)[kinds]
        parts.append(_gated(u[:, :1] < tables.jitter, ops, tables.jitter_magnitudes[kinds, levels]))
    if tables.greyscale > 0:
        parts.append(
            _gated(u[:, 6:7] < tables.greyscale, np.full((len(u), 1), _COLOR), np.full((1, 1), -1, np.float32))
        )
    if len(tables.blur_radii):
        radii = tables.blur_radii[_level(u[:, 8:9])]
        parts.append(_gated(u[:, 7:8] < tables.blur, np.full((len(u), 1), _BLUR), radii))
    return parts


def _permutation(u: _Floats, count: int) -> npt.NDArray[np.int64]:
    """Permutations of 0..count-1, (N, count): number floor(count! * u) in lexicographic order."""
    left = np.tile(np.arange(count), (len(u), 1))
    code, order = np.floor(math.factorial(count) * u).astype(np.int64), []
    for place in range(count - 1, -1, -1):
        chosen, code = np.divmod(code, math.factorial(place))
        order.append(np.take_along_axis(left, chosen[:, None], axis=1)[:, 0])
        left = left[np.arange(place + 1) != chosen[:, None]].reshape(len(u), place)
    return np.stack(order, axis=1)


def _draw_policy(tables: OpTables, u: _Floats) -> tuple[npt.NDArray[np.int64], _Magnitudes]:
    pair = np.floor(u[:, 0] * len(tables.policies)).astype(np.int64)
    ops = tables.policies[pair]
    magnitudes = _with_sign(ops, tables.policy_magnitudes[pair], u[:, 3:5])
    return _gated(u[:, 1:3] < tables.policy_probabilities[pair], ops, magnitudes)


def _draw_automatic(tables: OpTables, uniforms: Uniforms) -> tuple[npt.NDArray[np.int64], _Magnitudes]:
    """RandAugment's or TrivialAugmentWide's."""
    n, u = tables.num_ops, uniforms(OPS_STREAM)
    ops = np.floor(u[:, 0 : 2 * n : 2] * len(RAND_AUGMENT_OPERATIONS)).astype(np.int64)
    signs = u[:, 1 : 2 * n : 2]
    if not tables.levelled:
        return ops, _with_sign(ops, tables.magnitudes[0][ops], signs)
    u = uniforms(LEVEL_STREAM)
    levels = np.searchsorted(tables.level_ends, u[:, 0 : 2 * n : 2], side="right")
    magnitudes = _with_sign(ops, tables.magnitudes[levels, ops], signs)
    return _gated(u[:, 1 : 2 * n : 2] < tables.probability, ops, magnitudes)


def _with_sign(ops: npt.NDArray[np.int64], magnitudes: _Magnitudes, u: _Floats) -> _Magnitudes:
    """Half of the signed ones negative; never -0.0, which a record would tell from 0.0."""
    negative = _SIGNED[ops] & (u < 0.5) & (magnitudes != 0)
    return np.where(negative, -magnitudes, magnitudes)
