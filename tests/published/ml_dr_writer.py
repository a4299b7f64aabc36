"""Reinforcements as ml-dr's generation draws and stores them, on images that need no teacher.

Parameters come from torchvision's own ``get_params`` and magnitude tables and from NumPy's generator, in the order in which
that code draws; predictions are softmaxes of random logits in float32, of which ``argpartition`` takes the K largest,
unsorted.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import torch
from PIL import Image

from dali_dr._torchvision import load_torchvision

load_torchvision()
from torchvision import transforms as T  # noqa: E402

# That code composes in this order, whatever that of the configuration is.
ORDER: Final = (
    "uint8", "resize", "center_crop", "random_crop", "random_resized_crop", "random_horizontal_flip", "rand_augment",
    "to_tensor", "random_erase", "normalize", "mixup", "cutmix",
)  # fmt: skip
WITHOUT_PARAMETERS: Final = ("uint8", "center_crop", "to_tensor", "normalize")
OPERATIONS: Final = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
    "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
VARIANTS: Final = ("rrc", "mixing", "randaug", "randaug_mixing", "cifar100")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CIFAR_MEAN, CIFAR_STD = (
    [0.507075159237, 0.4865488733149, 0.440917843367],
    [0.267334285879, 0.2564384629170, 0.276150471325],
)


def augmentation(variant: str, size: int = 224, crop_name: str = "random_resized_crop") -> dict[str, Any]:
    """``reinforce.image_augmentation`` of a variant, in an order of its own; Flowers spells the crop another way."""
    on: dict[str, Any] = {"enable": True}
    flip = {"random_horizontal_flip": on | {"p": 0.5}}
    to_tensor = {"to_tensor": dict(on)}
    if variant == "cifar100":
        out = {"uint8": on, "resize": {"size": size}, "random_crop": {"size": size, "padding": size // 14}}
        out |= flip | {"rand_augment": on | {"p": 1.0}} | to_tensor
        return out | {"normalize": {"mean": CIFAR_MEAN, "std": CIFAR_STD}, "random_erase": on | {"p": 0.25}}
    out = {"uint8": on, crop_name: on | {"size": size}} | flip
    heavy, mixing = "randaug" in variant, "mixing" in variant
    # A transformation that is switched off stays in the configuration, and in no parameters.
    out |= {"rand_augment": {"enable": heavy, "p": 1.0}} | to_tensor
    out |= {"normalize": {"mean": MEAN, "std": STD}, "random_erase": {"enable": heavy, "p": 0.25}}
    if mixing:
        out |= {"mixup": on | {"alpha": 1.0, "div_by": 2.0, "p": 0.5}, "cutmix": on | {"alpha": 1.0, "p": 0.5}}
    return out


def config(
    images: Mapping[str, Any], views: int, topk: int, *, compress: bool = True, use_joblib: bool = False, **more: Any
) -> dict[str, Any]:
    """What ``config.pth.tar`` holds, around the ``image_augmentation`` given."""
    reinforce = {"num_samples": views, "num_candidates": None, "topk": topk, "compress": compress, "joblib": use_joblib}
    teacher = {"timm_ensemble": True, "name": "ig_resnext101_32x8d,ig_resnext101_32x16d"}
    machine = {"dist_url": "tcp://127.0.0.1:23333", "seed": None, "gpu": None, "distributed": True, "batch_size": 4}
    out = {"dataset": "imagenet", "teacher": teacher, **machine, "data_path": "", "num_classes": 1000}
    return out | {"reinforce": reinforce | {"gzip": True, "image_augmentation": dict(images)}} | more


def enabled(images: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The transformations that are on, in the order of composition, with their arguments."""
    on = {name: {k: v for k, v in arguments.items() if k != "enable"} for name, arguments in images.items()
          if arguments.get("enable", True)}  # fmt: skip
    if "random_resize_crop" in on:  # as Flowers' configuration spells it; what was drawn is this
        on["random_resized_crop"] = on.pop("random_resize_crop")
    return {name: on[name] for name in ORDER if name in on}


class Generation:
    """Draws reinforcements of a list of images.

    Args:
      images: RGB, in ImageFolder's order.
      configuration: see `config`.
      seed: of all three generators (Python's, NumPy's, torch's).
      confidence: the larger, the more the float32 sum of the K probabilities is 1, or more by rounding.
    """

    def __init__(
        self, images: Sequence[Image.Image], configuration: Mapping[str, Any], seed: int = 0, confidence: float = 3.0
    ) -> None:
        self.images = images
        self.config = configuration
        self.transforms = enabled(configuration["reinforce"]["image_augmentation"])
        self.confidence = confidence
        random.seed(seed)
        self.numpy = np.random.default_rng(seed)
        torch.manual_seed(seed)

    def files(self) -> dict[str, bytes]:
        """Name -> bytes of every file of a folder ``reinforced_data``."""
        made = {f"{number}.pth.tar": (number, self.reinforcements(number)) for number in range(len(self.images))}
        as_joblib = self.config["reinforce"]["joblib"]
        out = {name: dumped(name, value, as_joblib) for name, value in made.items()}
        return out | {"config.pth.tar": dumped("config.pth.tar", dict(self.config), protocol=None)}

    def reinforcements(self, number: int) -> list[dict[str, Any]]:
        """Those of one image."""
        count, topk = self.config["reinforce"]["num_samples"], self.config["reinforce"]["topk"]
        return [{"params": self.params(number), "prob": self.prediction(topk)} for _ in range(count)]

    def params(self, number: int) -> Any:
        """Parameters of one view, compressed where the configuration says so."""
        second = random.randrange(number - number % 4, min(number - number % 4 + 4, len(self.images)))  # of the batch
        out: dict[str, Any] = {}
        for name, arguments in self.transforms.items():
            if name == "mixup":
                out[name] = self._mixup(**arguments)
            elif name == "cutmix":
                out[name] = self._cutmix(**arguments)
            else:
                out[name] = tuple(self._draw(name, self.images[n].size, arguments) for n in (number, second))
        if "mixup" in out or "cutmix" in out:
            out["id2"] = second
        return self.compressed(out) if self.config["reinforce"]["compress"] else out

    def compressed(self, params: dict[str, Any]) -> list[Any]:
        """The list form: without names, partner's parameters only where there is a mix."""

        def short(name: str, value: Any) -> Any:
            if name == "rand_augment" and value is not None:
                return [(OPERATIONS.index(op), magnitude) for op, magnitude in value]
            return value

        mixes = [name for name in ("mixup", "cutmix") if name in self.transforms]
        paired = any(params[name] is not None for name in mixes)
        out: list[Any] = ([params["id2"]] if paired else [None]) if mixes else []
        for name in self.transforms:
            if name in WITHOUT_PARAMETERS:
                continue
            value = params[name]
            if name == "mixup":
                out.append(value)
            elif name == "cutmix":
                out.append(None if value is None else [value[0], *value[1]])
            else:
                out.append([short(name, v) for v in value] if paired else short(name, value[0]))
        return out

    def prediction(self, topk: int) -> tuple[list[float], list[int]]:
        """Probabilities and ids of the likeliest classes, as `argpartition` leaves them."""
        logits = np.random.default_rng(random.getrandbits(32)).normal(0, self.confidence, self.config["num_classes"])
        probs = torch.softmax(torch.from_numpy(logits.astype(np.float32)), 0).numpy()
        ids = np.argpartition(probs, -topk)[-topk:]
        return probs[ids].tolist(), ids.tolist()

    def _draw(self, name: str, size: tuple[int, int], arguments: dict[str, Any]) -> Any:
        """The parameters of a transformation of one image of (width, height)."""
        width, height = size
        if name in WITHOUT_PARAMETERS:
            return ()
        if name == "resize":
            return (arguments["size"],)
        if name == "random_resized_crop":
            image = torch.empty(3, height, width)
            scale, ratio = arguments.get("scale", (0.08, 1.0)), arguments.get("ratio", (3 / 4, 4 / 3))
            return tuple(int(x) for x in T.RandomResizedCrop.get_params(image, list(scale), list(ratio)))
        if name == "random_crop":
            edge, pad = arguments["size"], arguments["padding"]
            short = self.transforms["resize"]["size"]  # the shorter side after it
            tall, wide = (
                (int(short * a / b) if a > b else short) + 2 * pad for a, b in ((height, width), (width, height))
            )
            return T.RandomCrop.get_params(torch.empty(3, tall, wide), (edge, edge))[:2]
        if name == "random_horizontal_flip":
            return torch.rand(1).item() < arguments["p"]
        edge = next(self.transforms[n]["size"] for n in ("random_resized_crop", "random_crop") if n in self.transforms)
        return self._operations(edge, **arguments) if name == "rand_augment" else self._erase(edge, **arguments)

    def _operations(self, edge: int, p: float = 1.0, num_ops: int = 2, magnitude: int = 9) -> Any:
        if torch.rand(1) > p:
            return None
        table, out = T.RandAugment()._augmentation_space(31, (edge, edge)), []
        for _ in range(num_ops):
            name = OPERATIONS[int(torch.randint(len(OPERATIONS), (1,)))]
            values, signed = table[name]
            value = float(values[magnitude]) if values.ndim else 0.0
            out.append((name, -value if signed and torch.randint(2, (1,)) else value))
        return out

    def _erase(self, edge: int, p: float) -> Any:
        if torch.rand(1) > p:
            return None
        return tuple(T.RandomErasing.get_params(torch.empty(3, edge, edge), (0.02, 0.33), (0.3, 3.3))[:4])

    def _mixup(self, alpha: float, p: float, div_by: float = 1.0) -> float | None:
        return None if torch.rand(1) > p else self.numpy.beta(alpha, alpha) / div_by

    def _cutmix(self, alpha: float, p: float) -> Any:
        if torch.rand(1) > p:
            return None
        lam, edge = self.numpy.beta(alpha, alpha), self.transforms["random_resized_crop"]["size"]
        half = int(edge * np.sqrt(1.0 - lam)) // 2
        centre = [int(self.numpy.integers(edge)), int(self.numpy.integers(edge))]
        first, last = ([np.clip(c + d, 0, edge) for c in centre] for d in (-half, half))
        return lam, (*first, *last)  # NumPy's integers, which a pickle holds as such


def dumped(name: str, value: Any, as_joblib: bool = False, protocol: int | None = 4) -> bytes:
    """The file ``name``: what `torch.save` or `joblib.dump` writes to that path (which a torch archive knows)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if as_joblib:
            joblib.dump(value, path, compress=True)
        elif protocol is None:
            torch.save(value, path)
        else:
            torch.save(value, path, pickle_protocol=protocol)
        return path.read_bytes()
