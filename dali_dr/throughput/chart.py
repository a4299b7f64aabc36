"""A bar chart of measured rates."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from dali_dr.errors import DaliDrError
from dali_dr.throughput.compare import DECODE, ROWS, Figures

SUFFIXES: Final = (".png", ".svg", ".pdf")
_OURS, _OTHERS, _DECODING = "#2a78b5", "#b9bdc4", "#e0a458"


def check_chart(path: Path) -> None:
    """Refuses what no chart can be written to, before anything is measured.

    Raises:
      DaliDrError: saying what to do.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DaliDrError(f"--out {path}: want a name that ends in {', '.join(SUFFIXES)}", kind="usage")
    if path.is_dir() or not path.parent.is_dir():
        raise DaliDrError(
            f"--out {path}: {'is a folder' if path.is_dir() else 'its folder does not exist'}", kind="usage"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise DaliDrError("--out draws with matplotlib, which is not installed: pip install 'dali_dr[plots]'")


def draw_chart(figures: Figures, path: Path, title: str) -> None:
    """Draws a bar for every row, ours in colour, with a line at what decoding alone gives."""
    from matplotlib.figure import Figure  # no pyplot: no window, and no state beyond this figure

    rows = [row for row in ROWS if row.name in figures.rates]
    rates = [figures.median(row.name) or 0.0 for row in rows]
    figure = Figure(figsize=(9, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = [_OURS if row.own else _DECODING if row.name == DECODE else _OTHERS for row in rows]
    axes.barh([row.label for row in rows], rates, color=colours)
    low = [rate - min(figures.rates[row.name]) for row, rate in zip(rows, rates, strict=True)]
    high = [max(figures.rates[row.name]) - rate for row, rate in zip(rows, rates, strict=True)]
    if any(low) or any(high):
        axes.errorbar(rates, range(len(rows)), xerr=[low, high], fmt="none", ecolor="#444", elinewidth=1, capsize=2)
    for place, (rate, up) in enumerate(zip(rates, high, strict=True)):  # right of the bar and of what its rounds span
        axes.annotate(f"{rate:,.0f}", (rate + up, place), (6, 0), textcoords="offset points", va="center", fontsize=9)
    if (decoding := figures.median(DECODE)) is not None:
        axes.axvline(decoding, color=_DECODING, linestyle="--", linewidth=1, zorder=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(rate + up for rate, up in zip(rates, high, strict=True)))
    axes.set_xlabel("images per second")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
