"""Imports torchvision beside a CPU-only torch. The one place that knows about this.

    python -m dali_dr._torchvision      # for scripts that know nothing of dali_dr, in this environment; see `install`

torchvision's binary wheels on PyPI are CUDA builds. Beside a CPU build of torch their C++ operators do not load, and
importing torchvision then fails while registering fake kernels for the operators `nms` and `qnms`, which nobody
defined. Defining the two schemas first (no implementation: dali_dr calls neither) lets the import, and so timm's, succeed.
Where the operators do load, as beside a CUDA build of torch, with a GPU or without, a second definition would end the process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import py_compile
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Final

_library: object | None = None  # torch.library.Library undefines its schemas when it is collected

# What `install` writes: a module that is imported when Python starts, hence without imports of its own that Python has
# not made by then, and what makes Python import it.
HOOK: Final = "_dali_dr_torchvision"
_HOOK_CODE: Final = '''"""`import torchvision` beside a CPU-only torch; by `python -m dali_dr._torchvision`."""

import sys


class Finder:
    """Finds torchvision as Python does, and defines its missing operators just before it runs."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            execute = spec.loader.exec_module

            def exec_module(module):
                try:
                    from dali_dr._torchvision import define_operators
                except ImportError:  # dali_dr is gone
                    pass
                else:
                    define_operators()
                execute(module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''


def load_torchvision() -> ModuleType:
    """Returns the imported torchvision module; call it before the first `import timm` or `import torchvision`."""
    if "torchvision" not in sys.modules:
        define_operators()
    import torchvision

    return torchvision  # type: ignore[no-any-return]


def define_operators() -> None:
    """Defines the operators that torchvision's import is about to miss; nothing where it will not miss any."""
    global _library
    import torch

    if _library is None and not _operators_load():
        _library = _define_missing_operators(torch)


def install(folder: Path | None = None) -> Path | None:
    """Lets any script of this environment import torchvision and timm, where their import fails beside a CPU-only torch.

    A file NAME.pth in site-packages, which Python reads when it starts, puts a finder in front that acts when torchvision
    is imported. Where torchvision's operators load, or it is not installed, there is nothing to do, and what an earlier
    call wrote is removed.

    Args:
      folder: where to write; default: this environment's site-packages.

    Returns:
      The file NAME.pth if it is there now, else None.
    """
    folder = folder or Path(sysconfig.get_paths()["purelib"])
    start, code = folder / f"{HOOK}.pth", folder / f"{HOOK}.py"
    found = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("torchvision") is not None
    if found:
        import torch  # noqa: F401  (torchvision's operators need its libraries in the process)
    if not found or _operators_load():
        for written in (start, code, Path(importlib.util.cache_from_source(str(code)))):
            written.unlink(missing_ok=True)
        return None
    code.write_text(_HOOK_CODE)
    py_compile.compile(str(code))  # a tenth of the time at every start, also where Python may not write bytecode
    start.write_text(f"import {HOOK}\n")
    return start


def _operators_load() -> bool:
    """Whether torchvision's C++ operators load beside this torch, as its import is about to do."""
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    try:
        for library in [path for folder in folders or () for path in Path(folder).glob("_C*.so")]:
            ctypes.CDLL(str(library))
            return True
    except OSError:
        return False
    return False


def _define_missing_operators(torch: ModuleType) -> object:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # a torchvision that works has been imported already and defined it
            return library
    return library


if __name__ == "__main__" and (written := install()) is not None:
    print(
        f"{written}: scripts of this environment can import torchvision, whose operators do not load beside this torch"
    )
