"""What subcommands share: options, kinds of arguments, the table of facts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from dali_dr.encoded import CONTAINERS, MAX_PIXELS
from dali_dr.errors import shown

_FIRST, *_OTHERS = (container.suffixes[0] for container in CONTAINERS)
FOLDER_HELP: Final = f"CLASS/NAME.{_FIRST} (also {', '.join(_OTHERS)}), or flat with ImageNet's file names"


class Parser(argparse.ArgumentParser):
    """A parser whose errors show what was typed, which a shell may have made of names of files."""

    def error(self, message: str) -> NoReturn:
        """Usage and message on stderr; ends with exit status 2."""
        super().error(shown(message))


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Prints ``text``, `shown`, in what the stream can encode. All that subcommands print goes through here."""
    stream = sys.stdout if file is None else file
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(shown(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, end=end)


def say_json(data: Any) -> None:
    """Prints ``data`` as JSON of ASCII characters, which escapes all others."""
    print(json.dumps(data, indent=1).replace("\x7f", "\\u007f"))


def command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A parser of the subcommand ``name``, which calls ``run`` and is described by ``text``."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    return parser


def positive(text: str) -> int:
    """An integer of 1 or more, as argparse's ``type``."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def positive_float(text: str) -> float:
    """A number above 0, as argparse's ``type``."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def add_output(parser: argparse._ActionsContainer, text: str) -> None:
    """Adds --out, the folder of a data set, described by ``text``."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)


def add_max_pixels(parser: argparse._ActionsContainer) -> None:
    """Adds --max-pixels."""
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse images of more pixels before they take memory (default %(default)s)",
    )


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """Adds --quiet."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def wants_gpu(device: str) -> bool:
    """Whether ``device`` ("auto", "cpu" or "gpu") means the GPU on this machine."""
    import torch

    return torch.cuda.is_available() if device == "auto" else device == "gpu"


def print_info(path: Path, as_json: bool, summary: dict[str, Any] | None = None) -> None:
    """Prints what is in the data set ``path``, and of ``summary`` what its making took."""
    from dali_dr.shards.dataset import Dataset

    m = Dataset(path).manifest
    facts = {
        "images": m.images,
        "views": m.views_min,
        "classes": m.num_classes,
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
        "format_version": m.format_version,
        "versions": dict(m.versions),
    }
    facts |= {"image_tars": len(m.image_tars)} if m.image_tars else {}
    more = ("skipped", "teacher_hours", "device_hours", "gpu_hours", "teacher_utilisation", "mean_confidence")
    facts |= {name: summary[name] for name in more} if summary else {}
    if as_json:
        say_json(facts)
        return
    for name, value in facts.items():
        say(f"{name.replace('_', ' '):>24}  {json.dumps(value) if isinstance(value, (dict, list)) else value}")
