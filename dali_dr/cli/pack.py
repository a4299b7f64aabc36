"""dali-dr pack: images as plain shards."""

from __future__ import annotations

import argparse
import sys
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
    print_manifest,
    reading_of,
    say,
    tell,
)
from dali_dr.cli.config import add_config

if TYPE_CHECKING:
    from dali_dr.pack import Packed


def add(commands: Any) -> None:
    """Adds the subcommand."""
    pack = command(
        commands,
        "pack",
        _pack,
        "pack images into plain shards, without reinforcements",
        "dali-dr pack imagenet/val --out imagenet-val",
    )
    add_config(pack)
    images = pack.add_argument_group("images")
    add_reading(images)
    add_on_error(images)
    images.add_argument(
        "--no-decode-check",
        action="store_true",
        help="look at the headers of images alone: faster, but a damaged one may end training",
    )
    add_max_pixels(images)
    output = pack.add_argument_group("data set")
    add_output(output, "data set to write, or to go on with; a finished one is compared with the images", store=True)
    add_keep_bytes(output)
    output.add_argument("--samples-per-shard", type=positive, default=None, metavar="N", help="default 1000")
    output.add_argument(
        "--force", action="store_true", help="remove the data set or unfinished run that is in --out, and begin anew"
    )
    machine = pack.add_argument_group("machine")
    machine.add_argument(
        "--threads", type=positive, default=None, metavar="N", help="that judge images (default: one a CPU)"
    )
    add_quiet(machine)


def _pack(options: argparse.Namespace) -> None:
    from dali_dr.pack import pack
    from dali_dr.sources import check_output, open_source

    check_output(input_of(options), options.out)
    source = open_source(input_of(options), reading_of(options))
    tell(source)
    packed = pack(
        source,
        options.out,
        on_error=options.on_error,
        max_pixels=options.max_pixels,
        check=not options.no_decode_check,
        convert=options.convert,
        keep_bytes=options.keep_bytes,
        force=options.force,
        threads=options.threads,
        progress=not options.quiet,
        **({"samples_per_shard": options.samples_per_shard} if options.samples_per_shard else {}),
    )
    print_manifest(packed.manifest, options.json, packed.figures)
    _tell(options, packed)


def _tell(options: argparse.Namespace, packed: Packed) -> None:
    """Prints what is not in the data set as the source has it."""
    from dali_dr.shards.report import CHANGED_NAME, REPORT_NAME, SKIPPED_NAME
    from dali_dr.store.url import join

    report = join(options.out, REPORT_NAME)
    for change, count in packed.changes.items():
        say(f"dali-dr: {count} images changed: {change}; see {join(report, CHANGED_NAME)}", file=sys.stderr)
    if packed.refused:
        say(f"dali-dr: {len(packed.refused)} images were left out, see {join(report, SKIPPED_NAME)}", file=sys.stderr)
