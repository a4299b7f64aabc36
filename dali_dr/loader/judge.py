"""Which samples stop a pipeline, and why: each is tried through the graph that failed, until those at fault stand alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np

from dali_dr.images.decoder import cleaned, decoder_failure
from dali_dr.images.overheard import Overheard
from dali_dr.loader.decoding import OURS, route
from dali_dr.loader.faults import Fault, take_fault
from dali_dr.loader.feed import inputs
from dali_dr.loader.graph import replay_pipeline
from dali_dr.loader.plan import Plan
from dali_dr.loader.stopwatch import Stopwatch
from dali_dr.sampling.standins import Showing, rows
from dali_dr.shards.dataset import Dataset


class Judge:
    """Tries samples out, in the very graph that the run has (decoder, region, device), but not ahead of need.

    The pipeline is made when first needed, kept while it finds nothing, and made anew after a failure, which ends it.

    Args:
      plan: of the run.
      dataset: of the run.
    """

    def __init__(self, plan: Plan, dataset: Dataset) -> None:
        self._plan = plan
        self._dataset = dataset
        self._graph = {**plan.graph, "prefetch": 1}
        names = ("device", "decode_device", "decoder", "roi_decode")
        self._ours_decodes = route(*(plan.graph[name] for name in names)) in OURS
        self._monitor = Stopwatch().number
        self._pipeline: Any = None
        self._given: tuple[Any, ...] = ()

    def failing(
        self, showings: Sequence[Showing], size: tuple[int, int], known: Container[Showing]
    ) -> Iterator[tuple[Showing, Fault]]:
        """The showings that cannot be had, each with what is wrong with it.

        Args:
          showings: at most a batch's.
          size: of the views.
          known: what is known not to be had, and therefore not tried; it may grow meanwhile.

        Raises:
          RuntimeError: DALI's, of what is no sample's fault.
        """
        chunks = [list(dict.fromkeys(showings))]
        while chunks:
            chunk = [showing for showing in chunks.pop() if showing not in known]
            if not chunk or (found := self._try(chunk, size)) is None:
                continue
            fault, suspects = found
            if len(chunk) == 1:
                yield chunk[0], fault
            elif fault.whole_file and fault.place is not None:
                yield chunk[fault.place], fault
                chunks.append(chunk)  # without what is known then
            elif suspects and len(suspects) < len(chunk):
                chunks.append([showing for place, showing in enumerate(chunk) if place not in suspects])
                chunks += [[chunk[place]] for place in sorted(suspects, reverse=True)]
            else:
                half = len(chunk) // 2
                chunks += [chunk[half:], chunk[:half]]

    def _try(self, chunk: list[Showing], size: tuple[int, int]) -> tuple[Fault, set[int]] | None:
        """None if all can be had; else the fault, and the places of those that may have it (none: unknown)."""
        samples = np.array([showing.sample for showing in chunk], np.int64)
        views = np.array([showing.views for showing in chunk], np.int64)
        if self._plan.views_per_image == 1 or self._plan.pairs:
            views = views[:, 0]
        self._given = inputs(samples, views, size, pairs=self._plan.pairs, with_size=not self._plan.fixed)
        heard = Overheard()
        # Until it has succeeded, the pipeline is not to be trusted, whatever interrupts it.
        pipeline, self._pipeline = self._pipeline, None
        try:
            with self._dataset.holding_samples(samples), heard.listening():
                if pipeline is None:
                    pipeline = replay_pipeline(
                        lambda info: self._given,
                        batch_size=self._plan.largest_batch,
                        monitor=self._monitor,
                        **self._graph,
                    )
                    pipeline.build()
                pipeline.run()
            self._pipeline = pipeline
            return None
        except RuntimeError as error:
            if pipeline is not None:
                pipeline._shutdown()
            text, fault = str(error), take_fault(self._monitor)
            if fault is not None and fault.message in text:
                return self._ours(error, fault, chunk)
            return self._decoders(error, heard, chunk)

    def _ours(self, error: RuntimeError, fault: Fault, chunk: list[Showing]) -> tuple[Fault, set[int]]:
        if fault.kind in ("internal", "argument"):
            raise error
        if (
            fault.kind == "image" and fault.sample is not None
        ):  # read operators look at the file, whatever is shown of it
            fault = dataclasses.replace(fault, every_view=True)
        suspects = {place for place, showing in enumerate(chunk) if showing.sample in fault.failed}
        if fault.place is not None:
            suspects.add(fault.place)
            if fault.sample is None:  # replay and decode operators know places only
                fault = self._placed(fault, chunk[fault.place])
        return fault, suspects

    def _placed(self, fault: Fault, showing: Showing) -> Fault:
        """The same, with the sample that is at fault where one was shown."""
        if fault.kind == "image":
            return self._undecodable(showing, fault.partner, fault.message.partition(": ")[2], fault.place)
        where = self._where(showing.sample, "image")
        return dataclasses.replace(fault, message=f"{where.pop('text')}: {fault.message}", **where)

    def _undecodable(self, showing: Showing, partners: bool, reason: str, place: int | None) -> Fault:
        """Of an image, or of the one that it is mixed with."""
        number = showing.sample
        partner = self._partner(showing) if partners else None
        where = self._where(number if partner is None else partner, "image")
        what = "cannot be decoded" if partner is None else f"which sample {number} is mixed with, cannot be decoded"
        message = (
            f"{where.pop('text')}: the image {what}. The decoder says: {reason}. Restore the shard from a copy, or leave the "
            f"image out; `dali-dr verify --images {self._dataset.path}` finds all such"
        )
        return Fault("image", message, place=place, partner=partner is not None, **where)

    def _decoders(self, error: RuntimeError, heard: Overheard, chunk: list[Showing]) -> tuple[Fault, set[int]]:
        failure = decoder_failure(str(error))
        if failure is None:
            raise error
        # Beside our own decoder, DALI's has a batch of its own.
        suspects = set() if failure.place is None or self._ours_decodes else {failure.place}
        if len(chunk) > 1:
            return Fault("image", cleaned(str(error))), suspects
        fault = self._undecodable(chunk[0], failure.partner, "; ".join(heard.reasons) or failure.reason, 0)
        return dataclasses.replace(fault, every_view=failure.of_file and not fault.partner), suspects

    def _where(self, number: int, kind: str) -> dict[str, Any]:
        key = self._dataset.keys[number]
        shard, offset = self._dataset.place_of(number, kind)
        text = f"sample {number} (key {key}) in {shard} at offset {offset}"
        return {"text": text, "sample": number, "key": key, "shard": str(shard), "offset": offset}

    def _partner(self, showing: Showing) -> int | None:
        """The partner of a mixed view whose record can be read."""
        mix = self._dataset.reinforcements(showing.sample).mix
        row = showing.views[0] * (2 if self._plan.pairs else 1)
        partner = -1 if mix is None or row < 0 else int(mix.partner[row])
        return partner if partner >= 0 else None


def showings(samples: Any, views: Any) -> list[Showing]:
    """Of (B,) samples in (B,) or (B, m) views."""
    return [Showing(int(sample), rows(view)) for sample, view in zip(samples, views, strict=True)]
