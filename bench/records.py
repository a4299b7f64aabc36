"""Speed of fn.dr.read: records per second and core, and a sample index of ImageNet's size (open time, memory).

    python bench/records.py [--records 400] [--views 400] [--topk 10] [--batch 256] [--seconds 5] [--samples N] [--json]

Images are flat and small (a few kB), so that the time is the record's: find, decompress, check, unpack, copy.
CPU seconds are those of the whole process, executor and Python feed included, so they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn, pipeline_def
from PIL import Image

from dali_dr._plugin import load
from dali_dr.augment.draw import draw
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.record.labels import Reinforcements, sparsify
from dali_dr.shards.index import SampleIndex
from dali_dr.shards.index_layout import INDEX_NAME, IndexedFile
from dali_dr.shards.sample import Sample
from dali_dr.shards.sample_table import SampleTable
from dali_dr.shards.write import write_shards

IMAGE = (375, 500)  # height, width: ImageNet's most common size
CLASSES = 1000
LIKELY = 60  # classes that occur in the predictions of one image's views; real records hold about 50
SEED = 0


def samples(records: int, views: int, topk: int, spec: AugmentationSpec) -> Iterator[Sample]:
    """Flat images with drawn views and predictions that vary from view to view as a teacher's do."""
    rng = np.random.default_rng(SEED)
    buffer = io.BytesIO()
    Image.new("RGB", IMAGE[::-1], (120, 130, 140)).save(buffer, "JPEG")
    for number in range(records):
        key = f"n{number:08d}_{number}"
        drawn = draw(spec, seed=SEED, key=key, views=range(views), image_height=IMAGE[0], image_width=IMAGE[1])
        pool = np.sort(rng.choice(CLASSES, LIKELY, replace=False))
        logits = rng.normal(0, 3, LIKELY) + rng.normal(0, 1.2, (views, LIKELY))
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        columns, probs = sparsify(weights / weights.sum(axis=1, keepdims=True), topk)
        stored = Reinforcements.from_views(drawn, pool[columns].astype(np.int32), probs)
        yield Sample(key, buffer.getvalue(), int(rng.integers(CLASSES)), stored)


@pipeline_def
def read_pipeline(index: str, numbers: np.ndarray, rows: np.ndarray | None) -> Any:
    """Reads the samples ``numbers`` (batches, batch), with the views ``rows`` of the same shape or without."""

    def feed(column: np.ndarray) -> Any:
        return fn.external_source(lambda info: column[info.iteration % len(column)], batch_info=True)

    views = () if rows is None else (feed(rows),)
    return tuple(fn.dr.read(feed(numbers), *views, index=index))


def build(index: Path, numbers: np.ndarray, rows: np.ndarray | None, threads: int = 1) -> Pipeline:
    pipe = read_pipeline(str(index), numbers, rows, batch_size=numbers.shape[1], num_threads=threads, device_id=None)
    pipe.build()
    return pipe


def rate(pipe: Pipeline, batch: int, seconds: float) -> dict[str, float]:
    """Samples per second of wall time and of CPU time; the pipeline is warmed up first."""
    for _ in range(10):
        pipe.run()
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < wall + seconds:
        pipe.run()
        done += batch
    return {
        "samples_per_s": done / (time.perf_counter() - wall),
        "samples_per_cpu_s": done / (time.process_time() - cpu),
    }


def memory() -> int:
    """Resident bytes of this process."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def large_index(folder: Path, small: Path, count: int) -> Path:
    """An index of ``count`` samples over the one shard of ``small``, each of whose members then has many numbers."""
    source = SampleIndex(small)
    repeats = -(-count // len(source))
    entries = np.tile(np.asarray(source.entries), repeats)[:count]
    keys = (list(source.keys) * repeats)[:count]
    table = SampleTable()
    table.add_file(IndexedFile(source.files[0].name, source.files[0].size), keys, entries)
    path = folder / "large.bin"
    table.write(path, CLASSES)
    return path


def measure_index(path: Path, count: int, batch: int) -> dict[str, float]:
    gc.collect()
    rng = np.random.default_rng(SEED)
    numbers, rows = rng.integers(0, count, (500, batch)), np.zeros((500, batch), np.int32)
    before, start = memory(), time.perf_counter()
    pipe = build(path, numbers, rows)
    result = {
        "file_mb": path.stat().st_size / 1e6,
        "open_and_build_s": time.perf_counter() - start,
        "open_rss_mb": (memory() - before) / 1e6,
    }
    start = time.perf_counter()
    pipe.run()
    result["first_batch_s"] = time.perf_counter() - start
    for _ in range(499):
        pipe.run()
    result["rss_after_500_batches_mb"] = (memory() - before) / 1e6
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=400, help="distinct samples written for the measurement")
    parser.add_argument("--views", type=int, default=400, help="views per record (N)")
    parser.add_argument("--topk", type=int, default=10, help="classes per view (K)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5, help="length of each measurement")
    parser.add_argument("--samples", type=int, default=1_281_167, help="size of the large index")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    load()

    spec = AugmentationSpec.preset("rrc+ra+re")
    result: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {cpu_name()}"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stream = samples(args.records, args.views, args.topk, spec)
        manifest = write_shards(
            stream, folder, spec=spec, num_classes=CLASSES, samples_per_shard=args.records, progress=False
        )
        index = folder / INDEX_NAME
        result["bytes_per_view"] = manifest.record_bytes / (args.records * args.views)
        rng = np.random.default_rng(SEED)
        numbers = rng.integers(0, args.records, (64, args.batch))
        rows = rng.integers(0, args.views, (64, args.batch), dtype=np.int32)
        result["read_with_one_view"] = rate(build(index, numbers, rows), args.batch, args.seconds)
        result["read_without_views"] = rate(build(index, numbers, None), args.batch, args.seconds)
        with_views, without = (result[f"read_{k}"]["samples_per_cpu_s"] for k in ("with_one_view", "without_views"))
        result["record_us"] = 1e6 / with_views - 1e6 / without
        result["index"] = measure_index(large_index(folder, index, args.samples), args.samples, args.batch)
    if args.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    print(result["machine"])
    print(f"{result['bytes_per_view']:.1f} bytes per view, {args.views} views, K = {args.topk}")
    for key in ("read_with_one_view", "read_without_views"):
        print(f"{key}: {result[key]['samples_per_cpu_s']:,.0f} samples per CPU second")
    print(f"one record: {result['record_us']:.1f} us")
    print(f"index of {args.samples:,} samples: " + ", ".join(f"{k} {v:.3g}" for k, v in result["index"].items()))


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
