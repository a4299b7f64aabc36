"""Fuzzes the Python readers by atheris: `python tests/fuzz/run.py --seconds 60 [--target NAME …]`.

Each target runs in a process of its own, beginning with corpus/NAME and regressions/NAME; what it finds new for coverage
goes to --work (default: build/fuzz-python), and an input that breaks a contract to regressions/NAME, where the test
suite (tests/test_fuzz_replay.py, which needs no atheris) runs it ever after. At the end, coverage by target is printed.
`--minimise` replaces corpus/NAME by the least inputs of corpus and --work that have its coverage. Where there is no
atheris (it has wheels for some Pythons on Linux and macOS only), says so and ends well.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
NAMES = (
    "record", "record_content", "label_map", "manifest", "index", "tar", "label", "facts", "image", "spec", "csv", "jsonl",
    "state",
)  # fmt: skip
"""Of targets.TARGETS, which is imported in the process of each: it must be instrumented while it is imported."""
_LONGEST = 1 << 14  # bytes of an input
_MOST = 400  # bytes of an input that is kept in the repository, but for the tars
_LINE = re.compile(rb"#(\d+)\t.*?cov: (\d+) ft: (\d+)")
_DONE = re.compile(rb"Done (\d+) (?:runs )?in (\d+) second|stat::number_of_executed_units: +(\d+)")


def main() -> int:
    """The exit status: 0, or 1 where a contract was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of each target (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time (default %(default)s)")
    parser.add_argument("--target", action="append", choices=NAMES, help="default: all; may be given more than once")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "fuzz-python")
    parser.add_argument("--minimise", action="store_true")
    parser.add_argument("--list", action="store_true", help="print the targets")
    parser.add_argument("--one", nargs=argparse.REMAINDER, help="a target and libFuzzer's arguments, in this process")
    options = parser.parse_args()
    if options.list:
        print("\n".join(NAMES))
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("Python fuzzers: skipped, because atheris is not installed (pip install 'dali_dr[fuzz]')")
        return 0
    if options.one:
        _fuzz(*options.one)
    names = options.target or NAMES
    if options.minimise:
        for name in names:
            _minimise(name, options.work)
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda name: _run(name, options.seconds, options.work), names))
    print(f"{'target':>16} {'executions':>11} {'cov':>6} {'features':>9}  contract")
    print("\n".join(row for row, _ in outcomes))
    return int(not all(ok for _, ok in outcomes))


def _run(name: str, seconds: int, work: Path) -> tuple[str, bool]:
    """Fuzzes one target: its row of the table, and whether its contract held."""
    found, kept = work / name, HERE / "regressions" / name
    found.mkdir(parents=True, exist_ok=True)
    kept.mkdir(parents=True, exist_ok=True)
    arguments = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=5", "-rss_limit_mb=1024"]
    arguments += [f"-artifact_prefix={kept}/", "-print_final_stats=1", *_dictionary(name)]
    folders = [str(found), *(str(f) for f in (HERE / "corpus" / name, kept) if f.is_dir())]
    output = _child(name, [*arguments, *folders])
    (work / f"{name}.log").write_bytes(output.stderr)
    lines = _LINE.findall(output.stderr)
    runs = [int(a or c) for a, _, c in _DONE.findall(output.stderr)]
    executed = max(runs, default=int(lines[-1][0]) if lines else 0)
    coverage = lines[-1][1:] if lines else (b"0", b"0")
    ok = output.returncode == 0
    if not ok:
        sys.stderr.write(output.stderr.decode(errors="backslashreplace")[-4000:])
    if not any(kept.iterdir()):
        kept.rmdir()
    word = "held" if ok else f"broken, see {work / name}.log"
    return f"{name:>16} {executed:11,} {int(coverage[0]):6} {int(coverage[1]):9}  {word}", ok


def _minimise(name: str, work: Path) -> None:
    """Merges corpus and finds into the corpus, but for inputs that are too long to be kept."""
    corpus, merged = HERE / "corpus" / name, work / f"{name}.merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    folders = [str(f) for f in (corpus, work / name) if f.is_dir()]
    _child(name, ["-merge=1", "-timeout=5", f"-max_len={_LONGEST}", str(merged), *folders])
    inputs = sorted((path for path in merged.iterdir()), key=lambda path: (path.stat().st_size, path.name))
    small = [path for path in inputs if path.stat().st_size <= (_MOST if name != "tar" else 4096)][:60]
    for path in small:
        if not (corpus / path.name).exists():
            shutil.copy(path, corpus / path.name)
    print(f"{name}: {len(list(corpus.iterdir()))} inputs, {sum(p.stat().st_size for p in corpus.iterdir())} bytes")


def _child(name: str, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(Path(__file__).resolve()), "--one", name, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)


def _dictionary(name: str) -> list[str]:
    path = HERE / "dictionaries" / f"{name}.dict"
    return [f"-dict={path}"] if path.exists() else []


def _fuzz(name: str, *arguments: str) -> None:
    """Runs libFuzzer on a target; the process ends with it."""
    import atheris

    sys.path[:0] = [str(REPOSITORY), str(HERE)]
    with atheris.instrument_imports(
        include=["dali_dr", "tarfile", "json.decoder", "PIL"], enable_loader_override=False
    ):
        import targets

    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[name])
    try:
        atheris.Fuzz()
    finally:
        targets.clean_up()


if __name__ == "__main__":
    raise SystemExit(main())
