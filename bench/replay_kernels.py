"""The stages of the CPU's replay by themselves: nanoseconds and instructions per view, without DALI and Python.

    python bench/replay_kernels.py [--source DIR] [--json FILE]

Builds csrc/tests/replay_rates.cc of this checkout (or of --source, another one's csrc, for a comparison in one run) and
runs it over views drawn as ImageNet+ draws them, replayed at 224 pixels. Times are the fastest of all rounds per view
and stage. Where valgrind is on the PATH, instructions are counted, too, as bench/profile_loader.py counts them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

from profile_loader import own_instructions, stage_of

WORKLOADS: Final = {"rrc": ("0", "0"), "rrc+ra+re": ("2", "25")}  # operations, percent of views that are erased


def build(source: Path, folder: Path) -> Path:
    """The program, built for speed."""
    configure = ["cmake", "-S", str(source), "-B", str(folder), "-DDALI_DR_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    command = ["cmake", "--build", str(folder), "--target", "bench_replay", "--parallel", "2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "tests" / "bench_replay"


def instructions(program: Path, views: int, workload: tuple[str, str], folder: Path) -> dict[str, int]:
    """Per view and stage, of resize, operations, and output in float32 and float16 together."""
    functions: list[Counter[str]] = []
    for rounds in ("1", "2"):  # whose difference has neither the drawing nor the first use of memory
        out = folder / f"callgrind.{rounds}"
        command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", str(program)]
        subprocess.run([*command, str(views), rounds, *workload], check=True, stdout=subprocess.DEVNULL)
        annotate = ["callgrind_annotate", "--threshold=100", "--auto=no", str(out)]
        functions.append(own_instructions(subprocess.run(annotate, check=True, capture_output=True, text=True).stdout))
    stages: Counter[str] = Counter()
    for function, number in (functions[1] - functions[0]).items():
        stages[stage_of(function)] += number
    return {stage: round(number / views) for stage, number in stages.most_common() if stage.startswith("replay")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path(__file__).resolve().parent.parent / "csrc")
    parser.add_argument("--views", type=int, default=64, help="of each kind (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="of which the fastest counts (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="dali-dr-replay-") as scratch:
        program = build(options.source, Path(scratch))
        for name, workload in WORKLOADS.items():
            command = [str(program), str(options.views), str(options.rounds), *workload]
            times = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{name}, {times.pop('kernels')} kernels, nanoseconds per view")
            for stage, nanoseconds in times.items():
                print(f"  {stage:26} {nanoseconds:9.0f}")
            results[name] = {"nanoseconds": times}
            if not shutil.which("valgrind"):
                continue
            results[name]["instructions"] = instructions(program, options.views, workload, Path(scratch))
            print(f"{name}, thousand instructions per view")
            for stage, number in results[name]["instructions"].items():
                print(f"  {stage:26} {number / 1e3:9.1f}")
    if options.json:
        options.json.write_text(json.dumps({"views": options.views, "workloads": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
