"""For scripts that feed a model from DALI's `DALIClassificationIterator` (docs/migration/dali.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, get_args, overload

import torch
from nvidia.dali import Pipeline
from nvidia.dali.plugin.base_iterator import LastBatchPolicy as LastBatchPolicy

from dali_dr.errors import DaliDrError
from dali_dr.integrations.named import NamedIterator, has_teacher, opened
from dali_dr.loader import checks
from dali_dr.loader.state import Standing
from dali_dr.shards.dataset import Dataset

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # as in `named`
else:
    from typing import TypeVar

LabelKind = Literal["teacher", "label", "both"]

_NAMES: Final[dict[str, dict[str, str]]] = {
    "teacher": {"data": "data", "targets": "label"},
    "label": {"data": "data", "label": "label"},
    "both": {"data": "data", "label": "label", "targets": "targets"},
}

_STOCK: Final = "nvidia.dali.plugin.pytorch.DALIClassificationIterator"


class ClassificationBatch(TypedDict):
    """What `DALIClassificationIterator` yields in a list.

    Attributes:
      data: (B, 3, size, size) float32, normalised.
      label: (B, classes) float32, the teacher's distribution; or (B, 1) int64 classes, as the iterator's `targets` says.
    """

    data: torch.Tensor
    label: torch.Tensor


class MeasuredBatch(ClassificationBatch):
    """With `targets="both"`, whose "label" is (B, 1) int64.

    Attributes:
      targets: (B, classes) float32, the teacher's distribution.
    """

    targets: torch.Tensor


if TYPE_CHECKING:
    Classified = TypeVar("Classified", default=list[ClassificationBatch])
else:
    Classified = TypeVar("Classified")  # what an iterator yields: list[ClassificationBatch], or list[MeasuredBatch]


class DALIClassificationIterator(NamedIterator[Classified]):
    """Stands in for `nvidia.dali.plugin.pytorch.DALIClassificationIterator`, and trains on the teacher.

    Batches are `[{"data": …, "label": …}]`, arguments and their defaults those of DALI's class, in its order. What "label"
    is, `targets` says:

    - "teacher", the default of a reinforced data set: (B, classes) float32, the teacher's distribution on exactly the view
      in "data". `CrossEntropyLoss` takes it as it is. A script that turns it into class ids, by `.squeeze(-1).long()`, does
      not train on zeros: torch refuses (B, classes) integers as a target.
    - "label": (B, 1) int64 classes of the data set, as DALI's readers give them; the only one, and the default, where views
      have no teacher: with `augment`, "eval" or fresh ones.
    - "both": "label" is (B, 1) int64, and "targets" the teacher's distribution, for scripts that measure accuracy on the
      training batches: `criterion(output, data[0]["targets"])`.

    "data" is (B, 3, size, size) float32, normalised, on the GPU or the CPU as `device` says.

    Epochs, `len`, `reset` and StopIteration are DALI's, with these differences: `iter` after a `break` begins the next epoch,
    where DALI goes on with the one that was left; `reset` within an epoch begins the next one, where DALI ignores it; and
    `LastBatchPolicy.FILL` fills up from the beginning of the same epoch, whatever `last_batch_padded` says. It has
    `state_dict`, `load_state_dict` and `set_epoch`, which DALI's class has not (docs/loader.md).

    Args:
      pipelines: a reinforced data set, its folder or URL; or the script's `nvidia.dali.Pipeline`, from which batch size,
        number of threads and device are taken, and nothing else: it need not be built, and what it would decode is not
        shown. Then `dataset` says what is. (Its seed is not taken: scripts of DALI's kind give each rank another, and here
        the ranks share one order.)
      size: samples of an epoch, or -1: known here, and only checked. Pixels of the views, as `ReinforcedIterator` has them,
        where it cannot be the samples of an epoch.
      reader_name, dynamic_shape: taken, without a meaning here.
      auto_reset: see `ReinforcedIterator`; off by default, as in DALI.
      fill_last_batch: DALI's older word: True for `LastBatchPolicy.FILL`, False for PARTIAL.
      last_batch_padded: taken; see above.
      last_batch_policy: `LastBatchPolicy.FILL`, DROP or PARTIAL.
      prepare_first_batch: begin to prepare batches at once.
      dataset: the data set, where `pipelines` is a Pipeline.
      targets: what "label" is: "teacher", "label" or "both".
      start_epoch: the epoch to begin with, for scripts that resume at the beginning of one.
      batch_size: images per batch of this process; needed where `pipelines` is no Pipeline.
      options: further ones of `ReinforcedIterator`.

    Raises:
      DaliDrError: a Pipeline without `dataset`: there is no teacher in it. Or several: one process has one GPU here.
      ValueError, TypeError: an argument out of range, or that does not exist.
      ShardError: the data set is missing or damaged.
    """

    @overload
    def __init__(
        self: DALIClassificationIterator[list[MeasuredBatch]],
        pipelines: Pipeline | list[Pipeline] | Dataset | str | os.PathLike[str],
        size: int = -1,
        reader_name: str | None = None,
        auto_reset: bool | str | None = False,
        fill_last_batch: bool | None = None,
        dynamic_shape: Any = False,
        last_batch_padded: bool = False,
        last_batch_policy: LastBatchPolicy = LastBatchPolicy.FILL,
        prepare_first_batch: bool = True,
        *,
        dataset: Dataset | str | os.PathLike[str] | None = None,
        targets: Literal["both"],
        start_epoch: int = 0,
        batch_size: int | None = None,
        **options: Any,
    ) -> None: ...
    @overload
    def __init__(
        self: DALIClassificationIterator[list[ClassificationBatch]],
        pipelines: Pipeline | list[Pipeline] | Dataset | str | os.PathLike[str],
        size: int = -1,
        reader_name: str | None = None,
        auto_reset: bool | str | None = False,
        fill_last_batch: bool | None = None,
        dynamic_shape: Any = False,
        last_batch_padded: bool = False,
        last_batch_policy: LastBatchPolicy = LastBatchPolicy.FILL,
        prepare_first_batch: bool = True,
        *,
        dataset: Dataset | str | os.PathLike[str] | None = None,
        targets: LabelKind | None = None,
        start_epoch: int = 0,
        batch_size: int | None = None,
        **options: Any,
    ) -> None: ...
    def __init__(
        self,
        pipelines: Pipeline | list[Pipeline] | Dataset | str | os.PathLike[str],
        size: int = -1,
        reader_name: str | None = None,
        auto_reset: bool | str | None = False,
        fill_last_batch: bool | None = None,
        dynamic_shape: Any = False,
        last_batch_padded: bool = False,
        last_batch_policy: LastBatchPolicy = LastBatchPolicy.FILL,
        prepare_first_batch: bool = True,
        *,
        dataset: Dataset | str | os.PathLike[str] | None = None,
        targets: LabelKind | None = None,
        start_epoch: int = 0,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        pipe = _pipeline(pipelines, dataset)
        if pipe is None and dataset is not None:
            raise ValueError(f"two data sets are given, {pipelines} and dataset={dataset}: leave one out")
        shown = opened(pipelines if pipe is None else dataset, options)  # type: ignore[arg-type]
        if pipe is not None:
            _take_over(pipe, options)
        batch_size = pipe.max_batch_size if pipe is not None and batch_size is None else batch_size
        if batch_size is None:
            raise ValueError("batch_size is missing: say it, since a data set has none, as a Pipeline has")
        kind = _label_kind(targets, shown, options)
        if fill_last_batch is not None:
            full = checks.flag("fill_last_batch", fill_last_batch)
            last_batch_policy = LastBatchPolicy.FILL if full else LastBatchPolicy.PARTIAL
        checks.flag("last_batch_padded", last_batch_padded)
        start_epoch = checks.whole("start_epoch", start_epoch, 0)
        if kind != "label":
            options["targets"] = "dense"
        if "last_batch" not in options:
            options["last_batch_policy"] = last_batch_policy
        super().__init__(
            shown, batch_size=batch_size, names=_NAMES[kind], size=size, reader_name=reader_name, auto_reset=auto_reset,
            dynamic_shape=dynamic_shape, prepare_first_batch=prepare_first_batch and not start_epoch, label_ndim=2,
            **options,
        )  # fmt: skip
        if start_epoch:
            self.set_epoch(start_epoch)

    def _next(self) -> tuple[Any, Standing]:
        batch, standing = super()._next()
        return [batch], standing

    @property
    def _size(self) -> int:
        """Samples of this rank's epoch as DALI counts them, by which its scripts compute the number of batches."""
        world = self._sampler.world_size
        if self.schedule.last_batch == "drop":
            return self.epoch_size() // world
        whole_batches = -(-self.epoch_size() // world)
        if self.schedule.last_batch == "fill":
            whole_batches = len(self) * self.batch_size
        return whole_batches


def _pipeline(pipelines: object, dataset: object) -> Pipeline | None:
    """The one Pipeline among the arguments, or None where they name a data set.

    Raises:
      DaliDrError: several pipelines, or one without a data set.
    """
    given = pipelines if isinstance(pipelines, (list, tuple)) else [pipelines]
    if not any(isinstance(one, Pipeline) for one in given):
        return None
    if len(given) > 1:
        raise DaliDrError(
            f"{len(given)} pipelines are given, for as many GPUs of one process: start a process for each (torchrun), and "
            "give each its own iterator"
        )
    if dataset is None:
        raise DaliDrError(
            "a Pipeline shows plain images, which have no teacher: pass the reinforced data set, as dataset=SET beside it or "
            f"in its place. To train or evaluate on what the Pipeline shows, use {_STOCK}"
        )
    pipe: Pipeline = given[0]
    return pipe


def _take_over(pipe: Pipeline, options: dict[str, Any]) -> None:
    """Takes a Pipeline's settings as options, where they are not given."""
    options.setdefault("num_threads", pipe.num_threads)
    if pipe.device_id is None:
        options.setdefault("device", "cpu")
    elif options.setdefault("device", "gpu") != "cpu":
        options.setdefault("device_id", pipe.device_id)


def _label_kind(targets: str | None, dataset: Dataset, options: Mapping[str, Any]) -> str:
    """What "label" is.

    Raises:
      ValueError: no word for it, or a teacher is wanted where none has seen the views.
    """
    teacher = has_teacher(dataset, options)
    if targets is None:
        return "teacher" if teacher else "label"
    checks.one_of("targets", targets, get_args(LabelKind))
    if targets != "label" and not teacher:
        raise ValueError(
            f'targets is "{targets}" beside augment, but no teacher has seen fresh views of {dataset.path}: leave augment out '
            'to replay the stored ones, or pass targets="label"'
        )
    return targets
