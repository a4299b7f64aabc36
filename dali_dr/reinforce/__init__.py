"""Reinforcing a data set: sources of images, teachers, and the generation that joins them into shards.

The module can be called: `dali_dr.reinforce(source, out, generation, num_classes=…)` is `dali_dr.reinforce.engine.reinforce`.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    """A package that is also the function which users look for under its name, whatever was imported before."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from dali_dr.reinforce.engine import reinforce

        return reinforce(*args, **options)


sys.modules[__name__].__class__ = _Callable
