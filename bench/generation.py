"""Teacher utilisation of generation: time in the teacher ÷ total, from the first image read to the manifest written.

    python bench/generation.py [--photos DIR] [--images 24] [--views 32] [--teacher efficientnet-lite0] [--json]

Without --photos, pictures of ImageNet's usual size (500 × 375) made here. The bar is 0.90 with efficientnet-lite0 on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.kept import settle_batch
from dali_dr.reinforce.networks import fit_batch
from dali_dr.reinforce.run import Run
from dali_dr.reinforce.teachers import load_teacher
from dali_dr.sources import ImageFolder

BAR = 0.90


def make_photos(folder: Path, count: int) -> None:
    """JPEGs of 500 × 375 with edges at all scales, about 50 kB each, as ImageNet's."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = np.zeros((375, 500, 3))
        for scale in (2, 8, 32, 128):
            coarse = rng.uniform(0, 255, (375 // scale + 1, 500 // scale + 1, 3)).astype(np.uint8)
            pixels += np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)) / 4
        (folder / f"c{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"c{number % 2}" / f"{number}.jpg", quality=85)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=None)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--teacher", default="efficientnet-lite0")
    parser.add_argument("--amp", choices=("bfloat16", "float16"), default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    teacher = load_teacher(options.teacher, "cuda" if gpu else "cpu", amp=options.amp)
    spec = AugmentationSpec.preset("rrc+ra+re")
    with tempfile.TemporaryDirectory() as folder:
        photos = options.photos or Path(folder) / "photos"
        if options.photos is None:
            make_photos(photos, options.images)
        source = ImageFolder.scan(photos)
        numbers = range(min(options.images, len(source)))
        source = ImageFolder(
            photos,
            [source.files[n] for n in numbers],
            [source.keys[n] for n in numbers],
            [source.labels[n] for n in numbers],
            source.class_names,
        )
        out = Path(folder) / "out"
        batch = settle_batch(out, lambda: fit_batch(teacher, spec.size))
        device = "gpu" if gpu else "cpu"
        g = Generation(spec, teacher, num_views=options.views, batch_views=batch, device=device)
        classes = max(teacher.num_classes, len(source.class_names))
        begun = time.monotonic()
        summary = Run(source, out, g, classes, progress=False).work().summary
        seconds = time.monotonic() - begun
    report = {
        "images": summary["images"],
        "views": summary["views"],
        "batch_views": batch,
        "seconds": round(seconds, 2),
        "views_per_second": round(summary["views"] / seconds, 1),
        "teacher_utilisation": round(summary["teacher_hours"] * 3600 / seconds, 3),
        "bytes_per_reinforcement": summary["bytes_per_reinforcement"],
        "load_average": round(os.getloadavg()[0], 1),
        "device": str(teacher.device),
    }
    report["met"] = report["teacher_utilisation"] >= BAR
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        for name, value in report.items():
            print(f"{name.replace('_', ' '):>24}  {value}")
    return 0 if report["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
