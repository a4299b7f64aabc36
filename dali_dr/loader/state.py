"""A place in a run, as a few integers, and a digest of all that gives them their meaning."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

VERSION: Final = 2
"""Of the state. 2: the views of one visit are distinct, wrapped orders count visits, and the meaning is in the state."""

MAX_EPOCH: Final = 2**31 - 1
"""The last epoch: view numbers, of which every epoch has some, count in 53 bits."""

Meaning = dict[str, int | float | str]
"""All that decides what comes at a place: names of arguments (and "data", "length") -> their values, or digests of them."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run stands: positions 0 … consumed - 1 of the epoch have been given out, by all ranks together."""

    epoch: int = 0
    consumed: int = 0


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where an iterator stands: one value, so that an interruption finds it whole, before or after.

    Attributes:
      place: of the batch that `next()` gives.
      touched: a batch of this epoch was given out, so `iter()` begins another.
      over: the epoch has ended, and `next()` says so until `iter()` or `reset()`.
      sound: the pipeline is known to be in order.
      said: the epoch that `set_epoch` said.
      anew: it was said after the last batch was given out.
      replaced: positions of the place's epoch, of those given out before, for which others stood in.
    """

    place: Place
    touched: bool = False
    over: bool = False
    sound: bool = True
    said: int | None = None
    anew: bool = False
    replaced: int = 0

    def begun(self) -> Standing:
        """Where `iter` begins an epoch: the one that was said, or the next, unless it stands at the beginning of one, or at a
        place that was loaded."""
        if self.touched:
            return Standing(Place(self.place.epoch + 1 if self.said is None else self.said), sound=self.sound)
        return self.settled()

    def settled(self) -> Standing:
        """The same, with the epoch that was said, where no other is under way."""
        if self.said is None or self.touched:
            return self
        if self.said == self.place.epoch:
            return Standing(self.place, sound=self.sound, replaced=self.replaced)
        return Standing(Place(self.said), sound=self.sound)


def save(place: Place, meaning: Meaning, replaced: int = 0) -> dict[str, Any]:
    """The state of a run, JSON-able; `replaced` is about how many positions of the epoch others stood in for, on all ranks."""
    counted = {"replaced": replaced} if replaced else {}
    return {"version": VERSION, "epoch": place.epoch, "consumed": place.consumed, **counted, **meaning}


def replaced(state: Mapping[str, Any]) -> int:
    """What `save` was told of a run with bad samples."""
    return _within(state, "replaced", 2**62) if "replaced" in state else 0


def restore(state: Mapping[str, Any], meaning: Meaning, group: int) -> Place:
    """The place that a state says, where it means the same here.

    Args:
      state: of `save`.
      meaning: of this run.
      group: positions that belong together.

    Raises:
      ValueError: naming what differs, is missing or is out of range.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"loader state is {state!r:.100}, want the dict that state_dict() gave")
    if state.get("version") != VERSION:
        raise ValueError(
            f"loader state has version {state.get('version')!r:.100}, this dali_dr reads version {VERSION}; "
            "finish the run with the dali_dr that saved it, or begin an epoch (set_epoch) instead"
        )
    if missing := [name for name in ("epoch", "consumed", *meaning) if name not in state]:
        raise ValueError(f"loader state has no {missing[0]!r}: it was cut off or is of something else")
    for name, own in meaning.items():
        if state[name] != own or isinstance(state[name], bool):
            raise ValueError(
                f"loader state was saved with {name}={state[name]!r:.100}, but this iterator has {name}={own!r:.100}: "
                f"restore it with the {_WORDS.get(name, 'arguments')} that it was saved with"
            )
    epoch = _within(state, "epoch", MAX_EPOCH)
    consumed = _within(state, "consumed", int(meaning["length"]))
    if consumed % group:
        raise ValueError(f"loader state has consumed={consumed}, want a multiple of {group}, which stay together")
    return Place(epoch, consumed)


_WORDS: Final = {"data": "data set", "length": "data set, samples and order", "order": "order", "seed": "seed"}


def _within(state: Mapping[str, Any], name: str, highest: int) -> int:
    value = state[name]
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number <= highest:
        raise ValueError(f"loader state has {name}={value!r:.100}, want a whole number from 0 to {highest}")
    return number


def digest(value: Any) -> str:
    """12 hexadecimal digits that stand for a value: numbers, texts, arrays, dataclasses, and lists and dicts of these."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()[:12]


def name_of(function: Any) -> str:
    """What a function calls itself: its attribute `name`, its fields, or where it is defined."""
    if isinstance(name := getattr(function, "name", None), str):
        return name
    if dataclasses.is_dataclass(function):
        return repr(function)
    if isinstance(function, functools.partial):
        return f"{name_of(function.func)} {digest([function.args, function.keywords])}"
    if hasattr(function, "__qualname__"):
        return f"{function.__module__}.{function.__qualname__}"
    return f"{type(function).__module__}.{type(function).__qualname__} {digest(vars(function))}"


def _plain(value: Any) -> Any:
    """As JSON can say it."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [type(value).__qualname__, fields]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return name_of(value) if callable(value) else f"{type(value).__module__}.{type(value).__qualname__}"
