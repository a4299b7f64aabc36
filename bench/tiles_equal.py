"""That tiles change no pixel: the loader's views of tiled and of original files, and Pillow's, byte for byte.

    python bench/tiles_equal.py --data PHOTOS [--photos 400] [--json FILE]

Each photo is cut to an odd size and coded anew in every sampling that JPEGs have, progressive, in grey and with restarts of
its own, beside the photo itself. Of all of them the loader shows stored views (crops alone; with RandAugment and erasing;
mixed; four of each decoded image), fresh ones, and evaluation: from tiled files, from the original ones, and from these by
DALI's own decoder. All three are compared with each other and with what Pillow makes of the original file
(`dali_dr.augment.reference`). Exit status 1 where a byte differs. With 400 photos that are some 30,000 views.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import ORIGINAL, SIZE, Images, drawn, folder_images, write
from PIL import Image
from tqdm import tqdm

VIEWS, CLASSES, SEED, BATCH = 4, 10, 7, 16


@dataclasses.dataclass(frozen=True)
class Mode:
    """Something that the loader shows: of which variant of the data sets, and its own arguments."""

    variant: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def mixed(self) -> bool:
        return "mix" in self.variant


MODES = {
    "crops": Mode("rrc"),
    "views": Mode("rrc+ra+re"),
    "mixed": Mode("rrc+mixing+ra+re"),
    "four of an image": Mode("rrc+ra+re", {"views_per_image": 4}),
    "fresh": Mode("plain", {"augment": "rrc+ra+re"}),
    "evaluation": Mode("plain", {"augment": "eval"}),
}
# What is compared with Pillow: the folder's prefix, and arguments of the loader.
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiled": ("", {}),
    "original": (ORIGINAL, {}),
    "original by DALI": (ORIGINAL, {"decoder": "dali"}),
}


# ---- the files


def by_pillow(**how: Any) -> Callable[[Image.Image], bytes]:
    def encode(image: Image.Image) -> bytes:
        image.save(buffer := io.BytesIO(), "JPEG", **how)
        return buffer.getvalue()

    return encode


def by_cjpeg(*words: str) -> Callable[[Image.Image], bytes]:
    def encode(image: Image.Image) -> bytes:
        image.save(buffer := io.BytesIO(), "PPM")
        command = ["cjpeg", "-quality", "80", *words]
        return subprocess.run(command, input=buffer.getvalue(), capture_output=True, check=True).stdout

    return encode


ENCODERS: dict[str, Callable[[Image.Image], bytes]] = {
    "4:2:0": by_pillow(subsampling="4:2:0", quality=85),
    "4:2:2": by_pillow(subsampling="4:2:2", quality=75, optimize=True),
    "4:4:4": by_pillow(subsampling="4:4:4", quality=92),
    "grey": lambda image: by_pillow(quality=85)(image.convert("L")),
    "progressive": by_pillow(progressive=True, quality=80),
}
BY_TOOL: dict[str, Callable[[Image.Image], bytes]] = {
    "4:4:0": by_cjpeg("-sample", "1x2"),
    "4:1:1": by_cjpeg("-sample", "4x1"),
    "restarts": by_cjpeg("-restart", "3B"),
}
PHOTO = "as it is"


def encodings(photos: Images) -> tuple[Images, list[str]]:
    """Images of every sampling of every photo, and the sampling of each."""
    encoders = ENCODERS | (BY_TOOL if shutil.which("cjpeg") else {})
    if len(encoders) == len(ENCODERS):
        print(f"left out: {', '.join(BY_TOOL)}, for which there is no cjpeg (Debian: apt-get install "
              "libjpeg-turbo-progs)", file=sys.stderr)  # fmt: skip
    images, samplings = [], []
    draw = np.random.default_rng(0)
    for number, (_, data, _) in enumerate(tqdm(photos, desc="encode", unit="photo")):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        made = {PHOTO: data}
        for name, encode in encoders.items():
            less = draw.integers(0, 17, 2)  # sides of every remainder by every MCU
            made[name] = encode(
                image.crop((0, 0, *(int(max(1, n - k)) for n, k in zip(image.size, less, strict=True))))
            )
        for name, encoded in made.items():
            images.append((f"{number:05d}-{name.replace(':', '')}".replace(" ", "-"), encoded, number % CLASSES))
            samplings.append(name)
    return images, samplings


def write_sets(images: Images, folder: Path, size: int) -> None:
    for variant in tqdm({mode.variant for mode in MODES.values()}, desc="write", unit="variant"):
        spec, samples = drawn(variant, images, None, CLASSES, VIEWS, size)
        for prefix in ("", ORIGINAL):
            write(spec, samples, CLASSES, folder / (prefix + variant), keep_bytes=prefix == ORIGINAL)


# ---- what Pillow shows


@functools.lru_cache(maxsize=8)
def dataset_of(folder: Path) -> Any:
    from dali_dr import Dataset

    return Dataset(folder)


@functools.lru_cache(maxsize=512)
def image_of(folder: Path, number: int) -> Image.Image:
    return Image.open(io.BytesIO(dataset_of(folder).image(number))).convert("RGB")


@functools.lru_cache(maxsize=512)
def views_of(folder: Path, number: int) -> Any:
    return dataset_of(folder).reinforcements(number)


def expected(folder: Path, name: str, size: int, number: int, view: int) -> Any:
    """What Pillow makes of a view: uint8 HWC, or, mixed, normalised float32 CHW.

    Args:
      folder: of the mode's data set of original files.
      name: of the mode.
    """
    import dali_dr
    from dali_dr.augment.draw import draw
    from dali_dr.augment.reference import replay_pillow, replay_pillow_mixed
    from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD

    image, dataset = image_of(folder, number), dataset_of(folder)
    if name == "evaluation":
        return evaluated(image, dali_dr.Evaluation(size))
    if name == "fresh":
        spec = dali_dr.AugmentationSpec.preset("rrc+ra+re", size)
        where = {"image_height": image.height, "image_width": image.width}
        return replay_pillow(
            image, draw(spec, seed=SEED, key=dataset.keys[number], views=[-1 - view], **where), 0, spec
        )
    views = views_of(folder, number)
    if not MODES[name].mixed:
        return replay_pillow(image, views, view, dataset.spec)
    partner = int(views.mix.partner[view])
    other = image_of(folder, partner) if partner >= 0 else None
    return replay_pillow_mixed(image, other, views, view, dataset.spec, IMAGENET_MEAN, IMAGENET_STD)


def evaluated(image: Image.Image, evaluation: Any) -> Any:
    """By torchvision's Resize and CenterCrop on Pillow's images."""
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from torchvision.transforms import functional

    return np.asarray(functional.center_crop(functional.resize(image, evaluation.resize), evaluation.size))


def expected_of(task: tuple[Path, str, int, int, int]) -> Any:
    return expected(*task)


# ---- comparing


def loader(folder: Path, mode: Mode, size: int, **more: Any) -> Any:
    from dali_dr import ReinforcedIterator

    look = {} if mode.mixed else {"dtype": "uint8", "layout": "HWC"}
    fixed = {"batch_size": BATCH, "device": "cpu", "num_threads": 2, "with_index": True, "seed": SEED, "size": size}
    return ReinforcedIterator(folder, **fixed, **look, **mode.options, **more)


def compare(
    folder: Path, samplings: list[str], size: int, pool: Callable[[Any, Iterable[Any]], Iterable[Any]] = map
) -> dict[str, dict[str, int]]:
    """By sampling: views that were compared, and bytes that differ between each side and Pillow, and between two sides.

    Args:
      folder: what `write_sets` wrote of images of these samplings.
      pool: `map`, or that of processes.
    """
    names = ("views", *SIDES, "tiled and original")
    found = {sampling: dict.fromkeys(names, 0) for sampling in dict.fromkeys(samplings)}
    for name, mode in MODES.items():
        iterators = [loader(folder / (prefix + mode.variant), mode, size, **how) for prefix, how in SIDES.values()]
        reference = (folder / (ORIGINAL + mode.variant), name, size)
        for batches in tqdm(zip(*iterators, strict=True), desc=name, total=len(iterators[0]), unit="batch"):
            rows = [(int(i), int(v)) for i, v in zip(batches[0][0]["index"], batches[0][0]["view"], strict=True)]
            for other in batches[1:]:
                again = [(int(i), int(v)) for i, v in zip(other[0]["index"], other[0]["view"], strict=True)]
                if again != rows:
                    raise SystemExit(f"{name}: the sides do not show the same views: {rows} and {again}")
            shown = [batch[0]["data"].numpy() for batch in batches]
            for row, want in enumerate(pool(expected_of, [(*reference, *one) for one in rows])):
                counts = found[samplings[rows[row][0]]]
                counts["views"] += 1
                for side, images in zip(SIDES, shown, strict=True):
                    counts[side] += differing(images[row], want)
                counts["tiled and original"] += differing(shown[0][row], shown[1][row])
    return found


def differing(a: Any, b: Any) -> int:
    """Bytes; all of what has another shape or type."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.nbytes, b.nbytes)
    return int(np.count_nonzero(np.ascontiguousarray(a).view(np.uint8) != np.ascontiguousarray(b).view(np.uint8)))


def tiled_of(folder: Path, samplings: list[str]) -> dict[str, int]:
    """By sampling, how many files tiles have changed."""
    tiled, original = (dataset_of(folder / f"{prefix}rrc") for prefix in ("", ORIGINAL))
    found = dict.fromkeys(samplings, 0)
    for number, sampling in enumerate(samplings):
        found[sampling] += tiled.image(number) != original.image(number)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--photos", type=int, default=400, help="how many of them at most (default %(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="of a view (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    images, samplings = encodings(folder_images(options.data)[: options.photos])
    processes = multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="dali-dr-tiles-") as scratch, processes as pool:
        folder = Path(scratch)
        write_sets(images, folder, options.size)
        tiled = tiled_of(folder, samplings)
        found = compare(folder, samplings, options.size, lambda f, tasks: pool.imap(f, tasks, 4))
    print(f"\n{'sampling':14} {'files':>6} {'in tiles':>9} {'views':>8}   differing bytes: "
          + ", ".join(f"{side} and Pillow" for side in SIDES) + ", tiled and original")  # fmt: skip
    for sampling, counts in found.items():
        bytes_ = [str(counts[name]) for name in (*SIDES, "tiled and original")]
        files = samplings.count(sampling)
        print(f"{sampling:14} {files:6} {tiled[sampling]:9} {counts['views']:8}   {', '.join(bytes_)}")
    views = sum(counts["views"] for counts in found.values())
    wrong = sum(sum(counts.values()) - counts["views"] for counts in found.values())
    print(f"{views} views, {wrong} differing bytes")
    if options.json:
        report = {"views": views, "differing": wrong, "by sampling": found, "in tiles": tiled, "size": options.size}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
