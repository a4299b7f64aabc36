"""Evaluation of models: metrics, the test sets of the papers, one pass over packed sets or plain images, tables.

The module can be called: `dali_dr.evaluate(models, sets, kinds=…)` is `dali_dr.evaluate.run.evaluate`.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    """A package that is also the function which users look for under its name, whatever was imported before."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from dali_dr.evaluate.run import evaluate

        return evaluate(*args, **options)


sys.modules[__name__].__class__ = _Callable
