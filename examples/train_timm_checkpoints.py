"""Checkpoints of train_timm.py: reading them, starting from their weights, and whether a run may go on with one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch

from dali_dr.loader.options import Machine

NOT_TRAINED = {"recipe", "out", "device", "rank", "ranks", "compile", "channels_last", "accept_changes"}
NOT_TRAINED |= {"eval_every", "log_every", "checkpoint_every", "stop_after"}
SAID_OTHERWISE = {
    "data",
    "val",
    "val_data",
    "eval_crop",
    "num_classes",
}  # by what is in a set, by eval_resize, by the model
EVALUATION = {"val", "eval_size", "eval_resize", "eval_interpolation"}
MACHINE = {field.name for field in dataclasses.fields(Machine)}  # of the loader: threads, devices, checks
PLACE = {"version", "epoch", "consumed", "replaced"}  # of the loader's state; the rest says what the place means
NAMED = 6  # differences in a message
LETTERS = 60  # of a value in a message


@dataclasses.dataclass(frozen=True)
class Change:
    """An option that is not what it was.

    Attributes:
      name: the option's, with the key where it is a mapping: lr, loader.augment.
      then: its value in the checkpoint.
      now: its value here.
      final: no run can go on so.
    """

    name: str
    then: Any
    now: Any
    final: bool


def read(path: Path, which: str) -> dict[str, Any]:
    """What `torch.save` wrote, on the CPU.

    Args:
      path: of the file.
      which: what it is, for messages.

    Raises:
      ValueError: there is no such file, or it is none of torch's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{which}{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # pickle's, zip's and torch's own, of every kind
        what = f"is no checkpoint that torch.load(weights_only=True) reads, or is cut off ({type(error).__name__})"
        raise ValueError(f"{which}{path}: {what}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{which}{path}: holds a {type(state).__name__}; want a checkpoint or a state dict")
    return state


def start_from(model: torch.nn.Module, path: Path) -> None:
    """Loads weights for fine-tuning; those of another shape, as the head for other classes, stay as they are."""
    state = read(path, "--init ")
    state = state.get("ema", state.get("model", state))
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and _shape(value) == own[name].shape}
    if len(fitting) < len(own) / 2:
        raise ValueError(
            f"--init {path}: only {len(fitting)} of the model's {len(own)} tensors are in there; another model?"
        )
    model.load_state_dict(fitting, strict=False)
    print(f"{path}: {len(fitting)} tensors; from scratch: {', '.join(own.keys() - fitting.keys()) or 'none'}")


def fits(model: torch.nn.Module, state: Mapping[str, Any]) -> bool:
    """Whether weights are those of such a model: all names and shapes."""
    shapes = {name: _shape(value) for name, value in model.state_dict().items()}
    return shapes == {name: _shape(value) for name, value in state.items()}


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, torch.Tensor) else None


def what_changed(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    loader_then: Mapping[str, Any],
    loader_now: Mapping[str, Any],
    final: AbstractSet[str],
) -> list[Change]:
    """What decides what is trained and is not as it was, in the options' order.

    Args:
      then: "options" of the checkpoint; what an old one does not have is not compared.
      now: the same of this run.
      loader_then: the loader's state in the checkpoint.
      loader_now: the loader's state here.
      final: options that cannot change, and whatever the loader's state holds of its arguments.
    """
    meant = {name for name in loader_now if name not in PLACE and name in loader_then}
    differ = {name for name in meant if loader_then[name] != loader_now[name]}
    found = []
    for name, before, after in _differences(then, now):
        own = name.removeprefix("loader.")
        if own in meant - differ:  # said in another way, but the same
            continue
        found.append(Change(name, before, after, own in differ or name.split(".")[0] in final))
        differ.discard(own)
    if "data" in differ:
        before, after = then.get("data", "another set"), now["data"]
        found.insert(0, Change("data", before, after if before != after else "with other contents", True))
    if then.get("val_data") and now["val_data"] and then["val_data"] != now["val_data"]:
        after = now["val"] if then.get("val") != now["val"] else "with other contents"
        found.append(Change("val", then.get("val"), after, False))
    derived = differ - {"data"} if not any(change.final for change in found) else set()  # else they follow from those
    return found + [Change(name, loader_then[name], loader_now[name], True) for name in sorted(derived)]


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Options that are not equal: name, then, now."""
    without = NOT_TRAINED | SAID_OTHERWISE
    if not (then.get("val") and now.get("val")):
        without = without | EVALUATION
    for name, value in now.items():
        if name in without or name not in then or then[name] == value:
            continue
        if not (isinstance(value, dict) and isinstance(then[name], dict)):
            yield name, then[name], value
            continue
        for key in sorted(then[name].keys() | value.keys(), key=str):
            before, after = then[name].get(key), value.get(key)
            if before != after and not (name == "loader" and key in MACHINE):
                yield f"{name}.{key}", before, after


def refusal(out: Path, changes: Sequence[Change]) -> str:
    """One line that says what differs, and what to do."""
    shown = [*(c for c in changes if c.final), *(c for c in changes if not c.final)]
    shown = shown if any(c.final for c in changes) else list(changes)
    named = ", ".join(f"{change.name} {_word(change.then)}" for change in shown[:NAMED])
    values = ", ".join(_word(change.now) for change in shown[:NAMED])
    more = f", and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    final = ", ".join(change.name for change in shown[:NAMED] if change.final)
    do = f"; no run goes on with another {final}" if final else ", or go on with --accept-changes"
    return f"{out} holds a run with {named} (now {values}){more}: choose another --out{do}"


def _word(value: Any) -> str:
    """A value in a message."""
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if isinstance(value, str) or len(text) <= LETTERS else f"{text[:LETTERS]}…"
