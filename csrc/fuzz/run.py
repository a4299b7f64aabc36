"""Runs the fuzz targets of a build of csrc and prints what they reached; exits with 1 where one found something.

    python csrc/fuzz/run.py BUILD [--seconds N] [--jobs N] [--json FILE] [--minimise] [TARGET ...]

BUILD is a build folder of csrc that was configured with clang, -DDALI_DR_SANITIZE=ON and -DDALI_DR_LIBFUZZER=ON (`make
fuzz` does both). Each target starts from csrc/fuzz/corpus/TARGET, csrc/fuzz/regressions/TARGET and what earlier runs
left in BUILD/corpus/TARGET. What it finds lies in BUILD/findings/TARGET: mend it, and keep the input under a name that
says what it was in csrc/fuzz/regressions/TARGET.

--minimise runs nothing, but replaces csrc/fuzz/corpus/TARGET by the smallest inputs that reach what all known ones do.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
MOST_CORPUS_BYTES = 30_000  # of one target in the repository
MOST_INPUT_BYTES = {
    **{"shards": 12_000, "record_content": 8192, "record_member": 8192},
    **{"jpeg_decode": 4096, "jpeg_slice": 4096},
}  # else 2048


@dataclass
class Outcome:
    """What a run of one target came to."""

    target: str
    executions: int
    seconds: float
    covered: int
    edges: int
    corpus: int
    findings: list[str]


def targets_of(build: Path) -> list[str]:
    """Targets of a build, in order of their names."""
    files = sorted((build / "fuzz").glob("fuzz_*"))
    names = [file.name.removeprefix("fuzz_") for file in files if os.access(file, os.X_OK) and file.is_file()]
    return [name for name in names if (SOURCES / f"{name}.cc").exists() and name != "seeds"]


def options(target: str) -> list[str]:
    """Options of libFuzzer that a target is always run with."""
    given = [f"-max_len={MOST_INPUT_BYTES.get(target, 2048)}", "-timeout=10", "-rss_limit_mb=2048"]
    words = SOURCES / f"{target}.dict"
    return [*given, f"-dict={words}"] if words.exists() else given


def environment() -> dict[str, str]:
    """Short stacks of allocations: a third of the time of many targets otherwise."""
    asan = os.environ.get("ASAN_OPTIONS", "malloc_context_size=2:detect_stack_use_after_return=1")
    return {**os.environ, "ASAN_OPTIONS": asan, "UBSAN_OPTIONS": "print_stacktrace=1"}


def known(target: str) -> list[str]:
    """Folders of inputs that the repository keeps."""
    folders = [SOURCES / "corpus" / target, SOURCES / "regressions" / target]
    return [str(folder) for folder in folders if folder.is_dir()]


def run(build: Path, target: str, seconds: int) -> Outcome:
    """Fuzzes one target; its log is BUILD/findings/TARGET.log."""
    corpus, findings = build / "corpus" / target, build / "findings" / target
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    command = [
        str(build / "fuzz" / f"fuzz_{target}"),
        f"-max_total_time={seconds}",
        "-print_final_stats=1",
        f"-artifact_prefix={findings}/",
        *options(target),
        str(corpus),
        *known(target),
    ]
    begin = time.monotonic()
    log = findings.with_suffix(".log")
    with log.open("wb") as output:
        code = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment(), check=False
        ).returncode
    took = time.monotonic() - begin
    text = log.read_text(errors="replace")

    def last(pattern: str) -> int:
        numbers = re.findall(pattern, text)
        return int(numbers[-1]) if numbers else 0

    new = sorted(str(path) for path in set(findings.iterdir()) - before)
    if code and not new:
        new = [f"exit status {code}, see {log}"]
    return Outcome(
        target,
        last(r"stat::number_of_executed_units:\s*(\d+)"),
        took,
        last(r" cov: (\d+)"),
        last(r"\((\d+) inline 8-bit counters\)"),
        last(r" corp: (\d+)"),
        new,
    )


def table(outcomes: list[Outcome]) -> str:
    """A table in Markdown, with the sum."""
    lines = [
        "| target | executions | per second | coverage: edges of all | inputs | new findings |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for o in outcomes:
        reached = f"{o.covered} of {o.edges} ({100 * o.covered / max(o.edges, 1):.0f} %)"
        rate = o.executions / max(o.seconds, 1e-9)
        lines.append(f"| {o.target} | {o.executions:,} | {rate:,.0f} | {reached} | {o.corpus} | {len(o.findings)} |")
    lines.append(f"| all | {sum(o.executions for o in outcomes):,} | | | | {sum(len(o.findings) for o in outcomes)} |")
    return "\n".join(lines)


def minimise(build: Path, target: str) -> None:
    """Replaces the kept corpus by the inputs that reach all that is reached, the smallest first, within the limit."""
    merged, kept = build / "merged" / target, SOURCES / "corpus" / target
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    kept.mkdir(parents=True, exist_ok=True)
    program = str(build / "fuzz" / f"fuzz_{target}")
    sources = [str(build / "corpus" / target), *known(target)]
    command = [program, "-merge=1", *options(target), str(merged), *[s for s in sources if Path(s).is_dir()]]
    subprocess.run(command, capture_output=True, env=environment(), check=True)
    files = sorted(merged.iterdir(), key=lambda file: (file.stat().st_size, file.name))
    total = 0
    for old in kept.iterdir():
        old.unlink()
    for file in files:
        total += file.stat().st_size
        if total > MOST_CORPUS_BYTES:
            break
        shutil.copy(file, kept / file.name[:16])
    print(f"{target}: {len(list(kept.iterdir()))} of {len(files)} inputs kept")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("targets", nargs="*", help="of all targets, these only")
    parser.add_argument("--seconds", type=int, default=60, help="of each target (default 60)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time (default 2)")
    parser.add_argument("--json", type=Path, help="adds the figures as one line to this file")
    parser.add_argument("--minimise", action="store_true", help="of the kept corpora, instead of fuzzing")
    arguments = parser.parse_intermixed_args()
    build = arguments.build.resolve()
    targets = arguments.targets or targets_of(build)
    if not targets:
        sys.exit(f"{build} holds no fuzz targets: build csrc with clang and -DDALI_DR_LIBFUZZER=ON")
    if arguments.minimise:
        for target in targets:
            minimise(build, target)
        return 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = list(pool.map(lambda target: run(build, target, arguments.seconds), targets))
    print(table(outcomes))
    if arguments.json:
        compiler = re.search(r"CMAKE_CXX_COMPILER:\w+=(.*)", (build / "CMakeCache.txt").read_text())
        version = subprocess.run([compiler[1], "--version"], capture_output=True, text=True) if compiler else None
        record = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.node()}, {os.cpu_count()} cores, {platform.machine()}",
            "compiler": version.stdout.splitlines()[0] if version else "",
            "sanitizers": "address, undefined, float-cast-overflow",
            "targets": [asdict(o) for o in outcomes],
        }
        with arguments.json.open("a") as file:
            file.write(json.dumps(record) + "\n")
    found = [(o.target, path) for o in outcomes for path in o.findings]
    for target, path in found:
        print(f"FOUND {path}\n  again: {build}/fuzz/fuzz_{target} {path}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
