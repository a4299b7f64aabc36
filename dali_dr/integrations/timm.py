"""For timm's `train.py` and `validate.py`, and scripts written after them (docs/migration/timm.md).

`timm_dataset` stands in for `timm.data.create_dataset`, `timm_loader` for `timm.data.create_loader`. Options are those of
train.py at aa4b585 (github.com/huggingface/pytorch-image-models, between 1.0.28 and 1.0.31); one that is not there has its
default.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch

from dali_dr.augment.fresh import Evaluation
from dali_dr.augment.spec import CENTRE_PART
from dali_dr.integrations.shared import (
    Notes,
    ScriptDataset,
    ScriptLoader,
    changed,
    has_stored_mixing,
    option,
    pipeline_device,
    shows_stored_targets,
)
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD, Options
from dali_dr.mixing import BatchMixing
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.manifest import MANIFEST_NAME
from dali_dr.store.url import is_url

_SPLITS: Final = (("train", "training"), ("validation", "val", "valid", "eval", "evaluation"))
"""Names of one part each, any of which timm looks for."""

_OF_VIEWS: Final = {
    "no_aug": False,
    "train_crop_mode": None,
    "scale": [0.08, 1.0],
    "ratio": [3 / 4, 4 / 3],
    "hflip": 0.5,
    "vflip": 0.0,
    "color_jitter": 0.4,
    "color_jitter_prob": None,
    "grayscale_prob": None,
    "gaussian_blur_prob": None,
    "aa": None,
    "reprob": 0.0,
    "remode": "pixel",
    "recount": 1,
    "train_interpolation": "random",
}
"""Options of augmentations, and the script's defaults."""

_OF_LOADING: Final = {
    "workers": 4,
    "worker_seeding": "all",
    "pin_mem": False,
    "use_multi_epochs_loader": False,
    "epoch_repeats": 0.0,
    "train_num_samples": None,
}

_ELSEWHERE: Final[dict[str, tuple[object, str]]] = {
    "aug_splits": (0, "views of a split are not stored"),
    "jsd_loss": (False, "it needs --aug-splits, and views of a split are not stored"),
    "resplit": (False, "views of a split are not stored"),
    "train_img_sizes": (None, "pass size=[(160, 512), (224, 256)], sizes with batch sizes, to timm_loader instead"),
    "class_map": (
        "",
        "class ids are stored: give the classes when the set is made (`dali-dr reinforce … --classes FILE`)",
    ),
    "naflex_loader": (False, "its patches are made of single images"),
}
"""Options that cannot be had, the script's defaults, and why not."""


class TimmDataset(ScriptDataset):
    """A data set in the place of a timm data set."""


def timm_dataset(
    name: str = "", root: str | os.PathLike[str] | None = None, split: str = "validation", **ignored: Any
) -> TimmDataset:
    """The data set in a folder, in the place of `timm.data.create_dataset`.

    Args:
      name: of the kind of data set, which is always this one: "".
      root: folder or URL of the data set, or one with a data set in `split`, where timm's other names of it
        ("val" for "validation") will do.
      split: of `--train-split` or `--val-split`; any name of a folder in `root`.
      ignored: what create_dataset takes besides.

    Raises:
      ValueError: there is no root, or another kind is named.
      ShardError: there is no data set; of a folder of images the message says how to make one.
    """
    if name:
        raise ValueError(f"--dataset {name}: leave it out: what --data-dir names is a data set of dali_dr")
    if root is None:
        raise ValueError("no --data-dir: name the folder or URL of a data set, or one with a data set for every split")
    return TimmDataset(_place(os.fspath(root), split))


def _place(root: str, split: str) -> str:
    """Where the split is: in a folder of its name, or of a name that means the same, or in the root itself."""
    if is_url(root):  # which has no folders to look at
        return f"{root.rstrip('/')}/{split}"
    if (Path(root) / MANIFEST_NAME).is_file():
        return root
    names = [split, *(other for names in _SPLITS if split in names for other in names)]
    return next((str(Path(root, name)) for name in names if Path(root, name).is_dir()), root)


def timm_loader(
    args: Any,
    dataset: Dataset | str | os.PathLike[str],
    input_size: int | Sequence[int],
    batch_size: int,
    *,
    is_training: bool = False,
    interpolation: str = "bilinear",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    img_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cuda",
    use_prefetcher: bool = True,
    num_aug_repeats: float = 0,
    loader_options: Options | None = None,
    **ignored: Any,
) -> ScriptLoader:
    """A loader of `(images, targets)` on the device, normalised, in the place of `timm.data.create_loader`.

    In training targets are the teacher's distributions on exactly these views, (B, classes) float32, and the last batch is
    left out unless it is full. `--smoothing` (0.1 by default) is set to 0 in `args` itself, so that train.py takes
    CrossEntropyLoss: make the loader before the loss. With `--bce-loss` it stays, for it is by it that train.py chooses
    BinaryCrossEntropy, which takes soft targets as they are. `--mixup` and `--cutmix` mix batches by
    `dali_dr.BatchMixing`, except views that are stored mixed; `mixup_enabled` turns this off, as `--mixup-off-epoch` does.
    `--aug-repeats` shows every image so many times in a batch. In evaluation targets are labels (B,) int64, and views
    those of timm's resize and centre crop for `crop_pct`. What has no meaning here is logged once.

    Args:
      args: the options of train.py or validate.py.
      dataset: of `timm_dataset`; or any data set, its folder or URL.
      input_size: of the views: (3, height, width), or a number.
      batch_size: images per batch of this process.
      interpolation: of the evaluation's resize; views for training have that which they are stored with.
      crop_pct: size / resize of the evaluation; default 0.875, as timm.
      loader_options: arguments of `ReinforcedIterator`, which come before what is said here. With `augment` (fresh views,
        of plain data sets, too) targets are labels, and smoothing stays as it is.
      ignored: what create_loader takes besides: its values are those of `args`.

    Raises:
      ShardError: the data set is missing or damaged, or has no views to train on.
      ValueError: an option out of range, or that cannot be had here.
    """
    data = dataset if isinstance(dataset, ScriptDataset) else TimmDataset(dataset)
    to, options, notes = torch.device(device), loader_options or {}, Notes()
    size = _size(input_size)
    given: Options = {
        "as_tuples": True,
        "device": pipeline_device(to),
        "dtype": img_dtype,
        "mean": tuple(mean),
        "std": tuple(std),
        "seed": getattr(args, "seed", 0),
    }
    mixing = None
    if is_training:
        given |= {"size": size, "last_batch": "drop", **_training(data, args, options, notes)}
        if num_aug_repeats:
            given["repeats"] = _whole("--aug-repeats", num_aug_repeats)
        mixing = _mixing(data, args, options, notes, use_prefetcher)
    else:
        given |= {"augment": _evaluation(size, crop_pct, crop_mode, interpolation), "targets": "top1"}
    loader = ScriptLoader(data, batch_size=batch_size, to=to, mixing=mixing, **(given | options))
    notes.tell(loader.machine.place[0])
    return loader


def _size(input_size: int | Sequence[int]) -> int | tuple[int, int]:
    if isinstance(input_size, int):
        return input_size
    if len(input_size) == 3 and input_size[0] != 3:
        raise ValueError(f"input_size is {tuple(input_size)}: images have 3 channels here, so leave --in-chans at 3")
    height, width = input_size[-2:]
    return height if height == width else (height, width)


def _whole(name: str, value: float) -> int:
    if value != int(value):
        raise ValueError(f"{name} {value}: want a whole number, times that every image is shown in a batch")
    return int(value)


def _training(data: Dataset, args: Any, options: Options, notes: Notes) -> Options:
    """Options of the loader for training; takes smoothing out of the script's where targets are stored."""
    for name, (default, why) in _ELSEWHERE.items():
        if getattr(args, name, default) != default:
            raise ValueError(f"{option(name)} cannot be had with {data.path}: {why}")
    classes = getattr(args, "num_classes", None)
    if classes not in (None, data.num_classes):
        raise ValueError(
            f"the model has {classes} classes and {data.path} {data.num_classes}: --num-classes {data.num_classes}"
        )
    stored = shows_stored_targets(data, options)
    if stored and getattr(args, "smoothing", None) and not getattr(args, "bce_loss", False):
        notes.add([f"--smoothing {args.smoothing}"], "set to 0, since the targets are the teacher's, soft as they are")
        args.smoothing = 0.0
    fresh = options.get("augment") is not None
    notes.add(changed(args, _OF_VIEWS), f"not used, since views are {'drawn by `augment`' if fresh else 'stored'}")
    notes.add(
        changed(args, _OF_LOADING), "not used; the pipeline has threads of its own (num_threads), and knows its length"
    )
    return {} if stored else {"targets": "top1"}


def _mixing(data: Dataset, args: Any, options: Options, notes: Notes, prefetcher: bool) -> BatchMixing | None:
    """What `--mixup`, `--cutmix` and what goes with them mean."""
    mixup, cutmix = getattr(args, "mixup", 0.0), getattr(args, "cutmix", 0.0)
    minmax = getattr(args, "cutmix_minmax", None)
    if not (mixup > 0 or cutmix > 0 or minmax is not None):
        return None
    stored = has_stored_mixing(data, options)
    said = changed(args, {"mixup": 0.0, "cutmix": 0.0, "cutmix_minmax": None})
    if not prefetcher:
        what = (
            "leave them out, since these views are stored mixed"
            if stored
            else "leave --no-prefetcher out: the loader mixes"
        )
        raise ValueError(
            f"{', '.join(said)} with --no-prefetcher: train.py would mix the teacher's targets as class ids; {what}"
        )
    if stored:
        notes.add(said, "not used, since these views are stored mixed, with the teacher's targets of the mixture")
        return None
    if minmax is not None:
        raise ValueError(f"--cutmix-minmax {minmax}: not to be had here: pass --cutmix ALPHA")
    mode: Literal["batch", "elem"] = getattr(args, "mixup_mode", "batch")
    if mode not in ("batch", "elem"):
        raise ValueError(f'--mixup-mode {mode}: not to be had here: pass "batch" or "elem"')
    return BatchMixing(
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        probability=getattr(args, "mixup_prob", 1.0),
        switch_probability=getattr(args, "mixup_switch_prob", 0.5),
        mode=mode,
        label_smoothing=0.0 if shows_stored_targets(data, options) else getattr(args, "smoothing", 0.0),
    )


def _evaluation(
    size: int | tuple[int, int], crop_pct: float | None, crop_mode: str | None, interpolation: str
) -> Evaluation:
    """timm's transforms for evaluation: the shorter side to size / crop_pct, rounded down, and the centre."""
    if not isinstance(size, int):
        raise ValueError(f"input_size is {size[0]} x {size[1]}: evaluation shows squares here: --img-size {max(size)}")
    if crop_mode not in (None, "center"):
        raise ValueError(f'crop_mode is "{crop_mode}": evaluation shows the centre here: --crop-mode center')
    part = crop_pct or CENTRE_PART
    return Evaluation(size=size, resize=math.floor(size / part), interpolation=interpolation)  # type: ignore[arg-type]
