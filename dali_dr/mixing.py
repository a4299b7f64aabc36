"""MixUp and CutMix of finished batches, drawn statelessly from (seed, epoch, step), for any targets that mix linearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from dali_dr.record.labels import densify

Targets = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""Class ids (B,) of an integer type, dense targets (B, C), or sparse (soft_ids, soft_probs), (B, K) each."""


@dataclass(frozen=True)
class BatchMixing:
    """MixUp (arXiv 1710.09412) or CutMix (arXiv 1905.04899) of every image with the one at the other end of the batch.

    The formulas, their order and the parameters are those of `timm.data.Mixup` (Apache-2.0). Unlike there, what is drawn
    depends on nothing but (seed, epoch, step, rank), so that a resumed run mixes as the uninterrupted one would have;
    targets may be soft; and the batch may have an odd number of images, whose middle one is mixed with itself.

    Attributes:
      mixup_alpha, cutmix_alpha: of the Beta distributions; 0 turns the one off.
      probability: of mixing a batch (or an image, with mode="elem").
      switch_probability: of CutMix instead of MixUp, where both are on.
      mode: "batch", one draw for all images, or "elem", one for each.
      label_smoothing: of class ids, before they are mixed; soft targets are taken as they are.
      layout: of the images, "CHW" or "HWC".
      seed: of the draws.
      rank: this process's number; every rank draws for itself.

    Raises:
      ValueError: a value out of range.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5
    mode: Literal["batch", "elem"] = "batch"
    label_smoothing: float = 0.0
    layout: Literal["CHW", "HWC"] = "CHW"
    seed: int = 0
    rank: int = 0

    def __post_init__(self) -> None:
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0 or self.mixup_alpha + self.cutmix_alpha == 0:
            raise ValueError(f"want alphas of 0 or more, one above: {self.mixup_alpha}, {self.cutmix_alpha}")
        for name in ("probability", "switch_probability", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, want 0 … 1")
        if self.mode not in ("batch", "elem") or self.layout not in ("CHW", "HWC"):
            raise ValueError(
                f'mode {self.mode!r} is not "batch" or "elem", or layout {self.layout!r} not "CHW" or "HWC"'
            )

    def __call__(
        self, images: torch.Tensor, targets: Targets, *, num_classes: int, epoch: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes a batch; on the device of the images, which stay unchanged.

        Args:
          images: (B, 3, H, W), or (B, H, W, 3) with layout="HWC"; floating (MixUp of uint8 would round).
          targets: see `Targets`. What a sparse target leaves to other classes is spread over them evenly.
          num_classes: C.
          epoch, step: of the run; the step counts within its epoch or over all, as long as it does so always.

        Returns:
          Mixed images, of the dtype and shape given, and dense targets (B, C) float32.

        Raises:
          ValueError: images or targets of another shape or type.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(f"want floating images (B, …, …, …), got {images.dtype} {tuple(images.shape)}")
        dense = _dense(targets, num_classes, self.label_smoothing)
        if dense.shape != (len(images), num_classes):
            raise ValueError(f"{len(images)} images with targets {tuple(dense.shape)} of {num_classes} classes")
        axis = 2 if self.layout == "CHW" else 1
        height, width = images.shape[axis : axis + 2]
        random = np.random.default_rng([self.seed % 2**64, self.rank, epoch, step])
        if self.mode == "batch":
            share, box = self._draw_batch(random, height, width)
            return self._mix_batch(images, share, box), dense * share + dense.flip(0) * (1.0 - share)
        shares, boxes = self._draw_each(random, len(images), height, width)
        weight = torch.from_numpy(shares.astype(np.float32)).to(images.device)[:, None]
        mixed = self._mix_each(images, weight.to(images.dtype), torch.from_numpy(boxes).to(images.device))
        return mixed, dense * weight + dense.flip(0) * (1.0 - weight)

    def _draw_batch(
        self, random: np.random.Generator, height: int, width: int
    ) -> tuple[float, tuple[int, int, int, int] | None]:
        """The weight of every image itself, and the CutMix box (top, bottom, left, right) or None."""
        if random.random() >= self.probability:
            return 1.0, None
        cut = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or random.random() < self.switch_probability)
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        lam = float(random.beta(alpha, alpha))
        if not cut or lam == 1:
            return lam, None
        box, lam = _box(random, lam, height, width)
        return lam, box

    def _draw_each(
        self, random: np.random.Generator, count: int, height: int, width: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Weights (B,) and boxes (B, 4), all zero where there is no CutMix."""
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            cut = random.random(count) < self.switch_probability
            by_cut = random.beta(self.cutmix_alpha, self.cutmix_alpha, count)
            drawn = np.where(cut, by_cut, random.beta(self.mixup_alpha, self.mixup_alpha, count))
        else:
            cut = np.full(count, self.cutmix_alpha > 0)
            alpha = self.cutmix_alpha or self.mixup_alpha
            drawn = random.beta(alpha, alpha, count)
        lam = np.where(random.random(count) < self.probability, drawn.astype(np.float32), np.float32(1))
        boxes = np.zeros((count, 4), np.int64)
        for row in np.flatnonzero(cut & (lam != 1)):
            boxes[row], lam[row] = _box(random, lam[row], height, width)
        return lam, boxes

    def _mix_batch(self, images: torch.Tensor, lam: float, box: tuple[int, int, int, int] | None) -> torch.Tensor:
        if lam == 1:
            return images
        partners = images.flip(0)
        if box is None:
            return images * lam + partners * (1.0 - lam)
        mixed = images.clone()
        place = (slice(box[0], box[1]), slice(box[2], box[3]))
        where = (slice(None), slice(None), *place) if self.layout == "CHW" else (slice(None), *place)
        mixed[where] = partners[where]
        return mixed

    def _mix_each(self, images: torch.Tensor, lam: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        partners = images.flip(0)
        axis = 2 if self.layout == "CHW" else 1
        y, x = (torch.arange(images.shape[axis + i], device=images.device) for i in (0, 1))
        rows = (y >= boxes[:, :1]) & (y < boxes[:, 1:2])
        columns = (x >= boxes[:, 2:3]) & (x < boxes[:, 3:])
        inside = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1 if self.layout == "CHW" else 3)
        cut = (boxes[:, 1] > 0)[:, None, None, None]
        blended = images * lam[..., None, None] + partners * (1.0 - lam[..., None, None])
        return torch.where(cut, torch.where(inside, partners, images), blended)


def _box(random: np.random.Generator, lam: float, height: int, width: int) -> tuple[tuple[int, int, int, int], float]:
    """A CutMix box (top, bottom, left, right) for a weight, and the weight that its part inside the image leaves."""
    ratio = np.sqrt(1 - lam)
    box = []
    for length in (height, width):
        edge, centre = int(length * ratio), int(random.integers(0, length))
        box += [max(centre - edge // 2, 0), min(centre + (edge + 1) // 2, length)]
    top, bottom, left, right = box
    return (top, bottom, left, right), 1.0 - (bottom - top) * (right - left) / float(height * width)


def _dense(targets: Targets, num_classes: int, smoothing: float) -> torch.Tensor:
    """Dense targets (B, C) float32."""
    if isinstance(targets, tuple):
        ids, probs = targets
        return densify(ids, probs.float(), num_classes)
    if targets.is_floating_point():
        return targets.float()
    if targets.ndim != 1:
        raise ValueError(
            f"want class ids (B,), dense targets (B, C) or (soft_ids, soft_probs), got {tuple(targets.shape)}"
        )
    off = smoothing / num_classes
    dense = torch.full((len(targets), num_classes), off, device=targets.device)
    return dense.scatter_(1, targets.long()[:, None], 1.0 - smoothing + off)
