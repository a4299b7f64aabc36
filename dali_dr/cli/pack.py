"""dali-dr pack: a folder of images as plain shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dali_dr.cli.common import FOLDER_HELP, add_max_pixels, add_output, add_quiet, command, positive, print_info


def add(commands: Any) -> None:
    """Adds the subcommand."""
    pack = command(commands, "pack", _pack, "pack a folder of images into plain shards, without reinforcements")
    pack.add_argument("folder", type=Path, help=FOLDER_HELP)
    add_output(pack, "data set to write, or to go on with")
    pack.add_argument("--samples-per-shard", type=positive, default=None, metavar="N")
    pack.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="what to do with a damaged image")
    add_max_pixels(pack)
    add_quiet(pack)


def _pack(options: argparse.Namespace) -> None:
    from dali_dr.shards.sample import Sample
    from dali_dr.shards.write import write_shards
    from dali_dr.sources import ImageFolder
    from dali_dr.sources.readable import Readable

    source = ImageFolder.scan(options.folder)
    images = Readable(source, options.max_pixels)
    sizes = {"samples_per_shard": options.samples_per_shard} if options.samples_per_shard else {}

    def sample(number: int) -> Sample:
        data = images.read(number)
        problem = None if data else images.problem(number, data)
        return Sample(source.keys[number], data, source.labels[number], problem=problem)

    write_shards(
        lambda start: map(sample, range(start, len(source))),
        options.out,
        spec=None,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        on_error=options.on_error,
        max_pixels=options.max_pixels,
        total=len(source),
        progress=not options.quiet,
        **sizes,
    )
    print_info(options.out, options.json)
