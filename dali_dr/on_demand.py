"""Names of a package that are imported when they are first used, so that each costs only itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from dali_dr.errors import meant


def on_demand(
    package: str, homes: Mapping[str, str], modules: Iterable[str] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """What a package takes for its `__all__`, `__getattr__` and `__dir__`.

    It does so where type checkers do not look (`if not TYPE_CHECKING`): they read imports that stand beside it, and to them
    any other name is an error.

    Args:
      package: its name.
      homes: public names, and the modules that have them.
      modules: of the package, that are public themselves.
    """
    below = frozenset(modules)
    public = sorted({*homes, *below})

    def get(name: str) -> Any:
        if name in below:
            return import_module(f"{package}.{name}")
        if name in homes:
            value = getattr(import_module(homes[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        near = "" if name.startswith("_") else meant(name, public)
        raise AttributeError(f"module {package!r} has no attribute {name!r}{near}", name=name)

    def names() -> list[str]:
        return sorted({*public, *(name for name in vars(sys.modules[package]) if name.startswith("__"))})

    return public, get, names
