"""docs/benchmarks.md: its figures are those of bench/results within rounding, and its commands exist."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "benchmarks.md").read_text()
RESULTS = REPOSITORY / "bench" / "results"
_ROW = re.compile(r"^\|(?P<what>[^|]+)\| (?P<figure>[\d.,]+) \| `(?P<place>[^`|]+ › [^`|]+)` \|", re.MULTILINE)
ROWS = [(match["what"].strip(), match["figure"], match["place"]) for match in _ROW.finditer(TEXT)]
COMMANDS = sorted(set(re.findall(r"`(python bench/[^`]+)`", TEXT)))


@pytest.mark.parametrize(("what", "figure", "place"), ROWS, ids=[place for _, _, place in ROWS])
def test_a_figure_is_the_measured_one(what: str, figure: str, place: str) -> None:
    name, *keys = place.split(" › ")
    value: Any = json.loads((RESULTS / f"{name}.json").read_text())
    for key in keys:
        value = value[int(key) if isinstance(value, list) else key]
    decimals = len(figure.partition(".")[2])
    assert abs(float(figure.replace(",", "")) - value) <= 0.5 * 10**-decimals + 1e-9, what


def test_every_figure_has_its_place() -> None:
    """Each table has a header, and rows that all name a place."""
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|") and not line.startswith("|---"):
            header = lines[number + 1].startswith("|---")
            assert header != ("›" in line), f"line {number + 1}: no place in bench/results: {line}"
    assert len(ROWS) == sum("›" in line for line in lines if line.startswith("|")) > 40


def test_machines_are_named() -> None:
    for name in {place.split(" › ")[0] for _, _, place in ROWS}:
        found = json.loads((RESULTS / f"{name}.json").read_text())
        machine = (found[0] if isinstance(found, list) else found)["machine"]
        if isinstance(machine, dict):
            assert machine["cpu"].replace("(R)", "").split(",")[0].removesuffix(" Processor") in TEXT
            assert str(machine.get("versions", {}).get("nvidia-dali-cuda120", "2.4.0")) in TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists(command: str) -> None:
    _, script, *words = shlex.split(command)
    text = (REPOSITORY / script).read_text()
    for word in words:
        assert not word.startswith("--") or f'"{word}"' in text, f"{script} has no option {word}"
