"""Checks of arguments: each refuses what is out of range, by the argument's name, with what to pass instead."""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Sequence
from typing import Any, Final, NoReturn, cast

import numpy as np
import torch

from dali_dr.augment.spec import MAX_SIZE

MAX_VIEW_SIZE: Final = MAX_SIZE
"""Pixels per side of a view."""
MAX_BATCH: Final = 1 << 20
"""Images of a batch: above, a batch of views of the usual size takes more memory than a machine has."""
TINY: Final = float(np.finfo(np.float32).tiny)
"""The smallest standard deviation that float32 divides by without loss."""


def refuse(name: str, value: object, want: str) -> NoReturn:
    """Raises ValueError for an argument, by its name."""
    raise ValueError(f"{name} is {value!r:.100}; pass {want}")


def one_of(name: str, value: object, allowed: Sequence[str], more: str = "") -> None:
    """Raises ValueError if a word is none of those allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, allowed))} {more}".rstrip() + f", not {value!r:.100}"
        )


def whole(name: str, value: object, lowest: int | None, highest: int | None = None) -> int:
    """A whole number of any integer type, in range."""
    want = "a whole number" if lowest is None else f"a whole number from {lowest}"
    want += "" if highest is None else f" to {highest}"
    if isinstance(value, (bool, np.bool_)):
        refuse(name, value, want)
    try:
        number = operator.index(cast(Any, value))
    except TypeError:
        refuse(name, value, want)
    if (lowest is not None and number < lowest) or (highest is not None and number > highest):
        refuse(name, value, want)
    return number


def number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= float(value) <= high:
        refuse(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def flag(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        refuse(name, value, "True or False")
    return bool(value)


def channels(name: str, value: object, lowest: float) -> tuple[float, ...]:
    """Three numbers of red, green and blue, of values in 0 … 1."""
    want = "three numbers, of red, green and blue in 0 … 1"
    try:
        found = tuple(float(v) for v in cast(Sequence[float], value))
    except (TypeError, ValueError):
        refuse(name, value, want)
    if len(found) != 3 or not all(math.isfinite(v) for v in found):
        refuse(name, value, want)
    if not all(lowest <= v <= 1 for v in found):
        refuse(name, value, want + (", above 0" if lowest > 0 else "") + " (those of 0 … 255 divided by 255)")
    return found


def list_of(name: str, value: object, want: str) -> list[Any]:
    """The items of a sequence or array that is no text."""
    if isinstance(value, (str, bytes)):
        refuse(name, value, want)
    try:
        return list(cast(Sequence[Any], value))
    except TypeError:
        refuse(name, value, want)


def sizes(size: object) -> Any:
    """The size in plain integers: one, a pair, pairs of (size, batch_size), or a function."""
    if size is None or callable(size):
        return size
    if isinstance(size, numbers.Integral):
        return whole("size", size, 1, MAX_VIEW_SIZE)
    want = "an int, (height, width), a list of (size, batch_size) pairs, or a function epoch -> size"
    items = list_of("size", size, want)
    if len(items) == 2 and all(isinstance(item, numbers.Integral) for item in items):
        return whole("size", items[0], 1, MAX_VIEW_SIZE), whole("size", items[1], 1, MAX_VIEW_SIZE)
    pairs = []
    for item in items:
        if isinstance(item, (numbers.Integral, str, bytes)) or len(item) != 2:
            refuse("size", size, want)
        pairs.append((whole("size", item[0], 1, MAX_VIEW_SIZE), whole("batch size in size", item[1], 1, MAX_BATCH)))
    if not pairs:
        refuse("size", size, want)
    return tuple(pairs)


def dtype(value: object, allowed: Sequence[str]) -> Any:
    """The name of a type, which may be torch's or NumPy's."""
    name = str(value).removeprefix("torch.")
    if isinstance(value, type):  # np.float32
        name = value.__name__
    if name not in allowed:
        refuse("dtype", value, f"one of {', '.join(allowed)}, or torch's type of that name")
    return name


def device(value: object) -> tuple[str, int | None]:
    """ "cpu" or "gpu", and the number of the GPU if one is named."""
    name, colon, place = str(value).partition(":")
    known = isinstance(value, (str, torch.device)) and name in ("cpu", "gpu", "cuda")
    if not known or (colon and not place.isdigit()) or (name == "cpu" and place not in ("", "0")):
        refuse("device", value, '"cpu", "gpu", "cuda", "cuda:1" or a torch.device of these')
    return ("cpu", None) if name == "cpu" else ("gpu", int(place) if place else None)


def environment(name: str, default: int, lowest: int) -> int:
    """A number that the launcher has set."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.strip().isdigit() or int(text) < lowest:
        raise ValueError(
            f"the environment variable {name} is {text!r}, want a whole number from {lowest}; launchers such as torchrun set "
            "it: unset it, or pass the argument instead"
        )
    return int(text)
