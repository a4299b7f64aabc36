"""Teacher utilisation under Ray beside that of one process, on this machine.

    python bench/ray_utilisation.py [--photos DIR] [--images 48] [--views 32] [--teacher efficientnet-lite0] [--json]

Two figures each: the report's (time in the teacher ÷ time of the shards), and over the workers' whole span from the first
shard's beginning to the last one's end, with what lies between shards. Loading is in neither. The bar is 0.90 for both,
with efficientnet-lite0 on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from generation import BAR, make_photos

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.reinforce.blueprint import Blueprint, Named
from dali_dr.reinforce.engine import reinforce_here
from dali_dr.reinforce.on_ray import Cluster, reinforce_on_ray
from dali_dr.reinforce.part import Part

_LINE = re.compile(r"^(\S+ \S+?),(\d+) .* images in ([0-9.]+) s, ([0-9.]+) s of them in the teacher$")


def spans(report: Path) -> tuple[float, float]:
    """Seconds in the teacher, and of the spans from first beginning to last end, of all workers by their logs."""
    teacher = span = 0.0
    for log in report.glob("rank-*.log"):
        shards = [match for line in log.read_text().splitlines() if (match := _LINE.match(line))]
        ends = [datetime.fromisoformat(m[1]).timestamp() + int(m[2]) / 1000 for m in shards]
        if shards:
            teacher += sum(float(match[4]) for match in shards)
            span += ends[-1] - ends[0] + float(shards[0][3])
    return teacher, span


def measured(blueprint: Blueprint, cluster: Cluster | None) -> dict[str, Any]:
    """A run, by this process or by Ray, and its figures."""
    begun = time.monotonic()
    if cluster is None:
        summary = reinforce_here(blueprint, Part(), progress=False).summary
    else:
        summary = reinforce_on_ray(blueprint, cluster, progress=False).summary
    seconds = time.monotonic() - begun
    teacher, span = spans(Path(blueprint.out) / "report")
    return {
        "workers": len(summary["workers"]),
        "teacher_utilisation": summary["teacher_utilisation"],
        "teacher_utilisation_of_span": round(teacher / span, 4),
        "views_per_second_of_span": round(summary["views"] / span * len(summary["workers"]), 1),
        "seconds_with_loading": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=None, help="folder of class folders")
    parser.add_argument("--images", type=int, default=48, help="that are made, without --photos")
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--shard", type=int, default=6, help="images in it")
    parser.add_argument("--teacher", default="efficientnet-lite0")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cpus = os.cpu_count() or 1
    ways: dict[str, Cluster | None] = {"local": None, "ray, all CPUs a worker": Cluster("local", cpus_per_worker=cpus)}
    if torch.cuda.is_available():
        ways = {"local": None, "ray, a worker per GPU": Cluster("local")}
    elif cpus > 1:
        ways["ray, a worker per CPU"] = Cluster("local", cpus_per_worker=1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        photos = options.photos or Path(folder) / "photos"
        if options.photos is None:
            make_photos(photos, options.images)
        for number, (way, cluster) in enumerate(ways.items()):
            blueprint = Blueprint(
                str(photos),
                Path(folder) / f"out{number}",
                Named(options.teacher),
                generation={"spec": AugmentationSpec.preset("rrc+ra+re"), "num_views": options.views},
                options={"samples_per_shard": options.shard},
            )
            found[way] = measured(blueprint, cluster)
    report: dict[str, Any] = {"ways": found, "cpus": cpus, "load_average": round(os.getloadavg()[0], 1)}
    names = ("teacher_utilisation", "teacher_utilisation_of_span")
    report["met"] = all(way[name] >= BAR for way in found.values() for name in names)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        for way, figures in found.items():
            print(f"{way:>24}  " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()))
    return 0 if report["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
