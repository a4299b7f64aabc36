"""Files of weights: state dicts, alone or among other things of a training run, read without running code from them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from dali_dr.errors import DaliDrError

# Averaged weights first, as timm prefers them. "ema" and "model": examples/train_timm.py.
_USUAL: Final = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
BEST_NAME: Final = "best.pt"
"""Of the best weights in a run's folder of examples/train_timm.py."""
_WRAPPERS: Final = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_SHOWN: Final = 4  # names of tensors, of those at fault
# How torch names what a pickle would make beside tensors. The rest of its messages says how to run code from a file.
_FOREIGN: Final = re.compile(r"GLOBAL ([\w.]+)")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
      state: tensors by name.
      training: the options of the training run that wrote the file, as examples/train_timm.py keeps them; empty if unknown.
      timm: those of timm's train.py, with its model's name as "model"; empty if it was not that.
      entry: under which name the state dict was; None: it is the file itself.
    """

    state: Mapping[str, torch.Tensor]
    training: Mapping[str, Any]
    timm: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    entry: str | None = None


def read_checkpoint(path: Path, entry: str | None = None, prefix: str | None = None) -> Checkpoint:
    """Reads a file of weights (.safetensors, or what torch.save wrote).

    Args:
      entry: the member of the file that is the state dict; None: the file itself, or one of the usual names.
      prefix: only tensors of the module of this name, without it. Others stay as they are in `Checkpoint.state` under
        their whole names if that is None.

    Raises:
      DaliDrError: the file cannot be read, would have to run code, or holds no such thing.
    """
    content = _load(path)
    entry, found = _entry(path, content, entry)
    # A wrapper's prefix may be there twice, in either order.
    state = {_unwrapped(str(key)): value for key, value in found.items()}
    if prefix is not None:
        start = prefix.rstrip(".") + "."
        if not any(key.startswith(start) for key in state):
            raise DaliDrError(
                f"{path}: no tensor's name begins with {start}; modules in it: {_modules(state)}", kind="usage"
            )
        state = {key: value for key, value in state.items() if key.startswith(start)}
        state = {_unwrapped(key.removeprefix(start)): value for key, value in state.items()}
    training = content.get("options") if isinstance(content, Mapping) else None
    return Checkpoint(state, training if isinstance(training, Mapping) else {}, _of_timm(content), entry)


def load_strictly(model: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Loads all of `state` into all of the model.

    Args:
      what: begins the message: whose weights are not where.

    Raises:
      DaliDrError: names or shapes differ, the first of which it says.
    """
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "not in the model": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in sorted(own.keys() & state.keys())
            if state[key].shape != own[key].shape
        ],
    }
    if any(problems.values()):
        told = "; ".join(
            f"{len(keys)} {fault}: {', '.join(keys[:_SHOWN])}{', …' * (len(keys) > _SHOWN)}"
            for fault, keys in problems.items()
            if keys
        )
        raise DaliDrError(f"{what}: {told}", kind="usage")
    model.load_state_dict(dict(state))


def _load(path: Path) -> Any:
    """What is in the file. Besides tensors it may hold an argparse.Namespace, as timm's and DINO's do: values by name."""
    if path.is_dir():
        raise DaliDrError(
            f"{path}: is a folder: give a file of weights in it, such as {path / BEST_NAME}", kind="usage"
        )
    if not path.exists():
        raise DaliDrError(f"{path}: there is no such file", kind="usage")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        allow = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
        with warnings.catch_warnings(), allow([argparse.Namespace]) if allow else contextlib.nullcontext():
            warnings.simplefilter("ignore")  # torch guesses at files that are none of its own
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = _FOREIGN.search(str(error))
        what = f" (it holds {foreign[1]})" if foreign else ""
        raise DaliDrError(
            f"{path}: not a file of tensors alone{what}, and nothing else is loaded, because it could run any code: save "
            "model.state_dict() anew, or give another file",
            kind="usage",
        ) from error
    except Exception as error:  # zip, pickle and safetensors each have their own for damaged files
        said = str(error) if isinstance(error, OSError) else str(error).split("\n")[0]
        if not said or said.isdecimal() or "weights_only" in said:  # pickle's KeyError of a byte; torch's advice
            said = (
                "TorchScript, whose code is not run" if "TorchScript" in said else "it is nothing that torch.save wrote"
            )
        raise DaliDrError(
            f"{path}: not a checkpoint that can be read: {said}; want a .safetensors, or what torch.save wrote of "
            "model.state_dict()",
            kind="usage",
        ) from error


def _of_timm(content: Any) -> dict[str, Any]:
    """What timm's train.py says of its run beside the weights."""
    args = content.get("args") if isinstance(content, Mapping) else None
    if not isinstance(args, argparse.Namespace) or not isinstance(content.get("arch"), str):
        return {}
    return vars(args) | {"model": content["arch"]}


def _entry(path: Path, content: Any, entry: str | None) -> tuple[str | None, Mapping[Any, torch.Tensor]]:
    """The state dict in the file's content, and its name."""
    members = content if isinstance(content, Mapping) else {}
    dicts = [str(name) for name, value in members.items() if _is_state_dict(value)]
    if entry is not None:
        if entry not in dicts:
            raise DaliDrError(
                f"{path}: entry {entry!r} is no state dict in it; it has {', '.join(dicts) or 'none'}", kind="usage"
            )
        found: Mapping[Any, torch.Tensor] = members[entry]
        return entry, found
    for name in _USUAL:
        if name in dicts:
            usual: Mapping[Any, torch.Tensor] = members[name]
            return name, usual
    if _is_state_dict(content):
        return None, members
    among = f"; say which of {', '.join(dicts)}, as in NAME@FILE{{entry: {dicts[0]}}}" if dicts else ""
    raise DaliDrError(f"{path}: holds no state dict, plain or under state_dict or model{among}", kind="usage")


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, torch.Tensor) for v in value.values())


def _unwrapped(name: str) -> str:
    while (shorter := name.removeprefix(_WRAPPERS[0]).removeprefix(_WRAPPERS[1])) != name:
        name = shorter
    return name


def _modules(state: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(sorted({key.split(".")[0] for key in state})[:20])
