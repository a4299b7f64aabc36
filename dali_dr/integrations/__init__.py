"""What stands in for the loaders of others' training scripts. Each name is imported on first use, with what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dali_dr.on_demand import on_demand

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
    __all__, __getattr__, __dir__ = on_demand(__name__, _HOME)
