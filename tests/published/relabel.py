"""ReLabel's label maps: written as they are published, and the target of a crop as its training computes it."""

from __future__ import annotations

import io
from typing import Any, Literal

import torch

from dali_dr._torchvision import load_torchvision

load_torchvision()
from torchvision.ops import roi_align  # noqa: E402

BoxOrder = Literal["code", "transposed"]


def label_map(classes: int, *, seed: int, depth: int = 5, edge: int = 15, few: int | None = None, **save: Any) -> bytes:
    """A file of one image: float32 [2, depth, edge, edge], scores (falling) and class ids per cell.

    Args:
      classes: ids are below it.
      seed: of what is drawn.
      depth, edge: shape.
      few: classes that an image has in all, as a photo shows few things; None: any.
      save: of `torch.save`.
    """
    torch.manual_seed(seed)
    scores = (6 * torch.randn(depth, edge, edge) + 4).sort(0, descending=True).values
    among = torch.randperm(classes)[: few or classes]
    ids = among[torch.rand(edge, edge, len(among)).argsort(-1)[..., :depth].permute(2, 0, 1)]
    buffer = io.BytesIO()
    torch.save(torch.stack([scores, ids.float()]), buffer, **save)
    return buffer.getvalue()


def target(
    file: bytes, crop: tuple[int, int, int, int], size: tuple[int, int], classes: int, order: BoxOrder = "code"
) -> torch.Tensor:
    """The target (C,) of a crop (top, left, height, width) of an image of (height, width).

    "code" passes rows where `roi_align` wants columns, as the published code does.
    """
    stored = torch.load(io.BytesIO(file), weights_only=True)
    dense = torch.zeros(classes, *stored.shape[2:]).scatter_(0, stored[1].long(), stored[0])
    (top, left, tall, wide), (height, width) = crop, size
    box = torch.tensor([[top / height, left / width, tall / height, wide / width]], dtype=torch.float64)
    box[:, 2:] += box[:, :2]  # the loader's batches hold the four in double precision
    box = box.float()
    if order == "transposed":
        box = box[:, [1, 0, 3, 2]]
    boxes = torch.cat([torch.zeros(1, 1), box * dense.shape[-1] - 0.5], 1)
    with torch.compiler.set_stance("force_eager"):  # torchvision's own Python kernel would be compiled first
        return torch.softmax(roi_align(dense[None], boxes, (1, 1)).flatten(), 0)
