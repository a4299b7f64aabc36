"""dali-dr bench: how fast this machine loads a person's photos, with dali_dr and with what people use today."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_dr.cli.common import add_quiet, command, place, positive, positive_float, say, say_json
from dali_dr.errors import DaliDrError

if TYPE_CHECKING:
    from dali_dr.throughput.compare import Figures
    from dali_dr.throughput.photos import Photos, Written


def add(commands: Any) -> None:
    """Adds the subcommand."""
    bench = command(
        commands,
        "bench",
        _bench,
        "measure loaders on your photos and this machine, and draw a chart",
        "dali-dr bench photos --out bench.png",
    )
    bench.add_argument(
        "data", type=place, metavar="DATA", help="folder of photos, at any depth; or a data set, or its URL"
    )
    bench.add_argument("--out", type=Path, default=None, metavar="PNG", help="draw a bar chart (or .svg, .pdf)")
    bench.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where views are made")
    bench.add_argument("--images", type=positive, default=None, metavar="N", help="photos to take (default: up to 400)")
    bench.add_argument(
        "--seconds", type=positive_float, default=2.0, metavar="S", help="per figure (default %(default)s)"
    )
    bench.add_argument(
        "--rounds", type=positive, default=2, metavar="N", help="figures per loader (default %(default)s)"
    )
    bench.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="images per batch (default %(default)s)"
    )
    bench.add_argument(
        "--threads",
        type=positive,
        default=None,
        metavar="N",
        help="of every loader (default: the processors that may be used)",
    )
    bench.add_argument(
        "--scratch",
        type=Path,
        default=None,
        metavar="DIR",
        help="where data sets are written that are measured, and removed in the end (default: the system's)",
    )
    add_quiet(bench)


def _bench(options: argparse.Namespace) -> None:
    from dali_dr.throughput.chart import check_chart, draw_chart
    from dali_dr.throughput.compare import as_json, compare, in_words, seconds_wanted, unsteady
    from dali_dr.throughput.loaders import Settings
    from dali_dr.throughput.measure import machine
    from dali_dr.throughput.photos import MOST_IMAGES, check_space, find_photos, source_name, space_wanted, write_sets

    if options.out is not None:
        check_chart(options.out)
    threads = options.threads or len(os.sched_getaffinity(0))
    settings = Settings(threads, options.batch_size, _device(options.device), options.seconds)
    photos = find_photos(options.data, options.images or MOST_IMAGES)
    with _scratch(options.scratch) as scratch:
        check_space(photos, scratch, options.batch_size)
        _tell(
            options,
            f"{len(photos.images)} of {photos.found} images; data sets of up to {space_wanted(photos, options.batch_size) >> 20} "
            f"MiB go to {scratch} for a while; about {seconds_wanted(options.rounds, settings):.0f} s to go",
        )
        written = write_sets(photos, scratch, options.batch_size)
        figures = compare(scratch, settings, options.rounds, lambda text: _tell(options, text))
    here = machine()
    title = f"{here['cpu']}, {threads} threads{', ' + here['gpu'] if settings.device == 'gpu' else ''}"
    notes = _notes(photos, written)
    if warning := unsteady(figures):
        notes.append(warning)
    if options.out is not None:
        draw_chart(figures, options.out, title)
    if options.json:
        facts = {"source": source_name(options.data), "images": written.images, "repeats": written.repeats}
        facts |= {"rounds": options.rounds, **dataclasses.asdict(settings)}
        chart = {} if options.out is None else {"chart": str(options.out)}
        said = {"words": in_words(figures), "notes": notes}
        say_json({"machine": here, "settings": facts, **as_json(figures), **said, **chart})
        return
    say(f"{title}; {written.images} images, batches of {options.batch_size}\n".rstrip())
    _say_table(figures)
    for text in (*in_words(figures), *(f"note: {note}" for note in notes)):
        say(text)
    if options.out is not None:
        say(f"wrote {options.out}")


def _say_table(figures: Figures) -> None:
    from dali_dr.throughput.compare import DECODE, ROWS

    top = max(figures.median(name) or 0.0 for name in figures.rates)
    say(f"{'loader':44} {'img/s':>8}  {'÷ decoding':>10}")
    for row in ROWS:
        if (rate := figures.median(row.name)) is None:
            say(f"{row.label:44} {'-':>8}  {figures.left_out[row.name]}")
            continue
        ratio = figures.ratio(row.name, DECODE)
        say(
            f"{row.label:44} {rate:8.0f}  {'-' if ratio is None else f'{ratio:.2f}':>10}  {'█' * round(24 * rate / top)}"
        )


def _notes(photos: Photos, written: Written) -> list[str]:
    """What a reader of the figures must know of the photos."""
    notes = []
    if written.repeats > 1:
        notes.append(f"these are few images: each was taken {written.repeats} times, so that an epoch has two batches")
    if photos.unreadable:
        notes.append(f"{len(photos.unreadable)} files cannot be read, the first one: {photos.unreadable[0]}")
    if written.refused:
        notes.append(f"{len(written.refused)} images cannot be trained on, the first one: {written.refused[0]}")
    if photos.tiled:
        notes.append("this data set's JPEGs are in tiles already, which stock decoders read about a tenth slower")
    return notes


def _device(name: str) -> Any:
    """ "cpu" or "gpu"; "auto" takes the GPU where there is one and the plugin was built for it."""
    import torch

    from dali_dr._plugin import build_facts

    can = torch.cuda.is_available() and bool(build_facts().get("cuda"))
    if name == "gpu" and not can:
        why = "this plugin was built without CUDA" if torch.cuda.is_available() else "no GPU is seen by torch"
        raise DaliDrError(f"--device gpu: {why}: take --device cpu", kind="usage")
    return "gpu" if name == "gpu" or (name == "auto" and can) else "cpu"


@contextlib.contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards, also after Ctrl-C and SIGTERM."""
    if parent is not None and not parent.is_dir():
        raise DaliDrError(f"--scratch {parent}: there is no such folder", kind="usage")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="dali-dr-bench-", dir=parent) as scratch:
            yield Path(scratch)
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        say(text, file=sys.stderr)
