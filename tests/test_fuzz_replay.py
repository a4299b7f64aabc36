"""Every input in tests/fuzz/corpus, and every one that a fuzzer ever found, keeps its target's contract; no atheris needed."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz"


@pytest.fixture(scope="module")
def targets() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FUZZ))
    try:
        module = importlib.import_module("targets")
        yield module
        module.clean_up()
    finally:
        sys.path.remove(str(FUZZ))


NAMES = sorted(path.name for path in (FUZZ / "corpus").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_are_kept(name: str, targets: ModuleType) -> None:
    inputs = [path for kind in ("corpus", "regressions") for path in sorted((FUZZ / kind).glob(f"{name}/*"))]
    assert inputs
    for path in inputs:
        start = time.process_time()
        targets.TARGETS[name](path.read_bytes())
        assert time.process_time() - start < 1, path


def test_every_target_has_inputs_and_the_runner_knows_it(targets: ModuleType) -> None:
    listed = subprocess.run(
        [sys.executable, str(FUZZ / "run.py"), "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert sorted(listed) == sorted(targets.TARGETS) == NAMES


def test_contents_of_frames_are_packed_and_unpacked(targets: ModuleType) -> None:
    for parts in ([b""], [b"abc"], [b"a", b"", b"bc"], [bytes(300), b"x"] * 4):
        assert list(targets.unpack_parts(targets.pack_parts(parts))) == parts
    for data in (b"", b"\x03", b"\xff\xff\xff\xff\xff", b"\x01\x09\x00ab"):
        assert b"".join(targets.unpack_parts(data)) in data


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in FUZZ.rglob("*") if path.is_file() and path.suffix != ".pyc") < 200_000
