"""Imports torchvision beside a CPU-only torch. The one place that knows about this.

torchvision's binary wheels on PyPI are CUDA builds. Beside a CPU build of torch their C++ operators do not load, and
importing torchvision then fails while registering fake kernels for the operators `nms` and `qnms`, which nobody
defined. Defining the two schemas first (no implementation: dali_dr calls neither) lets the import, and so timm's, succeed.
Where the operators do load, as beside a CUDA build of torch, with a GPU or without, a second definition would end the process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_library: object | None = None  # torch.library.Library undefines its schemas when it is collected


def load_torchvision() -> ModuleType:
    """Returns the imported torchvision module; call it before the first `import timm` or `import torchvision`."""
    global _library
    import torch

    if _library is None and "torchvision" not in sys.modules and not _operators_load():
        _library = _define_missing_operators(torch)
    import torchvision

    return torchvision  # type: ignore[no-any-return]


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
