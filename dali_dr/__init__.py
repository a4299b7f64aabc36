"""Data loading for reinforced data sets: stored augmentations and teacher targets, replayed bit for bit.

    import dali_dr

    loader = dali_dr.ReinforcedIterator("imagenet-plus", batch_size=256, device="cpu")
    for (batch,) in loader:
        loss = dali_dr.losses.kl_divergence(model(batch["data"]), batch["soft_ids"], batch["soft_probs"])

Training:
  ReinforcedIterator: the loader.
  Batch: what it yields, by name; IndexedBatch and DenseBatch: the same with with_index=True, and with dense targets.
  IndexedBatch: a batch that says which samples and views it shows.
  DenseBatch: a batch with targets over all classes, or the most likely class.
  BatchMixing: MixUp and CutMix of whole batches, by timm's rule.
  Evaluation: the resized image's centre, as evaluation shows it.
  losses: losses on stored targets.
  distributed: what a loss or batch norm needs of the other processes.
  integrations: loaders for the scripts of torchvision, timm, DALI and Hugging Face.
  evaluate: models on test sets; can be called, and has the parts of it as modules.

Data sets:
  Dataset: a finished data set in a folder or a store.
  write_shards: samples to a data set.
  Sample: what write_shards takes.
  Reinforcements: the stored views of one image and their targets.
  LabelMaps: targets by the place in the image, from which every fresh crop gets one.
  merge: several data sets as one.
  subset: some samples or views of a data set.
  retile: a data set's JPEGs in tiles, or back as files.
  copy: a data set from one place to another, checked.
  push: a data set to the Hugging Face hub, with its card.

Making them:
  reinforce: a whole source of images; can be called, and has the parts of it as modules.
  Generation: what is drawn and who predicts.
  AugmentationSpec: what views are drawn from.
  Views: drawn views.
  Teacher: one model or several, whose mean is stored.
  Member: one model of a teacher.

Errors:
  DaliDrError: all of ours.
  SpecError: an augmentation specification that cannot be drawn or replayed.
  RecordError: a record that is malformed or cannot be encoded.
  ShardError: a data set that is missing, damaged or inconsistent.

Names are imported when they are first used, so that each costs only itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dali_dr._distribution import refuse_two_of_ours
from dali_dr.on_demand import on_demand

if TYPE_CHECKING:
    from dali_dr import distributed as distributed
    from dali_dr import integrations as integrations
    from dali_dr import losses as losses
    from dali_dr.augment.fresh import Evaluation as Evaluation
    from dali_dr.augment.spec import AugmentationSpec as AugmentationSpec
    from dali_dr.augment.views import Views as Views
    from dali_dr.copying.publish import copy as copy
    from dali_dr.copying.publish import push as push
    from dali_dr.errors import DaliDrError as DaliDrError
    from dali_dr.errors import RecordError as RecordError
    from dali_dr.errors import ShardError as ShardError
    from dali_dr.errors import SpecError as SpecError
    from dali_dr.evaluate.run import evaluate as evaluate
    from dali_dr.loader.batches import Batch as Batch
    from dali_dr.loader.batches import DenseBatch as DenseBatch
    from dali_dr.loader.batches import IndexedBatch as IndexedBatch
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
    "Batch": "dali_dr.loader.batches",
    "BatchMixing": "dali_dr.mixing",
    "DenseBatch": "dali_dr.loader.batches",
    "Evaluation": "dali_dr.augment.fresh",
    "Views": "dali_dr.augment.views",
    "DaliDrError": "dali_dr.errors",
    "SpecError": "dali_dr.errors",
    "RecordError": "dali_dr.errors",
    "ShardError": "dali_dr.errors",
    "IndexedBatch": "dali_dr.loader.batches",
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

_MODULES = ("distributed", "evaluate", "integrations", "losses", "reinforce")  # evaluate and reinforce can be called

if not TYPE_CHECKING:  # checkers read the imports above: to them any other name is an error
    __all__, __getattr__, __dir__ = on_demand(__name__, _HOME, _MODULES)
