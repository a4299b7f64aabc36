"""Training scripts of others, changed in a few lines: what stands in for the loaders that they make (docs/migration)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_dr.integrations.timm import timm_dataset as timm_dataset
    from dali_dr.integrations.timm import timm_loader as timm_loader
    from dali_dr.integrations.torchvision import torchvision_data as torchvision_data
    from dali_dr.integrations.torchvision import torchvision_loader as torchvision_loader

_HOME = {
    "timm_dataset": "dali_dr.integrations.timm",
    "timm_loader": "dali_dr.integrations.timm",
    "torchvision_data": "dali_dr.integrations.torchvision",
    "torchvision_loader": "dali_dr.integrations.torchvision",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'dali_dr.integrations' has no attribute {name!r}")
