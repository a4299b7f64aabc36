"""Food-101+ (arXiv 2303.08983) from torchvision's Food101: 75,750 images for training, 800 views each.

    python examples/reinforce_food101.py --root DATA --out OUT --init RESNET152-OF-IMAGENET-PLUS

The steps are in small_sets.py; --dry-run prints them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # the files beside this one, also where it is loaded by its path
import small_sets

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.sources.lists import FileList

FOLDER = "food-101"


def split(root: Path, train: bool) -> FileList:
    """Images in the order of meta/train.json or test.json; classes in sorted order, as torchvision has them."""
    of_class = json.loads((root / FOLDER / "meta" / f"{'train' if train else 'test'}.json").read_text())
    classes = sorted(of_class)
    number_of = {name: number for number, name in enumerate(classes)}
    keys = [(key, number_of[name]) for name, images in of_class.items() for key in images]
    return FileList(
        files=[root / FOLDER / "images" / f"{key}.jpg" for key, _ in keys],
        keys=[key for key, _ in keys],
        labels=[label for _, label in keys],
        class_names=classes,
    )


FOOD = small_sets.SmallSet(
    script=Path(__file__).name,
    download="Food101",
    files=[f"{FOLDER}/{name}" for name in ("images", "meta/train.json", "meta/test.json")],
    split=split,
    spec=AugmentationSpec.preset("rrc+ra+re", 224),
    views=800,
    recipes=("teacher.yaml", "food101.yaml"),
)

if __name__ == "__main__":
    sys.exit(small_sets.main(FOOD, __doc__))
