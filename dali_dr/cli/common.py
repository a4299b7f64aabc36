"""What subcommands share: options, kinds of arguments, the table of facts."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dali_dr.choices import KEEPS, NUMBERINGS, ON_ERRORS
from dali_dr.cli.faults import say_json as say_json
from dali_dr.cli.parser import Parser as Parser
from dali_dr.cli.parser import say as say
from dali_dr.encoded import CONTAINERS, MAX_PIXELS
from dali_dr.errors import DaliDrError
from dali_dr.store.url import StoreError, as_place, is_url, shown_url

if TYPE_CHECKING:
    from dali_dr.convert.images import Pictures
    from dali_dr.shards.dataset import Dataset
    from dali_dr.shards.manifest import Manifest
    from dali_dr.sources import Reading, Source

_FIRST, *_OTHERS = (container.suffixes[0] for container in CONTAINERS)
_FOLDER_HELP: Final = f"CLASS/NAME.{_FIRST} (also {', '.join(_OTHERS)}), or flat with ImageNet's file names"


def command(commands: Any, name: str, run: Any, text: str, example: str = "") -> Parser:
    """A parser of the subcommand ``name``, which calls ``run`` and is described by ``text`` and an example to copy."""
    parser: Parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if example:
        parser.epilog = f"example:\n  {example}"
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print results, and errors, as one JSON document on stdout")
    return parser


def positive(text: str) -> int:
    """An integer of 1 or more, as argparse's ``type``."""
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r}: want a whole number of 1 or more")


def whole(text: str) -> int:
    """An integer, as argparse's ``type``."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: want a whole number") from None


def positive_float(text: str) -> float:
    """A number above 0, as argparse's ``type``."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r}: want a number above 0")


def folder(text: str) -> Path:
    """A folder on this machine, as argparse's ``type``."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{shown_url(text)}: want a folder on this machine, not a URL")
    return Path(text)


def place(text: str) -> Path | str:
    """A folder on this machine or a URL of one in a store, as argparse's ``type``."""
    try:
        return as_place(text)
    except StoreError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def new_folder(text: str) -> Path:
    """A folder on this machine, which need not be there yet, as argparse's ``type``."""
    path = folder(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a file, want a folder: choose another")
    return path


def new_place(text: str) -> Path | str:
    """As `new_folder`, or a URL of one in a store."""
    return place(text) if is_url(text) else new_folder(str(place(text)))


def add_set(parser: argparse._ActionsContainer, name: str = "dataset", cache: bool = True) -> None:
    """Adds a data set that is read, which may lie in a store, and ``cache``: --cache and --cache-bytes. See `open_set`."""
    parser.add_argument(name, type=place, metavar="SET", help="folder of the data set, or its URL (s3://…, hf://…)")
    if not cache:
        return
    add_cache(parser)


def add_cache(parser: argparse._ActionsContainer) -> None:
    """Adds --cache and --cache-bytes."""
    parser.add_argument(
        "--cache",
        type=Path,
        default=None,
        metavar="DIR",
        help="of a set in a store: where what is read of it is kept (default: $DALI_DR_CACHE, or ~/.cache/dali_dr)",
    )
    parser.add_argument(
        "--cache-bytes",
        type=positive,
        default=None,
        metavar="N",
        help="bytes that all sets in the cache may have (default: as many as leave 1 GiB of the disk free)",
    )


def open_set(options: argparse.Namespace, name: str = "dataset") -> Dataset:
    """The data set of the options that `add_set` added."""
    from dali_dr.shards.dataset import Dataset

    return Dataset(getattr(options, name), cache=options.cache, cache_bytes=options.cache_bytes)


def add_output(parser: argparse._ActionsContainer, text: str, *, store: bool = False) -> None:
    """Adds --out, the folder of a data set, described by ``text``; ``store``: or a URL."""
    if store:
        text += "; or its URL in a store (s3://BUCKET/FOLDER, docs/stores.md)"
    parser.add_argument("--out", type=new_place if store else new_folder, required=True, metavar="DIR", help=text)


def add_reading(parser: argparse._ActionsContainer) -> None:
    """Adds where the images are and how they are read: FOLDER or --input, --labels, --classes, --label-field, --convert.

    See `input_of` and `reading_of`.
    """
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("folder", nargs="?", default=None, metavar="FOLDER", help=f"{_FOLDER_HELP}; or a URL")
    where.add_argument(
        "--input",
        default=None,
        metavar="WHAT",
        help="instead: a folder; tars as webdataset names them ('t-*.tar', 't-{000..146}.tar'); a .csv, .jsonl or .parquet "
        "list; .parquet files of images; URLs of any of these; hf:NAME_OR_FOLDER:SPLIT",
    )
    add_labelling(parser)
    parser.add_argument(
        "--convert",
        action="store_true",
        help="take all images that Pillow reads (.bmp, .gif, .tif, …), and store as PNG what shards do not hold",
    )


def add_labelling(parser: argparse._ActionsContainer) -> None:
    """Adds how classes are numbered and where labels are: --labels, --classes, --label-field."""
    parser.add_argument(
        "--labels",
        type=_numbering,
        choices=NUMBERINGS,
        default="auto",
        help="how classes are numbered: sorted: by their names in sorted order, as torchvision does it; numeric: each "
        "name is the number; imagenet: ImageNet's numbers of synsets; auto (default): as imagenet or numeric where all "
        "names are such, else sorted",
    )
    parser.add_argument(
        "--classes",
        type=place,
        default=None,
        metavar="FILE",
        help="a name of a class (or synset) in each line, whose number is that of its line from 0: in place of --labels",
    )
    parser.add_argument(
        "--label-field",
        default=None,
        metavar="FIELD",
        help="where labels are: the column of a list or table, the member of a tar's samples (cls, json:label)",
    )


def input_of(options: argparse.Namespace) -> str:
    """What `open_source` shall open, of the options that `add_reading` added."""
    return str(options.folder if options.input is None else options.input)


def reading_of(options: argparse.Namespace) -> Reading:
    """How it is read, of the options that `add_reading` added."""
    from dali_dr.sources import Reading

    return Reading(options.labels, options.classes, options.label_field, options.convert)


def tell(source: Source | Pictures) -> None:
    """Prints what a user should know of how ``source`` was read."""
    for note in source.notes:
        say(f"dali-dr: note: {note}", file=sys.stderr)


def _numbering(text: str) -> str:
    if text in KEEPS:  # what --labels meant before it became --keep
        raise argparse.ArgumentTypeError(
            f"says how classes are numbered; what is kept of a prediction is said by --keep {text}"
        )
    return text


def add_on_error(parser: argparse._ActionsContainer) -> None:
    """Adds --on-error."""
    parser.add_argument(
        "--on-error",
        choices=ON_ERRORS,
        default="raise",
        help="what to do with an image that cannot be read, or that training would not show as Pillow does",
    )


def add_max_pixels(parser: argparse._ActionsContainer) -> None:
    """Adds --max-pixels."""
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse images of more pixels before they take memory (default %(default)s)",
    )


def add_keep_bytes(parser: argparse._ActionsContainer) -> None:
    """Adds --keep-bytes."""
    parser.add_argument(
        "--keep-bytes",
        action="store_true",
        help="store image files as they are; else JPEGs are transcoded without loss, to the same pixels, into tiles of which "
        "training decodes those that it shows",
    )


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """Adds --quiet."""
    parser.add_argument("--quiet", action="store_true", help="no progress")


def wants_gpu(device: str) -> bool:
    """Whether ``device`` ("auto", "cpu" or "gpu") means the GPU on this machine."""
    import torch

    return torch.cuda.is_available() if device == "auto" else device == "gpu"


def print_info(path: Path | str, as_json: bool, summary: dict[str, Any] | None = None) -> None:
    """Prints what is in the data set ``path``, and of ``summary`` what its making took. Of a URL, dataset.json is read alone."""
    if isinstance(path, str):
        from dali_dr.shards.remote import load_manifest

        m, _ = load_manifest(path)
    else:
        from dali_dr.shards.dataset import Dataset

        m = Dataset(path).manifest
    print_manifest(m, as_json, summary)


def read_config(path: Path | str) -> str:
    """The options that made the reinforced data set ``path``, as YAML.

    Raises:
      DaliDrError: there is no data set, or it does not say.
    """
    from dali_dr.shards.report import CONFIG_NAME, REPORT_NAME

    if isinstance(path, str):
        from dali_dr.shards.remote import load_manifest
        from dali_dr.store.opening import open_store
        from dali_dr.store.url import MissingError

        load_manifest(path)
        try:
            return open_store(path).read(f"{REPORT_NAME}/{CONFIG_NAME}").decode()
        except MissingError:
            pass
    else:
        from dali_dr.shards.dataset import Dataset

        Dataset(path)
        with contextlib.suppress(FileNotFoundError):
            return (path / REPORT_NAME / CONFIG_NAME).read_text()
    raise DaliDrError(
        f"{path if isinstance(path, Path) else shown_url(path)}: has no {REPORT_NAME}/{CONFIG_NAME}: it was made by another "
        "command than dali-dr reinforce, or by an earlier one",
        kind="usage",
    )


def print_manifest(m: Manifest, as_json: bool, summary: dict[str, Any] | None = None) -> None:
    """As `print_info`, of a data set whose manifest is ``m``."""
    facts = {
        "images": m.images,
        "views": m.views_min,
        "classes": m.num_classes,
        "image_classes": m.image_classes,
        "teacher_outputs": m.teacher and m.num_outputs,
        "topk": m.topk,
        "spec": m.spec and (m.spec.name or m.spec.to_json()),
        "view_size": m.spec and m.spec.size,
        "teacher": m.teacher and ",".join(m.teacher["names"]),
        "probabilities": m.probabilities,
        "bytes_per_reinforcement": m.spec and round(m.record_bytes / max(1, m.images * m.views_min), 2),
        "record_bytes": m.record_bytes,
        "shards": len(m.shards),
        "shard_bytes": sum(shard.bytes for shard in m.shards),
        "seed": m.seed,
        "tiles": m.tiles and m.tiles.to_json(),
        "decoder": m.decoder,
        "format_version": m.format_version,
        "versions": dict(m.versions),
    }
    facts |= {"image_tars": len(m.image_tars)} if m.image_tars else {}
    facts |= {"row_order": m.row_order} if m.row_order != "confidence" else {}
    facts |= {"label_maps": m.label_maps.to_json()} if m.label_maps else {}
    more = (
        "taken",
        "images_per_second",
        "skipped",
        "changed",
        "teacher_hours",
        "device_hours",
        "gpu_hours",
        "teacher_utilisation",
        "mean_confidence",
    )
    facts |= {name: summary[name] for name in more if name in summary} if summary else {}
    if as_json:
        say_json(facts)
        return
    told: dict[str, Any] = {}
    words = {
        "classes": _classes_in_words(m),
        "image_classes": {},
        "teacher_outputs": {},
        "tiles": _in_words(m),
        "decoder": {},
    }
    for name, value in facts.items():
        told |= words.get(name, {name: value})
    for name, value in told.items():
        say(f"{name.replace('_', ' '):>30}  {json.dumps(value) if isinstance(value, (dict, list)) else value}")


def _classes_in_words(manifest: Manifest) -> dict[str, str]:
    """What is told of the images' classes, and of the teacher's where these are others."""
    own, outputs = manifest.image_classes, manifest.num_outputs
    return {"classes": f"{own}, the teacher has {outputs} outputs" if manifest.teacher and outputs != own else f"{own}"}


def _in_words(manifest: Manifest) -> dict[str, str]:
    """What is told of tiles and of the decoder."""
    tiles = manifest.tiles
    untouched = (
        "not known, images are in tars beside it" if manifest.image_tars else "none, files are as they were given"
    )
    words = {"tiled": untouched if tiles is None else str(tiles)}
    if tiles is not None and tiles.kept:
        words["stored as they were"] = "; ".join(f"{count}: {reason}" for reason, count in tiles.kept.items())
    if manifest.views_max:
        words["decoder of the teacher's views"] = manifest.decoder or "not known"
    return words
