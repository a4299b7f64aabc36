"""For torchvision's `references/classification/train.py`, and scripts written after it (docs/migration/torchvision.md).

`torchvision_data` stands in for the script's `load_data`, `torchvision_loader` for `torch.utils.data.DataLoader`. Options are
those of the script at release 0.21.0 (github.com/pytorch/vision, 7af6987); one that is not there has its default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final, Unpack

import torch
from torch.utils.data import Sampler, default_collate

from dali_dr.augment.fresh import Evaluation
from dali_dr.integrations.shared import (
    Notes,
    ScriptDataset,
    ScriptLoader,
    changed,
    has_stored_mixing,
    pipeline_device,
    shows_stored_targets,
)
from dali_dr.loader.options import Options
from dali_dr.mixing import BatchMixing
from dali_dr.shards.dataset import Dataset

_OF_VIEWS: Final = {"auto_augment": None, "ra_magnitude": 9, "augmix_severity": 3, "random_erase": 0.0}
"""Options of augmentations, and the script's defaults."""

_OF_LOADING: Final = {"workers": 16, "cache_dataset": False, "backend": "pil", "use_v2": False}

_SMOOTHING_ON_STORED: Final = "set to 0, since the targets are the teacher's, soft as they are"


class TorchvisionDataset(ScriptDataset):
    """A data set with what the script's options say of it; `classes` are those of an ImageFolder.

    Args:
      source: see `ScriptDataset`.
      args: the script's options.
      train: whether to show it for training, or for evaluation.
    """

    def __init__(self, source: Dataset | str | os.PathLike[str], args: Any = None, train: bool = True) -> None:
        super().__init__(source)
        self.args, self.train = SimpleNamespace() if args is None else args, train


class EpochOrder(Sampler[int]):
    """`train_sampler`: the order is the loader's own, and this says which epoch's."""

    def __init__(self, dataset: ScriptDataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[int]:
        raise TypeError("the order of a reinforced data set is its loader's: give this sampler to torchvision_loader")

    def __len__(self) -> int:
        return len(self._dataset)

    def set_epoch(self, epoch: int) -> None:
        """See `dali_dr.ReinforcedIterator.set_epoch`."""
        self._dataset.set_epoch(epoch)


def torchvision_data(
    traindir: Dataset | str | os.PathLike[str], valdir: Dataset | str | os.PathLike[str], args: Any
) -> tuple[TorchvisionDataset, TorchvisionDataset, EpochOrder, EpochOrder]:
    """The data sets for training and evaluation and their samplers, in the place of the script's `load_data`.

    Args:
      traindir: folder or URL of the reinforced data set, or an open one.
      valdir: the same of the data set to evaluate on, packed or reinforced.
      args: the script's options.

    Returns:
      dataset, dataset_test, train_sampler, test_sampler, for `torchvision_loader`.

    Raises:
      ShardError: there is no data set at one of the places.
      ValueError: their classes differ, so that a label would not mean the same.
    """
    train, test = TorchvisionDataset(traindir, args), TorchvisionDataset(valdir, args, train=False)
    named = train.class_names is not None and test.class_names is not None
    if train.num_classes != test.num_classes or (named and train.class_names != test.class_names):
        pairs = zip(train.classes, test.classes, strict=False)
        first = next((f", the first other one {a!r} and {b!r}" for a, b in pairs if named and a != b), "")
        raise ValueError(
            f"{train.path} has {train.num_classes} classes and {test.path} {test.num_classes}{first}: make both with the same "
            "classes (`dali-dr pack … --classes FILE`)"
        )
    return train, test, EpochOrder(train), EpochOrder(test)


def torchvision_loader(
    dataset: Dataset | str | os.PathLike[str],
    batch_size: int = 1,
    *,
    sampler: EpochOrder | None = None,
    num_workers: int = 0,
    pin_memory: bool = False,
    collate_fn: Callable[[Any], Any] | None = None,
    drop_last: bool = False,
    **options: Unpack[Options],
) -> ScriptLoader:
    """A loader of `(images, targets)` on the script's device, in the place of `torch.utils.data.DataLoader`.

    In training targets are the teacher's distributions on exactly these views, (B, classes) float32, and views are
    `--train-crop-size` pixels large; `--mixup-alpha` and `--cutmix-alpha` mix batches by `dali_dr.BatchMixing`, except
    views that are stored mixed; `--ra-sampler` shows every image `--ra-reps` times in a batch. `--label-smoothing` is set
    to 0 in the options themselves: make the loader before the loss. In evaluation targets are labels (B,) int64, and
    views those of the script's preset in every byte (with --device cpu, or decode_device="cpu"), or of `--weights` with
    `--test-only`. What has no meaning here is logged once.

    Args:
      dataset: of `torchvision_data`; or any data set, its folder or URL, to train on without a script's options.
      batch_size: images per batch of this process.
      sampler: of `torchvision_data`.
      num_workers, pin_memory: of no meaning here: the pipeline has threads of its own (`num_threads`).
      collate_fn: the script's, which is taken to mix as its options say; there is no other.
      drop_last: leave out a last batch that is not full.
      options: of `ReinforcedIterator`, which come before what the script's options say. With `augment` (fresh views, of
        plain data sets, too) targets are labels, and smoothing stays as it is.

    Raises:
      ShardError: the data set is missing or damaged, or has no views to train on.
      ValueError: an argument or option out of range, or that cannot be had here.
    """
    data = dataset if isinstance(dataset, TorchvisionDataset) else TorchvisionDataset(dataset)
    args, notes = data.args, Notes()
    if sampler is not None and not isinstance(sampler, EpochOrder):
        raise ValueError(
            f"sampler is a {type(sampler).__name__}: the order is the loader's own; see `order`, `samples`"
        )
    mixes = max(getattr(args, "mixup_alpha", 0.0), getattr(args, "cutmix_alpha", 0.0)) > 0
    if collate_fn not in (None, default_collate) and not mixes:
        raise ValueError("collate_fn: batches come whole; change them in the loop, or mix them by --mixup-alpha")
    given: Options = {"as_tuples": True, "last_batch": "drop" if drop_last else "partial"}
    to = torch.device(getattr(args, "device", "cuda" if torch.cuda.is_available() else "cpu"))
    given["device"] = pipeline_device(to)
    mixing = None
    if data.train:
        given |= _training(data, args, options, notes)
        if mixes:
            mixing = _mixing(data, args, options, notes)
    else:
        given |= _evaluation(args)
    loader = ScriptLoader(data, batch_size=batch_size, to=to, mixing=mixing, **(given | options))
    notes.tell(loader.machine.place[0])
    return loader


def _training(data: TorchvisionDataset, args: Any, options: Options, notes: Notes) -> Options:
    """Options of the loader for training; takes smoothing out of the script's where targets are stored."""
    given: Options = {}
    if hasattr(args, "train_crop_size"):
        given["size"] = args.train_crop_size
    if getattr(args, "ra_sampler", False):
        given["repeats"] = getattr(args, "ra_reps", 3)  # the script's default
    if not shows_stored_targets(data, options):
        given["targets"] = "top1"
    elif getattr(args, "label_smoothing", 0.0):
        notes.add(changed(args, {"label_smoothing": 0.0}), _SMOOTHING_ON_STORED)
        args.label_smoothing = 0.0
    fresh = options.get("augment") is not None
    notes.add(changed(args, _OF_VIEWS), f"not used, since views are {'drawn by `augment`' if fresh else 'stored'}")
    notes.add(
        changed(args, _OF_LOADING), "not used; the pipeline has threads of its own (num_threads) and decodes as Pillow"
    )
    return given


def _mixing(data: TorchvisionDataset, args: Any, options: Options, notes: Notes) -> BatchMixing | None:
    """What `--mixup-alpha` and `--cutmix-alpha` mean; with both, the script draws one of them for every batch."""
    if has_stored_mixing(data, options):
        said = changed(args, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0})
        notes.add(said, "not used, since these views are stored mixed, with the teacher's targets of the mixture")
        return None
    return BatchMixing(mixup_alpha=getattr(args, "mixup_alpha", 0.0), cutmix_alpha=getattr(args, "cutmix_alpha", 0.0))


def _evaluation(args: Any) -> Options:
    """The script's preset for evaluation, or that of the weights that it tests."""
    if getattr(args, "weights", None) and getattr(args, "test_only", False):
        from dali_dr._torchvision import load_torchvision

        preset = load_torchvision().models.get_weight(args.weights).transforms()
        crop, resize, interpolation = preset.crop_size[0], preset.resize_size[0], preset.interpolation.value
        normalisation: Options = {"mean": tuple(preset.mean), "std": tuple(preset.std)}
    else:
        normalisation = {}
        crop, resize = getattr(args, "val_crop_size", 224), getattr(args, "val_resize_size", 256)
        interpolation = getattr(args, "interpolation", "bilinear")
    view = Evaluation(size=crop, resize=resize, interpolation=interpolation)
    return {"augment": view, "targets": "top1", **normalisation}
