"""What ml-dr's training shows of a stored reinforcement: its transformations on Pillow images, its targets, its bug."""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from dali_dr._torchvision import load_torchvision
from published.ml_dr_writer import OPERATIONS, WITHOUT_PARAMETERS, enabled

load_torchvision()
import joblib  # noqa: E402
from torchvision.transforms import InterpolationMode, autoaugment  # noqa: E402
from torchvision.transforms import functional as F  # noqa: E402


def loaded(data: bytes) -> Any:
    """The object in a file of either kind (these files are ours: here pickles are executed)."""
    if data[:2] == b"PK":
        return torch.load(io.BytesIO(data), weights_only=False)
    try:
        return joblib.load(io.BytesIO(data))
    except (ValueError, pickle.UnpicklingError):
        return pickle.loads(zlib.decompress(data))


@dataclass
class Plan:
    """Parameters by name, for both images; a transformation that is absent, or whose value is None, is left out."""

    first: dict[str, Any] = field(default_factory=dict)
    second: dict[str, Any] = field(default_factory=dict)
    partner: int | None = None
    mixup: float | None = None
    cutmix: tuple[int, int, int, int] | None = None


def plan(params: Any, images: Mapping[str, Any]) -> Plan:
    """The parameters of one reinforcement, compressed (a list) or not (a dict)."""
    names = list(enabled(images))
    if isinstance(params, Mapping):
        out = Plan(partner=params.get("id2"), mixup=params.get("mixup"))
        out.cutmix = params["cutmix"][1] if params.get("cutmix") is not None else None
        for name in names:
            if name not in ("mixup", "cutmix"):
                out.first[name], out.second[name] = params[name]
        return out
    out, values = Plan(), list(params)
    if "mixup" in names or "cutmix" in names:
        out.partner = values.pop(0)
    stored = [name for name in names if name not in WITHOUT_PARAMETERS]
    assert len(stored) == len(values), (stored, values)
    for name, value in zip(stored, values, strict=True):
        if name == "mixup":
            out.mixup = value
        elif name == "cutmix":
            out.cutmix = None if value is None else tuple(value[1:])
        else:
            pair = value if out.partner is not None and value is not None else (value, None)
            for side, one in zip((out.first, out.second), pair, strict=True):
                if name == "rand_augment" and one is not None:
                    one = [(OPERATIONS[op], magnitude) for op, magnitude in one]
                side[name] = one
    return out


def replay_one(image: Image.Image, params: Mapping[str, Any], images: Mapping[str, Any]) -> torch.Tensor:
    """One image, up to its normalisation: float32 (3, height, width)."""
    tensor: Any = image.convert("RGB")
    for name, arguments in enabled(images).items():
        value = params.get(name)
        if name == "to_tensor":
            tensor = F.to_tensor(tensor)
        elif name == "normalize":
            tensor = F.normalize(tensor, arguments["mean"], arguments["std"])
        elif name in ("uint8", "mixup", "cutmix") or value is None:
            continue
        elif name == "resize":
            tensor = F.resize(tensor, arguments["size"])
        elif name == "random_crop":
            tensor = F.pad(tensor, arguments["padding"], 0, "constant")
            tensor = F.crop(tensor, value[0], value[1], arguments["size"], arguments["size"])
        elif name == "random_resized_crop":
            how = InterpolationMode.BILINEAR
            if arguments.get("interpolation") == 3:  # Pillow's number, which a configuration can hold
                how = InterpolationMode.BICUBIC
            tensor = F.resized_crop(tensor, *value, [arguments["size"]] * 2, how)
        elif name == "random_horizontal_flip":
            tensor = F.hflip(tensor) if value else tensor
        elif name == "rand_augment":
            for operation, magnitude in value:
                tensor = autoaugment._apply_op(tensor, operation, magnitude, InterpolationMode.NEAREST, None)
        elif name == "random_erase":
            top, left, height, width = value
            if top != -1:
                tensor[:, top : top + height, left : left + width] = 0
    return tensor


def replay(
    params: Any, images: Mapping[str, Any], image: Image.Image, image_of: Callable[[int], Image.Image]
) -> torch.Tensor:
    """A reinforcement as it is trained on.

    Args:
      params: as stored.
      images: ``reinforce.image_augmentation`` of the configuration.
      image: the image that it belongs to.
      image_of: gives the image of a number, for partners.
    """
    p = plan(params, images)
    x = replay_one(image, p.first, images)
    if p.mixup is None and p.cutmix is None:
        return x
    assert p.partner is not None
    y = replay_one(image_of(p.partner), p.second, images)
    if p.mixup is not None:
        x = p.mixup * x + (1 - p.mixup) * y
    if p.cutmix is not None:
        top, left, bottom, right = p.cutmix
        x = x.clone()
        x[:, top:bottom, left:right] = y[:, top:bottom, left:right]
    return x


def densify(prediction: tuple[list[float], list[int]], classes: int, method: str = "smooth") -> torch.Tensor:
    """Dense targets, and where the K probabilities sum to more than 1 a softmax over them, as if they were logits."""
    probs, ids = torch.tensor(prediction[0]), prediction[1]
    rest = 1.0 - probs.sum()
    if method == "zeros" or rest < 0:
        out = torch.zeros(classes)
        out[ids] = torch.softmax(probs, 0)
        return out
    out = torch.full((classes,), 1.0) * rest / (classes - len(probs))
    out[ids] = probs
    return out
