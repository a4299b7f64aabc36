"""Training scripts of others, changed in a few lines: what stands in for the loaders that they make (docs/migration)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_dr.integrations.dali import DALIClassificationIterator as DALIClassificationIterator
    from dali_dr.integrations.hugging_face import hugging_face_loader as hugging_face_loader
    from dali_dr.integrations.hugging_face import soft_target_loss as soft_target_loss
    from dali_dr.integrations.trainer import ReinforcedTrainer as ReinforcedTrainer

_HOME = {
    "DALIClassificationIterator": "dali_dr.integrations.dali",
    "ReinforcedTrainer": "dali_dr.integrations.trainer",
    "hugging_face_loader": "dali_dr.integrations.hugging_face",
    "soft_target_loss": "dali_dr.integrations.hugging_face",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'dali_dr.integrations' has no attribute {name!r}")
