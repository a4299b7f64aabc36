"""`ReinforcedIterator`: the drop-in replacement of a training loader, and the few integers that are its state."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from dali_dr import _plugin
from dali_dr.augment.fresh import Augment, Evaluation, draw_arguments, fresh_seed, resolve_augment
from dali_dr.errors import DaliDrError, ShardError
from dali_dr.loader.faults import Fault, take_fault
from dali_dr.pipeline import (
    OUTPUTS,
    DecodeDevice,
    Device,
    RoiDecode,
    check_decode_device,
    default_threads,
    replay_pipeline,
)
from dali_dr.record.labels import FORMS, Form
from dali_dr.record.labels import targets as dense_targets
from dali_dr.sampling.choice import Choice, Window
from dali_dr.sampling.order import ClassPaired, Global, Order, Repeated, Sequential, Subset, Windowed
from dali_dr.sampling.sampler import LastBatch, Progressive, RandomShapes, Sampler, Shape, Shapes, Share
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.writer import image_info

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Channel means of ImageNet in 0 … 1, as torchvision and timm use them."""
IMAGENET_STD = (0.229, 0.224, 0.225)

_STATE_VERSION = 1
_log = logging.getLogger(__name__)

OrderName = Literal["global", "windowed", "sequential"]
Targets = Literal["sparse", "dense", "top1", "full", "hard", "smoothing", "marginal_smoothing", "marginal_renorm"]
Sizes = int | tuple[int, int] | Sequence[tuple[int, int]] | Callable[[int], int]


class ReinforcedIterator(DALIGenericIterator):  # type: ignore[misc]
    """Iterates over a reinforced data set: every batch replays stored views against their stored targets.

    A `nvidia.dali.plugin.pytorch.DALIGenericIterator`: `for batch in iterator` runs one epoch and yields
    `[{"data", "label", "soft_ids", "soft_probs"}]`; the next `for` runs the next epoch, with no call to `reset` needed.

    - data: (B, 3, size, size), or (B, size, size, 3) with layout="HWC", of `dtype`, normalised unless dtype is "uint8".
    - label: (B,) int64 class ids of the data set itself.
    - soft_ids: (B, K) int32, the teacher's most likely classes on exactly this view, falling.
    - soft_probs: (B, K) float32, their probabilities (see `dali_dr.losses`).
    - targets: instead of the two, with targets="dense" (B, classes) float32, the mass that the teacher gave to other
      classes spread over them evenly; with targets="top1" (B,) int64, the teacher's most likely class.
    - index: (B,) int64 sample numbers, and view: (B,) int32 rows of `dataset.reinforcements(i)`, when asked for;
      view v < 0 is fresh, drawn with number -v - 1.

    Of mixed views (MixUp, CutMix), label and index are those of the image itself, whose weight may be small: train on the
    soft targets. A double-mix yields two views of every image in a batch, next to each other: the mixed pair with image
    and partner in either role. So batches are twice as large, and an epoch has two views of every image.

    Args:
      dataset: a `dali_dr.Dataset` or its folder.
      batch_size: images per batch of this process.
      device: "gpu" decodes and replays on the GPU and yields CUDA tensors; "cpu" needs no GPU.
      size: of the views in pixels; default: as they were drawn. An int; (height, width); a list of (size, batch_size)
        pairs of which every batch has one, drawn evenly (variable batches, CVNets); or a function epoch -> size
        (progressive resizing). See schemas/reinforcement-record.md for what another size does to stored views.
      dtype: "float32", "float16", "bfloat16" or "uint8" (0 … 255, not normalised).
      mean, std: per channel, of values in 0 … 1.
      seed: of the order of the samples and of the choice of views.
      augment: show fresh views with hard targets instead of the stored ones, which a data set of plain images need not have:
        an `AugmentationSpec` or a preset's name ("rrc", "rrc+ra+re"), drawn anew for every visit of an image as
        `dali_dr.augment.draw.draw` draws it; or "eval" or an `Evaluation`, the resized image's centre. soft_ids are then
        the label and soft_probs 1, both (B, 1).
      order: "global", a permutation of all samples per epoch and the default but for evaluation; "windowed", shard after
        shard, shuffled within `window` positions (for network disks); "sequential", the order of the shards and the
        default for evaluation; or an `Order` of `dali_dr.sampling.order`.
      window: positions, for order="windowed".
      samples: sample numbers or keys to take, instead of all.
      classes: class ids to take, instead of all.
      repeats: repeated augmentation, every image so many times in a batch, with different views (USI takes 3).
      class_mates: M others of its class after every image (BAKE).
      views_per_image: m views of every decoded image (FKD); batches are then m times as large, and an epoch advances by m
        views per image. The epoch keeps its number of batches: divide batch_size by m, and train epochs / m of them.
      curriculum: epoch -> (a, b), the part of the views in order of falling confidence that is replayed; see
        `dali_dr.sampling.choice.Curriculum`.
      p_reinforced: probability that a stored view is replayed (ml-dr takes 0.99); else a fresh one of the same
        specification, without mixing, is drawn, whose target is the label.
      rank, world_size: this process's place; default: RANK and WORLD_SIZE of the environment (torchrun), else 0 of 1.
      last_batch: "partial", "drop" or "fill"; see `dali_dr.sampling.sampler.Sampler`. Distributed training wants "drop"
        or "fill", which give every rank the same number of batches.
      num_threads: DALI's CPU threads; default: the processors that this process may use, divided among torchrun's processes
        on this machine unless they are bound.
      targets: "sparse" (soft_ids and soft_probs), "dense", "top1", or one of FKD's label forms, which are dense too:
        "full", "hard", "smoothing", "marginal_smoothing" (as "dense"), "marginal_renorm"; see `dali_dr.record.labels.targets`.
      as_tuples: yield `(images, targets)` instead, dense unless targets="top1": what a torchvision-style loop with
        `CrossEntropyLoss` takes.
      with_index: add "index" and "view" to the batches.
      layout: "CHW" or "HWC".
      on_error: "raise", or "skip": a sample that cannot be read or decoded is logged once, counted in `skipped`, and from
        then on replaced by the next good one of the order. Finding it costs a moment: the pipeline starts anew.
      roi_decode, decode_device, hw_decoder_load, prefetch: see `dali_dr.pipeline.replay_pipeline`.
      device_id: CUDA device number; default LOCAL_RANK of the environment, else torch's current device.

    Raises:
      ShardError: the data set is missing or damaged; while iterating, the message names shard, key and offset.
      DaliDrError: device="gpu" without a GPU.
      PluginError: the plugin is not built, or device="gpu" and it was built without CUDA or for a newer driver.
      ValueError: an argument out of range.
    """

    def __init__(
        self,
        dataset: Dataset | str | os.PathLike[str],
        *,
        batch_size: int,
        device: Device = "gpu",
        size: Sizes | None = None,
        dtype: Literal["float32", "float16", "bfloat16", "uint8"] = "float32",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        seed: int = 0,
        augment: Augment | None = None,
        order: OrderName | Order | None = None,
        window: int = 16_384,
        samples: Sequence[int] | Sequence[str] | npt.NDArray[np.integer] | None = None,
        classes: Sequence[int] | None = None,
        repeats: int = 1,
        class_mates: int = 0,
        views_per_image: int = 1,
        curriculum: Window | None = None,
        p_reinforced: float = 1.0,
        rank: int | None = None,
        world_size: int | None = None,
        last_batch: LastBatch = "partial",
        num_threads: int | None = None,
        targets: Targets = "sparse",
        as_tuples: bool = False,
        with_index: bool = False,
        layout: Literal["CHW", "HWC"] = "CHW",
        on_error: Literal["raise", "skip"] = "raise",
        roi_decode: RoiDecode = "auto",
        decode_device: DecodeDevice = "auto",
        hw_decoder_load: float = 0.65,
        prefetch: int = 2,
        device_id: int | None = None,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
        check_decode_device(decode_device, device)
        if targets not in (known := ("sparse", "dense", "top1", *FORMS)):
            raise ValueError(f"targets must be one of {', '.join(known)}, not {targets!r}")
        self.dataset = dataset if isinstance(dataset, Dataset) else Dataset(Path(dataset))
        self._on_error = on_error
        self.skipped: dict[str, str] = {}
        """Keys of the samples that were found bad (with on_error="skip"), and what is wrong with them."""
        self._stopwatch = _Stopwatch()
        self._targets = "dense" if as_tuples and targets == "sparse" else targets
        self._as_tuples = as_tuples
        self._with_index = with_index
        self._seed = seed
        stored = self.dataset.manifest.spec
        spec = stored if augment is None else resolve_augment(augment, stored, size if isinstance(size, int) else None)
        if spec is None:
            raise ShardError(
                f"{self.dataset.path}: holds plain images without reinforcements; pass augment, for instance "
                'augment="rrc" for training or augment="eval", or reinforce it first (`dali-dr reinforce`)'
            )
        evaluating = isinstance(spec, Evaluation)
        if order is None:
            order = "sequential" if evaluating else "global"
        mixed = stored.mixing if augment is None and stored else None
        mixing, self._pairs = mixed is not None, mixed is not None and mixed.double
        if mixing and dtype == "uint8":
            raise ValueError(
                'mixed views are no whole numbers: use dtype="float32", "float16" or "bfloat16", not "uint8"'
            )
        if mixing and views_per_image != 1:
            raise ValueError(
                f"views_per_image is {views_per_image}, but mixed views have a partner each: leave it at 1"
            )
        if self._pairs and p_reinforced < 1:
            raise ValueError(
                f"p_reinforced is {p_reinforced}, but the views of a double-mix come in pairs: leave it at 1"
            )
        self._views_per_image = 2 if self._pairs else views_per_image
        shapes, largest = _shapes(spec.size if size is None else size, batch_size, seed)
        if evaluating and not isinstance(shapes, _Fixed):
            raise ValueError("evaluation shows one size: pass `size` as an int or as (height, width)")
        if isinstance(order, str):
            order = _order(self.dataset, order, seed, window, _numbers(self.dataset, samples, classes))
        elif samples is not None or classes is not None:
            raise ValueError(
                "`samples` and `classes` go with an order by name; put them into the Order given (see Subset)"
            )
        if repeats > 1:
            order = Repeated(order, repeats)
        if class_mates:
            order = ClassPaired(order, self.dataset.labels, seed, class_mates)
        self._sampler = Sampler(
            order,
            Choice(
                self.dataset.num_views // (2 if self._pairs else 1) if augment is None else 0,
                seed,
                views_per_image,
                curriculum,
                p_reinforced,
            ),
            shapes,
            _environment(rank, "RANK", 0),
            _environment(world_size, "WORLD_SIZE", 1),
            last_batch,
        )
        self._build: Callable[[Callable[[Any], Any]], Any] = lambda source: replay_pipeline(
            source,
            index=str(self.dataset.index_path),
            batch_size=largest,
            mixing=mixing,
            device=device,
            device_id=_cuda_device(device_id) if device == "gpu" else None,
            num_threads=num_threads or default_threads(),
            size=shapes.size if isinstance(shapes, _Fixed) else None,
            stored_size=spec.size,
            interpolation=spec.interpolation,
            dtype=dtype,
            mean=() if dtype == "uint8" else tuple(mean),
            std=() if dtype == "uint8" else tuple(std),
            layout=layout,
            roi_decode="off" if evaluating else roi_decode,  # all of the image is needed
            decode_device=decode_device,
            hw_decoder_load=hw_decoder_load,
            prefetch=prefetch,
            monitor=self._stopwatch.number,
            draw=draw_arguments(spec, seed if augment is not None else fresh_seed(seed)),
            topk=0 if augment is None else 1,
            resize_shorter=spec.resize if isinstance(spec, Evaluation) else 0,
        )
        self._length: tuple[int, int] | None = None
        self._restart(0, 0)

    def _restart(self, epoch: int, consumed: int) -> None:
        """Builds the pipeline so that its first batch is the one at this place."""
        self._epoch, self._consumed = epoch, consumed
        run = self._sampler.run(epoch, consumed)
        self._source = _Source(run, not isinstance(self._sampler.shapes, _Fixed), self._pairs)
        super().__init__(
            [self._build(self._source)], list(OUTPUTS), size=-1, auto_reset=False, prepare_first_batch=False
        )

    @property
    def epoch(self) -> int:
        """The epoch of the next batch; until the loop over an epoch has ended, that epoch."""
        return self._epoch

    def __len__(self) -> int:
        """Batches of this rank in the current epoch (every epoch has as many, unless `size` makes batches vary)."""
        if self._length is None or (self._length[0] != self._epoch and not isinstance(self._sampler.shapes, _Fixed)):
            self._length = self._epoch, sum(1 for _ in self._sampler.epoch(self._epoch))
        return self._length[1]

    def __iter__(self) -> ReinforcedIterator:
        """Begins the next epoch if all of this one has been given out, also where nobody asked for the batch after the last
        (a loop that counts to `len`, as Lightning's does); else goes on within the epoch."""
        following = self._source.peek().epoch
        if following != self._epoch:
            self._epoch, self._consumed = following, 0
        return self

    def __next__(self) -> Any:
        share = self._source.peek()
        if share.epoch != self._epoch:
            self._epoch, self._consumed = share.epoch, 0
            raise StopIteration
        try:
            with self._stopwatch:
                batch: dict[str, torch.Tensor] = super().__next__()[0]
        except RuntimeError as error:
            fault = take_fault(self._stopwatch.number)
            if self._on_error == "skip" and self._skip_bad():
                return self.__next__()
            raise _explained(error, fault, share, self.dataset) from error
        self._source.pop()
        self._consumed = share.consumed
        return self._presented(batch)

    next = __next__

    def _skip_bad(self) -> bool:
        """Looks for bad samples among those in work and starts anew without them; False if there are none."""
        found = {}
        for number in self._source.in_work():
            try:
                if self.dataset.has_record(number):
                    self.dataset.record(number)
                image_info(self.dataset.image(number), full=True)
            except (ShardError, ValueError) as error:
                found[number] = str(error)
        for number, why in found.items():
            key = self.dataset.keys[number]
            self.skipped[key] = why
            _log.warning("left out from now on: sample %d (%s): %s", number, key, why)
        self._sampler = dataclasses.replace(self._sampler, bad=self._sampler.bad | found.keys())
        if found:
            self._restart(self._epoch, self._consumed)
        return bool(found)

    def _presented(self, batch: dict[str, torch.Tensor]) -> Any:
        """The batch in the form that was asked for."""
        if batch["data"].dtype == torch.int16:
            batch["data"] = batch["data"].view(torch.bfloat16)
        if self._views_per_image > 1:
            for name in ("data", "soft_ids", "soft_probs", "view"):
                batch[name] = batch[name].flatten(0, 1)
            for name in ("label", "index"):
                batch[name] = batch[name].repeat_interleave(self._views_per_image)
        if not self._with_index:
            del batch["index"], batch["view"]
        if self._targets != "sparse":
            ids, probs = batch.pop("soft_ids"), batch.pop("soft_probs")
            form = "marginal_smoothing" if self._targets == "dense" else self._targets
            top1 = form == "top1"
            batch["targets"] = (
                ids[:, 0].long() if top1 else dense_targets(ids, probs, self.dataset.num_outputs, cast(Form, form))
            )
        return (batch["data"], batch["targets"]) if self._as_tuples else [batch]

    def reset(self) -> None:
        """Does nothing: the epoch after a finished one begins by itself. For loops written for other DALI iterators."""

    def stats(self) -> dict[str, float | int | bool]:
        """Where the time went since the iterator was made or `stats` was last called.

        Returns:
          batches: given out. wait, other: seconds per batch that the consumer spent waiting in the iterator, and outside of it.
          read, decode, replay: seconds per batch of the pipeline's stages, which run one after another while the consumer
          works (device "cpu"; with "gpu" they are the host's part, and decode and replay run on in the background).
          loading_is_the_bottleneck: whether waiting takes more than a tenth of the time.
        """
        return self._stopwatch.stats()

    def state_dict(self) -> dict[str, int]:
        """Where the run stands after the last batch that was given out: a few integers, the same on every rank."""
        epoch, consumed = self._epoch, self._consumed
        if self._sampler.done(epoch, consumed):
            epoch, consumed = epoch + 1, 0
        length = self._sampler.order.length
        return {"version": _STATE_VERSION, "epoch": epoch, "consumed": consumed, "seed": self._seed, "length": length}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on with exactly the batches that would have come, also in a new process or with another world size.

        Raises:
          ValueError: the state is of another length of the epoch, of another seed or of another format version.
        """
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"loader state has version {state.get('version')}, this dali_dr reads version {_STATE_VERSION}"
            )
        for name, own in (("length", self._sampler.order.length), ("seed", self._seed)):
            if state[name] != own:
                raise ValueError(
                    f"loader state was saved with {name}={state[name]}, but this iterator has {name}={own}: "
                    "restore it with the data set, order and seed that it was saved with"
                )
        self._restart(state["epoch"], state["consumed"])


class _Source:
    """The pipeline's input. The pipeline runs ahead of the consumer, so shares are kept until they are given out."""

    def __init__(self, run: Iterator[Share], with_size: bool, pairs: bool) -> None:
        self._run = run
        self._with_size = with_size
        self._pairs = pairs  # a chosen view stands for two: rows 2v and 2v + 1
        self._shares: deque[Share] = deque()
        self._fed = 0  # of them, those that the pipeline has been given

    def _at(self, place: int) -> Share:
        while len(self._shares) <= place:
            self._shares.append(next(self._run))
        return self._shares[place]

    def peek(self) -> Share:
        """The share that the consumer gets next."""
        return self._at(0)

    def in_work(self) -> set[int]:
        """Samples that the pipeline has been given and the consumer has not."""
        return {int(n) for share in itertools.islice(self._shares, self._fed) for n in share.samples}

    def pop(self) -> None:
        """The consumer has got it."""
        self._shares.popleft()
        self._fed -= 1

    def __call__(self, info: Any) -> tuple[Any, ...]:
        share = self._at(self._fed)
        self._fed += 1
        views = share.views.astype(np.int32)
        inputs = share.samples, np.stack([2 * views, 2 * views + 1], axis=1) if self._pairs else views
        if not self._with_size:
            return inputs
        return *inputs, np.tile(np.array(share.size, np.int32), (len(share.samples), 1))


class _Stopwatch:
    """Times the consumer (a context manager around each wait) and, by a monitor of the plugin, the pipeline's stages."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self._numbers)
        self._reset()

    def _reset(self) -> None:
        self._batches = 0
        self._wait = 0.0
        self._start = time.perf_counter()
        _plugin.library().dali_dr_monitor_reset(self.number)

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self._batches += 1
        self._wait += time.perf_counter() - self._entered

    def stats(self) -> dict[str, float | int | bool]:
        sums = (ctypes.c_double * 4)()
        _plugin.library().dali_dr_monitor_sums(self.number, sums)
        read, decode, replay, replayed = sums
        total, given = time.perf_counter() - self._start, max(self._batches, 1)
        result: dict[str, float | int | bool] = {
            "batches": self._batches,
            "wait": self._wait / given,
            "other": (total - self._wait) / given,
            "read": read / max(replayed, 1),
            "decode": decode / max(replayed, 1),
            "replay": replay / max(replayed, 1),
            "loading_is_the_bottleneck": self._wait > 0.1 * total,
        }
        self._reset()
        return result


@dataclasses.dataclass(frozen=True)
class _Fixed:
    """The same shape for every batch."""

    batch_size: int
    size: tuple[int, int]

    def __call__(self, epoch: int, begin: int) -> Shape:
        return Shape(self.batch_size, self.size)


def _shapes(size: Sizes, batch_size: int, seed: int) -> tuple[Shapes, int]:
    """The shapes of batches, and the largest batch."""
    if callable(size):
        return Progressive(batch_size, size), batch_size
    if isinstance(size, int):
        return _Fixed(batch_size, (size, size)), batch_size
    first, *_ = size
    if isinstance(first, int):
        return _Fixed(batch_size, cast(tuple[int, int], tuple(size))), batch_size
    shapes = tuple(Shape(int(batch), (int(side), int(side))) for side, batch in cast(Sequence[tuple[int, int]], size))
    return RandomShapes(shapes, seed), max(shape.batch_size for shape in shapes)


def _numbers(dataset: Dataset, samples: Any, classes: Sequence[int] | None) -> npt.NDArray[np.int64] | None:
    """The sample numbers that `samples` and `classes` leave, or None for all."""
    if samples is None and classes is None:
        return None
    numbers = np.arange(len(dataset))
    if samples is not None:
        keys = [s for s in samples if isinstance(s, str)]
        found = dict(zip(keys, dataset.find_all(keys).tolist(), strict=True))
        if absent := [key for key, number in found.items() if number < 0]:
            raise ShardError(f"{dataset.path}: no sample has the key {absent[0]!r}")
        numbers = np.array([found[s] if isinstance(s, str) else int(s) for s in samples], np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(dataset)):
            raise ValueError(f"`samples` runs from {numbers.min()} to {numbers.max()}, but there are {len(dataset)}")
        if len(np.unique(numbers)) != len(numbers):
            raise ValueError("`samples` names a sample twice")
    if classes is not None:
        numbers = numbers[np.isin(dataset.labels[numbers], np.asarray(classes))]
    if not numbers.size:
        raise ValueError("`samples` and `classes` leave no sample")
    return numbers


def _order(dataset: Dataset, name: str, seed: int, window: int, numbers: npt.NDArray[np.int64] | None) -> Order:
    """The order of that name, over all samples or the numbers given."""
    count = len(dataset) if numbers is None else len(numbers)
    base: Order
    if name == "global":
        base = Global(count, seed)
    elif name == "sequential":
        base = Sequential(count)
    elif name == "windowed":
        ends = np.cumsum([shard.samples for shard in dataset.manifest.shards])
        if numbers is not None:
            numbers = np.sort(numbers)  # so that the subset runs shard by shard too
            ends = np.searchsorted(numbers, ends)
        base = Windowed(tuple(int(n) for n in np.diff(ends, prepend=0) if n), seed, window)
    else:
        raise ValueError(f'order must be "global", "windowed", "sequential" or an Order, not {name!r}')
    return base if numbers is None else Subset(base, numbers)


def _environment(value: int | None, name: str, default: int) -> int:
    return int(os.environ.get(name, default)) if value is None else value


def _cuda_device(device_id: int | None) -> int:
    _plugin.require_gpu()
    if not torch.cuda.is_available():
        raise DaliDrError(
            'device="gpu", but torch sees no CUDA device on this machine. Use device="cpu", '
            "or check the driver with nvidia-smi and that torch is a CUDA build (torch.version.cuda)"
        )
    return _environment(device_id, "LOCAL_RANK", torch.cuda.current_device())


def _explained(error: RuntimeError, fault: Fault | None, share: Share, dataset: Dataset) -> Exception:
    """One clear error for what DALI reports amid its own context; a decoder's does not say which sample it was."""
    if fault:
        return ShardError(
            fault.message,
            kind=fault.kind,
            sample=fault.sample,
            key=fault.key,
            shard=fault.shard,
            offset=fault.offset,
        )
    if "decoders" in str(error):
        keys = ", ".join(dataset.keys[int(n)] for n in share.samples[:4])
        return ShardError(
            f"an image of the batch with samples {share.samples.tolist()} ({keys}, …) of {dataset.path} cannot be decoded; "
            f"`dali-dr verify --images {dataset.path}` finds it. The decoder says: {str(error).splitlines()[-1]}"
        )
    return error
