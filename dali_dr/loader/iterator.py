"""`ReinforcedIterator`: the drop-in replacement of a training loader: epochs, state, and its public face."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Literal, NoReturn, Self, Unpack, cast, overload

import torch
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from dali_dr.errors import DaliDrError
from dali_dr.loader import state
from dali_dr.loader.batches import Batch, DenseBatch, Given, IndexedBatch
from dali_dr.loader.checks import MAX_BATCH, whole
from dali_dr.loader.dataloader import DataLoaderFace
from dali_dr.loader.decoding import compare_decoders
from dali_dr.loader.faults import explained, take_fault
from dali_dr.loader.feed import Feed
from dali_dr.loader.graph import MIX_OUTPUTS, OUTPUTS, replay_pipeline
from dali_dr.loader.options import (
    Arguments,
    DenseTargets,
    Machine,
    Options,
    Schedule,
    Show,
    Targets,
    gather,
)
from dali_dr.loader.partners import make_partner_cache
from dali_dr.loader.plan import make_plan
from dali_dr.loader.present import Presentation
from dali_dr.loader.signature import signature
from dali_dr.loader.skip import Skipped, Skipping, write_report
from dali_dr.loader.state import Place, Standing
from dali_dr.loader.stopwatch import Stopwatch
from dali_dr.loader.supply import make_supply
from dali_dr.sampling.sampler import Share
from dali_dr.sampling.standins import NothingLeft
from dali_dr.shards.dataset import Dataset

_log = logging.getLogger(__name__)
_UNSAID = object()  # of an argument that was not given, where None is a value that is refused


class ReinforcedIterator(DataLoaderFace, DALIGenericIterator, Generic[Given]):  # type: ignore[misc]
    """Iterates over a reinforced data set: every batch replays stored views against their stored targets.

        loader = dali_dr.ReinforcedIterator("imagenet-plus", batch_size=256, device="cpu")
        for epoch in range(90):
            for (batch,) in loader:  # "data", "label", "soft_ids", "soft_probs": see `dali_dr.Batch`
                logits = model(batch["data"])
                loss = dali_dr.losses.kl_divergence(logits, batch["soft_ids"], batch["soft_probs"])

    A `nvidia.dali.plugin.pytorch.DALIGenericIterator`: a `for` runs one epoch and yields lists of one batch; the next `for` runs
    the next epoch, with no call to `reset` needed.

    **Epochs.** `iter()` (so `for`, too) begins an epoch: the next one, as soon as a batch of the current one was given out, be it
    all of it, a few batches before a `break`, or one that was only looked at; `set_epoch(e)` says which instead. Only after
    `load_state_dict` does it go on within an epoch. `next()` without `iter()` goes on where it stands. All of this is the same on
    every rank that does the same calls. After an exception out of `next()`, a Ctrl-C included, the next batch is the one that
    would have come.

    **Batches.** `dali_dr.Batch` says what they hold; `IndexedBatch` and `DenseBatch` with other options; with as_tuples=True they
    are `(images, targets)`. Of mixed views (MixUp, CutMix), label and index are those of the image itself, whose weight
    (mix_weight) may be small: train on the soft targets, or on both labels (docs/mixing.md). A double-mix yields two views of
    every image in a batch, next to each other: the mixed pair with image and partner in either role. So batches are twice as
    large, and an epoch has two views of every image.

    Args:
      dataset: a `dali_dr.Dataset`, its folder, or its URL in a store.
      batch_size: images per batch of this process.
      show, schedule, machine: the arguments below in three groups, `Show`, `Schedule` and `Machine` of
        `dali_dr.loader.options`, for programs that hand them on; a group excludes its arguments one by one.

    Show:
      size: of the views in pixels; default: as they were drawn. An int; (height, width); a list of (size, batch_size)
        pairs of which every batch has one, drawn evenly (variable batches, CVNets); or a function epoch -> size
        (progressive resizing). See schemas/reinforcement-record.md for what another size does to stored views.
      dtype: "float32", "float16", "bfloat16" or "uint8" (0 … 255, not normalised), or torch's type of that name.
      mean, std: per channel, of values in 0 … 1.
      augment: show fresh views with hard targets instead of the stored ones, which a data set of plain images need not have:
        an `AugmentationSpec` or a preset's name ("rrc", "rrc+ra+re"), drawn anew for every visit of an image as
        `dali_dr.augment.draw.draw` draws it; or "eval" or an `Evaluation`, the resized image's centre. soft_ids are then
        the label and soft_probs 1, both (B, 1). Of label maps, fresh views ("rrc" by default) have targets, see docs/plain.md.
      layout: "CHW" or "HWC".
      targets: "sparse" (soft_ids and soft_probs), "dense", "ml-dr" (dense with that code's fault, see `densify`), "top1", or
        one of FKD's forms, dense too: "full", "hard", "smoothing", "marginal_smoothing" (as "dense"), "marginal_renorm".
      as_tuples: yield `(images, targets)` instead, dense unless targets="top1": what a torchvision-style loop with
        `CrossEntropyLoss` takes.
      with_index: add "index" and "view" to the batches.
      label_ndim: 1 or 2, axes of the labels.

    Schedule:
      seed: of the order of the samples and of the choice of views.
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
      curriculum: a `dali_dr.sampling.choice.Curriculum`, a mapping or text that `Curriculum.of` takes, or a function epoch ->
        (a, b): the part of the views, in their stored order, that is replayed.
      p_reinforced: probability that a stored view is replayed (ml-dr takes 0.99); else a fresh one of the same
        specification, without mixing, is drawn, whose target is the label.
      last_batch: "partial", "drop" or "fill"; see `dali_dr.sampling.sampler.Sampler`. Every rank gets the same number of
        batches.
      auto_reset: after an epoch's end `next()` goes on with the next epoch (True, "yes"), or raises StopIteration until
        `reset()` or `iter()` (False, "no"), as DALI's iterators do by default.

    Machine:
      device: "gpu" decodes and replays on the GPU and yields CUDA tensors; "cpu" needs no GPU. Also in torch's spellings:
        "cuda", "cuda:1", a `torch.device`.
      device_id: CUDA device number; default LOCAL_RANK of the environment, else torch's current device.
      rank, world_size: this process's place; default: torch.distributed's where that is initialised, else RANK and WORLD_SIZE
        of the environment (torchrun), else 0 of 1.
      num_threads: DALI's CPU threads; default: the processors that this process may use, divided among torchrun's processes
        on this machine unless they are bound.
      roi_decode, decode_device, decoder, hw_decoder_load, prefetch: see `dali_dr.loader.graph.replay_pipeline`.
      partner_cache_bytes: of memory for decoded partners, where a data set's come from a library; 0: none (docs/mixing.md).
      prepare_first_batch: begin to prepare batches at once instead of at the first `next()`.

    Faults:
      on_error: "raise", or "skip": where a view cannot be read or decoded another sample stands in, the same one on every rank,
        after every resume and with any prefetch (docs/loader.md); it is logged once, and listed by `skip_report`.
      max_skipped: share of an epoch's positions for which others may stand in; with more the run ends with an error.
      integrity: "full" holds every image file, whole, against its CRC-32C in the index; with "normal" damage to one is an
        error where its size or the decoder tells.
      max_pixels: images with more by their header are an error, before memory is taken for them; 0: none are.
      io_retry_s: seconds for which a shard that is missing, of another size or not to be read is tried again before that is
        an error; 0: it is tried once.

    Words of DALI:
      last_batch_policy: last_batch as DALI's iterators say it, `LastBatchPolicy.FILL` or its name.
      reader_name, dynamic_shape: of DALI's iterators, and true here whatever they say: the length of an epoch is known, and
        shapes may change. Its `size`, samples of an epoch or -1, is taken for what it is, too.

    Raises:
      ShardError: the data set is missing or damaged; while iterating, the message names shard, key and offset.
      DaliDrError: device="gpu" without a GPU.
      PluginError: the plugin is not built, or device="gpu" and it was built without CUDA or for a newer driver.
      ValueError, TypeError: an argument out of range, or that does not exist; a misspelt one is told the name that it is near to.
    """

    show: Show
    schedule: Schedule
    machine: Machine

    @overload
    def __init__(
        self: ReinforcedIterator[list[Batch]],
        dataset: Dataset | str | os.PathLike[str],
        *,
        targets: Literal["sparse"] = "sparse",
        as_tuples: Literal[False] = False,
        with_index: Literal[False] = False,
        **options: Unpack[Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self: ReinforcedIterator[list[IndexedBatch]],
        dataset: Dataset | str | os.PathLike[str],
        *,
        targets: Literal["sparse"] = "sparse",
        as_tuples: Literal[False] = False,
        with_index: Literal[True],
        **options: Unpack[Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self: ReinforcedIterator[list[DenseBatch]],
        dataset: Dataset | str | os.PathLike[str],
        *,
        targets: DenseTargets,
        as_tuples: Literal[False] = False,
        with_index: bool = False,
        **options: Unpack[Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self: ReinforcedIterator[tuple[torch.Tensor, torch.Tensor]],
        dataset: Dataset | str | os.PathLike[str],
        *,
        targets: Targets = "sparse",
        as_tuples: Literal[True],
        with_index: bool = False,
        **options: Unpack[Arguments],
    ) -> None: ...
    @overload
    def __init__(
        self: ReinforcedIterator[Any],
        dataset: Dataset | str | os.PathLike[str],
        *,
        show: Show | None = None,
        targets: Targets = "sparse",
        as_tuples: bool = False,
        with_index: bool = False,
        **options: Unpack[Arguments],
    ) -> None: ...
    def __init__(
        self,
        dataset: Dataset | str | os.PathLike[str],
        *,
        show: Show | None = None,
        schedule: Schedule | None = None,
        machine: Machine | None = None,
        **options: Any,
    ) -> None:
        batch_size = options.pop("batch_size", _UNSAID)
        lossy = "skip" in (options.get("on_error"), machine and machine.on_error)
        self._dataset = dataset if isinstance(dataset, Dataset) else Dataset(os.fspath(dataset), lossy=lossy)
        self.show, self.schedule, self.machine = gather(
            cast(Options, options), show, schedule, machine, len(self._dataset)
        )
        if batch_size is _UNSAID:
            raise TypeError("ReinforcedIterator wants batch_size, the images per batch of this process")
        plan = make_plan(
            self._dataset, whole("batch_size", batch_size, 1, MAX_BATCH), self.show, self.schedule, self.machine
        )
        if self.show.augment is None:
            compare_decoders(self._dataset, self.machine)
        skip, limit = self.machine.on_error == "skip", self.machine.max_skipped
        self._plan, self._skipping = plan, Skipping(plan, self._dataset, skip=skip, limit=limit)
        self._sampler = self._skipping.sampler
        self._supply = make_supply(self._dataset, plan, self.schedule, self.machine, self)
        self._mixing = bool(plan.graph["mixing"])
        self._presented = Presentation(self.show, plan.views_per_image, self._dataset.num_outputs, self._mixing)
        self._partners = make_partner_cache(self._dataset.spec.mixing if self._mixing else None, self.machine)
        self._stopwatch = Stopwatch()
        self._process = os.getpid()
        self._owner: threading.Thread | None = None  # the thread that takes this epoch's batches, once one does
        # Of the thread at work. Reentrant, so that an interruption cannot lock its own thread out.
        self._lock = threading.RLock()
        self._counted: tuple[int, int, int] | None = None
        self._redeemed = False  # a ticket of this epoch's was
        self._standing = Standing(Place())
        self._rebuild(Place())
        if self.machine.prepare_first_batch:
            self._stream._schedule_runs(False)

    # ---- the pipeline

    def _rebuild(self, place: Place) -> None:
        """Builds the pipeline anew, so that its first batch is the one at this place."""
        if (old := self.__dict__.pop("_stream", None)) is not None:
            for pipeline in old._pipes:
                pipeline._shutdown()  # at once: a traceback that somebody keeps may hold it for long
            take_fault(self._stopwatch.number)  # of a batch that nobody will ask for
        self._feed = Feed(self._sampler, place, not self._plan.fixed, self._plan.pairs, self._supply)
        kept = {} if self._partners is None else self._partners.graph
        pipeline = replay_pipeline(
            self._feed, batch_size=self._plan.largest_batch, monitor=self._stopwatch.number, **self._plan.graph, **kept
        )
        names = [*OUTPUTS, *MIX_OUTPUTS] if self._mixing else list(OUTPUTS)
        try:
            self._stream = DALIGenericIterator([pipeline], names, size=-1, prepare_first_batch=False)
        except RuntimeError as error:
            raise explained(error, take_fault(self._stopwatch.number), None, self._dataset) from error

    def _fetch(self, place: Place) -> tuple[Share, dict[str, torch.Tensor]]:
        """The share at a place and its batch, whatever the pipeline was at before."""
        while True:
            try:
                share = self._feed.seek(place)
            except NothingLeft as error:
                raise self._skipping.nothing_left(error) from error
            try:
                with self._stopwatch:
                    while self._feed.stale:
                        next(self._stream)
                        self._feed.pop()
                    return share, next(self._stream)[0]
            except RuntimeError as error:
                fault = take_fault(self._stopwatch.number)
                if not self._feed.stale:  # else what was left is bad, which does not matter any more
                    self._skipping.settle(error, fault, self._feed.in_work(), place, self._standing.replaced)
                self._rebuild(place)

    # ---- epochs

    @property
    def epoch(self) -> int:
        """The epoch of the next batch; until the loop over an epoch has ended, that epoch."""
        return self._standing.settled().place.epoch

    def __len__(self) -> int:
        """Batches of this rank in the current epoch (every epoch has as many, unless `size` makes batches vary)."""
        return self._counts()[0]

    def _counts(self) -> tuple[int, int]:
        """Batches and images of this rank in the current epoch, counted once, since loops ask for them at every step."""
        epoch = self.epoch
        if self._counted is None or (self._counted[0] != epoch and not self._plan.fixed):
            self._counted = epoch, self._sampler.batches(epoch), self._sampler.images(epoch)
        return self._counted[1:]

    def __iter__(self) -> Self:
        """Begins an epoch; see the class."""
        with self._alone():
            self._settle(self._standing.begun())
            self._owner = None
            self._redeemed = False
        return self

    def reset(self) -> None:
        """Begins an epoch, as `iter` does."""
        iter(self)

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch the next `iter()` begins, as a DistributedSampler's `set_epoch` does.

        A place that was just loaded in that epoch is kept; in another one it is left, with a warning.

        Raises:
          ValueError: the epoch is no whole number from 0.
        """
        self._standing = dataclasses.replace(self._standing, said=whole("epoch", epoch, 0, state.MAX_EPOCH), anew=True)

    def _settle(self, standing: Standing) -> Standing:
        """Takes a standing on, with a warning where a place that was loaded is left by it."""
        left = self._standing.place
        if left.consumed and not self._standing.touched and standing.place != left:
            _log.warning(
                "set_epoch(%d) leaves the place that was loaded: epoch %d after %d samples",
                standing.place.epoch, left.epoch, left.consumed,
            )  # fmt: skip
        self._standing = standing
        return standing

    def __next__(self) -> Given:
        with self._alone():
            self._own()
            result, after = self._next()
        # The one place where an iterator moves on: whatever was raised before, a KeyboardInterrupt between any two lines
        # included, has left the old place; nothing can be raised between this assignment and the return.
        self._standing = after
        return result

    next = __next__

    def _next(self) -> tuple[Given, Standing]:
        """The next batch, and where the iterator stands once it is given out."""
        standing = self._settle(self._standing.settled())
        place = standing.place
        if standing.over or next(self._sampler.epoch(place.epoch, place.consumed), None) is None:
            self._end_epoch(standing)
        # Until the batch is given out, the pipeline is not to be trusted.
        self._standing = dataclasses.replace(standing, sound=False)
        if not standing.sound:
            self._rebuild(place)
        share, batch = self._fetch(place)
        replaced = self._skipping.check(share, standing.replaced)
        result = cast(Given, self._presented(batch))
        self._feed.pop()
        self._skipping.given_out(share)
        after = Place(share.epoch, share.consumed)
        return result, Standing(after, touched=True, said=standing.said, replaced=replaced)

    def _end_epoch(self, standing: Standing) -> NoReturn:
        if self.schedule.auto_reset:
            self._standing = dataclasses.replace(standing, touched=True).begun()
            self._owner = None
        else:
            self._standing = dataclasses.replace(standing, touched=True, over=True)
        raise StopIteration

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuses other processes, and other threads while one is at work."""
        if os.getpid() != self._process:
            raise DaliDrError(
                f"this ReinforcedIterator was made in process {self._process} and is used in {os.getpid()}, a fork of it, in "
                "which its threads do not exist: make it in the process that uses it (for a DataLoader around it: num_workers=0)"
            )
        if not self._lock.acquire(blocking=False):
            raise DaliDrError(
                "this ReinforcedIterator is used by two threads at once: give each an iterator of its own"
            )
        try:
            yield
        finally:
            self._lock.release()

    def _own(self) -> None:
        """Refuses a second thread beside the one that takes this epoch's batches."""
        thread = threading.current_thread()
        owner = self._owner or thread
        if owner is not thread and owner.is_alive():
            raise DaliDrError(
                f"this ReinforcedIterator is used by two threads, {owner.name} and {thread.name}, within one epoch: "
                "give each an iterator of its own (iter() in another thread begins an epoch there)"
            )
        self._owner = thread

    # ---- the state

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands after the last batch that was given out, and a digest of what that means: JSON-able, less than a
        kilobyte, the same on every rank."""
        standing = self._standing.begun() if self._standing.anew else self._standing
        place = self._due(standing.place)
        replaced = standing.replaced if place == standing.place else 0
        return state.save(place, self._plan.meaning, replaced * self._sampler.world_size)

    def _due(self, place: Place) -> Place:
        """The place, or where an epoch is done, the beginning of the next."""
        return Place(place.epoch + 1) if self._sampler.done(place.epoch, place.consumed) else place

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on with exactly the batches that would have come, also in a new process or with another world size.

        Raises:
          ValueError: naming what differs: the state is of another data set, seed, order or choice of views, of another format
            version, or out of range.
        """
        with self._alone():
            saved = state.restore(state_dict, self._plan.meaning, self._sampler.order.group)
            place = self._due(saved)
            replaced = state.replaced(state_dict) // self._sampler.world_size if place == saved else 0
            self._sampler.run(place.epoch, place.consumed)  # refuses a rest that cannot be shared out among these ranks
            self._standing = Standing(place, sound=self._standing.sound, replaced=replaced)
            self._owner = None

    @property
    def skipped(self) -> dict[str, str]:
        """With on_error="skip": the keys of the samples that others stood in for so far, and what is wrong with them."""
        return {one.key: one.reason for one in self.skip_report()}

    def skip_report(self, path: str | os.PathLike[str] | None = None) -> list[Skipped]:
        """Every sample that others stood in for in the batches given out so far: key, shard, reason, and how often.

        Args:
          path: a file to write it to as well, as JSON.
        """
        if path is not None:
            write_report(self._skipping.report(), path)
        return self._skipping.report()

    def stats(self) -> dict[str, Any]:
        """Where the time went since the iterator was made or `stats` was last called.

        Returns:
          batches: given out. wait, other: seconds per batch that the consumer spent waiting in the iterator, and outside of it.
          read, decode, replay: seconds per batch of the pipeline's stages, which run one after another while the consumer
          works (device "cpu"; with "gpu" they are the host's part, and decode and replay run on in the background). Where replay
          decodes by itself (device "cpu", JPEGs), decode is its share: the decoder's time, divided by the number of threads.
          sliced, whole, misfit: images that our own decoder decoded, by how: from the tiles that the view shows; from the
          beginning of the file, which has no tiles; so, too, because its tiles' markers do not fit. Partners count.
          loading_is_the_bottleneck: whether waiting takes more than a tenth of the time.
          store: of a set in a store: shards and bytes fetched, seconds waited, hits, evicted, retries, mb_per_s (docs/stores.md).
          partners: of a library: images and bytes kept decoded; hits and misses since the iterator was made.
        """
        parts = {"store": self._supply, "partners": self._partners}
        return self._stopwatch.stats() | {name: part.stats() for name, part in parts.items() if part is not None}

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ReinforcedIterator cannot be pickled or copied: its pipeline has threads of its own. Make one where it is used, "
            "with the same arguments, and hand over state_dict()"
        )


# The arguments by name, for `help` and whoever asks `inspect`; checkers have the overloads.
ReinforcedIterator.__init__.__signature__ = signature()  # type: ignore[attr-defined]
