"""What becomes of samples that cannot be had: found, set aside, counted, reported; or one clear error.

The rule is that of `dali_dr.sampling.standins`: a view that cannot be had is replaced at its position by a stand-in that
depends on (seed, epoch, position, attempt) alone. What is learnt here about bad samples spares trying them again, and changes
nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from dali_dr.errors import DaliDrError, ShardError
from dali_dr.images.decoder import decoder_failure
from dali_dr.loader.faults import Fault, Kind, explained
from dali_dr.loader.judge import Judge, showings
from dali_dr.loader.plan import Plan
from dali_dr.loader.state import Place
from dali_dr.sampling.sampler import Share
from dali_dr.sampling.standins import Bad, NothingLeft, Showing
from dali_dr.shards.dataset import Dataset

_log = logging.getLogger(__name__)

_OF_NO_SAMPLE = ("internal", "argument")
_VAIN = 3  # failures in a row that no sample explains, after which it is no passing fault
_NAMED = 5  # keys that an error names


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A sample that others stood in for.

    Attributes:
      key, sample: of the sample.
      shard: path of the tar at fault.
      offset: of the member's data in the tar, in bytes; None where it is no single member's.
      kind: what is at fault, as `dali_dr.loader.faults.Fault` says it.
      reason: what is wrong, in words: of the first of its views that failed.
      count: how often the sample was passed over, since the iterator was made.
    """

    key: str
    sample: int
    shard: str | None
    offset: int | None
    kind: Kind
    reason: str
    count: int


class Skipping:
    """The bad samples of a run.

    Args:
      plan: of the run; its sampler gets the cache of what is bad.
      dataset: of the run.
      skip: whether others stand in for what cannot be had; else it is an error.
      limit: share of an epoch's positions of this rank that may be replaced.

    Attributes:
      sampler: the plan's, which passes over what is known not to be had.
    """

    def __init__(self, plan: Plan, dataset: Dataset, *, skip: bool, limit: float) -> None:
        self._bad = Bad(len(dataset)) if skip else None
        self.sampler = dataclasses.replace(plan.sampler, bad=self._bad)
        self._plan, self._dataset, self._limit = plan, dataset, limit
        self._judge = Judge(plan, dataset)
        self._showings: dict[Showing, Fault] = {}  # what is wrong with what is bad, by what it is that is bad
        self._samples: dict[int, Fault] = {}
        self._files: dict[str, tuple[Fault, set[int]]] = {}
        self._counts: collections.Counter[int] = collections.Counter()  # passed over in batches that were given out
        self._reasons: dict[int, Fault] = {}
        self._warned: set[str] = set()
        self._positions = -1, 0  # an epoch, and positions of this rank in it
        self._vain = 0

    # ---- finding

    def settle(
        self, error: RuntimeError, fault: Fault | None, in_work: Sequence[Share], place: Place, replaced: int
    ) -> None:
        """Finds what stopped the pipeline, and sets it aside.

        Args:
          error: DALI's.
          fault: of the pipeline's monitor.
          in_work: the shares that the pipeline was given, of which the first is due.
          place: of that one.
          replaced: positions of its epoch that were replaced before.

        Raises:
          DaliDrError: nothing is to be set aside, or too much is.
        """
        fault = fault if fault is not None and fault.message in str(error) else None
        due = in_work[0] if in_work else None
        try:
            if self._bad is None:
                raise explained(error, self._named(fault, error, in_work), due, self._dataset) from error
            of_sample = fault.kind not in _OF_NO_SAMPLE if fault else decoder_failure(str(error)) is not None
            if not of_sample:
                raise explained(error, fault, due, self._dataset) from error
            self._vain = 0 if self._set_aside(fault, in_work, place, replaced) else self._vain + 1
        except RuntimeError as another:  # of a judgement, and no sample's
            raise explained(another, None, None, self._dataset) from another
        if self._vain >= _VAIN:
            raise explained(error, fault, due, self._dataset) from error

    def _named(self, fault: Fault | None, error: RuntimeError, in_work: Sequence[Share]) -> Fault | None:
        """The fault, with the sample that it is of: of an image that cannot be decoded, the first among shares in work."""
        nameless = fault is not None and fault.kind == "image" and fault.sample is None
        if not nameless and (fault is not None or decoder_failure(str(error)) is None):
            return fault
        for share in in_work:
            found = dict(self._judge.failing(showings(share.samples, share.views), share.size, ()))
            for showing in showings(share.samples, share.views):  # in the batch's order
                if showing in found:
                    return found[showing]
        return fault

    def _set_aside(self, fault: Fault | None, in_work: Sequence[Share], place: Place, replaced: int) -> bool:
        """Finds all that is bad of the shares in work, and the stand-ins of the one that is due; False if nothing is."""
        known = len(self._showings) + len(self._samples) + len(self._files)
        if fault is not None and fault.whole_file:
            self._learn(None, fault)  # at once, so that nobody waits for that file again
        tried: set[Showing] = set()
        for share in in_work:
            self._try(share, tried)
        while True:  # what stands in now for what is due, until all of it can be had
            due = self._due(place)
            self.check(due, replaced)
            if not self._try(due, tried):
                return len(self._showings) + len(self._samples) + len(self._files) > known

    def _try(self, share: Share, tried: set[Showing]) -> bool:
        """Tries what is not among those tried; False if there was nothing to try."""
        assert self._bad is not None
        untried = [one for one in showings(share.samples, share.views) if one not in tried]
        tried.update(untried)
        for showing, found in self._judge.failing(untried, share.size, self._bad):
            self._learn(showing, found)
        return bool(untried)

    def _due(self, place: Place) -> Share:
        """The share at a place, as far as it is known."""
        try:
            return next(self.sampler.run(place.epoch, place.consumed))
        except NothingLeft as error:
            raise self.nothing_left(error) from error

    def nothing_left(self, error: NothingLeft) -> NothingLeft:
        """The same, with where and some of the reasons."""
        faults = [*self._samples.values(), *(fault for fault, _ in self._files.values()), *self._showings.values()]
        reasons = "; ".join(fault.message for fault in faults[:_NAMED])
        return NothingLeft(f"{self._dataset.path}: {error}. Some of the reasons: {reasons}", kind="shard")

    def _learn(self, showing: Showing | None, fault: Fault) -> None:
        """Notes what is bad: all of a file, a sample, or a sample in these views, whichever is so whatever is tried."""
        assert self._bad is not None
        if self._dataset.remote is not None and fault.shard in self._dataset.remote.lost:  # the store's reason
            fault = dataclasses.replace(fault, message=self._dataset.remote.lost[fault.shard])
        if fault.whole_file and fault.shard is not None and fault.shard not in self._files:
            numbers = self._dataset.samples_in(fault.shard)
            self._bad.add_samples(numbers)
            self._files[fault.shard] = fault, set(numbers.tolist())
            self._warn(
                fault.shard, f"all {len(numbers)} samples of {fault.shard} are left out from now on: {fault.message}"
            )
        if showing is None or showing in self._bad:
            return
        if self._of_every_view(showing, fault):
            self._bad.add_samples([showing.sample])
            self._samples[showing.sample] = fault
        else:
            self._bad.add(showing)
            self._showings[showing] = fault
        key = self._dataset.keys[showing.sample]
        self._warn(key, f"others stand in for sample {showing.sample} ({key}): {fault.message}")

    def _of_every_view(self, showing: Showing, fault: Fault) -> bool:
        """Whether all views of the sample would fail in the same way. If in doubt they are tried, which costs time only."""
        if self._plan.graph["mixing"] or fault.sample != showing.sample:
            return False  # it may be a partner's
        if fault.kind == "shard" or fault.every_view:  # all views of a run read the same members
            return True
        return fault.kind == "image" and (self._plan.graph["roi_decode"] == "off" or self._plan.alike)

    def _warn(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("%s", message)

    # ---- counting

    def check(self, share: Share, replaced: int) -> int:
        """Positions of the share's epoch that were replaced, this share's included.

        Raises:
          ShardError: more than the limit.
        """
        places = {passed.place for passed in share.passed}
        replaced += len(places)
        if not places:
            return replaced
        if self._positions[0] != share.epoch:
            self._positions = share.epoch, self.sampler.images(share.epoch)
        positions = self._positions[1]
        allowed = math.ceil(self._limit * positions)
        if replaced <= allowed:
            return replaced
        for passed in share.passed:
            self._reasons.setdefault(passed.showing.sample, self._fault_of(passed.showing))
        named = list(itertools.islice(self._reasons.items(), _NAMED))
        reasons = "; ".join(f"{self._dataset.keys[number]}: {fault.message}" for number, fault in named)
        raise ShardError(
            f"{self._dataset.path}: {replaced} of {positions} positions of epoch {share.epoch} could not be shown as scheduled "
            f"({replaced / positions:.2%}), more than max_skipped={self._limit:g} allows, which is {allowed}. Samples that "
            f"cannot be had ({len(self._reasons)} so far; loader.skip_report() has all): {reasons}. "
            f"Look with `dali-dr verify --images {self._dataset.path}`, restore what it names from a copy and go on from the "
            "last state; or pass a larger max_skipped (1: no limit)",
            kind=named[0][1].kind, sample=named[0][0], key=self._dataset.keys[named[0][0]], shard=named[0][1].shard,
            offset=named[0][1].offset,
        )  # fmt: skip

    def given_out(self, share: Share) -> None:
        """Counts what a batch was given out without."""
        for passed in share.passed:
            self._counts[passed.showing.sample] += 1
            self._reasons.setdefault(passed.showing.sample, self._fault_of(passed.showing))

    def _fault_of(self, showing: Showing) -> Fault:
        fault = self._showings.get(showing) or self._samples.get(showing.sample)
        if fault is not None:
            return fault
        for shard, (of_file, inside) in self._files.items():
            if showing.sample in inside:
                return dataclasses.replace(
                    of_file, offset=None, message=f"no sample of {shard} can be had: {of_file.message}"
                )
        raise DaliDrError(f"sample {showing.sample} was left out for no reason that is known", kind="internal")

    def report(self) -> list[Skipped]:
        """Every sample that others stood in for in the batches given out, by falling count."""
        return [
            Skipped(
                self._dataset.keys[number], number, self._reasons[number].shard, self._reasons[number].offset,
                self._reasons[number].kind, self._reasons[number].message, count,
            )
            for number, count in self._counts.most_common()
        ]  # fmt: skip


def write_report(report: Sequence[Skipped], path: str | os.PathLike[str]) -> None:
    """Writes a report as JSON: a list of objects with the fields of `Skipped`."""
    text = json.dumps([dataclasses.asdict(one) for one in report], indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")
