"""dali-dr copy, push: data sets between folders and stores, and to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any, Final

from dali_dr.cli.common import add_quiet, command, positive, say, say_json

if TYPE_CHECKING:
    from dali_dr.copying.run import Copied

_JOBS: Final = 4  # JOBS in copying.run, whose import takes a while
_TOLD: Final = 10  # names of what was not copied
_PLACE: Final = "folder or URL (s3://BUCKET/FOLDER, gs://…, az://…, hf://datasets/OWNER/NAME)"


def add(commands: Any) -> None:
    """Adds the subcommands."""
    copy = command(
        commands,
        "copy",
        _copy,
        "copy a data set between folders and stores, checked; the same command goes on",
        "dali-dr copy s3://bucket/imagenet-plus /nvme/imagenet-plus",
    )
    copy.add_argument("source", metavar="SRC", help=_PLACE)
    copy.add_argument("destination", metavar="DST", help=_PLACE)
    _add_shared(copy)

    push = command(
        commands,
        "push",
        _push,
        "copy a data set to the Hugging Face Hub, with a data card",
        "dali-dr push imagenet-plus hf://OWNER/NAME --license cc-by-4.0",
    )
    push.add_argument("source", metavar="SET", help=_PLACE)
    push.add_argument("destination", metavar="HUB", help="hf://OWNER/NAME; the repository is made if it is absent")
    push.add_argument("--private", action="store_true", help="make the repository private, if it is made")
    push.add_argument(
        "--license", default=None, metavar="ID", help="of images and labels, as the Hub names it: cc-by-4.0"
    )
    push.add_argument("--name", default=None, help="of the data set, in the card (default: the repository's)")
    push.add_argument(
        "--no-pictures", action="store_true", help="no contact sheet: the licence of the images may not allow it"
    )
    push.add_argument(
        "--force-card", action="store_true", help="replace a README.md that was not made by this, or was changed"
    )
    _add_shared(push)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=positive, default=_JOBS, metavar="N", help="objects at a time (default %(default)s)"
    )
    parser.add_argument(
        "--with-images",
        action="store_true",
        help="also copy image tars that lie outside the folder of a sidecar data set",
    )
    parser.add_argument(
        "--recheck", action="store_true", help="read all that is at the destination, and replace what is wrong"
    )
    add_quiet(parser)


def _copy(options: argparse.Namespace) -> None:
    from dali_dr.copying.publish import copy

    _tell(
        options,
        copy(
            options.source,
            options.destination,
            jobs=options.jobs,
            with_images=options.with_images,
            recheck=options.recheck,
            progress=not options.quiet,
        ),
    )


def _push(options: argparse.Namespace) -> None:
    from dali_dr.copying.publish import push

    _tell(
        options,
        push(
            options.source,
            options.destination,
            private=options.private,
            license=options.license,
            name=options.name,
            pictures=not options.no_pictures,
            force_card=options.force_card,
            jobs=options.jobs,
            with_images=options.with_images,
            recheck=options.recheck,
            progress=not options.quiet,
        ),
    )


def _tell(options: argparse.Namespace, done: Copied) -> None:
    if options.json:
        say_json(dataclasses.asdict(done))
        return
    if done.left:
        more = f" and {len(done.left) - _TOLD} more" if len(done.left) > _TOLD else ""
        say(
            f"dali-dr: note: not copied, as it is no part of the data set: {', '.join(done.left[:_TOLD])}{more}",
            sys.stderr,
        )
    kept = f", {done.kept} of them were there" if done.kept else ""
    say(f"{done.objects} objects, {done.total_bytes} bytes{kept}; {done.bytes} bytes copied now: {options.destination}")
