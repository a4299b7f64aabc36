"""What subcommands share: options, kinds of arguments, the table of facts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from dali_dr.encoded import CONTAINERS

_FIRST, *_OTHERS = (container.suffixes[0] for container in CONTAINERS)
FOLDER_HELP: Final = f"CLASS/NAME.{_FIRST} (also {', '.join(_OTHERS)}), or flat with ImageNet's file names"


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
    from dali_dr.shards.manifest import FORMAT_VERSION

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
        "format_version": FORMAT_VERSION,
        "versions": dict(m.versions),
    }
    facts |= {"image_tars": len(m.image_tars)} if m.image_tars else {}
    more = ("skipped", "teacher_hours", "device_hours", "gpu_hours", "teacher_utilisation", "mean_confidence")
    facts |= {name: summary[name] for name in more} if summary else {}
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):>24}  {json.dumps(value) if isinstance(value, (dict, list)) else value}")
