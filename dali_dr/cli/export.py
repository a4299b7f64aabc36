"""dali-dr export: a data set of ours in the form that another training code reads."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from dali_dr.cli.common import add_quiet, add_set, command, new_folder, open_set, say, say_json


def add(commands: Any) -> None:
    """Adds the subcommand."""
    export = command(
        commands,
        "export",
        _export,
        "write stored views in the form that another training code reads",
        "dali-dr export ml-dr imagenet-plus imagenet-plus-ml-dr",
    )
    export.add_argument("format", choices=("ml-dr",), help="ml-dr: github.com/apple/ml-dr, a .pth.tar per image")
    add_set(export)
    export.add_argument("out", type=new_folder, metavar="OUT", help="folder to write, or to go on with")
    export.add_argument("--tar", action="store_true", help="write OUT/reinforced_data.tar.gz in place of a folder")
    export.add_argument(
        "--images",
        type=Path,
        default=None,
        metavar="DIR",
        help="also write the images, as an ImageFolder in the order of the exported numbers",
    )
    add_quiet(export)


def _export(options: argparse.Namespace) -> None:
    from dali_dr.convert.export import export_ml_dr

    done = export_ml_dr(
        open_set(options), options.out, tar=options.tar, images=options.images, progress=not options.quiet
    )
    if options.json:
        say_json(dataclasses.asdict(done))
        return
    say(f"{done.images} images, {done.kept} of them written before, {done.bytes} bytes written now: {options.out}")
