"""Time to write a record, by Python's `encode` and by C++ (`dali_dr.record.native.write`), on one core.

    python bench/record_write.py [--views 400] [--topk 10] [--records 20] [--repeats 10] [--json]

Views are drawn as for images of ImageNet's most common size; predictions vary from view to view as a teacher's do (see
bench/records.py). Times are CPU time of the process, the best of the repeats; "again" is C++ with ``recode``, of what
was read from the record. The Python side of C++, which makes pointers of arrays, is in its time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dali_dr.augment.draw import draw
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.record.decode import decode
from dali_dr.record.encode import encode
from dali_dr.record.labels import Reinforcements, order_by_confidence, sparsify
from dali_dr.record.native import write

IMAGE = (375, 500)  # height, width
IMAGES = 1_281_167  # among which partners are drawn
CLASSES = 1000
LIKELY = 60  # classes that occur in the predictions of one image's views; of mixed ones, all do
PRESETS = ("rrc", "rrc+ra+re", "rrc+mixing+ra+re")


def sample(preset: str, views: int, topk: int, seed: int) -> Reinforcements:
    """Drawn views and predictions of one image."""
    spec = AugmentationSpec.preset(preset)
    mixing = {} if spec.mixing is None else {"population": IMAGES, "partner_size": lambda _: IMAGE}
    drawn = draw(spec, seed=0, key=str(seed), views=range(views), image_height=IMAGE[0], image_width=IMAGE[1], **mixing)
    rng = np.random.default_rng(seed)
    likely, spread = (CLASSES, 2.4) if mixing else (LIKELY, 1.2)
    pool = np.sort(rng.choice(CLASSES, likely, replace=False))
    logits = rng.normal(0, 1 if mixing else 3, likely) + rng.normal(0, spread, (views, likely))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    columns, probs = sparsify(weights / weights.sum(axis=1, keepdims=True), topk)
    return Reinforcements.from_views(drawn, pool[columns].astype(np.int32), probs)


def best(records: list[Any], work: Callable[[Any], object], repeats: int) -> float:
    """Milliseconds a record."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for record in records:
            work(record)
        times.append(time.process_time() - start)
    return 1000 * min(times) / len(records)


def measure(preset: str, args: argparse.Namespace) -> dict[str, float | str]:
    settings: dict[str, Any] = {"image_height": IMAGE[0], "image_width": IMAGE[1]}
    size = AugmentationSpec.preset(preset).size
    settings["view_size"] = (size, size)
    stored = [sample(preset, args.views, args.topk, seed) for seed in range(args.records)]
    members = [encode(r.take(order_by_confidence(r)), **settings) for r in stored]
    loaded = [decode(member).reinforcements for member in members]
    native = [write(r, **settings) for r in stored]
    python_ms = best(stored, lambda r: encode(r.take(order_by_confidence(r)), **settings), args.repeats)
    native_ms = best(stored, lambda r: write(r, **settings), args.repeats)
    return {
        "preset": preset,
        "python_ms": python_ms,
        "native_ms": native_ms,
        "again_ms": best(loaded, lambda r: write(r, **settings, recode=True), args.repeats),
        "times_as_fast": python_ms / native_ms,
        "python_bytes": float(np.mean(list(map(len, members)))),
        "native_bytes": float(np.mean(list(map(len, native)))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=400, help="views per record (N)")
    parser.add_argument("--topk", type=int, default=10, help="classes per view (K)")
    parser.add_argument("--records", type=int, default=20, help="distinct records")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    rows = [measure(preset, args) for preset in PRESETS]
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    if args.json:
        print(json.dumps({"machine": machine, "views": args.views, "topk": args.topk, "rows": rows}))
        return
    print(f"{machine}; N = {args.views}, K = {args.topk}, root8; ms a record")
    print(f"{'preset':<18}{'Python':>8}{'C++':>8}{'again':>8}{'ratio':>8}{'bytes (Python)':>16}{'bytes (C++)':>13}")
    for row in rows:
        print(
            f"{row['preset']:<18}{row['python_ms']:>8.2f}{row['native_ms']:>8.3f}{row['again_ms']:>8.3f}"
            f"{row['times_as_fast']:>8.1f}{row['python_bytes']:>16.0f}{row['native_bytes']:>13.0f}"
        )


if __name__ == "__main__":
    main()
