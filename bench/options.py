"""What the training side's options cost or gain, and what the sampler and a saved state take.

    python bench/options.py --data DIR [--seconds 3] [--rounds 5] [--json FILE]

DIR as for bench/throughput.py. Rounds alternate over all variants; a ratio is the median over rounds of a variant's images
per second (views, for views_per_image) divided by the default's of the same round. Everything runs in one process, each
measurement on a new iterator.
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

from loaders import prepare
from throughput import machine

from dali_dr.throughput.sets import SIZE

WARM_UP = 0.7  # seconds before the clock starts


def variants(batch_size: int) -> dict[str, dict[str, Any]]:
    from dali_dr.sampling.choice import Curriculum

    return {
        "default": {},
        "views_per_image=4": {"views_per_image": 4, "batch_size": batch_size // 4},
        "curriculum": {"curriculum": Curriculum("easy", "all", 100)},
        "p_reinforced=0.99": {"p_reinforced": 0.99},
        "sizes (one shape, fed per batch)": {"size": [(SIZE, batch_size)]},
        "repeats=3": {"repeats": 3, "batch_size": batch_size // 3 * 3},
        "windowed order": {"order": "windowed"},
        "dense targets": {"targets": "dense"},
        "integrity=full": {"integrity": "full"},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data set, or folder of images; default: the demo's photos")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dali-dr-bench-") as scratch:
        facts = prepare(options.data, Path(scratch))
        rounds: dict[str, list[float]] = {name: [] for name in variants(options.batch_size)}
        for number in range(options.rounds):
            for name, changes in variants(options.batch_size).items():
                rounds[name].append(rate(Path(scratch) / "rrc+ra+re", options, changes))
                print(f"round {number + 1}/{options.rounds}  {name:34} {rounds[name][-1]:8.0f} img/s", file=sys.stderr)
        state = time_state(Path(scratch) / "rrc+ra+re")
    report = {
        "machine": machine(),
        "settings": {**facts, "seconds": options.seconds, "rounds": options.rounds, "threads": options.threads},
        "ratios": {
            name: round(statistics.median(a / b for a, b in zip(values, rounds["default"], strict=True)), 3)
            for name, values in rounds.items()
        },
        "rates": rounds,
        "state": state,
        "sampler_us_per_batch_of_256": {str(views): round(time_sampler(views), 1) for views in (32, 400)},
    }
    print(
        f"\n{report['machine']['cpu']}, {report['machine']['cores']} cores; {facts['images']} images ({facts['source']})"
    )
    for name, ratio in report["ratios"].items():
        print(f"{name:34} {ratio:6.3f} of the default's rate")
    print(f"state_dict: {state['us']:.1f} us, {state['bytes']} bytes")
    sampler = report["sampler_us_per_batch_of_256"]
    print(f"order and choice of a batch of 256 of 1,281,167 images: {sampler} us (by views per image)")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def rate(folder: Path, options: argparse.Namespace, changes: dict[str, Any]) -> float:
    from dali_dr import ReinforcedIterator

    arguments = {"batch_size": options.batch_size, "num_threads": options.threads, "last_batch": "fill", **changes}
    iterator = ReinforcedIterator(folder, device="cpu", **arguments)
    run(iterator, WARM_UP)
    return run(iterator, options.seconds)


def run(iterator: Any, seconds: float) -> float:
    begin, images = time.perf_counter(), 0
    while (now := time.perf_counter()) < begin + seconds:
        for (batch,) in iterator:
            images += len(batch["data"])
            if time.perf_counter() > begin + seconds:
                break
    return images / (now - begin)


def time_state(folder: Path) -> dict[str, float]:
    from dali_dr import ReinforcedIterator

    iterator = ReinforcedIterator(folder, batch_size=4, device="cpu")
    next(iterator)
    begin = time.perf_counter()
    for _ in range(1000):
        state = iterator.state_dict()
    return {"us": 1e3 * (time.perf_counter() - begin), "bytes": len(json.dumps(state))}


def time_sampler(num_views: int) -> float:
    """Microseconds per batch of 256 of ImageNet's training set: global permutation and choice of views."""
    import itertools

    from dali_dr.sampling.choice import Choice
    from dali_dr.sampling.order import Global
    from dali_dr.sampling.sampler import Sampler, Shape

    sampler = Sampler(Global(1_281_167, 0), Choice(num_views), lambda epoch, begin: Shape(256, (SIZE, SIZE)))
    run = sampler.run()
    next(run)
    begin = time.perf_counter()
    for _ in itertools.islice(run, 1600):
        pass
    return (time.perf_counter() - begin) / 1600 * 1e6


if __name__ == "__main__":
    sys.exit(main())
