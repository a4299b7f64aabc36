"""The one progress bar of dali_dr: a bar on a terminal, and a plain line now and then where stderr is a file or a pipe."""

from __future__ import annotations

import sys
import time
from typing import Any, Final, TypeAlias

import tqdm

Progress: TypeAlias = "tqdm.tqdm[Any]"

# Seconds between lines: at first, and in a run of five minutes or more; between them a tenth of the time so far.
SHORTEST: Final = 3.0
LONGEST: Final = 30.0
_FORMAT: Final = "{percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_ENDLESS: Final = "{n_fmt} [{elapsed}, {rate_fmt}{postfix}]"  # of what has no known end


class Lines(tqdm.tqdm):  # type: ignore[type-arg]  # generic for type checkers alone
    """A bar that prints lines without control characters, each when something has changed and the last is some time ago.

    A stream that takes no more lines ends the lines, and not the run.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._began = time.monotonic()
        self._due = self._began + SHORTEST
        self._last = ""
        self._deaf = False  # whether the stream takes no more
        # Every update asks the clock, so that what comes seldom is told when it comes; tqdm's monitor has nothing to mend.
        super().__init__(*args, **{**options, "miniters": 1, "mininterval": 0, "maxinterval": float("inf")})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Prints a line, if it is time for one."""
        if time.monotonic() >= self._due:
            self.line()

    def line(self) -> None:
        """Prints a line now, unless nothing has happened since the last one."""
        if self._deaf or (self.n == self.initial and not self.postfix):
            return
        state = f"{self.n} {self.total} {self.desc} {self.postfix}"
        if state == self._last:
            return
        self._last, now = state, time.monotonic()
        self._due = now + min(max((now - self._began) / 10, SHORTEST), LONGEST)
        form = _ENDLESS if self.total is None else _FORMAT
        what = self.desc.removesuffix(": ")  # which set_description adds
        text = self.format_meter(**{**self.format_dict, "bar_format": form, "ncols": None})
        try:
            self.fp.write(f"{what}: {text}\n" if what else f"{text}\n")
            self.fp.flush()
        except (OSError, ValueError):
            self._deaf = True

    def clear(self, *_: Any, **__: Any) -> None:
        """Does nothing: lines stay."""

    def close(self) -> None:
        """Prints the last line, of a bar that stays."""
        if self.disable:
            return
        if self.leave or (self.leave is None and not self.pos):
            self._ema_dt = lambda: None  # tqdm's own way to the rate over all of it
            self.line()
        self.disable = True
        type(self)._decr_instances(self)  # type: ignore[attr-defined]  # for the place of bars that follow


def bar(*args: Any, **options: Any) -> Progress:
    """A progress bar on stderr; arguments are those of `tqdm.tqdm`, and its ``disable=None`` is none but on a terminal."""
    stream = sys.stderr
    if stream is None:
        return tqdm.tqdm(*args, **{**options, "disable": True})
    return tqdm.tqdm(*args, **options) if stream.isatty() else Lines(*args, **options)


def show(shown: Progress) -> None:
    """Shows the state of a `bar` now, whenever it was last shown."""
    if isinstance(shown, Lines):
        if not shown.disable:
            shown.line()
    else:
        shown.refresh()
