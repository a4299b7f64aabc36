"""What scripts for other loaders have in common: a data set that they may ask, a loader of tuples, and what they are told."""

from __future__ import annotations

import dataclasses
import logging
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Unpack

import torch

from dali_dr.errors import DaliDrError, ShardError
from dali_dr.integrations.named import has_teacher
from dali_dr.loader.iterator import ReinforcedIterator
from dali_dr.loader.options import Options
from dali_dr.loader.state import Standing
from dali_dr.mixing import BatchMixing
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.manifest import MANIFEST_NAME
from dali_dr.store.url import as_place

_log = logging.getLogger(__name__)


class ScriptDataset(Dataset):
    """A data set in the place of a script's own: the script asks it for its length and classes, a loader shows its images.

    Args:
      source: the folder or URL of a data set, or one that is open.

    Attributes:
      transform: None, as of a torchvision or timm data set without one.

    Raises:
      ShardError: there is no data set at that place; of a folder of images the message says how to make one.
    """

    transform: None = None

    def __init__(self, source: Dataset | str | os.PathLike[str]) -> None:
        if isinstance(source, Dataset):
            self.__dict__.update(source.__dict__)
        else:
            _refuse_images(source)
            super().__init__(os.fspath(source))
        self._shown_by: weakref.ref[ReinforcedIterator] | None = None

    def shown_by(self, loader: ReinforcedIterator) -> None:
        """Remembers the loader that was made of this data set, for `set_epoch`."""
        self._shown_by = weakref.ref(loader)  # which holds the data set: a cycle would keep its pipeline for long

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch the loader that was made of this data set begins next; see `ReinforcedIterator.set_epoch`.

        Raises:
          DaliDrError: there is no such loader.
        """
        loader = None if self._shown_by is None else self._shown_by()
        if loader is None:
            raise DaliDrError(
                f"{self.path}: set_epoch({epoch}), but no loader of dali_dr.integrations shows this data set (any more): make "
                "one of it before the first epoch, and keep it"
            )
        loader.set_epoch(epoch)

    def __getitem__(self, index: int) -> NoReturn:
        raise TypeError(
            f"{self.path}: the images of this data set are shown in batches, by torchvision_loader or timm_loader of "
            "dali_dr.integrations: put it where this loader is made"
        )


def _refuse_images(source: str | os.PathLike[str]) -> None:
    place = as_place(os.fspath(source))
    if (
        not isinstance(place, Path)
        or (place / MANIFEST_NAME).exists()
        or not place.is_dir()
        or any(place.glob("*.tar"))
    ):
        return
    raise ShardError(
        f"{place}: no {MANIFEST_NAME}, so no data set of dali_dr. If it is a folder of images, make one of it: "
        f"`dali-dr reinforce {place} --out SET --teacher …` to train on, `dali-dr pack {place} --out SET` to evaluate on; "
        "and name SET in its place"
    )


class ScriptLoader(ReinforcedIterator[tuple[torch.Tensor, torch.Tensor]]):
    """A `ReinforcedIterator` of `(images, targets)` on the script's device, mixed where the script's options say so.

    Args:
      dataset: see `ReinforcedIterator`.
      to: device of the batches.
      mixing: of finished batches, or None; its seed and rank are the loader's.
      options: of `ReinforcedIterator`.

    Attributes:
      mixup_enabled: whether batches are mixed from now on (timm switches it off after `--mixup-off-epoch`).
    """

    def __init__(
        self,
        dataset: ScriptDataset,
        *,
        batch_size: int,
        to: torch.device,
        mixing: BatchMixing | None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, **options)
        if mixing is not None:
            mixing = dataclasses.replace(mixing, seed=self.schedule.seed, rank=self.machine.place[0])
        self._to, self._batch_mixing = to, mixing
        self.mixup_enabled = mixing is not None
        dataset.shown_by(self)

    def _next(self) -> tuple[Any, Standing]:
        (images, targets), standing = super()._next()
        if self._batch_mixing is not None and self.mixup_enabled:
            place = standing.place  # depends on nothing but the place, so that a resumed run mixes as the one before
            images, targets = self._batch_mixing(
                images, targets, num_classes=self._dataset.num_classes, epoch=place.epoch, step=place.consumed
            )
        return (images.to(self._to, non_blocking=True), targets.to(self._to, non_blocking=True)), standing


def pipeline_device(device: torch.device) -> str | torch.device:
    """Where views are made for batches on `device`: on it, if it is a CUDA device; else on the CPU."""
    return device if device.type == "cuda" else "cpu"


def shows_stored_targets(dataset: Dataset, options: Options) -> bool:
    """Whether training with these options gives a teacher's targets, and not labels.

    Raises:
      ValueError: the teacher's outputs are no classes of the data set.
    """
    if not has_teacher(dataset, options):
        return False
    if dataset.num_views and dataset.num_outputs != dataset.num_classes:
        raise ValueError(
            f"{dataset.path}: its targets are {dataset.num_outputs} outputs of the teacher, for {dataset.num_classes} classes: "
            "a script for classes cannot train on them; reinforce it with a classifier of these classes"
        )
    return True


def has_stored_mixing(dataset: Dataset, options: Options) -> bool:
    """Whether training with these options shows views that are stored mixed."""
    spec = dataset.manifest.spec
    return options.get("augment") is None and spec is not None and spec.mixing is not None


def option(name: str) -> str:
    """What `args.NAME` is called on the command line."""
    return "--" + name.replace("_", "-")


def changed(args: object, defaults: Mapping[str, object]) -> list[str]:
    """The options that the user set to something else than the script does, as typed: "--aa rand-m9".

    Args:
      args: the script's.
      defaults: names of attributes, and the values that the script gives them.
    """
    given = {name: getattr(args, name, default) for name, default in defaults.items()}
    return [
        option(name) if value is True else f"{option(name)} {value}"
        for name, value in given.items()
        if value != defaults[name]
    ]


class Notes:
    """What a script's user is told once about options that do something else here, or nothing."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def add(self, options: list[str], why: str) -> None:
        """Notes options, if there are any."""
        if options:
            self._notes.append(f"{', '.join(options)}: {why}")

    def tell(self, rank: int) -> None:
        """Logs a warning for each, on the first rank."""
        for note in self._notes if rank == 0 else ():
            _log.warning("%s", note)
