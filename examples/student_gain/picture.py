"""The paired differences of result files as a picture: a dot per pair, the mean and its 95 % t interval. Wants matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comparison import paired_interval
from engine import ARMS

_AGAINST = ("hard", "smoothing", "mild")  # what reinforcement is compared with, from above


def differences(results: Mapping[str, Any], arm: str) -> list[float]:
    """Of reinforcement to another arm, in points, by seed; where both have run."""
    scores = {(run["arm"], run["seed"]): run["accuracy"] for run in results["runs"]}
    seeds = [seed for seed in results["settings"]["seeds"] if {("reinforced", seed), (arm, seed)} <= scores.keys()]
    return [scores["reinforced", seed] - scores[arm, seed] for seed in seeds]


def draw(tasks: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws the gains of reinforcement, a panel per task; ``tasks`` has results by title.

    Raises:
      ImportError: there is no matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 1.6 * len(tasks)), dpi=120, layout="constrained")
    panels = figure.subplots(len(tasks), sharex=True, squeeze=False)[:, 0]
    for panel, (title, results) in zip(panels, tasks.items(), strict=True):
        for place, arm in enumerate(reversed(_AGAINST)):
            points = differences(results, arm)
            if not points:
                continue
            panel.plot(points, [place - 0.2] * len(points), "o", color="0.6", markersize=4)
            mean, half = paired_interval(points, [0.0] * len(points))
            panel.errorbar([mean], [place], xerr=[half] if len(points) > 1 else None, fmt="s", color="black", capsize=3)
        panel.axvline(0, color="0.7", linewidth=1)
        panel.set_yticks(range(len(_AGAINST)), [ARMS[arm] for arm in reversed(_AGAINST)])
        panel.set_ylim(-0.6, len(_AGAINST) - 0.5)
        panel.set_title(title, fontsize=10, loc="left")
    figure.supxlabel(
        "reinforcement ahead by … points (dots: pairs of runs; squares: mean, 95 % t interval)", fontsize=9
    )
    figure.savefig(path)
