"""Images per second that `dali-dr pack` packs and `dali-dr retile` tiles, and what reading and writing alone cost.

    python bench/pack.py --data DIR [--images 3000] [--rounds 3] [--threads N] [--out DIR] [--json]

DIR holds photos, as a folder of class folders or flat with ImageNet's names; they are packed again and again under other
keys until there are --images. The rates are of whole calls, from the first read to dataset.json, in turns within one
run; the median counts:

  pack                  judged and tiled, as by default
  keep_bytes            judged, and stored as they are; the bar is 400 img/s on two cores
  no_check              tiled; of images that are not judged, headers alone are looked at
  no_check_keep_bytes   stored as they are
  retile                the set of keep_bytes once more, tiled; the bar is 300 img/s on two cores
  read_and_write        reads the same files and appends them to one that it makes durable at the end
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from throughput import machine

from dali_dr.pack import pack
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.retile import retile
from dali_dr.sources import ImageFolder, Source

BARS = {"keep_bytes": 400, "retile": 300}


class Repeated:
    """A source again and again, under other keys, until it has ``count`` images."""

    def __init__(self, source: Source, count: int) -> None:
        self._source = source
        self.keys: Sequence[str] = [f"r{n // len(source)}/{source.keys[n % len(source)]}" for n in range(count)]
        self.labels: Sequence[int] = [int(source.labels[n % len(source)]) for n in range(count)]
        self.class_names, self.notes = source.class_names, source.notes

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, number: int) -> bytes:
        return self._source.read(number % len(self._source))

    def where(self, number: int) -> str:
        return self._source.where(number % len(self._source))


def stand_in(source: Source, out: Path) -> None:
    """Reads and writes, and nothing else."""
    out.mkdir()
    with (out / "all").open("wb") as file:
        for number in range(len(source)):
            file.write(source.read(number))
        file.flush()
        os.fsync(file.fileno())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--out", type=Path, default=None, help="where to write (default: the folder of temporary files)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source: Any = Repeated(ImageFolder.scan(options.data), options.images)
    settings: dict[str, Any] = {"on_error": "skip", "threads": options.threads, "progress": False}
    ways: dict[str, Callable[[Path], object]] = {
        "pack": lambda out: pack(source, out, **settings),
        "keep_bytes": lambda out: pack(source, out, keep_bytes=True, **settings),
        "no_check": lambda out: pack(source, out, check=False, **settings),
        "no_check_keep_bytes": lambda out: pack(source, out, check=False, keep_bytes=True, **settings),
        "retile": lambda out: retile(out.parent / "plain", out, threads=options.threads, progress=False),
        "read_and_write": lambda out: stand_in(source, out),
    }
    tiles: dict[str, Any] = {}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        ways["keep_bytes"](Path(folder) / "plain")  # files come from memory from here on, for all alike
        for _ in range(options.rounds):
            for name, run in ways.items():
                out = Path(folder) / name
                begun = time.perf_counter()
                run(out)
                rates[name].append(len(source) / (time.perf_counter() - begun))
                if name == "retile" and (counts := Manifest.load(out).tiles) is not None:
                    tiles = counts.to_json() | {"ratio": counts.ratio}
                shutil.rmtree(out)
    found = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    result = {
        "images": len(source),
        "megabytes": round(sum(len(source.read(n)) for n in range(len(source))) / 1e6, 1),
        "images_per_second": found,
        "all_rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "of_reading_and_writing": round(found["pack"] / found["read_and_write"], 3),
        "tiles": tiles,
        "bars": BARS,
        "machine": machine(),
    }
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for name, rate in found.items():
            print(f"{name.replace('_', ' '):>22}  {rate:8.1f} img/s")
        print(f"{'tiles':>22}  {tiles['images']} of {len(source)} images, {tiles['ratio']:.4f} of their bytes")
        for name, bar in BARS.items():
            print(f"bar: {bar} img/s of {name}, {'met' if found[name] >= bar else 'missed'}")
    return 0 if all(found[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
