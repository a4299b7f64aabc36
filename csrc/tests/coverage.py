"""Lines of csrc that the C++ tests have run, by folder; exits with 1 where too few have.

    python csrc/tests/coverage.py BUILD [--least PERCENT] [FOLDER ...]

BUILD is a build folder of csrc whose code was compiled with --coverage and whose tests were run (`make coverage` does
both). FOLDER: folders of csrc that must have PERCENT of their lines run. Lines count once, however often a header or a
template was compiled.

A line that no test can reach on this machine is left out by a comment at its end or, for the lines of a block, at the
line that opens it: "// coverage: REASON". A file whose first line says "// coverage: only with FLAG" counts where the
processor has that flag of /proc/cpuinfo.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1]
MARK = "// coverage: "


def has_flag(flag: str) -> bool:
    facts = Path("/proc/cpuinfo")
    return facts.exists() and flag in facts.read_text().split()


def left_out(text: str) -> set[int]:
    """Numbers of the lines that a mark leaves out."""
    lines = text.splitlines()
    if (only := re.match(rf"{MARK}only with (\w+)", text)) and not has_flag(only[1]):
        return set(range(1, len(lines) + 1))
    out: set[int] = set()
    for number, line in enumerate(lines, 1):
        if MARK not in line:
            continue
        out.add(number)
        if not line.split(MARK)[0].rstrip().endswith("{"):
            continue
        indent = len(line) - len(line.lstrip())
        for inner in range(number + 1, len(lines) + 1):
            out.add(inner)
            if (
                lines[inner - 1].lstrip().startswith("}")
                and len(lines[inner - 1]) - len(lines[inner - 1].lstrip()) <= indent
            ):
                break
    return out


def run_counts(build: Path) -> dict[Path, dict[int, int]]:
    """How often each line of each file of csrc was run, over all objects of the build."""
    counts: dict[Path, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for notes in sorted(build.rglob("*.gcno")):  # also of what was never run
        if not notes.with_suffix(".o").exists():  # of a source that is there no more
            continue
        command = ["gcov", "--json-format", "--stdout", notes.name]
        text = subprocess.run(command, cwd=notes.parent, capture_output=True, text=True, check=True).stdout
        for document in text.splitlines():
            for file in json.loads(document)["files"]:
                path = Path(notes.parent, file["file"]).resolve()
                if path.is_relative_to(SOURCES):
                    for line in file["lines"]:
                        counts[path][line["line_number"]] += line["count"]
    return counts


def ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    parser.add_argument("--least", type=float, default=95.0, metavar="PERCENT")
    options = parser.parse_args()

    lines: dict[str, int] = defaultdict(int)
    run: dict[str, int] = defaultdict(int)
    missed: list[str] = []
    for path, counts in sorted(run_counts(options.build).items()):
        out = left_out(path.read_text())
        counted = {number: count for number, count in counts.items() if number not in out}
        name = path.relative_to(SOURCES)
        folder = name.parts[0] if len(name.parts) > 1 else "."
        if folder in ("tests", "fuzz"):
            continue
        lines[folder] += len(counted)
        run[folder] += sum(count > 0 for count in counted.values())
        if never := sorted(number for number, count in counted.items() if count == 0):
            missed.append(f"csrc/{name}: {ranges(never)}")

    print("lines that no test has run:", *(missed or ["none"]), sep="\n  ")
    print(f"\n{'folder':<10} {'lines':>6} {'run':>6} {'%':>6}")
    failed = [folder for folder in options.folders if folder not in lines]
    for folder in sorted(lines):
        percent = 100 * run[folder] / max(1, lines[folder])
        short = folder in options.folders and percent < options.least
        print(f"{folder:<10} {lines[folder]:>6} {run[folder]:>6} {percent:>6.1f}{'  too few' if short else ''}")
        failed += [folder] * short
    for folder in failed:
        print(f"csrc/{folder}: fewer than {options.least} % of its lines were run by the tests", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
