"""Stage `device` of gpu_proof.sh: builds the device test with nvcc, runs it in pieces, and puts their figures together.

    python3 bench/device_stage.py --json FILE [--device cpu] [--seconds 145] [--build DIR]

Needs Python's standard library only. Each piece is a process of its own with a limit of its own, in order of value: bytes
and repeats; rates; the same kernels with other numbers of threads per block; each part of the work; compute-sanitizer with
the time that is left. The file is written after each.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import proof_step

ROOT = Path(__file__).resolve().parent.parent
THREADS = ("896", "768", "512")  # per block, beside the 1,024 that are built in; docs/gpu.md says what speaks for each
BUILD_LIMIT = {"gpu": 90.0, "cpu": 300.0}  # seconds; without a GPU there may be few cores, too
CORE_ROW = "224 float16 CHW"  # the rates that decide between builds


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of a program of the device test. `limit` in seconds; `least`: not begun with less."""

    name: str
    program: str
    arguments: tuple[str, ...]
    limit: float
    tool: tuple[str, ...] = ()
    least: float = 5.0


def pieces() -> list[Piece]:
    planned = [
        Piece("bytes", "device_test", ("--sections", "bytes", "repeats"), 50),
        Piece("rates", "device_test", ("--sections", "copy", "rates"), 25),
    ]
    for count in THREADS:
        core = ("--sections", "bytes", "copy", "rates", "--few", "--only", CORE_ROW)
        planned.append(Piece(f"{count} threads", f"device_test_{count}", core, 12))
    planned.append(Piece("parts", "device_test", ("--sections", "parts"), 20))
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if Path(sanitizer).exists():
        for tool in ("memcheck", "racecheck"):
            command = (sanitizer, "--tool", tool, "--error-exitcode", "77")
            planned.append(Piece(tool, "device_test", ("--sections", "bytes", "--few"), 60, command, least=15))
    return planned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--seconds", type=float, default=145.0, help="for everything (default %(default)s)")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "device")
    options = parser.parse_args()
    proof_step.interrupt_on_signals()
    if options.device == "gpu" and not has_driver():
        print(
            "no CUDA driver is loaded on this machine (libcuda.so.1): --device cpu runs this small without",
            file=sys.stderr,
        )
        return 2
    end = time.monotonic() + options.seconds
    report: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "host": host(), "pieces": {}}
    report["build"] = build(options.build, min(BUILD_LIMIT[options.device], options.seconds))
    proof_step.write_json(options.json, report)
    print(f"built in {report['build']['seconds']} s: {report['build']['outcome']}", file=sys.stderr, flush=True)
    if report["build"]["outcome"] != "passed":
        return 1
    # The other programs are built while the first is at work: the device's clock does not mind.
    others = subprocess.Popen(
        build_command(options.build), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    for piece in pieces():
        if piece.program != "device_test" and others.poll() is None:
            wait(others, end - time.monotonic() - piece.least)
        left = end - time.monotonic()
        if left < piece.least:
            row: dict[str, Any] = {"outcome": f"left out: {max(left, 0):.0f} s were left"}
        else:
            row = run(piece, min(piece.limit, left), options)
        report["pieces"][piece.name] = row
        proof_step.write_json(options.json, report)
        print(f"== {piece.name}: {row['outcome']}", file=sys.stderr, flush=True)
        if row["outcome"] == "interrupted":
            break
    wait(others, 0)
    table(report)
    outcomes = [report["build"]["outcome"], *(row["outcome"] for row in report["pieces"].values())]
    shown = any(row["outcome"] == "passed" for row in report["pieces"].values())
    return int(not shown or any(not outcome.startswith(("passed", "left out")) for outcome in outcomes))


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def host() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout if shutil.which("nvcc") else ""
    release = re.search(r"release ([\d.]+), V([\d.]+)", nvcc)
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "nvcc": release[2] if release else None}


def capability() -> str:
    """Of this machine's GPU; 90 where there is none."""
    if not shutil.which("nvidia-smi"):
        return "90"
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.match(r"(\d+)\.(\d+)", done.stdout)
    return found[1] + found[2] if found else "90"


def build_command(folder: Path) -> list[str]:
    return ["cmake", "--build", str(folder), "--parallel", str(len(os.sched_getaffinity(0)))]


def wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    """For its end; when time is up, ends it and what it has started."""
    try:
        child.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        proof_step.end_group(child)


def build(folder: Path, limit: float) -> dict[str, Any]:
    """Configures and builds; the row tells seconds and what the compiler used per kernel."""
    begin = time.monotonic()
    chip = capability()
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    commands = [
        [
            *("cmake", "-S", str(ROOT / "csrc/tests/device"), "-B", str(folder), *generator),
            *(f"-DDALI_DR_CUDA_ARCHITECTURES={chip}-real", f"-DDALI_DR_THREAD_COUNTS={';'.join(THREADS)}"),
        ],
        [*build_command(folder), "--target", "device_test"],
    ]
    output: list[str] = []
    outcome = "passed"
    for command in commands:
        outcome, _, lines = proof_step.run_limited(command, max(1.0, limit - (time.monotonic() - begin)))
        output += lines
        if outcome != "passed":
            outcome = f"{' '.join(command[:2])} {outcome}"
            print("\n".join(output[-60:]), file=sys.stderr)
            break
    row: dict[str, Any] = {"outcome": outcome, "seconds": round(time.monotonic() - begin, 1), "chip": chip}
    row["compiler"] = [line.strip() for line in output if "registers" in line or "spill" in line]
    if outcome != "passed":
        row["output"] = output[-40:]
    return row


def run(piece: Piece, limit: float, options: argparse.Namespace) -> dict[str, Any]:
    program, own = options.build / piece.program, options.json.with_name(f".{piece.name.replace(' ', '-')}.json")
    own.unlink(missing_ok=True)
    limits = ("--seconds", f"{max(1.0, limit - 3):.0f}", "--row-seconds", "0.15")
    command = [*piece.tool, str(program), *piece.arguments, "--device", options.device, "--json", str(own), *limits]
    outcome, seconds, lines = proof_step.run_limited(command, limit)
    if outcome == "failed with 4":  # device_test.cc
        outcome = "in part: time was up"
    row: dict[str, Any] = {"outcome": outcome, "seconds": seconds}
    if own.is_file():
        row["figures"] = json.loads(own.read_text())
        own.unlink()
    if outcome != "passed":
        row["output"] = lines[-60:]
    if piece.tool:
        row["summary"] = [line.strip("= ") for line in lines if "SUMMARY" in line]
    print("\n".join(lines[-30:] if outcome != "passed" else lines), flush=True)
    return row


def table(report: dict[str, Any]) -> None:
    """What matters, short and last."""
    rows = report["pieces"]
    figures = {name: row.get("figures", {}) for name, row in rows.items()}
    machine = next((f["machine"][0] for f in figures.values() if f.get("machine")), {})
    print(f"\n{machine.get('machine', '?')}, {report['host']}, {report['date']}")
    print(f"build {report['build']['seconds']} s for sm_{report['build']['chip']}: {report['build']['outcome']}")
    for name, row in rows.items():
        print(f"{name:14} {row.get('seconds', 0):6.1f} s  {row['outcome']}  {' '.join(row.get('summary', []))}")
    for name in ("bytes", *(f"{count} threads" for count in THREADS)):
        for row in figures.get(name, {}).get("machine", [])[1:]:  # the kernels as the compiler made them
            print(f"{name:14} {' '.join(f'{key} {value}' for key, value in row.items())}")
    for row in figures.get("bytes", {}).get("bytes", []) + figures.get("bytes", {}).get("repeats", []):
        if row["name"] == "all" or "identical" in row:
            print("  ", row)
    for name in ("rates", *(f"{count} threads" for count in THREADS)):
        for row in figures.get(name, {}).get("rates", []):
            if "kernel_views_per_s" in row and (name == "rates" or row["batch"] in (1, 2, 256)):
                print(
                    f"{name:13} {row['name']:48} batch {row['batch']:4} {row['kernel_views_per_s']:9} views/s "
                    f"{100 * row['share_of_copy']:6.2f} % of copy"
                )
    for row in figures.get("parts", {}).get("parts", []):
        if "us_in_a_block" in row:
            print(f"part          {row['name']:48} {row['us_in_a_block']:9.2f} us of a block")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
