"""Images per second that are transcoded to tiles and compared; milliseconds of each step; bytes; what is left as it is.

    python bench/tile.py --data DIR [--images 2000] [--rounds 3] [--threads N] [--json]

DIR holds images, in folders or not. They are read once and tiled again and again until there are --images, by all
processors; and once each on one, for the steps. The median of the rounds counts. The bar is 300 img/s on two cores for
photos of 500 × 375.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from throughput import machine

from dali_dr.images.tiles import STEPS, tiled, timed

BAR = 300
GROWTH = 1.03  # of bytes, at most


def rate(images: Sequence[bytes], count: int, threads: int) -> float:
    """Images a second by threads."""
    work = list(itertools.islice(itertools.cycle(images), count))
    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        for _ in pool.map(tiled, work):
            pass
        return count / (time.perf_counter() - begun)


def one_by_one(images: Sequence[bytes]) -> dict[str, Any]:
    """Milliseconds of a core for an image and for each step, bytes, and reasons of those that are left."""
    left: Counter[str] = Counter()
    before = after = originals = 0
    seconds = [0.0] * len(STEPS)
    used = time.thread_time()
    for image in images:
        outcome = timed(image)
        originals += len(image)
        if isinstance(outcome.result, str):
            left[outcome.result] += 1
            after += len(image)
            continue
        before += len(image)
        after += len(outcome.result)
        seconds = [a + b for a, b in zip(seconds, outcome.seconds, strict=True)]
    used = time.thread_time() - used
    done = max(1, len(images) - left.total())
    return {
        "ms_per_image": round(1e3 * used / len(images), 3),
        "ms_of_steps": {name: round(1e3 * s / done, 3) for name, s in zip(STEPS, seconds, strict=True)},
        "bytes_of_tiled": round((after - originals + before) / before, 4) if before else None,
        "bytes_of_all": round(after / originals, 4),
        "left": dict(left.most_common()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    images = [path.read_bytes() for path in sorted(options.data.rglob("*")) if path.is_file()]
    if not images:
        parser.error(f"{options.data} holds no files")
    for image in images[:20]:  # the plugin is loaded, and memory is there
        tiled(image)
    alone = [one_by_one(images) for _ in range(options.rounds)]
    rates = [rate(images, options.images, options.threads) for _ in range(options.rounds)]
    result: dict[str, Any] = {
        "files": len(images),
        "kilobytes_per_file": round(sum(map(len, images)) / len(images) / 1e3, 1),
        "threads": options.threads,
        "images_per_second": round(statistics.median(rates), 1),
        "all_rounds": [round(value, 1) for value in rates],
        **sorted(alone, key=lambda one: one["ms_per_image"])[len(alone) // 2],
        "bars": {"images_per_second": BAR, "bytes_of_all": GROWTH},
        "machine": machine(),
    }
    met = result["images_per_second"] >= BAR and result["bytes_of_all"] <= GROWTH
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        steps = ", ".join(f"{name.replace('_', ' ')} {ms:.2f}" for name, ms in result["ms_of_steps"].items())
        print(f"{result['images_per_second']:.1f} img/s on {options.threads} threads")
        print(f"{result['ms_per_image']:.2f} ms an image on one core: {steps}")
        print(f"{result['bytes_of_all']:.4f} of the original's bytes")
        for reason, count in result["left"].items():
            print(f"{count} of {len(images)} left as they are: {reason}")
        print(f"bars: {BAR} img/s, {GROWTH} of the bytes: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
