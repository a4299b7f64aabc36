"""Progress on a terminal is tqdm's bar, and elsewhere plain lines, seldom."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tqdm

from dali_dr import progress

PACKAGE = Path(progress.__file__).parent


class Clock:
    """In place of time.monotonic."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


def test_an_hour_in_a_file(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar(total=3600, desc="set", unit="img") as bar:
        for _ in range(3600):
            clock.now += 1
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    done = [int(re.fullmatch(r"set: \d+% (\d+)/3600 \[.*\]", line)[1]) for line in lines]  # type: ignore[index]
    assert done[0] == 3 and done[-1] == 3600 and done == sorted(set(done))
    # From min(max(t / 10, 3), 30) seconds to the next: some 10 in 30 s, 24 until 300 s, 110 for the rest.
    assert 110 <= len(done) <= 150 and max(b - a for a, b in itertools.pairwise(done)) <= 31


def test_what_is_quick_or_does_nothing_is_a_line_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    for item in progress.bar(range(3), desc="tune"):
        assert item < 3
    assert re.fullmatch(r"tune: 100% 3/3 \[.*\]\n", capsys.readouterr().err)
    with progress.bar(total=7, initial=7, desc="there"):
        pass
    with progress.bar(total=2, desc="gone", leave=False) as bar:
        bar.update(2)
    with progress.bar(total=2, disable=True) as bar:
        bar.update(2)
    with progress.bar(total=2, disable=None) as bar:  # shown on a terminal alone
        bar.update(2)
    assert capsys.readouterr().err == ""
    with progress.bar(unit="B", unit_scale=True) as bar:
        bar.update(3_000_000)
    assert re.fullmatch(r"3\.00M \[.*\]\n", capsys.readouterr().err)


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.bar(total=2, desc="set") as bar:
        bar.update(2)
    assert "\r" in sys.stderr.getvalue() and type(bar) is tqdm.tqdm  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [None, "broken"])
def test_nobody_who_reads_ends_nothing(stream: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", None if stream is None else Broken())
    with progress.bar(total=5) as bar:
        for _ in range(5):
            bar.update()
            progress.show(bar)
    assert stream is None or bar.n == 5


def test_all_bars_are_made_there() -> None:
    others = [path for path in PACKAGE.rglob("*.py") if path.name != "progress.py" and "tqdm" in path.read_text()]
    assert others == []


def test_a_command_in_a_pipe(tmp_path: Path, jpeg_bytes: list[bytes]) -> None:
    (tmp_path / "a").mkdir()
    for number, data in enumerate(jpeg_bytes):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(data)
    command = [sys.executable, "-m", "dali_dr", "pack", str(tmp_path), "--out", f"{tmp_path}-out"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"\r" not in done.stderr and b"8/8" in done.stderr
