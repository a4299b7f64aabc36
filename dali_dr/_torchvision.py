"""Imports torchvision beside a CPU-only torch. The one place that knows about this.

torchvision's binary wheels on PyPI are CUDA builds. Beside a CPU build of torch their C++ operators do not load, and
importing torchvision then fails while registering fake kernels for the operators `nms` and `qnms`, which nobody
defined. Defining the two schemas first (no implementation: dali_dr calls neither) lets the import, and so timm's, succeed.
"""

from __future__ import annotations

from types import ModuleType

_library: object | None = None  # torch.library.Library undefines its schemas when it is collected


def load_torchvision() -> ModuleType:
    """Returns the imported torchvision module; call it before the first `import timm` or `import torchvision`."""
    global _library
    import torch

    if _library is None and not torch.cuda.is_available():
        _library = _define_missing_operators(torch)
    import torchvision

    return torchvision  # type: ignore[no-any-return]


def _define_missing_operators(torch: ModuleType) -> object:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # a torchvision that works has been imported already and defined it
            return library
    return library
