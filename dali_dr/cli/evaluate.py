"""dali-dr evaluate: models on test sets."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dali_dr.cli.common import add_cache, add_labelling, add_quiet, command, positive, positive_float, say, say_json
from dali_dr.cli.config import add_config
from dali_dr.cli.faults import INTERRUPTED
from dali_dr.errors import DaliDrError, kind_of

if TYPE_CHECKING:
    from dali_dr.evaluate.run import Machine, Result

# `dali_dr.evaluate.kinds.KINDS`, whose import takes a second; a test compares.
KINDS: Final = (
    "own",
    "imagenet",
    "imagenet-v2",
    "imagenet-a",
    "imagenet-r",
    "imagenet-sketch",
    "objectnet",
    "imagenet-c",
    "imagenet-real",
)

_SETTINGS: Final = (  # what was asked for, in JSON
    *("model", "what", "kinds", "train", "real", "all_classes", "labels", "classes", "label_field"),
    *("size", "resize", "crop_pct", "interpolation", "mean", "std"),
)


def add(commands: Any) -> None:
    """Adds the subcommand."""
    evaluate = command(
        commands,
        "evaluate",
        _evaluate,
        "evaluate models on test sets: top-1, top-5, NLL, calibration, mCE",
        "dali-dr evaluate efficientnet-lite0 imagenet-val",
    )
    add_config(evaluate)
    evaluate.usage = "%(prog)s [options] (MODEL | --model MODEL [--model MODEL …]) SET [SET …]"
    evaluate.add_argument(
        "what",
        nargs="+",
        metavar="MODEL|SET",
        help="a model, then sets; sets alone beside --model. A MODEL is a checkpoint of examples/train_timm.py or of timm's "
        "train.py, timm's name of a pretrained model, or NAME@FILE, timm's model with the weights in a file; each with "
        "{OPTIONS} of the model behind. A SET is a packed data set, or plain images in a folder or tars; or a URL",
    )
    evaluate.add_argument("--model", action="append", default=None, metavar="MODEL", help="one of several models")
    evaluate.add_argument(
        "--as",
        dest="kinds",
        action="append",
        choices=KINDS,
        default=None,
        help="what the sets are, once for all or once for each in order; own (default): of the model's own classes",
    )
    evaluate.add_argument(
        "--train", default=None, metavar="SET", help="also evaluate on the training set, and give the gap of errors"
    )
    evaluate.add_argument(
        "--real", type=Path, default=None, metavar="FILE", help="ReaL's real.json (default: timm's copy)"
    )
    evaluate.add_argument(
        "--all-classes",
        action="store_true",
        help="rank over all outputs where a set has some of ImageNet's classes only",
    )
    add_labelling(evaluate.add_argument_group("classes of plain images"))
    _add_view(evaluate.add_argument_group("view (default: as the checkpoint or timm says)"))
    output = evaluate.add_argument_group("output")
    output.add_argument("--markdown", type=Path, default=None, metavar="FILE", help="write the table there, too")
    output.add_argument(
        "--timm-csv",
        type=Path,
        default=None,
        metavar="FILE",
        help="write timm's results format; of several sets a file each",
    )
    output.add_argument(
        "--plots", type=Path, default=None, metavar="DIR", help="write reliability diagrams there (PNG)"
    )
    machine = evaluate.add_argument_group("machine")
    machine.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="default %(default)s")
    machine.add_argument("--batch-size", type=positive, default=64, metavar="N", help="default %(default)s")
    machine.add_argument("--amp", choices=("none", "bfloat16", "float16"), default="none", help="compute in this type")
    machine.add_argument("--threads", type=positive, default=None, metavar="N", help="default: one for each CPU")
    add_cache(machine)
    add_quiet(machine)


def _add_view(view: argparse._ActionsContainer) -> None:
    view.add_argument("--size", type=positive, default=None, metavar="N", help="edge of the view in pixels")
    margin = view.add_mutually_exclusive_group()
    margin.add_argument(
        "--resize", type=positive, default=None, metavar="N", help="of the shorter side, before the crop"
    )
    margin.add_argument(
        "--crop-pct", type=positive_float, default=None, metavar="PART", help="size / resize, such as 0.875"
    )
    view.add_argument("--interpolation", choices=("bilinear", "bicubic"), default=None, help="of the resize")
    for name in ("mean", "std"):
        view.add_argument(
            f"--{name}", type=float, nargs=3, default=None, metavar=("R", "G", "B"), help="of values in 0 … 1"
        )


def _evaluate(options: argparse.Namespace) -> int:
    models, sets = options.model or options.what[:1], options.what if options.model else options.what[1:]
    if not sets:
        raise DaliDrError("there is no set: dali-dr evaluate MODEL SET…, or --model MODEL … SET…", kind="usage")
    kinds = options.kinds or ["own"]
    if len(kinds) not in (1, len(sets)):
        raise DaliDrError(
            f"--as is given {len(kinds)} times for {len(sets)} sets: give it once for all, or once for each",
            kind="usage",
        )
    with _ranks(options.device) as (device, first):
        return _run(options, models, sets, kinds, device, first)


def _run(
    options: argparse.Namespace, models: list[str], sets: list[str], kinds: list[str], device: str, first: bool
) -> int:
    from dali_dr.evaluate.models import Override
    from dali_dr.evaluate.run import Machine, evaluations
    from dali_dr.evaluate.tables import check_plots
    from dali_dr.sources.source import Reading

    if options.plots is not None:
        check_plots()
    if first:
        _make_room(options)
    machine = Machine(
        device=device,
        batch_size=options.batch_size,
        amp=None if options.amp == "none" else options.amp,
        num_threads=options.threads,
        cache=options.cache,
        cache_bytes=options.cache_bytes,
        progress=not options.quiet and first,
    )
    triple = {name: None if (value := getattr(options, name)) is None else tuple(value) for name in ("mean", "std")}
    results: list[Result] = []
    interrupted = False
    try:
        for result in evaluations(
            models,
            sets,
            kinds=kinds,
            train=options.train,
            override=Override(options.size, options.resize, options.crop_pct, options.interpolation, **triple),
            reading=Reading(options.labels, options.classes, options.label_field, convert=True),
            real=options.real,
            all_classes=options.all_classes,
            machine=machine,
        ):
            results.append(result)
    except KeyboardInterrupt:
        interrupted = True
    except ValueError as error:
        raise DaliDrError(str(error), kind="usage") from error
    if first:
        _tell(options, results, machine, interrupted)
    if interrupted:
        say(f"dali-dr: interrupted: {len(results)} evaluations were done", file=sys.stderr)
    return INTERRUPTED if interrupted else 0


def _make_room(options: argparse.Namespace) -> None:
    """Makes the folders of what shall be written, so that no evaluation is done in vain."""
    for name in ("markdown", "timm_csv", "plots"):
        path: Path | None = getattr(options, name)
        if path is None:
            continue
        option, folder = f"--{name.replace('_', '-')} {path}", path if name == "plots" else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DaliDrError(
                f"{option}: the folder {folder} cannot be made: {error.strerror}; choose another",
                kind=kind_of(error),
            ) from error
        if path != folder and path.is_dir():
            raise DaliDrError(f"{option}: is a folder, want a file", kind="usage")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise DaliDrError(f"{option}: cannot be written: permission denied; choose another place")


def _tell(options: argparse.Namespace, results: list[Result], machine: Machine, interrupted: bool) -> None:
    """Prints and writes what was asked for."""
    from dali_dr.evaluate.tables import markdown, report_json, save_plots, write_timm_csv

    table = markdown(results) if results else ""
    if options.json:
        settings = {name: getattr(options, name) for name in _SETTINGS}
        settings = {n: str(v) if isinstance(v, Path) else v for n, v in settings.items() if v not in (None, False)}
        say_json(report_json(results, machine, settings) | ({"interrupted": True} if interrupted else {}))
    elif results:
        for line in table.splitlines():
            say(line)
    if not results:
        return
    if options.markdown is not None:
        options.markdown.write_text(table)
    if options.timm_csv is not None:
        write_timm_csv(results, options.timm_csv)
    if options.plots is not None:
        for path in save_plots(results, options.plots):
            say(f"wrote {path}", file=sys.stderr)


class _ranks:
    """The processes of a launcher (torchrun): the device of this one, and whether it is the one that prints."""

    def __init__(self, device: str) -> None:
        self._device, self._grouped = device, False

    def __enter__(self) -> tuple[str, bool]:
        import torch

        from dali_dr.cli.common import wants_gpu

        gpu = wants_gpu(self._device)
        if gpu and not torch.cuda.is_available():
            raise DaliDrError("--device gpu: torch sees no GPU here; take --device cpu", kind="usage")
        local = int(os.environ.get("LOCAL_RANK", 0))
        if gpu:
            torch.cuda.set_device(local)
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if gpu else "gloo")
            self._grouped = True
        first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        return (f"cuda:{local}" if gpu else "cpu"), first

    def __exit__(self, *_: object) -> None:
        import torch

        if self._grouped:
            torch.distributed.destroy_process_group()
