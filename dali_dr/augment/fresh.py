"""Views that are drawn while training instead of stored: what to draw, as users say it and as `fn.dr.read` takes it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Final, Literal

from dali_dr.augment.draw import magnitude_table
from dali_dr.augment.spec import INTERPOLATIONS, AugmentationSpec
from dali_dr.errors import SpecError

DEFAULT_SIZE: Final = 224
_CENTRE_PART: Final = 0.875  # of the resized image, that an evaluation shows: 224 of 256


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
            object.__setattr__(self, "resize", math.floor(self.size / _CENTRE_PART))
        if not 1 <= self.size <= self.resize:
            raise SpecError(f"evaluation: want 1 <= size <= resize, got size {self.size} and resize {self.resize}")
        if self.interpolation not in INTERPOLATIONS:
            raise SpecError(
                f"evaluation interpolation: want one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )


Augment = AugmentationSpec | Evaluation | str
"""What to show: a spec, the name of a preset ("rrc", "rrc+ra+re"), an Evaluation or "eval"."""


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
        return Evaluation(size) if augment == "eval" else AugmentationSpec.preset(augment, size)
    if not isinstance(augment, (AugmentationSpec, Evaluation)):
        raise SpecError(f"augment: want an AugmentationSpec, an Evaluation, or a name, got {augment!r}")
    if isinstance(augment, Evaluation) and size is not None and size != augment.size:
        # Another size shows the same part of the image.
        return replace(augment, size=size, resize=max(size, round(augment.resize * size / augment.size)))
    if getattr(augment, "mixing", None) is not None:
        raise SpecError("augment: views drawn while training are mixed as batches: use dali_dr.mixing.BatchMixing")
    return augment


def fresh_seed(seed: int) -> int:
    """The seed of fresh views beside stored ones: apart from `seed`, with which the stored ones may have been drawn."""
    return int.from_bytes(hashlib.blake2b(f"fresh {seed}".encode(), digest_size=8).digest(), "little")


def draw_argument(spec: AugmentationSpec | Evaluation, seed: int) -> str:
    """The argument ``draw`` of `fn.dr.read` (format: csrc/draw/draw.h).

    Fresh view number n of a sample is then what `dali_dr.augment.draw.draw` gives for (spec, seed mod 2^64, the
    sample's key, n). MixUp and CutMix of the spec are left out: a fresh view shows its own image alone.
    """
    if isinstance(spec, Evaluation):
        return "whole"
    fields: dict[str, object] = {"seed": seed % 2**64, "size": spec.size, "flip": spec.flip}
    fields |= {"crop_scale": spec.crop.scale, "crop_ratio": spec.crop.ratio}
    augment, erasing = spec.rand_augment, spec.random_erasing
    fields["num_ops"] = augment.num_ops if augment else 0
    if augment:
        fields["magnitudes"] = tuple(magnitude_table(augment, spec.size).tolist())
    fields["erase_probability"] = erasing.probability if erasing else 0.0
    if erasing and erasing.probability > 0:
        fields |= {"erase_scale": erasing.scale, "erase_ratio": erasing.ratio}
    # repr of a float is its shortest decimal form, which reads back as the same bits.
    return " ".join(
        f"{name}={','.join(map(repr, value)) if isinstance(value, tuple) else repr(value)}"
        for name, value in fields.items()
    )
