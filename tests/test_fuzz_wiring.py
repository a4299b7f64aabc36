"""No fuzz target is left out: not of the build, the corpora, the runners or docs/fuzzing.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE, PYTHON = ROOT / "csrc" / "fuzz", ROOT / "tests" / "fuzz"
TARGETS = sorted(path.stem for path in NATIVE.glob("*.cc") if "int LLVMFuzzerTestOneInput(" in path.read_text())
NAMES = re.compile(r"^NAMES = \((.*?)\)", re.DOTALL | re.MULTILINE)


def inputs(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.name != ".gitkeep"]


def test_the_build_has_every_target() -> None:
    listed = re.search(r"set\(fuzz_targets (.*?)\)", (NATIVE / "CMakeLists.txt").read_text(), re.DOTALL)
    assert listed and sorted(listed[1].split()) == TARGETS
    assert len(TARGETS) >= 9


@pytest.mark.parametrize("name", TARGETS)
def test_a_native_target_has_inputs_and_a_line_in_the_docs(name: str) -> None:
    assert inputs(NATIVE / "corpus" / name)
    assert (NATIVE / "regressions" / name).is_dir()  # the tests of every build name it
    assert f"| `{name}` |" in (ROOT / "docs" / "fuzzing.md").read_text()


@pytest.mark.parametrize("kind", ["corpus", "regressions"])
def test_inputs_lie_where_a_target_runs_them(kind: str) -> None:
    assert {path.name for path in (NATIVE / kind).iterdir()} == set(TARGETS)
    python = re.findall(r'^    "(\w+)": ', (PYTHON / "targets.py").read_text(), re.MULTILINE)
    assert {path.name for path in (PYTHON / kind).iterdir()} <= set(python)
    run = NAMES.search((PYTHON / "run.py").read_text())
    assert run and set(re.findall(r'"(\w+)"', run[1])) == set(python)
