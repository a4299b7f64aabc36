"""Every script of the checkout can be started: what it imports is there, and --help says how it is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

FOLDERS = ("bench", "examples")
OTHERS = (
    "csrc/fuzz/run.py",
    "csrc/tests/coverage.py",
    "docs/pictures/make.py",
    "release/try_wheel.py",
    "release/wheels.py",
    "tests/fuzz/run.py",
)
SCRIPTS = sorted(
    [str(p.relative_to(REPOSITORY)) for f in FOLDERS for p in (REPOSITORY / f).rglob("*.py")] + list(OTHERS)
)

# Runs each script in a child of a process that has imported torch and DALI: seconds once, and not for each.
DRIVER = """
import contextlib, io, json, os, runpy, sys, traceback
import nvidia.dali.plugin.pytorch, torch
from dali_dr._torchvision import load_torchvision
load_torchvision()
import timm

def answer(script):
    printed, said = io.StringIO(), ""
    sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        said = "" if end.code in (0, None) else f"ends with {end.code!r}"
    except BaseException:
        said = traceback.format_exc()
    return said, printed.getvalue()

for script in sys.argv[1:]:
    inside, outside = os.pipe()
    if (child := os.fork()) == 0:
        with os.fdopen(outside, "w") as pipe:
            json.dump([script, *answer(script)], pipe)
        os._exit(0)
    os.close(outside)
    with os.fdopen(inside) as pipe:
        told = pipe.read() or json.dumps([script, "ends without a word", ""])
    os.waitpid(child, 0)
    print(told, flush=True)
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[str, str]]:
    """Of each script: what went wrong, and what it printed."""
    command = [sys.executable, "-c", DRIVER, *(str(REPOSITORY / script) for script in SCRIPTS)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {str(Path(script).relative_to(REPOSITORY)): (wrong, printed) for script, wrong, printed in lines}


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_starts(script: str, answers: dict[str, tuple[str, str]]) -> None:
    wrong, printed = answers[script]
    assert not wrong, f"{script}: {wrong}\n{printed}"
    if "__main__" in (REPOSITORY / script).read_text():
        assert printed.startswith("usage: "), printed
        assert "\n\n" in printed, "usage, and no word of what it does"


def test_the_test_sees_a_name_that_is_gone(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from json import nothing_of_that_name\n")
    done = subprocess.run([sys.executable, "-c", DRIVER, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert "cannot import name 'nothing_of_that_name'" in json.loads(done.stdout)[1]
