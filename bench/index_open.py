"""Memory and time of opening and using a data set of 1.28 M samples (synthetic: sparse tars, a true index and manifest).

    python bench/index_open.py [--samples 1281167] [--dir DIR] [--json FILE]

Every measurement is a fresh process; memory is what is added to a process that has imported dali_dr, from
/proc/self/smaps_rollup: `private` is its own, `resident` includes pages that other processes share. `open` is
`Dataset(folder)`, `used` after keys, labels and all entries were read, `operator` after the C++ reader has opened the
index as well (fn.dr.read, in a pipeline that is built; without the plugin it is
left out; DALI's own memory is part of it). Bar: `open_s` + `operator_s` at most 0.5 s, `total_private_mb` at most 100 MB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.facts import ShardFacts
from dali_dr.shards.index_layout import IndexedFile
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.sample_table import SampleTable

PER_SHARD = 1000
IMAGE_BYTES, RECORD_BYTES = 110_000, 6_000  # about ImageNet's mean, and 400 views at 15 bytes
SAMPLE_BLOCKS = 240  # three headers and their data, in blocks of 512


def make(folder: Path, samples: int) -> None:
    """A data set as large as asked for, whose tars are holes."""
    table, shards = SampleTable(), []
    for number, first in enumerate(range(0, samples, PER_SHARD)):
        count = min(PER_SHARD, samples - first)
        name, size = f"shard-{number:06d}.tar", count * SAMPLE_BLOCKS * 512 + 10240
        with (folder / name).open("wb") as file:
            file.truncate(size)
        at = range(1, count * SAMPLE_BLOCKS, SAMPLE_BLOCKS)
        facts = ShardFacts(
            name,
            size,
            f"{number:064x}",
            keys=[f"n{i % 1000:08d}/n{i % 1000:08d}_{i}" for i in range(first, first + count)],  # as long as ImageNet's
            labels=[i % 1000 for i in range(first, first + count)],
            images=[(block, IMAGE_BYTES) for block in at],
            records=[(block + 220, RECORD_BYTES) for block in at],
            sizes=[(375, 500)] * count,
            crcs=list(range(count)),
        )
        table.add_file(IndexedFile(name, size), facts.keys, facts.entries())
        shards.append(facts.info)
    table.write(folder / "index.bin", 1000)
    draft = Manifest(1000, spec=AugmentationSpec.preset("rrc+ra+re"), probabilities="log8", log_step=0.15)
    dataclasses.replace(draft, shards=tuple(shards), views_min=400, views_max=400, topk=10).save(folder)


def memory() -> dict[str, int]:
    """Resident and private bytes of this process."""
    sizes = dict.fromkeys(("Rss", "Anonymous"), 0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        if name.rstrip(":") in sizes:
            sizes[name.rstrip(":")] = int(value) * 1024
    return {"resident": sizes["Rss"], "private": sizes["Anonymous"]}


def measure(folder: Path) -> dict[str, float]:
    """Open the data set, touch it here and there, then all over; times in seconds, sizes in MB."""
    before = memory()
    start = time.perf_counter()
    data = Dataset(folder)
    result: dict[str, float] = {"open_s": time.perf_counter() - start}
    opened = memory()
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, len(data), 10_000).tolist()
    start = time.perf_counter()
    keys = [data.keys[number] for number in numbers]
    result["key_us"] = (time.perf_counter() - start) / len(numbers) * 1e6
    start = time.perf_counter()
    assert [data.find(key) for key in keys[:50]] == numbers[:50]
    result["find_ms"] = (time.perf_counter() - start) / 50 * 1e3
    start = time.perf_counter()
    data.labels.sum()
    result["labels_ms"] = (time.perf_counter() - start) * 1e3
    start = time.perf_counter()
    for at in range(0, len(data), 10_000):
        data.index.entries_of(at, min(len(data), at + 10_000))["image_bytes"].sum()
    result["entries_s"] = time.perf_counter() - start
    used = memory()
    moments = {"open": opened, "used": used}
    seconds = operator(data)
    if seconds is not None:
        result["operator_s"], moments["total"] = seconds, memory()
    for name, after in moments.items():
        for kind in ("resident", "private"):
            result[f"{name}_{kind}_mb"] = (after[kind] - before[kind]) / 1e6
    result["process_mb"] = memory()["resident"] / 1e6
    return result


def operator(data: Dataset) -> float | None:
    """Seconds until fn.dr.read has opened the index of ``data`` in this process; None without the plugin."""
    from dali_dr._plugin import load
    from dali_dr.errors import PluginError

    try:
        load()
    except PluginError as error:
        print(f"without the operator: {error}", file=sys.stderr)
        return None
    from nvidia.dali import Pipeline, fn

    graph = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with graph:
        numbers = [fn.external_source([[np.array(0, dtype)]], cycle=True) for dtype in (np.int64, np.int32)]
        graph.set_outputs(*fn.dr.read(*numbers, index=str(data.index_path)))
    start = time.perf_counter()
    graph.build()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dir", type=Path, help="folder for the synthetic data set (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make(folder, options.samples)
        command = [sys.executable, __file__, "--child", str(folder)]
        rounds = [json.loads(subprocess.check_output(command)) for _ in range(options.rounds)]
        size = (folder / "index.bin").stat().st_size
    figures = {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]}
    report = {
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "settings": {"samples": options.samples, "rounds": options.rounds, "index_mb": size / 1e6},
        "median": figures,
        "max": {name: max(round_[name] for round_ in rounds) for name in rounds[0]},
    }
    for name, value in figures.items():
        print(f"{name:20} {value:10.3f}   (worst {report['max'][name]:.3f})")
    print(f"index.bin            {size / 1e6:10.1f} MB for {options.samples} samples")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
