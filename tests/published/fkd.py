"""FKD's label files: written as its generation writes them, replayed and made dense as its training does."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from PIL import Image

from dali_dr._torchvision import load_torchvision

load_torchvision()
from torchvision import transforms as T  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402
from torchvision.transforms import functional as F  # noqa: E402

Stored = Literal["full", "hard", "smoothing", "k5", "k10"]
MEAN: Final = [0.485, 0.456, 0.406]
STD: Final = [0.229, 0.224, 0.225]
Arrays = Literal["numpy", "torch"]


def label_file(
    image: Image.Image, crops: int, classes: int, form: Stored, *, seed: int = 0, arrays: Arrays = "numpy", **save: Any
) -> bytes:
    """The file of one image: boxes relative to its sides, flips, predictions in one of the forms.

    Args:
      image: for its size.
      crops: N.
      classes: C.
      form: what is kept of a prediction.
      seed: of torch's generator.
      arrays: NumPy's, as the newer code stores them, or tensors.
      save: of `torch.save`: pickle_protocol, _use_new_zipfile_serialization.
    """
    torch.manual_seed(seed)
    width, height = image.size
    boxes, flips = [], []
    for _ in range(crops):
        top, left, tall, wide = T.RandomResizedCrop.get_params(
            torch.empty(3, height, width), [0.08, 0.936], [3 / 4, 4 / 3]
        )
        boxes.append(torch.FloatTensor((top / height, left / width, tall / height, wide / width)))
        flips.append(bool(torch.rand(1) < 0.5))
    predictions = torch.softmax(3 * torch.randn(crops, classes), 1)
    contents = [torch.stack(boxes), torch.tensor(flips), torch.stack([quantised(p, form) for p in predictions])]
    buffer = io.BytesIO()
    torch.save([c.numpy() for c in contents] if arrays == "numpy" else contents, buffer, **save)
    return buffer.getvalue()


def quantised(prediction: torch.Tensor, form: Stored) -> torch.Tensor:
    """What is kept of one prediction (C,)."""
    if form == "full":
        return prediction
    if form == "hard":
        return prediction.argmax()
    if form == "smoothing":
        likeliest = prediction.argmax()
        return torch.stack([likeliest, prediction[likeliest]])  # float32, the id, too
    ids = prediction.argsort(descending=True)[: int(form[1:])]
    return torch.stack([ids, prediction[ids]])


def view(image: Image.Image, box: Any, flip: Any, size: int = 224) -> torch.Tensor:
    """A crop as it is trained on: float32 (3, size, size). Pillow rounds what is no whole number of pixels."""
    image = image.convert("RGB")
    scale = (image.size[1], image.size[0], image.size[1], image.size[0])
    pixels = [box[i].item() * scale[i] for i in range(4)]
    crop = F.resized_crop(image, *pixels, [size, size], InterpolationMode.BILINEAR)
    return F.normalize(F.to_tensor(F.hflip(crop) if flip else crop), MEAN, STD)


def dense(label: Any, form: str, classes: int) -> torch.Tensor:
    """Targets (N, C) of labels as they are stored, in one of the forms in which training takes them."""
    label = torch.as_tensor(label)
    n = len(label)
    if form == "full":
        return label
    if form == "hard":
        return torch.nn.functional.one_hot(label.long(), classes).float()
    if form == "smoothing":
        ids, probs = label[:, :1].long(), label[:, 1:]
    else:
        ids, probs = label[:, 0].long(), label[:, 1]
    if form == "marginal_renorm":
        return torch.nn.functional.normalize(torch.zeros(n, classes).scatter_(1, ids, probs), p=1.0, dim=1)
    others = (1 - probs.sum(1, keepdim=True)) / (classes - probs.shape[1])
    return others.repeat(1, classes).scatter_(1, ids, probs)


def paths(names: Sequence[tuple[str, str]], split: str = "train") -> list[str]:
    """Where label files lie: the image's path with another suffix, up to the name's first dot."""
    return [f"{split}/{wnid}/{name.split('.')[0]}.tar" for wnid, name in names]


def contents(data: bytes) -> list[np.ndarray]:
    """Boxes, flips and labels of a file, as arrays."""
    return [np.asarray(part) for part in torch.load(io.BytesIO(data), weights_only=False)]
