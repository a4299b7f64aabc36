"""Statistics of paired runs, and the tables that are printed of them."""

from __future__ import annotations

import base64
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from engine import ARMS

ORDER = ("mild", "hard", "smoothing", "reinforced")
"""Of the paired differences: each arm against those before it."""


def t_quantile(df: int, confidence: float = 0.95) -> float:
    """Two-sided quantile of Student's t: P(|T| <= t) = confidence. Abramowitz & Stegun 26.7.3-4, by bisection."""

    def inside(t: float) -> float:
        theta = math.atan(t / math.sqrt(df))
        term, total = 1.0, 0.0
        if df % 2:
            term = math.cos(theta)
            for k in range(1, df - 1, 2):
                total, term = total + term, term * math.cos(theta) ** 2 * (k + 1) / (k + 2)
            return 2 / math.pi * (theta + math.sin(theta) * total)
        for k in range(0, df - 1, 2):
            total, term = total + term, term * math.cos(theta) ** 2 * (k + 1) / (k + 2)
        return math.sin(theta) * total

    low, high = 0.0, 1.0
    while inside(high) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return (low + high) / 2


def paired_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Mean of a - b, and half the width of its 95 % t interval (infinite for one pair)."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if len(differences) < 2:
        return differences[0], math.inf
    half = t_quantile(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), half


def correct_bits(runs: Sequence[dict[str, Any]], images: int) -> npt.NDArray[np.uint8]:
    """(runs, images): whether each test image was recognised."""
    return np.stack([np.unpackbits(np.frombuffer(base64.b64decode(r["correct"]), np.uint8))[:images] for r in runs])


def interval_over_images(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], images: int) -> float:
    """Half the width of the 95 % interval of the mean difference over other test images, these runs being given."""
    difference = correct_bits(a, images).mean(0) - correct_bits(b, images).mean(0)
    return float(1.96 * np.std(difference, ddof=1) / math.sqrt(images) * 100)


def mcnemar(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], images: int) -> tuple[int, int, float]:
    """McNemar's exact test over the images of all folds: only a right, only b right, two-sided p (binomial, 1/2)."""
    first, second = (correct_bits(runs, images).astype(bool) for runs in (a, b))
    only_a, only_b = int((first & ~second).sum()), int((~first & second).sum())
    count = only_a + only_b
    tail = sum(math.comb(count, k) for k in range(min(only_a, only_b) + 1))
    return only_a, only_b, min(1.0, 2 * tail / 2**count)


def bootstrap(
    a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], images: int, draws: int = 10_000
) -> tuple[float, float]:
    """95 % percentile interval of the difference in points, over images drawn anew within each fold."""
    difference = correct_bits(a, images).astype(float) - correct_bits(b, images)
    generator = np.random.default_rng(0)
    means = np.zeros(draws)
    for fold in difference:
        means += fold[generator.integers(images, size=(draws, images))].mean(1)
    low, high = np.percentile(means / len(difference) * 100, (2.5, 97.5))
    return float(low), float(high)


def table(results: dict[str, Any]) -> str:
    """All runs and the comparison, as Markdown."""
    settings, by_arm = results["settings"], {}
    for arm in ARMS:
        runs = sorted((r for r in results["runs"] if r["arm"] == arm), key=lambda r: r["seed"])
        if runs:
            by_arm[arm] = runs
    seeds, folds = settings["seeds"], settings.get("folds", 0)
    unit = "fold" if folds else "seed"
    lines = [
        f"Test accuracy in percent on {settings['test']:,} images{' per fold' if folds else ''}, after "
        f"{settings['epochs']} epochs of {settings['train']:,} images, {settings['views']} stored views each:",
        "",
        "| targets | " + " | ".join(f"{unit} {s}" for s in seeds) + " | mean | test loss |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    for arm, runs in by_arm.items():
        cells = {r["seed"]: f"{r['accuracy']:.2f}" for r in runs}
        mean, nll = (statistics.fmean(r[k] for r in runs) for k in ("accuracy", "nll"))
        lines.append(
            f"| {ARMS[arm]} | " + " | ".join(cells.get(s, "–") for s in seeds) + f" | {mean:.2f} | {nll:.3f} |"
        )
    lines += ["", *_differences(by_arm, settings["test"], bool(folds))]
    teacher = results.get("teacher", {})
    scores = "; ".join(f"{n} {v:.2f}" for n, v in teacher.items() if isinstance(v, float))
    lines += ["", f"Teacher {teacher.get('name', '–')}, percent: {scores}."]
    if choice := results.get("choice"):
        tried = "; ".join(f"{lr}: {score:.2f}" for lr, score in choice["validation_accuracy"].items())
        lines += [
            "",
            f"Learning rate {choice['lr']}, the best for {ARMS[choice['arm']]} on the validation images ({tried}).",
        ]
    return "\n".join(lines)


def _differences(by_arm: dict[str, list[dict[str, Any]]], images: int, folds: bool) -> list[str]:
    """The table of paired differences; with folds also over all their images: bootstrap and McNemar's test."""
    if folds:
        head = "95 % t interval over folds | 95 % bootstrap over images | only the first right, only the second, p"
    else:
        head = "95 % t interval over seeds | ± over test images"
    lines = [f"| paired difference, points | mean | {head} |", "|---" * (3 + head.count("|")) + "|"]
    for b, a in itertools.combinations([n for n in ORDER if n in by_arm], 2):
        common = sorted({r["seed"] for r in by_arm[a]} & {r["seed"] for r in by_arm[b]})
        pair = [[r for r in by_arm[arm] if r["seed"] in common] for arm in (a, b)]
        if not common:
            continue
        mean, half = paired_interval(*([r["accuracy"] for r in runs] for runs in pair))
        if folds:
            low, high = bootstrap(*pair, images)
            only_a, only_b, p = mcnemar(*pair, images)
            over_images = f"{low:+.2f} … {high:+.2f} | {only_a}, {only_b}, {p:.3g}"
        else:
            over_images = f"{interval_over_images(*pair, images):.2f}"
        lines.append(
            f"| {ARMS[a]} − {ARMS[b]} | {mean:+.2f} | {mean - half:+.2f} … {mean + half:+.2f} | {over_images} |"
        )
    return lines


def pooled(passes: Sequence[dict[str, Any]]) -> str:
    """The paired differences of several result files together, as Markdown; a pair is of one file and one seed."""
    accuracy = {(r["arm"], n, r["seed"]): r["accuracy"] for n, results in enumerate(passes) for r in results["runs"]}
    lines = ["| paired difference, points | mean | 95 % t interval | pairs |", "|---|---|---|---|"]
    for b, a in itertools.combinations(ORDER, 2):
        pairs = sorted(key[1:] for key in accuracy if key[0] == a and (b, *key[1:]) in accuracy)
        if pairs:
            mean, half = paired_interval(*([accuracy[arm, *pair] for pair in pairs] for arm in (a, b)))
            lines.append(
                f"| {ARMS[a]} − {ARMS[b]} | {mean:+.2f} | {mean - half:+.2f} … {mean + half:+.2f} | {len(pairs)} |"
            )
    return "\n".join(lines)
