"""Flowers-102+ (arXiv 2303.08983) from torchvision's Flowers102: 1,020 images for training, 8,000 views each.

    python examples/reinforce_flowers102.py --root DATA --out OUT --init RESNET152-OF-IMAGENET-PLUS

The set's own split "train" is trained on and its "test" evaluated, as github.com/apple/ml-dr does; "val" is not used. Reading
the .mat files takes scipy. The steps are in small_sets.py; --dry-run prints them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # the files beside this one, also where it is loaded by its path
import small_sets

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import DaliDrError
from dali_dr.sources.lists import FileList

FOLDER = "flowers-102"
SPLITS = {True: "trnid", False: "tstid"}  # names in setid.mat


def split(root: Path, train: bool) -> FileList:
    """Images in the order of setid.mat; class n is the label n + 1 of imagelabels.mat, and called so."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise DaliDrError("the labels of Flowers-102 are MATLAB's files: pip install scipy") from None
    folder = root / FOLDER
    numbers = loadmat(folder / "setid.mat", squeeze_me=True)[SPLITS[train]].tolist()
    of_all = loadmat(folder / "imagelabels.mat", squeeze_me=True)["labels"].tolist()
    labels = [of_all[number - 1] for number in numbers]
    return FileList(
        files=[folder / "jpg" / f"image_{number:05d}.jpg" for number in numbers],
        keys=[f"{label:03d}/image_{number:05d}" for number, label in zip(numbers, labels, strict=True)],
        labels=[label - 1 for label in labels],
        class_names=[str(label) for label in range(1, max(of_all) + 1)],
    )


FLOWERS = small_sets.SmallSet(
    script=Path(__file__).name,
    download="Flowers102",
    files=[f"{FOLDER}/{name}" for name in ("jpg", "imagelabels.mat", "setid.mat")],
    split=split,
    spec=AugmentationSpec.preset("rrc+ra+re", 224),
    views=8000,
    recipes=("teacher.yaml", "flowers102.yaml"),
)

if __name__ == "__main__":
    sys.exit(small_sets.main(FLOWERS, __doc__))
