"""dali-dr preview: a contact sheet of a data set, a page to browse it, or the same page from a local server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from dali_dr.cli.common import add_quiet, add_set, command, open_set, positive, say, say_json

_DEFAULT_PORT: Final = 8042
_SHEET_VIEWS: Final = 5
_PAGE_VIEWS: Final = 8


def add(commands: Any) -> None:
    """Adds the subcommand."""
    preview = command(
        commands,
        "preview",
        _preview,
        "look at a data set: a contact sheet (--out), a page (--html), a server (--serve)",
        "dali-dr preview imagenet-plus --out sheet.png --html page.html",
    )
    add_set(preview)
    preview.add_argument(
        "--out", type=_sheet, metavar="PICTURE", help="write a contact sheet (.png, .jpg, .jpeg or .webp)"
    )
    preview.add_argument(
        "--html", type=_page, metavar="FILE", help="write a page to browse the set, with all it needs in it"
    )
    preview.add_argument(
        "--serve",
        type=_port,
        nargs="?",
        const=_DEFAULT_PORT,
        metavar="PORT",
        help="show the page at http://127.0.0.1:PORT, pictures as they are asked for, of sets of any size (default port "
        "%(const)s, 0: any that is free)",
    )
    preview.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="for --serve: where to listen; anything but the default lets other machines see the set (default %(default)s)",
    )
    preview.add_argument(
        "--rows", type=positive, default=6, metavar="N", help="of the contact sheet (default %(default)s)"
    )
    preview.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help="of the page, spread evenly over the set (default: all, of large sets 10,000)",
    )
    preview.add_argument(
        "--views",
        type=positive,
        metavar="N",
        help=f"of each image, spread over their order (default {_SHEET_VIEWS} on the sheet, {_PAGE_VIEWS} on the page)",
    )
    preview.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a name in each line, for class 0, 1, … (default: the set's own)",
    )
    add_quiet(preview)
    preview.set_defaults(usage_error=preview.error)


def _sheet(text: str) -> Path:
    from dali_dr.errors import DaliDrError
    from dali_dr.preview.suffixes import check_suffix

    try:
        return check_suffix(Path(text))
    except DaliDrError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _page(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".html", ".htm"):
        raise argparse.ArgumentTypeError(f"{text}: a page is HTML: want .html or .htm as its suffix")
    return path


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port: want 0 to 65535")
    return int(text)


def _preview(options: argparse.Namespace) -> int:
    if options.out is None and options.html is None and options.serve is None:
        options.usage_error("nothing is asked for: want --out PICTURE, --html FILE or --serve, or several of them")
    for path in (options.out, options.html):
        if path is not None and not path.absolute().parent.is_dir():
            options.usage_error(f"{path}: there is no folder {path.parent}: make it, or write elsewhere")
    dataset = open_set(options)
    from dali_dr.preview.names import names_of

    names = names_of(dataset, options.class_names)
    done: dict[str, Any] = {}
    damaged: dict[str, str] = {}
    if options.out is not None:
        from dali_dr.preview.sheet import save_contact_sheet

        damaged |= save_contact_sheet(dataset, options.out, options.rows, options.views or _SHEET_VIEWS, names=names)
        done["sheet"] = str(options.out)
        if not options.json:
            say(f"wrote {options.out}")
    if options.html is not None:
        from dali_dr.preview.page import write_page

        made = write_page(
            dataset,
            options.html,
            names=names,
            images=options.images,
            views=options.views or _PAGE_VIEWS,
            progress=not options.quiet,
        )
        damaged |= made.pop("damaged")
        done["html"] = {"path": str(options.html), **made}
        if not options.json:
            some = "" if made["images"] == made["of"] else f" of {made['of']}, spread evenly (--images says how many)"
            say(f"wrote {options.html}: {made['images']} images{some}, {made['bytes'] / 1e6:.1f} MB")
    if damaged:
        key, message = next(iter(damaged.items()))
        more = (
            f"{len(damaged)} images or views cannot be shown, their cards say why; the first: "
            if len(damaged) > 1
            else ""
        )
        say(f"dali-dr: note: {more}{key}: {message}", file=sys.stderr)
        if not options.json:
            say(f"images or views that cannot be shown: {len(damaged)}")
    if options.json and done:
        say_json({**done, "damaged": damaged})
    if options.serve is not None:
        from dali_dr.preview.serve import serve

        serve(dataset, names=names, host=options.host, port=options.serve, views=options.views or _PAGE_VIEWS, tell=say)
    return 0
