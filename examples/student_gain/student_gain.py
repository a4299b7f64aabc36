"""Does reinforcement make a better student? The paper's claim (arXiv 2303.08983) on two small tasks, through the product.

A teacher is tuned on other images (CIFAR-10) or on the training images (flowers), `dali_dr.reinforce` stores views of
the students' images with its predictions, and `ReinforcedIterator` replays them into a small student that differs
between the arms in its targets alone. Every run is saved when it is finished, and a rerun trains only what is missing;
with the committed results it prints them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cifar10 import Cifar10
from comparison import pooled, table
from engine import ARMS, Progress, Task, choose_lr, run_student
from flowers import Flowers
from picture import draw
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
TASKS = {"cifar10": (Cifar10, "results.json"), "flowers": (Flowers, "results-flowers.json")}


def main(arguments: Sequence[str] | None = None, task: Task | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="cifar10")
    parser.add_argument(
        "--results", type=Path, help="another file than results.json or results-flowers.json: a comparison from scratch"
    )
    parser.add_argument("--work", type=Path, default=Path("build/student_gain"), help="teacher and data sets")
    parser.add_argument("--pool", type=Path, nargs="+", metavar="FILE", help="only print these results' pairs together")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="only draw the gains of both tasks, by matplotlib")
    options = parser.parse_args(arguments)
    if options.pool:
        print(pooled([json.loads(path.read_text()) for path in options.pool]))
        return 0
    if options.picture:
        draw({name: json.loads((HERE / file).read_text()) for name, (_, file) in TASKS.items()}, options.picture)
        return 0
    kind, file = TASKS[options.task]
    task = task or kind()
    settings, path = task.settings, options.results or HERE / file
    torch.set_num_threads(1)  # sums of floats then have one order; more threads would hardly help so small a network

    results: dict[str, Any] = {"settings": settings.json(), "runs": []}
    if path.exists():
        results = json.loads(path.read_text())
        if results["settings"] != settings.json():
            print(f"{path} is of other settings: give another file by --results", file=sys.stderr)
            return 1
    done = {(r["arm"], r["seed"]) for r in results["runs"]}
    wanted = [(arm, seed) for seed in settings.seeds for arm in ARMS]
    missing = sorted(
        (run for run in wanted if run not in done), key=lambda run: run[0] == "mild"
    )  # the side question last
    if missing and (problem := complete(task, results, missing, options.work, path)):
        print(problem, file=sys.stderr)
        return 1
    print(table(results))
    return 0


def complete(
    task: Task, results: dict[str, Any], missing: Sequence[tuple[str, int]], work: Path, path: Path
) -> str | None:
    """Trains what is missing, saving each run; returns what is in the way, if anything is."""
    try:
        teacher = task.prepare(work)
    except FileNotFoundError as error:
        return str(error)
    if results.setdefault("teacher", teacher) != teacher:
        return f"{path} is of another teacher than {work}: remove one of them"
    print(json.dumps(teacher, indent=1), flush=True)
    results["machine"] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": platform.machine(),
    }
    if "choice" not in results:
        results["choice"] = choose_lr(task)
        save(path, results)
    for arm, seed in Progress(missing, desc="runs", unit="run"):
        run = run_student(task, arm, seed, task.pair(seed), results["choice"]["lr"])
        results["runs"].append(run)
        save(path, results)
        tqdm.write(f"{ARMS[arm]:>32}, seed {seed}: {run['accuracy']:.2f} %, {run['seconds']:.0f} s")
    return None


def save(path: Path, results: dict[str, Any]) -> None:
    """Atomically: a run that is listed is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(path)
    path.with_suffix(".md").write_text(table(results) + "\n")


if __name__ == "__main__":
    sys.exit(main())
