"""Views that are drawn while training instead of stored: what to draw, as users say it and as `fn.dr.read` takes it."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from dali_dr.augment.op_tables import OpTables
from dali_dr.augment.spec import CENTRE_PART, INTERPOLATIONS, AugmentationSpec, FixedResizeCrop, RandomResizedCrop
from dali_dr.errors import SpecError

DEFAULT_SIZE: Final = 224


@dataclass(frozen=True)
class Evaluation:
    """The view that models are evaluated on: torchvision's Resize(resize) and CenterCrop(size), in every byte of its PIL path.

    Attributes:
      size: edge of the square view, in pixels.
      resize: the length to which the image's shorter side is resized first, at least `size`; 0 (the default) is
        size / 0.875, rounded down as timm does, hence 256 for 224.
      interpolation: Pillow filter of the resize, "bilinear" or "bicubic".
    """

    size: int = DEFAULT_SIZE
    resize: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if self.resize == 0:
            object.__setattr__(self, "resize", math.floor(self.size / CENTRE_PART))
        if not 1 <= self.size <= self.resize:
            raise SpecError(f"evaluation: want 1 <= size <= resize, got size {self.size} and resize {self.resize}")
        if self.interpolation not in INTERPOLATIONS:
            raise SpecError(
                f"evaluation interpolation: want one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )


Augment = AugmentationSpec | Evaluation | str
"""What to show: a spec, the name of a preset ("rrc", "rrc+ra+re" and so on), an Evaluation or "eval"."""


def resolve_augment(
    augment: Augment, stored: AugmentationSpec | None = None, size: int | None = None
) -> AugmentationSpec | Evaluation:
    """What a user's ``augment`` means.

    Args:
      augment: see `Augment`.
      stored: the spec of the data set, if it has one; names take its size unless ``size`` is given.
      size: the size that the user wants, or None.

    Raises:
      SpecError: an unknown name, or a spec with mixing, which is done on batches instead (`dali_dr.mixing`).
    """
    if isinstance(augment, str):
        size = size or (stored.size if stored else DEFAULT_SIZE)
        if augment == "eval":
            return Evaluation(size)
        augment = AugmentationSpec.preset(augment, size)
    if not isinstance(augment, (AugmentationSpec, Evaluation)):
        raise SpecError(f"augment: want an AugmentationSpec, an Evaluation, or a name, got {augment!r}")
    if isinstance(augment, Evaluation) and size is not None and size != augment.size:
        # Another size shows the same part of the image.
        return replace(augment, size=size, resize=max(size, round(augment.resize * size / augment.size)))
    if getattr(augment, "mixing", None) is not None:
        raise SpecError("augment: views drawn while training are mixed as batches: use dali_dr.mixing.BatchMixing")
    return augment


def resize_of(spec: AugmentationSpec | Evaluation) -> int:
    """The length in pixels to which an image's shorter side is resized before the view is cut out of it; 0: the crop is
    resized to the view. As `fn.dr.replay` takes it.
    """
    if isinstance(spec, Evaluation):
        return spec.resize
    return spec.crop.resize if isinstance(spec.crop, FixedResizeCrop) else 0


def fresh_seed(seed: int) -> int:
    """The seed of fresh views beside stored ones: apart from `seed`, with which the stored ones may have been drawn."""
    return int.from_bytes(hashlib.blake2b(f"fresh {seed}".encode(), digest_size=8).digest(), "little")


def draw_arguments(spec: AugmentationSpec | Evaluation, seed: int) -> dict[str, Any]:
    """The arguments ``draw_...`` of `fn.dr.read`, which makes fresh views from them.

    Fresh view number n of a sample is then what `dali_dr.augment.draw.draw` gives for (spec, seed mod 2^64, the
    sample's key, n). MixUp and CutMix of the spec are left out: a fresh view shows its own image alone. DALI has no
    float64 arguments, so these travel as their bits, in ints (csrc/operators/draw_arguments.cc).
    """
    if isinstance(spec, Evaluation):
        return {"draw_whole": True}
    arguments: dict[str, Any] = {
        "draw_seed": int.from_bytes((seed % 2**64).to_bytes(8, "little"), "little", signed=True),
        "draw_size": spec.size,
        "draw_flip": _bits(spec.flip)[0],
        **_crop_arguments(spec.crop),
        **_operation_arguments(OpTables.of(spec)),
    }
    erasing = spec.random_erasing
    if erasing and erasing.probability > 0:
        arguments |= {
            "draw_erase_probability": _bits(erasing.probability)[0],
            "draw_erase_scale": _bits(*erasing.scale),
            "draw_erase_ratio": _bits(*erasing.ratio),
        }
    return arguments


def _crop_arguments(crop: RandomResizedCrop | FixedResizeCrop) -> dict[str, Any]:
    if isinstance(crop, FixedResizeCrop):
        return {"draw_resize": crop.resize, "draw_random_window": crop.random}
    return {"draw_crop_scale": _bits(*crop.scale), "draw_crop_ratio": _bits(*crop.ratio)}


def _operation_arguments(tables: OpTables) -> dict[str, Any]:
    """Those of the operations that are drawn. Magnitudes are float32, which DALI keeps."""
    arguments: dict[str, Any] = {}
    if tables.jitter_ops:
        arguments |= {
            "draw_jitter_probability": _bits(tables.jitter)[0],
            "draw_jitter_ops": list(tables.jitter_ops),
            "draw_jitter_magnitudes": tables.jitter_magnitudes.ravel().tolist(),
        }
    if tables.greyscale > 0:
        arguments["draw_greyscale"] = _bits(tables.greyscale)[0]
    if len(tables.blur_radii):
        arguments |= {"draw_blur_probability": _bits(tables.blur)[0], "draw_blur_radii": tables.blur_radii.tolist()}
    if len(tables.policies):
        arguments |= {
            "draw_policy_ops": tables.policies.ravel().tolist(),
            "draw_policy_probabilities": _bits(*tables.policy_probabilities.ravel().tolist()),
            "draw_policy_magnitudes": tables.policy_magnitudes.ravel().tolist(),
        }
    if tables.num_ops:
        arguments |= {"draw_num_ops": tables.num_ops, "draw_magnitudes": tables.magnitudes.ravel().tolist()}
        if tables.levelled:
            arguments |= {
                "draw_level_ends": _bits(*tables.level_ends.tolist()),
                "draw_op_probability": _bits(tables.probability)[0],
            }
    return arguments


def _bits(*values: float) -> list[int]:
    """Each value's float64 bits as an int64."""
    return list(struct.unpack(f"<{len(values)}q", struct.pack(f"<{len(values)}d", *values)))
