"""Wall-clock parity: images per second of reinforced loading beside the loaders that people use today.

    python bench/throughput.py --data DIR --seconds 5 --json FILE

Every figure of a round is taken in a fresh process, and rounds alternate over all loaders, so that drift of the machine
hits all alike. bench/loaders.py says what each of them is. By default dali_plain, dali_rand_augment, torchvision_plain,
torchvision_ra_re, ours_rrc, ours_rrc_ra_re, decode_roi and decode_full are measured; --only takes these and the others.

DIR is a data set made by dali_dr, or a folder of images (then views are drawn here and targets are random, which the
rates do not depend on). Without --data the photos of the demo are used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from loaders import EXTRA_NAMES, LOADERS, NAMES, prepare

RATIOS = (
    ("ours_rrc_ra_re", "dali_plain"),
    ("ours_rrc_ra_re", "dali_rand_augment"),
    ("ours_rrc_ra_re", "torchvision_ra_re"),
    ("ours_rrc_ra_re", "decode_roi"),
    ("ours_rrc", "dali_plain"),
    ("ours_rrc", "torchvision_plain"),
    ("ours_rrc_mixing_ra_re", "ours_rrc_ra_re"),
    ("ours_double_mix", "ours_rrc_ra_re"),
    ("ours_plain", "dali_plain"),
    ("ours_plain_ra_re", "dali_rand_augment"),
)
WARM_UP = 1.0  # seconds run before the clock starts: prefetch queues fill, the page cache and allocators settle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data set, or folder of images; default: the demo's photos")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes per loader (default %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all processors")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--hw-decoder-load", type=float, default=0.65, help="with --device gpu")
    parser.add_argument("--decode-device", choices=("auto", "cpu"), default="auto", help="with --device gpu")
    parser.add_argument("--roi-decode", choices=("on", "off"), default="on", help="off: whole images, then crop")
    parser.add_argument("--only", nargs="+", choices=NAMES + EXTRA_NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]), options)))
        return 0
    with tempfile.TemporaryDirectory(prefix="dali-dr-bench-") as scratch:
        facts = prepare(options.data, Path(scratch), options.only)
        rounds: dict[str, list[float]] = {name: [] for name in options.only}
        for number in range(options.rounds):
            for name in options.only:
                rounds[name].append(in_fresh_process(name, Path(scratch), options))
                print(
                    f"round {number + 1}/{options.rounds}  {name:22} {rounds[name][-1]:9.0f} img/s",
                    file=sys.stderr,
                    flush=True,
                )
    report = {
        "machine": machine(),
        "settings": {
            **facts,
            **{k: v for k, v in vars(options).items() if k not in ("measure", "json", "data", "only")},
        },
        "rates": {name: summary(values) for name, values in rounds.items()},
        "ratios": {
            f"{a}/{b}": round(statistics.median(x / y for x, y in zip(rounds[a], rounds[b], strict=True)), 3)
            for a, b in RATIOS
            if a in rounds and b in rounds
        },
    }
    print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def summary(values: list[float]) -> dict[str, Any]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (0.0, 0.0, 0.0)
    return {
        "median": round(statistics.median(values), 1),
        "iqr": round(high - low, 1),
        "rounds": [round(v, 1) for v in values],
    }


def in_fresh_process(name: str, scratch: Path, options: argparse.Namespace) -> float:
    own = ("seconds", "threads", "batch_size", "device", "hw_decoder_load", "decode_device", "roi_decode")
    arguments = [part for o in own for part in (f"--{o.replace('_', '-')}", str(getattr(options, o)))]
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        __file__,
        *arguments,
        "--measure",
        name,
        str(scratch),
    ]
    done = subprocess.run(command, capture_output=True, text=True)  # DALI's own deprecation warnings are not news
    if done.returncode:
        raise SystemExit(f"measuring {name} failed:\n{done.stderr}\nTo see it alone: {' '.join(command)}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def print_report(report: dict[str, Any]) -> None:
    m, s = report["machine"], report["settings"]
    print(
        f"\n{m['cpu']}, {m['cores']} cores{', ' + m['gpu'] if m['gpu'] else ''}; {s['images']} images ({s['source']}),"
    )
    print(
        f"batch {s['batch_size']}, {s['threads']} threads, {s['rounds']} rounds of {s['seconds']} s, device {s['device']}\n"
    )
    top = max(r["median"] for r in report["rates"].values())
    for name, rate in report["rates"].items():
        print(
            f"{name:22} {rate['median']:9.0f} img/s  ± {rate['iqr'] / 2:<6.0f} {'█' * round(30 * rate['median'] / top)}"
        )
    print()
    for name, ratio in report["ratios"].items():
        print(f"{name.replace('/', ' ÷ '):38} {ratio:6.2f}")


def machine() -> dict[str, Any]:
    import torch

    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")),
        platform.machine(),
    )
    packages = ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "torch", "torchvision", "pillow", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def measure(name: str, scratch: Path, options: argparse.Namespace) -> float:
    """Images per second of one loader."""
    run, release = LOADERS[name](scratch, options)
    deadline = time.perf_counter() + WARM_UP
    while time.perf_counter() < deadline:
        run()
    begin, images = time.perf_counter(), 0
    while (now := time.perf_counter()) < begin + options.seconds:
        images += run()
    release()
    return images / (now - begin)


if __name__ == "__main__":
    sys.exit(main())
