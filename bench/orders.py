"""How fast each order reads from cold storage, and how sequential its reads are.

    python bench/orders.py [--samples 4000] [--kilobytes 100] [--dir DIR] [--json FILE]

Writes plain shards of incompressible images, drops their pages from the cache (posix_fadvise), and reads every sample once
through fn.dr.read in each order. `forward` is the share of reads that lie less than 1 MiB after the one before
in the same shard; `shards` the number of shards touched by 256 reads in a row. On a network disk the difference is larger
than here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from throughput import machine

BATCH = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--kilobytes", type=int, default=100, help="per image (default %(default)s)")
    parser.add_argument("--window", type=int, default=512, help="of the windowed order (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    from dali_dr import Dataset, write_shards
    from dali_dr.sampling.order import Global, Sequential, Windowed

    with tempfile.TemporaryDirectory(prefix="dali-dr-orders-", dir=options.dir) as scratch:
        write_shards(samples(options), scratch, spec=None, num_classes=2, samples_per_shard=500, progress=False)
        dataset = Dataset(scratch)
        shards = tuple(shard.samples for shard in dataset.manifest.shards)
        orders = {
            "sequential": Sequential(len(dataset)),
            "windowed": Windowed(shards, 0, options.window),
            "global": Global(len(dataset), 0),
        }
        rounds: dict[str, list[float]] = {name: [] for name in orders}
        for _ in range(options.rounds):
            for name, order in orders.items():
                rounds[name].append(cold_rate(dataset, order))
        result = {
            name: {
                "samples_per_s": round(statistics.median(rounds[name])),
                "rounds": [round(rate) for rate in rounds[name]],
                **locality(dataset, order),
            }
            for name, order in orders.items()
        }
    report = {"machine": machine(), "settings": {k: v for k, v in vars(options).items() if k not in ("json", "dir")}}
    report["orders"] = result
    print(f"{report['machine']['cpu']}, {options.samples} images of {options.kilobytes} kB, cold")
    for name, facts in result.items():
        print(
            f"{name:11} {facts['samples_per_s']:7} samples/s   forward {facts['forward']:6.1%}   "
            f"shards per 256 reads {facts['shards']:5.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def samples(options: argparse.Namespace) -> Iterator[Any]:
    import io

    from PIL import Image

    from dali_dr import Sample

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    rng = np.random.default_rng(0)
    for number in range(options.samples):  # a valid small JPEG with random bytes after its end
        yield Sample(f"{number:08d}", buffer.getvalue() + rng.bytes(1000 * options.kilobytes), number % 2)


def cold_rate(dataset: Any, order: Any) -> float:
    """Samples per second of one epoch, read and touched, from storage."""
    from nvidia.dali import fn, pipeline_def, types

    from dali_dr import _plugin

    _plugin.load()
    os.sync()
    for shard in dataset.manifest.shards:
        descriptor = os.open(dataset.path / shard.name, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    numbers = order.at(0, np.arange(order.length // BATCH * BATCH)).samples.reshape(-1, BATCH)

    @pipeline_def(batch_size=BATCH, num_threads=2, device_id=None, prefetch_queue_depth=2)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        number = fn.external_source(
            lambda info: numbers[info.iteration % len(numbers)], batch_info=True, dtype=types.INT64
        )
        encoded, label = fn.dr.read(number, index=str(dataset.index_path))  # type: ignore[attr-defined]
        return encoded, label  # as an output, the bytes are copied, so every page is read

    pipeline = graph()
    pipeline.build()
    begin = time.perf_counter()
    for _ in range(len(numbers)):
        pipeline.run()
    return numbers.size / (time.perf_counter() - begin)


def locality(dataset: Any, order: Any) -> dict[str, float]:
    entries = dataset.index.entries[order.at(0, np.arange(order.length)).samples]
    shard, offset = entries["image_file"].astype(np.int64), entries["image_block"].astype(np.int64) * 512
    near = (np.diff(shard) == 0) & (np.diff(offset) > 0) & (np.diff(offset) < 2**20)
    runs = [len(np.unique(shard[at : at + 256])) for at in range(0, len(shard) - 255, 256)]
    return {"forward": float(near.mean()), "shards": float(np.mean(runs))}


if __name__ == "__main__":
    sys.exit(main())
