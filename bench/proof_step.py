"""What the steps of gpu_proof.py share: their options, a clock that they obey, and JSON that is whole after every figure.

Needs the standard library only: device_stage.py runs where there is nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every step has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--data", type=Path, required=True, help="folder that `python bench/loaders.py PHOTOS OUT` filled"
    )
    made.add_argument("--json", type=Path, help="written anew after every figure")
    made.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: few and small, to check the script")
    made.add_argument("--limit", type=float, default=600.0, help="seconds after which nothing new is begun")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--hw-decoder-load", type=float, default=0.65)
    made.add_argument("--decode-device", choices=("auto", "cpu"), default="auto")
    made.add_argument("--roi-decode", choices=("on", "off"), default="on", help="off: whole images, then crop")
    return made


class Results:
    """A step's figures, saved by `put`, and the time that is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        if not (options.data / "plain" / "dataset.json").is_file():
            raise SystemExit(
                f"--data {options.data}: holds no data sets to measure with; make them: python bench/loaders.py PHOTOS OUT"
            )
        self._path: Path | None = options.json
        self._end = time.monotonic() + options.limit
        self.figures: dict[str, Any] = {}

    def put(self, name: str, figure: Any) -> None:
        self.figures[name] = figure
        print(f"{name}: {figure}", flush=True)
        self.save()

    def save(self) -> None:
        if self._path:
            write_json(self._path, self.figures)

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() > self._end


def write_json(path: Path, value: Any) -> None:
    """Replaces the file in one go, so that a run that is cut off leaves the last whole one."""
    if path.exists() and not path.is_file():
        raise SystemExit(f"{path} is no regular file, and would be replaced by one: name another for the JSON")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(value, indent=1) + "\n")
    fresh.replace(path)


def interrupt_on_signals() -> None:
    """Makes SIGTERM (of `timeout`, of a scheduler) and SIGHUP what Ctrl-C is, so that nothing started is left behind."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def end_group(child: subprocess.Popen[Any]) -> None:
    """Ends a command and its process group; politely first, for ninja's jobs have groups of their own, which it ends."""
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)


def run_limited(
    command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[str, float, list[str]]:
    """Runs a command to its end or for `limit` seconds.

    Returns:
      "passed", or how it ended otherwise ("interrupted" by Ctrl-C here); seconds; the lines that it printed, without the
      empty ones.
    """
    begin = time.monotonic()
    try:
        # A process group of its own, so that a time-out ends what the command has started, too.
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            cwd=folder,
            process_group=0,
        )
    except OSError as error:
        return f"cannot be run: {error}", 0.0, []
    try:
        output, _ = child.communicate(timeout=limit)
        code = child.returncode
        outcome = "passed" if code == 0 else f"killed by signal {-code}" if code < 0 else f"failed with {code}"
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as why:
        end_group(child)
        output, _ = child.communicate()
        outcome = "interrupted" if isinstance(why, KeyboardInterrupt) else f"cut off after {limit:.0f} s"
    return outcome, round(time.monotonic() - begin, 1), [line for line in output.splitlines() if line.strip()]
