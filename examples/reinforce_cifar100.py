"""CIFAR-100+ (arXiv 2303.08983): from the pickles of cifar-100-python to a reinforced data set.

    python examples/reinforce_cifar100.py cifar-100-python/train OUT --teacher MODEL@FILE --views 100

The paper pads images with zeros and crops at random. A stored view is a crop of the stored image, so what is stored is the
padded image: 40 x 40 pixels, 4 zeros on each side, as PNG. A random resized crop of exactly 0.64 of its area and ratio 1 is
the random crop of 32 x 32 out of 40 x 40, each of the 9 x 9 places equally likely. Flip, RandAugment and random erasing follow
as everywhere. (The paper's own run enlarges to 224 first and pads by 16, 2.3 pixels of the small image: --size 224 enlarges
the crop, for teachers that want that.) CIFAR-10's pickles will do as well.
"""

from __future__ import annotations

import argparse
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dali_dr.augment.spec import AugmentationSpec, RandAugment, RandomErasing, RandomResizedCrop
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.kept import settle_batch
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.run import Run
from dali_dr.reinforce.teachers import fit_batch, load_teacher

SIDE, PADDING = 32, 4


class Unpickler(pickle.Unpickler):
    """Arrays, bytes and containers only: a pickle from the network could run any code."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype", "scalar")

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0] == "numpy" and name in self.ALLOWED) or (module, name) == ("_codecs", "encode"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR pickle")


class Cifar:
    """A source (`dali_dr.sources.Source`): padded images as PNG, made when asked for.

    Attributes:
      keys: "CLASS/NUMBER", the number being the position in the pickle.
      labels: fine labels.
      class_names: from the file `meta` beside the pickle, else numbers.
      notes: nothing to tell.
    """

    notes = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        content = self._load(path)
        self.labels: Sequence[int] = content.get(b"fine_labels") or content[b"labels"]
        self._pixels = np.asarray(content[b"data"]).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        meta = path.parent / "meta"
        names = self._load(meta).get(b"fine_label_names") if meta.exists() else None
        self.class_names: Sequence[str] = (
            [name.decode() for name in names] if names else [str(n) for n in range(max(self.labels) + 1)]
        )
        self.keys = [f"{self.class_names[label]}/{number:05d}" for number, label in enumerate(self.labels)]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int) -> bytes:
        padded = np.pad(self._pixels[number], ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
        buffer = io.BytesIO()
        Image.fromarray(padded).save(buffer, "PNG")
        return buffer.getvalue()

    def where(self, number: int) -> str:
        return f"image {number} of {self._path}"

    @staticmethod
    def _load(path: Path) -> dict[bytes, Any]:
        with path.open("rb") as file:
            content: dict[bytes, Any] = Unpickler(file, encoding="bytes").load()
        return content


def cifar_spec(size: int = SIDE) -> AugmentationSpec:
    """Pad and crop, flip, RandAugment, random erasing."""
    share = (SIDE / (SIDE + 2 * PADDING)) ** 2
    return AugmentationSpec(
        size=size,
        crop=RandomResizedCrop(scale=(share, share), ratio=(1.0, 1.0)),
        flip=0.5,
        rand_augment=RandAugment(),
        random_erasing=RandomErasing(probability=0.25),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pickle", type=Path, help="cifar-100-python/train")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--teacher", required=True, help="MODEL@FILE of networks trained on CIFAR-100; several, with commas"
    )
    parser.add_argument("--views", type=int, default=100)
    parser.add_argument("--size", type=int, default=SIDE, help="of a view (default %(default)s)")
    options = parser.parse_args()

    source, gpu = Cifar(options.pickle), torch.cuda.is_available()
    teacher = load_teacher(options.teacher, "cuda" if gpu else "cpu")
    spec = cifar_spec(options.size)
    generation = Generation(
        spec=spec,
        teacher=teacher,
        num_views=options.views,
        topk=min(10, teacher.num_classes),
        batch_views=settle_batch(options.out, lambda: fit_batch(teacher, spec.size)),
        device="gpu" if gpu else "cpu",
    )
    run = Run(
        source,
        options.out,
        generation,
        num_classes=teacher.num_classes,
        class_names=list(source.class_names) if len(source.class_names) == teacher.num_classes else None,
        part=Part.of_environment(),
    )
    print(run.work().summary)


if __name__ == "__main__":
    main()
