"""What stands in for the loaders of others' training scripts. Each name is imported on first use, with what it needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dali_dr.errors import meant

if TYPE_CHECKING:
    from dali_dr.integrations.dali import DALIClassificationIterator as DALIClassificationIterator
    from dali_dr.integrations.hugging_face import hugging_face_loader as hugging_face_loader
    from dali_dr.integrations.hugging_face import soft_target_loss as soft_target_loss
    from dali_dr.integrations.timm import timm_dataset as timm_dataset
    from dali_dr.integrations.timm import timm_loader as timm_loader
    from dali_dr.integrations.torchvision import torchvision_data as torchvision_data
    from dali_dr.integrations.torchvision import torchvision_loader as torchvision_loader
    from dali_dr.integrations.trainer import ReinforcedTrainer as ReinforcedTrainer

_HOME = {
    "DALIClassificationIterator": "dali_dr.integrations.dali",
    "ReinforcedTrainer": "dali_dr.integrations.trainer",
    "hugging_face_loader": "dali_dr.integrations.hugging_face",
    "soft_target_loss": "dali_dr.integrations.hugging_face",
    "timm_dataset": "dali_dr.integrations.timm",
    "timm_loader": "dali_dr.integrations.timm",
    "torchvision_data": "dali_dr.integrations.torchvision",
    "torchvision_loader": "dali_dr.integrations.torchvision",
}

if not TYPE_CHECKING:  # checkers read the imports above: to them any other name is an error
    __all__ = sorted(_HOME)

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            value = getattr(importlib.import_module(_HOME[name]), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'dali_dr.integrations' has no attribute {name!r}{meant(name, _HOME)}", name=name)

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
