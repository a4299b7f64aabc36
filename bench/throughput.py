"""Wall-clock parity: images per second of reinforced loading beside the loaders that people use today.

    python bench/throughput.py --data DIR --seconds 5 --json FILE

Every figure of a round is taken in a fresh process, and rounds alternate over all loaders, so that drift of the machine
hits all alike. bench/loaders.py says what each of them is, and bench/peers.py; peers that are not installed are left out,
with a line that says what to install. --only takes these and others.

DIR is a folder of images (then views are drawn here and targets are random, which the rates do not depend on), or a data
set made by dali_dr, whose files are in tiles already unless it was told to keep them. Without --data the photos of the
demo are used.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loaders import LOADERS, NAMES, prepare
from peers import PEERS, missing

from dali_dr.throughput.measure import machine, measure

RATIOS = (
    ("ours_rrc_ra_re", "decode_roi"),
    ("ours_rrc", "decode_roi"),
    ("ours_rrc_ra_re", "dali_plain"),
    ("ours_rrc_ra_re", "dali_rand_augment"),
    *(("ours_rrc_ra_re", name) for name in PEERS if name.endswith("_ra_re")),
    *(("ours_rrc", name) for name in ("dali_plain", *PEERS) if not name.endswith("_ra_re")),
    ("ours_rrc_ra_re", "decode_tiles"),
    ("decode_tiles", "decode_roi"),
    ("ours_rrc", "ours_rrc_original"),
    ("ours_rrc_ra_re", "ours_rrc_ra_re_original"),
    ("ours_rrc_ra_re_original", "decode_roi"),
    ("ours_rrc_mixing_ra_re", "ours_rrc_ra_re"),
    ("ours_4_views", "ours_rrc_ra_re"),
    ("ours_double_mix", "ours_rrc_ra_re"),
    ("ours_plain", "dali_plain"),
    ("ours_plain_ra_re", "dali_rand_augment"),
)
# What a ratio must be at least, and what is hoped for, on two cores.
BARS = {
    "ours_rrc_ra_re/decode_roi": (1.0, 1.3),
    "ours_rrc/decode_roi": (1.15, 1.5),
    "ours_rrc_ra_re/dali_plain": (2.3, 3.0),
    "ours_rrc_ra_re/torchvision_ra_re": (4.5, 6.0),
    "ours_rrc_mixing_ra_re/ours_rrc_ra_re": (0.6, 0.7),
    "ours_4_views/ours_rrc_ra_re": (2.0, 2.8),
}
MOST_BYTES, HOPED_BYTES = 1.03, 1.0  # of the images in tiles, by those of the files as they were


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
    parser.add_argument("--only", nargs="+", choices=tuple(LOADERS), default=list(NAMES), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(LOADERS[options.measure[0]], Path(options.measure[1]), options)))
        return 0
    left_out = {name: why for name in options.only if (why := missing(name))}
    for why in left_out.values():
        print(why, file=sys.stderr)
    options.only = [name for name in options.only if name not in left_out]
    with tempfile.TemporaryDirectory(prefix="dali-dr-bench-") as scratch:
        facts = prepare(options.data, Path(scratch), options.only)
        rounds: dict[str, list[float]] = {name: [] for name in options.only}
        for number in range(options.rounds):
            for name in options.only:
                rounds[name].append(in_fresh_process(name, Path(scratch), options))
                print(
                    f"round {number + 1}/{options.rounds}  {name:26} {rounds[name][-1]:9.0f} img/s",
                    file=sys.stderr,
                    flush=True,
                )
    report = {
        "machine": machine(),
        "settings": {
            **facts,
            **{k: v for k, v in vars(options).items() if k not in ("measure", "json", "data", "only")},
        },
        "left_out": left_out,
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
            f"{name:26} {rate['median']:9.0f} img/s  ± {rate['iqr'] / 2:<6.0f} {'█' * round(30 * rate['median'] / top)}"
        )
    print()
    for name, ratio in report["ratios"].items():
        print(f"{name.replace('/', ' ÷ '):48} {ratio:6.2f}{verdict(ratio, *BARS[name]) if name in BARS else ''}")
    size = s["bytes"]
    print(f"{'bytes of the images, tiled ÷ original':48} {size['ratio']:6.3f}"
          f"{verdict(size['ratio'], MOST_BYTES, HOPED_BYTES)}; {size['images in tiles']} of {s['images']} in tiles")  # fmt: skip
    for why in report["left_out"].values():
        print(why)


def verdict(value: float, bar: float, hoped: float) -> str:
    """What is said behind a value that has a bar; less is better where the hoped is below the bar."""
    met = [value <= x if hoped < bar else value >= x for x in (bar, hoped)]
    return f"   bar {bar:.2f} {'met' if met[0] else 'MISSED'}; {hoped:.2f} {'reached' if met[1] else 'not reached'}"


if __name__ == "__main__":
    sys.exit(main())
