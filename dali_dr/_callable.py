"""A package that is also the function which users look for under its name, whatever was imported before."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable
from typing import Any


class CallableModule(types.ModuleType):
    # Such a package's class: it says in `_home` the module and the name of the function, which is imported when it is
    # called or asked about. `inspect.signature` and `help` of the package tell those of the function, too. No docstring
    # here: `__doc__` below is that of the package.

    _home: tuple[str, str]

    def _function(self) -> Callable[..., Any]:
        module, name = self._home
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function()(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        own = self.__dict__.get("__doc__") or ""
        module, name = self._home
        text = inspect.getdoc(self._function()) or ""
        return f"{own.rstrip()}\n\n{name}{self.__signature__} of {module}:\n\n{text}\n"
