"""Results as JSON, as Markdown, as the CSV that timm publishes, and as reliability diagrams."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from dali_dr.errors import DaliDrError, shown
from dali_dr.evaluate.metrics import Scores
from dali_dr.evaluate.run import Machine, Result

TIMM_COLUMNS: Final = (
    "model",
    "top1",
    "top1_err",
    "top5",
    "top5_err",
    "param_count",
    "img_size",
    "crop_pct",
    "interpolation",
)
"""Of the result files in timm's repository; rates are in percent, parameters in millions."""
_VERSIONS: Final = ("dali_dr", "torch", "timm", "numpy", "pillow")


def scores_json(scores: Scores) -> dict[str, Any]:
    """Figures as JSON: rates are parts of 1, nll is in nats."""
    return {
        "images": scores.images,
        "top1": scores.top1,
        "top5": scores.top5,
        "top1_right": scores.top1_right,
        "top5_right": scores.top5_right,
        "nll": scores.nll,
        "ece": scores.ece,
        "reliability": [dataclasses.asdict(one) for one in scores.reliability],
    }


def result_json(result: Result) -> dict[str, Any]:
    """A result as JSON, without what is null."""
    facts: dict[str, Any] = {
        "model": result.model,
        "set": result.set,
        "as": result.kind,
        "place": str(result.place),
        "complete": result.complete,
        "expected_images": result.expected,
        "missing": list(result.missing),
        "left_out": result.left_out,
        "refused": result.refused,
        "param_count": result.parameters,
        "view": {**dataclasses.asdict(result.view), "crop_pct": result.view.crop_pct},
        **scores_json(result.scores),
        "mce": result.mce,
        "corruption_errors": result.corruption_errors
        and {name: {str(s): error for s, error in found.items()} for name, found in result.corruption_errors.items()},
        "error_gap": result.error_gap,
        "train": result.train and scores_json(result.train),
        "seconds": result.seconds,
        "notes": list(result.notes),
    }
    return {name: value for name, value in facts.items() if value is not None}


def report_json(results: Sequence[Result], machine: Machine, settings: dict[str, Any]) -> dict[str, Any]:
    """All results with settings, machine and versions."""
    versions = {}
    for name in _VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    gpu = torch.cuda.get_device_name() if machine.device.startswith("cuda") else None
    return {
        "settings": settings,
        "machine": {
            "device": gpu or machine.device,
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "loader_device": machine.loader_device,
            "batch_size": machine.batch_size,
            "amp": machine.amp,
        },
        "versions": {"python": platform.python_version(), **versions},
        "results": [result_json(result) for result in results],
    }


def markdown(results: Sequence[Result]) -> str:
    """Tables of models and sets: top-1 (of ImageNet-C: mCE) side by side where there are several sets, then all figures."""
    parts = []
    sets = list(dict.fromkeys((result.set, result.place) for result in results))
    models = list(dict.fromkeys(result.model for result in results))
    found = {(result.model, result.place): result for result in results}
    if len(sets) > 1:
        head = ["model", *(name for name, _ in sets)]
        rows = [[model, *(_headline(found.get((model, place))) for _, place in sets)] for model in models]
        parts.append(_table(head, rows))
    gap = any(result.error_gap is not None for result in results)
    mce = any(result.mce is not None for result in results)
    head = ["model", "set", "images", "top-1", "top-5", "NLL", "ECE", *["mCE"] * mce, *["train - val error"] * gap]
    notes: dict[str, int] = {}
    rows = []
    for result in results:
        marks = "".join(f"[^{notes.setdefault(note, len(notes) + 1)}]" for note in result.notes)
        scores = result.scores
        row = [result.model, result.set + marks, str(scores.images), _percent(scores.top1), _percent(scores.top5)]
        row += [f"{scores.nll:.4f}", f"{scores.ece:.4f}"]
        row += ["" if result.mce is None else _percent(result.mce)] * mce
        row += ["" if result.error_gap is None else _percent(result.error_gap)] * gap
        rows.append(row)
    parts.append(_table(head, rows))
    if notes:
        parts.append("\n".join(f"[^{number}]: {_cell(note)}" for note, number in notes.items()))
    return "\n\n".join(parts) + "\n"


def _headline(result: Result | None) -> str:
    if result is None:
        return ""
    figure = _percent(result.scores.top1) if result.mce is None else f"mCE {_percent(result.mce)}"
    return figure if result.complete else f"{figure} (incomplete)"


def _percent(part: float) -> str:
    return f"{100 * part:.2f}"


def _cell(text: str) -> str:
    return shown(text).replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def timm_csv(results: Sequence[Result]) -> str:
    """The results on one set as timm's repository publishes them, the best first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TIMM_COLUMNS)
    for result in sorted(results, key=lambda one: -one.scores.top1):
        scores, view = result.scores, result.view
        rates = [100 * scores.top1, 100 * (1 - scores.top1), 100 * scores.top5, 100 * (1 - scores.top5)]
        millions = f"{result.parameters / 1e6:,.2f}"
        row = [f"{rate:.3f}" for rate in rates] + [millions, str(view.size), f"{view.crop_pct:.3f}", view.interpolation]
        writer.writerow([result.model, *row])
    return out.getvalue()


def write_timm_csv(results: Sequence[Result], path: Path) -> list[Path]:
    """Writes `timm_csv` to ``path``; of several sets a file each, with the set's name in its own. Returns the paths."""
    sets = list(dict.fromkeys(result.place for result in results))
    written: list[Path] = []
    for place in sets:
        some = [result for result in results if result.place == place]
        own = (
            path
            if len(sets) == 1
            else _apart(path.with_name(f"{path.stem}-{_file(some[0].set)}{path.suffix}"), written)
        )
        own.write_text(timm_csv(some))
        written.append(own)
    return written


def _file(text: str) -> str:
    """``text`` as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "set"


def _apart(path: Path, taken: Sequence[Path]) -> Path:
    """``path``, or with a number where it is taken."""
    number, own = 1, path
    while own in taken:
        number += 1
        own = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return own


def check_plots() -> None:
    """DaliDrError if there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise DaliDrError(
            "reliability diagrams need matplotlib: pip install 'dali_dr[plots]', or leave --plots out"
        ) from None


def save_plots(results: Sequence[Result], folder: Path) -> list[Path]:
    """Writes a reliability diagram (PNG) of every result into ``folder``: accuracy over confidence, and images per bin.

    Raises:
      DaliDrError: there is no matplotlib.
    """
    check_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for result in results:
        bins, scores = result.scores.reliability, result.scores
        figure = Figure(figsize=(4.5, 5.5), layout="constrained")
        FigureCanvasAgg(figure)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        lows, width = [one.low for one in bins], 1 / len(bins)
        filled = [one for one in bins if one.images]
        top.bar(lows, [one.accuracy for one in bins], width, align="edge", edgecolor="black", label="accuracy")
        top.plot([0, 1], [0, 1], "--", color="grey", label="calibrated")
        top.plot([b.confidence for b in filled], [b.accuracy for b in filled], ".", color="black", label="bins' means")
        top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        top.set_title(f"{shown(result.model)}\n{shown(result.set)}: ECE {scores.ece:.4f}", fontsize=9, parse_math=False)
        top.legend(loc="upper left", fontsize=8)
        bottom.bar(lows, [one.images / scores.images for one in bins], width, align="edge", edgecolor="black")
        bottom.set(xlabel="confidence", ylabel="part of images")
        path = _apart(folder / f"reliability-{_file(result.model)}-{_file(result.set)}.png", written)
        figure.savefig(path, dpi=120)
        written.append(path)
    return written
