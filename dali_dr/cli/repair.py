"""dali-dr index, seal: make what is derived in a data set anew, and accept a manifest that was changed on purpose."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dali_dr.cli.common import add_quiet, command, folder, say


def add(commands: Any) -> None:
    """Adds the subcommands."""
    index = command(
        commands, "index", _index, "make index.bin anew from the tars of a data set", "dali-dr index imagenet-plus"
    )
    index.add_argument("dataset", type=folder, metavar="SET", help="folder of the data set")
    index.add_argument(
        "--full",
        action="store_true",
        help='read every byte: compare the SHA-256 of every tar and keep a checksum of every image (integrity="full")',
    )
    add_quiet(index)

    seal = command(
        commands,
        "seal",
        _seal,
        "check a dataset.json that was changed by hand, and write its checksum anew",
        "dali-dr seal imagenet-plus",
    )
    seal.add_argument("dataset", type=folder, metavar="SET", help="folder of the data set")
    add_quiet(seal)


def _index(options: argparse.Namespace) -> None:
    from dali_dr.shards.index_layout import INDEX_NAME
    from dali_dr.shards.manifest import Manifest
    from dali_dr.shards.rebuild import rebuild_index

    path = options.dataset / INDEX_NAME
    manifest = Manifest.load(options.dataset)
    rebuild_index(options.dataset, manifest, path, full=options.full, progress=not options.quiet)
    facts = {"index": str(path), "images": manifest.images, "image_checksums": options.full}
    say(json.dumps(facts) if options.json else f"wrote {path}: {manifest.images} images")


def _seal(options: argparse.Namespace) -> None:
    from dali_dr.shards.manifest import MANIFEST_NAME, Manifest

    manifest = Manifest.load(options.dataset, sealed=False)
    manifest.save(options.dataset)
    path = options.dataset / MANIFEST_NAME
    say(json.dumps({"manifest": str(path)}) if options.json else f"wrote {path}; `dali-dr verify` compares it")
