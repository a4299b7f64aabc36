"""Sees to it that the shards of a data set in a store are on this machine when the pipeline is given numbers that need them.

Orders that go shard by shard: shards come in the order in which the epoch asks for them, ahead of need by threads, as far as
cache_bytes lets them; once the consumer has got the last batch of a shard, it may leave the cache. Orders that jump about, and
mixed views, whose partners are numbers in records: everything that an epoch may ask for comes first, and stays.

All of this is of this rank's share alone, and changes nothing of what comes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dali_dr import _plugin
from dali_dr.errors import ShardError
from dali_dr.loader.options import Machine, Schedule
from dali_dr.loader.plan import Plan
from dali_dr.loader.state import Place
from dali_dr.progress import bar as progress_bar
from dali_dr.sampling.sampler import Sampler, Share
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.remote import Remote, check_fits
from dali_dr.store.cache import Stopped
from dali_dr.store.room import NoRoom

_log = logging.getLogger(__name__)

THREADS: Final = 4  # that fetch: one connection is rarely as fast as the network
_TOGETHER: Final = 256  # batches that are looked at at a time
_LOOK_S: Final = 0.1  # a wait's longest piece, so that Ctrl-C is heard


@dataclasses.dataclass
class _Segment:
    """Which files an epoch, or its rest, needs. Shares are counted from the place where the supply began.

    Attributes:
      epoch: its number.
      begin, end: its shares.
      first, last: (files,) the first and last share that needs a file; -1: none does.
    """

    epoch: int
    begin: int
    end: int
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]

    def touch(self, file: int, share: int) -> None:
        """A share needs a file, planned or not."""
        self.first[file] = share if self.last[file] < 0 else min(self.first[file], share)
        self.last[file] = max(self.last[file], share)

    def files(self) -> list[int]:
        """Those needed, in the order of need."""
        used = np.flatnonzero(self.last >= 0)
        return [int(file) for file in used[np.argsort(self.first[used], kind="stable")]]


class Supply:
    """The shards of a run.

    Args:
      dataset: in a store.
      sampler: of the run.
      streams: the order goes shard by shard, and views have no partners.
      mixing: views have partners, which may be any sample.
      ahead: batches that the pipeline is given before the consumer gets them.
      skip: a shard that cannot be had is left to the pipeline, which will miss it.
      progress: show a bar while the cache is filled.

    Raises:
      ShardError: cache_bytes is too small.
    """

    def __init__(
        self, dataset: Dataset, sampler: Sampler, *, streams: bool, mixing: bool, ahead: int, skip: bool, progress: bool
    ) -> None:
        assert dataset.remote is not None
        self._remote: Remote = dataset.remote
        self._shelf, self._wanted = self._remote.shelf, self._remote.wanted
        self._index_path = str(dataset.index_path).encode()
        self._homes = dataset.homes
        # What shards may have; the index and dataset.json stay.
        self._limit = None if (limit := self._shelf.cache.limit) is None else limit - self._shelf.small_bytes()
        self._bytes = np.array([wanted.bytes for wanted in self._wanted], np.int64)
        self._sampler, self._streams, self._mixing = sampler, streams, mixing
        self._ahead, self._skip, self._progress = ahead + 1, skip, progress
        self._change = threading.Condition()
        self._held: dict[int, int] = {}  # files that are here, and the epoch for which
        self._busy: dict[int, int] = {}  # files that are being fetched, and for which epoch
        self._lost: dict[int, ShardError] = {}
        self._queue: deque[tuple[int, int]] = deque()  # epochs and files to fetch for them, in the order of need
        self._urgent: set[int] = set()  # of these, those that the consumer waits for
        self._workers: list[threading.Thread] = []
        self._given = self._asked = 0  # shares that the consumer got, and that were asked for, from where it began
        self._sweep = False  # something may be held that was for another place
        self._stopped, self._process = False, os.getpid()
        self._filled = False
        self._arrived = 0  # bytes, for the bar
        self._waited = 0.0
        self._counts, self._retries = dataclasses.replace(self._shelf.counts), self._shelf.store.traffic.retries
        self._shelf.short = self._give
        self._plan(Place())
        if not streams:
            check_fits(
                self._limit, int(self._bytes[self._all()].sum()),
                f"{self._remote.url}: all shards of an epoch, among which this order jumps,",
                ', or order="windowed", which reads shard after shard' * (not mixing),
            )  # fmt: skip

    # ---- what the feed and the iterator say

    def seek(self, place: Place) -> None:
        """The next share that is asked for is the one at a place."""
        if self._normal(place) != self._place:
            self._plan(place)
        self._asked = self._given
        self._touched.clear()

    def need(self, share: Share) -> None:
        """Waits until the shards of a share are there, which stay until it has passed.

        Raises:
          ShardError: one cannot be had, unless such are left to the pipeline.
        """
        if not self._streams:
            return self._fill()
        segment = self._segment(share.epoch)
        files = np.unique(self._homes.of(share.samples)).tolist()
        if missing := [file for file in files if file not in self._held]:
            self._wait(missing, share.epoch)
        with self._change:
            for file in files:
                segment.touch(file, self._asked)
                if self._held.get(file, share.epoch) < share.epoch:
                    self._held[file] = share.epoch
        self._touched.append(files)
        self._asked += 1

    def passed(self, share: Share) -> None:
        """The consumer has got a share, the first that it had not."""
        self._place = self._normal(Place(share.epoch, share.consumed))
        if not self._streams:
            return
        self._given += 1
        files = self._touched.popleft() if self._touched else []
        with self._change:
            while len(self._segments) > 1 and self._segments[0].end <= self._given:
                del self._segments[0]
            self._release([file for file in (list(self._held) if self._sweep else files) if self._is_done(file)])
            self._sweep = False
            if not self._queue and len(self._segments) == 1 and self._tried < share.epoch + 1:
                self._plan_next()
            if self._queue:  # waking threads in vain costs more than all else here
                self._change.notify_all()

    def close(self) -> None:
        """Lets go of everything. May be called again."""
        if os.getpid() != self._process:
            return  # a fork has nothing
        with self._change:
            self._stopped = True
            self._release(list(self._held))
            self._change.notify_all()
        if self._shelf.short == self._give:
            self._shelf.short = None

    def stats(self) -> dict[str, float | int]:
        """What happened since the last call; see `ReinforcedIterator.stats`."""
        counts, before = dataclasses.replace(self._shelf.counts), self._counts
        retries = self._shelf.store.traffic.retries + counts.again
        new = {name: getattr(counts, name) - getattr(before, name) for name in ("fetched", "bytes", "hits", "evicted")}
        seconds = counts.seconds - before.seconds
        result: dict[str, float | int] = {
            "shards": new["fetched"],
            "bytes": new["bytes"],
            "waited": self._waited,
            "hits": new["hits"],
            "evicted": new["evicted"],
            "retries": retries - self._retries,
            "mb_per_s": new["bytes"] / 1e6 / seconds if seconds > 0 else 0.0,
        }
        self._counts, self._retries, self._waited = counts, retries, 0.0
        return result

    # ---- the plan

    def _normal(self, place: Place) -> Place:
        return Place(place.epoch + 1) if self._sampler.done(place.epoch, place.consumed) else place

    def _plan(self, place: Place) -> None:
        """Begins at a place."""
        with self._change:
            self._place = self._normal(place)
            self._given = self._asked = 0
            self._touched: deque[list[int]] = deque()  # files of those asked for and not given out
            self._queue.clear()
            self._segments: list[_Segment] = []
            # What is held for another place goes once a batch has come: until then, the pipeline may be reading. It is for no
            # epoch of this one, which may be earlier: what this one needs of it says so anew.
            for files in (self._held, self._busy):
                files.update(dict.fromkeys(files, -1))
            self._sweep = True
            self._tried = -1  # the last epoch that was planned ahead, or could not be
            if self._streams:
                self._add(self._place)
                if self._limit is not None:
                    self._plan_next()
                    self._check_peak()

    def _plan_next(self) -> None:
        """Goes on with the next epoch, so that its first shards come while this one ends."""
        self._tried = self._segments[-1].epoch + 1
        try:
            self._add(Place(self._tried))
        except Exception as error:  # of the user's functions: raised when that epoch is due
            _log.debug("what epoch %d needs is not known yet: %s", self._tried, error)

    def _segment(self, epoch: int) -> _Segment:
        for segment in self._segments:
            if segment.epoch == epoch:
                return segment
        with self._change:
            return self._add(Place(epoch))

    def _add(self, place: Place) -> _Segment:
        """Takes in which files the rest of an epoch needs, from a place on, and queues them."""
        order, begin = self._sampler.order, self._segments[-1].end if self._segments else self._given
        first, last = np.full((2, len(self._wanted)), -1, np.int64)
        places, at = self._sampler.epoch(place.epoch, place.consumed), begin
        while some := list(itertools.islice(places, _TOGETHER)):
            positions = np.concatenate([np.arange(p.own.start, p.own.stop) for p in some]) % order.length
            numbers = np.repeat(np.arange(at, at + len(some)), [len(p.own) for p in some])
            for column in self._homes.of(order.at(place.epoch, positions).samples).T:
                files, index = np.unique(column, return_index=True)
                first[files] = np.where(first[files] < 0, numbers[index], np.minimum(first[files], numbers[index]))
                np.maximum.at(last, column, numbers)
            at += len(some)
        segment = _Segment(place.epoch, begin, at, first, last)
        self._segments.append(segment)
        self._queue.extend((place.epoch, file) for file in segment.files())
        self._start()
        self._change.notify_all()
        return segment

    def _is_done(self, file: int) -> bool:
        """Whether a file that is held was held for what has passed."""
        epoch = self._held.get(file)
        return epoch is not None and not any(s.epoch == epoch and s.last[file] >= self._given for s in self._segments)

    def _check_peak(self) -> None:
        """ShardError where the cache cannot hold what is in use at once."""
        moments, changes = [], []
        gone = np.full(len(self._wanted), np.iinfo(np.int64).min)  # when each file goes, by the segments so far
        for segment in self._segments:
            used = np.flatnonzero(segment.last >= 0)
            comes, goes = segment.first[used] - self._ahead, segment.last[used] + 1
            # A file that the epoch before still holds is there once: it comes again only when it has gone.
            moments += [np.maximum(comes, gone[used]), goes]
            changes += [self._bytes[used], -self._bytes[used]]
            gone[used] = goes
        moment, change = np.concatenate(moments), np.concatenate(changes)
        order = np.lexsort((change, moment))  # what goes makes room for what comes
        check_fits(
            self._limit, int(np.cumsum(change[order]).max(initial=0)),
            f"{self._remote.url}: the shards in use together", ", or a smaller window, batch_size or prefetch",
        )  # fmt: skip

    def _all(self) -> npt.NDArray[np.int64]:
        """All files that some epoch may ask for."""
        if self._mixing:
            return np.arange(len(self._wanted))
        return np.unique(self._homes.of(self._sampler.order.members()))

    # ---- fetching

    def _fill(self) -> None:
        """Has everything there, once."""
        if self._filled:
            return
        files = self._all().tolist()
        missing = [file for file in files if file not in self._held]
        total = sum(self._wanted[file].bytes for file in missing)
        here = sum(self._wanted[file].bytes for file in missing if self._shelf.there(self._wanted[file]))
        with self._change:
            self._queue = deque((0, file) for file in missing if file not in self._lost)
            self._start()
            self._change.notify_all()
        with progress_bar(
            total=total, unit="B", unit_scale=True, desc="fetching shards", leave=False,
            disable=None if self._progress and here < total else True,
        ) as bar:  # fmt: skip
            self._wait(missing, 0, bar)
        self._filled = True

    def _wait(self, files: list[int], epoch: int, bar: Any = None) -> None:
        """Waits for files that are not held."""
        begin = time.perf_counter()
        try:
            with self._change:
                self._urgent.update(files)
                if bar is None:
                    self._put_first(files, epoch)
                seen = self._arrived
                while waiting := [file for file in files if file not in self._held]:
                    lost = [file for file in waiting if file in self._lost]
                    for file in lost:
                        if not self._skip or isinstance(self._lost[file], NoRoom):
                            raise self._lost.pop(file)  # the next call tries again
                    if len(lost) == len(waiting):
                        break
                    self._change.wait(_LOOK_S)
                    if bar is not None:
                        bar.update(self._arrived - seen)
                        seen = self._arrived
        finally:
            with self._change:
                self._urgent.difference_update(files)
            self._waited += time.perf_counter() - begin

    def _put_first(self, files: list[int], epoch: int) -> None:
        """Queues files that are waited for before all others."""
        for file in reversed(files):
            if file not in self._busy and file not in self._lost and file not in self._held:
                with contextlib.suppress(ValueError):
                    self._queue.remove((epoch, file))
                self._queue.appendleft((epoch, file))
        self._start()
        self._change.notify_all()

    def _start(self) -> None:
        while self._queue and len(self._workers) < min(THREADS, len(self._wanted)):
            worker = threading.Thread(target=self._work, name="dali_dr shards", daemon=True)
            self._workers.append(worker)
            worker.start()

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._stopped and not self._may_take():
                    self._change.wait()
                if self._stopped:
                    return
                epoch, file = self._queue.popleft()
                if file in self._lost:
                    continue
                have = self._held if file in self._held else self._busy if file in self._busy else None
                if have is not None:  # for an earlier epoch
                    have[file] = max(have[file], epoch)
                    continue
                self._busy[file] = epoch
            error: ShardError | None = None
            try:
                self._shelf.hold(self._wanted[file], step=self._step, stop=lambda: self._stopped)
            except Stopped:
                return
            except ShardError as failure:
                error = failure
            except Exception as failure:  # a bug of ours: whoever waits must hear of it
                name = f"{self._remote.url}/{self._wanted[file].name}"
                error = ShardError(f"{name}: cannot be had ({type(failure).__name__}: {failure})", kind="internal")
            with self._change:
                epoch = self._busy.pop(file)
                if error is not None:
                    self._lost[file] = error
                    if self._skip:
                        self._remote.lost[str(self._shelf.path(self._wanted[file].name))] = str(error)
                        _log.warning("%s", error)
                elif self._stopped:
                    self._shelf.release(self._wanted[file].name)
                else:
                    self._held[file] = epoch
                self._change.notify_all()

    def _may_take(self) -> bool:
        """Whether the next file is to be fetched now: it is waited for, or has room beside what is held."""
        if not self._queue:
            return False
        (_, file), limit = self._queue[0], self._limit
        if limit is None or file in self._urgent or file in self._held:
            return True
        if any(one not in self._held and one not in self._lost for one in self._urgent):
            return False  # the room is for what is waited for
        inside = sum(self._wanted[one].bytes for one in self._held.keys() | self._busy.keys())
        return inside + self._wanted[file].bytes <= limit

    def _step(self, count: int) -> None:
        self._arrived += count

    def _give(self) -> None:
        """Lets go of what was fetched ahead, where something that is waited for has no room."""
        with self._change:
            ahead = threading.current_thread() in self._workers and not self._urgent
            if ahead or not self._streams:
                return
            early = [f for f in self._held if f not in self._urgent and not self._is_due(f)]
            again = sorted((self._held[f], f) for f in early if not self._is_done(f))
            self._release(early)
            queued = set(self._queue)
            behind = [one for one in again if one not in queued]
            # Before all others, but behind what is waited for: nothing else is taken while that is missing.
            first = [one for one in self._queue if one[1] in self._urgent]
            rest = [one for one in self._queue if one[1] not in self._urgent]
            self._queue = deque([*first, *behind, *rest])

    def _is_due(self, file: int) -> bool:
        """Whether a share that was asked for, and is not given out yet, needs a file."""
        return any(s.last[file] >= self._given and s.first[file] <= self._asked for s in self._segments)

    def _release(self, files: list[int]) -> None:
        for file in files:
            del self._held[file]
            if self._shelf.release(self._wanted[file].name):
                forget(self._index_path, file)


def make_supply(dataset: Dataset, plan: Plan, schedule: Schedule, machine: Machine, owner: object) -> Supply | None:
    """The supply of a run, which ends with its owner; None for a data set in a folder. ShardError: cache_bytes is too small."""
    if dataset.remote is None:
        return None
    mixing = bool(plan.graph["mixing"])
    streams = plan.meaning["order"] in ("windowed", "sequential") and not schedule.class_mates and not mixing
    supply = Supply(
        dataset, plan.sampler, streams=streams, mixing=mixing, ahead=machine.prefetch, skip=machine.on_error == "skip",
        progress=plan.sampler.rank == 0,
    )  # fmt: skip
    weakref.finalize(owner, supply.close)
    return supply


def forget(index_path: bytes, file: int) -> None:
    """Has the reader close a file, so that the disk has its space back when it leaves the cache."""
    _plugin.library().dali_dr_forget_shard(index_path, file)
