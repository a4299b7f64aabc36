"""dali-dr convert: reinforcements that others have published, as data sets of ours."""

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
    command,
    place,
    positive,
    positive_float,
    print_manifest,
    say,
    say_json,
    tell,
)
from dali_dr.errors import ConvertError

if TYPE_CHECKING:
    from dali_dr.convert.opening import Wanted

_ML_DR: Final = "apple/ml-dr's: ImageNet+ and its kin"
_FKD: Final = "szq0214/FKD's soft labels of crops"
_URLS: Final = (
    "REINFORCED, IMAGES and files may be URLs (s3://BUCKET/FOLDER, https://HOST/NAME.tar.gz): archives are fetched once, also "
    "for --dry-run; files of folders and images when they are read."
)
_RELABEL: Final = "naver-ai/relabel_imagenet's label maps"


def add(commands: Any) -> None:
    """Adds the subcommand and its formats."""
    text = "convert reinforcements that others have published"
    convert = commands.add_parser("convert", help=text, description=f"{text.capitalize()}.")
    convert.epilog = _URLS
    formats = convert.add_subparsers(required=True, metavar="FORMAT")
    ml_dr = command(
        formats,
        "ml-dr",
        _convert,
        _ML_DR,
        "dali-dr convert ml-dr imagenet_plus_randaug.tar.gz --images imagenet-train --out imagenet-plus",
    )
    ml_dr.set_defaults(format="ml-dr")
    _add_input(ml_dr, "folder of NUMBER.pth.tar files, or a .tar or .tar.gz of one; several: runs of one set, merged")
    ml_dr.add_argument(
        "--config", type=place, default=None, metavar="FILE", help="a config.pth.tar in place of those in the archives"
    )
    _add_stored(ml_dr)
    _add_common(ml_dr)
    fkd = command(
        formats, "fkd", _convert, _FKD, "dali-dr convert fkd fkd.tar --images imagenet-train --out imagenet-fkd"
    )
    fkd.set_defaults(format="fkd")
    _add_input(fkd, "folder of CLASS/NAME.tar files, or a .tar or .tar.gz of one; several: parts of one set")
    fkd.add_argument(
        "--form",
        choices=("auto", "full", "hard", "smoothing", "marginal"),
        default="auto",
        help="of the labels (default: as the files show it)",
    )
    fkd.add_argument("--size", type=positive, default=224, metavar="N", help="pixels of a view (default %(default)s)")
    fkd.add_argument(
        "--teacher-size",
        type=positive,
        default=475,
        metavar="N",
        help="pixels of the views that the teacher saw, for verify --teacher (default %(default)s)",
    )
    _add_stored(fkd)
    _add_common(fkd)
    relabel = command(
        formats,
        "relabel",
        _convert,
        _RELABEL,
        "dali-dr convert relabel relabel.tar --images imagenet-train --out imagenet-relabel",
    )
    relabel.set_defaults(format="relabel")
    _add_input(relabel, "folder of CLASS/NAME.pt files, or a .tar or .tar.gz of one; several: parts of one set")
    relabel.add_argument(
        "--box-order",
        choices=("code", "transposed"),
        default="code",
        help="how boxes lie on the maps: as the authors' code has it, or with x and y exchanged (default %(default)s)",
    )
    _add_common(relabel)


def _add_input(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("reinforced", nargs="+", type=place, metavar="REINFORCED", help=text)
    images = parser.add_argument_group("images")
    images.add_argument(
        "--images",
        required=True,
        metavar="IMAGES",
        help="those that were reinforced: a folder of class folders, tars ('t-*.tar'), a list; or a data set of dali-dr "
        "pack, beside whose shards the records are written",
    )
    images.add_argument(
        "--order",
        type=place,
        default=None,
        metavar="FILE",
        help="paths of the images, one in each line, in the order in which they were reinforced (default: that of --images, "
        "which for a folder is torchvision's)",
    )
    images.add_argument("--sidecar", action="store_true", help="write records alone, beside the tars of --images")
    images.add_argument(
        "--labels", choices=("auto", "sorted", "numeric", "imagenet"), default="auto", help="see dali-dr pack"
    )
    images.add_argument("--classes", type=place, default=None, metavar="FILE", help="see dali-dr pack")
    images.add_argument("--label-field", default=None, metavar="FIELD", help="see dali-dr pack")
    images.add_argument(
        "--convert",
        action="store_true",
        help="take all images that Pillow reads (.bmp, .gif, …), stored as PNG, as of dali-dr pack; ImageFolder counts "
        "some of them",
    )
    add_on_error(images)
    images.add_argument(
        "--no-decode-check", action="store_true", help="look at the headers of images alone, as of dali-dr pack"
    )
    add_max_pixels(images)


def _add_stored(parser: argparse.ArgumentParser) -> None:
    stored = parser.add_argument_group("predictions")
    stored.add_argument(
        "--probabilities",
        choices=("root8", "log8", "float16", "float32"),
        default=None,
        help="encoding (default root8; of a set that dali-dr export wrote, what it had)",
    )
    stored.add_argument("--log-step", type=positive_float, default=None, metavar="NATS", help="of log8 (default 0.15)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("data set")
    add_output(output, "data set to write, or to go on with", store=True)
    add_keep_bytes(output)
    output.add_argument("--samples-per-shard", type=positive, default=None, metavar="N", help="default 1000")
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--threads", type=positive, default=None, metavar="N", help="that convert (default: one for each CPU)"
    )
    machine.add_argument(
        "--dry-run",
        action="store_true",
        help="convert for some seconds, and say how long all would take and how large it would be; of the data set nothing is "
        "written but what was found out of the archives",
    )
    add_quiet(machine)


def _convert(options: argparse.Namespace) -> None:
    from dali_dr.convert.opening import OPENERS
    from dali_dr.sources.fetched import cache_folder
    from dali_dr.store.url import is_url

    how: dict[str, Any] = {}
    for name in ("config", "probabilities", "log_step", "form", "size", "teacher_size", "box_order"):
        if getattr(options, name, None) is not None:
            how[name] = getattr(options, name)
    if options.dry_run and any(map(is_url, options.reinforced)):
        say(f"dali-dr: note: archives at URLs are fetched into {cache_folder()}, and stay there", file=sys.stderr)
    conversion = OPENERS[options.format](_wanted(options), **how)
    tell(conversion.pictures)
    for note in conversion.meaning.reinterpreted:
        say(f"dali-dr: note: {note}", file=sys.stderr)
    if options.dry_run:
        from dali_dr.convert.dry_run import estimate

        found = estimate(conversion)
        if options.json:
            say_json(found.to_json())
        else:
            for line in str(found).splitlines():
                say(line)
        return
    print_manifest(conversion.write(options.out), options.json)


def _wanted(options: argparse.Namespace) -> Wanted:
    from dali_dr.convert.images import Entering
    from dali_dr.convert.opening import Wanted
    from dali_dr.shards.outbox import folder_for
    from dali_dr.sources import Reading, check_output

    check_output(options.images, options.out)
    for archive in options.reinforced:
        if isinstance(archive, Path) and archive.is_dir():
            check_output(archive, options.out, "REINFORCED", "one of its files")
    if options.sidecar and options.convert:
        raise ConvertError("--convert: with --sidecar images stay as they are: leave one of the two out", kind="usage")
    return Wanted(
        reinforced=options.reinforced,
        images=options.images,
        out=folder_for(options.out),
        order=options.order,
        reading=Reading(options.labels, options.classes, options.label_field, options.convert),
        entering=Entering(
            options.sidecar,
            not options.no_decode_check,
            options.keep_bytes,
            options.max_pixels,
            options.threads,
            options.convert,
        ),
        on_error=options.on_error,
        threads=options.threads,
        progress=not options.quiet,
        early=not options.dry_run,
        **({"samples_per_shard": options.samples_per_shard} if options.samples_per_shard else {}),
    )
