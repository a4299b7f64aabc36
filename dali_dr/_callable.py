"""A package that is also the function which users look for under its name, whatever was imported before."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable
from typing import Any, ClassVar


class CallableModule(types.ModuleType):
    """Base of such a package's class; what it calls is imported when it is called or asked about.

    `inspect.signature` and `help` of the package are those of the function, with the package's own text before.
    """

    _home: ClassVar[tuple[str, str]]
    """Module and name of the function."""

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
