"""Times fn.dr.replay on real photos: the microseconds per view that each stage costs, and decode with and without replay.

Views are drawn as ImageNet+ draws them (RandomResizedCrop, flip, RandAugment 2 x 9 of 31, erase 0.25), replayed at 224.
    python bench/replay_op.py --photos DIR [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import nvidia.dali as dali
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from PIL import Image

from dali_dr._plugin import load

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# torchvision's RandAugment at bin 9 of 31 and 224 pixels, by operation; operations 1 to 9 draw a sign.
MAGNITUDES = [0, 0.09, 0.09, 30.45, 30.45, 9, 0.27, 0.27, 0.27, 0.27, 7, 178.5, 0, 0]


def draw(rng: np.random.Generator, height: int, width: int, num_ops: int, erase: float) -> npt.NDArray[np.int32]:
    """The packed words of one random view of an image of this size."""
    crop = (0, 0, height, width)
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            crop = (int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
            break
    box = (0, 0, 0, 0)
    if rng.random() < erase:
        h, w = (int(v) for v in rng.integers(20, 120, 2))
        box = (int(rng.integers(0, 224 - h)), int(rng.integers(0, 224 - w)), h, w)
    words = [*crop, int(rng.integers(0, 2)), *box, num_ops]
    for op in rng.integers(0, 14, num_ops).tolist():
        sign = -1 if 1 <= op <= 9 and rng.random() < 0.5 else 1
        words += [op, int(np.float32(sign * MAGNITUDES[op]).view(np.int32))]
    return np.array(words, np.int32)


def seconds_per_image(
    images: int, batch: int, threads: int, rounds: int, feed: Any, decode: bool, replay: Any
) -> float:
    """Best seconds per image over `rounds` epochs of a CPU pipeline: decode of the crop boxes, replay, or both."""

    @dali.pipeline_def(batch_size=batch, num_threads=threads, device_id=None, prefetch_queue_depth=1)
    def graph() -> Any:
        data, params, start, shape = fn.external_source(feed, num_outputs=4, batch=True, no_copy=True, cycle="quiet")
        if decode:
            data = fn.decoders.image_slice(data, start=start, shape=shape, axis_names="HW", adjust_orientation=False)
        return data if replay is None else fn.dr.replay(data, params, origin=start, size=224, **replay)

    pipeline = graph()
    pipeline.build()
    steps = images // batch
    best = math.inf
    for epoch in range(rounds + 1):
        begin = time.perf_counter()
        for _ in range(steps):
            pipeline.run()
        if epoch:
            best = min(best, (time.perf_counter() - begin) / (steps * batch))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--images", type=int, default=128, help="photos to use")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="epochs, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="write the results there")
    arguments = parser.parse_args()
    load()
    warnings.filterwarnings("ignore", message=".*are not used|.*is not used")  # not every pipeline takes all inputs
    paths = sorted(arguments.photos.iterdir())
    paths = paths[:: max(1, len(paths) // arguments.images)][: arguments.images]
    jpegs = [np.fromfile(path, np.uint8) for path in paths]
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]

    def feeds(num_ops: int, erase: float, decoded: bool) -> list[Any]:
        rng = np.random.default_rng(0)
        words = [draw(rng, *p.shape[:2], num_ops, erase) for p in pixels]
        start, shape = [w[:2].copy() for w in words], [w[2:4].copy() for w in words]
        data = jpegs
        if decoded:  # what decoding the crop box gives
            data = [
                np.ascontiguousarray(p[w[0] : w[0] + w[2], w[1] : w[1] + w[3]])
                for p, w in zip(pixels, words, strict=True)
            ]
        cut = [
            slice(i, i + arguments.batch)
            for i in range(0, len(words) // arguments.batch * arguments.batch, arguments.batch)
        ]
        return [(data[c], words[c], start[c], shape[c]) for c in cut]

    def measure(num_ops: int, erase: float, decode: bool, replay: Any) -> float:
        feed = feeds(num_ops, erase, decoded=not decode)
        seconds = seconds_per_image(
            len(paths), arguments.batch, arguments.threads, arguments.rounds, feed, decode, replay
        )
        return round(seconds * 1e6, 1)

    half = {"dtype": types.FLOAT16, "mean": MEAN, "std": STD}
    results: dict[str, float] = {
        "pass-through": measure(2, 0.25, False, None),
        "replay crop+flip uint8": measure(0, 0.0, False, {}),
        "replay crop+flip float16": measure(0, 0.0, False, half),
        "replay rrc+ra+re float16": measure(2, 0.25, False, half),
        "replay rrc+ra+re float32": measure(2, 0.25, False, {**half, "dtype": types.FLOAT}),
        "replay rrc+ra+re float16 HWC": measure(2, 0.25, False, {**half, "output_layout": "HWC"}),
        "decode of the crop": measure(2, 0.25, True, None),
        "decode + replay rrc+ra+re float16": measure(2, 0.25, True, half),
    }
    for name, microseconds in results.items():
        print(f"{name:36s} {microseconds:8.1f} us/view")
    ratio = results["decode of the crop"] / results["decode + replay rrc+ra+re float16"]
    print(f"throughput with replay / decode alone: {ratio:.3f}")
    if arguments.json:
        facts = {"threads": arguments.threads, "images": len(paths), "microseconds_per_view": results, "ratio": ratio}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
