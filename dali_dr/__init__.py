"""dali_dr: data loading for reinforced data sets. The public names, imported on first use so that each costs only itself."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dali_dr._distribution import refuse_two_of_ours

if TYPE_CHECKING:
    import dali_dr.distributed as distributed
    import dali_dr.evaluate as evaluate
    import dali_dr.losses as losses
    from dali_dr.augment.fresh import Evaluation as Evaluation
    from dali_dr.augment.spec import AugmentationSpec as AugmentationSpec
    from dali_dr.augment.views import Views as Views
    from dali_dr.copying.publish import copy as copy
    from dali_dr.copying.publish import push as push
    from dali_dr.errors import DaliDrError as DaliDrError
    from dali_dr.errors import RecordError as RecordError
    from dali_dr.errors import ShardError as ShardError
    from dali_dr.errors import SpecError as SpecError
    from dali_dr.loader.iterator import ReinforcedIterator as ReinforcedIterator
    from dali_dr.mixing import BatchMixing as BatchMixing
    from dali_dr.record.label_map import LabelMaps as LabelMaps
    from dali_dr.record.labels import Reinforcements as Reinforcements
    from dali_dr.reinforce.engine import reinforce as reinforce
    from dali_dr.reinforce.generate import Generation as Generation
    from dali_dr.reinforce.networks import Member as Member
    from dali_dr.reinforce.networks import Teacher as Teacher
    from dali_dr.shards.dataset import Dataset as Dataset
    from dali_dr.shards.reshape import merge as merge
    from dali_dr.shards.reshape import subset as subset
    from dali_dr.shards.retile import retile as retile
    from dali_dr.shards.sample import Sample as Sample
    from dali_dr.shards.write import write_shards as write_shards

__version__ = "0.1.0"
refuse_two_of_ours()

_HOME = {
    "AugmentationSpec": "dali_dr.augment.spec",
    "BatchMixing": "dali_dr.mixing",
    "Evaluation": "dali_dr.augment.fresh",
    "Views": "dali_dr.augment.views",
    "DaliDrError": "dali_dr.errors",
    "SpecError": "dali_dr.errors",
    "RecordError": "dali_dr.errors",
    "ShardError": "dali_dr.errors",
    "ReinforcedIterator": "dali_dr.loader.iterator",
    "Reinforcements": "dali_dr.record.labels",
    "Generation": "dali_dr.reinforce.generate",
    "LabelMaps": "dali_dr.record.label_map",
    "Member": "dali_dr.reinforce.networks",
    "Teacher": "dali_dr.reinforce.networks",
    "Dataset": "dali_dr.shards.dataset",
    "copy": "dali_dr.copying.publish",
    "merge": "dali_dr.shards.reshape",
    "push": "dali_dr.copying.publish",
    "subset": "dali_dr.shards.reshape",
    "retile": "dali_dr.shards.retile",
    "Sample": "dali_dr.shards.sample",
    "write_shards": "dali_dr.shards.write",
}

_MODULES = ("distributed", "evaluate", "losses", "reinforce")  # evaluate and reinforce can be called

__all__ = [*sorted(_HOME), "distributed", "evaluate", "losses", "reinforce"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"dali_dr.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'dali_dr' has no attribute {name!r}")
