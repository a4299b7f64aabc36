"""The report of a finished run: figures, the images that were left out, and a histogram of the teacher's confidence."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image, ImageDraw, ImageFont

from dali_dr import __version__
from dali_dr.shards import files, tar
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.report import CONFIG_NAME, REPORT_NAME, SUMMARY_NAME, Changed, Refused, counted, write_lists

CONFIDENCE_BINS: Final = 50  # of 0..1


def write_report(
    out: Path,
    manifest: Manifest,
    figures: Sequence[dict[str, Any]],
    refused: Sequence[Refused],
    changed: Sequence[Changed],
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the lists (`dali_dr.shards.report`), confidence.png and summary.json into the folder of the report.

    The summary comes last, so that a folder with one holds a whole report.

    Args:
      out: folder of the data set.
      manifest: of the data set.
      figures: one dict per shard, as the workers left them: rank, host, device, images, skipped, views, seconds,
        teacher_seconds and confidence (views by the probability of the most likely class).
      refused: every image that was left out.
      changed: every image that is not stored as its source has it.
      config: options of `dali-dr reinforce`, written as config.yaml.

    Returns:
      The summary.
    """
    folder = out / REPORT_NAME
    files.make_folder(folder)
    total = {name: sum(f[name] for f in figures) for name in ("views", "seconds", "teacher_seconds")}
    counts = np.sum([f["confidence"] for f in figures], axis=0)
    middles = (np.arange(CONFIDENCE_BINS) + 0.5) / CONFIDENCE_BINS
    on_gpu = [f for f in figures if f["device"].startswith("cuda")]
    workers = sorted({(f["rank"], f["host"], f["device"]) for f in figures})
    summary = {
        "images": manifest.images,
        "skipped": len(refused),
        "changed": counted(one.change for one in changed),
        "views": total["views"],
        "views_per_image": manifest.views_max,
        "bytes_per_reinforcement": round(manifest.record_bytes / max(1, total["views"]), 2),
        "record_bytes": manifest.record_bytes,
        "shard_bytes": sum(shard.bytes for shard in manifest.shards),
        "teacher_hours": round(total["teacher_seconds"] / 3600, 4),
        "device_hours": round(total["seconds"] / 3600, 4),
        "gpu_hours": round(sum(f["seconds"] for f in on_gpu) / 3600, 4),
        "teacher_utilisation": round(total["teacher_seconds"] / max(total["seconds"], 1e-9), 4),
        "mean_confidence": round(float((counts * middles).sum() / max(1, counts.sum())), 4),
        "confidence_histogram": counts.tolist(),
        "workers": [dict(zip(("rank", "host", "device"), worker, strict=True)) for worker in workers],
    }
    write_lists(out, refused, changed)
    if config is not None:
        text = (
            f"# dali-dr reinforce --config THIS_FILE --out FOLDER makes this data set again (dali_dr {__version__}).\n"
        )
        text += yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        tar.write_atomically(folder / CONFIG_NAME, text.encode())
    png = io.BytesIO()
    histogram(counts, summary["mean_confidence"]).save(png, "PNG")
    tar.write_atomically(folder / "confidence.png", png.getvalue())
    tar.write_atomically(folder / SUMMARY_NAME, (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def read_summary(out: Path) -> dict[str, Any]:
    """The summary of the data set in ``out``; empty if there is none."""
    with contextlib.suppress(OSError, ValueError):
        summary: dict[str, Any] = json.loads((out / REPORT_NAME / SUMMARY_NAME).read_bytes())
        return summary
    return {}


def histogram(counts: npt.NDArray[np.int64], mean: float) -> Image.Image:
    """A bar chart of ``counts``, the views in equal bins of confidence 0..1, as shares of all."""
    width, height, margin = 640, 360, 44
    picture = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    left, right, top, bottom = margin, width - margin // 2, margin, height - margin
    highest = max(int(counts.max()), 1)
    for number, count in enumerate(counts.tolist()):
        x = [left + (right - left) * (number + end) / len(counts) for end in (0, 1)]
        draw.rectangle((x[0] + 1, bottom - (bottom - top) * count / highest, x[1] - 1, bottom), fill="#3b6ea5")
    for tenth in range(0, 11, 2):
        x_tick = left + (right - left) * tenth / 10
        draw.line((x_tick, bottom, x_tick, bottom + 4), fill="black")
        draw.text((x_tick - 9, bottom + 6), f"{tenth / 10:.1f}", fill="black", font=font)
    draw.line((left, bottom, right, bottom), fill="black")
    draw.text((4, top - 6), f"{highest / max(1, int(counts.sum())):.1%}", fill="black", font=font)
    title = f"Teacher confidence: {int(counts.sum()):,} views, mean {mean:.3f}"
    draw.text((left, 12), title, fill="black", font=font)
    draw.text(
        (left, height - 18),
        "probability of the most likely class; bars are shares of the views",
        fill="black",
        font=font,
    )
    return picture
