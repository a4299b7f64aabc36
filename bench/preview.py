"""How long the page of `dali-dr preview --html` takes to make, how large it is, and when Chromium shows its first picture.

    python bench/preview.py [--photos DIR] [--images 10000] [--views 8] [--scratch DIR] [--json FILE]

The set is made here: photos (those of the demo unless DIR has more) in turn, with views drawn by the preset rrc+ra+re and random
predictions. Seconds to the first picture are from the start of navigation to the file until its first card is painted (the
mark "first picture" of the page), in a fresh headless Chromium, the middle of three. Exits with 1 above 3 seconds, or if the
console shows an error. On a machine that has other work, the processor's seconds of the making say more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from headless import NoBrowserError, chromium, executable
from PIL import Image

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.encoded import image_info
from dali_dr.preview.names import names_of
from dali_dr.preview.page import write_page
from dali_dr.record.labels import Reinforcements
from dali_dr.sources.classes import imagenet_classes

CLASSES, TOPK, DRAWN = 1000, 10, 200  # predictions are drawn for so many images, and used in turn
MOST_SECONDS = 3.0
EDGE = 500  # of the photos, as ImageNet's: the demo's are larger


def photos_of(folder: Path | None, scratch: Path) -> list[bytes]:
    """Files of photos, as they are, or the demo's at the size of ImageNet's."""
    if folder is None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
        from demo import collect_photos

        folder = scratch / "photos"
        collect_photos(folder)
        for path in folder.rglob("*.jpg"):
            with Image.open(path) as image:
                image.thumbnail((EDGE, EDGE))
                image.save(path, quality=92)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return [path.read_bytes() for path in paths]


def samples(photos: list[bytes], images: int, views: int, spec: AugmentationSpec) -> Iterator[dali_dr.Sample]:
    """Photos in turn, each with views and predictions of its own."""
    random = np.random.default_rng(0)
    sizes = [image_info(photo)[1:] for photo in photos]
    shares = np.sort(random.dirichlet(np.full(TOPK + 1, 0.3), (DRAWN, views)), axis=2)[..., :0:-1].astype(np.float32)
    ids = np.stack([random.permutation(CLASSES)[:TOPK] for _ in range(DRAWN * views)]).reshape(DRAWN, views, TOPK)
    synsets, _ = imagenet_classes()
    for number in range(images):
        place, label = number % len(photos), number % CLASSES
        height, width = sizes[place]
        key = f"{synsets[label]}_{number}"
        drawn = draw(spec, seed=0, key=key, views=range(views), image_height=height, image_width=width)
        at = number % DRAWN
        predictions = ids[at].astype(np.int32), np.ascontiguousarray(shares[at])
        yield dali_dr.Sample(key, photos[place], label, Reinforcements.from_views(drawn, *predictions))


def first_picture(path: Path) -> tuple[float, list[str]]:
    """Seconds until the page's first picture, and what the console says."""
    said: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.absolute().as_uri(), wait_until="commit")
        mark = "performance.getEntriesByName('first picture')[0]?.startTime ?? 0"
        while not (at := page.evaluate(mark)):
            time.sleep(0.02)
        page.wait_for_load_state("load", timeout=120_000)
    return at / 1000, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=None)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    try:
        executable()  # before minutes of work
    except NoBrowserError as error:
        raise SystemExit(f"bench/preview.py: {error}") from None
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        spec = AugmentationSpec.preset("rrc+ra+re")
        photos = photos_of(options.photos, scratch)
        dali_dr.write_shards(
            samples(photos, options.images, options.views, spec), scratch / "set", spec=spec, num_classes=CLASSES,
            class_names=imagenet_classes()[0], check_images=False, keep_bytes=True, total=options.images,
        )  # fmt: skip
        dataset, path = dali_dr.Dataset(scratch / "set"), scratch / "set.html"
        begun, worked = time.perf_counter(), time.process_time()
        made = write_page(dataset, path, names=names_of(dataset), images=options.images, views=options.views)
        making, work = time.perf_counter() - begun, time.process_time() - worked
        seen = [first_picture(path) for _ in range(3)]
    seconds = sorted(one for one, _ in seen)
    said = sorted({line for _, lines in seen for line in lines})
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "photos": len(photos),
        **made,
        "making_seconds": round(making, 1),
        "making_cpu_seconds": round(work, 1),
        "first_picture_seconds": [round(one, 2) for one in seconds],
        "console": said,
    }
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if statistics.median(seconds) <= MOST_SECONDS and not said else 1


if __name__ == "__main__":
    sys.exit(main())
