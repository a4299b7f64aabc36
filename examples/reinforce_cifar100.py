"""CIFAR-100+ (arXiv 2303.08983) from torchvision's CIFAR100: 50,000 images for training, 800 views each.

    python examples/reinforce_cifar100.py --root DATA --out OUT --init RESNET152-OF-IMAGENET-PLUS

As the paper has it, an image is enlarged to 224 pixels (bilinear), padded with 16 zeros on each side, and cropped to 224 at
random. A stored view is a crop of the stored image, so what is stored is the padded image of 256 pixels, as PNG. A random
resized crop of exactly (224 / 256)^2 of its area and ratio 1 is the random crop, each of the 33 x 33 places equally likely. Flip,
RandAugment and random erasing follow as everywhere. Images for the evaluation are enlarged and not padded. The steps are in
small_sets.py; --dry-run prints them.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # the files beside this one, also where it is loaded by its path
import small_sets

from dali_dr.augment.spec import AugmentationSpec, RandAugment, RandomErasing, RandomResizedCrop
from dali_dr.errors import DaliDrError

FOLDER = "cifar-100-python"
SIDE, SIZE, PADDING = 32, 224, 16  # of an image, enlarged, and around that: ml-dr, configs/cifar100/reinforce.yaml
SHARE = (SIZE / (SIZE + 2 * PADDING)) ** 2


class Unpickler(pickle.Unpickler):
    """Arrays, bytes and containers only: a pickle from the network could run any code."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype", "scalar")

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0] == "numpy" and name in self.ALLOWED) or (module, name) == ("_codecs", "encode"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR pickle")


class Cifar:
    """A source (`dali_dr.sources.Source`): images as PNG, made when asked for.

    Attributes:
      keys: "CLASS/NUMBER", the number being the position in the pickle.
      labels: fine labels.
      class_names: from the file `meta` beside the pickle.
      notes: nothing to tell.
    """

    notes = ()

    def __init__(self, path: Path, padding: int) -> None:
        self._path, self._padding = path, padding
        content, meta = _load(path), _load(path.parent / "meta")
        self.labels: Sequence[int] = content[b"fine_labels"]
        self._pixels = np.asarray(content[b"data"]).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        self.class_names: Sequence[str] = [name.decode() for name in meta[b"fine_label_names"]]
        self.keys = [f"{self.class_names[label]}/{number:05d}" for number, label in enumerate(self.labels)]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int) -> bytes:
        image = Image.fromarray(self._pixels[number]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        ImageOps.expand(image, self._padding).save(buffer, "PNG")
        return buffer.getvalue()

    def where(self, number: int) -> str:
        return f"image {number} of {self._path}"


def _load(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            content: dict[bytes, Any] = Unpickler(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise DaliDrError(f"{path}: not a file of CIFAR-100's: {error}") from error
    return content


def split(root: Path, train: bool) -> Cifar:
    """Those for training padded, those for the evaluation not."""
    return Cifar(root / FOLDER / ("train" if train else "test"), PADDING if train else 0)


CIFAR = small_sets.SmallSet(
    script=Path(__file__).name,
    download="CIFAR100",
    files=[f"{FOLDER}/{name}" for name in ("train", "test", "meta")],
    split=split,
    spec=AugmentationSpec(
        size=SIZE,
        crop=RandomResizedCrop(scale=(SHARE, SHARE), ratio=(1.0, 1.0)),
        flip=0.5,
        rand_augment=RandAugment(),
        random_erasing=RandomErasing(probability=0.25),
    ),
    views=800,
    recipes=("teacher.yaml", "cifar100.yaml", "cifar100-teacher.yaml"),
)

if __name__ == "__main__":
    sys.exit(small_sets.main(CIFAR, __doc__))
