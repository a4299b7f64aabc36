"""Loaders side by side, each in fresh processes and in turn, and what the figures mean in words."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from dali_dr.errors import DaliDrError, shown
from dali_dr.throughput.loaders import Loader, Settings, by_pillow, data_loader, decode_only, ours, stock, v1
from dali_dr.throughput.measure import measure
from dali_dr.throughput.sets import ORIGINAL

START_S: Final = 6.0  # about what a fresh process takes to import torch and DALI, and to warm up
STEADY: Final = 1.25  # of the fastest by the slowest round of a loader, which an idle machine stays well below
NEGLIGIBLE: Final = 0.05  # a difference of rates that one short measurement cannot show


@dataclasses.dataclass(frozen=True)
class Row:
    """A loader that is measured.

    Attributes:
      name: in JSON; those of bench/throughput.py have the same.
      label: in the table and in the chart.
      build: makes it.
      own: whether it is ours.
    """

    name: str
    label: str
    build: Loader
    own: bool = False


DECODE: Final = "decode_roi"
ROWS: Final = (
    Row("ours_rrc", "dali_dr: crop + flip", ours("rrc", {}), own=True),
    Row("ours_rrc_ra_re", "dali_dr: + RandAugment + erase", ours("rrc+ra+re", {}), own=True),
    Row(DECODE, "stock DALI: decodes the crops, nothing else", decode_only("roi", f"{ORIGINAL}rrc")),
    Row("dali_plain", "stock DALI: crop + flip", stock(False)),
    Row("dali_rand_augment", "stock DALI: + its RandAugment", stock(True)),
    Row("torchvision_plain", "torchvision/Pillow: crop + flip", data_loader(by_pillow, lambda: v1(False))),
    Row("torchvision_ra_re", "torchvision/Pillow: + RandAugment + erase", data_loader(by_pillow, lambda: v1(True))),
)
BY_NAME: Final[Mapping[str, Row]] = {row.name: row for row in ROWS}


@dataclasses.dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
      rates: images per second of each row, by round.
      left_out: rows that could not be measured, and why.
    """

    rates: Mapping[str, tuple[float, ...]]
    left_out: Mapping[str, str]

    def median(self, name: str) -> float | None:
        """Images per second of a row; None if it was left out."""
        return statistics.median(self.rates[name]) if name in self.rates else None

    def ratio(self, name: str, other: str) -> float | None:
        """Median over rounds of one row's rate by another's."""
        if name not in self.rates or other not in self.rates:
            return None
        return statistics.median(a / b for a, b in zip(self.rates[name], self.rates[other], strict=True))


def seconds_wanted(rounds: int, settings: Settings) -> float:
    """About how long `compare` takes."""
    return len(ROWS) * rounds * (START_S + settings.seconds)


def compare(scratch: Path, settings: Settings, rounds: int, tell: Callable[[str], object]) -> Figures:
    """Measures all rows, in turn within every round, so that drift of the machine hits all alike.

    Args:
      scratch: folder with the data sets, see `dali_dr.throughput.photos.write_sets`.
      settings: of all loaders.
      rounds: fresh processes per row.
      tell: called with a line for every figure.

    Raises:
      DaliDrError: a row of ours cannot be measured. Others are left out then, with the reason.
    """
    rates: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    for number in range(rounds):
        for row in ROWS:
            if row.name in left_out:
                continue
            try:
                rates.setdefault(row.name, []).append(in_fresh_process(row.name, scratch, settings))
            except DaliDrError as error:
                if row.own:
                    raise
                rates.pop(row.name, None)
                left_out[row.name] = str(error)
                tell(f"{row.label}: left out: {error}")
            else:
                tell(f"round {number + 1} of {rounds}: {row.label}: {rates[row.name][-1]:.0f} img/s")
    return Figures({name: tuple(values) for name, values in rates.items()}, left_out)


def in_fresh_process(name: str, scratch: Path, settings: Settings) -> float:
    """Images per second of one row.

    Raises:
      DaliDrError: the process failed, with the last line of what it said.
    """
    command = [sys.executable, "-m", "dali_dr.throughput", name, str(scratch), json.dumps(dataclasses.asdict(settings))]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"ended with status {done.returncode}"]
        raise DaliDrError(f"{BY_NAME[name].label} cannot be measured here: {textwrap.shorten(shown(lines[-1]), 300)}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def work(arguments: list[str]) -> None:
    """What such a process does: prints the rate."""
    name, scratch, settings = arguments
    print(json.dumps(measure(BY_NAME[name].build, Path(scratch), Settings(**json.loads(settings)))))


def in_words(figures: Figures) -> list[str]:
    """What the figures mean, a sentence or two each."""
    words = []
    best = max((name for name in figures.rates if BY_NAME[name].own), key=lambda name: figures.median(name) or 0.0)
    if ratio := figures.ratio("ours_rrc_ra_re", DECODE):
        words.append(
            f"With RandAugment and erasing, dali_dr feeds {ratio:.2f} × as many images as stock DALI decodes here when it "
            "does nothing else"
            + (
                ", so more than any loader on stock decoders can."
                if ratio >= 1
                else "; what is lacking to 1 is the price of replay."
            )
        )
    for other, what in (("dali_plain", "stock DALI"), ("torchvision_plain", "torchvision")):
        plain = figures.ratio("ours_rrc", other)
        full = figures.ratio("ours_rrc_ra_re", other.replace("plain", "rand_augment" if "dali" in other else "ra_re"))
        said = [f"{plain:.1f} × with crop and flip"] if plain else []
        said += [f"{full:.1f} × with RandAugment"] if full else []
        if said:
            words.append(f"Beside {what} that is {' and '.join(said)}.")
    if cost := figures.ratio("ours_rrc_ra_re", "ours_rrc"):
        words.append(
            "Decoding is what limits dali_dr: RandAugment and erasing cost nothing that can be measured."
            if cost > 1 - NEGLIGIBLE
            else f"RandAugment and erasing cost {1 - cost:.0%}; the rest is decoding, which more threads or a GPU speed up."
        )
    shown = "ours_rrc_ra_re" if figures.median("ours_rrc_ra_re") else best  # what data sets hold by default
    rate = figures.median(shown) or 0.0
    words.append(
        f"A model that trains on fewer than {rate:.0f} images per second on this machine never waits for dali_dr; a faster "
        "one does, whatever its GPU."
    )
    return words


def as_json(figures: Figures) -> dict[str, Any]:
    """Rates and ratios."""
    pairs = [("ours_rrc_ra_re", DECODE), ("ours_rrc", DECODE), ("ours_rrc_ra_re", "ours_rrc")]
    pairs += [("ours_rrc", "dali_plain"), ("ours_rrc_ra_re", "dali_rand_augment")]
    pairs += [("ours_rrc", "torchvision_plain"), ("ours_rrc_ra_re", "torchvision_ra_re")]
    found = {f"{a}/{b}": figures.ratio(a, b) for a, b in pairs}
    return {
        "rates": {
            name: {"median": round(statistics.median(values), 1), "rounds": [round(v, 1) for v in values]}
            for name, values in figures.rates.items()
        },
        "ratios": {pair: round(ratio, 3) for pair, ratio in found.items() if ratio is not None},
        "left_out": dict(figures.left_out),
    }


def unsteady(figures: Figures) -> str | None:
    """A warning where rounds differ by so much that something else was running; else None."""
    spans = {name: max(values) / min(values) for name, values in figures.rates.items()}
    worst = max(spans, key=lambda name: spans[name])
    if spans[worst] <= STEADY:
        return None
    return (
        f'the rounds of "{BY_NAME[worst].label}" differ by a factor of {spans[worst]:.1f}: something else is running on this '
        "machine; end it, or take more rounds (--rounds 7)"
    )
