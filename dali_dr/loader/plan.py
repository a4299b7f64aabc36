"""From options to a plan: which sampler says what comes, and what the graph is made with. Touches no GPU, decodes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch

from dali_dr import _plugin
from dali_dr.augment.fresh import Evaluation, draw_arguments, fresh_seed, resize_of, resolve_augment
from dali_dr.augment.members import FixedResizeCrop
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import DaliDrError, ShardError
from dali_dr.loader.checks import MAX_VIEW_SIZE, refuse
from dali_dr.loader.decoding import OURS, route
from dali_dr.loader.options import Machine, Schedule, Show, Sizes, default_threads
from dali_dr.loader.state import Meaning, digest, name_of
from dali_dr.record.labels import ROW_ORDERS
from dali_dr.sampling.choice import Choice
from dali_dr.sampling.order import ClassPaired, Global, Order, Repeated, Sequential, Subset, Windowed, check_order
from dali_dr.sampling.sampler import Progressive, RandomShapes, Sampler, Shape, Shapes
from dali_dr.shards.dataset import Dataset

_LOOKED_AT: Final = 64  # groups, to tell how often an order shows every sample in a turn
_Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the options come to.

    Attributes:
      sampler: which samples and views come, in which batches.
      largest_batch: images.
      fixed: all batches have one shape.
      pairs: a chosen view stands for two, the rows 2v and 2v + 1 of a double-mix.
      views_per_image: rows of a batch per image.
      alike: all views of a sample show the same pixels of its image.
      graph: arguments of `dali_dr.loader.graph.replay_pipeline`, but the source and the monitor.
      meaning: what a place in this run stands for; see `dali_dr.loader.state`.
    """

    sampler: Sampler
    largest_batch: int
    fixed: bool
    pairs: bool
    views_per_image: int
    alike: bool
    graph: dict[str, Any]
    meaning: Meaning


def make_plan(dataset: Dataset, batch_size: int, show: Show, schedule: Schedule, machine: Machine) -> Plan:
    """Checks the options against the data set and against each other.

    Raises:
      ShardError: the data set has no views to replay, or not the samples that are asked for.
      DaliDrError, PluginError: device="gpu" without a GPU, or with a plugin that cannot use it.
      ValueError: options that do not go together.
    """
    stored, augment, maps = dataset.manifest.spec, show.augment, dataset.manifest.label_maps
    if augment is None and maps is not None:
        augment = "rrc"
    one_size = show.size if isinstance(show.size, int) else None
    spec = stored if augment is None else resolve_augment(augment, stored, one_size)
    if spec is None:
        raise ShardError(
            f"{dataset.path}: holds plain images without reinforcements; pass augment, for instance "
            'augment="rrc" for training or augment="eval", or reinforce it first (`dali-dr reinforce`)',
            kind="usage",
        )
    mixed = stored.mixing if augment is None and stored else None
    pairs = mixed is not None and mixed.double
    if mixed is not None:
        _check_mixing(show, schedule, pairs)
    shapes, largest = _shapes(spec.size if show.size is None else show.size, batch_size, schedule.seed)
    fixed = isinstance(shapes, Fixed)
    if augment is None:
        _check_row_order(dataset, schedule.curriculum)
    for name, idle in (("curriculum", None), ("p_reinforced", 1.0)):
        if augment is not None and getattr(schedule, name) != idle:
            beside = "beside augment" if maps is None else "with label maps"
            refuse(name, getattr(schedule, name), f"nothing {beside}, with which no stored view is shown")
    if maps is not None and isinstance(spec, AugmentationSpec) and isinstance(spec.crop, FixedResizeCrop):
        refuse("augment", augment, "a random resized crop with label maps, whose targets are pooled over its box")
    if isinstance(spec, Evaluation) and not fixed:
        raise ValueError("evaluation shows one size: pass `size` as an int or as (height, width)")
    num_views = dataset.num_views // (2 if pairs else 1) if augment is None else 0
    order, kind = _order(dataset, schedule, "sequential" if isinstance(spec, Evaluation) else "global")
    if num_views:
        _check_showings(order, schedule, num_views)
    choice = Choice(num_views, schedule.seed, schedule.views_per_image, schedule.curriculum, schedule.p_reinforced)
    rank, world_size = machine.place
    least = min(shape.batch_size for shape in shapes.shapes) if isinstance(shapes, RandomShapes) else None
    if least == order.group and schedule.last_batch == "partial" and world_size > 1:
        # Some later epoch could not be shared out evenly, and would end the run.
        refuse("last_batch", "partial", '"drop" or "fill" where some batches hold one group of samples per rank')
    sampler = Sampler(order, choice, shapes, rank, world_size, schedule.last_batch)
    return Plan(
        sampler=sampler,
        largest_batch=largest,
        fixed=fixed,
        pairs=pairs,
        views_per_image=2 if pairs else schedule.views_per_image,
        alike=isinstance(spec, Evaluation) or (isinstance(spec.crop, FixedResizeCrop) and not spec.crop.random),
        graph=_graph(
            dataset, show, schedule, machine, spec, fresh=augment is not None, mixing=mixed is not None, shapes=shapes
        ),
        meaning=_meaning(dataset, schedule, kind, sampler, spec if augment is not None else None),
    )


def _check_mixing(show: Show, schedule: Schedule, pairs: bool) -> None:
    if show.dtype == "uint8":
        raise ValueError('mixed views are no whole numbers: use dtype="float32", "float16" or "bfloat16", not "uint8"')
    if schedule.views_per_image != 1:
        raise ValueError(
            f"views_per_image is {schedule.views_per_image}, but mixed views have a partner each: leave it at 1"
        )
    if pairs and schedule.p_reinforced < 1:
        raise ValueError(
            f"p_reinforced is {schedule.p_reinforced}, but the views of a double-mix come in pairs: leave it at 1"
        )


def _check_row_order(dataset: Dataset, curriculum: object) -> None:
    """Refuses a curriculum by what the views are not ordered by; a function of the user's own takes any order."""
    stored = dataset.manifest.row_order
    wanted = getattr(curriculum, "by", None)
    if wanted in ROW_ORDERS and wanted != stored:
        where = dataset.url or dataset.path
        refuse(
            "curriculum",
            name_of(curriculum),
            f"by={stored!r}, which the views of {where} are ordered by, or order them anew: dali-dr subset {where} --out "
            f"OTHER --row-order {wanted}",
        )


def _check_showings(order: Order, schedule: Schedule, num_views: int) -> None:
    """Refuses what shows every sample more often in a turn than it has stored views, which could not all differ."""
    first = np.arange(min(order.length, _LOOKED_AT * order.group))
    showings = int(order.at(0, first).of.min()) * schedule.views_per_image
    if showings > num_views:
        said = {"repeats": schedule.repeats > 1, "views_per_image": schedule.views_per_image > 1}
        name, value = next(((name, getattr(schedule, name)) for name, given in said.items() if given), ("order", order))
        what = f"one that shows a sample at most {num_views} times side by side, since so many views are stored"
        refuse(name, value, f"{what}; this one shows {showings}")


def _graph(
    dataset: Dataset,
    show: Show,
    schedule: Schedule,
    machine: Machine,
    spec: AugmentationSpec | Evaluation,
    *,
    fresh: bool,
    mixing: bool,
    shapes: Shapes,
) -> dict[str, Any]:
    """The arguments of the graph."""
    evaluating, resize = isinstance(spec, Evaluation), resize_of(spec)
    maps = None if evaluating else dataset.manifest.label_maps
    ours = route(machine.device, machine.decode_device, machine.decoder, machine.roi_decode) in OURS
    return {
        "index": str(dataset.index_path),
        "mixing": mixing,
        "device": machine.device,
        "device_id": _cuda_device(machine) if machine.device == "gpu" else None,
        "num_threads": machine.num_threads or default_threads(),
        "size": shapes.size if isinstance(shapes, Fixed) else None,
        "stored_size": 0 if evaluating else spec.size,  # an evaluation has its own way with other sizes
        "interpolation": spec.interpolation,
        "dtype": show.dtype,
        "mean": () if show.dtype == "uint8" else show.mean,
        "std": () if show.dtype == "uint8" else show.std,
        "layout": show.layout,
        "roi_decode": "off" if resize and not ours else machine.roi_decode,  # all of the image is needed
        "decode_device": machine.decode_device,
        "decoder": machine.decoder,
        "hw_decoder_load": machine.hw_decoder_load,
        "prefetch": machine.prefetch,
        "reading": {
            "index_checksum": -1 if dataset.index.checksum is None else dataset.index.checksum,
            "check_images": machine.integrity == "full",
            "max_pixels": machine.max_pixels,
            "retry_s": machine.io_retry_s,
            "topk": dataset.manifest.topk if maps else 1 if fresh else 0,
            **({"label_maps": maps.order} if maps else {}),
            **draw_arguments(spec, schedule.seed if fresh else fresh_seed(schedule.seed)),
        },
        "resize_shorter": resize,
    }


def _meaning(
    dataset: Dataset, schedule: Schedule, kind: str, sampler: Sampler, fresh: AugmentationSpec | Evaluation | None
) -> Meaning:
    """All that decides what comes at a place of the run, by the names of the arguments."""
    manifest = dataset.manifest
    order = schedule.order
    maps = manifest.label_maps if isinstance(fresh, AugmentationSpec) else None
    targets = "" if maps is None else f", label maps {maps.order}"
    return {
        "data": digest([manifest.num_classes, [[s.name, s.samples, s.sha256] for s in manifest.shards]]),
        "seed": schedule.seed,
        "length": sampler.order.length,
        "order": kind if order is None or isinstance(order, str) else f"{type(order).__qualname__} {digest(order)}",
        "window": schedule.window if kind == "windowed" else 0,
        "samples": "all" if schedule.samples is None else digest(list(schedule.samples)),
        "classes": "all" if schedule.classes is None else digest(sorted(schedule.classes)),
        "repeats": schedule.repeats,
        "class_mates": schedule.class_mates,
        "views_per_image": schedule.views_per_image,
        "p_reinforced": schedule.p_reinforced,
        "curriculum": "none" if schedule.curriculum is None else name_of(schedule.curriculum),
        "augment": "stored" if fresh is None else f"{type(fresh).__name__} {digest(fresh)}{targets}",
    }


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The same shape for every batch."""

    batch_size: int
    size: tuple[int, int]

    def __call__(self, epoch: int, begin: int) -> Shape:
        return Shape(self.batch_size, self.size)


def _shapes(size: Sizes, batch_size: int, seed: int) -> tuple[Shapes, int]:
    """The shapes of batches, and the largest batch."""
    if callable(size):
        return Progressive(batch_size, _checked(size)), batch_size
    if isinstance(size, int):
        return Fixed(batch_size, (size, size)), batch_size
    if isinstance(size[0], int):
        return Fixed(batch_size, cast(tuple[int, int], size)), batch_size
    shapes = tuple(Shape(batch, (side, side)) for side, batch in cast(Sequence[tuple[int, int]], size))
    return RandomShapes(shapes, seed), max(shape.batch_size for shape in shapes)


def _checked(size: Callable[[int], int]) -> Callable[[int], int]:
    """The user's sizes, refused by name where they are none."""

    def checked(epoch: int) -> int:
        value = size(epoch)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= MAX_VIEW_SIZE:
            refuse(f"size({epoch})", value, f"a function that gives 1 to {MAX_VIEW_SIZE} pixels")
        return int(value)

    return checked


def _order(dataset: Dataset, schedule: Schedule, default: str) -> tuple[Order, str]:
    """The order of an epoch, and the name of what it is built on."""
    given = schedule.order
    name = default if given is None else given
    if isinstance(name, str):
        order = _named(dataset, name, schedule.seed, schedule.window, _numbers(dataset, schedule))
    elif schedule.samples is not None or schedule.classes is not None:
        raise ValueError("`samples` and `classes` go with an order by name; put them into the Order given (see Subset)")
    else:
        check_order(name)
        order, name = name, "given"
    if schedule.repeats > 1:
        order = Repeated(order, schedule.repeats)
    if schedule.class_mates:
        order = ClassPaired(order, dataset.labels, schedule.seed, schedule.class_mates)
    return order, name


def _named(dataset: Dataset, name: str, seed: int, window: int, numbers: _Numbers | None) -> Order:
    """The order of that name, over all samples or the numbers given."""
    count = len(dataset) if numbers is None else len(numbers)
    base: Order
    if name == "global":
        base = Global(count, seed)
    elif name == "sequential":
        base = Sequential(count)
    else:
        ends = np.cumsum([shard.samples for shard in dataset.manifest.shards])
        if numbers is not None:
            numbers = np.sort(numbers)  # so that the subset runs shard by shard too
            ends = np.searchsorted(numbers, ends)
        base = Windowed(tuple(int(n) for n in np.diff(ends, prepend=0) if n), seed, window)
    return base if numbers is None else Subset(base, numbers)


def _numbers(dataset: Dataset, schedule: Schedule) -> _Numbers | None:
    """The sample numbers that `samples` and `classes` leave, or None for all."""
    samples, classes = schedule.samples, schedule.classes
    if samples is None and classes is None:
        return None
    numbers = np.arange(len(dataset))
    if samples is not None:
        keys = [s for s in samples if isinstance(s, str)]
        found = dict(zip(keys, dataset.find_all(keys).tolist(), strict=True))
        if absent := [key for key, number in found.items() if number < 0]:
            raise ShardError(f"{dataset.path}: no sample has the key {absent[0]!r}")
        numbers = np.array([found[s] if isinstance(s, str) else s for s in samples], np.int64)
        if numbers.size and numbers.max() >= len(dataset):
            raise ValueError(f"`samples` runs from {numbers.min()} to {numbers.max()}, but there are {len(dataset)}")
        if len(np.unique(numbers)) != len(numbers):
            raise ValueError("`samples` names a sample twice")
    if classes is not None:
        wanted = np.asarray(list(classes))
        outside = wanted[(wanted < 0) | (wanted >= dataset.num_classes)]
        if outside.size:
            refuse("classes", classes, f"class ids from 0 to {dataset.num_classes - 1}; {outside[0]} is none")
        numbers = numbers[np.isin(dataset.labels[numbers], wanted)]
    if not numbers.size:
        raise ValueError("`samples` and `classes` leave no sample")
    return numbers


def _cuda_device(machine: Machine) -> int:
    _plugin.require_gpu()
    if not torch.cuda.is_available():
        raise DaliDrError(
            'device="gpu", but torch sees no CUDA device on this machine. Use device="cpu", '
            "or check the driver with nvidia-smi and that torch is a CUDA build (torch.version.cuda)",
            kind="usage",
        )
    number, count = machine.cuda_device, torch.cuda.device_count()
    if number >= count:
        raise DaliDrError(
            f'device="cuda:{number}", but torch sees {count} CUDA device(s) here: pass a number below that',
            kind="usage",
        )
    return number
