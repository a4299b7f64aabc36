"""Two checkouts against each other: throughput and records of this one and of another, in turn, as ratios pair by pair.

    git worktree add ../before COMMIT && (cd ../before && PATH=.../.venv/bin:$PATH python setup.py build_ext --inplace)
    python bench/against.py ../before --data PHOTOS [--rounds 7] [--only NAME …] [--json FILE]

Every figure is taken in a fresh process of the checkout that it is of, whose plugin must be built; each reads files that
it wrote itself, of the same photos and views, since they may differ in the version of their format. The two take turns
figure by figure, and in coming first, since drift of the machine would pass for a gain.
A ratio above 1 says that this checkout is faster.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from throughput import machine
from tqdm import tqdm

HERE = Path(__file__).resolve().parent.parent
Figure = Callable[[Path], dict[str, float]]
"""Of a checkout: names of figures -> their values; more is better."""
LOADERS = (
    *("ours_rrc", "ours_rrc_original", "ours_rrc_ra_re", "ours_rrc_ra_re_original"),
    *("ours_rrc_mixing_ra_re", "ours_plain"),
)
BARS = {"ours_rrc_ra_re_original (img/s)": 1.10}  # what a ratio must be at least, against what was before tiles

RECORDS = "records"  # both figures of bench/records.py


def run(checkout: Path, *arguments: str) -> Any:
    """What a script of a checkout prints last, as JSON."""
    command = [sys.executable, "-W", "ignore", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"in {checkout}: {' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout if done.stdout.startswith("{") else done.stdout.splitlines()[-1])


def write_data(checkout: Path, data: Path | None, scratch: Path) -> dict[str, Any]:
    """Has a checkout write its data sets, and returns what they are made of."""
    scratch.mkdir()
    code = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, 'bench'); from loaders import prepare; "
        "data, scratch, *names = sys.argv[1:]; print(json.dumps(prepare(Path(data) if data else None, Path(scratch), names)))"
    )
    facts: dict[str, Any] = run(checkout, "-c", code, str(data.absolute()) if data else "", str(scratch), *LOADERS)
    return facts


def loaders_of(checkout: Path) -> list[str]:
    """The loaders that a checkout knows by name."""
    code = "import json, sys; sys.path.insert(0, 'bench'); import loaders; print(json.dumps(list(loaders.LOADERS)))"
    found: list[str] = run(checkout, "-c", code)
    return found


def rate(name: str, folders: dict[Path, str], seconds: float) -> Figure:
    """Of a loader of bench/loaders.py. A checkout from before tiles knows files as they were alone, by the plain name."""
    script = ("bench/throughput.py", "--seconds", str(seconds), "--measure")
    names = {c: name if name in loaders_of(c) else name.removesuffix("_original") for c in folders}
    return lambda checkout: {f"{name} (img/s)": run(checkout, *script, names[checkout], folders[checkout])}


def records(seconds: float) -> Figure:
    """Of bench/records.py."""

    def measure(checkout: Path) -> dict[str, float]:
        found = run(checkout, "bench/records.py", "--json", "--seconds", str(seconds), "--samples", "20000")
        return {
            "read with one view (records/CPU s)": found["read_with_one_view"]["samples_per_cpu_s"],
            "read without views (samples/CPU s)": found["read_without_views"]["samples_per_cpu_s"],
        }

    return measure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout, with its plugin built")
    parser.add_argument("--data", type=Path, help="folder of images; default: the demo's photos")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure")
    parser.add_argument("--only", nargs="+", choices=(*LOADERS, RECORDS), default=[*LOADERS, RECORDS], metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rounds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="dali-dr-against-") as scratch:
        pair = [HERE, options.other.resolve()]
        folders = {checkout: str(Path(scratch, str(number))) for number, checkout in enumerate(pair)}
        facts, _ = (write_data(checkout, options.data, Path(folder)) for checkout, folder in folders.items())
        measures = [
            records(options.seconds) if name == RECORDS else rate(name, folders, options.seconds)
            for name in options.only
        ]
        for number, measure in tqdm(list(itertools.product(range(options.rounds), measures)), unit="pair"):
            found = {checkout: measure(checkout) for checkout in (pair if number % 2 else pair[::-1])}
            for name, own in found[pair[0]].items():
                rounds.setdefault(name, []).append((own, found[pair[1]][name]))
    report: dict[str, Any] = {
        "machine": machine(),
        "commits": [
            subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], cwd=c, capture_output=True, text=True
            ).stdout.strip()
            for c in (HERE, options.other)
        ],
        "settings": {**facts, "rounds": options.rounds, "seconds": options.seconds},
        "figures": {},
    }
    print(f"{report['machine']['cpu']}, {report['machine']['cores']} cores; {' against '.join(report['commits'])}")
    for name, pairs in rounds.items():
        ratios = sorted(own / other for own, other in pairs)
        own, other = (statistics.median(values) for values in zip(*pairs, strict=True))
        facts = {"this": round(own, 1), "other": round(other, 1), "ratio": round(statistics.median(ratios), 3)}
        report["figures"][name] = {**facts, "ratios": [round(ratio, 3) for ratio in ratios]}
        spread = f"{ratios[0]:.3f} … {ratios[-1]:.3f}"
        bar = f"   bar {BARS[name]:.2f} {'met' if facts['ratio'] >= BARS[name] else 'MISSED'}" if name in BARS else ""
        print(f"{name:38} {own:10,.0f} {other:10,.0f}   ratio {facts['ratio']:.3f} ({spread}){bar}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
