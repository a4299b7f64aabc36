"""`dali_dr.copy` between a folder and a light S3: bytes per second, beside the same puts and downloads without checks.

    python bench/copies.py [--gigabytes 1] [--shard-megabytes 100] [--latency 0.05] [--bandwidth 200e6] [--jobs 4] [--json]

The set is of one photo-like JPEG under many keys; what is measured are bytes. "checked" is `dali_dr.copy`, "bare" the same
objects through the same `Store`, as many at a time, and nothing compared; their ratio is what the checks cost. With
--bandwidth, "of the link" is the share of it that a copy fills.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from store_server import running

import dali_dr
from dali_dr.store.opening import open_store

IMAGE = (375, 500)  # height, width


def make(out: Path, size: float, shard: float) -> int:
    """A plain set of about ``size`` bytes; its bytes."""
    import io

    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (*IMAGE, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=85)
    image = buffer.getvalue()
    per_shard, count = max(1, int(shard / len(image))), max(2, int(size / len(image)))

    def samples() -> Iterator[dali_dr.Sample]:
        for number in range(count):
            yield dali_dr.Sample(f"{number:08d}", image, number % 10)

    dali_dr.write_shards(
        samples(),
        out,
        spec=None,
        num_classes=10,
        samples_per_shard=per_shard,
        keep_bytes=True,
        check_images=False,
        progress=False,
    )
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def seconds(work: Callable[[], object]) -> float:
    """Of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bare_up(folder: Path, url: str, jobs: int) -> None:
    """All files into the store, unchecked."""
    store = open_store(url)
    with ThreadPoolExecutor(jobs) as pool:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        list(pool.map(lambda name: store.put(name, folder / name), names))


def bare_down(url: str, folder: Path, jobs: int) -> None:
    """All objects into a folder, unchecked, not durable."""
    store = open_store(url)
    (folder / "report").mkdir(parents=True)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda entry: store.download(entry.name, folder / entry.name), store.list()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--shard-megabytes", type=float, default=100.0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each request takes to arrive")
    parser.add_argument("--bandwidth", type=float, default=float("inf"), help="bytes per second, of all together")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None, help="to work in")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="dali_dr-copies-", dir=options.folder))
    jobs = options.jobs
    try:
        size = make(root / "set", options.gigabytes * 1e9, options.shard_megabytes * 1e6)
        for bucket in ("one", "two", "bare"):
            (root / "served" / bucket).mkdir(parents=True)
        with running(root / "served", latency=options.latency, bandwidth=options.bandwidth) as server:
            os.environ |= server.environment
            source, back = root / "set", root / "back"
            took = {
                "up, bare": seconds(lambda: bare_up(source, "s3://bare", jobs)),
                "up, checked": seconds(lambda: dali_dr.copy(source, "s3://one", jobs=jobs, progress=False)),
                "down, bare": seconds(lambda: bare_down("s3://bare", root / "bare", jobs)),
                "down, checked": seconds(lambda: dali_dr.copy("s3://one", back, jobs=jobs, progress=False)),
                "across, checked": seconds(lambda: dali_dr.copy("s3://one", "s3://two", jobs=jobs, progress=False)),
                "again, all there": seconds(lambda: dali_dr.copy(source, "s3://one", jobs=jobs, progress=False)),
                "again, --recheck": seconds(
                    lambda: dali_dr.copy(source, "s3://one", jobs=jobs, recheck=True, progress=False)
                ),
            }
    finally:
        shutil.rmtree(root)
    rows: dict[str, Any] = {
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}",
        "bytes": size,
    }
    rows |= {name: {"seconds": round(s, 3), "MB/s": round(size / s / 1e6, 1)} for name, s in took.items()}
    for way in ("up", "down"):
        rows[f"{way}: bare / checked"] = round(took[f"{way}, bare"] / took[f"{way}, checked"], 3)
    if options.bandwidth < float("inf"):
        rows["down: of the link"] = round(size / took["down, checked"] / options.bandwidth, 3)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for name, value in rows.items():
        print(f"{name:>24}  {value}")


if __name__ == "__main__":
    main()
