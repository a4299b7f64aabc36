"""What keeping partners decoded buys, on data sets whose views are mixed with images of a library.

    python bench/partners.py --data DIR [--epochs 3] [--rounds 7] [--json FILE]

DIR is a folder of photos. All partners come from bench/data_sets.py's LIBRARY of them. Rounds alternate over all variants, so
that drift of the machine hits all alike; a ratio is the median over rounds of images per second with partners kept, divided by
those without of the same round. Beside it stands the same of images per second of CPU time (all threads), which is what a
machine that others use, too, still tells. "original" files are as they were, the others in tiles, of which a view needs a
part only. Everything runs in one process, each measurement on a new iterator after an epoch that fills its cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data_sets import LIBRARY, ORIGINAL, drawn, folder_images, write
from throughput import machine

VARIANTS = ("library", "library-rrc")
VIEWS = 40  # per image, so that the epochs of a measurement show other views
CLASSES = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of photos")
    parser.add_argument("--epochs", type=int, default=3, help="per measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dali-dr-bench-") as scratch:
        images = folder_images(options.data)
        names = []
        for variant in VARIANTS:
            spec, samples = drawn(variant, images, None, CLASSES, VIEWS)
            for keep in (False, True):
                names.append(ORIGINAL * keep + variant)
                write(spec, samples, CLASSES, Path(scratch) / names[-1], keep_bytes=keep)
        rates: dict[str, dict[str, list[tuple[float, float]]]] = {name: {"kept": [], "read": []} for name in names}
        kept: dict[str, Any] = {}
        for number in range(options.rounds):
            for name in names:
                # In turn, so that neither has the warmer machine.
                for how in sorted(rates[name], reverse=number % 2 == 1):
                    found, stats = measure(Path(scratch) / name, how == "kept", options)
                    rates[name][how].append(found)
                    kept[name] = stats if how == "kept" else kept.get(name)
                    print(f"round {number + 1}/{options.rounds}  {name:24} {how:5} {found[0]:8.0f} img/s, "
                          f"{found[1]:.0f} a second of CPU time", file=sys.stderr)  # fmt: skip
    report = {
        "machine": machine(),
        "settings": {"images": len(images), "library": LIBRARY, "views": VIEWS, "epochs": options.epochs,
                     "rounds": options.rounds, "threads": options.threads, "batch_size": options.batch_size,
                     "load": os.getloadavg()[1]},
        "ratios": {name: ratio(of, 0) for name, of in rates.items()},
        "ratios of CPU time": {name: ratio(of, 1) for name, of in rates.items()},
        "kept": kept,
        "rates": rates,
    }  # fmt: skip
    print(
        f"\n{report['machine']['cpu']}, {report['machine']['cores']} cores; {len(images)} photos, library of {LIBRARY}"
    )
    for part, unit in (("ratios", "rate"), ("ratios of CPU time", "rate per CPU time")):
        for name, found in report[part].items():
            verdict = "gain" if found["median"] > 1 else "LOSS"
            print(
                f"{name:24} {found['median']:6.3f} of the {unit} without ({found['low']} to {found['high']}): {verdict}"
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def ratio(rates: dict[str, list[tuple[float, float]]], which: int) -> dict[str, float]:
    """With partners kept by without: median, lowest and highest of the rounds."""
    found = sorted(a[which] / b[which] for a, b in zip(rates["kept"], rates["read"], strict=True))
    return {name: round(value, 3) for name, value in
            (("median", statistics.median(found)), ("low", found[0]), ("high", found[-1]))}  # fmt: skip


def measure(folder: Path, keep: bool, options: argparse.Namespace) -> tuple[tuple[float, float], dict[str, int] | None]:
    """Images per second, and per second of CPU time; and what is kept then."""
    from dali_dr import ReinforcedIterator

    iterator = ReinforcedIterator(
        folder, device="cpu", batch_size=options.batch_size, num_threads=options.threads, last_batch="fill",
        **({} if keep else {"partner_cache_bytes": 0}),
    )  # fmt: skip
    for _ in iterator:
        pass
    begin, begin_cpu, images = time.perf_counter(), time.process_time(), 0
    for _ in range(options.epochs):
        for (batch,) in iterator:
            images += len(batch["data"])
    took = images / (time.perf_counter() - begin), images / (time.process_time() - begin_cpu)
    return took, iterator.stats().get("partners")


if __name__ == "__main__":
    sys.exit(main())
