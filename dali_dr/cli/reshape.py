"""dali-dr subset, merge, retile: another shape of a data set."""

from __future__ import annotations

import argparse
from typing import Any

from dali_dr.cli.common import add_output, add_quiet, add_set, command, open_set, positive, print_manifest
from dali_dr.cli.config import add_config


def add(commands: Any) -> None:
    """Adds the subcommands."""
    subset = command(
        commands,
        "subset",
        _subset,
        "keep some views, classes or images, without asking the teacher again",
        "dali-dr subset imagenet-plus --out imagenet-plus-8 --views 8",
    )
    add_set(subset)
    subset.add_argument("--views", type=positive, default=None, metavar="N", help="views to keep of each image")
    subset.add_argument(
        "--topk", type=positive, default=None, metavar="K", help="likeliest classes to keep of each view"
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
        help="of the views: at random by key, or one of every stretch of their order (default %(default)s)",
    )
    subset.add_argument(
        "--row-order",
        choices=("confidence", "entropy"),
        default=None,
        help="order the views anew, for curricula: by the teacher's falling confidence or rising entropy (default: as it was)",
    )
    merge = command(
        commands,
        "merge",
        _merge,
        "join the views of two runs on the same images, with different seeds",
        "dali-dr merge imagenet-plus imagenet-plus-seed-1 --out imagenet-plus-64",
    )
    add_set(merge)
    add_set(merge, "other", cache=False)
    for parser in (subset, merge):
        add_output(parser, "data set to write", store=True)
        add_config(parser)
        parser.add_argument(
            "--sidecar", action="store_true", help="write records alone, beside the tars that hold the images now"
        )
        parser.add_argument("--samples-per-shard", type=positive, default=None, metavar="N", help="default: as it was")
        add_quiet(parser)
    retile = command(
        commands,
        "retile",
        _retile,
        "store the images of a data set as tiled JPEGs, without asking the teacher again",
        "dali-dr retile imagenet-plus --out imagenet-plus-tiled",
    )
    add_config(retile)
    add_set(retile)
    add_output(retile, "data set to write, or to go on with", store=True)
    retile.add_argument("--samples-per-shard", type=positive, default=None, metavar="N", help="default: as it was")
    retile.add_argument(
        "--threads", type=positive, default=None, metavar="N", help="that tile images (default: one a CPU)"
    )
    add_quiet(retile)


def _subset(options: argparse.Namespace) -> None:
    from dali_dr.shards.reshape import subset

    manifest = subset(
        open_set(options),
        options.out,
        views=options.views,
        topk=options.topk,
        images=options.images,
        choice=options.choice,
        row_order=options.row_order,
        sidecar=options.sidecar,
        samples_per_shard=options.samples_per_shard,
        progress=not options.quiet,
    )
    print_manifest(manifest, options.json)


def _merge(options: argparse.Namespace) -> None:
    from dali_dr.shards.reshape import merge

    manifest = merge(
        open_set(options),
        open_set(options, "other"),
        options.out,
        sidecar=options.sidecar,
        samples_per_shard=options.samples_per_shard,
        progress=not options.quiet,
    )
    print_manifest(manifest, options.json)


def _retile(options: argparse.Namespace) -> None:
    from dali_dr.shards.retile import retile

    manifest = retile(
        open_set(options),
        options.out,
        samples_per_shard=options.samples_per_shard,
        threads=options.threads,
        progress=not options.quiet,
    )
    print_manifest(manifest, options.json)
