"""Cuts off, copies over, replaces, deletes and restores files of a data set at random instants while a child reads them.

What must hold: the child is ended by no signal, and each batch is right in every byte or an error. It decodes, too,
because a decoder reads the encoded bytes long after the read operator looked at them.

  python bench/cut_in_use.py [--instants 200] [--seed 0]
"""

from __future__ import annotations

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SAMPLES, BATCH = 60, 8


def photos() -> list[bytes]:
    """JPEGs of several pages, all different."""
    encoded = []
    for number in range(SAMPLES):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (30 + number % 7, 40, 3), np.uint8).repeat(6, 0).repeat(6, 1)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=85)
        encoded.append(stream.getvalue())
    return encoded


def make(folder: Path) -> None:
    """A plain data set, ten samples to a shard."""
    from dali_dr.shards.sample import Sample
    from dali_dr.shards.write import write_shards

    samples = [Sample(f"k{i:03d}", image, i % 10, None) for i, image in enumerate(photos())]
    write_shards(samples, folder, spec=None, num_classes=10, samples_per_shard=10, progress=False)


def reader(index: str) -> None:
    """The child: reads and decodes random samples until its standard input is closed; prints what came out."""
    import select

    import nvidia.dali.fn as fn
    from nvidia.dali import pipeline_def

    from dali_dr._plugin import load

    load()
    want = photos()
    rng = np.random.default_rng(1)
    drawn: list[np.ndarray] = []

    def numbers() -> np.ndarray:
        drawn.append(rng.integers(SAMPLES, size=BATCH))
        return drawn[-1]

    @pipeline_def  # type: ignore[untyped-decorator]
    def graph() -> Any:
        images, labels = fn.dr.read(fn.external_source(numbers), index=index, retry_s=0.02)
        return images, labels, fn.decoders.image(images)

    good = wrong = errors = 0
    pipe = None
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            if pipe is None:
                drawn.clear()
                pipe = graph(batch_size=BATCH, num_threads=2, device_id=None, prefetch_queue_depth=2)
            images, labels, pixels = pipe.run()
        except RuntimeError:
            errors += 1
            pipe = None
            continue
        if not good:
            print("reading", flush=True)
        for place, number in enumerate(drawn.pop(0)):
            right = np.asarray(images.at(place)).tobytes() == want[number]
            right &= int(np.asarray(labels.at(place))) == number % 10
            right &= np.asarray(pixels.at(place)).shape == (6 * (30 + number % 7), 240, 3)
            good, wrong = good + right, wrong + (not right)
    print(good, wrong, errors, flush=True)


def change(rng: random.Random, path: Path, whole: bytes) -> None:
    """One thing that happens to a file."""
    aside = path.with_name("aside")
    kind = rng.choice(("cut", "copy", "copy", "replace", "other", "delete", "restore", "restore"))
    if kind == "cut" and path.exists():
        os.truncate(path, rng.randrange(len(whole)))
    elif kind == "copy":
        path.write_bytes(whole)
    elif kind in ("replace", "restore"):
        aside.write_bytes(whole)
        aside.replace(path)
    elif kind == "other":
        aside.write_bytes(whole[: rng.randrange(len(whole))])
        aside.replace(path)
    elif kind == "delete":
        path.unlink(missing_ok=True)


def trial(instants: int, seed: int) -> tuple[int, int, int, int]:
    """Returns the child's exit status (negative: a signal), and the samples that were right, wrong, and errors."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder)
        files = {path: path.read_bytes() for path in [*sorted(folder.glob("**/*.tar")), folder / "index.bin"]}
        command = [sys.executable, __file__, "--reader", str(folder / "index.bin")]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()  # it reads
        for instant in range(instants):
            path = rng.choice(list(files))
            change(rng, path, files[path])
            time.sleep(rng.random() * 0.06)
            if instant % 5 == 4:  # now and then all is well
                for path, whole in files.items():
                    path.write_bytes(whole)
                time.sleep(0.1)
            if child.poll() is not None:
                break
        text, _ = child.communicate(timeout=60)
    counts = [int(word) for word in text.split()[-3:]] if child.returncode == 0 else [0, 0, 0]
    return child.returncode, counts[0], counts[1], counts[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        reader(options.reader)
        return 0
    status, good, wrong, errors = trial(options.instants, options.seed)
    print(
        f"{options.instants} instants: child ended with {status}; {good} samples right, {wrong} wrong; {errors} errors"
    )
    return int(status != 0 or wrong != 0 or good == 0 or errors == 0)


if __name__ == "__main__":
    sys.exit(main())
